// SPDX-License-Identifier: Apache-2.0
// ConcurrentWeakValueMap with four threads that meet in one transition, many times. Wherever it can
// end in more than one way, the ways are counted, and each has to have been seen.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/handle_kinds.h"
#include "tests/support/race.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {
namespace {

using testing::HandleOf;
using testing::LiveAllocations;
using testing::LiveSize;
using testing::OwnHandles;
using testing::Race;
using testing::SharedPointers;
using testing::WeakOf;

// An object that knows which key it is for, until it has gone.
struct Value {
  explicit Value(int key) : key(key) { ++live; }
  Value(const Value& other) : Value(other.key) {}
  Value& operator=(const Value&) = delete;
  ~Value() {
    key = -1;
    asm volatile("" : : "r"(this) : "memory");  // or the compiler leaves that store out
    --live;
  }
  int key;
  char bytes[100] = {};
  inline static std::atomic<int> live{0};
};

template <typename Kind>
class ConcurrentWeakValueMapRaceTest : public ::testing::Test {
 protected:
  using Map = ConcurrentWeakValueMap<int, testing::ValueOf<Kind, Value>>;
  using Handle = HandleOf<Kind, Value>;
  using Weak = WeakOf<Kind, Value>;
  static constexpr int kRacers = 4;

  static Handle Make(int key) { return testing::Make<Kind, Value>(key); }
  static Handle Get(const Map& map, int key) { return Checked(map.get(key), key); }
  static Handle GetOrCreate(Map& map, int key) {
    return Checked(map.get_or_create(key, [key] { return Value(key); }), key);
  }
  static Handle Checked(Handle found, int key) {
    EXPECT_TRUE(found == nullptr || found->key == key);
    return found;
  }
  // Long enough for others to come while a factory runs.
  static void LetOthersIn() {
    for (int i = 0; i < 3; ++i) std::this_thread::yield();
  }

  void Count(const Handle& found) { ++(found == nullptr ? misses_ : hits_); }
  void ExpectBothOutcomes() const {
    EXPECT_GT(hits_, 0);
    EXPECT_GT(misses_, 0);
  }
  void ForgetAll() {
    for (Handle& each : found_) each.reset();
  }
  void TearDown() override {
    ForgetAll();
    EXPECT_EQ(Value::live, 0);
  }

  const int rounds_ = testing::RaceRounds(100'000);
  std::array<Handle, kRacers> found_;
  std::atomic<int> hits_{0}, misses_{0};
  const testing::RaceLength length_{rounds_, [this] { return hits_ > 0 && misses_ > 0; }};
};
using Kinds = ::testing::Types<OwnHandles, SharedPointers>;
TYPED_TEST_SUITE(ConcurrentWeakValueMapRaceTest, Kinds);

// Hand-written caches fail here: a look-up races the last release, and a dead object is revived.
TYPED_TEST(ConcurrentWeakValueMapRaceTest, LookUpAgainstLastRelease) {
  typename TestFixture::Map map;
  typename TestFixture::Handle object;
  const auto look_up = [&] { this->Count(this->Get(map, 1)); };
  Race(
      this->length_, [&](int) { object = this->GetOrCreate(map, 1); },
      {[&] { object.reset(); }, look_up, look_up, look_up},
      [&](int) {
        ASSERT_EQ(Value::live, 0);
        ASSERT_EQ(map.get(1), nullptr);
        ASSERT_EQ(LiveSize(map), 0u);
      });
  this->ExpectBothOutcomes();
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapRaceTest, LookUpAgainstErase) {
  typename TestFixture::Map map;
  typename TestFixture::Handle object = this->Make(1);
  std::atomic<size_t> erased{0};
  const auto look_up = [&] {
    const auto first = this->Get(map, 1);
    this->Count(first);
    EXPECT_TRUE(first != nullptr || map.get(1) == nullptr);  // it does not come back
  };
  Race(
      this->length_,
      [&](int) {
        map.insert(1, object);
        erased = 0;
      },
      {[&] { erased += map.erase(1); }, look_up, look_up, look_up},
      [&](int) {
        ASSERT_EQ(erased, 1u);
        ASSERT_EQ(map.size(), 0u);
      });
  this->ExpectBothOutcomes();
}

TYPED_TEST(ConcurrentWeakValueMapRaceTest, EraseAgainstErase) {
  typename TestFixture::Map map;
  typename TestFixture::Handle object = this->Make(1);
  std::atomic<size_t> erased{0};
  const auto erase = [&] { erased += map.erase(1); };
  const auto erase_expected = [&] { erased += map.erase(1, object); };
  Race(
      this->rounds_,
      [&](int) {
        map.insert(1, object);
        erased = 0;
      },
      {erase, erase_expected, erase, erase_expected},
      [&](int) {
        ASSERT_EQ(erased, 1u);
        ASSERT_EQ(map.size(), 0u);
      });
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapRaceTest, LookUpAgainstReplace) {
  typename TestFixture::Map map;
  typename TestFixture::Handle old_object, new_object;
  const auto look_up = [&] {
    const auto first = map.get(1);
    const auto second = map.get(1);
    ASSERT_TRUE(first == old_object || first == new_object);  // and never null
    ASSERT_TRUE(first == old_object || second == new_object);
    ++(first == old_object ? this->hits_ : this->misses_);
  };
  Race(
      this->length_,
      [&](int) {
        old_object = this->Make(1);
        new_object = this->Make(1);
        map.insert_or_assign(1, old_object);
      },
      {[&] { ASSERT_FALSE(map.insert_or_assign(1, new_object).second); }, look_up, look_up,
       look_up},
      [&](int) {
        ASSERT_EQ(map.get(1), new_object);
        ASSERT_EQ(map.size(), 1u);
      });
  this->ExpectBothOutcomes();
}

// As well, by an object that the map makes.
TYPED_TEST(ConcurrentWeakValueMapRaceTest, LookUpAgainstReplacementByANewObject) {
  typename TestFixture::Map map;
  typename TestFixture::Handle old_object, new_object;
  const auto look_up = [&] {
    const auto first = map.get(1);
    const auto second = map.get(1);
    ASSERT_TRUE(first != nullptr && second != nullptr);
    ASSERT_TRUE(first == old_object || second == first);
    ++(first == old_object ? this->hits_ : this->misses_);
  };
  Race(
      this->length_,
      [&](int) {
        new_object.reset();
        old_object = map.emplace_or_assign(1, 1);
      },
      {[&] { new_object = map.emplace_or_assign(1, 1); }, look_up, look_up, look_up},
      [&](int) {
        ASSERT_NE(new_object, old_object);
        ASSERT_EQ(map.get(1), new_object);
        ASSERT_EQ(map.size(), 1u);
      });
  this->ExpectBothOutcomes();
}

// The entry of key 1 expires, is purged, and is likely to be that of key 2 next.
TYPED_TEST(ConcurrentWeakValueMapRaceTest, LookUpAgainstPurgeAndReuse) {
  typename TestFixture::Map map;
  typename TestFixture::Handle object;
  const auto look_up = [&] {
    for (const int key : {1, 2, 1}) this->Count(this->Get(map, key));
  };
  Race(
      this->length_,
      [&](int) {
        this->ForgetAll();
        map.purge();
        object = this->GetOrCreate(map, 1);
      },
      {[&] {
         object.reset();
         map.purge();
         this->found_[0] = this->GetOrCreate(map, 2);
       },
       look_up, look_up, look_up},
      [&](int) {
        ASSERT_EQ(map.get(1), nullptr);
        ASSERT_EQ(map.get(2), this->found_[0]);
        ASSERT_EQ(LiveSize(map), 1u);
      });
  this->ExpectBothOutcomes();
  map.CheckInvariantsForTesting();
}

// Keys 0 to 7 stay; one racer enters others, so that the table grows in some of the rounds.
TYPED_TEST(ConcurrentWeakValueMapRaceTest, LookUpAgainstGrowth) {
  using Map = typename TestFixture::Map;
  constexpr int kStay = 8;
  constexpr int kRoundsOfATable = 64;
  std::vector<typename TestFixture::Handle> objects;
  std::unique_ptr<Map> map;
  const auto look_up = [&] {
    for (int key = 0; key < kStay; ++key) ASSERT_EQ(map->get(key), objects[key]);
    this->Count(this->Get(*map, static_cast<int>(objects.size())));
  };
  Race(
      this->length_,
      [&](int round) {
        if (round % kRoundsOfATable != 0) return;
        objects.clear();
        map = std::make_unique<Map>(*Map::Create({.shards = 1}));
        for (int key = 0; key < kStay; ++key) objects.push_back(this->GetOrCreate(*map, key));
      },
      {[&] {
         for (int i = 0; i < 4; ++i) {
           this->found_[i] = this->GetOrCreate(*map, static_cast<int>(objects.size()) + i);
         }
       },
       look_up, look_up, look_up},
      [&](int) {
        for (auto& each : this->found_) objects.push_back(std::move(each));
        ASSERT_EQ(map->size(), objects.size());
      });
  this->ExpectBothOutcomes();
  map->CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapRaceTest, InsertAgainstInsert) {
  typename TestFixture::Map map;
  std::atomic<int> wins{0};
  std::array<int, TestFixture::kRacers> wins_of{};
  const auto insert = [&](int racer) {
    auto [present, inserted] = map.insert(1, this->Make(1));
    if (inserted) {
      ++wins;
      ++wins_of[racer];
    }
    this->found_[racer] = std::move(present);
  };
  Race(
      this->rounds_,
      [&](int) {
        this->ForgetAll();
        wins = 0;
      },
      {[&] { insert(0); }, [&] { insert(1); }, [&] { insert(2); }, [&] { insert(3); }},
      [&](int) {
        ASSERT_EQ(wins, 1);
        for (const auto& each : this->found_) ASSERT_EQ(each, map.get(1));
        ASSERT_EQ(Value::live, 1);
        ASSERT_EQ(LiveSize(map), 1u);
      });
  int winners = 0;
  for (const int count : wins_of) winners += count > 0 ? 1 : 0;
  EXPECT_GT(winners, 1);
}

TYPED_TEST(ConcurrentWeakValueMapRaceTest, InsertAgainstInsertOrAssign) {
  typename TestFixture::Map map;
  std::atomic<int> inserted{0};
  const auto insert = [&](int racer) {
    this->found_[racer] = this->Make(1);
    if (map.insert(1, this->found_[racer]).second) {
      ++inserted;
      ++this->hits_;
    }
  };
  const auto assign = [&](int racer) {
    this->found_[racer] = this->Make(1);
    if (map.insert_or_assign(1, this->found_[racer]).second) {
      ++inserted;
      ++this->misses_;
    }
  };
  Race(
      this->length_,
      [&](int) {
        this->ForgetAll();
        inserted = 0;
      },
      {[&] { insert(0); }, [&] { assign(1); }, [&] { insert(2); }, [&] { assign(3); }},
      [&](int) {
        ASSERT_EQ(inserted, 1);
        const auto last = map.get(1);
        ASSERT_TRUE(last == this->found_[1] || last == this->found_[3]);
        ASSERT_EQ(LiveSize(map), 1u);
      });
  this->ExpectBothOutcomes();
}

// Hand-written caches fail here: two threads load the same object.
TYPED_TEST(ConcurrentWeakValueMapRaceTest, GetOrCreateAgainstGetOrCreate) {
  typename TestFixture::Map map;
  std::atomic<int> calls{0};
  const auto create = [&](int racer) {
    this->found_[racer] = map.get_or_create(1, [&] {
      ++calls;
      TestFixture::LetOthersIn();
      return Value(1);
    });
  };
  Race(
      this->rounds_,
      [&](int) {
        this->ForgetAll();
        calls = 0;
      },
      {[&] { create(0); }, [&] { create(1); }, [&] { create(2); }, [&] { create(3); }},
      [&](int) {
        ASSERT_EQ(calls, 1);
        for (const auto& each : this->found_) ASSERT_EQ(each, map.get(1));
        ASSERT_EQ(Value::live, 1);
      });
  map.CheckInvariantsForTesting();
}

// Hand-written caches fail here: a failed load is left behind, or its waiters are. Two factories
// throw or return null, two succeed; who is called depends on who comes first.
TYPED_TEST(ConcurrentWeakValueMapRaceTest, GetOrCreateAgainstFailingFactory) {
  using Handle = typename TestFixture::Handle;
  typename TestFixture::Map map;
  std::atomic<int> failed_calls{0}, failures{0}, shared_failures{0};
  const auto create = [&](int racer) {
    const bool fails = racer % 2 == 0;
    try {
      this->found_[racer] = map.get_or_create(1, [&] {
        TestFixture::LetOthersIn();
        if (fails) ++failed_calls;
        if (fails && racer == 0) throw std::runtime_error("no");
        return fails ? Handle() : this->Make(1);
      });
    } catch (const std::runtime_error&) {
    }
    if (this->found_[racer] == nullptr) ++failures;
    this->Count(this->found_[racer]);
  };
  Race(
      this->length_,
      [&](int) {
        this->ForgetAll();
        failed_calls = 0;
        failures = 0;
      },
      {[&] { create(0); }, [&] { create(1); }, [&] { create(2); }, [&] { create(3); }},
      [&](int) {
        shared_failures += failures - failed_calls;
        ASSERT_GE(failures, failed_calls);
        const Handle present = map.get(1);
        ASSERT_EQ(present == nullptr, failures == TestFixture::kRacers);
        for (const auto& each : this->found_) ASSERT_TRUE(each == nullptr || each == present);
        map.CheckInvariantsForTesting();
      });
  this->ExpectBothOutcomes();
  EXPECT_GT(shared_failures, 0);  // some have waited for a failure
}

TYPED_TEST(ConcurrentWeakValueMapRaceTest, GetOrCreateAgainstLastRelease) {
  typename TestFixture::Map map;
  typename TestFixture::Handle object;
  std::atomic<int> calls{0};
  const auto create = [&](int racer) {
    this->found_[racer] = map.get_or_create(1, [&] {
      ++calls;
      return Value(1);
    });
  };
  Race(
      this->length_,
      [&](int) {
        this->ForgetAll();
        object = this->GetOrCreate(map, 1);
        calls = 0;
      },
      {[&] { object.reset(); }, [&] { create(1); }, [&] { create(2); }, [&] { create(3); }},
      [&](int) {
        ++(calls == 0 ? this->hits_ : this->misses_);
        ASSERT_LE(calls, 1);
        for (int i = 1; i < 4; ++i) ASSERT_EQ(this->Checked(this->found_[i], 1), map.get(1));
        ASSERT_EQ(Value::live, 1);
        ASSERT_EQ(LiveSize(map), 1u);
      });
  this->ExpectBothOutcomes();
}

// Whoever has seen an object die may come late with his erasure: it must not hit the successor.
TYPED_TEST(ConcurrentWeakValueMapRaceTest, GuardedEraseAgainstRecreation) {
  typename TestFixture::Map map;
  typename TestFixture::Handle object;
  typename TestFixture::Weak weak;
  std::atomic<int> calls{0};
  const auto erase = [&] { map.erase(1, weak); };
  Race(
      this->length_,
      [&](int) {
        this->ForgetAll();
        object = this->GetOrCreate(map, 1);
        weak = object;
        calls = 0;
      },
      {[&] {
         object.reset();
         map.erase(1, weak);
       },
       erase, [&] { this->Get(map, 1); },
       [&] {
         this->found_[3] = map.get_or_create(1, [&] {
           ++calls;
           return Value(1);
         });
       }},
      [&](int) {
        ++(calls == 0 ? this->hits_ : this->misses_);
        // The old object may be the one that was found, and erased after that.
        ASSERT_EQ(map.get(1) == nullptr, calls == 0);
        ASSERT_TRUE(calls == 0 || map.get(1) == this->found_[3]);
        ASSERT_EQ(LiveSize(map), static_cast<size_t>(calls));
      });
  this->ExpectBothOutcomes();
}

// Hand-written caches fail here: a deleter touches a destroyed map.
TYPED_TEST(ConcurrentWeakValueMapRaceTest, LastReleaseAgainstTheMapsEnd) {
  using Map = typename TestFixture::Map;
  { const Map warm_up; }
  const int64_t before = LiveAllocations();
  {
    std::unique_ptr<Map> map;
    const auto release = [&](int racer) { this->found_[racer].reset(); };
    Race(
        this->rounds_,
        [&](int) {
          map = std::make_unique<Map>(*Map::Create({.shards = 1}));
          for (int key = 1; key < TestFixture::kRacers; ++key) {
            this->found_[key] = this->GetOrCreate(*map, key);
          }
        },
        {[&] { map.reset(); }, [&] { release(1); }, [&] { release(2); }, [&] { release(3); }},
        [&](int) { ASSERT_EQ(Value::live, 0); });
  }
  EXPECT_LE(LiveAllocations(), before);
}

TYPED_TEST(ConcurrentWeakValueMapRaceTest, ClearAgainstGetOrCreate) {
  using Handle = typename TestFixture::Handle;
  typename TestFixture::Map map;
  const auto create = [&](int racer) { this->found_[racer] = this->GetOrCreate(map, 1); };
  Race(
      this->length_,
      [&](int) {
        this->ForgetAll();
        map.clear();
      },
      {[&] { map.clear(); }, [&] { create(1); }, [&] { create(2); }, [&] { create(3); }},
      [&](int) {
        const std::set<const Value*> distinct = {this->found_[1].get(), this->found_[2].get(),
                                                 this->found_[3].get()};
        ASSERT_LE(distinct.size(), 2u);  // before the clear and after it
        const Handle present = map.get(1);
        ASSERT_TRUE(present == nullptr || distinct.count(present.get()) == 1);
        this->Count(present);
        ASSERT_EQ(map.size(), present == nullptr ? 0u : 1u);
      });
  this->ExpectBothOutcomes();
  map.CheckInvariantsForTesting();
}

TYPED_TEST(ConcurrentWeakValueMapRaceTest, ForEachAgainstEverything) {
  using Handle = typename TestFixture::Handle;
  typename TestFixture::Map map;
  const Handle stays = this->GetOrCreate(map, 0);
  Handle leaves;
  Race(
      this->length_,
      [&](int round) {
        this->ForgetAll();
        if (round % 64 == 0) map.clear();
        map.insert(0, stays);
        leaves = this->GetOrCreate(map, 1);
      },
      {[&] {
         int visits_of_stays = 0;
         bool visited_leaves = false;
         map.for_each([&](const int& key, const Handle& value) {
           ASSERT_EQ(value->key, key);
           visits_of_stays += value == stays ? 1 : 0;
           visited_leaves = visited_leaves || key == 1;
         });
         ASSERT_EQ(visits_of_stays, 1);
         ++(visited_leaves ? this->hits_ : this->misses_);
       },
       [&] {
         leaves.reset();
         map.purge();
       },
       [&] {
         this->found_[2] = this->GetOrCreate(map, 2);
         map.insert_or_assign(3, this->Make(3));
         map.erase(2);
       },
       [&] {
         for (int key = 4; key < 8; ++key) this->found_[3] = this->GetOrCreate(map, key);
         (void)map.size();
       }},
      [&](int round) {
        ASSERT_EQ(LiveSize(map), 2u);
        if (round % 64 == 0) map.CheckInvariantsForTesting();
      });
  this->ExpectBothOutcomes();
}

TYPED_TEST(ConcurrentWeakValueMapRaceTest, PurgeAgainstInsertAndRelease) {
  typename TestFixture::Map map;
  std::atomic<size_t> purged{0};
  const auto churn = [&](int racer) {
    for (int i = 0; i < 3; ++i) this->found_[racer] = this->GetOrCreate(map, racer);
    this->found_[racer].reset();
  };
  const auto purge = [&] { purged += map.purge(); };
  Race(
      this->rounds_, [](int) {}, {[&] { churn(0); }, [&] { churn(1); }, purge, purge},
      [&](int round) {
        ASSERT_EQ(Value::live, 0);
        const size_t left = map.purge();
        ASSERT_LE(left, 2u);
        this->hits_ += static_cast<int>(left);
        ASSERT_EQ(map.size(), 0u);
        if (round % 64 == 0) map.CheckInvariantsForTesting();
      });
  this->misses_ = static_cast<int>(purged.load());
  this->ExpectBothOutcomes();
}

}  // namespace
}  // namespace weakcache
