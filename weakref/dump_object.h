// SPDX-License-Identifier: Apache-2.0
// DumpObject: says what an object's references know about it.
//
// Why: an object that is still alive, or whose memory is still there, should say who knows it, in a
// program as it runs: nothing has to be registered, and no type needs a function for it.
//
//   std::cerr << ToText(weakcache::DumpObject(weak));   // a WeakRef or a Ref
//   // app::Image "cover.png" at 0x55d0c8a012c0
//   //   strong references: 2
//   //   weak references: 4
//   //   entries of LargeObjectCache<int, app::Image>: 1
//   //   references of LargeObjectCache<int, app::Image>: 1
//   //   taken by "renderer": 3 look-ups, 2h3m to 5s ago
//   //   callbacks of OnExpire: 1
//
// Thread safety: may be called on any threads at once, also while others use the object's
// references, containers and registrations; each number may then be of another moment.
//
// Unlike WhyAlive (weakref/cycles.h), this needs no census, and names nothing that holds the object
// except a cache. Whoever took the object from one is named if the cache samples the object
// (options.holder_sample_bytes): cache/cache_holders.h says what is recorded.
//
// Complexity: O(watchers), which are counted under their lock, a spin lock.
#ifndef WEAKCACHE_WEAKREF_DUMP_OBJECT_H_
#define WEAKCACHE_WEAKREF_DUMP_OBJECT_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <vector>

#include "weakcache/weakref/internal/census_type.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/ref_access.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {

// What is known about one object. Refers to nothing.
struct ObjectDump {
  // Look-ups under one label since the cache last saw the object idle: whoever did them may hold
  // the object.
  struct Holder {
    std::string label;      // of WEAKCACHE_HOLDER; empty: none
    uint64_t look_ups = 0;  // including those that load the object, and Put
    // How long ago the first and the last of them were. Unknown if the cache has options.clock,
    // which can't be called here, as the cache may end: its Holders() knows them.
    std::optional<std::chrono::nanoseconds> first_age = {};
    std::optional<std::chrono::nanoseconds> last_age = {};
  };
  // Containers of one type that have the object. Containers of std::shared_ptr are not among them,
  // as they register nothing with it.
  struct Containers {
    std::string type;     // such as "WeakValueMap<int, app::Image>"
    size_t entries = 0;   // of the object; a map may have several
    size_t retained = 0;  // the entries through which a LargeObjectCache holds a reference
    size_t sampled = 0;   // the entries whose LargeObjectCache samples the object
    // Who has taken the object from those, the most recent first. Empty if all references come from
    // elsewhere.
    std::vector<Holder> holders = {};
    uint64_t dropped_look_ups = 0;  // by others; only so many holders are kept for an entry
  };

  std::string type;   // the object's own, if it is polymorphic and there is RTTI; else the handle's
  std::string label;  // what WeakcacheLabel(object) returned; empty if there is no such function
  const void* address = nullptr;  // where the reference points to; null if it has expired
  bool owned = false;             // false if the reference is null or owns nothing
  size_t strong_count = 0;        // as Ref's use_count()
  size_t weak_count = 0;          // as Ref's weak_count(): with registrations and entries
  size_t shared_ptr_count = 0;    // std::shared_ptrs that FromSharedPtr found as owners
  size_t expiry_callbacks = 0;    // of OnExpire, pending
  size_t finalizers = 0;          // of Finalize, pending
  size_t censuses = 0;            // that the object is in
  std::vector<Containers> containers;
};

namespace internal {

// Returns the name that typeid gives, as it is written in C++.
std::string DemangledName(const char* name);

template <typename T>
std::string NameOfObject([[maybe_unused]] const T* object) {
#ifdef __cpp_rtti
  if constexpr (std::is_polymorphic_v<T>) {
    if (object != nullptr) return DemangledName(typeid(*object).name());
  }
#endif
  return std::string(TypeName<std::remove_cv_t<T>>());
}

// Fills in what a block knows. The caller holds a weak reference, and a strong one if `is_alive`;
// `own` references don't count.
void DescribeBlock(ControlBlock* block, bool is_alive, size_t own, ObjectDump* dump);

template <typename T>
ObjectDump DumpObject(const Ref<T>& ref, ControlBlock* block, size_t own) {
  using Object = std::remove_extent_t<T>;
  ObjectDump dump;
  if constexpr (std::is_array_v<T> || std::is_void_v<T>) {
    dump.type = TypeName<std::remove_cv_t<T>>();
  } else {
    dump.type = NameOfObject(ref.get());
  }
  dump.address = ref.get();
  if constexpr (Labelled<Object>) {
    if (!std::is_array_v<T> && ref != nullptr) dump.label = WeakcacheLabel(*ref.get());
  }
  if (block != nullptr) DescribeBlock(block, RefAccess::Block(ref) != nullptr, own, &dump);
  return dump;
}

}  // namespace internal

// Returns what is known about an object; an empty dump for a null reference. T is complete, or
// void. Calls the type's function WeakcacheLabel(const T&), if there is one, which reads the object
// on this thread; its exceptions pass through.
template <typename T>
[[nodiscard]] ObjectDump DumpObject(const Ref<T>& ref) {
  return internal::DumpObject(ref, internal::RefAccess::Block(ref), /*own=*/0);
}
// Does the same through a weak reference. Holds the object during the call, without counting that
// reference; if it becomes the last one, the object dies here. Of an expired object, returns the
// weak count and the watchers that have not been notified yet.
template <typename T>
[[nodiscard]] ObjectDump DumpObject(const WeakRef<T>& weak) {
  const Ref<T> ref = weak.lock();
  return internal::DumpObject(ref, internal::RefAccess::Block(weak), /*own=*/1);
}

// Returns a dump for people, as above.
[[nodiscard]] std::string ToText(const ObjectDump& dump);

}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_DUMP_OBJECT_H_
