// SPDX-License-Identifier: Apache-2.0
// A loader without its type, so that all that a load does is compiled once for a kind of cache, and
// not for each loader.
#ifndef WEAKCACHE_CACHE_INTERNAL_LOADING_ANY_LOADER_H_
#define WEAKCACHE_CACHE_INTERNAL_LOADING_ANY_LOADER_H_

#include <memory>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/loading/stoppable_loader.h"
#include "weakcache/cache/load_options.h"

namespace weakcache::internal {

// Made: what a load puts into the table, an Owned or a Ref.
template <typename K, typename Made>
class AnyLoader {
 public:
  AnyLoader() = default;
  AnyLoader(const AnyLoader&) = delete;
  AnyLoader& operator=(const AnyLoader&) = delete;
  virtual ~AnyLoader() = default;

  // Calls the loader, at most once; moves the object out of what it returns, and its terms. Returns
  // its error if it gives none. What is left of the result ends with this, as it has a destructor
  // of the user's: declare it before flights and permits.
  virtual absl::Status Load(const K& key, Made& made, ObjectTerms& terms) = 0;

  // Whether there can be a loader for a call that comes after this has ended; and returns that one,
  // once, by moving or copying this one's.
  virtual bool can_outlive_call() const = 0;
  virtual std::unique_ptr<AnyLoader> ForTask() = 0;
};

// What a loader, of the type of a forwarding reference, returns; and what becomes of that.
template <typename K, typename Loader>
using LoaderReturn =
    std::remove_cvref_t<decltype(CallLoader(std::declval<Loader>(), std::declval<const K&>()))>;
template <typename V, typename K, typename Loader>
using MadeByLoader = typename MadeOf<V, LoaderReturn<K, Loader>>::type;

// Whether such a loader can be copied or moved into a task, and called there.
template <typename K, typename Loader>
inline constexpr bool kCanOutliveCall = std::is_constructible_v<std::decay_t<Loader>, Loader> &&
                                        (std::is_invocable_v<std::decay_t<Loader>, const K&> ||
                                         std::is_invocable_v<std::decay_t<Loader>>);
template <typename K, typename Loader>
inline constexpr bool kCanOutliveCall<K, StoppableLoader<K, Loader>&> =
    std::is_constructible_v<std::decay_t<Loader>, Loader>;

template <typename Loader>
auto LoaderForTask(Loader&& loader) {
  if constexpr (kIsStoppableLoader<std::remove_cvref_t<Loader>>) {
    return loader.ForTask();
  } else {
    return std::decay_t<Loader>(std::forward<Loader>(loader));
  }
}

// An AnyLoader that owns its loader, for a task.
template <typename V, typename K, typename Loader>
class OwnedLoader final : public AnyLoader<K, MadeByLoader<V, K, Loader>> {
 public:
  using Made = MadeByLoader<V, K, Loader>;

  explicit OwnedLoader(Loader loader) : loader_(std::move(loader)) {}

  absl::Status Load(const K& key, Made& made, ObjectTerms& terms) override {
    return LoadInto<V>([&]() -> decltype(auto) { return CallLoader(std::move(loader_), key); },
                       made, terms, result_);
  }
  bool can_outlive_call() const override { return false; }
  std::unique_ptr<AnyLoader<K, Made>> ForTask() override { return nullptr; }

 private:
  Loader loader_;
  LoaderResult<V, LoaderReturn<K, Loader>> result_;
};

// An AnyLoader that refers to the caller's loader. Loader is the type of a forwarding reference.
template <typename V, typename K, typename Loader>
class LoaderRef final : public AnyLoader<K, MadeByLoader<V, K, Loader>> {
 public:
  using Made = MadeByLoader<V, K, Loader>;

  explicit LoaderRef(std::remove_reference_t<Loader>& loader) : loader_(loader) {}

  AnyLoader<K, Made>& erased() { return *this; }

  absl::Status Load(const K& key, Made& made, ObjectTerms& terms) override {
    return LoadInto<V>(
        [&]() -> decltype(auto) { return CallLoader(std::forward<Loader>(loader_), key); }, made,
        terms, result_);
  }
  bool can_outlive_call() const override { return kHasTaskForm; }
  std::unique_ptr<AnyLoader<K, Made>> ForTask() override {
    if constexpr (kHasTaskForm) {
      using Posted = decltype(LoaderForTask(std::forward<Loader>(loader_)));
      return std::make_unique<OwnedLoader<V, K, Posted>>(
          LoaderForTask(std::forward<Loader>(loader_)));
    } else {
      return nullptr;
    }
  }

 private:
  // Whether a copy can be called instead, and gives the same kind of object.
  static constexpr bool kHasTaskForm = [] {
    if constexpr (kCanOutliveCall<K, Loader>) {
      using Posted = decltype(LoaderForTask(std::declval<Loader>()));
      return std::is_same_v<MadeByLoader<V, K, Posted>, Made>;
    } else {
      return false;
    }
  }();

  std::remove_reference_t<Loader>& loader_;
  LoaderResult<V, LoaderReturn<K, Loader>> result_;
};

// Returns `function(loader, request)`, of an AnyLoader, for a load of that loader on these options.
template <typename V, typename K, typename Loader, typename Function>
decltype(auto) WithAnyLoader(Loader&& loader, const LoadOptions& options,
                             const Function& function) {
  if constexpr (kTakesStopToken<Loader, K>) {
    StoppableLoader<K, Loader> bound(loader, options);
    LoaderRef<V, K, StoppableLoader<K, Loader>&> any(bound);
    return function(any.erased(), bound.Request());
  } else {
    LoaderRef<V, K, Loader> any(loader);
    return function(any.erased(), LoadRequest{options});
  }
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_LOADING_ANY_LOADER_H_
