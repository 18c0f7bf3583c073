// SPDX-License-Identifier: Apache-2.0
// Entries of objects whose lives differ, roughly in the order in which they expire, so that the
// expired ones are found without a pass over all.
//
// Time is divided into ticks. A bucket holds the entries whose ticks differ from the present one
// first in the same bit: bucket 0 those of this tick, bucket i those of 2^(i-1) ticks together,
// which all are later than those in the buckets below. When time has passed, so that bit b is the
// highest one that has changed, then all in the buckets up to b have expired, and those of bucket
// b+1 may have: these go to the due list as whole lists, and the rest stays where it is. What turns
// out not to have expired is queued anew, in a lower bucket. So an entry is moved once for each bit
// of its life at most, and no step looks at more than one entry. (This is a radix heap.)
#ifndef WEAKCACHE_CACHE_INTERNAL_RETENTION_EXPIRY_QUEUE_H_
#define WEAKCACHE_CACHE_INTERNAL_RETENTION_EXPIRY_QUEUE_H_

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace weakcache::internal {

// A place in one of the circular lists of an ExpiryQueue.
class ExpiryLinks {
 public:
  ExpiryLinks() = default;
  ExpiryLinks(const ExpiryLinks&) = delete;
  ExpiryLinks& operator=(const ExpiryLinks&) = delete;

 private:
  template <typename Entry>
  friend class ExpiryQueue;

  ExpiryLinks* previous_ = nullptr;  // null while it is in no list
  ExpiryLinks* next_ = nullptr;
};

// Thread-compatible. Owns nothing. Entry is derived from ExpiryLinks, and has an
// `int64_t expiry_time() const` in nanoseconds, which may change while it is queued: then queue it
// anew, if it is earlier now.
template <typename Entry>
class ExpiryQueue {
 public:
  ExpiryQueue() {
    for (ExpiryLinks& list : lists_) list.previous_ = list.next_ = &list;
  }
  ExpiryQueue(const ExpiryQueue&) = delete;
  ExpiryQueue& operator=(const ExpiryQueue&) = delete;

  bool empty() const { return size_ == 0; }

  // Queues an entry that is not queued. `now` may be a while ago. Also sorts two others that are
  // due, so that fewer are left for an eviction.
  void Insert(Entry* entry, int64_t now) {
    Advance(now);
    size_t looks = 2;
    static_cast<void>(NextExpired(now, looks));
    ++size_;
    Append(ListFor(*entry), entry);
  }
  // Takes an entry out, if it is queued.
  void Remove(Entry* entry) {
    if (static_cast<ExpiryLinks*>(entry)->previous_ == nullptr) return;
    --size_;
    Unlink(entry);
  }

  // Returns an entry that has expired by `now`, or null. Looks at no more than `looks` entries, and
  // takes those off `looks`. The entry stays queued, behind all others that are due.
  Entry* NextExpired(int64_t now, size_t& looks) {
    if (empty()) return nullptr;
    Advance(now);
    ExpiryLinks& due = lists_[kDue];
    while (looks > 0 && due.next_ != &due) {
      --looks;
      auto* const entry = static_cast<Entry*>(due.next_);
      Unlink(entry);
      if (entry->expiry_time() <= now) {
        Append(due, entry);
        return entry;
      }
      Append(ListFor(*entry), entry);
    }
    return nullptr;
  }

 private:
  // Ticks of 67 ms, the unit in which entries are sorted.
  static constexpr int kTickBits = 26;
  static constexpr size_t kDue = 64 - kTickBits + 1;

  // Times may be negative.
  static uint64_t TickOf(int64_t time) {
    return (static_cast<uint64_t>(time) ^ (uint64_t{1} << 63)) >> kTickBits;
  }
  // Returns the due list if the entry has expired, or if the clock was set back; otherwise the
  // entry's bucket.
  ExpiryLinks& ListFor(const Entry& entry) {
    const uint64_t tick = TickOf(entry.expiry_time());
    return lists_[tick < tick_ ? kDue : static_cast<size_t>(std::bit_width(tick ^ tick_))];
  }
  void Advance(int64_t now) {
    const uint64_t tick = TickOf(now);
    if (tick < tick_) return;
    const auto changed = static_cast<size_t>(std::bit_width(tick ^ tick_));
    ExpiryLinks& due = lists_[kDue];
    for (size_t bucket = 0; bucket < changed; ++bucket) Splice(lists_[bucket], *due.next_);
    // In this one, or in the present tick, entries may have expired.
    Splice(lists_[changed], due);
    tick_ = tick;
  }

  static void Append(ExpiryLinks& list, ExpiryLinks* links) {
    links->previous_ = list.previous_;
    links->next_ = &list;
    list.previous_->next_ = links;
    list.previous_ = links;
  }
  static void Unlink(ExpiryLinks* links) {
    links->previous_->next_ = links->next_;
    links->next_->previous_ = links->previous_;
    links->previous_ = links->next_ = nullptr;
  }
  // Moves all of a list to another one, before `place` there.
  static void Splice(ExpiryLinks& list, ExpiryLinks& place) {
    if (list.next_ == &list) return;
    list.next_->previous_ = place.previous_;
    place.previous_->next_ = list.next_;
    list.previous_->next_ = &place;
    place.previous_ = list.previous_;
    list.previous_ = list.next_ = &list;
  }

  uint64_t tick_ = 0;  // the last one that has been looked at
  size_t size_ = 0;
  std::array<ExpiryLinks, kDue + 1> lists_;  // buckets, and those that may have expired
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_RETENTION_EXPIRY_QUEUE_H_
