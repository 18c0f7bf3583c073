// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "tests/cache/container_contract.h"
#include "tests/support/object.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::testing {
namespace {

template <typename V>
struct ValueMapAdapter {
  using Container = WeakValueMap<int64_t, V>;
  using Handle = typename Container::mapped_type;

  void Add(const Handle& object) { container.insert_or_assign(object->id, object); }
  bool Has(const Handle& object) const { return container.get(object->id) == object; }
  size_t Remove(const Handle& object) { return container.erase(object->id); }
  size_t RemoveById(int id) { return container.erase(id); }
  void ForEach(const std::function<void(const Object&)>& visit) {
    for (const auto& [id, object] : container) {
      EXPECT_EQ(id, object->id);
      visit(*object);
    }
  }

  Container container;
};

// Objects that were there before.
template <typename V>
struct Entered : ValueMapAdapter<V> {
  using Handle = typename ValueMapAdapter<V>::Handle;
  Handle AddNew(int id, OnDestruction on_destruction = nullptr) {
    Handle object = HandleTraits<Handle>::Make(id, std::move(on_destruction));
    this->Add(object);
    return object;
  }
};

// Objects that the map creates.
struct Emplaced : ValueMapAdapter<Object> {
  Ref<Object> AddNew(int id, OnDestruction on_destruction = nullptr) {
    return container.try_emplace(id, id, std::move(on_destruction)).first;
  }
};
template <typename V>
struct MadeByFactory : ValueMapAdapter<V> {
  typename ValueMapAdapter<V>::Handle AddNew(int id, OnDestruction on_destruction = nullptr) {
    // The object is a prvalue that can't be moved; a std::shared_ptr has to be made of it outside.
    if constexpr (HandleTraits<typename ValueMapAdapter<V>::Handle>::kNotifiesExpiry) {
      return this->container.get_or_create(id, [&] { return Object(id, on_destruction); });
    } else {
      return this->container.get_or_create(
          id, [&] { return std::make_shared<Object>(id, on_destruction); });
    }
  }
};

// Embedded and external slots in turn.
struct Mixed : ValueMapAdapter<Object> {
  Ref<Object> AddNew(int id, OnDestruction on_destruction = nullptr) {
    if (++added % 2 == 0) return container.try_emplace(id, id, std::move(on_destruction)).first;
    return container.insert(id, MakeRef<Object>(id, std::move(on_destruction))).first;
  }
  int added = 0;
};

INSTANTIATE_TYPED_TEST_SUITE_P(WeakValueMapOfEntered, ContainerContract, Entered<Object>);
INSTANTIATE_TYPED_TEST_SUITE_P(WeakValueMapOfCreated, ContainerContract, Emplaced);
INSTANTIATE_TYPED_TEST_SUITE_P(WeakValueMapOfMadeByFactory, ContainerContract,
                               MadeByFactory<Object>);
INSTANTIATE_TYPED_TEST_SUITE_P(WeakValueMapOfMixed, ContainerContract, Mixed);
INSTANTIATE_TYPED_TEST_SUITE_P(WeakValueMapOfSharedPtr, ContainerContract,
                               Entered<std::shared_ptr<Object>>);
INSTANTIATE_TYPED_TEST_SUITE_P(WeakValueMapOfSharedPtrByFactory, ContainerContract,
                               MadeByFactory<std::shared_ptr<Object>>);

}  // namespace
}  // namespace weakcache::testing
