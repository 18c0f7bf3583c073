// SPDX-License-Identifier: Apache-2.0
// Shows what a second tier on Redis does for processes that show the same images.
#ifndef WEAKCACHE_EXAMPLES_SHARED_IMAGES_SHOW_H_
#define WEAKCACHE_EXAMPLES_SHARED_IMAGES_SHOW_H_

#include <ostream>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace shared_images {

struct ShowOptions {
  int processes = 4;
  int images = 300;
  int shown = 500;  // by each process
};

struct Report {
  int different_images = 0;        // that all processes have shown together
  int decodes_without_tier = 0;    // by all of them
  int decodes_with_tier = 0;       // likewise, in other processes
  int decodes_without_server = 0;  // once it was killed
  int failures = 0;                // images that could not be shown
  // From a change in one process until the last of the others has shown the new image; after the
  // server has come back, too.
  absl::Duration change_seen = absl::ZeroDuration();
  absl::Duration change_seen_after = absl::ZeroDuration();
};

// Says what happens. Starts processes, so that the calling one may have no other threads.
absl::StatusOr<Report> Show(const ShowOptions& options, std::ostream& out);

}  // namespace shared_images

#endif  // WEAKCACHE_EXAMPLES_SHARED_IMAGES_SHOW_H_
