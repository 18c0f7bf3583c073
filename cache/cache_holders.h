// SPDX-License-Identifier: Apache-2.0
// CacheHolders: who has taken the objects of a LargeObjectCache that are in use, as text and as
// folded stacks for flame graphs.
//
// Why: CacheStats says how many bytes the cache can't free. An operator who has to free them needs
// to know which part of the program took them, and how long ago.
//
//   options.holder_sample_bytes = 64 << 20;  // sample about one object for each 64 MB
//   …
//   WEAKCACHE_HOLDER("renderer");            // holder_label.h; where objects are looked up
//   …
//   const weakcache::CacheHolders holders = images.Holders();
//   std::cerr << holders.ToText();
//
// What it says: for each sampled object that is in use, which look-ups have handed it out since the
// cache last saw it idle. Whoever took it then may hold it; nobody else does, but for references
// that come from elsewhere: ForEach, a removal listener, a condition of InvalidateIf, a WeakRef, a
// loader that keeps its Ref, or another container or key. Copies of a Ref can't be told apart: if
// several took an object, which of them have released it is not known; if only one did, it is that
// one, or who got a copy from it.
//
// Thread safety: thread-compatible, plain values: what was true when Holders looked.
// Unlike a heap profiler, which tells who allocated, it tells who uses what a loader allocated.
// Complexity: O(sampled objects, and what watches them), and for the folded stacks one symbol
// look-up a frame.
#ifndef WEAKCACHE_CACHE_CACHE_HOLDERS_H_
#define WEAKCACHE_CACHE_CACHE_HOLDERS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace weakcache {

// Look-ups that handed out one object under one label, from one call stack.
struct PossibleHolder {
  std::string label = {};  // of WEAKCACHE_HOLDER; empty: none
  // The innermost frame first. Empty unless options.holder_stacks.
  std::vector<const void*> stack = {};
  uint64_t look_ups = 0;          // including those that load the object, and Put
  absl::Duration first_age = {};  // how long ago the first of them was, by the cache's clock
  absl::Duration last_age = {};   // and the last one
};

// A sampled object that was in use.
struct HeldObject {
  uint64_t weight = 0;  // the object's own weight
  // How many bytes of objects it stands for: its weight, or if that is more, the
  // holder_sample_bytes. The sum over all sampled objects is about the weight of all in use.
  uint64_t represented_bytes = 0;
  // References beside those of caches, at that moment.
  size_t references = 0;
  // Entries that other containers, or other keys of this cache, have of the object. If there are
  // any, who holds it may have taken it there, and the holders are those of the time since no cache
  // but this one retained it.
  size_t other_entries = 0;
  // Since the cache last saw the object idle, the most recent first. Empty if all references come
  // from elsewhere.
  std::vector<PossibleHolder> holders = {};
  // Look-ups by others. Only the seven that took the object most recently are kept, and the one
  // that has not taken it for the longest time.
  uint64_t dropped_look_ups = 0;
};

struct CacheHolders {
  uint64_t sample_bytes = 0;  // options.holder_sample_bytes; 0: nothing was sampled
  std::vector<HeldObject> objects = {};

  // Returns a line about all objects and one for each label, the most bytes first. An object that
  // several labels took counts for each of them.
  [[nodiscard]] std::string ToText() const;
  // Returns "label;outermost frame;…;innermost frame bytes" lines, for flamegraph.pl and its like,
  // where the bytes are represented ones. An object that several took counts for each of them in
  // equal parts. Innermost frames of the cache itself are left out.
  [[nodiscard]] std::string ToFoldedStacks() const;
};

namespace internal {

// Stores up to `size` return addresses of this thread's stack, the innermost first, and returns how
// many. Async-signal-unsafe; takes microseconds.
int CaptureStack(const void** frames, int size);

}  // namespace internal

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_CACHE_HOLDERS_H_
