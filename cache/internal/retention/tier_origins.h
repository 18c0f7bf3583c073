// SPDX-License-Identifier: Apache-2.0
// Of which entries of a second tier a cache's objects are, so that an object can be told from
// another one after the connection was lost (AtTierDisconnect::kCheckAgain). A table beside the
// objects' own entries, as no other cache needs it.
#ifndef WEAKCACHE_CACHE_INTERNAL_RETENTION_TIER_ORIGINS_H_
#define WEAKCACHE_CACHE_INTERNAL_RETENTION_TIER_ORIGINS_H_

#include <cstdint>
#include <unordered_map>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Thread-safe. An origin is a number that stands for a tier's entry, in this process; `entry` is
// that of a cache, which has to erase its origin before it dies.
class TierOrigins {
 public:
  // If there is no memory, throws and changes nothing.
  void Set(uint64_t key_hash, const void* entry, uint64_t origin) {
    Lock lock(mutex_);
    const auto [begin, end] = origins_.equal_range(key_hash);
    for (auto known = begin; known != end; ++known) {
      if (known->second.entry != entry) continue;
      known->second.origin = origin;
      return;
    }
    origins_.emplace(key_hash, Of{entry, origin});
  }
  void Erase(uint64_t key_hash, const void* entry) {
    Lock lock(mutex_);
    const auto [begin, end] = origins_.equal_range(key_hash);
    for (auto known = begin; known != end; ++known) {
      if (known->second.entry != entry) continue;
      origins_.erase(known);
      return;
    }
  }
  // Returns whether that entry has the origin.
  bool Has(uint64_t key_hash, const void* entry, uint64_t origin) {
    return HasAny(key_hash, [&](const Of& of) { return of.entry == entry && of.origin == origin; });
  }
  // Returns whether any entry with that hash has it.
  bool HasAny(uint64_t key_hash, uint64_t origin) {
    return HasAny(key_hash, [&](const Of& of) { return of.origin == origin; });
  }

 private:
  using Lock = BasicMutexLock<StdAtomics>;
  struct Of {
    const void* entry;
    uint64_t origin;
  };

  template <typename Condition>
  bool HasAny(uint64_t key_hash, const Condition& condition) {
    Lock lock(mutex_);
    const auto [begin, end] = origins_.equal_range(key_hash);
    for (auto known = begin; known != end; ++known) {
      if (condition(known->second)) return true;
    }
    return false;
  }

  BasicMutex<StdAtomics> mutex_;
  std::unordered_multimap<uint64_t, Of> origins_ ABSL_GUARDED_BY(mutex_);  // by the key's hash
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_RETENTION_TIER_ORIGINS_H_
