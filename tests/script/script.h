// SPDX-License-Identifier: Apache-2.0
// Scripts: bytes that say which operations to run on a container and on its model. Random bytes
// make a random test, and libFuzzer's bytes make a fuzz target, of the same interpreter.
//
// Objects are held by the script's pool alone, and any operation may end one. Within an operation
// on the container
//  - an object's destructor or constructor, a factory, a visitor and a key's destructor may run
//    more operations of the script, on the same container (Act);
//  - a key's hash, equality or copy may throw, or let an object go, as another thread might;
//  - an allocation may fail.
// A script of one container is a class derived from ObjectScript (see weak_value_map_script.h).
// It compares results with the model after the operation, when nested operations have changed both.
#ifndef WEAKCACHE_TESTS_SCRIPT_SCRIPT_H_
#define WEAKCACHE_TESTS_SCRIPT_SCRIPT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "weakcache/weakref/handle_traits.h"

namespace weakcache::testing {

// The bytes of a script; zeros once they are used up.
class ScriptBytes {
 public:
  ScriptBytes(const uint8_t* data, size_t size) : next_(data), end_(data + size) {}

  bool AtEnd() const { return next_ == end_; }
  int Next() { return AtEnd() ? 0 : *next_++; }
  int Next(int below) { return Next() % below; }

 private:
  const uint8_t* next_;
  const uint8_t* end_;
};

struct ScriptResult {
  std::string failure;  // empty if all was well
  int operations = 0;
};

// What a script's own code throws.
struct ScriptError {};

// What is the same for all containers and handles.
class Script {
 public:
  static constexpr int kKeys = 32;

  Script(ScriptBytes bytes, bool trace) : bytes_(bytes), trace_(trace) {}
  Script(const Script&) = delete;
  Script& operator=(const Script&) = delete;
  virtual ~Script() = default;

  ScriptResult Run();

  // For objects' constructors and destructors.
  int CreateObject();
  void DestroyObject(int id) noexcept;
  // For the hash, the equality and the copies of keys.
  void TouchKey();
  // For all constructors and destructors of keys, and of values that are attached to keys.
  void AddKey() { ++keys_; }
  void RemoveKey() noexcept;

 protected:
  // A destructor's object is expired, but a container may not have been told yet.
  enum class Life : uint8_t { kAlive, kDying, kGone };
  // What happens during the next operation on the container.
  struct Faults {
    int throw_in = 0;  // at the n-th touch of a key
    int drop_in = 0;
    int drop_slot = 0;
    int act_in = 0;  // at the n-th end of a key
    int key_acts = 0;
    int constructor_acts = 0;
    bool constructor_throws = false;
    bool fails_allocation = false;
  };
  struct Attempted {
    bool done = false;    // nothing was thrown
    bool nested = false;  // other operations of the script ran inside
    bool died = false;    // an object died inside
    bool undisturbed() const { return done && !nested && !died; }
  };

  // Keeps the script's own code from running inside operations that must not be changed by it.
  class Quiet {
   public:
    explicit Quiet(Script* script) : script_(script) { ++script_->quiet_; }
    Quiet(const Quiet&) = delete;
    Quiet& operator=(const Quiet&) = delete;
    ~Quiet() { --script_->quiet_; }

   private:
    Script* const script_;
  };

  // One operation, to be read from the bytes.
  virtual void Operate() = 0;
  // Compares all of the containers with the model. Only if nothing is in progress.
  virtual void CheckContents() = 0;
  // Ends the containers.
  virtual void Finish() = 0;
  // Lets go what the pool holds at this place.
  virtual void Drop(int slot) = 0;

  // Runs an operation on the container, perhaps with faults. `ends_act`: whether the end of a key
  // or of an attached value inside it may run operations.
  template <typename Operation>
  Attempted Attempt(Operation&& operation, bool ends_act = true);
  // For operations that the model can follow only as a whole: nothing else runs inside.
  template <typename Operation>
  Attempted AttemptAlone(Operation&& operation) {
    const Quiet quiet(this);
    return Attempt(std::forward<Operation>(operation));
  }
  // Runs a few operations inside another.
  void Act(int operations) noexcept;

  void Require(bool condition, const char* what) {
    if (!condition) Fail(what);
  }
  void Say(const char* operation, int key = -1) {
    if (trace_) Trace(operation, key);
  }

  int Next() { return bytes_.Next(); }
  int Next(int below) { return bytes_.Next(below); }
  bool Toss() { return bytes_.Next(2) != 0; }
  // Often the one before, so that nested operations meet the one around them.
  int NextKey();

  bool IsAlive(int id) const { return id >= 0 && objects_[id].life == Life::kAlive; }
  bool IsDying(int id) const { return id >= 0 && objects_[id].life == Life::kDying; }
  bool AnyDying() const { return dying_ > 0; }
  // While nothing is in progress a container may be moved.
  bool AnyInProgress() const { return in_progress_ > 0; }
  void SetActions(int id, int operations) { objects_[id].actions = operations; }
  // Of the object that is made next.
  int NextObjectId() const { return static_cast<int>(objects_.size()); }
  // Which keys an object has ever been entered under.
  void EnteredUnder(int id, int key) { objects_[id].keys |= uint32_t{1} << key; }
  bool WasEverUnder(int id, int key) const { return (objects_[id].keys >> key & 1) != 0; }
  void SetConstructor(int acts, bool throws) { constructor_ = {acts, throws}; }

 private:
  static constexpr int kMaxDepth = 3;

  struct Object {
    Life life = Life::kAlive;
    int actions = 0;  // how many operations its destructor runs
    uint32_t keys = 0;
  };

  Faults NextFaults();
  void Fail(const char* what);
  void Trace(const char* operation, int key);

  ScriptBytes bytes_;
  const bool trace_;
  ScriptResult result_;
  std::vector<Object> objects_;
  Faults faults_;
  std::pair<int, bool> constructor_{0, false};  // for the next Attempt
  int last_key_ = 0;
  int depth_ = 0;
  int quiet_ = 0;
  int in_progress_ = 0;
  int dying_ = 0;
  int keys_ = 0;
  uint64_t deaths_ = 0;
  uint64_t acts_ = 0;
};

template <typename Operation>
Script::Attempted Script::Attempt(Operation&& operation, bool ends_act) {
  const uint64_t deaths = deaths_;
  const uint64_t acts = acts_;
  Attempted attempted;
  faults_ = NextFaults();
  if (!ends_act) faults_.act_in = 0;
  const bool fails_allocation = faults_.fails_allocation;
  ++in_progress_;
  try {
    operation();
    attempted.done = true;
  } catch (const ScriptError&) {
  } catch (const std::bad_alloc&) {
    Require(fails_allocation, "std::bad_alloc for no reason");
  }
  FailAllocation(0);
  --in_progress_;
  faults_ = Faults();
  attempted.died = deaths_ != deaths;
  attempted.nested = acts_ != acts;
  return attempted;
}

// A key that is looked up without being one.
struct ScriptKeyView {
  Script* script;
  int id;
};

// The referent. Small ones lie beside their counts.
template <int kBytes>
class ScriptObject {
 public:
  explicit ScriptObject(Script* script, int value = 0)
      : script_(script), value_(value), id_(script->CreateObject()) {}
  explicit ScriptObject(ScriptKeyView view) : ScriptObject(view.script, view.id) {}
  ScriptObject(ScriptObject&& other) noexcept
      : script_(std::exchange(other.script_, nullptr)), value_(other.value_), id_(other.id_) {}
  ScriptObject& operator=(ScriptObject&&) = delete;
  ~ScriptObject() {
    if (script_ != nullptr) script_->DestroyObject(id_);
  }

  int id() const { return id_; }
  // What containers that compare by value go by.
  int value() const { return value_; }
  Script* script() const { return script_; }

 private:
  Script* script_;
  const int value_;
  const int id_;
  [[maybe_unused]] char padding_[kBytes] = {};
};
using SmallScriptObject = ScriptObject<1>;
using LargeScriptObject = ScriptObject<100>;

class ScriptKey {
 public:
  explicit ScriptKey(ScriptKeyView view) : script_(view.script), id_(view.id) {
    script_->TouchKey();
    script_->AddKey();
  }
  ScriptKey(const ScriptKey& other) : ScriptKey(other.view()) {}
  ScriptKey(ScriptKey&& other) noexcept : script_(other.script_), id_(other.id_) {
    script_->AddKey();
  }
  ScriptKey& operator=(ScriptKey&& other) noexcept {
    id_ = other.id_;
    return *this;
  }
  ~ScriptKey() { script_->RemoveKey(); }

  int id() const { return id_; }
  ScriptKeyView view() const { return {script_, id_}; }

 private:
  Script* script_;
  int id_;
};

// The hashes of integers below 32, or fewer.
class ScriptHash {
 public:
  using is_transparent = void;

  // `hashes`: how many different ones; 0: no limit.
  explicit ScriptHash(int hashes = 0) : hashes_(hashes) {}

  size_t operator()(ScriptKeyView key) const { return OfId(key.script, key.id); }
  size_t operator()(const ScriptKey& key) const { return OfId(key.view().script, key.id()); }
  template <int kBytes>
  size_t operator()(const ScriptObject<kBytes>& object) const {
    return OfId(object.script(), object.value());
  }

 private:
  size_t OfId(Script* script, int id) const {
    script->TouchKey();
    return static_cast<size_t>(hashes_ == 0 ? id : id % hashes_);
  }

  int hashes_;
};

struct ScriptEqual {
  using is_transparent = void;
  bool operator()(const ScriptKey& a, const ScriptKey& b) const { return (*this)(a, b.view()); }
  bool operator()(const ScriptKey& a, ScriptKeyView b) const {
    b.script->TouchKey();
    return a.id() == b.id;
  }
  template <int kBytes>
  bool operator()(const ScriptObject<kBytes>& a, const ScriptObject<kBytes>& b) const {
    return (*this)(a, ScriptKeyView{b.script(), b.value()});
  }
  template <int kBytes>
  bool operator()(const ScriptObject<kBytes>& a, ScriptKeyView b) const {
    b.script->TouchKey();
    return a.value() == b.id;
  }
};

// Holds the objects. `Strong` is their handle.
template <typename Strong>
class ObjectScript : public Script {
 public:
  using Script::Script;

 protected:
  using Traits = HandleTraits<Strong>;
  using Object = typename Traits::element_type;
  using Weak = typename Traits::weak_type;
  // Whether size() leaves out what is dead.
  static constexpr bool kExactSize = Traits::kNotifiesExpiry;
  static constexpr int kHeld = 24;

  struct Held {
    Strong strong;
    Weak weak{};  // stays
    int id = -1;
  };

  static int IdOf(const Strong& object) { return object == nullptr ? -1 : object->id(); }

  Strong NewObject(int value = 0) { return Traits::Make(static_cast<Script*>(this), value); }
  Held& NextHeld() { return held_[Next(kHeld)]; }
  // A new object or one that the pool holds.
  Strong NextObject() {
    const Held& held = NextHeld();
    return Toss() || held.strong == nullptr ? NewObject() : held.strong;
  }

  // Puts the object into the pool in place of another, which ends here unless it is held twice.
  void Keep(const Strong& object) {
    if (object == nullptr) return;
    SetActions(object->id(), Next(4) == 0 ? 1 + Next(3) : 0);
    Held& held = NextHeld();
    const Strong replaced = std::exchange(held.strong, object);
    held.weak = Traits::MakeWeak(object);
    held.id = object->id();
  }

  void Drop(int slot) final {
    const Strong dropped = std::exchange(held_[slot % kHeld].strong, Strong());
  }
  void DropSome() {
    Say("drop");
    for (int count = 1 + Next(4); count > 0; --count) Drop(Next(kHeld));
  }
  void DropAll() {
    for (int slot = 0; slot < kHeld; ++slot) Drop(slot);
  }
  // The weak references too.
  void ForgetAll() { held_ = {}; }

 private:
  std::array<Held, kHeld> held_;
};

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SCRIPT_SCRIPT_H_
