// SPDX-License-Identifier: Apache-2.0
// SecondTier: where a LargeObjectCache looks for an object before it loads it, and keeps what it
// has loaded beyond its process: on a disk (rocksdb_tier.h), or for many machines (redis_tier.h).
//
// Why: a restart empties a cache, and fifty servers decode the same image fifty times. A tier keeps
// encoded objects, says whose turn it is to load one, and tells when others change one.
//
//   Images::Options options;
//   options.budget_bytes = uint64_t{2} << 30;
//   options.second_tier = tier;                            // a std::shared_ptr<SecondTier>
//   options.codec = std::make_shared<const ImageCodec>();  // codec.h
//
// Only the cache calls a tier, so this page is for those who write one. A tier is never needed for
// correctness: if it fails, or has lost an entry, the cache loads the object.
//
// Thread safety: all functions are called on any thread, also at the same time.
//
// Unlike RocksDB's SecondaryCache, it has leases and notices, for caches in several processes.
//
// Complexity: a call for one key should take time in proportion to the entry; a tier documents what
// else it depends on.
#ifndef WEAKCACHE_CACHE_SECOND_TIER_H_
#define WEAKCACHE_CACHE_SECOND_TIER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "weakcache/cache/internal/creation/stop_token.h"

namespace weakcache {

// Bytes that are shared, not copied: a string's own, or those of a buffer that `owner` keeps.
class TierBytes {
 public:
  TierBytes() = default;
  TierBytes(std::string bytes)  // NOLINT(google-explicit-constructor): the bytes themselves
      : TierBytes(std::make_shared<const std::string>(std::move(bytes))) {}
  TierBytes(std::string_view view, std::shared_ptr<const void> owner)
      : view_(view), owner_(std::move(owner)) {}

  std::string_view view() const { return view_; }
  size_t size() const { return view_.size(); }

 private:
  explicit TierBytes(std::shared_ptr<const std::string> bytes)
      : view_(*bytes), owner_(std::move(bytes)) {}

  std::string_view view_;
  std::shared_ptr<const void> owner_;
};

// What a tier keeps under a key.
struct TierEntry {
  TierBytes bytes = {};     // as the codec has encoded the object
  uint32_t schema = 0;      // of the codec
  absl::Time written = {};  // when the object was loaded or put, by the wall clock of who did it
  // When the object's life ends, by the same clock. A tier need not return an entry after that.
  absl::Time expires = absl::InfiniteFuture();
  std::optional<uint32_t> group = {};
};

// The right to load a key's object and to put it. At most one caller has it at a time; after too
// long a tier may give it to another caller, or let others load without it. It ends with Put, with
// EndLead, and with each change of the key that is made without it, by anybody: a Put without a
// lease, Erase, EraseAll. After EraseGroup it puts no entry of that group. So an object that was
// loaded before a change is never put after it. Only the tier knows what the token means. Empty: no
// lease.
struct TierLease {
  bool held() const { return !token.empty(); }

  std::string token = {};
};

// The result of Lead and TryLead.
struct TierLead {
  // The entry, if there is one by now.
  std::optional<TierEntry> entry = {};
  // Without an entry, the caller's lease. If it is not held (another caller's load takes too long,
  // or the tier gives no lease), the caller loads, but must not put the object.
  TierLease lease = {};
  // Set by TryLead: there is neither, because another caller has the lease. (Not if the tier just
  // gives none.) A refresh that is due is then left to that caller, but at most ten times in a row.
  // If a tier never sets this, each process loads.
  bool is_taken = false;
};

// How long a call may wait. A call that may not wait any longer returns DeadlineExceeded or
// Cancelled.
struct TierWait {
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
  internal::StopToken stop_token = {};
  // If set, Lead should call it, without a lock, before each look for the entry that it returns. So
  // the cache knows that changes of which listeners were notified before are not newer than the
  // entry. If Lead never calls it, and a listener is notified of the entry's Put while Lead waits,
  // the cache reads the entry again.
  std::function<void()> before_look = {};
};

// Is notified of changes by others, that is, of all that did not come through the same SecondTier
// object. The tier calls the listener in the order of the changes, without a lock, on a thread for
// which no call of the tier waits. So the listener may run user code, and call the tier. If the
// user code ends the cache, the tier may be destroyed on that thread, too.
class TierListener {
 public:
  virtual ~TierListener() = default;

  // The entry has been put or erased, or a lease for it has been revoked.
  virtual void OnChanged(std::string_view key) = 0;
  virtual void OnGroupErased(uint32_t group) = 0;
  virtual void OnAllErased() = 0;
  // The connection is lost: from some time before this call until OnConnected, the listener is not
  // notified of changes. After Subscribe, a tier that has a connection first calls one of these
  // two, and so says whether it was connected then.
  virtual void OnDisconnected() = 0;
  virtual void OnConnected() = 0;
};

// A tier's figures, from its construction on.
struct TierStats {
  uint64_t hits = 0;      // entries that were found
  uint64_t misses = 0;    // entries that were not there
  uint64_t errors = 0;    // calls and connections that have failed, entries that are damaged
  uint64_t timeouts = 0;  // of these, those that took too long
  uint64_t puts = 0;
  uint64_t erases = 0;
  uint64_t bytes_read = 0;      // of encoded objects
  uint64_t bytes_written = 0;   // likewise
  uint64_t skipped_values = 0;  // entries that were not put because they are too large
  uint64_t leases_won = 0;
  uint64_t leases_awaited = 0;   // calls of Lead that have waited for another's lease
  uint64_t leases_lost = 0;      // Puts that came too late
  uint64_t notices = 0;          // changes by others
  uint64_t dropped_changes = 0;  // changes that were not sent because too many waited to be
  absl::Duration read_time = absl::ZeroDuration();   // of all Gets together
  absl::Duration write_time = absl::ZeroDuration();  // of all Puts together
  // Empty: as it should be. Else what is wrong, such as "circuit breaker open".
  std::string condition = {};
};

class SecondTier {
 public:
  virtual ~SecondTier() = default;

  // Returns the entry under the key; NotFound if there is none.
  virtual absl::StatusOr<TierEntry> Get(std::string_view key, const TierWait& wait) = 0;
  // Does the same for several keys at a time, in the same order.
  virtual std::vector<absl::StatusOr<TierEntry>> GetAll(absl::Span<const std::string> keys,
                                                        const TierWait& wait);
  // Returns the entry if there is one by now, and otherwise takes the key's lease. If another
  // caller has the lease, first waits until that has ended, or has lasted too long.
  virtual absl::StatusOr<TierLead> Lead(std::string_view key, const TierWait& wait) = 0;
  // Takes the lease for a key even if there is an entry, which stays until the Put. If another
  // caller has it, returns at once without one, and says so (`is_taken`). Unless overridden, calls
  // Lead with a deadline that is over, and so may return the entry.
  virtual absl::StatusOr<TierLead> TryLead(std::string_view key);
  // Gives up a lease without a Put, so that others need not wait.
  virtual void EndLead(std::string_view key, const TierLease& lease) = 0;

  // Puts an entry, in place of the present one if any. With a lease: returns Aborted, and changes
  // nothing, if the lease is not held any more, or the entry's group has been erased since it was
  // taken (a tier that can't tell may return it after the erasure of any group); ends the lease in
  // any case. Without a lease: revokes the key's lease. A tier that has lost its connection may
  // then return OK, and erase the key once it is connected again; it must not put the entry, as
  // others may have changed the key meanwhile.
  virtual absl::Status Put(std::string_view key, const TierEntry& entry,
                           const TierLease& lease) = 0;
  // Erase the key's entry, all entries of a group, or all entries; there may be none. Erase revokes
  // the key's lease, and EraseAll all leases.
  virtual absl::Status Erase(std::string_view key) = 0;
  virtual absl::Status EraseGroup(uint32_t group) = 0;
  virtual absl::Status EraseAll() = 0;

  // Calls `visit` for each key that has a lease or an entry throughout this call, also if the lease
  // becomes an entry meanwhile; and perhaps for others, and more than once for a key.
  virtual absl::Status ForEachKey(absl::FunctionRef<void(std::string_view)> visit) = 0;

  // Do the same as Get, Put and Erase, and call `done` once with the result, without a lock: on any
  // thread, or on the caller's before they return. `done` runs no user code, and waits for nothing.
  // Unless overridden, they block. So far the cache calls only EraseAsync.
  virtual void GetAsync(std::string key, const TierWait& wait,
                        std::function<void(absl::StatusOr<TierEntry>)> done);
  virtual void PutAsync(std::string key, TierEntry entry, TierLease lease,
                        std::function<void(absl::Status)> done);
  virtual void EraseAsync(std::string key, std::function<void(absl::Status)> done);

  // Returns when listeners have been notified of all changes that others had made when it was
  // called. Unless overridden, there are no others.
  virtual absl::Status AwaitNotices(const TierWait& /*wait*/) { return absl::OkStatus(); }

  // Notifies the listener from now on, as long as it lives. A tier of one process only has no
  // changes by others, and need not do anything.
  virtual void Subscribe(std::weak_ptr<TierListener> listener);

  virtual TierStats Stats() const { return {}; }
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_SECOND_TIER_H_
