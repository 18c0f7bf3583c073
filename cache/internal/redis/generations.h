// SPDX-License-Identifier: Apache-2.0
// The generations (keys.h) as this process knows them, so that a look-up need not ask for them.
//
// A known generation is right as long as notices arrive: the notice of an erasure makes this
// process forget it. A value that was taken for valid before the notice came is dropped by the
// notice, like a value that was read just before the erasure.
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_GENERATIONS_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_GENERATIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>

#include "absl/base/thread_annotations.h"
#include "weakcache/cache/internal/redis/keys.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {

// Thread-safe.
class Generations {
 public:
  // The tag of a value of the group that is put now; parts that are not known are empty.
  ValueTag Current(std::optional<uint32_t> group) const {
    const MutexLock lock(mutex_);
    ValueTag tag = {.generation = all_, .group = group};
    if (!group.has_value()) return tag;
    if (const auto known = groups_.find(*group); known != groups_.end()) {
      tag.group_generation = known->second;
    }
    return tag;
  }
  bool IsCurrent(const ValueTag& tag) const {
    const ValueTag current = Current(tag.group);
    return !tag.generation.empty() && tag.generation == current.generation &&
           tag.group_generation == current.group_generation;
  }

  // Changes whenever anything is forgotten.
  uint64_t version() const {
    const MutexLock lock(mutex_);
    return version_;
  }
  // Keeps what the server has answered, unless something was forgotten since the question was
  // asked, when the version was `version`.
  void Learn(uint64_t version, const ValueTag& tag) {
    const MutexLock lock(mutex_);
    if (version != version_) return;
    all_ = tag.generation;
    if (tag.group.has_value()) groups_[*tag.group] = tag.group_generation;
  }
  void ForgetGroup(uint32_t group) {
    const MutexLock lock(mutex_);
    ++version_;
    groups_.erase(group);
  }
  void ForgetAll() {
    const MutexLock lock(mutex_);
    ++version_;
    all_.clear();
    groups_.clear();
  }

 private:
  using MutexLock = BasicMutexLock<StdAtomics>;

  mutable BasicMutex<StdAtomics> mutex_;
  uint64_t version_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string all_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<uint32_t, std::string> groups_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_GENERATIONS_H_
