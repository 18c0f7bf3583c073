// SPDX-License-Identifier: Apache-2.0
// Says whether what some threads have seen of one key of a weak map can have happened in one order.
//
// After Wing and Gong: operations are put in order one by one, never one before another that had
// ended when it began, as long as each does what a map on one thread would do then; what has been
// tried is remembered. A map is linearizable if each of its keys is, so keys are checked alone.
//
// An object's end is an operation as well. It is not before anybody has begun to release his
// reference, as everyone's reference keeps it alive, and not after its destructor has begun: that
// is all that is known from outside, and all that is promised. A look-up that has yet to find out
// that it has come to the wrong entry may hold an object a little longer than those who released
// it.
#ifndef WEAKCACHE_TESTS_SUPPORT_LINEARIZABILITY_H_
#define WEAKCACHE_TESTS_SUPPORT_LINEARIZABILITY_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <ostream>
#include <set>
#include <utility>
#include <vector>

namespace weakcache::testing {

enum class KeyOperation {
  kGet,
  kGetOrCreate,
  kInsert,
  kEmplaceOrAssign,
  kInsertOrAssign,
  kErase,
  kEraseExpected,
  kDeath,
};

// An operation on a key. Objects are numbers from 1, and 0 is none.
struct Observed {
  KeyOperation operation;
  int64_t began;  // by a clock of which no two readings are the same
  int64_t ended;
  int object;  // that was given, made by the call's own factory, expected, or died
  int result;  // the object that was returned; for what follows emplace_or_assign 1 for true or
               // one, or 0
};

inline std::ostream& operator<<(std::ostream& out, const Observed& observed) {
  constexpr const char* kNames[] = {
      "get",   "get_or_create",  "insert", "emplace_or_assign", "insert_or_assign",
      "erase", "erase expected", "death"};
  return out << "[" << observed.began << ", " << observed.ended << "] "
             << kNames[static_cast<int>(observed.operation)] << "(" << observed.object
             << ") = " << observed.result << "\n";
}

// What the key maps to after the operation, or -1 if it would not have had that result.
inline int Apply(const Observed& observed, int present) {
  constexpr int kImpossible = -1;
  const int object = observed.object;
  const int result = observed.result;
  switch (observed.operation) {
    case KeyOperation::kGet:
      return result == present ? present : kImpossible;
    case KeyOperation::kGetOrCreate:  // null from the factory leaves nothing behind
    case KeyOperation::kInsert:
      if (present != 0 || result == 0) return result == present ? present : kImpossible;
      return result == object ? object : kImpossible;
    case KeyOperation::kEmplaceOrAssign:
      return result == object ? object : kImpossible;
    case KeyOperation::kInsertOrAssign:
      return (result == 1) == (present == 0) ? object : kImpossible;
    case KeyOperation::kErase:
      return (result == 1) == (present != 0) ? 0 : kImpossible;
    case KeyOperation::kEraseExpected:
      if ((result == 1) != (present == object)) return kImpossible;
      return result == 1 ? 0 : present;
    case KeyOperation::kDeath:
      return present == object ? 0 : present;
  }
  return kImpossible;
}

// The search for an order of one key's operations, at most 64.
class LinearizationSearch {
 public:
  explicit LinearizationSearch(std::vector<Observed> history) : history_(std::move(history)) {
    if (history_.size() > 64) std::abort();
    std::sort(history_.begin(), history_.end(),
              [](const Observed& a, const Observed& b) { return a.began < b.began; });
  }

  // Whether there is one that begins with nothing under the key.
  bool Succeeds() { return Continue(0, 0); }

 private:
  // `done` has a bit for each operation that is in order already.
  bool Continue(uint64_t done, int present) {
    // An operation that changes nothing, and may be next, may as well be next.
    while (AddOneThatChangesNothing(done, present)) {
    }
    const int64_t limit = FirstEnd(done);
    if (limit == std::numeric_limits<int64_t>::max()) return true;
    if (!tried_.emplace(done, present).second) return false;
    for (size_t i = 0; i < history_.size() && history_[i].began < limit; ++i) {
      if (IsDone(done, i)) continue;
      const int next = Apply(history_[i], present);
      if (next >= 0 && Continue(done | uint64_t{1} << i, next)) return true;
    }
    return false;
  }

  bool AddOneThatChangesNothing(uint64_t& done, int present) const {
    const int64_t limit = FirstEnd(done);
    for (size_t i = 0; i < history_.size() && history_[i].began < limit; ++i) {
      if (IsDone(done, i)) continue;
      if (Apply(history_[i], present) != present) continue;
      done |= uint64_t{1} << i;
      return true;
    }
    return false;
  }

  // What begins after that is not next.
  int64_t FirstEnd(uint64_t done) const {
    int64_t first = std::numeric_limits<int64_t>::max();
    for (size_t i = 0; i < history_.size(); ++i) {
      if (!IsDone(done, i)) first = std::min(first, history_[i].ended);
    }
    return first;
  }
  static bool IsDone(uint64_t done, size_t i) { return (done >> i & 1) != 0; }

  std::vector<Observed> history_;
  std::set<std::pair<uint64_t, int>> tried_;
};

inline bool IsLinearizable(std::vector<Observed> history) {
  return LinearizationSearch(std::move(history)).Succeeds();
}

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_LINEARIZABILITY_H_
