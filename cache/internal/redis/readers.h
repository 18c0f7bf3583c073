// SPDX-License-Identifier: Apache-2.0
// The connections on which application threads read.
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_READERS_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_READERS_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weakcache/cache/internal/redis/connection.h"
#include "weakcache/cache/internal/redis/link.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/cache/redis_tier_options.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Thread-safe.
class Readers {
 public:
  // One connection, of one thread, for as long as this lives.
  class Reader {
   public:
    Reader(Readers& readers, std::unique_ptr<Connection> connection, uint64_t epoch)
        : readers_(&readers), connection_(std::move(connection)), epoch_(epoch) {}
    Reader(Reader&& other) noexcept
        : readers_(std::exchange(other.readers_, nullptr)),
          connection_(std::move(other.connection_)),
          epoch_(other.epoch_),
          reusable_(other.reusable_) {}
    Reader& operator=(Reader&&) = delete;
    ~Reader() {
      if (readers_ != nullptr) readers_->Release(std::move(connection_), epoch_, reusable_);
    }

    bool has_connection() const { return connection_ != nullptr; }
    void SetConnection(std::unique_ptr<Connection> connection) {
      connection_ = std::move(connection);
    }
    Connection& connection() { return *connection_; }
    // All that was asked has been answered: the connection may be used again.
    void SetReusable() { reusable_ = true; }

   private:
    Readers* readers_;
    std::unique_ptr<Connection> connection_;
    const uint64_t epoch_;
    bool reusable_ = false;
  };

  explicit Readers(const RedisTierOptions& options) : options_(options) {}

  // Returns a connection to that server, a new one if need be; waits while all are in use. Returns
  // ResourceExhausted if they still are at the deadline, which says nothing about the server.
  absl::StatusOr<Reader> Acquire(const Endpoint& endpoint, Deadline deadline);

 private:
  using Mutex = BasicMutex<StdAtomics>;
  using MutexLock = BasicMutexLock<StdAtomics>;

  std::unique_ptr<Connection> TakeIdle(uint64_t epoch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Release(std::unique_ptr<Connection> connection, uint64_t epoch, bool reusable);

  const RedisTierOptions& options_;
  Mutex mutex_;
  BasicCondition<StdAtomics> released_;
  int used_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;  // of those that are idle
  std::vector<std::unique_ptr<Connection>> idle_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_READERS_H_
