// SPDX-License-Identifier: Apache-2.0
// A process that shows images: it has a cache, and does what it is told to in lines.
//
//   show SEED COUNT   shows so many images; answers with how many it had to decode, and how many
//                     could not be shown
//   change NUMBER     changes an image; answers with the time, in ns of the machine's clock
//   await NUMBER VERSION  shows an image until it has that version; answers with the time, or 0
//                     after ten seconds
//   reconnect         waits until the tier is connected; answers with 1, or with 0 after 20 seconds
//   end
#ifndef WEAKCACHE_EXAMPLES_SHARED_IMAGES_WORKER_H_
#define WEAKCACHE_EXAMPLES_SHARED_IMAGES_WORKER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "examples/shared_images/process.h"

namespace shared_images {

struct WorkerOptions {
  int images = 0;
  std::string folder = {};  // of the images' source
  std::string socket = {};  // of the Redis server; empty: no tier
};

// Returns which images a worker shows: often the first ones, by Zipf's law.
std::vector<int> ImagesToShow(int images, int count, uint32_t seed);

void RunWorker(const WorkerOptions& options, Lines& lines);

}  // namespace shared_images

#endif  // WEAKCACHE_EXAMPLES_SHARED_IMAGES_WORKER_H_
