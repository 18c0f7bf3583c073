// SPDX-License-Identifier: Apache-2.0
// A LargeObjectCache with a second tier: what a load asks it, what is written to it, and what
// changes by this process and by others do to both.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/fake_tier.h"
#include "tests/support/task_queue.h"
#include "tests/support/tier_process.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/codec.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_completion.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/cache/second_tier.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::FakeServer;
using testing::FakeTier;
using testing::RunInline;
using testing::TaskQueue;
using testing::TextCodec;

using Cache = LargeObjectCache<std::string, std::string>;
using Calls = std::vector<std::string>;

using Process = testing::TierProcess;

const absl::Time kStart = testing::kTierStart;

class SecondTierTest : public ::testing::Test {
 protected:
  TierEntry Entry(const std::string& bytes) {
    TierEntry entry;
    entry.bytes = TierBytes(bytes);
    entry.schema = 7;
    entry.written = kStart;
    return entry;
  }

  // Lets one process load "a" while another one waits for that load. Calls `at` at each point of
  // the other one's tier.
  static void LoadWhileAnotherWaits(
      Process& first, Process& second,
      const std::function<void(std::string_view)>& at = [](std::string_view) {}) {
    std::atomic<bool> waits = false;
    second.tier->hook = [&](std::string_view point, std::string_view) {
      if (point == "Lead waits") waits = true;
      at(point);
      return absl::OkStatus();
    };
    std::thread other;
    const auto slow = [&] {
      other = std::thread([&] { EXPECT_EQ(second.Load("a", "two"), "one"); });
      while (!waits) std::this_thread::yield();
      return std::string("one");
    };
    EXPECT_EQ(*first.cache->GetOrLoad("a", slow).value(), "one");
    other.join();
    second.tier->hook = nullptr;
  }

  std::shared_ptr<FakeServer> server_ = std::make_shared<FakeServer>();
};

TEST_F(SecondTierTest, AMissAsksTheTierThenLoadsAndWrites) {
  Process process(server_);
  EXPECT_EQ(process.Load("a", "one"), "one");
  EXPECT_EQ(process.tier->log(), (Calls{"Get a", "Lead a", "PutByLease a"}));
  EXPECT_EQ(server_->BytesOf("a"), "one");
  EXPECT_EQ(server_->Find("a")->schema, 7u);
  EXPECT_EQ(server_->Find("a")->written, kStart);
  EXPECT_EQ(server_->Find("a")->expires, absl::InfiniteFuture());
  EXPECT_EQ(server_->leases(), 0u);
  // A hit does not ask it.
  EXPECT_EQ(process.Load("a", "two"), "one");
  EXPECT_EQ(process.tier->log().size(), 3u);
}

TEST_F(SecondTierTest, AnotherProcessGetsTheObject) {
  Process first(server_);
  Process second(server_);
  EXPECT_EQ(first.Load("a", "one"), "one");
  EXPECT_EQ(second.Load("a", "two"), "one");
  EXPECT_EQ(second.loads, 0);
  EXPECT_EQ(second.tier->log(), (Calls{"Get a"}));
  EXPECT_EQ(second.Present("a"), "one");
}

TEST_F(SecondTierTest, AnEntryThatComesBetweenGetAndLeadIsTheObject) {
  Process process(server_);
  process.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "Get done") server_->Plant("a", Entry("other"));
    return absl::OkStatus();
  };
  EXPECT_EQ(process.Load("a", "own"), "other");
  EXPECT_EQ(process.loads, 0);
  EXPECT_EQ(process.tier->log(), (Calls{"Get a", "Lead a"}));
}

TEST_F(SecondTierTest, OneProcessLoadsWhileOthersWait) {
  Process first(server_);
  Process second(server_);
  LoadWhileAnotherWaits(first, second);
  EXPECT_EQ(second.loads, 0);
}

// Whether the notice of the Put comes before the look that finds the object, or after it.
TEST_F(SecondTierTest, ThePutThatALoadWaitsForDoesNotCancelIt) {
  for (const std::string_view delivered_at : {"Lead wakes", "Lead done"}) {
    for (const bool tells_of_looks : {true, false}) {
      const auto server = std::make_shared<FakeServer>();
      Process first(server);
      Process second(server);
      second.tier->tells_of_looks = tells_of_looks;
      size_t notices = 0;
      LoadWhileAnotherWaits(first, second, [&](std::string_view point) {
        if (point == delivered_at) notices += second.tier->Deliver();
      });
      EXPECT_EQ(notices, 1u);
      EXPECT_EQ(second.loads, 0);
      EXPECT_EQ(second.Present("a"), "one");
      // What was read after the notice is not read again.
      const bool is_known = delivered_at == "Lead wakes" && tells_of_looks;
      EXPECT_EQ(second.tier->Count("Get a"), is_known ? 1u : 2u);
      second.cache->CheckInvariantsForTesting();
    }
  }
}

TEST_F(SecondTierTest, AStampedeLoadsOnceAndAllKeepTheObject) {
  constexpr size_t kProcesses = 8;
  std::atomic<size_t> waiting = 0;
  std::vector<std::unique_ptr<Process>> processes;
  for (size_t i = 0; i < kProcesses; ++i) {
    Process& process = *processes.emplace_back(std::make_unique<Process>(server_));
    // Half of them hear of the Put before they look again, and half afterwards.
    const std::string_view delivered_at = i % 2 == 0 ? "Lead wakes" : "Lead done";
    process.tier->hook = [&, delivered_at, waits = false](std::string_view point,
                                                          std::string_view) mutable {
      if (point == "Lead waits" && !std::exchange(waits, true)) ++waiting;
      if (point == delivered_at) process.tier->Deliver();
      return absl::OkStatus();
    };
  }
  std::atomic<int> loads = 0;
  const auto load = [&] {
    ++loads;
    while (waiting != kProcesses - 1) std::this_thread::yield();
    return std::string("one");
  };
  std::vector<std::thread> threads;
  for (const auto& process : processes) {
    threads.emplace_back([&] { EXPECT_EQ(*process->cache->GetOrLoad("a", load).value(), "one"); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(loads, 1);
  size_t present = 0;
  for (const auto& process : processes) {
    process->tier->Deliver();  // that of the process that has loaded: none
    present += process->Present("a") == "one" ? 1u : 0u;
    process->cache->CheckInvariantsForTesting();
  }
  EXPECT_EQ(present, kProcesses);
  EXPECT_EQ(server_->leases(), 0u);
}

TEST_F(SecondTierTest, AChangeBeforeTheLoaderDoesNotCancelTheLoad) {
  Process first(server_);
  Process second(server_);
  std::atomic<bool> waits = false;
  second.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "Lead waits") waits = true;
    if (point == "Lead done") {
      EXPECT_EQ(second.tier->Deliver(), 1u);
    }
    return absl::OkStatus();
  };
  std::thread other;
  const auto slow = [&] {
    other = std::thread([&] { EXPECT_EQ(second.Load("a", "new"), "new"); });
    while (!waits) std::this_thread::yield();
    first.cache->Invalidate("a");
    return std::string("old");
  };
  EXPECT_EQ(*first.cache->GetOrLoad("a", slow).value(), "old");
  other.join();
  EXPECT_EQ(second.loads, 1);
  EXPECT_EQ(second.Present("a"), "new");
  EXPECT_EQ(server_->BytesOf("a"), "new");
}

TEST_F(SecondTierTest, AnEntryThatChangesAtEachLookIsNotKept) {
  Process first(server_);
  Process second(server_);
  first.cache->Put("a", std::string("0"));
  second.tier->Deliver();
  int changes = 0;
  second.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "Get done") {
      first.cache->Put("a", std::to_string(++changes));
      EXPECT_EQ(second.tier->Deliver(), 1u);
    }
    return absl::OkStatus();
  };
  EXPECT_EQ(second.Load("a", "own"), "2");
  EXPECT_EQ(changes, 3);
  EXPECT_EQ(second.loads, 0);
  EXPECT_EQ(second.Present("a"), "(none)");
  second.tier->hook = nullptr;
  EXPECT_EQ(second.Load("a", "own"), "3");
  EXPECT_EQ(second.Present("a"), "3");
}

TEST_F(SecondTierTest, WhoJoinsALoadAfterANoticeGetsNothingOlder) {
  Process first(server_);
  Process second(server_);
  first.cache->Put("a", std::string("old"));
  second.tier->Deliver();
  std::string joined;
  second.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "Get done" && joined.empty()) {
      joined = "(nothing)";
      first.cache->Put("a", std::string("new"));
      EXPECT_EQ(second.tier->Deliver(), 1u);
      second.cache->GetOrLoadAsync(
          "a", [] { return std::string("own"); }, RunInline,
          [&](absl::StatusOr<Ref<std::string>> result) { joined = *result.value(); });
    }
    return absl::OkStatus();
  };
  EXPECT_EQ(second.Load("a", "own"), "new");
  EXPECT_EQ(joined, "new");
  EXPECT_EQ(second.Present("a"), "new");
}

TEST_F(SecondTierTest, AChangeOfOnesOwnCancelsALoadThatReadsFromTheTier) {
  Process process(server_);
  server_->Plant("a", Entry("old"));
  process.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "Get done") process.cache->Invalidate("a");
    return absl::OkStatus();
  };
  EXPECT_EQ(process.Load("a", "own"), "old");  // the load has begun before
  EXPECT_EQ(process.Present("a"), "(none)");
  EXPECT_EQ(process.tier->Count("Get a"), 1u);
}

TEST_F(SecondTierTest, ALoadWithoutALeaseIsNotWritten) {
  Process first(server_);
  Process second(server_);
  second.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "Lead waits") server_->LetLeasesLast();
    return absl::OkStatus();
  };
  const auto slow = [&] {
    EXPECT_EQ(second.Load("a", "two"), "two");
    return std::string("one");
  };
  EXPECT_EQ(*first.cache->GetOrLoad("a", slow).value(), "one");
  EXPECT_EQ(second.tier->log(), (Calls{"Get a", "Lead a"}));
  EXPECT_EQ(server_->BytesOf("a"), "one");
}

TEST_F(SecondTierTest, TheWaitForALeaseEndsWithTheCallers) {
  Process first(server_);
  Process second(server_);
  const auto slow = [&] {
    LoadOptions options;
    options.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(1);
    const auto load = [&] { return ++second.loads, std::string("two"); };
    EXPECT_EQ(second.cache->GetOrLoad("a", load, options).status().code(),
              absl::StatusCode::kDeadlineExceeded);
    std::stop_source source;
    second.tier->hook = [&](std::string_view point, std::string_view) {
      if (point == "Lead waits") source.request_stop();
      return absl::OkStatus();
    };
    LoadOptions stoppable;
    stoppable.stop_token = source.get_token();
    EXPECT_EQ(second.cache->GetOrLoad("a", load, stoppable).status().code(),
              absl::StatusCode::kCancelled);
    return std::string("one");
  };
  EXPECT_EQ(*first.cache->GetOrLoad("a", slow).value(), "one");
  EXPECT_EQ(second.loads, 0);
  second.cache->CheckInvariantsForTesting();
}

TEST_F(SecondTierTest, AnEntryOfAnotherSchemaIsReplaced) {
  for (const bool has_try_lead : {true, false}) {
    Process process(server_);
    process.tier->has_try_lead = has_try_lead;
    server_->Plant("a", Entry("old"));
    process.codec->of_schema = 8;
    EXPECT_EQ(process.Load("a", "new"), "new");
    EXPECT_EQ(server_->BytesOf("a"), "new");
    EXPECT_EQ(server_->Find("a")->schema, 8u);
    EXPECT_EQ(process.tier->Count("Erase a"), has_try_lead ? 0u : 1u);
    EXPECT_EQ(server_->leases(), 0u);
  }
}

TEST_F(SecondTierTest, AnEntryThatHasExpiredCountsAsMissing) {
  Process process(server_);
  TierEntry entry = Entry("old");
  entry.expires = kStart;
  server_->Plant("a", entry);
  EXPECT_EQ(process.Load("a", "new"), "new");
  EXPECT_EQ(server_->BytesOf("a"), "new");
}

TEST_F(SecondTierTest, AnEntryThatCannotBeDecodedCountsAsMissing) {
  Process process(server_);
  server_->Plant("a", Entry("old"));
  process.codec->on_decode = [] { throw std::runtime_error("not an object"); };
  EXPECT_EQ(process.Load("a", "new"), "new");
  EXPECT_EQ(server_->BytesOf("a"), "new");
}

TEST_F(SecondTierTest, AnEntryOfAnImpossibleGroupCountsAsMissing) {
  Process process(server_);
  TierEntry entry = Entry("old");
  entry.group = 65536;
  server_->Plant("a", entry);
  EXPECT_EQ(process.Load("a", "new"), "new");
}

TEST_F(SecondTierTest, AnObjectThatCannotBeEncodedIsNotWritten) {
  Process process(server_);
  process.codec->on_encode = [] { throw std::runtime_error("too odd"); };
  EXPECT_EQ(process.Load("a", "one"), "one");
  process.codec->on_encode = nullptr;
  process.codec->encode_status = absl::InternalError("too odd");
  EXPECT_EQ(process.Load("b", "two"), "two");
  EXPECT_EQ(process.Present("a"), "one");
  EXPECT_EQ(server_->size(), 0u);
  EXPECT_EQ(server_->leases(), 0u);
  // Put has to take the former object away.
  server_->Plant("a", Entry("old"));
  process.cache->Put("a", std::string("three"));
  EXPECT_EQ(server_->BytesOf("a"), "(none)");
  EXPECT_EQ(process.Present("a"), "three");
}

TEST_F(SecondTierTest, AnObjectsLifeGoesWithIt) {
  const auto expire = [](Cache::Options& options) {
    options.expire_after_write = absl::Seconds(10);
  };
  Process first(server_, expire);
  Process second(server_, expire);
  first.Load("a", "one");
  EXPECT_EQ(server_->Find("a")->expires, kStart + absl::Seconds(10));
  second.now = kStart + absl::Seconds(4);
  EXPECT_EQ(second.Load("a", "two"), "one");
  second.now = kStart + absl::Seconds(9);
  EXPECT_EQ(second.Present("a"), "one");
  second.now = kStart + absl::Seconds(10);
  EXPECT_EQ(second.Present("a"), "(none)");
  EXPECT_EQ(second.Load("a", "two"), "two");
  EXPECT_EQ(server_->Find("a")->expires, kStart + absl::Seconds(20));
}

TEST_F(SecondTierTest, AnObjectsOwnLifeAndGroupGoWithIt) {
  Process first(server_);
  Process second(server_);
  const auto load = [] {
    return Loaded<std::string>{.object = "one", .expires_after = absl::Seconds(3), .group = 5};
  };
  first.cache->GetOrLoad("a", load).value();
  EXPECT_EQ(server_->Find("a")->expires, kStart + absl::Seconds(3));
  EXPECT_EQ(server_->Find("a")->group, 5u);
  EXPECT_EQ(second.Load("a", "two"), "one");
  second.tier->ClearLog();
  second.cache->InvalidateGroup(5);
  EXPECT_EQ(second.tier->log(), (Calls{"EraseGroup 5"}));
  EXPECT_EQ(second.Present("a"), "(none)");
  EXPECT_EQ(first.tier->Deliver(), 1u);
  EXPECT_EQ(first.Present("a"), "(none)");
  // The group of the options.
  LoadOptions in_group;
  in_group.group = 6;
  first.Load("b", "three", in_group);
  EXPECT_EQ(server_->Find("b")->group, 6u);
}

TEST_F(SecondTierTest, AnObjectWithoutALifeIsNotWritten) {
  Process process(server_);
  const auto load = [] {
    return Loaded<std::string>{.object = "one", .expires_after = absl::ZeroDuration()};
  };
  EXPECT_EQ(*process.cache->GetOrLoad("a", load).value(), "one");
  EXPECT_EQ(server_->size(), 0u);
  EXPECT_EQ(server_->leases(), 0u);
}

TEST_F(SecondTierTest, AStaleObjectOfTheTierIsDueAtOnce) {
  Process first(server_);
  first.Load("a", "one");
  Process second(server_,
                 [](Cache::Options& options) { options.refresh_after_write = absl::Seconds(10); });
  second.now = kStart + absl::Seconds(15);
  EXPECT_EQ(second.Load("a", "two"), "one");
  EXPECT_EQ(second.Load("a", "two"), "two");  // this thread refreshes it
  EXPECT_EQ(server_->BytesOf("a"), "two");
}

TEST_F(SecondTierTest, AFailedLoadEndsItsLease) {
  Process process(server_);
  const auto fail = []() -> absl::StatusOr<std::string> { return absl::InternalError("no"); };
  EXPECT_FALSE(process.cache->GetOrLoad("a", fail).ok());
  const auto throws = []() -> std::string { throw std::runtime_error("no"); };
  EXPECT_THROW(static_cast<void>(process.cache->GetOrLoad("a", throws)), std::runtime_error);
  EXPECT_EQ(process.tier->Count("EndLead a"), 2u);
  EXPECT_EQ(process.tier->Count("PutByLease a"), 0u);
  EXPECT_EQ(server_->leases(), 0u);
}

TEST_F(SecondTierTest, ALoadThatIsInvalidatedIsNotWritten) {
  Process process(server_);
  const auto load = [&] {
    process.cache->Invalidate("a");
    return std::string("old");
  };
  EXPECT_EQ(*process.cache->GetOrLoad("a", load).value(), "old");
  EXPECT_EQ(process.tier->log(), (Calls{"Get a", "Lead a", "Erase a", "EndLead a"}));
  EXPECT_EQ(process.Present("a"), "(none)");
  EXPECT_EQ(server_->size(), 0u);
}

TEST_F(SecondTierTest, ALoadThatAnotherPutSupersedesIsNotWritten) {
  Process process(server_);
  const auto load = [&] {
    process.cache->Put("a", std::string("new"));
    return std::string("old");
  };
  EXPECT_EQ(*process.cache->GetOrLoad("a", load).value(), "new");
  EXPECT_EQ(server_->BytesOf("a"), "new");
  EXPECT_EQ(process.tier->Count("PutByLease a"), 0u);
}

TEST_F(SecondTierTest, ANoticeBetweenTheTiersAnswerAndTheEntryMakesTheLoadReadAgain) {
  Process first(server_);
  Process second(server_);
  first.Load("a", "old");
  second.tier->Deliver();
  second.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "Get done" && server_->size() != 0) {
      first.cache->Invalidate("a");
      EXPECT_EQ(second.tier->Deliver(), 1u);
    }
    return absl::OkStatus();
  };
  EXPECT_EQ(second.Load("a", "new"), "new");
  EXPECT_EQ(second.Present("a"), "new");
  EXPECT_EQ(second.tier->Count("Get a"), 2u);
}

TEST_F(SecondTierTest, ANoticeDuringTheLoaderCancelsTheLoad) {
  Process first(server_);
  Process second(server_);
  const auto load = [&] {
    first.cache->Invalidate("a");
    EXPECT_EQ(second.tier->Deliver(), 1u);
    return std::string("old");
  };
  EXPECT_EQ(*second.cache->GetOrLoad("a", load).value(), "old");
  EXPECT_EQ(second.Present("a"), "(none)");
  EXPECT_EQ(server_->size(), 0u);
}

// Not because its lease has gone.
TEST_F(SecondTierTest, ANoticeDuringALoaderWithoutALeaseCancelsTheLoad) {
  Process first(server_);
  Process second(server_);
  LoadOptions options;
  options.write_tier = false;
  const auto load = [&] {
    first.cache->Invalidate("a");
    EXPECT_EQ(second.tier->Deliver(), 1u);
    return std::string("old");
  };
  EXPECT_EQ(*second.cache->GetOrLoad("a", load, options).value(), "old");
  EXPECT_EQ(second.Present("a"), "(none)");
}

TEST_F(SecondTierTest, AnObjectWhoseLeaseIsGoneIsDropped) {
  Process first(server_);
  Process second(server_);
  second.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "PutByLease") first.cache->Invalidate("a");
    return absl::OkStatus();
  };
  EXPECT_EQ(second.Load("a", "old"), "old");
  EXPECT_EQ(second.Present("a"), "(none)");  // before the notice
  EXPECT_EQ(server_->size(), 0u);
}

// By another process, and by this one.
TEST_F(SecondTierTest, AnErasureOfAGroupLeavesLoadsOfOthersAlone) {
  for (const bool is_cached : {false, true}) {
    for (const std::optional<uint32_t> group : {std::optional<uint32_t>(), {4}, {3}}) {
      const auto server = std::make_shared<FakeServer>();
      Process first(server);
      Process second(server);
      LoadOptions options;
      options.group = group;
      const auto load = [&] {
        (is_cached ? second : first).cache->InvalidateGroup(3);
        return std::string("one");
      };
      EXPECT_EQ(*second.cache->GetOrLoad("a", load, options).value(), "one");
      const std::string left = group == 3u ? "(none)" : "one";
      EXPECT_EQ(second.Present("a"), left);  // before the notice
      EXPECT_EQ(server->BytesOf("a"), left);
      second.tier->Deliver();
      EXPECT_EQ(second.Present("a"), left);
      EXPECT_EQ(server->leases(), 0u);
    }
  }
}

TEST_F(SecondTierTest, AGroupThatTheLoaderNamesIsErasedAllTheSame) {
  Process first(server_);
  Process second(server_);
  const auto load = [&] {
    first.cache->InvalidateGroup(3);
    return Loaded<std::string>{.object = "old", .group = 3};
  };
  EXPECT_EQ(*second.cache->GetOrLoad("a", load).value(), "old");
  EXPECT_EQ(second.Present("a"), "(none)");  // before the notice
  EXPECT_EQ(server_->size(), 0u);
}

TEST_F(SecondTierTest, OnlyTheObjectWhoseLeaseIsGoneIsDropped) {
  Process process(server_);
  bool has_put = false;
  process.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "PutByLease" && !std::exchange(has_put, true)) {
      process.cache->Put("a", std::string("new"));
    }
    return absl::OkStatus();
  };
  EXPECT_EQ(process.Load("a", "old"), "old");
  EXPECT_EQ(process.Present("a"), "new");
  EXPECT_EQ(server_->BytesOf("a"), "new");
}

TEST_F(SecondTierTest, PutReachesBothTiersAndOthers) {
  Process first(server_);
  Process second(server_);
  second.Load("a", "old");
  first.cache->Put("a", std::string("new"));
  EXPECT_EQ(first.tier->log(), (Calls{"Put a"}));
  EXPECT_EQ(server_->BytesOf("a"), "new");
  second.tier->Deliver();
  EXPECT_EQ(second.Load("a", "older"), "new");
  first.cache->PutIfAbsent("a", std::string("other"));
  EXPECT_EQ(server_->BytesOf("a"), "new");
  EXPECT_EQ(first.tier->Count("Put a"), 1u);
  EXPECT_TRUE(first.cache->PutIfAbsent("b", std::string("two")).second);
  EXPECT_EQ(server_->BytesOf("b"), "two");
  first.cache->PutAll(std::vector<std::pair<std::string, std::string>>{{"c", "3"}, {"d", "4"}});
  EXPECT_EQ(server_->BytesOf("d"), "4");
  first.cache->Put("e",
                   Loaded<std::string>{.object = "5", .expires_after = absl::Hours(1), .group = 9});
  EXPECT_EQ(server_->Find("e")->expires, kStart + absl::Hours(1));
  EXPECT_EQ(server_->Find("e")->group, 9u);
}

TEST_F(SecondTierTest, InvalidateReachesTheTier) {
  Process process(server_);
  const Ref<std::string> one = process.cache->Put("a", std::string("one"));
  EXPECT_TRUE(process.cache->Invalidate(std::string_view("a")));
  EXPECT_EQ(server_->size(), 0u);
  EXPECT_EQ(process.Load("a", "two"), "two");
  // What the tier has is its successor.
  EXPECT_FALSE(process.cache->Invalidate("a", one));
  EXPECT_EQ(server_->BytesOf("a"), "two");
  const Ref<std::string> two = process.cache->Peek("a");
  EXPECT_TRUE(process.cache->Invalidate("a", two));
  EXPECT_EQ(server_->size(), 0u);
  // What the tier has may be the object.
  server_->Plant("a", Entry("two"));
  EXPECT_FALSE(process.cache->Invalidate("a", two));
  EXPECT_EQ(server_->size(), 0u);
  process.cache->Put("b", std::string("three"));
  EXPECT_EQ(process.cache->InvalidateAll(std::vector<std::string>{"a", "b"}), 1u);
  EXPECT_EQ(server_->size(), 0u);
}

TEST_F(SecondTierTest, ConditionsAndClearReachTheTier) {
  Process process(server_);
  for (const char* const key : {"a", "b", "c"}) process.Load(key, key);
  server_->Plant("b2", Entry("only there"));
  EXPECT_EQ(process.cache->InvalidateIf([](const std::string& key) { return key[0] == 'b'; }), 1u);
  EXPECT_EQ(server_->BytesOf("b"), "(none)");
  EXPECT_EQ(server_->BytesOf("b2"), "(none)");
  EXPECT_EQ(server_->BytesOf("a"), "a");
  EXPECT_EQ(process.cache->InvalidateIf(
                [](const std::string&, const Ref<std::string>& object) { return *object == "a"; }),
            1u);
  EXPECT_EQ(server_->size(), 0u);
  process.Load("a", "a");
  process.cache->Clear();
  EXPECT_EQ(server_->size(), 0u);
  EXPECT_EQ(process.cache->size(), 0u);
}

TEST_F(SecondTierTest, AConditionRevokesTheLeaseOfALoadUnderWayElsewhere) {
  Process first(server_);
  Process second(server_);
  const auto load = [&] {
    first.cache->InvalidateIf([](const std::string& key) { return key == "a"; });
    return std::string("old");
  };
  EXPECT_EQ(*second.cache->GetOrLoad("a", load).value(), "old");
  EXPECT_EQ(server_->size(), 0u);
  EXPECT_EQ(second.Present("a"), "(none)");
}

// By another process, and by this one.
TEST_F(SecondTierTest, AConditionLeavesLoadsOfOtherKeysAlone) {
  for (const bool is_cached : {false, true}) {
    const auto server = std::make_shared<FakeServer>();
    Process first(server);
    Process second(server);
    const auto load = [&] {
      (is_cached ? second : first).cache->InvalidateIf([](const std::string& key) {
        return key == "b";
      });
      return std::string("one");
    };
    EXPECT_EQ(*second.cache->GetOrLoad("a", load).value(), "one");
    EXPECT_EQ(server->BytesOf("a"), "one");
    second.tier->Deliver();
    EXPECT_EQ(second.Present("a"), "one");
    EXPECT_EQ(server->leases(), 0u);
  }
}

TEST_F(SecondTierTest, AConditionWithoutAListOfKeysErasesAll) {
  Process process(server_);
  process.Load("a", "a");
  process.tier->hook = [](std::string_view point, std::string_view) {
    return point == "ForEachKey" ? absl::UnavailableError("") : absl::OkStatus();
  };
  process.cache->InvalidateIf([](const std::string&) { return false; });
  EXPECT_EQ(process.Present("a"), "a");
  EXPECT_EQ(server_->size(), 0u);
}

TEST_F(SecondTierTest, SetExpiryErasesTheEntry) {
  Process process(server_);
  process.Load("a", "one");
  EXPECT_TRUE(process.cache->SetExpiry("a", absl::ZeroDuration()));
  EXPECT_EQ(process.Load("a", "two"), "two");
}

TEST_F(SecondTierTest, NoticesChangeTheCacheAlone) {
  Process first(server_);
  Process second(server_);
  for (const char* const key : {"a", "b"}) second.Load(key, key);
  second.tier->ClearLog();
  first.cache->Invalidate("a");
  second.tier->Deliver();
  EXPECT_EQ(second.Present("a"), "(none)");
  EXPECT_EQ(second.Present("b"), "b");
  first.cache->Clear();
  second.tier->Deliver();
  EXPECT_EQ(second.Present("b"), "(none)");
  first.cache->InvalidateIf([](const std::string&) { return true; });
  first.cache->InvalidateGroup(77);  // which nobody has
  second.tier->Deliver();
  EXPECT_EQ(second.tier->log(), Calls{});
}

TEST_F(SecondTierTest, ALostConnectionDropsWhatMayBeOld) {
  Process drops(server_);
  Process keeps(server_, [](Cache::Options& options) {
    options.at_tier_disconnect = AtTierDisconnect::kKeep;
  });
  for (Process* const process : {&drops, &keeps}) {
    process->cache->Put("a", std::string("a"));
    process->tier->Deliver();
    process->cache->Put("a", std::string("a"));
    process->tier->Disconnect();
    process->tier->Deliver();
  }
  EXPECT_EQ(drops.Present("a"), "(none)");
  EXPECT_EQ(keeps.Present("a"), "a");
  // What comes while it is lost may be old by the time that it is back.
  drops.cache->Put("b", std::string("b"));
  drops.tier->ClearLog();
  drops.tier->Connect();
  drops.tier->Deliver();
  EXPECT_EQ(drops.Present("b"), "(none)");
  EXPECT_EQ(drops.tier->log(), Calls{});
}

TEST_F(SecondTierTest, ATierThatFailsIsDoneWithout) {
  Process process(server_);
  process.tier->hook = [](std::string_view, std::string_view) {
    return absl::UnavailableError("the tier is away");
  };
  EXPECT_EQ(process.Load("a", "one"), "one");
  EXPECT_EQ(process.tier->log(), (Calls{"Get a"}));
  process.cache->Put("b", std::string("two"));
  process.cache->Invalidate("a");
  process.cache->InvalidateGroup(1);
  process.cache->Clear();
  EXPECT_EQ(process.Load("a", "three"), "three");
}

TEST_F(SecondTierTest, ATierThatFailsInLeadIsDoneWithout) {
  Process process(server_);
  process.tier->hook = [](std::string_view point, std::string_view) {
    return point == "Lead" ? absl::UnavailableError("") : absl::OkStatus();
  };
  EXPECT_EQ(process.Load("a", "one"), "one");
  EXPECT_EQ(process.tier->log(), (Calls{"Get a", "Lead a"}));
}

TEST_F(SecondTierTest, WhileAChangeIsUnderWayTheTierIsNotAsked) {
  Process process(server_);
  process.Load("a", "old");
  process.tier->defers_async = true;
  process.cache->Invalidate("a");
  EXPECT_EQ(process.Load("a", "new"), "new");
  EXPECT_EQ(process.tier->Count("Get a"), 1u);
  process.tier->RunAsync();
  process.cache->Invalidate("a");
  process.tier->RunAsync();
  EXPECT_EQ(process.Load("a", "newer"), "newer");
  process.tier->RunAsync();
  EXPECT_EQ(server_->BytesOf("a"), "newer");
}

TEST_F(SecondTierTest, ChangesThatOverlapEndWithAnErase) {
  for (const bool latest_first : {true, false}) {
    Process process(server_);
    process.tier->defers_async = true;
    process.cache->Invalidate("a");
    process.cache->Invalidate("a");
    process.cache->Put("a", std::string("two"));
    EXPECT_EQ(server_->BytesOf("a"), "two");
    process.tier->RunAsync(latest_first);
    EXPECT_EQ(server_->BytesOf("a"), "(none)");
    EXPECT_EQ(process.Present("a"), "two");
    EXPECT_EQ(process.tier->Count("Erase a"), 3u);
    process.cache->Put("a", std::string("three"));
    EXPECT_EQ(server_->BytesOf("a"), "three");
  }
}

TEST_F(SecondTierTest, WhatIsErasedIsNotPutLater) {
  Process process(server_);
  const std::vector<std::function<void()>> erasures = {
      [&] { process.cache->InvalidateGroup(3); }, [&] { process.cache->Clear(); },
      [&] { process.cache->InvalidateIf([](const std::string&) { return true; }); }};
  for (const auto& erase : erasures) {
    // As on another thread, before the tier has the object.
    bool has_erased = false;
    process.tier->hook = [&](std::string_view point, std::string_view) {
      if (point == "Put" && !std::exchange(has_erased, true)) erase();
      return absl::OkStatus();
    };
    process.cache->Put("a", Loaded<std::string>{.object = "one", .group = 3});
    EXPECT_EQ(server_->size(), 0u);
    EXPECT_EQ(process.Present("a"), "(none)");
  }
}

TEST_F(SecondTierTest, AChangeThatHasFailedIsMadeByTheNextLoad) {
  Process process(server_);
  process.Load("a", "old");
  bool is_away = true;
  process.tier->hook = [&](std::string_view point, std::string_view) {
    return is_away && point == "Erase" ? absl::UnavailableError("") : absl::OkStatus();
  };
  process.cache->Invalidate("a");
  EXPECT_EQ(server_->BytesOf("a"), "old");
  EXPECT_EQ(process.Load("a", "new"), "new");
  EXPECT_EQ(process.tier->Count("Get a"), 1u);
  process.cache->Invalidate("a");
  is_away = false;
  EXPECT_EQ(process.Load("a", "newer"), "newer");
  EXPECT_EQ(server_->BytesOf("a"), "newer");
}

TEST_F(SecondTierTest, APutThatHasFailedErases) {
  Process process(server_);
  server_->Plant("a", Entry("old"));
  process.tier->hook = [&](std::string_view point, std::string_view) {
    return point == "Put" ? absl::ResourceExhaustedError("too large") : absl::OkStatus();
  };
  process.cache->Put("a", std::string("new"));
  EXPECT_EQ(server_->BytesOf("a"), "(none)");
  EXPECT_EQ(process.Present("a"), "new");
}

TEST_F(SecondTierTest, AGroupThatCouldNotBeErasedIsNotUsed) {
  Process process(server_);
  process.cache->Put("a", Loaded<std::string>{.object = "old", .group = 3});
  bool is_away = true;
  process.tier->hook = [&](std::string_view point, std::string_view) {
    return is_away && point == "EraseGroup" ? absl::UnavailableError("") : absl::OkStatus();
  };
  process.cache->InvalidateGroup(3);
  EXPECT_EQ(process.Load("a", "new"), "new");
  is_away = false;
  process.cache->InvalidateGroup(3);
  process.cache->Put("a", Loaded<std::string>{.object = "newer", .group = 3});
  process.cache->SetBudget(0);
  EXPECT_EQ(process.Load("a", "newest"), "newer");
}

TEST_F(SecondTierTest, ATierThatCouldNotBeClearedIsNotAsked) {
  Process process(server_);
  process.Load("a", "old");
  bool is_away = true;
  process.tier->hook = [&](std::string_view point, std::string_view) {
    return is_away && point == "EraseAll" ? absl::UnavailableError("") : absl::OkStatus();
  };
  process.cache->Clear();
  process.tier->ClearLog();
  EXPECT_EQ(process.Load("a", "new"), "new");
  EXPECT_EQ(process.tier->log(), Calls{});
  is_away = false;
  process.cache->Clear();
  EXPECT_EQ(process.Load("a", "newer"), "newer");
  EXPECT_EQ(server_->BytesOf("a"), "newer");
}

TEST_F(SecondTierTest, EachDirectionCanBeSkipped) {
  Process process(server_);
  server_->Plant("a", Entry("old"));
  LoadOptions options;
  options.read_tier = false;
  EXPECT_EQ(process.Load("a", "new", options), "new");
  EXPECT_EQ(process.tier->log(), (Calls{"TryLead a", "PutByLease a"}));
  EXPECT_EQ(server_->BytesOf("a"), "new");
  process.tier->ClearLog();
  options.write_tier = false;
  EXPECT_EQ(process.Load("b", "two", options), "two");
  EXPECT_EQ(process.tier->log(), Calls{});
  options.read_tier = true;
  EXPECT_EQ(process.Load("c", "three", options), "three");
  EXPECT_EQ(process.tier->log(), (Calls{"Get c"}));
}

TEST_F(SecondTierTest, ARefreshIsWrittenOnly) {
  Process process(server_);
  process.Load("a", "old");
  process.tier->ClearLog();
  EXPECT_TRUE(process.cache->Refresh("a", [] { return std::string("new"); }).ok());
  EXPECT_EQ(process.tier->log(), (Calls{"TryLead a", "PutByLease a"}));
  EXPECT_EQ(server_->BytesOf("a"), "new");
  EXPECT_EQ(process.Present("a"), "new");
  // A refresh of nothing does not read it either.
  process.cache->Invalidate("a");
  server_->Plant("a", Entry("old"));
  EXPECT_TRUE(process.cache->Refresh("a", [] { return std::string("newer"); }).ok());
  EXPECT_EQ(process.Present("a"), "newer");
  EXPECT_EQ(server_->BytesOf("a"), "newer");
}

TEST_F(SecondTierTest, ARefreshErasesWhereItHasNoLease) {
  Process process(server_);
  process.tier->has_try_lead = false;
  process.Load("a", "old");
  EXPECT_TRUE(process.cache->Refresh("a", [] { return std::string("new"); }).ok());
  EXPECT_EQ(server_->BytesOf("a"), "(none)");
  // If it fails, nothing happens.
  process.Load("b", "old");
  const auto fail = []() -> absl::StatusOr<std::string> { return absl::InternalError("no"); };
  EXPECT_FALSE(process.cache->Refresh("b", fail).ok());
  EXPECT_EQ(server_->BytesOf("b"), "old");
}

TEST_F(SecondTierTest, TheLoadingThreadWritesWhateverTheExecutorDoes) {
  TaskQueue queue;
  Process process(server_,
                  [&](Cache::Options& options) { options.refresh_executor = queue.executor(); });
  EXPECT_EQ(process.Load("a", "one"), "one");
  EXPECT_EQ(server_->BytesOf("a"), "one");
  EXPECT_EQ(server_->leases(), 0u);
  process.cache->Put("b", std::string("two"));
  EXPECT_EQ(server_->BytesOf("b"), "two");
  EXPECT_EQ(queue.posted, 0);
}

// Counts the waits for leases, and lets the leases end, as the test would hang otherwise.
std::function<absl::Status(std::string_view, std::string_view)> CountWaits(FakeServer& server,
                                                                           int& waits) {
  return [&](std::string_view point, std::string_view) {
    if (point == "Lead waits") {
      ++waits;
      server.LetLeasesLast();
    }
    return absl::OkStatus();
  };
}

// If each process's only thread came to its write after a load that waits for the other's, both
// would stand still.
TEST_F(SecondTierTest, ProcessesThatLoadInOppositeOrdersDoNotWaitForEachOther) {
  TaskQueue queues[2];
  Process first(server_,
                [&](Cache::Options& options) { options.refresh_executor = queues[0].executor(); });
  Process second(server_,
                 [&](Cache::Options& options) { options.refresh_executor = queues[1].executor(); });
  int waits = 0;
  first.tier->hook = second.tier->hook = CountWaits(*server_, waits);
  const auto load = [](Process& process) {
    return [&] { return ++process.loads, std::string("x"); };
  };
  for (const char* const key : {"a", "b"}) {
    first.cache->GetOrLoadAsync(key, load(first), queues[0].executor(), [](auto) {});
  }
  for (const char* const key : {"b", "a"}) {
    second.cache->GetOrLoadAsync(key, load(second), queues[1].executor(), [](auto) {});
  }
  for (int i = 0; i < 2; ++i) {
    queues[0].RunOne();
    queues[1].RunOne();
  }
  EXPECT_EQ(waits, 0);
  EXPECT_EQ(first.loads, 1);
  EXPECT_EQ(second.loads, 1);
  queues[0].RunAll();
  queues[1].RunAll();
}

// Else it would wait for its own thread.
TEST_F(SecondTierTest, AfterAFailureACallbackMayLoadTheKey) {
  Process process(server_);
  int waits = 0;
  process.tier->hook = CountWaits(*server_, waits);
  int retries = 0;
  const auto retry = [&](const absl::StatusOr<Ref<std::string>>& object) {
    EXPECT_FALSE(object.ok());
    EXPECT_EQ(process.Load("a", "second"), "second");
    process.cache->Invalidate("a");
    ++retries;
  };
  const auto fail = []() -> absl::StatusOr<std::string> { return absl::InternalError("no"); };
  const auto throws = []() -> absl::StatusOr<std::string> { throw std::runtime_error("no"); };
  process.cache->GetOrLoadAsync("a", fail, RunInline, retry);
  const auto drop = [](const LoadCompletion<std::string>&) {};
  process.cache->GetOrLoadAsync("a", drop, RunInline, retry);
  std::optional<LoadCompletion<std::string>> completion;
  const auto begin = [&](LoadCompletion<std::string> given) { completion = std::move(given); };
  process.cache->GetOrLoadAsync("a", begin, RunInline, retry);
  completion.reset();
  // With an ask that joins the load of a thread.
  const auto joined = [&](const auto& loader) {
    return [&process, &fail, &retry, loader] {
      process.cache->GetOrLoadAsync("a", fail, RunInline, retry);
      return loader();
    };
  };
  EXPECT_FALSE(process.cache->GetOrLoad("a", joined(fail)).ok());
  EXPECT_THROW(static_cast<void>(process.cache->GetOrLoad("a", joined(throws))),
               std::runtime_error);
  process.cache->Prefetch(
      {"a"}, [&](const std::string&) { return joined(fail)(); }, RunInline);
  const auto all = [&](const Calls&) -> absl::StatusOr<Calls> { return joined(fail)().status(); };
  EXPECT_FALSE(process.cache->GetAll(Calls{"a"}, all)[0].ok());
  EXPECT_EQ(retries, 7);
  EXPECT_EQ(waits, 0);
  EXPECT_EQ(server_->leases(), 0u);
}

// Else other processes would wait for it.
TEST_F(SecondTierTest, UserCodeAfterALoadRunsWithoutALease) {
  int results = 0;
  int removals = 0;
  Process process(server_, [&](Cache::Options& options) {
    options.budget_bytes = 1;
    options.removal_listener = [&](auto&&...) {
      EXPECT_EQ(server_->leases(), 0u);
      ++removals;
    };
  });
  const auto receive = [&](const absl::StatusOr<Ref<std::string>>& object) {
    EXPECT_EQ(server_->BytesOf(*object.value()), *object.value());
    EXPECT_EQ(server_->leases(), 0u);
    ++results;
  };
  process.cache->GetOrLoadAsync(
      "a", [] { return std::string("a"); }, RunInline, receive);
  const auto complete = [](LoadCompletion<std::string> done) { done(std::string("b")); };
  process.cache->GetOrLoadAsync("b", complete, RunInline, receive);
  const auto joined = [&] {
    process.cache->GetOrLoadAsync(
        "c", [] { return std::string("c"); }, RunInline, receive);
    return std::string("c");
  };
  EXPECT_EQ(*process.cache->GetOrLoad("c", joined).value(), "c");
  EXPECT_EQ(results, 3);
  process.cache->Prefetch(
      {"d"}, [](const std::string& key) { return key; }, RunInline);
  process.cache->GetAll(Calls{"e", "f"}, [](const Calls& keys) { return keys; });
  EXPECT_EQ(server_->BytesOf("f"), "f");
  EXPECT_GE(removals, 3);
  EXPECT_EQ(server_->leases(), 0u);
}

TEST_F(SecondTierTest, ACallbackMaySetTheExpiry) {
  Process process(server_);
  process.cache->GetOrLoadAsync(
      "a", [] { return std::string("one"); }, RunInline,
      [&](const auto&) { EXPECT_TRUE(process.cache->SetExpiry("a", absl::Hours(1))); });
  EXPECT_EQ(process.Present("a"), "one");
}

TEST_F(SecondTierTest, ALoaderWithACompletionWaitsForNoLease) {
  Process first(server_);
  Process second(server_);
  int waits = 0;
  second.tier->hook = CountWaits(*server_, waits);
  const auto slow = [&] {
    const auto load = [](LoadCompletion<std::string> done) { done(std::string("two")); };
    auto object = second.cache->GetOrLoadAsync("a", load, RunInline);
    EXPECT_EQ(*object.get().value(), "two");
    return std::string("one");
  };
  EXPECT_EQ(*first.cache->GetOrLoad("a", slow).value(), "one");
  EXPECT_EQ(waits, 0);
  EXPECT_EQ(server_->BytesOf("a"), "one");
}

TEST_F(SecondTierTest, ALoadDoesNotWaitForAnErase) {
  Process process(server_);
  bool is_away = true;
  process.tier->hook = [&](std::string_view point, std::string_view) {
    return is_away && point == "Erase" ? absl::UnavailableError("") : absl::OkStatus();
  };
  process.Load("a", "old");
  process.cache->Invalidate("a");
  is_away = false;
  process.tier->defers_async = true;
  EXPECT_EQ(process.Load("a", "new"), "new");
  EXPECT_EQ(server_->BytesOf("a"), "old");  // and has not been asked for it
  process.tier->RunAsync();
  EXPECT_EQ(server_->BytesOf("a"), "(none)");
  // An entry that is of no use.
  process.tier->has_try_lead = false;
  TierEntry entry = Entry("other");
  entry.schema = 8;
  server_->Plant("b", entry);
  EXPECT_EQ(process.Load("b", "new"), "new");
  EXPECT_EQ(server_->BytesOf("b"), "other");
  process.tier->RunAsync();
  EXPECT_EQ(server_->BytesOf("b"), "(none)");
}

TEST_F(SecondTierTest, TheEndOfACacheTriesATierThatIsAwayOnce) {
  Process process(server_);
  process.tier->hook = [&](std::string_view point, std::string_view) {
    return point == "Erase" ? absl::UnavailableError("") : absl::OkStatus();
  };
  for (const char* const key : {"a", "b", "c"}) process.cache->Invalidate(key);
  process.tier->ClearLog();
  process.cache.reset();
  EXPECT_EQ(process.tier->log().size(), 1u);
}

TEST_F(SecondTierTest, ANoticeOfOneKeyMayEndTheCache) {
  Process other(server_);
  std::optional<Cache>* cache = nullptr;
  Process process(server_, [&](Cache::Options& options) {
    options.removal_listener = [&](auto&&...) { cache->reset(); };
  });
  cache = &process.cache;
  process.Load("a", "one");
  other.cache->Invalidate("a");
  process.tier->Deliver();
  EXPECT_FALSE(process.cache.has_value());
}

TEST_F(SecondTierTest, ANoticeThatDropsAllMustNotEndTheCache) {
  std::optional<Cache>* cache = nullptr;
  Process process(server_, [&](Cache::Options& options) {
    options.removal_listener = [&](auto&&...) {
      if (cache != nullptr) cache->reset();
    };
  });
  cache = &process.cache;
  process.Load("a", "one");
  EXPECT_DEATH(
      {
        process.tier->Disconnect();
        process.tier->Deliver();
      },
      "has ended the cache inside a notice that drops all objects");
  cache = nullptr;
}

TEST_F(SecondTierTest, AsynchronousLoadsAskTheTier) {
  Process process(server_);
  TaskQueue queue;
  server_->Plant("a", Entry("there"));
  const auto load = [&] { return ++process.loads, std::string("loaded"); };
  auto a = process.cache->GetOrLoadAsync("a", load, queue.executor());
  auto b = process.cache->GetOrLoadAsync("b", load, queue.executor());
  EXPECT_EQ(process.tier->log(), Calls{});
  queue.RunAll();
  EXPECT_EQ(*a.get().value(), "there");
  EXPECT_EQ(*b.get().value(), "loaded");
  EXPECT_EQ(process.loads, 1);
  EXPECT_EQ(server_->BytesOf("b"), "loaded");
  EXPECT_EQ(server_->leases(), 0u);
}

TEST_F(SecondTierTest, LoadersWithACompletionComeAfterTheTier) {
  Process process(server_);
  server_->Plant("a", Entry("there"));
  std::optional<LoadCompletion<std::string>> completion;
  const auto load = [&](LoadCompletion<std::string> given) { completion = std::move(given); };
  auto a = process.cache->GetOrLoadAsync("a", load, RunInline);
  EXPECT_EQ(*a.get().value(), "there");
  EXPECT_FALSE(completion.has_value());
  auto b = process.cache->GetOrLoadAsync("b", load, RunInline);
  ASSERT_TRUE(completion.has_value());
  EXPECT_EQ(server_->leases(), 1u);
  (*completion)(std::string("loaded"));
  EXPECT_EQ(*b.get().value(), "loaded");
  EXPECT_EQ(server_->BytesOf("b"), "loaded");
  EXPECT_EQ(server_->leases(), 0u);
  auto c = process.cache->GetOrLoadAsync("c", load, RunInline);
  completion.reset();
  EXPECT_FALSE(c.get().ok());
  EXPECT_EQ(server_->leases(), 0u);
  process.cache->CheckInvariantsForTesting();
}

TEST_F(SecondTierTest, PrefetchAsksTheTier) {
  Process process(server_);
  server_->Plant("a", Entry("there"));
  const auto load = [&](const std::string& key) { return ++process.loads, key; };
  process.cache->Prefetch({"a", "b"}, load, RunInline);
  EXPECT_EQ(process.Present("a"), "there");
  EXPECT_EQ(process.Present("b"), "b");
  EXPECT_EQ(process.loads, 1);
  EXPECT_EQ(server_->BytesOf("b"), "b");
}

TEST_F(SecondTierTest, SeveralKeysAreAskedForAtOnce) {
  Process process(server_);
  server_->Plant("a", Entry("there"));
  Calls loaded;
  const auto load = [&](const std::vector<std::string>& keys) { return loaded = keys; };
  const auto all = process.cache->GetAll(std::vector<std::string>{"a", "b", "c", "b"}, load);
  EXPECT_EQ(*all[0].value(), "there");
  EXPECT_EQ(*all[1].value(), "b");
  EXPECT_EQ(*all[2].value(), "c");
  EXPECT_EQ(all[3].value(), all[1].value());
  EXPECT_EQ(loaded, (Calls{"b", "c"}));
  EXPECT_EQ(server_->BytesOf("b"), "b");
  EXPECT_EQ(server_->BytesOf("c"), "c");
  EXPECT_EQ(server_->leases(), 0u);
  // The loader need not be called at all.
  Process other(server_);
  loaded.clear();
  EXPECT_EQ(*other.cache->GetAll(std::vector<std::string>{"b", "c"}, load)[1].value(), "c");
  EXPECT_EQ(loaded, Calls{});
  other.cache->CheckInvariantsForTesting();
}

TEST_F(SecondTierTest, SeveralKeysAreNotErasedForWantOfALease) {
  Process process(server_);
  process.tier->has_try_lead = false;
  TierEntry of_others = Entry("other schema");
  of_others.schema = 1;
  server_->Plant("a", of_others);
  process.tier->hook = [](std::string_view point, std::string_view) {
    return point == "Lead" ? absl::DeadlineExceededError("") : absl::OkStatus();
  };
  const auto load = [](const std::vector<std::string>& keys) { return keys; };
  process.cache->GetAll(std::vector<std::string>{"a", "b"}, load);
  EXPECT_EQ(server_->size(), 0u);
  EXPECT_EQ(process.tier->Count("Erase a"), 1u);
  EXPECT_EQ(process.tier->Count("Erase b"), 0u);
}

TEST_F(SecondTierTest, SeveralKeysWhoseLoadFailsHaveNoLeases) {
  Process process(server_);
  server_->Plant("a", Entry("there"));
  const auto fail = [](const std::vector<std::string>&) -> absl::StatusOr<Calls> {
    return absl::InternalError("no");
  };
  const auto all = process.cache->GetAll(std::vector<std::string>{"a", "b"}, fail);
  EXPECT_TRUE(all[0].ok());
  EXPECT_EQ(all[1].status().code(), absl::StatusCode::kInternal);
  const auto throws = [](const std::vector<std::string>&) -> Calls { throw 1; };
  EXPECT_THROW(process.cache->GetAll(std::vector<std::string>{"c"}, throws), int);
  const auto invalidates = [&](const std::vector<std::string>& keys) {
    process.cache->Invalidate("d");
    return keys;
  };
  EXPECT_TRUE(process.cache->GetAll(std::vector<std::string>{"d"}, invalidates)[0].ok());
  EXPECT_EQ(server_->BytesOf("d"), "(none)");
  EXPECT_EQ(server_->leases(), 0u);
  process.cache->CheckInvariantsForTesting();
}

TEST_F(SecondTierTest, TheCodecMayEndTheCache) {
  const auto ends = [](Process& process) {
    process.codec->on_encode = [&process] { process.cache.reset(); };
  };
  Process synchronous(server_);
  ends(synchronous);
  EXPECT_EQ(synchronous.Load("a", "1"), "1");
  EXPECT_EQ(server_->BytesOf("a"), "1");
  Process task(server_);
  ends(task);
  const auto load = [] { return std::string("2"); };
  EXPECT_EQ(*task.cache->GetOrLoadAsync("b", load, RunInline).get().value(), "2");
  EXPECT_EQ(server_->BytesOf("b"), "2");
  Process later(server_);
  ends(later);
  std::optional<LoadCompletion<std::string>> completion;
  const auto begin = [&](LoadCompletion<std::string> given) { completion = std::move(given); };
  auto c = later.cache->GetOrLoadAsync("c", begin, RunInline);
  (*completion)(std::string("3"));
  EXPECT_EQ(*c.get().value(), "3");
  EXPECT_EQ(server_->BytesOf("c"), "3");
  Process at_once(server_);
  ends(at_once);
  const auto complete = [](LoadCompletion<std::string> given) { given(std::string("5")); };
  auto j = at_once.cache->GetOrLoadAsync("j", complete, RunInline);
  EXPECT_EQ(*j.get().value(), "5");
  EXPECT_EQ(server_->BytesOf("j"), "5");
  Process put(server_);
  ends(put);
  put.cache->Put("d", std::string("4"));
  EXPECT_EQ(server_->BytesOf("d"), "4");
  Process prefetch(server_);
  ends(prefetch);
  prefetch.cache->Prefetch(
      {"e", "f"}, [](const std::string& key) { return key; }, RunInline);
  EXPECT_EQ(server_->BytesOf("e"), "e");
  EXPECT_EQ(server_->BytesOf("f"), "(none)");
  Process bulk(server_);
  ends(bulk);
  const auto all = [](const std::vector<std::string>& keys) { return keys; };
  EXPECT_TRUE(bulk.cache->GetAll(std::vector<std::string>{"h", "i"}, all)[1].ok());
  EXPECT_EQ(server_->BytesOf("i"), "i");
  Process refresh(server_);
  refresh.Load("g", "old");
  ends(refresh);
  EXPECT_TRUE(refresh.cache->Refresh("g", [] { return std::string("new"); }).ok());
  EXPECT_EQ(server_->BytesOf("g"), "new");
}

TEST_F(SecondTierTest, TheTierMayCallAfterTheCachesEnd) {
  Process process(server_);
  Process other(server_);
  process.Load("a", "old");
  process.tier->defers_async = true;
  process.cache->Invalidate("a");
  process.cache->Put("a", std::string("two"));
  other.cache->Invalidate("b");
  process.cache.reset();
  EXPECT_EQ(server_->BytesOf("a"), "two");
  process.tier->Deliver();
  process.tier->RunAsync();
  EXPECT_EQ(server_->BytesOf("a"), "(none)");
  EXPECT_EQ(process.tier->Count("Erase a"), 2u);  // the second as the last of the changes ended
}

TEST_F(SecondTierTest, ACacheThatHasMovedHearsNotices) {
  Process process(server_);
  Process other(server_);
  process.Load("a", "old");
  Cache moved = std::move(*process.cache);
  process.cache.reset();
  other.cache->Invalidate("a");
  process.tier->Deliver();
  EXPECT_EQ(moved.Peek("a").get(), nullptr);
}

TEST_F(SecondTierTest, StatsTellOfTheTier) {
  Process process(server_);
  server_->Plant("a", Entry("there"));
  process.Load("a", "a");
  process.Load("b", "b");
  server_->Plant("c", Entry("not an object"));
  process.codec->on_decode = [] { throw std::runtime_error("no"); };
  process.codec->encode_status = absl::InternalError("no");
  process.Load("c", "c");
  process.tier->stats.errors = 12;
  process.tier->stats.read_time = absl::Seconds(3);
  process.tier->stats.condition = "circuit \"breaker\" open";
  const CacheStats stats = process.cache->Stats();
  EXPECT_TRUE(stats.has_tier);
  EXPECT_EQ(stats.tier_hits, 1u);
  EXPECT_EQ(stats.tier_misses, 2u);
  EXPECT_EQ(stats.tier_decode_failures, 1u);
  EXPECT_EQ(stats.tier_encode_failures, 1u);
  EXPECT_EQ(stats.tier_errors, 12u);
  EXPECT_NE(stats.ToText().find("1 hits, 2 misses, 0 rechecks; 12 errors"), std::string::npos);
  EXPECT_NE(stats.ToText().find("circuit \"breaker\" open"), std::string::npos);
  EXPECT_NE(stats.ToJson().find(R"("tier_errors":12,)"), std::string::npos);
  EXPECT_NE(stats.ToJson().find(R"("tier_condition":"circuit \"breaker\" open")"),
            std::string::npos);
  EXPECT_NE(stats.ToPrometheus().find("\nweakcache_tier_hits_total 1\n"), std::string::npos);
  EXPECT_NE(stats.ToPrometheus().find("\nweakcache_tier_read_seconds_total 3\n"),
            std::string::npos);
  EXPECT_NE(stats.ToPrometheus().find("\nweakcache_tier_in_order 0\n"), std::string::npos);
  EXPECT_EQ((stats + stats).tier_errors, 24u);
  EXPECT_EQ((stats - stats).tier_read_time, absl::ZeroDuration());
  EXPECT_EQ(CacheStats().ToJson().find("tier"), std::string::npos);
}

TEST_F(SecondTierTest, IntegersAreKeysInDecimal) {
  using Numbers = LargeObjectCache<int64_t, std::string>;
  Numbers::Options options = testing::WithBudget<Numbers>(1 << 20);
  const auto tier = std::make_shared<FakeTier>(server_);
  options.second_tier = tier;
  options.codec = std::make_shared<const TextCodec>();
  Numbers numbers = std::move(Numbers::Create(std::move(options))).value();
  numbers.Put(INT64_MIN, std::string("least"));
  EXPECT_EQ(server_->BytesOf("-9223372036854775808"), "least");
  FakeTier other(server_);
  EXPECT_TRUE(other.Erase("-9223372036854775808").ok());
  EXPECT_TRUE(other.Erase("no number").ok());
  EXPECT_EQ(tier->Deliver(), 2u);
  EXPECT_EQ(numbers.Peek(INT64_MIN).get(), nullptr);
}

// Not the default hash, which the codec knows.
struct LengthHash {
  size_t operator()(const std::string& key) const { return key.size(); }
};
using OtherCache = LargeObjectCache<std::string, std::string, LengthHash, std::equal_to<>>;

TEST_F(SecondTierTest, CachesWithOtherHashesHearNotices) {
  OtherCache::Options options = testing::WithBudget<OtherCache>(1 << 20);
  const auto tier = std::make_shared<FakeTier>(server_);
  options.second_tier = tier;
  options.codec = std::make_shared<const TextCodec>();
  OtherCache cache = std::move(OtherCache::Create(std::move(options))).value();
  Process process(server_);
  for (const char* const key : {"a", "b", "c"}) cache.Put(key, std::string(key));
  process.cache->Invalidate("a");
  tier->Deliver();
  EXPECT_EQ(cache.Peek("a").get(), nullptr);
  EXPECT_NE(cache.Peek("b").get(), nullptr);
  process.cache->Clear();
  tier->Deliver();
  EXPECT_EQ(cache.size(), 0u);
}

struct Point {
  int x = 0;
  int y = 0;
  friend bool operator==(const Point&, const Point&) = default;
  template <typename H>
  friend H AbslHashValue(H state, const Point& point) {
    return H::combine(std::move(state), point.x, point.y);
  }
};
using Points = LargeObjectCache<Point, const std::string>;

TEST_F(SecondTierTest, OtherKeysNeedFunctions) {
  Points::Options options = testing::WithBudget<Points>(1 << 20);
  options.second_tier = std::make_shared<FakeTier>(server_);
  options.codec = std::make_shared<const TextCodec>();
  EXPECT_EQ(Points::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.encode_key = [](const Point& point) {
    return std::to_string(point.x) + "," + std::to_string(point.y);
  };
  EXPECT_EQ(Points::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.decode_key = [](std::string_view) { return std::optional<Point>(); };
  Points points = std::move(Points::Create(std::move(options))).value();
  EXPECT_EQ(*points.GetOrLoad(Point{1, 2}, [] { return std::string("here"); }).value(), "here");
  EXPECT_EQ(server_->BytesOf("1,2"), "here");
  // A loader that returns a reference.
  server_->Plant("3,4", Entry("there"));
  const auto load = [](const Point&) { return MakeRef<const std::string>("loaded"); };
  EXPECT_EQ(*points.GetOrLoad(Point{3, 4}, load).value(), "there");
  EXPECT_EQ(*points.GetOrLoad(Point{5, 6}, load).value(), "loaded");
  EXPECT_EQ(server_->BytesOf("5,6"), "loaded");
}

TEST_F(SecondTierTest, TierAndCodecBelongTogether) {
  Cache::Options options = testing::WithBudget<Cache>(1 << 20);
  options.second_tier = std::make_shared<FakeTier>(server_);
  EXPECT_EQ(Cache::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.second_tier = nullptr;
  options.codec = std::make_shared<const TextCodec>();
  EXPECT_EQ(Cache::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.codec = nullptr;
  EXPECT_TRUE(Cache::Create(options).ok());
}

}  // namespace
}  // namespace weakcache
