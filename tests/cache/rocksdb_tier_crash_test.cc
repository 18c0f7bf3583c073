// SPDX-License-Identifier: Apache-2.0
// Kills a process that writes to a RocksdbTier, again and again, and looks at what is left.
//
// The parent uses no tier itself: RocksDB's threads would not be there in its children. What the
// writer has begun and what it was told to be done is in memory that all share.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <string_view>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/support/rounds.h"
#include "tests/support/temporary_folder.h"
#include "weakcache/cache/rocksdb_tier.h"

namespace weakcache {
namespace {

using ::weakcache::testing::TemporaryFolder;

constexpr int kKeys = 24;
constexpr int kGroups = 3;
constexpr int kWriters = 3;

// The history of one key. Each of its changes, by the one thread that changes it, has a version.
struct KeyHistory {
  std::atomic<uint64_t> begun{0};  // the latest version that may have been written
  std::atomic<uint64_t> put{0};    // the latest one whose Put has returned OK
  std::atomic<uint64_t> gone{0};   // up to this one all are replaced or erased for good
};
struct History {
  std::array<KeyHistory, kKeys> keys;
  std::atomic<uint64_t> steps{0};
  std::atomic<uint64_t> found{0};    // by all checks together
  std::atomic<uint64_t> missing{0};  // likewise
};

// Memory that the children share with the parent.
class SharedHistory {
 public:
  SharedHistory()
      : memory_(::mmap(nullptr, sizeof(History), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                       -1, 0)),
        history_(new (memory_) History()) {}
  SharedHistory(const SharedHistory&) = delete;
  SharedHistory& operator=(const SharedHistory&) = delete;
  ~SharedHistory() { ::munmap(memory_, sizeof(History)); }
  History& operator*() const { return *history_; }
  History* operator->() const { return history_; }

 private:
  void* const memory_;
  History* const history_;
};

RocksdbTierOptions OptionsFor(const TemporaryFolder& folder) {
  RocksdbTierOptions options;
  options.folder = (folder.path() / "tier").string();
  options.limit_bytes = uint64_t{32} << 20;
  return options;
}

uint32_t GroupOf(int key) { return static_cast<uint32_t>(key % kGroups); }

// Returns the only value that is ever written for a key and a version: both, and as many more bytes
// as they make up, from a few to 200,000.
std::string ValueOf(int key, uint64_t version) {
  std::mt19937_64 random(version * 1000 + static_cast<uint64_t>(key));
  std::string value = std::to_string(key) + ":" + std::to_string(version) + ":";
  size_t more = random() % (version % 4 == 0 ? 200'000 : 3'000);
  for (uint64_t word = random(); more > 0; --more) {
    value += static_cast<char>(word);
    word = word * 6364136223846793005u + 1442695040888963407u;
    word ^= word >> 29;
  }
  return value;
}

// Returns the version of a value that was written for the key, or 0.
uint64_t VersionOf(int key, const std::string& value) {
  unsigned long long version = 0;  // NOLINT(google-runtime-int): as sscanf wants it
  int named = 0;
  if (std::sscanf(value.c_str(), "%d:%llu:", &named, &version) != 2) return 0;
  return named == key && ValueOf(key, version) == value ? version : 0;
}

void Raise(std::atomic<uint64_t>& version, uint64_t to) {
  uint64_t seen = version.load();
  while (seen < to && !version.compare_exchange_weak(seen, to)) {
  }
}

// Changes keys of its own, one after the other, until it is killed.
void WriteForever(RocksdbTier& tier, History& history, int writer, uint64_t seed) {
  std::mt19937_64 random(seed * 100 + static_cast<uint64_t>(writer));
  for (;; history.steps.fetch_add(1)) {
    const int number = writer + kWriters * static_cast<int>(random() % (kKeys / kWriters));
    KeyHistory& key = history.keys[static_cast<size_t>(number)];
    const std::string name = "key" + std::to_string(number);
    const uint64_t version = key.begun.load() + 1;
    switch (random() % 4) {
      case 0: {  // an erasure
        key.begun.store(version);
        if (tier.Erase(name).ok()) Raise(key.gone, version);
        break;
      }
      case 1: {  // as a load
        absl::StatusOr<TierLead> lead = tier.Lead(name, {});
        if (!lead.ok() || !lead->lease.held()) break;
        key.begun.store(version);
        const TierEntry entry = {.bytes = ValueOf(number, version), .group = GroupOf(number)};
        if (tier.Put(name, entry, lead->lease).ok()) Raise(key.put, version);
        break;
      }
      default: {
        key.begun.store(version);
        const TierEntry entry = {.bytes = ValueOf(number, version), .group = GroupOf(number)};
        if (!tier.Put(name, entry, {}).ok()) break;
        Raise(key.put, version);
        Raise(key.gone, version - 1);
      }
    }
  }
}

// Erases groups: what has been put before is gone for good.
[[noreturn]] void EraseGroupsForever(RocksdbTier& tier, History& history, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (;; history.steps.fetch_add(1)) {
    const auto group = static_cast<uint32_t>(random() % kGroups);
    std::array<uint64_t, kKeys> put = {};
    for (size_t key = 0; key < kKeys; ++key) put[key] = history.keys[key].put.load();
    if (!tier.EraseGroup(group).ok()) continue;
    for (size_t key = 0; key < kKeys; ++key) {
      if (GroupOf(static_cast<int>(key)) == group) Raise(history.keys[key].gone, put[key]);
    }
    for (int rest = 0; rest < 500; ++rest) std::this_thread::yield();
  }
}

[[noreturn]] void RunWriters(const RocksdbTierOptions& options, History& history, uint64_t seed) {
  auto tier = RocksdbTier::Create(options);
  if (!tier.ok()) {
    std::fprintf(stderr, "%s\n", tier.status().ToString().c_str());
    ::_exit(1);
  }
  std::array<std::thread, kWriters> writers;
  for (int writer = 0; writer < kWriters; ++writer) {
    writers[static_cast<size_t>(writer)] =
        std::thread([&, writer] { WriteForever(**tier, history, writer, seed); });
  }
  EraseGroupsForever(**tier, history, seed);
}

// Returns what is wrong with what is left of a key.
std::string CheckKey(RocksdbTier& tier, History& history, int number) {
  const KeyHistory& key = history.keys[static_cast<size_t>(number)];
  const std::string name = "key" + std::to_string(number);
  absl::StatusOr<TierEntry> entry = tier.Get(name, {});
  if (absl::IsNotFound(entry.status())) {
    history.missing.fetch_add(1);
    return "";
  }
  if (!entry.ok()) return name + ": " + entry.status().ToString();
  history.found.fetch_add(1);
  const uint64_t version = VersionOf(number, std::string(entry->bytes.view()));
  if (version == 0) return name + " has a value that was never written for it";
  if (version > key.begun.load()) return name + " has a version that was never begun";
  if (version <= key.gone.load()) {
    return name + " has version " + std::to_string(version) + " again, although those up to " +
           std::to_string(key.gone.load()) + " are gone";
  }
  return "";
}

[[noreturn]] void RunCheck(const RocksdbTierOptions& options, History& history) {
  auto tier = RocksdbTier::Create(options);
  std::string wrong = tier.ok() ? "" : tier.status().ToString();
  for (int key = 0; tier.ok() && key < kKeys; ++key) {
    const std::string what = CheckKey(**tier, history, key);
    if (!what.empty()) wrong += what + "\n";
  }
  if (tier.ok() && (*tier)->Stats().errors != 0) wrong += "the folder was damaged\n";
  if (!wrong.empty()) std::fprintf(stderr, "%s\n", wrong.c_str());
  if (tier.ok()) tier->reset();
  ::_exit(wrong.empty() ? 0 : 1);
}

pid_t Fork(const std::function<void()>& run) {
  const pid_t child = ::fork();
  if (child == 0) {
    run();
    ::_exit(0);
  }
  return child;
}

// Returns the exit code, or minus the signal that has ended the process.
int WaitFor(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST(RocksdbTierCrashTest, AKilledProcessLeavesWholeEntriesAndNoOldOnes) {
  const int rounds = testing::Rounds(400, testing::kSanitized ? 12 : 40);
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder);
  const SharedHistory history;
  std::mt19937_64 random(5);
  for (int round = 0; round < rounds; ++round) {
    const uint64_t last_step = history->steps.load() + random() % 400;
    const pid_t writers =
        Fork([&] { RunWriters(options, *history, static_cast<uint64_t>(round)); });
    int status = 0;
    while (history->steps.load() < last_step) {
      ASSERT_EQ(::waitpid(writers, &status, WNOHANG), 0) << "the writers have ended";
      std::this_thread::yield();
    }
    ::kill(writers, SIGKILL);
    ASSERT_EQ(WaitFor(writers), -SIGKILL);
    ASSERT_EQ(WaitFor(Fork([&] { RunCheck(options, *history); })), 0) << "in round " << round;
  }
  // Or else nothing has been tested.
  EXPECT_GT(history->found.load(), static_cast<uint64_t>(rounds) * kKeys / 8);
  EXPECT_GT(history->missing.load(), static_cast<uint64_t>(rounds));
  EXPECT_LE(folder.Bytes(), options.limit_bytes);
}

TEST(RocksdbTierCrashTest, RefusesAFolderThatAnotherProcessUses) {
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder);
  std::array<int, 2> ready = {};
  std::array<int, 2> end = {};
  ASSERT_EQ(::pipe(ready.data()), 0);
  ASSERT_EQ(::pipe(end.data()), 0);
  const pid_t owner = Fork([&] {
    auto tier = RocksdbTier::Create(options);
    char byte = tier.ok() ? 'y' : 'n';
    (void)!::write(ready[1], &byte, 1);
    (void)!::read(end[0], &byte, 1);
    if (tier.ok()) tier->reset();
    ::_exit(tier.ok() ? 0 : 1);
  });
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'y');
  EXPECT_EQ(WaitFor(Fork([&] {
              const absl::Status status = RocksdbTier::Create(options).status();
              const bool named =
                  std::string(status.message()).find(options.folder) != std::string::npos;
              ::_exit(absl::IsFailedPrecondition(status) && named ? 0 : 1);
            })),
            0);
  ASSERT_EQ(::write(end[1], &byte, 1), 1);
  EXPECT_EQ(WaitFor(owner), 0);
  EXPECT_EQ(WaitFor(Fork([&] { ::_exit(RocksdbTier::Create(options).ok() ? 0 : 1); })), 0)
      << "the folder is free again";
}

}  // namespace
}  // namespace weakcache
