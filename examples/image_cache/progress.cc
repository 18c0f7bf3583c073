// SPDX-License-Identifier: Apache-2.0
#include "examples/image_cache/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

namespace image_cache {

ProgressBar::ProgressBar(int64_t steps) : shown_(isatty(STDERR_FILENO) != 0), steps_(steps) {}

ProgressBar::~ProgressBar() {
  constexpr char kClearLine[] = "\r\033[K";
  if (shown_) std::fputs(kClearLine, stderr);
}

void ProgressBar::Step() {
  if (!shown_) return;
  std::lock_guard<std::mutex> lock(mutex_);
  Show(done_ + 1);
}

void ProgressBar::StepTo(int64_t done) {
  if (!shown_) return;
  std::lock_guard<std::mutex> lock(mutex_);
  Show(std::clamp(done, done_, steps_));
}

void ProgressBar::Show(int64_t done) {
  done_ = done;
  const int64_t percent = done_ * 100 / steps_;
  if (percent == percent_) return;
  percent_ = percent;
  constexpr int kWidth = 50;
  const std::string bar(percent * kWidth / 100, '#');
  std::fprintf(stderr, "\r[%-*s] %3d%%", kWidth, bar.c_str(), static_cast<int>(percent));
}

}  // namespace image_cache
