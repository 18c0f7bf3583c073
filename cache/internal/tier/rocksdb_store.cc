// SPDX-License-Identifier: Apache-2.0
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
#include <sys/file.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <filesystem>
#include <future>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace weakcache::internal {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMarker = "weakcache RocksdbTier, format 1\n";
constexpr std::string_view kEpochKey = "epoch";
constexpr char kGroupPrefix = 'g';
// Each opening has so many numbers.
constexpr int kNumberBits = 40;
// An entry's number, and a hash of that with its key: so no entry is taken for another key's.
constexpr size_t kPrefixBytes = 16;
constexpr size_t kMaxUnrecordedKeys = 100'000;
constexpr std::chrono::seconds kMaxWaitForRoom{1};
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
fs::path TrashPath(const RocksdbStoreSettings& settings) {
  return fs::path(settings.folder) / "trash";
}

rocksdb::Slice ToSlice(std::string_view text) { return {text.data(), text.size()}; }
std::string_view ToView(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

absl::Status ToStatus(const rocksdb::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = absl::StrCat("RocksdbTier: ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(text);
  if (status.IsCorruption()) return absl::DataLossError(text);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(text);
  return absl::UnavailableError(text);
}

absl::Status Failed(const char* what, const fs::path& path, int error) {
  const std::string text =
      absl::StrCat("RocksdbTier: can't ", what, " ", path.string(), ": ", std::strerror(error));
  return error == ENOSPC ? absl::ResourceExhaustedError(text) : absl::UnavailableError(text);
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

// A file that is closed at the end.
class File {
 public:
  File(const fs::path& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  int fd() const { return fd_; }
  bool Write(std::string_view bytes) const {
    return ::write(fd_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()) &&
           ::fsync(fd_) == 0;
  }

 private:
  const int fd_;
};

// Knows what the tables have and what writers are about to add, and lets writers wait while that is
// too much. (RocksDB's SstFileManager knows the former, but also resumes a database whose log has
// failed.)
class Room final : public rocksdb::EventListener {
 public:
  bool Reserve(uint64_t bytes, uint64_t most) {
    const BasicMutexLock<StdAtomics> lock(mutex_);
    const auto fits = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {  // under the lock of WaitUntil
      return table_bytes_ + reserved_ + bytes <= most;
    };
    changed_.WaitUntil(mutex_, fits, std::chrono::steady_clock::now() + kMaxWaitForRoom);
    if (!fits()) return false;
    reserved_ += bytes;
    return true;
  }
  void Release(uint64_t bytes) {
    const BasicMutexLock<StdAtomics> lock(mutex_);
    reserved_ -= bytes;
    changed_.NotifyAll();
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

  BasicMutex<StdAtomics> mutex_;
  BasicCondition<StdAtomics> changed_;
  std::unordered_map<std::string, uint64_t> tables_ ABSL_GUARDED_BY(mutex_);
  uint64_t table_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of all in tables_
  uint64_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;
};

class RoomReservation {
 public:
  RoomReservation(Room& room, uint64_t bytes, uint64_t most)
      : room_(room), bytes_(bytes), held_(room.Reserve(bytes, most)) {}
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

rocksdb::ColumnFamilyOptions RecordsOptions() {
  rocksdb::ColumnFamilyOptions options;
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = kMiB / 4;
  return options;
}

}  // namespace

struct OpenRocksdb {
  OpenRocksdb() = default;
  OpenRocksdb(const OpenRocksdb&) = delete;
  OpenRocksdb& operator=(const OpenRocksdb&) = delete;
  ~OpenRocksdb() {
    if (database != nullptr) {
      // So that entries without a sync survive a loss of power after this. (RocksDB with assertions
      // aborts on a log that has failed.)
      if (!failed.load()) (void)database->FlushWAL(/*sync=*/true);
      for (rocksdb::ColumnFamilyHandle* const family : families) {
        (void)database->DestroyColumnFamilyHandle(family);
      }
      database.reset();
    }
    closed.set_value();
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
  std::shared_ptr<Room> room = std::make_shared<Room>();
  std::unique_ptr<rocksdb::DB> database;
  std::vector<rocksdb::ColumnFamilyHandle*> families;
  uint64_t epoch = 0;
  mutable BasicMutex<StdAtomics> mutex;
  std::unordered_map<uint32_t, uint64_t> erased_groups ABSL_GUARDED_BY(mutex);
  // Whether there are any; becomes true under the mutex, and stays so.
  std::atomic<bool> has_erased_groups{false};
  // Whether a write has failed. It stays so: the database is opened anew.
  std::atomic<bool> failed{false};
  std::promise<void> closed;
};

namespace {

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
  rocksdb::WriteOptions options;
  options.sync = true;
  return ToStatus(
      open.database->Put(options, open.records(), ToSlice(kEpochKey), EncodeNumber(open.epoch)));
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

// Whether the files are damaged, and not only out of reach.
bool IsDamage(const rocksdb::Status& status) {
  return status.IsCorruption() || status.IsInvalidArgument() || status.IsNotFound() ||
         status.IsPathNotFound() || status.IsNotSupported();
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
      status = Failed("write", path, errno);
    }
  }
  ::unlink(path.c_str());
  return status;
}

}  // namespace

// Keeps other processes, and other tiers of this one, out of a folder.
class RocksdbStore::FolderLock {
 public:
  static absl::StatusOr<std::unique_ptr<FolderLock>> Take(const fs::path& folder);

  explicit FolderLock(const fs::path& marker) : file_(marker, O_RDWR | O_CREAT) {}

  // Returns whether the files are of this format.
  absl::StatusOr<bool> CheckFormat(const fs::path& marker) const {
    std::array<char, kMarker.size() + 1> text = {};
    const ssize_t size = ::pread(file_.fd(), text.data(), text.size(), 0);
    if (size < 0) return Failed("read", marker, errno);
    return std::string_view(text.data(), static_cast<size_t>(size)) == kMarker;
  }
  absl::Status WriteFormat(const fs::path& marker) const {
    if (::ftruncate(file_.fd(), 0) != 0 || !file_.Write(kMarker)) {
      return Failed("write", marker, errno);
    }
    return absl::OkStatus();
  }
  int fd() const { return file_.fd(); }

 private:
  const File file_;
};

absl::StatusOr<std::unique_ptr<RocksdbStore::FolderLock>> RocksdbStore::FolderLock::Take(
    const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return Failed("make", folder, error.value());
  const fs::path marker = folder / "weakcache_tier";
  if (!fs::exists(marker, error) && !fs::is_empty(folder, error)) {
    if (error) return Failed("read", folder, error.value());
    return absl::FailedPreconditionError(
        absl::StrCat("RocksdbTier::Create: the folder ", folder.string(),
                     " has files that are not a tier's; name a folder of its own"));
  }
  auto lock = std::make_unique<FolderLock>(marker);
  if (lock->fd() < 0) return Failed("write", marker, errno);
  if (::flock(lock->fd(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return Failed("lock", marker, errno);
    return absl::FailedPreconditionError(absl::StrCat("RocksdbTier::Create: the folder ",
                                                      folder.string(),
                                                      " is used by another tier or process"));
  }
  return lock;
}

RocksdbStore::RocksdbStore(RocksdbStoreSettings settings, std::unique_ptr<FolderLock> folder_lock)
    : settings_(std::move(settings)), folder_lock_(std::move(folder_lock)) {}

RocksdbStore::~RocksdbStore() { CloseDatabase(); }

absl::StatusOr<std::unique_ptr<RocksdbStore>> RocksdbStore::Open(RocksdbStoreSettings settings) {
  const fs::path folder = settings.folder;
  const fs::path marker = folder / "weakcache_tier";
  auto lock = FolderLock::Take(folder);
  if (!lock.ok()) return lock.status();
  const absl::StatusOr<bool> same_format = (*lock)->CheckFormat(marker);
  if (!same_format.ok()) return same_format.status();
  std::unique_ptr<RocksdbStore> store(new RocksdbStore(std::move(settings), *std::move(lock)));
  if (!*same_format) {
    if (absl::Status status = store->DeleteFiles(); !status.ok()) return status;
    if (absl::Status status = store->folder_lock_->WriteFormat(marker); !status.ok()) return status;
  }
  if (absl::Status status = store->OpenDatabase(); !status.ok()) return status;
  return store;
}

absl::StatusOr<std::shared_ptr<OpenRocksdb>> RocksdbStore::TryOpen() const {
  auto open = std::make_shared<OpenRocksdb>();
  rocksdb::DBOptions options = DatabaseOptions(settings_);
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
  open->room->AddTables(DatabasePath(settings_));
  if (absl::Status begun = BeginEpoch(*open, number_.load(std::memory_order_relaxed)); !begun.ok())
    return begun;
  if (absl::Status read = ReadErasedGroups(*open); !read.ok()) return read;
  return open;
}

absl::Status RocksdbStore::OpenDatabase() {
  std::error_code ignored;
  fs::remove_all(TrashPath(settings_), ignored);  // what a crash has left
  absl::StatusOr<std::shared_ptr<OpenRocksdb>> open = TryOpen();
  if (absl::IsDataLoss(open.status())) {
    restarts_.fetch_add(1, std::memory_order_relaxed);
    if (absl::Status status = DeleteFiles(); !status.ok()) return status;
    open = TryOpen();
  }
  if (!open.ok()) return open.status();
  const uint64_t first = (*open)->epoch << kNumberBits;
  if (number_.load(std::memory_order_relaxed) < first) {
    number_.store(first, std::memory_order_relaxed);
  }
  const MutexLock lock(mutex_);
  for (const auto& [group, number] : unrecorded_.groups) (*open)->NoteGroupErased(group, number);
  database_ = *std::move(open);
  return absl::OkStatus();
}

void RocksdbStore::CloseDatabase() {
  std::future<void> closed;
  {
    std::shared_ptr<OpenRocksdb> open;
    const MutexLock lock(mutex_);
    open.swap(database_);
    if (open == nullptr) return;
    closed = open->closed.get_future();
  }
  closed.wait();
}

absl::Status RocksdbStore::DeleteFiles() {
  const fs::path path = DatabasePath(settings_);
  const fs::path trash = TrashPath(settings_);
  std::error_code error;
  fs::remove_all(trash, error);
  if (error) return Failed("delete", trash, error.value());
  if (::rename(path.c_str(), trash.c_str()) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return Failed("rename", path, errno);
  }
  const File folder(settings_.folder, O_RDONLY | O_DIRECTORY);
  if (folder.fd() < 0 || ::fsync(folder.fd()) != 0) return Failed("write", path, errno);
  fs::remove_all(trash, error);
  return absl::OkStatus();
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
    absl::Status status = Repair();
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
    CloseDatabase();
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
  rocksdb::WriteOptions options;
  options.sync = settings_.sync_changes;
  const rocksdb::Status written = open->database->Write(options, &batch);
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
  CloseDatabase();
  absl::Status status = DeleteFiles();
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
  rocksdb::DB& database = *(*open)->database;
  rocksdb::ColumnFamilyHandle* const entries = (*open)->entries();
  const uint64_t bytes = key.size() + kPrefixBytes + sealed.size();
  const uint64_t most = TablesLimit(settings_) + kUnitsAboveLimit * UnitBytes(settings_);
  const RoomReservation reservation(*(*open)->room, bytes, most);
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
  rocksdb::WriteOptions options;
  options.sync = is_change && settings_.sync_changes && MayHave(**open, key);
  const rocksdb::Status written = database.Write(options, &batch);
  return written.ok() ? absl::OkStatus() : NoteFailure(**open, ToStatus(written));
}

absl::Status RocksdbStore::Erase(std::string_view key) {
  auto open = Writable();
  absl::Status status = open.status();
  if (open.ok()) {
    if (!MayHave(**open, key)) return absl::OkStatus();
    rocksdb::WriteOptions options;
    options.sync = settings_.sync_changes;
    const rocksdb::Status written =
        (*open)->database->Delete(options, (*open)->entries(), ToSlice(key));
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
    rocksdb::WriteOptions options;
    options.sync = settings_.sync_changes;
    const rocksdb::Status written =
        (*open)->database->Put(options, (*open)->records(), GroupKey(group), EncodeNumber(number));
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
