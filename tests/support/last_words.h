// SPDX-License-Identifier: Apache-2.0
// Keys, values and objects whose destructors do something.
#ifndef WEAKCACHE_TESTS_SUPPORT_LAST_WORDS_H_
#define WEAKCACHE_TESTS_SUPPORT_LAST_WORDS_H_

#include <cstddef>
#include <cstdlib>
#include <functional>
#include <memory>
#include <utility>

namespace weakcache::testing {

// A key, or a value that is attached to one. It is done when the last of its copies goes.
struct LastWords {
  explicit LastWords(int id, std::function<void()> speak = nullptr)
      : id(id), speak(std::make_shared<std::function<void()>>(std::move(speak))) {
    ++live;
  }
  LastWords(const LastWords& other) : id(other.id), speak(other.speak) { ++live; }
  LastWords& operator=(const LastWords&) = delete;
  ~LastWords() {
    --live;
    id = -1;
    if (speak.use_count() == 1 && *speak) (*speak)();
  }
  bool operator==(const LastWords& other) const { return id == other.id; }
  struct Hash {
    size_t operator()(const LastWords& key) const {
      if (key.id < 0) std::abort();  // it has ended
      return static_cast<size_t>(key.id);
    }
  };
  template <typename State>
  friend State AbslHashValue(State state, const LastWords& key) {
    return State::combine(std::move(state), Hash()(key));
  }

  inline static int live = 0;
  int id;
  std::shared_ptr<std::function<void()>> speak;
};

// An object that calls a function when it is destroyed, unless it has been moved from.
struct CallsAtEnd {
  CallsAtEnd() = default;
  explicit CallsAtEnd(std::function<void()> on_end) : on_end(std::move(on_end)) {}
  CallsAtEnd(CallsAtEnd&& other) noexcept : on_end(std::exchange(other.on_end, nullptr)) {}
  CallsAtEnd& operator=(CallsAtEnd&&) = delete;
  ~CallsAtEnd() {
    if (on_end) on_end();
  }
  size_t byte_size() const { return sizeof(CallsAtEnd); }

  std::function<void()> on_end;
};

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_LAST_WORDS_H_
