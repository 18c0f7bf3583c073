// SPDX-License-Identifier: Apache-2.0
// A RedisTier for whose entries there is no memory. Large allocations fail while a test says so, on
// the threads that it names.
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/support/redis_server.h"
#include "weakcache/cache/redis_tier.h"
#include "weakcache/cache/second_tier.h"

namespace weakcache {
namespace {

constexpr size_t kLarge = size_t{64} << 10;

enum class Failing { kNone, kHere, kElsewhere };
std::atomic<Failing> failing{Failing::kNone};
std::atomic<int> failures{0};
thread_local bool is_here = false;

// Tells whether an allocation fails. Elsewhere only one does.
bool Fails(size_t size) {
  if (size < kLarge) return false;
  Failing expected = is_here ? Failing::kHere : Failing::kElsewhere;
  if (is_here ? failing.load() != expected
              : !failing.compare_exchange_strong(expected, Failing::kNone)) {
    return false;
  }
  ++failures;
  return true;
}

}  // namespace
}  // namespace weakcache

void* operator new(size_t size) {
  void* const block = weakcache::Fails(size) ? nullptr : std::malloc(size == 0 ? 1 : size);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}
void* operator new[](size_t size) { return operator new(size); }
void operator delete(void* block) noexcept { std::free(block); }
void operator delete[](void* block) noexcept { std::free(block); }
void operator delete(void* block, size_t) noexcept { std::free(block); }
void operator delete[](void* block, size_t) noexcept { std::free(block); }

namespace weakcache {
namespace {

using testing::Eventually;
using testing::RedisServer;

class RedisTierMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!RedisServer::IsInstalled()) GTEST_SKIP() << "there is no redis-server on this machine";
    is_here = true;
    failures = 0;
    server_ = std::make_unique<RedisServer>();
    RedisTierOptions options = testing::TierOptions(*server_);
    options.compress_above = SIZE_MAX;  // else there are two attempts of each
    absl::StatusOr<std::shared_ptr<RedisTier>> tier = RedisTier::Create(options);
    ASSERT_TRUE(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
  }
  void TearDown() override { failing = Failing::kNone; }

  static TierEntry Entry(std::string bytes) {
    return {.bytes = TierBytes(std::move(bytes)), .written = absl::Now()};
  }
  std::string Read(const std::string& key) {
    const absl::StatusOr<TierEntry> entry = tier_->Get(key, {});
    if (!entry.ok()) return absl::IsNotFound(entry.status()) ? "none" : entry.status().ToString();
    return std::string(entry->bytes.view());
  }

  std::unique_ptr<RedisServer> server_;
  std::shared_ptr<RedisTier> tier_;
};

TEST_F(RedisTierMemoryTest, AnEntryThatCantBeSealedIsCountedAndReplacesTheFormerOne) {
  ASSERT_TRUE(tier_->Put("key", Entry("old"), {}).ok());
  ASSERT_TRUE(tier_->Put("led", Entry("old"), {}).ok());
  const absl::StatusOr<TierLead> lead = tier_->TryLead("led");
  ASSERT_TRUE(lead.ok() && lead->lease.held());
  const TierEntry large = Entry(std::string(2 * kLarge, 'x'));
  failing = Failing::kHere;
  const absl::Status put = tier_->Put("key", large, {});
  const absl::Status led = tier_->Put("led", large, lead->lease);
  failing = Failing::kNone;
  EXPECT_TRUE(absl::IsResourceExhausted(put)) << put;
  EXPECT_TRUE(absl::IsResourceExhausted(led)) << led;
  EXPECT_EQ(failures.load(), 2);
  EXPECT_EQ(tier_->Stats().errors, 2u);
  EXPECT_EQ(Read("key"), "none");
  EXPECT_EQ(Read("led"), "none");
  const absl::StatusOr<TierLead> next = tier_->Lead("led", {});
  EXPECT_TRUE(next.ok() && next->lease.held()) << "the lease has ended";
}

// The thread that sends has no memory for a command. What it has lost is not known, so all goes.
TEST_F(RedisTierMemoryTest, TheThreadThatSendsSurvives) {
  ASSERT_TRUE(tier_->Put("key", Entry("old"), {}).ok());
  const std::string long_key(2 * kLarge, 'k');
  failing = Failing::kElsewhere;
  const absl::Status status = tier_->Put(long_key, Entry("new"), {});
  EXPECT_EQ(failing.load(), Failing::kNone) << "no allocation has failed";
  EXPECT_EQ(status, absl::OkStatus()) << "it is kept, as an erasure";
  EXPECT_TRUE(Eventually([&] { return tier_->Stats().condition.empty(); }));
  EXPECT_EQ(Read(long_key), "none");
  EXPECT_EQ(Read("key"), "none");
  EXPECT_GE(tier_->Stats().dropped_changes, 1u);
  EXPECT_GE(tier_->Stats().errors, 1u);
  ASSERT_TRUE(tier_->Put("key", Entry("new"), {}).ok());
  EXPECT_EQ(Read("key"), "new");
}

}  // namespace
}  // namespace weakcache
