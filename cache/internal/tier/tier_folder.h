// SPDX-License-Identifier: Apache-2.0
// The folder of a tier on a disk: who uses it, and what is deleted from it, which takes long.
#ifndef WEAKCACHE_CACHE_INTERNAL_TIER_TIER_FOLDER_H_
#define WEAKCACHE_CACHE_INTERNAL_TIER_TIER_FOLDER_H_

#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Returns ResourceExhausted if the disk is full, else Unavailable, with the text "can't WHAT PATH:
// why".
absl::Status FileError(const char* what, const std::filesystem::path& path, int error);

// A file that is closed at the end, and that a process which this one starts does not get.
class File {
 public:
  File(const std::filesystem::path& path, int flags)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {}
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

// Keeps other processes, and other tiers of this one, out of a folder. A child that this process
// forks does not share the lock: when this process ends, so does the lock.
class FolderLock {
 public:
  // Makes the folder if need be. FailedPrecondition if it is used, or has files without `marker`.
  static absl::StatusOr<std::unique_ptr<FolderLock>> Take(const std::filesystem::path& folder,
                                                          std::string_view marker);
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock();

  // Returns whether the marker has this text.
  absl::StatusOr<bool> HasFormat(std::string_view text) const;
  absl::Status WriteFormat(std::string_view text) const;

 private:
  struct Taken;

  explicit FolderLock(std::filesystem::path marker);

  const std::filesystem::path marker_;
  std::unique_ptr<const File> file_;
  dev_t device_ = 0;
  ino_t number_ = 0;
};

// What is to be deleted: folders that are moved away in one step, and whose files then go one after
// the other, on a thread of the trash. Thread-safe, except that MoveIn is called by one thread at a
// time.
class Trash {
 public:
  // `freed` is called on the thread after each file. Takes over what earlier processes have left.
  Trash(std::filesystem::path folder, std::function<void()> freed);
  Trash(const Trash&) = delete;
  Trash& operator=(const Trash&) = delete;
  // Leaves what is not deleted yet to the next one.
  ~Trash();

  // Moves a folder away, if it is there: a crash leaves all of it or nothing.
  absl::Status MoveIn(const std::filesystem::path& path);
  // Waits until all is deleted.
  void AwaitEmpty();
  // What is not deleted yet.
  uint64_t bytes() const { return bytes_.load(); }

 private:
  using Mutex = BasicMutex<StdAtomics>;
  using MutexLock = BasicMutexLock<StdAtomics>;

  void Add(const std::filesystem::path& path);
  void Run();
  void Delete(const std::filesystem::path& path);

  const std::filesystem::path folder_;
  const std::function<void()> freed_;
  size_t moved_ = 0;
  // Grows with folders_, under the mutex, and shrinks after a file is deleted: never less than
  // there is. Read without the mutex by writers that look for room, who are told of each file.
  std::atomic<uint64_t> bytes_{0};
  // Becomes true once, by the destructor.
  std::atomic<bool> stop_{false};
  Mutex mutex_;
  BasicCondition<StdAtomics> changed_;
  std::vector<std::filesystem::path> folders_ ABSL_GUARDED_BY(mutex_);
  // Is started once there is something to delete.
  std::thread thread_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TIER_TIER_FOLDER_H_
