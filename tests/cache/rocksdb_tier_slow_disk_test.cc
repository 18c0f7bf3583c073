// SPDX-License-Identifier: Apache-2.0
// A RocksdbTier on a disk that hangs: whoever only reads or takes a lease does not wait for what
// others write, erase or delete.
//
// The functions of the system through which this program syncs and deletes files are here, and wait
// while a gate is closed.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/support/temporary_folder.h"
#include "weakcache/cache/rocksdb_tier.h"
#include "weakcache/cache/second_tier.h"

namespace weakcache {
namespace {

// What some calls of the system wait for.
class Gate {
 public:
  void Close() { SetOpen(false); }
  void Open() { SetOpen(true); }
  void Pass() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (open_) return;
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
    --waiting_;
  }
  void AwaitWaiter() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return waiting_ > 0; });
  }

 private:
  void SetOpen(bool open) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      open_ = open;
    }
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  int waiting_ = 0;
};

Gate& SyncGate() {
  static Gate& gate = *new Gate();
  return gate;
}
Gate& DeleteGate() {
  static Gate& gate = *new Gate();
  return gate;
}

}  // namespace
}  // namespace weakcache

extern "C" {

int fsync(int file) {
  weakcache::SyncGate().Pass();
  return static_cast<int>(::syscall(SYS_fsync, file));
}
int fdatasync(int file) {
  weakcache::SyncGate().Pass();
  return static_cast<int>(::syscall(SYS_fdatasync, file));
}
// RocksDB deletes its files with this one.
int unlink(const char* path) noexcept {
  if (std::string_view(path).find("/trash") != std::string_view::npos) {
    weakcache::DeleteGate().Pass();
  }
  return static_cast<int>(::syscall(SYS_unlinkat, AT_FDCWD, path, 0));
}
int unlinkat(int folder, const char* path, int flags) noexcept {
  weakcache::DeleteGate().Pass();
  return static_cast<int>(::syscall(SYS_unlinkat, folder, path, flags));
}

}  // extern "C"

namespace weakcache {
namespace {

using ::weakcache::testing::TemporaryFolder;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr int kKeys = 64;
// A look-up that takes so long waits for something.
constexpr std::chrono::seconds kFarTooLong{20};

RocksdbTierOptions OptionsFor(const TemporaryFolder& folder) {
  RocksdbTierOptions options;
  options.folder = (folder.path() / "tier").string();
  options.limit_bytes = 32 * kMiB;
  return options;
}

std::shared_ptr<RocksdbTier> MakeTier(const RocksdbTierOptions& options) {
  auto tier = RocksdbTier::Create(options);
  EXPECT_TRUE(tier.ok()) << tier.status();
  return tier.ok() ? *tier : nullptr;
}

std::string KeyOf(int number) { return "key" + std::to_string(number); }

// Returns whether the function has ended, without waiting for it much longer than it may take.
// Opens the gate then, so that it ends in any case.
bool EndsWhileClosed(Gate& gate, const std::function<void()>& function) {
  std::future<void> end = std::async(std::launch::async, function);
  const bool has_ended = end.wait_for(kFarTooLong) == std::future_status::ready;
  gate.Open();
  end.wait();
  return has_ended;
}

TEST(RocksdbTierSlowDiskTest, LookUpsDoNotWaitForAChange) {
  const TemporaryFolder folder;
  std::shared_ptr<RocksdbTier> tier = MakeTier(OptionsFor(folder));
  for (int key = 0; key < kKeys; ++key) {
    ASSERT_EQ(tier->Put(KeyOf(key), {.bytes = std::string("old")}, {}), absl::OkStatus());
  }
  SyncGate().Close();
  std::thread writer(
      [&] { EXPECT_EQ(tier->Put(KeyOf(0), {.bytes = std::string("new")}, {}), absl::OkStatus()); });
  SyncGate().AwaitWaiter();
  EXPECT_TRUE(EndsWhileClosed(SyncGate(), [&] {
    for (int key = 0; key < kKeys; ++key) {
      const TierWait wait = {.deadline = std::chrono::steady_clock::now() + kFarTooLong / 2};
      const absl::StatusOr<TierLead> found = tier->Lead(KeyOf(key), wait);
      ASSERT_TRUE(found.ok() && found->entry.has_value()) << found.status();
      EXPECT_EQ(found->entry->bytes.view(), "old");
      const absl::StatusOr<TierLead> lead = tier->TryLead(KeyOf(key));
      ASSERT_TRUE(lead.ok());
      EXPECT_TRUE(lead->lease.held());
      tier->EndLead(KeyOf(key), lead->lease);
      const absl::StatusOr<TierLead> missing = tier->Lead("no " + KeyOf(key), wait);
      ASSERT_TRUE(missing.ok() && missing->lease.held()) << missing.status();
    }
  }));
  writer.join();
  EXPECT_EQ(tier->Get(KeyOf(0), {})->bytes.view(), "new");
}

// A lease that is taken while a change is written is revoked by its end, as all before.
TEST(RocksdbTierSlowDiskTest, ALeaseOfTheTimeOfAChangeIsRevoked) {
  const TemporaryFolder folder;
  std::shared_ptr<RocksdbTier> tier = MakeTier(OptionsFor(folder));
  ASSERT_EQ(tier->Put("a", {.bytes = std::string("old")}, {}), absl::OkStatus());
  SyncGate().Close();
  std::thread writer(
      [&] { EXPECT_EQ(tier->Put("a", {.bytes = std::string("new")}, {}), absl::OkStatus()); });
  SyncGate().AwaitWaiter();
  TierLease lease;
  EXPECT_TRUE(EndsWhileClosed(SyncGate(), [&] { lease = tier->TryLead("a")->lease; }));
  writer.join();
  EXPECT_TRUE(lease.held());
  EXPECT_TRUE(absl::IsAborted(tier->Put("a", {.bytes = std::string("loaded")}, lease)));
  EXPECT_EQ(tier->Get("a", {})->bytes.view(), "new");
}

TEST(RocksdbTierSlowDiskTest, LookUpsDoNotWaitForAnErasureOfAll) {
  const TemporaryFolder folder;
  std::shared_ptr<RocksdbTier> tier = MakeTier(OptionsFor(folder));
  for (int key = 0; key < kKeys; ++key) {
    ASSERT_EQ(tier->Put(KeyOf(key), {.bytes = std::string("old")}, {}), absl::OkStatus());
  }
  SyncGate().Close();
  std::thread eraser([&] { EXPECT_EQ(tier->EraseAll(), absl::OkStatus()); });
  SyncGate().AwaitWaiter();
  EXPECT_TRUE(EndsWhileClosed(SyncGate(), [&] {
    for (int key = 0; key < kKeys; ++key) {
      const TierWait wait = {.deadline = std::chrono::steady_clock::now() + kFarTooLong / 2};
      EXPECT_FALSE(tier->Get(KeyOf(key), wait).ok());
      const absl::StatusOr<TierLead> lead = tier->Lead(KeyOf(key), wait);
      EXPECT_TRUE(lead.ok() ? !lead->entry.has_value() : absl::IsUnavailable(lead.status()));
      (void)tier->TryLead(KeyOf(key));
    }
  }));
  eraser.join();
  ASSERT_EQ(tier->Put("a", {.bytes = std::string("later")}, {}), absl::OkStatus());
  EXPECT_EQ(tier->Get("a", {})->bytes.view(), "later");
}

// The files that EraseAll has replaced are deleted later. Until then they count.
TEST(RocksdbTierSlowDiskTest, AnErasureOfAllDoesNotWaitForTheFiles) {
  const TemporaryFolder folder;
  const RocksdbTierOptions options = OptionsFor(folder);
  std::shared_ptr<RocksdbTier> tier = MakeTier(options);
  const std::string value(kMiB / 8, 'v');
  for (int key = 0; key < 100; ++key) {
    ASSERT_EQ(tier->Put(KeyOf(key), {.bytes = value}, {}), absl::OkStatus());
  }
  DeleteGate().Close();
  const bool ended = EndsWhileClosed(DeleteGate(), [&] {
    ASSERT_EQ(tier->EraseAll(), absl::OkStatus());
    EXPECT_TRUE(absl::IsNotFound(tier->Get(KeyOf(99), {}).status()));
    EXPECT_GT(folder.Bytes(), 10 * kMiB) << "or nothing has been left to be deleted";
    absl::Status status;
    for (int key = 0; key < 200 && status.ok(); ++key) {
      status = tier->Put(KeyOf(key), {.bytes = value}, {});
      EXPECT_LE(folder.Bytes(), options.limit_bytes);
    }
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  });
  ASSERT_TRUE(ended);
  // Now they go. A Put waits for room that comes.
  for (int key = 0; key < 200; ++key) {
    ASSERT_EQ(tier->Put(KeyOf(key), {.bytes = value}, {}), absl::OkStatus());
  }
  EXPECT_LE(folder.Bytes(), options.limit_bytes);
  // What a tier has left when it ends, the next one deletes.
  DeleteGate().Close();
  ASSERT_EQ(tier->EraseAll(), absl::OkStatus());
  DeleteGate().Open();
  tier.reset();
  tier = MakeTier(options);
  EXPECT_TRUE(absl::IsNotFound(tier->Get(KeyOf(199), {}).status()));
  const auto give_up = std::chrono::steady_clock::now() + kFarTooLong;
  while (folder.Bytes() > kMiB && std::chrono::steady_clock::now() < give_up) {
    std::this_thread::yield();
  }
  EXPECT_LE(folder.Bytes(), kMiB);
}

}  // namespace
}  // namespace weakcache
