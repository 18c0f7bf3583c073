# SPDX-License-Identifier: Apache-2.0
# Written by tools/check_cmake_files.py --write, from the BUILD files.

set(WEAKCACHE_WEAKREF_SOURCES
  weakref/census.cc
  weakref/cycles.cc
  weakref/cycles_output.cc
  weakref/dump_object.cc
  weakref/expiry.cc
  weakref/finalizer.cc
)

set(WEAKCACHE_CACHE_SOURCES
  cache/cache_holders.cc
  cache/cache_stats.cc
  cache/holder_label.cc
  cache/removal_cause.cc
  cache/second_tier.cc
  cache/status_page.cc
  cache/warm_start.cc
)

set(WEAKCACHE_TIER_SOURCES
  cache/internal/tier/envelope.cc
  cache/internal/tier/lease_table.cc
  cache/internal/tier/tier_folder.cc
)

set(WEAKCACHE_REDIS_TIER_SOURCES
  cache/internal/redis/change_queue.cc
  cache/internal/redis/check_options.cc
  cache/internal/redis/connection.cc
  cache/internal/redis/dispatcher.cc
  cache/internal/redis/keys.cc
  cache/internal/redis/link.cc
  cache/internal/redis/readers.cc
  cache/internal/redis/reading.cc
  cache/redis_tier.cc
)

set(WEAKCACHE_ROCKSDB_TIER_SOURCES
  cache/internal/tier/rocksdb_store.cc
  cache/rocksdb_tier.cc
)

# Abseil's targets in CMake; the pkg-config module of NAME is absl_NAME.
set(WEAKCACHE_ABSEIL
  core_headers
  function_ref
  hash
  span
  status
  statusor
  str_format
  strings
  symbolize
  time
)
