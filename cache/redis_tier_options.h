// SPDX-License-Identifier: Apache-2.0
// RedisTierOptions: how a RedisTier (redis_tier.h) finds its server, how long it waits, and what it
// writes.
//
// Why: each has a default that suits a server in the same data centre and objects of up to a few
// megabytes, except the name space of the keys.
//
//   weakcache::RedisTierOptions options;
//   options.key_namespace = "thumbnails.v3";
//   options.address.host = "10.0.0.7";
//   options.max_age = absl::Hours(24);
//
// Thread safety: thread-compatible, plain values.
//
// Unlike a client of Redis, this has no options for single calls.
//
// Complexity: none.
#ifndef WEAKCACHE_CACHE_REDIS_TIER_OPTIONS_H_
#define WEAKCACHE_CACHE_REDIS_TIER_OPTIONS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace weakcache {

// One server: not a name that stands for several.
struct RedisAddress {
  std::string host = "127.0.0.1";
  int port = 6379;
  std::string unix_socket =
      {};  // the socket's path; if it is not empty, host and port are not used
};

struct RedisTierOptions {
  // What all keys on the server begin with; has to be set. Caches with the same name space share
  // their entries, so a key must mean the same object, of the same type, in all of them. Up to 200
  // letters, digits and any of "_.-{}".
  std::string key_namespace = {};

  RedisAddress address = {};
  // Returns the address before each attempt to connect, in place of `address`; for example, asks a
  // Sentinel which server is the master now. Empty: `address`. Called on a thread of the tier that
  // the tier's destructor waits for, so it must return soon. An exception counts as Unavailable.
  // Cluster is not supported: a server that answers MOVED counts as failed, and the condition says
  // so.
  std::function<absl::StatusOr<RedisAddress>()> resolve_address = {};
  // Empty: the server's default user. The user needs the commands for keys and channels, EVAL,
  // MULTI, EXEC, PING, SELECT, INFO, and CLIENT ID, TRACKING and KILL.
  std::string user = {};
  std::string password = {};
  int database = 0;

  // Connections for reading, beside the two that the tier needs.
  int reader_connections = 4;
  absl::Duration connect_timeout = absl::Milliseconds(500);
  // How long a look-up waits at each step (an earlier change of its process, a connection, a reply)
  // before the load goes on without the tier.
  absl::Duration soft_timeout = absl::Milliseconds(250);
  // How long the tier waits for an answer before it closes a connection for changes or notices, and
  // before a Put or an Erase, also the Put of a load, gives up (the change may still be made).
  absl::Duration hard_timeout = absl::Seconds(2);
  // After how long without a message the tier sends a PING. Normally a change by another process is
  // seen as soon as its message arrives. If the network fails silently, changes may go unseen for
  // this interval and `hard_timeout` together; then the listeners are notified of the loss.
  absl::Duration heartbeat_interval = absl::Seconds(1);

  // The circuit breaker: after so many failed look-ups in a row, look-ups fail at once. One call
  // tries again after `min_backoff`, the next one after twice that time, and so on up to
  // `max_backoff`, until one succeeds. Attempts to connect back off likewise. Each of these times
  // is shortened by a random part of up to a half.
  int breaker_failures = 5;
  absl::Duration min_backoff = absl::Milliseconds(100);
  absl::Duration max_backoff = absl::Seconds(10);

  // How long a lease outlives a process that was killed while it loaded, and the others therefore
  // wait. While a process that has a lease lives, its leases are prolonged.
  absl::Duration lease_duration = absl::Seconds(3);
  // How long a caller waits for another process's load before it loads the object itself. (In
  // RocksdbTierOptions, `lease_timeout` is also how long a lease lasts.)
  absl::Duration lease_timeout = absl::Seconds(10);

  // Entries are dropped after this time, or when they expire if that is earlier. Values that
  // EraseAll and EraseGroup have erased can't be read, but take memory until they are dropped; so
  // with an infinite time the server needs a `maxmemory` and a policy such as allkeys-lru.
  absl::Duration max_age = absl::Hours(24 * 7);
  // Objects of more than this many encoded bytes are compressed with zstd, if that saves a
  // twentieth of them. SIZE_MAX: none.
  size_t compress_above = 4096;
  // Objects of more than this many bytes are not written; TierStats::skipped_values counts them. At
  // most 500 MiB.
  uint64_t max_value_bytes = uint64_t{64} << 20;
  // Values of more than this many bytes are written in several pieces, so that none keeps the
  // server from others' work for long. At least a 9000th of `max_value_bytes`.
  uint64_t chunk_bytes = uint64_t{1} << 20;

  // How many changes may wait to be sent, and how many bytes of objects. If there are more changes,
  // a single erasure of everything takes their place. If there are more bytes, objects are not
  // written; so an object of more than `max_pending_bytes` never is.
  size_t max_pending_changes = 100000;
  uint64_t max_pending_bytes = uint64_t{64} << 20;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_REDIS_TIER_OPTIONS_H_
