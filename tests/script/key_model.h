// SPDX-License-Identifier: Apache-2.0
// The model of a map from small integers to objects.
#ifndef WEAKCACHE_TESTS_SCRIPT_KEY_MODEL_H_
#define WEAKCACHE_TESTS_SCRIPT_KEY_MODEL_H_

#include <array>
#include <cstdint>

#include "tests/script/script.h"

namespace weakcache::testing {

// Which object is under which key. Dead ones stay until something takes their place: whether they
// are dead is known to the script, and whether their entries are gone is the container's affair.
class KeyModel {
 public:
  static constexpr int kNone = -1;

  KeyModel() { objects_.fill(kNone); }

  int object(int key) const { return objects_[key]; }
  // Differs for each entry that there ever was; 0 for none.
  uint32_t entry(int key) const { return entries_[key]; }

  void Enter(int key, int object) {
    objects_[key] = object;
    entries_[key] = ++last_entry_;
  }
  void Remove(int key) {
    objects_[key] = kNone;
    entries_[key] = 0;
  }
  void Clear() {
    objects_.fill(kNone);
    entries_.fill(0);
  }

 private:
  std::array<int, Script::kKeys> objects_;
  std::array<uint32_t, Script::kKeys> entries_{};
  // Goes on through all models of a thread, as they are swapped.
  inline static thread_local uint32_t last_entry_ = 0;
};

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SCRIPT_KEY_MODEL_H_
