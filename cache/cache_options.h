// SPDX-License-Identifier: Apache-2.0
// What a LargeObjectCache is told: its options, and what an object weighs unless these have a
// weigher. For the options of one load see load_options.h.
//
// Why: a cache without a budget, or one that weighs an object of many megabytes by its sizeof,
// looks right until the memory is gone. So a budget has to be set, and a type whose memory the
// cache can't know by itself has to be weighed by its user.
//
//   using Images = weakcache::LargeObjectCache<std::string, Image>;
//   Images::Options options;
//   options.budget_bytes = uint64_t{2} << 30;
//   options.weigher = [](const Image& image) { return image.pixels.size(); };
//   options.expire_after_write = absl::Hours(1);
//   absl::StatusOr<Images> images = Images::Create(options);
//
// Thread safety: thread-compatible, plain values; but a cache calls the functions among the options
// on any of its threads, also at the same time.
//
// Unlike Caffeine's and Guava's builders, one option does not exclude another, and nothing is
// weighed by a silent default: see DefaultWeight.
//
// Complexity: DefaultWeight is O(1), or that of the type's byte_size().
#ifndef WEAKCACHE_CACHE_CACHE_OPTIONS_H_
#define WEAKCACHE_CACHE_CACHE_OPTIONS_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "weakcache/cache/removal_cause.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {

namespace internal {

template <typename V>
concept HasByteSize = requires(const V& object) {
  { object.byte_size() } -> std::convertible_to<uint64_t>;
};
// A type that has a byte_size() which can't be called on a const object, or gives no number.
template <typename V>
concept HasUnusableByteSize = !HasByteSize<V> && requires(std::remove_const_t<V> & object) {
  object.byte_size();
};
// A type such as std::vector<char>, std::string or absl::InlinedVector<int, 8>.
template <typename V>
concept HoldsTrivialElements = requires(const V& object) {
  typename V::value_type;
  { object.data() } -> std::convertible_to<const typename V::value_type*>;
  { object.size() } -> std::convertible_to<size_t>;
}
&&std::is_trivially_copyable_v<typename V::value_type>;

}  // namespace internal

// Types whose memory is known without a weigher: see DefaultWeight.
template <typename V>
concept HasDefaultWeight = internal::HasByteSize<V> || std::is_trivially_copyable_v<V> ||
    internal::HoldsTrivialElements<V>;

// Returns the weight of an object, in bytes, unless the options have a weigher:
//  - its `byte_size()`, a const member, if it has one;
//  - its sizeof, if it is trivially copyable, because such objects rarely own memory;
//  - its sizeof and the memory of its elements, if it is a contiguous container, such as
//    std::vector or std::string, of elements that are trivially copyable.
// No other type has a default weight, because its sizeof says nothing about the memory it owns.
template <HasDefaultWeight V>
uint64_t DefaultWeight(const V& object) {
  if constexpr (internal::HasByteSize<V>) {
    return static_cast<uint64_t>(object.byte_size());
  } else if constexpr (std::is_trivially_copyable_v<V>) {
    return sizeof(V);
  } else {
    // A short string's elements, for one, lie in the object itself.
    const auto* const begin = reinterpret_cast<const char*>(std::addressof(object));
    const auto* const data = reinterpret_cast<const char*>(object.data());
    const std::less<> before;
    if (!before(data, begin) && before(data, begin + sizeof(V))) return sizeof(V);
    size_t elements = object.size();
    if constexpr (requires { static_cast<size_t>(object.capacity()); }) {
      elements = object.capacity();
    }
    return sizeof(V) + uint64_t{elements} * sizeof(typename V::value_type);
  }
}

// A function that is called for each object that leaves a cache or its budget, in one of the forms
//
//   void(const K& key, const Ref<V>& object, RemovalCause cause, uint64_t weight)
//   void(const K& key, const Ref<V>& object, RemovalCause cause)
//   void(const K& key, RemovalCause cause, uint64_t weight)
//
// The object is alive even if nobody else uses it any more, and null if it has died: kDied.
template <typename K, typename V>
class RemovalListener {
 public:
  RemovalListener() = default;
  RemovalListener(std::nullptr_t) {}  // NOLINT(google-explicit-constructor): as std::function
  template <typename Function>
  requires(!std::is_same_v<std::remove_cvref_t<Function>, RemovalListener>)
      RemovalListener(Function&& function) {  // NOLINT: constrained; implicit, as std::function
    using F = std::decay_t<Function>;
    constexpr bool kTakesAll =
        std::is_invocable_v<F&, const K&, const Ref<V>&, RemovalCause, uint64_t>;
    constexpr bool kTakesObject = std::is_invocable_v<F&, const K&, const Ref<V>&, RemovalCause>;
    constexpr bool kTakesWeight = std::is_invocable_v<F&, const K&, RemovalCause, uint64_t>;
    static_assert(kTakesAll || kTakesObject || kTakesWeight,
                  "a removal listener takes key, object, cause and weight; or the first three of "
                  "them; or key, cause and weight");
    if (IsEmpty(function)) return;
    if constexpr (kTakesAll) {
      function_ = std::forward<Function>(function);
    } else if constexpr (kTakesObject) {
      function_ = [f = F(std::forward<Function>(function))](const K& key, const Ref<V>& object,
                                                            RemovalCause cause, uint64_t) mutable {
        f(key, object, cause);
      };
    } else if constexpr (kTakesWeight) {
      function_ = [f = F(std::forward<Function>(function))](
                      const K& key, const Ref<V>&, RemovalCause cause, uint64_t weight) mutable {
        f(key, cause, weight);
      };
    }
  }

  // Whether there is a function.
  explicit operator bool() const { return static_cast<bool>(function_); }
  void operator()(const K& key, const Ref<V>& object, RemovalCause cause, uint64_t weight) const {
    function_(key, object, cause, weight);
  }

 private:
  template <typename Function>
  static bool IsEmpty(const Function&) {
    return false;
  }
  template <typename Signature>
  static bool IsEmpty(const std::function<Signature>& function) {
    return !function;
  }

  std::function<void(const K&, const Ref<V>&, RemovalCause, uint64_t)> function_;
};

// What becomes of a load for whose object the hard limit of a cache leaves no room.
enum class AtHardLimit {
  kFail,          // it gives absl::StatusCode::kResourceExhausted, and its object is destroyed
  kServeUncached  // its callers get the object, which does not enter the cache, nor count
};

// What a cache keeps the objects for that it keeps, beside their use lately and their weight.
enum class ObjectValue {
  kHits,      // each hit counts as one
  kTimeSaved  // each hit counts for the time that the object's load took
};

// When the refresh of an object that has failed is tried again: after `initial`, and twice as long
// after each further failure, up to `limit`. Each time is shortened by up to the part `jitter` of
// it, by the hash of the key, so that a source is not asked for all keys at once. An `initial` of
// zero: at the next request.
struct RefreshBackoff {
  absl::Duration initial = absl::Seconds(1);
  absl::Duration limit = absl::Minutes(1);
  double jitter = 0.1;
};

// Options are given to LargeObjectCache::Create, or to CreateWeak.
template <typename K, typename V>
struct LargeObjectCacheOptions {
  // What the cache's live objects may weigh together, those in use included; has to be set. Idle
  // objects, which nobody but the cache holds, are evicted before any that are in use; a new object
  // stays until newer ones that weigh a twentieth of the budget together have come. An object that
  // is heavier than the budget is handed out, and found while it is used, but neither retained nor
  // counted. The largest value is PTRDIFF_MAX, half of the address space. Larger ones are refused,
  // because they are negative numbers: so is 2 << 30, an int, where uint64_t{2} << 30 was meant.
  uint64_t budget_bytes = 0;
  // False: the budget bounds the idle objects alone. As the cache is not told when an object
  // becomes idle, those that have become idle since may exceed it: each load notices up to 64.
  bool budget_covers_in_use = true;
  // What all live objects in the cache, idle and in use, and the estimates of loads under way never
  // exceed together; 0: no hard limit. If idle objects have to go for that, they do. A load whose
  // weight_estimate leaves it no room waits, before it begins, until objects in use have died, for
  // up to `hard_limit_wait` by std::chrono::steady_clock; then `at_hard_limit` says what becomes of
  // it. An object without an estimate, or heavier than it, enters the cache only if there is room
  // when it has been loaded; it does not wait, and if there is a listener nothing goes for it. So
  // give estimates, or leave some room between the budget and the limit. An object that is put and
  // finds no room does not enter the cache, and one that outgrows the room leaves it. Objects that
  // have left the cache do not count, even if they live.
  uint64_t hard_limit_bytes = 0;
  absl::Duration hard_limit_wait = absl::ZeroDuration();
  AtHardLimit at_hard_limit = AtHardLimit::kFail;
  // Returns the weight of an object; called once for each new object, and by UpdateWeight. Empty:
  // DefaultWeight, if V has one. If it has none, a weigher has to be set.
  std::function<uint64_t(const V&)> weigher = {};
  // Whether each object also weighs what its entry takes in memory, some 300 bytes with a key of 8,
  // so that even objects which weigh nothing have a limit. Without it, the budget may be in another
  // unit: with a weigher that returns 1 it is a number of objects. Listeners are told the object's
  // own weight in either case.
  bool count_entry_memory = true;
  // kTimeSaved: an object whose load took ten times as long is worth ten times as many hits, and
  // Stats() has the time that hits have saved. The times are those of loaders and weighers by
  // `clock`, those of GetAll in equal parts; Loaded has a field for other costs. A load counts for
  // at least a microsecond and at most four hours. It costs some hits: about as many objects fewer
  // are found as those that are take longer to load.
  ObjectValue value = ObjectValue::kHits;
  // Parts with a lock each: a power of two, at most 4096. 0: eight for each core, at least 16.
  size_t shards = 0;
  // Called for each object that leaves the cache or is evicted from its budget, not at the cache's
  // end: without a lock, while the calling thread holds nothing that other threads wait for, and
  // before the object's last reference goes. Calls about one object come one after the other, in
  // order; calls about different objects may overlap. An evicted object that is used, also by a
  // listener that keeps it, stays in the cache: for its later removal or death there is another
  // call, for being retained again there is none. A thread that drops a last reference while the
  // cache ends may still be in a call.
  RemovalListener<K, V> removal_listener = {};
  // What ages and the times of loads are measured by; only differences count. Must not throw.
  // Empty: std::chrono::steady_clock, which nobody sets back.
  std::function<absl::Time()> clock = {};
  // How long after it was entered, or last found, an object expires: it is not found any more, and
  // is removed when somebody looks for it, when it is evicted, or by Purge. And how long after it
  // was entered it is stale: one GetOrLoad loads it anew, while all others get the stale object.
  // The first and the last are defaults: see Loaded. A hit is recorded for expire_after_access only
  // if the one recorded last is a sixteenth of the time ago, or a second: so an object may expire
  // by as much too early, and never too late.
  absl::Duration expire_after_write = absl::InfiniteDuration();
  absl::Duration expire_after_access = absl::InfiniteDuration();
  absl::Duration refresh_after_write = absl::InfiniteDuration();
  RefreshBackoff refresh_backoff = {};
  // Runs the refreshes that GetOrLoad and Refresh find due: called as `refresh_executor(task)`, it
  // has the task run once, on any thread, while everybody gets the stale object. The loader is then
  // moved or copied into the task and called after GetOrLoad has returned, so it must not refer to
  // what has gone by then. Empty: the caller that finds an object stale loads it. A task that runs
  // or is dropped after the cache's end does nothing; that end waits for tasks that run.
  std::function<void(std::function<void()>)> refresh_executor = {};
  // Up to which part of its life, by the options or its own, an object expires earlier, and is due
  // for a refresh earlier, so that what was loaded together is not all loaded together again: 0.1
  // spreads it over the last tenth. By the hash of the key, so the same in each run. 0 to 1.
  double expiry_jitter = 0;
  // How long after its expiry an object is still handed out by GetOrLoad, GetOrLoadAsync and GetAll
  // if the load of a new one fails, for whatever reason but the caller's own stop token. Nothing
  // else finds it. Until then it is evicted in its turn, instead of first. Such requests are
  // misses, and stale_served of CacheStats. With `failure_ttl` not each of them asks the source.
  absl::Duration stale_if_error = absl::ZeroDuration();
  // How long the failure of a load is kept, by its status: those who ask for the key meanwhile get
  // it at once, and no loader is called. Zero or less: not at all. Exceptions are never kept.
  // Invalidate, Put, InvalidateIf and Clear drop a failure. It has no weight: each shard keeps 512,
  // eight of keys with the same six bits of the hash, and another one takes the place of the one of
  // these that ends first. Called at the end of a load that has failed; it may not use the cache,
  // and if it throws, the failure is not kept. Empty: none is.
  std::function<absl::Duration(const absl::Status&)> failure_ttl = {};
  // How many loaders may run at a time; further loads wait. Those that wait for each other do not
  // count. A refresh that would have to wait is left for later. 0: no limit.
  size_t max_concurrent_loads = 0;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_CACHE_OPTIONS_H_
