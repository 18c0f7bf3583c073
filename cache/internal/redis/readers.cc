// SPDX-License-Identifier: Apache-2.0
#ifdef WEAKCACHE_REDIS_TIER  // else this file is empty: see "Plain" in README.md
#include "weakcache/cache/internal/redis/readers.h"

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weakcache::internal {

absl::StatusOr<Readers::Reader> Readers::Acquire(const Endpoint& endpoint, Deadline deadline) {
  std::unique_ptr<Connection> idle;
  {
    const MutexLock lock(mutex_);
    const auto free = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return used_ < options_.reader_connections;
    };
    released_.WaitUntil(mutex_, free, deadline);
    if (!free()) return absl::ResourceExhaustedError("all connections to Redis are in use");
    ++used_;
    idle = TakeIdle(endpoint.epoch);
  }
  Reader reader(*this, std::move(idle), endpoint.epoch);
  if (reader.has_connection()) return reader;
  absl::StatusOr<std::unique_ptr<Connection>> opened =
      Connection::Open(endpoint.address, options_, deadline);
  if (!opened.ok()) return opened.status();
  (*opened)->set_epoch(endpoint.epoch);
  reader.SetConnection(*std::move(opened));
  return reader;
}

std::unique_ptr<Connection> Readers::TakeIdle(uint64_t epoch) {
  if (epoch_ < epoch) {
    idle_.clear();
    epoch_ = epoch;
  }
  while (epoch_ == epoch && !idle_.empty()) {
    std::unique_ptr<Connection> connection = std::move(idle_.back());
    idle_.pop_back();
    // The server may have closed it meanwhile.
    if (connection->IsQuiet()) return connection;
  }
  return nullptr;
}

void Readers::Release(std::unique_ptr<Connection> connection, uint64_t epoch, bool reusable) {
  {
    const MutexLock lock(mutex_);
    --used_;
    if (reusable && connection != nullptr && epoch == epoch_) {
      idle_.push_back(std::move(connection));
    }
  }
  released_.NotifyAll();
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_REDIS_TIER
