// SPDX-License-Identifier: Apache-2.0
// A RocksdbTier whose disk is full, read-only or damaged: it says so, returns no wrong bytes, and
// serves again as soon as it can.
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/support/rounds.h"
#include "tests/support/temporary_folder.h"
#include "weakcache/cache/rocksdb_tier.h"
#include "weakcache/cache/second_tier.h"

namespace weakcache {
namespace {

using ::weakcache::testing::TemporaryFolder;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr std::string_view kPath = "tier";

RocksdbTierOptions OptionsFor(const std::filesystem::path& folder) {
  RocksdbTierOptions options;
  options.folder = (folder / kPath).string();
  options.limit_bytes = 32 * kMiB;
  options.retry_after = absl::ZeroDuration();
  return options;
}

std::shared_ptr<RocksdbTier> MakeTier(const RocksdbTierOptions& options) {
  auto tier = RocksdbTier::Create(options);
  EXPECT_TRUE(tier.ok()) << tier.status();
  return tier.ok() ? *tier : nullptr;
}

TierEntry EntryOf(std::string bytes, std::optional<uint32_t> group = {}) {
  return {.bytes = std::move(bytes), .group = group};
}

std::string Read(RocksdbTier& tier, std::string_view key) {
  absl::StatusOr<TierEntry> entry = tier.Get(key, {});
  if (entry.ok()) return std::string(entry->bytes.view());
  return absl::StatusCodeToString(entry.status().code());
}

// The value of a key: some 20 KB that nobody can compress.
std::string ValueOf(int key) {
  std::mt19937_64 random(static_cast<uint64_t>(key));
  std::string value(20'000 + random() % 1000, '\0');
  for (char& byte : value) byte = static_cast<char>(random());
  return value;
}

void PutSome(RocksdbTier& tier, int count) {
  for (int key = 0; key < count; ++key) {
    ASSERT_EQ(tier.Put(std::to_string(key), EntryOf(ValueOf(key)), {}), absl::OkStatus());
  }
}

// Lets files have so many bytes at most for its lifetime: writing more fails, as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(uint64_t bytes) : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    EXPECT_EQ(::getrlimit(RLIMIT_FSIZE, &old_limit_), 0);
    struct rlimit limit = old_limit_;
    limit.rlim_cur = bytes;
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_limit_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  void (*const old_handler_)(int);
  struct rlimit old_limit_ = {};
};

// A disk of its own, where the system lets us have one.
class SmallDisk {
 public:
  SmallDisk(const std::filesystem::path& path, const std::string& options) : path_(path) {
    std::filesystem::create_directories(path);
    mounted_ = ::mount("none", path.c_str(), "tmpfs", 0, options.c_str()) == 0;
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  ~SmallDisk() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }

 private:
  const std::filesystem::path path_;
  bool mounted_ = false;
};

void Flip(const std::filesystem::path& file, uint64_t offset) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekg(static_cast<std::streamoff>(offset));
  const auto byte = static_cast<char>(stream.get());
  stream.seekp(static_cast<std::streamoff>(offset));
  stream.put(static_cast<char>(byte ^ 0x40));
}

// Damage

// Damages one byte after the other of the files, and never gets a wrong value.
TEST(RocksdbTierFailuresTest, DamageIsNeverAWrongValue) {
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder.path());
  constexpr int kKeys = 100;
  std::mt19937_64 random(3);
  int misses = 0;
  uint64_t errors = 0;
  const int rounds = testing::Rounds(100, 8);
  for (int round = 0; round < rounds; ++round) {
    std::shared_ptr<RocksdbTier> tier = MakeTier(options);
    ASSERT_EQ(tier->EraseAll(), absl::OkStatus());
    PutSome(*tier, kKeys);
    tier.reset();
    if (round % 2 == 0) MakeTier(options).reset();  // writes the log's entries into a file
    std::vector<std::filesystem::path> files = folder.Files(round % 2 == 0 ? ".sst" : ".log");
    ASSERT_FALSE(files.empty());
    const std::filesystem::path& file = files[random() % files.size()];
    const uint64_t size = std::filesystem::file_size(file);
    if (size == 0) continue;
    for (int flip = 0; flip < 3; ++flip) Flip(file, random() % size);
    tier = MakeTier(options);
    ASSERT_NE(tier, nullptr);
    for (int key = 0; key < kKeys; ++key) {
      const std::string read = Read(*tier, std::to_string(key));
      if (read == ValueOf(key)) continue;
      ASSERT_TRUE(read == "NOT_FOUND" || read == "DATA_LOSS") << read.substr(0, 100);
      ++misses;
    }
    errors += tier->Stats().errors;
    // And it goes on.
    ASSERT_EQ(tier->Put("later", EntryOf("later"), {}), absl::OkStatus());
    EXPECT_EQ(Read(*tier, "later"), "later");
  }
  EXPECT_GT(misses, 0) << "or nothing was damaged";
  EXPECT_GT(errors, 0u);
}

// A log whose damaged records were passed over could lose an erasure, and keep what it has erased.
TEST(RocksdbTierFailuresTest, ADamagedLogNeverBringsBackWhatWasErased) {
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder.path());
  PutSome(*MakeTier(options), 10);
  std::shared_ptr<RocksdbTier> tier = MakeTier(options);  // has them in a file
  ASSERT_EQ(tier->Erase("1"), absl::OkStatus());
  ASSERT_EQ(tier->Put("2", EntryOf("new"), {}), absl::OkStatus());
  for (int key = 20; key < 30; ++key) {
    ASSERT_EQ(tier->Put(std::to_string(key), EntryOf(ValueOf(key)), {}), absl::OkStatus());
  }
  tier.reset();
  // The erasure and the change come first in the log, after the record of the opening.
  const std::vector<std::filesystem::path> logs = folder.Files(".log");
  ASSERT_FALSE(logs.empty());
  for (uint64_t offset = 20; offset < 160; ++offset) Flip(logs.back(), offset);
  tier = MakeTier(options);
  EXPECT_EQ(Read(*tier, "1"), "NOT_FOUND");
  EXPECT_EQ(Read(*tier, "2"), "NOT_FOUND");
  EXPECT_EQ(tier->Stats().errors, 1u);
}

TEST(RocksdbTierFailuresTest, ADamagedEntryIsCountedAndReplaced) {
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder.path());
  PutSome(*MakeTier(options), 10);
  MakeTier(options).reset();
  // The entries are in the order of their keys, so this is the middle of one of them.
  for (const std::filesystem::path& file : folder.Files(".sst")) {
    if (std::filesystem::file_size(file) > 100'000) Flip(file, 50'000);
  }
  std::shared_ptr<RocksdbTier> tier = MakeTier(options);
  int damaged = -1;
  for (int key = 0; key < 10; ++key) {
    const std::string read = Read(*tier, std::to_string(key));
    if (read == "DATA_LOSS") {
      EXPECT_EQ(damaged, -1) << "only one entry is damaged";
      damaged = key;
    } else {
      EXPECT_EQ(read, ValueOf(key));
    }
  }
  ASSERT_NE(damaged, -1);
  const std::string key = std::to_string(damaged);
  EXPECT_EQ(tier->Stats().errors, 1u);
  absl::StatusOr<TierLead> lead = tier->Lead(key, {});
  ASSERT_TRUE(lead.ok()) << lead.status();
  ASSERT_TRUE(lead->lease.held());
  ASSERT_EQ(tier->Put(key, EntryOf("new"), lead->lease), absl::OkStatus());
  EXPECT_EQ(Read(*tier, key), "new");
}

TEST(RocksdbTierFailuresTest, AFolderThatLacksFilesIsEmptied) {
  for (const std::string ending : {".sst", "CURRENT", "MANIFEST", ".log"}) {
    const TemporaryFolder folder;
    const RocksdbTierOptions options = OptionsFor(folder.path());
    PutSome(*MakeTier(options), 10);
    MakeTier(options).reset();
    for (const std::filesystem::path& file : folder.Files()) {
      if (file.string().find(ending) != std::string::npos) std::filesystem::remove(file);
    }
    std::shared_ptr<RocksdbTier> tier = MakeTier(options);
    ASSERT_NE(tier, nullptr) << ending;
    for (int key = 0; key < 10; ++key) {
      const std::string read = Read(*tier, std::to_string(key));
      EXPECT_TRUE(read == "NOT_FOUND" || read == ValueOf(key)) << ending;
    }
    if (ending == ".sst") {
      EXPECT_EQ(tier->Stats().errors, 1u);
    }
    PutSome(*tier, 10);
    EXPECT_EQ(Read(*tier, "7"), ValueOf(7));
  }
}

// A disk that takes nothing

TEST(RocksdbTierFailuresTest, WithoutRoomItFailsReadsAndRecovers) {
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder.path());
  std::shared_ptr<RocksdbTier> tier = MakeTier(options);
  PutSome(*tier, 5);
  ASSERT_EQ(tier->Put("grouped", EntryOf("old", 6), {}), absl::OkStatus());
  {
    const FileSizeLimit limit(1);
    EXPECT_FALSE(tier->Put("9", EntryOf(ValueOf(9)), {}).ok());
    EXPECT_FALSE(tier->Put("0", EntryOf("new"), {}).ok());
    EXPECT_FALSE(tier->Erase("1").ok());
    EXPECT_FALSE(tier->EraseGroup(6).ok());
    // What could not be recorded is known all the same.
    EXPECT_EQ(Read(*tier, "0"), "NOT_FOUND");
    EXPECT_EQ(Read(*tier, "1"), "NOT_FOUND");
    EXPECT_EQ(Read(*tier, "grouped"), "NOT_FOUND");
    EXPECT_EQ(Read(*tier, "2"), ValueOf(2));
    EXPECT_EQ(tier->Stats().errors, 4u);
    EXPECT_NE(tier->Stats().condition, "");
  }
  ASSERT_EQ(tier->Put("9", EntryOf(ValueOf(9)), {}), absl::OkStatus());
  EXPECT_EQ(tier->Stats().condition, "");
  for (int restart = 0; restart < 2; ++restart) {
    EXPECT_EQ(Read(*tier, "0"), "NOT_FOUND");
    EXPECT_EQ(Read(*tier, "1"), "NOT_FOUND");
    EXPECT_EQ(Read(*tier, "grouped"), "NOT_FOUND");
    EXPECT_EQ(Read(*tier, "2"), ValueOf(2));
    EXPECT_EQ(Read(*tier, "9"), ValueOf(9));
    tier.reset();
    tier = MakeTier(options);
  }
}

// As before, but what is written last is cut off in its middle.
TEST(RocksdbTierFailuresTest, AHalfWrittenEntryIsNeverServed) {
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder.path());
  for (uint64_t room = 70'000; room < 150'000; room += 9'000) {
    std::shared_ptr<RocksdbTier> tier = MakeTier(options);
    ASSERT_EQ(tier->EraseAll(), absl::OkStatus());
    {
      const FileSizeLimit limit(room);
      int key = 0;
      while (key < 20 && tier->Put(std::to_string(key), EntryOf(ValueOf(key)), {}).ok()) ++key;
      EXPECT_LT(key, 20);
      for (int before = 0; before < key; ++before) {
        EXPECT_EQ(Read(*tier, std::to_string(before)), ValueOf(before));
      }
      EXPECT_EQ(Read(*tier, std::to_string(key)), "NOT_FOUND");
    }
    if (room % 2 == 0) tier.reset();
    if (tier == nullptr) tier = MakeTier(options);
    for (int key = 0; key < 20; ++key) {
      const std::string read = Read(*tier, std::to_string(key));
      EXPECT_TRUE(read == "NOT_FOUND" || read == ValueOf(key));
    }
    EXPECT_EQ(tier->Put("0", EntryOf("0"), {}), absl::OkStatus());
  }
}

TEST(RocksdbTierFailuresTest, AFullDiskFailsPutsAndRecovers) {
  const TemporaryFolder folder;
  const SmallDisk disk(folder.path() / "disk", "size=8m");
  if (!disk.mounted()) GTEST_SKIP() << "no tmpfs can be mounted here";
  const RocksdbTierOptions options = OptionsFor(folder.path() / "disk");
  std::shared_ptr<RocksdbTier> tier = MakeTier(options);
  int key = 0;
  absl::Status status;
  while (key < 2000 && status.ok()) {
    status = tier->Put(std::to_string(key), EntryOf(ValueOf(key)), {});
    key += status.ok() ? 1 : 0;
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_GT(key, 100);
  int found = 0;
  for (int before = 0; before < key; ++before) {
    const std::string read = Read(*tier, std::to_string(before));
    if (read == ValueOf(before)) ++found;
  }
  EXPECT_GT(found, key / 2);
  EXPECT_NE(tier->Stats().condition, "");
  // EraseAll needs no room to begin with.
  EXPECT_EQ(tier->EraseAll(), absl::OkStatus());
  EXPECT_EQ(tier->Stats().condition, "");
  EXPECT_EQ(tier->Put("a", EntryOf("a"), {}), absl::OkStatus());
  EXPECT_EQ(Read(*tier, "a"), "a");
}

TEST(RocksdbTierFailuresTest, AReadOnlyFolderIsRefused) {
  const TemporaryFolder folder;
  std::filesystem::permissions(
      folder.path(), std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec |
                         std::filesystem::perms::others_read | std::filesystem::perms::others_exec);
  const uid_t user = ::geteuid();
  // Root may write everywhere; and in a sandbox there may be no other user.
  if (user == 0 && ::seteuid(65534) != 0) GTEST_SKIP() << "can't become a user who may not write";
  const absl::Status status = RocksdbTier::Create(OptionsFor(folder.path())).status();
  if (user == 0) {
    ASSERT_EQ(::seteuid(user), 0);
  }
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_NE(std::string(status.message()).find(folder.path().string()), std::string::npos);
  std::filesystem::permissions(folder.path(), std::filesystem::perms::owner_all);
}

TEST(RocksdbTierFailuresTest, AfterAFailureItTriesAgainOnlyLater) {
  const TemporaryFolder folder;
  RocksdbTierOptions options = OptionsFor(folder.path());
  options.retry_after = absl::Hours(1);
  std::shared_ptr<RocksdbTier> tier = MakeTier(options);
  PutSome(*tier, 2);
  {
    const FileSizeLimit limit(1);
    EXPECT_FALSE(tier->Put("a", EntryOf("a"), {}).ok());
  }
  EXPECT_FALSE(tier->Put("a", EntryOf("a"), {}).ok());
  EXPECT_EQ(Read(*tier, "1"), ValueOf(1));
  EXPECT_EQ(tier->EraseAll(), absl::OkStatus()) << "which begins anew";
  EXPECT_EQ(tier->Put("a", EntryOf("a"), {}), absl::OkStatus());
}

}  // namespace
}  // namespace weakcache
