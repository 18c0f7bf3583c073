// SPDX-License-Identifier: Apache-2.0
// Groups of a LargeObjectCache's objects: InvalidateGroup, and every way to an object that it has
// to close. In virtual time.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "weakcache/cache/internal/retention/object_groups.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_completion.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/cache/prefetch_options.h"
#include "weakcache/cache/removal_cause.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

struct Page {
  int version = 0;
};

using Cache = LargeObjectCache<int, Page>;
using Tasks = std::vector<std::function<void()>>;

class GroupTest : public ::testing::Test {
 protected:
  Cache::Options Timed(uint64_t budget = 1'000'000) {
    Cache::Options options = testing::WithBudget<Cache>(budget);
    options.clock = [this] { return now_; };
    options.weigher = [](const Page&) { return uint64_t{1}; };
    options.removal_listener = [this](int key, const Ref<Page>&, RemovalCause cause, uint64_t) {
      removed_.emplace_back(key, cause);
    };
    return options;
  }
  static Cache Make(Cache::Options options) {
    return std::move(Cache::Create(std::move(options))).value();
  }
  void Pass(int seconds) { now_ += absl::Seconds(seconds); }

  absl::Time now_ = absl::UnixEpoch();
  std::vector<std::pair<int, RemovalCause>> removed_;
};

LoadOptions InGroup(uint32_t group) {
  LoadOptions options;
  options.group = group;
  return options;
}
Loaded<Page> Grouped(int version, uint32_t group) {
  return {.object = Page{version}, .group = group};
}
// Returns the version that the cache has or loads.
int VersionOf(Cache& cache, int key, int loaded, const LoadOptions& options = {}) {
  return cache
      .GetOrLoad(
          key, [&] { return Page{loaded}; }, options)
      .value()
      ->version;
}

TEST_F(GroupTest, AllObjectsOfItGoAndNoOthers) {
  Cache cache = Make(Timed());
  for (int key = 0; key < 100; ++key) {
    const auto group = static_cast<uint32_t>(key % 4);
    if (key % 4 == 3) {
      cache.Put(key, Page{1});
    } else {
      EXPECT_EQ(VersionOf(cache, key, 1, InGroup(group)), 1);
    }
  }
  cache.InvalidateGroup(2);
  for (int key = 0; key < 100; ++key) {
    EXPECT_EQ(cache.Get(key).get() == nullptr, key % 4 == 2) << key;
  }
  // They have left as they were met.
  ASSERT_EQ(removed_.size(), 25u);
  for (const auto& [key, cause] : removed_) EXPECT_EQ(cause, RemovalCause::kInvalidated);
  EXPECT_EQ(cache.Stats().evictions_expired, 0u);
  EXPECT_EQ(cache.size(), 75u);
  cache.CheckInvariantsForTesting();
}

TEST_F(GroupTest, EachWayOfMakingAnObjectNamesOne) {
  Cache cache = Make(Timed());
  const auto post = [](auto task) { task(); };
  const std::vector<std::function<void(int, uint32_t)>> ways = {
      [&](int key, uint32_t group) { static_cast<void>(VersionOf(cache, key, 1, InGroup(group))); },
      [&](int key, uint32_t group) {
        static_cast<void>(cache.GetOrLoad(key, [&] { return Grouped(1, group); }));
      },
      [&](int key, uint32_t group) {  // what the loader says comes later
        static_cast<void>(cache.GetOrLoad(
            key, [&] { return Grouped(1, group); }, InGroup(group + 1)));
      },
      [&](int key, uint32_t group) {
        static_cast<void>(cache.GetOrLoad(
            key, [] { return MakeRef<Page>(); }, InGroup(group)));
      },
      [&](int key, uint32_t group) {
        static_cast<void>(cache.GetAll(
            std::vector<int>{key}, [](const std::vector<int>&) { return std::vector<Page>(1); },
            InGroup(group)));
      },
      [&](int key, uint32_t group) {
        cache.GetOrLoadAsync(
            key, [] { return Page{}; }, post, InGroup(group));
      },
      [&](int key, uint32_t group) {
        cache.GetOrLoadAsync(
            key, [](int, LoadCompletion<Page> completion) { completion(Page{}); }, post,
            InGroup(group));
      },
      [&](int key, uint32_t group) {  // an object that goes to another slot
        cache.GetOrLoadAsync(
            key, [](int, LoadCompletion<Page> completion) { completion(MakeRef<Page>()); }, post,
            InGroup(group));
      },
      [&](int key, uint32_t group) {
        PrefetchOptions options;
        options.group = group;
        cache.Prefetch(
            {key}, [](int) { return Page{}; }, post, options);
      },
      [&](int key, uint32_t group) {
        static_cast<void>(cache.Refresh(
            key, [] { return Page{}; }, InGroup(group)));
      },
      [&](int key, uint32_t group) {  // of an object that is there
        cache.Put(key, Page{});
        static_cast<void>(cache.Refresh(
            key, [] { return Page{}; }, InGroup(group)));
      },
      [&](int key, uint32_t group) { cache.Put(key, Grouped(1, group)); },
      [&](int key, uint32_t group) { cache.PutIfAbsent(key, Grouped(1, group)); },
      [&](int key, uint32_t group) {
        cache.Put(key, Loaded<Ref<Page>>{.object = MakeRef<Page>(), .group = group});
      },
  };
  for (size_t way = 0; way < ways.size(); ++way) {
    const int key = static_cast<int>(way);
    for (const uint32_t group : {0u, 65534u}) {
      cache.InvalidateGroup(group);
      ways[way](key, group);
      cache.InvalidateGroup(group + 1);
      EXPECT_NE(cache.Get(key).get(), nullptr) << way;
      cache.InvalidateGroup(group);
      EXPECT_EQ(cache.Get(key).get(), nullptr) << way;
    }
  }
  cache.CheckInvariantsForTesting();
}

TEST_F(GroupTest, NoWayOfAskingFindsAnObjectOfBefore) {
  Cache::Options options = Timed();
  options.expire_after_write = absl::Seconds(1000);
  options.refresh_after_write = absl::Seconds(10);
  options.stale_if_error = absl::Seconds(1000);
  const auto post = [](auto task) { task(); };
  const auto load = [] { return Page{2}; };
  using Ask = std::function<int(Cache&)>;
  const std::vector<Ask> asks = {
      [](Cache& cache) { return cache.Get(1).get() == nullptr ? 2 : 1; },
      [](Cache& cache) { return cache.Peek(1).get() == nullptr ? 2 : 1; },
      [](Cache& cache) { return cache.Inspect(1).has_value() ? 1 : 2; },
      [](Cache& cache) { return cache.SetExpiry(1, absl::Seconds(1)) ? 1 : 2; },
      [&](Cache& cache) { return cache.GetOrLoad(1, load).value()->version; },
      [](Cache& cache) {
        return cache
            .GetAll(std::vector<int>{1},
                    [](const std::vector<int>& keys) {
                      return std::vector<Page>(keys.size(), Page{2});
                    })[0]
            .value()
            ->version;
      },
      [](Cache& cache) { return cache.PutIfAbsent(1, Page{2}).first->version; },
      [&](Cache& cache) { return cache.GetOrLoadAsync(1, load, post).get().value()->version; },
      [&](Cache& cache) {
        cache.Prefetch(
            {1}, [](int) { return Page{2}; }, post);
        return cache.Get(1)->version;
      },
      [&](Cache& cache) {
        static_cast<void>(cache.Refresh(1, load));
        return cache.Get(1)->version;
      },
      [](Cache& cache) {  // stale_if_error
        const auto fail = [] { return absl::StatusOr<Page>(absl::UnavailableError("")); };
        return cache.GetOrLoad(1, fail).ok() ? 1 : 2;
      },
      [&](Cache& cache) {
        const auto fail = [] { return absl::StatusOr<Page>(absl::UnavailableError("")); };
        return cache.GetOrLoadAsync(1, fail, post).get().ok() ? 1 : 2;
      },
  };
  // When the object was fresh, due for a refresh, and expired but kept for loads that fail; and in
  // use, so that it is found after its eviction, or not.
  for (size_t ask = 0; ask < asks.size(); ++ask) {
    for (const int age : {0, 20, 1200}) {
      for (const bool in_use : {false, true}) {
        for (const bool external : {false, true}) {
          Cache cache = Make(options);
          if (external) {
            cache.Put(1, Loaded<Ref<Page>>{.object = MakeRef<Page>(Page{1}), .group = 7});
          } else {
            ASSERT_EQ(VersionOf(cache, 1, 1, InGroup(7)), 1);
          }
          Ref<Page> used;
          if (in_use) {
            used = cache.Peek(1);
            cache.SetBudget(0);
            cache.SetBudget(100);
          }
          Pass(age);
          cache.InvalidateGroup(7);
          EXPECT_EQ(asks[ask](cache), 2) << ask << " after " << age << (in_use ? " in use" : "");
          cache.CheckInvariantsForTesting();
        }
      }
    }
  }
}

TEST_F(GroupTest, ANewObjectOfItIsAsGoodAsAnyOther) {
  Cache cache = Make(Timed());
  for (int version = 0; version < 5; ++version) {
    EXPECT_EQ(VersionOf(cache, 1, version, InGroup(3)), version);
    EXPECT_EQ(VersionOf(cache, 1, 100, InGroup(3)), version);
    EXPECT_EQ(VersionOf(cache, 1, 100), version);  // a hit does not change the group
    cache.InvalidateGroup(4);
    EXPECT_EQ(VersionOf(cache, 1, 100, InGroup(4)), version);
    cache.InvalidateGroup(3);
  }
  EXPECT_EQ(cache.Stats().loads, 5u);
  // What is put without a group does not inherit one.
  cache.Put(1, Page{6});
  cache.InvalidateGroup(3);
  EXPECT_EQ(cache.Get(1)->version, 6);
}

TEST_F(GroupTest, ItsObjectsExpireAndAreRefreshedAsAnyOthers) {
  Cache::Options options = Timed();
  options.expire_after_write = absl::Seconds(100);
  options.refresh_after_write = absl::Seconds(10);
  Cache cache = Make(options);
  EXPECT_EQ(VersionOf(cache, 1, 1, InGroup(3)), 1);
  Pass(9);
  EXPECT_EQ(VersionOf(cache, 1, 2), 1);
  Pass(1);
  EXPECT_EQ(VersionOf(cache, 1, 2), 2);
  // A refresh that names no group keeps the object's.
  cache.InvalidateGroup(3);
  EXPECT_EQ(VersionOf(cache, 1, 3), 3);
  Pass(100);
  EXPECT_EQ(cache.Get(1).get(), nullptr);
  EXPECT_EQ(removed_.back(), std::make_pair(1, RemovalCause::kExpired));
  EXPECT_EQ(cache.Stats().evictions_expired, 1u);
}

TEST_F(GroupTest, OneThatOnlyItsUsersKeepIsRetainedAgain) {
  Cache cache = Make(Timed());
  cache.Put(1, Grouped(1, 3));
  const Ref<Page> used = cache.Get(1);
  cache.SetBudget(0);
  cache.SetBudget(100);
  EXPECT_EQ(cache.Stats().bytes_retained, 0u);
  EXPECT_EQ(cache.Get(1), used);
  EXPECT_EQ(cache.Stats().weak_hits, 1u);
  EXPECT_EQ(cache.Stats().bytes_retained, 1u);
  cache.CheckInvariantsForTesting();
}

TEST_F(GroupTest, ItsObjectsAgeFromTheirLastUse) {
  Cache::Options options = Timed();
  options.expire_after_access = absl::Seconds(10);
  Cache cache = Make(options);
  cache.Put(1, Grouped(1, 3));
  for (int i = 0; i < 5; ++i) {
    Pass(9);
    EXPECT_NE(cache.Get(1).get(), nullptr);
  }
  Pass(10);
  EXPECT_EQ(cache.Get(1).get(), nullptr);
}

TEST_F(GroupTest, ALoadUnderWayIsHandedOutAndNotKept) {
  Cache cache = Make(Timed());
  const auto loader = [&] {
    cache.InvalidateGroup(3);
    // Who asks now loads anew, and does not wait for this load.
    EXPECT_EQ(VersionOf(cache, 1, 2, InGroup(3)), 2);
    return Page{1};
  };
  EXPECT_EQ(cache.GetOrLoad(1, loader, InGroup(3)).value()->version, 1);
  EXPECT_EQ(cache.Get(1)->version, 2);
  const auto alone = [&] {
    cache.InvalidateGroup(3);
    return Page{1};
  };
  EXPECT_EQ(cache.GetOrLoad(2, alone, InGroup(3)).value()->version, 1);
  EXPECT_EQ(cache.Get(2).get(), nullptr);
  // Another group's, or none's, is kept.
  EXPECT_EQ(cache.GetOrLoad(3, alone, InGroup(4)).value()->version, 1);
  EXPECT_NE(cache.Get(3).get(), nullptr);
  EXPECT_EQ(cache.GetOrLoad(4, alone).value()->version, 1);
  EXPECT_NE(cache.Get(4).get(), nullptr);
  cache.CheckInvariantsForTesting();
}

TEST_F(GroupTest, ALoadWhoseLoaderNamesItIsNotKept) {
  Cache cache = Make(Timed());
  const auto loader = [&] {
    cache.InvalidateGroup(3);
    return Grouped(1, 3);
  };
  EXPECT_EQ(cache.GetOrLoad(1, loader).value()->version, 1);
  EXPECT_EQ(cache.Get(1).get(), nullptr);
  EXPECT_EQ(cache.size(), 0u);
  // The object of a loader that takes a completion has a slot of its own.
  std::vector<LoadCompletion<Page>> pending;
  auto asked = cache.GetOrLoadAsync(
      1, [&](int, LoadCompletion<Page> completion) { pending.push_back(std::move(completion)); },
      [](auto task) { task(); }, InGroup(3));
  cache.InvalidateGroup(3);
  pending.front()(Page{1});
  EXPECT_EQ(asked.get().value()->version, 1);
  EXPECT_EQ(cache.Get(1).get(), nullptr);
  cache.CheckInvariantsForTesting();
}

TEST_F(GroupTest, ABulkLoadUnderWayIsHandedOutAndNotKept) {
  Cache cache = Make(Timed());
  const auto loader = [&](const std::vector<int>& keys) {
    cache.InvalidateGroup(3);
    return std::vector<Page>(keys.size(), Page{1});
  };
  for (const auto& page : cache.GetAll(std::vector<int>{1, 2, 3}, loader, InGroup(3))) {
    EXPECT_EQ(page.value()->version, 1);
  }
  EXPECT_EQ(cache.size(), 0u);
  for (const auto& page : cache.GetAll(std::vector<int>{1, 2, 3}, loader, InGroup(4))) {
    EXPECT_EQ(page.value()->version, 1);
  }
  EXPECT_EQ(cache.size(), 3u);
  EXPECT_NE(cache.Get(2).get(), nullptr);
}

TEST_F(GroupTest, ATaskThatHasNotBegunLoadsWhatIsNewEnough) {
  Cache cache = Make(Timed());
  Tasks tasks;
  auto asked = cache.GetOrLoadAsync(
      1, [] { return Page{1}; }, [&](auto task) { tasks.push_back(std::move(task)); }, InGroup(3));
  cache.InvalidateGroup(3);
  ASSERT_EQ(tasks.size(), 1u);
  tasks.front()();
  EXPECT_EQ(asked.get().value()->version, 1);
  EXPECT_NE(cache.Get(1).get(), nullptr);
}

// A load with a soft timeout is a task of the cache's executor.
TEST_F(GroupTest, ALoadInTheBackgroundNamesOne) {
  Cache::Options options = Timed();
  options.expire_after_write = absl::Seconds(10);
  options.stale_if_error = absl::Seconds(1000);
  Tasks tasks;
  options.refresh_executor = [&](auto task) { tasks.push_back(std::move(task)); };
  Cache cache = Make(options);
  cache.Put(1, Page{1});
  Pass(10);
  LoadOptions patient = InGroup(3);
  patient.soft_timeout = absl::ZeroDuration();
  EXPECT_EQ(cache
                .GetOrLoad(
                    1, [] { return Page{2}; }, patient)
                .value()
                ->version,
            1);
  ASSERT_EQ(tasks.size(), 1u);
  tasks.front()();
  EXPECT_EQ(cache.Get(1)->version, 2);
  cache.InvalidateGroup(3);
  // Not even as an expired one.
  EXPECT_EQ(VersionOf(cache, 1, 3, patient), 3);
}

TEST_F(GroupTest, ARefreshUnderWayIsNotKept) {
  Cache cache = Make(Timed());
  cache.Put(1, Page{1});
  const auto loader = [&] {
    cache.InvalidateGroup(3);
    return Page{2};
  };
  // The old object is of no group, so it stays.
  EXPECT_TRUE(cache.Refresh(1, loader, InGroup(3)).ok());
  EXPECT_EQ(cache.Get(1)->version, 1);
  // The old one is of the group as well.
  cache.Put(1, Grouped(1, 3));
  EXPECT_TRUE(cache.Refresh(1, loader).ok());
  EXPECT_EQ(cache.Get(1).get(), nullptr);
  // It may change the group.
  cache.Put(1, Grouped(1, 4));
  EXPECT_TRUE(cache
                  .Refresh(
                      1, [] { return Page{2}; }, InGroup(5))
                  .ok());
  cache.InvalidateGroup(4);
  EXPECT_EQ(cache.Get(1)->version, 2);
  cache.InvalidateGroup(5);
  EXPECT_EQ(cache.Get(1).get(), nullptr);
}

TEST_F(GroupTest, AFailureOfItIsForgotten) {
  Cache::Options options = Timed();
  options.failure_ttl = [](const absl::Status&) { return absl::Seconds(1000); };
  Cache cache = Make(options);
  const auto fail = [] { return absl::StatusOr<Page>(absl::UnavailableError("")); };
  for (const auto& options_of_load : {LoadOptions(), InGroup(3)}) {
    const int key = options_of_load.group.has_value() ? 2 : 1;
    EXPECT_FALSE(cache.GetOrLoad(key, fail, options_of_load).ok());
  }
  const auto load = [] { return Page{}; };
  cache.InvalidateGroup(4);
  EXPECT_FALSE(cache.GetOrLoad(1, load).ok());
  EXPECT_FALSE(cache.GetOrLoad(2, load).ok());
  cache.InvalidateGroup(3);
  EXPECT_FALSE(cache.GetOrLoad(1, load).ok());
  EXPECT_TRUE(cache.GetOrLoad(2, load).ok());
  // One of a load that was under way is not kept.
  const auto fail_late = [&] {
    cache.InvalidateGroup(3);
    return fail();
  };
  EXPECT_FALSE(cache.GetOrLoad(3, fail_late, InGroup(3)).ok());
  EXPECT_TRUE(cache.GetOrLoad(3, load).ok());
}

TEST_F(GroupTest, PurgeRemovesWhatNobodyMeets) {
  Cache cache = Make(Timed());
  for (int key = 0; key < 10; ++key) cache.Put(key, Grouped(1, static_cast<uint32_t>(key % 2)));
  const Ref<Page> used = cache.Get(1);
  cache.InvalidateGroup(1);
  EXPECT_EQ(cache.size(), 10u);
  cache.Purge();
  EXPECT_EQ(cache.size(), 5u);
  EXPECT_EQ(removed_.size(), 5u);
  for (const auto& [key, cause] : removed_) EXPECT_EQ(cause, RemovalCause::kInvalidated);
  cache.CheckInvariantsForTesting();
}

TEST_F(GroupTest, ItsObjectsAreTheFirstVictims) {
  Cache cache = Make(Timed(400));
  const auto group_of = [](int key) { return static_cast<uint32_t>(key / 10 % 2); };
  for (int key = 0; key < 400; ++key) cache.Put(key, Grouped(1, group_of(key)));
  // Those of the group were used most.
  for (int key = 0; key < 400; ++key) {
    for (int i = 0; i < 5 && group_of(key) == 1; ++i) EXPECT_NE(cache.Get(key), nullptr);
  }
  cache.InvalidateGroup(1);
  for (int key = 400; key < 600; ++key) cache.Put(key, Grouped(1, 2));
  EXPECT_EQ(cache.Stats().evictions_budget, 0u);
  EXPECT_EQ(removed_.size(), 200u);
  for (const auto& [key, cause] : removed_) {
    EXPECT_EQ(cause, RemovalCause::kInvalidated);
    EXPECT_EQ(group_of(key), 1u);
  }
  // Then the others follow.
  cache.Put(600, Page{});
  EXPECT_EQ(cache.Stats().evictions_budget, 1u);
  cache.CheckInvariantsForTesting();
}

TEST_F(GroupTest, OneThatIsInUseIsNoVictim) {
  Cache cache = Make(Timed(10));
  for (int key = 0; key < 10; ++key) cache.Put(key, Grouped(1, static_cast<uint32_t>(key % 2)));
  const Ref<Page> used = cache.Peek(1);
  cache.InvalidateGroup(1);
  for (int key = 10; key < 14; ++key) cache.Put(key, Page{});
  EXPECT_EQ(removed_.size(), 4u);
  for (const auto& [key, cause] : removed_) EXPECT_NE(key, 1);
  cache.Put(14, Page{});
  EXPECT_EQ(cache.Stats().evictions_budget, 1u);
}

TEST_F(GroupTest, OfAReplacedObjectIsWhatTheListenerIsTold) {
  Cache cache = Make(Timed());
  cache.Put(1, Grouped(1, 3));
  cache.InvalidateGroup(3);
  cache.Put(1, Page{2});
  ASSERT_EQ(removed_.size(), 1u);
  EXPECT_EQ(removed_[0], std::make_pair(1, RemovalCause::kInvalidated));
}

TEST_F(GroupTest, NumbersAreBelow65536) {
  Cache cache = Make(Timed());
  cache.Put(1, Grouped(1, 65535));
  cache.InvalidateGroup(65535);
  EXPECT_EQ(cache.Get(1).get(), nullptr);
  EXPECT_DEATH(cache.InvalidateGroup(65536), "LargeObjectCache::InvalidateGroup: a group is a");
  EXPECT_DEATH(cache.Put(1, Grouped(1, 65536)), "a load or a Put .*: a group is a number below");
  EXPECT_DEATH(static_cast<void>(VersionOf(cache, 1, 1, InGroup(65536))), "a group is a number");
  EXPECT_DEATH(static_cast<void>(cache.GetOrLoad(2, [] { return Grouped(1, 65536); })),
               "a Loaded .*: a group is a number");
}

TEST(ObjectGroupsTest, StampsAreComparedWithTheLastInvalidationOfTheirGroup) {
  internal::ObjectGroups groups;
  const internal::GroupStamp none = groups.Stamp();
  const internal::GroupStamp early = groups.Stamp(5);
  groups.Invalidate(6);
  EXPECT_FALSE(groups.IsInvalidated(early));
  internal::GroupStamp named_late = none;
  groups.Invalidate(5);
  const internal::GroupStamp late = groups.Stamp(5);
  EXPECT_TRUE(groups.IsInvalidated(early));
  EXPECT_FALSE(groups.IsInvalidated(late));
  EXPECT_FALSE(groups.IsInvalidated(none));
  internal::ObjectGroups::SetGroup(named_late, 5);
  EXPECT_TRUE(groups.IsInvalidated(named_late));
  internal::ObjectGroups::SetGroup(named_late, 7);
  EXPECT_FALSE(groups.IsInvalidated(named_late));
  groups.Invalidate(1024 + 5);
  EXPECT_FALSE(groups.IsInvalidated(late));
}

}  // namespace
}  // namespace weakcache
