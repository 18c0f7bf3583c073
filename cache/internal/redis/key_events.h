// SPDX-License-Identifier: Apache-2.0
// What the server has done with keys, to tell its evictions from changes: the notices of both are
// the same.
//
// If the server is so configured (`notify-keyspace-events KA`), it publishes each event of a key,
// on the connection that the notices come on: those of one round of the server's before that
// round's notice. A key that has only been evicted, or has expired, is as it was for those who have
// its object. Whatever else has happened to it, or if nothing is known, it has changed.
//
// The notices leave out what this process has written last. So its own writing, which a message to
// itself announces, ends what is known of a key.
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_KEY_EVENTS_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_KEY_EVENTS_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

namespace weakcache::internal {

// Thread-compatible.
class KeyEvents {
 public:
  // Whether a server with these flags publishes enough: whatever could change a value.
  static bool AreTold(std::string_view flags) {
    constexpr std::string_view kAll = "g$lshzxet";
    const auto has = [&](char flag) { return flags.find(flag) != std::string_view::npos; };
    return has('K') && (has('A') || std::all_of(kAll.begin(), kAll.end(), has));
  }

  // This process's own value is being put under the key: the next event that says so is of that.
  void NoteOwnPut(std::string_view key) { own_put_ = key; }
  void Take(std::string_view key, std::string_view event) {
    // What these do, the server's notice tells of; or they change nothing.
    constexpr std::array<std::string_view, 4> kIgnored = {"del", "rename_from", "new", "keymiss"};
    if (std::find(kIgnored.begin(), kIgnored.end(), event) != kIgnored.end()) return;
    if (event == "rename_to" && own_put_ == key) {
      own_put_.reset();
      seen_.erase(std::string(key));
      return;
    }
    if (seen_.size() >= kMost) {
      seen_.clear();
      overflown_ = true;
    }
    Seen& seen = seen_[std::string(key)];
    const bool is_removal = event == "evicted" || event == "expired";
    (is_removal ? seen.removed : seen.changed) = true;
  }
  // Returns whether a notice of the key tells of a change.
  bool TakeNotice(std::string_view key) {
    const auto found = seen_.find(std::string(key));
    if (found == seen_.end()) return true;
    const Seen seen = found->second;
    seen_.erase(found);
    return overflown_ || seen.changed || !seen.removed;
  }
  // Ends the notices of one round of the server's.
  void EndNotices() { overflown_ = false; }
  void Clear() { *this = {}; }

 private:
  struct Seen {
    bool removed = false;
    bool changed = false;
  };
  static constexpr size_t kMost = 100'000;

  std::optional<std::string> own_put_;
  std::unordered_map<std::string, Seen> seen_;
  bool overflown_ = false;  // some of this round are forgotten
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_KEY_EVENTS_H_
