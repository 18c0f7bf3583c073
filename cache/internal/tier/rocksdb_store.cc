// SPDX-License-Identifier: Apache-2.0
#ifdef WEAKCACHE_ROCKSDB_TIER  // else this file is empty: see "Plain" in README.md
#include "weakcache/cache/internal/tier/rocksdb_store.h"

#include <fcntl.h>
#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/listener.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <filesystem>
#include <future>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/tier/tier_folder.h"

namespace weakcache::internal {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;

constexpr std::string_view kMarker = "weakcache_tier";
constexpr std::string_view kFormat = "weakcache RocksdbTier, format 1\n";
constexpr std::string_view kEpochKey = "epoch";
constexpr char kGroupPrefix = 'g';
// Each opening has so many numbers.
constexpr int kNumberBits = 40;
// An entry's number, and a hash of that with its key: so no entry is taken for another key's.
constexpr size_t kPrefixBytes = 16;
constexpr size_t kMaxUnrecordedKeys = 100'000;
constexpr std::chrono::seconds kMaxWaitForRoom{1};
constexpr std::chrono::milliseconds kMaxWaitForFlush{20};
constexpr uint64_t kMiB = uint64_t{1} << 20;

// The limit holds because of this arithmetic. A unit is what one file of entries may have: a
// memtable is closed by the write that fills it. A Put is let in only while the tables have at most
// two units above their own limit, beyond which FIFO compaction drops files. Two memtables may then
// be full: their logs, the tables that are made of them, and one log that is being deleted are five
// more units. The manifests and the groups' records have the rest.
uint64_t UnitBytes(const RocksdbStoreSettings& settings) {
  return settings.write_buffer_bytes + settings.max_value_bytes;
}
constexpr uint64_t kUnitsBeside = 7;
constexpr uint64_t kUnitsAboveLimit = 2;
constexpr uint64_t kOtherFilesBytes = 8 * kMiB;

uint64_t TablesLimit(const RocksdbStoreSettings& settings) {
  return settings.limit_bytes - kUnitsBeside * UnitBytes(settings) - kOtherFilesBytes;
}

fs::path DatabasePath(const RocksdbStoreSettings& settings) {
  return fs::path(settings.folder) / "db";
}

rocksdb::Slice ToSlice(std::string_view text) { return {text.data(), text.size()}; }
std::string_view ToView(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

absl::Status ToStatus(const rocksdb::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = absl::StrCat("RocksdbTier: ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(text);
  if (status.IsCorruption()) return absl::DataLossError(text);
  if (status.IsNoSpace() || status.IsIncomplete()) return absl::ResourceExhaustedError(text);
  if (status.IsInvalidArgument() || status.IsNotSupported()) {
    return absl::FailedPreconditionError(text);
  }
  return absl::UnavailableError(text);
}

std::string EncodeNumber(uint64_t number) {
  std::string bytes;
  for (int shift = 0; shift < 64; shift += 8) bytes += static_cast<char>(number >> shift);
  return bytes;
}
uint64_t DecodeNumber(std::string_view bytes) {
  uint64_t number = 0;
  for (size_t i = 0; i < sizeof(number); ++i) {
    number |= uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  }
  return number;
}
uint64_t KeyHash(std::string_view key, uint64_t number) {
  return XXH3_64bits_withSeed(key.data(), key.size(), number);
}
std::string GroupKey(uint32_t group) { return kGroupPrefix + EncodeNumber(group); }

// Knows what the tables have, what is yet to be deleted, and what writers are about to add, and
// lets writers wait while that is too much. (RocksDB's SstFileManager knows the former, but also
// resumes a database whose log has failed.)
class Room final : public rocksdb::EventListener {
 public:
  // What is yet to be deleted is the trash's.
  explicit Room(const Trash& trash) : trash_(trash) {}

  bool Reserve(uint64_t bytes, uint64_t most, Deadline deadline) {
    const BasicMutexLock<StdAtomics> lock(mutex_);
    const auto fits = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {  // under the lock of WaitUntil
      return table_bytes_ + trash_.bytes() + reserved_ + bytes <= most;
    };
    changed_.WaitUntil(mutex_, fits, deadline);
    if (!fits()) return false;
    reserved_ += bytes;
    return true;
  }
  void Release(uint64_t bytes) {
    const BasicMutexLock<StdAtomics> lock(mutex_);
    reserved_ -= bytes;
    changed_.NotifyAll();
  }
  // Has writers look again, as the trash has become less.
  void LookAgain() {
    const BasicMutexLock<StdAtomics> lock(mutex_);
    changed_.NotifyAll();
  }
  // Waits until a write may go on that RocksDB has not let in. RocksDB says so after some other
  // lock is free, so this returns after a while in any case.
  void AwaitFlush(Deadline deadline) {
    const BasicMutexLock<StdAtomics> lock(mutex_);
    const uint64_t flushes = flushes_;
    const auto flushed = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return flushes_ != flushes; };
    changed_.WaitUntil(mutex_, flushed, std::min(deadline, Clock::now() + kMaxWaitForFlush));
  }

  // Adds the tables that are there. What RocksDB tells of a table comes after it is made or
  // deleted, so whatever is done at the same time, each is added once.
  void AddTables(const fs::path& folder) {
    const BasicMutexLock<StdAtomics> lock(mutex_);
    std::error_code error;
    for (fs::directory_iterator file(folder, error), end; !error && file != end;
         file.increment(error)) {
      if (file->path().extension() != ".sst") continue;
      std::error_code gone;
      const uint64_t bytes = fs::file_size(file->path(), gone);
      if (!gone) Set(file->path(), bytes);
    }
  }
  void OnTableFileCreated(const rocksdb::TableFileCreationInfo& info) override {
    if (!info.status.ok()) return;
    const BasicMutexLock<StdAtomics> lock(mutex_);
    Set(info.file_path, info.file_size);
  }
  void OnStallConditionsChanged(const rocksdb::WriteStallInfo& /*info*/) override {
    const BasicMutexLock<StdAtomics> lock(mutex_);
    ++flushes_;
    changed_.NotifyAll();
  }
  void OnTableFileDeleted(const rocksdb::TableFileDeletionInfo& info) override {
    const BasicMutexLock<StdAtomics> lock(mutex_);
    Set(info.file_path, 0);
    tables_.erase(fs::path(info.file_path).filename().string());
    changed_.NotifyAll();
  }

 private:
  void Set(const fs::path& file, uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    uint64_t& known = tables_[file.filename().string()];
    table_bytes_ += bytes - known;
    known = bytes;
  }

  const Trash& trash_;
  BasicMutex<StdAtomics> mutex_;
  BasicCondition<StdAtomics> changed_;
  uint64_t flushes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::unordered_map<std::string, uint64_t> tables_ ABSL_GUARDED_BY(mutex_);
  uint64_t table_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of all in tables_
  uint64_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;
};

class RoomReservation {
 public:
  RoomReservation(Room& room, uint64_t bytes, uint64_t most, Deadline deadline)
      : room_(room), bytes_(bytes), held_(room.Reserve(bytes, most, deadline)) {}
  RoomReservation(const RoomReservation&) = delete;
  RoomReservation& operator=(const RoomReservation&) = delete;
  ~RoomReservation() {
    if (held_) room_.Release(bytes_);
  }
  bool held() const { return held_; }

 private:
  Room& room_;
  const uint64_t bytes_;
  const bool held_;
};

// Writes nothing: RocksDB's own log would need room, and RocksDB with assertions aborts if the disk
// has none for it.
class NoLogger final : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char* /*format*/, va_list /*arguments*/) override {}
};

rocksdb::DBOptions DatabaseOptions(const RocksdbStoreSettings& settings) {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  // Both column families have the same log, which is deleted once both are flushed.
  options.atomic_flush = true;
  // What a crash has cut off is dropped. Any other damage of the log could hide an erasure.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.max_total_wal_size = 2 * UnitBytes(settings);
  options.allow_fallocate = false;
  options.max_manifest_file_size = kMiB;
  options.info_log = std::make_shared<NoLogger>();
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.skip_stats_update_on_db_open = true;
  options.max_open_files = 512;
  options.max_bgerror_resume_count = 0;  // it is opened anew instead
  return options;
}

rocksdb::ColumnFamilyOptions EntriesOptions(const RocksdbStoreSettings& settings,
                                            const std::shared_ptr<rocksdb::Cache>& blocks) {
  rocksdb::ColumnFamilyOptions options;
  options.compression = rocksdb::kNoCompression;  // the envelope's
  options.compaction_style = rocksdb::kCompactionStyleFIFO;
  options.compaction_options_fifo.max_table_files_size = TablesLimit(settings);
  options.compaction_options_fifo.allow_compaction = false;
  options.ttl = 0;
  options.periodic_compaction_seconds = 0;
  options.write_buffer_size = settings.write_buffer_bytes;
  options.max_write_buffer_number = 2;
  rocksdb::BlockBasedTableOptions table;
  // Keeps nothing, but is what makes RocksDB hand out its blocks instead of copies.
  table.block_cache = blocks;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

// The sequence number of the last change that the disk has, in a file beside the database's. If the
// log is damaged after that one, no change is lost. The file is written without a sync: if what is
// written last is lost with the power, then a log that is not damaged by that has later ones.
class LastChange {
 public:
  explicit LastChange(const RocksdbStoreSettings& settings)
      : file_(DatabasePath(settings) / "last_change", O_RDWR | O_CREAT) {}

  // Nothing if there is none, or if it can't be read.
  std::optional<uint64_t> Read() const {
    std::array<char, 16> bytes = {};
    if (::pread(file_.fd(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
      return std::nullopt;
    const std::string_view text(bytes.data(), bytes.size());
    const uint64_t sequence = DecodeNumber(text);
    if (DecodeNumber(text.substr(8)) != KeyHash(text.substr(0, 8), 0)) return std::nullopt;
    return sequence;
  }
  void Note(uint64_t sequence) {
    const BasicMutexLock<StdAtomics> lock(mutex_);
    if (sequence <= latest_) return;
    latest_ = sequence;
    std::string text = EncodeNumber(sequence);
    text += EncodeNumber(KeyHash(text, 0));
    // If that fails, the former one stays: no more than with the power is lost.
    [[maybe_unused]] const ssize_t size = ::pwrite(file_.fd(), text.data(), text.size(), 0);
  }
  void Sync() const { ::fdatasync(file_.fd()); }

 private:
  const File file_;
  BasicMutex<StdAtomics> mutex_;
  uint64_t latest_ ABSL_GUARDED_BY(mutex_) = 0;
};

rocksdb::ColumnFamilyOptions RecordsOptions() {
  rocksdb::ColumnFamilyOptions options;
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = kMiB / 4;
  return options;
}

}  // namespace

struct OpenRocksdb {
  explicit OpenRocksdb(const Trash& trash) : room(std::make_shared<Room>(trash)) {}
  OpenRocksdb(const OpenRocksdb&) = delete;
  OpenRocksdb& operator=(const OpenRocksdb&) = delete;
  ~OpenRocksdb() {
    if (database != nullptr) {
      // So that entries without a sync survive a loss of power after this. (RocksDB with assertions
      // aborts on a log that has failed.)
      if (!failed.load() && !discarded) (void)database->FlushWAL(/*sync=*/true);
      for (rocksdb::ColumnFamilyHandle* const family : families) {
        (void)database->DestroyColumnFamilyHandle(family);
      }
    }
  }

  rocksdb::ColumnFamilyHandle* records() const { return families[0]; }
  rocksdb::ColumnFamilyHandle* entries() const { return families[1]; }

  void NoteGroupErased(uint32_t group, uint64_t number) {
    const BasicMutexLock<StdAtomics> lock(mutex);
    uint64_t& latest = erased_groups[group];
    latest = std::max(latest, number);
    has_erased_groups.store(true);
  }

  std::shared_ptr<rocksdb::Cache> blocks = rocksdb::NewLRUCache(0);
  const std::shared_ptr<Room> room;
  std::unique_ptr<rocksdb::DB> database;
  std::vector<rocksdb::ColumnFamilyHandle*> families;
  std::unique_ptr<LastChange> last_change;
  uint64_t epoch = 0;
  mutable BasicMutex<StdAtomics> mutex;
  std::unordered_map<uint32_t, uint64_t> erased_groups ABSL_GUARDED_BY(mutex);
  // Whether there are any; becomes true under the mutex, and stays so.
  std::atomic<bool> has_erased_groups{false};
  // Whether a write has failed. It stays so: the database is opened anew.
  std::atomic<bool> failed{false};
  // Whether the files are deleted after this. Of the thread that closes.
  bool discarded = false;
};

namespace {

// Writes a batch. With a sync, the disk has it then.
rocksdb::Status Write(OpenRocksdb& open, rocksdb::WriteBatch& batch, bool sync) {
  rocksdb::DB& database = *open.database;
  const uint64_t before = database.GetLatestSequenceNumber();
  rocksdb::WriteOptions options;
  options.sync = sync;
  const rocksdb::Status written = database.Write(options, &batch);
  if (!written.ok() || !sync) return written;
  const uint64_t after = database.GetLatestSequenceNumber();
  // A batch begins with its number. (A greater one is safe, too: then more is taken for lost.)
  const uint64_t last = DecodeNumber(batch.Data()) + batch.Count() - 1;
  open.last_change->Note(before < last && last <= after ? last : after);
  return written;
}

// Does so for an entry that need not be written: gives up if RocksDB would have to wait for the
// disk for longer, which may hang.
rocksdb::Status WriteInTime(OpenRocksdb& open, rocksdb::WriteBatch& batch, Deadline deadline) {
  rocksdb::WriteOptions options;
  options.no_slowdown = true;
  while (true) {
    rocksdb::Status written = open.database->Write(options, &batch);
    if (!written.IsIncomplete() || Clock::now() >= deadline) return written;
    open.room->AwaitFlush(deadline);
  }
}

// Counts this opening, so that numbers are never used twice: not those of earlier openings, and not
// those of this process, which may have begun with other files.
absl::Status BeginEpoch(OpenRocksdb& open, uint64_t latest_number) {
  std::string value;
  const rocksdb::Status found =
      open.database->Get(rocksdb::ReadOptions(), open.records(), ToSlice(kEpochKey), &value);
  if (!found.ok() && !found.IsNotFound()) return ToStatus(found);
  if (found.ok() && value.size() != sizeof(uint64_t)) return absl::DataLossError("epoch");
  const uint64_t latest = found.ok() ? DecodeNumber(value) : 0;
  open.epoch = std::max(latest, latest_number >> kNumberBits) + 1;
  rocksdb::WriteBatch batch;
  const auto added = batch.Put(open.records(), ToSlice(kEpochKey), EncodeNumber(open.epoch));
  const rocksdb::Status written = added.ok() ? Write(open, batch, /*sync=*/true) : added;
  open.last_change->Sync();
  return ToStatus(written);
}

absl::Status ReadErasedGroups(OpenRocksdb& open) {
  const std::unique_ptr<rocksdb::Iterator> record(
      open.database->NewIterator(rocksdb::ReadOptions(), open.records()));
  for (record->SeekToFirst(); record->Valid(); record->Next()) {
    const std::string_view key = ToView(record->key());
    if (key.empty() || key[0] != kGroupPrefix) continue;
    if (key.size() != 1 + sizeof(uint64_t) || record->value().size() != sizeof(uint64_t)) {
      return absl::DataLossError("RocksdbTier: the record of a group");
    }
    open.NoteGroupErased(static_cast<uint32_t>(DecodeNumber(key.substr(1))),
                         DecodeNumber(ToView(record->value())));
  }
  return ToStatus(record->status());
}

// Whether the files are damaged, and not only out of reach or of another version of RocksDB.
bool IsDamage(const rocksdb::Status& status) {
  if (status.IsNotFound() || status.IsPathNotFound()) return true;
  if (!status.IsCorruption()) return false;
  // RocksDB also calls a table corrupt that it can't look at.
  const std::string text = status.ToString();
  return text.find("IO error") == std::string::npos ||
         text.find(std::strerror(ENOENT)) != std::string::npos;
}

// Returns false only if there is no entry under the key, from what is in memory.
bool MayHave(const OpenRocksdb& open, std::string_view key) {
  std::string value;
  return open.database->KeyMayExist(rocksdb::ReadOptions(), open.entries(), ToSlice(key), &value);
}

// Returns whether something can be written into the folder, without a change of the database.
absl::Status ProbeFolder(const fs::path& folder) {
  const fs::path path = folder / "probe";
  absl::Status status;
  {
    const File file(path, O_WRONLY | O_CREAT | O_TRUNC);
    if (file.fd() < 0 || !file.Write(std::string(kMiB / 16, '\0'))) {
      status = FileError("write", path, errno);
    }
  }
  ::unlink(path.c_str());
  return status;
}

}  // namespace

RocksdbStore::RocksdbStore(RocksdbStoreSettings settings, std::unique_ptr<FolderLock> folder_lock)
    : settings_(std::move(settings)),
      folder_lock_(std::move(folder_lock)),
      trash_(settings_.folder, [this] {
        const std::shared_ptr<OpenRocksdb> open = database();
        if (open != nullptr) open->room->LookAgain();
      }) {}

RocksdbStore::~RocksdbStore() { CloseDatabase(/*discarded=*/false); }

absl::StatusOr<std::unique_ptr<RocksdbStore>> RocksdbStore::Open(RocksdbStoreSettings settings) {
  auto lock = FolderLock::Take(settings.folder, kMarker);
  if (!lock.ok()) return lock.status();
  const absl::StatusOr<bool> same_format = (*lock)->HasFormat(kFormat);
  if (!same_format.ok()) return same_format.status();
  std::unique_ptr<RocksdbStore> store(new RocksdbStore(std::move(settings), *std::move(lock)));
  if (!*same_format) {
    absl::Status status = store->trash_.MoveIn(DatabasePath(store->settings_));
    if (status.ok()) status = store->folder_lock_->WriteFormat(kFormat);
    if (!status.ok()) return status;
  }
  if (absl::Status status = store->OpenDatabase(); !status.ok()) return status;
  return store;
}

absl::StatusOr<std::unique_ptr<OpenRocksdb>> RocksdbStore::TryOpen(bool up_to_damage) const {
  auto open = std::make_unique<OpenRocksdb>(trash_);
  rocksdb::DBOptions options = DatabaseOptions(settings_);
  if (up_to_damage) options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  options.listeners.push_back(open->room);
  rocksdb::DB* database = nullptr;
  const rocksdb::Status status =
      rocksdb::DB::Open(options, DatabasePath(settings_),
                        {{rocksdb::kDefaultColumnFamilyName, RecordsOptions()},
                         {"entries", EntriesOptions(settings_, open->blocks)}},
                        &open->families, &database);
  open->database.reset(database);
  if (IsDamage(status)) return absl::DataLossError(status.ToString());
  if (!status.ok()) return ToStatus(status);
  open->last_change = std::make_unique<LastChange>(settings_);
  if (settings_.sync_changes) {
    // Also if it opens without damage: perhaps a crash came after an attempt up to the damage.
    const uint64_t last = open->last_change->Read().value_or(up_to_damage ? UINT64_MAX : 0);
    if (database->GetLatestSequenceNumber() < last) {
      return absl::DataLossError("RocksdbTier: a change is lost");
    }
  }
  open->room->AddTables(DatabasePath(settings_));
  if (absl::Status begun = BeginEpoch(*open, number_.load(std::memory_order_relaxed)); !begun.ok())
    return begun;
  if (absl::Status read = ReadErasedGroups(*open); !read.ok()) return read;
  return open;
}

absl::Status RocksdbStore::OpenDatabase() {
  absl::StatusOr<std::unique_ptr<OpenRocksdb>> open = TryOpen(/*up_to_damage=*/false);
  if (absl::IsDataLoss(open.status())) {
    restarts_.fetch_add(1, std::memory_order_relaxed);
    open = TryOpen(/*up_to_damage=*/true);
  }
  if (absl::IsDataLoss(open.status())) {
    if (absl::Status status = trash_.MoveIn(DatabasePath(settings_)); !status.ok()) return status;
    open = TryOpen(/*up_to_damage=*/false);
  }
  if (absl::IsResourceExhausted(open.status()) && trash_.bytes() > 0) {
    trash_.AwaitEmpty();
    open = TryOpen(/*up_to_damage=*/false);
  }
  if (!open.ok()) return open.status();
  const uint64_t first = (*open)->epoch << kNumberBits;
  if (number_.load(std::memory_order_relaxed) < first) {
    number_.store(first, std::memory_order_relaxed);
  }
  owned_ = *std::move(open);
  const auto unused = std::make_shared<std::promise<void>>();
  unused_ = unused->get_future();
  const MutexLock lock(mutex_);
  for (const auto& [group, number] : unrecorded_.groups) owned_->NoteGroupErased(group, number);
  database_ = std::shared_ptr<OpenRocksdb>(
      owned_.get(), [unused](OpenRocksdb* /*open*/) { unused->set_value(); });
  return absl::OkStatus();
}

void RocksdbStore::CloseDatabase(bool discarded) {
  if (owned_ == nullptr) return;
  bool was_open = false;
  {
    std::shared_ptr<OpenRocksdb> open;
    const MutexLock lock(mutex_);
    open.swap(database_);
    was_open = open != nullptr;
  }
  if (was_open) unused_.wait();
  owned_->discarded = discarded;
  owned_.reset();
}

std::shared_ptr<OpenRocksdb> RocksdbStore::database() const {
  const MutexLock lock(mutex_);
  return database_;
}

bool RocksdbStore::IsUnrecorded(std::string_view key) const {
  if (!needs_repair_.load()) return false;
  const MutexLock lock(mutex_);
  return unrecorded_.all || unrecorded_.keys.contains(std::string(key));
}

void RocksdbStore::RememberKey(std::string_view key) {
  const MutexLock lock(mutex_);
  if (unrecorded_.keys.size() >= kMaxUnrecordedKeys) {
    unrecorded_.keys.clear();
    unrecorded_.all = true;
  }
  if (!unrecorded_.all) unrecorded_.keys.emplace(key);
  needs_repair_.store(true);
}

absl::Status RocksdbStore::NoteFailure(OpenRocksdb& open, absl::Status status) {
  open.failed.store(true);
  const MutexLock lock(mutex_);
  failure_ = status;
  retry_at_ = Clock::now() + settings_.retry_after;
  needs_repair_.store(true);
  return status;
}

std::string RocksdbStore::condition() const {
  const MutexLock lock(mutex_);
  if (failure_.ok()) return {};
  return absl::StrCat("writes fail: ", failure_.message());
}

absl::StatusOr<std::shared_ptr<OpenRocksdb>> RocksdbStore::Writable() {
  if (needs_repair_.load()) {
    {
      const MutexLock lock(mutex_);
      if (repairing_ || Clock::now() < retry_at_) {
        return failure_.ok() ? absl::UnavailableError("RocksdbTier: is being repaired") : failure_;
      }
      repairing_ = true;
    }
    absl::Status status = CatchErrors([&] { return Repair(); },
                                      [] {
                                        return NoThrowStatus(absl::StatusCode::kResourceExhausted,
                                                             "RocksdbTier: not repaired");
                                      });
    const MutexLock lock(mutex_);
    repairing_ = false;
    failure_ = status;
    retry_at_ = Clock::now() + settings_.retry_after;
    if (!status.ok()) return status;
    // A change may have failed meanwhile because of the repair: then the next one records it.
    retry_at_ = {};
    needs_repair_.store(!unrecorded_.empty());
    return database_;
  }
  const MutexLock lock(mutex_);
  if (database_ == nullptr) return absl::UnavailableError("RocksdbTier: is being emptied");
  return database_;
}

absl::Status RocksdbStore::Repair() {
  if (absl::Status status = ProbeFolder(settings_.folder); !status.ok()) return status;
  bool all = false;
  bool failed = false;
  {
    const MutexLock lock(mutex_);
    all = unrecorded_.all;
    failed = !failure_.ok() || database_ == nullptr;
  }
  if (all) return Restart();
  if (failed) {
    CloseDatabase(/*discarded=*/false);
    if (absl::Status status = OpenDatabase(); !status.ok()) return status;
  }
  return RecordUnrecorded();
}

absl::Status RocksdbStore::RecordUnrecorded() {
  Unrecorded changes;
  std::shared_ptr<OpenRocksdb> open;
  {
    const MutexLock lock(mutex_);
    changes = unrecorded_;
    open = database_;
  }
  rocksdb::WriteBatch batch;
  for (const std::string& key : changes.keys) {
    if (const auto added = batch.Delete(open->entries(), ToSlice(key)); !added.ok()) {
      return ToStatus(added);
    }
  }
  for (const auto& [group, number] : changes.groups) {
    const auto added = batch.Put(open->records(), GroupKey(group), EncodeNumber(number));
    if (!added.ok()) return ToStatus(added);
  }
  const rocksdb::Status written = Write(*open, batch, settings_.sync_changes);
  if (!written.ok()) {
    open->failed.store(true);
    return ToStatus(written);
  }
  const MutexLock lock(mutex_);
  for (const std::string& key : changes.keys) unrecorded_.keys.erase(key);
  for (const auto& [group, number] : changes.groups) {
    const auto found = unrecorded_.groups.find(group);
    if (found != unrecorded_.groups.end() && found->second == number) {
      unrecorded_.groups.erase(found);
    }
  }
  return absl::OkStatus();
}

absl::Status RocksdbStore::Restart() {
  CloseDatabase(/*discarded=*/true);
  absl::Status status = trash_.MoveIn(DatabasePath(settings_));
  if (status.ok()) {
    const MutexLock lock(mutex_);
    unrecorded_ = {};
  }
  // If the files could not be moved away, they can still be read: nothing of them is found.
  const absl::Status opened = OpenDatabase();
  return status.ok() ? opened : status;
}

absl::StatusOr<RocksdbStore::Found> RocksdbStore::Get(std::string_view key) const {
  const std::shared_ptr<OpenRocksdb> open = database();
  if (open == nullptr) return absl::UnavailableError("RocksdbTier: the files are not open");
  if (IsUnrecorded(key)) return absl::NotFoundError("");
  struct Pinned {
    std::shared_ptr<rocksdb::Cache> blocks;  // outlives the value, which may be one of its blocks
    rocksdb::PinnableSlice value;
  };
  auto pinned = std::make_shared<Pinned>();
  pinned->blocks = open->blocks;
  const rocksdb::Status status =
      open->database->Get(rocksdb::ReadOptions(), open->entries(), ToSlice(key), &pinned->value);
  if (status.IsNotFound()) return absl::NotFoundError("");
  if (!status.ok()) return ToStatus(status);
  const std::string_view bytes = ToView(pinned->value);
  if (bytes.size() < kPrefixBytes) return absl::DataLossError("RocksdbTier: too short an entry");
  const uint64_t number = DecodeNumber(bytes);
  if (DecodeNumber(bytes.substr(sizeof(number))) != KeyHash(key, number)) {
    return absl::DataLossError("RocksdbTier: an entry of another key");
  }
  return Found{.sealed = TierBytes(bytes.substr(kPrefixBytes), std::move(pinned)),
               .number = number,
               .database = open};
}

bool RocksdbStore::IsErased(const Found& found, uint32_t group) {
  const OpenRocksdb& open = *found.database;
  if (!open.has_erased_groups.load()) return false;
  const BasicMutexLock<StdAtomics> lock(open.mutex);
  const auto erased = open.erased_groups.find(group);
  return erased != open.erased_groups.end() && found.number < erased->second;
}

absl::Status RocksdbStore::Put(std::string_view key, std::string_view sealed, bool is_change) {
  absl::Status status = TryPut(key, sealed, is_change);
  if (status.ok() || !is_change) return status;
  // What is there is older than the change.
  if (absl::IsResourceExhausted(status) && condition().empty()) {
    if (absl::Status erased = Erase(key); !erased.ok()) return erased;
    return status;
  }
  RememberKey(key);
  return status;
}

absl::Status RocksdbStore::TryPut(std::string_view key, std::string_view sealed, bool is_change) {
  auto open = Writable();
  if (!open.ok()) return open.status();
  rocksdb::ColumnFamilyHandle* const entries = (*open)->entries();
  const uint64_t bytes = key.size() + kPrefixBytes + sealed.size();
  const uint64_t most = TablesLimit(settings_) + kUnitsAboveLimit * UnitBytes(settings_);
  const Deadline deadline = Clock::now() + kMaxWaitForRoom;
  const RoomReservation reservation(*(*open)->room, bytes, most, deadline);
  if (!reservation.held()) {
    return absl::ResourceExhaustedError("RocksdbTier: older files are not dropped fast enough");
  }
  const uint64_t number = number_.fetch_add(1, std::memory_order_relaxed) + 1;
  const std::string prefix = EncodeNumber(number) + EncodeNumber(KeyHash(key, number));
  const std::array<rocksdb::Slice, 1> key_parts = {ToSlice(key)};
  const std::array<rocksdb::Slice, 2> value_parts = {ToSlice(prefix), ToSlice(sealed)};
  rocksdb::WriteBatch batch(bytes + 64);
  const rocksdb::Status added = batch.Put(entries, rocksdb::SliceParts(key_parts.data(), 1),
                                          rocksdb::SliceParts(value_parts.data(), 2));
  if (!added.ok()) return ToStatus(added);
  const rocksdb::Status written =
      is_change ? Write(**open, batch, settings_.sync_changes && MayHave(**open, key))
                : WriteInTime(**open, batch, deadline);
  if (written.ok()) return absl::OkStatus();
  return written.IsIncomplete() ? ToStatus(written) : NoteFailure(**open, ToStatus(written));
}

absl::Status RocksdbStore::Erase(std::string_view key) {
  auto open = Writable();
  absl::Status status = open.status();
  if (open.ok()) {
    if (!MayHave(**open, key)) return absl::OkStatus();
    rocksdb::WriteBatch batch;
    rocksdb::Status written = batch.Delete((*open)->entries(), ToSlice(key));
    if (written.ok()) written = Write(**open, batch, settings_.sync_changes);
    if (written.ok()) return absl::OkStatus();
    status = NoteFailure(**open, ToStatus(written));
  }
  RememberKey(key);
  return status;
}

absl::Status RocksdbStore::EraseGroup(uint32_t group) {
  const uint64_t number = number_.fetch_add(1, std::memory_order_relaxed) + 1;
  auto open = Writable();
  absl::Status status = open.status();
  if (open.ok()) {
    // First, as an entry may be looked for before the record is written.
    (*open)->NoteGroupErased(group, number);
    rocksdb::WriteBatch batch;
    rocksdb::Status written = batch.Put((*open)->records(), GroupKey(group), EncodeNumber(number));
    if (written.ok()) written = Write(**open, batch, settings_.sync_changes);
    if (written.ok()) return absl::OkStatus();
    status = NoteFailure(**open, ToStatus(written));
  }
  const MutexLock lock(mutex_);
  if (database_ != nullptr) database_->NoteGroupErased(group, number);
  unrecorded_.groups[group] = number;
  needs_repair_.store(true);
  return status;
}

absl::Status RocksdbStore::EraseAll() {
  {
    // The callers' locks keep all others that change something out, so nobody repairs.
    const MutexLock lock(mutex_);
    unrecorded_.all = true;
    needs_repair_.store(true);
  }
  absl::Status status = Restart();
  const MutexLock lock(mutex_);
  failure_ = status;
  retry_at_ = status.ok() ? Clock::time_point() : Clock::now() + settings_.retry_after;
  needs_repair_.store(!status.ok() || !unrecorded_.empty());
  return status;
}

absl::Status RocksdbStore::ForEachKey(absl::FunctionRef<void(std::string_view)> visit) const {
  std::string next;
  for (std::vector<std::string> keys;; keys.clear()) {
    // An iterator keeps files that are dropped, so it lives for a page only; and `visit` may erase
    // all, which waits for all that use the database.
    {
      const std::shared_ptr<OpenRocksdb> open = database();
      if (open == nullptr) return absl::UnavailableError("RocksdbTier: the files are not open");
      uint64_t bytes = 0;
      rocksdb::ReadOptions options;
      options.fill_cache = false;
      const std::unique_ptr<rocksdb::Iterator> entry(
          open->database->NewIterator(options, open->entries()));
      for (entry->Seek(next); entry->Valid() && bytes < settings_.write_buffer_bytes;
           entry->Next()) {
        keys.push_back(entry->key().ToString());
        bytes += entry->key().size() + entry->value().size();
      }
      if (!entry->status().ok()) return ToStatus(entry->status());
    }
    if (keys.empty()) return absl::OkStatus();
    for (const std::string& key : keys) {
      if (!IsUnrecorded(key)) visit(key);
    }
    next = keys.back() + '\0';
  }
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_ROCKSDB_TIER
