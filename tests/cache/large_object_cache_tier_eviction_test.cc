// SPDX-License-Identifier: Apache-2.0
// A LargeObjectCache that writes its objects to the second tier when they are evicted: which ones,
// and that none is written that is older than a change of its key.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
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
#include "weakcache/cache/codec.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/cache/removal_cause.h"
#include "weakcache/cache/second_tier.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::FakeServer;
using testing::FakeTier;
using testing::RunInline;
using testing::TextCodec;

using Cache = LargeObjectCache<std::string, std::string>;
using Calls = std::vector<std::string>;

const absl::Time kStart = testing::kTierStart;

// A process that writes what it evicts.
struct Process : testing::TierProcess {
  explicit Process(
      const std::shared_ptr<FakeServer>& server,
      const std::function<void(Cache::Options&)>& change = [](Cache::Options&) {})
      : TierProcess(server, [&](Cache::Options& options) {
          options.tier_write = TierWrite::kOnEviction;
          options.refresh_executor = tasks.executor();
          change(options);
        }) {}
  void EvictAll() { cache->Trim(0); }
};

class TierEvictionTest : public ::testing::Test {
 protected:
  std::shared_ptr<FakeServer> server_ = std::make_shared<FakeServer>();
};

TEST_F(TierEvictionTest, AnObjectIsWrittenWhenItIsEvicted) {
  Process process(server_);
  EXPECT_EQ(process.Load("a", "one"), "one");
  EXPECT_EQ(process.tier->log(), (Calls{"Get a"}));
  process.EvictAll();
  EXPECT_EQ(server_->size(), 0u);
  EXPECT_EQ(process.tasks.tasks.size(), 1u);
  process.tasks.RunAll();
  EXPECT_EQ(process.tier->log(),
            (Calls{"Get a", "Get a", "TryLead a", "AwaitNotices", "PutByLease a"}));
  EXPECT_EQ(server_->BytesOf("a"), "one");
  EXPECT_EQ(server_->leases(), 0u);
  EXPECT_EQ(process.cache->size(), 0u);
  EXPECT_EQ(process.Load("a", "two"), "one");
  EXPECT_EQ(process.loads, 1);
  process.cache->CheckInvariantsForTesting();
}

TEST_F(TierEvictionTest, WhatTheTierHasIsNotWrittenAgain) {
  Process first(server_);
  Process second(server_);
  for (Process* const process : {&first, &second}) process->Load("a", "one");
  first.EvictAll();
  first.tasks.RunAll();
  // The tier has another one's object.
  second.EvictAll();
  second.tasks.RunAll();
  EXPECT_EQ(second.tier->Count("TryLead a"), 0u);
  // Nor does a load of several keys take leases.
  EXPECT_EQ(second.cache->GetAll(Calls{"b"}, [](const Calls& keys) { return keys; }).size(), 1u);
  EXPECT_EQ(second.tier->Count("TryLead b"), 0u);
  EXPECT_TRUE(second.cache->Invalidate("b"));
  // What came from the tier.
  EXPECT_EQ(second.Load("a", "two"), "one");
  EXPECT_EQ(second.cache->GetAll(Calls{"a"}, [](const Calls& keys) { return keys; }).size(), 1u);
  second.EvictAll();
  EXPECT_EQ(second.tasks.posted, 1);
}

TEST_F(TierEvictionTest, OnlyEvictedObjectsAreWritten) {
  std::vector<RemovalCause> causes;
  Process process(server_, [&](Cache::Options& options) {
    options.expire_after_write = absl::Hours(1);
    options.removal_listener = [&](const std::string&, RemovalCause cause, uint64_t) {
      causes.push_back(cause);
    };
  });
  process.Load("a", "one");
  process.cache->Invalidate("a");
  process.Load("a", "two");
  process.cache->Put("a", std::string("three"));
  process.cache->Invalidate("a");
  process.Load("a", "four");
  process.now += absl::Hours(1);
  process.EvictAll();
  EXPECT_EQ(causes,
            (std::vector<RemovalCause>{RemovalCause::kInvalidated, RemovalCause::kReplaced,
                                       RemovalCause::kInvalidated, RemovalCause::kExpired}));
  EXPECT_EQ(process.tasks.posted, 0);
  EXPECT_EQ(server_->size(), 0u);
}

TEST_F(TierEvictionTest, AnObjectsLifeAndGroupGoWithIt) {
  Process process(server_);
  process.cache
      ->GetOrLoad("a",
                  [] {
                    return Loaded<std::string>{
                        .object = "one", .expires_after = absl::Seconds(10), .group = 3};
                  })
      .value();
  process.now += absl::Seconds(4);
  process.EvictAll();
  process.now += absl::Seconds(1);
  process.tasks.RunAll();
  const std::optional<TierEntry> entry = server_->Find("a");
  ASSERT_TRUE(entry.has_value());
  EXPECT_EQ(entry->written, kStart);
  EXPECT_EQ(entry->expires, kStart + absl::Seconds(10));
  EXPECT_EQ(entry->group, 3u);
  EXPECT_EQ(entry->schema, 7u);
}

// Whenever the change comes, and whether the process has been told of it.
TEST_F(TierEvictionTest, AChangeOfTheKeyWins) {
  const std::vector<std::function<void(Process&)>> changes = {
      [](Process& by) { by.cache->Invalidate("a"); },
      [](Process& by) { by.cache->Put("a", std::string("new")); },
      [](Process& by) { by.cache->InvalidateGroup(3); },
      [](Process& by) {
        by.cache->InvalidateIf([](const std::string& key) { return key == "a"; });
      },
      [](Process& by) { by.cache->Clear(); }};
  for (const std::string_view point :
       {"before", "Get", "Get done", "TryLead", "AwaitNotices", "encode", "PutByLease"}) {
    for (size_t change = 0; change < changes.size(); ++change) {
      for (const bool is_cached : {true, false}) {
        const auto server = std::make_shared<FakeServer>();
        Process first(server);
        Process second(server);
        LoadOptions options;
        options.group = 3;
        second.Load("a", "old", options);
        second.EvictAll();
        ASSERT_EQ(second.tasks.tasks.size(), 1u);
        bool has_changed = false;
        const auto change_at = [&](std::string_view at) {
          if (at != point || std::exchange(has_changed, true)) return;
          changes[change](is_cached ? second : first);
        };
        change_at("before");
        second.tier->hook = [&](std::string_view at, std::string_view) {
          change_at(at);
          return absl::OkStatus();
        };
        second.codec->on_encode = [&] { change_at("encode"); };
        second.tasks.RunOne();
        second.tier->hook = nullptr;
        EXPECT_TRUE(has_changed) << point << change;
        EXPECT_NE(server->BytesOf("a"), "old") << point << change << is_cached;
        second.tier->Deliver();
        EXPECT_NE(second.Load("a", "new"), "old") << point << change << is_cached;
        EXPECT_EQ(server->leases(), 0u);
      }
    }
  }
}

// Between the erasure in the tier and the change of the cache.
TEST_F(TierEvictionTest, NothingIsWrittenInTheMiddleOfAChange) {
  const std::vector<std::function<void(Cache&)>> changes = {
      [](Cache& cache) { cache.Invalidate("a"); }, [](Cache& cache) { cache.InvalidateGroup(3); },
      [](Cache& cache) { cache.InvalidateIf([](const std::string&) { return true; }); },
      [](Cache& cache) { cache.Clear(); },
      [](Cache& cache) { EXPECT_TRUE(cache.SetExpiry("a", absl::Seconds(1))); }};
  for (size_t change = 0; change < changes.size(); ++change) {
    for (const std::string_view point : {"Erase", "Erase done", "EraseAsync done", "EraseGroup",
                                         "EraseGroup done", "EraseAll", "EraseAll done"}) {
      const auto server = std::make_shared<FakeServer>();
      Process process(server);
      LoadOptions options;
      options.group = 3;
      process.Load("a", "old", options);
      process.EvictAll();
      process.tier->hook = [&](std::string_view at, std::string_view) {
        if (at == point) process.tasks.RunAll();
        return absl::OkStatus();
      };
      changes[change](*process.cache);
      process.tasks.RunAll();
      if (change == changes.size() - 1 && server->size() != 0) {
        EXPECT_EQ(server->Find("a")->expires, kStart + absl::Seconds(1)) << point;
      } else {
        EXPECT_EQ(server->BytesOf("a"), "(none)") << change << point;
      }
      EXPECT_EQ(server->leases(), 0u);
      process.cache->CheckInvariantsForTesting();
    }
  }
}

TEST_F(TierEvictionTest, AnEntryThatIsOfNoUseIsReplaced) {
  Process process(server_);
  for (const bool is_damaged : {false, true}) {
    process.cache->Clear();
    TierEntry entry{.bytes = std::string("other"), .schema = 6, .written = kStart};
    server_->Plant("a", entry);
    if (is_damaged) {
      process.tier->hook = [](std::string_view point, std::string_view) {
        return point == "Get" ? absl::DataLossError("") : absl::OkStatus();
      };
    }
    process.Load("a", "one");
    process.EvictAll();
    process.tasks.RunAll();
    EXPECT_EQ(server_->BytesOf("a"), "one") << is_damaged;
  }
}

TEST_F(TierEvictionTest, NothingIsWrittenToATierThatIsAway) {
  Process process(server_);
  process.Load("a", "one");
  process.EvictAll();
  process.tier->hook = [](std::string_view point, std::string_view) {
    return point == "Get" ? absl::UnavailableError("") : absl::OkStatus();
  };
  process.tier->ClearLog();
  process.tasks.RunAll();
  EXPECT_EQ(process.tier->log(), (Calls{"Get a"}));
}

TEST_F(TierEvictionTest, AnErasureThatHasFailedIsRepeatedFirst) {
  Process process(server_);
  process.Load("a", "old");
  process.EvictAll();
  process.tasks.RunAll();
  process.tier->hook = [](std::string_view point, std::string_view) {
    return point == "Erase" ? absl::UnavailableError("") : absl::OkStatus();
  };
  process.cache->Invalidate("a");
  process.Load("a", "new");
  process.EvictAll();
  EXPECT_EQ(server_->BytesOf("a"), "old");
  process.tier->hook = nullptr;
  process.tasks.RunAll();
  EXPECT_EQ(server_->BytesOf("a"), "new");
}

// A process that could not apply the notice of the other one's change of "a", which it has loaded
// and evicted.
struct MissedNotice {
  explicit MissedNotice(const std::shared_ptr<FakeServer>& server) : other(server) {
    process.emplace(server, [this](Cache::Options& options) {
      options.expire_after_write = absl::Hours(1);
      options.clock = [this] {
        if (on_clock) on_clock();
        return kStart;
      };
    });
    process->Load("a", "old");
    process->EvictAll();
    EXPECT_TRUE(other.Erase("a").ok());
    on_clock = [] { throw std::runtime_error("no time"); };
    process->tier->Deliver();
    on_clock = nullptr;
  }
  FakeTier other;
  std::function<void()> on_clock;
  std::optional<Process> process;
};

TEST_F(TierEvictionTest, AfterANoticeThatCouldNotBeAppliedNothingIsWritten) {
  MissedNotice missed(server_);
  Process& process = *missed.process;
  EXPECT_EQ(process.cache->Stats().tier_condition, "a notice could not be applied");
  process.tasks.RunAll();
  EXPECT_EQ(server_->size(), 0u);
}

TEST_F(TierEvictionTest, WhileAMissedNoticeIsMadeUpForNothingIsWritten) {
  MissedNotice missed(server_);
  Process& process = *missed.process;
  EXPECT_TRUE(missed.other.Erase("b").ok());
  // Invalidate asks for the time, and then Clear, before it drops anything. Another thread may
  // write evicted objects meanwhile.
  int asked = 0;
  missed.on_clock = [&] {
    if (++asked == 2) process.tasks.RunAll();
  };
  process.tier->Deliver();
  EXPECT_GE(asked, 2);
  EXPECT_EQ(server_->size(), 0u);
}

TEST_F(TierEvictionTest, ATaskThatHasRunKeepsNoObject) {
  std::vector<std::function<void()>> tasks;
  Process process(server_, [&](Cache::Options& options) {
    options.refresh_executor = [&](std::function<void()> task) {
      tasks.push_back(std::move(task));
    };
  });
  process.Load("a", "one");
  const WeakRef<std::string> object = process.cache->Peek("a");
  process.EvictAll();
  ASSERT_EQ(tasks.size(), 1u);
  EXPECT_FALSE(object.expired());
  tasks[0]();
  EXPECT_TRUE(object.expired());
}

TEST_F(TierEvictionTest, WhereNoticesCannotBeAwaitedNothingIsWritten) {
  Process process(server_);
  process.tier->hook = [](std::string_view point, std::string_view) {
    return point == "AwaitNotices" ? absl::UnavailableError("") : absl::OkStatus();
  };
  process.Load("a", "one");
  process.EvictAll();
  process.tasks.RunAll();
  EXPECT_EQ(server_->size(), 0u);
  EXPECT_EQ(server_->leases(), 0u);
}

TEST_F(TierEvictionTest, AnObjectThatOthersAreLoadingIsNotWritten) {
  Process process(server_);
  process.Load("a", "one");
  process.EvictAll();
  FakeTier other(server_);
  const TierLease lease = other.Lead("a", {})->lease;
  process.tasks.RunAll();
  EXPECT_EQ(process.tier->Count("PutByLease a"), 0u);
  EXPECT_EQ(server_->leases(), 1u);
  other.EndLead("a", lease);
}

TEST_F(TierEvictionTest, TheCodecRunsWithoutLocksLoadsAndPermits) {
  int encoded = 0;
  Process process(server_, [](Cache::Options& options) {
    options.refresh_executor = RunInline;
    options.budget_bytes = 1000;
    options.count_entry_memory = false;
    options.max_concurrent_loads = 1;
    options.shards = 1;
  });
  process.codec->on_encode = [&] {
    if (encoded++ == 0) process.Load("inner", "inner");
  };
  for (int i = 0; i < 8; ++i) process.Load(std::to_string(i), std::string(300, 'a'));
  EXPECT_GT(encoded, 0);
  EXPECT_GT(server_->size(), 0u);
}

TEST_F(TierEvictionTest, NotManyObjectsWaitToBeWritten) {
  Process process(server_);
  for (int i = 0; i < 100; ++i) process.Load(std::to_string(i), "object");
  process.EvictAll();
  EXPECT_EQ(process.tasks.tasks.size(), 64u);
  process.tasks.tasks.pop_back();  // one that the executor has dropped
  process.tasks.RunAll();
  EXPECT_EQ(server_->size(), 63u);
  process.Load("more", "object");
  process.EvictAll();
  process.tasks.RunAll();
  EXPECT_EQ(server_->BytesOf("more"), "object");
}

TEST_F(TierEvictionTest, AfterTheCachesEndNothingIsWritten) {
  Process process(server_);
  process.Load("a", "one");
  process.EvictAll();
  process.Load("b", "two");
  process.cache.reset();
  process.tasks.RunAll();
  EXPECT_EQ(server_->size(), 0u);
}

TEST_F(TierEvictionTest, TheCodecMayEndTheCache) {
  Process process(server_);
  process.codec->on_encode = [&] { process.cache.reset(); };
  process.Load("a", "one");
  process.EvictAll();
  process.tasks.RunAll();
  EXPECT_FALSE(process.cache.has_value());
}

TEST_F(TierEvictionTest, OptionsThatAreNotPossible) {
  Cache::Options options = testing::WithBudget<Cache>(1 << 20);
  options.tier_write = TierWrite::kOnEviction;
  options.refresh_executor = RunInline;
  EXPECT_EQ(Cache::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.second_tier = std::make_shared<FakeTier>(server_);
  options.codec = std::make_shared<const TextCodec>();
  EXPECT_TRUE(Cache::Create(options).ok());
  options.refresh_executor = nullptr;
  EXPECT_EQ(Cache::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.refresh_executor = RunInline;
  options.at_tier_disconnect = AtTierDisconnect::kKeep;
  EXPECT_EQ(Cache::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace weakcache
