// SPDX-License-Identifier: Apache-2.0
// LargeObjectCacheOptions: the budget, the weigher, the expiry and the other settings of a
// LargeObjectCache; and DefaultWeight, which weighs objects if no weigher is set. For the options
// of one load see load_options.h.
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
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "weakcache/cache/internal/tier/tier_codec.h"
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
// `object` is alive, even if nobody else uses it any more. It is null only if the cause is kDied.
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

  // Returns whether there is a function.
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

// What happens to a load if the hard limit of its cache leaves no room for its object.
enum class AtHardLimit {
  kFail,          // it fails with absl::StatusCode::kResourceExhausted, its object is destroyed
  kServeUncached  // its callers get the object, which neither enters the cache nor counts
};

// What a cache does when its second tier loses its connection: the cache is not notified of other
// processes' changes then, so its objects may be outdated.
enum class AtTierDisconnect {
  kDrop,  // drops all objects, then and when the tier is connected again
  kKeep,  // hands them out, for as long as they live
  // Makes all objects unverified, then and when the tier is connected again. An unverified object
  // stays in memory and in the budget, and may be evicted, but no look-up finds it. The next load
  // of its key (GetOrLoad, GetAll and so on) asks the tier. If that still has the entry that the
  // object was read from or written as, the object is current again: it is not decoded, and nobody
  // has two copies. Otherwise, and if the tier can't be asked, the load replaces it.
  //
  // Refresh, Put and loads without `read_tier` always replace it. `stale_if_error` does not serve
  // it. Objects that are in no tier, or have expired, are not checked. Loads that are under way at
  // the loss or the return do not cache their objects, or cache them as unverified.
  //
  // Costs 32 bytes for each object, which count against no budget, and a hash of the encoded bytes
  // at each read and write. After the first loss or connection, and from the start where objects
  // may expire, each hit also reads its object's stamp, as hits on objects of a group do.
  kCheckAgain
};

// When loaded objects are written to the second tier. Put writes at once in either case.
enum class TierWrite {
  // When they have been loaded. One process loads an object, and others wait for it.
  kOnLoad,
  // When they are evicted from the budget, unless they came from the tier: what stays is never
  // written. Processes that miss on a key at the same time load it each for itself.
  kOnEviction
};

// What makes an object worth keeping, beside recent use and low weight.
enum class ObjectValue {
  kHits,      // each hit counts as one
  kTimeSaved  // each hit counts for the time that the object's load took
};

// How long after a failure a refresh is tried again: `initial` after the first one, and twice as
// long after each further one, up to `limit`. Each delay is shortened by up to the fraction
// `jitter` of it, so that a source is not asked for all keys at once; the key's hash and the number
// of failures determine by how much. With an `initial` of zero, the next request tries again.
struct RefreshBackoff {
  absl::Duration initial = absl::Seconds(1);
  absl::Duration limit = absl::Minutes(1);
  double jitter = 0.1;
};

// Options are given to LargeObjectCache::Create, or to CreateWeak.
template <typename K, typename V>
struct LargeObjectCacheOptions {
  // What the cache's live objects, idle or in use, may weigh together; has to be set. Idle objects,
  // which only the cache holds, are evicted before any that are in use. A new object stays until
  // newer objects that together weigh a twentieth of the budget have come. An object that is
  // heavier than the budget is handed out, and found while it is in use, but neither retained nor
  // counted. Values above PTRDIFF_MAX, half of the address space, are refused, because they were
  // negative numbers: 2 << 30 is one, an int, where uint64_t{2} << 30 was meant.
  uint64_t budget_bytes = 0;
  // Whether the budget bounds objects in use, too. If false, it bounds the idle objects alone, and
  // objects that have become idle lately may exceed it: the cache is not told when an object
  // becomes idle, but each load looks at up to 64 objects to find out.
  bool budget_covers_in_use = true;
  // What all live objects in the cache, idle or in use, and the estimates of loads under way never
  // exceed together; 0: no hard limit. Idle objects are evicted to make room. A load whose
  // weight_estimate finds no room waits, before it begins, until objects in use have died: for up
  // to `hard_limit_wait` by std::chrono::steady_clock; then `at_hard_limit` says what happens. A
  // loaded object that had no estimate, or is heavier than it, enters the cache only if there is
  // room at that time; it does not wait, and if there is a listener nothing is evicted for it. So
  // give estimates, or leave some room between the budget and the limit. An object that is put and
  // finds no room does not enter the cache, and one that outgrows the room leaves it. Objects that
  // have left the cache do not count, even if they live.
  uint64_t hard_limit_bytes = 0;
  absl::Duration hard_limit_wait = absl::ZeroDuration();
  AtHardLimit at_hard_limit = AtHardLimit::kFail;
  // Returns the weight of an object; called once for each new object, and by UpdateWeight. Empty:
  // DefaultWeight, if V has one. If V has none, a weigher has to be set.
  std::function<uint64_t(const V&)> weigher = {};
  // Whether the memory of its entry, some 300 bytes with a key of 8, is added to each object's
  // weight, so that even objects of weight 0 have a limit. If false, the budget may be in another
  // unit: with a weigher that returns 1 it is a number of objects. Listeners get the object's own
  // weight in either case.
  bool count_entry_memory = true;
  // kTimeSaved: an object whose load took ten times as long is worth ten times as many hits, and
  // Stats() has the time that hits have saved. The times are those of loaders and weighers by
  // `clock`, those of GetAll in equal parts; Loaded has a field for other costs. A load counts for
  // at least a microsecond and at most four hours. It costs some hits: fewer objects are found, but
  // the loads that they save took longer.
  ObjectValue value = ObjectValue::kHits;
  // How many shards, each with a lock of its own, the cache has: a power of two, at most 4096. 0:
  // eight for each core, at least 16.
  size_t shards = 0;
  // Called for each object that leaves the cache or is evicted from its budget, except at the
  // cache's end. The calling thread holds no lock, and nothing else that other threads wait for; it
  // still holds the object, unless that has died. Calls about one object come one after the other,
  // in order; calls about different objects may overlap. An evicted object that is in use, perhaps
  // by a listener that keeps it, stays in the cache: there is another call when it is removed or
  // dies, but none if it is retained again. A thread that drops a last reference while the cache
  // ends may still be in a call.
  RemovalListener<K, V> removal_listener = {};
  // The clock that measures ages and the times of loads. Only differences count, except for a
  // second tier, which needs the wall time. Must not throw. Empty: std::chrono::steady_clock, which
  // nobody sets back, and absl::Now for a tier.
  std::function<absl::Time()> clock = {};
  // How long after it was entered an object expires: it is not found any more, and is removed when
  // somebody looks for it, when it is evicted, or by Purge. Loaded can set this for one object.
  absl::Duration expire_after_write = absl::InfiniteDuration();
  // How long after it was last found an object expires. A hit may go unrecorded while the last
  // recorded one is less than a sixteenth of that time ago, or less than a second if that is
  // shorter: so an object may expire too early by as much, and never too late.
  //
  // An object that somebody holds does not expire by this. Whoever finds its time over and the
  // object in use (a look-up of any kind, an eviction that looks for expired objects, Purge) begins
  // that time anew. But the cache is not notified of releases: of a use only these looks count, so
  // an object that was held for hours, and that nobody looked for, may expire at once after its
  // release. And an object whose time is over may get another one if several threads look at it at
  // the same moment, as each may take the others for users.
  absl::Duration expire_after_access = absl::InfiniteDuration();
  // How long after it was entered an object becomes stale: one GetOrLoad loads it anew, while all
  // others get the stale object. Loaded can set this for one object.
  absl::Duration refresh_after_write = absl::InfiniteDuration();
  RefreshBackoff refresh_backoff = {};
  // Runs the refreshes that GetOrLoad and Refresh find due, and the loads of callers with a
  // soft_timeout: called as `refresh_executor(task)`, it has the task run once, on any thread,
  // while everybody gets the stale object. The loader is then moved or copied into the task and
  // called after GetOrLoad has returned, so whatever it refers to must live until then. Empty: the
  // caller that finds an object stale loads it. A task that runs or is dropped after the cache's
  // end does nothing; the cache's end waits for tasks that are running.
  std::function<void(std::function<void()>)> refresh_executor = {};
  // The greatest fraction of its lifetime, from 0 to 1, by which an object expires earlier, and is
  // due for a refresh earlier, so that objects which were loaded together are not all loaded again
  // together: 0.1 spreads the ends over the last tenth. The key's hash determines by how much, the
  // same in each run. Applies to lives from Loaded, too.
  double expiry_jitter = 0;
  // How long after its expiry an object may still be returned, by GetOrLoad, GetOrLoadAsync and
  // GetAll, if the load of a new one fails, for whatever reason but the caller's own stop token, or
  // takes longer than the caller's soft_timeout (load_options.h). Nothing else finds it. During
  // that time it is evicted in its turn, while other expired objects are evicted first. Such
  // requests count as misses, and in stale_served of CacheStats. With `failure_ttl`, only some of
  // them ask the source.
  absl::Duration stale_if_error = absl::ZeroDuration();
  // Returns for how long the failure of a load is kept, given its status: requests for the key get
  // the failure at once meanwhile, and no loader is called. Zero or less: not at all. Exceptions
  // are never kept. Put, Invalidate, InvalidateIf, InvalidateGroup and Clear drop a kept failure,
  // and so does an object that PutIfAbsent or a refresh enters.
  // Failures weigh nothing, but each shard keeps at most 512, and at most eight of keys with the
  // same six bits of hash: a further one replaces that of the eight which ends first. Called at the
  // end of a load that has failed; it must not use the cache, and if it throws, the failure is not
  // kept. Empty: no failure is kept.
  std::function<absl::Duration(const absl::Status&)> failure_ttl = {};
  // How many loaders may run at a time; further loads wait. A load inside another one, and one that
  // all running loads wait for, may exceed this. A refresh that would have to wait is left for
  // later. 0: no limit.
  size_t max_concurrent_loads = 0;
  // Samples who takes objects, for Holders: about one object for each `holder_sample_bytes` bytes
  // that are entered, and each object that is heavier. 1: all objects; 0: none. A hit on a sampled
  // object takes a lock of that object's; other hits do nothing for it. The memory, some 400 bytes
  // for each sampled object that lives, counts neither for the budget nor in weights.
  uint64_t holder_sample_bytes = 0;
  // Whether the call stacks of these look-ups are taken, too, up to 32 frames. That takes some
  // microseconds, and 2,048 bytes more for each sampled object.
  bool holder_stacks = false;
  // Where a load looks before it calls its loader, and where its object is kept beyond the cache:
  // see second_tier.h. Each cache needs a tier object of its own. The tier keeps an object's group
  // and its life by `expire_after_write` or Loaded, but not its life by access. If `clock` is set,
  // it has to show the wall time. The loading thread writes to the tier once the threads that wait
  // have their object, and before it returns or calls anybody back; Put writes before it returns,
  // too. A refresh that is due asks the tier, and takes an entry that another process has put since
  // in place of a load. It is left to another process that has begun it: then the object becomes
  // due again after a second, or `refresh_after_write` if that is shorter; after ten times in a row
  // the refresh reads, and loads if need be. The cache's end waits for notices that are being
  // applied on other threads.
  std::shared_ptr<SecondTier> second_tier = {};
  // How objects are written as bytes: a std::shared_ptr to a class derived from Codec<V>. It has to
  // be set if there is a tier, in a file that includes codec.h.
  internal::TierCodec<K, V> codec = {};
  // Turn the cache's keys into the tier's, which are strings, and back. Different keys need
  // different strings. `decode_key` returns nothing for a string that is no key. They must not use
  // the cache. Empty: strings stay as they are, integers become decimals. Keys of other types need
  // both.
  std::function<std::string(const K&)> encode_key = {};
  std::function<std::optional<K>(std::string_view)> decode_key = {};
  AtTierDisconnect at_tier_disconnect = AtTierDisconnect::kDrop;
  // kOnEviction needs a `refresh_executor`, whose tasks encode and write evicted objects, one each,
  // and keep them meanwhile, as users do. If 64 of them wait, further ones are not written, nor
  // those that are evicted at the cache's end. With a hard limit it is like a removal listener:
  // nothing is evicted for a load without an estimate. It needs `at_tier_disconnect = kDrop`: else
  // a process could write an object that others changed while it was disconnected.
  TierWrite tier_write = TierWrite::kOnLoad;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_CACHE_OPTIONS_H_
