// SPDX-License-Identifier: Apache-2.0
// Compiled with -fno-exceptions -fno-rtti: uses each public header once. (weak_proxy, weak_bind and
// finalizer: see weak_proxy_no_exceptions_test.cc.)
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/dump_object.h"
#include "weakcache/weakref/enable_ref_from_this.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/shared_ptr_interop.h"
#include "weakcache/weakref/weak_ref.h"

#if defined(__cpp_exceptions) || defined(__cpp_rtti)
#error "this test is about code without either"
#endif

namespace weakcache {
namespace {

struct Node : EnableRefFromThis<Node> {
  int value = 1;
};

TEST(NoExceptionsTest, References) {
  Ref<Node> ref = MakeRef<Node>();
  const WeakRef<Node> weak = ref;
  EXPECT_EQ(weak.lock()->value, 1);
  EXPECT_EQ(ref->ref_from_this(), ref);
  int told = 0;
  const ExpiryRegistration registration = OnExpire(ref, [&] { ++told; });
  ref.reset();
  EXPECT_TRUE(weak.expired());
  EXPECT_EQ(told, 1);
}

struct Base {
  virtual ~Base() = default;
};
struct Derived : Base {};

TEST(NoExceptionsTest, DumpObjectNamesTheTypeOfTheReference) {
#ifdef __has_feature
#if __has_feature(undefined_behavior_sanitizer)
  GTEST_SKIP() << "in the library, which has run-time type information, it looks for the block's";
#endif
#endif
  const Ref<Base> ref = MakeRef<Derived>();
  WeakValueMap<int, Base> by_number;
  by_number.insert(1, ref);
  const ObjectDump dump = DumpObject(ref);
  EXPECT_TRUE(dump.type.ends_with("::Base")) << dump.type;
  ASSERT_EQ(dump.containers.size(), 1u);
  EXPECT_TRUE(dump.containers[0].type.starts_with("WeakValueMap<int, "));
}

TEST(NoExceptionsTest, HandleTraits) {
  using Traits = HandleTraits<std::shared_ptr<int>>;
  static_assert(Handle<Ref<int>> && Handle<std::shared_ptr<int>>);
  std::shared_ptr<int> strong = Traits::Make(3);
  const std::weak_ptr<int> weak = Traits::MakeWeak(strong);
  EXPECT_TRUE(Traits::SameOwner(strong, weak));
  strong.reset();
  EXPECT_TRUE(Traits::Expired(weak));
}

TEST(NoExceptionsTest, Containers) {
  WeakValueMap<std::string, int> by_name;
  const Ref<int> value = by_name.get_or_create("one", [] { return MakeRef<int>(1); });
  EXPECT_EQ(by_name.get("one"), value);
  WeakKeyMap<int, std::string> notes;
  notes.insert_or_assign(value, "note");
  EXPECT_TRUE(notes.contains(value));
  ConcurrentWeakValueMap<std::string, int> shared;
  EXPECT_EQ(shared.insert("one", value).first, value);
  const Ref<int> two = shared.get_or_create("two", [] { return 2; });
  EXPECT_EQ(shared.get("two"), two);
  EXPECT_DEATH(shared.get_or_create(
                   "three", [&] { return *shared.get_or_create("three", [] { return 3; }); }),
               "get_or_create: the factory asks for the key that it creates");
}

TEST(NoExceptionsTest, SharedPtrComesBackWithoutRtti) {
  const std::shared_ptr<int> shared = std::make_shared<int>(1);
  const std::shared_ptr<int> back = ToSharedPtr(FromSharedPtr(shared));
  EXPECT_FALSE(back.owner_before(shared) || shared.owner_before(back));
  EXPECT_EQ(shared.use_count(), 2);
}

// Which family a shared_ptr is of can't be told here, so there is one more. The lifetimes hold.
TEST(NoExceptionsTest, RefIsWrappedWithoutRtti) {
  Ref<int> ref = MakeRef<int>(1);
  const WeakRef<int> weak = ref;
  Ref<int> back = FromSharedPtr(ToSharedPtr(std::move(ref)));
  EXPECT_FALSE(weak.expired());
  EXPECT_EQ(*back, 1);
  EXPECT_FALSE(weak.owner_equal(back));
  back.reset();
  EXPECT_TRUE(weak.expired());
}

}  // namespace
}  // namespace weakcache
