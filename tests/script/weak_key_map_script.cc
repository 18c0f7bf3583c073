// SPDX-License-Identifier: Apache-2.0
#include "tests/script/weak_key_map_script.h"

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/script/script.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::testing {
namespace {

// What the map attaches to its keys. Its end may run operations.
class Attached {
 public:
  Attached(Script* script, int number) : script_(script), number_(number) { script->AddKey(); }
  Attached(const Attached& other) : Attached(other.script_, other.number_) {}
  Attached(Attached&& other) noexcept
      : script_(std::exchange(other.script_, nullptr)), number_(other.number_) {}
  Attached& operator=(Attached other) noexcept {
    std::swap(script_, other.script_);
    std::swap(number_, other.number_);
    return *this;
  }
  ~Attached() {
    if (script_ != nullptr) script_->RemoveKey();
  }
  int number() const { return number_; }
  friend bool operator==(const Attached& a, const Attached& b) { return a.number_ == b.number_; }

 private:
  Script* script_;
  int number_;
};

// `K` is the map's parameter, `Strong` the handle that it makes of it.
template <typename K, typename Strong, typename KeyPolicy>
class WeakKeyMapScript final : public ObjectScript<Strong> {
  using Map = WeakKeyMap<K, Attached, KeyPolicy>;
  using Base = ObjectScript<Strong>;
  using typename Base::Attempted;
  using typename Base::Quiet;
  static constexpr bool kByIdentity = std::is_same_v<KeyPolicy, ByIdentity>;

  struct Entry {
    int object;
    int number;    // attached
    int entry_id;  // differs for each that there ever was
  };
  // By the object, or by its value; dead ones included.
  using Model = std::map<int, Entry>;
  struct Side {
    Map map;
    Model model;
  };

 public:
  using Base::Base;

 private:
  void Operate() override {
    Side& side = sides_[Next(4) == 0 ? 1 : 0];
    Side& other = &side == &sides_[0] ? sides_[1] : sides_[0];
    constexpr int kChances = 36;
    const int operation = Next(kChances);
    if (operation < 16) {
      OperateOnKey(side, operation);
    } else if (operation < 20) {
      DropActing();
    } else {
      OperateOnAll(side, other, operation);
    }
    CheckSize(side);
  }

  void OperateOnKey(Side& side, int operation) {
    switch (operation) {
      case 0:
      case 1:
      case 2:
        return Insert(side);
      case 3:
      case 4:
      case 5:
        return InsertOrAssign(side);
      case 6:
        return TryEmplace(side);
      case 7:
      case 8:
      case 9:
        return GetOrCreate(side);
      case 10:
      case 11:
        return Erase(side);
      case 12:
        return Extract(side);
      default:
        return LookUp(side);
    }
  }

  void OperateOnAll(Side& side, Side& other, int operation) {
    switch (operation) {
      case 20:
        return Pop(side);
      case 21:
        return EraseIf(side);
      case 22:
      case 23:
        return Iterate(side);
      case 24:
        return Copies(side);
      case 25:
        return Update(side, other);
      case 26:
        return Merge(side, other);
      case 27:
        return Compare(side, other);
      case 28:
        return Clear(side);
      case 29:
        return MoveOrSwap(side, other);
      case 30:
        return Purge(side);
      default:
        return LookUp(side);
    }
  }

  // --- Operations on one key -----------------------------------------------------------------

  void Insert(Side& side) {
    const Strong key = NextKeyObject("insert");
    const Strong stored = side.map.canonical_key(key);  // lives until the model is settled
    const int number = NextNumber();
    int found = 0;
    bool inserted = false;
    const Attempted attempted = AttemptSilently([&] {
      const auto result = side.map.insert(key, Attached(this, number));
      found = NumberOf(result.first);
      inserted = result.second;
    });
    if (attempted.done) RecordHit(side, key, number, found, inserted, "insert");
  }

  void TryEmplace(Side& side) {
    const Strong key = NextKeyObject("try_emplace");
    const Strong stored = side.map.canonical_key(key);  // lives until the model is settled
    const int number = NextNumber();
    int found = 0;
    bool inserted = false;
    const Attempted attempted = AttemptSilently([&] {
      const auto result = side.map.try_emplace(key, static_cast<Script*>(this), number);
      found = NumberOf(result.first);
      inserted = result.second;
    });
    if (attempted.done) RecordHit(side, key, number, found, inserted, "try_emplace");
  }

  void InsertOrAssign(Side& side) {
    const Strong key = NextKeyObject("insert_or_assign");
    const Strong stored = side.map.canonical_key(key);  // lives until the model is settled
    const int number = NextNumber();
    bool inserted = false;
    const Attempted attempted = AttemptSilently(
        [&] { inserted = side.map.insert_or_assign(key, Attached(this, number)).second; });
    if (!attempted.done) return;
    Require(inserted == (Find(side, KeyOf(key)) == nullptr), "insert_or_assign: wrong answer");
    Enter(side, key, number);
    CheckKey(side, key);
    this->Keep(key);
  }

  // The factory may enter its own key, let objects go, and throw.
  void GetOrCreate(Side& side) {
    const Strong key = NextKeyObject("get_or_create");
    const Strong stored = side.map.canonical_key(key);  // lives until the model is settled
    const int number = NextNumber();
    const int acts = Next(4) == 0 ? 1 + Next(3) : 0;
    const bool throws = Next(10) == 0;
    int found = 0;
    const Attempted attempted = AttemptSilently([&] {
      auto&& result = side.map.get_or_create(key, [&] {
        this->Act(acts);
        if (throws) throw ScriptError();
        return Attached(this, number);
      });
      found = NumberOf(result);
    });
    if (!attempted.done) return;
    // An equal key may have been entered meanwhile, and have died with the result.
    if (attempted.died && found != number && Find(side, KeyOf(key)) == nullptr) return;
    RecordHit(side, key, number, found, found == number, "get_or_create");
  }

  void LookUp(Side& side) {
    const Strong key = NextKeyObject("get, contains, canonical_key");
    int found = 0;
    bool contains = false;
    Strong canonical;
    const Attempted attempted = Attempt([&] {
      found = NumberOf(side.map.get(key));
      contains = side.map.contains(key);
      canonical = side.map.canonical_key(key);
    });
    if (!attempted.undisturbed()) return;
    const Entry* const entry = Find(side, KeyOf(key));
    Require(found == (entry == nullptr ? 0 : entry->number), "get: another value");
    Require(contains == (entry != nullptr), "contains: the wrong answer");
    Require(Base::IdOf(canonical) == (entry == nullptr ? -1 : entry->object),
            "canonical_key: not the key that was entered");
  }

  void Erase(Side& side) {
    const Strong key = NextKeyObject("erase");
    const Strong stored = side.map.canonical_key(key);  // lives until the model is settled
    size_t erased = 0;
    if (!AttemptSilently([&] { erased = side.map.erase(key); }).done) return;
    Require(erased == (Find(side, KeyOf(key)) != nullptr ? 1u : 0u), "erase: the wrong count");
    side.model.erase(KeyOf(key));
    CheckKey(side, key);
  }

  void Extract(Side& side) {
    const Strong key = NextKeyObject("take");
    const Strong stored = side.map.canonical_key(key);  // lives until the model is settled
    std::optional<Attached> extracted;
    if (!AttemptSilently([&] { extracted = side.map.take(key); }).done) return;
    const Entry* const entry = Find(side, KeyOf(key));
    Require(extracted.has_value() == (entry != nullptr), "take: nothing, or not");
    Require(entry == nullptr || extracted->number() == entry->number, "take: another value");
    side.model.erase(KeyOf(key));
    CheckKey(side, key);
  }

  // --- Operations on many --------------------------------------------------------------------

  // Ends of attached values may run operations.
  void DropActing() {
    Attempt([&] { this->DropSome(); });
  }

  void Pop(Side& side) {
    this->Say("pop");
    std::optional<std::pair<Strong, Attached>> popped;
    Base::AttemptAlone([&] { popped = side.map.pop(); });
    if (!popped.has_value()) return Require(LiveCount(side) == 0, "pop: nothing");
    RequireEntry(side, popped->first, popped->second, "pop: not an entry");
    side.model.erase(KeyOf(popped->first));
    this->Keep(popped->first);
  }

  void EraseIf(Side& side) {
    this->Say("erase_if");
    const int step = 1 + Next(4);
    const int throws_at = Next(64);
    int visits = 0;
    size_t erased = 0;
    size_t result = 0;
    const Attempted attempted = Attempt([&] {
      result = side.map.erase_if([&](const Strong& key, Attached& value) {
        const Quiet quiet(this);  // the condition must not change the map
        RequireEntry(side, key, value, "erase_if: not an entry");
        if (++visits == throws_at) throw ScriptError();
        if (step == 1) this->Drop(key->id());
        if (key->id() % step != 0) return false;
        side.model.erase(KeyOf(key));
        ++erased;
        return true;
      });
    });
    Require(!attempted.done || result == erased, "erase_if: the wrong count");
  }

  void Iterate(Side& side) {
    this->Say("iterate");
    const Model before = side.model;
    std::map<int, int> visited;
    const int acts = 1 + Next(2);
    const auto visit = [&](const Strong& key, const Attached& value) {
      RequireEntry(side, key, value, "iteration: not an entry");
      const auto found = side.model.find(KeyOf(key));
      if (found == side.model.end()) return;
      const int id = found->second.entry_id;
      Require(std::exchange(visited[KeyOf(key)], id) != id, "iteration: visits twice");
      if (Next(4) == 0) this->Act(acts);
    };
    const bool range = this->Toss();
    const Attempted attempted = Attempt([&] {
      if (!range) return side.map.for_each(visit);
      for (const auto& [key, value] : side.map) visit(key, value);
    });
    for (const auto& [key, entry] : before) {
      const Entry* const now = Find(side, key);
      if (!attempted.done || now == nullptr || now->entry_id != entry.entry_id) continue;
      Require(visited[key] == entry.entry_id, "iteration: misses an entry");
    }
  }

  void Copies(Side& side) {
    this->Say("keys, Snapshot, Clone");
    std::vector<Strong> keys;
    std::vector<std::pair<Strong, Attached>> both;
    std::optional<Map> clone;
    const Attempted attempted = Base::AttemptAlone([&] {
      keys = side.map.keys();
      both = side.map.snapshot();
      clone.emplace(side.map.clone());
    });
    if (!attempted.undisturbed()) return;
    const size_t live = LiveCount(side);
    Require(keys.size() == live && both.size() == live, "keys, Snapshot: of the wrong size");
    for (const Strong& key : keys) {
      Require(Find(side, KeyOf(key)) != nullptr, "keys: not a key");
    }
    for (const auto& [key, value] : both) RequireEntry(side, key, value, "Snapshot: no entry");
    size_t cloned = 0;
    for (const auto& [key, value] : *clone) {
      RequireEntry(side, key, value, "Clone: not an entry");
      ++cloned;
    }
    Require(cloned == live && *clone == side.map, "Clone: differs");
  }

  void Update(Side& side, Side& other) {
    this->Say("update");
    const Attempted attempted = Base::AttemptAlone([&] { side.map.update(other.map); });
    if (!attempted.undisturbed()) return Resync(side, other);
    for (const auto& [key, entry] : other.model) {
      if (!this->IsAlive(entry.object)) continue;
      side.model[key] = {entry.object, entry.number, ++last_entry_};
    }
  }

  void Merge(Side& side, Side& other) {
    this->Say("merge");
    const Attempted attempted = Base::AttemptAlone([&] { side.map.merge(other.map); });
    if (!attempted.undisturbed()) {
      Resync(side, other);
      return Resync(other, other);
    }
    for (auto each = other.model.begin(); each != other.model.end();) {
      const auto& [key, entry] = *each;
      if (!this->IsAlive(entry.object) || Find(side, key) != nullptr) {
        ++each;
        continue;
      }
      side.model[key] = {entry.object, entry.number, ++last_entry_};
      each = other.model.erase(each);
    }
  }

  void Compare(Side& side, Side& other) {
    this->Say("==");
    bool equal = false;
    if (!Attempt([&] { equal = side.map == other.map; }).undisturbed()) return;
    bool expected = LiveCount(side) == LiveCount(other);
    for (const auto& [key, entry] : side.model) {
      if (!this->IsAlive(entry.object)) continue;
      const Entry* const there = Find(other, key);
      expected &= there != nullptr && there->number == entry.number;
    }
    Require(equal == expected, "==: the wrong answer");
  }

  // --- Upkeep --------------------------------------------------------------------------------

  void Purge(Side& side) {
    this->Say("purge, reserve, shrink_to_fit");
    const int count = Next(100);
    const size_t dead = side.model.size() - LiveCount(side);
    size_t purged = 0;
    const Attempted attempted = Attempt([&] {
      purged = side.map.purge();
      if (count % 2 == 0) side.map.reserve(static_cast<size_t>(count));
      if (count % 3 == 0) side.map.shrink_to_fit();
    });
    // By value, a dead entry may have a successor, and the model does not know it any more.
    Require(attempted.nested || !kByIdentity || purged <= dead, "purge: too many");
  }

  void Clear(Side& side) {
    if (Next(4) != 0) return Purge(side);
    this->Say("clear");
    side.model.clear();  // before: what is entered meanwhile stays
    const Attempted attempted = Attempt([&] { side.map.clear(); });
    if (!attempted.nested) Require(side.map.size() == 0, "clear: leaves something");
  }

  void MoveOrSwap(Side& side, Side& other) {
    if (this->AnyInProgress()) return LookUp(side);
    const int how = Next(4);
    this->Say("move or swap", how);
    if (how == 1) std::swap(side.model, other.model);
    if (how == 2) side.model = std::exchange(other.model, {});
    Attempt([&] {
      if (how == 0) side.map.swap(side.map);
      if (how == 1) swap(side.map, other.map);
      if (how == 2) side.map = std::move(other.map);
      if (how == 3) side.map = Map(Map(std::move(side.map)));
    });
  }

  // --- The model -----------------------------------------------------------------------------

  // The end of an attached value runs nothing: it is not known on which side of the change it is.
  template <typename Operation>
  Attempted AttemptSilently(Operation&& operation) {
    constexpr bool kEndsAct = false;
    return Attempt(std::forward<Operation>(operation), kEndsAct);
  }

  Strong NextKeyObject(const char* name) {
    const int value = this->NextKey();
    const auto& held = this->NextHeld();
    Strong key = held.strong == nullptr || (!kByIdentity && this->Toss()) ? this->NewObject(value)
                                                                          : held.strong;
    this->Say(name, KeyOf(key));
    return key;
  }
  int NextNumber() { return ++last_number_; }

  // 0 for null.
  static int NumberOf(const Attached& value) { return value.number(); }
  static int NumberOf(const Attached* value) { return value == nullptr ? 0 : value->number(); }
  template <typename HeldValue>
  requires requires(const HeldValue& held) { held.key(); }
  static int NumberOf(const HeldValue& held) {
    return NumberOf(static_cast<const Attached*>(held.get()));
  }

  static int KeyOf(const Strong& object) { return kByIdentity ? object->id() : object->value(); }

  // The live entry or null.
  const Entry* Find(const Side& side, int key) const {
    const auto found = side.model.find(key);
    if (found == side.model.end() || !this->IsAlive(found->second.object)) return nullptr;
    return &found->second;
  }
  void Enter(Side& side, const Strong& key, int number) {
    side.model[KeyOf(key)] = {key->id(), number, ++last_entry_};
  }
  void RecordHit(Side& side, const Strong& key, int number, int found, bool inserted,
                 const char* call) {
    const Entry* const present = Find(side, KeyOf(key));
    Require(inserted == (present == nullptr), call);
    Require(found == (present == nullptr ? number : present->number), call);
    if (inserted) Enter(side, key, number);
    CheckKey(side, key);
    this->Keep(key);
  }
  void RequireEntry(const Side& side, const Strong& key, const Attached& value, const char* what) {
    const Entry* const entry = Find(side, KeyOf(key));
    Require(entry != nullptr && entry->object == key->id() && entry->number == value.number(),
            what);
  }
  void CheckKey(Side& side, const Strong& key) {
    const Entry* const entry = Find(side, KeyOf(key));
    const int number = NumberOf(side.map.get(key));
    Require(number == (entry == nullptr ? 0 : entry->number), "the key's value is another");
  }
  // An operation has stopped somewhere. Its entries are those of the two.
  void Resync(Side& side, const Side& other) {
    Model present;
    for (const auto& [key, value] : side.map) {
      const int number = value.number();
      bool known = false;
      for (const Model* model : std::array<const Model*, 2>{&side.model, &other.model}) {
        const auto found = model->find(KeyOf(key));
        known |= found != model->end() && found->second.number == number;
      }
      Require(known, "update, merge: an unknown entry");
      present[KeyOf(key)] = {key->id(), number, ++last_entry_};
    }
    for (const auto& each : side.model) {
      if (!this->IsAlive(each.second.object)) present.insert(each);
    }
    side.model = std::move(present);
  }
  size_t LiveCount(const Side& side) const {
    size_t count = 0;
    for (const auto& each : side.model) count += this->IsAlive(each.second.object) ? 1 : 0;
    return count;
  }
  void CheckSize(const Side& side) {
    const size_t size = side.map.size();
    Require(size >= LiveCount(side), "size: too small");
    if (Base::kExactSize && !this->AnyDying() && !this->AnyInProgress()) {
      Require(size == LiveCount(side), "size: not exact");
    }
  }

  void CheckContents() override {
    for (Side& side : sides_) {
      side.map.CheckInvariantsForTesting();
      CheckSize(side);
      size_t visited = 0;
      for (const auto& [key, value] : side.map) {
        RequireEntry(side, key, value, "contents: not an entry");
        CheckKey(side, key);
        ++visited;
      }
      Require(visited == LiveCount(side), "contents: too many or too few");
    }
  }

  void Finish() override {
    sides_[1].map = Map();  // before its keys
    this->DropAll();
    sides_[0].map.purge();
    Require(sides_[0].map.empty(), "purge: leaves something at the end");
    sides_[0].map.CheckInvariantsForTesting();
  }

  using Base::Attempt;
  using Base::Next;
  using Base::Require;

  std::array<Side, 2> sides_;
  int last_number_ = 0;
  int last_entry_ = 0;
};

template <typename KeyPolicy>
ScriptResult Run(ScriptBytes bytes, bool trace) {
  using Shared = std::shared_ptr<LargeScriptObject>;
  switch (bytes.Next(4)) {
    case 0:
      return WeakKeyMapScript<SmallScriptObject, Ref<SmallScriptObject>, KeyPolicy>(bytes, trace)
          .Run();
    case 1:
      return WeakKeyMapScript<Shared, Shared, KeyPolicy>(bytes, trace).Run();
    default:
      return WeakKeyMapScript<LargeScriptObject, Ref<LargeScriptObject>, KeyPolicy>(bytes, trace)
          .Run();
  }
}

}  // namespace

// The first byte chooses the policy, the second the handle.
ScriptResult RunWeakKeyMapScript(const uint8_t* data, size_t size, bool trace) {
  ScriptBytes bytes(data, size);
  if (bytes.Next(2) == 0) return Run<ByIdentity>(bytes, trace);
  return Run<ByValue<ScriptHash, ScriptEqual>>(bytes, trace);
}

}  // namespace weakcache::testing
