// SPDX-License-Identifier: Apache-2.0
// A process, as tests of second tiers have several: a cache of strings with a tier of its own on
// the test's server.
#ifndef WEAKCACHE_TESTS_SUPPORT_TIER_PROCESS_H_
#define WEAKCACHE_TESTS_SUPPORT_TIER_PROCESS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/fake_tier.h"
#include "tests/support/task_queue.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/codec.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/weakref/ref.h"

namespace weakcache::testing {

// Strings as they are, unless the test wants a failure.
class TextCodec final : public Codec<std::string> {
 public:
  uint32_t schema() const override { return of_schema; }
  absl::Status Encode(const std::string& object, ByteSink& sink) const override {
    if (on_encode) on_encode();
    sink.Append(object);
    return encode_status;
  }
  absl::StatusOr<std::string> Decode(std::string_view bytes) const override {
    if (on_decode) on_decode();
    if (!decode_status.ok()) return decode_status;
    return std::string(bytes);
  }

  uint32_t of_schema = 7;
  absl::Status encode_status;
  absl::Status decode_status;
  std::function<void()> on_encode;
  std::function<void()> on_decode;
};

// When a process begins.
inline const absl::Time kTierStart = absl::UnixEpoch() + absl::Hours(24 * 365 * 50);

struct TierProcess {
  using Cache = LargeObjectCache<std::string, std::string>;

  explicit TierProcess(
      const std::shared_ptr<FakeServer>& server,
      const std::function<void(Cache::Options&)>& change = [](Cache::Options&) {})
      : tier(std::make_shared<FakeTier>(server)) {
    Cache::Options options = WithBudget<Cache>(1 << 20);
    options.second_tier = tier;
    options.codec = codec;
    options.clock = [this] { return now; };
    change(options);
    cache.emplace(std::move(Cache::Create(std::move(options))).value());
  }
  // Returns what the cache has or loads; the loader gives `object`.
  std::string Load(const std::string& key, const std::string& object,
                   const LoadOptions& options = {}) {
    return *cache
                ->GetOrLoad(
                    key, [&] { return ++loads, object; }, options)
                .value();
  }
  std::string Present(const std::string& key) {
    const Ref<std::string> found = cache->Peek(key);
    return found.get() == nullptr ? "(none)" : *found;
  }

  absl::Time now = kTierStart;
  std::shared_ptr<TextCodec> codec = std::make_shared<TextCodec>();
  std::shared_ptr<FakeTier> tier;
  std::atomic<int> loads = 0;
  TaskQueue tasks;  // for an executor, if the test has the cache use it
  std::optional<Cache> cache;
};

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_TIER_PROCESS_H_
