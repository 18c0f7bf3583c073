// SPDX-License-Identifier: Apache-2.0
// A referent that counts how many of it are alive.
#ifndef WEAKCACHE_TESTS_SUPPORT_TRACKED_H_
#define WEAKCACHE_TESTS_SUPPORT_TRACKED_H_

#include <atomic>
#include <utility>

namespace weakcache::testing {

// `kBytes` decides whether it lies beside its counts or has an allocation of its own.
template <int kBytes>
class TrackedOf {
 public:
  explicit TrackedOf(int id = 0) : id_(id) { ++live_; }
  TrackedOf(const TrackedOf& other) : id_(other.id_) { ++live_; }
  TrackedOf& operator=(const TrackedOf&) = delete;
  ~TrackedOf() { --live_; }

  int id() const { return id_; }
  static int live() { return live_; }

 private:
  inline static std::atomic<int> live_{0};
  int id_;
  [[maybe_unused]] char padding_[kBytes - sizeof(int)] = {};
};

using Tracked = TrackedOf<200>;
using SmallTracked = TrackedOf<8>;

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_TRACKED_H_
