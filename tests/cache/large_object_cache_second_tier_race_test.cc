// SPDX-License-Identifier: Apache-2.0
// Two caches on one second tier, as two processes that load and change the same key: once all is
// quiet, neither has an object that is older than the last change, and nor has the tier. Several
// caches whose copies of an object become due at once load one new object.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/cache_options.h"
#include "tests/support/fake_tier.h"
#include "tests/support/race.h"
#include "weakcache/cache/cache_options.h"
#include "weakcache/cache/codec.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/load_options.h"
#include "weakcache/cache/loaded.h"
#include "weakcache/cache/removal_cause.h"
#include "weakcache/cache/second_tier.h"
#include "weakcache/weakref/ref.h"

namespace weakcache {
namespace {

using testing::FakeServer;
using testing::FakeTier;
using testing::Race;
using testing::RaceRounds;

struct Page {
  int version = 0;
};
using Cache = LargeObjectCache<int, Page>;

constexpr uint32_t kGroup = 3;

class SecondTierRace : public ::testing::Test {
 protected:
  struct Process {
    explicit Process(const std::shared_ptr<FakeServer>& server)
        : tier(std::make_shared<FakeTier>(server)) {
      Cache::Options options = testing::WithBudget<Cache>(1 << 20);
      options.second_tier = tier;
      options.codec = std::make_shared<const TrivialCodec<Page>>();
      cache.emplace(std::move(Cache::Create(std::move(options))).value());
    }
    // Lets all come that is under way.
    void Settle() {
      tier->RunAsync();
      tier->Deliver();
    }

    std::shared_ptr<FakeTier> tier;
    std::optional<Cache> cache;
  };

  void Load(Process& process) {
    int loaded = -1;
    LoadOptions options;
    options.group = kGroup;
    const auto load = [&] { return Page{loaded = source_.load()}; };
    process.cache->GetOrLoad(1, load, options).value();
    if (loaded >= 0) latest_loaded_ = std::max(latest_loaded_.load(), loaded);
  }
  // As an application does it: first the source changes, then what was made from it.
  void Change(Process& process, int how) {
    const std::lock_guard<std::mutex> lock(change_);
    const int version = ++source_;
    switch (how) {
      case 0:
        process.cache->Invalidate(1);
        break;
      case 1:
        process.cache->Put(1, Loaded<Page>{.object = {version}, .group = kGroup});
        break;
      case 2:
        process.cache->InvalidateGroup(kGroup);
        break;
      case 3:
        // While changes are delayed, a process loads without asking the tier. An object that is in
        // no tier is found by its own process's InvalidateIf only (docs/guide.md).
        if (second_.tier->defers_async) {
          process.cache->Clear();
        } else {
          process.cache->InvalidateIf([](int key) { return key == 1; });
        }
        break;
      default:
        process.cache->Clear();
    }
  }
  void Check() {
    for (int i = 0; i < 3; ++i) {
      for (Process* const process : {&first_, &second_}) process->Settle();
    }
    const int version = source_;
    const std::optional<TierEntry> entry = server_->Find("1");
    if (entry.has_value()) {
      EXPECT_EQ(TrivialCodec<Page>().Decode(entry->bytes.view()).value().version, version);
    }
    for (Process* const process : {&first_, &second_}) {
      const Ref<Page> found = process->cache->Peek(1);
      if (found.get() != nullptr) {
        EXPECT_EQ(found->version, version);
      }
      process->cache->CheckInvariantsForTesting();
      (found.get() != nullptr ? present_ : absent_)++;
    }
    EXPECT_EQ(server_->leases(), 0u);
    (latest_loaded_ < version ? overtaken_ : current_)++;
  }
  void Run(int rounds, bool defers_async) {
    second_.tier->defers_async = defers_async;
    int round_now = 0;
    Race(
        {RaceRounds(rounds), {&present_, &absent_, &overtaken_, &current_}},
        [&](int round) {
          round_now = round;
          latest_loaded_ = -1;
        },
        {[&] { Load(first_); },
         [&] {
           Load(second_);
           second_.Settle();
           Load(second_);
           second_.Settle();  // others wait for the lease of a write that is put off
         },
         [&] { Change(first_, round_now % 5); },
         [&] {
           if (round_now % 3 != 0) Change(second_, round_now / 5 % 5);
           first_.Settle();
           second_.Settle();
         }},
        [&](int) { Check(); });
    EXPECT_GT(present_, 0);
    EXPECT_GT(absent_, 0);
    EXPECT_GT(overtaken_, 0);
    EXPECT_GT(current_, 0);
  }

  std::shared_ptr<FakeServer> server_ = std::make_shared<FakeServer>();
  Process first_{server_};
  Process second_{server_};
  std::mutex change_;
  std::atomic<int> source_ = 0;
  std::atomic<int> latest_loaded_ = -1;
  int present_ = 0;
  int absent_ = 0;
  int overtaken_ = 0;
  int current_ = 0;
};

TEST_F(SecondTierRace, NoProcessHasAnOlderObject) { Run(8000, /*defers_async=*/false); }
TEST_F(SecondTierRace, NorIfChangesAreDelayed) { Run(8000, /*defers_async=*/true); }

// Several processes have an object, which becomes due in all of them at once.
class SecondTierRefreshRace : public ::testing::Test {
 protected:
  static constexpr int kProcesses = 3;
  static constexpr absl::Duration kDue = absl::Seconds(60);

  struct Process {
    std::shared_ptr<FakeTier> tier;
    std::optional<Cache> cache;
    int got = 0;
    int loads = 0;
  };

  void SetUp() override {
    for (Process& process : processes_) {
      process.tier = std::make_shared<FakeTier>(server_);
      process.tier->hook = [this](std::string_view point, std::string_view) {
        for (int i = point == "Get done" ? yields_ : 0; i > 0; --i) std::this_thread::yield();
        return absl::OkStatus();
      };
      Cache::Options options = testing::WithBudget<Cache>(1 << 20);
      options.second_tier = process.tier;
      options.codec = std::make_shared<const TrivialCodec<Page>>();
      options.clock = [&] { return now_; };
      options.refresh_after_write = kDue;
      process.cache.emplace(std::move(Cache::Create(std::move(options))).value());
    }
  }
  void Ask(Process& process) {
    const auto load = [&] {
      ++process.loads;
      return Page{++loads_};
    };
    process.got = process.cache->GetOrLoad(1, load).value()->version;
  }
  // Gives all processes the same object, and lets it become due.
  void Begin() {
    now_ += absl::Seconds(1);
    for (Process& process : processes_) {
      process.tier->Deliver();
      Ask(process);
      process.loads = 0;
    }
    before_ = loads_;
    now_ += kDue;
  }
  void Check() {
    ASSERT_EQ(loads_, before_ + 1);
    for (const Process& process : processes_) {
      if (process.got == before_) {
        ++left_;
      } else {
        ASSERT_EQ(process.got, loads_);
        if (process.loads == 0) ++taken_;
      }
    }
    EXPECT_EQ(server_->leases(), 0u);
  }

  std::shared_ptr<FakeServer> server_ = std::make_shared<FakeServer>();
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(24 * 365 * 50);  // changes between rounds
  std::atomic<int> loads_ = 0;
  int yields_ = 0;  // after each read of the tier; changes between rounds
  int before_ = 0;
  int left_ = 0;
  int taken_ = 0;
  Process processes_[kProcesses];
};

// Each comes before, while or after another one has the lease.
TEST_F(SecondTierRefreshRace, OneProcessRefreshes) {
  std::vector<std::function<void()>> racers;
  for (Process& process : processes_) racers.emplace_back([&] { Ask(process); });
  Race(
      {RaceRounds(20000), {&left_, &taken_}}, [&](int) { Begin(); }, racers, [&](int) { Check(); });
  EXPECT_GT(left_, 0);
  EXPECT_GT(taken_, 0);
}

// A refresh reads the entry, with its full life, while the life is set. Either the life is set of
// what the refresh has entered, or what it has read is dropped, or it does not find the entry.
TEST_F(SecondTierRefreshRace, WhatIsReadFromTheTierDoesNotOutliveSetExpiry) {
  Process& process = processes_[1];
  int loaded = 0;
  Race(
      {RaceRounds(20000), {&taken_, &loaded}},
      [&](int round) {
        yields_ = 0;
        Begin();
        Ask(processes_[0]);
        yields_ = round % 4;
      },
      {[&] { Ask(process); },
       [&] { EXPECT_TRUE(process.cache->SetExpiry(1, absl::ZeroDuration())); }},
      [&](int) {
        ++(process.loads == 0 ? taken_ : loaded);
        if (process.loads == 0) {
          ASSERT_EQ(process.cache->Peek(1).get(), nullptr);
        }
      });
  EXPECT_GT(taken_, 0);
  EXPECT_GT(loaded, 0);
}

// A process that loses its connection, and is not told of what the other one changes meanwhile.
class TierRecheckRace : public ::testing::Test {
 protected:
  // Counts what is decoded.
  class Codec final : public weakcache::Codec<Page> {
   public:
    uint32_t schema() const override { return 1; }
    absl::Status Encode(const Page& page, ByteSink& sink) const override {
      return pages_.Encode(page, sink);
    }
    absl::StatusOr<Page> Decode(std::string_view bytes) const override {
      ++decodes;
      return pages_.Decode(bytes);
    }
    mutable std::atomic<int> decodes = 0;

   private:
    const TrivialCodec<Page> pages_ = {};
  };

  TierRecheckRace() {
    Cache::Options options = testing::WithBudget<Cache>(1 << 20);
    options.second_tier = tier_;
    options.codec = codec_;
    options.at_tier_disconnect = AtTierDisconnect::kCheckAgain;
    cache_.emplace(std::move(Cache::Create(std::move(options))).value());
    Change();
  }
  // As another process does it.
  void Change() {
    TierEntry entry;
    ByteSink sink;
    ASSERT_TRUE(codec_->Encode(Page{++source_}, sink).ok());
    entry.bytes = TierBytes(sink.TakeBytes());
    entry.schema = codec_->schema();
    // The same for all: a clock may be coarse.
    entry.written = absl::UnixEpoch();
    ASSERT_TRUE(other_.Put("1", entry, {}).ok());
  }
  Ref<Page> Load() {
    return cache_->GetOrLoad(1, [this] { return Page{source_}; }).value();
  }
  void Flap() {
    tier_->LoseConnection();
    tier_->Deliver();
    tier_->Reconnect();
    tier_->Deliver();
  }

  std::shared_ptr<FakeServer> server_ = std::make_shared<FakeServer>();
  FakeTier other_{server_};
  std::shared_ptr<FakeTier> tier_ = std::make_shared<FakeTier>(server_);
  std::shared_ptr<const Codec> codec_ = std::make_shared<const Codec>();
  std::optional<Cache> cache_;
  std::atomic<int> source_ = 0;
};

TEST_F(TierRecheckRace, WhatChangesWhileTheConnectionIsLostIsNotCurrentAgain) {
  int present = 0;
  int absent = 0;
  int rechecked = 0;
  int replaced = 0;
  uint64_t rechecks = 0;
  Ref<Page> held;
  Race(
      {RaceRounds(8000), {&present, &absent, &rechecked, &replaced}}, [&](int) { held = Load(); },
      {[&] { Flap(); }, [&] { Change(); },
       [&] {
         Load();
         Load();
       },
       [&] { Load(); }},
      [&](int) {
        tier_->Deliver();
        const Ref<Page> found = cache_->Peek(1);
        (found.get() != nullptr ? present : absent)++;
        if (found.get() != nullptr) {
          EXPECT_EQ(found->version, source_);
        }
        EXPECT_EQ(Load()->version, source_);
        const uint64_t before = std::exchange(rechecks, cache_->Stats().tier_rechecks);
        (rechecks != before ? rechecked : replaced)++;
        EXPECT_EQ(cache_->size(), 1u);
        cache_->CheckInvariantsForTesting();
      });
  EXPECT_GT(present, 0);
  EXPECT_GT(absent, 0);
  EXPECT_GT(rechecked, 0);
  EXPECT_GT(replaced, 0);
}

TEST_F(TierRecheckRace, NobodyHasAnUnchangedObjectTwice) {
  const Ref<Page> object = Load();
  const int decodes = codec_->decodes;
  int found = 0;
  int unverified = 0;
  Race(
      {RaceRounds(8000), {&found, &unverified}}, [&](int) { EXPECT_EQ(Load(), object); },
      {[&] {
         Flap();
         Flap();
       },
       [&] {
         EXPECT_EQ(Load(), object);
         EXPECT_EQ(Load(), object);
       },
       [&] { EXPECT_EQ(Load(), object); },
       [&] {
         cache_->SetBudget(0);  // which evicts what is in use, too
         cache_->SetBudget(1 << 20);
       }},
      [&](int) {
        (cache_->Peek(1).get() != nullptr ? found : unverified)++;
        EXPECT_EQ(cache_->size(), 1u);
        cache_->CheckInvariantsForTesting();
      });
  EXPECT_EQ(codec_->decodes, decodes);
  EXPECT_GT(found, 0);
  EXPECT_GT(unverified, 0);
}

TEST(SecondTierEndRace, NoticesMayComeWhileTheCacheEnds) {
  const auto server = std::make_shared<FakeServer>();
  FakeTier other(server);
  const auto tier = std::make_shared<FakeTier>(server);
  std::optional<Cache> cache;
  int told = 0;
  int ended = 0;
  bool is_told = false;  // the cache's end waits for the notice that sets it
  Race(
      {RaceRounds(8000), {&told, &ended}},
      [&](int) {
        is_told = false;
        Cache::Options options = testing::WithBudget<Cache>(1 << 20);
        options.second_tier = tier;
        options.codec = std::make_shared<const TrivialCodec<Page>>();
        options.removal_listener = [&](const int&, RemovalCause, uint64_t) { is_told = true; };
        cache.emplace(std::move(Cache::Create(std::move(options))).value());
        cache->Put(1, Page{1});
        EXPECT_TRUE(other.Erase("1").ok());
      },
      {[&] { cache.reset(); }, [&] { tier->Deliver(); }}, [&](int) { (is_told ? told : ended)++; });
  EXPECT_GT(told, 0);
  EXPECT_GT(ended, 0);
}

}  // namespace
}  // namespace weakcache
