// SPDX-License-Identifier: Apache-2.0
// Operations of a LargeObjectCache on keys, one and many.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

struct Picture {
  int version;
};

using Cache = LargeObjectCache<std::string, Picture>;

class OperationsTest : public testing::Test {
 protected:
  static Cache::Options WithBudget() {
    Cache::Options options;
    options.budget_bytes = 1 << 20;
    return options;
  }

  Cache cache_ = std::move(Cache::Create(WithBudget())).value();
};

bool IsBelowDir(const std::string& key) { return key.rfind("dir/", 0) == 0; }

// Whether what is loaded under the key is kept if the condition's objects are invalidated during
// the load.
template <typename Condition>
bool IsKept(Cache& cache, const std::string& key, Condition condition) {
  EXPECT_TRUE(cache
                  .GetOrLoad(key,
                             [&] {
                               EXPECT_EQ(cache.InvalidateIf(condition), 0u);
                               return Picture{1};
                             })
                  .ok());
  const bool kept = cache.Get(key) != nullptr;
  cache.CheckInvariantsForTesting();
  return kept;
}

TEST_F(OperationsTest, InvalidateIfDropsLoadsOfMatchingKeys) {
  EXPECT_FALSE(IsKept(cache_, "dir/a", IsBelowDir));
  EXPECT_TRUE(IsKept(cache_, "a", IsBelowDir));
  EXPECT_TRUE(IsKept(cache_, "dir/b", [](const std::string& key) { return key == "dir/a"; }));
}

// It can't know what would be said about the object.
TEST_F(OperationsTest, InvalidateIfByTheObjectDropsAllLoads) {
  const auto by_object = [](const std::string& key, const Ref<Picture>&) {
    return IsBelowDir(key);
  };
  EXPECT_FALSE(IsKept(cache_, "dir/a", by_object));
  EXPECT_FALSE(IsKept(cache_, "a", by_object));
}

TEST_F(OperationsTest, InvalidateIfTakesAConditionOnTheKey) {
  cache_.Put("dir/a", Picture{1});
  cache_.Put("dir/b", Picture{1});
  cache_.Put("a", Picture{1});
  EXPECT_EQ(cache_.InvalidateIf(IsBelowDir), 2u);
  EXPECT_EQ(cache_.size(), 1u);
  EXPECT_NE(cache_.Get("a"), nullptr);
}

// The condition may use the cache: no lock is held.
TEST_F(OperationsTest, InvalidateIfsConditionMayUseTheCache) {
  const auto loaded = cache_.GetOrLoad("dir/a", [&] {
    cache_.InvalidateIf([&](const std::string& key) {
      cache_.Invalidate(key);
      return true;
    });
    return Picture{1};
  });
  EXPECT_TRUE(loaded.ok());
  EXPECT_EQ(cache_.Get("dir/a"), nullptr);
}

struct UniqueKeyHash {
  size_t operator()(const std::unique_ptr<int>& key) const { return static_cast<size_t>(*key); }
};
struct UniqueKeyEqual {
  bool operator()(const std::unique_ptr<int>& a, const std::unique_ptr<int>& b) const {
    return *a == *b;
  }
};
TEST(InvalidateIfTest, TakesKeysThatCantBeCopied) {
  using UniqueKeys = LargeObjectCache<std::unique_ptr<int>, Picture, UniqueKeyHash, UniqueKeyEqual>;
  UniqueKeys cache = std::move(UniqueKeys::Create({})).value();
  const auto loaded = cache.GetOrLoad(std::make_unique<int>(1), [&] {
    cache.InvalidateIf([](const std::unique_ptr<int>& key) { return *key == 1; });
    return Picture{1};
  });
  EXPECT_TRUE(loaded.ok());
  EXPECT_EQ(cache.Get(std::make_unique<int>(1)), nullptr);
}

}  // namespace
}  // namespace weakcache
