// SPDX-License-Identifier: Apache-2.0
// What a Census knows: an entry for each of its live objects, and how to trace the object's type.
//
// An entry of a Ref's object watches it, and leaves at the object's death. Entries that are about
// to be told when the census ends stay behind with the core; the last one of them deletes it.
#ifndef WEAKCACHE_WEAKREF_INTERNAL_CENSUS_ENTRY_H_
#define WEAKCACHE_WEAKREF_INTERNAL_CENSUS_ENTRY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "weakcache/weakref/internal/census_type.h"
#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/shared_ptr_block.h"
#include "weakcache/weakref/internal/watcher_list.h"

namespace weakcache {

template <typename H>
struct HandleTraits;

namespace internal {

// How handles that are not a Ref are compared with the weak handle of an entry. Handles of one
// family can be: it is the address of a variable for each.
struct OwnerTest {
  const void* family;
  bool (*is_owner)(const void* weak, const void* strong);
};

struct CensusEntry : Watcher {
  CensusEntry(WatcherOwner* owner, ControlBlock* counts, const void* traced,
              const CensusType* functions)
      : Watcher(owner), block(counts), object(traced), type_(Tagged(functions, counts)) {
    if (block != nullptr) block->AddWeak();
  }

  // Deletes an entry of either class.
  static void Delete(CensusEntry* entry);

  // Returns the address of the object, whatever base its handles point to.
  inline const void* whole_object() const;
  // Returns whether both entries are of one object, given that these addresses are equal: two
  // std::shared_ptr to one address may have separate owners. Precondition: pinned, both.
  inline bool SameOwner(const CensusEntry& other) const;
  inline bool IsOwnedBy(const OwnerTest& test, const void* strong) const;
  // Returns the number of references, those of another kind beside the entry's own included.
  // Precondition: pinned.
  inline size_t strong_count() const;
  // Takes a reference, so that the object lives until CensusCore::Unpin. Returns false if it is
  // dead. The caller holds the core's mutex if `block` is null.
  inline bool Pin() const;
  inline bool is_root() const;
  const CensusType& type() const {
    return *reinterpret_cast<const CensusType*>(type_ & ~kOfSharedPtr);
  }
  // Returns whether the block holds the object by a std::shared_ptr.
  bool of_shared_ptr() const { return (type_ & kOfSharedPtr) != 0; }

  ControlBlock* const block;  // one weak reference is held; null in a ForeignEntry
  const void* const object;   // as CensusType's functions take it
  size_t position = 0;        // among the core's entries; guarded by its mutex

 protected:
  ~CensusEntry() {
    if (block != nullptr) block->ReleaseWeak();
  }

 private:
  static constexpr uintptr_t kOfSharedPtr = 1;
  static_assert(alignof(CensusType) > kOfSharedPtr);

  static uintptr_t Tagged(const CensusType* type, ControlBlock* block) {
    const bool of_shared_ptr = block != nullptr && SharedPtrBlock::Owner(block) != nullptr;
    return reinterpret_cast<uintptr_t>(type) | (of_shared_ptr ? kOfSharedPtr : 0);
  }

  // The address of the type, and kOfSharedPtr. A search reads it without the core's mutex, so it is
  // constant.
  const uintptr_t type_;
};

// An entry of an object of another handle, or of a root.
struct ForeignEntry : CensusEntry {
  using CensusEntry::CensusEntry;
  virtual ~ForeignEntry() = default;

  virtual const void* whole_address() const { return this; }
  virtual bool expired() const { return false; }
  virtual size_t count() const { return 0; }
  virtual bool PinHandle() const { return true; }
  // Releases the pin after it has unlocked `core`, the core's mutex, which the caller has locked.
  virtual void UnpinHandle(std::unique_lock<std::mutex>& core) const { core.unlock(); }
  virtual bool IsOwner(const OwnerTest&, const void* /*strong*/) const { return false; }
  virtual bool HasOwnerOf(const ForeignEntry&) const { return false; }
  // Returns the block of the Refs to the same object, or null if none is known. Precondition:
  // pinned.
  virtual const ControlBlock* ref_block() const { return nullptr; }
  // Returns the name of a root; null for an object.
  virtual const std::string* root_name() const { return nullptr; }
};

template <typename H>
inline constexpr bool kIsSharedPtr = false;
template <typename T>
inline constexpr bool kIsSharedPtr<std::shared_ptr<T>> = true;

// All std::shared_ptr are one family, so that handles to bases are known.
template <typename H>
struct OwnerFamily {
  using Strong = H;
  using Weak = typename HandleTraits<H>::weak_type;
  // Returns the block of the Refs of which one keeps the handles' object, or null.
  static const ControlBlock* RefBlock(const Strong&) { return nullptr; }
  static bool IsOwner(const void* weak, const void* strong) {
    return HandleTraits<H>::SameOwner(*static_cast<const Weak*>(weak),
                                      *static_cast<const H*>(strong));
  }
};
template <typename T>
struct OwnerFamily<std::shared_ptr<T>> {
  using Strong = std::shared_ptr<const void>;
  using Weak = std::weak_ptr<const void>;
  template <typename U>
  static const ControlBlock* RefBlock([[maybe_unused]] const std::shared_ptr<U>& strong) {
#ifdef __cpp_rtti
    if (const auto* const ref = std::get_deleter<ReleaseRef>(strong)) return ref->block();
#endif
    return nullptr;
  }
  static bool IsOwner(const void* weak, const void* strong) {
    const auto& a = *static_cast<const Weak*>(weak);
    const auto& b = *static_cast<const std::shared_ptr<T>*>(strong);
    return !a.owner_before(b) && !b.owner_before(a);
  }
};

// Whether H is a smart pointer to an array.
template <typename H>
inline constexpr bool kIsArrayHandle = false;
template <template <typename...> typename Pointer, typename T, typename... Rest>
inline constexpr bool kIsArrayHandle<Pointer<T, Rest...>> = std::is_array_v<T>;

template <typename H>
inline constexpr OwnerTest kOwnerTest = {&kTypeTag<typename OwnerFamily<H>::Strong>,
                                         &OwnerFamily<H>::IsOwner};

// An entry of an object of a handle that HandleTraits adapts.
template <typename H>
struct HandleEntry final : ForeignEntry {
  using Strong = typename OwnerFamily<H>::Strong;
  using Traits = HandleTraits<Strong>;

  HandleEntry(WatcherOwner* owner, const H& handle, const void* at, const CensusType* functions)
      : ForeignEntry(owner, nullptr, handle.get(), functions),
        weak(Traits::MakeWeak(handle)),
        whole(at) {}
  const void* whole_address() const override { return whole; }
  bool expired() const override { return Traits::Expired(weak); }
  size_t count() const override {
    // A handle that ToSharedPtr made is a reference beside the other Refs.
    const ControlBlock* const refs = ref_block();
    const size_t others = refs == nullptr ? 0 : refs->strong_count() - 1;
    return static_cast<size_t>(pinned.use_count()) + others;
  }
  const ControlBlock* ref_block() const override { return OwnerFamily<H>::RefBlock(pinned); }
  bool PinHandle() const override {
    pinned = Traits::Lock(weak);
    return Traits::Owns(pinned);
  }
  void UnpinHandle(std::unique_lock<std::mutex>& core) const override {
    const Strong released = std::exchange(pinned, Strong());
    core.unlock();  // from here on, another thread may find the object dead and delete the entry
  }
  bool IsOwner(const OwnerTest& test, const void* strong) const override {
    return test.family == kOwnerTest<Strong>.family && test.is_owner(&weak, strong);
  }
  bool HasOwnerOf(const ForeignEntry& other) const override {
    return other.IsOwner(kOwnerTest<Strong>, &pinned);
  }

  const typename Traits::weak_type weak;
  const void* const whole;  // the whole object, whatever base a handle points to
  // During a search. Written under the core's mutex, so that whoever deletes the entry there sees
  // that it is null: a use count alone orders nothing.
  mutable Strong pinned;
};

// An entry of what is no object, and is alive: it holds objects.
struct RootEntry final : ForeignEntry {
  RootEntry(WatcherOwner* owner, const void* root, const CensusType* functions, std::string called)
      : ForeignEntry(owner, nullptr, root, functions), name(std::move(called)) {}
  const std::string* root_name() const override { return &name; }

  const std::string name;
};

inline const ForeignEntry& AsForeign(const CensusEntry& entry) {
  return static_cast<const ForeignEntry&>(entry);
}
inline void CensusEntry::Delete(CensusEntry* entry) {
  if (entry->block != nullptr) {
    delete entry;
  } else {
    delete static_cast<ForeignEntry*>(entry);
  }
}
inline bool CensusEntry::is_root() const {
  return block == nullptr && AsForeign(*this).root_name() != nullptr;
}
inline const void* CensusEntry::whole_object() const {
  return block != nullptr ? type().whole(object) : AsForeign(*this).whole_address();
}
inline bool CensusEntry::SameOwner(const CensusEntry& other) const {
  if (block == nullptr && other.block == nullptr) {
    return AsForeign(*this).HasOwnerOf(AsForeign(other));
  }
  if (block == other.block) return true;
  if (block == nullptr) return other.SameOwner(*this);
  return of_shared_ptr() &&
         other.IsOwnedBy(kOwnerTest<std::shared_ptr<void>>, SharedPtrBlock::Owner(block));
}
inline bool CensusEntry::IsOwnedBy(const OwnerTest& test, const void* strong) const {
  if (block == nullptr) return AsForeign(*this).IsOwner(test, strong);
  if (!of_shared_ptr() || test.family != kOwnerTest<std::shared_ptr<void>>.family) return false;
  const std::weak_ptr<const void> owner = *SharedPtrBlock::Owner(block);
  return test.is_owner(&owner, strong);
}
inline size_t CensusEntry::strong_count() const {
  if (block == nullptr) return AsForeign(*this).count();
  if (!of_shared_ptr()) return block->strong_count();
  // A Ref of FromSharedPtr is an owner beside the other std::shared_ptrs.
  const auto others = SharedPtrBlock::Owner(block)->use_count() - 1;
  return block->strong_count() + static_cast<size_t>(others);
}
inline bool CensusEntry::Pin() const {
  return block != nullptr ? block->TryAddStrong() : AsForeign(*this).PinHandle();
}
class CensusCore final : public WatcherOwner {
 public:
  CensusCore() = default;
  CensusCore(const CensusCore&) = delete;
  CensusCore& operator=(const CensusCore&) = delete;

  // Adds an object unless it is there: then two threads that add it at once may both do so.
  void Add(ControlBlock* block, const void* object, const CensusType& type);
  void Add(std::unique_ptr<ForeignEntry> entry);
  // Takes a root off.
  void RemoveRoot(RootEntry* root);
  size_t size() const;

  // Pins all live objects and stores their entries, which stay until they are unpinned. Those of
  // objects that only Refs own come first; returns how many they are.
  size_t PinAll(std::vector<const CensusEntry*>& pinned);
  // Releases one of these pins. The entry may be gone then.
  void Unpin(const CensusEntry& entry);

  // Lets the objects that are made join from now on, until Close.
  void Open();
  // Ends the census. Deletes the core, or leaves that to the last entry.
  void Close();

 private:
  ~CensusCore() = default;

  void OnExpired(Watcher* watcher) noexcept override;
  WatcherInfo Describe(const Watcher*) const noexcept override {
    return {.kind = WatcherInfo::Kind::kCensus};
  }

  // Enters the entry and takes it over. If that throws, the caller keeps it.
  void Enter(CensusEntry* entry);
  // Takes an entry off. The caller holds the lock.
  void Remove(const CensusEntry& entry);
  // Removes dead objects of handles that notify nobody, and returns them linked by next(). The
  // caller holds the lock, and deletes them without it.
  CensusEntry* RemoveDead();
  static void DeleteAll(CensusEntry* first);

  mutable std::mutex mutex_;
  // All below are guarded by mutex_.
  std::vector<CensusEntry*> entries_;
  size_t roots_ = 0;
  size_t foreign_ = 0;         // entries with handles that notify nobody, and roots
  size_t of_shared_ptrs_ = 0;  // entries of Refs to objects of std::shared_ptrs
  size_t sweep_at_ = 16;       // dead objects are looked for when there are so many entries
  bool closed_ = false;
};

}  // namespace internal
}  // namespace weakcache

#endif  // WEAKCACHE_WEAKREF_INTERNAL_CENSUS_ENTRY_H_
