// SPDX-License-Identifier: Apache-2.0
// Whom a LargeObjectCache records as possible holders of its objects.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/allocations.h"
#include "tests/support/cache_options.h"
#include "tests/support/race.h"
#include "tests/support/task_queue.h"
#include "weakcache/cache/cache_holders.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/holder_label.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_completion.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

struct Blob {
  uint64_t bytes;
};
using Cache = LargeObjectCache<int, Blob>;

Blob LoadBlob() { return Blob{100}; }

// Returns "label*look-ups" for each possible holder, the most recent first, of the only object that
// is in use under the key; "idle" if there is none.
std::string HoldersOf(const Cache& cache, int key) {
  std::string text = "idle";
  cache.ForEachHeld([&](int held_key, const HeldObject& held) {
    if (held_key != key) return;
    text.clear();
    for (const PossibleHolder& holder : held.holders) {
      text += (text.empty() ? "" : " ") + holder.label + "*" + std::to_string(holder.look_ups);
    }
    if (held.dropped_look_ups != 0) text += " dropped*" + std::to_string(held.dropped_look_ups);
  });
  return text;
}

class HoldersTest : public ::testing::Test {
 protected:
  Cache::Options AllSampled() {
    Cache::Options options = testing::WithBudget<Cache>(10'000);
    options.weigher = [](const Blob& blob) { return blob.bytes; };
    options.clock = [this] { return now_; };
    options.holder_sample_bytes = 1;
    return options;
  }
  void Restart(Cache::Options options) {
    held_.clear();
    cache_.emplace(*Cache::Create(std::move(options)));
  }

  // Looks the key up under a label, and returns the object.
  Ref<Blob> Take(const char* label, int key = 1) {
    const HolderLabel holder(label);
    return *cache_->GetOrLoad(key, LoadBlob);
  }
  // Does the same, and keeps the object.
  void Hold(const char* label, int key = 1) { held_.push_back(Take(label, key)); }
  void Visit(const char* label, int key = 1) { static_cast<void>(Take(label, key)); }
  std::string Holders(int key = 1) { return HoldersOf(*cache_, key); }

  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1000);
  std::optional<Cache> cache_ = *Cache::Create(AllSampled());
  std::vector<Ref<Blob>> held_;
};

TEST_F(HoldersTest, TheOneThatForgotAnObjectIsFound) {
  Hold("export");
  now_ += absl::Hours(2);
  const CacheHolders holders = cache_->Holders();
  ASSERT_EQ(holders.objects.size(), 1u);
  const HeldObject& object = holders.objects[0];
  EXPECT_EQ(object.weight, 100u);
  EXPECT_EQ(object.represented_bytes, 100u);
  EXPECT_EQ(object.references, 1u);
  ASSERT_EQ(object.holders.size(), 1u);
  EXPECT_EQ(object.holders[0].label, "export");
  EXPECT_TRUE(object.holders[0].stack.empty());
  EXPECT_EQ(object.holders[0].look_ups, 1u);
  EXPECT_EQ(object.holders[0].first_age, absl::Hours(2));
  EXPECT_EQ(object.holders[0].last_age, absl::Hours(2));
}

TEST_F(HoldersTest, TheMostRecentComesFirst) {
  Hold("export");
  now_ += absl::Hours(1);
  Visit("viewer");
  now_ += absl::Hours(1);
  Visit("search");
  EXPECT_EQ(Holders(), "search*1 viewer*1 export*1");
  now_ += absl::Minutes(1);
  Visit("viewer");
  EXPECT_EQ(Holders(), "viewer*2 search*1 export*1");
  const CacheHolders holders = cache_->Holders();
  const PossibleHolder& viewer = holders.objects[0].holders[0];
  EXPECT_EQ(viewer.first_age, absl::Minutes(61));
  EXPECT_EQ(viewer.last_age, absl::ZeroDuration());
  EXPECT_EQ(holders.objects[0].references, 1u);
}

TEST_F(HoldersTest, ReferencesBesideTheCachesAreCounted) {
  Hold("export");
  held_.push_back(held_[0]);
  Hold("viewer");
  EXPECT_EQ(cache_->Holders().objects[0].references, 3u);
  cache_->Trim(0);
  EXPECT_EQ(cache_->Holders().objects[0].references, 3u);
  cache_->SetBudget(0);
  EXPECT_EQ(cache_->Holders().objects[0].references, 3u);
}

TEST_F(HoldersTest, IdleObjectsAreLeftOut) {
  Visit("viewer");
  EXPECT_EQ(Holders(), "idle");
  EXPECT_TRUE(cache_->Holders().objects.empty());
}

TEST_F(HoldersTest, BeginAnewWhenALookUpFindsTheObjectIdle) {
  Hold("export");
  Visit("viewer");
  held_.clear();
  Hold("search");
  EXPECT_EQ(Holders(), "search*1");
}

TEST_F(HoldersTest, BeginAnewWhenTheyAreAskedForWhileTheObjectIsIdle) {
  Visit("viewer");
  EXPECT_EQ(Holders(), "idle");
  Ref<Blob> from_elsewhere;
  cache_->ForEach([&](int, const Ref<Blob>& blob) { from_elsewhere = blob; });
  EXPECT_EQ(Holders(), "");
  EXPECT_EQ(cache_->Holders().objects[0].references, 1u);
}

// References of caches are nobody's, whichever cache and whichever key.
TEST_F(HoldersTest, AnIdleObjectOfSeveralEntriesIsHeldByNobody) {
  Cache other = *Cache::Create(AllSampled());
  Ref<Blob> blob = Take("importer");
  cache_->Put(2, blob);
  other.Put(7, blob);
  EXPECT_EQ(HoldersOf(other, 7), "*1");
  EXPECT_EQ(cache_->Holders().objects[0].references, 1u);
  blob.reset();
  Visit("renderer");
  EXPECT_EQ(Holders(1), "idle");
  EXPECT_EQ(Holders(2), "idle");
  EXPECT_EQ(HoldersOf(other, 7), "idle");
  EXPECT_TRUE(cache_->Holders().objects.empty());
  // Whoever holds it may have taken it by another key, so nobody is named as the only one.
  Hold("editor", 2);
  Visit("indexer");
  const std::string text = cache_->Holders().ToText();
  EXPECT_NE(text.find("indexer: 1 object, 100 bytes, 0 of them taken by nobody"), std::string::npos)
      << text;
  EXPECT_NE(text.find("editor: 1 object, 100 bytes, 0 of them taken by nobody"), std::string::npos)
      << text;
}

TEST_F(HoldersTest, CopiesCountForTheirSource) {
  Hold("export");
  Ref<Blob> copy = held_[0];
  held_.clear();
  Visit("viewer");
  EXPECT_EQ(Holders(), "viewer*1 export*1");
}

TEST_F(HoldersTest, LookUpsWithoutALabel) {
  held_.push_back(*cache_->GetOrLoad(1, LoadBlob));
  EXPECT_EQ(Holders(), "*1");
  Visit("viewer");
  EXPECT_EQ(Holders(), "viewer*1 *1");
}

TEST_F(HoldersTest, EveryKindOfLookUpIsRecorded) {
  Hold("load");
  WEAKCACHE_HOLDER("get");
  static_cast<void>(cache_->Get(1));
  EXPECT_EQ(Holders(), "get*1 load*1");
  WEAKCACHE_HOLDER("peek");
  static_cast<void>(cache_->Peek(1));
  EXPECT_EQ(Holders(), "peek*1 get*1 load*1");
  WEAKCACHE_HOLDER("all");
  const std::vector<int> keys = {1, 2};
  const auto all = cache_->GetAll(keys, [](const std::vector<int>& missing) {
    return std::vector<Blob>(missing.size(), Blob{100});
  });
  EXPECT_EQ(Holders(), "all*1 peek*1 get*1 load*1");
  EXPECT_EQ(Holders(2), "all*1");
  WEAKCACHE_HOLDER("put if absent");
  static_cast<void>(cache_->PutIfAbsent(1, Blob{7}));
  EXPECT_EQ(Holders(), "put if absent*1 all*1 peek*1 get*1 load*1");
  EXPECT_FALSE(cache_->Inspect(1) == std::nullopt);
  EXPECT_EQ(Holders(), "put if absent*1 all*1 peek*1 get*1 load*1");
}

TEST_F(HoldersTest, WhoeverPutsAnObjectMayHoldIt) {
  WEAKCACHE_HOLDER("put");
  held_.push_back(cache_->Put(1, Blob{100}));
  EXPECT_EQ(Holders(), "put*1");
  held_.push_back(cache_->PutIfAbsent(2, Blob{100}).first);
  EXPECT_EQ(Holders(2), "put*1");
}

// Their counts are not in the slot, and no look-up finds them on the fast path.
TEST_F(HoldersTest, ObjectsWithCountsOfTheirOwn) {
  {
    WEAKCACHE_HOLDER("put");
    held_.push_back(MakeRef<Blob>(Blob{100}));
    static_cast<void>(cache_->Put(1, held_[0]));
  }
  Visit("viewer");
  EXPECT_EQ(Holders(), "viewer*1 put*1");
  EXPECT_EQ(cache_->Holders().objects[0].references, 1u);
  WEAKCACHE_HOLDER("get");
  static_cast<void>(cache_->Get(1));
  static_cast<void>(cache_->Peek(1));
  EXPECT_EQ(Holders(), "get*2 viewer*1 put*1");
  held_.clear();
  EXPECT_EQ(Holders(), "idle");
  held_.push_back(cache_->Get(1));
  EXPECT_EQ(Holders(), "get*1");
  cache_->SetBudget(0);
  Visit("viewer");
  EXPECT_EQ(Holders(), "viewer*1 get*1");
}

TEST_F(HoldersTest, AnObjectThatIsEvictedInUseAndRetainedAgain) {
  Hold("export");
  cache_->SetBudget(0);
  EXPECT_FALSE(cache_->Inspect(1)->retained);
  Visit("viewer");
  EXPECT_EQ(Holders(), "viewer*1 export*1");
  cache_->SetBudget(10'000);
  Visit("search");
  EXPECT_TRUE(cache_->Inspect(1)->retained);
  EXPECT_EQ(Holders(), "search*1 viewer*1 export*1");
  held_.clear();
  EXPECT_EQ(Holders(), "idle");
}

TEST_F(HoldersTest, RemovedObjectsAreLeftOut) {
  Hold("export");
  Hold("export", 2);
  Hold("export", 3);
  EXPECT_EQ(cache_->Holders().objects.size(), 3u);
  cache_->Invalidate(1);
  EXPECT_EQ(Holders(1), "idle");
  {
    WEAKCACHE_HOLDER("put");
    held_.push_back(cache_->Put(2, Blob{50}));
  }
  EXPECT_EQ(Holders(2), "put*1");
  cache_->SetBudget(0);
  held_.erase(held_.begin() + 2);
  EXPECT_EQ(Holders(3), "idle");
  EXPECT_EQ(cache_->Holders().objects.size(), 1u);
}

TEST_F(HoldersTest, AThreadThatWaitsForALoad) {
  testing::SpinBarrier loads(2);
  std::thread other;
  absl::StatusOr<Ref<Blob>> others;
  {
    WEAKCACHE_HOLDER("loader");
    held_.push_back(*cache_->GetOrLoad(1, [&] {
      other = std::thread([&] {
        WEAKCACHE_HOLDER("waiter");
        loads.Wait();
        others = cache_->GetOrLoad(1, LoadBlob);
      });
      loads.Wait();
      return LoadBlob();
    }));
  }
  other.join();
  EXPECT_EQ(*others, held_[0]);
  const std::string holders = Holders();
  EXPECT_TRUE(holders == "waiter*1 loader*1" || holders == "loader*1 waiter*1") << holders;
}

TEST_F(HoldersTest, AnAsynchronousLoadCountsForItsAskers) {
  testing::TaskQueue tasks;
  std::vector<std::future<absl::StatusOr<Ref<Blob>>>> blobs;
  {
    WEAKCACHE_HOLDER("viewer");
    blobs.push_back(cache_->GetOrLoadAsync(1, LoadBlob, tasks.executor()));
  }
  {
    WEAKCACHE_HOLDER("search");
    blobs.push_back(cache_->GetOrLoadAsync(1, LoadBlob, tasks.executor()));
  }
  {
    WEAKCACHE_HOLDER("executor");
    tasks.RunAll();
  }
  EXPECT_EQ(Holders(), "search*1 viewer*1");
  {
    WEAKCACHE_HOLDER("late");
    blobs.push_back(cache_->GetOrLoadAsync(1, LoadBlob, tasks.executor()));
  }
  EXPECT_EQ(Holders(), "late*1 search*1 viewer*1");
  blobs.clear();
  EXPECT_EQ(Holders(), "idle");
}

// A thread that asks for the key takes the queued load over.
TEST_F(HoldersTest, AnAsynchronousLoadThatAnotherThreadRuns) {
  testing::TaskQueue tasks;
  std::future<absl::StatusOr<Ref<Blob>>> blob;
  {
    WEAKCACHE_HOLDER("viewer");
    blob = cache_->GetOrLoadAsync(1, LoadBlob, tasks.executor());
  }
  Visit("search");
  EXPECT_EQ(Holders(), "viewer*1 search*1");
}

// If its task is dropped, the other askers look for the object again.
TEST_F(HoldersTest, AnAskerThatFindsTheObjectInTheEnd) {
  testing::TaskQueue tasks;
  std::vector<std::future<absl::StatusOr<Ref<Blob>>>> blobs;
  for (const char* const label : {"viewer", "search"}) {
    const HolderLabel holder(label);
    blobs.push_back(cache_->GetOrLoadAsync(1, LoadBlob, tasks.executor()));
  }
  {
    WEAKCACHE_HOLDER("put");
    held_.push_back(cache_->Put(1, Blob{100}));
  }
  tasks.tasks.clear();
  EXPECT_EQ(Holders(), "search*1 put*1");
}

TEST_F(HoldersTest, AnObjectThatIsPutWhileAnotherOneIsWeighed) {
  Cache::Options options = AllSampled();
  options.weigher = [&](const Blob& blob) {
    WEAKCACHE_HOLDER("weigher");
    if (blob.bytes == 7) held_.push_back(cache_->Put(1, Blob{100}));
    return blob.bytes;
  };
  Restart(std::move(options));
  WEAKCACHE_HOLDER("put if absent");
  EXPECT_FALSE(cache_->PutIfAbsent(1, Blob{7}).second);
  EXPECT_EQ(Holders(), "put if absent*1 weigher*1");
}

// The clock is read between two looks at the entry.
TEST_F(HoldersTest, AnObjectThatLeavesBeforeItsTakerIsRecorded) {
  std::function<void()> at_clock = [] {};
  Cache::Options options = AllSampled();
  options.holder_sample_bytes = 2;
  options.clock = [&] {
    std::exchange(at_clock, [] {})();
    return now_;
  };
  Restart(std::move(options));
  const auto blob = MakeRef<Blob>(Blob{100});
  static_cast<void>(cache_->Put(1, blob));
  at_clock = [&] { cache_->Invalidate(1); };
  EXPECT_EQ(cache_->Peek(1), blob);
  EXPECT_EQ(Holders(), "idle");

  static_cast<void>(cache_->Put(1, blob));
  at_clock = [&] {
    cache_->Invalidate(1);
    blob->bytes = 0;
    static_cast<void>(cache_->Put(1, blob));
  };
  EXPECT_EQ(cache_->Peek(1), blob);
  EXPECT_EQ(Holders(), "idle");
}

TEST_F(HoldersTest, ALoadThatEndsLater) {
  testing::TaskQueue tasks;
  std::future<absl::StatusOr<Ref<Blob>>> blob;
  std::optional<LoadCompletion<Blob>> completion;
  {
    WEAKCACHE_HOLDER("viewer");
    blob = cache_->GetOrLoadAsync(
        1, [&](LoadCompletion<Blob> given) { completion = std::move(given); }, tasks.executor());
  }
  tasks.RunAll();
  WEAKCACHE_HOLDER("completer");
  (*completion)(LoadBlob());
  EXPECT_EQ(Holders(), "viewer*1");
}

// Before the user code with which the load's end goes on, as that may end the cache.
TEST_F(HoldersTest, TheListenerFindsTheAskersOfALoadThatEndsLater) {
  std::vector<std::string> seen;
  Cache::Options options = AllSampled();
  options.budget_bytes = 150;
  options.removal_listener = [&](int key, RemovalCause, uint64_t) {
    seen.push_back(std::to_string(key) + " leaves " + Holders(2));
  };
  Restart(std::move(options));
  cache_->Put(1, Blob{100});
  std::future<absl::StatusOr<Ref<Blob>>> blob;
  std::optional<LoadCompletion<Blob>> completion;
  {
    WEAKCACHE_HOLDER("viewer");
    blob = cache_->GetOrLoadAsync(
        2, [&](LoadCompletion<Blob> given) { completion = std::move(given); }, testing::RunInline);
  }
  (*completion)(LoadBlob());
  EXPECT_EQ(seen, std::vector<std::string>{"1 leaves viewer*1"});
}

TEST_F(HoldersTest, ARefreshedObjectHasALogOfItsOwn) {
  Cache::Options options = AllSampled();
  options.refresh_after_write = absl::Minutes(1);
  Restart(std::move(options));
  Hold("export");
  now_ += absl::Minutes(2);
  Hold("viewer");
  EXPECT_EQ(Holders(), "viewer*1");
}

TEST_F(HoldersTest, AnExpiredObjectThatIsServed) {
  Cache::Options options = AllSampled();
  options.expire_after_write = absl::Minutes(1);
  options.stale_if_error = absl::Hours(1);
  Restart(std::move(options));
  Visit("viewer");
  now_ += absl::Minutes(2);
  WEAKCACHE_HOLDER("export");
  held_.push_back(*cache_->GetOrLoad(1, [] { return absl::UnavailableError("down"); }));
  EXPECT_EQ(Holders(), "export*1");
}

TEST_F(HoldersTest, AnObjectOfAGroup) {
  {
    WEAKCACHE_HOLDER("load");
    held_.push_back(
        *cache_->GetOrLoad(1, [] { return Loaded<Blob>{.object = LoadBlob(), .group = 5}; }));
  }
  Visit("viewer");
  EXPECT_EQ(Holders(), "viewer*1 load*1");
}

// Their hits leave the fast path for two reasons.
TEST_F(HoldersTest, BesideTheTimeThatHitsSave) {
  Cache::Options options = AllSampled();
  options.value = ObjectValue::kTimeSaved;
  Restart(std::move(options));
  WEAKCACHE_HOLDER("viewer");
  held_.push_back(*cache_->GetOrLoad(1, [this] {
    now_ += absl::Seconds(1);
    return LoadBlob();
  }));
  static_cast<void>(cache_->Get(1));
  EXPECT_EQ(Holders(), "viewer*2");
  EXPECT_GT(cache_->Stats().time_saved, absl::Milliseconds(900));
  EXPECT_EQ(cache_->Stats().hits, 1u);
}

TEST_F(HoldersTest, HitsAreCountedAsEver) {
  Visit("viewer");
  Visit("viewer");
  Hold("viewer");
  cache_->SetBudget(0);
  Visit("viewer");
  const CacheStats stats = cache_->Stats();
  EXPECT_EQ(stats.hits, 2u);
  EXPECT_EQ(stats.weak_hits, 1u);
  EXPECT_EQ(stats.misses, 1u);
}

TEST_F(HoldersTest, EightAreKeptAndTheOldestIsOneOfThem) {
  const char* const labels[] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
  Hold("0");
  for (const int i : {1, 2, 2, 3, 4, 5, 6, 7, 1}) Visit(labels[i]);
  EXPECT_EQ(Holders(), "1*2 7*1 6*1 5*1 4*1 3*1 2*2 0*1");
  Visit("8");
  EXPECT_EQ(Holders(), "8*1 1*2 7*1 6*1 5*1 4*1 3*1 0*1 dropped*2");
  Visit("9");
  EXPECT_EQ(Holders(), "9*1 8*1 1*2 7*1 6*1 5*1 4*1 0*1 dropped*3");
  held_.clear();
  Hold("viewer");
  EXPECT_EQ(Holders(), "viewer*1");
}

TEST_F(HoldersTest, AgesOfAClockThatIsSetBackAreZero) {
  Hold("viewer");
  now_ -= absl::Hours(1);
  EXPECT_EQ(cache_->Holders().objects[0].holders[0].first_age, absl::ZeroDuration());
}

TEST_F(HoldersTest, AboutOneObjectIsSampledForSoManyBytes) {
  Cache::Options options = AllSampled();
  options.budget_bytes = 1'000'000'000;
  options.holder_sample_bytes = 6'400;
  Restart(std::move(options));
  std::vector<Ref<Blob>> held;
  for (int i = 0; i < 6'400; ++i) held.push_back(cache_->Put(i, Blob{100}));
  // Weightless ones never, heavy ones always.
  for (int i = 0; i < 1'000; ++i) held.push_back(cache_->Put(-1 - i, Blob{0}));
  CacheHolders holders = cache_->Holders();
  EXPECT_NEAR(static_cast<double>(holders.objects.size()), 100, 30);
  EXPECT_EQ(holders.objects[0].represented_bytes, 6'400u);
  held.clear();
  EXPECT_TRUE(cache_->Holders().objects.empty());
  for (int i = 0; i < 10; ++i) held.push_back(cache_->Put(i, Blob{6'400}));
  held.push_back(cache_->Put(10, Blob{10'000}));
  holders = cache_->Holders();
  EXPECT_EQ(holders.objects.size(), 11u);
  EXPECT_EQ(holders.sample_bytes, 6'400u);
  uint64_t represented = 0;
  for (const HeldObject& object : holders.objects) represented += object.represented_bytes;
  EXPECT_EQ(represented, 74'000u);
}

TEST_F(HoldersTest, WeightlessObjectsAreSampledIfAllAre) {
  WEAKCACHE_HOLDER("put");
  held_.push_back(cache_->Put(1, Blob{0}));
  EXPECT_EQ(Holders(), "put*1");
}

// An object of each kind must be chosen as often as its weight says, although they alternate.
TEST_F(HoldersTest, ChoosesByWeightWhateverTheOrder) {
  Cache::Options options = AllSampled();
  options.budget_bytes = 1'000'000'000;
  options.holder_sample_bytes = 4'000;
  Restart(std::move(options));
  std::vector<Ref<Blob>> held;
  for (int i = 0; i < 8'000; ++i) held.push_back(cache_->Put(i, Blob{i % 2 == 0 ? 100u : 300u}));
  std::map<uint64_t, double> chosen;
  cache_->ForEachHeld([&](int, const HeldObject& object) { ++chosen[object.weight]; });
  EXPECT_NEAR(chosen[100], 100, 30);
  EXPECT_NEAR(chosen[300], 300, 52);
}

// So that the compiler makes no copies of a loop's body: these would have stacks of their own.
size_t Opaque(size_t number) {
  asm volatile("" : "+r"(number));
  return number;
}
[[gnu::noinline]] Ref<Blob> TakeInRenderer(Cache& cache) {
  Ref<Blob> blob = cache.Get(1);
  asm volatile("");  // no tail call
  return blob;
}
[[gnu::noinline]] Ref<Blob> TakeInExport(Cache& cache) {
  Ref<Blob> blob = cache.Peek(1);  // or one function would be made of both
  asm volatile("");
  return blob;
}

TEST_F(HoldersTest, StacksTellLookUpsOfOneLabelApart) {
  Cache::Options options = AllSampled();
  options.holder_stacks = true;
  Restart(std::move(options));
  Hold("a");
  for (size_t i = 0; i < Opaque(2); ++i) held_.push_back(TakeInRenderer(*cache_));
  held_.push_back(TakeInExport(*cache_));
  const CacheHolders holders = cache_->Holders();
  ASSERT_EQ(holders.objects.size(), 1u);
  const std::vector<PossibleHolder>& taken = holders.objects[0].holders;
  ASSERT_EQ(taken.size(), 3u);
  EXPECT_EQ(taken[0].look_ups, 1u);
  EXPECT_EQ(taken[1].look_ups, 2u);
  EXPECT_NE(taken[0].stack, taken[1].stack);
  EXPECT_GT(taken[0].stack.size(), 2u);
  EXPECT_LE(taken[0].stack.size(), 32u);
  const std::string folded = holders.ToFoldedStacks();
  EXPECT_NE(folded.find("TakeInRenderer"), std::string::npos) << folded;
  EXPECT_NE(folded.find("TakeInExport"), std::string::npos) << folded;
  // The cache's own frames are left out, and bytes follow the innermost frame.
  EXPECT_NE(folded.find("::TakeInRenderer() 33\n"), std::string::npos) << folded;
  EXPECT_EQ(folded.find("weakcache::internal::CacheStore"), std::string::npos) << folded;
}

TEST_F(HoldersTest, StacksOfDroppedLookUpsAreReplaced) {
  Cache::Options options = AllSampled();
  options.holder_stacks = true;
  Restart(std::move(options));
  const char* const labels[] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
  for (const char* const label : labels) Hold(label);
  for (size_t i = 0; i < Opaque(10); ++i) {
    const HolderLabel holder(labels[i]);
    held_.push_back(TakeInRenderer(*cache_));
  }
  const CacheHolders holders = cache_->Holders();
  const std::vector<PossibleHolder>& taken = holders.objects[0].holders;
  ASSERT_EQ(taken.size(), 8u);
  EXPECT_EQ(taken[0].label, "9");
  EXPECT_EQ(taken[0].stack, taken[6].stack);
  EXPECT_EQ(taken[7].label, "0");
  EXPECT_NE(taken[0].stack, taken[7].stack);
  EXPECT_EQ(holders.objects[0].dropped_look_ups, 12u);
}

TEST_F(HoldersTest, NothingIsSampledByDefault) {
  Cache::Options options = AllSampled();
  options.holder_sample_bytes = 0;
  Restart(std::move(options));
  Hold("viewer");
  Visit("viewer");
  EXPECT_TRUE(cache_->Holders().objects.empty());
  EXPECT_EQ(cache_->Holders().sample_bytes, 0u);
}

TEST_F(HoldersTest, BadOptions) {
  Cache::Options options = AllSampled();
  options.holder_sample_bytes = static_cast<uint64_t>(-1);
  EXPECT_EQ(Cache::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Cache::Create(options).status().message().substr(0, 20), "holder_sample_bytes:");
  options.holder_sample_bytes = 0;
  options.holder_stacks = true;
  EXPECT_EQ(Cache::Create(options).status().message(),
            "holder_stacks: is set, but holder_sample_bytes is not");
}

TEST_F(HoldersTest, AnObjectWhoseLogHasNoMemoryIsNotSampled) {
  static_cast<void>(cache_->Put(1, Blob{1}));
  static_cast<void>(cache_->Put(2, Blob{1}));
  int unsampled = 0;
  for (int k = 1; k < 20; ++k) {
    cache_->Invalidate(1);
    testing::FailAllocation(k);
    Ref<Blob> blob;
    try {
      blob = cache_->Put(1, Blob{100});
    } catch (const std::bad_alloc&) {
    }
    testing::FailAllocation(0);
    if (blob == nullptr) continue;
    EXPECT_EQ(cache_->Get(1), blob);
    unsampled += Holders() == "idle" ? 1 : 0;
  }
  EXPECT_EQ(unsampled, 2);  // the log, and the EntryExtras that have it
  cache_->CheckInvariantsForTesting();
}

TEST_F(HoldersTest, LogsEndWithTheirObjects) {
  Cache::Options options = AllSampled();
  options.holder_stacks = true;
  Restart(std::move(options));
  Visit("viewer", 1);
  Visit("viewer", 2);
  cache_->Clear();
  cache_->Purge();
  const int64_t before = testing::LiveAllocatedBytes();
  Visit("viewer", 1);
  Hold("viewer", 2);
  EXPECT_GT(testing::LiveAllocatedBytes(), before + 2'000);
  cache_->Clear();
  held_.clear();
  cache_->Purge();
  EXPECT_LE(testing::LiveAllocatedBytes(), before + 200);
}

TEST_F(HoldersTest, TheCacheMayEndWhileItsObjectsAreHeld) {
  Hold("viewer");
  Hold("viewer", 2);
  cache_.reset();
  EXPECT_EQ(held_[0]->bytes, 100u);
  held_.clear();
}

// An object is looked up and released, evicted in use, retained again, and asked about, all at
// once. Nobody who holds it may be missing.
TEST(HoldersRaceTest, WhoeverHoldsAnObjectIsFound) {
  Cache::Options options = testing::WithBudget<Cache>(100);
  options.weigher = [](const Blob& blob) { return blob.bytes; };
  options.holder_sample_bytes = 1;
  Cache cache = *Cache::Create(options);
  Ref<Blob> held;
  const auto visit = [&](const char* label) {
    const HolderLabel holder(label);
    for (int i = 0; i < 3; ++i) static_cast<void>(cache.GetOrLoad(1, LoadBlob));
  };
  int only_holder = 0;
  int with_others = 0;
  testing::Race(
      {testing::RaceRounds(20'000), {&only_holder, &with_others}},
      [&](int round) {
        held.reset();
        // An object that is new, or was idle.
        if (round % 2 == 0) cache.Invalidate(1);
        cache.SetBudget(100);
        static_cast<void>(cache.GetOrLoad(1, LoadBlob));
      },
      {[&] {
         WEAKCACHE_HOLDER("holder");
         held = *cache.GetOrLoad(1, LoadBlob);
         const std::string holders = HoldersOf(cache, 1);
         EXPECT_NE(holders.find("holder*1"), std::string::npos) << holders;
       },
       [&] { visit("viewer"); },
       [&] {
         cache.SetBudget(0);
         cache.SetBudget(100);
       },
       [&] {
         static_cast<void>(cache.Holders());
         visit("search");
       }},
      [&](int) {
        const std::string holders = HoldersOf(cache, 1);
        EXPECT_NE(holders.find("holder*1"), std::string::npos) << holders;
        (holders == "holder*1" ? only_holder : with_others) += 1;
        EXPECT_EQ(cache.Peek(1), held);
      });
  EXPECT_GT(only_holder, 0);
  EXPECT_GT(with_others, 0);
  cache.CheckInvariantsForTesting();
}

}  // namespace
}  // namespace weakcache
