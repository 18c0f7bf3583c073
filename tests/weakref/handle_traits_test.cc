// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/handle_traits.h"

#include <gtest/gtest.h>

#include <boost/smart_ptr/make_shared.hpp>
#include <boost/smart_ptr/shared_ptr.hpp>
#include <boost/smart_ptr/weak_ptr.hpp>
#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/support/tracked.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::Tracked;

// A handle of somebody's own: the object knows its count, and weak pointers share a note of whether
// it is alive. For one thread.
template <typename T>
class IntrusivePointer {
 public:
  IntrusivePointer() = default;
  explicit IntrusivePointer(T* object) : object_(object) { Count(+1); }
  IntrusivePointer(const IntrusivePointer& other) noexcept : object_(other.object_) { Count(+1); }
  IntrusivePointer(IntrusivePointer&& other) noexcept
      : object_(std::exchange(other.object_, nullptr)) {}
  IntrusivePointer& operator=(IntrusivePointer other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~IntrusivePointer() {
    if (object_ != nullptr && --object_->count == 0) delete object_;
  }
  T* get() const { return object_; }
  T& operator*() const { return *object_; }
  T* operator->() const { return object_; }

 private:
  void Count(int change) {
    if (object_ != nullptr) object_->count += change;
  }
  T* object_ = nullptr;
};

template <typename T>
class IntrusiveWeakPointer {
 public:
  IntrusiveWeakPointer() = default;
  explicit IntrusiveWeakPointer(const IntrusivePointer<T>& strong) noexcept {
    if (strong.get() != nullptr) note_ = strong->note;
  }
  T* get() const { return note_ == nullptr ? nullptr : *note_; }
  const void* identity() const { return note_.get(); }

 private:
  std::shared_ptr<T*> note_;
};

struct Widget : Tracked {
  explicit Widget(int id) : Tracked(id) {}
  ~Widget() { *note = nullptr; }
  int count = 0;
  std::shared_ptr<Widget*> note = std::make_shared<Widget*>(this);
};

}  // namespace

template <typename T>
struct HandleTraits<IntrusivePointer<T>> {
  using element_type = T;
  using strong_type = IntrusivePointer<T>;
  using weak_type = IntrusiveWeakPointer<T>;

  static constexpr bool kNotifiesExpiry = false;

  static weak_type MakeWeak(const strong_type& strong) noexcept { return weak_type(strong); }
  static strong_type Lock(const weak_type& weak) noexcept {
    return weak.get() == nullptr ? strong_type() : strong_type(weak.get());
  }
  static bool Expired(const weak_type& weak) noexcept { return weak.get() == nullptr; }
  template <typename A, typename B>
  static bool SameOwner(const A& a, const B& b) noexcept {
    return weak_type(a).identity() == weak_type(b).identity();
  }
  static bool Owns(const strong_type& strong) noexcept { return strong.get() != nullptr; }
  template <typename... Args>
  static strong_type Make(Args&&... args) {
    return strong_type(new T(std::forward<Args>(args)...));
  }
};

template <typename T>
struct HandleTraits<boost::shared_ptr<T>> {
  using element_type = T;
  using strong_type = boost::shared_ptr<T>;
  using weak_type = boost::weak_ptr<T>;

  static constexpr bool kNotifiesExpiry = false;

  static weak_type MakeWeak(const strong_type& strong) noexcept { return weak_type(strong); }
  static strong_type Lock(const weak_type& weak) noexcept { return weak.lock(); }
  static bool Expired(const weak_type& weak) noexcept { return weak.expired(); }
  template <typename A, typename B>
  static bool SameOwner(const A& a, const B& b) noexcept {
    return !a.owner_before(b) && !b.owner_before(a);
  }
  static bool Owns(const strong_type& strong) noexcept { return strong.use_count() != 0; }
  template <typename... Args>
  static strong_type Make(Args&&... args) {
    return boost::make_shared<T>(std::forward<Args>(args)...);
  }
};

namespace {

// The example of the header.
template <Handle H>
class Observers {
  using Traits = HandleTraits<H>;

 public:
  void Add(const H& observer) { observers_.push_back(Traits::MakeWeak(observer)); }
  template <typename Function>
  void ForEach(Function function) {
    for (const auto& weak : observers_) {
      if (const H observer = Traits::Lock(weak); Traits::Owns(observer)) function(*observer);
    }
  }

 private:
  std::vector<typename Traits::weak_type> observers_;
};

template <typename H>
class HandleTraitsTest : public ::testing::Test {};
using Handles = ::testing::Types<Ref<Tracked>, Ref<const Tracked>, std::shared_ptr<Tracked>,
                                 std::shared_ptr<const Tracked>, boost::shared_ptr<Tracked>,
                                 IntrusivePointer<Widget>>;
TYPED_TEST_SUITE(HandleTraitsTest, Handles);

TYPED_TEST(HandleTraitsTest, MakesLocksAndExpires) {
  using Traits = HandleTraits<TypeParam>;
  TypeParam strong = Traits::Make(7);
  EXPECT_TRUE(Traits::Owns(strong));
  const typename Traits::weak_type weak = Traits::MakeWeak(strong);
  EXPECT_FALSE(Traits::Expired(weak));
  EXPECT_EQ(Traits::Lock(weak).get(), strong.get());
  EXPECT_EQ(Traits::Lock(weak)->id(), 7);
  strong = TypeParam();
  EXPECT_EQ(Tracked::live(), 0);
  EXPECT_TRUE(Traits::Expired(weak));
  EXPECT_FALSE(Traits::Owns(Traits::Lock(weak)));
}

TYPED_TEST(HandleTraitsTest, ComparesOwnersOfStrongAndWeakAlsoAfterDeath) {
  using Traits = HandleTraits<TypeParam>;
  TypeParam a = Traits::Make(1);
  const TypeParam b = Traits::Make(1);
  const auto weak_a = Traits::MakeWeak(a);
  const auto weak_b = Traits::MakeWeak(b);
  EXPECT_TRUE(Traits::SameOwner(a, TypeParam(a)));
  EXPECT_TRUE(Traits::SameOwner(a, weak_a));
  EXPECT_TRUE(Traits::SameOwner(weak_a, a));
  EXPECT_FALSE(Traits::SameOwner(a, b));
  EXPECT_FALSE(Traits::SameOwner(a, weak_b));
  EXPECT_FALSE(Traits::SameOwner(weak_b, a));
  a = TypeParam();
  EXPECT_TRUE(Traits::SameOwner(weak_a, typename Traits::weak_type(weak_a)));
  EXPECT_FALSE(Traits::SameOwner(weak_a, weak_b));
  EXPECT_FALSE(Traits::SameOwner(weak_a, a));  // dead is not null
}

TYPED_TEST(HandleTraitsTest, NullOwnsNothing) {
  using Traits = HandleTraits<TypeParam>;
  const TypeParam null{};
  EXPECT_FALSE(Traits::Owns(null));
  EXPECT_TRUE(Traits::Expired(Traits::MakeWeak(null)));
  EXPECT_TRUE(Traits::Expired(typename Traits::weak_type{}));
  EXPECT_TRUE(Traits::SameOwner(null, typename Traits::weak_type{}));
  EXPECT_FALSE(Traits::Owns(Traits::Lock({})));
}

TYPED_TEST(HandleTraitsTest, HeaderExample) {
  Observers<TypeParam> observers;
  const TypeParam kept = HandleTraits<TypeParam>::Make(1);
  observers.Add(kept);
  observers.Add(HandleTraits<TypeParam>::Make(2));
  int sum = 0;
  observers.ForEach([&](auto& observer) { sum += observer.id(); });
  EXPECT_EQ(sum, 1);
}

template <typename H>
class HandleTraitsAliasTest : public ::testing::Test {};
using Aliasing = ::testing::Types<Ref<int>, std::shared_ptr<int>, boost::shared_ptr<int>>;
TYPED_TEST_SUITE(HandleTraitsAliasTest, Aliasing);

TYPED_TEST(HandleTraitsAliasTest, AliasOwnsWhatItsOwnerOwns) {
  using Traits = HandleTraits<TypeParam>;
  const TypeParam owner = Traits::Make(1);
  int other = 2;
  const TypeParam alias(owner, &other);
  EXPECT_TRUE(Traits::Owns(alias));
  EXPECT_TRUE(Traits::SameOwner(alias, owner));
  EXPECT_TRUE(Traits::SameOwner(alias, Traits::MakeWeak(owner)));
  const TypeParam unowned(TypeParam(), &other);
  EXPECT_EQ(unowned.get(), &other);
  EXPECT_FALSE(Traits::Owns(unowned));
  EXPECT_TRUE(Traits::Expired(Traits::MakeWeak(unowned)));
  const TypeParam null_part(owner, nullptr);
  EXPECT_TRUE(Traits::Owns(null_part));
}

TEST(HandleTraitsArrayTest, TakesArrays) {
  const Ref<int[]> ref = HandleTraits<Ref<int[]>>::Make(3);
  EXPECT_EQ(ref[2], 0);
  const std::shared_ptr<int[]> shared = HandleTraits<std::shared_ptr<int[]>>::Make(3);
  EXPECT_EQ(shared[2], 0);
  static_assert(std::same_as<HandleTraits<Ref<int[]>>::element_type, int>);
  static_assert(std::same_as<HandleTraits<std::shared_ptr<int[]>>::element_type, int>);
}

// Lacks SameOwner for weak handles, and the rest is right.
struct Halfway {
  int* get() const { return nullptr; }
};
struct HalfwayWeak {};

}  // namespace

template <>
struct HandleTraits<Halfway> {
  using element_type = int;
  using strong_type = Halfway;
  using weak_type = HalfwayWeak;
  static constexpr bool kNotifiesExpiry = false;
  static weak_type MakeWeak(const strong_type&) noexcept { return {}; }
  static strong_type Lock(const weak_type&) noexcept { return {}; }
  static bool Expired(const weak_type&) noexcept { return true; }
  static bool SameOwner(const strong_type&, const strong_type&) noexcept { return false; }
  static bool Owns(const strong_type&) noexcept { return false; }
};

namespace {

template <typename H, typename... Args>
concept Makes = requires(Args&&... args) {
  HandleTraits<H>::Make(std::forward<Args>(args)...);
};

TEST(HandleConceptTest, TellsHandlesFromOtherTypes) {
  static_assert(Handle<Ref<int>> && Handle<Ref<void>> && Handle<Ref<const int[]>>);
  static_assert(Handle<std::shared_ptr<int>> && Handle<std::shared_ptr<const void>> &&
                Handle<std::shared_ptr<int[]>>);
  static_assert(Handle<boost::shared_ptr<int>>);
  static_assert(Handle<IntrusivePointer<Widget>>);
  static_assert(!Handle<int> && !Handle<int*> && !Handle<std::unique_ptr<int>>);
  static_assert(!Handle<WeakRef<int>> && !Handle<std::weak_ptr<int>>, "strong handles only");
  static_assert(!Handle<Halfway>, "nothing may be missing");
}

TEST(HandleConceptTest, OnlyOwnHandlesNotify) {
  static_assert(HandleTraits<Ref<int>>::kNotifiesExpiry);
  static_assert(!HandleTraits<std::shared_ptr<int>>::kNotifiesExpiry);
}

TEST(HandleConceptTest, MakesOnlyWhatCanBeConstructed) {
  static_assert(Makes<Ref<Tracked>, int> && Makes<std::shared_ptr<Tracked>, int>);
  static_assert(!Makes<Ref<Tracked>, std::vector<int>>);
  static_assert(!Makes<std::shared_ptr<Tracked>, std::vector<int>>);
  static_assert(!Makes<Ref<void>> && !Makes<std::shared_ptr<void>>);
}

TEST(HandleConceptTest, OwnersOfOtherTypesDoNotCompare) {
  using Traits = HandleTraits<Ref<int>>;
  static_assert(internal::ComparesOwners<Traits, Ref<int>, WeakRef<int>>);
  static_assert(!internal::ComparesOwners<Traits, Ref<int>, std::shared_ptr<int>>);
}

}  // namespace
}  // namespace weakcache
