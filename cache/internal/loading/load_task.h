// SPDX-License-Identifier: Apache-2.0
// A load that a cache leaves to its caller's executor.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_TASK_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_TASK_H_

#include <cstdint>
#include <exception>
#include <future>
#include <utility>

#include "absl/status/statusor.h"
#include "weakcache/cache/internal/loading/load_outcome.h"

namespace weakcache::internal {

// Runs once, on one thread.
template <typename Core, typename K, typename Strong, typename Loader>
class LoadTask {
 public:
  template <typename Key, typename AnyLoader>
  LoadTask(Core* core, Key&& key, AnyLoader&& loader, uint64_t estimate,
           std::promise<absl::StatusOr<Strong>> promise)
      : core_(core),
        key_(std::forward<Key>(key)),
        loader_(std::forward<AnyLoader>(loader)),
        estimate_(estimate),
        promise_(std::move(promise)) {}

  void Run() {
    CatchErrors(
        [&] {
          promise_.set_value(core_->GetOrLoad(std::move(key_), std::move(loader_), estimate_));
        },
        [&] { promise_.set_exception(std::current_exception()); });
  }

 private:
  Core* const core_;
  K key_;
  Loader loader_;
  const uint64_t estimate_;
  std::promise<absl::StatusOr<Strong>> promise_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_LOAD_TASK_H_
