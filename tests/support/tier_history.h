// SPDX-License-Identifier: Apache-2.0
// What several processes have changed and seen on one second tier, in memory that all of them
// share; and what a look-up may still see.
//
// Each key has a source, which is the number of its newest version. A process that changes a key
// first raises that number, and then tells its cache. A change is *made* once the tier has it.
#ifndef WEAKCACHE_TESTS_SUPPORT_TIER_HISTORY_H_
#define WEAKCACHE_TESTS_SUPPORT_TIER_HISTORY_H_

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <string_view>

namespace weakcache::testing {

// Raises a number to one that is higher.
template <typename Number>
void Raise(std::atomic<Number>& number, Number to) {
  Number seen = number.load();
  while (seen < to && !number.compare_exchange_weak(seen, to)) {
  }
}

// A look-up, as it was when it began.
struct TierRecheck {
  int actor = 0;
  int64_t began = 0;
  // Older versions than this one the process must not see any more.
  uint64_t floor = 0;
  // Since when the process has heard of others' changes; 0: it is not connected.
  int64_t connected_since = 0;
};

// All fields are written by all processes, and sequentially consistent.
class TierHistory {
 public:
  static constexpr int kKeys = 8;
  static constexpr int kGroups = 2;
  static constexpr int kProcesses = 4;
  static constexpr int kThreads = 2;  // of each process
  static constexpr int kActors = kProcesses * kThreads;
  static constexpr uint64_t kVersions = 1 << 16;  // of each key, at most

  enum class Act : int {
    kNothing,
    kStart,
    kGetOrLoad,
    kGet,
    kGetAll,
    kRefresh,
    kReadTier,
    kAwaitNotices,
    kPut,
    kInvalidate,
    kInvalidateIf,
    kInvalidateGroup,
    kClear,
    kMade,
    kTold,
    kSettle,
    kCheckAtEnd,
    kEnd,
    kKilled,
    kTrouble,
  };
  enum class Phase : int { kRunning, kChecking };
  enum class State : int { kStarted, kSettled, kDone };

  struct Version {
    std::atomic<int64_t> returned{0};  // when the call of the change returned; 0: not yet
    std::atomic<int64_t> made{0};      // when it was known that the tier has the change; 0: not yet
  };
  struct Key {
    std::atomic<int> changer{0};  // the actor that changes the key now, and one; 0: nobody
    std::atomic<uint64_t> source{1};
    // The newest version whose change is made; and of these, the newest one whose change erased or
    // put the key's own entry, and not a group or everything.
    std::atomic<uint64_t> made{0};
    std::atomic<uint64_t> made_in_place{0};
    std::array<Version, kVersions> versions;
  };
  // A thread, and the one that has its place once its process was killed.
  struct Actor {
    std::atomic<int> act{0};
    std::atomic<int> key{0};
    std::atomic<int64_t> began{0};    // when it began that; 0: it does nothing
    std::atomic<int> loading{0};      // whether it is inside a loader
    std::atomic<unsigned> unmade{0};  // a bit for each key of which a change of its may not be made
  };
  struct Figures {
    std::atomic<uint64_t> looks{0};
    std::atomic<uint64_t> loads{0};  // calls of loaders
    std::atomic<uint64_t> changes{0};
    std::atomic<uint64_t> old_looks{0};   // that have seen an older version than one that was made
    std::atomic<int64_t> longest_old{0};  // how long after the change's return, at most
    std::atomic<int64_t> longest_act{0};
    std::atomic<uint64_t> awaited{0};  // notices, without an error
    std::atomic<uint64_t> tier_reads{0};
    std::atomic<uint64_t> repeated{0};  // changes of killed processes
    // Of the processes that have come to their ends.
    std::atomic<uint64_t> tier_hits{0};
    std::atomic<uint64_t> tier_rechecks{0};
    std::atomic<uint64_t> leases_awaited{0};
    std::atomic<uint64_t> leases_lost{0};
    std::atomic<uint64_t> notices{0};
    std::atomic<uint64_t> tier_errors{0};
  };
  // How the processes are to do it.
  struct Settings {
    uint64_t operations = 0;  // in all
    bool has_trouble = false;
    bool writes_evicted = false;
    bool checks_again = false;
    int64_t max_age_ms = 60'000;
    int64_t lease_timeout_ms = 10'000;
  };
  // For the test of a single load.
  struct Scene {
    std::atomic<int> leads{0};
    std::atomic<int> waits{0};
    std::atomic<int64_t> followed{0};  // when the other one had its object
  };

  static int64_t Now() {
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  static uint32_t GroupOf(int key) { return static_cast<uint32_t>(key % kGroups); }

  Key& key(int number) { return keys[static_cast<size_t>(number)]; }
  Actor& actor(int number) { return actors[static_cast<size_t>(number)]; }

  // Returns the only value that is ever written for a version of a key: both numbers, and as many
  // more bytes as they make up. Some of these can be compressed. A tier writes the longer ones in
  // pieces, but all pieces together are less than what a server reads at once from a connection.
  static std::string ValueOf(int key, uint64_t version) {
    std::string value = std::to_string(key) + ":" + std::to_string(version) + ":";
    uint64_t word = (version * 1000 + static_cast<uint64_t>(key)) * 0x9e3779b97f4a7c15u;
    const auto next = [&word] {
      word = word * 6364136223846793005u + 1442695040888963407u;
      return word >> 40;
    };
    const uint64_t more = next() % (version % 8 == 0 ? 6000 : 60);
    const bool compressible = next() % 2 == 0;
    for (uint64_t i = 0; i < more; ++i) value += compressible ? 'a' : static_cast<char>(next());
    return value;
  }
  // Returns the version of a value that may have been written for the key, or 0.
  static uint64_t VersionOf(int key, std::string_view value) {
    unsigned long long version = 0;  // NOLINT(google-runtime-int): as sscanf wants it
    int named = 0;
    const std::string start(value.substr(0, 40));
    if (std::sscanf(start.c_str(), "%d:%llu:", &named, &version) != 2) return 0;
    return named == key && ValueOf(key, version) == value ? version : 0;
  }

  // Judges what a look-up has found; `bound` is after what time nobody who is connected sees
  // anything older than what was made.
  void Judge(int number, std::string_view value, const TierRecheck& look, int64_t bound) {
    ++figures.looks;
    const Key& of = key(number);
    const uint64_t version = VersionOf(number, value);
    const uint64_t newest = of.source.load();
    if (version == 0 || version > newest) {
      Fail(look.actor, number,
           "has a value that was never written for it: " + std::string(value.substr(0, 40)));
    } else if (version < look.floor) {
      Fail(look.actor, number,
           "has version " + std::to_string(version) +
               ", although the process must not see any before " + std::to_string(look.floor) +
               " any more");
    } else {
      JudgeAge(number, version, newest, look, bound);
    }
  }

  // Notes what is wrong. All processes end soon after that.
  void Fail(int actor, int number, const std::string& what) {
    const int place = failures.fetch_add(1);
    if (place >= kTexts) return;
    Text& text = texts[static_cast<size_t>(place)];
    std::snprintf(text.text.data(), text.text.size(), "process %d: key %d %s", actor / kThreads,
                  number, what.c_str());
    text.key = number;
    text.is_whole = true;
  }

  // Adds to the events that are shown after a failure.
  void Log(int actor, Act act, int number, uint64_t version) {
    Event& event = events[events_logged.fetch_add(1) % kEvents];
    event.time = Now();
    event.actor = actor;
    event.act = static_cast<int>(act);
    event.key = number;
    event.version = version;
  }
  // Returns what is wrong, and the last events of the first such key.
  std::string Report() {
    std::string report;
    int of_key = -1;
    for (const Text& text : texts) {
      if (!text.is_whole) continue;
      report += std::string(text.text.data()) + "\n";
      if (of_key < 0) of_key = text.key;
    }
    const uint64_t logged = events_logged.load();
    for (uint64_t i = logged - std::min<uint64_t>(logged, kEvents / 2); i < logged; ++i) {
      const Event& event = events[i % kEvents];
      if (event.key != of_key && event.key != -1) continue;
      char line[120];
      std::snprintf(line, sizeof(line), "  %12.6f ms  process %d.%d  %s %d\n",
                    static_cast<double>(event.time) / 1e6, event.actor / kThreads,
                    event.actor % kThreads, NameOf(static_cast<Act>(event.act.load())),
                    static_cast<int>(event.version.load()));
      report += line;
    }
    return report;
  }

  static const char* NameOf(Act act) {
    constexpr std::array<const char*, 20> kNames = {"nothing",
                                                    "start",
                                                    "GetOrLoad",
                                                    "Get",
                                                    "GetAll",
                                                    "Refresh",
                                                    "tier Get",
                                                    "AwaitNotices",
                                                    "Put",
                                                    "Invalidate",
                                                    "InvalidateIf",
                                                    "InvalidateGroup",
                                                    "Clear",
                                                    "made",
                                                    "told",
                                                    "settle",
                                                    "check at the end",
                                                    "end",
                                                    "killed",
                                                    "trouble"};
    return kNames[static_cast<size_t>(act)];
  }

  // What the test's process sets before the others begin.
  std::array<char, 200> socket = {};
  Settings settings;

  std::atomic<uint64_t> operations{0};
  std::atomic<int> failures{0};
  std::atomic<Phase> phase{Phase::kRunning};
  std::array<std::atomic<State>, kProcesses> states = {};
  std::array<Key, kKeys> keys;
  std::array<Actor, kActors> actors;
  Figures figures;
  Scene scene;

 private:
  static constexpr int kTexts = 8;
  static constexpr size_t kEvents = 4096;
  struct Text {
    std::atomic<bool> is_whole{false};
    std::atomic<int> key{0};
    std::array<char, 300> text = {};
  };
  struct Event {
    std::atomic<int64_t> time{0};
    std::atomic<int> actor{0};
    std::atomic<int> act{0};
    std::atomic<int> key{0};
    std::atomic<uint64_t> version{0};
  };

  // Whether the version was too old when the look-up began.
  void JudgeAge(int number, uint64_t version, uint64_t newest, const TierRecheck& look,
                int64_t bound) {
    bool is_old = false;
    for (uint64_t newer = version + 1; newer <= newest; ++newer) {
      const Version& next = key(number).versions[newer];
      const int64_t made = next.made.load();
      if (made == 0 || look.connected_since == 0) continue;
      const int64_t since = std::max(made, look.connected_since);
      if (look.began - since > bound) {
        Fail(look.actor, number,
             "still has version " + std::to_string(version) + ", " +
                 std::to_string((look.began - since) / 1'000'000) + " ms after version " +
                 std::to_string(newer) + " was made");
        return;
      }
      const int64_t age = look.began - std::max(next.returned.load(), look.connected_since);
      if (age <= 0) continue;
      is_old = true;
      Raise(figures.longest_old, age);
    }
    if (is_old) ++figures.old_looks;
  }

  std::array<Text, kTexts> texts;
  std::atomic<uint64_t> events_logged{0};
  std::array<Event, kEvents> events;
};

// The history's memory, which the processes that have the file share.
class SharedTierHistory {
 public:
  // Makes a new one.
  SharedTierHistory() : file_(::memfd_create("history", 0)) {
    if (::ftruncate(file_, sizeof(TierHistory)) != 0) return;
    Map();
    if (history_ != nullptr) new (history_) TierHistory();
  }
  // Takes that of another process.
  explicit SharedTierHistory(int file) : file_(file) { Map(); }
  SharedTierHistory(const SharedTierHistory&) = delete;
  SharedTierHistory& operator=(const SharedTierHistory&) = delete;
  ~SharedTierHistory() {
    if (history_ != nullptr) ::munmap(history_, sizeof(TierHistory));
    ::close(file_);
  }

  // Null: there is no memory.
  TierHistory* get() const { return history_; }
  TierHistory& operator*() const { return *history_; }
  TierHistory* operator->() const { return history_; }
  // To be given to another process.
  int file() const { return file_; }

 private:
  void Map() {
    void* const memory =
        ::mmap(nullptr, sizeof(TierHistory), PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
    if (memory != MAP_FAILED) history_ = static_cast<TierHistory*>(memory);
  }

  const int file_;
  TierHistory* history_ = nullptr;
};

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_TIER_HISTORY_H_
