// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/removal_cause.h"

#include <string_view>

namespace weakcache {

std::string_view RemovalCauseName(RemovalCause cause) {
  switch (cause) {
    case RemovalCause::kBudget:
      return "budget";
    case RemovalCause::kExpired:
      return "expired";
    case RemovalCause::kReplaced:
      return "replaced";
    case RemovalCause::kInvalidated:
      return "invalidated";
    case RemovalCause::kDied:
      return "died";
  }
  return "unknown";
}

}  // namespace weakcache
