// SPDX-License-Identifier: Apache-2.0
// The folder of a RocksdbTier: keeps sealed entries in RocksDB, within a limit, and remembers the
// changes that a failing disk has not taken until it takes them.
//
// Entries are in a column family with FIFO compaction, which drops the oldest file whenever a new
// one makes the sum too large, and never reads or rewrites one. So each entry is written twice (log
// and file), the limit holds whatever is overwritten or erased, a damaged file fails nothing but
// look-ups, and an erasure is dropped after whatever it erases. Values are in the tables: in
// version 7.8 FIFO compaction does not count blob files.
//
// Each entry has the number of its writing. A group's erasure is a record of the number at that
// time, in a column family of its own; entries of the group with lower numbers are missing.
#ifndef WEAKCACHE_CACHE_INTERNAL_TIER_ROCKSDB_STORE_H_
#define WEAKCACHE_CACHE_INTERNAL_TIER_ROCKSDB_STORE_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/cache/internal/tier/tier_folder.h"
#include "weakcache/cache/second_tier.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

struct OpenRocksdb;  // in the source, with all that is of RocksDB

struct RocksdbStoreSettings {
  std::string folder;
  uint64_t limit_bytes;
  uint64_t max_value_bytes;
  uint64_t write_buffer_bytes;
  bool sync_changes;
  std::chrono::steady_clock::duration retry_after;
};

// Thread-safe, except that no two calls may change one key at a time, and none any key during
// EraseGroup and EraseAll: LeaseTable orders them.
class RocksdbStore {
 public:
  // A sealed entry, as far as it is known without opening it.
  struct Found {
    TierBytes sealed = {};
    uint64_t number = 0;
    // The database that the entry was read from: knows the erasures of groups.
    std::shared_ptr<const OpenRocksdb> database = {};
  };

  static absl::StatusOr<std::unique_ptr<RocksdbStore>> Open(RocksdbStoreSettings settings);
  RocksdbStore(const RocksdbStore&) = delete;
  RocksdbStore& operator=(const RocksdbStore&) = delete;
  ~RocksdbStore();

  // Returns the entry; NotFound; DataLoss if it is damaged; or Unavailable.
  absl::StatusOr<Found> Get(std::string_view key) const;
  // Returns whether the group has been erased since the entry was put.
  static bool IsErased(const Found& found, uint32_t group);

  // Puts an entry. If a change fails, the present entry is missing from then on. Returns
  // ResourceExhausted if there is no room: the disk is full, or too slow to drop older files.
  absl::Status Put(std::string_view key, std::string_view sealed, bool is_change);
  absl::Status Erase(std::string_view key);
  absl::Status EraseGroup(uint32_t group);
  absl::Status EraseAll();
  // Calls `visit` without a lock. May visit entries that have been erased with their group.
  absl::Status ForEachKey(absl::FunctionRef<void(std::string_view)> visit) const;

  // How often a folder was found damaged as a whole and was emptied.
  uint64_t restarts() const { return restarts_.load(std::memory_order_relaxed); }
  // Empty, or why nothing can be written at present.
  std::string condition() const;

 private:
  using Mutex = BasicMutex<StdAtomics>;
  using MutexLock = BasicMutexLock<StdAtomics>;
  using Clock = std::chrono::steady_clock;
  // Changes that could not be recorded. What they have erased is missing meanwhile.
  struct Unrecorded {
    bool empty() const { return keys.empty() && groups.empty() && !all; }

    std::unordered_set<std::string> keys = {};
    std::unordered_map<uint32_t, uint64_t> groups = {};
    bool all = false;
  };

  RocksdbStore(RocksdbStoreSettings settings, std::unique_ptr<FolderLock> folder_lock);

  std::shared_ptr<OpenRocksdb> database() const;
  absl::Status TryPut(std::string_view key, std::string_view sealed, bool is_change);
  bool IsUnrecorded(std::string_view key) const;
  void RememberKey(std::string_view key);
  absl::Status NoteFailure(OpenRocksdb& open, absl::Status status);
  // Returns the database once all that could not be recorded has been; if nothing can be written at
  // present, why not. After a failure opens the database anew, if it is time to try.
  absl::StatusOr<std::shared_ptr<OpenRocksdb>> Writable();
  absl::Status Repair();
  absl::Status RecordUnrecorded();

  // Opens the database. If its log is damaged, leaves out what comes after the damage; if a change
  // may be among that, or another file is damaged, begins with an empty database.
  absl::Status OpenDatabase();
  absl::StatusOr<std::unique_ptr<OpenRocksdb>> TryOpen(bool up_to_damage) const;
  // Waits until no call uses the database any more, and closes it.
  void CloseDatabase(bool discarded);
  // Begins with an empty database in place of the present one.
  absl::Status Restart();

  const RocksdbStoreSettings settings_;
  const std::unique_ptr<FolderLock> folder_lock_;
  // The number of the latest writing. Relaxed: the callers' locks order those of a key and a group.
  std::atomic<uint64_t> number_{0};
  // Only grows. Relaxed: a figure.
  std::atomic<uint64_t> restarts_{0};
  // Whether there is a failure that is not repaired, or an unrecorded change. Written under mutex_;
  // read without it to see that there is nothing to do.
  std::atomic<bool> needs_repair_{false};
  mutable Mutex mutex_;
  // Is used by whoever holds database_ below; opened and closed by one thread at a time, which then
  // has no copy of it. (No other one may be the last to let it go: closing takes long.)
  std::unique_ptr<OpenRocksdb> owned_;
  std::future<void> unused_;  // becomes ready when nobody holds database_ any more
  // Null while the files can't be opened, and while they are exchanged.
  std::shared_ptr<OpenRocksdb> database_ ABSL_GUARDED_BY(mutex_);
  Unrecorded unrecorded_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  Clock::time_point retry_at_ ABSL_GUARDED_BY(mutex_) = {};
  // Whether a thread is in Repair.
  bool repairing_ ABSL_GUARDED_BY(mutex_) = false;
  // The last member: its thread uses the others.
  Trash trash_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TIER_ROCKSDB_STORE_H_
