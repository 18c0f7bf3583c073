// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <utility>

#include "tests/cache/container_contract.h"
#include "tests/support/object.h"
#include "weakcache/cache/weak_set.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::testing {
namespace {

template <typename T>
struct SetAdapter {
  using Handle = typename WeakSet<T>::key_type;

  Handle AddNew(int id, OnDestruction on_destruction = nullptr) {
    Handle object = HandleTraits<Handle>::Make(id, std::move(on_destruction));
    EXPECT_TRUE(container.insert(object).second);
    return object;
  }
  void Add(const Handle& object) { container.insert(object); }
  bool Has(const Handle& object) const { return container.contains(object); }
  size_t Remove(const Handle& object) { return container.erase(object); }
  void ForEach(const std::function<void(const Object&)>& visit) {
    for (const Handle& object : container) visit(*object);
  }

  WeakSet<T> container;
};

INSTANTIATE_TYPED_TEST_SUITE_P(WeakSet, ContainerContract, SetAdapter<Object>);
INSTANTIATE_TYPED_TEST_SUITE_P(WeakSetOfSharedPtr, ContainerContract,
                               SetAdapter<std::shared_ptr<Object>>);

}  // namespace
}  // namespace weakcache::testing
