// SPDX-License-Identifier: Apache-2.0
// RedisTier: a SecondTier (second_tier.h) on a Redis or Valkey server, for caches in many
// processes.
//
// Why: when fifty servers show the same image, one of them decodes it and the others get it from
// Redis; and when one of them changes it, the others drop what they have.
//
//   weakcache::RedisTierOptions options;
//   options.key_namespace = "thumbnails.v3";
//   options.address.host = "10.0.0.7";
//   absl::StatusOr<std::shared_ptr<weakcache::RedisTier>> tier =
//       weakcache::RedisTier::Create(options);
//   if (!tier.ok()) return tier.status();
//   cache_options.second_tier = *tier;
//
// Thread safety: all functions are called on any thread, also at the same time.
//
// Unlike a client of Redis, it fails fast while the server is away, and remembers what to erase. A
// Put of that time becomes an erasure, because another process may have changed the key since.
//
// Complexity: a call takes a round trip to the server, and one more each if a Lead finds an entry,
// a value is in pieces, or an erasure has just ended the generations. ForEachKey walks all keys of
// the database, also those of other name spaces.
#ifndef WEAKCACHE_CACHE_REDIS_TIER_H_
#define WEAKCACHE_CACHE_REDIS_TIER_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weakcache/cache/redis_tier_options.h"
#include "weakcache/cache/second_tier.h"

namespace weakcache {

// A server that restarts, even from a snapshot, and a replica that takes over begin without
// entries: otherwise erased entries might come back. So it does not matter how durable the server's
// data are.
//
// When the server evicts a value, or the value expires, caches drop the object, too, because Redis
// tells of it as of a change. If the server's `notify-keyspace-events` is set to `KA`, it says
// which it was; then caches keep such objects, as nobody has changed them.
//
// A call that waits for another process's load returns at a stop of its TierWait. A call that waits
// for the server does not, but each such wait lasts for `soft_timeout` at most, and that of
// AwaitNotices for `hard_timeout`.
class RedisTier final : public SecondTier {
 public:
  // Returns InvalidArgument if an option is bad. Waits for the first attempt to connect. If that
  // has failed, returns the tier all the same: Stats().condition says why, and further attempts
  // follow.
  static absl::StatusOr<std::shared_ptr<RedisTier>> Create(const RedisTierOptions& options);

  // Sends the changes that wait to be sent, for at most `hard_timeout`. If changes were kept
  // because the server is away, tries to connect for as long. Changes that are left then are lost.
  // Precondition: no other call is under way.
  ~RedisTier() override;

  // Returns Unavailable at once while the server is away.
  absl::StatusOr<TierEntry> Get(std::string_view key, const TierWait& wait) override;
  std::vector<absl::StatusOr<TierEntry>> GetAll(absl::Span<const std::string> keys,
                                                const TierWait& wait) override;
  // Give no lease while the server refuses writes, or has no memory for them.
  absl::StatusOr<TierLead> Lead(std::string_view key, const TierWait& wait) override;
  absl::StatusOr<TierLead> TryLead(std::string_view key) override;
  void EndLead(std::string_view key, const TierLease& lease) override;

  // Wait for the server, for at most `hard_timeout`. The asynchronous forms do not wait, but
  // changes are made in the order of the calls, and a later look-up through this tier sees them.
  absl::Status Put(std::string_view key, const TierEntry& entry, const TierLease& lease) override;
  absl::Status Erase(std::string_view key) override;
  absl::Status EraseGroup(uint32_t group) override;
  absl::Status EraseAll() override;
  void PutAsync(std::string key, TierEntry entry, TierLease lease,
                std::function<void(absl::Status)> done) override;
  void EraseAsync(std::string key, std::function<void(absl::Status)> done) override;

  absl::Status ForEachKey(absl::FunctionRef<void(std::string_view)> visit) override;

  // The listener is told first whether the tier is connected.
  absl::Status AwaitNotices(const TierWait& wait) override;
  void Subscribe(std::weak_ptr<TierListener> listener) override;

  TierStats Stats() const override;

 private:
  class Impl;

  explicit RedisTier(std::unique_ptr<Impl> impl);

  const std::unique_ptr<Impl> impl_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_REDIS_TIER_H_
