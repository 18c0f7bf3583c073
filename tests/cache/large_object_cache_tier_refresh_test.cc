// SPDX-License-Identifier: Apache-2.0
// A LargeObjectCache with a second tier whose objects become due for a refresh in several processes
// at once: one of them loads the new object, and the others take it.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "tests/support/fake_tier.h"
#include "tests/support/task_queue.h"
#include "tests/support/tier_process.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/cache/second_tier.h"

namespace weakcache {
namespace {

using testing::FakeServer;
using testing::FakeTier;
using testing::RunInline;

using Process = testing::TierProcess;
using Cache = Process::Cache;
using Calls = std::vector<std::string>;

constexpr absl::Duration kDue = absl::Seconds(60);

void Refreshes(Cache::Options& options) { options.refresh_after_write = kDue; }

// Two processes have the object "old" under "a", which is due in both. No notice is delivered,
// unless the test does so.
class TierRefreshTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(first_.Load("a", "old"), "old");
    ASSERT_EQ(second_.Load("a", "other"), "old");
    ASSERT_EQ(loads(), 1);
    SetTime(kDue);
    ForgetCalls();
  }
  int loads() const { return first_.loads + second_.loads; }
  // Since the objects were loaded.
  void SetTime(absl::Duration time) {
    first_.now = second_.now = testing::kTierStart + time;
    time_ = time;
  }
  void Pass(absl::Duration time) { SetTime(time_ + time); }
  void ForgetCalls() {
    first_.tier->ClearLog();
    second_.tier->ClearLog();
  }
  // Has the second process, which may read "new", do that at each point of the name.
  void AtSecond(std::string_view name, const std::function<void()>& action) {
    second_.tier->hook = [name, action](std::string_view point, std::string_view) {
      if (point == name) action();
      return absl::OkStatus();
    };
  }

  std::shared_ptr<FakeServer> server_ = std::make_shared<FakeServer>();
  Process first_{server_, Refreshes};
  Process second_{server_, Refreshes};
  FakeTier other_{server_};  // of a third process
  absl::Duration time_ = absl::ZeroDuration();
};

TEST_F(TierRefreshTest, WhatAnotherHasRefreshedIsTaken) {
  EXPECT_EQ(first_.Load("a", "new"), "new");
  EXPECT_EQ(first_.tier->log(), (Calls{"TryLead a", "Get a", "PutByLease a"}));
  Pass(absl::Seconds(20));
  EXPECT_EQ(second_.Load("a", "newer"), "new");
  EXPECT_EQ(second_.tier->log(), (Calls{"TryLead a", "Get a", "EndLead a"}));
  EXPECT_EQ(second_.loads, 0);
  EXPECT_EQ(server_->leases(), 0u);
  // It is due when the object is: twenty seconds earlier than if it had been loaded here.
  ForgetCalls();
  Pass(absl::Seconds(39));
  EXPECT_EQ(second_.Load("a", "newer"), "new");
  EXPECT_EQ(second_.tier->log(), Calls{});
  Pass(absl::Seconds(1));
  EXPECT_EQ(second_.Load("a", "newer"), "newer");
  EXPECT_EQ(server_->BytesOf("a"), "newer");
  // The first one has loaded its object, and it is newer than that.
  EXPECT_EQ(first_.Load("a", "newest"), "newer");
  EXPECT_EQ(loads(), 3);
}

TEST_F(TierRefreshTest, ATaskTakesItToo) {
  Process by_executor(server_, [&](Cache::Options& options) {
    Refreshes(options);
    options.refresh_executor = RunInline;
  });
  Process by_request(server_, Refreshes);
  for (Process* const process : {&by_executor, &by_request}) {
    EXPECT_EQ(process->Load("a", "other"), "old");
    process->now += kDue;
  }
  EXPECT_EQ(first_.Load("a", "new"), "new");
  EXPECT_EQ(by_executor.Load("a", "other"), "old");
  std::string got;
  by_request.cache->GetOrLoadAsync(
      "a", [&] { return ++by_request.loads, std::string("other"); }, RunInline,
      [&](auto result) { got = **result; });
  EXPECT_EQ(got, "old");
  for (Process* const process : {&by_executor, &by_request}) {
    EXPECT_EQ(process->Present("a"), "new");
    EXPECT_EQ(process->loads, 0);
  }
}

TEST_F(TierRefreshTest, OneOfManyLoads) {
  std::vector<std::unique_ptr<Process>> others;
  for (int i = 0; i < 8; ++i) {
    others.push_back(std::make_unique<Process>(server_, Refreshes));
    EXPECT_EQ(others.back()->Load("a", "other"), "old");
    others.back()->now += kDue;
  }
  const auto load = [&] {
    // Meanwhile the others have it refreshed.
    for (const auto& other : others) EXPECT_EQ(other->Load("a", "other"), "old");
    return std::string("new");
  };
  EXPECT_EQ(*first_.cache->GetOrLoad("a", load).value(), "new");
  for (const auto& other : others) {
    EXPECT_EQ(other->Load("a", "other"), "old");  // the notice is late
    EXPECT_EQ(other->tier->Deliver(), 1u);
    EXPECT_EQ(other->Load("a", "other"), "new");
    EXPECT_EQ(other->loads, 0);
  }
}

TEST_F(TierRefreshTest, WhatIsLeftToAnotherIsTriedAgainASecondLater) {
  const TierLease lease = other_.TryLead("a")->lease;
  const CacheStats before = second_.cache->Stats();
  EXPECT_EQ(second_.Load("a", "new"), "old");
  EXPECT_EQ(second_.tier->log(), Calls{"TryLead a"});
  Pass(absl::Milliseconds(900));
  EXPECT_EQ(second_.Load("a", "new"), "old");
  EXPECT_EQ(second_.tier->log().size(), 1u);
  Pass(absl::Milliseconds(100));
  EXPECT_EQ(second_.Load("a", "new"), "old");
  EXPECT_EQ(second_.tier->log().size(), 2u);
  // That is neither a load nor a failure.
  const CacheStats after = second_.cache->Stats();
  EXPECT_EQ(after.loads_in_flight, 0u);
  EXPECT_EQ(after.load_failures, before.load_failures);
  EXPECT_EQ(after.loads, before.loads);
  EXPECT_EQ(after.tier_misses, before.tier_misses);
  other_.EndLead("a", lease);
  Pass(absl::Seconds(1));
  EXPECT_EQ(second_.Load("a", "new"), "new");
  EXPECT_EQ(server_->BytesOf("a"), "new");
}

TEST_F(TierRefreshTest, AProcessThatDiesHoldsOthersUpForItsLease) {
  ASSERT_TRUE(other_.TryLead("a")->lease.held());
  EXPECT_EQ(second_.Load("a", "new"), "old");
  server_->LetLeasesLast();
  Pass(absl::Seconds(1));
  EXPECT_EQ(second_.Load("a", "new"), "new");
  EXPECT_EQ(server_->BytesOf("a"), "new");
}

TEST_F(TierRefreshTest, AProcessThatNeverEndsHoldsOthersUpTenTimes) {
  const TierLease lease = other_.TryLead("a")->lease;
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(second_.Load("a", "new"), "old");
    Pass(absl::Seconds(1));
  }
  ForgetCalls();
  EXPECT_EQ(second_.Load("a", "new"), "new");
  EXPECT_EQ(second_.tier->log(), (Calls{"TryLead a", "Get a"}));
  EXPECT_EQ(second_.cache->Stats().load_failures, 0u);
  // Without the lease it is not written.
  EXPECT_EQ(server_->BytesOf("a"), "old");
  EXPECT_TRUE(other_.Put("a", *server_->Find("a"), lease).ok());
}

TEST_F(TierRefreshTest, TheTenTimesAreInARow) {
  const auto leave = [&] {
    const TierLease lease = other_.TryLead("a")->lease;
    EXPECT_EQ(second_.Load("a", "new"), "old");
    other_.EndLead("a", lease);
    Pass(absl::Seconds(1));
  };
  const std::vector<std::function<void()>> interruptions = {
      [&] {
        const auto load = []() -> absl::StatusOr<std::string> {
          return absl::UnavailableError("");
        };
        EXPECT_EQ(*second_.cache->GetOrLoad("a", load).value(), "old");
      },
      [&] {
        const auto load = []() -> std::string { throw std::runtime_error(""); };
        EXPECT_EQ(*second_.cache->GetOrLoad("a", load).value(), "old");
      },
      [&] {
        EXPECT_EQ(first_.Load("a", "new"), "new");
        AtSecond("Get done", [&] { EXPECT_TRUE(second_.cache->SetExpiry("a", absl::Hours(9))); });
        EXPECT_EQ(second_.Load("a", "newer"), "old");
        second_.tier->hook = nullptr;
      }};
  for (const auto& interrupt : interruptions) {
    for (int i = 0; i < 9; ++i) leave();
    interrupt();
    Pass(absl::Hours(1));
  }
  for (int i = 0; i < 10; ++i) leave();
  ASSERT_TRUE(other_.TryLead("a")->lease.held());
  EXPECT_EQ(second_.Load("a", "new"), "new");
}

TEST_F(TierRefreshTest, AShorterTimeIsLeftNoLonger) {
  const auto often = [](Cache::Options& options) {
    options.refresh_after_write = absl::Milliseconds(200);
  };
  Process process(server_, often);
  process.Load("b", "old");
  const TierLease lease = other_.TryLead("b")->lease;
  process.now += absl::Milliseconds(200);
  EXPECT_EQ(process.Load("b", "new"), "old");
  other_.EndLead("b", lease);
  process.now += absl::Milliseconds(200);
  EXPECT_EQ(process.Load("b", "new"), "new");
}

// Else such a tier would let nobody refresh.
TEST_F(TierRefreshTest, ATierThatGivesNoLeaseHoldsNobodyUp) {
  ASSERT_TRUE(other_.TryLead("a")->lease.held());
  second_.tier->tells_of_leases = false;
  EXPECT_EQ(second_.Load("a", "new"), "new");
  EXPECT_EQ(second_.tier->log(), (Calls{"TryLead a", "Get a"}));
  EXPECT_EQ(server_->BytesOf("a"), "old");
}

TEST_F(TierRefreshTest, ATierWithoutTryLeadGivesItsEntry) {
  second_.tier->has_try_lead = false;
  EXPECT_EQ(first_.Load("a", "new"), "new");
  EXPECT_EQ(second_.Load("a", "newer"), "new");
  EXPECT_EQ(second_.tier->log(), Calls{"Lead a"});
  // One that is due itself is no use, and is erased, as there is no lease to be had.
  Pass(kDue);
  ForgetCalls();
  EXPECT_EQ(second_.Load("a", "newer"), "newer");
  EXPECT_EQ(second_.tier->log(), (Calls{"Lead a", "Erase a"}));
  EXPECT_EQ(server_->BytesOf("a"), "(none)");
}

TEST_F(TierRefreshTest, ATierThatFailsIsDoneWithout) {
  std::string_view failing = "TryLead";
  second_.tier->hook = [&](std::string_view point, std::string_view) {
    return point == failing ? absl::UnavailableError("") : absl::OkStatus();
  };
  EXPECT_EQ(first_.Load("a", "new"), "new");
  EXPECT_EQ(second_.Load("a", "newer"), "newer");
  EXPECT_EQ(second_.tier->log(), Calls{"TryLead a"});
  // The others keep what they have: a refresh is no change.
  EXPECT_EQ(server_->BytesOf("a"), "new");
  EXPECT_FALSE(first_.tier->has_notices());
  failing = "Get";
  Pass(kDue);
  ForgetCalls();
  EXPECT_EQ(second_.Load("a", "newest"), "newest");
  EXPECT_EQ(second_.tier->log(), (Calls{"TryLead a", "Get a", "PutByLease a"}));
  EXPECT_EQ(server_->BytesOf("a"), "newest");
}

TEST_F(TierRefreshTest, AnEntryOfNoUseIsReplaced) {
  EXPECT_EQ(first_.Load("a", "new"), "new");
  TierEntry entry = *server_->Find("a");
  entry.schema = 8;
  server_->Plant("a", entry);
  EXPECT_EQ(second_.Load("a", "newer"), "newer");
  EXPECT_EQ(second_.tier->log(), (Calls{"TryLead a", "Get a", "PutByLease a"}));
}

TEST_F(TierRefreshTest, AnEntryThatCanNotBeDecodedIsReplaced) {
  EXPECT_EQ(first_.Load("a", "new"), "new");
  second_.codec->decode_status = absl::DataLossError("");
  EXPECT_EQ(second_.Load("a", "newer"), "newer");
  EXPECT_EQ(second_.tier->log(),
            (Calls{"TryLead a", "Get a", "EndLead a", "TryLead a", "PutByLease a"}));
  EXPECT_EQ(server_->BytesOf("a"), "newer");
}

TEST_F(TierRefreshTest, OrByWhoHasTheLeaseMeanwhile) {
  EXPECT_EQ(first_.Load("a", "new"), "new");
  second_.codec->decode_status = absl::DataLossError("");
  TierLease lease;
  second_.codec->on_decode = [&] { lease = other_.TryLead("a")->lease; };
  EXPECT_EQ(second_.Load("a", "newer"), "old");
  EXPECT_TRUE(lease.held());
  EXPECT_EQ(loads(), 2);
}

// Else the others would be left a second for a process that loads nothing.
TEST_F(TierRefreshTest, NobodyHoldsTheLeaseWhileItDecodes) {
  EXPECT_EQ(first_.Load("a", "new"), "new");
  size_t leases = 1;
  second_.codec->on_decode = [&] { leases = server_->leases(); };
  EXPECT_EQ(second_.Load("a", "newer"), "new");
  EXPECT_EQ(leases, 0u);
}

// Else the stale object's own entry would be taken for a new one, until this clock has caught up.
TEST_F(TierRefreshTest, AnEntryFromTheFutureIsNotNew) {
  TierEntry entry = *server_->Find("a");
  for (const absl::Duration ahead :
       {absl::Minutes(10), absl::Milliseconds(1001), absl::InfiniteDuration()}) {
    entry.written = second_.now + ahead;
    server_->Plant("a", entry);
    EXPECT_EQ(second_.Load("a", "new"), "new");
    EXPECT_EQ(server_->BytesOf("a"), "new");
    Pass(kDue);
  }
  // Clocks of two machines may differ a little.
  entry.written = second_.now + absl::Milliseconds(999);
  entry.bytes = TierBytes("ahead");
  server_->Plant("a", entry);
  EXPECT_EQ(second_.Load("a", "newer"), "ahead");
}

TEST_F(TierRefreshTest, OnlyWhoReadsTheTierMissesThere) {
  const auto misses = [&] { return second_.cache->Stats().tier_misses; };
  const uint64_t before = misses();
  EXPECT_EQ(second_.Load("a", "new"), "new");
  EXPECT_EQ(misses(), before + 1);
  const auto has_own_time = [](Cache::Options& options) {
    options.expire_after_write = absl::Hours(1);
  };
  Process process(server_, has_own_time);
  const auto load = [&] {
    return Loaded<std::string>{.object = std::to_string(++process.loads),
                               .refresh_after = absl::Seconds(5)};
  };
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(process.cache->GetOrLoad("b", load).ok());
    process.now += absl::Seconds(5);
  }
  EXPECT_EQ(process.loads, 3);
  EXPECT_EQ(process.tier->Count("Get b"), 1u);
  EXPECT_EQ(process.cache->Stats().tier_misses, 1u);
  Pass(kDue);
  second_.tier->hook = [](std::string_view point, std::string_view) {
    return point == "TryLead" ? absl::UnavailableError("") : absl::OkStatus();
  };
  EXPECT_EQ(second_.Load("a", "newer"), "newer");
  EXPECT_EQ(misses(), before + 1);
}

TEST_F(TierRefreshTest, AnExplicitRefreshLoadsWhateverTheTierHas) {
  EXPECT_EQ(first_.Load("a", "new"), "new");
  const auto refresh = [&](const std::string& object) {
    EXPECT_TRUE(second_.cache->Refresh("a", [&] { return ++second_.loads, object; }).ok());
    EXPECT_EQ(second_.Present("a"), object);
  };
  refresh("newer");
  EXPECT_EQ(second_.tier->log(), (Calls{"TryLead a", "PutByLease a"}));
  const TierLease lease = other_.TryLead("a")->lease;
  refresh("newest");
  EXPECT_EQ(server_->BytesOf("a"), "newer");
}

TEST_F(TierRefreshTest, EachDirectionCanBeSkipped) {
  EXPECT_EQ(first_.Load("a", "new"), "new");
  LoadOptions options;
  options.write_tier = false;
  EXPECT_EQ(second_.Load("a", "newer", options), "new");
  EXPECT_EQ(second_.tier->log(), Calls{"Get a"});
  Pass(kDue);
  EXPECT_EQ(first_.Load("a", "newer"), "newer");
  ForgetCalls();
  options = {};
  options.read_tier = false;
  EXPECT_EQ(second_.Load("a", "newest", options), "newest");
  EXPECT_EQ(second_.tier->log(), (Calls{"TryLead a", "PutByLease a"}));
}

TEST_F(TierRefreshTest, WhereEvictedObjectsAreWrittenNobodyLeads) {
  Process process(server_, [](Cache::Options& options) {
    Refreshes(options);
    options.tier_write = TierWrite::kOnEviction;
    options.refresh_executor = RunInline;
  });
  EXPECT_EQ(process.Load("a", "other"), "old");
  process.now += kDue;
  EXPECT_EQ(first_.Load("a", "new"), "new");
  process.tier->ClearLog();
  EXPECT_EQ(process.Load("a", "other"), "old");
  EXPECT_EQ(process.Present("a"), "new");
  EXPECT_EQ(process.loads, 0);
  EXPECT_EQ(process.tier->log(), Calls{"Get a"});
}

// Otherwise it would take its own object for a new one until that is due by the tier's time.
TEST_F(TierRefreshTest, AnObjectsOwnEntryIsNotNew) {
  for (const bool came_from_tier : {false, true}) {
    for (const double jitter : {0.0, 0.3, 0.9}) {
      const std::string key =
          std::to_string(jitter) + (came_from_tier ? " from there" : " from here");
      const auto spread = [&](Cache::Options& options) {
        Refreshes(options);
        options.expiry_jitter = jitter;
      };
      Process process(server_, spread);
      if (came_from_tier) Process(server_, spread).Load(key, "old");
      process.Load(key, "old");
      process.tier->ClearLog();
      const int loads_before = process.loads;
      while (process.tier->log().empty()) {
        process.now += absl::Milliseconds(100);
        process.Load(key, "new");
      }
      EXPECT_EQ(process.loads, loads_before + 1);
      EXPECT_EQ(process.Present(key), "new");
    }
  }
}

TEST_F(TierRefreshTest, NorThatOfAnObjectWithATimeOfItsOwn) {
  for (const absl::Duration due : {kDue, absl::InfiniteDuration()}) {
    Process process(server_, [&](Cache::Options& options) { options.refresh_after_write = due; });
    int loads = 0;
    const auto load = [&] {
      return Loaded<std::string>{.object = std::to_string(++loads),
                                 .refresh_after = absl::Seconds(5)};
    };
    for (int i = 1; i <= 3; ++i) {
      EXPECT_EQ(*process.cache->GetOrLoad("b", load).value(), std::to_string(i));
      process.now += absl::Seconds(5);
    }
    // What another one has put since is, if the tier knows when it will be due.
    TierEntry entry = *server_->Find("b");
    entry.written = process.now;
    entry.bytes = TierBytes("new");
    server_->Plant("b", entry);
    EXPECT_EQ(*process.cache->GetOrLoad("b", load).value(), due == kDue ? "new" : "4");
    process.cache->Clear();
  }
}

TEST_F(TierRefreshTest, WhatIsReadBeforeANoticeIsNotKept) {
  EXPECT_EQ(first_.Load("a", "new"), "new");
  AtSecond("Get done", [&] { second_.tier->Deliver(); });
  EXPECT_EQ(second_.Load("a", "newer"), "new");
  EXPECT_EQ(second_.Present("a"), "(none)");
  EXPECT_EQ(second_.loads, 0);
}

TEST_F(TierRefreshTest, NorWhatIsReadBeforeAChangeOfOnesOwn) {
  const std::vector<std::pair<std::function<void(Cache&)>, std::string>> changes = {
      {[](Cache& cache) { cache.Put("a", std::string("put")); }, "put"},
      {[](Cache& cache) { cache.Invalidate("a"); }, "(none)"},
      {[](Cache& cache) { cache.InvalidateIf([](const std::string&) { return true; }); }, "(none)"},
      {[](Cache& cache) { cache.Clear(); }, "(none)"}};
  for (const auto& [change, present] : changes) {
    first_.cache->Put("a", std::string("old"));
    second_.tier->Deliver();
    EXPECT_EQ(second_.Load("a", "other"), "old");
    Pass(kDue);
    EXPECT_EQ(first_.Load("a", "new"), "new");
    int reads = 0;
    AtSecond("Get done", [&, &make = change] {
      if (++reads == 1) make(*second_.cache);
    });
    second_.Load("a", "newer");
    EXPECT_EQ(second_.Present("a"), present);
    EXPECT_EQ(server_->BytesOf("a"), present);
    EXPECT_EQ(reads, 1);
    second_.tier->hook = nullptr;
    first_.tier->Deliver();
    second_.tier->Deliver();
  }
}

TEST_F(TierRefreshTest, WhatIsReadBeforeTheLifeIsSetIsNotKept) {
  const auto set_expiry = [&](absl::Duration life) {
    return [this, life] { EXPECT_TRUE(second_.cache->SetExpiry("a", life)); };
  };
  EXPECT_EQ(first_.Load("a", "new"), "new");
  AtSecond("Get done", set_expiry(absl::Seconds(5)));
  EXPECT_EQ(second_.Load("a", "newer"), "old");
  EXPECT_EQ(second_.Present("a"), "old");
  EXPECT_EQ(server_->BytesOf("a"), "(none)");
  Pass(absl::Seconds(5));
  EXPECT_EQ(second_.Present("a"), "(none)");

  second_.tier->hook = nullptr;
  EXPECT_EQ(second_.Load("a", "old"), "old");
  Pass(kDue);
  first_.cache->Put("a", std::string("new"));
  AtSecond("Get done", set_expiry(absl::ZeroDuration()));
  EXPECT_EQ(second_.Load("a", "newer"), "new");
  EXPECT_EQ(second_.Present("a"), "(none)");
}

// What was loaded has no former life.
TEST_F(TierRefreshTest, WhatIsLoadedWhileTheLifeIsSetIsNotLost) {
  const auto load = [&] {
    EXPECT_TRUE(second_.cache->SetExpiry("a", absl::Hours(9)));
    return std::string("new");
  };
  EXPECT_TRUE(second_.cache->Refresh("a", load).ok());
  EXPECT_NE(second_.Present("a"), "old");
  EXPECT_EQ(*second_.cache->GetOrLoad("a", [] { return std::string("newer"); }).value(), "newer");
  Pass(kDue);
  EXPECT_EQ(*second_.cache->GetOrLoad("a", load).value(), "new");
}

TEST_F(TierRefreshTest, ALifeThatWasSetBeforeTheRefreshDoesNotConcernIt) {
  EXPECT_TRUE(second_.cache->SetExpiry("a", absl::Hours(9)));
  EXPECT_EQ(first_.Load("a", "new"), "new");
  EXPECT_EQ(second_.Load("a", "newer"), "new");
  EXPECT_EQ(second_.loads, 0);
}

TEST_F(TierRefreshTest, ALifeIsSetThoughTheTierTakesLongerThanTheFormerOne) {
  EXPECT_TRUE(second_.cache->SetExpiry("a", absl::Seconds(5)));
  AtSecond("Erase", [&] { Pass(absl::Seconds(5)); });
  EXPECT_TRUE(second_.cache->SetExpiry("a", absl::Hours(1)));
  second_.tier->hook = nullptr;
  EXPECT_EQ(second_.Present("a"), "old");
}

TEST_F(TierRefreshTest, TheLifeIsSetOfWhatARefreshHasJustEntered) {
  std::function<void()> at_encoding;
  Process process(server_, [&](Cache::Options& options) {
    Refreshes(options);
    options.encode_key = [&](const std::string& key) {
      if (const auto action = std::exchange(at_encoding, nullptr)) action();
      return key;
    };
    options.decode_key = [](std::string_view key) { return std::string(key); };
  });
  EXPECT_EQ(process.Load("a", "other"), "old");
  process.now += kDue;
  EXPECT_EQ(first_.Load("a", "new"), "new");
  at_encoding = [&] { EXPECT_EQ(process.Load("a", "newer"), "new"); };
  EXPECT_TRUE(process.cache->SetExpiry("a", absl::ZeroDuration()));
  EXPECT_EQ(process.Present("a"), "(none)");
  EXPECT_EQ(process.loads, 0);
}

TEST_F(TierRefreshTest, WhatIsReadBeforeItsGroupIsInvalidatedIsNotKept) {
  constexpr uint32_t kGroup = 3;
  LoadOptions options;
  options.group = kGroup;
  EXPECT_EQ(first_.Load("a", "new", options), "new");
  AtSecond("Get done", [&] { second_.cache->InvalidateGroup(kGroup); });
  second_.Load("a", "newer");
  EXPECT_NE(second_.Present("a"), "new");
  EXPECT_EQ(server_->BytesOf("a"), "(none)");
}

TEST_F(TierRefreshTest, TheGroupOfAnEntryIsTaken) {
  LoadOptions options;
  options.group = 3;
  EXPECT_EQ(first_.Load("a", "new", options), "new");
  EXPECT_EQ(second_.Load("a", "newer"), "new");
  second_.cache->InvalidateGroup(3);
  EXPECT_EQ(second_.Present("a"), "(none)");
}

// With an executor a soft timeout bounds only how long the caller waits.
TEST_F(TierRefreshTest, ALoadBehindASoftTimeoutAsksTheTier) {
  const auto expires = [](Cache::Options& options) {
    options.expire_after_write = absl::Seconds(10);
    options.stale_if_error = absl::Hours(1);
    options.refresh_executor = RunInline;
  };
  Process first(server_, expires);
  Process second(server_, expires);
  LoadOptions options;
  options.soft_timeout = absl::Hours(1);
  EXPECT_EQ(first.Load("b", "old"), "old");
  EXPECT_EQ(second.Load("b", "other"), "old");
  first.now = second.now = first.now + absl::Seconds(15);
  first.tier->ClearLog();
  second.tier->ClearLog();
  EXPECT_EQ(first.Load("b", "new", options), "new");
  EXPECT_EQ(first.tier->log(), (Calls{"Get b", "TryLead b", "PutByLease b"}));
  EXPECT_EQ(second.Load("b", "newer", options), "new");
  EXPECT_EQ(second.tier->log(), Calls{"Get b"});
  EXPECT_EQ(second.loads, 0);
}

TEST_F(TierRefreshTest, ASoftTimeoutChangesNothingForAnObjectThatIsDue) {
  LoadOptions options;
  options.soft_timeout = absl::ZeroDuration();
  EXPECT_EQ(first_.Load("a", "new", options), "new");
  EXPECT_EQ(second_.Load("a", "newer", options), "new");
  EXPECT_EQ(loads(), 2);
}

}  // namespace
}  // namespace weakcache
