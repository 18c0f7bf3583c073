// SPDX-License-Identifier: Apache-2.0
// Two LargeObjectCaches on one Redis server, as two processes: each key is loaded once, changes
// reach the other, and without the server both go on. Several, whose objects become due at once.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/redis_server.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/codec.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/redis_tier.h"
#include "weakcache/cache/redis_tier_options.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::Eventually;
using testing::RedisServer;

using Cache = LargeObjectCache<int, std::string>;

class RedisTierOfCacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
    server_.emplace();
    for (std::optional<Cache>& cache : caches_) {
      cache.emplace(MakeCache(testing::WithBudget<Cache>(1 << 20)));
    }
  }
  // Returns a cache with a tier of its own. It has been told that the tier is connected, which
  // drops what was loaded before.
  Cache MakeCache(Cache::Options options) {
    const std::shared_ptr<RedisTier> tier =
        RedisTier::Create(testing::TierOptions(*server_)).value();
    options.second_tier = tier;
    options.codec = std::make_shared<const ContiguousCodec<std::string>>();
    Cache cache = std::move(Cache::Create(std::move(options))).value();
    EXPECT_TRUE(Eventually([&] { return tier->AwaitNotices({}).ok(); }));
    return cache;
  }
  std::string Load(int cache, int key, const std::string& object) {
    return *caches_[cache]->GetOrLoad(key, [&] { return ++loads_, object; }).value();
  }
  bool Has(int cache, int key) { return caches_[cache]->Peek(key).get() != nullptr; }

  std::optional<RedisServer> server_;
  std::optional<Cache> caches_[2];
  std::atomic<int> loads_ = 0;
};

TEST_F(RedisTierOfCacheTest, OneLoadsAndChangesReachTheOther) {
  EXPECT_EQ(Load(0, 1, "one"), "one");
  EXPECT_EQ(Load(1, 1, "two"), "one");
  EXPECT_EQ(loads_, 1);
  const auto comes = [&](const char* object, const char* loaded) {
    return Eventually([&] { return Load(1, 1, loaded) == object; });
  };
  caches_[0]->Invalidate(1);
  EXPECT_TRUE(comes("three", "three"));
  caches_[0]->Put(1, std::string("four"));
  EXPECT_TRUE(comes("four", "five"));
  caches_[0]->InvalidateIf([](int key) { return key == 1; });
  EXPECT_TRUE(comes("six", "six"));
  caches_[0]->Clear();
  EXPECT_TRUE(comes("seven", "seven"));
}

// The notice of the Put comes to the process that waits for it, mostly before it has the object.
TEST_F(RedisTierOfCacheTest, WhoWaitsForAnothersLoadKeepsTheObject) {
  constexpr int kRounds = 30;
  for (int key = 1; key <= kRounds; ++key) {
    const uint64_t awaited = caches_[1]->Stats().tier_leases_awaited;
    std::thread other;
    const auto slow = [&] {
      other = std::thread([&] { EXPECT_EQ(Load(1, key, "two"), "one"); });
      EXPECT_TRUE(Eventually([&] { return caches_[1]->Stats().tier_leases_awaited > awaited; }));
      return ++loads_, std::string("one");
    };
    EXPECT_EQ(*caches_[0]->GetOrLoad(key, slow).value(), "one");
    other.join();
  }
  EXPECT_EQ(loads_, kRounds);
  // Notices come in their order: this one after those of the Puts.
  Load(0, 0, "zero");
  Load(1, 0, "zero");
  EXPECT_TRUE(Eventually([&] {
    caches_[0]->Invalidate(0);
    return !Has(1, 0);
  }));
  int kept = 0;
  for (int key = 1; key <= kRounds; ++key) kept += Has(1, key) ? 1 : 0;
  EXPECT_GE(kept, kRounds - 3);  // a thread may be held up for long
}

// Each of them would load it, if it did not ask who has the lease.
TEST_F(RedisTierOfCacheTest, OneOfManyRefreshes) {
  constexpr int kCaches = 8;
  const absl::Time start = absl::Now();
  std::atomic<int> seconds = 0;  // which threads of the tiers read, too
  std::vector<Cache> caches;
  for (int i = 0; i < kCaches; ++i) {
    Cache::Options options = testing::WithBudget<Cache>(1 << 20);
    options.clock = [&] { return start + absl::Seconds(seconds.load()); };
    options.refresh_after_write = absl::Minutes(1);
    caches.push_back(MakeCache(std::move(options)));
  }
  const auto load = [&](Cache& cache, const std::string& object) {
    return *cache.GetOrLoad(1, [&] { return ++loads_, object; }).value();
  };
  // (The notice of the first one's Put may drop what the others have read; they read it again.)
  for (Cache& cache : caches) EXPECT_EQ(load(cache, "old"), "old");
  ASSERT_EQ(loads_, 1);
  seconds += 60;
  const auto slow = [&] {
    for (int i = 1; i < kCaches; ++i) EXPECT_EQ(load(caches[i], "other"), "old");
    return ++loads_, std::string("new");
  };
  EXPECT_EQ(*caches[0].GetOrLoad(1, slow).value(), "new");
  for (Cache& cache : caches) {
    EXPECT_TRUE(Eventually([&] { return load(cache, "other") == "new"; }));
  }
  EXPECT_EQ(loads_, 2);
  seconds += 60;
  // By turns, so that each reads what the first one has put.
  for (Cache& cache : caches) {
    EXPECT_TRUE(Eventually([&] {
      if (load(cache, "newer") == "newer") return true;
      ++seconds;  // another's lease had not ended: left for a second
      return false;
    }));
  }
  EXPECT_EQ(loads_, 3);
}

TEST_F(RedisTierOfCacheTest, WithoutTheServerBothGoOn) {
  EXPECT_EQ(Load(0, 1, "one"), "one");
  server_->Kill();
  EXPECT_TRUE(Eventually([&] { return !Has(0, 1); }));  // what others change is not heard of
  EXPECT_EQ(Load(0, 1, "two"), "two");
  caches_[0]->Put(2, std::string("three"));
  caches_[0]->Invalidate(1);
  EXPECT_EQ(Load(1, 2, "four"), "four");
  ASSERT_TRUE(server_->Start());
  for (const auto& cache : caches_) {
    EXPECT_TRUE(Eventually([&] { return cache->Stats().tier_condition.empty(); }));
  }
  EXPECT_TRUE(Eventually([&] {
    Load(0, 3, "five");
    const uint64_t before = caches_[1]->Stats().tier_hits;
    Load(1, 3, "six");
    const bool has_met = caches_[1]->Stats().tier_hits > before;
    caches_[0]->Invalidate(3);
    return has_met && Eventually([&] { return !Has(1, 3); });
  }));
}

// Counts what is decoded.
class CountingCodec final : public Codec<std::string> {
 public:
  uint32_t schema() const override { return text_.schema(); }
  absl::Status Encode(const std::string& text, ByteSink& sink) const override {
    return text_.Encode(text, sink);
  }
  absl::StatusOr<std::string> Decode(std::string_view bytes) const override {
    ++decodes;
    return text_.Decode(bytes);
  }
  mutable std::atomic<int> decodes = 0;

 private:
  const ContiguousCodec<std::string> text_ = {};
};

TEST_F(RedisTierOfCacheTest, WhatIsUnchangedAfterALostConnectionIsCurrentAgain) {
  std::atomic<bool> is_away = false;
  RedisTierOptions to_server = testing::TierOptions(*server_);
  to_server.resolve_address = [&]() -> absl::StatusOr<RedisAddress> {
    if (is_away) return absl::UnavailableError("away");
    return RedisAddress{.unix_socket = server_->socket()};
  };
  const auto codec = std::make_shared<const CountingCodec>();
  Cache::Options options = testing::WithBudget<Cache>(1 << 20);
  const std::shared_ptr<RedisTier> tier = RedisTier::Create(to_server).value();
  options.second_tier = tier;
  options.codec = codec;
  options.at_tier_disconnect = AtTierDisconnect::kCheckAgain;
  Cache cache = std::move(Cache::Create(std::move(options))).value();
  const auto load = [&](int key) {
    return cache.GetOrLoad(key, [&] { return ++loads_, std::string("own"); }).value();
  };
  const auto is_in_order = [](const Cache& which) {
    return Eventually([&] { return which.Stats().tier_condition.empty(); });
  };
  ASSERT_TRUE(is_in_order(cache) && is_in_order(*caches_[0]));
  caches_[0]->Put(1, std::string("one"));
  caches_[0]->Put(2, std::string("two"));
  // Notices come in their order: this one after those of the Puts, which would drop what was read.
  load(0);
  EXPECT_TRUE(Eventually([&] {
    caches_[0]->Invalidate(0);
    return cache.size() == 0;  // it may be unverified before
  }));
  loads_ = 0;
  const Ref<std::string> read = load(1);
  const Ref<std::string> changed = load(2);
  const Ref<std::string> written = load(3);
  EXPECT_EQ(*read + *changed + *written, "onetwoown");

  is_away = true;
  server_->Command({"CLIENT", "KILL", "TYPE", "pubsub"});
  EXPECT_TRUE(Eventually([&] { return cache.Peek(1).get() == nullptr; }));
  EXPECT_TRUE(Eventually([&] { return !Has(0, 1); }));  // it has lost its own connection, too
  ASSERT_TRUE(is_in_order(*caches_[0]));
  caches_[0]->Put(2, std::string("three"));
  is_away = false;
  ASSERT_TRUE(is_in_order(cache));
  // The cache knows that, too.
  EXPECT_TRUE(Eventually([&] { return tier->AwaitNotices({}).ok(); }));
  EXPECT_EQ(cache.size(), 3u);

  EXPECT_EQ(load(1), read);
  EXPECT_EQ(load(3), written);
  EXPECT_EQ(*load(2), "three");
  EXPECT_EQ(cache.Peek(1), read);
  EXPECT_EQ(cache.Peek(3), written);
  EXPECT_EQ(*changed, "two");
  EXPECT_EQ(loads_, 1);
  EXPECT_EQ(codec->decodes, 3);
  EXPECT_GE(cache.Stats().tier_rechecks, 2u);
}

TEST_F(RedisTierOfCacheTest, NeitherKeepsAnOlderObject) {
  std::atomic<int> source = 0;
  std::mutex change;
  std::vector<std::thread> threads;
  const auto load = [&] { return std::to_string(source.load()); };
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      Cache& cache = *caches_[thread % 2];
      for (int i = 0; i < 300; ++i) {
        if (thread < 2) {
          EXPECT_TRUE(cache.GetOrLoad(1, load).ok());
          continue;
        }
        const std::lock_guard<std::mutex> lock(change);
        const int version = ++source;
        if (i % 3 == 0) {
          cache.Put(1, std::to_string(version));
        } else {
          cache.Invalidate(1);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::string latest = load();
  for (auto& cache : caches_) {
    EXPECT_TRUE(Eventually([&] { return *cache->GetOrLoad(1, load).value() == latest; }));
  }
}

}  // namespace
}  // namespace weakcache
