// SPDX-License-Identifier: Apache-2.0
// Wakes a thread that waits for files in poll().
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_WAKE_PIPE_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_WAKE_PIPE_H_

#include <fcntl.h>
#include <unistd.h>

#include <atomic>

#include "absl/status/status.h"

namespace weakcache::internal {

class WakePipe {
 public:
  WakePipe() = default;
  WakePipe(const WakePipe&) = delete;
  WakePipe& operator=(const WakePipe&) = delete;
  ~WakePipe() {
    for (const int file : files_) {
      if (file >= 0) close(file);
    }
  }

  absl::Status Open() {
    if (pipe2(files_, O_NONBLOCK | O_CLOEXEC) != 0) {
      return absl::ResourceExhaustedError("no files for a pipe");
    }
    return absl::OkStatus();
  }
  int fd() const { return files_[0]; }

  // On any thread. One byte in the pipe is enough.
  void Wake() {
    if (awake_.exchange(true)) return;
    const char byte = 0;
    // The pipe is never full.
    [[maybe_unused]] const ssize_t written = write(files_[1], &byte, 1);
  }
  // On the thread that waits, before it looks for what it was woken for.
  void Clear() {
    char bytes[16];
    while (read(files_[0], bytes, sizeof(bytes)) > 0) {
    }
    // A Wake that comes before this has its byte read or writes none; what it was for is looked at
    // after this.
    awake_.store(false);
  }

 private:
  int files_[2] = {-1, -1};
  // Whether a byte is in the pipe or about to be. Sequentially consistent, as what it was for is
  // written before and read after it.
  std::atomic<bool> awake_{false};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_WAKE_PIPE_H_
