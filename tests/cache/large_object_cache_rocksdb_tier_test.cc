// SPDX-License-Identifier: Apache-2.0
// A LargeObjectCache on a RocksdbTier: what it has loaded survives a restart, and what has changed
// does not come back.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/temporary_folder.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/codec.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/cache/rocksdb_tier.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using Cache = LargeObjectCache<int64_t, std::string>;

class RocksdbTierOfCacheTest : public ::testing::Test {
 protected:
  RocksdbTierOfCacheTest() { Start(); }

  // Opens the folder again, which no other tier may have any more.
  void Restart() {
    cache_.reset();
    Start();
  }
  std::string Load(int64_t key, const std::string& object) {
    return *cache_->GetOrLoad(key, [&] { return object; }).value();
  }

  std::optional<Cache> cache_;

 private:
  void Start() {
    RocksdbTierOptions of_tier;
    of_tier.folder = (folder_.path() / "tier").string();
    of_tier.limit_bytes = uint64_t{32} << 20;
    auto tier = RocksdbTier::Create(of_tier);
    ASSERT_TRUE(tier.ok()) << tier.status();
    Cache::Options options = testing::WithBudget<Cache>(1 << 20);
    options.second_tier = *std::move(tier);
    options.codec = std::make_shared<const ContiguousCodec<std::string>>();
    cache_.emplace(std::move(Cache::Create(std::move(options))).value());
  }

  testing::TemporaryFolder folder_;
};

TEST_F(RocksdbTierOfCacheTest, ObjectsSurviveARestart) {
  const auto all = [](const std::vector<int64_t>& keys) {
    std::vector<std::string> objects;
    for (const int64_t key : keys) objects.push_back(std::to_string(key));
    return objects;
  };
  EXPECT_EQ(Load(1, "one"), "one");
  cache_->Put(2, std::string("two"));
  EXPECT_EQ(*cache_->GetAll(std::vector<int64_t>{1, 2, -3}, all)[2].value(), "-3");
  Restart();
  EXPECT_EQ(cache_->size(), 0u);
  EXPECT_EQ(Load(1, "anew"), "one");
  EXPECT_EQ(Load(2, "anew"), "two");
  EXPECT_EQ(*cache_->GetAll(std::vector<int64_t>{-3, 4}, all)[0].value(), "-3");
  EXPECT_EQ(cache_->Stats().tier_hits, 3u);
  Restart();
  EXPECT_EQ(Load(4, "anew"), "4");
}

TEST_F(RocksdbTierOfCacheTest, WhatHasChangedDoesNotComeBack) {
  const std::vector<std::function<void()>> changes = {
      [&] { cache_->Invalidate(1); },
      [&] { cache_->Invalidate(1, cache_->Peek(1)); },
      [&] { cache_->InvalidateIf([](int64_t key) { return key == 1; }); },
      [&] {
        cache_->InvalidateIf(
            [](int64_t, const Ref<std::string>& object) { return *object == "1"; });
      },
      [&] { cache_->InvalidateGroup(9); },
      [&] { cache_->Clear(); },
      [&] { cache_->SetExpiry(1, absl::ZeroDuration()); },
      [&] { EXPECT_TRUE(cache_->Refresh(1, [] { return std::string("new"); }).ok()); }};
  for (const auto& change : changes) {
    cache_->Put(1, Loaded<std::string>{.object = "1", .group = 9});
    change();
    EXPECT_EQ(Load(1, "new"), "new");
    Restart();
    EXPECT_EQ(Load(1, "new"), "new");
  }
  cache_->Put(1, std::string("newer"));
  Restart();
  EXPECT_EQ(Load(1, "anew"), "newer");
}

}  // namespace
}  // namespace weakcache
