// SPDX-License-Identifier: Apache-2.0
#ifdef WEAKCACHE_ROCKSDB_TIER  // else this file is empty: see "Plain" in README.md
#include "weakcache/cache/rocksdb_tier.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <utility>

#include "weakcache/cache/internal/loading/load_outcome.h"
#include "weakcache/cache/internal/tier/envelope.h"
#include "weakcache/cache/internal/tier/lease_table.h"
#include "weakcache/cache/internal/tier/rocksdb_store.h"

namespace weakcache {
namespace {

using internal::LeaseTable;
using internal::RocksdbStore;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kMinLimit = 32 * kMiB;
// A longer one would not be what the limit's arithmetic counts with.
constexpr size_t kMaxKeyBytes = size_t{64} << 10;

absl::Status Refused(std::string_view what) {
  return absl::InvalidArgumentError("RocksdbTier::Create: " + std::string(what));
}

absl::Status SetDefaultsAndCheck(RocksdbTierOptions& options) {
  if (options.folder.empty()) return Refused("folder has to be set");
  const uint64_t limit = options.limit_bytes;
  if (limit < kMinLimit) return Refused("limit_bytes has to be at least 32 MiB");
  if (options.max_value_bytes == 0) options.max_value_bytes = std::min(limit / 64, 128 * kMiB);
  if (options.write_buffer_bytes == 0) options.write_buffer_bytes = std::min(limit / 64, 64 * kMiB);
  if (options.max_value_bytes > limit / 16) {
    return Refused("max_value_bytes may be a sixteenth of limit_bytes");
  }
  if (options.write_buffer_bytes < kMiB / 8 || options.write_buffer_bytes > limit / 32) {
    return Refused("write_buffer_bytes may be from 128 KiB to a 32nd of limit_bytes");
  }
  if (options.lease_timeout < absl::ZeroDuration() || options.retry_after < absl::ZeroDuration()) {
    return Refused("lease_timeout and retry_after may not be negative");
  }
  // So that they can be added to a time.
  options.lease_timeout = std::min(options.lease_timeout, absl::Hours(24 * 365));
  options.retry_after = std::min(options.retry_after, absl::Hours(24 * 365));
  if (options.clock == nullptr) options.clock = absl::Now;
  return absl::OkStatus();
}

// Figures that threads add to at the same time. Relaxed: they order nothing.
struct Counters {
  using Counter = std::atomic<uint64_t>;

  static void Add(Counter& counter, uint64_t more = 1) {
    counter.fetch_add(more, std::memory_order_relaxed);
  }
  static uint64_t Read(const Counter& counter) { return counter.load(std::memory_order_relaxed); }

  Counter hits{0};
  Counter misses{0};
  Counter errors{0};
  Counter timeouts{0};
  Counter puts{0};
  Counter erases{0};
  Counter bytes_read{0};
  Counter bytes_written{0};
  Counter skipped_values{0};
  Counter leases_won{0};
  Counter leases_awaited{0};
  Counter leases_lost{0};
  Counter read_nanoseconds{0};
  Counter write_nanoseconds{0};
};

// Adds the time from its beginning to its end.
class AddedTime {
 public:
  explicit AddedTime(Counters::Counter& nanoseconds) : nanoseconds_(nanoseconds) {}
  AddedTime(const AddedTime&) = delete;
  AddedTime& operator=(const AddedTime&) = delete;
  ~AddedTime() {
    const std::chrono::nanoseconds passed = Clock::now() - start_;
    Counters::Add(nanoseconds_, static_cast<uint64_t>(passed.count()));
  }

 private:
  Counters::Counter& nanoseconds_;
  const Clock::time_point start_ = Clock::now();
};

}  // namespace

class RocksdbTier::Impl {
 public:
  Impl(RocksdbTierOptions options, std::unique_ptr<RocksdbStore> store)
      : options_(std::move(options)),
        store_(std::move(store)),
        leases_(absl::ToChronoNanoseconds(options_.lease_timeout)) {}

  // Does what Get says, without the figures of hits and misses.
  absl::StatusOr<TierEntry> Find(std::string_view key) {
    absl::StatusOr<RocksdbStore::Found> found = store_->Get(key);
    if (!found.ok()) return Counted(found.status());
    // RocksDB has checked what it has read.
    absl::StatusOr<TierEntry> entry =
        internal::OpenEntry(found->sealed, options_.max_value_bytes, internal::Checked::kYes);
    if (!entry.ok()) return Counted(entry.status());
    if (entry->group.has_value() && RocksdbStore::IsErased(*found, *entry->group)) {
      return absl::NotFoundError("");
    }
    found = absl::NotFoundError("");  // before the user's clock is called
    if (entry->expires != absl::InfiniteFuture() && entry->expires <= options_.clock()) {
      return absl::NotFoundError("");
    }
    Counters::Add(counters_.bytes_read, entry->bytes.size());
    return entry;
  }

  absl::StatusOr<TierEntry> Get(std::string_view key) {
    const AddedTime time(counters_.read_nanoseconds);
    absl::StatusOr<TierEntry> entry = Find(key);
    if (entry.ok()) {
      Counters::Add(counters_.hits);
    } else if (absl::IsNotFound(entry.status())) {
      Counters::Add(counters_.misses);
    }
    return entry;
  }

  absl::StatusOr<TierLead> Lead(std::string_view key, const TierWait& wait) {
    const Clock::time_point since = Clock::now();
    for (bool waited = false;; waited = true) {
      const TierLease lease = leases_.TryTake(key);
      if (lease.held()) return LeadWith(key, lease);
      if (!waited) Counters::Add(counters_.leases_awaited);
      switch (leases_.Await(key, wait, since)) {
        case LeaseTable::Awaited::kEnded:
          break;
        case LeaseTable::Awaited::kTooLong:
          return TierLead();
        case LeaseTable::Awaited::kDeadline:
          Counters::Add(counters_.timeouts);
          return Counted(absl::DeadlineExceededError("RocksdbTier: another caller loads"));
        case LeaseTable::Awaited::kStopped:
          return absl::CancelledError("RocksdbTier: a stop was requested");
      }
      // Without the lease, as all who have waited may look at the same time.
      if (absl::StatusOr<TierEntry> entry = Find(key); entry.ok()) {
        return TierLead{.entry = *std::move(entry)};
      }
    }
  }

  absl::StatusOr<TierLead> TryLead(std::string_view key) {
    TierLease lease = leases_.TryTake(key);
    const bool is_taken = !lease.held();
    if (!is_taken) Counters::Add(counters_.leases_won);
    return TierLead{.lease = std::move(lease), .is_taken = is_taken};
  }

  void EndLead(std::string_view key, const TierLease& lease) { leases_.End(key, lease); }

  absl::Status Put(std::string_view key, const TierEntry& entry, const TierLease& lease) {
    if (entry.bytes.size() > options_.max_value_bytes || key.size() > kMaxKeyBytes) {
      return Skip(key, lease);
    }
    const AddedTime time(counters_.write_nanoseconds);
    const absl::StatusOr<std::string> sealed =
        internal::SealEntry(entry, {.compress_above = options_.compress_above});
    if (!sealed.ok()) {
      (void)Skip(key, lease);
      return Counted(sealed.status());
    }
    {
      LeaseTable::KeyChange change(leases_, key);
      if (lease.held() && !change.MayPut(lease, entry.group)) {
        leases_.End(key, lease);
        return LeaseLost();
      }
      const absl::Status status = store_->Put(key, *sealed, /*is_change=*/!lease.held());
      if (lease.held()) {
        leases_.End(key, lease);  // and not the next one's, if this one has lasted too long
      } else {
        change.Revoke();
      }
      if (!status.ok()) return Counted(status);
    }
    Counters::Add(counters_.puts);
    Counters::Add(counters_.bytes_written, entry.bytes.size());
    return absl::OkStatus();
  }

  absl::Status Erase(std::string_view key) {
    Counters::Add(counters_.erases);
    LeaseTable::KeyChange change(leases_, key);
    change.Revoke();
    return Counted(store_->Erase(key));
  }
  absl::Status EraseGroup(uint32_t group) {
    Counters::Add(counters_.erases);
    const LeaseTable::AllChange change(leases_, group);
    return Counted(store_->EraseGroup(group));
  }
  absl::Status EraseAll() {
    Counters::Add(counters_.erases);
    const LeaseTable::AllChange change(leases_);
    return Counted(store_->EraseAll());
  }
  absl::Status ForEachKey(absl::FunctionRef<void(std::string_view)> visit) {
    // The leases first, as a Put makes an entry of one.
    for (const std::string& key : leases_.Keys()) visit(key);
    return Counted(store_->ForEachKey(visit));
  }

  TierStats Stats() const {
    TierStats stats;
    stats.hits = Counters::Read(counters_.hits);
    stats.misses = Counters::Read(counters_.misses);
    stats.errors = Counters::Read(counters_.errors) + store_->restarts();
    stats.timeouts = Counters::Read(counters_.timeouts);
    stats.puts = Counters::Read(counters_.puts);
    stats.erases = Counters::Read(counters_.erases);
    stats.bytes_read = Counters::Read(counters_.bytes_read);
    stats.bytes_written = Counters::Read(counters_.bytes_written);
    stats.skipped_values = Counters::Read(counters_.skipped_values);
    stats.leases_won = Counters::Read(counters_.leases_won);
    stats.leases_awaited = Counters::Read(counters_.leases_awaited);
    stats.leases_lost = Counters::Read(counters_.leases_lost);
    stats.read_time =
        absl::Nanoseconds(static_cast<int64_t>(Counters::Read(counters_.read_nanoseconds)));
    stats.write_time =
        absl::Nanoseconds(static_cast<int64_t>(Counters::Read(counters_.write_nanoseconds)));
    stats.condition = store_->condition();
    return stats;
  }

 private:
  absl::StatusOr<TierLead> LeadWith(std::string_view key, const TierLease& lease) {
    absl::StatusOr<TierEntry> entry = internal::CatchErrors([&] { return Find(key); },
                                                            [&]() -> absl::StatusOr<TierEntry> {
                                                              EndLead(key, lease);
                                                              internal::Rethrow();
                                                            });
    // An entry that can't be returned is as good as none: the caller's replaces it.
    if (!entry.ok() && !absl::IsUnavailable(entry.status())) {
      Counters::Add(counters_.leases_won);
      return TierLead{.lease = lease};
    }
    EndLead(key, lease);
    if (!entry.ok()) return entry.status();
    return TierLead{.entry = *std::move(entry)};
  }

  // Leaves no entry where one would have to be that can't be put.
  absl::Status Skip(std::string_view key, const TierLease& lease) {
    Counters::Add(counters_.skipped_values);
    LeaseTable::KeyChange change(leases_, key);
    if (lease.held() && !change.Has(lease)) return LeaseLost();
    change.Revoke();
    return Counted(store_->Erase(key));
  }

  absl::Status LeaseLost() {
    Counters::Add(counters_.leases_lost);
    return absl::AbortedError("RocksdbTier: the lease has ended before the Put");
  }

  absl::Status Counted(absl::Status status) {
    if (!status.ok() && !absl::IsNotFound(status)) Counters::Add(counters_.errors);
    return status;
  }

  const RocksdbTierOptions options_;
  const std::unique_ptr<RocksdbStore> store_;
  LeaseTable leases_;
  Counters counters_;
};

absl::StatusOr<std::shared_ptr<RocksdbTier>> RocksdbTier::Create(RocksdbTierOptions options) {
  if (absl::Status status = SetDefaultsAndCheck(options); !status.ok()) return status;
  auto store = RocksdbStore::Open({.folder = options.folder,
                                   .limit_bytes = options.limit_bytes,
                                   .max_value_bytes = options.max_value_bytes,
                                   .write_buffer_bytes = options.write_buffer_bytes,
                                   .sync_changes = options.sync_changes,
                                   .retry_after = absl::ToChronoNanoseconds(options.retry_after)});
  if (!store.ok()) return store.status();
  return std::shared_ptr<RocksdbTier>(
      new RocksdbTier(std::make_unique<Impl>(std::move(options), *std::move(store))));
}

RocksdbTier::RocksdbTier(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RocksdbTier::~RocksdbTier() = default;

absl::StatusOr<TierEntry> RocksdbTier::Get(std::string_view key, const TierWait& /*wait*/) {
  return impl_->Get(key);
}
absl::StatusOr<TierLead> RocksdbTier::Lead(std::string_view key, const TierWait& wait) {
  return impl_->Lead(key, wait);
}
absl::StatusOr<TierLead> RocksdbTier::TryLead(std::string_view key) { return impl_->TryLead(key); }
void RocksdbTier::EndLead(std::string_view key, const TierLease& lease) {
  impl_->EndLead(key, lease);
}
absl::Status RocksdbTier::Put(std::string_view key, const TierEntry& entry,
                              const TierLease& lease) {
  return impl_->Put(key, entry, lease);
}
absl::Status RocksdbTier::Erase(std::string_view key) { return impl_->Erase(key); }
absl::Status RocksdbTier::EraseGroup(uint32_t group) { return impl_->EraseGroup(group); }
absl::Status RocksdbTier::EraseAll() { return impl_->EraseAll(); }
absl::Status RocksdbTier::ForEachKey(absl::FunctionRef<void(std::string_view)> visit) {
  return impl_->ForEachKey(visit);
}
TierStats RocksdbTier::Stats() const { return impl_->Stats(); }

}  // namespace weakcache

#endif  // WEAKCACHE_ROCKSDB_TIER
