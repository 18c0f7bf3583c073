// SPDX-License-Identifier: Apache-2.0
// WeakKeyMap with keys by value: a look-up holds the keys that it compares, so it may be the last
// to hold one, and run a destructor that changes the map in the midst of it; and keys may be
// released on other threads meanwhile.
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/race.h"
#include "tests/support/tracked.h"
#include "tests/support/word.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::SmallTracked;
using testing::Word;
using testing::WordEqual;
using testing::WordHash;
using testing::WordLog;

// What becomes of the key that is looked up, by what a destructor does.
enum class Fate { kUntouched, kGone, kThere };

template <typename Handle>
struct HandleMaker;
template <>
struct HandleMaker<Ref<Word>> {
  template <typename... Args>
  static Ref<Word> Make(Args&&... args) {
    return MakeRef<Word>(std::forward<Args>(args)...);
  }
};
template <>
struct HandleMaker<std::shared_ptr<Word>> {
  template <typename... Args>
  static std::shared_ptr<Word> Make(Args&&... args) {
    return std::make_shared<Word>(std::forward<Args>(args)...);
  }
};

// A map of `kWords` keys with one hash, one of which goes during the next look-up that compares it.
template <typename Strong>
class Collision {
 public:
  using Map = WeakKeyMap<Strong, int, ByValue<WordHash, WordEqual>>;
  static constexpr int kWords = 5;
  static constexpr int kAbsent = kWords;
  using Action = std::function<Fate(Collision&)>;

  Collision(int dying, int target, const Action& action)
      : target(std::to_string(target)), target_key(Make(this->target)) {
    log.collide = true;
    for (int i = 0; i < kWords; ++i) {
      words.push_back(Make(std::to_string(i), [this, i, dying, &action] {
        if (i == dying && armed) {
          armed = false;
          fate = action(*this);
          acted = true;
        }
      }));
      map.insert(words.back(), i);
    }
    armed = true;
    log.on_compare = [this, dying](const Word& candidate) {
      if (words[dying].get() == &candidate) words[dying] = Strong();
    };
  }
  ~Collision() { armed = false; }

  template <typename... Args>
  static Strong Make(Args&&... args) {
    return HandleMaker<Strong>::Make(std::forward<Args>(args)...);
  }
  void Insert(std::string_view text) {
    inserted.push_back(Make(text));
    map.try_emplace(inserted.back(), 100);
  }

  // No two entries are equal, and all is where it should be.
  void Check() {
    log.on_compare = nullptr;
    std::multiset<std::string> texts;
    for (const auto& [key, value] : map) texts.insert(key->text());
    for (const std::string& text : texts) ASSERT_EQ(texts.count(text), 1u) << text;
    for (const std::string& text : texts) ASSERT_TRUE(map.contains(text)) << text;
    map.CheckInvariantsForTesting();
  }

  const std::string target;
  const Strong target_key;
  WordLog log;
  std::vector<Strong> words;
  std::vector<Strong> inserted;
  bool armed = false;
  bool acted = false;
  Fate fate = Fate::kUntouched;
  Map map{WordHash{&log}, WordEqual{&log}};
};

template <typename Strong>
std::vector<std::pair<const char*, typename Collision<Strong>::Action>> Actions() {
  using C = Collision<Strong>;
  return {
      {"nothing", [](C&) { return Fate::kUntouched; }},
      {"insert", [](C& c) { return c.Insert("more"), Fate::kUntouched; }},
      {"insert many",
       [](C& c) {
         for (int i = 10; i < 100; ++i) c.Insert(std::to_string(i));
         return Fate::kUntouched;
       }},
      {"insert the target", [](C& c) { return c.Insert(c.target), Fate::kThere; }},
      {"replace the target",
       [](C& c) {
         c.inserted.push_back(C::Make(c.target));
         c.map.insert_or_assign(c.inserted.back(), 200);
         return Fate::kThere;
       }},
      {"erase the target", [](C& c) { return c.map.erase(c.target), Fate::kGone; }},
      {"erase the target and insert another",
       [](C& c) { return c.map.erase(c.target), c.Insert("more"), Fate::kGone; }},
      {"erase and insert the target",
       [](C& c) { return c.map.erase(c.target), c.Insert(c.target), Fate::kThere; }},
      {"erase the first", [](C& c) { return c.map.erase("0"), c.Insert("0"), Fate::kUntouched; }},
      {"clear", [](C& c) { return c.map.clear(), Fate::kGone; }},
      {"clear and insert the target",
       [](C& c) { return c.map.clear(), c.Insert(c.target), Fate::kThere; }},
      {"shrink", [](C& c) { return c.map.shrink_to_fit(), Fate::kUntouched; }},
      {"grow", [](C& c) { return c.map.reserve(1000), c.map.purge(), Fate::kUntouched; }},
      {"let all go",
       [](C& c) {
         for (Strong& word : c.words) word = Strong();
         return Fate::kGone;
       }},
      {"pop all",
       [](C& c) {
         while (c.map.pop().has_value()) {
         }
         return Fate::kGone;
       }},
  };
}

template <typename Strong>
class WeakKeyMapByValueReentrancyTest : public ::testing::Test {
 protected:
  using C = Collision<Strong>;

  // Tries the operation with every action in the destructor of every key, on every target.
  // `operation(collision)` returns whether it found the target.
  void ForEachOrder(const std::function<bool(C&)>& operation, bool leaves_target_there) {
    int acted = 0;
    for (const auto& [name, action] : Actions<Strong>()) {
      for (int dying = 0; dying < C::kWords; ++dying) {
        for (int target = 0; target <= C::kAbsent; ++target) {
          SCOPED_TRACE(std::string(name) + " by " + std::to_string(dying) + ", target " +
                       std::to_string(target));
          C collision(dying, target, action);
          const bool found = operation(collision);
          acted += collision.acted ? 1 : 0;
          collision.Check();
          if (dying == target) {
            EXPECT_TRUE(found);  // compared, and from then on held
            continue;
          }
          const Fate fate = collision.fate;
          EXPECT_EQ(found, fate == Fate::kUntouched ? target != C::kAbsent : fate == Fate::kThere);
          if (leaves_target_there) {
            EXPECT_TRUE(collision.map.contains(collision.target));
          }
        }
      }
    }
    EXPECT_GT(acted, 200);
  }
};

using Handles = ::testing::Types<Ref<Word>, std::shared_ptr<Word>>;
TYPED_TEST_SUITE(WeakKeyMapByValueReentrancyTest, Handles);

TYPED_TEST(WeakKeyMapByValueReentrancyTest, GetFindsWhatIsThereThen) {
  this->ForEachOrder(
      [](auto& c) {
        const auto found = c.map.get(c.target);
        EXPECT_TRUE(!found || found.key()->text() == c.target);
        return static_cast<bool>(found);
      },
      false);
}
TYPED_TEST(WeakKeyMapByValueReentrancyTest, ContainsAndCanonicalKey) {
  this->ForEachOrder([](auto& c) { return c.map.contains(c.target); }, false);
  this->ForEachOrder([](auto& c) { return c.map.canonical_key(c.target_key).get() != nullptr; },
                     false);
}
TYPED_TEST(WeakKeyMapByValueReentrancyTest, TryEmplaceEntersNoSecondEqualKey) {
  this->ForEachOrder(
      [](auto& c) {
        const auto [found, inserted] = c.map.try_emplace(c.target_key, 7);
        EXPECT_EQ(found.key()->text(), c.target);
        EXPECT_EQ(*found == 7, inserted);
        return !inserted;
      },
      true);
}
TYPED_TEST(WeakKeyMapByValueReentrancyTest, GetOrCreateEntersNoSecondEqualKey) {
  this->ForEachOrder(
      [](auto& c) { return *c.map.get_or_create(c.target_key, [] { return 7; }) != 7; }, true);
}
TYPED_TEST(WeakKeyMapByValueReentrancyTest, AssignmentReplacesWhatIsThereThen) {
  this->ForEachOrder([](auto& c) { return !c.map.insert_or_assign(c.target_key, 7).second; }, true);
}
TYPED_TEST(WeakKeyMapByValueReentrancyTest, EraseAndTake) {
  this->ForEachOrder([](auto& c) { return c.map.erase(c.target) == 1; }, false);
  this->ForEachOrder(
      [](auto& c) {
        const bool found = c.map.take(c.target_key).has_value();
        c.log.on_compare = nullptr;
        EXPECT_TRUE(c.acted || !c.map.contains(c.target));
        return found;
      },
      false);
}

// Both maps have seen as many changes, so that their counts don't tell them apart.
TEST(WeakKeyMapByValueReentrySwapTest, ALookUpNoticesThatTheMapHasBeenSwapped) {
  using Map = WeakKeyMap<Word, int, ByValue<WordHash, WordEqual>>;
  WordLog log;
  log.collide = true;
  Map map({WordHash{&log}, WordEqual{&log}});
  Map other({WordHash{&log}, WordEqual{&log}});
  Ref<Word> dying = MakeRef<Word>("dying", [&] { swap(map, other); });
  const Ref<Word> wanted = MakeRef<Word>("wanted");
  const Ref<Word> bystander = MakeRef<Word>("bystander");
  map.insert(dying, 1);
  map.insert(bystander, 2);
  other.insert(wanted, 3);
  other.insert(bystander, 4);
  log.on_compare = [&](const Word& candidate) {
    if (&candidate == dying.get()) dying.reset();
  };
  EXPECT_TRUE(map.contains("wanted"));
}

// The value of a key that goes in the midst of a look-up uses the map.
TEST(WeakKeyMapByValueReentryValueTest, AValuesDestructorMayEnterTheKeyThatIsLookedUp) {
  struct Deed {
    explicit Deed(std::function<void()> act = nullptr) : act(std::move(act)) {}
    Deed(const Deed&) = delete;
    ~Deed() {
      if (act) act();
    }
    std::function<void()> act;
  };
  WordLog log;
  log.collide = true;
  WeakKeyMap<Word, Deed, ByValue<WordHash, WordEqual>> map({WordHash{&log}, WordEqual{&log}});
  const Ref<Word> inner = MakeRef<Word>("wanted");
  const Ref<Word> outer = MakeRef<Word>("wanted");
  Ref<Word> dying = MakeRef<Word>("dying");
  map.try_emplace(dying, [&] { map.try_emplace(inner); });
  log.on_compare = [&](const Word& candidate) {
    if (&candidate == dying.get()) dying.reset();
  };
  const auto [found, inserted] = map.try_emplace(outer);
  EXPECT_FALSE(inserted);
  EXPECT_EQ(found.key(), inner);
  EXPECT_EQ(map.size(), 1u);
  // The replaced value enters its own key again: the last one to assign is the one that stays.
  map.insert_or_assign(inner, [&] { map.insert_or_assign(outer, nullptr); });
  map.insert_or_assign(inner, nullptr);
  EXPECT_EQ(map.canonical_key("wanted"), outer);
  EXPECT_EQ(map.size(), 1u);
  map.CheckInvariantsForTesting();
}

// A look-up here ends a key, whose value's end erases what is just to be taken from there.
TEST(WeakKeyMapByValueReentryValueTest, ALookUpMayEndTheEntryThatIsMergedOrCopied) {
  struct Deed {
    explicit Deed(int number) : number(std::make_shared<int>(number)) {}
    explicit Deed(std::function<void()> act) : act(std::move(act)) {}
    Deed(const Deed& other) : number(other.number) {}
    ~Deed() {
      if (act) act();
    }
    std::shared_ptr<int> number;
    std::function<void()> act;
  };
  for (const bool merges : {false, true}) {
    WordLog log;
    log.collide = true;
    using Map = WeakKeyMap<Word, Deed, ByValue<WordHash, WordEqual>>;
    Map map({WordHash{&log}, WordEqual{&log}});
    Map other({WordHash{&log}, WordEqual{&log}});
    const Ref<Word> wanted = MakeRef<Word>("wanted");
    Ref<Word> dying = MakeRef<Word>("dying");
    other.try_emplace(wanted, 1);
    map.try_emplace(dying, [&] { EXPECT_EQ(other.erase(wanted), 1u); });
    log.on_compare = [&](const Word& candidate) {
      if (&candidate == dying.get()) dying.reset();
    };
    if (merges) {
      map.merge(other);
    } else {
      map.update(other);
    }
    EXPECT_EQ(dying, nullptr);
    EXPECT_TRUE(map.empty());
    EXPECT_TRUE(other.empty());
  }
}

// A condition that lets the key that it stands on go, whose destructor changes the map.
TEST(WeakKeyMapByValueReentryValueTest, AnIterationMayBeTheLastToHoldItsKey) {
  WeakKeyMap<Word, int, ByValue<WordHash, WordEqual>> map;
  std::vector<Ref<Word>> words(3);
  for (size_t i = 0; i < words.size(); ++i) {
    words[i] = MakeRef<Word>(std::to_string(i), [&map, i] { map.erase(std::to_string(i + 1)); });
    map.insert(words[i], static_cast<int>(i));
  }
  std::vector<std::string> visited;
  map.for_each([&](const Ref<Word>& word, int) {
    visited.push_back(word->text());
    for (Ref<Word>& held : words) {
      if (held == word) held.reset();
    }
  });
  EXPECT_EQ(visited, (std::vector<std::string>{"0", "2"}));
  EXPECT_TRUE(map.empty());
  map.CheckInvariantsForTesting();
}

using RaceMap = WeakKeyMap<Word, SmallTracked, ByValue<WordHash, WordEqual>>;

// Keys with one hash go on three threads while the owner looks up, enters and erases by value.
TEST(WeakKeyMapByValueRaceTest, ReleaseAgainstEveryOperation) {
  WordLog log;
  log.collide = true;
  auto map = std::make_unique<RaceMap>(RaceMap({WordHash{&log}, WordEqual{&log}}));
  Ref<Word> dying[3];
  const Ref<Word> again = MakeRef<Word>("1");
  const Ref<Word> assigned = MakeRef<Word>("2");
  int found = 0, missed = 0, entered = 0, present = 0, replaced = 0, erased = 0;
  testing::Race(
      {testing::RaceRounds(20'000), {&found, &missed, &entered, &present, &replaced}},
      [&](int) {
        for (int i = 0; i < 3; ++i) {
          dying[i] = MakeRef<Word>(std::to_string(i));
          map->try_emplace(dying[i], i);
        }
      },
      {[&] { dying[0].reset(); }, [&] { dying[1].reset(); }, [&] { dying[2].reset(); },
       [&] {
         if (const auto value = map->get("0")) {
           ++found;
           ASSERT_EQ(value->id(), 0);
           ASSERT_EQ(value.key()->text(), "0");
         } else {
           ++missed;
         }
         const auto [value, inserted] = map->try_emplace(again, 10);
         ++(inserted ? entered : present);
         ASSERT_EQ(value->id(), inserted ? 10 : 1);
         replaced += map->insert_or_assign(assigned, SmallTracked(20)).second ? 0 : 1;
         ASSERT_EQ(map->get("2")->id(), 20);
         erased += static_cast<int>(map->erase("0"));
       }},
      [&](int round) {
        map->erase(again);
        map->erase(assigned);
        ASSERT_EQ(map->size(), 0u);
        ASSERT_EQ(SmallTracked::live(), 0);
        ASSERT_EQ(Word::live(), 2);
        if (round % 64 == 0) map->CheckInvariantsForTesting();
      });
  EXPECT_EQ(found + missed, entered + present);
  // Each came first now and then, or nothing was raced.
  EXPECT_GT(found, 0);
  EXPECT_GT(missed, 0);
  EXPECT_GT(entered, 0);
  EXPECT_GT(present, 0);
  EXPECT_GT(replaced, 0);
  EXPECT_LE(erased, found);
}

// Whichever reader is the last to hold a key destroys it and its value, once.
TEST(WeakKeyMapByValueRaceTest, ReadersAgainstTheLastRelease) {
  WordLog log;
  log.collide = true;
  RaceMap map({WordHash{&log}, WordEqual{&log}});
  Ref<Word> keys[2];
  std::atomic<int> found{0};
  std::atomic<int> missed{0};
  const auto read = [&] {
    for (const char* const text : {"0", "1"}) {
      if (const auto value = std::as_const(map).get(text)) {
        ++found;
        ASSERT_EQ(std::to_string(value->id()), value.key()->text());
      } else {
        ++missed;
      }
    }
  };
  testing::Race(
      {testing::RaceRounds(20'000), [&] { return found > 0 && missed > 0; }},
      [&](int) {
        for (int i = 0; i < 2; ++i) {
          keys[i] = MakeRef<Word>(std::to_string(i));
          map.try_emplace(keys[i], i);
        }
      },
      {read, [&] { keys[0].reset(); }, read, [&] { keys[1].reset(); }},
      [&](int) {
        ASSERT_EQ(map.size(), 0u);
        ASSERT_EQ(SmallTracked::live(), 0);
        ASSERT_EQ(Word::live(), 0);
      });
  EXPECT_GT(found, 0);
  EXPECT_GT(missed, 0);
}

// What a look-up gave is used after the map has ended, but for the value, and let go.
TEST(WeakKeyMapByValueRaceTest, HeldKeysAgainstTheMapsEnd) {
  std::unique_ptr<RaceMap> map;
  RaceMap::pointer held[2];
  Ref<Word> key;
  testing::Race(
      testing::RaceRounds(20'000),
      [&](int round) {
        map = std::make_unique<RaceMap>();
        for (int i = 0; i < 2; ++i) {
          held[i] = map->try_emplace(MakeRef<Word>(std::to_string(i)), round).first;
        }
        key = held[0].key();
      },
      {[&] { held[0] = {}; }, [&] { held[1] = {}; }, [&] { key.reset(); }, [&] { map.reset(); }},
      [&](int) {
        ASSERT_EQ(SmallTracked::live(), 0);
        ASSERT_EQ(Word::live(), 0);
      });
}

TEST(WeakKeyMapByValueRaceTest, SharedPtrsAreReleasedMeanwhile) {
  using Text = std::shared_ptr<std::string>;
  WeakKeyMap<Text, SmallTracked, ByValue<>> map;
  Text dying[2];
  const Text again = std::make_shared<std::string>("0");
  testing::Race(
      testing::RaceRounds(20'000),
      [&](int) {
        for (int i = 0; i < 2; ++i) {
          dying[i] = std::make_shared<std::string>(std::to_string(i));
          map.try_emplace(dying[i], i);
        }
      },
      {[&] { dying[0].reset(); }, [&] { dying[1].reset(); },
       [&] {
         const auto [value, inserted] = map.try_emplace(again, 10);
         ASSERT_EQ(value->id(), inserted ? 10 : 0);
         if (const auto found = map.get("1")) {
           ASSERT_EQ(found->id(), 1);
         }
       }},
      [&](int) {
        map.erase(again);
        map.purge();
        ASSERT_EQ(map.size(), 0u);
        ASSERT_EQ(SmallTracked::live(), 0);
      });
}

}  // namespace
}  // namespace weakcache
