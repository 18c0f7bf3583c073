// SPDX-License-Identifier: Apache-2.0
// Bounds a loop over a container by the entries that existed when the loop began.
#ifndef WEAKCACHE_CACHE_INTERNAL_TABLE_BOUNDED_VISIT_H_
#define WEAKCACHE_CACHE_INTERNAL_TABLE_BOUNDED_VISIT_H_

#include <memory>
#include <unordered_set>

namespace weakcache::internal {

// One loop on this thread that visits a container's entries and skips those that are entered
// meanwhile. Without it, a visitor that removes and adds its own entry could be visited for ever:
// the new entry may lie in front of the loop. The loops of a thread are linked, innermost first.
// Only the thread that runs the loop can change the container meanwhile, since changes need
// exclusive access.
class BoundedVisit {
 public:
  explicit BoundedVisit(const void* container) : container_(container), outer_(innermost_) {
    innermost_ = this;
  }
  BoundedVisit(const BoundedVisit&) = delete;
  BoundedVisit& operator=(const BoundedVisit&) = delete;
  ~BoundedVisit() { innermost_ = outer_; }

  // Records that an entry, identified by its payload's address, is about to be entered.
  template <typename Payload>
  static void RecordEntry(const void* container, const Payload& payload) {
    for (BoundedVisit* visit = innermost_; visit != nullptr; visit = visit->outer_) {
      if (visit->container_ == container) visit->entered_.insert(std::addressof(payload));
    }
  }

  // Returns whether the entry existed when the loop began.
  template <typename Payload>
  bool Includes(const Payload& payload) const {
    return entered_.empty() || !entered_.contains(std::addressof(payload));
  }

 private:
  inline static thread_local BoundedVisit* innermost_ = nullptr;

  const void* const container_;
  BoundedVisit* const outer_;
  std::unordered_set<const void*> entered_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_TABLE_BOUNDED_VISIT_H_
