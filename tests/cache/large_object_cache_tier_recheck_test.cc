// SPDX-License-Identifier: Apache-2.0
// AtTierDisconnect::kCheckAgain: what a LargeObjectCache has when its second tier loses its
// connection is unverified, and the next load of its key asks the tier whether it is current.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
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
#include "weakcache/cache/prefetch_options.h"
#include "weakcache/cache/removal_cause.h"
#include "weakcache/cache/second_tier.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::FakeServer;
using testing::FakeTier;
using testing::RunInline;
using testing::TextCodec;

using Cache = LargeObjectCache<std::string, std::string>;
using Calls = std::vector<std::string>;
using Object = Ref<std::string>;

// A process that checks its objects again.
struct Process : testing::TierProcess {
  explicit Process(
      const std::shared_ptr<FakeServer>& server,
      const std::function<void(Cache::Options&)>& change = [](Cache::Options&) {})
      : TierProcess(server, [&](Cache::Options& options) {
          options.at_tier_disconnect = AtTierDisconnect::kCheckAgain;
          change(options);
        }) {
    codec->on_decode = [this] { ++decodes; };
  }
  Object Get(const std::string& key, const std::string& object, const LoadOptions& options = {}) {
    return cache
        ->GetOrLoad(
            key, [&] { return ++loads, object; }, options)
        .value();
  }
  void LoseConnection() {
    tier->Disconnect();
    tier->Deliver();
  }
  // Evicts everything, also what is in use, which Trim leaves alone.
  void EvictAll() {
    cache->SetBudget(0);
    cache->SetBudget(uint64_t{1} << 20);
  }
  // Returns whether each kind of look-up finds the object, and none of them removes it.
  bool IsFound(const std::string& key) {
    const bool found = cache->Get(key).get() != nullptr;
    EXPECT_EQ(cache->Peek(key).get() != nullptr, found);
    EXPECT_EQ(cache->Inspect(key).has_value(), found);
    return found;
  }
  uint64_t rechecks() const { return cache->Stats().tier_rechecks; }

  int decodes = 0;
};

class TierRecheckTest : public ::testing::Test {
 protected:
  // Plants the entry once more, after `change(entry)`.
  void ChangeEntry(const std::string& key, const std::function<void(TierEntry&)>& change) {
    TierEntry entry = server_->Find(key).value();
    change(entry);
    server_->Plant(key, std::move(entry));
  }

  std::shared_ptr<FakeServer> server_ = std::make_shared<FakeServer>();
};

TEST_F(TierRecheckTest, AnObjectFromTheTierIsCurrentAgain) {
  Process(server_).cache->Put("a", std::string("one"));
  Process process(server_);
  const Object object = process.Get("a", "own");
  EXPECT_EQ(process.decodes, 1);
  const uint64_t bytes = process.cache->Stats().bytes_retained;
  process.LoseConnection();
  EXPECT_FALSE(process.IsFound("a"));
  EXPECT_EQ(process.cache->size(), 1u);
  EXPECT_EQ(process.cache->Stats().bytes_retained, bytes);
  process.tier->ClearLog();
  EXPECT_EQ(process.Get("a", "own"), object);
  EXPECT_EQ(process.tier->log(), Calls{"Get a"});
  EXPECT_TRUE(process.IsFound("a"));
  EXPECT_EQ(process.Get("a", "own"), object);
  EXPECT_EQ(process.tier->log(), Calls{"Get a"});
  EXPECT_EQ(process.decodes, 1);
  EXPECT_EQ(process.loads, 0);
  EXPECT_EQ(process.rechecks(), 1u);
  EXPECT_EQ(process.cache->size(), 1u);
  process.cache->CheckInvariantsForTesting();
}

TEST_F(TierRecheckTest, AndSoIsWhatThisProcessHasWritten) {
  Process process(server_);
  const Object loaded = process.Get("loaded", "one");
  const Object put = process.cache->Put("put", std::string("two"));
  const Object absent = process.cache->PutIfAbsent("absent", std::string("three")).first;
  ASSERT_TRUE(process.cache->Refresh("loaded", [] { return std::string("four"); }).ok());
  const Object fresh = process.cache->Peek("loaded");
  process.LoseConnection();
  process.loads = 0;
  EXPECT_EQ(process.Get("put", "own"), put);
  EXPECT_EQ(process.Get("absent", "own"), absent);
  EXPECT_EQ(process.Get("loaded", "own"), fresh);
  EXPECT_EQ(*fresh, "four");
  EXPECT_EQ(process.loads, 0);
  EXPECT_EQ(process.decodes, 0);
  EXPECT_EQ(process.rechecks(), 3u);
}

TEST_F(TierRecheckTest, WhatComesWhileTheConnectionIsLostIsUnverifiedOnceItIsBack) {
  Process process(server_);
  process.LoseConnection();
  const Object object = process.Get("a", "one");
  EXPECT_TRUE(process.IsFound("a"));
  process.tier->Connect();
  process.tier->Deliver();
  EXPECT_FALSE(process.IsFound("a"));
  EXPECT_EQ(process.Get("a", "own"), object);
  EXPECT_TRUE(process.IsFound("a"));
  process.tier->Connect();
  process.tier->Deliver();
  EXPECT_FALSE(process.IsFound("a"));
}

TEST_F(TierRecheckTest, NobodyHoldsAnIdleObjectThatIsCurrentAgain) {
  Process process(server_);
  const void* const object = process.Get("a", "one").get();
  process.LoseConnection();
  EXPECT_EQ(process.Get("a", "own").get(), object);
  EXPECT_EQ(process.cache->Stats().bytes_in_use, 0u);
  process.cache->CheckInvariantsForTesting();
}

TEST_F(TierRecheckTest, AnotherEntryIsAnotherObject) {
  struct Change {
    const char* what;
    std::function<void(TierEntry&)> change;
  };
  const Change changes[] = {
      {"bytes", [](TierEntry& entry) { entry.bytes = TierBytes("two"); }},
      {"written", [](TierEntry& entry) { entry.written += absl::Nanoseconds(1); }},
      {"expires", [](TierEntry& entry) { entry.expires -= absl::Seconds(1); }},
      {"group", [](TierEntry& entry) { entry.group = 5; }},
  };
  for (const Change& change : changes) {
    SCOPED_TRACE(change.what);
    Process process(server_,
                    [](Cache::Options& options) { options.expire_after_write = absl::Hours(1); });
    process.cache->Clear();
    const Object object = process.Get("a", "one");
    process.LoseConnection();
    ChangeEntry("a", change.change);
    const Object other = process.Get("a", "own");
    EXPECT_NE(other, object);
    EXPECT_EQ(*other, server_->BytesOf("a"));
    EXPECT_EQ(*object, "one");
    EXPECT_EQ(process.decodes, 1);
    EXPECT_EQ(process.loads, 1);
    EXPECT_EQ(process.rechecks(), 0u);
    EXPECT_EQ(process.cache->size(), 1u);
    EXPECT_EQ(process.cache->Peek("a"), other);
    process.cache->CheckInvariantsForTesting();
  }
}

TEST_F(TierRecheckTest, AnEntryOfAnotherSchemaIsAnotherObject) {
  Process process(server_);
  const Object object = process.Get("a", "one");
  process.LoseConnection();
  process.codec->of_schema = 8;
  EXPECT_EQ(*process.Get("a", "two"), "two");
  EXPECT_EQ(process.loads, 2);
}

TEST_F(TierRecheckTest, WithoutAnEntryTheObjectIsLoadedAndReplaced) {
  std::vector<RemovalCause> causes;
  Process process(server_, [&](Cache::Options& options) {
    options.removal_listener = [&](const std::string&, RemovalCause cause, uint64_t) {
      causes.push_back(cause);
    };
  });
  const Object object = process.Get("a", "one");
  process.LoseConnection();
  server_->Uproot("a");
  EXPECT_EQ(causes.size(), 0u);
  EXPECT_EQ(*process.Get("a", "two"), "two");
  EXPECT_EQ(*object, "one");
  EXPECT_EQ(process.loads, 2);
  EXPECT_EQ(causes, std::vector<RemovalCause>{RemovalCause::kReplaced});
  EXPECT_EQ(process.cache->size(), 1u);
}

TEST_F(TierRecheckTest, IfTheTierFailsTheObjectIsLoaded) {
  Process process(server_);
  const Object object = process.Get("a", "one");
  process.LoseConnection();
  process.tier->hook = [](std::string_view, std::string_view) {
    return absl::UnavailableError("away");
  };
  EXPECT_EQ(*process.Get("a", "two"), "two");
  EXPECT_EQ(process.loads, 2);
}

TEST_F(TierRecheckTest, WhatIsInNoTierIsLoaded) {
  Process process(server_);
  LoadOptions unwritten;
  unwritten.write_tier = false;
  const Object object = process.Get("a", "one", unwritten);
  process.codec->encode_status = absl::InternalError("no");
  const Object put = process.cache->Put("b", std::string("two"));
  process.codec->encode_status = absl::OkStatus();
  process.LoseConnection();
  EXPECT_EQ(*process.Get("a", "three"), "three");
  EXPECT_EQ(*process.Get("b", "four"), "four");
  EXPECT_EQ(process.loads, 3);
}

TEST_F(TierRecheckTest, LoadsThatDoNotReadTheTierReplaceTheObject) {
  Process process(server_);
  const Object object = process.Get("a", "one");
  process.LoseConnection();
  process.tier->ClearLog();
  LoadOptions unread;
  unread.read_tier = false;
  EXPECT_EQ(*process.Get("a", "two", unread), "two");
  process.LoseConnection();
  ASSERT_TRUE(process.cache->Refresh("a", [] { return std::string("three"); }).ok());
  EXPECT_EQ(process.Present("a"), "three");
  EXPECT_EQ(process.tier->Count("Get a"), 0u);
}

TEST_F(TierRecheckTest, NothingElseTakesAnUnverifiedObjectForACurrentOne) {
  Process process(server_);
  const Object object = process.Get("a", "one");
  process.LoseConnection();
  EXPECT_FALSE(process.cache->SetExpiry("a", absl::Hours(1)));
  EXPECT_TRUE(process.cache->UpdateWeight("a"));
  process.cache->Purge();
  size_t visited = 0;
  process.cache->ForEach([&](const std::string&, const Object&) { ++visited; });
  EXPECT_EQ(visited, 1u);
  const auto put = process.cache->PutIfAbsent("a", std::string("two"));
  EXPECT_TRUE(put.second);
  EXPECT_EQ(*put.first, "two");
  process.LoseConnection();
  EXPECT_TRUE(process.cache->Invalidate("a"));
  EXPECT_EQ(process.cache->size(), 0u);
}

TEST_F(TierRecheckTest, AnObjectInUseThatWasEvictedIsCurrentAgain) {
  Process process(server_);
  Object object = process.Get("a", "one");
  const uint64_t bytes = process.cache->Stats().bytes_retained;
  process.EvictAll();
  EXPECT_EQ(process.cache->Stats().bytes_retained, 0u);
  process.LoseConnection();
  EXPECT_FALSE(process.IsFound("a"));
  EXPECT_EQ(process.Get("a", "own"), object);
  // It is retained again, as after a load or a hit.
  EXPECT_EQ(process.cache->Stats().bytes_retained, bytes);
  object.reset();
  EXPECT_TRUE(process.IsFound("a"));
  EXPECT_EQ(process.rechecks(), 1u);
  process.cache->CheckInvariantsForTesting();
}

TEST_F(TierRecheckTest, AnUnverifiedObjectIsEvictedInItsTurnAndDecodedAnew) {
  std::vector<RemovalCause> causes;
  Process process(server_, [&](Cache::Options& options) {
    options.removal_listener = [&](const std::string&, RemovalCause cause, uint64_t) {
      causes.push_back(cause);
    };
  });
  process.Get("a", "one");
  process.LoseConnection();
  process.cache->Trim(0);
  EXPECT_EQ(causes, std::vector<RemovalCause>{RemovalCause::kBudget});
  EXPECT_EQ(*process.Get("a", "own"), "one");
  EXPECT_EQ(process.decodes, 1);
  EXPECT_EQ(process.rechecks(), 0u);
}

TEST_F(TierRecheckTest, AnObjectThatDiesWhileTheTierIsAskedIsDecoded) {
  Process process(server_);
  Object object = process.Get("a", "one");
  process.LoseConnection();
  process.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "Get done") {
      object.reset();
      process.cache->Trim(0);
    }
    return absl::OkStatus();
  };
  EXPECT_EQ(*process.Get("a", "own"), "one");
  EXPECT_EQ(process.decodes, 1);
  EXPECT_EQ(process.loads, 1);
  EXPECT_EQ(process.rechecks(), 0u);
  EXPECT_TRUE(process.IsFound("a"));
}

TEST_F(TierRecheckTest, AnExpiredObjectIsNotCheckedAgain) {
  Process process(server_,
                  [](Cache::Options& options) { options.expire_after_write = absl::Seconds(10); });
  const Object object = process.Get("a", "one");
  process.LoseConnection();
  process.now += absl::Seconds(10);
  EXPECT_EQ(*process.Get("a", "two"), "two");
  // Nor does the check make it live longer.
  const Object second = process.cache->Peek("a");
  process.LoseConnection();
  process.now += absl::Seconds(9);
  EXPECT_EQ(process.Get("a", "own"), second);
  EXPECT_TRUE(process.IsFound("a"));
  process.now += absl::Seconds(1);
  EXPECT_FALSE(process.IsFound("a"));
  EXPECT_EQ(*process.Get("a", "three"), "three");
}

TEST_F(TierRecheckTest, AnObjectThatExpiresWhileTheTierIsAskedIsNotMadeCurrent) {
  Process process(server_,
                  [](Cache::Options& options) { options.expire_after_access = absl::Seconds(10); });
  process.Get("a", "one");
  process.LoseConnection();
  process.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "Get done") process.now += absl::Seconds(10);
    return absl::OkStatus();
  };
  EXPECT_EQ(*process.Get("a", "own"), "one");
  EXPECT_EQ(process.decodes, 1);
}

TEST_F(TierRecheckTest, ACheckCountsAsAnAccess) {
  Process process(server_,
                  [](Cache::Options& options) { options.expire_after_access = absl::Seconds(10); });
  const void* const object = process.Get("a", "one").get();
  process.LoseConnection();
  process.now += absl::Seconds(9);
  EXPECT_EQ(process.Get("a", "own").get(), object);
  process.now += absl::Seconds(9);
  EXPECT_EQ(process.Get("a", "own").get(), object);
  EXPECT_EQ(process.loads, 1);
  EXPECT_EQ(process.decodes, 0);
}

TEST_F(TierRecheckTest, AnInvalidatedGroupIsNotCurrentAgain) {
  Process process(server_);
  LoadOptions in_group;
  in_group.group = 3;
  const Object object = process.Get("a", "one", in_group);
  const TierEntry entry = server_->Find("a").value();
  process.LoseConnection();
  EXPECT_EQ(process.Get("a", "own", in_group), object);
  process.LoseConnection();
  process.cache->InvalidateGroup(3);
  server_->Plant("a", entry);
  EXPECT_NE(process.Get("a", "two", in_group), object);
  process.cache->CheckInvariantsForTesting();
}

TEST_F(TierRecheckTest, AHitOnAnObjectOfAGroupIsNotOneOnAnUnverifiedObject) {
  Process process(server_);
  process.cache->Put("a", Loaded<std::string>{.object = "one", .group = 3});
  EXPECT_TRUE(process.IsFound("a"));
  process.LoseConnection();
  EXPECT_FALSE(process.IsFound("a"));
}

TEST_F(TierRecheckTest, ALoadThatWasUnderWayIsNotCached) {
  for (const bool from_tier : {false, true}) {
    SCOPED_TRACE(from_tier);
    const auto server = std::make_shared<FakeServer>();
    if (from_tier) Process(server).cache->Put("a", std::string("there"));
    Process process(server);
    process.tier->hook = [&](std::string_view point, std::string_view) {
      if (point == "Get done" && from_tier) process.LoseConnection();
      return absl::OkStatus();
    };
    const Object object = process.cache
                              ->GetOrLoad("a",
                                          [&] {
                                            process.LoseConnection();
                                            return std::string("loaded");
                                          })
                              .value();
    process.tier->hook = nullptr;
    EXPECT_EQ(*object, from_tier ? "there" : "loaded");
    EXPECT_EQ(process.cache->size(), 0u);
    EXPECT_EQ(*process.Get("a", "own"), from_tier ? "there" : "own");
    EXPECT_EQ(process.rechecks(), 0u);
  }
}

TEST_F(TierRecheckTest, ARefreshThatWasUnderWayIsNotCached) {
  Process process(server_);
  const Object object = process.Get("a", "one");
  const auto refresh = [&] {
    process.LoseConnection();
    return std::string("two");
  };
  static_cast<void>(process.cache->Refresh("a", refresh));
  EXPECT_EQ(process.cache->Peek("a"), nullptr);
  EXPECT_EQ(server_->BytesOf("a"), "one");
  EXPECT_EQ(process.Get("a", "own"), object);
}

// A Put's stamp is of the time at which it began.
TEST_F(TierRecheckTest, APutThatWasUnderWayEntersAnUnverifiedObject) {
  Process* self = nullptr;
  Process process(server_, [&](Cache::Options& options) {
    options.weigher = [&](const std::string&) {
      if (self != nullptr) self->LoseConnection();
      return uint64_t{1};
    };
  });
  self = &process;
  const Object object = process.cache->Put("a", std::string("one"));
  self = nullptr;
  EXPECT_FALSE(process.IsFound("a"));
  EXPECT_EQ(process.cache->size(), 1u);
  EXPECT_EQ(process.Get("a", "own"), object);
  EXPECT_EQ(process.rechecks(), 1u);
}

TEST_F(TierRecheckTest, NobodyJoinsALoadThatWasUnderWay) {
  Process(server_).cache->Put("a", std::string("old"));
  Process process(server_);
  std::string joined;
  process.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "Get done" && joined.empty()) {
      joined = "(nothing)";
      ChangeEntry("a", [](TierEntry& entry) { entry.bytes = TierBytes("new"); });
      process.LoseConnection();
      process.cache->GetOrLoadAsync(
          "a", [] { return std::string("own"); }, RunInline,
          [&](absl::StatusOr<Object> result) { joined = *result.value(); });
    }
    return absl::OkStatus();
  };
  EXPECT_EQ(*process.Get("a", "own"), "old");
  EXPECT_EQ(joined, "new");
  EXPECT_EQ(process.Present("a"), "new");
}

TEST_F(TierRecheckTest, AConnectionThatIsLostAgainLeavesTheObjectUnverified) {
  Process process(server_);
  const Object object = process.Get("a", "one");
  process.LoseConnection();
  process.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "Get done") process.LoseConnection();
    return absl::OkStatus();
  };
  EXPECT_EQ(process.Get("a", "own"), object);
  EXPECT_FALSE(process.IsFound("a"));
  process.tier->hook = nullptr;
  EXPECT_EQ(process.Get("a", "own"), object);
  EXPECT_TRUE(process.IsFound("a"));
  EXPECT_EQ(process.loads, 1);
  EXPECT_EQ(process.decodes, 0);
}

TEST_F(TierRecheckTest, ANoticeWhileTheTierIsAskedRemovesTheObject) {
  Process process(server_);
  Process other(server_);
  const Object object = process.Get("a", "old");
  process.LoseConnection();
  process.tier->hook = [&, changes = 0](std::string_view point, std::string_view) mutable {
    if (point == "Get done" && ++changes == 1) {
      other.cache->Put("a", std::string("new"));
      process.tier->Deliver();
    }
    return absl::OkStatus();
  };
  EXPECT_EQ(*process.Get("a", "own"), "new");
  EXPECT_EQ(process.Present("a"), "new");
  EXPECT_EQ(process.rechecks(), 0u);
}

TEST_F(TierRecheckTest, ANoticeBeforeTheCheckRemovesTheObject) {
  Process process(server_);
  Process other(server_);
  const Object object = process.Get("a", "old");
  const TierEntry entry = server_->Find("a").value();
  process.LoseConnection();
  other.cache->Invalidate("a");
  process.tier->Deliver();
  EXPECT_EQ(process.cache->size(), 0u);
  // Even if the very entry came back.
  server_->Plant("a", entry);
  EXPECT_NE(process.Get("a", "own"), object);
}

// At each time that the clock is read between the tier's answer and the load's end, something else
// happens. Whatever it is and whenever, what is current afterwards is what ought to be.
TEST_F(TierRecheckTest, WhateverHappensDuringTheCheck) {
  enum class Event { kNotice, kDisconnect, kPut, kRefresh, kInvalidate, kClear, kTrim };
  int verified = 0;
  int decoded = 0;
  int overtaken = 0;
  for (const Event event : {Event::kNotice, Event::kDisconnect, Event::kPut, Event::kRefresh,
                            Event::kInvalidate, Event::kClear, Event::kTrim}) {
    for (int reading = 1; reading <= 8; ++reading) {
      SCOPED_TRACE(::testing::Message()
                   << "event " << static_cast<int>(event) << " at " << reading);
      const auto server = std::make_shared<FakeServer>();
      std::function<void()> on_clock;
      Process* self = nullptr;
      Process process(server, [&](Cache::Options& options) {
        options.clock = [&] {
          if (on_clock) on_clock();
          return testing::kTierStart;
        };
      });
      self = &process;
      Process other(server);
      Object object = process.Get("a", "old");
      process.LoseConnection();
      const auto happen = [&] {
        switch (event) {
          case Event::kNotice:
            other.cache->Put("a", std::string("new"));
            self->tier->Deliver();
            break;
          case Event::kDisconnect:
            self->LoseConnection();
            break;
          case Event::kPut:
            self->cache->Put("a", std::string("new"));
            break;
          case Event::kRefresh:
            static_cast<void>(self->cache->Refresh("a", [] { return std::string("new"); }));
            break;
          case Event::kInvalidate:
            self->cache->Invalidate("a");
            break;
          case Event::kClear:
            self->cache->Clear();
            break;
          case Event::kTrim:
            object.reset();
            self->cache->Trim(0);
        }
      };
      process.tier->hook = [&](std::string_view point, std::string_view) {
        if (point == "Get done" && !on_clock) {
          on_clock = [&, left = reading]() mutable {
            if (--left == 0) happen();
          };
        }
        return absl::OkStatus();
      };
      const std::string result = *process.Get("a", "own");
      on_clock = nullptr;
      process.tier->hook = nullptr;
      process.tier->Deliver();
      verified += process.rechecks() == 1 ? 1 : 0;
      decoded += process.decodes;
      overtaken += event == Event::kPut && process.rechecks() == 1 && result == "new" ? 1 : 0;
      const bool changes = event != Event::kDisconnect && event != Event::kTrim;
      const std::string present = process.Present("a");
      if (event == Event::kNotice || event == Event::kPut || event == Event::kRefresh) {
        if (server->BytesOf("a") == "new") {  // it has happened
          EXPECT_TRUE(present == "new" || present == "(none)") << present;
        }
      }
      if (changes && server->BytesOf("a") != "old") {
        EXPECT_NE(present, "old");
      }
      EXPECT_TRUE(result == "old" || result == "new" || result == "own") << result;
      const std::string next = *process.Get("a", "own");
      EXPECT_EQ(next, server->BytesOf("a"));
      process.cache->CheckInvariantsForTesting();
    }
  }
  EXPECT_GT(verified, 10);
  EXPECT_GT(decoded, 2);
  EXPECT_GT(overtaken, 0);
}

TEST_F(TierRecheckTest, AnEntryThatLeadFindsIsCompared) {
  Process process(server_);
  const Object object = process.Get("a", "one");
  const TierEntry entry = server_->Find("a").value();
  process.LoseConnection();
  server_->Uproot("a");
  process.tier->ClearLog();
  process.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "Get done") server_->Plant("a", entry);
    return absl::OkStatus();
  };
  EXPECT_EQ(process.Get("a", "own"), object);
  EXPECT_EQ(process.tier->log(), (Calls{"Get a", "Lead a"}));
  EXPECT_EQ(server_->leases(), 0u);
}

TEST_F(TierRecheckTest, AllWaysToLoadCheckAgain) {
  Process process(server_);
  std::vector<Object> objects;
  const std::vector<std::string> keys = {"a", "b", "c"};
  for (const std::string& key : keys) objects.push_back(process.Get(key, key));
  process.loads = 0;
  const auto one = [&](const std::string& key) { return ++process.loads, key; };
  const auto all = [&](const std::vector<std::string>& missing) {
    return ++process.loads, missing;
  };
  const auto check = [&](const char* how, const std::function<void()>& load) {
    SCOPED_TRACE(how);
    const uint64_t before = process.rechecks();
    process.LoseConnection();
    load();
    for (size_t i = 0; i < keys.size(); ++i) EXPECT_EQ(process.cache->Peek(keys[i]), objects[i]);
    EXPECT_EQ(process.rechecks(), before + keys.size());
    EXPECT_EQ(process.loads, 0);
    EXPECT_EQ(process.decodes, 0);
    process.cache->CheckInvariantsForTesting();
  };
  check("GetAll", [&] {
    const auto results = process.cache->GetAll(keys, all);
    for (size_t i = 0; i < keys.size(); ++i) EXPECT_EQ(results[i].value(), objects[i]);
  });
  check("GetOrLoadAsync", [&] {
    for (size_t i = 0; i < keys.size(); ++i) {
      process.cache->GetOrLoadAsync(keys[i], one, RunInline, [&, i](absl::StatusOr<Object> result) {
        EXPECT_EQ(result.value(), objects[i]);
      });
    }
  });
  check("a completion", [&] {
    const auto later = [&](const std::string& key, LoadCompletion<std::string> completion) {
      ++process.loads;
      completion(key);
    };
    for (size_t i = 0; i < keys.size(); ++i) {
      process.cache->GetOrLoadAsync(
          keys[i], later, RunInline,
          [&, i](absl::StatusOr<Object> result) { EXPECT_EQ(result.value(), objects[i]); });
    }
  });
  check("Prefetch", [&] { process.cache->Prefetch(keys, one, RunInline, PrefetchOptions()); });
  check("a loader of references", [&] {
    for (size_t i = 0; i < keys.size(); ++i) {
      const auto load = [&] { return ++process.loads, MakeRef<std::string>(keys[i]); };
      EXPECT_EQ(process.cache->GetOrLoad(keys[i], load).value(), objects[i]);
    }
  });
}

TEST_F(TierRecheckTest, GetAllReplacesOnlyWhatIsNotCurrent) {
  Process process(server_);
  const Object a = process.Get("a", "one");
  const Object b = process.Get("b", "two");
  process.LoseConnection();
  server_->Uproot("b");
  const auto results = process.cache->GetAll(
      std::vector<std::string>{"a", "b"},
      [](const std::vector<std::string>& keys) { return std::vector<std::string>(keys); });
  EXPECT_EQ(results[0].value(), a);
  EXPECT_EQ(*results[1].value(), "b");
  EXPECT_EQ(server_->BytesOf("b"), "b");
}

TEST_F(TierRecheckTest, ObjectsThatCameAsReferencesAreCurrentAgain) {
  Process process(server_);
  const Object object =
      process.cache->GetOrLoad("a", [] { return MakeRef<std::string>("one"); }).value();
  process.LoseConnection();
  EXPECT_EQ(process.Get("a", "own"), object);
  // Also if only their users keep them.
  process.EvictAll();
  process.LoseConnection();
  EXPECT_EQ(process.Get("a", "own"), object);
  EXPECT_EQ(process.loads, 0);
  process.cache->CheckInvariantsForTesting();
}

// How old it may be is not known.
TEST_F(TierRecheckTest, WhatIsUnverifiedIsNotServedIfAllFails) {
  Process process(server_,
                  [](Cache::Options& options) { options.stale_if_error = absl::Hours(10); });
  const Object object = process.Get("a", "one");
  process.LoseConnection();
  process.tier->hook = [](std::string_view, std::string_view) {
    return absl::UnavailableError("away");
  };
  const auto fail = [] { return absl::StatusOr<std::string>(absl::UnavailableError("")); };
  EXPECT_FALSE(process.cache->GetOrLoad("a", fail).ok());
  const auto fail_all = [](const std::vector<std::string>&) {
    return absl::StatusOr<std::vector<std::string>>(absl::UnavailableError(""));
  };
  EXPECT_FALSE(process.cache->GetAll(std::vector<std::string>{"a"}, fail_all)[0].ok());
  absl::StatusOr<Object> async = object;
  process.cache->GetOrLoadAsync("a", fail, RunInline,
                                [&](absl::StatusOr<Object> result) { async = std::move(result); });
  EXPECT_FALSE(async.ok());
  EXPECT_EQ(process.cache->Stats().stale_served, 0u);
  // It is still there to be checked.
  process.tier->hook = nullptr;
  EXPECT_EQ(process.cache->GetOrLoad("a", fail).value(), object);
}

TEST_F(TierRecheckTest, KeptFailuresAreForgotten) {
  Process process(server_, [](Cache::Options& options) {
    options.failure_ttl = [](const absl::Status&) { return absl::Hours(1); };
  });
  const auto fail = [] { return absl::StatusOr<std::string>(absl::NotFoundError("")); };
  EXPECT_FALSE(process.cache->GetOrLoad("a", fail).ok());
  process.LoseConnection();
  EXPECT_EQ(process.Load("a", "one"), "one");
  // Nor is one kept that was about to come.
  const auto fail_late = [&] {
    process.LoseConnection();
    return absl::StatusOr<std::string>(absl::NotFoundError(""));
  };
  EXPECT_FALSE(process.cache->GetOrLoad("b", fail_late).ok());
  EXPECT_EQ(process.Load("b", "two"), "two");
}

TEST_F(TierRecheckTest, AFailedLoadLeavesTheObjectToBeChecked) {
  Process process(server_);
  const Object object = process.Get("a", "one");
  const TierEntry entry = server_->Find("a").value();
  process.LoseConnection();
  server_->Uproot("a");
  const auto fail = [] { return absl::StatusOr<std::string>(absl::UnavailableError("")); };
  EXPECT_FALSE(process.cache->GetOrLoad("a", fail).ok());
  server_->Plant("a", entry);
  EXPECT_EQ(process.Get("a", "own"), object);
}

TEST_F(TierRecheckTest, ACacheThatHasNeverBeenConnectedReadsNoClockAtAHit) {
  int readings = 0;
  Process process(server_, [&](Cache::Options& options) {
    options.clock = [&] { return ++readings, testing::kTierStart; };
  });
  process.Get("a", "one");
  readings = 0;
  EXPECT_NE(process.cache->Get("a").get(), nullptr);
  EXPECT_EQ(readings, 0);
}

TEST_F(TierRecheckTest, CachesWithoutABudgetCheckAgain) {
  Cache::Options options;
  const auto tier = std::make_shared<FakeTier>(server_);
  options.second_tier = tier;
  options.codec = std::make_shared<const TextCodec>();
  options.at_tier_disconnect = AtTierDisconnect::kCheckAgain;
  Cache cache = std::move(Cache::CreateWeak(std::move(options))).value();
  const Object object = cache.Put("a", std::string("one"));
  tier->Disconnect();
  tier->Deliver();
  EXPECT_EQ(cache.Peek("a").get(), nullptr);
  EXPECT_EQ(cache.GetOrLoad("a", [] { return std::string("own"); }).value(), object);
  EXPECT_EQ(cache.Peek("a"), object);
}

// Not the default hash, which the codec knows. It puts all keys of a length in one place.
struct LengthHash {
  size_t operator()(const std::string& key) const { return key.size(); }
};

TEST_F(TierRecheckTest, CachesWithOtherHashesCheckAgain) {
  using OtherCache = LargeObjectCache<std::string, std::string, LengthHash, std::equal_to<>>;
  OtherCache::Options options = testing::WithBudget<OtherCache>(1 << 20);
  const auto tier = std::make_shared<FakeTier>(server_);
  options.second_tier = tier;
  options.codec = std::make_shared<const TextCodec>();
  options.at_tier_disconnect = AtTierDisconnect::kCheckAgain;
  OtherCache cache = std::move(OtherCache::Create(std::move(options))).value();
  std::vector<Object> objects;
  // The same bytes, written at nearly the same time, under keys with the same hash.
  for (const char* const key : {"a", "b", "c"}) objects.push_back(cache.Put(key, std::string("x")));
  tier->Disconnect();
  tier->Deliver();
  server_->Uproot("b");
  const auto load = [] { return std::string("own"); };
  EXPECT_EQ(cache.GetOrLoad("a", load).value(), objects[0]);
  EXPECT_EQ(*cache.GetOrLoad("b", load).value(), "own");
  EXPECT_EQ(cache.GetOrLoad("c", load).value(), objects[2]);
  // Another key's entry says nothing about a key's object.
  tier->Disconnect();
  tier->Deliver();
  server_->Plant("c", server_->Find("a").value());
  EXPECT_NE(cache.GetOrLoad("c", load).value(), objects[2]);
}

TEST_F(TierRecheckTest, AFullCacheBelowAHardLimitChecksAgain) {
  Process process(server_, [](Cache::Options& options) {
    options.weigher = [](const std::string&) { return uint64_t{1}; };
    options.count_entry_memory = false;
    options.budget_bytes = 2;
    options.hard_limit_bytes = 2;
  });
  const Object a = process.Get("a", "one");
  const Object b = process.Get("b", "two");
  process.LoseConnection();
  EXPECT_EQ(process.Get("a", "own"), a);
  EXPECT_EQ(process.Get("b", "own"), b);
  EXPECT_EQ(process.cache->charged_bytes(), 2u);
  process.cache->CheckInvariantsForTesting();
}

// A check may turn out to be a load, and needs its room.
TEST_F(TierRecheckTest, BelowAHardLimitACheckWaitsForRoomAsALoadDoes) {
  Process process(server_, [](Cache::Options& options) {
    options.weigher = [](const std::string&) { return uint64_t{1000}; };
    options.budget_bytes = 10000;
    options.hard_limit_bytes = 10000;
  });
  const Object a = process.Get("a", "one");
  Object b = process.Get("b", "two");
  process.LoseConnection();
  process.cache->SetHardLimit(process.cache->charged_bytes());
  const auto load = [] { return std::string("own"); };
  LoadOptions estimated;
  estimated.weight_estimate = 1000;
  EXPECT_EQ(process.cache->GetOrLoad("a", load, estimated).status().code(),
            absl::StatusCode::kResourceExhausted);
  b.reset();
  EXPECT_EQ(process.cache->GetOrLoad("a", load, estimated).value(), a);
  EXPECT_EQ(process.rechecks(), 1u);
  process.cache->CheckInvariantsForTesting();
}

TEST_F(TierRecheckTest, ACheckWithAnEstimateRetainsTheObjectAgain) {
  Process process(server_, [](Cache::Options& options) {
    options.weigher = [](const std::string&) { return uint64_t{1000}; };
    options.budget_bytes = 1500;
    options.count_entry_memory = false;
  });
  const Object object = process.Get("a", "one");
  process.cache->SetBudget(0);
  process.cache->SetBudget(1500);
  process.LoseConnection();
  LoadOptions estimated;
  estimated.weight_estimate = 1000;
  EXPECT_EQ(process.Get("a", "own", estimated), object);
  EXPECT_EQ(process.cache->Stats().bytes_retained, 1000u);
  process.cache->CheckInvariantsForTesting();
}

TEST_F(TierRecheckTest, APrefetchThatChecksEvictsNothing) {
  std::vector<RemovalCause> causes;
  Process process(server_, [&](Cache::Options& options) {
    options.weigher = [](const std::string&) { return uint64_t{1000}; };
    options.budget_bytes = 2500;
    options.count_entry_memory = false;
    options.removal_listener = [&](const std::string&, RemovalCause cause, uint64_t) {
      causes.push_back(cause);
    };
  });
  const Object object = process.Get("a", "one");
  process.cache->SetBudget(0);
  process.cache->SetBudget(2500);
  causes.clear();
  process.Get("b", "two");  // which nobody uses, and leaves no room
  process.LoseConnection();
  process.loads = 0;
  process.cache->Prefetch(
      std::vector<std::string>{"a"}, [&](const std::string& key) { return ++process.loads, key; },
      RunInline, PrefetchOptions());
  EXPECT_EQ(process.rechecks(), 1u);
  EXPECT_EQ(process.loads, 0);
  EXPECT_EQ(process.cache->Peek("a"), object);
  EXPECT_EQ(process.cache->Stats().bytes_retained, 1000u);
  EXPECT_TRUE(causes.empty());
}

// Checks "a" again and again, with `event` at another reading of the clock each time, until no
// reading is left.
template <typename Event, typename Check>
void AtEachReading(const std::shared_ptr<FakeServer>& server, const LoadOptions& first,
                   const LoadOptions& second, const Event& event, const Check& check) {
  bool is_left = true;
  for (int reading = 1; std::exchange(is_left, false); ++reading) {
    SCOPED_TRACE(reading);
    std::function<void()> on_clock;
    Process process(server, [&](Cache::Options& options) {
      options.clock = [&] {
        if (on_clock) on_clock();
        return testing::kTierStart;
      };
    });
    process.cache->Clear();
    const Object object = process.Get("a", "one", first);
    process.EvictAll();
    process.LoseConnection();
    on_clock = [&, left = reading]() mutable {
      if (--left != 0) return;
      is_left = true;
      const auto keep = std::exchange(on_clock, nullptr);
      event(process, object);
    };
    const Object result = process.Get("a", "own", second);
    on_clock = nullptr;
    if (is_left) check(process, object);
    process.cache->CheckInvariantsForTesting();
  }
}

TEST_F(TierRecheckTest, WhatIsInvalidatedDuringTheCheckIsNotRetained) {
  LoadOptions in_group;
  in_group.group = 3;
  int unretained = 0;
  uint64_t retained = 0;
  AtEachReading(
      server_, in_group, {},
      [&](Process& process, const Object&) {
        process.cache->InvalidateGroup(3);
        // By then the budget has looked for what it has of the group.
        for (int i = 0; i < 3; ++i) process.cache->Put("b", std::string("other"));
        retained = process.cache->Stats().bytes_retained;
      },
      [&](Process& process, const Object& object) {
        const Object found = process.cache->Peek("a");
        EXPECT_NE(found, object);
        if (found.get() != nullptr) return;
        EXPECT_EQ(process.cache->Stats().bytes_retained, retained);
        ++unretained;
      });
  EXPECT_GT(unretained, 0);
}

TEST_F(TierRecheckTest, ACheckThatIsCancelledByItsGroupLeavesTheObjectUnverified) {
  LoadOptions of_object;
  of_object.group = 3;
  LoadOptions of_load;
  of_load.group = 5;
  int unverified = 0;
  AtEachReading(
      server_, of_object, of_load,
      [](Process& process, const Object&) { process.cache->InvalidateGroup(5); },
      [&](Process& process, const Object& object) {
        if (process.cache->Peek("a").get() != nullptr) return;
        if (process.cache->size() == 0) return;
        EXPECT_EQ(process.Get("a", "own"), object);
        ++unverified;
      });
  EXPECT_GT(unverified, 0);
}

TEST_F(TierRecheckTest, AnObjectThatIsPutDuringTheCheckGetsNoGroup) {
  LoadOptions in_group;
  in_group.group = 5;
  int put = 0;
  AtEachReading(
      server_, {}, in_group,
      [](Process& process, const Object& object) { process.cache->Put("a", object); },
      [&](Process& process, const Object& object) {
        if (process.cache->Peek("a") != object) return;
        process.cache->InvalidateGroup(5);
        put += process.cache->Peek("a") == object ? 1 : 0;
      });
  EXPECT_GT(put, 1);
}

// The waiter may or may not be asleep by then. If it is, and nobody woke it, it would fail.
TEST_F(TierRecheckTest, WhoSleepsUntilThereIsRoomIsWokenByACheck) {
  LoadOptions estimated;
  estimated.weight_estimate = 1000;
  for (int round = 0; round < 50; ++round) {
    const auto server = std::make_shared<FakeServer>();
    Process process(server, [](Cache::Options& options) {
      options.weigher = [](const std::string&) { return uint64_t{1000}; };
      options.budget_bytes = 2000;
      options.hard_limit_bytes = 2000;
      options.count_entry_memory = false;
      options.hard_limit_wait = absl::Seconds(5);
    });
    const Object a = process.Get("a", "one");
    const Object b = process.Get("b", "two");
    process.LoseConnection();
    absl::StatusOr<Object> result;
    std::thread waiter([&] {
      result = process.cache->GetOrLoad(
          "a", [] { return std::string("own"); }, estimated);
    });
    for (int i = 0; i < 100; ++i) std::this_thread::yield();
    // Of all loads, only those of several keys do not queue for room, too.
    const auto load_all = [](const std::vector<std::string>& keys) { return keys; };
    EXPECT_EQ(process.cache->GetAll(std::vector<std::string>{"a"}, load_all)[0].value(), a);
    waiter.join();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result.value(), a);
  }
}

// Has each reading of the clock during a call, in turn, let another caller make the object current.
// Calls `call(process, others_load)` until no reading is left.
class DuringEachReading {
 public:
  DuringEachReading(const std::function<void(Cache::Options&)>& change,
                    const std::function<void(Process&)>& call) {
    for (int reading = 1; is_left_; ++reading) {
      SCOPED_TRACE(reading);
      std::function<void()> on_clock;
      const auto server = std::make_shared<FakeServer>();
      Process process(server, [&](Cache::Options& options) {
        options.clock = [&] {
          if (on_clock) on_clock();
          return testing::kTierStart;
        };
        change(options);
      });
      const Object object = process.Get("a", "one");
      const Object other = process.Get("b", "two");
      process.LoseConnection();
      is_left_ = false;
      on_clock = [&, left = reading]() mutable {
        if (--left != 0) return;
        is_left_ = true;
        const auto keep = std::exchange(on_clock, nullptr);
        const auto load = [] { return std::string("own"); };
        checked_ += process.cache->GetOrLoad("a", load).ok() ? 1 : 0;
      };
      call(process);
      on_clock = nullptr;
    }
  }
  // Returns how often the other caller has got the object.
  int checked() const { return checked_; }

 private:
  bool is_left_ = true;
  int checked_ = 0;
};

// Else it would sleep as long as nothing else changes.
TEST_F(TierRecheckTest, WhoWaitsForRoomSeesThatTheObjectIsCurrentAgain) {
  LoadOptions estimated;
  estimated.weight_estimate = 1000;
  int waited = 0;
  const DuringEachReading checks(
      [](Cache::Options& options) {
        options.weigher = [](const std::string&) { return uint64_t{1000}; };
        options.budget_bytes = 2000;
        options.hard_limit_bytes = 2000;
        options.count_entry_memory = false;
        options.hard_limit_wait = absl::Milliseconds(100);
      },
      [&](Process& process) {
        const auto result = process.cache->GetOrLoad(
            "a", [] { return std::string("own"); }, estimated);
        if (process.rechecks() == 0) return;
        EXPECT_TRUE(result.ok()) << result.status();
        ++waited;
      });
  EXPECT_GT(waited, 3);
  EXPECT_EQ(checks.checked(), waited);
}

TEST_F(TierRecheckTest, NobodyLoadsWhatIsCurrentAgain) {
  LoadOptions unread;
  unread.read_tier = false;
  unread.write_tier = false;
  int found = 0;
  int loaded = 0;
  const DuringEachReading checks([](Cache::Options&) {},
                                 [&](Process& process) {
                                   bool is_current = false;
                                   const auto load = [&] {
                                     is_current = process.cache->Peek("a").get() != nullptr;
                                     return std::string("own");
                                   };
                                   const Object object =
                                       process.cache->GetOrLoad("a", load, unread).value();
                                   EXPECT_FALSE(is_current);
                                   ++(*object == "one" ? found : loaded);
                                 });
  EXPECT_GT(checks.checked(), 2);
  EXPECT_GT(found, 0);
  EXPECT_GT(loaded, 0);
}

TEST_F(TierRecheckTest, ACheckPutsTheObjectIntoTheGroupThatItNames) {
  Process(server_).cache->Put("a", std::string("one"));  // into none
  LoadOptions in_group;
  in_group.group = 5;
  Process process(server_);
  const Object object = process.Get("a", "own");
  process.LoseConnection();
  EXPECT_EQ(process.Get("a", "own", in_group), object);
  EXPECT_TRUE(process.IsFound("a"));
  process.cache->InvalidateGroup(5);
  EXPECT_FALSE(process.IsFound("a"));
}

TEST_F(TierRecheckTest, AnEntryThatCanNotBeDecodedIsReplaced) {
  Process process(server_);
  process.Get("a", "one");
  process.LoseConnection();
  ChangeEntry("a", [](TierEntry& entry) { entry.bytes = TierBytes("two"); });
  process.codec->decode_status = absl::DataLossError("");
  EXPECT_EQ(*process.Get("a", "own"), "own");
  EXPECT_EQ(server_->BytesOf("a"), "own");
}

// Calls `on_end` once from its destructor, if it is the chosen one.
struct Thing {
  explicit Thing(std::string of_text) : text(std::move(of_text)) {}
  Thing(Thing&& other) noexcept : text(std::move(other.text)) {}
  Thing& operator=(Thing&&) = delete;
  ~Thing() {
    if (chosen == this && on_end) std::exchange(on_end, nullptr)();
  }
  std::string text;
  static inline const Thing* chosen = nullptr;
  static inline std::function<void()> on_end;
};
class ThingCodec final : public Codec<Thing> {
 public:
  uint32_t schema() const override { return 1; }
  absl::Status Encode(const Thing& thing, ByteSink& sink) const override {
    sink.Append(thing.text);
    return absl::OkStatus();
  }
  absl::StatusOr<Thing> Decode(std::string_view bytes) const override {
    return Thing(std::string(bytes));
  }
};
class TierRecheckEndTest : public TierRecheckTest {
 protected:
  using Things = LargeObjectCache<std::string, Thing>;

  TierRecheckEndTest() {
    Things::Options options = testing::WithBudget<Things>(1 << 20);
    options.second_tier = tier_;
    options.codec = std::make_shared<const ThingCodec>();
    options.weigher = [this](const Thing&) {
      if (on_weigh_) std::exchange(on_weigh_, nullptr)();
      return uint64_t{1};
    };
    options.clock = [this] {
      if (on_clock_) on_clock_();
      return testing::kTierStart;
    };
    options.at_tier_disconnect = AtTierDisconnect::kCheckAgain;
    cache_.emplace(std::move(Things::Create(std::move(options))).value());
  }
  static Thing Load() { return Thing("one"); }
  // Loads the object, and has it ask for its own key if it ends on this thread: then the key's load
  // is over, or the object ends inside of it.
  void LoadOneThatAsks(const std::string& key) {
    Thing::chosen = cache_->GetOrLoad(key, Load).value().get();
    Thing::on_end = [this, key, loading = std::this_thread::get_id()] {
      if (std::this_thread::get_id() != loading) return;
      asked_ = cache_->GetOrLoad(key, Load).status();
      ++asks_;
    };
  }
  void LoseConnection() {
    tier_->Disconnect();
    tier_->Deliver();
  }

  std::shared_ptr<FakeTier> tier_ = std::make_shared<FakeTier>(server_);
  std::function<void()> on_weigh_;
  std::function<void()> on_clock_;
  std::optional<Things> cache_;
  absl::Status asked_;
  int asks_ = 0;
};

TEST_F(TierRecheckEndTest, NoObjectEndsInsideACheck) {
  for (int reading = 1; reading <= 8; ++reading) {
    SCOPED_TRACE(reading);
    cache_->SetBudget(1 << 20);
    LoadOneThatAsks("a");
    LoseConnection();
    tier_->hook = [&, is_first = true](std::string_view point, std::string_view) mutable {
      if (point != "Get done" || !std::exchange(is_first, false)) return absl::OkStatus();
      on_clock_ = [&, left = reading]() mutable {
        if (--left == 0) std::thread([&] { cache_->SetBudget(0); }).join();
      };
      return absl::OkStatus();
    };
    EXPECT_TRUE(cache_->GetOrLoad("a", Load).ok());
    on_clock_ = nullptr;
    tier_->hook = nullptr;
    EXPECT_TRUE(asked_.ok()) << asked_;
    cache_->Clear();
  }
  EXPECT_GT(asks_, 0);
}

TEST_F(TierRecheckEndTest, NorInsideAnotherPartOfABulkLoad) {
  cache_->GetOrLoad("a", Load).value();
  const TierEntry entry = server_->Find("a").value();
  cache_->Invalidate("a");
  server_->Plant("a", entry);
  LoadOneThatAsks("b");
  LoseConnection();
  on_weigh_ = [&] {  // of "a", which is decoded
    cache_->SetBudget(0);
    throw std::runtime_error("");
  };
  const auto load_all = [](const std::vector<std::string>& keys) {
    std::vector<Thing> things;
    for (size_t i = 0; i < keys.size(); ++i) things.push_back(Load());
    return things;
  };
  EXPECT_THROW(static_cast<void>(cache_->GetAll(std::vector<std::string>{"a", "b"}, load_all)),
               std::runtime_error);
  EXPECT_EQ(asks_, 1);
  EXPECT_TRUE(asked_.ok()) << asked_;
}

TEST_F(TierRecheckTest, EvictedObjectsAreNotWrittenByACacheThatChecksAgain) {
  Cache::Options options = testing::WithBudget<Cache>(1 << 20);
  options.second_tier = std::make_shared<FakeTier>(server_);
  options.codec = std::make_shared<const TextCodec>();
  options.refresh_executor = RunInline;
  options.tier_write = TierWrite::kOnEviction;
  options.at_tier_disconnect = AtTierDisconnect::kCheckAgain;
  EXPECT_EQ(Cache::Create(std::move(options)).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(TierRecheckTest, StatsCountWhatIsCurrentAgain) {
  Process process(server_);
  process.Get("a", "one");
  process.LoseConnection();
  process.Get("a", "own");
  const CacheStats stats = process.cache->Stats();
  EXPECT_EQ(stats.tier_rechecks, 1u);
  EXPECT_EQ(stats.tier_hits, 0u);
  EXPECT_EQ(stats.tier_misses, 1u);  // of the first load
  EXPECT_EQ(stats.load_failures, 0u);
  EXPECT_NE(stats.ToText().find("0 hits, 1 misses, 1 rechecks;"), std::string::npos);
  EXPECT_NE(stats.ToJson().find(R"("tier_rechecks":1,)"), std::string::npos);
  EXPECT_NE(stats.ToPrometheus().find("\nweakcache_tier_rechecks_total 1\n"), std::string::npos);
  EXPECT_EQ((stats + stats).tier_rechecks, 2u);
}

}  // namespace
}  // namespace weakcache
