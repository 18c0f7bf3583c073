// SPDX-License-Identifier: Apache-2.0
// A progress bar on the terminal behind stderr; nothing at all if that is not a terminal.
#ifndef WEAKCACHE_EXAMPLES_IMAGE_CACHE_PROGRESS_H_
#define WEAKCACHE_EXAMPLES_IMAGE_CACHE_PROGRESS_H_

#include <cstdint>
#include <mutex>

namespace image_cache {

// Thread-safe. The bar vanishes with the object.
class ProgressBar {
 public:
  explicit ProgressBar(int64_t steps);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void Step();
  // As far as that, if it is not further already.
  void StepTo(int64_t done);

 private:
  void Show(int64_t done);  // under the mutex

  const bool shown_;
  const int64_t steps_;
  std::mutex mutex_;  // guards all that follows
  int64_t done_ = 0;
  int64_t percent_ = -1;
};

}  // namespace image_cache

#endif  // WEAKCACHE_EXAMPLES_IMAGE_CACHE_PROGRESS_H_
