// SPDX-License-Identifier: Apache-2.0
// LargeObjectCache<K, V>: loads each large object once, and keeps the best of them within a budget
// of bytes.
//
// Why not a list, an unordered_map and a mutex: such an LRU forgets an evicted object even while it
// is in use, so the next request loads it a second time and the memory is needed twice. Here an
// evicted object stays findable while anybody holds it (a *weak hit*); one thread loads an object
// while others wait for it; and no destructor, loader, weigher or listener runs under a lock.
//
//   using Images = weakcache::LargeObjectCache<std::string, Image>;
//   Images::Options options;
//   options.budget_bytes = uint64_t{2} << 30;
//   absl::StatusOr<Images> images = Images::Create(options);
//   absl::StatusOr<weakcache::Ref<Image>> cover =        // on any thread; decoded once
//       images->GetOrLoad("cover.png", [](const std::string& path) { return DecodeImage(path); });
//
// Thread safety: thread-safe, except that during construction, moves and destruction no other
// thread may be in a call of the cache. Objects may be released at any time, also later.
//
// Unlike std's containers and absl's, it has its own object handles (Ref), reports errors by
// absl::Status, and has CamelCase methods. Unlike in Caffeine and Guava, an object that was evicted
// in use is still found: docs/guide.md has the semantics.
//
// Complexity: operations on one key are amortised O(1). A hit on a retained object takes no lock
// (if it is not sampled for Holders) and writes to nothing shared but its counts and, until it has
// many hits, a byte.
#ifndef WEAKCACHE_CACHE_LARGE_OBJECT_CACHE_H_
#define WEAKCACHE_CACHE_LARGE_OBJECT_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "weakcache/cache/cache_holders.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/cache_stats.h"
#include "weakcache/cache/internal/core/cache_core.h"
#include "weakcache/cache/internal/core/cache_settings.h"
#include "weakcache/cache/internal/core/completion_loader.h"
#include "weakcache/cache/internal/core/core_owner.h"
#include "weakcache/cache/internal/core/load_awaiter.h"
#include "weakcache/cache/internal/key/key_lookup.h"
#include "weakcache/cache/internal/loading/accepted_types.h"
#include "weakcache/cache/internal/slot/stored_handle.h"
#include "weakcache/cache/load_completion.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/cache/object_info.h"
#include "weakcache/cache/prefetch_options.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache {

template <typename K, typename V, typename Hash = internal::DefaultHash<K>,
          typename Equal = internal::DefaultEqual<K>>
class LargeObjectCache {
  static_assert(!Handle<V>, "V is the object, not a handle to it");
  static_assert(internal::RefuseTextByAddress<K, Equal>::value);

 public:
  using key_type = K;
  using mapped_type = Ref<V>;
  using size_type = size_t;
  using Strong = Ref<V>;
  using Weak = WeakRef<V>;
  using Options = LargeObjectCacheOptions<K, V>;

  // Returns InvalidArgument, and what to write instead, if an option is bad or the budget is not
  // set: see cache_options.h.
  [[nodiscard]] static absl::StatusOr<LargeObjectCache> Create(Options options, Hash hash = Hash(),
                                                               Equal equal = Equal()) {
    return Make(std::move(options), /*weak=*/false, std::move(hash), std::move(equal));
  }
  // Does the same for a purely weak cache, whose `budget_bytes` must not be set: it loads each
  // object once, and finds it while somebody uses it, but retains none. SetBudget may change that.
  [[nodiscard]] static absl::StatusOr<LargeObjectCache> CreateWeak(Options options = {},
                                                                   Hash hash = Hash(),
                                                                   Equal equal = Equal()) {
    return Make(std::move(options), /*weak=*/true, std::move(hash), std::move(equal));
  }

  // A cache that was moved from can only be assigned to or destroyed.
  LargeObjectCache(LargeObjectCache&&) noexcept = default;
  LargeObjectCache& operator=(LargeObjectCache&&) noexcept = default;

  // Returns the object under the key, or else the one that `loader(key)` or `loader()` returns: as
  // a V, std::unique_ptr<V> or Ref<V>, as a Loaded of one of these, as an absl::StatusOr of one of
  // all of these, or as an absl::Status. A caller stops waiting at its deadline or when its stop
  // token fires, and a loader may take a std::stop_token, after the key or instead of it: see
  // load_options.h.
  //
  // One loader runs for a key at a time, without a lock; it may use the cache. Other callers for
  // the key wait, and get the same object, status or exception; after a failure the next caller
  // tries again. A loader that asks for its own key gets FailedPrecondition. If the key is
  // invalidated during the load, the callers still get the object, but it is not cached. If an
  // object is put during the load, that one is newer and wins.
  template <typename Key = K, typename Loader>
  [[nodiscard]] absl::StatusOr<Strong> GetOrLoad(
      Key&& key, Loader&& loader, const LoadOptions& options = internal::kDefaultLoad.options) {
    if constexpr (internal::CheckLoader<V, K, Loader>()) {
      return core_->asks().GetOrLoad(std::forward<Key>(key), std::forward<Loader>(loader), options);
    } else {
      return absl::InternalError("");
    }
  }

  // Does the same as GetOrLoad, but no thread waits: a miss calls `executor(task)`, once for a
  // load, however many requests wait for it; the task is a copyable function without arguments. A
  // task that finds no permit is posted again. Do not destroy the cache before all requests have
  // their results; if a task is dropped, the result is a std::future_error. A stop ends a request
  // at once; its deadline is checked when it is made and when its task begins. If the object is
  // stale, the result is the old object, at once, and the task refreshes it.
  //
  // A loader that is itself asynchronous takes a LoadCompletion<V> as its last argument, returns
  // nothing, and has the completion called later, on any thread: see load_completion.h. Such a
  // loader refreshes nothing.
  template <typename Key = K, typename Loader, typename Executor>
  auto GetOrLoadAsync(Key&& key, Loader&& loader, Executor&& executor,
                      const LoadOptions& options = internal::kDefaultLoad.options)
      -> std::future<absl::StatusOr<Strong>> {
    std::promise<absl::StatusOr<Strong>> promise;
    auto future = promise.get_future();
    if constexpr (internal::CheckAsyncLoader<V, K, std::decay_t<Loader>>()) {
      core_->asks().LoadAsync(std::forward<Key>(key), std::forward<Loader>(loader),
                              std::forward<Executor>(executor),
                              internal::FutureReceiver<V>(std::move(promise)), options);
    }
    return future;
  }
  // Does the same with a callback, which takes an absl::StatusOr<Strong> and must not throw;
  // exceptions of the loader become Unknown, a dropped task Aborted. Calls it at once if the object
  // is there; otherwise the thread that ends the load, or that cancels this request, calls it.
  template <typename Key = K, typename Loader, typename Executor, typename Callback>
  requires std::is_invocable_v<std::decay_t<Callback>, absl::StatusOr<Strong>>
  void GetOrLoadAsync(Key&& key, Loader&& loader, Executor&& executor, Callback&& callback,
                      const LoadOptions& options = internal::kDefaultLoad.options) {
    if constexpr (internal::CheckAsyncLoader<V, K, std::decay_t<Loader>>()) {
      core_->asks().LoadAsync(
          std::forward<Key>(key), std::forward<Loader>(loader), std::forward<Executor>(executor),
          internal::CallbackReceiver<V, std::decay_t<Callback>>(std::forward<Callback>(callback)),
          options);
    }
  }
#ifdef __cpp_impl_coroutine
  // Does the same for coroutines, by co_await: resumes on the thread that would call the callback.
  template <typename Key = K, typename Loader, typename Executor>
  [[nodiscard]] auto CoGetOrLoad(Key&& key, Loader&& loader, Executor&& executor,
                                 LoadOptions options = {}) {
    static_assert(internal::CheckAsyncLoader<V, K, std::decay_t<Loader>>());
    using Stored = internal::StoredExecutor<Executor>;
    return internal::LoadAwaiter<typename Core::Asks, K, V, std::decay_t<Loader>, Stored>(
        core_->asks(), std::forward<Key>(key), std::forward<Loader>(loader),
        std::forward<Executor>(executor), std::move(options));
  }
#endif

  // Returns the objects under the keys, in the same order. Calls `loader(missing)` once, where
  // `missing` is a std::vector<K> of the keys that are neither cached nor being loaded. The loader
  // returns a std::vector of the same length, of objects or of what GetOrLoad's loader may return,
  // or an absl::StatusOr of one. Its exceptions pass through. A key that another thread fails to
  // load, or whose task is queued, is loaded on its own.
  template <typename Loader>
  std::vector<absl::StatusOr<Strong>> GetAll(absl::Span<const K> keys, Loader&& loader,
                                             const LoadOptions& options = {}) {
    if constexpr (internal::CheckBulkLoader<V, K, Loader>()) {
      return core_->GetAll(keys, loader, options);
    } else {
      return {};
    }
  }

  // Loads missing objects for later use, one after the other, in tasks for the executor. They count
  // as not used, and nothing is evicted for them: ends when the budget, less the live objects, or
  // `options.max_bytes` has no room for the next one, or a stop is requested. Waits for no permit,
  // and takes none that others wait for. Passes over failed loads, and kept failures. Returns at
  // once. If the cache ends before the tasks have run, they do nothing.
  template <typename Loader, typename Executor>
  void Prefetch(std::vector<K> keys, Loader&& loader, Executor&& executor,
                const PrefetchOptions& options = {}) {
    if constexpr (internal::CheckLoader<V, K, std::decay_t<Loader>&>()) {
      core_->asks().Prefetch(std::move(keys), std::forward<Loader>(loader),
                             std::forward<Executor>(executor), options);
    }
  }

  // Loads the object under the key anew, even if it is fresh: by the options' refresh_executor, or
  // else on this thread. Everybody gets the old object meanwhile, and after a failure. Does nothing
  // if the object is being refreshed already; no deadline stops it. If there is no object, loads
  // one as GetOrLoad does, even if a failure is kept. Returns how the load on this thread has
  // failed; Unavailable if it would have to wait for a permit. Does not count as a use.
  template <typename Key = K, typename Loader>
  absl::Status Refresh(Key&& key, Loader&& loader, const LoadOptions& options = {}) {
    if constexpr (internal::CheckLoader<V, K, Loader>()) {
      return core_->asks().Refresh(std::forward<Key>(key), std::forward<Loader>(loader), options);
    } else {
      return absl::InternalError("");
    }
  }

  // Returns the object under the key, or null.
  template <typename Key = K>
  [[nodiscard]] Strong Get(const Key& key) {
    return core_->Get(key);
  }
  // Does the same as Get, but counts neither as a use nor in the figures.
  template <typename Key = K>
  [[nodiscard]] Strong Peek(const Key& key) const {
    return core_->store().Peek(key);
  }

  // Enters an object, in place of the present one if any, and returns it. Precondition: a Ref owns
  // an object.
  template <typename Key = K>
  Strong Put(Key&& key, Strong object) {
    internal::CheckOwns(object, "LargeObjectCache::Put");
    return core_->Put(std::forward<Key>(key), std::move(object));
  }
  template <typename Key = K>
  Strong Put(Key&& key, std::remove_cv_t<V>&& object) {
    return core_->Put(std::forward<Key>(key), internal::MakeObject<Strong>(std::move(object)));
  }
  // Does the same for a std::unique_ptr to an object, a Ref to one of a derived class, or a Loaded.
  template <typename Key = K, typename Object>
  Strong Put(Key&& key, Object&& object) {
    if constexpr (internal::CheckPut<V, Object>()) {
      return core_->PutMade(std::forward<Key>(key), std::forward<Object>(object));
    } else {
      return Strong();
    }
  }
  // Puts the object unless there is one under the key. Returns the object that is in the cache
  // then, and whether it is the new one; if it is not, the new one is destroyed unless somebody
  // holds it. Of several threads that call this for one key at a time, one puts. Does not count as
  // a use of the present object.
  template <typename Key = K, typename Object = std::remove_cv_t<V>>
  std::pair<Strong, bool> PutIfAbsent(Key&& key, Object&& object) {
    if constexpr (internal::CheckPut<V, Object>()) {
      return core_->PutMadeIfAbsent(std::forward<Key>(key), std::forward<Object>(object));
    } else {
      return {};
    }
  }
  // Puts each object under its key, one after the other.
  template <typename Object>
  void PutAll(std::vector<std::pair<K, Object>> objects) {
    for (auto& [key, object] : objects) Put(std::move(key), std::move(object));
  }

  // Removes the object; it lives on if somebody holds it. Returns false if there was none. The
  // object of a load under way will not be cached.
  template <typename Key = K>
  bool Invalidate(const Key& key) {
    return core_->Invalidate(key);
  }
  // Removes the object only if it is `expected` (a Ref or a WeakRef), so that a slow thread can't
  // remove its successor.
  template <typename Key = K>
  bool Invalidate(const Key& key, const Weak& expected) {
    return core_->Invalidate(key, expected);
  }
  // Invalidates each key, one after the other. Returns how many objects it has removed.
  size_type InvalidateAll(absl::Span<const K> keys) {
    size_type removed = 0;
    for (const K& key : keys) removed += Invalidate(key) ? 1 : 0;
    return removed;
  }
  // Removes each object for which `condition(key)` or `condition(key, object)` is true; returns how
  // many. The condition is called as ForEach calls `visit`. The object of a load or a refresh under
  // way will not be cached if `condition(key)` is true for its key. A condition that takes the
  // object can't be asked about loads under way: none of their objects will be cached.
  template <typename Condition>
  size_type InvalidateIf(Condition&& condition) {
    return core_->InvalidateIf(condition);
  }
  // Invalidates all objects of the group: no call that begins afterwards returns one of them,
  // unless it joins a load whose loader alone has named the group (loaded.h). They are removed one
  // by one: by look-ups that find them, by evictions, which take them first, or by Purge. The
  // objects of the group's loads and refreshes under way will not be cached. O(shards + loads under
  // way + kept failures), however many objects there are. Precondition: a group below 65536.
  void InvalidateGroup(uint32_t group) { core_->InvalidateGroup(group); }
  // Removes all objects; one that is entered during the call may stay. The objects of loads and
  // refreshes under way will not be cached.
  void Clear() { core_->Clear(); }

  // Removes expired objects, and the entries of dead objects, of which each change of the cache
  // also removes a few.
  void Purge() { core_->Purge(); }

  // Sets another budget, and evicts what is necessary before it returns. With 0 nothing is retained
  // any more. Returns the weight of the objects that have died of it; other evicted ones are in
  // use. Precondition: a budget of at most PTRDIFF_MAX.
  uint64_t SetBudget(uint64_t budget_bytes) { return core_->SetBudget(budget_bytes); }
  [[nodiscard]] uint64_t budget_bytes() const { return core_->store().retention().budget(); }
  // Sets another hard limit. If it is lower, evicts idle objects; objects in use may exceed it
  // until they die. If it is higher, loads that wait for room go on. Returns the weight of the
  // objects that have died of it. Preconditions: options.hard_limit_bytes was set; at most
  // PTRDIFF_MAX.
  uint64_t SetHardLimit(uint64_t hard_limit_bytes) { return core_->SetHardLimit(hard_limit_bytes); }
  // Returns what the hard limit counts at this moment. O(1). Precondition: as SetHardLimit.
  [[nodiscard]] uint64_t charged_bytes() const { return core_->charged_bytes(); }
  // Evicts idle objects until the live ones weigh at most `bytes`, for memory pressure: expired
  // ones first, and none that are in use, which would free nothing. Returns the weight of the
  // objects that have died of it. The budget stays.
  uint64_t Trim(uint64_t bytes) { return core_->Trim(bytes); }
  // Weighs the object again, because it has grown or shrunk. Returns false if there is none.
  template <typename Key = K>
  bool UpdateWeight(const Key& key) {
    return core_->UpdateWeight(key);
  }

  // Sets the object to expire that long after this call, without jitter; at once if that is not
  // positive. Returns false if there is none, or it has expired. Does not count as a use.
  template <typename Key = K>
  bool SetExpiry(const Key& key, absl::Duration expires_after) {
    return core_->SetExpiry(key, expires_after);
  }

  // Returns what is known about the object under the key, if there is one: see object_info.h. Does
  // not count as a use, nor in the figures.
  template <typename Key = K>
  [[nodiscard]] std::optional<ObjectInfo> Inspect(const Key& key) const {
    return core_->Inspect(key);
  }

  // Calls `visit(key, object)` for each live object, retained or not, expired or not; once for an
  // object that is in the cache all along. No lock is held: `visit` may use the cache, and take its
  // time. O(the most entries that the cache has had), as are InvalidateIf, Clear and Purge.
  template <typename Visit>
  void ForEach(Visit&& visit) const {
    core_->store().shards().ForEach(
        [&](const Entry& entry, const Strong& object) { visit(entry.key(), object); });
  }

  // Returns up to `count` keys of retained objects: those that would be evicted last, or first. The
  // latest hits don't count. For up to 256 keys O(count), with a large factor, or else O(n log n)
  // for n objects; the budget's lock is never held for more than 256.
  [[nodiscard]] std::vector<K> HottestKeys(size_type count) const {
    return core_->RankedKeys(count, /*hottest_first=*/true);
  }
  [[nodiscard]] std::vector<K> ColdestKeys(size_type count) const {
    return core_->RankedKeys(count, /*hottest_first=*/false);
  }

  // Returns the figures. O(the most entries that the cache has had), as it looks at each object,
  // without a lock.
  [[nodiscard]] CacheStats Stats() const { return core_->Stats(); }

  // Returns who may hold the sampled objects that are in use: see cache_holders.h. Without
  // options.holder_sample_bytes there are none. O(the most entries that the cache has had), as it
  // looks at each object, without a lock.
  [[nodiscard]] CacheHolders Holders() const { return core_->Holders(); }
  // Calls `visit(key, held)` for each of these objects, with a HeldObject, as ForEach does.
  template <typename Visit>
  void ForEachHeld(Visit&& visit) const {
    core_->ForEachHeld(visit);
  }

  // Returns how many live objects there are, retained or not; exact while no other thread changes
  // the cache. O(shards).
  [[nodiscard]] size_type size() const { return core_->size(); }
  [[nodiscard]] bool empty() const { return size() == 0; }

  // Aborts, and says why, if the cache is inconsistent. For tests, while no other thread uses the
  // cache or releases an object. Purges the entries of dead objects.
  void CheckInvariantsForTesting() const { core_->CheckInvariantsForTesting(); }

 private:
  using Core = internal::CacheCore<K, V, Hash, Equal>;
  using Entry = typename Core::Entry;

  friend struct internal::CacheAccess;
  explicit LargeObjectCache(std::unique_ptr<Core> core) : core_(std::move(core)) {}
  static absl::StatusOr<LargeObjectCache> Make(Options options, bool weak, Hash hash, Equal equal) {
    auto settings = internal::MakeSettings(std::move(options), weak);
    if (!settings.ok()) return settings.status();
    return LargeObjectCache(
        std::make_unique<Core>(*std::move(settings), std::move(hash), std::move(equal)));
  }

  internal::CoreOwner<Core> core_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_LARGE_OBJECT_CACHE_H_
