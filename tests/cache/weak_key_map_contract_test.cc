// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "tests/cache/container_contract.h"
#include "tests/support/object.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::testing {
namespace {

template <typename K, typename KeyPolicy>
struct KeyMapAdapter {
  using Container = WeakKeyMap<K, int, KeyPolicy>;
  using Handle = typename Container::key_type;

  Handle AddNew(int id, OnDestruction on_destruction = nullptr) {
    Handle object = HandleTraits<Handle>::Make(id, std::move(on_destruction));
    Add(object);
    return object;
  }
  void Add(const Handle& object) { container.insert_or_assign(object, object->id); }
  bool Has(const Handle& object) const {
    const auto value = container.get(object);
    return value != nullptr && *value == object->id && container.canonical_key(object) == object;
  }
  size_t Remove(const Handle& object) { return container.erase(object); }
  size_t RemoveById(int id) requires(!std::is_same_v<KeyPolicy, ByIdentity>) {
    return container.erase(id);
  }
  void ForEach(const std::function<void(const Object&)>& visit) {
    for (const auto& [object, id] : container) {
      EXPECT_EQ(id, object->id);
      visit(*object);
    }
  }

  Container container;
};

template <typename K>
using ByIdentityAdapter = KeyMapAdapter<K, ByIdentity>;
template <typename K>
using ByValueAdapter = KeyMapAdapter<K, ByValue<IdHash, IdEqual>>;
using SharedObject = std::shared_ptr<Object>;

INSTANTIATE_TYPED_TEST_SUITE_P(WeakKeyMap, ContainerContract, ByIdentityAdapter<Object>);
INSTANTIATE_TYPED_TEST_SUITE_P(WeakKeyMapOfSharedPtr, ContainerContract,
                               ByIdentityAdapter<SharedObject>);
INSTANTIATE_TYPED_TEST_SUITE_P(WeakKeyMapByValue, ContainerContract, ByValueAdapter<Object>);
INSTANTIATE_TYPED_TEST_SUITE_P(WeakKeyMapByValueOfSharedPtr, ContainerContract,
                               ByValueAdapter<SharedObject>);

}  // namespace
}  // namespace weakcache::testing
