// SPDX-License-Identifier: Apache-2.0
// What a RedisTier reads: on application threads, on connections of their own, if the server is
// there and the circuit breaker is closed.
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_READING_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_READING_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "weakcache/cache/internal/redis/circuit_breaker.h"
#include "weakcache/cache/internal/redis/connection.h"
#include "weakcache/cache/internal/redis/counters.h"
#include "weakcache/cache/internal/redis/keys.h"
#include "weakcache/cache/internal/redis/link.h"
#include "weakcache/cache/internal/redis/readers.h"
#include "weakcache/cache/redis_tier_options.h"
#include "weakcache/cache/second_tier.h"

namespace weakcache::internal {

// Thread-safe.
class Reading {
 public:
  Reading(const RedisTierOptions& options, const KeyNames& names, TierCounters& counters,
          Link& link);

  // Returns the entries. A damaged one is NotFound, and counted in `errors`.
  std::vector<absl::StatusOr<TierEntry>> Get(absl::Span<const std::string> keys,
                                             const TierWait& wait);
  absl::StatusOr<TierLead> Lead(std::string_view key, const TierWait& wait);
  // Takes the lease even if there is an entry; returns no lease if another caller has it.
  absl::StatusOr<TierLead> TryLead(std::string_view key);
  // Takes one step of a walk over all keys whose names match the pattern. The walk begins and ends
  // with the cursor "0".
  absl::StatusOr<std::vector<std::string>> Scan(std::string& cursor, const std::string& pattern);

  CircuitBreaker::State breaker_state() const { return breaker_.state(); }

 private:
  // What an attempt to take a lease has come to.
  struct LeadAnswer {
    bool has_value = false;
    std::string lease = {};
    absl::Duration held_for = absl::ZeroDuration();  // by another, if neither
  };

  // Calls `ask` with a connection, and tells the circuit breaker whether the server has failed. A
  // reply that is an error, except MOVED, is no such failure: the server has answered.
  absl::Status Ask(const TierWait& wait, absl::FunctionRef<absl::Status(Connection&)> ask);
  TierLead Hold(std::string_view key, std::string lease);
  Deadline DeadlineOf(const TierWait& wait) const;
  absl::StatusOr<TierEntry> ReadEntry(Connection& connection, std::string_view key,
                                      const ReplyPointer& reply, const TierWait& wait);
  absl::StatusOr<TierBytes> ReadChunks(Connection& connection, const Manifest& manifest,
                                       const TierWait& wait);
  absl::Status Refresh(Connection& connection, const ValueTag& tag, const TierWait& wait);
  // As ChangeQueue has it; counts a wait that was too long.
  absl::Status AwaitChangesOf(std::string_view key, const TierWait& wait);
  absl::Status Damaged();
  absl::StatusOr<LeadAnswer> AskForLease(std::string_view key, bool ignore_value,
                                         const TierWait& wait);

  const RedisTierOptions& options_;
  const KeyNames& names_;
  TierCounters& counters_;
  Link& link_;
  Readers readers_;
  CircuitBreaker breaker_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_READING_H_
