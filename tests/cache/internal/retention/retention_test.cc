// SPDX-License-Identifier: Apache-2.0
// What a Retention promises whatever its policy is.
#include "weakcache/cache/internal/retention/retention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/cache/internal/retention/lru_policy.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/internal/core/cache_core.h"
#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/internal/retention/lazy_greedy_dual.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {
namespace {

struct Blob {
  uint64_t size = 0;
};

template <typename Policy>
class RetentionTest : public ::testing::Test {
 protected:
  using Core = CacheCore<int, Blob, DefaultHash<int>, DefaultEqual<int>, Policy>;
  using PendingRemovals = typename Core::PendingRemovals;

  explicit RetentionTest(uint64_t budget = 100)
      : core_(CacheSettings<int, Blob>{budget, /*budget_covers_in_use=*/true, /*shards=*/1,
                                       /*max_concurrent_loads=*/0,
                                       [](const Blob& blob) { return blob.size; },
                                       [this](int key, RemovalCause cause, uint64_t weight) {
                                         const std::lock_guard lock(notified_mutex_);
                                         notified_.push_back({key, cause, weight});
                                       },
                                       Freshness(FreshnessSettings()),
                                       /*count_entry_memory=*/false},
              DefaultHash<int>(), DefaultEqual<int>()) {}
  ~RetentionTest() override { core_.CheckInvariantsForTesting(); }

  struct Notification {
    int key;
    RemovalCause cause;
    uint64_t weight;
    friend bool operator==(const Notification&, const Notification&) = default;
  };

  Ref<Blob> Put(int key, uint64_t size) {
    return core_.Put(key, MakeObject<Ref<Blob>>(Blob{size}));
  }
  bool Contains(int key) { return core_.store().Peek(key).get() != nullptr; }
  typename Core::Store::Budget& retention() { return core_.store().retention(); }

  std::mutex notified_mutex_;  // whoever drops a last reference may be notified
  std::vector<Notification> notified_;
  Core core_;
};

using Policies = ::testing::Types<LazyGreedyDual, weakcache::testing::LruPolicy>;
TYPED_TEST_SUITE(RetentionTest, Policies);

TYPED_TEST(RetentionTest, RetainsWithinTheBudget) {
  for (int key = 0; key < 100; ++key) {
    this->Put(key, 10);
    ASSERT_LE(this->retention().bytes(), 100);
  }
  EXPECT_EQ(this->retention().bytes(), 100);
  EXPECT_EQ(this->core_.size(), 10);
  EXPECT_EQ(this->core_.Stats().evictions_budget, 90);
  EXPECT_EQ(this->notified_.size(), 90);
}

TYPED_TEST(RetentionTest, EvictsUnusedObjectsBeforeUsedOnes) {
  for (int key = 0; key < 10; ++key) this->Put(key, 10);
  for (int key = 0; key < 10; key += 2) EXPECT_NE(this->core_.Get(key).get(), nullptr);
  for (int key = 10; key < 15; ++key) this->Put(key, 10);
  int unused = 0;
  for (int key = 0; key < 10; ++key) {
    if (key % 2 == 0) {
      EXPECT_TRUE(this->Contains(key)) << key;
    } else {
      unused += this->Contains(key) ? 1 : 0;
    }
  }
  EXPECT_LE(unused, 1);
}

TYPED_TEST(RetentionTest, ObjectsInUseStayPinnedAndAreRetainedAgain) {
  Ref<Blob> used = this->Put(1, 60);
  this->Put(2, 60);
  if (this->core_.Stats().bytes_pinned == 0) {
    // This policy has evicted the new one.
    this->retention().CheckInvariantsForTesting(1, 60);
    return;
  }
  EXPECT_EQ(this->core_.Stats().bytes_pinned, 60);
  EXPECT_EQ(this->core_.Get(1), used);
  EXPECT_EQ(this->core_.Stats().weak_hits, 1);
  EXPECT_EQ(this->retention().bytes(), 60);
}

TYPED_TEST(RetentionTest, ReportsEachRemovalOnce) {
  this->Put(1, 10);
  this->Put(1, 20);
  this->core_.store().Invalidate(1);
  this->Put(2, 30);
  {
    typename TestFixture::PendingRemovals removals;
    this->retention().Trim(0, removals);
  }
  using Notification = typename TestFixture::Notification;
  EXPECT_EQ(this->notified_, (std::vector<Notification>{{1, RemovalCause::kReplaced, 10},
                                                        {1, RemovalCause::kInvalidated, 20},
                                                        {2, RemovalCause::kBudget, 30}}));
}

TYPED_TEST(RetentionTest, ASmallerBudgetEvictsAtOnce) {
  for (int key = 0; key < 10; ++key) this->Put(key, 10);
  {
    typename TestFixture::PendingRemovals removals;
    this->retention().SetBudget(35, removals);
    EXPECT_EQ(this->retention().bytes(), 30);
  }
  EXPECT_EQ(this->core_.size(), 3);
  EXPECT_FALSE(this->retention().Fits(36));
}

TYPED_TEST(RetentionTest, AReservationKeepsBytesFree) {
  for (int key = 0; key < 10; ++key) this->Put(key, 10);
  {
    typename TestFixture::Core::Store::Reservation reservation(this->retention());
    reservation.Reserve(45);
    EXPECT_EQ(this->retention().bytes(), 50);
    this->Put(100, 10);
    EXPECT_EQ(this->retention().bytes(), 50);
  }
  for (int key = 200; key < 205; ++key) this->Put(key, 10);
  EXPECT_EQ(this->retention().bytes(), 100);
}

TYPED_TEST(RetentionTest, AReservationThatCanNotBeHadEvictsNothing) {
  for (int key = 0; key < 10; ++key) this->Put(key, 10);
  typename TestFixture::Core::Store::Reservation reservation(this->retention());
  reservation.Reserve(60);
  EXPECT_EQ(this->retention().bytes(), 40);
  for (const uint64_t bytes : {41, 60, 100, 101}) {
    typename TestFixture::Core::Store::Reservation other(this->retention());
    other.Reserve(bytes);
    EXPECT_EQ(this->retention().bytes(), 40);
  }
  typename TestFixture::Core::Store::Reservation other(this->retention());
  other.Reserve(40);
  EXPECT_EQ(this->retention().bytes(), 0);
}

TYPED_TEST(RetentionTest, AReservationEvictsTheTooHeavyAlone) {
  this->Put(99, 60);
  for (int hit = 0; hit < 20; ++hit) this->core_.Get(99);
  for (int key = 0; key < 10; ++key) this->Put(key, 4);
  typename TestFixture::Core::Store::Reservation reservation(this->retention());
  reservation.Reserve(50);
  EXPECT_EQ(this->retention().bytes(), 40);
}

// A load with an estimate that fails costs no more than the estimate, however often it fails.
TYPED_TEST(RetentionTest, FailingLoadsWithAnEstimateEvictForOneOfThem) {
  for (int key = 0; key < 10; ++key) this->Put(key, 10);
  for (int load = 0; load < 5; ++load) {
    const auto fail = [] { return absl::StatusOr<Blob>(absl::NotFoundError("")); };
    EXPECT_FALSE(
        this->core_.asks().GetOrLoad(100 + load, fail, LoadOptions{.weight_estimate = 30}).ok());
  }
  EXPECT_EQ(this->retention().bytes(), 70);
}

TYPED_TEST(RetentionTest, AHitEvictsUnusedObjectsOnly) {
  typename TestFixture::PendingRemovals removals;
  this->retention().SetBudget(40, removals);
  std::vector<Ref<Blob>> used;
  for (int key = 0; key < 5; ++key) used.push_back(this->Put(key, 10));
  // All are used, so one is not retained, and has no room.
  ASSERT_EQ(this->core_.Stats().bytes_pinned, 10u);
  int pinned = 0;
  for (this->core_.Get(0); this->core_.Stats().weak_hits == 0; this->core_.Get(pinned)) ++pinned;
  const uint64_t evictions = this->core_.Stats().evictions_budget;
  for (int hit = 0; hit < 20; ++hit) this->core_.Get(pinned);
  EXPECT_EQ(this->core_.Stats().weak_hits, 21u);
  EXPECT_EQ(this->core_.Stats().bytes_pinned, 10u);
  EXPECT_EQ(this->core_.Stats().evictions_budget, evictions);
  used[3].reset();
  for (int hit = 0; hit < 16; ++hit) this->core_.Get(pinned);
  EXPECT_EQ(this->core_.Stats().bytes_pinned, 0u);
  EXPECT_EQ(this->retention().bytes(), 40);
  EXPECT_FALSE(this->Contains(3));
}

TYPED_TEST(RetentionTest, AHitDoesNotRetainBesideAReservation) {
  const Ref<Blob> used = this->Put(1, 60);
  {
    typename TestFixture::PendingRemovals removals;
    this->retention().SetBudget(0, removals);
    this->retention().SetBudget(100, removals);
  }
  for (int key = 2; key < 6; ++key) this->Put(key, 10);
  typename TestFixture::Core::Store::Reservation reservation(this->retention());
  reservation.Reserve(50);
  EXPECT_EQ(this->core_.Get(1), used);
  EXPECT_EQ(this->core_.Stats().bytes_pinned, 60u);
  reservation.Release();
  EXPECT_EQ(this->core_.Get(1), used);
  EXPECT_EQ(this->core_.Stats().bytes_pinned, 0u);
}

TYPED_TEST(RetentionTest, AnObjectThatOutgrowsTheUnreservedBudgetEvictsNoOther) {
  const Ref<Blob> blob = this->Put(1, 10);
  for (int key = 2; key < 6; ++key) this->Put(key, 10);
  typename TestFixture::Core::Store::Reservation reservation(this->retention());
  reservation.Reserve(50);
  for (int hit = 0; hit < 16; ++hit) this->core_.Get(1);
  blob->size = 60;
  EXPECT_TRUE(this->core_.UpdateWeight(1));
  EXPECT_EQ(this->retention().bytes(), 40);
}

TYPED_TEST(RetentionTest, WeighsAnew) {
  Ref<Blob> blob = this->Put(1, 10);
  this->Put(2, 10);
  blob->size = 95;
  EXPECT_TRUE(this->core_.UpdateWeight(1));
  EXPECT_LE(this->retention().bytes(), 100);
  blob->size = 101;
  EXPECT_TRUE(this->core_.UpdateWeight(1));
  EXPECT_EQ(this->core_.Stats().bytes_pinned, 101);
}

TYPED_TEST(RetentionTest, RanksKeysByTheOrderOfEviction) {
  for (int key = 0; key < 5; ++key) this->Put(key, 10);
  const std::vector<int> coldest = this->core_.RankedKeys(5, /*hottest_first=*/false);
  std::vector<int> hottest = this->core_.RankedKeys(5, /*hottest_first=*/true);
  EXPECT_EQ(coldest.size(), 5);
  EXPECT_EQ(std::vector<int>(hottest.rbegin(), hottest.rend()), coldest);
  EXPECT_EQ(this->core_.RankedKeys(2, /*hottest_first=*/false),
            std::vector<int>(coldest.begin(), coldest.begin() + 2));
  {
    typename TestFixture::PendingRemovals removals;
    this->retention().Trim(30, removals);
  }
  EXPECT_FALSE(this->Contains(coldest[0]));
  EXPECT_FALSE(this->Contains(coldest[1]));
  EXPECT_TRUE(this->Contains(hottest[0]));
}

TYPED_TEST(RetentionTest, ASmallerBudgetEvictsTheTooHeavyAlone) {
  this->Put(99, 60);
  for (int hit = 0; hit < 20; ++hit) this->core_.Get(99);
  for (int key = 0; key < 10; ++key) this->Put(key, 4);
  typename TestFixture::PendingRemovals removals;
  this->retention().SetBudget(50, removals);
  EXPECT_EQ(this->retention().bytes(), 40);
}

TYPED_TEST(RetentionTest, ManyKeysAreRankedLikeFew) {
  for (int key = 0; key < 100; ++key) this->Put(key, 1);
  for (int key = 0; key < 100; key += 3) this->core_.Get(key);
  {
    typename TestFixture::PendingRemovals removals;
    this->retention().Trim(60, removals);  // accounts for the hits
  }
  const std::vector<int> all = this->core_.RankedKeys(1000, /*hottest_first=*/false);
  EXPECT_EQ(all.size(), 60);
  // There are several that may be called the coldest.
  const int coldest = this->core_.RankedKeys(1, /*hottest_first=*/false).front();
  EXPECT_LT(std::find(all.begin(), all.end(), coldest) - all.begin(), 34);
  std::vector<int> hottest = this->core_.RankedKeys(1000, /*hottest_first=*/true);
  EXPECT_EQ(hottest.size(), 60);
  EXPECT_TRUE(std::is_permutation(all.begin(), all.end(), hottest.begin()));
}

// Counts what the retention asks for under one lock.
class MeteredPolicy : public LazyGreedyDual {
 public:
  using LazyGreedyDual::LazyGreedyDual;

  Node* NextVictim(size_t& looks, bool spare_used, bool spare_newest) {
    most_looks = std::max(most_looks, looks);
    const size_t before = looks;
    Node* const victim = LazyGreedyDual::NextVictim(looks, spare_used, spare_newest);
    all_looks += before - looks;
    return victim;
  }
  Node* NextHeavierThan(uint64_t weight, size_t& looks) {
    most_looks = std::max(most_looks, looks);
    const size_t before = looks;
    Node* const victim = LazyGreedyDual::NextHeavierThan(weight, looks);
    all_looks += before - looks;
    return victim;
  }
  inline static thread_local size_t most_looks = 0;
  inline static thread_local size_t all_looks = 0;
};

class TurnsTest : public RetentionTest<MeteredPolicy> {
 protected:
  static constexpr int kObjects = 10'000;
  TurnsTest() : RetentionTest(kObjects) {
    for (int key = 0; key < kObjects; ++key) Put(key, 1);
    for (int key = 0; key < kObjects; ++key) core_.Get(key);
    MeteredPolicy::most_looks = 0;
    MeteredPolicy::all_looks = 0;
  }
  ~TurnsTest() override { EXPECT_LE(MeteredPolicy::most_looks, 256); }
};

TEST_F(TurnsTest, AnEvictionAfterAllObjectsWereHitLooksAtSome) {
  Put(kObjects, 1);
  EXPECT_GE(MeteredPolicy::all_looks, 10u * 256);
  EXPECT_LE(MeteredPolicy::all_looks, 20u * 256);
  EXPECT_EQ(retention().bytes(), kObjects);
  EXPECT_EQ(core_.Stats().evictions_budget, 1);
}
// However many there are, and whether or not their users had found them in the cache.
TEST_F(TurnsTest, ObjectsInUseMakeNoOperationSlow) {
  std::vector<Ref<Blob>> used;
  for (int key = 0; key < kObjects; ++key) used.push_back(core_.store().Peek(key));
  for (int key = kObjects; key < kObjects + 100; ++key) {
    MeteredPolicy::all_looks = 0;
    used.push_back(Put(key, 1));
    EXPECT_LE(MeteredPolicy::all_looks, 20u * 256) << key;
    EXPECT_EQ(retention().bytes(), kObjects);
  }
}
TEST_F(TurnsTest, AReservationEvictsManyObjects) {
  Core::Store::Reservation reservation(retention());
  reservation.Reserve(kObjects / 2);
  EXPECT_EQ(retention().bytes(), kObjects / 2);
  EXPECT_EQ(core_.Stats().evictions_budget, kObjects / 2);
}
TEST_F(TurnsTest, TrimAndSetBudget) {
  {
    PendingRemovals removals;
    retention().Trim(kObjects / 2, removals);
    EXPECT_EQ(retention().bytes(), kObjects / 2);
    retention().SetBudget(kObjects / 4, removals);
    EXPECT_EQ(retention().bytes(), kObjects / 4);
    retention().Trim(0, removals);
    EXPECT_EQ(retention().bytes(), 0);
  }
  EXPECT_EQ(core_.size(), 0);
}
TEST_F(TurnsTest, ABudgetBelowAllWeights) {
  PendingRemovals removals;
  retention().SetBudget(2 * kObjects, removals);
  for (int key = 0; key < kObjects; key += 2) Put(key, 2);
  retention().SetBudget(kObjects, removals);
  retention().SetBudget(1, removals);
  EXPECT_EQ(retention().bytes(), 1);
  retention().Trim(0, removals);
  EXPECT_EQ(retention().bytes(), 0);
}
// The thread that has set a smaller budget evicts for it, whatever others do meanwhile.
TEST_F(TurnsTest, OtherOperationsLeaveAnEvictionToItsThread) {
  std::atomic<bool> done{false};
  std::atomic<int> running{0};
  size_t most_for_one = 0;
  std::thread other([&] {
    do {
      MeteredPolicy::all_looks = 0;
      core_.UpdateWeight(0);
      most_for_one = std::max(most_for_one, MeteredPolicy::all_looks);
      running = 1;
    } while (!done);
  });
  while (running == 0) std::this_thread::yield();
  {
    PendingRemovals removals;
    retention().SetBudget(1, removals);
    EXPECT_LE(retention().bytes(), 1);
  }
  done = true;
  other.join();
  EXPECT_LE(most_for_one, 256);
}
// Objects are hit as fast as the eviction looks at them: it ends nevertheless.
TEST_F(TurnsTest, HitsDoNotKeepAnEvictionFromEnding) {
  std::atomic<bool> done{false};
  std::thread hitter([&] {
    while (!done) {
      for (int key = 0; key < kObjects; ++key) core_.Get(key);
    }
  });
  {
    PendingRemovals removals;
    retention().Trim(0, removals);
    // What the other thread just held may be retained again.
    EXPECT_LT(retention().bytes(), kObjects / 10);
  }
  done = true;
  hitter.join();
}

// As if all objects were hit whenever an eviction looks at them.
class AlwaysHitPolicy : public LazyGreedyDual {
 public:
  using LazyGreedyDual::LazyGreedyDual;

  Node* NextVictim(size_t& looks, bool spare_used, bool spare_newest) {
    if (!spare_used) return LazyGreedyDual::NextVictim(looks, spare_used, spare_newest);
    looks = 0;
    return nullptr;
  }
};

class AlwaysHitTest : public RetentionTest<AlwaysHitPolicy> {
 protected:
  static constexpr int kObjects = 2000;
  AlwaysHitTest() : RetentionTest(kObjects) {
    for (int key = 0; key < kObjects; ++key) Put(key, 1);
  }
};
TEST_F(AlwaysHitTest, TrimEvictsNevertheless) {
  PendingRemovals removals;
  retention().Trim(kObjects / 2, removals);
  EXPECT_EQ(retention().bytes(), kObjects / 2);
  retention().Trim(0, removals);
  EXPECT_EQ(retention().bytes(), 0);
}
TEST_F(AlwaysHitTest, ASmallerBudgetIsKeptNevertheless) {
  PendingRemovals removals;
  retention().SetBudget(kObjects / 2, removals);
  EXPECT_EQ(retention().bytes(), kObjects / 2);
}

// Calls a function under the budget's lock, for whoever asks for the epoch.
class PausingPolicy : public LazyGreedyDual {
 public:
  using LazyGreedyDual::LazyGreedyDual;

  uint64_t Epoch() const {
    if (under_lock) under_lock();
    return LazyGreedyDual::Epoch();
  }
  inline static std::function<void()> under_lock;
};

class AdmissionTest : public RetentionTest<PausingPolicy> {
 protected:
  // Takes no lock.
  bool IsVisible(int key) {
    const auto& shards = core_.store().shards();
    const auto location = shards.Locate(key);
    auto* const found =
        location.shard->table.FindEmbeddedFast(location.hash(), shards.Matching(key));
    if (found == nullptr) return false;
    const Ref<Blob> object = found->Adopt();
    return true;
  }
};
// A new object is in the table before it is admitted in place of its reservation. A hit that gets
// the lock in between does not admit it, which would evict others for it.
TEST_F(AdmissionTest, IsLeftToTheThreadThatEntersTheObject) {
  for (int key = 0; key < 5; ++key) Put(key, 10);
  for (int round = 0; round < 50; ++round) {
    std::atomic<bool> is_locked{false};
    PausingPolicy::under_lock = [&] {
      is_locked = true;
      while (!IsVisible(99)) std::this_thread::yield();
      // The other thread comes to the lock, and sleeps, so that this one gets it again first.
      for (int turn = 0; turn < 100; ++turn) std::this_thread::yield();
    };
    std::thread hitter;
    const auto loader = [&]() -> absl::StatusOr<Blob> {
      hitter = std::thread([&] {
        retention().Epoch();
        core_.Get(99);
      });
      while (!is_locked) std::this_thread::yield();
      return Blob{50};
    };
    EXPECT_TRUE(core_.asks().GetOrLoad(99, loader, LoadOptions{.weight_estimate = 50}).ok());
    hitter.join();
    PausingPolicy::under_lock = nullptr;
    ASSERT_EQ(core_.Stats().evictions_budget, 0) << round;
    EXPECT_EQ(retention().bytes(), 100);
    core_.store().Invalidate(99);
  }
}

}  // namespace
}  // namespace weakcache::internal
