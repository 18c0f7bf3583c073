// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/weak_interner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "tests/support/tracked.h"
#include "tests/support/word.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::Word;
using testing::WordEqual;
using testing::WordHash;
using testing::WordLog;

using Words = WeakInterner<Word, WordHash, WordEqual>;
using SharedWords = WeakInterner<std::shared_ptr<const Word>, WordHash, WordEqual>;

TEST(WeakInternerTest, OneObjectForEqualValues) {
  WeakInterner<std::string> names;
  Ref<const std::string> a = names.intern("position");
  const Ref<const std::string> b = names.intern(std::string("position"));
  const Ref<const std::string> c = names.intern(std::string_view("positions").substr(0, 8));
  EXPECT_EQ(a, b);
  EXPECT_EQ(b, c);
  EXPECT_EQ(*a, "position");
  EXPECT_NE(names.intern("velocity"), a);
  EXPECT_EQ(names.size(), 1u);  // the other one has gone already
  EXPECT_EQ(names.get("position"), a);
  EXPECT_EQ(names.get(std::string_view("position")), a);
  EXPECT_EQ(a.use_count(), 3u);
}

TEST(WeakInternerTest, LookUpsEnterNothing) {
  WeakInterner<std::string> names;
  EXPECT_FALSE(names.contains("velocity"));
  EXPECT_EQ(names.get("velocity"), nullptr);
  EXPECT_TRUE(names.empty());
  const auto velocity = names.intern("velocity");
  EXPECT_TRUE(names.contains("velocity"));
  EXPECT_EQ(names.size(), 1u);
  EXPECT_EQ(velocity.use_count(), 1u);
}

TEST(WeakInternerTest, MakesAnObjectOnlyIfItIsNew) {
  Words words;
  const int made = Word::made();
  const auto first = words.intern("one");
  EXPECT_EQ(Word::made(), made + 1);
  EXPECT_EQ(words.intern("one"), first);
  EXPECT_EQ(words.intern(std::string("one")), first);
  EXPECT_EQ(words.intern(*first), first);
  EXPECT_TRUE(words.contains("one"));
  EXPECT_EQ(Word::made(), made + 1);
  const Word two("two");
  EXPECT_NE(words.intern(two).get(), &two);  // a copy
  EXPECT_EQ(Word::made(), made + 3);
}

TEST(WeakInternerTest, TakesAnRvalueOnlyIfItIsNew) {
  WeakInterner<std::string> names;
  std::string text(100, 'x');
  const char* const bytes = text.data();
  const auto first = names.intern(std::move(text));
  EXPECT_EQ(first->data(), bytes);  // moved
  std::string again(100, 'x');
  EXPECT_EQ(names.intern(std::move(again)), first);
  EXPECT_EQ(again.size(), 100u);  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(names.intern({'x', 'y'})->size(), 2u);
}

TEST(WeakInternerTest, AnObjectGoesWithItsLastReferenceAndMayComeBack) {
  const int64_t before = testing::LiveAllocatedBytes();
  WeakInterner<std::string> names;
  auto first = names.intern(std::string(10'000, 'x'));
  const WeakRef<const std::string> weak = first;
  EXPECT_GT(testing::LiveAllocatedBytes() - before, testing::RaceRounds(10'000));
  first.reset();
  EXPECT_LT(testing::LiveAllocatedBytes() - before, 5'000);
  EXPECT_TRUE(weak.expired());
  EXPECT_TRUE(names.empty());
  const auto second = names.intern(std::string(10'000, 'x'));
  EXPECT_EQ(names.size(), 1u);
  EXPECT_TRUE(weak.expired());
  EXPECT_EQ(names.get(*second), second);
}

TEST(WeakInternerTest, CustomHashAndEqualityDecide) {
  struct FirstHash {
    size_t operator()(const std::string& text) const { return static_cast<size_t>(text[0]); }
  };
  struct FirstEqual {
    bool operator()(const std::string& a, const std::string& b) const { return a[0] == b[0]; }
  };
  WeakInterner<std::string, FirstHash, FirstEqual> initials;
  const auto a = initials.intern("apple");
  EXPECT_EQ(initials.intern("avocado"), a);
  EXPECT_EQ(*initials.get("a"), "apple");
  EXPECT_FALSE(initials.contains("b"));

  using Hash = std::function<size_t(int)>;
  using Equal = std::function<bool(int, int)>;
  WeakInterner<int, Hash, Equal> modulo([](int i) { return i % 7; },
                                        [](int i, int j) { return i % 7 == j % 7; });
  const auto three = modulo.intern(3);
  EXPECT_EQ(modulo.intern(10), three);
  WeakInterner<int, Hash, Equal> other([](int i) { return i; },
                                       [](int i, int j) { return i == j; });
  swap(modulo, other);
  EXPECT_FALSE(modulo.contains(10));
  modulo = std::move(other);
  EXPECT_EQ(modulo.get(17), three);
}

TEST(WeakInternerTest, DefaultHashAndEqualityOfOtherTypes) {
  WeakInterner<std::vector<std::pair<int, std::string>>> lists;
  const auto list = lists.intern({{1, "one"}, {2, "two"}});
  EXPECT_EQ(lists.intern({{1, "one"}, {2, "two"}}), list);
  EXPECT_NE(lists.intern({{1, "one"}}), list);
  static_assert(
      std::is_same_v<decltype(list), const Ref<const std::vector<std::pair<int, std::string>>>>);
}

TEST(WeakInternerTest, IteratesOverTheLiving) {
  WeakInterner<std::string> names;
  std::vector<Ref<const std::string>> held;
  for (int i = 0; i < 100; ++i) held.push_back(names.intern(std::to_string(i)));
  for (int i = 0; i < 100; i += 2) held[i].reset();
  std::set<std::string> seen;
  names.for_each([&](const Ref<const std::string>& name) { seen.insert(*name); });
  EXPECT_EQ(seen.size(), 50u);
  std::set<std::string> again;
  for (const auto& name : names) again.insert(*name);
  EXPECT_EQ(seen, again);
  EXPECT_EQ(names.snapshot().size(), 50u);
  EXPECT_EQ(names.purge(), 50u);
  names.shrink_to_fit();
  EXPECT_EQ(names.get("1"), held[1]);
  names.CheckInvariantsForTesting();
}

TEST(WeakInternerTest, WhatIsClearedStaysAndIsNotFound) {
  WeakInterner<std::string> names;
  const auto old = names.intern("one");
  names.clear();
  EXPECT_TRUE(names.empty());
  EXPECT_FALSE(names.contains("one"));
  EXPECT_EQ(*old, "one");
  const auto fresh = names.intern("one");
  EXPECT_NE(fresh, old);
  EXPECT_EQ(names.get("one"), fresh);
  names.CheckInvariantsForTesting();
}

// A value that is interned over and over leaves no trail.
TEST(WeakInternerTest, MemoryIsBoundedWithoutAPurge) {
  WeakInterner<std::string> names;
  int64_t early = 0;
  for (int round = 0; round < 20'000; ++round) {
    const auto name = names.intern(std::to_string(round));
    if (round == 1000) early = testing::LiveAllocatedBytes();
  }
  EXPECT_LE(testing::LiveAllocatedBytes(), early);
}

template <typename Interner>
class WeakInternerFormsTest : public ::testing::Test {};
using Forms = ::testing::Types<Words, SharedWords>;
TYPED_TEST_SUITE(WeakInternerFormsTest, Forms);

TYPED_TEST(WeakInternerFormsTest, TheWholeSurface) {
  TypeParam words;
  auto one = words.intern("one");
  EXPECT_EQ(words.intern("one"), one);
  EXPECT_EQ(one->text(), "one");
  EXPECT_EQ(words.get("one"), one);
  EXPECT_TRUE(words.contains(one));
  EXPECT_EQ(words.get("two"), nullptr);
  EXPECT_EQ(words.snapshot().size(), 1u);
  TypeParam moved = std::move(words);
  EXPECT_EQ(moved.get("one"), one);
  one.reset();
  EXPECT_FALSE(moved.contains("one"));
  moved.purge();
  EXPECT_TRUE(moved.empty());
  EXPECT_EQ(Word::live(), 0);
  moved.CheckInvariantsForTesting();
}

TYPED_TEST(WeakInternerFormsTest, FailureLeavesItAsItWas) {
  WordLog log;
  log.collide = true;
  for (const bool is_new : {true, false}) {
    for (const bool by_allocation : {true, false}) {
      TypeParam words(WordHash{&log}, WordEqual{&log});
      std::vector<typename TypeParam::value_type> held;
      for (int i = 0; i < 6; ++i) held.push_back(words.intern(std::to_string(i)));
      const auto check = [&] {
        words.CheckInvariantsForTesting();
        ASSERT_EQ(words.size(), 6u);
        ASSERT_EQ(Word::live(), 6);
        for (int i = 0; i < 6; ++i) ASSERT_EQ(words.get(std::to_string(i)), held[i]);
      };
      typename TypeParam::value_type result;
      const auto operation = [&] { result = words.intern(is_new ? "new" : "5"); };
      if (by_allocation) {
        const int failures = testing::FailEachAllocation(operation, check);
        EXPECT_EQ(failures > 0, is_new);
      } else {
        // The hash, six comparisons, and then, only if it is new, its constructor.
        const int failures = testing::ThrowAtEachPoint(operation, check);
        EXPECT_GE(failures, is_new ? 8 : 2);
      }
      EXPECT_EQ(result->text(), is_new ? "new" : "5");
      EXPECT_EQ(words.size(), is_new ? 7u : 6u);
    }
  }
}

TYPED_TEST(WeakInternerFormsTest, TheDeadAreNotAsked) {
  WordLog log;
  log.collide = true;
  TypeParam words(WordHash{&log}, WordEqual{&log});
  {
    std::vector<typename TypeParam::value_type> held;
    for (int i = 0; i < 100; ++i) held.push_back(words.intern(std::to_string(i)));
  }
  const int hashed = log.hashed;
  log.compared = 0;
  EXPECT_FALSE(words.contains("7"));
  words.reserve(1000);
  const auto seven = words.intern("7");
  EXPECT_EQ(words.intern("7"), seven);
  EXPECT_EQ(log.compared, 1);
  EXPECT_EQ(log.hashed, hashed + 3);
  words.CheckInvariantsForTesting();
}

template <typename Strong>
using WeakTo = typename HandleTraits<Strong>::weak_type;

// Each object, as it goes, interns its own value again: there is never a second one.
TYPED_TEST(WeakInternerFormsTest, ADestructorMayInternItsOwnValue) {
  TypeParam words;
  typename TypeParam::value_type heir;
  bool armed = false;
  auto first = words.intern(Word("one", [&] {
    if (armed) heir = words.intern("one");
  }));
  const WeakTo<decltype(first)> weak(first);
  armed = true;
  first.reset();
  ASSERT_NE(heir, nullptr);
  EXPECT_TRUE(weak.expired());
  EXPECT_EQ(words.get("one"), heir);
  EXPECT_EQ(Word::live(), 1);
  words.purge();
  EXPECT_EQ(words.size(), 1u);
  EXPECT_EQ(words.get("one"), heir);
  words.CheckInvariantsForTesting();
}

// The comparison lets the candidate go, so that the look-up is the last to hold it, and its
// destructor does what breaks naive look-ups.
TYPED_TEST(WeakInternerFormsTest, ALookUpMayDestroyItsCandidates) {
  using Strong = typename TypeParam::value_type;
  using Held = std::vector<Strong>;
  const std::function<void(TypeParam&, Held&)> deeds[] = {
      [](TypeParam&, Held&) {},
      [](TypeParam& words, Held& more) { more.push_back(words.intern("wanted")); },
      [](TypeParam& words, Held& more) {
        for (int i = 0; i < 100; ++i) more.push_back(words.intern(std::to_string(1000 + i)));
      },
      [](TypeParam& words, Held& more) {
        words.clear();
        more.push_back(words.intern("wanted"));
      },
      [](TypeParam& words, Held&) { words.shrink_to_fit(); },
      [](TypeParam& words, Held&) { words.clear(); },
  };
  for (const auto& deed : deeds) {
    for (int dying = 0; dying < 4; ++dying) {
      for (const bool present : {false, true}) {
        WordLog log;
        log.collide = true;
        bool armed = false;
        int done = 0;
        TypeParam words(WordHash{&log}, WordEqual{&log});
        Held held, more;
        for (int i = 0; i < 4; ++i) {
          held.push_back(words.intern(Word(std::to_string(i), [&, i] {
            if (!armed || i != dying) return;
            armed = false;
            ++done;
            deed(words, more);
          })));
        }
        if (present) more.push_back(words.intern("wanted"));
        armed = true;
        log.on_compare = [&](const Word& candidate) {
          if (held[dying].get() == &candidate) held[dying].reset();
        };
        const Strong wanted = words.intern("wanted");
        log.on_compare = nullptr;
        ASSERT_EQ(wanted->text(), "wanted");
        ASSERT_EQ(words.get("wanted"), wanted);
        std::multiset<std::string> texts;
        for (const auto& word : words) texts.insert(word->text());
        ASSERT_EQ(texts.count("wanted"), 1u);
        ASSERT_LE(done, 1);
        if (!present) {
          ASSERT_EQ(done, 1);
        }
        words.CheckInvariantsForTesting();
        armed = false;
      }
    }
  }
  EXPECT_EQ(Word::live(), 0);
}

// An object's constructor interns the value that is being interned, once more: that one stays.
TEST(WeakInternerTest, AConstructorMayInternTheSameValue) {
  struct Nested {
    struct Hash {
      using is_transparent [[maybe_unused]] = void;
      size_t operator()(int) const { return 1; }
      size_t operator()(const Nested&) const { return 1; }
    };
    struct Equal {
      using is_transparent [[maybe_unused]] = void;
      bool operator()(const Nested&, int) const { return true; }
      bool operator()(const Nested&, const Nested&) const { return true; }
    };
    using Interner = WeakInterner<Nested, Hash, Equal>;
    struct Depth {
      operator int() const { return depth; }
      int depth;
      Interner* interner;
      std::vector<Ref<const Nested>>* kept;
    };
    explicit Nested(const Depth& from) : depth(from.depth) {
      if (depth > 0)
        from.kept->push_back(from.interner->intern(Depth{depth - 1, from.interner, from.kept}));
    }
    int depth;
  };
  Nested::Interner interner;
  std::vector<Ref<const Nested>> kept;
  const auto outer = interner.intern(Nested::Depth{3, &interner, &kept});
  EXPECT_EQ(outer->depth, 0);
  for (const auto& inner : kept) EXPECT_EQ(inner, outer);
  EXPECT_EQ(interner.size(), 1u);
  interner.CheckInvariantsForTesting();
}

TEST(WeakInternerTest, InternerAndObjectsMayEndInEitherOrder) {
  const int64_t before = testing::LiveAllocations();
  for (const bool interner_first : {false, true}) {
    auto words = std::make_unique<Words>();
    std::vector<Ref<const Word>> held;
    std::vector<WeakRef<const Word>> weak;
    for (int i = 0; i < 100; ++i) {
      held.push_back(words->intern(std::to_string(i)));
      weak.emplace_back(held.back());
    }
    if (interner_first) {
      std::thread([&] { words.reset(); }).join();
      EXPECT_EQ(held[50]->text(), "50");
      EXPECT_EQ(weak[50].lock(), held[50]);
      std::thread([&] { held.clear(); }).join();
    } else {
      std::thread([&] { held.clear(); }).join();
      EXPECT_TRUE(words->empty());
      const auto again = words->intern("50");
      EXPECT_NE(weak[50], again);
      std::thread([&] { words.reset(); }).join();
    }
    EXPECT_TRUE(std::all_of(weak.begin(), weak.end(), [](auto& ref) { return ref.expired(); }));
    EXPECT_EQ(Word::live(), 0);
  }
  EXPECT_EQ(testing::LiveAllocations(), before);
}

// The slots of objects that weak references remain to are not used again before those have gone.
TEST(WeakInternerTest, WeakReferencesOutliveManyReuses) {
  Words words;
  std::vector<WeakRef<const Word>> weak;
  for (int i = 0; i < 1000; ++i) {
    const auto word = words.intern("one");
    ASSERT_EQ(words.size(), 1u);
    for (const auto& old : weak) ASSERT_TRUE(old.expired());
    if (i % 10 == 0) weak.emplace_back(word);
  }
  words.purge();
  words.CheckInvariantsForTesting();
  weak.clear();
  words.purge();
  words.CheckInvariantsForTesting();
}

TEST(WeakInternerTest, ADestructorMayEndTheInterner) {
  auto words = std::make_unique<Words>();
  auto last = words->intern("last");
  Ref<const Word> first;
  {
    const Word value("first", [&] { words.reset(); });
    first = words->intern(value);
    EXPECT_EQ(words->size(), 2u);
  }
  EXPECT_EQ(words, nullptr);
  first.reset();
  last.reset();
  EXPECT_EQ(Word::live(), 0);
}

template <typename T>
struct CountingAllocator {
  using value_type = T;
  explicit CountingAllocator(std::atomic<int>* live) : live(live) {}
  template <typename U>
  CountingAllocator(const CountingAllocator<U>& other) : live(other.live) {}
  T* allocate(size_t count) {
    ++*live;
    return std::allocator<T>().allocate(count);
  }
  void deallocate(T* memory, size_t count) {
    --*live;
    std::allocator<T>().deallocate(memory, count);
  }
  friend bool operator==(const CountingAllocator& a, const CountingAllocator& b) {
    return a.live == b.live;
  }
  std::atomic<int>* live;
};

TEST(WeakInternerTest, TheTableIsInMemoryOfTheAllocator) {
  using Allocator = CountingAllocator<char>;
  std::atomic<int> live{0};
  Ref<const Word> survivor;
  {
    WeakInterner<Word, WordHash, WordEqual, Allocator> words{Allocator(&live)};
    std::vector<Ref<const Word>> held;
    for (int i = 0; i < 100; ++i) held.push_back(words.intern(std::to_string(i)));
    survivor = held[7];
    EXPECT_GT(live, 2);
    EXPECT_EQ(words.get_allocator().live, &live);
  }
  EXPECT_GT(live, 0);  // the survivor's page
  EXPECT_EQ(survivor->text(), "7");
  std::thread([&] { survivor.reset(); }).join();
  EXPECT_EQ(live, 0);
}

// The owner gets a live object whatever the threads that let its predecessors go are doing.
template <typename Interner>
void RaceReleaseAgainstIntern(int rounds) {
  using Strong = typename Interner::value_type;
  Interner words;
  Strong held[3];
  Strong result;
  const Word* before = nullptr;
  int revived = 0, fresh = 0;
  testing::Race(
      {rounds, {&revived}},
      [&](int) {
        for (Strong& word : held) word = words.intern("one");
        before = held[0].get();
        ASSERT_EQ(held[0], held[2]);
      },
      {[&] { held[0].reset(); }, [&] { held[1].reset(); }, [&] { held[2].reset(); },
       [&] {
         result = words.intern("one");
         ASSERT_EQ(result->text(), "one");
         ASSERT_EQ(words.get("one"), result);
       }},
      [&](int round) {
        // At another's address it may be a new one all the same, but then there were few of them.
        (result.get() == before ? revived : fresh) += 1;
        ASSERT_EQ(result->text(), "one");
        ASSERT_EQ(Word::live(), 1);
        ASSERT_EQ(words.get("one"), result);
        ASSERT_EQ(words.snapshot().size(), 1u);
        result.reset();
        ASSERT_EQ(Word::live(), 0);
        ASSERT_FALSE(words.contains("one"));
        if (round % 64 == 0) words.CheckInvariantsForTesting();
      });
  EXPECT_GE(revived + fresh, rounds);
  EXPECT_GT(revived, 0);
  words.purge();
  EXPECT_TRUE(words.empty());
  EXPECT_EQ(Word::live(), 0);
}

TEST(WeakInternerRaceTest, ReleaseAgainstInternOfTheSameValue) {
  RaceReleaseAgainstIntern<Words>(testing::RaceRounds(20'000));
}
TEST(WeakInternerRaceTest, ReleaseOfSharedPtrsAgainstInternOfTheSameValue) {
  RaceReleaseAgainstIntern<SharedWords>(testing::RaceRounds(20'000));
}

TEST(WeakInternerRaceTest, ReleaseAgainstTheInternersEnd) {
  const int64_t before = testing::LiveAllocations();
  {
    std::unique_ptr<Words> words;
    Ref<const Word> held[2];
    WeakRef<const Word> weak;
    testing::Race(
        testing::RaceRounds(20'000),
        [&](int) {
          words = std::make_unique<Words>();
          for (int i = 0; i < 2; ++i) held[i] = words->intern(std::to_string(i));
          weak = WeakRef<const Word>(held[0]);
        },
        {[&] { held[0].reset(); }, [&] { held[1].reset(); }, [&] { weak.reset(); },
         [&] { words.reset(); }},
        [&](int) { ASSERT_EQ(Word::live(), 0); });
  }
  EXPECT_EQ(testing::LiveAllocations(), before);
}

// Objects go on three threads while the owner interns them again, clears and purges.
TEST(WeakInternerRaceTest, ReleaseAgainstEveryOperation) {
  WordLog log;
  log.collide = true;
  Words words(WordHash{&log}, WordEqual{&log});
  Ref<const Word> held[3];
  testing::Race(
      testing::RaceRounds(20'000),
      [&](int) {
        for (int i = 0; i < 3; ++i) held[i] = words.intern(std::to_string(i));
      },
      {[&] { held[0].reset(); }, [&] { held[1].reset(); }, [&] { held[2].reset(); },
       [&] {
         for (const char* const text : {"0", "1", "2"}) {
           const auto again = words.intern(text);
           ASSERT_EQ(again->text(), text);
           words.purge();
         }
         words.for_each([](const auto& word) { ASSERT_EQ(word->text().size(), 1u); });
         words.clear();
         ASSERT_EQ(words.intern("1")->text(), "1");
       }},
      [&](int round) {
        ASSERT_EQ(Word::live(), 0);
        ASSERT_EQ(words.size(), 0u);
        if (round % 64 == 0) words.CheckInvariantsForTesting();
      });
}

}  // namespace
}  // namespace weakcache
