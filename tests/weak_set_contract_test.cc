#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <utility>

#include "cache/weak_set.h"
#include "tests/container_contract.h"
#include "tests/support/object.h"
#include "weakref/handle_traits.h"
#include "weakref/ref.h"

namespace weakcache::testing {
namespace {

template <typename T>
struct SetAdapter {
  using Handle = typename WeakSet<T>::key_type;

  Handle AddNew(int id, OnDestruction on_destruction = nullptr) {
    Handle object = HandleTraits<Handle>::Make(id, std::move(on_destruction));
    EXPECT_TRUE(container.add(object));
    return object;
  }
  void Add(const Handle& object) { container.add(object); }
  bool Has(const Handle& object) const { return container.contains(object); }
  size_t Remove(const Handle& object) { return container.discard(object); }
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
