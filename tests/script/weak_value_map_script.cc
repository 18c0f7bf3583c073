// SPDX-License-Identifier: Apache-2.0
#include "tests/script/weak_value_map_script.h"

#include <array>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/script/key_model.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::testing {
namespace {

// `V` is the map's parameter: an object or a handle.
template <typename V>
using MapOf = WeakValueMap<ScriptKey, V, ScriptHash, ScriptEqual>;

template <typename V>
class WeakValueMapScript final : public ObjectScript<typename MapOf<V>::mapped_type> {
  using Map = MapOf<V>;
  using Strong = typename Map::mapped_type;
  using Base = ObjectScript<Strong>;
  using typename Base::Attempted;
  using typename Base::Object;
  using typename Base::Quiet;
  using typename Base::Traits;
  using typename Base::Weak;
  static constexpr int kKeys = Script::kKeys;

  // A map with what must be in it.
  struct Side {
    std::unique_ptr<Map> map;
    KeyModel model;
  };
  enum class Maker { kEither, kMap, kScript };

 public:
  WeakValueMapScript(ScriptBytes bytes, bool trace) : Base(bytes, trace) {
    const int byte = Next();
    maker_ = static_cast<Maker>(byte % 3);
    hash_ = static_cast<size_t>(byte / 3);
    for (Side& side : sides_) side.map = std::make_unique<Map>(HashOf(side));
  }

 private:
  void Operate() override {
    Side& side = sides_[Next(4) == 0 ? 1 : 0];
    constexpr int kChances = 40;
    const int operation = Next(kChances);
    if (operation < 12) {
      Add(side, operation);
    } else if (operation < 24) {
      ChangeOrLookUp(side, operation);
    } else if (operation < 27) {
      this->DropSome();
    } else {
      OperateOnAll(side, operation);
    }
    CheckSize(side);
  }

  void Add(Side& side, int operation) {
    if (maker_ == Maker::kMap) operation %= 6;
    if (maker_ == Maker::kScript) operation = 6 + operation % 6;
    switch (operation) {
      case 0:
      case 1:
      case 2:
      case 3:
        return GetOrCreate(side);
      case 4:
        return TryEmplace(side);
      case 5:
        return EmplaceOrAssign(side);
      case 6:
      case 7:
      case 8:
        return Insert(side);
      default:
        return InsertOrAssign(side);
    }
  }

  void ChangeOrLookUp(Side& side, int operation) {
    switch (operation) {
      case 12:
      case 13:
      case 14:
        return Get(side);
      case 15:
      case 16:
        return Contains(side);
      case 17:
        return Erase(side);
      case 18:
        return EraseActing(side);
      case 19:
      case 20:
        return EraseExpected(side);
      case 21:
        return Extract(side);
      case 22:
        return Pop(side);
      default:
        return EraseIf(side);
    }
  }

  void OperateOnAll(Side& side, int operation) {
    switch (operation) {
      case 27:
        return Update(side, Other(side));
      case 28:
        return Merge(side, Other(side));
      case 29:
        return Copies(side);
      case 30:
        return CloneMap(side);
      case 31:
      case 32:
        return Iterate(side);
      case 33:
        return Compare(side, Other(side));
      case 34:
        return Reserve(side);
      case 35:
        return Clear(side);
      case 36:
        return MoveOrSwap(side, Other(side));
      case 37:
        return End(side);
      default:
        return Purge(side);
    }
  }

  // --- Operations on one key -----------------------------------------------------------------

  void Get(Side& side) {
    WithKey("get", [&](int key, const auto& lookup) {
      Strong found;
      if (!Attempt([&] { found = side.map->get(lookup); }).done) return;
      RequireUnder(side, key, found, "get: not the object under the key");
      if (this->Toss()) this->Keep(found);
    });
  }

  void Contains(Side& side) {
    WithKey("contains", [&](int key, const auto& lookup) {
      bool found = false;
      if (!Attempt([&] { found = side.map->contains(lookup); }).done) return;
      Require(found == IsLive(side, key), "contains: the wrong answer");
    });
  }

  // The keys that end with an operation would see a map that the model does not know yet.
  static constexpr bool kEndsAct = false;

  void Insert(Side& side) {
    WithKey("insert", [&](int key, const auto& lookup) {
      Strong value = this->NextObject();
      const int id = value->id();
      const bool give_away = this->Toss();
      std::optional<std::pair<Strong, bool>> present;
      const Attempted attempted =
          Attempt([&] { present = side.map->insert(lookup, give_away ? std::move(value) : value); },
                  kEndsAct);
      if (!attempted.done) return;
      if (attempted.nested && !present->second) {
        // The refused object ended last, and its destructor may have removed the one that was
        // there.
        Require(this->WasEverUnder(Base::IdOf(present->first), key),
                "insert: another key's object");
        CheckKey(side, key);
        return this->Keep(present->first);
      }
      RecordHit(side, key, *present, id, "insert");
    });
  }

  void InsertOrAssign(Side& side) {
    WithKey("insert_or_assign", [&](int key, const auto& lookup) {
      const Strong value = this->NextObject();
      std::remove_cvref_t<decltype(lookup)> given = lookup;  // moved, if it is a key
      bool inserted = false;
      const Attempted attempted = Attempt(
          [&] { inserted = side.map->insert_or_assign(std::move(given), value).second; }, kEndsAct);
      if (!attempted.done) return;
      // The one that was there may have died in the middle.
      Require(attempted.died || inserted == !IsLive(side, key),
              "insert_or_assign: the wrong answer");
      Enter(side, key, value->id());
      CheckKey(side, key);
      this->Keep(value);
    });
  }

  void TryEmplace(Side& side) {
    WithKey("try_emplace", [&](int key, const auto& lookup) {
      this->SetConstructor(Next(4) == 0 ? 1 + Next(2) : 0, Next(16) == 0);
      std::optional<std::pair<Strong, bool>> present;
      const Attempted attempted = Attempt(
          [&] { present = side.map->try_emplace(lookup, static_cast<Script*>(this)); }, kEndsAct);
      if (!attempted.done) return;
      const int made = present->second ? Base::IdOf(present->first) : KeyModel::kNone;
      RecordHit(side, key, *present, made, "try_emplace");
    });
  }

  void EmplaceOrAssign(Side& side) {
    WithKey("emplace_or_assign", [&](int key, const auto& lookup) {
      this->SetConstructor(Next(4) == 0 ? 1 + Next(2) : 0, Next(16) == 0);
      Strong made;
      const Attempted attempted =
          Attempt([&] { made = side.map->emplace_or_assign(lookup, static_cast<Script*>(this)); },
                  kEndsAct);
      if (!attempted.done) return;
      Require(made != nullptr, "emplace_or_assign: null");
      Enter(side, key, Base::IdOf(made));
      CheckKey(side, key);
      this->Keep(made);
    });
  }

  void GetOrCreate(Side& side) {
    WithKey("get_or_create", [&](int key, const auto& lookup) {
      const int acts = Next(4) == 0 ? 1 + Next(3) : 0;
      const int outcome = Next(10);
      bool called = false;
      const auto begin = [&] {
        Require(!std::exchange(called, true), "get_or_create: the factory is called twice");
        this->Act(acts);
        if (outcome == 0) throw ScriptError();
      };
      Strong held;  // lives on if it turns out that there is another
      int made = KeyModel::kNone;
      Strong present;
      const Attempted attempted = Attempt(
          [&] {
            if (outcome < 5) {
              present = side.map->get_or_create(lookup, [&] {
                begin();
                made = this->NextObjectId();
                return Object(static_cast<Script*>(this));
              });
            } else {
              present = side.map->get_or_create(lookup, [&]() -> Strong {
                begin();
                if (outcome == 5) return Strong();
                held = this->NextObject();
                made = held->id();
                return held;
              });
            }
          },
          kEndsAct);
      if (!attempted.done) return;
      if (called && outcome == 5) return Require(present == nullptr, "get_or_create: not null");
      const bool is_new =
          called && present != nullptr && present->id() == made && !IsUnder(side, key, present);
      RecordHit(side, key, {present, is_new}, made, "get_or_create");
    });
  }

  void Erase(Side& side) {
    WithKey("erase", [&](int key, const auto& lookup) {
      size_t erased = 0;
      const Attempted attempted = AttemptAlone([&] { erased = side.map->erase(lookup); });
      if (attempted.done) SettleRemoval(side, key, erased, true, "erase: the wrong count");
    });
  }

  // The end of the erased key may use the map. After purge() no other key ends in this erase().
  void EraseActing(Side& side) {
    WithKey("erase acting", [&](int key, const auto& lookup) {
      AttemptAlone([&] { side.map->purge(); });
      const bool live = IsLive(side, key);
      const int object = side.model.object(key);
      side.model.Remove(key);
      size_t erased = 0;
      const Attempted attempted = Attempt([&] { erased = side.map->erase(lookup); });
      if (attempted.done && !attempted.died) {
        Require(erased == (live ? 1u : 0u), "erase acting: the wrong count");
      } else if (!attempted.done && !attempted.nested && object != KeyModel::kNone) {
        Enter(side, key, object);  // also of a dead one: its entry is still to be purged
      }
    });
  }

  void EraseExpected(Side& side) {
    WithKey("erase expected", [&](int key, const auto& lookup) {
      const Strong present = side.map->get(lookup);
      const bool is_present = present != nullptr && this->Toss();
      const auto& held = this->NextHeld();
      const Weak expected = is_present ? Traits::MakeWeak(present) : held.weak;
      const int id = is_present ? present->id() : held.id;
      size_t erased = 0;
      const Attempted attempted = AttemptAlone([&] { erased = side.map->erase(lookup, expected); });
      if (!attempted.done) return;
      const bool matches = id >= 0 && side.model.object(key) == id;
      SettleRemoval(side, key, erased, matches, "erase expected: the wrong count");
    });
  }

  void Extract(Side& side) {
    WithKey("take", [&](int key, const auto& lookup) {
      Strong extracted;
      if (!AttemptAlone([&] { extracted = side.map->take(lookup); }).done) return;
      RequireUnder(side, key, extracted, "take: not the object under the key");
      SettleRemoval(side, key, extracted != nullptr ? 1 : 0, true, "take: null or not");
      this->Keep(extracted);
    });
  }

  // --- Operations on many --------------------------------------------------------------------

  void Pop(Side& side) {
    this->Say("pop");
    std::optional<std::pair<ScriptKey, Strong>> popped;
    AttemptAlone([&] { popped = side.map->pop(); });
    if (!popped.has_value()) return Require(LiveCount(side) == 0, "pop: nothing");
    RequireUnder(side, popped->first.id(), popped->second, "pop: not an object under its key");
    side.model.Remove(popped->first.id());
    this->Keep(popped->second);
  }

  void EraseIf(Side& side) {
    this->Say("erase_if");
    const int step = 1 + Next(4);
    const int drops = Next(4);
    const int throws_at = Next(64);
    size_t visits = 0;
    size_t erased = 0;
    size_t result = 0;
    const Attempted attempted = Attempt([&] {
      result = side.map->erase_if([&](const ScriptKey& key, const Strong& value) {
        const Quiet quiet(this);  // the condition must not change the map
        RequireUnder(side, key.id(), value, "erase_if: not an object under its key");
        if (drops == 0) this->Drop(value->id());
        if (++visits == static_cast<size_t>(throws_at)) throw ScriptError();
        if (key.id() % step != 0) return false;
        side.model.Remove(key.id());
        ++erased;
        return true;
      });
    });
    Require(!attempted.done || result == erased, "erase_if: the wrong count");
  }

  void Update(Side& side, Side& other) {
    this->Say("update");
    const bool self = Next(8) == 0;
    const Map& from = self ? *side.map : *other.map;
    const Attempted attempted = AttemptAlone([&] { side.map->update(from); });
    if (!attempted.undisturbed()) return Resync(side, other.model);
    for (int key = 0; key < kKeys && !self; ++key) {
      if (IsLive(other, key)) Enter(side, key, other.model.object(key));
    }
  }

  void Merge(Side& side, Side& other) {
    this->Say("merge");
    const bool self = Next(8) == 0;
    Map& from = self ? *side.map : *other.map;
    const Attempted attempted = AttemptAlone([&] { side.map->merge(from); });
    if (!attempted.undisturbed()) {
      Resync(side, other.model);
      return Resync(other, KeyModel());
    }
    for (int key = 0; key < kKeys && !self; ++key) {
      if (!IsLive(other, key) || IsLive(side, key)) continue;
      Enter(side, key, other.model.object(key));
      other.model.Remove(key);
    }
  }

  void Copies(Side& side) {
    this->Say("keys, values, Snapshot");
    std::vector<ScriptKey> keys;
    std::vector<Strong> values;
    std::vector<std::pair<ScriptKey, Strong>> both;
    const Attempted attempted = Attempt([&] {
      keys = side.map->keys();
      values = side.map->values();
      both = side.map->snapshot();
    });
    if (!attempted.undisturbed()) return;
    const bool complete = keys.size() == LiveCount(side) && values.size() == keys.size() &&
                          both.size() == keys.size();
    Require(complete, "keys, values, Snapshot: of the wrong size");
    for (size_t i = 0; complete && i < keys.size(); ++i) {
      RequireUnder(side, keys[i].id(), values[i], "keys, values: not an object under its key");
      RequireUnder(side, both[i].first.id(), both[i].second, "Snapshot: not under its key");
    }
  }

  void CloneMap(Side& side) {
    this->Say("Clone");
    std::optional<Map> clone;
    if (!Attempt([&] { clone.emplace(side.map->clone()); }).undisturbed()) return;
    clone->CheckInvariantsForTesting();
    Require(clone->size() == LiveCount(side), "Clone: of the wrong size");
    for (const auto& [key, value] : *clone) {
      RequireUnder(side, key.id(), value, "Clone: not an object under its key");
    }
    if (this->AnyInProgress() || this->Toss()) return;
    Side& target = sides_[Next(2)];
    target.model = side.model;
    Attempt([&] { *target.map = std::move(*clone); });
  }

  // Visits while nested operations change the map. Whatever is there all the time is visited once.
  void Iterate(Side& side) {
    this->Say("iterate");
    const KeyModel before = side.model;
    std::array<uint32_t, kKeys> visited{};
    const int acts = 1 + Next(2);
    const auto visit = [&](const ScriptKey& key, const Strong& value) {
      RequireUnder(side, key.id(), value, "iteration: not an object under its key");
      const uint32_t entry = side.model.entry(key.id());
      Require(visited[key.id()] != entry, "iteration: visits an entry twice");
      visited[key.id()] = entry;
      const int then = Next(16);
      if (then < 4) this->Act(acts);
      if (then == 15) throw ScriptError();
    };
    const bool range = this->Toss();
    const Attempted attempted = Attempt([&] {
      if (!range) return side.map->for_each(visit);
      for (const auto& [key, value] : *side.map) visit(key, value);
    });
    for (int key = 0; key < kKeys && attempted.done; ++key) {
      if (!IsLive(side, key) || side.model.entry(key) != before.entry(key)) continue;
      Require(visited[key] == before.entry(key), "iteration: misses an entry");
    }
  }

  void Compare(Side& side, Side& other) {
    this->Say("==");
    bool equal = false;
    if (!Attempt([&] { equal = *side.map == *other.map; }).undisturbed()) return;
    bool expected = true;
    for (int key = 0; key < kKeys; ++key) {
      const bool live = IsLive(side, key);
      expected &= live == IsLive(other, key) &&
                  (!live || side.model.object(key) == other.model.object(key));
    }
    Require(equal == expected, "==: the wrong answer");
  }

  // --- Upkeep --------------------------------------------------------------------------------

  void Purge(Side& side) {
    this->Say("purge");
    const size_t dead = EnteredCount(side) - LiveCount(side);
    size_t purged = 0;
    if (!Attempt([&] { purged = side.map->purge(); }).undisturbed()) return;
    Require(purged <= dead, "purge: removes what is not dead");
    if (!this->AnyDying()) {
      Require(side.map->purge() == 0, "purge: leaves something");
      Require(side.map->size() == LiveCount(side), "purge: leaves dead entries");
    }
    for (int key = 0; key < kKeys; ++key) {
      const int object = side.model.object(key);
      if (!this->IsAlive(object) && !this->IsDying(object)) side.model.Remove(key);
    }
  }

  void Reserve(Side& side) {
    this->Say("reserve, shrink_to_fit");
    const size_t count = static_cast<size_t>(Next(100));
    Attempt([&] {
      if (count % 2 == 0) side.map->reserve(count);
      if (count % 3 == 0) side.map->shrink_to_fit();
    });
  }

  void Clear(Side& side) {
    if (Next(4) != 0) return Purge(side);
    this->Say("clear");
    side.model.Clear();  // before: what is entered meanwhile stays
    const Attempted attempted = Attempt([&] { side.map->clear(); });
    if (!attempted.nested) Require(side.map->size() == 0, "clear: leaves something");
  }

  void MoveOrSwap(Side& side, Side& other) {
    if (this->AnyInProgress()) return Get(side);
    const int how = Next(6);
    this->Say("move or swap", how);
    if (how >= 3 && how < 5) {
      std::swap(side.model, other.model);
    } else if (how == 2) {
      side.model = std::exchange(other.model, KeyModel());
    }
    Attempt([&] {
      Map& map = *side.map;
      if (how == 0) map = static_cast<Map&&>(map);
      if (how == 1) map.swap(map);
      if (how == 2) map = std::move(*other.map);
      if (how == 3) map.swap(*other.map);
      if (how == 4) swap(map, *other.map);
      if (how == 5) map = Map(Map(std::move(map)));
    });
  }

  // Ends the map, while its keys may still use it, and begins another.
  void End(Side& side) {
    if (this->AnyInProgress()) return Get(side);
    this->Say("end");
    side.model.Clear();
    Attempt([&] { std::destroy_at(side.map.get()); });
    side.model.Clear();
    ::new (static_cast<void*>(side.map.get())) Map(HashOf(side));
  }

  // --- The model -----------------------------------------------------------------------------

  template <typename Operation>
  void WithKey(const char* name, Operation&& operation) {
    const int key = this->NextKey();
    this->Say(name, key);
    const ScriptKeyView view = {this, key};
    if (this->Toss()) {
      operation(key, view);
    } else {
      operation(key, static_cast<const ScriptKey&>(ScriptKey(view)));
    }
  }

  // The outcome of an operation that found `present.first` or entered the new object `made`.
  void RecordHit(Side& side, int key, const std::pair<Strong, bool>& present, int made,
                 const char* call) {
    const auto& [object, inserted] = present;
    if (inserted) {
      Require(!IsLive(side, key) && Base::IdOf(object) == made, call);
      Enter(side, key, made);
    } else {
      Require(object != nullptr, call);
      RequireUnder(side, key, object, call);
    }
    CheckKey(side, key);
    this->Keep(object);
  }

  // The outcome of an operation that removes what is under the key, if it `matches`.
  void SettleRemoval(Side& side, int key, size_t removed, bool matches, const char* what) {
    Require(removed == (matches && IsLive(side, key) ? 1u : 0u), what);
    if (matches) side.model.Remove(key);
    CheckKey(side, key);
  }

  void Enter(Side& side, int key, int object) {
    side.model.Enter(key, object);
    this->EnteredUnder(object, key);
  }

  bool IsLive(const Side& side, int key) const { return this->IsAlive(side.model.object(key)); }
  bool IsUnder(const Side& side, int key, const Strong& object) const {
    return IsLive(side, key) && side.model.object(key) == Base::IdOf(object);
  }
  // `object` must be the one under the key, null if there is none.
  void RequireUnder(const Side& side, int key, const Strong& object, const char* what) {
    Require(object == nullptr ? !IsLive(side, key) : IsUnder(side, key, object), what);
  }
  size_t LiveCount(const Side& side) const {
    size_t count = 0;
    for (int key = 0; key < kKeys; ++key) count += IsLive(side, key) ? 1 : 0;
    return count;
  }
  size_t EnteredCount(const Side& side) const {
    size_t count = 0;
    for (int key = 0; key < kKeys; ++key) count += side.model.object(key) >= 0 ? 1 : 0;
    return count;
  }

  // An object counts until its destructor is through. Without notification it may count longer.
  void CheckSize(const Side& side) {
    const size_t live = LiveCount(side);
    const size_t size = side.map->size();
    Require(size >= live, "size: too small");
    if (!Base::kExactSize) return Require(size <= EnteredCount(side), "size: too large");
    if (!this->AnyDying()) return Require(size == live, "size: not exact");
  }

  void CheckKey(const Side& side, int key) {
    RequireUnder(side, key, side.map->get(ScriptKeyView{this, key}), "the key's object is another");
  }

  // After an operation of which it is not known how far it came. Only what has once been under a
  // key can be under it now. An object of `from` may have been entered and have died since.
  void Resync(Side& side, const KeyModel& from) {
    for (int key = 0; key < kKeys; ++key) {
      const Strong object = side.map->get(ScriptKeyView{this, key});
      const int entered = from.object(key);
      if (object != nullptr) {
        if (IsUnder(side, key, object)) continue;
        Require(this->WasEverUnder(object->id(), key), "an object under a key that it never had");
        side.model.Enter(key, object->id());
      } else if (IsLive(side, key) || side.model.object(key) == KeyModel::kNone) {
        side.model.Remove(key);
        if (entered != KeyModel::kNone && !this->IsAlive(entered)) side.model.Enter(key, entered);
      }
    }
  }

  void CheckContents() override {
    for (Side& side : sides_) {
      side.map->CheckInvariantsForTesting();
      CheckSize(side);
      size_t visited = 0;
      for (const auto& [key, value] : *side.map) {
        RequireUnder(side, key.id(), value, "contents: not an object under its key");
        ++visited;
      }
      Require(visited == LiveCount(side), "contents: too many or too few");
      for (int key = 0; key < kKeys; ++key) CheckKey(side, key);
    }
  }

  void Finish() override {
    sides_[1].map.reset();  // before its objects
    this->DropAll();
    if (Base::kExactSize) Require(sides_[0].map->empty(), "size: not exact at the end");
    this->ForgetAll();
    sides_[0].map->shrink_to_fit();
    Require(sides_[0].map->empty(), "shrink_to_fit: leaves something at the end");
    sides_[0].map->CheckInvariantsForTesting();
    // A slot that is lost keeps its page.
    constexpr int64_t kEmptyMapBytes = 400;  // less than the smallest page
    const int64_t bytes = LiveAllocatedBytes();
    sides_[0].map.reset();
    Require(bytes - LiveAllocatedBytes() <= kEmptyMapBytes, "shrink_to_fit: keeps memory");
  }

  // The two maps begin with different hashes, so that swap and move must take them along.
  ScriptHash HashOf(const Side& side) const {
    constexpr std::array<int, 4> kHashes = {0, 0, 3, 1};
    const size_t hash = hash_ + (&side == &sides_[0] ? 0 : 1);
    return ScriptHash(kHashes[hash % kHashes.size()]);
  }
  Side& Other(const Side& side) { return &side == &sides_[0] ? sides_[1] : sides_[0]; }

  using Base::Attempt;
  using Base::AttemptAlone;
  using Base::Next;
  using Base::Require;

  std::array<Side, 2> sides_;
  Maker maker_ = Maker::kEither;
  size_t hash_ = 0;
};

template <typename V>
ScriptResult Run(ScriptBytes bytes, bool trace) {
  return WeakValueMapScript<V>(bytes, trace).Run();
}

}  // namespace

ScriptResult RunWeakValueMapScript(const uint8_t* data, size_t size, bool trace) {
  ScriptBytes bytes(data, size);
  switch (bytes.Next(4)) {
    case 0:
      return Run<SmallScriptObject>(bytes, trace);
    case 1:
      return Run<std::shared_ptr<LargeScriptObject>>(bytes, trace);
    default:
      return Run<LargeScriptObject>(bytes, trace);
  }
}

}  // namespace weakcache::testing
