// SPDX-License-Identifier: Apache-2.0
// A viewer that decodes pages on one worker thread, and loads the next ones ahead while the reader
// looks at one. Prints what the reader had to wait for, without and with that.
//
//   ./bazelw run //examples:prefetch_viewer
//
// Time is counted in pages that the worker decodes, so the figures are always the same.

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <iomanip>
#include <iostream>
#include <mutex>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/prefetch_options.h"
#include "weakcache/weakref/ref.h"

namespace prefetch_viewer {

using ::weakcache::LargeObjectCache;
using ::weakcache::PrefetchOptions;
using ::weakcache::Ref;

constexpr int kLastPage = 100;
constexpr size_t kPixels = 64 * 1024;
constexpr uint64_t kPageBytes = kPixels + 1024;  // with its entry, roughly
constexpr uint64_t kPagesInBudget = 12;
constexpr uint64_t kPagesAhead = 3;

struct Page {
  size_t byte_size() const { return pixels.size(); }
  std::vector<uint8_t> pixels;
};

// A pool of one thread. It runs a task when the viewer says that time goes on.
class Worker {
 public:
  Worker() : thread_([this] { RunTasks(); }) {}
  ~Worker() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ends_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void Post(std::function<void()> task) {
    const std::lock_guard<std::mutex> lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  // Has the thread run the next task, and waits for that. Returns false if there is none.
  bool RunOne() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (tasks_.empty()) return false;
    may_run_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !may_run_; });
    return true;
  }

 private:
  void RunTasks() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return may_run_ || ends_; });
      if (!may_run_) return;
      {
        const std::function<void()> task = std::move(tasks_.front());
        tasks_.pop_front();
        lock.unlock();
        task();
      }
      lock.lock();
      may_run_ = false;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool may_run_ = false;
  bool ends_ = false;
  std::thread thread_;
};

struct Figures {
  int turned = 0;
  int at_once = 0;         // pages that were there when the reader turned to them
  int waited = 0;          // decoded while the reader waited
  int decoded = 0;         // in all
  size_t never_shown = 0;  // decoded, and never shown
  int cancelled = 0;       // prefetches that were not done when the reader turned the page
};

class Viewer {
 public:
  explicit Viewer(bool loads_ahead) : loads_ahead_(loads_ahead), pages_(NewCache()) {}
  Viewer(const Viewer&) = delete;
  Viewer& operator=(const Viewer&) = delete;

  // Shows a page, which the reader then looks at for as long as it takes to decode `time` of them.
  void Turn(int number, int time) {
    ++figures_.turned;
    StopLoadingAhead();
    Show(number);
    if (loads_ahead_) LoadAhead(number);
    const int until = figures_.decoded + time;
    while (figures_.decoded < until && worker_.RunOne()) {
    }
  }
  Figures figures() {
    figures_.never_shown = 0;
    for (const int number : was_decoded_)
      figures_.never_shown += was_shown_.count(number) ? 0u : 1u;
    return figures_;
  }

 private:
  using Pages = LargeObjectCache<int, Page>;

  static Pages NewCache() {
    Pages::Options options;
    options.budget_bytes = kPagesInBudget * kPageBytes;
    return std::move(Pages::Create(std::move(options))).value();
  }
  // The loader. A prefetch that is stopped stops it, too, unless the reader waits for the page.
  absl::StatusOr<Page> Decode(int number, const std::stop_token& token) {
    Page page;
    while (page.pixels.size() < kPixels) {
      if (token.stop_requested()) return absl::CancelledError("nobody wants the page");
      page.pixels.resize(page.pixels.size() + 256, static_cast<uint8_t>(number));
    }
    ++figures_.decoded;
    was_decoded_.insert(number);
    return page;
  }
  auto loader() {
    return [this](int number, std::stop_token token) { return Decode(number, token); };
  }
  auto executor() {
    return [this](std::function<void()> task) { worker_.Post(std::move(task)); };
  }

  // A prefetch that is under way does not delay the page: its next task comes after the page's.
  void Show(int number) {
    shown_.reset();
    pages_.GetOrLoadAsync(number, loader(), executor(), [this](absl::StatusOr<Ref<Page>> page) {
      if (page.ok()) shown_ = *std::move(page);
    });
    if (shown_ != nullptr) ++figures_.at_once;
    const int before = figures_.decoded;
    while (shown_ == nullptr && worker_.RunOne()) {
    }
    figures_.waited += figures_.decoded - before;
    was_shown_.insert(number);
  }
  void LoadAhead(int number) {
    // Nothing is evicted for what is loaded ahead: the viewer gives up what it needs least.
    pages_.Trim((kPagesInBudget - kPagesAhead) * kPageBytes);
    next_.clear();
    for (int page = number + 1; page <= std::min<int>(number + kPagesAhead, kLastPage); ++page) {
      next_.push_back(page);
    }
    stop_ = std::stop_source();
    PrefetchOptions options;
    options.weight_estimate = kPixels;
    options.stop_token = stop_.get_token();
    pages_.Prefetch(next_, loader(), executor(), options);
  }
  void StopLoadingAhead() {
    const auto is_missing = [this](int page) { return pages_.Peek(page) == nullptr; };
    if (std::any_of(next_.begin(), next_.end(), is_missing)) ++figures_.cancelled;
    stop_.request_stop();
  }

  const bool loads_ahead_;
  Figures figures_;
  std::set<int> was_decoded_;
  std::set<int> was_shown_;
  Pages pages_;
  Ref<Page> shown_;
  std::stop_source stop_;
  std::vector<int> next_;  // pages that are being loaded ahead
  Worker worker_;          // ends before all that its tasks use
};

Figures Read(bool loads_ahead) {
  Viewer viewer(loads_ahead);
  for (int page = 1; page <= 12; ++page) viewer.Turn(page, /*time=*/2);
  viewer.Turn(40, 2);  // found in the table of contents
  for (int page = 41; page <= 50; ++page) viewer.Turn(page, 2);
  for (int page = 49; page >= 47; --page) viewer.Turn(page, 1);  // once more
  for (int page = 60; page <= 65; ++page) viewer.Turn(page, 0);  // leafs through
  viewer.Turn(66, 3);
  viewer.Turn(67, 3);
  return viewer.figures();
}

void Print(const std::string& what, int64_t without, int64_t with) {
  std::cout << std::left << std::setw(28) << what << std::right << std::setw(8) << without
            << std::setw(8) << with << '\n';
}

void Main() {
  const Figures without = Read(/*loads_ahead=*/false);
  const Figures with = Read(/*loads_ahead=*/true);
  std::cout << "prefetch                         without    with\n";
  Print("pages turned", without.turned, with.turned);
  Print("shown at once", without.at_once, with.at_once);
  Print("decoded while one waits", without.waited, with.waited);
  Print("decoded", without.decoded, with.decoded);
  Print("decoded and never shown", static_cast<int64_t>(without.never_shown),
        static_cast<int64_t>(with.never_shown));
  Print("prefetches cancelled", without.cancelled, with.cancelled);
}

}  // namespace prefetch_viewer

int main() { prefetch_viewer::Main(); }
