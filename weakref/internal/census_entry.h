// SPDX-License-Identifier: Apache-2.0
// What a Census knows: an entry for each of its live objects, and how to trace the object's type.
//
// An entry of a Ref's object watches it, and leaves at the object's death. Entries that are about
// to be told when the census ends stay behind with the core; the last one of them deletes it.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_CENSUS_ENTRY_H_
#define WEAKCACHE_WEAKREF_INTERNAL_CENSUS_ENTRY_H_

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/watcher_list.h"

namespace weakcache {

class Tracer;

namespace internal {

// Returns the name of T, without run-time type information.
template <typename T>
constexpr std::string_view TypeName() {
  const std::string_view function = __PRETTY_FUNCTION__;
  const size_t begin = function.find("T = ") + 4;
  const size_t semicolon = function.find("; ", begin);  // GCC goes on with other names
  const size_t end = semicolon == std::string_view::npos ? function.rfind(']') : semicolon;
  return function.substr(begin, end - begin);
}

// The functions of one type of objects.
struct CensusType {
  std::string_view name;
  void (*trace)(const void* object, Tracer& trace);
  std::string (*label)(const void* object);
  size_t (*bytes)(const void* object);
};

// How an object of a std::shared_ptr is found again.
struct SharedOwner {
  std::weak_ptr<const void> weak;
  std::shared_ptr<const void> pinned;  // during a search
  const void* identity = nullptr;      // of the whole object, whatever base a handle points to
};

struct CensusEntry : Watcher {
  explicit CensusEntry(WatcherOwner* owner) : Watcher(owner) {}
  ~CensusEntry() {
    if (block != nullptr) block->ReleaseWeak();
  }

  // Returns what no other object has while this one lives.
  const void* identity() const { return block != nullptr ? block : shared->identity; }
  // Returns whether both entries are of one object, given that their identities are equal: two
  // std::shared_ptr to one address may have separate owners.
  bool SameOwner(const CensusEntry& other) const {
    if (block != nullptr || other.block != nullptr) return block == other.block;
    return IsOwnedBy(other.shared->weak);
  }
  template <typename Pointer>
  bool IsOwnedBy(const Pointer& pointer) const {
    return shared != nullptr && !shared->weak.owner_before(pointer) &&
           !pointer.owner_before(shared->weak);
  }
  size_t strong_count() const {
    return block != nullptr ? block->strong_count() : static_cast<size_t>(shared->weak.use_count());
  }
  // Takes a reference, so that the object lives until Unpin. Returns false if it is dead.
  bool Pin() const {
    if (block != nullptr) return block->TryAddStrong();
    shared->pinned = shared->weak.lock();
    return shared->pinned != nullptr;
  }
  void Unpin() const {
    if (block != nullptr) {
      block->ReleaseStrong();
    } else {
      std::shared_ptr<const void>().swap(shared->pinned);
    }
  }

  ControlBlock* block = nullptr;  // one weak reference is held; null for a std::shared_ptr
  const void* object = nullptr;   // as CensusType's functions take it
  const CensusType* type = nullptr;
  std::unique_ptr<SharedOwner> shared;
  size_t position = 0;  // among the core's entries
};

class CensusCore final : public WatcherOwner {
 public:
  CensusCore() = default;
  CensusCore(const CensusCore&) = delete;
  CensusCore& operator=(const CensusCore&) = delete;

  void Add(ControlBlock* block, const void* object, const CensusType& type);
  void Add(std::weak_ptr<const void> owner, const void* identity, const void* object,
           const CensusType& type);
  size_t size() const;

  // Pins all live objects and returns their entries, which stay until they are unpinned.
  std::vector<const CensusEntry*> PinAll();

  // Ends the census. Deletes the core, or leaves that to the last entry.
  void Close();

 private:
  ~CensusCore() = default;

  void OnExpired(Watcher* watcher) noexcept override;

  // Enters the entry. The caller holds a strong reference to its object.
  void Enter(std::unique_ptr<CensusEntry> entry);
  // Takes an entry off. The caller holds the lock.
  void Remove(const CensusEntry& entry);
  // Removes dead objects of std::shared_ptr, and returns them linked by next(). The caller holds
  // the lock, and deletes them without it.
  CensusEntry* RemoveDead();
  static void DeleteAll(CensusEntry* first);

  mutable std::mutex mutex_;
  // All below are guarded by mutex_.
  std::vector<CensusEntry*> entries_;
  size_t sweep_at_ = 16;  // dead objects are looked for when there are so many
  bool closed_ = false;
};

}  // namespace internal
}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_INTERNAL_CENSUS_ENTRY_H_
