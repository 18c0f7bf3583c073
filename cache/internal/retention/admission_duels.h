// SPDX-License-Identifier: Apache-2.0
// Finds out which of two objects is the better one to keep: one that has come back after its
// eviction, or the one that would have to go for it.
//
// Mostly it is the one that has come back, as it was used last. But in a loop, or where each of
// many objects is used once in each round in a new order, it is the one that will not be used for
// the longest time. No figure about one object tells the two cases apart. So a few pairs are
// watched, as set dueling (Qureshi et al., ISCA 2007) watches a few sets of a processor's cache: of
// each pair one object was evicted and the other was kept, and the one that is used next wins,
// whichever the policy had decided for. The share of the duels that returning objects win says what
// to do with the next ones.
#ifndef WEAKCACHE_CACHE_INTERNAL_RETENTION_ADMISSION_DUELS_H_
#define WEAKCACHE_CACHE_INTERNAL_RETENTION_ADMISSION_DUELS_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace weakcache::internal {

// A node has a `hash` that names its object, its `frequency()`, and a `duel`, which is 0 at first
// and belongs to this class. Thread-compatible. Every operation is O(1): there are few duels.
template <typename Node>
class AdmissionDuels {
 public:
  // Returns whether returning objects should be kept.
  bool ReturningObjectsWin() const { return returning_wins_ >= kEnough; }

  // Begins to watch a pair, if there is a free place for it. The evicted object has the hash
  // `evicted`; `kept` is in the cache. A pair that is undecided after `window()` more evictions
  // loses its place to a newer one.
  template <typename Window>
  void Start(uint64_t evicted, Node* kept, bool kept_returned, uint64_t evictions,
             const Window& window) {
    if (kept->duel != 0) return;
    const size_t place = evicted * 0x9e3779b97f4a7c15 >> (64 - kPlaceBits);
    Duel& duel = duels_[place];
    if (WasUsed(duel)) {
      Finish(place, /*kept_wins=*/true);
    } else if (duel.active && evictions - duel.start < window()) {
      return;
    }
    Stop(place);
    duel = {.active = true,
            .kept_returned = kept_returned,
            .frequency = kept->frequency(),
            .kept = kept,
            .start = evictions};
    evicted_[place] = static_cast<uint32_t>(evicted);
    kept->duel = static_cast<uint8_t>(place + 1);
  }

  // Records that an evicted object has come back.
  void Returned(uint64_t hash) {
    for (size_t place = 0; place < kDuels; ++place) {
      const bool evicted = evicted_[place] == static_cast<uint32_t>(hash);
      const bool kept = evicted_later_[place] == static_cast<uint32_t>(hash);
      if (!(evicted || kept) || !duels_[place].active) continue;
      Finish(place, /*kept_wins=*/!evicted || WasUsed(duels_[place]));
    }
  }

  // Records that the node is evicted. If it was not used, it may still come back before the other
  // one.
  void Evicted(Node* node) {
    if (node->duel == 0) return;
    const size_t place = node->duel - size_t{1};
    if (WasUsed(duels_[place])) {
      Finish(place, /*kept_wins=*/true);
      return;
    }
    node->duel = 0;
    duels_[place].kept = nullptr;
    evicted_later_[place] = static_cast<uint32_t>(node->hash);
  }
  // Records that the node is removed for another reason.
  void Removed(Node* node) {
    if (node->duel != 0) Stop(node->duel - size_t{1});
  }

 private:
  // Real traces have the same hit ratios from 0.3 to 0.45.
  static constexpr double kEnough = 0.4;
  static constexpr double kShare = 1.0 / 16;  // an average over about the latest sixteen
  static constexpr int kPlaceBits = 5;
  static constexpr size_t kDuels = size_t{1} << kPlaceBits;

  struct Duel {
    bool active = false;
    bool kept_returned = false;  // whether the one that was kept is the one that had come back
    uint8_t frequency = 0;       // of the one that was kept, at the start
    Node* kept = nullptr;        // null once it has been evicted, too
    uint64_t start = 0;          // in evictions
  };

  static bool WasUsed(const Duel& duel) {
    return duel.kept != nullptr && duel.kept->frequency() > duel.frequency;
  }
  void Finish(size_t place, bool kept_wins) {
    const double won = kept_wins == duels_[place].kept_returned ? 1 : 0;
    returning_wins_ += kShare * (won - returning_wins_);
    Stop(place);
  }
  void Stop(size_t place) {
    if (duels_[place].kept != nullptr) duels_[place].kept->duel = 0;
    duels_[place] = Duel();
    evicted_[place] = evicted_later_[place] = 0;
  }

  std::array<Duel, kDuels> duels_;
  // By duel, parts of hashes, so that a search for one of them is quick: that of the object that
  // was evicted, and of the kept one, if it has been evicted later.
  std::array<uint32_t, kDuels> evicted_ = {};
  std::array<uint32_t, kDuels> evicted_later_ = {};
  double returning_wins_ = kEnough;  // the share that they won lately
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_RETENTION_ADMISSION_DUELS_H_
