// SPDX-License-Identifier: Apache-2.0
// The beginning of each page of slots: leads from a slot to its container's retire list, and ends
// the page after its last use.
#ifndef WEAKCACHE_CACHE_INTERNAL_SLOT_PAGE_HEADER_H_
#define WEAKCACHE_CACHE_INTERNAL_SLOT_PAGE_HEADER_H_

#include <cstddef>
#include <type_traits>

#include "weakcache/cache/internal/slot/teardown_count.h"
#include "weakcache/weakref/internal/atomics_policy.h"
#include "weakcache/weakref/internal/control_block.h"

namespace weakcache::internal {

// The base of both engines' page headers. It is near the slots, for the threads that drop last
// references. Core has retire_list, and EndPage(slot), which deletes the page of a slot.
template <typename Core, typename Policy>
class PageHeaderBase : public BasicWatcherOwner<Policy> {
 public:
  // A slot's destructor does nothing, but lets a model checker detect later accesses.
  static constexpr bool kEndsSlots = !std::is_same_v<Policy, StdAtomics>;

  auto& retire_list() { return core_->retire_list; }

  // Pushes a slot to the retire list. The slot may be gone afterwards, and so may the page.
  template <typename Slot>
  void Push(Slot* slot) {
    if (!core_->retire_list.Push(slot)) FinishRefusedPush(slot);
  }
  // Pushes an embedded slot whose object has ended. The weak reference that the strong references
  // shared goes with it.
  template <typename Slot>
  void PushExpired(Slot* slot) {
    if (core_->retire_list.Push(slot)) return;
    // The table has ended and takes nothing any more, so this thread drops that weak reference. If
    // it was the last, the slot would be pushed once more, by FreeBlock; that is counted here, and
    // can't be the page's last push, since this one is still to be counted.
    if (slot->DropWeak()) static_cast<void>(teardown_count_.Decrement());
    FinishRefusedPush(slot);
  }
  // Counts a push that the closed retire list has refused; the last one ends the page.
  template <typename Slot>
  void FinishRefusedPush(Slot* slot) {
    if (teardown_count_.Decrement()) core_->EndPage(slot);
  }

  // Sets the number of pushes to come: see BasicTeardownCount.
  [[nodiscard]] bool SetRemaining(size_t remaining) {
    return teardown_count_.SetRemaining(remaining);
  }

 protected:
  explicit PageHeaderBase(Core* core) : core_(core) {}
  ~PageHeaderBase() = default;

 private:
  void OnClaimed() noexcept override { core_->retire_list.CountExpired(); }

  Core* const core_;
  BasicTeardownCount<Policy> teardown_count_;  // of pushes, after the table's end
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_SLOT_PAGE_HEADER_H_
