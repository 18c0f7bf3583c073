// SPDX-License-Identifier: Apache-2.0
// A LargeObjectCache whose second tier does not take a change, or whose notices can't be applied:
// no older object comes back, and later loads make up for it.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/allocations.h"
#include "tests/support/cache_options.h"
#include "tests/support/fake_tier.h"
#include "tests/support/tier_process.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/cache/second_tier.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::FakeServer;
using testing::FakeTier;

using Cache = LargeObjectCache<std::string, std::string>;
using Calls = std::vector<std::string>;

const absl::Time kStart = testing::kTierStart;

// A process: a cache with a tier on the test's server.
struct Process {
  explicit Process(const std::shared_ptr<FakeServer>& server,
                   absl::Duration life = absl::InfiniteDuration())
      : tier(std::make_shared<FakeTier>(server)) {
    Cache::Options options = testing::WithBudget<Cache>(1 << 20);
    options.second_tier = tier;
    options.codec = std::make_shared<const testing::TextCodec>();
    options.expire_after_write = life;
    options.clock = [this] {
      if (const auto then = on_clock) then();
      if (clock_fails) throw std::runtime_error("no time");
      return now;
    };
    options.weigher = [this](const std::string&) -> uint64_t { return on_weigh ? on_weigh() : 1; };
    options.encode_key = [](const std::string& key) { return key; };
    options.decode_key = [this](std::string_view key) -> std::optional<std::string> {
      if (on_decode_key) on_decode_key();
      if (key[0] == '?') return std::nullopt;
      return std::string(key);
    };
    cache.emplace(std::move(Cache::Create(std::move(options))).value());
  }
  std::string Load(const std::string& key, const std::string& object) {
    return *cache->GetOrLoad(key, [&] { return object; }).value();
  }
  std::string Present(const std::string& key) {
    const Ref<std::string> found = cache->Peek(key);
    return found.get() == nullptr ? "(none)" : *found;
  }
  // Lets calls of the tier fail, until `is_away` is false.
  void FailAt(std::string_view failing) {
    is_away = true;
    tier->hook = [this, failing](std::string_view point, std::string_view) {
      return is_away && point == failing ? absl::UnavailableError("") : absl::OkStatus();
    };
  }

  absl::Time now = kStart;
  bool clock_fails = false;
  bool is_away = false;
  std::function<void()> on_clock;
  std::function<void()> on_decode_key;
  std::function<uint64_t()> on_weigh;
  std::shared_ptr<FakeTier> tier;
  std::optional<Cache> cache;
};

class SecondTierFailures : public ::testing::Test {
 protected:
  static TierEntry Entry(const std::string& bytes, std::optional<uint32_t> group = std::nullopt) {
    TierEntry entry;
    entry.bytes = TierBytes(bytes);
    entry.schema = 7;
    entry.written = kStart;
    entry.group = group;
    return entry;
  }

  std::shared_ptr<FakeServer> server_ = std::make_shared<FakeServer>();
};

TEST_F(SecondTierFailures, ATierThatCouldNotBeClearedIsClearedByALaterLoad) {
  Process process(server_);
  Process other(server_);
  process.Load("a", "old");
  EXPECT_EQ(other.Load("a", "?"), "old");
  process.FailAt("EraseAll");
  process.cache->Clear();
  EXPECT_EQ(process.cache->Stats().tier_condition, "not used until it can be cleared");
  EXPECT_EQ(process.cache->Stats().tier_failed_changes, 1u);
  process.tier->ClearLog();
  EXPECT_EQ(process.Load("b", "b"), "b");
  process.now += absl::Milliseconds(100);
  EXPECT_EQ(process.Load("c", "c"), "c");
  EXPECT_EQ(process.Load("d", "d"), "d");
  EXPECT_EQ(process.tier->log(), (Calls{"EraseAll"}));
  process.is_away = false;
  process.now += absl::Milliseconds(100);
  process.tier->ClearLog();
  EXPECT_EQ(process.Load("e", "e"), "e");
  EXPECT_EQ(process.tier->log(), (Calls{"EraseAll", "Get e", "Lead e", "PutByLease e"}));
  EXPECT_EQ(process.Load("a", "new"), "new");
  EXPECT_EQ(process.Present("c"), "c");  // what the cache has got since stays
  other.tier->Deliver();
  EXPECT_EQ(other.Load("a", "?"), "new");
  EXPECT_EQ(process.cache->Stats().tier_condition, "");
}

TEST_F(SecondTierFailures, AGroupThatCouldNotBeErasedIsErasedByALaterLoad) {
  Process process(server_);
  Process other(server_);
  process.cache->Put("a", Loaded<std::string>{.object = "old", .group = 3});
  EXPECT_EQ(other.Load("a", "?"), "old");
  process.FailAt("EraseGroup");
  process.cache->InvalidateGroup(3);
  process.tier->stats.condition = "breaker open";
  EXPECT_EQ(process.cache->Stats().tier_condition, "breaker open; groups have yet to be erased");
  EXPECT_EQ(process.Load("a", "new"), "new");
  process.is_away = false;
  process.now += absl::Milliseconds(100);
  process.Load("b", "b");  // any load
  EXPECT_EQ(process.tier->Count("EraseGroup 3"), 2u);
  other.tier->Deliver();
  EXPECT_EQ(other.Present("a"), "(none)");
  process.Load("c", "c");
  EXPECT_EQ(process.tier->Count("EraseGroup 3"), 2u);
}

TEST_F(SecondTierFailures, AKeyThatCouldNotBeErasedIsErasedByALoadOfAnother) {
  Process process(server_);
  Process other(server_);
  process.Load("a", "old");
  EXPECT_EQ(other.Load("a", "?"), "old");
  process.FailAt("Erase");
  process.cache->Invalidate("a");
  EXPECT_EQ(process.cache->Stats().tier_condition, "keys have yet to be erased");
  process.Load("b", "b");
  process.is_away = false;
  process.now += absl::Milliseconds(100);
  process.Load("c", "c");
  EXPECT_EQ(server_->BytesOf("a"), "(none)");
  other.tier->Deliver();
  EXPECT_EQ(other.Present("a"), "(none)");
  EXPECT_EQ(process.cache->Stats().tier_condition, "");
}

TEST_F(SecondTierFailures, AFailedChangeBesideAnErasureOfAllIsNotForgotten) {
  Process process(server_);
  bool is_beside = true;
  process.tier->hook = [&](std::string_view point, std::string_view key) {
    if (point == "EraseAll done" && std::exchange(is_beside, false)) {
      server_->Plant("a", Entry("old"));  // by another process, before the source has changed
      server_->Plant("b", Entry("old", 3));
      process.cache->Invalidate("a");  // on another thread, after that
      process.cache->InvalidateGroup(3);
    }
    const bool fails = point == "EraseGroup" || (point == "Erase" && key == "a");
    return fails ? absl::UnavailableError("") : absl::OkStatus();
  };
  process.cache->Clear();
  EXPECT_EQ(process.Load("a", "new"), "new");
  EXPECT_EQ(process.Load("b", "new"), "new");
}

TEST_F(SecondTierFailures, AFailedErasureOfAGroupBesideAnotherIsNotForgotten) {
  Process process(server_);
  int erasures = 0;
  process.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "EraseGroup done" && erasures == 1) {
      server_->Plant("a", Entry("old", 3));
      process.cache->InvalidateGroup(3);
    }
    return point == "EraseGroup" && ++erasures == 2 ? absl::UnavailableError("") : absl::OkStatus();
  };
  process.cache->InvalidateGroup(3);
  EXPECT_EQ(erasures, 2);
  EXPECT_EQ(process.Load("a", "new"), "new");
}

TEST_F(SecondTierFailures, WithoutMemoryForAChangeTheTierIsEmptied) {
  // Each time another allocation of the change fails, or of what the tier is given.
  for (int countdown = 1; countdown <= 12; ++countdown) {
    SCOPED_TRACE(countdown);
    const std::string key = "a key that is too long to be kept within a string";
    Process process(server_);
    server_->Plant(key, Entry("old"));
    testing::FailAllocation(countdown);
    bool is_done = true;
    try {
      process.cache->Invalidate(key);
    } catch (const std::bad_alloc&) {
      is_done = false;
    }
    testing::FailAllocation(0);
    if (!is_done) continue;
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(process.Load("other", "other"), "other");
      process.cache->Invalidate("other");
      process.now += absl::Seconds(1);
    }
    EXPECT_EQ(process.Load(key, "new"), "new");
    EXPECT_EQ(server_->BytesOf(key), "new");  // the tier is used again
    EXPECT_EQ(process.cache->Stats().tier_condition, "");
  }
}

TEST_F(SecondTierFailures, APutWithoutMemoryForItsMarkHasTheTierEmptiedAfterIt) {
  const std::string key = "a key that is too long to be kept within a string";
  int unmarked = 0;
  for (int countdown = 1; countdown <= 12; ++countdown) {
    SCOPED_TRACE(countdown);
    Process process(server_);
    bool is_unmarked = false;
    process.on_weigh = [&]() -> uint64_t {  // in Put, before the cache has the object
      testing::FailAllocation(0);
      if (process.cache->Stats().tier_condition.empty() || std::exchange(is_unmarked, true)) {
        return 1;
      }
      process.Load("one", "one");
      process.now += absl::Seconds(1);
      process.Load("two", "two");
      EXPECT_EQ(process.cache->Stats().tier_condition, "");
      server_->Plant(key, Entry("old"));  // by a load that the Put supersedes
      return 1;
    };
    testing::FailAllocation(countdown);
    try {
      process.cache->Put(key, std::string("new"));
    } catch (const std::bad_alloc&) {
    }
    testing::FailAllocation(0);
    if (!is_unmarked) continue;
    ++unmarked;
    EXPECT_EQ(process.Present(key), "new");
    process.Load("three", "three");
    process.now += absl::Seconds(1);
    process.Load("four", "four");
    EXPECT_EQ(server_->BytesOf(key), "(none)");
  }
  EXPECT_GT(unmarked, 0);
}

TEST_F(SecondTierFailures, InvalidateOfAnObjectCancelsALoadThatHasReadIt) {
  Process process(server_);
  server_->Plant("a", Entry("old"));
  const Ref<std::string> old = MakeRef<std::string>("old");
  bool has_invalidated = false;
  process.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "Get done" && !std::exchange(has_invalidated, true)) {
      EXPECT_FALSE(process.cache->Invalidate("a", old));
    }
    return absl::OkStatus();
  };
  EXPECT_EQ(process.Load("a", "new"), "old");  // the load has begun before
  EXPECT_EQ(process.Present("a"), "(none)");
  EXPECT_EQ(process.Load("a", "new"), "new");
  EXPECT_EQ(server_->BytesOf("a"), "new");
}

TEST_F(SecondTierFailures, InvalidateOfAnObjectLeavesItsSuccessorAlone) {
  Process process(server_);
  const Ref<std::string> old = MakeRef<std::string>("old");
  process.tier->hook = [&](std::string_view point, std::string_view) {
    if (point == "PutByLease") {
      EXPECT_FALSE(process.cache->Invalidate("a", old));
    }
    return absl::OkStatus();
  };
  EXPECT_EQ(process.Load("a", "new"), "new");
  EXPECT_EQ(process.Present("a"), "new");
  EXPECT_EQ(process.tier->Count("Erase a"), 0u);
}

TEST_F(SecondTierFailures, ANoticeThatCannotBeAppliedDropsEverything) {
  Process process(server_);
  Process other(server_);
  process.Load("a", "a");
  process.Load("b", "b");
  process.on_decode_key = [] { throw std::runtime_error("no key"); };
  other.cache->Invalidate("a");
  process.tier->Deliver();
  EXPECT_EQ(process.cache->size(), 0u);
  EXPECT_EQ(process.cache->Stats().tier_failed_notices, 1u);
  process.on_decode_key = nullptr;
  process.Load("b", "b");
  other.cache->Invalidate("a");
  process.tier->Deliver();
  EXPECT_EQ(process.Present("b"), "b");
  // A key of somebody else's.
  other.cache->Invalidate("?");
  process.tier->Deliver();
  EXPECT_EQ(process.Present("b"), "b");
  EXPECT_EQ(process.cache->Stats().tier_failed_notices, 2u);
}

// Throws what it is told to.
struct TroubledHash {
  size_t operator()(const std::string& key) const {
    if (fails) throw std::runtime_error("no hash");
    return std::hash<std::string>()(key);
  }
  static inline bool fails = false;
};
using TroubledCache = LargeObjectCache<std::string, std::string, TroubledHash, std::equal_to<>>;

TEST_F(SecondTierFailures, ANoticeWhoseKeyHasNoHashDropsEverything) {
  TroubledCache::Options options = testing::WithBudget<TroubledCache>(1 << 20);
  const auto tier = std::make_shared<FakeTier>(server_);
  options.second_tier = tier;
  options.codec = std::make_shared<const testing::TextCodec>();
  TroubledCache cache = std::move(TroubledCache::Create(std::move(options))).value();
  cache.Put("a", std::string("old"));
  FakeTier other(server_);
  EXPECT_TRUE(other.Erase("a").ok());
  TroubledHash::fails = true;
  tier->Deliver();
  TroubledHash::fails = false;
  EXPECT_EQ(cache.size(), 0u);
  EXPECT_EQ(cache.Stats().tier_failed_notices, 1u);
}

TEST_F(SecondTierFailures, WhatANoticeCouldNotDropTheNextOneDrops) {
  Process process(server_, absl::Hours(1));
  Process other(server_);
  process.Load("a", "old");
  other.cache->Invalidate("a");
  process.clock_fails = true;
  process.tier->Deliver();
  process.clock_fails = false;
  EXPECT_EQ(process.Present("a"), "old");
  EXPECT_EQ(process.cache->Stats().tier_condition, "a notice could not be applied");
  other.cache->Invalidate("b");
  process.tier->Deliver();
  EXPECT_EQ(process.Present("a"), "(none)");
  EXPECT_EQ(process.cache->Stats().tier_condition, "");
  EXPECT_EQ(process.cache->Stats().tier_failed_notices, 1u);
}

TEST_F(SecondTierFailures, WhatIsMissedWhileAllIsDroppedIsDroppedByTheNextNotice) {
  Process process(server_, absl::Hours(1));
  Process other(server_);
  process.Load("a", "old");
  process.Load("b", "old");
  other.cache->Invalidate("a");
  process.clock_fails = true;
  process.tier->Deliver();
  other.cache->Invalidate("c");
  process.clock_fails = false;
  // Invalidate asks for the time, and then Clear, before it drops anything. Another thread's notice
  // may come then.
  int asked = 0;
  process.on_clock = [&] {
    if (++asked != 2) return;
    other.cache->Invalidate("b");
    process.clock_fails = true;
    process.tier->Deliver();
    process.clock_fails = false;
  };
  process.tier->Deliver();
  EXPECT_EQ(process.cache->Stats().tier_failed_notices, 2u);
  EXPECT_EQ(process.cache->Stats().tier_condition, "a notice could not be applied");
  process.Load("d", "perhaps old");
  other.cache->Invalidate("c");
  process.tier->Deliver();
  EXPECT_EQ(process.cache->size(), 0u);
  EXPECT_EQ(process.cache->Stats().tier_condition, "");
}

TEST_F(SecondTierFailures, ATierThatThrowsAtAPutIsOneThatFails) {
  Process process(server_);
  process.Load("a", "old");
  process.tier->hook = [](std::string_view point, std::string_view) {
    if (point == "Put") throw std::runtime_error("no socket");
    return absl::OkStatus();
  };
  process.cache->Put("a", std::string("new"));
  process.tier->hook = nullptr;
  EXPECT_EQ(process.Present("a"), "new");
  EXPECT_EQ(server_->BytesOf("a"), "(none)");
  EXPECT_EQ(process.cache->Stats().tier_condition, "");
  process.cache->Trim(0);
  EXPECT_EQ(process.Load("a", "newer"), "newer");
  EXPECT_EQ(server_->BytesOf("a"), "newer");
}

TEST_F(SecondTierFailures, ATierThatThrowsAtAPutGetsItsLeaseBack) {
  Process process(server_);
  process.tier->hook = [](std::string_view point, std::string_view) {
    if (point == "PutByLease") throw std::runtime_error("no socket");
    return absl::OkStatus();
  };
  EXPECT_EQ(process.Load("a", "a"), "a");
  EXPECT_EQ(server_->leases(), 0u);
  EXPECT_EQ(process.cache->Stats().tier_condition, "");
}

TEST_F(SecondTierFailures, WithoutMemoryForANoticeNothingOldStays) {
  for (int countdown = 1; countdown <= 6; ++countdown) {
    SCOPED_TRACE(countdown);
    const std::string key = "a key that is too long to be kept within a string";
    Process process(server_);
    Process other(server_);
    process.cache->Put(key, Loaded<std::string>{.object = "old", .group = 3});
    other.tier->Deliver();
    for (const bool is_of_group : {false, true}) {
      is_of_group ? other.cache->InvalidateGroup(3) : void(other.cache->Invalidate(key));
      testing::FailAllocation(countdown);
      process.tier->Deliver();
      testing::FailAllocation(0);
      EXPECT_EQ(process.Present(key), "(none)");
      process.cache->Put(key, Loaded<std::string>{.object = "old", .group = 3});
    }
  }
}

}  // namespace
}  // namespace weakcache
