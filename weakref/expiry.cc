// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/expiry.h"

#include <atomic>
#include <cstdio>
#include <exception>
#include <utility>

#include "weakcache/weakref/internal/expiry_callback.h"

namespace weakcache {
namespace {

void WriteToStderr(std::exception_ptr error) {
#ifdef __cpp_exceptions
  try {
    std::rethrow_exception(std::move(error));
  } catch (const std::exception& exception) {
    std::fprintf(stderr, "weakcache: an expiry callback threw: %s\n", exception.what());
  } catch (...) {
    std::fprintf(stderr, "weakcache: an expiry callback threw something unknown\n");
  }
#else
  static_cast<void>(error);
#endif
}

// Invariant: not null. Written by SetExpiryErrorHandler. Transitions: any value to any other.
std::atomic<ExpiryErrorHandler> error_handler{&WriteToStderr};

}  // namespace

ExpiryErrorHandler SetExpiryErrorHandler(ExpiryErrorHandler handler) {
  // Release pairs with the acquire in ReportCallbackError: what the caller prepared for the handler
  // happens before a call of it. Acquire: so does what the former setter prepared.
  const ExpiryErrorHandler former = error_handler.exchange(
      handler == nullptr ? &WriteToStderr : handler, std::memory_order_acq_rel);
  return former == &WriteToStderr ? nullptr : former;
}

void internal::ReportCallbackError() noexcept {
  // Acquire pairs with the release in SetExpiryErrorHandler.
  error_handler.load(std::memory_order_acquire)(std::current_exception());
}

}  // namespace weakcache
