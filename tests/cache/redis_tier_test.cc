// SPDX-License-Identifier: Apache-2.0
// Two RedisTiers on one server are two processes.
#include "weakcache/cache/redis_tier.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/support/redis_server.h"
#include "tests/support/temporary_folder.h"
#include "weakcache/cache/second_tier.h"

namespace weakcache {
namespace {

using testing::Eventually;
using testing::RedisServer;
using testing::TemporaryFolder;

std::chrono::steady_clock::time_point In(int milliseconds) {
  return std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
}

TierEntry Entry(std::string bytes, std::optional<uint32_t> group = {}) {
  return {
      .bytes = TierBytes(std::move(bytes)), .schema = 7, .written = absl::Now(), .group = group};
}

// Writes down what it is told.
class Recorder final : public TierListener {
 public:
  void OnChanged(std::string_view key) override { Add("changed " + std::string(key)); }
  void OnGroupErased(uint32_t group) override { Add("group " + std::to_string(group)); }
  void OnAllErased() override { Add("all"); }
  void OnDisconnected() override { Add("disconnected"); }
  void OnConnected() override { Add("connected"); }

  std::vector<std::string> events() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return events_;
  }
  size_t Count(std::string_view event) {
    const std::vector<std::string> all = events();
    return static_cast<size_t>(std::count(all.begin(), all.end(), event));
  }
  bool Has(std::string_view event) { return Count(event) > 0; }

 private:
  void Add(std::string event) {
    const std::lock_guard<std::mutex> lock(mutex_);
    events_.push_back(std::move(event));
  }

  std::mutex mutex_;
  std::vector<std::string> events_;
};

class RedisTierTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!RedisServer::IsInstalled()) GTEST_SKIP() << "there is no redis-server on this machine";
    server_ = std::make_unique<RedisServer>();
  }

  RedisTierOptions Options() { return testing::TierOptions(*server_); }
  std::shared_ptr<RedisTier> Make() { return Make(Options()); }
  std::shared_ptr<RedisTier> Make(const RedisTierOptions& options) {
    absl::StatusOr<std::shared_ptr<RedisTier>> tier = RedisTier::Create(options);
    EXPECT_TRUE(tier.ok()) << tier.status();
    return *std::move(tier);
  }
  // Subscribes a listener, and waits until it knows that the tier is connected.
  static std::shared_ptr<Recorder> Listen(RedisTier& tier) {
    auto recorder = std::make_shared<Recorder>();
    tier.Subscribe(recorder);
    EXPECT_TRUE(Eventually([&] { return recorder->Has("connected"); }));
    return recorder;
  }
  static std::string Read(RedisTier& tier, const std::string& key) {
    const absl::StatusOr<TierEntry> entry = tier.Get(key, {});
    if (!entry.ok()) return absl::IsNotFound(entry.status()) ? "none" : entry.status().ToString();
    return std::string(entry->bytes.view());
  }
  // Takes the lease, which must be free.
  static TierLease Take(RedisTier& tier, const std::string& key) {
    absl::StatusOr<TierLead> lead = tier.Lead(key, {.deadline = In(10000)});
    EXPECT_TRUE(lead.ok() && lead->lease.held()) << lead.status();
    return lead.ok() ? lead->lease : TierLease();
  }

  std::unique_ptr<RedisServer> server_;
};

TEST_F(RedisTierTest, WhatOneProcessHasPutAnotherGets) {
  const auto one = Make();
  const auto other = Make();
  TierEntry entry = Entry("bytes\0and more", 4000000000u);
  entry.expires = absl::Now() + absl::Hours(1);
  ASSERT_TRUE(one->Put("key", entry, {}).ok());

  const absl::StatusOr<TierEntry> got = other->Get("key", {});

  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->bytes.view(), entry.bytes.view());
  EXPECT_EQ(got->schema, 7u);
  EXPECT_EQ(got->group, 4000000000u);
  EXPECT_LT(absl::AbsDuration(got->expires - entry.expires), absl::Microseconds(1));
  EXPECT_LT(absl::AbsDuration(got->written - entry.written), absl::Microseconds(1));
  EXPECT_EQ(other->Stats().hits, 1u);
  EXPECT_EQ(one->Stats().puts, 1u);
  EXPECT_EQ(one->Stats().condition, "");
}

TEST_F(RedisTierTest, ErasedEntriesAreNotFound) {
  const auto one = Make();
  const auto other = Make();
  ASSERT_TRUE(one->Put("a", Entry("1"), {}).ok());
  ASSERT_TRUE(one->Put("b", Entry("2"), {}).ok());

  EXPECT_TRUE(other->Erase("a").ok());

  EXPECT_EQ(Read(*one, "a"), "none");
  EXPECT_EQ(Read(*one, "b"), "2");
  EXPECT_TRUE(other->Erase("never there").ok());
  EXPECT_EQ(one->Stats().misses, 1u);
}

TEST_F(RedisTierTest, SeveralKeysAreReadTogetherInTheirOrder) {
  const auto tier = Make();
  ASSERT_TRUE(tier->Put("a", Entry("1"), {}).ok());
  ASSERT_TRUE(tier->Put("c", Entry(std::string(300000, 'x')), {}).ok());

  const auto entries = tier->GetAll(std::vector<std::string>{"c", "b", "a"}, {});

  ASSERT_EQ(entries.size(), 3u);
  ASSERT_TRUE(entries[0].ok() && entries[2].ok());
  EXPECT_EQ(entries[0]->bytes.size(), 300000u);
  EXPECT_TRUE(absl::IsNotFound(entries[1].status()));
  EXPECT_EQ(entries[2]->bytes.view(), "1");
}

TEST_F(RedisTierTest, TheServerForgetsExpiredEntries) {
  RedisTierOptions options = Options();
  options.max_age = absl::Minutes(1);
  const auto tier = Make(options);
  TierEntry brief = Entry("1");
  brief.expires = absl::Now() + absl::Milliseconds(50);
  ASSERT_TRUE(tier->Put("brief", brief, {}).ok());
  ASSERT_TRUE(tier->Put("endless", Entry("2"), {}).ok());

  EXPECT_TRUE(Eventually([&] { return server_->Command({"EXISTS", "test:v:brief"}) == "0"; }));
  EXPECT_EQ(Read(*tier, "brief"), "none");
  EXPECT_GT(std::stoi(server_->Command({"TTL", "test:v:endless"})), 50);
}

TEST_F(RedisTierTest, AnEntryThatHasExpiredAlreadyReplacesTheFormerOne) {
  const auto tier = Make();
  ASSERT_TRUE(tier->Put("key", Entry("1"), {}).ok());
  TierEntry old = Entry("2");
  old.expires = absl::Now() - absl::Seconds(1);
  EXPECT_TRUE(tier->Put("key", old, {}).ok());
  EXPECT_EQ(Read(*tier, "key"), "none");
}

TEST_F(RedisTierTest, AGroupIsErasedWithoutTheOthers) {
  const auto one = Make();
  const auto other = Make();
  ASSERT_TRUE(one->Put("a", Entry("1", 5), {}).ok());
  ASSERT_TRUE(one->Put("b", Entry("2", 6), {}).ok());
  ASSERT_TRUE(one->Put("c", Entry("3"), {}).ok());
  ASSERT_TRUE(one->Put("moved", Entry("4", 5), {}).ok());
  ASSERT_TRUE(one->Put("moved", Entry("5", 6), {}).ok());
  ASSERT_EQ(Read(*other, "a"), "1");

  EXPECT_TRUE(one->EraseGroup(5).ok());

  for (RedisTier* tier : {one.get(), other.get()}) {
    EXPECT_TRUE(Eventually([&] { return Read(*tier, "a") == "none"; }));
    EXPECT_EQ(Read(*tier, "b"), "2");
    EXPECT_EQ(Read(*tier, "c"), "3");
    EXPECT_EQ(Read(*tier, "moved"), "5");
  }
  ASSERT_TRUE(other->Put("a", Entry("6", 5), {}).ok());
  EXPECT_EQ(Read(*one, "a"), "6");
}

TEST_F(RedisTierTest, AllIsErased) {
  const auto one = Make();
  const auto other = Make();
  ASSERT_TRUE(one->Put("a", Entry("1", 5), {}).ok());
  ASSERT_TRUE(one->Put("b", Entry("2"), {}).ok());
  ASSERT_EQ(Read(*other, "b"), "2");

  EXPECT_TRUE(one->EraseAll().ok());

  EXPECT_EQ(Read(*one, "a"), "none");
  EXPECT_EQ(Read(*one, "b"), "none");
  EXPECT_TRUE(Eventually([&] { return Read(*other, "b") == "none"; }));
  ASSERT_TRUE(other->Put("b", Entry("3"), {}).ok());
  EXPECT_EQ(Read(*one, "b"), "3");
}

TEST_F(RedisTierTest, NameSpacesAreApart) {
  RedisTierOptions options = Options();
  const auto one = Make(options);
  options.key_namespace = "test2";
  const auto other = Make(options);
  ASSERT_TRUE(one->Put("a", Entry("1"), {}).ok());
  EXPECT_EQ(Read(*other, "a"), "none");
  ASSERT_TRUE(other->EraseAll().ok());
  EXPECT_EQ(Read(*one, "a"), "1");
}

TEST_F(RedisTierTest, KeysAreVisited) {
  const auto tier = Make();
  const std::string strange("a \0*:?\r\n", 8);
  for (const std::string& key : {std::string("one"), std::string("two"), strange}) {
    ASSERT_TRUE(tier->Put(key, Entry(key), {}).ok());
    EXPECT_EQ(Read(*tier, key), key);
  }
  std::vector<std::string> keys;
  ASSERT_TRUE(tier->ForEachKey([&](std::string_view key) { keys.emplace_back(key); }).ok());
  std::sort(keys.begin(), keys.end());
  EXPECT_EQ(keys, (std::vector<std::string>{strange, "one", "two"}));
}

TEST_F(RedisTierTest, KeysThatHaveOnlyALeaseAreVisited) {
  const auto tier = Make();
  const auto other = Make();
  ASSERT_TRUE(tier->Put("entry", Entry("1"), {}).ok());
  (void)Take(*other, "lease");
  const absl::StatusOr<TierLead> both = other->TryLead("both");
  std::vector<std::string> keys;
  bool has_put = false;
  ASSERT_TRUE(tier->ForEachKey([&](std::string_view key) {
                    // What is put during the visit of the leases has an entry at that of entries.
                    if (key == "both" && !std::exchange(has_put, true)) {
                      EXPECT_TRUE(other->Put("both", Entry("2"), both->lease).ok());
                    }
                    keys.emplace_back(key);
                  })
                  .ok());
  std::sort(keys.begin(), keys.end());
  EXPECT_EQ(keys, (std::vector<std::string>{"both", "both", "entry", "lease"}));
}

TEST_F(RedisTierTest, LargeObjectsAreCompressedOrSkipped) {
  RedisTierOptions options = Options();
  options.compress_above = 1000;
  options.max_value_bytes = 100000;
  const auto tier = Make(options);
  ASSERT_TRUE(tier->Put("key", Entry(std::string(100000, 'x')), {}).ok());
  EXPECT_EQ(Read(*tier, "key"), std::string(100000, 'x'));
  EXPECT_LT(std::stoi(server_->Command({"STRLEN", "test:v:key"})), 1000);

  EXPECT_TRUE(tier->Put("key", Entry(std::string(100001, 'x')), {}).ok());

  EXPECT_EQ(Read(*tier, "key"), "none");  // not the former one
  EXPECT_EQ(tier->Stats().skipped_values, 1u);
}

TEST_F(RedisTierTest, LargeObjectsAreWrittenInPieces) {
  RedisTierOptions options = Options();
  options.compress_above = SIZE_MAX;
  options.max_value_bytes = 1 << 20;
  options.chunk_bytes = 1000;
  const auto one = Make(options);
  const auto other = Make();  // how large pieces are is not for those that read
  std::string object;
  for (int i = 0; i < 10000; ++i) object += std::to_string(i) + " ";
  const auto chunks = [&] {
    const std::string names = server_->Command({"KEYS", "test/c:*"});
    return std::count(names.begin(), names.end(), '\n');
  };
  const TierLease lease = Take(*one, "key");
  ASSERT_TRUE(one->Put("key", Entry(object, 3), lease).ok());
  EXPECT_EQ(Read(*other, "key"), object);
  EXPECT_EQ(chunks(), 49);

  // Pieces go with their value, and those of a Put that came too late at once.
  ASSERT_TRUE(one->Put("key", Entry(object.substr(0, 3000)), {}).ok());
  EXPECT_EQ(Read(*other, "key"), object.substr(0, 3000));
  EXPECT_EQ(chunks(), 4);
  EXPECT_TRUE(absl::IsAborted(one->Put("key", Entry(object), lease)));
  EXPECT_TRUE(Eventually([&] { return chunks() == 4; }));
  EXPECT_EQ(Read(*other, "key"), object.substr(0, 3000));

  // A missing piece is a miss, and does not stand in the way of a load.
  std::string names = server_->Command({"KEYS", "test/c:*:1"});
  server_->Command({"DEL", names.substr(0, names.find('\n'))});
  EXPECT_EQ(Read(*other, "key"), "none");
  EXPECT_EQ(other->Stats().errors, 0u);
  const TierLease next = Take(*other, "key");
  ASSERT_TRUE(other->Put("key", Entry(object), next).ok());
  EXPECT_EQ(Read(*one, "key"), object);
  EXPECT_EQ(chunks(), 0);
  ASSERT_TRUE(one->Put("key", Entry(object), {}).ok());
  EXPECT_EQ(chunks(), 49);
  ASSERT_TRUE(one->Erase("key").ok());
  EXPECT_EQ(chunks(), 0);
  // Whoever says that a value is huge is not believed.
  std::string manifest = "m" + server_->Command({"GET", "test/a"}) + std::string(24, '-') +
                         std::string(16, 'a') + "ffffffff" + std::string(16, 'f');
  server_->Command({"SET", "test:v:key", manifest});
  EXPECT_EQ(Read(*other, "key"), "none");
  EXPECT_TRUE(one->Erase("key").ok());
}

TEST_F(RedisTierTest, ALeaseIsOfOneProcessUntilItsPut) {
  RedisTierOptions options = Options();
  options.lease_duration = absl::Minutes(1);  // longer than the test waits: only a notice ends it
  const auto one = Make(options);
  const auto other = Make(options);
  const TierLease lease = Take(*one, "key");
  std::atomic<bool> returned{false};
  std::thread waiting([&] {
    const absl::StatusOr<TierLead> lead = other->Lead("key", {.deadline = In(10000)});
    returned = true;
    ASSERT_TRUE(lead.ok()) << lead.status();
    ASSERT_TRUE(lead->entry.has_value());
    EXPECT_EQ(lead->entry->bytes.view(), "object");
  });
  ASSERT_TRUE(Eventually([&] { return other->Stats().leases_awaited == 1; }));
  EXPECT_FALSE(returned);

  EXPECT_TRUE(one->Put("key", Entry("object"), lease).ok());

  waiting.join();
  EXPECT_EQ(one->Stats().leases_won, 1u);
  EXPECT_EQ(other->Stats().leases_won, 0u);
}

// Hears of a change only once somebody has looked, or no look has come for a tenth of a second.
class ReluctantListener final : public TierListener {
 public:
  void OnChanged(std::string_view) override {
    std::unique_lock<std::mutex> lock(mutex_);
    looked_.wait_until(lock, In(100), [this] { return looks_ > 1; });
    heard_ = true;
  }
  void OnGroupErased(uint32_t) override {}
  void OnAllErased() override {}
  void OnDisconnected() override {}
  void OnConnected() override { connected = true; }

  void Begin() {
    const std::lock_guard<std::mutex> lock(mutex_);
    looks_ = 0;
    heard_ = false;
  }
  // Notes a look, of which the first is before any change. Returns whether the change was heard of.
  bool Look() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (++looks_ > 1) looked_.notify_all();
    return heard_;
  }
  bool heard() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return heard_;
  }

  std::atomic<bool> connected{false};

 private:
  std::mutex mutex_;
  std::condition_variable looked_;
  int looks_ = 0;
  bool heard_ = false;
};

// Else the listener, which is slow here, would drop what the waiting thread is about to read.
TEST_F(RedisTierTest, WhoWaitsForALeaseLooksAgainAfterListenersWereTold) {
  const auto one = Make();
  const auto other = Make();
  const auto listener = std::make_shared<ReluctantListener>();
  other->Subscribe(listener);
  ASSERT_TRUE(Eventually([&] { return listener->connected.load(); }));
  bool has_heard_first = false;
  // On a busy machine the listener may be held up for longer than it is waited for.
  for (int attempt = 0; attempt < 5 && !has_heard_first; ++attempt) {
    const std::string key = std::to_string(attempt);
    const uint64_t awaited = other->Stats().leases_awaited;
    const TierLease lease = Take(*one, key);
    listener->Begin();
    std::thread waiting([&] {
      TierWait wait;
      wait.before_look = [&] { has_heard_first = listener->Look(); };
      const absl::StatusOr<TierLead> lead = other->Lead(key, wait);
      EXPECT_TRUE(lead.ok() && lead->entry.has_value()) << lead.status();
    });
    ASSERT_TRUE(Eventually([&] { return other->Stats().leases_awaited > awaited; }));
    EXPECT_TRUE(one->Put(key, Entry("object"), lease).ok());
    waiting.join();
    EXPECT_TRUE(Eventually([&] { return listener->heard(); }));
  }
  EXPECT_TRUE(has_heard_first);
}

TEST_F(RedisTierTest, ALeaseThatIsGivenUpGoesToTheNext) {
  RedisTierOptions options = Options();
  options.lease_duration = absl::Minutes(1);  // longer than the test waits: only a notice ends it
  const auto one = Make(options);
  const auto other = Make(options);
  const TierLease lease = Take(*one, "key");
  TierLease next;
  std::thread waiting([&] { next = Take(*other, "key"); });
  ASSERT_TRUE(Eventually([&] { return other->Stats().leases_awaited == 1; }));
  one->EndLead("key", lease);
  waiting.join();
  // The first one's is void.
  EXPECT_TRUE(absl::IsAborted(one->Put("key", Entry("1"), lease)));
  EXPECT_TRUE(other->Put("key", Entry("2"), next).ok());
  EXPECT_EQ(Read(*one, "key"), "2");
  EXPECT_EQ(one->Stats().leases_lost, 1u);
}

TEST_F(RedisTierTest, TryLeadTakesTheLeaseOfAnEntryAndWaitsForNobody) {
  const auto one = Make();
  const auto other = Make();
  ASSERT_TRUE(one->Put("key", Entry("old"), {}).ok());

  const absl::StatusOr<TierLead> lead = one->TryLead("key");
  const absl::StatusOr<TierLead> late = other->TryLead("key");

  ASSERT_TRUE(lead.ok() && late.ok()) << lead.status() << late.status();
  EXPECT_TRUE(lead->lease.held());
  EXPECT_FALSE(lead->entry.has_value());
  EXPECT_FALSE(lead->is_taken);
  EXPECT_FALSE(late->lease.held());
  EXPECT_TRUE(late->is_taken);
  EXPECT_EQ(Read(*other, "key"), "old");
  EXPECT_TRUE(one->Put("key", Entry("new"), lead->lease).ok());
  EXPECT_EQ(Read(*other, "key"), "new");
}

TEST_F(RedisTierTest, EachChangeOfAKeyRevokesItsLease) {
  const auto one = Make();
  const auto other = Make();
  const std::vector<std::function<absl::Status(RedisTier&)>> changes = {
      [](RedisTier& tier) { return tier.Put("key", Entry("new"), {}); },
      [](RedisTier& tier) { return tier.Erase("key"); },
      [](RedisTier& tier) { return tier.EraseAll(); },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    for (RedisTier* changer : {one.get(), other.get()}) {
      const TierLease lease = Take(*one, "key");
      ASSERT_TRUE(changes[i](*changer).ok());
      EXPECT_TRUE(absl::IsAborted(one->Put("key", Entry("old"), lease))) << i;
      EXPECT_EQ(Read(*one, "key"), i == 0 ? "new" : "none") << i;
      ASSERT_TRUE(one->Erase("key").ok());
    }
  }
}

TEST_F(RedisTierTest, ARevokedLeaseIsFreeAtOnce) {
  RedisTierOptions options = Options();
  options.lease_duration = absl::Minutes(1);  // longer than the test waits: only a notice ends it
  const auto one = Make(options);
  const auto other = Make(options);
  (void)Take(*one, "key");
  TierLease next;
  std::thread waiting([&] { next = Take(*other, "key"); });
  ASSERT_TRUE(Eventually([&] { return other->Stats().leases_awaited == 1; }));
  ASSERT_TRUE(one->EraseAll().ok());
  waiting.join();
  EXPECT_TRUE(other->Put("key", Entry("1"), next).ok());
}

TEST_F(RedisTierTest, AnErasedGroupConcernsTheLoadsOfThatGroupOnly) {
  const auto one = Make();
  const auto other = Make();
  for (RedisTier* const changer : {one.get(), other.get()}) {
    for (const std::optional<uint32_t> group : {std::optional<uint32_t>(), {8}, {9}}) {
      const TierLease lease = Take(*one, "key");
      ASSERT_TRUE(changer->EraseGroup(9).ok());
      const absl::Status put = one->Put("key", Entry("object", group), lease);
      EXPECT_EQ(put.ok(), group != 9u) << put;
      EXPECT_EQ(absl::IsAborted(put), group == 9u);
      EXPECT_EQ(Read(*one, "key"), group == 9u ? "none" : "object");
      // A lease that was taken after the erasure.
      const absl::StatusOr<TierLead> next = one->TryLead("key");
      ASSERT_TRUE(next.ok() && next->lease.held());
      EXPECT_TRUE(one->Put("key", Entry("new", 9), next->lease).ok());
      EXPECT_EQ(Read(*other, "key"), "new");
      ASSERT_TRUE(one->Erase("key").ok());
    }
  }
}

TEST_F(RedisTierTest, ALeaseIsProlongedWhileItsProcessLives) {
  RedisTierOptions options = Options();
  options.lease_duration = absl::Milliseconds(200);
  options.heartbeat_interval = absl::Minutes(1);  // nothing but the lease wakes the tier's thread
  const auto one = Make(options);
  const auto time = [&] { return std::stoll(server_->Command({"TIME"})); };
  // One that lasts is enough: only a prolonged one does, though on a busy machine it may end, too.
  bool has_lasted = false;
  for (int attempt = 0; attempt < 10 && !has_lasted; ++attempt) {
    const std::string key = "key" + std::to_string(attempt);
    const TierLease lease = Take(*one, key);
    // Several durations later, by the server's clock in seconds.
    const long long start = time();
    ASSERT_TRUE(Eventually([&] { return time() >= start + 2; }));
    has_lasted = one->Put(key, Entry("1"), lease).ok();
  }
  EXPECT_TRUE(has_lasted);
}

TEST_F(RedisTierTest, ALeaseThatHasEndedIsNotProlonged) {
  RedisTierOptions options = Options();
  options.lease_duration = absl::Milliseconds(300);  // is prolonged each 100 ms
  const auto one = Make(options);
  const auto other = Make();
  const auto scripts = [&] {
    const std::string stats = server_->Command({"INFO", "commandstats"});
    const std::string_view of_eval = "cmdstat_eval:calls=";
    const size_t place = stats.find(of_eval);
    return place == std::string::npos ? 0 : std::stoi(stats.substr(place + of_eval.size()));
  };
  // How many more the server runs in the next 200 ms.
  const auto more_scripts = [&] {
    const int before = scripts();
    EXPECT_EQ(server_->Command({"BLPOP", "no list", "0.2"}), "(nil)");
    return scripts() - before;
  };
  (void)Take(*one, "revoked");
  EXPECT_TRUE(Eventually([&] { return more_scripts() > 0; }));
  EXPECT_TRUE(other->Erase("revoked").ok());
  EXPECT_TRUE(Eventually([&] { return more_scripts() == 0; }));
  // More than once: on a busy machine the time for a script may be over before the first count.
  for (const std::string key : {"1", "2", "3"}) {
    (void)one->Put(key, Entry("object"), Take(*one, key));
    EXPECT_EQ(more_scripts(), 0);
    one->EndLead("given up", Take(*one, "given up"));
    EXPECT_TRUE(one->Erase("another").ok());  // after that
    EXPECT_EQ(more_scripts(), 0);
  }
}

TEST_F(RedisTierTest, TheLeaseOfAKilledProcessEnds) {
  RedisTierOptions options = Options();
  options.lease_duration = absl::Milliseconds(300);
  const auto tier = Make(options);
  (void)Take(*tier, "key");
  // Nobody prolongs this one.
  const std::string generation = server_->Command({"HGET", "test/g", "g"});
  server_->Command({"SET", "test/l:key", "0123456789abcdef" + generation + "0", "PX", "1500"});
  EXPECT_TRUE(Take(*tier, "key").held());
  EXPECT_EQ(tier->Stats().leases_awaited, 1u);
}

TEST_F(RedisTierTest, ALoadThatTakesTooLongIsNotWaitedFor) {
  RedisTierOptions options = Options();
  options.lease_timeout = absl::Milliseconds(50);
  const auto one = Make(options);
  const auto other = Make(options);
  const TierLease lease = Take(*one, "key");

  const absl::StatusOr<TierLead> lead = other->Lead("key", {.deadline = In(10000)});

  ASSERT_TRUE(lead.ok()) << lead.status();
  EXPECT_FALSE(lead->entry.has_value());
  EXPECT_FALSE(lead->lease.held());
  EXPECT_TRUE(one->Put("key", Entry("1"), lease).ok());
}

TEST_F(RedisTierTest, WhoWaitsForALeaseHasADeadlineAndAStop) {
  const auto one = Make();
  const auto other = Make();
  (void)Take(*one, "key");
  EXPECT_TRUE(absl::IsDeadlineExceeded(other->Lead("key", {.deadline = In(30)}).status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(other->Get("key", {.deadline = In(-1)}).status()));

  const uint64_t awaited = other->Stats().leases_awaited;
  std::stop_source stop;
  std::thread waiting([&] {
    EXPECT_TRUE(absl::IsCancelled(other->Lead("key", {.stop_token = stop.get_token()}).status()));
  });
  EXPECT_TRUE(Eventually([&] { return other->Stats().leases_awaited > awaited; }));
  stop.request_stop();
  waiting.join();
}

TEST_F(RedisTierTest, ChangesByOthersAreToldAndOwnOnesAreNot) {
  const auto one = Make();
  const auto other = Make();
  const auto told = Listen(*one);
  const auto own = Listen(*other);

  ASSERT_TRUE(other->Put("a", Entry("1", 3), {}).ok());
  ASSERT_TRUE(other->Erase("a").ok());
  ASSERT_TRUE(other->Erase("not there").ok());
  const TierLease lease = Take(*other, "led");
  ASSERT_TRUE(other->Put("led", Entry("2"), lease).ok());
  ASSERT_TRUE(other->EraseGroup(3).ok());
  ASSERT_TRUE(other->EraseAll().ok());
  server_->Command({"SET", "test:v:by a stranger", "x"});

  EXPECT_TRUE(Eventually([&] { return told->Has("changed by a stranger"); }));
  EXPECT_TRUE(Eventually([&] { return own->Has("changed by a stranger"); }));
  const std::vector<std::string> expected = {
      "connected",   "changed a", "changed a", "changed not there",
      "changed led", "group 3",   "all",       "changed by a stranger"};
  EXPECT_EQ(told->events(), expected);
  EXPECT_EQ(own->events(), (std::vector<std::string>{"connected", "changed by a stranger"}));
  EXPECT_EQ(one->Stats().notices, 7u);
}

// A server that tells the events of keys lets the objects of evicted and expired entries be. One
// that does not has all of them taken for changes.
TEST_F(RedisTierTest, EvictionsAreNoChangesIfTheServerTellsWhichTheyAre) {
  for (const bool tells : {true, false}) {
    server_->Command({"CONFIG", "SET", "notify-keyspace-events", tells ? "KA" : ""});
    const auto one = Make();
    const auto other = Make();
    const auto told = Listen(*one);
    const auto own = Listen(*other);
    ASSERT_TRUE(other->Put("evicted", Entry("1"), {}).ok());
    TierEntry entry = Entry("2");
    entry.expires = absl::Now() + absl::Milliseconds(300);
    ASSERT_TRUE(other->Put("expired", entry, {}).ok());
    EXPECT_TRUE(Eventually([&] { return server_->Command({"EXISTS", "test:v:expired"}) == "0"; }));
    server_->Command({"CONFIG", "SET", "maxmemory-policy", "allkeys-random"});
    server_->Command({"CONFIG", "SET", "maxmemory", "1"});
    EXPECT_TRUE(Eventually([&] { return server_->Command({"EXISTS", "test:v:evicted"}) == "0"; }));
    server_->Command({"CONFIG", "SET", "maxmemory", "0"});
    // What others change is told all the same: an entry that was evicted, one that is there now, a
    // change by a client that is no tier.
    ASSERT_TRUE(other->Erase("evicted").ok());
    ASSERT_TRUE(other->Put("evicted", Entry("3"), {}).ok());
    server_->Command({"SET", "test:v:evicted", "x"});
    server_->Command({"DEL", "test:v:evicted"});
    server_->Command({"SET", "test:v:last", "x"});
    EXPECT_TRUE(Eventually([&] { return told->Has("changed last"); }));
    EXPECT_TRUE(Eventually([&] { return own->Has("changed last"); }));
    EXPECT_EQ(told->Count("changed evicted"), tells ? 5u : 6u);
    EXPECT_EQ(told->Count("changed expired"), tells ? 1u : 2u);
    EXPECT_EQ(own->Count("changed evicted"), tells ? 2u : 3u);
    EXPECT_EQ(own->Count("changed expired"), tells ? 0u : 1u);
    server_->Command({"FLUSHALL"});
    EXPECT_TRUE(Eventually([&] { return told->Has("all"); }));
  }
}

// A client changes an entry that the server removes at the same moment.
TEST_F(RedisTierTest, AChangeBesideAnEvictionIsTold) {
  server_->Command({"CONFIG", "SET", "notify-keyspace-events", "KA"});
  const auto tier = Make();
  const auto told = Listen(*tier);
  ASSERT_TRUE(tier->Put("key", Entry("1"), {}).ok());
  // One round of the server's, in which the time of what is written is over.
  const std::string reply = server_->Pipeline({{"SET", "test:v:key", "x", "PX", "1"},
                                               {"EVAL", "for i = 1, 3000000 do end return 1", "0"},
                                               {"GET", "test:v:key"}});
  EXPECT_EQ(reply, "(nil)") << "it has not expired";
  server_->Command({"SET", "test:v:last", "x"});
  EXPECT_TRUE(Eventually([&] { return told->Has("changed last"); }));
  EXPECT_TRUE(told->Has("changed key"));
}

// The server finds out in the middle of an erasure that the time of the entry is over.
TEST_F(RedisTierTest, AnErasureAtTheMomentOfTheExpiryIsTold) {
  server_->Command({"CONFIG", "SET", "notify-keyspace-events", "KA"});
  RedisTierOptions options = Options();
  options.max_age = absl::Milliseconds(3);
  const auto one = Make(options);
  const auto other = Make(options);
  const auto told = Listen(*other);
  constexpr int kRounds = 400;
  for (int round = 0; round < kRounds; ++round) {
    const std::string key = std::to_string(round);
    const auto start = std::chrono::steady_clock::now();
    ASSERT_TRUE(one->Put(key, Entry("1"), {}).ok());
    // The server counts whole milliseconds, so anywhere in one.
    const auto erasure = start + std::chrono::microseconds(3000 + round % 50 * 20);
    ASSERT_TRUE(other->AwaitNotices({}).ok());
    EXPECT_EQ(told->Count("changed " + key), 1u);
    while (std::chrono::steady_clock::now() < erasure) {
    }
    ASSERT_TRUE(one->Erase(key).ok());
    ASSERT_TRUE(other->AwaitNotices({}).ok());
    EXPECT_EQ(told->Count("changed " + key), 2u) << "in round " << round;
  }
}

// So that a process that the application starts does not keep them.
TEST_F(RedisTierTest, ConnectionsAreClosedInProcessesThatAreStarted) {
  const auto tier = Make();
  ASSERT_TRUE(tier->Put("key", Entry("1"), {}).ok());
  ASSERT_EQ(Read(*tier, "key"), "1");
  int sockets = 0;
  for (int file = 0; file < 1000; ++file) {
    struct stat about = {};
    if (::fstat(file, &about) != 0 || !S_ISSOCK(about.st_mode)) continue;
    sockaddr_un peer = {};
    socklen_t size = sizeof(peer);
    if (::getpeername(file, reinterpret_cast<sockaddr*>(&peer), &size) != 0) continue;
    if (peer.sun_family != AF_UNIX || server_->socket() != peer.sun_path) continue;
    ++sockets;
    EXPECT_EQ(::fcntl(file, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  }
  EXPECT_EQ(sockets, 3) << "the tier's two, and the reader";
}

// A deadline holds, too, where all connections are in use; that says nothing about the server.
TEST_F(RedisTierTest, WhoFindsNoFreeConnectionHasADeadline) {
  RedisTierOptions options = Options();
  options.reader_connections = 1;
  options.soft_timeout = options.hard_timeout = absl::Seconds(60);
  options.heartbeat_interval = absl::Seconds(60);
  const auto tier = Make(options);
  ASSERT_TRUE(tier->Put("key", Entry("1"), {}).ok());
  server_->Pause();
  std::string read;
  std::thread user([&] { read = Read(*tier, "key"); });
  // Until the other thread has the only connection, this one may have it.
  int exhausted = 0;
  EXPECT_TRUE(Eventually([&] {
    const auto start = std::chrono::steady_clock::now();
    const absl::Status status = tier->Get("key", {.deadline = In(20)}).status();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
    if (absl::IsResourceExhausted(status)) ++exhausted;
    return exhausted == 10;
  }));
  EXPECT_GE(tier->Stats().errors, 10u);
  EXPECT_EQ(tier->Stats().condition, "") << "the circuit breaker has opened";
  server_->Resume();
  user.join();
  EXPECT_EQ(read, "1");
  EXPECT_EQ(Read(*tier, "key"), "1");
}

TEST_F(RedisTierTest, WhoAwaitsNoticesHasBeenToldOfAllChanges) {
  const auto one = Make();
  const auto other = Make();
  const auto recorder = Listen(*one);
  for (size_t i = 1; i <= 300; ++i) {
    ASSERT_TRUE(other->Put("key", Entry("1"), {}).ok());
    ASSERT_TRUE(one->AwaitNotices({}).ok());
    ASSERT_EQ(recorder->Count("changed key"), i);
  }
  server_->Kill();
  EXPECT_TRUE(Eventually([&] { return !one->AwaitNotices({}).ok(); }));
  EXPECT_TRUE(Eventually([&] { return recorder->Has("disconnected"); }));
  ASSERT_TRUE(server_->Start());
  EXPECT_TRUE(Eventually([&] { return one->AwaitNotices({}).ok(); }));
  EXPECT_EQ(recorder->events().back(), "connected");
}

TEST_F(RedisTierTest, AFlushedServerIsToldAsAllErased) {
  const auto tier = Make();
  const auto told = Listen(*tier);
  ASSERT_TRUE(tier->Put("key", Entry("1"), {}).ok());
  server_->Command({"FLUSHALL"});
  EXPECT_TRUE(Eventually([&] { return told->Has("all"); }));
  EXPECT_EQ(Read(*tier, "key"), "none");
  ASSERT_TRUE(tier->Put("key", Entry("2", 1), {}).ok());
  EXPECT_EQ(Read(*tier, "key"), "2");
}

TEST_F(RedisTierTest, WhatIsNotAnEntryIsAMissAndCounted) {
  const auto tier = Make();
  ASSERT_TRUE(tier->Put("good", Entry("1"), {}).ok());
  const std::string good = server_->Command({"GET", "test:v:good"});
  std::string bad = good;
  bad.back() ^= 1;
  server_->Command({"SET", "test:v:damaged", bad});
  server_->Command({"SET", "test:v:cut", good.substr(0, good.size() / 2)});
  server_->Command({"SET", "test:v:empty", ""});
  server_->Command({"SET", "test:v:garbage", std::string(1000, 'v')});
  server_->Command({"RPUSH", "test:v:list", "x"});

  for (const std::string key : {"damaged", "cut", "empty", "garbage", "list"}) {
    const uint64_t errors = tier->Stats().errors;
    EXPECT_EQ(Read(*tier, key), "none") << key;
    EXPECT_EQ(tier->Stats().errors, errors + 1) << key;
    // It does not stand in the way of a good one.
    const TierLease lease = Take(*tier, key);
    EXPECT_TRUE(tier->Put(key, Entry(key), lease).ok());
    EXPECT_EQ(Read(*tier, key), key);
  }
  EXPECT_EQ(Read(*tier, "good"), "1");
}

TEST_F(RedisTierTest, AnotherKeysValueIsNotReturned) {
  const auto tier = Make();
  ASSERT_TRUE(tier->Put("key", Entry("1"), {}).ok());
  server_->Command({"COPY", "test:v:key", "test:v:other"});
  EXPECT_EQ(Read(*tier, "other"), "none");
  EXPECT_EQ(tier->Stats().errors, 1u);
  EXPECT_EQ(Read(*tier, "key"), "1");
}

TEST_F(RedisTierTest, ALeasedPutThatCantBeWrittenErasesTheFormerEntry) {
  RedisTierOptions options = Options();
  options.max_value_bytes = 100000;
  options.max_pending_bytes = 50000;
  options.compress_above = SIZE_MAX;
  const auto tier = Make(options);
  const auto told = Listen(*tier);
  TierEntry expired = Entry("new");
  expired.expires = absl::Now() - absl::Seconds(1);
  const std::vector<TierEntry> entries = {Entry(std::string(100001, 'x')), expired,
                                          Entry(std::string(90000, 'x'))};
  for (size_t i = 0; i < entries.size(); ++i) {
    ASSERT_TRUE(tier->Put("key", Entry("old"), {}).ok());
    const absl::StatusOr<TierLead> lead = tier->TryLead("key");
    ASSERT_TRUE(lead.ok() && lead->lease.held()) << lead.status();
    EXPECT_EQ(tier->Put("key", entries[i], lead->lease).ok(), i < 2);
    EXPECT_TRUE(Eventually([&] { return Read(*tier, "key") == "none"; })) << i;
    // A lease that is lost erases nothing.
    ASSERT_TRUE(tier->Put("key", Entry("newer"), {}).ok());
    EXPECT_FALSE(tier->Put("key", entries[i], lead->lease).ok());
    EXPECT_EQ(Read(*tier, "key"), "newer") << i;
  }
  // The load that could not be written is in the first tier all the same.
  server_->Command({"SET", "test:v:by a stranger", "x"});
  ASSERT_TRUE(Eventually([&] { return told->Has("changed by a stranger"); }));
  EXPECT_FALSE(told->Has("changed key"));
}

TEST_F(RedisTierTest, AsynchronousChangesAreSeenByTheNextReadOfTheirProcess) {
  const auto tier = Make();
  std::atomic<int> done{0};
  for (int i = 0; i < 300; ++i) {
    const std::string key = "key" + std::to_string(i % 7);
    tier->PutAsync(key, Entry(std::to_string(i), i % 3), {}, [&](const absl::Status& status) {
      EXPECT_TRUE(status.ok()) << status;
      ++done;
    });
    EXPECT_EQ(Read(*tier, key), std::to_string(i));
    if (i % 2 == 0) continue;
    tier->EraseAsync(key, [&](const absl::Status& status) {
      EXPECT_TRUE(status.ok()) << status;
      ++done;
    });
    EXPECT_EQ(Read(*tier, key), "none");
  }
  EXPECT_TRUE(Eventually([&] { return done == 450; }));
}

TEST_F(RedisTierTest, APutThatIsSentAgainDoesNotOvertakeAnErase) {
  const auto tier = Make();
  const auto ignore = [](const absl::Status&) {};
  for (int i = 0; i < 100; ++i) {
    // The group has no generation then, so the Put has to ask for one first.
    ASSERT_TRUE(tier->EraseGroup(1).ok());
    tier->PutAsync("key", Entry("1", 1), {}, ignore);
    tier->EraseAsync("key", ignore);
    EXPECT_EQ(Read(*tier, "key"), "none");
    ASSERT_TRUE(tier->EraseGroup(1).ok());
    tier->PutAsync("key", Entry("1", 1), {}, ignore);
    tier->PutAsync("key", Entry("2", 1), {}, ignore);
    EXPECT_EQ(Read(*tier, "key"), "2");
  }
}

TEST_F(RedisTierTest, APutThatIsNotSentAgainErasesTheValueOfAnotherGroup) {
  const auto tier = Make();
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(tier->EraseGroup(1).ok());
    ASSERT_TRUE(tier->Put("key", Entry("old", 2), {}).ok());
    // The group has no generation, so the Put has to ask for one first.
    tier->PutAsync("key", Entry("new", 1), {}, [](const absl::Status&) {});
    ASSERT_TRUE(tier->EraseGroup(1).ok());
    EXPECT_EQ(Read(*tier, "key"), "none");
  }
}

TEST_F(RedisTierTest, ChangesThatWaitAreSentAtTheEnd) {
  const auto other = Make();
  auto tier = Make();
  for (int i = 0; i < 500; ++i) {
    tier->PutAsync(std::to_string(i), Entry(std::string(10000, 'x')), {}, [](absl::Status) {});
  }
  tier.reset();
  EXPECT_EQ(Read(*other, "499"), std::string(10000, 'x'));
}

TEST_F(RedisTierTest, AListenerMayHaveTheLastReferenceToTheTier) {
  class Owner final : public TierListener {
   public:
    void OnChanged(std::string_view) override {
      tier.reset();
      dropped = true;
    }
    void OnGroupErased(uint32_t) override {}
    void OnAllErased() override {}
    void OnDisconnected() override {}
    void OnConnected() override {}

    std::shared_ptr<RedisTier> tier;
    std::atomic<bool> dropped{false};
  };
  const auto other = Make();
  const auto owner = std::make_shared<Owner>();
  owner->tier = Make();
  owner->tier->Subscribe(owner);
  ASSERT_TRUE(other->Erase("key").ok());
  EXPECT_TRUE(Eventually([&] { return owner->dropped.load(); }));
}

TEST_F(RedisTierTest, AServerThatIsKilledAndStartedAgain) {
  const auto one = Make();
  const auto told = Listen(*one);
  ASSERT_TRUE(one->Put("kept", Entry("1"), {}).ok());
  const TierLease lease = Take(*one, "led");

  server_->Kill();
  ASSERT_TRUE(Eventually([&] { return told->Has("disconnected"); }));
  EXPECT_TRUE(absl::IsUnavailable(one->Get("kept", {}).status()));
  EXPECT_TRUE(absl::IsUnavailable(one->Lead("kept", {}).status()));
  EXPECT_TRUE(absl::IsUnavailable(one->Put("led", Entry("2"), lease)));
  EXPECT_TRUE(one->Put("put meanwhile", Entry("3"), {}).ok());
  EXPECT_TRUE(one->Erase("erased meanwhile").ok());
  EXPECT_NE(one->Stats().condition, "");

  ASSERT_TRUE(server_->Start());
  ASSERT_TRUE(Eventually([&] { return told->Count("connected") == 2; }));
  EXPECT_EQ(one->Stats().condition, "");
  EXPECT_EQ(Read(*one, "put meanwhile"), "none");
  const auto other = Make();
  ASSERT_TRUE(other->Put("key", Entry("4"), {}).ok());
  EXPECT_TRUE(Eventually([&] { return told->Has("changed key"); }));
  EXPECT_EQ(Read(*one, "key"), "4");
}

// Keeps a tier away from a server that lives on.
class Resolver {
 public:
  explicit Resolver(std::string socket) : socket_(std::move(socket)) {}
  absl::StatusOr<RedisAddress> operator()() {
    ++calls;
    if (away) return absl::UnavailableError("no master");
    return RedisAddress{.unix_socket = socket_};
  }

  std::atomic<bool> away{false};
  std::atomic<int> calls{0};

 private:
  const std::string socket_;
};

TEST_F(RedisTierTest, WhatWasChangedWhileAwayIsErasedOnReturn) {
  Resolver resolver(server_->socket());
  RedisTierOptions options = Options();
  options.resolve_address = [&] { return resolver(); };
  const auto one = Make(options);
  const auto other = Make();
  const auto told = Listen(*one);
  const auto others = Listen(*other);
  for (const char* key : {"put", "erased", "kept"}) {
    ASSERT_TRUE(other->Put(key, Entry("old"), {}).ok());
  }
  ASSERT_TRUE(other->Put("grouped", Entry("old", 8), {}).ok());
  resolver.away = true;
  server_->Command({"CLIENT", "KILL", "TYPE", "pubsub"});
  ASSERT_TRUE(Eventually([&] { return told->Has("disconnected"); }));
  ASSERT_TRUE(Eventually([&] { return others->Count("connected") == 2; }));

  EXPECT_TRUE(one->Put("put", Entry("new"), {}).ok());
  EXPECT_TRUE(one->Erase("erased").ok());
  EXPECT_TRUE(one->EraseGroup(8).ok());
  // Once it has tried to connect again.
  EXPECT_TRUE(
      Eventually([&] { return one->Stats().condition.find("no master") != std::string::npos; }));
  EXPECT_EQ(Read(*other, "put"), "old");
  resolver.away = false;
  ASSERT_TRUE(Eventually([&] { return told->Count("connected") == 2; }));

  EXPECT_EQ(Read(*one, "put"), "none");
  EXPECT_EQ(Read(*one, "erased"), "none");
  EXPECT_EQ(Read(*one, "grouped"), "none");
  EXPECT_EQ(Read(*one, "kept"), "old");
  for (const char* event : {"changed put", "changed erased", "group 8"}) {
    EXPECT_TRUE(Eventually([&] { return others->Has(event); })) << event;
  }
  EXPECT_GE(resolver.calls, 2);
}

// Makes the server refuse all commands that write, as one does whose disk is full.
void RefuseWrites(RedisServer& server) {
  std::filesystem::create_directory(server.folder() + "/dump.rdb");
  server.Command({"CONFIG", "SET", "save", "3600 1000000"});
  server.Command({"BGSAVE"});
  ASSERT_TRUE(Eventually([&] {
    return server.Command({"SET", "refused", "1"}).find("MISCONF") != std::string::npos;
  }));
}
void TakeWrites(RedisServer& server) {
  server.Command({"CONFIG", "SET", "stop-writes-on-bgsave-error", "no"});
}

TEST_F(RedisTierTest, AKeptEraseThatIsRefusedOnReturnIsNotForgotten) {
  Resolver resolver(server_->socket());
  RedisTierOptions options = Options();
  options.resolve_address = [&] { return resolver(); };
  const auto tier = Make(options);
  const auto told = Listen(*tier);
  ASSERT_TRUE(tier->Put("key", Entry("old"), {}).ok());
  resolver.away = true;
  server_->Command({"CLIENT", "KILL", "TYPE", "pubsub"});
  ASSERT_TRUE(Eventually([&] { return told->Has("disconnected"); }));
  ASSERT_TRUE(tier->Erase("key").ok());
  RefuseWrites(*server_);

  resolver.away = false;
  EXPECT_TRUE(
      Eventually([&] { return tier->Stats().condition.find("MISCONF") != std::string::npos; }));
  EXPECT_TRUE(absl::IsUnavailable(tier->Get("key", {}).status()));
  EXPECT_EQ(told->Count("connected"), 1u);

  TakeWrites(*server_);
  ASSERT_TRUE(Eventually([&] { return told->Count("connected") == 2; }));
  EXPECT_EQ(Read(*tier, "key"), "none");
}

TEST_F(RedisTierTest, ARefusedQuestionForASignOfLifeIsOne) {
  RedisTierOptions options = Options();
  options.heartbeat_interval = absl::Milliseconds(5);
  const auto tier = Make(options);
  const auto told = Listen(*tier);
  ASSERT_TRUE(tier->Put("key", Entry("1"), {}).ok());
  RefuseWrites(*server_);
  const uint64_t errors = tier->Stats().errors;
  EXPECT_TRUE(Eventually([&] { return tier->Stats().errors >= errors + 10; }));
  EXPECT_FALSE(told->Has("disconnected"));
  EXPECT_EQ(Read(*tier, "key"), "1");
  // Nor does a load that can have no lease keep others from what is there.
  for (int i = 0; i < 10; ++i) {
    const absl::StatusOr<TierLead> lead = tier->Lead("missing", {.deadline = In(10000)});
    ASSERT_TRUE(lead.ok()) << lead.status();
    EXPECT_FALSE(lead->lease.held());
  }
  EXPECT_EQ(Read(*tier, "key"), "1");
  EXPECT_EQ(tier->Stats().condition, "");
}

TEST_F(RedisTierTest, TheEndSendsWhatWasKept) {
  RedisTierOptions options = Options();
  options.min_backoff = options.max_backoff = absl::Hours(1);
  auto tier = Make(options);
  const auto other = Make();
  const auto told = Listen(*tier);
  const auto others = Listen(*other);
  ASSERT_TRUE(tier->Put("key", Entry("old"), {}).ok());
  server_->Command({"CLIENT", "KILL", "TYPE", "pubsub"});
  ASSERT_TRUE(Eventually([&] { return told->Has("disconnected"); }));
  ASSERT_TRUE(Eventually([&] { return others->Count("connected") == 2; }));
  ASSERT_TRUE(tier->Erase("key").ok());
  ASSERT_EQ(Read(*other, "key"), "old");
  tier.reset();
  EXPECT_EQ(Read(*other, "key"), "none");
}

TEST_F(RedisTierTest, AResolverThatThrowsIsOneThatFails) {
  std::atomic<bool> throws{true};
  RedisTierOptions options = Options();
  options.resolve_address = [&]() -> absl::StatusOr<RedisAddress> {
    if (throws) throw std::runtime_error("no sentinel");
    return RedisAddress{.unix_socket = server_->socket()};
  };
  const auto tier = Make(options);
  EXPECT_NE(tier->Stats().condition.find("no sentinel"), std::string::npos);
  throws = false;
  EXPECT_TRUE(Eventually([&] { return tier->Stats().condition.empty(); }));
}

TEST_F(RedisTierTest, AServerThatStartsFromASnapshotBringsNothingErasedBack) {
  const auto tier = Make();
  const auto told = Listen(*tier);
  ASSERT_TRUE(tier->Put("key", Entry("old"), {}).ok());
  ASSERT_TRUE(tier->Put("grouped", Entry("old", 3), {}).ok());
  server_->Command({"SAVE"});
  ASSERT_TRUE(tier->Erase("key").ok());
  ASSERT_TRUE(tier->EraseGroup(3).ok());
  server_->Kill();
  ASSERT_TRUE(server_->Start());
  ASSERT_TRUE(Eventually([&] { return told->Count("connected") == 2; }));
  ASSERT_EQ(server_->Command({"EXISTS", "test:v:key"}), "1");
  EXPECT_EQ(Read(*tier, "key"), "none");
  EXPECT_EQ(Read(*tier, "grouped"), "none");
  // From then on it keeps what it has, also for those that come later.
  ASSERT_TRUE(tier->Put("key", Entry("new"), {}).ok());
  EXPECT_EQ(Read(*Make(), "key"), "new");
}

TEST_F(RedisTierTest, TooManyChangesWhileAwayEraseAll) {
  Resolver resolver(server_->socket());
  RedisTierOptions options = Options();
  options.resolve_address = [&] { return resolver(); };
  options.max_pending_changes = 10;
  const auto one = Make(options);
  const auto told = Listen(*one);
  ASSERT_TRUE(one->Put("key", Entry("old"), {}).ok());
  resolver.away = true;
  server_->Command({"CLIENT", "KILL", "TYPE", "pubsub"});
  ASSERT_TRUE(Eventually([&] { return told->Has("disconnected"); }));
  for (int i = 0; i < 11; ++i) EXPECT_TRUE(one->Erase(std::to_string(i)).ok());
  resolver.away = false;
  ASSERT_TRUE(Eventually([&] { return told->Count("connected") == 2; }));
  EXPECT_EQ(Read(*one, "key"), "none");
  EXPECT_EQ(one->Stats().dropped_changes, 11u);
}

TEST_F(RedisTierTest, ALostConnectionForChangesIsNoticedToo) {
  const auto tier = Make();
  const auto told = Listen(*tier);
  server_->Command({"CLIENT", "KILL", "TYPE", "normal"});
  EXPECT_TRUE(Eventually([&] { return told->Count("connected") == 2; }));
  EXPECT_TRUE(told->Has("disconnected"));
  EXPECT_EQ(Read(*tier, "key"), "none");
}

TEST_F(RedisTierTest, APausedServerDelaysNobodyForLong) {
  RedisTierOptions options = Options();
  options.soft_timeout = absl::Milliseconds(20);
  options.hard_timeout = absl::Seconds(2);
  options.heartbeat_interval = absl::Milliseconds(50);
  options.breaker_failures = 3;
  options.min_backoff = options.max_backoff = absl::Milliseconds(40);
  options.connect_timeout = absl::Seconds(5);
  const auto tier = Make(options);
  const auto told = Listen(*tier);
  ASSERT_TRUE(Eventually([&] { return Read(*tier, "key") == "none"; }));

  const size_t lost = told->Count("disconnected");
  server_->Pause();
  bool opened = false;
  ASSERT_TRUE(Eventually([&] {
    EXPECT_FALSE(tier->Get("key", {}).ok());
    opened = opened || tier->Stats().condition == "circuit breaker open";
    return told->Count("disconnected") > lost;
  }));
  EXPECT_TRUE(opened);
  EXPECT_GE(tier->Stats().timeouts, 3u);
  EXPECT_TRUE(tier->Erase("key").ok());

  server_->Resume();
  EXPECT_TRUE(Eventually([&] { return told->Count("connected") > lost + 1; }));
  EXPECT_TRUE(Eventually([&] { return Read(*tier, "key") == "none"; }));
  EXPECT_TRUE(Eventually([&] { return tier->Stats().condition.empty(); }));
}

TEST_F(RedisTierTest, AServerWithoutMemoryRefusesEntriesAndErasesAllTheSame) {
  const auto tier = Make();
  const auto other = Make();
  ASSERT_TRUE(tier->Put("key", Entry("1"), {}).ok());
  ASSERT_TRUE(tier->Put("second", Entry("2", 1), {}).ok());
  ASSERT_TRUE(tier->Put("third", Entry("3"), {}).ok());
  ASSERT_TRUE(tier->Put("fourth", Entry("4"), {}).ok());
  const TierLease lease = Take(*tier, "led");
  ASSERT_TRUE(tier->Put("refreshed", Entry("5"), {}).ok());
  const absl::StatusOr<TierLead> over = tier->TryLead("refreshed");
  ASSERT_TRUE(over.ok()) << over.status();
  server_->Command({"CONFIG", "SET", "maxmemory", "1"});

  EXPECT_TRUE(absl::IsResourceExhausted(tier->Put("key", Entry("new"), {})));
  EXPECT_TRUE(absl::IsResourceExhausted(tier->Put("led", Entry("new"), lease)));
  EXPECT_TRUE(absl::IsResourceExhausted(tier->Put("refreshed", Entry("new"), over->lease)));
  EXPECT_TRUE(tier->Erase("third").ok());
  EXPECT_EQ(tier->Stats().errors, 3u);
  EXPECT_EQ(Read(*other, "refreshed"), "none");  // not the former one
  // Loads that can have no lease don't keep others from what is there.
  for (int i = 0; i < 10; ++i) {
    const absl::StatusOr<TierLead> lead = tier->Lead("missing", {.deadline = In(10000)});
    EXPECT_TRUE(lead.ok() && !lead->lease.held()) << lead.status();
  }
  EXPECT_EQ(Read(*tier, "fourth"), "4");
  EXPECT_EQ(tier->Stats().condition, "");
  EXPECT_EQ(Read(*other, "key"), "none");  // not the former one
  EXPECT_EQ(Read(*other, "third"), "none");
  EXPECT_EQ(Read(*other, "second"), "2");
  EXPECT_TRUE(tier->EraseGroup(1).ok());
  EXPECT_EQ(Read(*tier, "second"), "none");
  EXPECT_EQ(Read(*tier, "fourth"), "4");
  EXPECT_TRUE(tier->EraseAll().ok());
  EXPECT_EQ(Read(*tier, "fourth"), "none");
}

TEST_F(RedisTierTest, PasswordsAndDatabases) {
  server_->Command({"CONFIG", "SET", "requirepass", "secret"});
  RedisTierOptions options = Options();
  const auto refused = Make(options);
  EXPECT_NE(refused->Stats().condition.find("NOAUTH"), std::string::npos)
      << refused->Stats().condition;
  options.password = "secret";
  options.database = 3;
  const auto tier = Make(options);
  EXPECT_EQ(tier->Stats().condition, "");
  ASSERT_TRUE(tier->Put("key", Entry("1"), {}).ok());
  EXPECT_EQ(Read(*tier, "key"), "1");
  options.database = 4;
  EXPECT_EQ(Read(*Make(options), "key"), "none");
}

// Returns a port of the loopback interface that nobody used a moment ago.
int FreePort() {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  (void)bind(listener, generic, size);
  (void)getsockname(listener, generic, &size);
  close(listener);
  return ntohs(address.sin_port);
}

// A node of a Redis Cluster in which another node, which nobody reaches, has all keys.
TEST_F(RedisTierTest, ANodeOfAClusterIsRefusedWithItsReason) {
  const TemporaryFolder folder;
  const std::filesystem::path nodes = folder.path() / "nodes.conf";
  std::ofstream(nodes) << std::string(40, 'a') << " 127.0.0.1:0@1 myself,master - 0 0 1 connected\n"
                       << std::string(40, 'b')
                       << " 127.0.0.1:1@2 master - 0 0 2 connected 0-16383\n"
                       << "vars currentEpoch 2 lastVoteEpoch 0\n";
  server_ = std::make_unique<RedisServer>(
      std::vector<std::string>{"--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-port",
                               std::to_string(FreePort()), "--cluster-node-timeout", "3600000",
                               "--cluster-config-file", nodes});
  // A node waits for two seconds or so before it answers.
  ASSERT_TRUE(Eventually([&] {
    return server_->Command({"GET", "key"}).find("MOVED") != std::string::npos;
  })) << server_->Command({"GET", "key"});
  const auto tier = Make();
  const absl::Status status = tier->Get("key", {}).status();
  EXPECT_FALSE(status.ok() || absl::IsNotFound(status));
  const absl::StatusOr<TierLead> lead = tier->Lead("key", {.deadline = In(10000)});
  EXPECT_FALSE(lead.ok() && lead->lease.held());
  EXPECT_NE(tier->Stats().condition.find("Redis Cluster is not supported"), std::string::npos)
      << tier->Stats().condition;
  EXPECT_GE(tier->Stats().errors, 1u);
}

TEST(RedisTierOptionsTest, OptionsThatAreNotPossible) {
  const auto code = [](const auto& change) {
    RedisTierOptions options;
    options.key_namespace = "test";
    change(options);
    return RedisTier::Create(options).status().code();
  };
  using Options = RedisTierOptions;
  const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code([](Options& options) { options.key_namespace = ""; }), invalid);
  EXPECT_EQ(code([](Options& options) { options.key_namespace = "a:b"; }), invalid);
  EXPECT_EQ(code([](Options& options) { options.key_namespace = "a*"; }), invalid);
  EXPECT_EQ(code([](Options& options) { options.database = -1; }), invalid);
  EXPECT_EQ(code([](Options& options) { options.user = "somebody"; }), invalid);
  EXPECT_EQ(code([](Options& options) { options.reader_connections = 0; }), invalid);
  EXPECT_EQ(code([](Options& options) { options.breaker_failures = 0; }), invalid);
  EXPECT_EQ(code([](Options& options) { options.soft_timeout = absl::ZeroDuration(); }), invalid);
  EXPECT_EQ(code([](Options& options) { options.hard_timeout = absl::InfiniteDuration(); }),
            invalid);
  EXPECT_EQ(code([](Options& options) { options.max_backoff = absl::Milliseconds(1); }), invalid);
  EXPECT_EQ(code([](Options& options) { options.lease_duration = absl::Milliseconds(1); }),
            invalid);
  EXPECT_EQ(code([](Options& options) { options.max_age = absl::ZeroDuration(); }), invalid);
  EXPECT_EQ(code([](Options& options) { options.max_value_bytes = uint64_t{1} << 40; }), invalid);
  EXPECT_EQ(code([](Options& options) { options.chunk_bytes = 7000; }), invalid);
  EXPECT_EQ(code([](Options& options) { options.max_pending_changes = 0; }), invalid);
}

TEST(RedisTierOptionsTest, WithoutAServerTheTierIsAway) {
  RedisTierOptions options;
  options.key_namespace = "test";
  options.address.unix_socket = "/nowhere/socket";
  options.hard_timeout = absl::Milliseconds(20);  // for which the end tries to send the erasure
  const absl::StatusOr<std::shared_ptr<RedisTier>> tier = RedisTier::Create(options);
  ASSERT_TRUE(tier.ok());
  EXPECT_TRUE(absl::IsUnavailable((*tier)->Get("key", {}).status()));
  EXPECT_TRUE((*tier)->Erase("key").ok());
  EXPECT_NE((*tier)->Stats().condition.find("No such file"), std::string::npos);
}

}  // namespace
}  // namespace weakcache
