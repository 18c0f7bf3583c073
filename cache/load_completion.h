// SPDX-License-Identifier: Apache-2.0
// LoadCompletion<V>: how a loader that is itself asynchronous gives its object to a
// LargeObjectCache.
//
// Why: a loader that sends a request, or reads with io_uring, has its object later, on some other
// thread. To wait for it in the loader would take a thread of the pool for each load under way.
//
//   using weakcache::LoadCompletion;
//   pages.GetOrLoadAsync(
//       7,
//       [&](int number, LoadCompletion<Page> done) {
//         network.Fetch(number, [done = std::move(done)](absl::StatusOr<Page> page) mutable {
//           done(std::move(page));
//         });
//       },
//       executor, [](absl::StatusOr<weakcache::Ref<Page>> page) { … });
//
// Thread safety: thread-compatible. May be called on any thread, also before the loader returns,
// and after the end of the cache, which then ignores it.
//
// Unlike std::promise, it is called as a function, and never throws; one that is destroyed without
// a call fails the load with Aborted. docs/guide.md says what holds during such a load.
//
// Complexity: that of entering the object, and of the continuations, which run in the call; and
// with a second tier, of writing the object there before these.
#ifndef WEAKCACHE_CACHE_LOAD_COMPLETION_H_
#define WEAKCACHE_CACHE_LOAD_COMPLETION_H_

#include <memory>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "weakcache/cache/internal/loading/accepted_types.h"
#include "weakcache/cache/internal/loading/completion_target.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/weakref/internal/check.h"

namespace weakcache {

// Movable, not copyable. Neither a call nor the destructor throws: exceptions of the weigher, and
// of the object's move constructor, go to those that wait for the object.
template <typename V>
class LoadCompletion {
 public:
  LoadCompletion(LoadCompletion&&) noexcept = default;
  LoadCompletion& operator=(LoadCompletion&& other) noexcept {
    if (this == &other) return *this;
    Drop();
    target_ = std::move(other.target_);
    return *this;
  }
  LoadCompletion(const LoadCompletion&) = delete;
  LoadCompletion& operator=(const LoadCompletion&) = delete;
  ~LoadCompletion() { Drop(); }

  // Ends the load with what a loader may return: an object, as a V, a std::unique_ptr or a Ref to
  // one, or a Loaded of any of these, an absl::StatusOr of any of all these, or an absl::Status.
  // All that wait for the load get the result, and callbacks run before this returns. But if the
  // loader itself has not returned yet, they run on its thread as soon as it has. Precondition:
  // neither called nor moved from.
  template <typename Result>
  void operator()(Result&& result) noexcept {
    if constexpr (internal::CheckLoadResult<V, std::decay_t<Result>>()) {
      internal::Check(target_ != nullptr, "LoadCompletion", "it has been called, or moved from");
      const auto target = std::move(target_);
      auto completed = internal::CompletionResult<V>::Of(std::forward<Result>(result));
      target->Complete(completed);
    }
  }

 private:
  template <typename Loads>
  friend class internal::CompletionLoad;
  explicit LoadCompletion(std::shared_ptr<internal::CompletionTarget<V>> target)
      : target_(std::move(target)) {}

  void Drop() {
    if (target_ == nullptr) return;
    const auto target = std::move(target_);
    internal::CompletionResult<V> dropped;
    dropped.status = internal::NoThrowStatus(absl::StatusCode::kAborted,
                                             "the loader's completion was dropped without a call");
    target->Complete(dropped);
  }

  std::shared_ptr<internal::CompletionTarget<V>> target_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_LOAD_COMPLETION_H_
