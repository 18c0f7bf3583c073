// SPDX-License-Identifier: Apache-2.0
// Groups of objects in a cache, all objects of which can be invalidated at once, in a time that
// does not depend on how many there are.
//
// The groups have a common epoch, which each invalidation advances. An object carries its group and
// the epoch at which its load began; the table has for each group the epoch of its last
// invalidation. The object is invalidated if that epoch is the later one. So nobody goes through
// the objects, and an object whose load had begun before is invalidated whenever it comes.
//
// All objects can be made unverified at once, too (AtTierDisconnect::kCheckAgain): each object with
// an earlier epoch then is, whatever its group.
#ifndef WEAKCACHE_CACHE_INTERNAL_RETENTION_OBJECT_GROUPS_H_
#define WEAKCACHE_CACHE_INTERNAL_RETENTION_OBJECT_GROUPS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

namespace weakcache::internal {

// The group of an object, if any, and the epoch at which its load or Put began, or the last load
// that verified it. 47 bits of epochs last for four years of a million invalidations in each
// second.
struct GroupStamp {
  static constexpr uint64_t kEpochs = (uint64_t{1} << 47) - 1;

  uint64_t epoch : 47 = 0;
  uint64_t has_group : 1 = 0;
  uint64_t group : 16 = 0;
};
static_assert(sizeof(GroupStamp) == sizeof(uint64_t));

inline std::optional<uint32_t> GroupOf(GroupStamp stamp) {
  if (!stamp.has_group) return std::nullopt;
  return static_cast<uint32_t>(stamp.group);
}

// Thread-safe. Takes no memory for groups that were never invalidated, beside an array of pointers;
// and at most 8 bytes for each possible group.
class ObjectGroups {
 public:
  static constexpr uint32_t kGroups = 65536;

  ObjectGroups() = default;
  ObjectGroups(const ObjectGroups&) = delete;
  ObjectGroups& operator=(const ObjectGroups&) = delete;
  ~ObjectGroups() {
    for (const auto& block : blocks_) delete block.load(std::memory_order_relaxed);
  }

  // Returns the stamp of an object whose load begins now, and whose group is not known yet, if it
  // has one.
  GroupStamp Stamp() const {
    // Acquire pairs with the release in Invalidate: the load sees what was done before the
    // invalidations that it does not have to heed.
    return {.epoch = epoch_.load(std::memory_order_acquire) & GroupStamp::kEpochs};
  }
  // Does the same for a group. An invalidation that comes later sees what this thread has done
  // before: that its load is under way.
  GroupStamp Stamp(uint32_t group) {
    // A read-modify-write, so that of this and an invalidation one is first, and the other sees all
    // that was done before that one.
    GroupStamp stamp{.epoch = epoch_.fetch_add(0, std::memory_order_acq_rel) & GroupStamp::kEpochs};
    SetGroup(stamp, group);
    return stamp;
  }
  // Names the group of an object whose load began at the stamp's epoch.
  static void SetGroup(GroupStamp& stamp, uint32_t group) {
    stamp.has_group = 1;
    stamp.group = static_cast<uint16_t>(group);
  }

  // Invalidates all objects of the group with earlier stamps. If there is no memory, throws and
  // changes nothing.
  void Invalidate(uint32_t group) {
    std::atomic<uint64_t>& last = BlockFor(group)[group % kBlockSize];
    // See Stamp.
    Raise(last, epoch_.fetch_add(1, std::memory_order_acq_rel) + 1);
  }
  bool IsInvalidated(GroupStamp stamp) const {
    if (!stamp.has_group) return false;
    // Acquire pairs with the release in BlockFor.
    const Block* const block = blocks_[stamp.group / kBlockSize].load(std::memory_order_acquire);
    if (block == nullptr) return false;
    return stamp.epoch < (*block)[stamp.group % kBlockSize].load(std::memory_order_relaxed);
  }

  // Makes all objects with earlier stamps unverified.
  void MakeAllUnverified() {
    // See Stamp.
    Raise(unverified_before_, epoch_.fetch_add(1, std::memory_order_acq_rel) + 1);
  }
  bool IsUnverified(GroupStamp stamp) const {
    return stamp.epoch < unverified_before_.load(std::memory_order_relaxed);  // see the field
  }

 private:
  static constexpr size_t kBlockSize = 1024;
  using Block = std::array<std::atomic<uint64_t>, kBlockSize>;

  // Relaxed: see blocks_ and unverified_before_.
  static void Raise(std::atomic<uint64_t>& last, uint64_t epoch) {
    uint64_t before = last.load(std::memory_order_relaxed);
    while (before < epoch && !last.compare_exchange_weak(before, epoch, std::memory_order_relaxed,
                                                         std::memory_order_relaxed)) {
    }
  }
  Block& BlockFor(uint32_t group) {
    std::atomic<Block*>& place = blocks_[group / kBlockSize];
    Block* present = place.load(std::memory_order_acquire);  // as in IsInvalidated, here and below
    if (present != nullptr) return *present;
    auto made = std::make_unique<Block>();
    // Release: who finds the block finds its zeros.
    if (place.compare_exchange_strong(present, made.get(), std::memory_order_acq_rel,
                                      std::memory_order_acquire)) {
      return *made.release();
    }
    return *present;
  }

  // How often a group was invalidated, or all objects were made unverified.
  std::atomic<uint64_t> epoch_{0};
  // Blocks of epochs, one for each group: that of its last invalidation, or 0. They only grow. An
  // epoch is read relaxed: a thread that has to see an invalidation has begun after its return, or
  // holds a lock that it has held. A block is null until one of its groups is invalidated, and then
  // stays: it is set once (release), and read with acquire.
  std::array<std::atomic<Block*>, kGroups / kBlockSize> blocks_{};
  // The epoch at which all objects were made unverified last; 0 before that. Grows only. Relaxed,
  // as for a group.
  std::atomic<uint64_t> unverified_before_{0};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_RETENTION_OBJECT_GROUPS_H_
