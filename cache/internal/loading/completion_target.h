// SPDX-License-Identifier: Apache-2.0
// What a LoadCompletion refers to, and what it gives.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_COMPLETION_TARGET_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_COMPLETION_TARGET_H_

#include <exception>
#include <memory>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::internal {

template <typename Loads>
class CompletionLoad;

// The result of a loader, without its type: an object, as one of the two handles, or an error.
template <typename V>
struct CompletionResult {
  // Moves or copies the object out of what is given. Never throws: what that throws, or a failed
  // allocation, becomes the error.
  template <typename Given>
  static CompletionResult Of(Given&& given) noexcept {
    using Result = std::decay_t<Given>;
    CompletionResult completed;
    CatchErrors(
        [&] {
          typename MadeOf<V, Result>::type made{};
          if constexpr (std::is_same_v<Given, Result>) {
            completed.status =
                TakeObject<V, Result>(std::forward<Given>(given), made, completed.terms);
          } else {
            Result copy(std::forward<Given>(given));
            completed.status = TakeObject<V, Result>(std::move(copy), made, completed.terms);
          }
          if constexpr (MadeOf<V, Result>::kIsReference) {
            completed.referred = std::move(made);
          } else {
            completed.owned = std::move(made);
          }
        },
        [&] { completed.error = std::current_exception(); });
    return completed;
  }

  Owned<V> owned{};
  Ref<V> referred;
  ObjectTerms terms;
  absl::Status status;
  std::exception_ptr error = nullptr;
};

template <typename V>
class CompletionTarget {
 public:
  // Ends the load with the result. Called once.
  virtual void Complete(CompletionResult<V>& result) noexcept = 0;

 protected:
  ~CompletionTarget() = default;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_COMPLETION_TARGET_H_
