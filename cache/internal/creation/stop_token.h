// SPDX-License-Identifier: Apache-2.0
// std::stop_token and its company, or stand-ins that never stop, for libc++ before version 18.
#ifndef WEAKCACHE_CACHE_INTERNAL_CREATION_STOP_TOKEN_H_
#define WEAKCACHE_CACHE_INTERNAL_CREATION_STOP_TOKEN_H_

#include <version>

#ifdef __cpp_lib_jthread
#include <stop_token>
#endif

namespace weakcache::internal {

#ifdef __cpp_lib_jthread
using StopToken = std::stop_token;
using StopSource = std::stop_source;
template <typename Callback>
using StopCallback = std::stop_callback<Callback>;
inline constexpr std::nostopstate_t kNoStopState = std::nostopstate;
#else
struct NoStopState {};
inline constexpr NoStopState kNoStopState;
class StopToken {
 public:
  [[nodiscard]] bool stop_possible() const noexcept { return false; }
  [[nodiscard]] bool stop_requested() const noexcept { return false; }
};
class StopSource {
 public:
  StopSource() = default;
  explicit StopSource(NoStopState /*unused*/) noexcept {}
  [[nodiscard]] StopToken get_token() const noexcept { return {}; }
  [[nodiscard]] bool stop_possible() const noexcept { return false; }
  [[nodiscard]] bool stop_requested() const noexcept { return false; }
  bool request_stop() noexcept { return false; }
};
template <typename Callback>
class StopCallback {
 public:
  StopCallback(const StopToken& /*unused*/, const Callback& /*unused*/) {}
};
#endif

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_CREATION_STOP_TOKEN_H_
