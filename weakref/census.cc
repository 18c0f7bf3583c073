// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "weakcache/weakref/cycles.h"
#include "weakcache/weakref/internal/census_entry.h"
#include "weakcache/weakref/internal/census_hook.h"
#include "weakcache/weakref/internal/check.h"
#include "weakcache/weakref/internal/large_array.h"

namespace weakcache {
namespace internal {
namespace {

// The censuses that exist.
struct OpenCensuses {
  std::mutex mutex;
  std::vector<CensusCore*> cores;  // guarded by mutex
};
OpenCensuses& AllOpen() {
  static auto* const all = new OpenCensuses;  // never destroyed: objects are made until the end
  return *all;
}

void JoinAll(ControlBlock* block, const void* object, const CensusType& type) {
  OpenCensuses& open = AllOpen();
  // The lock keeps the censuses. An entry of a Ref's object runs no user code.
  const std::lock_guard lock(open.mutex);
  for (CensusCore* const core : open.cores) core->Add(block, object, type);
}

}  // namespace

void CensusCore::Open() {
  OpenCensuses& open = AllOpen();
  const std::lock_guard lock(open.mutex);
  open.cores.push_back(this);
  join_censuses.store(&JoinAll, std::memory_order_release);  // see there
}

void CensusCore::Add(ControlBlock* block, const void* object, const CensusType& type) {
  if (block->HasWatcherOf(this)) return;
  auto* const entry = new CensusEntry(this, block, object, &type);
  struct Guard {
    ~Guard() {
      if (entry != nullptr) CensusEntry::Delete(entry);
    }
    CensusEntry* entry;
  } guard{entry};
  Enter(entry);
  guard.entry = nullptr;
  block->AddWatcher(entry);
}

void CensusCore::Add(std::unique_ptr<ForeignEntry> entry) {
  Enter(entry.get());
  static_cast<void>(entry.release());
}

void CensusCore::Enter(CensusEntry* entry) {
  CensusEntry* dead = nullptr;
  {
    const std::lock_guard lock(mutex_);
    entry->position = entries_.size();
    entries_.push_back(entry);
    of_shared_ptrs_ += entry->of_shared_ptr() ? 1 : 0;
    if (entry->block == nullptr) {
      ++foreign_;
      if (AsForeign(*entry).root_name() != nullptr) ++roots_;
      if (foreign_ >= sweep_at_) {
        dead = RemoveDead();
        sweep_at_ = std::max<size_t>(16, 2 * foreign_);
      }
    }
  }
  DeleteAll(dead);
}

void CensusCore::Remove(const CensusEntry& entry) {
  entries_[entry.position] = entries_.back();
  entries_[entry.position]->position = entry.position;
  entries_.pop_back();
  of_shared_ptrs_ -= entry.of_shared_ptr() ? 1 : 0;
  if (entry.block != nullptr) return;
  --foreign_;
  if (AsForeign(entry).root_name() != nullptr) --roots_;
}

CensusEntry* CensusCore::RemoveDead() {
  CensusEntry* first = nullptr;
  if (foreign_ == roots_) return first;
  for (size_t i = entries_.size(); i-- > 0;) {
    CensusEntry* const entry = entries_[i];
    if (entry->block != nullptr || !AsForeign(*entry).expired()) continue;
    Remove(*entry);
    entry->set_next(first);
    first = entry;
  }
  return first;
}

void CensusCore::DeleteAll(CensusEntry* first) {
  while (first != nullptr) {
    auto* const next = static_cast<CensusEntry*>(first->next());
    CensusEntry::Delete(first);
    first = next;
  }
}

size_t CensusCore::size() const {
  const std::lock_guard lock(mutex_);
  return entries_.size() - roots_;
}

size_t CensusCore::PinAll(std::vector<const CensusEntry*>& pinned) {
  std::vector<const CensusEntry*> others;
  CensusEntry* dead = nullptr;
  for (size_t room = 0, others_room = 0;;) {
    ReserveLarge(&pinned, room);
    others.reserve(others_room);
    const std::lock_guard lock(mutex_);
    const size_t others_now = foreign_ + of_shared_ptrs_;
    if (entries_.size() > pinned.capacity() || others_now > others.capacity()) {
      // With room to spare: other threads may add objects as fast as memory is reserved.
      room = entries_.size() + entries_.size() / 8 + 64;
      others_room = others_now + others_now / 8 + 64;
      continue;
    }
    dead = RemoveDead();
    // An entry that can't be pinned waits for its OnExpired.
    constexpr size_t kAhead = 8;  // what is fetched so many steps ahead
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (i + 2 * kAhead < entries_.size()) __builtin_prefetch(entries_[i + 2 * kAhead]);
      if (i + kAhead < entries_.size()) __builtin_prefetch(entries_[i + kAhead]->block, 1);
      const CensusEntry* const entry = entries_[i];
      if (!entry->Pin()) continue;
      const bool is_plain = entry->block != nullptr && !entry->of_shared_ptr();
      (is_plain ? pinned : others).push_back(entry);
    }
    break;
  }
  const size_t plain = pinned.size();
  pinned.insert(pinned.end(), others.begin(), others.end());  // there is room
  DeleteAll(dead);
  return plain;
}

void CensusCore::Unpin(const CensusEntry& entry) {
  if (entry.block != nullptr) {
    entry.block->ReleaseStrong();
    return;
  }
  std::unique_lock lock(mutex_);
  AsForeign(entry).UnpinHandle(lock);
}

void CensusCore::OnExpired(Watcher* watcher) noexcept {
  auto* const entry = static_cast<CensusEntry*>(watcher);
  bool last = false;
  {
    const std::lock_guard lock(mutex_);
    Remove(*entry);
    last = closed_ && entries_.empty();
  }
  CensusEntry::Delete(entry);
  if (last) delete this;
}

void CensusCore::RemoveRoot(RootEntry* root) {
  {
    const std::lock_guard lock(mutex_);
    Remove(*root);
  }
  delete root;
}

void CensusCore::Close() {
  {
    OpenCensuses& open = AllOpen();
    const std::lock_guard lock(open.mutex);
    std::erase(open.cores, this);
    if (open.cores.empty()) join_censuses.store(nullptr, std::memory_order_release);  // see there
  }
  CensusEntry* removed = nullptr;
  bool last = false;
  {
    const std::lock_guard lock(mutex_);
    Check(roots_ == 0, "Census::~Census", "a CensusRoot has not ended");
    closed_ = true;
    for (size_t i = entries_.size(); i-- > 0;) {
      CensusEntry* const entry = entries_[i];
      // If the watcher is about to be told, its OnExpired deletes the entry.
      if (entry->block != nullptr && !entry->block->RemoveWatcher(entry)) continue;
      Remove(*entry);
      entry->set_next(removed);
      removed = entry;
    }
    last = entries_.empty();
  }
  DeleteAll(removed);
  if (last) delete this;
}

}  // namespace internal

Census::Census() : core_(new internal::CensusCore) {
  struct Guard {
    ~Guard() {
      if (core != nullptr) core->Close();
    }
    internal::CensusCore* core;
  } guard{core_};
  core_->Open();
  guard.core = nullptr;
}
Census::~Census() { core_->Close(); }

}  // namespace weakcache
