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
  // All keys begin with it. Caches with the same one share their entries, so they need the same
  // type of object, and the same meaning of a key. Letters, digits and any of "_.-{}".
  std::string key_namespace = {};

  RedisAddress address = {};
  // If it is set, called instead of the use of `address` before each attempt to connect, on a
  // thread of the tier: it may ask a Sentinel which server is the master now. Cluster is not
  // supported: a server that answers MOVED counts as a failed one, and the condition says so. It
  // must return in time: the tier's end waits for it, too. What it throws counts as a status.
  std::function<absl::StatusOr<RedisAddress>()> resolve_address = {};
  // Empty: the server's default user. It needs, beside the commands for keys and channels, CLIENT
  // ID, TRACKING and KILL, and INFO.
  std::string user = {};
  std::string password = {};
  int database = 0;

  // Connections for reading, beside the two that the tier needs.
  int reader_connections = 4;
  absl::Duration connect_timeout = absl::Milliseconds(500);
  // How long a load waits for the server before it goes on without; for each command.
  absl::Duration soft_timeout = absl::Milliseconds(250);
  // After how long without an answer a connection is given up, and a blocking Put or Erase is not
  // waited for any longer (it may still be done).
  absl::Duration hard_timeout = absl::Seconds(2);
  // How long a connection is idle before the server is asked whether it is alive. Another process's
  // change is seen after a message's way; if the network is lost without a sign, not before this
  // interval and `hard_timeout` have passed, when the listeners are told of the loss.
  absl::Duration heartbeat_interval = absl::Seconds(1);

  // The circuit breaker: so many failures one after the other, and the server is not asked any
  // more, until one call tries again after `min_backoff`, and after twice that, up to
  // `max_backoff`. Attempts to connect back off likewise. A random part of up to a half is taken
  // off each time.
  int breaker_failures = 5;
  absl::Duration min_backoff = absl::Milliseconds(100);
  absl::Duration max_backoff = absl::Seconds(10);

  // How long the others wait for a process that was killed while it loaded. A lease is prolonged
  // while its process lives.
  absl::Duration lease_duration = absl::Seconds(3);
  // How long a load of another process is waited for. After that, callers load themselves.
  absl::Duration lease_timeout = absl::Seconds(10);

  // The server forgets entries after that time, or when they expire if that is earlier. With an
  // infinite time, the server needs a `maxmemory` with a policy of eviction: what EraseAll and
  // EraseGroup have erased can't be read, but takes memory until then.
  absl::Duration max_age = absl::Hours(24 * 7);
  // Larger objects are compressed, with zstd, if that makes them smaller. SIZE_MAX: none.
  size_t compress_above = 4096;
  // Larger objects are not written; TierStats::skipped_values counts them. At most 500 MiB.
  uint64_t max_value_bytes = uint64_t{64} << 20;
  // Larger values are written in several pieces, so that none keeps the server from others' work
  // for long. At least a 9000th of `max_value_bytes`.
  uint64_t chunk_bytes = uint64_t{1} << 20;

  // Changes that wait to be sent. If there are more changes, everything is erased instead of each;
  // if there are more bytes, objects are not written.
  size_t max_pending_changes = 100000;
  uint64_t max_pending_bytes = uint64_t{64} << 20;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_REDIS_TIER_OPTIONS_H_
