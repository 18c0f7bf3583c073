// SPDX-License-Identifier: Apache-2.0
// ExportHot and Warm: which objects a LargeObjectCache had, kept in a file, so that after a restart
// they are loaded before anybody asks for them.
//
// Why: an empty cache makes every user wait, and its source answer all of them at once. What was
// hot before the restart is what will be asked for after it.
//
//   weakcache::ExportHot(images, "/var/cache/images.hot");         // at the end, or every minute
//
//   weakcache::WarmOptions slowly;        // after the restart, on a thread of its own
//   slowly.keys_per_second = 50;
//   slowly.stop_token = shutdown.get_token();
//   weakcache::Warm(images, "/var/cache/images.hot", DecodeImage, slowly);
//
// Thread safety: may be called on any thread while the cache is used. The cache must not end during
// a call.
//
// Unlike a second tier, the file has keys only: the objects come from their source, or from a tier.
//
// Complexity: ExportHot O(n log n) for n retained objects; Warm O(n), besides the loads.
#ifndef WEAKCACHE_CACHE_WARM_START_H_
#define WEAKCACHE_CACHE_WARM_START_H_

#include <charconv>
#include <concepts>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <istream>
#include <memory>
#include <mutex>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "weakcache/cache/internal/creation/stop_token.h"
#include "weakcache/cache/prefetch_options.h"

namespace weakcache {

// A key as text, and how often its object was known to be used: see ObjectInfo.
struct HotKey {
  std::string text = {};
  uint32_t uses = 0;

  friend bool operator==(const HotKey&, const HotKey&) = default;
};

// Writes the keys for ReadHotKeys, into a stream or as a file. If the machine stops meanwhile, the
// file is the old one or the new one, and whole. Returns Unavailable if writing fails, and
// InvalidArgument if a text has more than 1 MiB.
absl::Status WriteHotKeys(const std::vector<HotKey>& keys, std::ostream& out);
absl::Status WriteHotKeys(const std::vector<HotKey>& keys, const std::string& file);
// Returns the keys; NotFound if there is no such file, Unavailable if it can't be opened, DataLoss
// if it is not exactly what WriteHotKeys has written.
[[nodiscard]] absl::StatusOr<std::vector<HotKey>> ReadHotKeys(std::istream& in);
[[nodiscard]] absl::StatusOr<std::vector<HotKey>> ReadHotKeys(const std::string& file);

// Turns a key that is a string or an integer into text; DefaultTextKey turns the text into the key
// again, or into none if no key has such a text.
template <typename K>
struct DefaultKeyText {
  static_assert(std::is_constructible_v<std::string, const K&> || std::integral<K>,
                "only strings and integers have a text of their own: give a function");

  std::string operator()(const K& key) const {
    if constexpr (std::integral<K>) {
      return std::to_string(key);
    } else {
      return std::string(key);
    }
  }
};
template <typename K>
struct DefaultTextKey {
  static_assert(std::is_constructible_v<K, std::string> || std::integral<K>,
                "only strings and integers have a text of their own: give a function");

  std::optional<K> operator()(const std::string& text) const {
    if constexpr (std::integral<K>) {
      K key = {};
      const char* const end = text.data() + text.size();
      const auto [rest, error] = std::from_chars(text.data(), end, key);
      if (error != std::errc() || rest != end) return std::nullopt;
      return key;
    } else {
      return K(text);
    }
  }
};

// Returns the keys of up to `most` retained objects, the hottest first.
template <typename Cache, typename KeyText = DefaultKeyText<typename Cache::key_type>>
requires std::is_invocable_r_v<std::string, KeyText&, const typename Cache::key_type&>
[[nodiscard]] std::vector<HotKey> HotKeysOf(const Cache& cache, KeyText key_text = {},
                                            size_t most = SIZE_MAX) {
  std::vector<HotKey> keys;
  for (const auto& key : cache.HottestKeys(most)) {
    // It may have gone meanwhile.
    if (const auto info = cache.Inspect(key)) keys.push_back({key_text(key), info->uses});
  }
  return keys;
}

// Writes the keys of up to `most` retained objects, the hottest first, into a stream or as a file:
// see WriteHotKeys. `key_text(key)` returns a key's text, which may have any bytes; it is called
// without a lock.
template <typename Cache, typename Target,
          typename KeyText = DefaultKeyText<typename Cache::key_type>>
absl::Status ExportHot(const Cache& cache, Target&& target, KeyText key_text = {},
                       size_t most = SIZE_MAX) {
  return WriteHotKeys(HotKeysOf(cache, std::move(key_text), most), std::forward<Target>(target));
}

struct WarmOptions {
  // How many loads begin in a second at most. 0: as many as can.
  double keys_per_second = 100;
  // How many of the hottest keys are used.
  size_t max_keys = SIZE_MAX;
  // A std::stop_token: nothing more is loaded once its stop is requested.
  internal::StopToken stop_token = {};
  // See PrefetchOptions.
  uint64_t max_bytes = UINT64_MAX;
  uint64_t weight_estimate = 0;
  // For tests: what is the time, and how to wait. Empty: std::chrono::steady_clock; sleeps, until a
  // stop at most.
  std::function<absl::Time()> clock = {};
  std::function<void(absl::Duration)> sleep = {};
};

// What came of Warm.
struct WarmResult {
  size_t keys = 0;        // that were to be loaded
  size_t unreadable = 0;  // texts that are no keys, and were passed over
  size_t loads = 0;       // calls of the loader; other objects were there already, or had no room
  bool stopped = false;   // a stop was requested before the end
};

namespace internal {

// The executor of Warm's prefetch: keeps tasks for the thread in Warm.
class WarmTasks {
 public:
  using Task = std::function<void()>;

  // Drops the task after Close, which ends the prefetch.
  void Push(Task task);
  // Waits for the next task; none after the prefetch has ended, or a stop.
  std::optional<Task> Pop(const StopToken& stop_token);
  void End();
  void Close();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  bool ended_ = false;
  bool closed_ = false;
};

// Says when the prefetch has ended: when the last copy of its loader has gone.
class WarmEnd {
 public:
  explicit WarmEnd(std::shared_ptr<WarmTasks> tasks) : tasks_(std::move(tasks)) {}
  WarmEnd(const WarmEnd&) = delete;
  WarmEnd& operator=(const WarmEnd&) = delete;
  ~WarmEnd() { tasks_->End(); }

 private:
  const std::shared_ptr<WarmTasks> tasks_;
};

// Counts the calls of the caller's loader, which is called in Warm only, so that it is not copied.
template <typename K, typename Loader>
struct WarmLoader {
  auto operator()(const K& key) requires std::invocable<Loader&, const K&> {
    ++*loads;
    return (*loader)(key);
  }
  auto operator()() requires(!std::invocable<Loader&, const K&> && std::invocable<Loader&>) {
    ++*loads;
    return (*loader)();
  }
  auto operator()(const K& key,
                  StopToken stop_token) requires(!std::invocable<Loader&, const K&> &&
                                                 std::invocable<Loader&, const K&, StopToken>) {
    ++*loads;
    return (*loader)(key, std::move(stop_token));
  }

  Loader* loader;
  size_t* loads;
  std::shared_ptr<WarmEnd> end;
};

// Lets tasks run at a rate.
class WarmPace {
 public:
  explicit WarmPace(const WarmOptions& options);
  // Waits until the next task may run. Returns false if a stop was requested.
  bool Wait();

 private:
  absl::Time Now() const;
  void Sleep(absl::Duration time) const;

  const WarmOptions& options_;
  const absl::Duration interval_;
  absl::Time next_;
};

}  // namespace internal

// Loads the keys' objects that are missing, in this order, one after the other on this thread, by
// `loader(key)`, `loader()` or `loader(key, stop_token)`: see LargeObjectCache::Prefetch. Evicts
// nothing, and ends when the cache has no room for the next object. Passes over loads that fail.
// The objects count as not used. Whoever asks for an object that is being loaded waits for that
// load, but never for the rate.
template <typename Cache, typename Loader>
WarmResult Warm(Cache& cache, std::vector<typename Cache::key_type> keys, Loader&& loader,
                const WarmOptions& options = {}) {
  using K = typename Cache::key_type;
  WarmResult result;
  if (keys.size() > options.max_keys) {
    keys.erase(keys.begin() + static_cast<ptrdiff_t>(options.max_keys), keys.end());
  }
  result.keys = keys.size();
  const auto tasks = std::make_shared<internal::WarmTasks>();
  using StoredLoader = internal::WarmLoader<K, std::remove_reference_t<Loader>>;
  cache.Prefetch(std::move(keys),
                 StoredLoader{&loader, &result.loads, std::make_shared<internal::WarmEnd>(tasks)},
                 [tasks](std::function<void()> task) { tasks->Push(std::move(task)); },
                 {.max_bytes = options.max_bytes,
                  .weight_estimate = options.weight_estimate,
                  .stop_token = options.stop_token});
  // A task that has no permit is posted again later, perhaps after this call: it does nothing then.
  struct Close {
    ~Close() { tasks.Close(); }
    internal::WarmTasks& tasks;
  } const close{*tasks};
  internal::WarmPace pace(options);
  while (std::optional<std::function<void()>> task = tasks->Pop(options.stop_token)) {
    if (!pace.Wait()) break;
    (*task)();
  }
  result.stopped = options.stop_token.stop_requested();
  return result;
}

// Does the same with the keys of a file or a stream that ExportHot has written. `text_key(text)`
// returns the key, or none. Loads nothing, and is no error, if there is no such file. Returns the
// other errors of ReadHotKeys.
template <typename Cache, typename Source, typename Loader,
          typename TextKey = DefaultTextKey<typename Cache::key_type>>
requires requires(Source&& source) { ReadHotKeys(source); }
absl::StatusOr<WarmResult> Warm(Cache& cache, Source&& source, Loader&& loader,
                                const WarmOptions& options = {}, TextKey text_key = {}) {
  absl::StatusOr<std::vector<HotKey>> texts = ReadHotKeys(source);
  if (absl::IsNotFound(texts.status())) return WarmResult();
  if (!texts.ok()) return texts.status();
  size_t unreadable = 0;
  std::vector<typename Cache::key_type> keys;
  for (const HotKey& hot : *texts) {
    std::optional<typename Cache::key_type> key = text_key(hot.text);
    if (key.has_value()) {
      keys.push_back(*std::move(key));
    } else {
      ++unreadable;
    }
  }
  WarmResult result = Warm(cache, std::move(keys), std::forward<Loader>(loader), options);
  result.unreadable = unreadable;
  return result;
}

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_WARM_START_H_
