// SPDX-License-Identifier: Apache-2.0
#ifdef WEAKCACHE_ROCKSDB_TIER  // else this file is empty: see "Plain" in README.md
#include "weakcache/cache/internal/tier/tier_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace weakcache::internal {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTrash = "trash";

}  // namespace

absl::Status FileError(const char* what, const fs::path& path, int error) {
  const std::string text =
      absl::StrCat("RocksdbTier: can't ", what, " ", path.string(), ": ", std::strerror(error));
  return error == ENOSPC ? absl::ResourceExhaustedError(text) : absl::UnavailableError(text);
}

// The folders that this process uses. The system's lock does not keep two tiers of one process
// apart; and closing any file that the marker is open as would end it.
struct FolderLock::Taken {
  struct Folder {
    dev_t device;
    ino_t number;
    pid_t process;  // in a child that was forked later, the folder is not this one's
  };

  static Taken& Instance() {
    static Taken& taken = *new Taken();  // is used by tiers of static lifetime, too
    return taken;
  }
  auto Find(dev_t device, ino_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return std::find_if(folders.begin(), folders.end(), [&](const Folder& folder) {
      return folder.device == device && folder.number == number && folder.process == ::getpid();
    });
  }

  BasicMutex<StdAtomics> mutex;
  std::vector<Folder> folders ABSL_GUARDED_BY(mutex);
};

FolderLock::FolderLock(fs::path marker) : marker_(std::move(marker)) {}

absl::StatusOr<std::unique_ptr<FolderLock>> FolderLock::Take(const fs::path& folder,
                                                             std::string_view marker) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return FileError("make", folder, error.value());
  std::unique_ptr<FolderLock> lock(new FolderLock(folder / marker));
  if (!fs::exists(lock->marker_, error) && !fs::is_empty(folder, error)) {
    if (error) return FileError("read", folder, error.value());
    return absl::FailedPreconditionError(
        absl::StrCat("RocksdbTier::Create: the folder ", folder.string(),
                     " has files that are not a tier's; name a folder of its own"));
  }
  const absl::Status used = absl::FailedPreconditionError(absl::StrCat(
      "RocksdbTier::Create: the folder ", folder.string(), " is used by another tier or process"));
  Taken& taken = Taken::Instance();
  const BasicMutexLock<StdAtomics> guard(taken.mutex);
  struct stat about = {};
  if (::stat(lock->marker_.c_str(), &about) == 0 &&
      taken.Find(about.st_dev, about.st_ino) != taken.folders.end()) {
    return used;
  }
  auto file = std::make_unique<const File>(lock->marker_, O_RDWR | O_CREAT);
  if (file->fd() < 0) return FileError("write", lock->marker_, errno);
  struct flock whole = {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(file->fd(), F_SETLK, &whole) != 0) {
    if (errno != EAGAIN && errno != EACCES) return FileError("lock", lock->marker_, errno);
    return used;
  }
  if (::fstat(file->fd(), &about) != 0) return FileError("read", lock->marker_, errno);
  taken.folders.push_back({.device = about.st_dev, .number = about.st_ino, .process = ::getpid()});
  lock->device_ = about.st_dev;
  lock->number_ = about.st_ino;
  lock->file_ = std::move(file);
  return lock;
}

FolderLock::~FolderLock() {
  if (file_ == nullptr) return;
  Taken& taken = Taken::Instance();
  const BasicMutexLock<StdAtomics> guard(taken.mutex);
  file_.reset();
  const auto own = taken.Find(device_, number_);
  if (own != taken.folders.end()) taken.folders.erase(own);
}

absl::StatusOr<bool> FolderLock::HasFormat(std::string_view text) const {
  std::array<char, 256> found = {};
  const ssize_t size = ::pread(file_->fd(), found.data(), found.size(), 0);
  if (size < 0) return FileError("read", marker_, errno);
  return std::string_view(found.data(), static_cast<size_t>(size)) == text;
}

absl::Status FolderLock::WriteFormat(std::string_view text) const {
  if (::ftruncate(file_->fd(), 0) != 0 || !file_->Write(text)) {
    return FileError("write", marker_, errno);
  }
  return absl::OkStatus();
}

Trash::Trash(fs::path folder, std::function<void()> freed)
    : folder_(std::move(folder)), freed_(std::move(freed)) {
  std::vector<fs::path> left;
  std::error_code error;
  for (fs::directory_iterator file(folder_, error), end; !error && file != end;
       file.increment(error)) {
    if (file->path().filename().string().starts_with(kTrash)) left.push_back(file->path());
  }
  for (const fs::path& path : left) Add(path);
}

Trash::~Trash() {
  {
    const MutexLock lock(mutex_);
    stop_.store(true);
  }
  changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

void Trash::Add(const fs::path& path) {
  uint64_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator file(path, error), end; !error && file != end;
       file.increment(error)) {
    std::error_code gone;
    const uint64_t size = file->is_regular_file(gone) ? file->file_size(gone) : 0;
    if (!gone) bytes += size;
  }
  {
    const MutexLock lock(mutex_);
    bytes_.fetch_add(bytes);
    folders_.push_back(path);
  }
  changed_.NotifyAll();
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
}

absl::Status Trash::MoveIn(const fs::path& path) {
  fs::path to;
  std::error_code unknown;  // then the renaming fails, too
  do {
    to = folder_ / (std::string(kTrash) + "-" + std::to_string(++moved_));
  } while (fs::exists(to, unknown));
  if (::rename(path.c_str(), to.c_str()) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return FileError("rename", path, errno);
  }
  const File folder(folder_, O_RDONLY | O_DIRECTORY);
  const bool is_written = folder.fd() >= 0 && ::fsync(folder.fd()) == 0;
  const int error = errno;
  Add(to);
  return is_written ? absl::OkStatus() : FileError("write", folder_, error);
}

void Trash::AwaitEmpty() {
  const MutexLock lock(mutex_);
  changed_.Wait(mutex_, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return folders_.empty(); });
}

void Trash::Run() {
  while (!stop_.load()) {
    fs::path path;
    {
      const MutexLock lock(mutex_);
      changed_.Wait(mutex_, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
        return stop_.load() || !folders_.empty();
      });
      if (stop_.load()) return;
      path = folders_.front();
    }
    Delete(path);
    if (stop_.load()) return;
    {
      const MutexLock lock(mutex_);
      folders_.erase(folders_.begin());
      if (folders_.empty()) bytes_.store(0);  // whatever could not be measured or deleted
    }
    changed_.NotifyAll();
    freed_();
  }
}

void Trash::Delete(const fs::path& path) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::recursive_directory_iterator file(path, error), end; !error && file != end;
       file.increment(error)) {
    std::error_code gone;
    if (file->is_regular_file(gone)) files.push_back(file->path());
  }
  for (const fs::path& file : files) {
    if (stop_.load()) return;
    std::error_code ignored;
    const uint64_t size = fs::file_size(file, ignored);
    if (ignored || ::unlink(file.c_str()) != 0) continue;
    bytes_.fetch_sub(size);
    freed_();
  }
  fs::remove_all(path, error);
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_ROCKSDB_TIER
