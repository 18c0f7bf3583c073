// SPDX-License-Identifier: Apache-2.0
#include "tests/script/script.h"

#include <cstdio>
#include <cstdlib>

namespace weakcache::testing {

ScriptResult Script::Run() {
  constexpr int kStepsBetweenChecks = 16;
  objects_.reserve(256);
  for (int step = 1; !bytes_.AtEnd() && result_.failure.empty(); ++step) {
    Operate();
    if (step % kStepsBetweenChecks == 0) CheckContents();
  }
  if (!result_.failure.empty()) return result_;
  CheckContents();
  Finish();
  for (const Object& object : objects_) {
    Require(object.life == Life::kGone, "an object is left at the end");
  }
  Require(keys_ == 0, "a key is left at the end");
  return result_;
}

int Script::CreateObject() {
  if (std::exchange(faults_.constructor_throws, false)) throw ScriptError();
  Act(std::exchange(faults_.constructor_acts, 0));
  objects_.emplace_back();
  return static_cast<int>(objects_.size()) - 1;
}

void Script::DestroyObject(int id) noexcept {
  Require(IsAlive(id), "an object ends twice");
  objects_[id].life = Life::kDying;
  ++dying_;
  ++deaths_;
  Act(objects_[id].actions);
  --dying_;
  objects_[id].life = Life::kGone;
}

void Script::TouchKey() {
  if (faults_.throw_in > 0 && --faults_.throw_in == 0) throw ScriptError();
  if (faults_.drop_in > 0 && --faults_.drop_in == 0) {
    const Quiet quiet(this);  // a hash must not use its container
    Drop(faults_.drop_slot);
  }
}

void Script::RemoveKey() noexcept {
  --keys_;
  if (faults_.act_in > 0 && --faults_.act_in == 0) Act(faults_.key_acts);
}

void Script::Act(int operations) noexcept {
  if (operations == 0 || quiet_ > 0 || depth_ == kMaxDepth || bytes_.AtEnd()) return;
  FailAllocation(0);
  const Faults around = std::exchange(faults_, Faults());
  ++depth_;
  ++acts_;
  for (; operations > 0 && result_.failure.empty(); --operations) Operate();
  --depth_;
  faults_ = around;
}

int Script::NextKey() {
  constexpr int kSameAsLast = 0xC0;
  const int byte = Next();
  if (byte < kSameAsLast) last_key_ = byte % kKeys;
  return last_key_;
}

Script::Faults Script::NextFaults() {
  ++result_.operations;
  Faults faults;
  faults.constructor_acts = constructor_.first;
  faults.constructor_throws = constructor_.second;
  constructor_ = {0, false};
  switch (Next(16)) {
    case 0:
      faults.throw_in = 1 + Next(8);
      break;
    case 1:
    case 2:
      faults.drop_in = 1 + Next(6);
      faults.drop_slot = Next();
      break;
    case 3:
      faults.fails_allocation = true;
      FailAllocation(1 + Next(4));
      break;
    case 4:
    case 5:
      faults.act_in = 1 + Next(3);
      faults.key_acts = 1 + Next(3);
      break;
    default:
      break;
  }
  return faults;
}

void Script::Fail(const char* what) {
  if (!result_.failure.empty()) return;
  FailAllocation(0);
  result_.failure = std::string(what) + " (operation " + std::to_string(result_.operations) + ")";
  // At once: the operation may yet crash.
  std::fprintf(stderr, "script: %s\n", result_.failure.c_str());
}

void Script::Trace(const char* operation, int key) {
  std::fprintf(stderr, "%*s%d: %s %d\n", 2 * depth_, "", result_.operations, operation, key);
}

}  // namespace weakcache::testing
