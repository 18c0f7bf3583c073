// SPDX-License-Identifier: Apache-2.0
#ifdef WEAKCACHE_REDIS_TIER  // else this file is empty: see "Plain" in README.md
#include "weakcache/cache/redis_tier.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "weakcache/cache/internal/redis/change_queue.h"
#include "weakcache/cache/internal/redis/check_options.h"
#include "weakcache/cache/internal/redis/circuit_breaker.h"
#include "weakcache/cache/internal/redis/counters.h"
#include "weakcache/cache/internal/redis/dispatcher.h"
#include "weakcache/cache/internal/redis/keys.h"
#include "weakcache/cache/internal/redis/link.h"
#include "weakcache/cache/internal/redis/reading.h"
#include "weakcache/cache/internal/slot/mutex.h"
#include "weakcache/cache/internal/tier/envelope.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache {
namespace {

using internal::Change;
using internal::CircuitBreaker;
using internal::TierCounters;

// Adds the time from its construction to its destruction.
class Stopwatch {
 public:
  explicit Stopwatch(TierCounters::Counter& counter) : counter_(counter) {}
  ~Stopwatch() {
    const auto time = std::chrono::steady_clock::now() - start_;
    TierCounters::Add(counter_, static_cast<uint64_t>(std::chrono::nanoseconds(time).count()));
  }

 private:
  TierCounters::Counter& counter_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// What a thread waits for that has made a change.
class ChangeResult {
 public:
  void Set(absl::Status status) {
    {
      const internal::BasicMutexLock<StdAtomics> lock(mutex_);
      status_ = std::move(status);
    }
    set_.NotifyAll();
  }
  absl::Status Await(internal::Deadline deadline) {
    const internal::BasicMutexLock<StdAtomics> lock(mutex_);
    set_.WaitUntil(
        mutex_, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return status_.has_value(); }, deadline);
    if (!status_.has_value()) return absl::DeadlineExceededError("Redis has not answered in time");
    return *status_;
  }

 private:
  using StdAtomics = internal::StdAtomics;

  internal::BasicMutex<StdAtomics> mutex_;
  internal::BasicCondition<StdAtomics> set_;
  std::optional<absl::Status> status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

class RedisTier::Impl {
 public:
  explicit Impl(const RedisTierOptions& options)
      : options_(options),
        names_(options_.key_namespace),
        dispatcher_(std::make_shared<internal::Dispatcher>()),
        link_(options_, names_, counters_, dispatcher_),
        reading_(options_, names_, counters_, link_) {
    dispatcher_->Start();
  }
  ~Impl() {
    link_.Stop();
    dispatcher_->Stop();
  }

  absl::Status Start() { return link_.Start(); }

  // The change that a Put is; or that there is none to be sent, with the reason.
  absl::StatusOr<Change> MakePut(std::string_view key, const TierEntry& entry,
                                 const TierLease& lease);
  // Makes a change, and waits for its end.
  absl::Status Make(Change change);
  void MakeAsync(Change change, std::function<void(absl::Status)> done);
  std::string condition() const;

  const RedisTierOptions& options() const { return options_; }
  const internal::KeyNames& names() const { return names_; }
  internal::Link& link() { return link_; }
  internal::Reading& reading() { return reading_; }
  internal::Dispatcher& dispatcher() { return *dispatcher_; }
  TierCounters& counters() { return counters_; }

 private:
  const RedisTierOptions options_;
  const internal::KeyNames names_;
  TierCounters counters_;
  const std::shared_ptr<internal::Dispatcher> dispatcher_;
  internal::Link link_;
  internal::Reading reading_;
};

absl::StatusOr<Change> RedisTier::Impl::MakePut(std::string_view key, const TierEntry& entry,
                                                const TierLease& lease) {
  if (lease.held()) link_.DropLease(lease.token);
  const bool too_large = entry.bytes.size() > options_.max_value_bytes;
  if (too_large) TierCounters::Add(counters_.skipped_values);
  // The former value has to go all the same, and the lease to end.
  Change instead = {.kind = lease.held() ? Change::Kind::kEndLead : Change::Kind::kErase,
                    .key = std::string(key),
                    .lease = lease.token,
                    .erases = true};
  if (too_large || entry.expires <= absl::Now()) return instead;
  absl::StatusOr<std::string> sealed =
      internal::SealEntry(entry, {.compress_above = options_.compress_above});
  if (!sealed.ok()) {
    counters_.AddFailure(sealed.status());
    instead.done = [](const absl::Status&) {};
    link_.changes().Push(std::move(instead));
    return sealed.status();
  }
  return Change{.kind = Change::Kind::kPut,
                .key = std::string(key),
                .group = entry.group,
                .lease = lease.token,
                .sealed = TierBytes(*std::move(sealed)),
                .object_bytes = entry.bytes.size(),
                .expires = entry.expires};
}

absl::Status RedisTier::Impl::Make(Change change) {
  const auto result = std::make_shared<ChangeResult>();
  change.done = [result](absl::Status status) { result->Set(std::move(status)); };
  link_.changes().Push(std::move(change));
  absl::Status status = result->Await(internal::After(options_.hard_timeout));
  if (absl::IsDeadlineExceeded(status)) counters_.AddFailure(status);
  return status;
}

void RedisTier::Impl::MakeAsync(Change change, std::function<void(absl::Status)> done) {
  // The caller's function is called and destroyed on the dispatcher's thread only.
  auto function = std::make_shared<std::function<void(absl::Status)>>(std::move(done));
  change.done = [dispatcher = dispatcher_,
                 function = std::move(function)](const absl::Status& status) {
    dispatcher->Post(
        {.task = [function = std::exchange(*function, nullptr), status] { function(status); }});
  };
  link_.changes().Push(std::move(change));
}

std::string RedisTier::Impl::condition() const {
  std::string condition = link_.condition();
  if (!condition.empty()) return condition;
  switch (reading_.breaker_state()) {
    case CircuitBreaker::State::kClosed:
      return {};
    case CircuitBreaker::State::kOpen:
      return "circuit breaker open";
    case CircuitBreaker::State::kHalfOpen:
      return "circuit breaker half open";
  }
  return {};
}

absl::StatusOr<std::shared_ptr<RedisTier>> RedisTier::Create(const RedisTierOptions& options) {
  if (absl::Status status = internal::CheckOptions(options); !status.ok()) return status;
  auto impl = std::make_unique<Impl>(options);
  if (absl::Status status = impl->Start(); !status.ok()) return status;
  return std::shared_ptr<RedisTier>(new RedisTier(std::move(impl)));
}

RedisTier::RedisTier(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

RedisTier::~RedisTier() = default;

absl::StatusOr<TierEntry> RedisTier::Get(std::string_view key, const TierWait& wait) {
  const std::string own(key);
  return std::move(GetAll({&own, 1}, wait).front());
}

std::vector<absl::StatusOr<TierEntry>> RedisTier::GetAll(absl::Span<const std::string> keys,
                                                         const TierWait& wait) {
  const Stopwatch stopwatch(impl_->counters().read_ns);
  return impl_->reading().Get(keys, wait);
}

absl::StatusOr<TierLead> RedisTier::Lead(std::string_view key, const TierWait& wait) {
  return impl_->reading().Lead(key, wait);
}

absl::StatusOr<TierLead> RedisTier::TryLead(std::string_view key) {
  return impl_->reading().TryLead(key);
}

void RedisTier::EndLead(std::string_view key, const TierLease& lease) {
  if (!lease.held()) return;
  impl_->link().DropLease(lease.token);
  impl_->link().changes().Push(
      {.kind = Change::Kind::kEndLead, .key = std::string(key), .lease = lease.token});
}

absl::Status RedisTier::Put(std::string_view key, const TierEntry& entry, const TierLease& lease) {
  const Stopwatch stopwatch(impl_->counters().write_ns);
  absl::StatusOr<Change> change = impl_->MakePut(key, entry, lease);
  if (!change.ok()) return change.status();
  return impl_->Make(*std::move(change));
}

absl::Status RedisTier::Erase(std::string_view key) {
  TierCounters::Add(impl_->counters().erases);
  return impl_->Make({.kind = Change::Kind::kErase, .key = std::string(key)});
}

absl::Status RedisTier::EraseGroup(uint32_t group) {
  TierCounters::Add(impl_->counters().erases);
  return impl_->Make({.kind = Change::Kind::kEraseGroup, .group = group});
}

absl::Status RedisTier::EraseAll() {
  TierCounters::Add(impl_->counters().erases);
  return impl_->Make({.kind = Change::Kind::kEraseAll});
}

void RedisTier::PutAsync(std::string key, TierEntry entry, TierLease lease,
                         std::function<void(absl::Status)> done) {
  absl::StatusOr<Change> change = impl_->MakePut(key, entry, lease);
  if (!change.ok()) return done(change.status());
  impl_->MakeAsync(*std::move(change), std::move(done));
}

void RedisTier::EraseAsync(std::string key, std::function<void(absl::Status)> done) {
  TierCounters::Add(impl_->counters().erases);
  impl_->MakeAsync({.kind = Change::Kind::kErase, .key = std::move(key)}, std::move(done));
}

absl::Status RedisTier::ForEachKey(absl::FunctionRef<void(std::string_view)> visit) {
  // The leases first, as a Put makes a value of one.
  for (const std::string& pattern :
       {impl_->names().LeasePattern(), impl_->names().ValuePattern()}) {
    std::string cursor = "0";
    do {
      const absl::StatusOr<std::vector<std::string>> keys = impl_->reading().Scan(cursor, pattern);
      if (!keys.ok()) return keys.status();
      for (const std::string& key : *keys) visit(key);
    } while (cursor != "0");
  }
  return absl::OkStatus();
}

absl::Status RedisTier::AwaitNotices(const TierWait& wait) {
  return impl_->link().AwaitNotices(
      std::min(wait.deadline, internal::After(impl_->options().hard_timeout)));
}

void RedisTier::Subscribe(std::weak_ptr<TierListener> listener) {
  impl_->dispatcher().Add(std::move(listener));
}

TierStats RedisTier::Stats() const {
  TierStats stats = impl_->counters().Read();
  stats.condition = impl_->condition();
  return stats;
}

}  // namespace weakcache

#endif  // WEAKCACHE_REDIS_TIER
