// SPDX-License-Identifier: Apache-2.0
#ifdef WEAKCACHE_REDIS_TIER  // else this file is empty: see "Plain" in README.md
#include "weakcache/cache/internal/redis/check_options.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "weakcache/cache/internal/redis/text.h"

namespace weakcache::internal {
namespace {

constexpr size_t kMaxNamespace = 200;
constexpr uint64_t kMaxValue = uint64_t{500} << 20;  // the server's limit is 512 MB
// The scripts take more for garbage.
constexpr uint64_t kMaxChunks = 9000;

absl::Status Wrong(std::string_view what) {
  return absl::InvalidArgumentError(Text("RedisTierOptions: ", what));
}

bool IsNamespace(std::string_view text) {
  return !text.empty() && text.size() <= kMaxNamespace &&
         std::all_of(text.begin(), text.end(), [](unsigned char character) {
           return std::isalnum(character) != 0 ||
                  std::string_view("_.-{}").find(static_cast<char>(character)) !=
                      std::string_view::npos;
         });
}

bool IsFinite(absl::Duration duration) {
  return duration > absl::ZeroDuration() && duration < absl::InfiniteDuration();
}

}  // namespace

absl::Status CheckOptions(const RedisTierOptions& options) {
  if (!IsNamespace(options.key_namespace)) {
    return Wrong("key_namespace must have 1 to 200 letters, digits or any of _.-{}");
  }
  if (options.database < 0) return Wrong("database is negative");
  if (options.password.empty() && !options.user.empty()) return Wrong("user without a password");
  if (options.reader_connections < 1) return Wrong("reader_connections must be at least 1");
  if (options.breaker_failures < 1) return Wrong("breaker_failures must be at least 1");
  for (const absl::Duration duration :
       {options.connect_timeout, options.soft_timeout, options.hard_timeout,
        options.heartbeat_interval, options.min_backoff, options.lease_timeout}) {
    if (!IsFinite(duration)) return Wrong("a timeout or interval must be positive and finite");
  }
  if (options.max_backoff < options.min_backoff || !IsFinite(options.max_backoff)) {
    return Wrong("max_backoff must be finite and at least min_backoff");
  }
  if (options.lease_duration < absl::Milliseconds(10) || !IsFinite(options.lease_duration)) {
    return Wrong("lease_duration must be finite and at least 10 ms");
  }
  if (options.max_age < absl::Milliseconds(1)) return Wrong("max_age must be at least 1 ms");
  if (options.max_value_bytes > kMaxValue) return Wrong("max_value_bytes must be at most 500 MiB");
  if (options.chunk_bytes < std::max<uint64_t>(1, options.max_value_bytes / kMaxChunks)) {
    return Wrong("chunk_bytes must be at least a 9000th of max_value_bytes");
  }
  if (options.max_pending_changes < 1) return Wrong("max_pending_changes must be at least 1");
  return absl::OkStatus();
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_REDIS_TIER
