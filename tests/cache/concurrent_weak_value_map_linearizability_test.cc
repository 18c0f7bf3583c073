// SPDX-License-Identifier: Apache-2.0
// Records what three threads see of a few keys of a ConcurrentWeakValueMap, and checks that it can
// have happened in one order; and shows, with maps that are wrong on purpose, that the check would
// find out if it had not. WEAKCACHE_LINEARIZABILITY_SEED=N repeats a run.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/handle_kinds.h"
#include "tests/support/linearizability.h"
#include "tests/support/race.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/weakref/handle_traits.h"

namespace weakcache::testing {
namespace {

constexpr int kThreads = 3;
constexpr int kSteps = 8;  // of a thread in a history
constexpr int kMaxKeys = 5;
constexpr int kMaxObjects = kThreads * kSteps;

// Orders all that is recorded. It orders more than a map needs to, which hides missing memory
// orders from ThreadSanitizer; finding those is for the race tests.
std::atomic<int64_t> clock_now{1};
int64_t Now() { return clock_now.fetch_add(1, std::memory_order_acq_rel); }

// When the destructors of a history's objects began, or 0.
std::array<std::atomic<int64_t>, kMaxObjects + 1> death_of;

struct Numbered {
  explicit Numbered(int number) : number(number) {}
  Numbered(const Numbered&) = delete;
  Numbered& operator=(const Numbered&) = delete;
  ~Numbered() {
    int64_t none = 0;
    death_of[number].compare_exchange_strong(none, Now());  // the first, if there are more
  }
  const int number;
  char bytes[80] = {};
};

template <typename Handle>
int NumberOf(const Handle& handle) {
  return handle == nullptr ? 0 : handle->number;
}

// What a thread is to do in one step of a history.
struct Step {
  enum class Kind {
    kGet,
    kGetOrCreate,
    kFailToCreate,
    kInsert,
    kInsertOrAssign,
    kEmplaceOrAssign,
    kErase,
    kEraseExpected,
    kRelease,
    kPurge,
  };
  Kind kind;
  int key;
  unsigned choice;  // of the reference to release, or to expect
};

// One of the threads: its script, its references, and what it has seen.
template <typename Kind, typename Map>
class Actor {
 public:
  using Handle = HandleOf<Kind, Numbered>;
  struct Release {
    int object;
    int64_t began, ended;
  };

  explicit Actor(int index) : index_(index) {}

  void Prepare(std::vector<Step> script) {
    script_ = std::move(script);
    held_.clear();
    observed_.clear();
    keys_.clear();
    releases_.clear();
  }
  void Run(Map& map) {
    for (size_t i = 0; i < script_.size(); ++i) {
      Take(map, script_[i], 1 + index_ * kSteps + static_cast<int>(i));
    }
  }
  void ReleaseAll() {
    while (!held_.empty()) ReleaseOne(0);
  }

  // Of the same length: what it has seen, and of which key.
  const std::vector<Observed>& observed() const { return observed_; }
  const std::vector<int>& keys() const { return keys_; }
  const std::vector<Release>& releases() const { return releases_; }

 private:
  void Take(Map& map, const Step& step, int number) {
    switch (step.kind) {
      case Step::Kind::kRelease:
        if (!held_.empty()) ReleaseOne(step.choice % held_.size());
        return;
      case Step::Kind::kPurge:
        Record(KeyOperation::kGet, -1, 0, [&] { return map.purge(), 0; });
        return;
      case Step::Kind::kGet:
        Record(KeyOperation::kGet, step.key, 0, [&] { return Hold(map.get(step.key)); });
        return;
      case Step::Kind::kErase:
        Record(KeyOperation::kErase, step.key, 0,
               [&] { return static_cast<int>(map.erase(step.key)); });
        return;
      case Step::Kind::kEraseExpected: {
        if (held_.empty()) return;
        const Handle& expected = held_[step.choice % held_.size()];
        Record(KeyOperation::kEraseExpected, step.key, NumberOf(expected),
               [&] { return static_cast<int>(map.erase(step.key, expected)); });
        return;
      }
      default:
        Enter(map, step, number);
    }
  }

  void Enter(Map& map, const Step& step, int number) {
    if (step.kind == Step::Kind::kGetOrCreate || step.kind == Step::Kind::kFailToCreate) {
      const bool fails = step.kind == Step::Kind::kFailToCreate;
      Record(KeyOperation::kGetOrCreate, step.key, fails ? 0 : number, [&] {
        return Hold(map.get_or_create(step.key, [&] {
          if (step.choice % 2 == 0) std::this_thread::yield();
          return fails ? Handle() : Make<Kind, Numbered>(number);
        }));
      });
      return;
    }
    if (step.kind == Step::Kind::kEmplaceOrAssign) {
      return Record(KeyOperation::kEmplaceOrAssign, step.key, number,
                    [&] { return Hold(map.emplace_or_assign(step.key, number)); });
    }
    Handle object = Make<Kind, Numbered>(number);
    if (step.kind == Step::Kind::kInsert) {
      Record(KeyOperation::kInsert, step.key, number,
             [&] { return Hold(map.insert(step.key, std::move(object)).first); });
    } else {
      Record(KeyOperation::kInsertOrAssign, step.key, number,
             [&] { return map.insert_or_assign(step.key, object).second ? 1 : 0; });
      Hold(std::move(object));
    }
  }

  template <typename Operation>
  void Record(KeyOperation kind, int key, int object, Operation operation) {
    const int64_t began = Now();
    const int result = operation();
    observed_.push_back({kind, began, Now(), object, result});
    keys_.push_back(key);
  }
  int Hold(Handle found) {
    const int number = NumberOf(found);
    if (number != 0) held_.push_back(std::move(found));
    return number;
  }
  void ReleaseOne(size_t which) {
    std::swap(held_[which], held_.back());
    Release release{NumberOf(held_.back()), Now(), 0};
    held_.pop_back();
    release.ended = Now();
    releases_.push_back(release);
  }

  const int index_;
  std::vector<Step> script_;
  std::vector<Handle> held_;
  std::vector<Observed> observed_;
  std::vector<int> keys_;
  std::vector<Release> releases_;
};

// Runs histories on one map, so that its entries are used again and again.
template <typename Kind, typename Map>
class Histories {
 public:
  explicit Histories(uint64_t seed) : seed_(seed) {}

  // What is wrong with the first that is wrong, or nothing.
  std::string Run(int histories) {
    const auto act = [this](int index) {
      if (failure_.empty()) actors_[index].Run(map_);
    };
    Race(
        histories, [this](int round) { Prepare(round); },
        {[&] { act(0); }, [&] { act(1); }, [&] { act(2); }}, [this](int round) { Check(round); });
    return failure_;
  }

 private:
  using Release = typename Actor<Kind, Map>::Release;

  void Prepare(int round) {
    if (!failure_.empty()) return;
    std::mt19937_64 random(seed_ + static_cast<uint64_t>(round) * 0x9E3779B97F4A7C15u);
    keys_ = 2 + static_cast<int>(random() % (kMaxKeys - 1));
    for (std::atomic<int64_t>& each : death_of) each = 0;
    using K = Step::Kind;
    constexpr K kKinds[] = {K::kGet,           K::kGet,          K::kGet,     K::kGetOrCreate,
                            K::kGetOrCreate,   K::kInsert,       K::kErase,   K::kInsertOrAssign,
                            K::kEraseExpected, K::kFailToCreate, K::kRelease, K::kEmplaceOrAssign,
                            K::kRelease,       K::kRelease,      K::kRelease, K::kRelease,
                            K::kPurge};
    for (auto& actor : actors_) {
      std::vector<Step> script;
      for (int i = 0; i < kSteps; ++i) {
        const K kind = kKinds[random() % std::size(kKinds)];
        const int key = static_cast<int>(random() % static_cast<uint64_t>(keys_));
        script.push_back({kind, key, static_cast<unsigned>(random() % 1024)});
      }
      actor.Prepare(std::move(script));
    }
  }

  void Check(int round) {
    if (!failure_.empty()) return;
    const int64_t end = Now();
    for (auto& actor : actors_) actor.ReleaseAll();
    std::vector<Observed> deaths;
    for (int object = 1; object <= kMaxObjects; ++object) AddDeath(round, object, end, deaths);
    for (int key = 0; key < keys_; ++key) {
      std::vector<Observed> history = SeenOf(key);
      // Only deaths that can have been seen here.
      for (const Observed& death : deaths) {
        const auto enters = [&](const Observed& each) { return each.result == death.object; };
        const auto assigns = [&](const Observed& each) {
          return each.operation == KeyOperation::kInsertOrAssign && each.object == death.object;
        };
        const std::vector<Observed> seen = SeenOf(key);
        if (std::any_of(seen.begin(), seen.end(), enters) ||
            std::any_of(seen.begin(), seen.end(), assigns)) {
          history.push_back(death);
        }
      }
      if (!IsLinearizable(history)) Fail(round, "no order of", history);
    }
    map_.purge();
    if (map_.size() != 0) Fail(round, "an entry of a dead object is left after", {});
  }

  // Adds the object's death if it was before `end`, and checks that it was at its time.
  void AddDeath(int round, int object, int64_t end, std::vector<Observed>& deaths) {
    const int64_t death = death_of[object];
    int64_t began = 0, ended = 0;
    for (const auto& actor : actors_) {
      for (const Release& release : actor.releases()) {
        if (release.object != object) continue;
        began = std::max(began, release.began);
        ended = std::max(ended, release.ended);
      }
    }
    if (began == 0) return;  // nobody but its maker has had it
    const Observed observed = {KeyOperation::kDeath, began, death, object, 0};
    if (death == 0) Fail(round, "an object is still there:", {observed});
    if (death < began) Fail(round, "an object died while it was held:", {observed});
    if (death > ended && !AnythingRunsAt(ended)) {
      Fail(round, "an object was kept alive for no reason:", {observed});
    }
    if (began < end) deaths.push_back(observed);
  }

  bool AnythingRunsAt(int64_t time) const {
    for (const auto& actor : actors_) {
      for (const Observed& each : actor.observed()) {
        if (each.began < time && time < each.ended) return true;
      }
    }
    return false;
  }
  std::vector<Observed> SeenOf(int key) const {
    std::vector<Observed> seen;
    for (const auto& actor : actors_) {
      for (size_t i = 0; i < actor.keys().size(); ++i) {
        if (actor.keys()[i] == key) seen.push_back(actor.observed()[i]);
      }
    }
    return seen;
  }
  void Fail(int round, const char* what, std::vector<Observed> history) {
    std::ostringstream out;
    out << "seed " << seed_ << ", history " << round << ": " << what << "\n";
    std::sort(history.begin(), history.end(),
              [](const Observed& a, const Observed& b) { return a.began < b.began; });
    for (const Observed& each : history) out << each;
    failure_ = out.str();
  }

  const uint64_t seed_;
  int keys_ = 0;
  Map map_;
  std::array<Actor<Kind, Map>, kThreads> actors_{Actor<Kind, Map>(0), Actor<Kind, Map>(1),
                                                 Actor<Kind, Map>(2)};
  std::string failure_;
};

uint64_t Seed() {
  const char* const wish = std::getenv("WEAKCACHE_LINEARIZABILITY_SEED");
  return wish == nullptr ? 1 : std::strtoull(wish, nullptr, 10);
}

template <typename Kind>
class ConcurrentLinearizabilityTest : public ::testing::Test {};
using Kinds = ::testing::Types<OwnHandles, SharedPointers>;
TYPED_TEST_SUITE(ConcurrentLinearizabilityTest, Kinds);

TYPED_TEST(ConcurrentLinearizabilityTest, EachHistoryIsInSomeOrder) {
  using Map = ConcurrentWeakValueMap<int, ValueOf<TypeParam, Numbered>>;
  EXPECT_EQ((Histories<TypeParam, Map>(Seed()).Run(RaceRounds(50'000))), "");
}

// All keys in one chain of one table.
struct OneHash {
  size_t operator()(int) const { return 42; }
};
TYPED_TEST(ConcurrentLinearizabilityTest, EachHistoryOfCollidingKeysIsInSomeOrder) {
  using Map = ConcurrentWeakValueMap<int, ValueOf<TypeParam, Numbered>, OneHash>;
  EXPECT_EQ((Histories<TypeParam, Map>(Seed() + 1).Run(RaceRounds(50'000))), "");
}

// Maps that are right most of the time.
using RightMap = ConcurrentWeakValueMap<int, Numbered>;
struct WrongMap : RightMap {
  bool IsTime() { return calls_.fetch_add(1) % 5 == 0; }
  std::atomic<int> calls_{0};
};

// Its look-ups remember what they have found once.
struct StaleMap : WrongMap {
  Ref<Numbered> get(int key) {
    const std::lock_guard lock(mutex);
    Ref<Numbered> found = RightMap::get(key);
    if (found == nullptr && IsTime()) found = seen[key].lock();
    if (found != nullptr) seen[key] = found;
    return found;
  }
  std::mutex mutex;
  std::array<WeakRef<Numbered>, kMaxKeys> seen;
};

struct WrongKeyMap : WrongMap {
  Ref<Numbered> get(int key) { return RightMap::get(IsTime() ? key ^ 1 : key); }
};

struct ForgetfulMap : WrongMap {
  std::pair<Ref<Numbered>, bool> insert(int key, Ref<Numbered> object) {
    if (IsTime() && !contains(key)) return {std::move(object), true};
    return RightMap::insert(key, std::move(object));
  }
};

// Anybody who finds nothing calls his factory, and the last one wins.
struct TwoCreatorsMap : WrongMap {
  template <typename Factory>
  Ref<Numbered> get_or_create(int key, Factory factory) {
    if (Ref<Numbered> found = get(key)) return found;
    Ref<Numbered> made = factory();
    if (made != nullptr) insert_or_assign(key, made);
    return made;
  }
};

// Hands out the likeness of an object that has gone.
struct RevivingMap : WrongMap {
  Ref<Numbered> get(int key) {
    const std::lock_guard lock(mutex);
    Ref<Numbered> found = RightMap::get(key);
    if (found != nullptr) {
      last[key] = found->number;
    } else if (const int dead = std::exchange(last[key], 0); dead != 0 && death_of[dead] != 0) {
      return MakeRef<Numbered>(dead);
    }
    return found;
  }
  std::mutex mutex;
  std::array<int, kMaxKeys> last{};
};

// Keeps alive what it has found, until the next look-up.
struct HoldingMap : WrongMap {
  Ref<Numbered> get(int key) {
    const std::lock_guard lock(mutex);
    last = RightMap::get(key);
    return last;
  }
  std::mutex mutex;
  Ref<Numbered> last;
};

// Erases whatever is there, though another object was expected.
struct UnguardedMap : WrongMap {
  using RightMap::erase;
  size_t erase(int key, const Weak&) { return RightMap::erase(key); }
};

// Says that there was an object where there was none.
struct BoastingMap : WrongMap {
  using RightMap::erase;
  size_t erase(int key) { return RightMap::erase(key), 1; }
};

// Replaces in two steps, with a moment in which there is nothing.
struct TwoStepMap : WrongMap {
  std::pair<Ref<Numbered>, bool> insert_or_assign(int key, const Ref<Numbered>& object) {
    const bool present = RightMap::erase(key) != 0;
    std::this_thread::yield();
    RightMap::insert_or_assign(key, object);
    return {object, !present};
  }
};

template <typename Map>
class LinearizabilityCheckerTest : public ::testing::Test {};
using WrongMaps = ::testing::Types<StaleMap, WrongKeyMap, ForgetfulMap, TwoCreatorsMap, RevivingMap,
                                   HoldingMap, UnguardedMap, BoastingMap, TwoStepMap>;
TYPED_TEST_SUITE(LinearizabilityCheckerTest, WrongMaps);

TYPED_TEST(LinearizabilityCheckerTest, FindsWhatIsWrong) {
  const std::string failure = Histories<OwnHandles, TypeParam>(1).Run(20'000);
  EXPECT_NE(failure, "");
  this->RecordProperty("failure", failure);
}

using K = KeyOperation;

TEST(LinearizationSearchTest, AcceptsWhatHasAnOrder) {
  EXPECT_TRUE(IsLinearizable({}));
  EXPECT_TRUE(IsLinearizable({{K::kInsert, 1, 2, 1, 1}, {K::kGet, 3, 4, 0, 1}}));
  // A look-up during the insertion may see either.
  EXPECT_TRUE(IsLinearizable({{K::kInsert, 1, 4, 1, 1}, {K::kGet, 2, 3, 0, 0}}));
  EXPECT_TRUE(IsLinearizable({{K::kInsert, 1, 4, 1, 1}, {K::kGet, 2, 3, 0, 1}}));
  // And one during the death.
  EXPECT_TRUE(
      IsLinearizable({{K::kInsert, 1, 2, 1, 1}, {K::kDeath, 3, 6, 1, 0}, {K::kGet, 4, 5, 0, 0}}));
  EXPECT_TRUE(
      IsLinearizable({{K::kInsert, 1, 2, 1, 1}, {K::kDeath, 3, 6, 1, 0}, {K::kGet, 4, 5, 0, 1}}));
  // The order needs a step back: the erasure came between the two that it overlaps.
  EXPECT_TRUE(IsLinearizable({{K::kInsertOrAssign, 1, 8, 1, 1},
                              {K::kErase, 2, 9, 0, 1},
                              {K::kInsertOrAssign, 3, 10, 2, 1},
                              {K::kGet, 11, 12, 0, 2}}));
  // The death of a predecessor takes nothing away.
  EXPECT_TRUE(IsLinearizable({{K::kInsert, 1, 2, 1, 1},
                              {K::kInsertOrAssign, 3, 4, 2, 0},
                              {K::kDeath, 5, 6, 1, 0},
                              {K::kGet, 7, 8, 0, 2}}));
}

TEST(LinearizationSearchTest, RefusesWhatHasNone) {
  // Found before it was entered, after it was erased, after it died, and not while it was there.
  EXPECT_FALSE(IsLinearizable({{K::kGet, 1, 2, 0, 1}, {K::kInsert, 3, 4, 1, 1}}));
  EXPECT_FALSE(
      IsLinearizable({{K::kInsert, 1, 2, 1, 1}, {K::kErase, 3, 4, 0, 1}, {K::kGet, 5, 6, 0, 1}}));
  EXPECT_FALSE(
      IsLinearizable({{K::kInsert, 1, 2, 1, 1}, {K::kDeath, 3, 4, 1, 0}, {K::kGet, 5, 6, 0, 1}}));
  EXPECT_FALSE(IsLinearizable({{K::kInsert, 1, 2, 1, 1}, {K::kGet, 3, 4, 0, 0}}));
  // Gone and back, seen by one reader.
  EXPECT_FALSE(IsLinearizable({{K::kInsert, 1, 10, 1, 1},
                               {K::kGet, 2, 3, 0, 1},
                               {K::kGet, 4, 5, 0, 0},
                               {K::kGet, 6, 7, 0, 1}}));
  // Two winners, two creators, two erasures of one object.
  EXPECT_FALSE(IsLinearizable({{K::kInsert, 1, 4, 1, 1}, {K::kInsert, 2, 3, 2, 2}}));
  EXPECT_FALSE(IsLinearizable({{K::kGetOrCreate, 1, 4, 1, 1}, {K::kGetOrCreate, 2, 3, 2, 2}}));
  EXPECT_FALSE(IsLinearizable(
      {{K::kInsert, 1, 2, 1, 1}, {K::kErase, 3, 6, 0, 1}, {K::kEraseExpected, 4, 5, 1, 1}}));
  EXPECT_FALSE(IsLinearizable({{K::kInsertOrAssign, 1, 2, 1, 0}}));
  EXPECT_FALSE(IsLinearizable(
      {{K::kInsert, 1, 2, 1, 1}, {K::kEmplaceOrAssign, 3, 4, 2, 2}, {K::kGet, 5, 6, 0, 1}}));
}

}  // namespace
}  // namespace weakcache::testing
