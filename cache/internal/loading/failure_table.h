// SPDX-License-Identifier: Apache-2.0
// Failures of loads that a cache keeps for a while, so that not everybody who asks for the key
// meanwhile asks its source: see the option `failure_ttl`.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_FAILURE_TABLE_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_FAILURE_TABLE_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace weakcache::internal {

// How a load of the key has failed.
template <typename K>
struct KeptFailure {
  KeptFailure(const K& of_key, uint32_t hash_of_key, absl::Status how, int64_t now, int64_t end,
              std::optional<uint32_t> of_group)
      : key(of_key),
        hash(hash_of_key),
        status(std::move(how)),
        since(now),
        until(end),
        group(of_group) {}

  // Returns whether the failure is over for good.
  bool IsOver(int64_t now) const { return now >= until; }
  // Returns whether it may be handed out. A time before `since` comes from a clock that has been
  // set back; or from a thread that was delayed, for which another load has failed meanwhile.
  bool Holds(int64_t now) const { return now >= since && now < until; }

  const K key;
  const uint32_t hash;
  const absl::Status status;
  // Nanoseconds of the cache's clock.
  const int64_t since;
  const int64_t until;
  const std::optional<uint32_t> group;  // of the load
};

// The failures of one shard: at most kMost, as they have no weight that the budget could bound. The
// hash chooses a row. A failure that comes to a full row replaces the one there that ends first,
// whose key is loaded anew when somebody asks for it. Failures that are over leave with the next
// look into their row.
//
// Guarded by the shard's lock, which callers hold except for empty(). Failures are handed out and
// taken in as shared pointers, because their keys have destructors of the user's: declare those
// pointers before the lock. Takes its memory when the first failure comes.
template <typename K>
class FailureTable {
 public:
  using Failure = std::shared_ptr<const KeptFailure<K>>;
  static constexpr size_t kRows = 64;
  static constexpr size_t kRowSize = 8;
  static constexpr size_t kMost = kRows * kRowSize;

  FailureTable() = default;
  FailureTable(const FailureTable&) = delete;
  FailureTable& operator=(const FailureTable&) = delete;

  bool empty() const { return size_.load(std::memory_order_relaxed) == 0; }  // see the field

  // Returns the failure of the key for which `match(key)` is true, or null. Moves those of its row
  // that are over by `now` to `over`, whose capacity suffices for kRowSize more.
  template <typename Match>
  Failure Find(uint32_t hash, const Match& match, int64_t now, std::vector<Failure>& over) {
    if (!empty()) TakeOver(hash, now, over);
    Failure* const place = FindPlace(hash, match);
    return place == nullptr ? nullptr : *place;
  }
  // Returns the failure of the key for which `match(key)` is true, or null, and takes it out.
  template <typename Match>
  Failure Take(uint32_t hash, const Match& match) {
    Failure* const place = FindPlace(hash, match);
    return place == nullptr ? nullptr : TakeFrom(*place);
  }
  // Exchanges a failure for the one whose place it takes, which is the key's former one if there is
  // one; null if a place was free. `match`, `now` and `over` are those of Find. If there is no
  // memory, throws and changes nothing.
  template <typename Match>
  void Insert(Failure& failure, const Match& match, int64_t now, std::vector<Failure>& over) {
    if (rows_ == nullptr) rows_ = std::make_unique<Rows>();
    TakeOver(failure->hash, now, over);
    Failure* place = FindPlace(failure->hash, match);
    if (place == nullptr) place = &PlaceFor(failure->hash);
    AddToSize(*place == nullptr ? 1 : 0);
    place->swap(failure);
  }
  // Removes a failure, if it is still in the table.
  void Remove(const Failure& failure) {
    for (Failure& place : Row(failure->hash)) {
      if (place == failure) static_cast<void>(TakeFrom(place));
    }
  }
  // Takes all failures out, and returns their owner; null if there are none.
  auto TakeAll() {
    if (empty()) return decltype(rows_)();
    size_.store(0, std::memory_order_relaxed);
    return std::exchange(rows_, nullptr);
  }
  // Returns all failures.
  std::vector<Failure> All() const {
    std::vector<Failure> all;
    if (empty()) return all;
    all.reserve(kMost);
    for (const auto& row : *rows_) {
      for (const Failure& failure : row) {
        if (failure != nullptr) all.push_back(failure);
      }
    }
    return all;
  }

 private:
  using Rows = std::array<std::array<Failure, kRowSize>, kRows>;

  std::array<Failure, kRowSize>& Row(uint32_t hash) const { return (*rows_)[hash % kRows]; }

  template <typename Match>
  Failure* FindPlace(uint32_t hash, const Match& match) const {
    if (empty()) return nullptr;
    for (Failure& place : Row(hash)) {
      if (place != nullptr && place->hash == hash && match(place->key)) return &place;
    }
    return nullptr;
  }
  // Returns a free place, or else that of the failure that ends first.
  Failure& PlaceFor(uint32_t hash) const {
    auto& row = Row(hash);
    Failure* first = &row.front();
    for (Failure& place : row) {
      if (place == nullptr) return place;
      if (place->until < (*first)->until) first = &place;
    }
    return *first;
  }
  void TakeOver(uint32_t hash, int64_t now, std::vector<Failure>& over) {
    for (Failure& place : Row(hash)) {
      if (place != nullptr && place->IsOver(now)) over.push_back(TakeFrom(place));
    }
  }
  Failure TakeFrom(Failure& place) {
    if (place != nullptr) AddToSize(-1);
    return std::exchange(place, nullptr);
  }
  void AddToSize(int change) {
    size_.store(size_.load(std::memory_order_relaxed) + static_cast<size_t>(change),
                std::memory_order_relaxed);
  }

  std::unique_ptr<Rows> rows_;
  // The number of failures. Written under the lock; also read without it, by threads that then take
  // the lock if there are any. Relaxed: a thread whose own flight has begun sees what the shard's
  // earlier flights have left, because to start a flight acquires what they released at their end;
  // any other thread looks only to save itself a flight.
  std::atomic<size_t> size_{0};
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_FAILURE_TABLE_H_
