// SPDX-License-Identifier: Apache-2.0
// InvalidateGroup beside whatever makes objects: whoever asks afterwards gets none that was made
// from what the source had before.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/cache_options.h"
#include "tests/support/race.h"
#include "weakcache/cache/internal/retention/object_groups.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_completion.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::Race;
using testing::RaceRounds;

struct Page {
  int version = 0;
};

using Cache = LargeObjectCache<int, Page>;

constexpr uint32_t kGroup = 3;

Cache MakeCache() {
  Cache::Options options = testing::WithBudget<Cache>(1000);
  options.weigher = [](const Page&) { return uint64_t{1}; };
  options.shards = 1;
  return std::move(Cache::Create(std::move(options))).value();
}
LoadOptions InGroup() {
  LoadOptions options;
  options.group = kGroup;
  return options;
}
void RunAtOnce(const std::function<void()>& task) { task(); }

// A cache, what its objects are made from, and one way of making one that is raced with a change.
class GroupRace {
 public:
  // Reads the source. In every second round only returns once that has changed.
  Page Load() {
    const int version = source_.load();
    made_ = version;
    while (meet_ == Meet::kInLoad && source_.load() == version) std::this_thread::yield();
    return Page{version};
  }
  auto loader() {
    return [this] { return Load(); };
  }
  Cache& cache() { return cache_; }

  // Races `way()`, which makes an object under key 1, or finds one.
  void Run(const std::function<void()>& way, bool has_object) {
    int overtaken = 0;
    int current = 0;
    Race(
        {RaceRounds(4000), {&overtaken, &current}},
        [&](int round) {
          meet_ = Meet::kAnywhere;
          cache_.Clear();
          if (has_object) cache_.GetOrLoad(1, loader(), InGroup()).value();
          made_ = kNothing;
          before_ = source_.load();
          meet_ = round % 2 == 0 ? Meet::kInLoad : Meet(round % 4);
        },
        {[&] {
           while (meet_ == Meet::kAfterChange && source_.load() == before_) {
             std::this_thread::yield();
           }
           way();
         },
         [&] { Change(); },
         // So that flights meet in the shard.
         [&] { cache_.GetOrLoad(2, [] { return Page{}; }).value(); }},
        [&](int) {
          const Ref<Page> found = cache_.Get(1);
          ASSERT_NE(found.get(), nullptr);
          EXPECT_EQ(found->version, source_.load());
          EXPECT_NE(cache_.Get(2).get(), nullptr);  // of no group
          cache_.CheckInvariantsForTesting();
          (made_ != kNothing && made_ < source_.load() ? overtaken : current)++;
        });
    EXPECT_GT(overtaken, 0);
    EXPECT_GT(current, 0);
  }

 private:
  enum class Meet { kInLoad, kAnywhere, kUnused, kAfterChange };
  static constexpr int kNothing = -1;

  // As an application does it: first the source changes, then what was made from it goes.
  void Change() {
    while (meet_ == Meet::kInLoad && made_ == kNothing) std::this_thread::yield();
    const int changed = ++source_;
    cache_.InvalidateGroup(kGroup);
    const auto load = [&] { return Page{source_.load()}; };
    EXPECT_EQ(cache_.GetOrLoad(1, load, InGroup()).value()->version, changed);
  }

  Cache cache_ = MakeCache();
  Meet meet_ = Meet::kAnywhere;
  int before_ = 0;
  std::atomic<int> source_{0};
  std::atomic<int> made_{kNothing};  // the version that the way has loaded
};

TEST(LargeObjectCacheGroupsRaceTest, ALoadThatBeganBeforeIsNotKept) {
  GroupRace race;
  race.Run([&] { race.cache().GetOrLoad(1, race.loader(), InGroup()).value(); }, false);
}

TEST(LargeObjectCacheGroupsRaceTest, AnObjectOfAnotherSlotIsNotKept) {
  GroupRace race;
  const auto loader = [&] { return MakeRef<Page>(race.Load()); };
  race.Run([&] { race.cache().GetOrLoad(1, loader, InGroup()).value(); }, false);
}

TEST(LargeObjectCacheGroupsRaceTest, ABulkLoadThatBeganBeforeIsNotKept) {
  GroupRace race;
  const auto loader = [&](const std::vector<int>& keys) {
    return std::vector<Page>(keys.size(), race.Load());
  };
  race.Run(
      [&] {
        race.cache().GetAll(std::vector<int>{1, 3}, loader, InGroup())[0].value();
      },
      false);
}

TEST(LargeObjectCacheGroupsRaceTest, ACompletedLoadThatBeganBeforeIsNotKept) {
  GroupRace race;
  const auto loader = [&](int, LoadCompletion<Page> completion) { completion(race.Load()); };
  race.Run([&] { race.cache().GetOrLoadAsync(1, loader, RunAtOnce, InGroup()).get().value(); },
           false);
}

TEST(LargeObjectCacheGroupsRaceTest, ARefreshThatBeganBeforeIsNotKept) {
  GroupRace race;
  race.Run([&] { EXPECT_TRUE(race.cache().Refresh(1, race.loader(), InGroup()).ok()); }, true);
}

TEST(LargeObjectCacheGroupsRaceTest, AnObjectThatWasPutBeforeIsGone) {
  Cache cache = MakeCache();
  int gone = 0;
  int stayed = 0;
  std::atomic<bool> put{false};
  std::atomic<bool> invalidated{false};
  bool was_put = false;
  int order = 0;  // 1, 3: one of them waits for the other
  Race(
      {RaceRounds(4000), {&gone, &stayed}},
      [&](int round) {
        cache.Clear();
        put = false;
        invalidated = false;
        order = round % 4;
      },
      {[&] {
         while (order == 1 && !invalidated) std::this_thread::yield();
         cache.Put(1, Loaded<Page>{.object = Page{1}, .group = kGroup});
         put = true;
       },
       [&] {
         while (order == 3 && !put) std::this_thread::yield();
         was_put = put.load();
         cache.InvalidateGroup(kGroup);
         invalidated = true;
       }},
      [&](int) {
        const bool found = cache.Get(1).get() != nullptr;
        (found ? stayed : gone)++;
        EXPECT_FALSE(found && was_put);
        cache.CheckInvariantsForTesting();
      });
  EXPECT_GT(gone, 0);
  EXPECT_GT(stayed, 0);
}

TEST(LargeObjectCacheGroupsRaceTest, EachOfSeveralInvalidationsCounts) {
  std::atomic<int> sources[2];
  struct Versions {
    int of[2];
  };
  using VersionsCache = LargeObjectCache<int, Versions>;
  std::optional<VersionsCache> versions;
  const auto load = [&] { return Versions{{sources[0].load(), sources[1].load()}}; };
  const auto change = [&](int which) {
    const int changed = ++sources[which];
    versions->InvalidateGroup(kGroup);
    EXPECT_GE(versions->GetOrLoad(1, load, InGroup()).value()->of[which], changed);
  };
  Race(
      RaceRounds(4000),
      [&](int) {
        VersionsCache::Options options = testing::WithBudget<VersionsCache>(1000);
        options.shards = 1;
        options.weigher = [](const Versions&) { return uint64_t{1}; };
        versions.emplace(std::move(VersionsCache::Create(std::move(options))).value());
        versions->GetOrLoad(1, load, InGroup()).value();
      },
      {[&] { change(0); }, [&] { change(1); },
       [&] { versions->GetOrLoad(1, load, InGroup()).value(); }},
      [&](int) {
        const Ref<Versions> found = versions->GetOrLoad(1, load, InGroup()).value();
        EXPECT_EQ(found->of[0], sources[0].load());
        EXPECT_EQ(found->of[1], sources[1].load());
      });
}

// The first one of each racer may also make the memory for all these groups.
TEST(ObjectGroupsRaceTest, TheLastInvalidationCounts) {
  std::optional<internal::ObjectGroups> groups;
  std::atomic<int> undone{0};
  const auto invalidate = [&](uint32_t own_group) {
    groups->Invalidate(own_group);
    for (int i = 0; i < 100; ++i) {
      const internal::GroupStamp before = groups->Stamp(kGroup);
      groups->Invalidate(kGroup);
      // The other racer's invalidation may have begun before the stamp, and end only now.
      if (!groups->IsInvalidated(before)) ++undone;
    }
  };
  Race(
      RaceRounds(4000), [&](int) { groups.emplace(); },
      {[&] { invalidate(10); }, [&] { invalidate(11); }},
      [&](int) {
        internal::GroupStamp stamp = groups->Stamp(kGroup);
        EXPECT_EQ(stamp.epoch, 202u);
        EXPECT_FALSE(groups->IsInvalidated(stamp));
        stamp.epoch = 201;
        EXPECT_TRUE(groups->IsInvalidated(stamp));
        stamp.epoch = 0;
        for (const uint32_t own_group : {10u, 11u}) {
          internal::ObjectGroups::SetGroup(stamp, own_group);
          EXPECT_TRUE(groups->IsInvalidated(stamp));
        }
      });
  EXPECT_EQ(undone, 0);
}

}  // namespace
}  // namespace weakcache
