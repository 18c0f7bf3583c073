// SPDX-License-Identifier: Apache-2.0
// RedisTiers behind a network that loses connections in the middle of whatever they say.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/support/fault_proxy.h"
#include "tests/support/redis_server.h"
#include "weakcache/cache/redis_tier.h"
#include "weakcache/cache/second_tier.h"

namespace weakcache {
namespace {

using std::chrono::steady_clock;
using testing::Eventually;
using testing::FaultProxy;
using testing::RedisServer;

constexpr int kKeys = 8;
constexpr int kOperations = 1500;  // of each thread

// What a process does with its tier, which is right only if no object that was loaded before a
// change is read after it.
class Process {
 public:
  // `versions` is what all processes load from.
  Process(std::shared_ptr<RedisTier> tier, std::array<std::atomic<int>, kKeys>& versions)
      : tier_(std::move(tier)), versions_(versions) {}

  void Run(unsigned seed) {
    std::minstd_rand random(seed);
    for (int i = 0; i < kOperations; ++i) {
      const int key = static_cast<int>(random() % kKeys);
      const auto start = steady_clock::now();
      switch (random() % 4) {
        case 0:
          Change(key);
          break;
        case 1:
          Read(key);
          break;
        default:
          Load(key);
      }
      EXPECT_LT(steady_clock::now() - start, std::chrono::seconds(20));
    }
  }

  int reads() const { return reads_; }
  int puts() const { return puts_; }
  RedisTier& tier() { return *tier_; }

 private:
  static std::string Name(int key) { return "key" + std::to_string(key); }

  void Change(int key) {
    const int version = ++versions_[static_cast<size_t>(key)];
    (void)tier_->Erase(Name(key));
    // Others of this process may have changed it since.
    std::atomic<int>& erased = erased_[static_cast<size_t>(key)];
    int before = erased.load();
    while (before < version && !erased.compare_exchange_weak(before, version)) {
    }
  }

  void Read(int key) {
    const int erased = erased_[static_cast<size_t>(key)];
    const absl::StatusOr<TierEntry> entry = tier_->Get(Name(key), {});
    if (entry.ok()) Check(key, erased, *entry);
  }

  void Load(int key) {
    const int erased = erased_[static_cast<size_t>(key)];
    const absl::StatusOr<TierLead> lead =
        tier_->Lead(Name(key), {.deadline = steady_clock::now() + std::chrono::seconds(1)});
    if (!lead.ok()) return;
    if (lead->entry.has_value()) return Check(key, erased, *lead->entry);
    if (!lead->lease.held()) return;
    const int version = versions_[static_cast<size_t>(key)];
    const TierEntry entry = {
        .bytes = TierBytes(Name(key) + "=" + std::to_string(version) + "=" +
                           std::string(static_cast<size_t>(version % 3) * 5000, 'x')),
        .written = absl::Now()};
    if (tier_->Put(Name(key), entry, lead->lease).ok()) ++puts_;
  }

  void Check(int key, int erased, const TierEntry& entry) {
    ++reads_;
    const std::string bytes(entry.bytes.view());
    const std::string start = Name(key) + "=";
    ASSERT_EQ(bytes.substr(0, start.size()), start);
    EXPECT_GE(std::atoi(bytes.c_str() + start.size()), erased);
  }

  const std::shared_ptr<RedisTier> tier_;
  std::array<std::atomic<int>, kKeys>& versions_;
  // The version from which on this process has erased all earlier ones.
  std::array<std::atomic<int>, kKeys> erased_ = {};
  std::atomic<int> reads_{0};
  std::atomic<int> puts_{0};
};

// Counts how often the tier has lost its connection, and has been connected again after that.
class Counter final : public TierListener {
 public:
  void OnChanged(std::string_view) override {}
  void OnGroupErased(uint32_t) override {}
  void OnAllErased() override {}
  void OnDisconnected() override { ++lost; }
  void OnConnected() override { returned += lost > returned ? 1 : 0; }

  std::atomic<int> lost{0};
  std::atomic<int> returned{0};
};

// For a tier that soon gives up a silent connection, on the server's socket.
RedisTierOptions Impatient(const std::string& socket) {
  RedisTierOptions options;
  options.key_namespace = "test";
  options.address.unix_socket = socket;
  options.connect_timeout = absl::Milliseconds(500);
  options.hard_timeout = absl::Milliseconds(500);
  options.max_backoff = absl::Milliseconds(100);
  return options;
}

TEST(RedisTierFaultsTest, ASilentConnectionForNoticesIsGivenUp) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "there is no redis-server on this machine";
  RedisServer server;
  FaultProxy proxy(server.socket() + "0", server.socket(), 1);
  RedisTierOptions options = Impatient(server.socket() + "0");
  options.heartbeat_interval = absl::Milliseconds(20);
  const absl::StatusOr<std::shared_ptr<RedisTier>> tier = RedisTier::Create(options);
  ASSERT_TRUE(tier.ok()) << tier.status();
  const auto counter = std::make_shared<Counter>();
  (*tier)->Subscribe(counter);
  ASSERT_TRUE(Eventually([&] { return (*tier)->Erase("key").ok(); }));
  // Only that connection: the one for changes answers.
  proxy.SilenceSubscribers(true);
  EXPECT_TRUE(Eventually([&] { return counter->lost > 0; }));
  proxy.SilenceSubscribers(false);
  EXPECT_TRUE(Eventually([&] { return counter->returned > 0; }));
  EXPECT_TRUE(Eventually([&] { return (*tier)->Stats().condition.empty(); }));
}

// Also while there is always something to be sent: here, a lease is prolonged.
TEST(RedisTierFaultsTest, ASilentConnectionForChangesIsGivenUp) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "there is no redis-server on this machine";
  RedisServer server;
  FaultProxy proxy(server.socket() + "0", server.socket(), 1);
  RedisTierOptions options = Impatient(server.socket() + "0");
  options.lease_duration = absl::Milliseconds(100);
  const absl::StatusOr<std::shared_ptr<RedisTier>> tier = RedisTier::Create(options);
  ASSERT_TRUE(tier.ok()) << tier.status();
  const auto counter = std::make_shared<Counter>();
  (*tier)->Subscribe(counter);
  ASSERT_TRUE(Eventually([&] { return (*tier)->Erase("key").ok(); }));
  absl::StatusOr<TierLead> lead = TierLead();
  ASSERT_TRUE(Eventually([&] {
    lead = (*tier)->TryLead("key");
    return lead.ok() && lead->lease.held();
  }));
  const int lost = counter->lost;
  proxy.SilenceTrackers(true);
  EXPECT_TRUE(Eventually([&] { return counter->lost > lost; }));
  proxy.SilenceTrackers(false);
  EXPECT_TRUE(Eventually([&] { return counter->returned > lost; }));
}

TEST(RedisTierFaultsTest, WhatALostConnectionHasSentIsNotDoneLater) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "there is no redis-server on this machine";
  RedisServer server;
  FaultProxy proxy(server.socket() + "0", server.socket(), 1);
  RedisTierOptions options;
  options.key_namespace = "test";
  options.connect_timeout = absl::Seconds(5);
  options.soft_timeout = absl::Seconds(5);
  options.address.unix_socket = server.socket();
  const absl::StatusOr<std::shared_ptr<RedisTier>> other = RedisTier::Create(options);
  ASSERT_TRUE(other.ok()) << other.status();
  options.address.unix_socket = server.socket() + "0";
  options.hard_timeout = absl::Milliseconds(500);
  options.max_backoff = absl::Milliseconds(100);
  const absl::StatusOr<std::shared_ptr<RedisTier>> tier = RedisTier::Create(options);
  ASSERT_TRUE(tier.ok()) << tier.status();
  const auto counter = std::make_shared<Counter>();
  (*tier)->Subscribe(counter);
  const auto entry = [](std::string bytes) {
    return TierEntry{.bytes = TierBytes(std::move(bytes)), .written = absl::Now()};
  };
  ASSERT_TRUE(Eventually([&] { return (*tier)->Put("key", entry("first"), {}).ok(); }));

  const int returned = counter->returned;
  proxy.Hold();
  (void)(*tier)->Put("key", entry("old"), {});
  ASSERT_TRUE(Eventually([&] { return counter->returned > returned; }));
  ASSERT_TRUE(Eventually([&] { return (*other)->Put("key", entry("new"), {}).ok(); }));
  proxy.Release();
  // The proxy has passed on all that was held back when its connections are gone: those for
  // changes and notices of two tiers remain, and that which asks.
  EXPECT_TRUE(Eventually([&] {
    const std::string clients = server.Command({"CLIENT", "LIST"});
    return std::count(clients.begin(), clients.end(), '\n') <= 5;
  }));
  const absl::StatusOr<TierEntry> got = (*other)->Get("key", {});
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->bytes.view(), "new");
}

TEST(RedisTierFaultsTest, NoFaultBringsAnOldObjectBackOrHangs) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "there is no redis-server on this machine";
  RedisServer server;
  for (const unsigned seed : {1u, 2u, 3u}) {
    FaultProxy proxy(server.socket() + std::to_string(seed), server.socket(), seed);
    RedisTierOptions options;
    options.key_namespace = "test" + std::to_string(seed);
    options.address.unix_socket = server.socket() + std::to_string(seed);
    options.connect_timeout = absl::Milliseconds(500);
    options.soft_timeout = absl::Milliseconds(200);
    options.hard_timeout = absl::Milliseconds(500);
    options.heartbeat_interval = absl::Milliseconds(50);
    options.lease_duration = absl::Milliseconds(100);
    options.lease_timeout = absl::Milliseconds(200);
    options.min_backoff = absl::Milliseconds(1);
    options.max_backoff = absl::Milliseconds(10);
    std::array<std::atomic<int>, kKeys> versions = {};
    std::vector<std::unique_ptr<Process>> processes;
    for (int i = 0; i < 2; ++i) {
      absl::StatusOr<std::shared_ptr<RedisTier>> tier = RedisTier::Create(options);
      ASSERT_TRUE(tier.ok()) << tier.status();
      ASSERT_TRUE(Eventually([&] { return (*tier)->Stats().condition.empty(); }));
      processes.push_back(std::make_unique<Process>(*std::move(tier), versions));
    }
    proxy.SetFaults(100);
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] { processes[i % 2]->Run(seed * 10 + i); });
    }
    for (std::thread& thread : threads) thread.join();
    proxy.SetFaults(0);
    EXPECT_GT(proxy.faults(), 0);
    for (const auto& process : processes) {
      EXPECT_GT(process->reads(), 0);
      EXPECT_GT(process->puts(), 0);
      EXPECT_TRUE(Eventually([&] {
        (void)process->tier().Get("end", {});  // else the circuit breaker stays open
        return process->tier().Stats().condition.empty();
      }));
    }
    // What is put while the server is away counts as done, but is kept as an erasure.
    EXPECT_TRUE(Eventually([&] {
      return processes[0]->tier().Put("end", {}, {}).ok() &&
             processes[1]->tier().Get("end", {}).ok();
    }));
  }
}

}  // namespace
}  // namespace weakcache
