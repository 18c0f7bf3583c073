// SPDX-License-Identifier: Apache-2.0
// A referent that may do something in its destructor, and what containers by value need for it.
#ifndef WEAKCACHE_TESTS_SUPPORT_OBJECT_H_
#define WEAKCACHE_TESTS_SUPPORT_OBJECT_H_

#include <cstddef>
#include <functional>
#include <stdexcept>
#include <utility>

namespace weakcache::testing {

struct Object;
using OnDestruction = std::function<void(const Object&)>;

// What an object is made from.
struct Blueprint {
  int id;
  OnDestruction on_destruction = nullptr;
};

// A large referent that may do something in its destructor, and can't be made with a negative id.
struct Object {
  explicit Object(int id, OnDestruction on_destruction = nullptr)
      : id(id), on_destruction(std::move(on_destruction)) {
    if (id < 0) throw std::invalid_argument("negative id");
  }
  explicit Object(const Blueprint& blueprint) : Object(blueprint.id, blueprint.on_destruction) {}
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  ~Object() {
    if (on_destruction) on_destruction(*this);
  }

  const int id;
  OnDestruction on_destruction;
  char bytes[100] = {};
};

// For containers that go by value: the id is all of it.
inline int IdOf(int id) { return id; }
inline int IdOf(const Object& object) { return object.id; }
inline int IdOf(const Blueprint& blueprint) { return blueprint.id; }
struct IdHash {
  using is_transparent = void;
  template <typename T>
  size_t operator()(const T& object) const {
    return static_cast<size_t>(IdOf(object));
  }
};
struct IdEqual {
  using is_transparent = void;
  template <typename A, typename B>
  bool operator()(const A& a, const B& b) const {
    return IdOf(a) == IdOf(b);
  }
};

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_OBJECT_H_
