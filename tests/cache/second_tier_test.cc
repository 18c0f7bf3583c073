// SPDX-License-Identifier: Apache-2.0
// What SecondTier does for those who write one; and that the tests' own tier keeps its contract.
#include "weakcache/cache/second_tier.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/fake_tier.h"

namespace weakcache {
namespace {

using testing::FakeServer;
using testing::FakeTier;

TierEntry EntryOf(std::string bytes) {
  TierEntry entry;
  entry.bytes = TierBytes(std::move(bytes));
  return entry;
}

// One that overrides nothing but what it has to.
class PlainTier final : public SecondTier {
 public:
  absl::StatusOr<TierEntry> Get(std::string_view key, const TierWait&) override {
    const auto found = entries.find(std::string(key));
    if (found == entries.end()) return absl::NotFoundError("");
    return found->second;
  }
  absl::StatusOr<TierLead> Lead(std::string_view, const TierWait& wait) override {
    if (wait.deadline <= std::chrono::steady_clock::now()) return absl::DeadlineExceededError("");
    return TierLead{.lease = {"lease"}};
  }
  void EndLead(std::string_view, const TierLease&) override {}
  absl::Status Put(std::string_view key, const TierEntry& entry, const TierLease&) override {
    entries[std::string(key)] = entry;
    return absl::OkStatus();
  }
  absl::Status Erase(std::string_view key) override {
    entries.erase(std::string(key));
    return absl::OkStatus();
  }
  absl::Status EraseGroup(uint32_t) override { return absl::OkStatus(); }
  absl::Status EraseAll() override { return absl::OkStatus(); }
  absl::Status ForEachKey(absl::FunctionRef<void(std::string_view)> visit) override {
    for (const auto& [key, entry] : entries) visit(key);
    return absl::OkStatus();
  }

  std::map<std::string, TierEntry> entries;
};

TEST(SecondTierTest, BytesAreSharedNotCopied) {
  const TierBytes bytes(std::string(100, 'x'));
  const TierBytes copy = bytes;
  EXPECT_EQ(copy.view().data(), bytes.view().data());
  EXPECT_EQ(copy.size(), 100u);
  const auto owner = std::make_shared<const std::string>("abcdef");
  const TierBytes part(std::string_view(*owner).substr(2, 3), owner);
  EXPECT_EQ(part.view(), "cde");
  EXPECT_EQ(owner.use_count(), 2);
  EXPECT_EQ(TierBytes().size(), 0u);
}

TEST(SecondTierTest, SeveralKeysAreGotOneByOne) {
  PlainTier tier;
  tier.entries["b"] = EntryOf("two");
  const std::vector<std::string> keys = {"a", "b"};
  const auto entries = tier.GetAll(keys, {});
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_TRUE(absl::IsNotFound(entries[0].status()));
  EXPECT_EQ(entries[1]->bytes.view(), "two");
}

TEST(SecondTierTest, AsynchronousCallsBlock) {
  PlainTier tier;
  int done = 0;
  tier.PutAsync("a", EntryOf("one"), {}, [&](const absl::Status& status) {
    EXPECT_TRUE(status.ok());
    ++done;
  });
  tier.GetAsync("a", {}, [&](const absl::StatusOr<TierEntry>& entry) {
    EXPECT_EQ(entry->bytes.view(), "one");
    ++done;
  });
  tier.EraseAsync("a", [&](const absl::Status& status) {
    EXPECT_TRUE(status.ok());
    ++done;
  });
  EXPECT_EQ(done, 3);
  EXPECT_TRUE(tier.entries.empty());
  tier.Subscribe({});
  EXPECT_EQ(tier.Stats().hits, 0u);
}

TEST(SecondTierTest, TryLeadDoesNotWait) {
  PlainTier tier;
  EXPECT_TRUE(absl::IsDeadlineExceeded(tier.TryLead("a").status()));
}

class Notices final : public TierListener {
 public:
  void OnChanged(std::string_view key) override { seen.push_back(std::string(key)); }
  void OnGroupErased(uint32_t group) override { seen.push_back("group " + std::to_string(group)); }
  void OnAllErased() override { seen.push_back("all"); }
  void OnDisconnected() override { seen.push_back("disconnected"); }
  void OnConnected() override { seen.push_back("connected"); }

  std::vector<std::string> seen;
};

TEST(FakeTierTest, EachChangeEndsTheLease) {
  const auto server = std::make_shared<FakeServer>();
  FakeTier tier(server);
  const std::vector<std::function<void()>> changes = {
      [&] { EXPECT_TRUE(tier.Put("a", EntryOf("other"), {}).ok()); },
      [&] { EXPECT_TRUE(tier.Erase("a").ok()); }, [&] { EXPECT_TRUE(tier.EraseAll().ok()); }};
  for (const auto& change : changes) {
    EXPECT_TRUE(tier.EraseAll().ok());
    const TierLease lease = tier.Lead("a", {})->lease;
    ASSERT_TRUE(lease.held());
    EXPECT_FALSE(tier.TryLead("a")->lease.held());
    change();
    EXPECT_TRUE(absl::IsAborted(tier.Put("a", EntryOf("late"), lease)));
    EXPECT_NE(server->BytesOf("a"), "late");
  }
  EXPECT_TRUE(tier.EraseAll().ok());
  TierLease lease = tier.Lead("a", {})->lease;
  EXPECT_TRUE(tier.Put("a", EntryOf("one"), lease).ok());
  EXPECT_TRUE(absl::IsAborted(tier.Put("a", EntryOf("twice"), lease)));
  EXPECT_EQ(tier.Lead("a", {})->entry->bytes.view(), "one");
  lease = tier.TryLead("a")->lease;
  EXPECT_TRUE(lease.held());
  tier.EndLead("a", lease);
  EXPECT_EQ(server->leases(), 0u);
}

TEST(FakeTierTest, AnErasedGroupConcernsTheLoadsOfThatGroupOnly) {
  FakeTier tier;
  for (const std::optional<uint32_t> group : {std::optional<uint32_t>(), {4}, {5}}) {
    const TierLease lease = tier.Lead("a", {})->lease;
    EXPECT_TRUE(tier.EraseGroup(5).ok());
    TierEntry entry = EntryOf("one");
    entry.group = group;
    EXPECT_EQ(tier.Put("a", entry, lease).ok(), group != 5u);
    EXPECT_EQ(tier.server().leases(), 0u);
    const TierLease next = tier.TryLead("a")->lease;
    entry.group = 5;
    EXPECT_TRUE(tier.Put("a", entry, next).ok());
    EXPECT_TRUE(tier.Erase("a").ok());
  }
}

TEST(FakeTierTest, KeysThatHaveOnlyALeaseAreVisited) {
  FakeTier tier;
  EXPECT_TRUE(tier.Put("entry", EntryOf("one"), {}).ok());
  EXPECT_TRUE(tier.Lead("lease", {})->lease.held());
  std::vector<std::string> keys;
  EXPECT_TRUE(tier.ForEachKey([&](std::string_view key) { keys.emplace_back(key); }).ok());
  EXPECT_EQ(keys, (std::vector<std::string>{"lease", "entry"}));
}

TEST(FakeTierTest, OnlyOthersAreTold) {
  const auto server = std::make_shared<FakeServer>();
  FakeTier first(server);
  FakeTier second(server);
  const auto own = std::make_shared<Notices>();
  const auto others = std::make_shared<Notices>();
  first.Subscribe(own);
  second.Subscribe(others);
  EXPECT_TRUE(first.Put("a", EntryOf("one"), {}).ok());
  EXPECT_TRUE(first.Erase("b").ok());
  EXPECT_TRUE(first.EraseGroup(3).ok());
  EXPECT_TRUE(first.EraseAll().ok());
  second.Disconnect();
  second.Connect();
  EXPECT_EQ(first.Deliver(), 0u);
  EXPECT_EQ(second.Deliver(), 6u);
  EXPECT_EQ(own->seen, std::vector<std::string>{});
  EXPECT_EQ(others->seen,
            (std::vector<std::string>{"a", "b", "group 3", "all", "disconnected", "connected"}));
}

TEST(FakeTierTest, AWaitEndsAtItsDeadline) {
  FakeTier tier;
  const TierLease lease = tier.Lead("a", {})->lease;
  TierWait wait;
  wait.deadline = std::chrono::steady_clock::now();
  EXPECT_TRUE(absl::IsDeadlineExceeded(tier.Lead("a", wait).status()));
  tier.server().LetLeasesLast();
  const auto lead = tier.Lead("a", {});
  EXPECT_FALSE(lead->entry.has_value());
  EXPECT_FALSE(lead->lease.held());
}

}  // namespace
}  // namespace weakcache
