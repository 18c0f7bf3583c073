// SPDX-License-Identifier: Apache-2.0
// Several processes, each with a LargeObjectCache on a RedisTier of its own, change and look up a
// few keys at random on one server; what each has seen is checked against a history that all share
// (tests/support/tier_history.h). Processes are killed meanwhile, and the server gets into trouble.
//
// The source of a key is the number of its newest version. Whoever changes a key is the only one
// that changes it then; raises the number; and calls Put, Invalidate, InvalidateIf, InvalidateGroup
// or Clear of its cache. Loaders return the version that is the newest as they begin. A change is
// *returned* when that call has returned, and *made* once the tier has it, which a process sees by
// a look-up in its tier that succeeds after the call: it waits for earlier changes of the process,
// and fails while their connection is lost. So the time during which a process that makes a change
// has no connection does not count; the others do not hear of the change before.
//
// For each look-up that finds an object:
//
// 1. It is a version of that key, and not a newer one than the source has.
// 2. In the process that has made a change, look-ups that begin after its return find no older
//    version. (InvalidateIf: the same; in other processes it need not reach an object that is in no
//    tier, so an Invalidate of the same keys follows it here.)
// 3. Once AwaitNotices has returned OK, no look-up of the process finds anything older than the
//    changes that were made before AwaitNotices was called. Likewise once the process was told of a
//    change of that key, of its group or of everything, or of a lost or regained connection, as to
//    the changes of the key's own entry that were made before it was told. (The erasure of a group
//    or of everything is in force in a process when the process hears of that very erasure.)
// 4. The tier itself has nothing older than 2 and 3 say, nor than a change of the key's own entry
//    that was made before the look-up in the tier began.
// 5. No look-up finds anything older than a change that was made longer ago than the bound of
//    RedisTierOptions::heartbeat_interval: that interval and `hard_timeout`; and some time for a
//    machine that has other things to do. While a process is not connected, and knows it, this does
//    not hold: it drops everything when the connection is back, and only from then on it counts.
// 6. At the end, when nothing changes any more, all have made their changes, and have heard of the
//    others': all look-ups of all processes find the newest version.
//
// 1 to 4 and 6 know no time, so that 5 need not be tight: how long old versions were really seen is
// printed. A process that is killed loses changes that are not made: the one that takes its place
// repeats them; before that, the killed one's connections are closed at the server, which else
// might do later what they have sent. No call takes longer than a minute.
//
//   WEAKCACHE_HISTORY_SEED=N  draws other operations
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "tests/cache/redis_tier_history_process.h"
#include "tests/support/redis_server.h"
#include "tests/support/rounds.h"
#include "tests/support/tier_history.h"

namespace weakcache {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using testing::kBusyMachine;
using testing::kLeaseDuration;
using testing::PauseBriefly;
using testing::RedisServer;
using testing::SharedTierHistory;
using testing::TierHistory;
using testing::UserOf;
using Act = TierHistory::Act;

constexpr int kKeys = TierHistory::kKeys;
constexpr int64_t kHang = 60'000'000'000;

uint64_t Seed() {
  const char* const wish = std::getenv("WEAKCACHE_HISTORY_SEED");
  return wish == nullptr ? 1 : std::strtoull(wish, nullptr, 10);
}

pid_t Spawn(const SharedTierHistory& history, const std::string& role, int number, uint64_t seed) {
  std::vector<std::string> words = {"redis_tier_history_test",      "--process",
                                    std::to_string(history.file()), role,
                                    std::to_string(number),         std::to_string(seed)};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t process = 0;
  const int error =
      ::posix_spawn(&process, "/proc/self/exe", nullptr, nullptr, arguments.data(), environ);
  return error == 0 ? process : 0;
}
// Returns the exit code, or minus the signal that has ended the process.
int WaitFor(pid_t process) {
  int status = 0;
  ::waitpid(process, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// The processes with their server.
class Processes {
 public:
  explicit Processes(const TierHistory::Settings& settings,
                     const std::vector<std::string>& arguments = {})
      : server_(ArgumentsWith(arguments)), random_(Seed()) {
    history_->settings = settings;
    std::strncpy(history_->socket.data(), server_.socket().c_str(), history_->socket.size() - 1);
    for (int number = 0; number < TierHistory::kProcesses; ++number) Start(number);
  }
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;
  ~Processes() {
    for (const pid_t process : processes_) {
      if (process == 0) continue;
      ::kill(process, SIGKILL);
      WaitFor(process);
    }
  }

  RedisServer& server() { return server_; }
  TierHistory& history() { return *history_; }
  std::mt19937_64& random() { return random_; }

  // Calls `trouble` again and again until the operations are done, and lets the processes check
  // what they have at the end.
  void Run(const std::function<void()>& trouble) {
    const auto are = [this](TierHistory::State state) {
      return std::all_of(history_->states.begin(), history_->states.end(),
                         [&](const auto& other) { return other >= state; });
    };
    bool runs = true;
    while (runs && history_->operations < history_->settings.operations) {
      trouble();
      PauseBriefly();
      runs = Watch();
    }
    while (runs && !are(TierHistory::State::kSettled)) {
      PauseBriefly();
      runs = Watch();
    }
    history_->phase = TierHistory::Phase::kChecking;
    while (runs && !(are(TierHistory::State::kDone) && HaveEnded())) {
      PauseBriefly();
      runs = Watch();
    }
    if (history_->failures != 0) ADD_FAILURE() << history_->Report();
    Print();
  }

  void KillOne() {
    const int number = ChooseVictim();
    const auto place = static_cast<size_t>(number);
    ::kill(processes_[place], SIGKILL);
    ASSERT_EQ(WaitFor(processes_[place]), -SIGKILL) << "process " << number << " has ended";
    history_->Log(number * TierHistory::kThreads, Act::kKilled, -1, 0);
    for (int thread = 0; thread < TierHistory::kThreads; ++thread) {
      TierHistory::Actor& actor = history_->actor(number * TierHistory::kThreads + thread);
      actor.began = 0;
      killed_loads_ += actor.loading.exchange(0);
    }
    // The server might do later what it has not read yet.
    server_.Command({"CLIENT", "KILL", "USER", UserOf(number)});
    Start(number);
    ++kills_;
  }
  int kills() const { return kills_; }
  int killed_loads() const { return killed_loads_; }

 private:
  static std::vector<std::string> ArgumentsWith(std::vector<std::string> arguments) {
    for (int process = 0; process < TierHistory::kProcesses; ++process) {
      const std::vector<std::string> user = {"--user", UserOf(process), "on", "nopass", "~*",
                                             "&*",     "+@all"};
      arguments.insert(arguments.end(), user.begin(), user.end());
    }
    return arguments;
  }

  void Start(int number) {
    const auto place = static_cast<size_t>(number);
    history_->states[place] = TierHistory::State::kStarted;
    processes_[place] = Spawn(history_, "random", number, random_() % 1'000'000'000);
    EXPECT_NE(processes_[place], 0) << "process " << number << " can't be started";
  }
  // Prefers one that is just loading.
  int ChooseVictim() {
    const int chosen = static_cast<int>(random_() % TierHistory::kProcesses);
    if (random_() % 3 == 0) return chosen;
    const auto end = steady_clock::now() + milliseconds(5);
    while (steady_clock::now() < end) {
      for (int actor = 0; actor < TierHistory::kActors; ++actor) {
        if (history_->actor(actor).loading != 0) return actor / TierHistory::kThreads;
      }
    }
    return chosen;
  }

  bool HaveEnded() const {
    return std::all_of(processes_.begin(), processes_.end(), [](pid_t one) { return one == 0; });
  }
  // Returns false if something is wrong.
  bool Watch() {
    for (size_t place = 0; place < processes_.size(); ++place) {
      int status = 0;
      if (processes_[place] == 0 || ::waitpid(processes_[place], &status, WNOHANG) == 0) continue;
      processes_[place] = 0;
      const bool is_done = history_->states[place] == TierHistory::State::kDone;
      if (is_done && WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
      if (history_->failures == 0) {
        ADD_FAILURE() << "process " << place << " has ended with status " << status;
      }
      return false;
    }
    for (int number = 0; number < TierHistory::kActors; ++number) {
      const TierHistory::Actor& actor = history_->actor(number);
      const int64_t began = actor.began;
      if (began == 0 || TierHistory::Now() - began < kHang) continue;
      ADD_FAILURE() << "process " << number / TierHistory::kThreads << " hangs in "
                    << TierHistory::NameOf(static_cast<Act>(actor.act.load())) << " of key "
                    << actor.key << "\n"
                    << history_->Report();
      return false;
    }
    return history_->failures == 0;
  }
  void Print() const {
    const TierHistory::Figures& figures = history_->figures;
    const std::string text =
        "seed " + std::to_string(Seed()) + ": " + std::to_string(figures.looks) +
        " objects found, " + std::to_string(figures.changes) + " changes (" +
        std::to_string(figures.repeated) + " repeated), " + std::to_string(figures.loads) +
        " loads, " + std::to_string(figures.tier_hits) + " hits of the tier, " +
        std::to_string(figures.tier_rechecks) + " rechecks, " +
        std::to_string(figures.leases_awaited) + " leases awaited, " +
        std::to_string(figures.leases_lost) + " lost, " + std::to_string(figures.notices) +
        " notices, " + std::to_string(figures.tier_errors) + " errors of the tier, " +
        std::to_string(kills_) + " kills (" + std::to_string(killed_loads_) +
        " while loading); longest call " + std::to_string(figures.longest_act / 1'000'000) +
        " ms; an old version was found " + std::to_string(figures.old_looks) + " times, at most " +
        std::to_string(static_cast<double>(figures.longest_old) / 1e6) +
        " ms after the change had returned";
    std::puts(text.c_str());
  }

  RedisServer server_;
  std::mt19937_64 random_;
  const SharedTierHistory history_;
  std::array<pid_t, TierHistory::kProcesses> processes_ = {};
  int kills_ = 0;
  int killed_loads_ = 0;
};

// Does something again and again, each time after about so many operations.
class Repeatedly {
 public:
  Repeatedly(Processes& processes, uint64_t every, std::function<void()> event)
      : processes_(processes), every_(every), event_(std::move(event)) {}
  void operator()() {
    if (processes_.history().operations < next_) return;
    event_();
    next_ = processes_.history().operations + every_ / 2 + processes_.random()() % every_;
  }

 private:
  Processes& processes_;
  const uint64_t every_;
  const std::function<void()> event_;
  uint64_t next_ = 0;
};

// What else happens to a server.
class Trouble {
 public:
  static constexpr int kKinds = 9;

  explicit Trouble(Processes& processes)
      : server_(processes.server()), history_(processes.history()), random_(processes.random()) {}

  void Cause() {
    const auto kind = static_cast<int>(random_() % kKinds);
    history_.Log(0, Act::kTrouble, -1, static_cast<uint64_t>(kind));
    ++counts_[static_cast<size_t>(kind)];
    switch (kind) {
      case 0:
        server_.Command({"FLUSHALL"});
        break;
      case 1:
        server_.Command({"CLIENT", "KILL", "TYPE", "pubsub"});
        break;
      case 2:
        server_.Command({"CLIENT", "KILL", "TYPE", "normal"});
        break;
      case 3:
        KillOneClient();
        break;
      case 4:
        server_.Pause();
        WaitUpTo(150);
        server_.Resume();
        break;
      case 5:  // what it has now comes back some time
        server_.Command({"SAVE"});
        break;
      case 6:
        server_.Kill();
        WaitUpTo(50);
        EXPECT_TRUE(server_.Start());
        break;
      case 7:
        ChangeEntries();
        break;
      default:
        server_.Command({"CONFIG", "SET", "maxmemory", "1"});
        WaitUpTo(20);
        server_.Command({"CONFIG", "SET", "maxmemory", "0"});
    }
  }
  const std::array<int, kKinds>& counts() const { return counts_; }

 private:
  void WaitUpTo(uint64_t most) { std::this_thread::sleep_for(milliseconds(random_() % most)); }
  void KillOneClient() {
    const std::string clients = server_.Command({"CLIENT", "LIST"});
    std::vector<std::string> ids;
    for (size_t place = clients.find("id="); place != std::string::npos;
         place = clients.find("\nid=", place)) {
      place = clients.find('=', place) + 1;
      ids.push_back(clients.substr(place, clients.find(' ', place) - place));
    }
    if (ids.empty()) return;
    server_.Command({"CLIENT", "KILL", "ID", ids[random_() % ids.size()]});
  }
  // As another client, which knows nothing of caches.
  void ChangeEntries() {
    for (int key = 0; key < kKeys; ++key) {
      const std::string name = "history:v:" + std::to_string(key);
      if (random_() % 2 == 0) {
        server_.Command({"DEL", name});
      } else if (random_() % 2 == 0) {
        server_.Command({"SETRANGE", name, std::to_string(random_() % 100), "?"});
      }
    }
  }

  RedisServer& server_;
  TierHistory& history_;
  std::mt19937_64& random_;
  std::array<int, kKinds> counts_ = {};
};

TEST(RedisTierHistoryTest, NobodySeesAnythingOldOrWrong) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
  const uint64_t operations = testing::Rounds<uint64_t>(400'000, 2'500);
  Processes processes({.operations = operations});
  processes.Run([] {});
  const TierHistory::Figures& figures = processes.history().figures;
  // Or else nothing has been tested.
  EXPECT_GT(figures.looks, operations / 2);
  EXPECT_GT(figures.changes, operations / 20);
  EXPECT_GT(figures.tier_hits, 0u);
  EXPECT_GT(figures.leases_awaited, 0u);
  EXPECT_GT(figures.leases_lost, 0u);
  if (testing::AllRounds()) {
    EXPECT_GT(figures.old_looks, 0u);
  }
}

TEST(RedisTierHistoryTest, NorIfEvictedObjectsAreWritten) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
  Processes processes(
      {.operations = testing::Rounds<uint64_t>(100'000, 1'000), .writes_evicted = true});
  processes.Run([] {});
  EXPECT_GT(processes.history().figures.tier_hits, 0u);
}

// What has expired in the tier stays in the caches, as the server tells that it is no change.
TEST(RedisTierHistoryTest, NorIfEntriesExpireAndTheServerTellsThat) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
  Processes processes({.operations = testing::Rounds<uint64_t>(100'000, 1'000), .max_age_ms = 4},
                      {"--notify-keyspace-events", "KA", "--hz", "500"});
  processes.Run([] {});
  EXPECT_GT(processes.history().figures.tier_hits, 0u);
}

TEST(RedisTierHistoryTest, NorIfProcessesAreKilled) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
  Processes processes({.operations = testing::Rounds<uint64_t>(200'000, 1'500)});
  Repeatedly kill(processes, 300, [&] { processes.KillOne(); });
  processes.Run([&] { kill(); });
  EXPECT_GT(processes.kills(), 0);
  if (testing::AllRounds()) {
    EXPECT_GT(processes.killed_loads(), 0);
    EXPECT_GT(processes.history().figures.repeated, 0u);
  }
}

TEST(RedisTierHistoryTest, NorIfTheServerIsInTrouble) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
  Processes processes(
      {.operations = testing::Rounds<uint64_t>(150'000, 1'500), .has_trouble = true});
  Trouble trouble(processes);
  Repeatedly cause(processes, 150, [&] { trouble.Cause(); });
  processes.Run([&] { cause(); });
  if (testing::AllRounds()) {
    EXPECT_GT(processes.history().figures.tier_errors, 0u);
    for (const int count : trouble.counts()) EXPECT_GT(count, 0);
  }
}

TEST(RedisTierHistoryTest, NorIfObjectsAreCheckedAfterTrouble) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
  Processes processes({.operations = testing::Rounds<uint64_t>(150'000, 1'500),
                       .has_trouble = true,
                       .checks_again = true});
  Trouble trouble(processes);
  Repeatedly cause(processes, 150, [&] { trouble.Cause(); });
  processes.Run([&] { cause(); });
  if (testing::AllRounds()) {
    EXPECT_GT(processes.history().figures.tier_rechecks, 0u);
  }
}

TEST(RedisTierHistoryTest, NorIfBothHappen) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
  Processes processes({.operations = testing::Rounds<uint64_t>(50'000, 700), .has_trouble = true});
  Trouble trouble(processes);
  Repeatedly cause(processes, 200, [&] { trouble.Cause(); });
  Repeatedly kill(processes, 400, [&] { processes.KillOne(); });
  processes.Run([&] {
    cause();
    kill();
  });
  EXPECT_GT(processes.kills(), 0);
}

// A process is killed while it leads a load that another one waits for: early, or once its lease
// has lasted for longer than one that is not prolonged.
TEST(RedisTierHistoryTest, AKilledProcessDelaysOthersByItsLeaseAtMost) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
  const int64_t lease = absl::ToInt64Nanoseconds(kLeaseDuration);
  const int rounds = testing::Rounds(50, 2);
  std::mt19937_64 random(Seed());
  int64_t longest = 0;
  int delayed = 0;
  for (int round = 0; round < rounds || (delayed == 0 && round < 20 * rounds); ++round) {
    RedisServer server({"--user", UserOf(0), "on", "nopass", "~*", "&*", "+@all",  //
                        "--user", UserOf(1), "on", "nopass", "~*", "&*", "+@all"});
    const SharedTierHistory history;
    history->settings.lease_timeout_ms = 3 * kHang / 1'000'000;
    std::strncpy(history->socket.data(), server.socket().c_str(), history->socket.size() - 1);
    const pid_t leader = Spawn(history, "leader", 0, 0);
    EXPECT_TRUE(testing::Eventually([&] { return history->scene.leads != 0; }));
    const pid_t follower = Spawn(history, "follower", 1, 0);
    EXPECT_TRUE(testing::Eventually([&] { return history->scene.waits != 0; }));
    const int64_t earliest = round % 2 == 0 ? 0 : lease;
    std::this_thread::sleep_for(
        std::chrono::nanoseconds(earliest + static_cast<int64_t>(random() % 50'000'000)));
    // Else the machine has held up the leader for longer than its lease lasts.
    const bool waits = history->scene.followed == 0;
    ::kill(leader, SIGKILL);
    const int64_t killed = TierHistory::Now();
    EXPECT_EQ(WaitFor(leader), -SIGKILL);
    EXPECT_TRUE(testing::Eventually([&] { return history->scene.followed != 0; })) << "it hangs";
    if (history->scene.followed == 0) ::kill(follower, SIGKILL);
    EXPECT_EQ(WaitFor(follower), 0) << history->Report();
    if (!waits) continue;
    ++delayed;
    longest = std::max(longest, history->scene.followed - killed);
  }
  EXPECT_GT(delayed, 0) << "nobody has waited for the lease";
  EXPECT_LE(longest, lease + absl::ToInt64Nanoseconds(kBusyMachine));
  std::printf("seed %ju: waited for up to %.1f ms after the kill, with leases of %.0f ms\n",
              uintmax_t{Seed()}, static_cast<double>(longest) / 1e6,
              static_cast<double>(lease) / 1e6);
}

}  // namespace
}  // namespace weakcache

int main(int count, char** arguments) {
  if (count > 5 && std::strcmp(arguments[1], "--process") == 0) {
    return weakcache::testing::RunHistoryProcess(arguments);
  }
  ::testing::InitGoogleTest(&count, arguments);
  return RUN_ALL_TESTS();
}
