// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/rocksdb_tier.h"

#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/race.h"
#include "tests/support/rounds.h"
#include "tests/support/temporary_folder.h"
#include "weakcache/cache/internal/creation/stop_token.h"
#include "weakcache/cache/second_tier.h"

namespace weakcache {
namespace {

using ::testing::HasSubstr;
using ::weakcache::testing::TemporaryFolder;

constexpr uint64_t kMiB = uint64_t{1} << 20;

RocksdbTierOptions OptionsFor(const TemporaryFolder& folder) {
  RocksdbTierOptions options;
  options.folder = (folder.path() / "tier").string();
  options.limit_bytes = 32 * kMiB;
  options.sync_changes = false;  // the kernel keeps what is written
  options.retry_after = absl::ZeroDuration();
  return options;
}

std::shared_ptr<RocksdbTier> MakeTier(const RocksdbTierOptions& options) {
  auto tier = RocksdbTier::Create(options);
  EXPECT_TRUE(tier.ok()) << tier.status();
  return tier.ok() ? *tier : nullptr;
}

TierEntry EntryOf(std::string bytes, std::optional<uint32_t> group = {}) {
  return {.bytes = std::move(bytes),
          .schema = 7,
          .written = absl::FromUnixSeconds(1000),
          .group = group};
}

// Returns the bytes under the key, or else the name of the status.
std::string Read(RocksdbTier& tier, std::string_view key) {
  absl::StatusOr<TierEntry> entry = tier.Get(key, {});
  if (entry.ok()) return std::string(entry->bytes.view());
  return absl::StatusCodeToString(entry.status().code());
}

std::string RandomBytes(std::mt19937_64& random, size_t size) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

// Puts an entry, again if a disk that is busy with others has dropped no older files for a second.
// Adds to `refusals` how often that was so.
absl::Status PutWhenThereIsRoom(RocksdbTier& tier, std::string_view key, const TierEntry& entry,
                                uint64_t* refusals = nullptr) {
  const absl::Time give_up = absl::Now() + absl::Seconds(60);
  absl::Status status = tier.Put(key, entry, {});
  while (absl::IsResourceExhausted(status) && absl::Now() < give_up) {
    if (refusals != nullptr) ++*refusals;
    status = tier.Put(key, entry, {});
  }
  return status;
}

// Writes at least so many bytes under other keys, so that files are made, and old ones dropped.
void Churn(RocksdbTier& tier, uint64_t bytes) {
  std::mt19937_64 random(bytes);
  const std::string value = RandomBytes(random, kMiB / 4);
  for (uint64_t written = 0; written < bytes; written += value.size()) {
    ASSERT_EQ(PutWhenThereIsRoom(tier, "churn" + std::to_string(written), EntryOf(value)),
              absl::OkStatus());
  }
}

TEST(RocksdbTierTest, KeepsEntriesOverARestart) {
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder);
  std::shared_ptr<RocksdbTier> tier = MakeTier(options);
  TierEntry entry = EntryOf("picture", 9);
  entry.expires = absl::InfiniteFuture();
  ASSERT_EQ(tier->Put("a", entry, {}), absl::OkStatus());
  ASSERT_EQ(tier->Put("b", EntryOf(std::string(kMiB / 2, 'b')), {}), absl::OkStatus());
  ASSERT_EQ(tier->Put("", EntryOf(""), {}), absl::OkStatus());
  for (int restart = 0; restart < 3; ++restart) {
    absl::StatusOr<TierEntry> found = tier->Get("a", {});
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->bytes.view(), "picture");
    EXPECT_EQ(found->schema, 7u);
    EXPECT_EQ(found->written, absl::FromUnixSeconds(1000));
    EXPECT_EQ(found->expires, absl::InfiniteFuture());
    EXPECT_EQ(found->group, 9u);
    EXPECT_EQ(Read(*tier, "b"), std::string(kMiB / 2, 'b'));
    EXPECT_EQ(Read(*tier, ""), "");
    EXPECT_EQ(Read(*tier, "c"), "NOT_FOUND");
    tier.reset();
    tier = MakeTier(options);
  }
}

TEST(RocksdbTierTest, BytesOutliveTheTier) {
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder);
  const std::string value(kMiB / 4, 'v');
  ASSERT_EQ(MakeTier(options)->Put("a", EntryOf(value), {}), absl::OkStatus());
  std::shared_ptr<RocksdbTier> tier = MakeTier(options);  // which has it in a file
  absl::StatusOr<TierEntry> found = tier->Get("a", {});
  ASSERT_TRUE(found.ok());
  ASSERT_EQ(tier->EraseAll(), absl::OkStatus());
  tier.reset();
  EXPECT_EQ(found->bytes.view(), value);
}

TEST(RocksdbTierTest, RefusesBadOptions) {
  const TemporaryFolder folder;
  const auto refusal = [&](auto change) {
    RocksdbTierOptions options = OptionsFor(folder);
    change(options);
    const absl::Status status = RocksdbTier::Create(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(refusal([](auto& options) { options.folder = ""; }), HasSubstr("folder"));
  EXPECT_THAT(refusal([](auto& options) { options.limit_bytes = 0; }), HasSubstr("limit_bytes"));
  EXPECT_THAT(refusal([](auto& options) { options.max_value_bytes = 3 * kMiB; }),
              HasSubstr("max_value_bytes"));
  EXPECT_THAT(refusal([](auto& options) { options.write_buffer_bytes = 2 * kMiB; }),
              HasSubstr("write_buffer_bytes"));
  EXPECT_THAT(refusal([](auto& options) { options.lease_timeout = -absl::Seconds(1); }),
              HasSubstr("lease_timeout"));
}

TEST(RocksdbTierTest, RefusesAFolderThatIsUsed) {
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder);
  std::shared_ptr<RocksdbTier> tier = MakeTier(options);
  const absl::Status status = RocksdbTier::Create(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(options.folder));
  EXPECT_EQ(tier->Put("a", EntryOf("a"), {}), absl::OkStatus());
  tier.reset();
  EXPECT_EQ(Read(*MakeTier(options), "a"), "a");
}

TEST(RocksdbTierTest, RefusesAFolderWithOtherFiles) {
  const TemporaryFolder folder;
  RocksdbTierOptions options = OptionsFor(folder);
  options.folder = folder.path().string();
  std::ofstream(folder.path() / "letter.txt") << "dear";
  const absl::Status status = RocksdbTier::Create(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(options.folder));
  EXPECT_EQ(folder.Files().size(), 1u);
}

TEST(RocksdbTierTest, EmptiesAFolderOfAnotherFormat) {
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder);
  ASSERT_EQ(MakeTier(options)->Put("a", EntryOf("a"), {}), absl::OkStatus());
  std::ofstream(folder.path() / "tier" / "weakcache_tier") << "weakcache RocksdbTier, format 9\n";
  std::shared_ptr<RocksdbTier> tier = MakeTier(options);
  EXPECT_EQ(Read(*tier, "a"), "NOT_FOUND");
  EXPECT_EQ(tier->Put("b", EntryOf("b"), {}), absl::OkStatus());
  tier.reset();
  EXPECT_EQ(Read(*MakeTier(options), "b"), "b");
}

TEST(RocksdbTierTest, ErasesOverARestart) {
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder);
  std::shared_ptr<RocksdbTier> tier = MakeTier(options);
  ASSERT_EQ(tier->Put("one", EntryOf("1", 1), {}), absl::OkStatus());
  ASSERT_EQ(tier->Put("two", EntryOf("2", 2), {}), absl::OkStatus());
  ASSERT_EQ(tier->Put("none", EntryOf("0"), {}), absl::OkStatus());
  ASSERT_EQ(tier->Put("old", EntryOf("o", 1), {}), absl::OkStatus());
  ASSERT_EQ(tier->Erase("none"), absl::OkStatus());
  ASSERT_EQ(tier->Erase("never"), absl::OkStatus());
  ASSERT_EQ(tier->EraseGroup(1), absl::OkStatus());
  ASSERT_EQ(tier->Put("one", EntryOf("new", 1), {}), absl::OkStatus());
  for (int restart = 0; restart < 3; ++restart) {
    EXPECT_EQ(Read(*tier, "one"), "new");
    EXPECT_EQ(Read(*tier, "two"), "2");
    EXPECT_EQ(Read(*tier, "none"), "NOT_FOUND");
    EXPECT_EQ(Read(*tier, "old"), "NOT_FOUND");
    tier.reset();
    tier = MakeTier(options);
  }
  ASSERT_EQ(tier->EraseAll(), absl::OkStatus());
  for (int restart = 0; restart < 2; ++restart) {
    EXPECT_EQ(Read(*tier, "one"), "NOT_FOUND");
    EXPECT_EQ(Read(*tier, "two"), "NOT_FOUND");
    // The group's erasure is behind what is put now, also in files that began anew.
    ASSERT_EQ(tier->Put("later", EntryOf("later", 1), {}), absl::OkStatus());
    EXPECT_EQ(Read(*tier, "later"), "later");
    ASSERT_EQ(tier->EraseGroup(1), absl::OkStatus());
    EXPECT_EQ(Read(*tier, "later"), "NOT_FOUND");
    tier.reset();
    tier = MakeTier(options);
    EXPECT_EQ(Read(*tier, "later"), "NOT_FOUND");
    ASSERT_EQ(tier->Put("later", EntryOf("latest", 1), {}), absl::OkStatus());
    EXPECT_EQ(Read(*tier, "later"), "latest");
  }
}

TEST(RocksdbTierTest, EraseAllFreesTheDisk) {
  const TemporaryFolder folder;
  std::shared_ptr<RocksdbTier> tier = MakeTier(OptionsFor(folder));
  Churn(*tier, 8 * kMiB);
  EXPECT_GT(folder.Bytes(), 8 * kMiB);
  ASSERT_EQ(tier->EraseAll(), absl::OkStatus());
  // On a thread of the tier's.
  const absl::Time latest = absl::Now() + absl::Seconds(10);
  while (folder.Bytes() >= kMiB && absl::Now() < latest) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_LT(folder.Bytes(), kMiB);
}

TEST(RocksdbTierTest, AnExpiredEntryIsMissing) {
  const TemporaryFolder folder;
  RocksdbTierOptions options = OptionsFor(folder);
  absl::Time now = absl::FromUnixSeconds(5000);
  options.clock = [&] { return now; };
  std::shared_ptr<RocksdbTier> tier = MakeTier(options);
  TierEntry entry = EntryOf("a");
  entry.expires = now + absl::Seconds(10);
  ASSERT_EQ(tier->Put("a", entry, {}), absl::OkStatus());
  now += absl::Seconds(10) - absl::Nanoseconds(1);
  EXPECT_EQ(Read(*tier, "a"), "a");
  now += absl::Nanoseconds(1);
  EXPECT_EQ(Read(*tier, "a"), "NOT_FOUND");
  absl::StatusOr<TierLead> lead = tier->Lead("a", {});
  ASSERT_TRUE(lead.ok());
  EXPECT_FALSE(lead->entry.has_value());
  EXPECT_EQ(tier->Put("a", EntryOf("b"), lead->lease), absl::OkStatus());
  EXPECT_EQ(Read(*tier, "a"), "b");
}

TEST(RocksdbTierTest, SkipsWhatIsTooLarge) {
  const TemporaryFolder folder;
  RocksdbTierOptions options = OptionsFor(folder);
  options.max_value_bytes = 1000;
  std::shared_ptr<RocksdbTier> tier = MakeTier(options);
  ASSERT_EQ(tier->Put("a", EntryOf(std::string(1000, 'a')), {}), absl::OkStatus());
  EXPECT_EQ(Read(*tier, "a"), std::string(1000, 'a'));
  EXPECT_EQ(tier->Put("a", EntryOf(std::string(1001, 'a')), {}), absl::OkStatus());
  EXPECT_EQ(Read(*tier, "a"), "NOT_FOUND") << "it would be older than what was put";
  absl::StatusOr<TierLead> lead = tier->Lead("a", {});
  ASSERT_TRUE(lead.ok());
  EXPECT_EQ(tier->Put("a", EntryOf(std::string(1001, 'a')), lead->lease), absl::OkStatus());
  EXPECT_TRUE(tier->Lead("a", {})->lease.held()) << "the lease has ended";
  EXPECT_EQ(tier->Stats().skipped_values, 2u);
  const std::string long_key(65'537, 'k');
  EXPECT_EQ(tier->Put(long_key, EntryOf("a"), {}), absl::OkStatus());
  EXPECT_EQ(Read(*tier, long_key), "NOT_FOUND");
  EXPECT_EQ(tier->Stats().skipped_values, 3u);
}

TEST(RocksdbTierTest, VisitsAllKeys) {
  const TemporaryFolder folder;
  std::shared_ptr<RocksdbTier> tier = MakeTier(OptionsFor(folder));
  std::set<std::string> keys;
  for (int i = 0; i < 300; ++i) {
    keys.insert(std::to_string(i));
    ASSERT_EQ(tier->Put(std::to_string(i), EntryOf(std::string(10'000, 'a')), {}),
              absl::OkStatus());
  }
  ASSERT_EQ(tier->Erase("299"), absl::OkStatus());
  keys.erase("299");
  // A key that has only a lease is visited, too.
  ASSERT_TRUE(tier->Lead("lease", {})->lease.held());
  keys.insert("lease");
  std::multiset<std::string> visited;
  ASSERT_EQ(tier->ForEachKey([&](std::string_view key) { visited.emplace(key); }),
            absl::OkStatus());
  EXPECT_EQ(visited, std::multiset<std::string>(keys.begin(), keys.end()));
  // A visitor may change the tier, and even erase all.
  int visits = 0;
  (void)tier->ForEachKey([&](std::string_view) {
    if (++visits == 1) {
      ASSERT_EQ(tier->EraseAll(), absl::OkStatus());
    }
  });
  EXPECT_EQ(Read(*tier, "1"), "NOT_FOUND");
}

TEST(RocksdbTierTest, CountsWhatItDoes) {
  const TemporaryFolder folder;
  std::shared_ptr<RocksdbTier> tier = MakeTier(OptionsFor(folder));
  ASSERT_EQ(tier->Put("a", EntryOf("12345"), {}), absl::OkStatus());
  EXPECT_EQ(Read(*tier, "a"), "12345");
  EXPECT_EQ(Read(*tier, "b"), "NOT_FOUND");
  absl::StatusOr<TierLead> lead = tier->Lead("b", {});
  ASSERT_TRUE(lead.ok());
  ASSERT_EQ(tier->Erase("b"), absl::OkStatus());
  EXPECT_EQ(tier->Put("b", EntryOf("b"), lead->lease).code(), absl::StatusCode::kAborted);
  const TierStats stats = tier->Stats();
  EXPECT_EQ(stats.hits, 1u);
  EXPECT_EQ(stats.misses, 1u);
  EXPECT_EQ(stats.puts, 1u);
  EXPECT_EQ(stats.erases, 1u);
  EXPECT_EQ(stats.bytes_read, 5u);
  EXPECT_EQ(stats.bytes_written, 5u);
  EXPECT_EQ(stats.leases_won, 1u);
  EXPECT_EQ(stats.leases_lost, 1u);
  EXPECT_EQ(stats.errors, 0u);
  EXPECT_EQ(stats.condition, "");
  EXPECT_GT(stats.read_time, absl::ZeroDuration());
  EXPECT_GT(stats.write_time, absl::ZeroDuration());
}

// The limit

// Overwrites and erases many times the limit, and measures the folder all the time.
TEST(RocksdbTierTest, TheLimitHoldsUnderChurn) {
  const TemporaryFolder folder;
  RocksdbTierOptions options = OptionsFor(folder);
  std::shared_ptr<RocksdbTier> tier = MakeTier(options);
  const uint64_t total = testing::Rounds<uint64_t>(60, 8) * options.limit_bytes;
  std::mt19937_64 random(17);
  const std::string bytes = RandomBytes(random, kMiB);
  std::atomic<bool> done{false};
  uint64_t most = 0;
  std::thread meter([&] {
    while (!done.load()) most = std::max(most, folder.Bytes());
  });
  uint64_t written = 0;
  uint64_t refusals = 0;
  absl::Status status;
  for (int i = 0; written < total && status.ok(); ++i) {
    const std::string key = std::to_string(random() % 400);
    if (i % 7 == 0) {
      status = tier->Erase(key);
    } else if (i % 500 == 1) {
      status = tier->EraseGroup(static_cast<uint32_t>(random() % 4));
    } else {
      const size_t size = random() % (i % 5 == 0 ? kMiB / 2 : kMiB / 16);
      const auto group = static_cast<uint32_t>(random() % 4);
      const std::string part = bytes.substr(random() % (kMiB / 2), size);
      status = PutWhenThereIsRoom(*tier, key, EntryOf(part, group), &refusals);
      EXPECT_EQ(Read(*tier, key), part);
      written += size;
    }
  }
  done.store(true);
  meter.join();
  EXPECT_EQ(status, absl::OkStatus());
  EXPECT_LE(most, options.limit_bytes);
  EXPECT_GT(most, options.limit_bytes / 3) << "makes no use of what it may have";
  EXPECT_EQ(tier->Stats().errors, refusals);
  tier.reset();
  tier = MakeTier(options);
  EXPECT_LE(folder.Bytes(), options.limit_bytes);
}

TEST(RocksdbTierTest, TheOldestEntriesGoFirst) {
  const TemporaryFolder folder;
  std::shared_ptr<RocksdbTier> tier = MakeTier(OptionsFor(folder));
  const std::string value(100'000, 'x');
  constexpr int kEntries = 600;  // twice the limit
  for (int i = 0; i < kEntries; ++i) {
    ASSERT_EQ(PutWhenThereIsRoom(*tier, std::to_string(i), EntryOf(value)), absl::OkStatus());
  }
  // Read from the newest on: files may be dropped meanwhile, the oldest first.
  int first = kEntries;
  while (first > 0 && Read(*tier, std::to_string(first - 1)) == value) --first;
  EXPECT_GT(first, kEntries / 2);
  EXPECT_LT(first, kEntries - 100) << "a third of the limit is used at least";
  for (int i = first - 1; i >= 0; --i) {
    EXPECT_EQ(Read(*tier, std::to_string(i)), "NOT_FOUND") << i;
  }
}

// An erasure must not be dropped before what it erases.
TEST(RocksdbTierTest, WhatWasErasedNeverComesBackUnderChurn) {
  const TemporaryFolder folder;
  std::shared_ptr<RocksdbTier> tier = MakeTier(OptionsFor(folder));
  ASSERT_EQ(tier->Put("erased", EntryOf("old"), {}), absl::OkStatus());
  ASSERT_EQ(tier->Put("grouped", EntryOf("old", 3), {}), absl::OkStatus());
  Churn(*tier, kMiB);
  ASSERT_EQ(tier->Erase("erased"), absl::OkStatus());
  ASSERT_EQ(tier->EraseGroup(3), absl::OkStatus());
  for (int i = 0; i < 80; ++i) {
    Churn(*tier, kMiB);
    ASSERT_EQ(Read(*tier, "erased"), "NOT_FOUND");
    ASSERT_EQ(Read(*tier, "grouped"), "NOT_FOUND");
  }
}

// Leases

TEST(RocksdbTierTest, OnlyTheHolderOfALeasePuts) {
  const TemporaryFolder folder;
  std::shared_ptr<RocksdbTier> tier = MakeTier(OptionsFor(folder));
  absl::StatusOr<TierLead> lead = tier->Lead("a", {});
  ASSERT_TRUE(lead.ok() && lead->lease.held());
  EXPECT_EQ(tier->Put("a", EntryOf("x"), TierLease{.token = "none"}).code(),
            absl::StatusCode::kAborted);
  EXPECT_EQ(Read(*tier, "a"), "NOT_FOUND");
  EXPECT_EQ(tier->Put("a", EntryOf("1"), lead->lease), absl::OkStatus());
  EXPECT_EQ(tier->Put("a", EntryOf("2"), lead->lease).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Read(*tier, "a"), "1");
  lead = tier->Lead("a", {});
  ASSERT_TRUE(lead.ok() && lead->entry.has_value());
  EXPECT_FALSE(lead->lease.held());
  EXPECT_EQ(lead->entry->bytes.view(), "1");
  // Looking again has left no lease.
  ASSERT_EQ(tier->Erase("a"), absl::OkStatus());
  EXPECT_TRUE(tier->Lead("a", {})->lease.held());
}

TEST(RocksdbTierTest, TryLeadTakesTheLeaseOfAnEntryThatIsThere) {
  const TemporaryFolder folder;
  std::shared_ptr<RocksdbTier> tier = MakeTier(OptionsFor(folder));
  ASSERT_EQ(tier->Put("a", EntryOf("old"), {}), absl::OkStatus());
  absl::StatusOr<TierLead> lead = tier->TryLead("a");
  ASSERT_TRUE(lead.ok() && lead->lease.held());
  EXPECT_FALSE(lead->entry.has_value());
  EXPECT_EQ(Read(*tier, "a"), "old");
  absl::StatusOr<TierLead> second = tier->TryLead("a");
  ASSERT_TRUE(second.ok());
  EXPECT_FALSE(lead->is_taken);
  EXPECT_FALSE(second->lease.held());
  EXPECT_TRUE(second->is_taken);
  EXPECT_EQ(tier->Put("a", EntryOf("new"), lead->lease), absl::OkStatus());
  EXPECT_EQ(Read(*tier, "a"), "new");
  // What is too large replaces it all the same.
  lead = tier->TryLead("a");
  EXPECT_EQ(tier->Put("a", EntryOf(std::string(kMiB, 'a')), lead->lease), absl::OkStatus());
  EXPECT_EQ(Read(*tier, "a"), "NOT_FOUND");
}

TEST(RocksdbTierTest, AChangeRevokesLeases) {
  const TemporaryFolder folder;
  std::shared_ptr<RocksdbTier> tier = MakeTier(OptionsFor(folder));
  const auto aborted_after = [&](auto change) {
    absl::StatusOr<TierLead> lead = tier->Lead("a", {});
    EXPECT_TRUE(lead.ok() && lead->lease.held());
    EXPECT_EQ(change(), absl::OkStatus());
    EXPECT_EQ(tier->Put("a", EntryOf("loaded before"), lead->lease).code(),
              absl::StatusCode::kAborted);
    const std::string left = Read(*tier, "a");
    EXPECT_EQ(tier->Erase("a"), absl::OkStatus());
    return left;
  };
  EXPECT_EQ(aborted_after([&] { return tier->Put("a", EntryOf("new"), {}); }), "new");
  EXPECT_EQ(aborted_after([&] { return tier->Erase("a"); }), "NOT_FOUND");
  EXPECT_EQ(aborted_after([&] { return tier->EraseAll(); }), "NOT_FOUND");
  EXPECT_EQ(tier->Stats().leases_lost, 3u);
}

TEST(RocksdbTierTest, AnErasedGroupConcernsTheLoadsOfThatGroupOnly) {
  const TemporaryFolder folder;
  std::shared_ptr<RocksdbTier> tier = MakeTier(OptionsFor(folder));
  for (const std::optional<uint32_t> group : {std::optional<uint32_t>(), {4}, {5}}) {
    absl::StatusOr<TierLead> lead = tier->Lead("a", {});
    ASSERT_TRUE(lead.ok() && lead->lease.held());
    EXPECT_EQ(tier->EraseGroup(5), absl::OkStatus());
    EXPECT_EQ(tier->Put("a", EntryOf("loaded", group), lead->lease).code(),
              group == 5u ? absl::StatusCode::kAborted : absl::StatusCode::kOk);
    EXPECT_EQ(Read(*tier, "a"), group == 5u ? "NOT_FOUND" : "loaded");
    // The former lease has ended; this one was taken after the erasure.
    lead = tier->TryLead("a");
    ASSERT_TRUE(lead.ok() && lead->lease.held());
    EXPECT_EQ(tier->Put("a", EntryOf("new", 5), lead->lease), absl::OkStatus());
    EXPECT_EQ(tier->Erase("a"), absl::OkStatus());
  }
}

TEST(RocksdbTierTest, ALeaseThatLastsTooLongGoesToTheNext) {
  const TemporaryFolder folder;
  RocksdbTierOptions options = OptionsFor(folder);
  options.lease_timeout = absl::ZeroDuration();
  std::shared_ptr<RocksdbTier> tier = MakeTier(options);
  absl::StatusOr<TierLead> slow = tier->Lead("a", {});
  absl::StatusOr<TierLead> next = tier->Lead("a", {});
  ASSERT_TRUE(next.ok() && next->lease.held());
  EXPECT_EQ(tier->Put("a", EntryOf("slow"), slow->lease).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(tier->Put("a", EntryOf("next"), next->lease), absl::OkStatus());
}

TEST(RocksdbTierTest, WaitsForAnothersLease) {
  const TemporaryFolder folder;
  RocksdbTierOptions options = OptionsFor(folder);
  options.lease_timeout = absl::InfiniteDuration();
  std::shared_ptr<RocksdbTier> tier = MakeTier(options);
  for (const bool puts : {true, false}) {
    const std::string key = puts ? "put" : "given up";
    absl::StatusOr<TierLead> lead = tier->Lead(key, {});
    ASSERT_TRUE(lead.ok() && lead->lease.held());
    const uint64_t awaited = tier->Stats().leases_awaited;
    absl::StatusOr<TierLead> second = absl::UnknownError("");
    std::thread waiter([&] { second = tier->Lead(key, {}); });
    while (tier->Stats().leases_awaited == awaited) std::this_thread::yield();
    if (puts) {
      EXPECT_EQ(tier->Put(key, EntryOf("loaded"), lead->lease), absl::OkStatus());
    } else {
      tier->EndLead(key, lead->lease);
    }
    waiter.join();
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_EQ(second->entry.has_value(), puts);
    EXPECT_EQ(second->lease.held(), !puts);
  }
}

TEST(RocksdbTierTest, AWaitForALeaseEndsAtItsDeadlineOrStop) {
  const TemporaryFolder folder;
  std::shared_ptr<RocksdbTier> tier = MakeTier(OptionsFor(folder));
  absl::StatusOr<TierLead> lead = tier->Lead("a", {});
  ASSERT_TRUE(lead.ok() && lead->lease.held());
  EXPECT_EQ(tier->Lead("a", {.deadline = std::chrono::steady_clock::now()}).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(tier->Stats().timeouts, 1u);
  internal::StopSource stop;
  if (!stop.stop_possible()) GTEST_SKIP() << "no std::stop_token";
  const uint64_t awaited = tier->Stats().leases_awaited;
  absl::Status status;
  std::thread waiter([&] { status = tier->Lead("a", {.stop_token = stop.get_token()}).status(); });
  while (tier->Stats().leases_awaited == awaited) std::this_thread::yield();
  stop.request_stop();
  waiter.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(tier->Lead("a", {.stop_token = stop.get_token()}).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(tier->Put("a", EntryOf("a"), lead->lease), absl::OkStatus());
}

// An object that was loaded before a change is never put after it. Counts both outcomes.
TEST(RocksdbTierTest, APutWithALeaseRacesWithChanges) {
  const TemporaryFolder folder;
  std::shared_ptr<RocksdbTier> tier = MakeTier(OptionsFor(folder));
  TierLease lease;
  absl::Status put;
  int change = 0;
  int put_first = 0;
  int change_first = 0;
  testing::Race(
      {testing::RaceRounds(20'000), {&put_first, &change_first}},
      [&](int round) {
        change = round % 4;
        ASSERT_EQ(tier->Erase("a"), absl::OkStatus());
        absl::StatusOr<TierLead> lead = tier->Lead("a", {});
        ASSERT_TRUE(lead.ok() && lead->lease.held());
        lease = lead->lease;
      },
      {[&] { put = tier->Put("a", EntryOf("loaded", 1), lease); },
       [&] {
         if (change == 0) {
           EXPECT_EQ(tier->Put("a", EntryOf("changed"), {}), absl::OkStatus());
         }
         if (change == 1) {
           EXPECT_EQ(tier->Erase("a"), absl::OkStatus());
         }
         if (change == 2) {
           EXPECT_EQ(tier->EraseGroup(1), absl::OkStatus());
         }
         if (change == 3) {
           EXPECT_EQ(tier->EraseGroup(2), absl::OkStatus());
         }
       }},
      [&](int) {
        if (change == 3) {  // does not concern the entry
          EXPECT_EQ(put, absl::OkStatus());
          EXPECT_EQ(Read(*tier, "a"), "loaded");
          return;
        }
        ++(put.ok() ? put_first : change_first);
        if (!put.ok()) {
          EXPECT_EQ(put.code(), absl::StatusCode::kAborted);
        }
        EXPECT_EQ(Read(*tier, "a"), change == 0 ? "changed" : "NOT_FOUND");
      });
  EXPECT_GT(put_first, 0);
  EXPECT_GT(change_first, 0);
}

}  // namespace
}  // namespace weakcache
