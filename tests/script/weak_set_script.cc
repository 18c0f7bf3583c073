// SPDX-License-Identifier: Apache-2.0
#include "tests/script/weak_set_script.h"

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "tests/script/script.h"
#include "weakcache/cache/weak_set.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::testing {
namespace {

// `T` is the set's parameter, `Strong` the handle that it makes of it.
template <typename T, typename Strong>
class WeakSetScript final : public ObjectScript<Strong> {
  using Set = WeakSet<T>;
  using Base = ObjectScript<Strong>;
  using typename Base::Attempted;
  using typename Base::Quiet;

  struct Side {
    Set set;
    // Objects, dead ones included; each entry that there ever was has a number of its own.
    std::map<int, int> model;
  };

 public:
  using Base::Base;

 private:
  void Operate() override {
    Side& side = sides_[Next(4) == 0 ? 1 : 0];
    Side& other = &side == &sides_[0] ? sides_[1] : sides_[0];
    constexpr int kChances = 28;
    const int operation = Next(kChances);
    if (operation < 7) {
      Insert(side);
    } else if (operation < 10) {
      Erase(side);
    } else if (operation < 12) {
      Contains(side);
    } else if (operation < 15) {
      this->DropSome();
    } else if (operation < 21) {
      OperateOnBoth(side, other);
    } else {
      OperateOnAll(side, other, operation);
    }
    CheckSize(side);
  }

  void OperateOnAll(Side& side, Side& other, int operation) {
    switch (operation) {
      case 21:
        return Pop(side);
      case 22:
        return EraseIf(side);
      case 23:
        return Iterate(side);
      case 24:
        return Copies(side);
      case 25:
        return MoveOrSwap(side, other);
      case 26:
        return Clear(side);
      default:
        return Purge(side);
    }
  }

  void Insert(Side& side) {
    const Strong object = this->NextObject();
    this->Say("insert", object->id());
    bool added = false;
    if (!Attempt([&] { added = side.set.insert(object).second; }).done) return;
    Require(added == !IsIn(side, object->id()), "insert: the wrong answer");
    if (added) side.model[object->id()] = ++last_entry_;
    this->Keep(object);
  }

  void Erase(Side& side) {
    const Strong object = this->NextObject();
    this->Say("erase", object->id());
    size_t erased = 0;
    if (!Attempt([&] { erased = side.set.erase(object); }).done) return;
    Require(erased == (IsIn(side, object->id()) ? 1u : 0u), "erase: the wrong count");
    side.model.erase(object->id());
  }

  void Contains(Side& side) {
    const Strong object = this->NextObject();
    this->Say("contains", object->id());
    bool found = false;
    if (!Attempt([&] { found = side.set.contains(object); }).done) return;
    Require(found == IsIn(side, object->id()), "contains: the wrong answer");
  }

  void Pop(Side& side) {
    this->Say("pop");
    Strong popped;
    Attempt([&] { popped = side.set.pop(); });
    if (popped == nullptr) return Require(Live(side).empty(), "pop: null");
    Require(IsIn(side, popped->id()), "pop: not in the set");
    side.model.erase(popped->id());
    this->Keep(popped);
  }

  void EraseIf(Side& side) {
    this->Say("erase_if");
    const int step = 1 + Next(4);
    const int throws_at = Next(64);
    size_t erased = 0;
    size_t result = 0;
    int visits = 0;
    const Attempted attempted = Attempt([&] {
      result = side.set.erase_if([&](const Strong& object) {
        const Quiet quiet(this);  // the condition must not change the set
        Require(IsIn(side, object->id()), "erase_if: not in the set");
        if (step == 1) this->Drop(object->id());
        if (++visits == throws_at) throw ScriptError();
        if (object->id() % step != 0) return false;
        side.model.erase(object->id());
        ++erased;
        return true;
      });
    });
    Require(!attempted.done || result == erased, "erase_if: the wrong count");
  }

  // See WeakValueMapScript::Iterate.
  void Iterate(Side& side) {
    this->Say("iterate");
    const std::map<int, int> before = side.model;
    std::map<int, int> visited;
    const int acts = 1 + Next(2);
    const auto visit = [&](const Strong& object) {
      Require(IsIn(side, object->id()), "iteration: not in the set");
      const int entry = side.model[object->id()];
      Require(std::exchange(visited[object->id()], entry) != entry, "iteration: visits twice");
      if (Next(4) == 0) this->Act(acts);
    };
    const bool range = this->Toss();
    const Attempted attempted = Attempt([&] {
      if (!range) return side.set.for_each(visit);
      for (const Strong& object : side.set) visit(object);
    });
    for (const auto& [id, entry] : before) {
      const auto now = side.model.find(id);
      if (!attempted.done || !IsIn(side, id) || now->second != entry) continue;
      Require(visited[id] == entry, "iteration: misses an object");
    }
  }

  void Copies(Side& side) {
    this->Say("Snapshot, Clone");
    std::vector<Strong> snapshot;
    std::optional<Set> clone;
    const Attempted attempted = Attempt([&] {
      snapshot = side.set.snapshot();
      clone.emplace(side.set.clone());
    });
    if (!attempted.undisturbed()) return;
    Require(snapshot.size() == Live(side).size(), "Snapshot: of the wrong size");
    for (const Strong& object : snapshot) {
      Require(IsIn(side, object->id()), "Snapshot: not in the set");
    }
    RequireExactly(*clone, Live(side), "Clone: another set");
    Require(*clone == side.set, "==: a clone differs");
  }

  // Operators, with the set itself as the other one now and then.
  void OperateOnBoth(Side& side, Side& other_side) {
    Side& other = Next(8) == 0 ? side : other_side;
    const int operation = Next(8);
    this->Say("operators", operation);
    if (operation >= 4) return Relations(side, other);
    const std::map<int, int> a = Live(side);
    const std::map<int, int> b = Live(other);
    std::map<int, int> expected;
    for (const auto& each : a) {
      const bool both = b.count(each.first) != 0;
      if (operation == 0 || (operation == 1 ? both : !both)) expected.insert(each);
    }
    for (const auto& each : b) {
      const bool only = a.count(each.first) == 0;
      if (only && (operation == 0 || operation == 3)) expected.insert(each);
    }
    if (this->Toss()) return InPlace(side, other, operation, expected);
    std::optional<Set> result;
    const Attempted attempted = Attempt([&] {
      if (operation == 0) result.emplace(side.set | other.set);
      if (operation == 1) result.emplace(side.set & other.set);
      if (operation == 2) result.emplace(side.set - other.set);
      if (operation == 3) result.emplace(side.set ^ other.set);
    });
    if (attempted.undisturbed()) RequireExactly(*result, expected, "operators: the wrong result");
  }

  void InPlace(Side& side, Side& other, int operation, const std::map<int, int>& expected) {
    const Attempted attempted = Base::AttemptAlone([&] {
      if (operation == 0) side.set |= other.set;
      if (operation == 1) side.set &= other.set;
      if (operation == 2) side.set -= other.set;
      if (operation == 3) side.set ^= other.set;
    });
    const std::map<int, int> before = std::exchange(side.model, {});
    if (!attempted.undisturbed()) return Resync(side, before, Live(other));
    RequireExactly(side.set, expected, "operators in place: the wrong result");
    Adopt(side, before, expected);
  }

  // It stopped somewhere: no other objects can be in the set than those of the two.
  void Resync(Side& side, const std::map<int, int>& before, const std::map<int, int>& other) {
    std::map<int, int> present;
    for (const Strong& object : side.set) {
      const int id = object->id();
      Require(before.count(id) + other.count(id) > 0, "operators in place: an unknown object");
      present[id] = 0;
    }
    Adopt(side, before, present);
  }
  // What was dead may still be counted if the handle does not notify.
  void Adopt(Side& side, const std::map<int, int>& before, const std::map<int, int>& present) {
    side.model.clear();
    for (const auto& [id, entry] : before) {
      if (!this->IsAlive(id) || present.count(id) != 0) side.model[id] = entry;
    }
    for (const auto& [id, unused] : present) {
      if (side.model.count(id) == 0) side.model[id] = ++last_entry_;
    }
  }

  void Relations(Side& side, Side& other) {
    bool subset = false, superset = false, disjoint = false, equal = false;
    const Attempted attempted = Attempt([&] {
      subset = side.set.is_subset_of(other.set);
      superset = side.set.is_superset_of(other.set);
      disjoint = side.set.is_disjoint_from(other.set);
      equal = side.set == other.set;
    });
    if (!attempted.undisturbed()) return;
    const std::map<int, int> a = Live(side);
    const std::map<int, int> b = Live(other);
    size_t common = 0;
    for (const auto& each : a) common += b.count(each.first);
    Require(subset == (common == a.size()), "is_subset_of: the wrong answer");
    Require(superset == (common == b.size()), "is_superset_of: the wrong answer");
    Require(disjoint == (common == 0), "is_disjoint_from: the wrong answer");
    Require(equal == (common == a.size() && common == b.size()), "==: the wrong answer");
  }

  void Purge(Side& side) {
    this->Say("purge, reserve, shrink_to_fit");
    const int count = Next(100);
    Attempt([&] {
      if (count % 2 == 0) side.set.reserve(static_cast<size_t>(count));
      if (count % 3 == 0) side.set.shrink_to_fit();
    });
    Require(side.set.purge() <= side.model.size() - Live(side).size(), "purge: too many");
    if (this->AnyDying()) return;
    Require(side.set.purge() == 0, "purge: leaves something");
    side.model = Live(side);
  }

  void Clear(Side& side) {
    if (Next(4) != 0) return Purge(side);
    this->Say("clear");
    side.model.clear();
    Attempt([&] { side.set.clear(); });
    Require(side.set.size() == 0, "clear: leaves something");
  }

  void MoveOrSwap(Side& side, Side& other) {
    if (this->AnyInProgress()) return Contains(side);
    const int how = Next(4);
    this->Say("move or swap", how);
    if (how == 0) side.set.swap(side.set);
    if (how == 1) swap(side.set, other.set);
    if (how == 2) side.set = std::move(other.set);
    if (how == 3) side.set = Set(std::move(side.set));
    if (how == 1) std::swap(side.model, other.model);
    if (how == 2) side.model = std::exchange(other.model, {});
  }

  bool IsIn(const Side& side, int id) const {
    return side.model.count(id) != 0 && this->IsAlive(id);
  }
  std::map<int, int> Live(const Side& side) const {
    std::map<int, int> live;
    for (const auto& each : side.model) {
      if (this->IsAlive(each.first)) live.insert(each);
    }
    return live;
  }
  void RequireExactly(const Set& set, const std::map<int, int>& expected, const char* what) {
    std::map<int, int> visited;
    for (const Strong& object : set) {
      Require(expected.count(object->id()) != 0, what);
      Require(visited.emplace(object->id(), 0).second, "contents: an object twice");
    }
    Require(visited.size() == expected.size(), what);
  }
  void CheckSize(const Side& side) {
    const size_t live = Live(side).size();
    const size_t size = side.set.size();
    Require(size >= live, "size: too small");
    if (!Base::kExactSize) return Require(size <= side.model.size(), "size: too large");
    if (!this->AnyDying()) Require(size == live, "size: not exact");
  }

  void CheckContents() override {
    for (Side& side : sides_) {
      side.set.CheckInvariantsForTesting();
      CheckSize(side);
      RequireExactly(side.set, Live(side), "contents: not those of the model");
    }
  }

  void Finish() override {
    sides_[1].set = Set();  // before its objects
    this->DropAll();
    sides_[0].set.purge();
    Require(sides_[0].set.empty(), "purge: leaves something at the end");
    sides_[0].set.CheckInvariantsForTesting();
  }

  using Base::Attempt;
  using Base::Next;
  using Base::Require;

  std::array<Side, 2> sides_;
  int last_entry_ = 0;
};

}  // namespace

ScriptResult RunWeakSetScript(const uint8_t* data, size_t size, bool trace) {
  using Shared = std::shared_ptr<LargeScriptObject>;
  ScriptBytes bytes(data, size);
  switch (bytes.Next(4)) {
    case 0:
      return WeakSetScript<SmallScriptObject, Ref<SmallScriptObject>>(bytes, trace).Run();
    case 1:
      return WeakSetScript<Shared, Shared>(bytes, trace).Run();
    default:
      return WeakSetScript<LargeScriptObject, Ref<LargeScriptObject>>(bytes, trace).Run();
  }
}

}  // namespace weakcache::testing
