// SPDX-License-Identifier: Apache-2.0
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_CHECK_OPTIONS_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_CHECK_OPTIONS_H_

#include "absl/status/status.h"
#include "weakcache/cache/redis_tier_options.h"

namespace weakcache::internal {

// Returns InvalidArgument, mostly with the name of the field, if an option is bad.
absl::Status CheckOptions(const RedisTierOptions& options);

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_CHECK_OPTIONS_H_
