# SPDX-License-Identifier: Apache-2.0

"""Weakens the lock-free core, one memory order or re-check at a time, and runs what should notice.

See mutation_gate.sh. The orders are found in the headers; the re-checks are the table below.
"""

import argparse
import collections
import concurrent.futures
import glob
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HEADERS = [
    *sorted(glob.glob("weakref/internal/*.h")),
    "cache/internal/concurrent/concurrent_index.h",
    "cache/internal/creation/single_flight.h",
    "cache/internal/loading/load_limiter.h",
    "cache/internal/slot/retire_list.h",
    "cache/internal/slot/teardown_count.h",
    "cache/internal/table/expiry_claim.h",
]
SURVIVORS = "tools/mutation_survivors.txt"
COPIED = [
    ".bazelrc", "BUILD", "WORKSPACE", "bazelw", "cache", "include", "tests", "third_party", "tools", "weakref",
]

# What an order can be weakened to.
WEAKER = {
    "acquire": ["relaxed"],
    "release": ["relaxed"],
    "acq_rel": ["relaxed", "acquire", "release"],
}

# The tests that look at one header in particular; the others run after them.
LANES_OF = {
    "control_block.h": ["deferred_destruction", "reference_counts"],
    "expiry_callback.h": ["expiry_callback"],
    "finalizer_state.h": ["finalizer_state"],
    "reference_counts.h": ["reference_counts", "reference_counts_overflow"],
    "atomic_reference.h": ["atomic_ref"],
    "pointer_lock.h": ["watcher_list", "atomic_ref"],
    "watcher_list.h": ["watcher_list"],
}

# Mutants of cache/ are the affair of these models, if any, and then of the containers' tests.
CACHE_MODELS_OF = {
    "concurrent_core.h": ["concurrent_table"],
    "concurrent_index.h": ["concurrent_index", "concurrent_table"],
    "concurrent_slot.h": ["concurrent_table"],
    "concurrent_table.h": ["concurrent_table", "single_flight"],
    "concurrent_weak_value_map.h": ["concurrent_table", "single_flight"],
    "expiry_claim.h": ["expiry_claim", "weak_table"],
    "retire_list.h": ["retire_list", "weak_table"],
    "single_flight.h": ["single_flight", "wait_graph"],
    "page_header.h": ["weak_table", "concurrent_table"],
    "slot_pages.h": ["weak_table"],
    "table_core.h": ["weak_table"],
    "table_pages.h": ["weak_table", "concurrent_table"],
    "teardown_count.h": ["retire_list", "weak_table"],
    "table_slot.h": ["weak_table"],
    "wait_graph.h": ["wait_graph"],
    "weak_table.h": ["weak_table"],
    "load_limiter.h": ["wait_graph"],
}
CONTAINER_TESTS = [
    "tests/cache/weak_value_map_test",
    "tests/cache/weak_container_reentrancy_test",
    "tests/cache/weak_key_map_test",
    "tests/cache/weak_key_map_by_value_reentrancy_test",
    "tests/cache/weak_set_test",
    "tests/cache/weak_interner_test",
    "tests/cache/internal/table/embedded_slot_race_test",
    "tests/script/script_test",
]

# Those of the thread-safe map, and of the cache, which is built on the same folders and has its own.
MAP_TESTS = [
    "tests/cache/concurrent_weak_value_map_exception_safety_test",
    "tests/cache/concurrent_weak_value_map_test",
    "tests/cache/concurrent_weak_value_map_race_test",
    "tests/cache/concurrent_weak_value_map_linearizability_test",
    "tests/cache/concurrent_weak_value_map_reentrancy_race_test",
    "tests/cache/internal/creation/single_flight_test",
]
CACHE_TESTS = [
    "tests/cache/internal/retention/retention_test",
    "tests/cache/internal/retention/lazy_greedy_dual_test",
    "tests/cache/large_object_cache_budget_test",
    "tests/cache/large_object_cache_operations_test",
    "tests/cache/large_object_cache_loading_test",
    "tests/cache/large_object_cache_freshness_test",
    "tests/cache/large_object_cache_waiting_test",
    "tests/cache/large_object_cache_refresh_test",
    "tests/cache/large_object_cache_bulk_test",
    "tests/cache/large_object_cache_reentrancy_test",
    "tests/cache/large_object_cache_end_test",
    "tests/cache/concurrent_creation_circle_test",
    "tests/cache/large_object_cache_race_test",
    "tests/cache/large_object_cache_exception_safety_test",
    "tests/cache/large_object_cache_test",
]
MAP_FOLDERS = ("cache/internal/concurrent/", "cache/internal/creation/")
CACHE_FOLDERS = tuple(
    f"cache/internal/{folder}/" for folder in ["core", "loading", "retention", "stats"]
)

# What mutants of cache/ are linked with: these include none of its internal headers.
UNCHANGED = [
    "tests/support/allocations.cc",
    *sorted(glob.glob("weakref/*.cc") + glob.glob("cache/*.cc")),
]

# The last lane, through bazel, for mutants that nothing else has killed.
SLOW_TESTS = [
    "//tests/weakref:expiry_test",
    "//tests/weakref:finalizer_test",
    "//tests/weakref:ref_test",
    "//tests/weakref:weak_ref_test",
]

# What becomes of a mutant.
KILLED = "killed"
KILLED_EXPLAINED = "explained, but killed"
SURVIVED = "SURVIVED"
SURVIVED_EXPLAINED = "survived, as explained"
DOES_NOT_COMPILE = "DOES NOT COMPILE"

Mutant = collections.namedtuple("Mutant", "id header start end replacement")

# Name, header, the text to find (once), and the text that replaces it.
RECHECKS = [
    ("copy's limit", "weakref/internal/reference_counts.h",
     "if (!IsWithinLimits(before & kStrongMask)) [[unlikely]]",
     "if (false)"),
    ("upgrade's look at the count", "weakref/internal/reference_counts.h",
     "if (IsWithinLimits(before & kStrongMask)) [[likely]]\n      return true;",
     "return true;"),
    ("upgrade's limit", "weakref/internal/reference_counts.h",
     "if ((before & kStrongMask) != 0) StrongOverflow();",
     ""),
    ("undo of a failed upgrade", "weakref/internal/reference_counts.h",
     "word_.fetch_sub(kStrongOne, std::memory_order_relaxed);",
     ""),
    ("failed upgrade", "weakref/internal/reference_counts.h",
     "if ((before & kExpiredFlag) != 0) {",
     "if (false) {"),
    ("weak reference for an overtaken release", "weakref/internal/reference_counts.h",
     "    AddWeak();\n    return true;",
     "    return true;"),
    ("not the last strong release", "weakref/internal/reference_counts.h",
     "return (before & kStrongMask) == kStrongOne;",
     "return true;"),
    ("weak limit", "weakref/internal/reference_counts.h",
     "if ((before >> kHalfBits) >= kLimit) [[unlikely]] {",
     "if (false) {"),
    ("sole weak owner", "weakref/internal/reference_counts.h",
     "if (word_.load(std::memory_order_acquire) == (kExpiredFlag | released)) return true;",
     "if ((word_.load(std::memory_order_acquire) & kExpiredFlag) != 0) return true;"),
    ("sole owner's shortcut", "weakref/internal/reference_counts.h",
     "if (current == kWeakOne) {",
     "if ((current & kStrongMask) == 0) {"),
    ("count still zero", "weakref/internal/reference_counts.h",
     "while ((current & kStrongMask) == 0) {",
     "for (;;) {"),
    ("flag not yet set", "weakref/internal/reference_counts.h",
     "while ((current & kStrongMask) == 0) {",
     "while ((current & kStrongMask & ~kExpiredFlag) == 0) {"),
    ("late thread's weak release", "weakref/internal/reference_counts.h",
     "return ReleaseWeak() ? AfterRelease::kFreeBlock : AfterRelease::kNothing;",
     "return AfterRelease::kNothing;"),
    ("late count stays", "weakref/internal/reference_counts.h",
     "word_.fetch_add(static_cast<Word>(kStrongOne - kExpiredFlag), std::memory_order_release);",
     "word_.store(kInitialCounts + kWeakOne, std::memory_order_release);"),
    ("left-over weak count", "weakref/internal/reference_counts.h",
     "static_cast<Word>(2 * kWeakOne - left_over)",
     "static_cast<Word>(2 * kWeakOne - 0 * left_over)"),
    ("late count may be the last", "weakref/internal/reference_counts.h",
     "return {false, ReleaseStrong()};",
     "word_.fetch_sub(kStrongOne, std::memory_order_release);\n    return {false, "
     "AfterRelease::kNothing};"),
    ("depth limit", "weakref/internal/control_block.h",
     "if (destructions.depth == Policy::kMaxNestedDestructions) {\n      next_deferred_",
     "if (false) {\n      next_deferred_"),
    ("deferred destructions", "weakref/internal/control_block.h",
     "if (destructions.depth == Policy::kMaxNestedDestructions) {\n      while",
     "if (false) {\n      while"),
    ("watcher already taken", "weakref/internal/watcher_list.h",
     "if (previous == nullptr) {",
     "if (false) {"),
    ("watcher is taken for good", "weakref/internal/watcher_list.h",
     "if (next != nullptr) next->previous_ = next;\n      watcher->previous_ = nullptr;",
     "if (next != nullptr) next->previous_ = next;"),
    ("next becomes the first", "weakref/internal/watcher_list.h",
     "if (next != nullptr) next->previous_ = next;\n",
     "\n"),
    ("list emptied meanwhile", "weakref/internal/watcher_list.h",
     "if (watcher == nullptr) {",
     "if (false) {"),
    ("lock is free", "weakref/internal/pointer_lock.h",
     "if ((word & kLocked) == 0 &&\n",
     "if (\n"),
    ("reference added under the lock", "weakref/internal/atomic_reference.h",
     "if (current.block != nullptr) Counting::Add(current.block);\n    block_.Unlock(current.block);",
     "block_.Unlock(current.block);\n    if (current.block != nullptr) Counting::Add(current.block);"),
    ("only the expected reference is replaced", "weakref/internal/atomic_reference.h",
     "if (current == expected) {",
     "if (true) {"),
    ("own callback", "weakref/internal/expiry_callback.h",
     "if (runner_.load(std::memory_order_relaxed) != Policy::CurrentThread()) {",
     "if (true) {"),
    ("wait for the callback", "weakref/internal/expiry_callback.h",
     "      AwaitDone();\n",
     "\n"),
    ("waking", "weakref/internal/expiry_callback.h",
     "      progress_.notify_all();\n",
     "\n"),
    ("last owner", "weakref/internal/expiry_callback.h",
     "if (owners_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;",
     "owners_.fetch_sub(1, std::memory_order_acq_rel);"),
    ("claimed once", "weakref/internal/finalizer_state.h",
     "return claimed_.exchange(1, std::memory_order_acq_rel) == 0;",
     "return claimed_.exchange(1, std::memory_order_acq_rel) <= 1;"),
    ("retire list is open", "cache/internal/slot/retire_list.h",
     "while (head != kClosed) {",
     "for (;;) {"),
    ("refused push", "cache/internal/slot/teardown_count.h",
     "return outstanding_.fetch_sub(1, std::memory_order_acq_rel) == 1;",
     "return false;"),
    ("none outstanding", "cache/internal/slot/teardown_count.h",
     "return outstanding_.fetch_sub(surplus, std::memory_order_acq_rel) == surplus;",
     "return outstanding_.fetch_sub(surplus, std::memory_order_acq_rel) == kBias;"),
    ("closed for good", "cache/internal/slot/retire_list.h",
     "head_.exchange(kClosed, std::memory_order_acquire)",
     "head_.exchange(0, std::memory_order_acquire)"),
    ("expiry is counted", "cache/internal/table/expiry_claim.h",
     "    retire_list.CountExpired();\n",
     ""),
    ("counting state", "cache/internal/table/expiry_claim.h",
     "state_.compare_exchange_strong(state, kClaiming,",
     "state_.compare_exchange_strong(state, kClaimed,"),
    ("releasing thread's claim", "cache/internal/table/expiry_claim.h",
     "if (!state_.compare_exchange_strong(state, kClaiming, std::memory_order_relaxed,\n         "
     "                               std::memory_order_relaxed)) {",
     "if (state != kUnclaimed) {"),
    ("container's claim", "cache/internal/table/expiry_claim.h",
     "if (state_.compare_exchange_strong(state, kDetached, std::memory_order_relaxed,\n          "
     "                             std::memory_order_relaxed)) {",
     "if (state_.load(std::memory_order_relaxed) == state) {"),
    ("wait for the count", "cache/internal/table/expiry_claim.h",
     "state_.load(std::memory_order_acquire) != kClaimed",
     "state_.load(std::memory_order_acquire) == kUnclaimed"),
    ("push of an expired embedded slot", "cache/internal/table/table_slot.h",
     "this->FinishExpiry([this] { owner()->PushExpired(this); });",
     "this->FinishExpiry();"),
    ("detached embedded slot is not pushed", "cache/internal/table/table_slot.h",
     "if (this->claim_.ClaimExpiry(owner()->retire_list())) {",
     "if (static_cast<void>(this->claim_.ClaimExpiry(owner()->retire_list())), true) {"),
    ("shared weak reference of a refused embedded slot", "cache/internal/slot/page_header.h",
     "      if (slot->DropWeak()) static_cast<void>(teardown_count_.Decrement());\n",
     ""),
    ("reference to tell watchers by", "weakref/internal/control_block.h",
     "    AddWeak();  // keeps the block until the watchers have been told\n    pass_on();\n",
     "    pass_on();\n"),
    ("watchers of a embedded slot", "weakref/internal/control_block.h",
     "    if (watchers_.empty()) [[likely]] {\n",
     "    if (true) {\n"),
    ("push of a freed embedded slot", "cache/internal/table/table_slot.h",
     "void FreeBlock() noexcept override { owner()->Push(this); }",
     "void FreeBlock() noexcept override {}"),
    ("container's weak reference", "cache/internal/table/table_slot.h",
     "BlockOf<H>(StartsWithWeakRef()), ",
     ""),
    ("external slot's weak reference", "cache/internal/table/table_slot.h",
     "    block_->AddWeak();\n",
     ""),
    ("external slot's watch", "cache/internal/table/table_slot.h",
     "    block_->AddWatcher(this);\n",
     ""),
    ("external slot's weak release", "cache/internal/table/table_slot.h",
     "void DropReferent() { block_->ReleaseWeak(); }",
     "void DropReferent() {}"),
    ("same owner", "cache/internal/table/table_slot.h",
     "return block() == RefAccess::Block(other);",
     "return true;"),
    ("external slot's expiry is counted", "cache/internal/slot/page_header.h",
     "void OnClaimed() noexcept override { core_->retire_list.CountExpired(); }",
     "void OnClaimed() noexcept override {}"),
    ("payload that dies with its referent", "cache/internal/table/table_core.h",
     "if constexpr (kLifetime == PayloadLifetime::kUntilReferentDies) slot->DestroyPayload();\n",
     ""),
    ("push of an expired external slot", "cache/internal/table/table_core.h",
     "slot->DestroyPayload();\n        this->Push(slot);",
     "slot->DestroyPayload();"),
    ("last refused push", "cache/internal/slot/page_header.h",
     "if (teardown_count_.Decrement()) core_->EndPage(slot);",
     "static_cast<void>(teardown_count_.Decrement());"),
    ("only refused pushes leave", "cache/internal/slot/page_header.h",
     "if (!core_->retire_list.Push(slot)) FinishRefusedPush(slot);",
     "static_cast<void>(core_->retire_list.Push(slot));\n      FinishRefusedPush(slot);"),
    ("new control block", "cache/internal/table/table_core.h",
     "      if constexpr (PageHeader::kEndsSlots) std::destroy_at(slot);\n      return ::new "
     "(static_cast<void*>(slot)) Embedded(page);",
     "      static_cast<void>(page);\n      return slot;"),
    ("emptying a slot whose expiry is pending", "cache/internal/table/table_core.h",
     "if (!slot->expiry_pending()) {\n      slot->DestroyPayload();",
     "if (true) {\n      slot->DestroyPayload();"),
    ("expiry came through meanwhile", "cache/internal/table/table_core.h",
     "if (!slot->expiry_pending()) {  // user code",
     "if (false) {  // user code"),
    ("expiry did not come through meanwhile", "cache/internal/table/table_core.h",
     "if (!slot->expiry_pending()) {  // user code",
     "if (true) {  // user code"),
    ("payload is the container's", "cache/internal/table/table_core.h",
     "if constexpr (!kNotifies || kLifetime == PayloadLifetime::kUntilPurge) "
     "slot->DestroyPayload();",
     "slot->DestroyPayload();"),
    ("payload of an expired slot", "cache/internal/table/table_core.h",
     "if constexpr (!kNotifies || kLifetime == PayloadLifetime::kUntilPurge) "
     "slot->DestroyPayload();",
     ""),
    ("embedded slot waits for its last weak reference", "cache/internal/table/table_core.h",
     "slot->set_state(State::kRetired);\n        if (AsEmbedded",
     "if (AsEmbedded"),
    ("embedded slot without references", "cache/internal/table/table_core.h",
     "if (AsEmbedded(slot)->DropWeak(references)) Free(slot);",
     "static_cast<void>(AsEmbedded(slot)->DropWeak(references));"),
    ("embedded slot with references", "cache/internal/table/table_core.h",
     "if (AsEmbedded(slot)->DropWeak(references)) Free(slot);",
     "static_cast<void>(AsEmbedded(slot)->DropWeak(references));\n        Free(slot);"),
    ("the container ended meanwhile", "cache/internal/table/table_core.h",
     "      } else if (shut_down_) {\n",
     "      } else if (false) {\n"),
    ("destroying slot whose expiry is pending, at the end", "cache/internal/table/table_core.h",
     "    if (slot->state() == State::kDestroying) return 2;\n",
     ""),
    ("retired slot at the close", "cache/internal/table/table_core.h",
     "if (retired->state() == State::kRetired) {",
     "if (false) {"),
    ("count of the pages left", "cache/internal/slot/table_pages.h",
     "if (!Release<EmbeddedSlots>(header, slots, size, count_outstanding)) ++pages_left;",
     "static_cast<void>(Release<EmbeddedSlots>(header, slots, size, count_outstanding));"),
    ("free slots leave nothing", "cache/internal/table/table_core.h",
     "    if (slot->is_free()) return 0;\n",
     ""),
    ("retired slots at the end", "cache/internal/table/table_core.h",
     "    if (slot->state() == State::kRetired) {\n      if constexpr",
     "    if (false) {\n      if constexpr"),
    ("two pushes left", "cache/internal/table/table_core.h",
     "return AsEmbedded(slot)->DropWeak() ? 1 : 2;",
     "return AsEmbedded(slot)->DropWeak() ? 1 : 1;"),
    ("one push left", "cache/internal/table/table_core.h",
     "return AsEmbedded(slot)->DropWeak() ? 1 : 2;",
     "return AsEmbedded(slot)->DropWeak() ? 2 : 2;"),
    ("external slot left behind", "cache/internal/table/table_core.h",
     "      AsExternal(slot)->DropReferent();\n    }\n    return 1;",
     "    }\n    return 1;"),
    ("last page ends the core", "cache/internal/slot/table_pages.h",
     "    return teardown_count_.Decrement();\n",
     "    static_cast<void>(teardown_count_.Decrement());\n    return false;\n"),
    ("table ends the core", "cache/internal/slot/table_pages.h",
     "return teardown_count_.SetRemaining(pages_left);",
     "return static_cast<void>(teardown_count_.SetRemaining(pages_left)), false;"),
    ("room in the index", "cache/internal/table/weak_table.h",
     "in_index_ < index_.max_size()) return;",
     "in_index_ <= index_.max_size()) return;"),
    ("another object in a slot is a change", "cache/internal/table/weak_table.h",
     "    ++version_;  // a caller that found it expired must look again\n",
     ""),
    ("replaced slot is detached", "cache/internal/table/weak_table.h",
     "    Detach(replaced);\n",
     ""),
    ("replaced slot is emptied", "cache/internal/table/weak_table.h",
     "    core_->DestroyErased(replaced);\n",
     ""),
    ("erased slot leaves the index", "cache/internal/table/weak_table.h",
     "    index_.Erase(slot->hash(), slot);\n",
     ""),
    ("count of live slots", "cache/internal/table/weak_table.h",
     "    --in_index_;\n",
     ""),
    ("detached slots are counted", "cache/internal/table/weak_table.h",
     "      ++detached_;\n",
     ""),
    ("pending expiry of an erased slot", "cache/internal/table/weak_table.h",
     "slot->set_expiry_pending(true);",
     ""),
    ("cleared index", "cache/internal/table/weak_table.h",
     "    index_.Clear();\n    in_index_ = 0;\n",
     "    in_index_ = 0;\n"),
    ("clearing slots whose expiry is pending", "cache/internal/table/weak_table.h",
     "if (slot->state() == State::kErased) core->DestroyErased(slot);",
     "if (slot->state() == State::kErased && !slot->expiry_pending()) core->DestroyErased(slot);"),
    ("entries added at the end", "cache/internal/table/weak_table.h",
     "while (in_index_ != 0 || retired_ != nullptr);",
     "while (false);"),
    ("retired slots that wait", "cache/internal/table/weak_table.h",
     "if (retired_ == nullptr && core_ != nullptr) retired_",
     "if (core_ != nullptr) retired_"),
    ("drained slot leaves the index", "cache/internal/table/weak_table.h",
     "case State::kVisible:\n        RemoveFromIndex(slot);",
     "case State::kVisible:"),
    ("expiry of a slot that is being destroyed", "cache/internal/table/weak_table.h",
     "const bool first_time = slot->expiry_pending();\n    slot->set_expiry_pending(false);",
     "const bool first_time = slot->expiry_pending();\n    if (slot->state() != "
     "State::kDestroying) slot->set_expiry_pending(false);"),
    ("first time of a retired slot", "cache/internal/table/weak_table.h",
     "if (first_time) {",
     "if (false) {"),
    ("limit of a drain", "cache/internal/table/weak_table.h",
     "!purged.full() && (slot = NextRetired()) != nullptr;)",
     "(slot = NextRetired()) != nullptr;)"),
    ("sweep of what is live", "cache/internal/table/weak_table.h",
     "    if (slot->expired()) {\n",
     "    if (true) {\n"),
    ("sweep of what has expired", "cache/internal/table/weak_table.h",
     "    if (slot->expired()) {\n",
     "    if (false) {\n"),
    ("erased slot leaves the ring", "cache/internal/table/weak_table.h",
     "    if constexpr (!kNotifies) polled_.Leave(Core::AsExternal(slot));\n",
     ""),
    ("page of external slots", "cache/internal/slot/table_pages.h",
     "      ExternalSlots::Delete(header, allocator_);\n    } else {",
     "    } else {"),
    ("merged entry that has changed", "cache/internal/table/weak_container.h",
     "&& table.version() == version) table",
     ") table"),
    ("merged or copied value that has gone", "cache/weak_key_map.h",
     "    if (!still_there()) return {pointer(), false};\n",
     ""),
    ("entry of a dead value", "cache/weak_key_map.h",
     "      if (!IsLive(found)) found = {};\n",
     ""),
    ("found key ends before the next look-up", "cache/weak_key_map.h",
     "      found = {};  // first: the key's destructor may run and change the map\n",
     ""),
    ("retired slots go along with a swap", "cache/internal/table/weak_table.h",
     "    swap(retired_, other.retired_);\n",
     ""),
    ("overflow counts are counted", "cache/internal/table/slot_index.h",
     "      chunk->AddToOverflowCount(1);\n",
     ""),
    ("overflow counts are counted back", "cache/internal/table/slot_index.h",
     "chunk->AddToOverflowCount(-1)",
     "chunk->AddToOverflowCount(0)"),
    ("saturated overflow counts are refilled", "cache/internal/table/slot_index.h",
     "return missed_decrements_ > std::max<size_t>(chunk_count_ / 4, fill_steps_ / 2);",
     "return false;"),
    ("erased slot is not refilled", "cache/internal/table/weak_table.h",
     "if (slot != erased) index_.Insert(slot->hash(), slot);",
     "index_.Insert(slot->hash(), slot);"),
    ("members added during a visit", "cache/weak_set.h",
     "      internal::BoundedVisit::RecordEntry(&table_, prepared.payload());\n",
     ""),
    ("replaced in the index", "cache/internal/table/slot_index.h",
     "    position.chunk->slots[position.entry] = slot;\n",
     ""),
    ("pages in use stay", "cache/internal/slot/slot_pages.h",
     "if (std::all_of(slots, slots + page->size, [](Slot& slot) { return slot.is_free(); })) {",
     "if (std::any_of(slots, slots + page->size, [](Slot& slot) { return slot.is_free(); })) {"),
    ("erasure of the expected only", "cache/weak_value_map.h",
     "slot.SameOwner(expected)",
     "(slot.SameOwner(expected) || true)"),
    ("expired are not erased", "cache/weak_value_map.h",
     "return expired ? 0 : 1;",
     "return 1;"),
    ("growth that can be done without", "cache/internal/concurrent/concurrent_table.h",
     "static_cast<void>(index_.TryGrow(GrownSize(in_index_ + 1)));",
     "GrowFor(in_index_ + 1);"),
    ("a purge's turns", "cache/internal/concurrent/concurrent_table.h",
     "static constexpr size_t kPurgesPerTurn = 256;",
     "static constexpr size_t kPurgesPerTurn = size_t{1} << 30;"),
    ("count before key", "cache/internal/concurrent/concurrent_table.h",
     "    if (!slot->TryAddStrongSpeculatively()) return false;\n    SlotReference "
     "reference{slot};\n    if (!match(*slot)) return false;",
     "    if (!match(*slot)) return false;\n    if (!slot->TryAddStrongSpeculatively()) return "
     "false;\n    SlotReference reference{slot};"),
    ("look at the key", "cache/internal/concurrent/concurrent_table.h",
     "    SlotReference reference{slot};\n    if (!match(*slot)) return false;\n",
     "    SlotReference reference{slot};\n"),
    ("index before publication", "cache/internal/concurrent/concurrent_table.h",
     "      index_.Insert(slot);\n      ++in_index_;\n      publish();\n",
     "      publish();\n      index_.Insert(slot);\n      ++in_index_;\n"),
    ("publication changes the version", "cache/internal/concurrent/concurrent_table.h",
     "      index_.NotePublished();\n",
     ""),
    ("look at the version", "cache/internal/concurrent/concurrent_index.h",
     "return {nullptr, version % 2 == 0 && version_.load(std::memory_order_relaxed) == version,",
     "return {nullptr, true,"),
    ("look for a change under way", "cache/internal/concurrent/concurrent_index.h",
     "return {nullptr, version % 2 == 0 && version_",
     "return {nullptr, version_"),
    ("quick look at the version", "cache/internal/concurrent/concurrent_index.h",
     "*version % 2 == 0 &&\n           version_.load(std::memory_order_relaxed) == *version;",
     "true;"),
    ("overflow counts of a quick miss", "cache/internal/concurrent/concurrent_index.h",
     "ChunkTags::OverflowCount(tags) == 0 && *version % 2 == 0",
     "*version % 2 == 0"),
    ("expiry of what is entered is counted", "cache/internal/concurrent/concurrent_slot.h",
     "if (this->state() == State::kVisible) owner()->retire_list().CountExpired();\n",
     ""),
    ("told external slot at the table's end", "cache/internal/concurrent/concurrent_core.h",
     "if (!this->retire_list().Push(external)) external->ReleaseStrong();",
     "static_cast<void>(this->retire_list().Push(external));"),
    ("slot reference at a external slot that is left behind", "cache/internal/concurrent/concurrent_core.h",
     "    if (!slot->TryAddStrong()) return 1;\n    if (AsExternal(slot)->Unwatch()) "
     "slot->ReleaseStrong();\n    slot->ReleaseStrong();\n",
     "    if (AsExternal(slot)->Unwatch()) slot->ReleaseStrong();\n"),
    ("circle of waiting threads", "cache/internal/creation/wait_graph.h",
     "if (!search.AllWait(thread) || search.GrantOne()) return true;",
     "static_cast<void>(!search.AllWait(thread) || search.GrantOne());\n    return true;"),
    ("a permit opens a circle", "cache/internal/creation/wait_graph.h",
     "if (!search.AllWait(thread) || search.GrantOne()) return true;",
     "if (!search.AllWait(thread)) return true;"),
    ("registered before the search", "cache/internal/creation/wait_graph.h",
     "    wait.waiting_ = &thread;\n    thread.wait = &wait;\n    Search search;\n"
     "    if (!search.AllWait(thread) || search.GrantOne()) return true;\n",
     "    Search search;\n    if (!search.AllWait(thread) || search.GrantOne()) {\n      wait.waiting_ = &thread;\n"
     "      thread.wait = &wait;\n      return true;\n    }\n"),
    ("search goes on", "cache/internal/creation/wait_graph.h",
     "if (wait == nullptr) return false;",
     "if (wait == nullptr) continue;"),
    ("refused wait is forgotten", "cache/internal/creation/wait_graph.h",
     "    EndAfter end{wait};\n",
     ""),
    ("waiters of an ended creation run", "cache/internal/creation/single_flight.h",
     "    WaitGraph::Get().EndAll(flight.waiters_);\n",
     ""),
    ("waking the waiters", "cache/internal/creation/single_flight.h",
     "    flight.waiters_ = nullptr;  // it may start once more\n    completed_.NotifyAll();\n",
     ""),
    ("another started uncontended meanwhile", "cache/internal/creation/single_flight.h",
     "    return started;\n",
     "    static_cast<void>(started);\n    return true;\n"),
    ("a leaf takes a flight's place", "cache/internal/creation/single_flight.h",
     "    if (heir != nullptr) std::copy_n(flight.children_, 2, heir->children_);\n",
     ""),
    ("creations without a key are pending", "cache/internal/creation/single_flight.h",
     "if (!flight->IsThisThreads()) found.key_pending = flight;",
     "found.key_pending = nullptr;"),
    ("a pending key that has come", "cache/internal/creation/single_flight.h",
     "      if (flight_.key_.load(std::memory_order_relaxed) != nullptr) return false;\n",
     ""),
    ("a pending key's wait is seen", "cache/internal/creation/single_flight.h",
     "      visitor.Visit(*flight_.thread_);\n      return true;\n",
     "      return false;\n"),
    ("who has waited for a key leaves", "cache/internal/creation/single_flight.h",
     "    lock.lock();\n    Leave(waiter);\n",
     "    lock.lock();\n    WaitGraph::Get().End(waiter.wait);\n"),
    ("who is cancelled while it waits leaves", "cache/internal/creation/single_flight.h",
     "      Leave(waiter);\n      Interest* const interest",
     "      Interest* const interest"),
    ("a landed flight's waiters have not left", "cache/internal/creation/single_flight.h",
     "      if (waiter.completed) return;\n      Leave(waiter);\n",
     "      Leave(waiter);\n"),
    ("the last one that leaves", "cache/internal/creation/single_flight.h",
     "if (interest != nullptr && interest->Leave()) wait.StopLater(interest->source());",
     "if (interest != nullptr) interest->Leave();"),
    ("who waits is counted", "cache/internal/creation/single_flight.h",
     "    if (flight.interest_ != nullptr) flight.interest_->Join();\n",
     ""),
    ("a cancelled wait ends", "cache/internal/creation/single_flight.h",
     "return waiter.completed || wait.cancelled();",
     "return waiter.completed;"),
    ("who is about to sleep is woken", "cache/internal/creation/single_flight.h",
     "    { BasicMutexLock<Policy> lock(mutex); }\n",
     ""),
    ("a late caller has left", "cache/internal/creation/bounded_wait.h",
     "      return CallerLeaves();\n",
     "      return false;\n"),
    ("a caller leaves once", "cache/internal/creation/bounded_wait.h",
     "return !caller_has_left_.exchange(true, std::memory_order_relaxed) &&",
     "return"),
    ("a cancelled wait for a permit ends", "cache/internal/loading/load_limiter.h",
     "return limiter_.changes_ != seen_ || granted_ || wait.cancelled();",
     "return limiter_.changes_ != seen_ || granted_;"),
    ("none loads after its deadline", "cache/internal/core/cache_loads.h",
     "return !ended && reserved && permit.TryAcquire();",
     "return reserved && permit.TryAcquire();"),
    ("a caller's end fails no other", "cache/internal/core/cache_loads.h",
     "(if_other_fails == IfOtherFails::kLoad || outcome.abandoned)",
     "if_other_fails == IfOtherFails::kLoad"),
    ("a bulk load's end fails no other", "cache/internal/core/bulk_load.h",
     "        part.outcome.abandoned = ending.call.abandoned();\n",
     ""),
    ("a bulk load leaves", "cache/internal/core/bulk_load.h",
     "      if (wait_.ended()) return LeaveMissing();\n",
     ""),
    ("own creation without a key", "cache/internal/creation/single_flight.h",
     "if (!flight->IsThisThreads()) found.key_pending = flight;",
     "found.key_pending = flight;"),
    ("takes over in order", "cache/internal/creation/single_flight.h",
     "if (flight.key_.load(std::memory_order_acquire) != nullptr) Cancel",
     "if (flight.key_.load(std::memory_order_relaxed) != nullptr) Cancel"),
    ("only creations with a key are cancelled", "cache/internal/creation/single_flight.h",
     "if (flight.key_.load(std::memory_order_acquire) != nullptr) Cancel(flight);",
     "Cancel(flight);"),
    ("cancelled creations have left", "cache/internal/creation/single_flight.h",
     "if (!flight.cancelled_) Unlink(flight);",
     "Unlink(flight);"),
    ("spares are the uncontended one's", "cache/internal/creation/single_flight.h",
     "return uncontended_ && !cancelled_;",
     "return true;"),
    ("spares of a cancelled creation", "cache/internal/creation/single_flight.h",
     "return uncontended_ && !cancelled_;",
     "return uncontended_;"),
    ("change since the miss", "cache/internal/creation/single_flight.h",
     "if (table.version() != version) [[unlikely]] {",
     "if (false) {"),
    ("change since the start", "cache/internal/concurrent/concurrent_shard.h",
     "const bool is_absent = HandleTraits<H>::kNotifiesExpiry && table.version() == version;",
     "const bool is_absent = HandleTraits<H>::kNotifiesExpiry;"),
    ("slot of what came to nothing", "cache/internal/creation/single_flight.h",
     "    table.PurgeUpTo(Table::kPurgesPerOperation, deferred);\n",
     ""),
    ("failed refresh's slot", "cache/internal/core/cache_store.h",
     "    table.PurgeUpTo(Table::kPurgesPerOperation, removals.deferred);\n    table.template "
     "Prepare<kEmbedded>(prepared);",
     "    table.template Prepare<kEmbedded>(prepared);"),
    ("put objects supersede loads", "cache/internal/core/cache_store.h",
     "    if (flight != nullptr) flights.Supersede(*flight);\n",
     "    static_cast<void>(flight);\n"),
    ("superseded loads look for what was put", "cache/internal/core/cache_loads.h",
     "if (!cancelled || completion.flight->superseded()) {",
     "if (!cancelled) {"),
    ("no refresh of an entry that has left", "cache/internal/retention/retention.h",
     "    entry->refresh.Close();\n",
     ""),
    ("a refresh gives way to what is newer", "cache/internal/core/cache_refresh.h",
     "const bool newer =",
     "const bool newer = false &&"),
    ("a cancelled refresh is not entered", "cache/internal/core/cache_refresh.h",
     "    if (cancelled || present.slot == nullptr ||",
     "    if ((false && cancelled) || present.slot == nullptr ||"),
    ("loads whose thread has ended", "cache/internal/core/cache_loads.h",
     "if (outcome.object.get() == nullptr) return",
     "if (false) return"),
    ("loads of keys that are invalidated by a condition", "cache/internal/core/cache_core.h",
     "if (condition(key)) CancelLoad(key);",
     "static_cast<void>(condition);"),
    ("no eviction of what is in use at a hit", "cache/internal/retention/retention.h",
     "if (has_room) Retain(entry);",
     "AdmitLocked(entry, removals);"),
    ("only unused objects make room at a hit", "cache/internal/retention/retention.h",
     "if (!IsInUse(entry) && entry.object_weight() != 0 &&",
     "if (entry.object_weight() != 0 &&"),
    ("hits since then are spared at a hit", "cache/internal/retention/retention.h",
     " && !policy_.WouldSpare(node)) {",
     ") {"),
    ("evictions before the next weigher", "cache/internal/core/bulk_load.h",
     "    // Other threads rely on it, and the next part's weigher may take its time.\n"
     "    removals.FinishEviction();\n",
     ""),
    ("an expired object that is in use", "cache/internal/retention/retention.h",
     "entry->unused_at_eviction && is_expired_(*entry, removals.now);",
     "is_expired_(*entry, removals.now);"),
    ("an entry is queued by its new life", "cache/internal/retention/retention.h",
     "    by_expiry_.Remove(entry);\n    QueueByExpiry(entry);\n",
     ""),
    ("what has expired for certain comes first", "cache/internal/retention/expiry_queue.h",
     "Splice(lists_[bucket], *due.next_);",
     ""),
    ("some may have expired in this tick", "cache/internal/retention/expiry_queue.h",
     "    Splice(lists_[changed], due);\n",
     ""),
    ("an earlier time is due at once", "cache/internal/retention/expiry_queue.h",
     "tick < tick_ ? kDue : ",
     ""),
    ("the clock of lives of their own", "cache/internal/core/freshness.h",
     "    if (terms.has_life()) needed_.store(true, std::memory_order_relaxed);  // see the field\n",
     ""),
    ("times that change meanwhile", "cache/internal/core/freshness.h",
     "const int64_t now = Now(); if (written > now) {",
     "const int64_t now = Now();\n    accessed = entry.accessed.load();\n    if (written > now) {"),
    ("reservations above the budget", "cache/internal/retention/retention.h",
     "return reserved_ <= budget ? budget - reserved_ : budget;",
     "return reserved_ <= budget ? budget - reserved_ : 0;"),
    ("the search's node is queued anew", "cache/internal/retention/lazy_greedy_dual.h",
     "if (search_.active && search_.queue == queue && search_.next == nullptr) search_.next = node;",
     ""),
    ("a delayed look-up's time", "cache/internal/core/freshness.h",
     " && entry.accessed.load(std::memory_order_relaxed) < now) {",
     ") {"),
    ("a clock that is set back", "cache/internal/core/cache_store.h",
     "    if (outcome.times_are_doubtful()) freshness_.CorrectTimes(*entry);\n",
     ""),
    ("some hits ask again", "cache/internal/retention/cache_entry.h",
     "return hits == 16;",
     "return false;"),
    ("reservation is given back once", "cache/internal/retention/retention.h",
     "reserved_ -= std::exchange(reservation.bytes_, 0);",
     "reserved_ -= reservation.bytes_;"),
    ("a new entry is admitted by its own thread", "cache/internal/core/cache_store.h",
     "    shared_->counters.Pinned(entry->object_weight());\n    Ref<V> object;",
     "    entry->in_cache = true;\n    shared_->counters.Pinned(entry->object_weight());\n"
     "    Ref<V> object;"),
    ("room beside a reservation", "cache/internal/retention/retention.h",
     " || entry->object_weight() > unreserved_budget()) return;",
     ") return;"),
    ("a hit's room beside a reservation", "cache/internal/retention/retention.h",
     "    if (weight > unreserved_budget()) return false;\n",
     ""),
    ("an estimate that can't be had", "cache/internal/retention/retention.h",
     "    if (bytes > unreserved_budget()) return 0;\n",
     "    bytes = std::min(bytes, unreserved_budget());\n"),
    ("a budget set at the end", "cache/internal/retention/retention.h",
     "      if (closed_) return;\n",
     ""),
    ("an eviction's other turns", "cache/internal/retention/pending_removals.h",
     "      retention->FinishEviction(*this);\n",
     ""),
    ("too heavy objects go first", "cache/internal/retention/retention.h",
     "if (eviction.for_budget && eviction.spare_used && bytes != 0) {",
     "if (false) {"),
    ("evictions end", "cache/internal/retention/retention.h",
     "eviction.spare_used = looked / 2 <= size;",
     ""),
    ("loads inside loads", "cache/internal/loading/load_limiter.h",
     "return unlimited() || limiter_.CurrentLoad() != Limiter::kNoLoad;",
     "return unlimited();"),
    ("other limiters' loads", "cache/internal/loading/load_limiter.h",
     "while (permit != nullptr && &permit->limiter_ != this) permit = permit->outer_;",
     ""),
    ("who waits for a permit sees what is put", "cache/internal/loading/load_limiter.h",
     "  void NotifyChange() {\n    if (limit_ == 0) return;",
     "  void NotifyChange() {\n    return;"),
    ("a load inside a load is told", "cache/internal/loading/load_limiter.h",
     "    } else {\n      limiter_.NotifyChange();\n    }",
     "    }"),
    ("who waits for a permit looks once more", "cache/internal/loading/load_limiter.h",
     "      limiter_.waiters_.fetch_add(1, std::memory_order_acquire);\n      return;\n",
     "      limiter_.waiters_.fetch_add(1, std::memory_order_acquire);\n"),
    ("a wait for a permit that is over", "cache/internal/loading/load_limiter.h",
     "      if (limiter.changes_ != permit_.seen_) return false;\n",
     ""),
    ("a granted permit", "cache/internal/loading/load_limiter.h",
     "running_ < limit_ || permit.granted_ || MakerRuns()",
     "running_ < limit_ || MakerRuns()"),
    ("a granted permit wakes", "cache/internal/loading/load_limiter.h",
     "return limiter_.changes_ != seen_ || granted_ || wait.cancelled();",
     "return limiter_.changes_ != seen_ || wait.cancelled();"),
    ("a task of a load", "cache/internal/loading/load_limiter.h",
     "running_ < limit_ || permit.granted_ || MakerRuns()",
     "running_ < limit_ || permit.granted_"),
    ("a task of a load that has ended", "cache/internal/loading/load_limiter.h",
     "    return permit != nullptr;\n",
     "    return true;\n"),
    ("repeated keys", "cache/internal/core/bulk_load.h",
     "if (other.flight != nullptr && other.flight->IsThisThreads()) own = other.flight;\n",
     ""),
    ("another's failure", "cache/internal/core/cache_loads.h",
     "(if_other_fails == IfOtherFails::kLoad || outcome.abandoned)",
     "outcome.abandoned"),
    ("heaviest objects", "cache/internal/stats/cache_counters.h",
     "return std::min(bytes, uint64_t{1} << 48);",
     "return bytes;"),
    ("external object's death is heard of", "cache/internal/concurrent/concurrent_core.h",
     "}) {\n          ColdPartAt(external)->OnObjectExpired();",
     "}) {"),
    ("old weighings", "cache/internal/retention/retention.h",
     "!entry->in_cache || static_cast<int32_t>(weighing - entry->weighed) < 0",
     "!entry->in_cache"),
    ("nothing is admitted at the end", "cache/internal/retention/retention.h",
     "    policy_.SetBudget(0);\n    budget_.store(0, std::memory_order_relaxed);",
     ""),
    ("use after the eviction", "cache/internal/retention/pending_removals.h",
     "        if (unused_at_eviction) entry->hot.ownership.SetEvictedUnused();\n      }\n",
     "      }\n      if (unused_at_eviction) entry->hot.ownership.SetEvictedUnused();\n"),
    ("use at the eviction", "cache/internal/retention/pending_removals.h",
     "if (unused_at_eviction) entry->hot.ownership.SetEvictedUnused();",
     "entry->hot.ownership.SetEvictedUnused();"),
    ("unused objects' deaths", "cache/internal/retention/retention.h",
     "      entry->SetEvictedInUse(false);\n      entry->hot.ownership.SetEvictedUnused();",
     "      entry->SetEvictedInUse(false);"),
    ("only idle objects are victims", "cache/internal/retention/retention.h",
     "if (IsInUse(*entry)) {\n      policy_.SetAside(entry);\n      return false;\n    }\n    Evict(",
     "Evict("),
    ("what is idle again returns", "cache/internal/retention/retention.h",
     "else if (!ReturnIdle(eviction.looks_aside, eviction)) {",
     "else {"),
    ("evicted in use, and counted", "cache/internal/retention/retention.h",
     "if (!entry->notifying || !entry->unused_at_eviction) CountAsEvictedInUse(entry);",
     ""),
    ("kept by the listener, and counted", "cache/internal/retention/pending_removals.h",
     "entry->SetEvictedInUse(true);",
     ""),
    ("kept again, and not counted twice", "cache/internal/retention/retention.h",
     "    entry->SetEvictedInUse(false);\n    policy_.Insert(",
     "    policy_.Insert("),
    ("left the cache, and not counted", "cache/internal/retention/retention.h",
     "    entry->SetEvictedInUse(false);\n    entry->in_cache = false;",
     "    entry->in_cache = false;"),
    ("dead, and not counted", "cache/internal/retention/cache_entry.h",
     "    SetEvictedInUse(false);\n    shared_->counters.Unpinned(bytes);",
     "    shared_->counters.Unpinned(bytes);"),
    ("expired objects go first", "cache/internal/retention/retention.h",
     "      if (EvictExpired(eviction, removals)) continue;\n",
     ""),
    ("expired objects that are in use", "cache/internal/retention/retention.h",
     "if (expired && !IsInUse(*entry)) {",
     "if (expired) {"),
    ("a new object is no victim", "cache/internal/retention/retention.h",
     "/*spare_newest=*/eviction.for_budget);",
     "/*spare_newest=*/false);"),
    ("what is found moves on in the list by age", "cache/internal/retention/retention.h",
     "expired || entry->WasFound() ||",
     "expired ||"),
    ("what has a life of its own moves on in the list by age", "cache/internal/retention/retention.h",
     "entry->WasFound() || entry->has_own_life;",
     "entry->WasFound();"),
    ("room of objects in use that the budget leaves out", "cache/internal/retention/retention.h",
     "    if (!covers_in_use_) UpdateAside(bytes, eviction);\n",
     ""),
    ("what dies after the listener is freed", "cache/internal/retention/pending_removals.h",
     "        CountFreed(weight);\n        if",
     "        if"),
    ("made object's end", "cache/internal/concurrent/concurrent_shard.h",
     "      made = MakeObjectBy<H>(std::forward<Factory>(factory));",
     "      Made made = MakeObjectBy<H>(std::forward<Factory>(factory));"),
    ("object in use until reported", "cache/internal/retention/pending_removals.h",
     "    if (entry->object != entry->slot) entry->object->AddStrong();\n",
     ""),
]


def enclosing_function(text, position):
    """The name of the member function that the position lies in."""
    name = "?"
    for match in re.finditer(r"^  (?! )[^/\n;=]*?(~?\w+)\([^;]*?\{", text[:position], re.MULTILINE):
        name = match[1]
    return name


def order_mutants():
    seen = collections.Counter()
    for header in HEADERS:
        with open(header, encoding="utf-8") as file:
            text = file.read()
        for match in re.finditer(r"std::memory_order_(acquire|release|acq_rel)\b", text):
            operation = re.findall(r"(?:\.|->)(\w+)\(", text[:match.start()])[-1]
            function = enclosing_function(text, match.start())
            place = f"{os.path.basename(header)}/{function}/{operation}"
            seen[place] += 1
            if seen[place] > 1:
                place += f"#{seen[place]}"
            for weaker in WEAKER[match[1]]:
                yield Mutant(f"{place}/{match[1]}->{weaker}", header, match.start(1), match.end(1),
                             weaker)


def recheck_mutants():
    for name, header, old, new in RECHECKS:
        with open(header, encoding="utf-8") as file:
            text = file.read()
        # However the text is wrapped.
        found = list(re.finditer(r"\s+".join(map(re.escape, old.split())), text))
        if len(found) != 1:
            sys.exit(f"{header}: not exactly once: {old!r}; mend RECHECKS in {__file__}")
        yield Mutant(f"{os.path.basename(header)}/without: {name}", header, *found[0].span(), new)


def read_explanations():
    """Mutant id to reason, from lines "id = reason" that indented lines continue."""
    explanations = {}
    mutant = None
    with open(SURVIVORS, encoding="utf-8") as file:
        for line in file:
            if line.startswith("#") or not line.strip():
                continue
            if line[0].isspace():
                explanations[mutant] += " " + line.strip()
            else:
                mutant, _, reason = line.strip().partition(" = ")
                explanations[mutant] = reason
    return explanations


class DoesNotCompile(Exception):
    pass


class Lane:
    """A way to notice a mutant."""

    def __init__(self, name, command_to_build, command_to_run, more_rounds=False):
        self.has_more_rounds = more_rounds
        self._name = name
        self._build = command_to_build
        self._run = command_to_run
        self._limits = {"some": 1800, "all": 3600}

    def find_failure(self, directory, rounds="some", build=True):
        """What failed in the code in `directory` as it is now, or None."""
        if build and subprocess.run(self._build, capture_output=True, check=False,
                                    cwd=directory).returncode:
            raise DoesNotCompile(" ".join(self._build))
        environment = {**os.environ, "WEAKCACHE_TEST_ROUNDS": rounds}
        try:
            run = subprocess.run(self._run, capture_output=True, check=False,
                                 timeout=self._limits[rounds], env=environment, cwd=directory)
        except subprocess.TimeoutExpired:
            return f"{self._name}: timeout"
        if run.returncode == 0:
            return None
        output = run.stdout.decode(errors="replace")
        # As a model says it, and as GoogleTest does.
        failure = (re.search(r"^FAILED: ([^:\n]*):[^\n]*\n([^\n]*)", output, re.MULTILINE) or
                   re.search(r"^\[  FAILED  \] ([\w./]+)()", output, re.MULTILINE))
        if failure is None:
            return f"{self._name}: exit code {run.returncode}"
        reason = failure[2].lower().replace(" (data race detected)", "")
        return f"{self._name}: {failure[1]}" + (f", {reason}" if reason else "")

    def check_baseline(self, directory):
        """The code as it is must pass; how long that takes limits the mutants."""
        start = time.monotonic()
        try:
            failure = self.find_failure(directory)
        except DoesNotCompile as error:
            sys.exit(f"does not compile: {error}")
        if failure is not None:
            sys.exit(f"without any change: {failure}")
        self._limits["some"] = 60 + 5 * (time.monotonic() - start)


def fast_lane(name, source, flags, libraries, more_rounds=False):
    binary = f"./{name}"
    # Without optimisation clang takes half as long as GCC, with it longer.
    compiler = "clang++" if "-O0" in flags and shutil.which("clang++") else "g++"
    build = [compiler, "-std=c++20", "-w", "-Iinclude", "-I.", *flags, source, "-o", binary, *libraries]
    return Lane(name, build, [binary], more_rounds)


def object_of(source):
    return source.replace("/", "_").replace(".cc", ".o")


def compile_unchanged(directory):
    """Compiles the sources that no mutant of cache/ changes."""
    for source in UNCHANGED:
        subprocess.run(["g++", "-std=c++20", "-w", "-Iinclude", "-I.", "-O0", "-c", source, "-o",
                        object_of(source)], check=True, cwd=directory)


def package_libraries(*packages):
    return subprocess.run(["pkg-config", "--libs", *packages], capture_output=True, check=True,
                          text=True).stdout.split()


def make_lanes():
    lanes = {}
    libraries = package_libraries("absl_statusor")
    for source in sorted(glob.glob("tests/model/*_model_test.cc")):
        model = os.path.basename(source)[:-len("_model_test.cc")]
        lanes[model] = fast_lane(model + "_model_test", source, ["-Og", "-U_FORTIFY_SOURCE"],
                                 libraries, more_rounds=True)
    libraries = package_libraries("absl_hash", "absl_strings", "absl_statusor", "absl_time",
                                  "absl_str_format")
    for name in CONTAINER_TESTS + MAP_TESTS + CACHE_TESTS:
        scripts = [] if not name.endswith("/script_test") else [
            source for source in sorted(glob.glob("tests/script/*.cc"))
            if source != f"{name}.cc"
        ]
        lanes[name] = fast_lane(os.path.basename(name), f"{name}.cc",
                                ["-O0", *scripts, *(object_of(source) for source in UNCHANGED)],
                                [*libraries, "-lgtest", "-lgtest_main", "-lpthread"])
    lanes["reference_counts_overflow"] = fast_lane(
        "reference_counts_overflow_test",
        "tests/weakref/internal/reference_counts_overflow_test.cc", ["-O0"],
        ["-lgtest", "-lgtest_main", "-lpthread"])
    return lanes


def lanes_for(mutant, lanes):
    """The names of those of the lanes that look at the mutant, in order."""
    if mutant.header.startswith("cache/"):
        header = os.path.basename(mutant.header)
        if mutant.header.startswith(CACHE_FOLDERS):
            tests = CACHE_TESTS
        elif mutant.header.startswith(MAP_FOLDERS) or "concurrent" in header:
            tests = MAP_TESTS + CACHE_TESTS
        else:
            tests = CONTAINER_TESTS
        return CACHE_MODELS_OF.get(header, []) + tests
    first = LANES_OF.get(os.path.basename(mutant.header), [])
    return first + [name for name in lanes if name not in first and
                    name not in CONTAINER_TESTS + MAP_TESTS + CACHE_TESTS]


def make_slow_lane(directory):
    bazel = ["./bazelw", "--output_base=" + os.path.join(directory, "output")]
    flags = ["--jobs=1", "--copt=-w", "--noshow_progress", *SLOW_TESTS]
    return Lane("GoogleTest", [*bazel, "build", *flags], [*bazel, "test", *flags])


class Mutated:
    """Within its context the header in a directory is mutated."""

    def __init__(self, mutant, directory):
        self._mutant = mutant
        self._path = os.path.join(directory, mutant.header)
        with open(self._path, encoding="utf-8") as file:
            self._original = file.read()

    def __enter__(self):
        mutant = self._mutant
        self._write(self._original[:mutant.start] + mutant.replacement +
                    self._original[mutant.end:])

    def __exit__(self, *_):
        self._write(self._original)

    def _write(self, text):
        with open(self._path, "w", encoding="utf-8") as file:
            file.write(text)


class Gate:
    """Runs the lanes on one mutant after the other, in several copies of the project at a time."""

    def __init__(self, explanations, fast):
        self._explanations = explanations
        self._fast = fast
        self._lanes = make_lanes()
        # One of the workers at a time runs what is built with bazel, or prints.
        self._slow = threading.Lock()
        self._printing = threading.Lock()
        self.counts = collections.Counter()

    def run(self, mutants, directories):
        used = [
            lane for name, lane in self._lanes.items()
            if any(name in lanes_for(mutant, self._lanes) for mutant in mutants)
        ]
        free = queue.SimpleQueue()
        for directory in directories:
            free.put(directory)

        def in_a_free_directory(function, argument):
            directory = free.get()
            try:
                return function(argument, directory)
            finally:
                free.put(directory)

        with concurrent.futures.ThreadPoolExecutor(len(directories)) as workers:
            for work, items in [(lambda lane, directory: lane.check_baseline(directory), used),
                                (self._try_mutant, mutants)]:
                list(workers.map(lambda item, work=work: in_a_free_directory(work, item), items))

    def _try_mutant(self, mutant, directory):
        explained = mutant.id in self._explanations
        try:
            failure = self._find_failure(mutant, directory, explained)
        except DoesNotCompile as error:
            failure = None
            outcome = f"{DOES_NOT_COMPILE}: {error}"
            self.counts[DOES_NOT_COMPILE] += 1
        else:
            outcome = self._outcome(failure, explained)
            self.counts[outcome] += 1
        with self._printing:
            print(f"{mutant.id}: {outcome}" + (f" by {failure}" if failure else ""), flush=True)

    def _find_failure(self, mutant, directory, explained):
        with Mutated(mutant, directory):
            failure = self._run_fast_lanes(mutant, directory)
        # Of a mutant of cache/ the last lane knows nothing new.
        if (failure is None and not explained and not self._fast and
                not mutant.header.startswith("cache/")):
            with self._slow, Mutated(mutant, directory):
                failure = self._run_slow_lane(directory)
        return failure

    @staticmethod
    def _outcome(failure, explained):
        if failure is None:
            return SURVIVED_EXPLAINED if explained else SURVIVED
        return KILLED_EXPLAINED if explained else KILLED

    def _run_fast_lanes(self, mutant, directory):
        """The same tests with all rounds only for what they have not noticed in some."""
        names = lanes_for(mutant, self._lanes)
        more = [name for name in names if self._lanes[name].has_more_rounds]
        for rounds, names in [("some", names), ("all", more)]:
            for name in names:
                failure = self._lanes[name].find_failure(directory, rounds, build=rounds == "some")
                if failure is not None:
                    return failure
        return None

    def _run_slow_lane(self, directory):
        lane = make_slow_lane(directory)
        try:
            return lane.find_failure(directory)
        finally:
            subprocess.run(["./bazelw", "--output_base=" + os.path.join(directory, "output"),
                            "clean", "--expunge"], capture_output=True, check=False, cwd=directory)


def parse_arguments():
    parser = argparse.ArgumentParser(prog="tools/mutation_gate.sh")
    parser.add_argument("--list", action="store_true", help="print the ids of the mutants")
    parser.add_argument("--fast", action="store_true", help="without the tests that need bazel")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time")
    parser.add_argument("words", nargs="*", help="only mutants whose id contains one of these")
    return parser.parse_args()


def copy_project(directory):
    for name in COPIED:
        if os.path.isdir(name):
            shutil.copytree(name, os.path.join(directory, name), symlinks=True)
        else:
            shutil.copy(name, os.path.join(directory, name))


def run_gate(mutants, explanations, arguments):
    with tempfile.TemporaryDirectory(prefix="mutation_gate.", ignore_cleanup_errors=True) as root:
        directories = [os.path.join(root, str(i)) for i in range(arguments.jobs)]
        for directory in directories:
            os.mkdir(directory)
            copy_project(directory)
            compile_unchanged(directory)
        gate = Gate(explanations, arguments.fast)
        gate.run(mutants, directories)
    return gate.counts


def main():
    arguments = parse_arguments()
    os.environ["WEAKCACHE_SKIP_INSTALL"] = "1"
    explanations = read_explanations()
    mutants = [*order_mutants(), *recheck_mutants()]
    unknown = explanations.keys() - {mutant.id for mutant in mutants}
    if arguments.words:
        mutants = [mutant for mutant in mutants if any(w in mutant.id for w in arguments.words)]
    if arguments.list:
        print("\n".join(mutant.id for mutant in mutants))
        return 0
    start = time.monotonic()
    counts = run_gate(mutants, explanations, arguments)
    for mutant in sorted(unknown):
        print(f"{mutant}: explained in {SURVIVORS}, but there is no such mutant")
    print(f"{len(mutants)} mutants: {counts[KILLED]} killed, {counts[SURVIVED_EXPLAINED]} survived "
          f"as explained, {counts[SURVIVED]} survived, {counts[DOES_NOT_COMPILE]} do not compile; "
          f"{counts[KILLED_EXPLAINED] + len(unknown)} explanations to remove; "
          f"{(time.monotonic() - start) / 60:.1f} min")
    bad = counts[SURVIVED] + counts[DOES_NOT_COMPILE] + counts[KILLED_EXPLAINED] + len(unknown)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
