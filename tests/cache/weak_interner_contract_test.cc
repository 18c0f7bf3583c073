// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <utility>

#include "tests/cache/container_contract.h"
#include "tests/support/object.h"
#include "weakcache/cache/weak_interner.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::testing {
namespace {

// An interner enters only what it makes itself, and has no erasure of one object.
template <typename T>
struct InternerAdapter {
  using Container = WeakInterner<T, IdHash, IdEqual>;
  using Handle = typename Container::value_type;

  Handle AddNew(int id, OnDestruction on_destruction = nullptr) {
    return container.intern(Blueprint{id, std::move(on_destruction)});
  }
  bool Has(const Handle& object) const { return container.get(object->id) == object; }
  void ForEach(const std::function<void(const Object&)>& visit) {
    for (const Handle& object : container) visit(*object);
  }

  Container container;
};

INSTANTIATE_TYPED_TEST_SUITE_P(WeakInterner, ContainerContract, InternerAdapter<Object>);
INSTANTIATE_TYPED_TEST_SUITE_P(WeakInternerOfSharedPtr, ContainerContract,
                               InternerAdapter<std::shared_ptr<const Object>>);

}  // namespace
}  // namespace weakcache::testing
