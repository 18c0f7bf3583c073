// SPDX-License-Identifier: Apache-2.0
#include "tests/script/weak_interner_script.h"

#include <array>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/script/key_model.h"
#include "tests/script/script.h"
#include "weakcache/cache/weak_interner.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::testing {
namespace {

// `T` is the interner's parameter, `Strong` the handle that it gives out.
template <typename T, typename Strong>
class WeakInternerScript final : public ObjectScript<Strong> {
  using Interner = WeakInterner<T, ScriptHash, ScriptEqual>;
  using Base = ObjectScript<Strong>;
  using typename Base::Attempted;
  using Value = std::remove_const_t<typename Base::Object>;
  static constexpr int kKeys = Script::kKeys;

 public:
  WeakInternerScript(ScriptBytes bytes, int hashes, bool trace)
      : Base(bytes, trace), interner_(std::make_unique<Interner>(ScriptHash(hashes))) {}

 private:
  void Operate() override {
    constexpr int kChances = 24;
    const int operation = Next(kChances);
    if (operation < 12) {
      Intern();
    } else if (operation < 15) {
      LookUp();
    } else if (operation < 20) {
      this->DropSome();
    } else if (operation < 22) {
      Iterate();
    } else {
      Upkeep();
    }
    CheckSize();
  }

  // The new object's constructor may run operations, which may intern an equal one.
  void Intern() {
    const int value = this->NextKey();
    this->Say("Intern", value);
    const bool from_view = this->Toss();
    Strong interned;
    Attempted attempted;
    if (from_view) {
      this->SetConstructor(Next(4) == 0 ? 1 + Next(2) : 0, Next(16) == 0);
      const ScriptKeyView view = {this, value};
      attempted = Attempt([&] { interned = interner_->intern(view); });
    } else {
      Value object(this, value);
      attempted = Attempt([&] { interned = interner_->intern(std::move(object)); });
    }
    if (!attempted.done) return;
    Require(interned != nullptr && interned->value() == value, "Intern: another value");
    if (IsLive(value)) {
      Require(model_.object(value) == Base::IdOf(interned), "Intern: not the one object");
    } else {
      model_.Enter(value, Base::IdOf(interned));
    }
    this->Keep(interned);
  }

  void LookUp() {
    const int value = this->NextKey();
    this->Say("get, contains", value);
    const ScriptKeyView view = {this, value};
    Strong found;
    bool contains = false;
    if (Attempt([&] { found = interner_->get(view); }).done) RequireIs(value, found, "get");
    // An object that dies while it is looked up was there.
    if (!Attempt([&] { contains = interner_->contains(view); }).undisturbed()) return;
    Require(contains == IsLive(value), "contains: the wrong answer");
  }

  void Iterate() {
    this->Say("iterate");
    const KeyModel before = model_;
    std::array<uint32_t, kKeys> visited{};
    const int acts = Next(3);
    const auto visit = [&](const Strong& object) {
      RequireIs(object->value(), object, "iteration: not the object of its value");
      const uint32_t entry = model_.entry(object->value());
      Require(std::exchange(visited[object->value()], entry) != entry, "iteration: visits twice");
      if (Next(4) == 0) this->Act(acts);
    };
    const bool range = this->Toss();
    const Attempted attempted = Attempt([&] {
      if (!range) return interner_->for_each(visit);
      for (const Strong& object : *interner_) visit(object);
    });
    for (int value = 0; value < kKeys && attempted.done; ++value) {
      if (!IsLive(value) || model_.entry(value) != before.entry(value)) continue;
      Require(visited[value] == before.entry(value), "iteration: misses an object");
    }
  }

  void Upkeep() {
    const int what = Next(32);
    this->Say("upkeep", what);
    std::vector<Strong> snapshot;
    if (what == 0) model_.Clear();
    const Attempted attempted = Attempt([&] {
      if (what == 0) interner_->clear();
      if (what % 4 == 1) interner_->purge();
      if (what % 4 == 2) interner_->reserve(static_cast<size_t>(2 * what));
      if (what % 8 == 3) interner_->shrink_to_fit();
      if (what % 8 == 7) snapshot = interner_->snapshot();
    });
    if (what % 8 != 7 || !attempted.undisturbed()) return;
    Require(snapshot.size() == LiveCount(), "Snapshot: of the wrong size");
    for (const Strong& object : snapshot) RequireIs(object->value(), object, "Snapshot");
  }

  bool IsLive(int value) const { return this->IsAlive(model_.object(value)); }
  void RequireIs(int value, const Strong& object, const char* what) {
    const int live = IsLive(value) ? model_.object(value) : KeyModel::kNone;
    Require(Base::IdOf(object) == live, what);
  }
  size_t LiveCount() const {
    size_t count = 0;
    for (int value = 0; value < kKeys; ++value) count += IsLive(value) ? 1 : 0;
    return count;
  }
  void CheckSize() {
    const size_t size = interner_->size();
    Require(size >= LiveCount() && size <= kKeys, "size: too small or too large");
    if (Base::kExactSize && !this->AnyDying()) Require(size == LiveCount(), "size: not exact");
  }

  void CheckContents() override {
    interner_->CheckInvariantsForTesting();
    CheckSize();
    for (int value = 0; value < kKeys; ++value) {
      RequireIs(value, interner_->get(ScriptKeyView{this, value}), "contents: another object");
    }
  }

  void Finish() override {
    this->DropAll();
    interner_->purge();
    Require(interner_->empty(), "purge: leaves something at the end");
    interner_->CheckInvariantsForTesting();
    interner_.reset();
  }

  using Base::Attempt;
  using Base::Next;
  using Base::Require;

  std::unique_ptr<Interner> interner_;
  KeyModel model_;
};

}  // namespace

// The first byte chooses the handle, the second how many hashes there are.
ScriptResult RunWeakInternerScript(const uint8_t* data, size_t size, bool trace) {
  using Shared = std::shared_ptr<const LargeScriptObject>;
  ScriptBytes bytes(data, size);
  const int handle = bytes.Next(4);
  const int hashes = bytes.Next(4);
  switch (handle) {
    case 0:
      return WeakInternerScript<SmallScriptObject, Ref<const SmallScriptObject>>(bytes, hashes,
                                                                                 trace)
          .Run();
    case 1:
      return WeakInternerScript<Shared, Shared>(bytes, hashes, trace).Run();
    default:
      return WeakInternerScript<LargeScriptObject, Ref<const LargeScriptObject>>(bytes, hashes,
                                                                                 trace)
          .Run();
  }
}

}  // namespace weakcache::testing
