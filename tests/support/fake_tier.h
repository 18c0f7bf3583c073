// SPDX-License-Identifier: Apache-2.0
// A second tier in memory, for tests: several FakeTiers on one FakeServer are as many processes.
#ifndef WEAKCACHE_TESTS_SUPPORT_FAKE_TIER_H_
#define WEAKCACHE_TESTS_SUPPORT_FAKE_TIER_H_

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "weakcache/cache/internal/creation/stop_token.h"
#include "weakcache/cache/second_tier.h"

namespace weakcache::testing {

class FakeTier;

// What all processes share. Thread-safe.
class FakeServer {
 public:
  // Return what is there, without a trace in any log.
  std::optional<TierEntry> Find(const std::string& key) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = entries_.find(key);
    if (found == entries_.end()) return std::nullopt;
    return found->second;
  }
  std::string BytesOf(const std::string& key) const {
    const std::optional<TierEntry> entry = Find(key);
    return entry.has_value() ? std::string(entry->bytes.view()) : "(none)";
  }
  size_t size() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return entries_.size();
  }
  size_t leases() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return leases_.size();
  }
  // Enters something as if by nobody: no notice.
  void Plant(const std::string& key, TierEntry entry) {
    const std::lock_guard<std::mutex> lock(mutex_);
    entries_[key] = std::move(entry);
  }
  // Removes an entry without a notice.
  void Uproot(const std::string& key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    entries_.erase(key);
  }
  // Lets all leases end as if their holders had taken too long: those that wait go on without one.
  void LetLeasesLast() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& [key, lease] : leases_) lease.has_lasted = true;
    changed_.notify_all();
  }

 private:
  friend class FakeTier;
  struct Lease {
    std::string token;
    bool has_lasted = false;
    uint64_t taken_at = 0;  // the number of the last erasure of a group
  };

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, TierEntry> entries_;
  std::map<std::string, Lease> leases_;
  std::map<uint32_t, uint64_t> erased_groups_;  // the number of each one's last erasure
  uint64_t erasures_ = 0;
  uint64_t next_token_ = 0;
  std::vector<FakeTier*> tiers_;
};

// Thread-safe, but set the hook before the cache has it.
class FakeTier : public SecondTier {
 public:
  explicit FakeTier(std::shared_ptr<FakeServer> server = std::make_shared<FakeServer>())
      : server_(std::move(server)) {
    const std::lock_guard<std::mutex> lock(server_->mutex_);
    server_->tiers_.push_back(this);
  }
  ~FakeTier() override {
    const std::lock_guard<std::mutex> lock(server_->mutex_);
    std::erase(server_->tiers_, this);
  }

  FakeServer& server() { return *server_; }
  const std::shared_ptr<FakeServer>& shared_server() { return server_; }

  // Called without a lock at the points "Get", "Lead" and so on, before each call does something;
  // and at "Get done", "Lead waits", "Lead wakes" (before each further look), "Lead done",
  // "Erase done", "EraseGroup done", "EraseAll done", "EraseAsync done" (when that has been told).
  // An error of the first ones is the call's.
  std::function<absl::Status(std::string_view point, std::string_view key)> hook;
  // If true, asynchronous changes wait until RunAsync.
  bool defers_async = false;
  // If false, as a tier that has no TryLead of its own.
  bool has_try_lead = true;
  // If false, as a tier whose TryLead does not say why it gives no lease.
  bool tells_of_leases = true;
  // If false, as a tier whose Lead does not call TierWait::before_look.
  bool tells_of_looks = true;
  TierStats stats = {};

  // The calls so far, such as "Get a".
  std::vector<std::string> log() const {
    const std::lock_guard<std::mutex> lock(own_mutex_);
    return log_;
  }
  size_t Count(const std::string& call) const {
    const std::lock_guard<std::mutex> lock(own_mutex_);
    return static_cast<size_t>(std::count(log_.begin(), log_.end(), call));
  }
  void ClearLog() {
    const std::lock_guard<std::mutex> lock(own_mutex_);
    log_.clear();
  }

  // Tells the listener of what others have changed so far; on this thread. Returns how many notices
  // there were.
  size_t Deliver() {
    for (size_t delivered = 0;; ++delivered) {
      std::function<void(TierListener&)> notice;
      std::shared_ptr<TierListener> listener;
      {
        const std::lock_guard<std::mutex> lock(server_->mutex_);
        if (notices_.empty()) return delivered;
        notice = std::move(notices_.front());
        notices_.pop_front();
        listener = listener_.lock();
      }
      if (listener != nullptr) notice(*listener);
    }
  }
  bool has_notices() const {
    const std::lock_guard<std::mutex> lock(server_->mutex_);
    return !notices_.empty();
  }
  // Has the listener told that the connection was lost, or is there again.
  void Disconnect() {
    Tell([](TierListener& listener) { listener.OnDisconnected(); });
  }
  void Connect() {
    Tell([](TierListener& listener) { listener.OnConnected(); });
  }
  // Loses the connection until Reconnect: drops the notices that Deliver has not told yet, and all
  // that would come. Tells of the loss, and Reconnect of the return, as the two functions above do.
  void LoseConnection() {
    {
      const std::lock_guard<std::mutex> lock(server_->mutex_);
      hears_ = false;
      notices_.clear();
    }
    Disconnect();
  }
  void Reconnect() {
    {
      const std::lock_guard<std::mutex> lock(server_->mutex_);
      hears_ = true;
    }
    Connect();
  }
  // Makes the asynchronous changes so far, in their order, or the latest first.
  void RunAsync(bool latest_first = false) {
    for (;;) {
      std::function<void()> change;
      {
        const std::lock_guard<std::mutex> lock(own_mutex_);
        if (deferred_.empty()) return;
        if (latest_first) {
          change = std::move(deferred_.back());
          deferred_.pop_back();
        } else {
          change = std::move(deferred_.front());
          deferred_.pop_front();
        }
      }
      change();
    }
  }

  absl::StatusOr<TierEntry> Get(std::string_view key, const TierWait& wait) override {
    absl::Status status = Begin("Get", key);
    if (wait.stop_token.stop_requested()) status = absl::CancelledError("");
    if (!status.ok()) return status;
    std::optional<TierEntry> entry = server_->Find(std::string(key));
    Meet("Get done", key);
    if (!entry.has_value()) return absl::NotFoundError("");
    return *std::move(entry);
  }
  absl::StatusOr<TierLead> Lead(std::string_view key, const TierWait& wait) override {
    absl::Status status = Begin("Lead", key);
    if (!status.ok()) return status;
    const std::string own_key(key);
    TierLead lead;
    {
      const internal::StopCallback<Wake> wake(wait.stop_token, Wake{server_.get()});
      std::unique_lock<std::mutex> lock(server_->mutex_, std::defer_lock);
      for (bool is_first = true;; is_first = false) {
        if (lock.owns_lock()) lock.unlock();
        if (!is_first) Meet("Lead wakes", key);
        if (wait.before_look && tells_of_looks) wait.before_look();
        lock.lock();
        const auto entry = server_->entries_.find(own_key);
        if (entry != server_->entries_.end()) {
          lead.entry = entry->second;
          break;
        }
        const auto lease = server_->leases_.find(own_key);
        if (lease == server_->leases_.end()) {
          lead.lease.token = NewLease(own_key);
          break;
        }
        if (lease->second.has_lasted) break;
        lock.unlock();
        Meet("Lead waits", key);
        lock.lock();
        const auto again = server_->leases_.find(own_key);
        if (again == server_->leases_.end() || again->second.has_lasted) continue;
        if (wait.stop_token.stop_requested()) return absl::CancelledError("");
        if (wait.deadline == std::chrono::steady_clock::time_point::max()) {
          server_->changed_.wait(lock);
        } else if (server_->changed_.wait_until(lock, wait.deadline) == std::cv_status::timeout) {
          return absl::DeadlineExceededError("");
        }
      }
    }
    Meet("Lead done", key);
    return lead;
  }
  absl::StatusOr<TierLead> TryLead(std::string_view key) override {
    if (!has_try_lead) return SecondTier::TryLead(key);
    absl::Status status = Begin("TryLead", key);
    if (!status.ok()) return status;
    const std::lock_guard<std::mutex> lock(server_->mutex_);
    TierLead lead;
    const auto lease = server_->leases_.find(std::string(key));
    if (lease == server_->leases_.end() || lease->second.has_lasted) {
      lead.lease.token = NewLease(std::string(key));
    }
    lead.is_taken = tells_of_leases && !lead.lease.held();
    return lead;
  }
  void EndLead(std::string_view key, const TierLease& lease) override {
    static_cast<void>(Begin("EndLead", key));
    const std::lock_guard<std::mutex> lock(server_->mutex_);
    TakeLease(std::string(key), lease);
  }
  absl::Status Put(std::string_view key, const TierEntry& entry, const TierLease& lease) override {
    absl::Status status = Begin(lease.held() ? "PutByLease" : "Put", key);
    const std::lock_guard<std::mutex> lock(server_->mutex_);
    if (!status.ok()) {
      if (lease.held()) TakeLease(std::string(key), lease);
      return status;
    }
    if (lease.held()) {
      const auto found = server_->leases_.find(std::string(key));
      const uint64_t taken_at = found == server_->leases_.end() ? 0 : found->second.taken_at;
      if (!TakeLease(std::string(key), lease)) return absl::AbortedError("the lease is gone");
      if (entry.group.has_value() && server_->erased_groups_[*entry.group] > taken_at) {
        return absl::AbortedError("the group has been erased");
      }
    } else {
      server_->leases_.erase(std::string(key));
    }
    server_->entries_[std::string(key)] = entry;
    TellOthers([own = std::string(key)](TierListener& listener) { listener.OnChanged(own); });
    return absl::OkStatus();
  }
  absl::Status Erase(std::string_view key) override {
    absl::Status status = Begin("Erase", key);
    if (!status.ok()) return status;
    {
      const std::lock_guard<std::mutex> lock(server_->mutex_);
      server_->leases_.erase(std::string(key));
      server_->entries_.erase(std::string(key));
      TellOthers([own = std::string(key)](TierListener& listener) { listener.OnChanged(own); });
    }
    Meet("Erase done", key);
    return absl::OkStatus();
  }
  absl::Status EraseGroup(uint32_t group) override {
    absl::Status status = Begin("EraseGroup", absl::StrCat(group));
    if (!status.ok()) return status;
    {
      const std::lock_guard<std::mutex> lock(server_->mutex_);
      server_->erased_groups_[group] = ++server_->erasures_;
      std::erase_if(server_->entries_,
                    [&](const auto& entry) { return entry.second.group == group; });
      TellOthers([group](TierListener& listener) { listener.OnGroupErased(group); });
    }
    Meet("EraseGroup done", absl::StrCat(group));
    return absl::OkStatus();
  }
  absl::Status EraseAll() override {
    absl::Status status = Begin("EraseAll", "");
    if (!status.ok()) return status;
    {
      const std::lock_guard<std::mutex> lock(server_->mutex_);
      server_->leases_.clear();
      server_->entries_.clear();
      TellOthers([](TierListener& listener) { listener.OnAllErased(); });
    }
    Meet("EraseAll done", "");
    return absl::OkStatus();
  }
  absl::Status ForEachKey(absl::FunctionRef<void(std::string_view)> visit) override {
    absl::Status status = Begin("ForEachKey", "");
    if (!status.ok()) return status;
    std::vector<std::string> keys;
    {
      const std::lock_guard<std::mutex> lock(server_->mutex_);
      for (const auto& [key, lease] : server_->leases_) keys.push_back(key);
      for (const auto& [key, entry] : server_->entries_) keys.push_back(key);
    }
    for (const std::string& key : keys) visit(key);
    return absl::OkStatus();
  }

  void PutAsync(std::string key, TierEntry entry, TierLease lease,
                std::function<void(absl::Status)> done) override {
    Later([this, key = std::move(key), entry = std::move(entry), lease = std::move(lease),
           done = std::move(done)] { done(Put(key, entry, lease)); });
  }
  void EraseAsync(std::string key, std::function<void(absl::Status)> done) override {
    Later([this, key = std::move(key), done = std::move(done)] {
      const auto then = hook;  // `done` may let the tier go
      done(Erase(key));
      if (then) static_cast<void>(then("EraseAsync done", key));
    });
  }
  absl::Status AwaitNotices(const TierWait&) override {
    absl::Status status = Begin("AwaitNotices", "");
    if (status.ok()) Deliver();
    return status;
  }
  TierStats Stats() const override { return stats; }
  void Subscribe(std::weak_ptr<TierListener> listener) override {
    const std::lock_guard<std::mutex> lock(server_->mutex_);
    listener_ = std::move(listener);
  }

 private:
  struct Wake {
    void operator()() const {
      { const std::lock_guard<std::mutex> lock(server->mutex_); }
      server->changed_.notify_all();
    }
    FakeServer* server;
  };

  absl::Status Begin(std::string_view call, std::string_view key) {
    {
      const std::lock_guard<std::mutex> lock(own_mutex_);
      log_.push_back(key.empty() ? std::string(call) : std::string(call) + " " + std::string(key));
    }
    return hook ? hook(call, key) : absl::OkStatus();
  }
  void Meet(std::string_view point, std::string_view key) {
    if (hook) static_cast<void>(hook(point, key));
  }
  void Later(std::function<void()> change) {
    if (!defers_async) return change();
    const std::lock_guard<std::mutex> lock(own_mutex_);
    deferred_.push_back(std::move(change));
  }
  // All that follows: under the server's lock.
  std::string NewLease(const std::string& key) {
    std::string token = absl::StrCat("lease ", ++server_->next_token_);
    server_->leases_[key] = {token, /*has_lasted=*/false, server_->erasures_};
    return token;
  }
  bool TakeLease(const std::string& key, const TierLease& lease) {
    const auto found = server_->leases_.find(key);
    if (found == server_->leases_.end() || found->second.token != lease.token) return false;
    server_->leases_.erase(found);
    server_->changed_.notify_all();
    return true;
  }
  void TellOthers(const std::function<void(TierListener&)>& notice) {
    server_->changed_.notify_all();
    for (FakeTier* const tier : server_->tiers_) {
      if (tier != this && tier->hears_) tier->notices_.push_back(notice);
    }
  }
  void Tell(std::function<void(TierListener&)> notice) {
    const std::lock_guard<std::mutex> lock(server_->mutex_);
    notices_.push_back(std::move(notice));
  }

  const std::shared_ptr<FakeServer> server_;
  std::weak_ptr<TierListener> listener_;                    // guarded by the server's lock
  std::deque<std::function<void(TierListener&)>> notices_;  // the same
  bool hears_ = true;                                       // the same
  mutable std::mutex own_mutex_;
  std::vector<std::string> log_;                // guarded by the own lock
  std::deque<std::function<void()>> deferred_;  // the same
};

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_FAKE_TIER_H_
