// SPDX-License-Identifier: Apache-2.0
// RocksdbTier: a second tier (second_tier.h) in a folder of this machine, kept by RocksDB, so that
// what a LargeObjectCache has loaded survives a restart.
//
// Why: after a restart a cache is empty, and decodes again for minutes what it had decoded before;
// and a disk has room for many times the objects that memory has.
//
//   weakcache::RocksdbTierOptions on_disk;
//   on_disk.folder = "/var/cache/images";
//   on_disk.limit_bytes = uint64_t{20} << 30;
//   absl::StatusOr<std::shared_ptr<weakcache::RocksdbTier>> tier =
//       weakcache::RocksdbTier::Create(on_disk);
//
// Thread safety: thread-safe. Only one tier, of one process, may use a folder at a time; a child
// that it forks neither uses nor keeps the folder. Bytes that a tier has returned may outlive it.
//
// Unlike RocksDB itself it has a limit that holds, drops the oldest entries first, and may begin
// anew with an empty folder.
//
// Complexity: a call takes time in proportion to the entry, and some 0.2 us for each of the
// folder's files, of which there are limit_bytes / write_buffer_bytes. ForEachKey reads all
// entries.
#ifndef WEAKCACHE_CACHE_ROCKSDB_TIER_H_
#define WEAKCACHE_CACHE_ROCKSDB_TIER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "weakcache/cache/second_tier.h"

namespace weakcache {

struct RocksdbTierOptions {
  // Where the files are. Is made if it is not there; may not have files that are not a tier's.
  std::string folder = {};
  // How many bytes all files in the folder may have together, at least 32 MiB; has to be set. The
  // oldest entries are dropped first, whether they have been used or not. Entries get limit_bytes
  // less 8 MiB and less seven times (write_buffer_bytes + max_value_bytes), the room for files that
  // are being written or dropped. The files may exceed the limit for a moment while Create repairs
  // a folder after a crash.
  uint64_t limit_bytes = 0;
  // An encoded object of more bytes, or with a key of more than 64 KiB, is not put, and counted in
  // skipped_values. At most a sixteenth of the limit. 0: a 64th, and at most 128 MiB.
  uint64_t max_value_bytes = 0;
  // How many bytes are collected in memory for one file; the tier needs twice as much memory. From
  // 128 KiB to a 32nd of the limit. 0: a 64th, and at most 64 MiB; with a limit above 32 GiB this
  // makes more than 512 files, which look-ups open again and again, so set more then.
  uint64_t write_buffer_bytes = 0;
  // Objects of more bytes are compressed with zstd if that saves a twentieth of them.
  size_t compress_above = SIZE_MAX;
  // Whether Erase, EraseGroup, and a Put without a lease return only once the disk has the change,
  // so that not even a loss of power brings an old entry back. If false, a loss of power or another
  // damage of the log may do so, but a crash of the process can't.
  bool sync_changes = true;
  // How long a lease lasts, and how long Lead waits for another caller's at most.
  absl::Duration lease_timeout = absl::Seconds(30);
  // How long after a failed write the next one is tried; until then calls that write fail at once.
  absl::Duration retry_after = absl::Seconds(1);
  // The wall clock, against which entries expire. Empty: absl::Now.
  std::function<absl::Time()> clock = {};
};

// After a crash, entries may be missing, but those that remain are whole. Once a change (Erase,
// EraseGroup, EraseAll, or a Put without a lease) has returned OK, what it has replaced or erased
// never comes back; without `sync_changes`, a loss of power may bring it back. A Put with a lease,
// such as a refresh's, replaces an entry that is still right: a loss of power may bring that back.
//
// If the disk is full, fails or is read-only, calls that write return ResourceExhausted or
// Unavailable, and Stats().condition says why. A key whose change could not be recorded has no
// entry until the change is recorded; all others can still be read, unless there are more than
// 100,000 such keys. Get returns DataLoss for a damaged entry, and never a wrong object. A log that
// is damaged, as by a loss of power, loses the loads behind the damage. If a change may be behind
// it, or if a table is missing or the list of the tables is damaged, what was erased might come
// back: then the folder is emptied, also by Create. All of these count in Stats().errors.
//
// On a disk that hangs, changes hang, and so do look-ups of what has to be read from it. No look-up
// waits for a change or a deletion of files, a Put with a lease waits for a second at most, and
// while EraseAll exchanges the files all other calls but changes fail at once.
class RocksdbTier final : public SecondTier {
 public:
  // Returns InvalidArgument if an option is bad; FailedPrecondition if another tier or process uses
  // the folder, if the folder has other files, or files of another version of RocksDB that this one
  // can't read; and if it can't be written to, Unavailable or ResourceExhausted.
  [[nodiscard]] static absl::StatusOr<std::shared_ptr<RocksdbTier>> Create(
      RocksdbTierOptions options);

  RocksdbTier(const RocksdbTier&) = delete;
  RocksdbTier& operator=(const RocksdbTier&) = delete;
  ~RocksdbTier() override;

  // Returns RocksDB's own bytes, without a copy, if the entry is not compressed and is in a file,
  // not in memory because it was put just now. Never waits, so it ignores `wait`.
  absl::StatusOr<TierEntry> Get(std::string_view key, const TierWait& wait) override;
  absl::StatusOr<TierLead> Lead(std::string_view key, const TierWait& wait) override;
  absl::StatusOr<TierLead> TryLead(std::string_view key) override;
  void EndLead(std::string_view key, const TierLease& lease) override;
  // Puts the entry; if it is too large, only erases the present one.
  absl::Status Put(std::string_view key, const TierEntry& entry, const TierLease& lease) override;
  absl::Status Erase(std::string_view key) override;
  // Writes one record, however many entries the group has. Their space is freed when their files
  // are dropped.
  absl::Status EraseGroup(uint32_t group) override;
  // A thread of the tier deletes the files then. Until they are gone they count, and Puts may find
  // no room. Calls at the same time may find no entries.
  absl::Status EraseAll() override;
  absl::Status ForEachKey(absl::FunctionRef<void(std::string_view)> visit) override;
  TierStats Stats() const override;

 private:
  class Impl;
  explicit RocksdbTier(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_ROCKSDB_TIER_H_
