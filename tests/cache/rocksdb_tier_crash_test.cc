// SPDX-License-Identifier: Apache-2.0
// Kills a process that writes to a RocksdbTier, again and again, and looks at what is left; also
// after a loss of power, which costs what had not been synced.
//
// The parent uses no tier itself: RocksDB's threads would not be there in its children. What the
// writer has begun and what it was told to be done is in memory that all share.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
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

// How much of the file that was synced last the disk has. In memory that the children share.
std::atomic<uint64_t>* synced_bytes = nullptr;

}  // namespace
}  // namespace weakcache

// As the system's, and notes what is synced.
extern "C" int fdatasync(int file) {
  if (weakcache::synced_bytes != nullptr) {
    struct stat about = {};
    if (::fstat(file, &about) == 0) {
      weakcache::synced_bytes->store(static_cast<uint64_t>(about.st_size));
    }
  }
  return static_cast<int>(::syscall(SYS_fdatasync, file));
}

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
  std::atomic<uint64_t> synced{0};
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

// Starts a process that runs `steps` and then is no more, without an end of anything.
int RunAndCrash(const std::function<bool()>& steps) {
  return WaitFor(Fork([&] { ::_exit(steps() ? 0 : 1); }));
}

std::string LoadKey(int number) { return "load" + std::to_string(number); }
std::string LoadValue(int number) { return ValueOf(number, 5) + std::string(8'000, 'x'); }
constexpr int kLoads = 40;

// Has ten entries in files and one change in the log, and then loads that are not synced.
bool WriteBeforeLossOfPower(const RocksdbTierOptions& options, History& history) {
  {
    auto tier = RocksdbTier::Create(options);
    for (int key = 0; tier.ok() && key < 10; ++key) {
      const TierEntry entry = {.bytes = ValueOf(key, 1)};
      if (!(*tier)->Put("key" + std::to_string(key), entry, {}).ok()) return false;
    }
  }
  auto tier = RocksdbTier::Create(options);
  synced_bytes = &history.synced;
  if (!tier.ok() || !(*tier)->Erase("key1").ok()) return false;
  for (int number = 0; number < kLoads; ++number) {
    absl::StatusOr<TierLead> lead = (*tier)->Lead(LoadKey(number), {});
    const TierEntry entry = {.bytes = LoadValue(number)};
    if (!lead.ok() || !(*tier)->Put(LoadKey(number), entry, lead->lease).ok()) return false;
  }
  ::_exit(0);
}

// Makes a hole in a file, as if a page had not been written.
void MakeHole(const std::filesystem::path& file, uint64_t offset) {
  const int opened = ::open(file.c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_GE(opened, 0);
  const std::string page(4096, '\0');
  EXPECT_EQ(::pwrite(opened, page.data(), page.size(), static_cast<off_t>(offset)), 4096);
  ::close(opened);
}

// Returns whether the entries in files are there, the erased one is not, and of the loads the first
// ones are.
bool CheckAfterLossOfPower(const RocksdbTierOptions& options, uint64_t errors) {
  auto tier = RocksdbTier::Create(options);
  if (!tier.ok() || (*tier)->Stats().errors != errors) return false;
  for (int key = 0; key < 10; ++key) {
    absl::StatusOr<TierEntry> entry = (*tier)->Get("key" + std::to_string(key), {});
    if (key == 1 ? !absl::IsNotFound(entry.status())
                 : !entry.ok() || entry->bytes.view() != ValueOf(key, 1)) {
      return false;
    }
  }
  int found = 0;
  for (int number = 0; number < kLoads; ++number) {
    absl::StatusOr<TierEntry> entry = (*tier)->Get(LoadKey(number), {});
    if (!entry.ok()) continue;
    if (entry->bytes.view() != LoadValue(number) || found != number) return false;
    ++found;
  }
  return found > kLoads / 4 && found < kLoads;
}

TEST(RocksdbTierCrashTest, ALossOfPowerCostsTheLastLoadsOnly) {
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder);
  const SharedHistory history;
  ASSERT_EQ(RunAndCrash([&] { return WriteBeforeLossOfPower(options, *history); }), 0);
  const std::filesystem::path log = folder.Files(".log").back();
  const uint64_t size = std::filesystem::file_size(log);
  ASSERT_GT(size, history->synced.load() + kLoads * 8'000) << "all has been synced";
  MakeHole(log, history->synced.load() + (size - history->synced.load()) / 2);
  EXPECT_EQ(RunAndCrash([&] { return CheckAfterLossOfPower(options, 1); }), 0);
  EXPECT_EQ(RunAndCrash([&] { return CheckAfterLossOfPower(options, 0); }), 0) << "once more";
}

// The same where the change itself is damaged, as only a bad disk does: that might bring back what
// it has erased. So nothing is left, also if a process ends in the middle of finding that out.
TEST(RocksdbTierCrashTest, ALogThatHasLostAChangeCostsAll) {
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder);
  const SharedHistory history;
  ASSERT_EQ(RunAndCrash([&] { return WriteBeforeLossOfPower(options, *history); }), 0);
  const uint64_t synced = history->synced.load();
  ASSERT_LT(synced, 4096u);
  const std::filesystem::path log = folder.Files(".log").back();
  const int opened = ::open(log.c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_GE(opened, 0);
  EXPECT_EQ(::pwrite(opened, "xxxx", 4, static_cast<off_t>(synced) - 4), 4);
  ::close(opened);
  EXPECT_EQ(RunAndCrash([&] {
              auto tier = RocksdbTier::Create(options);
              bool empty = tier.ok() && (*tier)->Stats().errors == 1;
              if (tier.ok()) (void)(*tier)->ForEachKey([&](std::string_view) { empty = false; });
              return empty;
            }),
            0);
}

// A child that a process has forked, and that outlives it, does not keep the folder.
TEST(RocksdbTierCrashTest, AChildOfTheOwnerDoesNotKeepTheFolder) {
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder);
  std::array<int, 2> ready = {};
  ASSERT_EQ(::pipe(ready.data()), 0);
  ASSERT_EQ(RunAndCrash([&] {
              auto tier = RocksdbTier::Create(options);
              const pid_t child = Fork([] {
                while (true) ::pause();
              });
              (void)!::write(ready[1], &child, sizeof(child));
              return tier.ok();
            }),
            0);
  pid_t child = 0;
  ASSERT_EQ(::read(ready[0], &child, sizeof(child)), static_cast<ssize_t>(sizeof(child)));
  ASSERT_EQ(::kill(child, 0), 0) << "the child has ended";
  EXPECT_EQ(RunAndCrash([&] { return RocksdbTier::Create(options).ok(); }), 0);
  EXPECT_EQ(::kill(child, SIGKILL), 0);
}

// What another attempt to use a folder opens and closes does not end the lock of the present tier.
TEST(RocksdbTierCrashTest, ARefusedTierDoesNotFreeTheFolder) {
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder);
  EXPECT_EQ(RunAndCrash([&] {
              auto tier = RocksdbTier::Create(options);
              const bool refused =
                  absl::IsFailedPrecondition(RocksdbTier::Create(options).status());
              const pid_t other = Fork([&] {
                ::_exit(absl::IsFailedPrecondition(RocksdbTier::Create(options).status()) ? 0 : 1);
              });
              return tier.ok() && refused && WaitFor(other) == 0;
            }),
            0);
}

}  // namespace
}  // namespace weakcache
