// SPDX-License-Identifier: Apache-2.0
// A viewing session: several viewers, each on a thread of its own unless they take turns, look at
// images of which some are far more popular than others (Zipf's law), and each holds the few that
// its screen shows.
#ifndef WEAKCACHE_EXAMPLES_IMAGE_CACHE_SESSION_H_
#define WEAKCACHE_EXAMPLES_IMAGE_CACHE_SESSION_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "examples/image_cache/image.h"
#include "examples/image_cache/stores.h"

namespace image_cache {

struct SessionOptions {
  int viewers = 4;
  int lookups = 40;  // of each viewer, unless they look for so many seconds
  int seconds = 0;
  int on_screen = 3;
  uint64_t seed = 1;
  double zipf = 1.0;  // 0: all equally popular
  int in_turns = 0;   // 1: one viewer looks after the other, so that each run is the same
};

struct SessionResult {
  int64_t lookups = 0;
  int64_t decodes = 0;
  int64_t hits = 0;
  int64_t peak_bytes = 0;   // of live images
  int64_t final_bytes = 0;  // once every screen is empty and only the store is left
  int64_t peak_resident_bytes = 0;
  int64_t final_resident_bytes = 0;
  int most_copies = 0;  // of one image, alive at a time
  std::chrono::duration<double> time{};
};

// Replays the session that `options` describe against `store`, whose decoder keeps its books in
// `ledger`. The first path is the most popular one. Who looks at what, and in which order, depends
// on the options only; how far they come, if they look for some time, on the store. Calls
// `after_lookup` after each look-up, on any thread.
SessionResult ReplaySession(const std::vector<std::string>& paths, const SessionOptions& options,
                            ImageStore& store, const ImageLedger& ledger,
                            const std::function<void()>& after_lookup);

}  // namespace image_cache

#endif  // WEAKCACHE_EXAMPLES_IMAGE_CACHE_SESSION_H_
