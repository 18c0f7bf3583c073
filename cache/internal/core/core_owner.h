// SPDX-License-Identifier: Apache-2.0
// CoreOwner: the pointer by which a cache owns its core.
#ifndef WEAKCACHE_CACHE_INTERNAL_CORE_CORE_OWNER_H_
#define WEAKCACHE_CACHE_INTERNAL_CORE_CORE_OWNER_H_

#include <memory>
#include <utility>

#include "weakcache/weakref/internal/check.h"

namespace weakcache::internal {

// The library's own way into a cache: see cache/cycles.h.
struct CacheAccess;

// A std::unique_ptr with two differences. The core stays reachable until its destructor has
// returned, because destructors of its objects may use the cache: libc++'s unique_ptr is null by
// then. And a use after a move aborts with a message.
template <typename Core>
class CoreOwner {
 public:
  explicit CoreOwner(std::unique_ptr<Core> core) : core_(core.release()) {}
  CoreOwner(CoreOwner&& other) noexcept : core_(std::exchange(other.core_, nullptr)) {}
  CoreOwner& operator=(CoreOwner&& other) noexcept {
    CoreOwner moved(std::move(other));
    std::swap(core_, moved.core_);
    return *this;
  }
  ~CoreOwner() { delete core_; }

  Core* get() const {
    Check(core_ != nullptr, "LargeObjectCache", "the cache has been moved from");
    return core_;
  }
  Core* operator->() const { return get(); }

 private:
  Core* core_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CORE_CORE_OWNER_H_
