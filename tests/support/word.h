// SPDX-License-Identifier: Apache-2.0
// A key, or interned object, that goes by its text, with a hash and an equality that note what they
// are asked, and can be told to collide, to throw, or to let something happen meanwhile.
#ifndef WEAKCACHE_TESTS_SUPPORT_WORD_H_
#define WEAKCACHE_TESTS_SUPPORT_WORD_H_

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace weakcache::testing {

// The `countdown`-th call of MayThrow from now (1: the next) throws; 0: none does.
inline int throw_countdown = 0;
inline void MayThrow() {
  if (throw_countdown > 0 && --throw_countdown == 0) throw std::runtime_error("told to throw");
}
// Runs `operation()` with the k-th call of MayThrow in it throwing, for k = 1, 2, … until it gets
// through; after each failure runs `check()`. Returns the number of failures.
template <typename Operation, typename Check>
int ThrowAtEachPoint(Operation&& operation, Check&& check) {
  for (int failures = 0;; ++failures) {
    throw_countdown = failures + 1;
    try {
      operation();
      throw_countdown = 0;
      return failures;
    } catch (const std::runtime_error&) {
      throw_countdown = 0;
      check();
    }
  }
}

class Word {
 public:
  explicit Word(std::string_view text, std::function<void()> on_end = nullptr)
      : text_(text), on_end_(std::move(on_end)) {
    MayThrow();
    ++made_;
    ++live_;
  }
  Word(const Word& other) : Word(other.text(), other.on_end_) {}
  Word& operator=(const Word&) = delete;
  ~Word() {
    alive_ = false;
    if (on_end_) on_end_();
    --live_;
  }

  const std::string& text() const {
    if (!alive_) ADD_FAILURE() << "a dead object is asked: " << text_;
    return text_;
  }

  // How many there are, and have ever been made.
  static int live() { return live_; }
  static int made() { return made_; }

 private:
  inline static std::atomic<int> live_{0};
  inline static std::atomic<int> made_{0};

  const std::string text_;
  const std::function<void()> on_end_;
  bool alive_ = true;
};

struct WordLog {
  std::atomic<int> hashed{0};
  std::atomic<int> compared{0};
  bool collide = false;
  std::function<void(const Word&)> on_compare;  // with the candidate
};

struct WordHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const {
    MayThrow();
    if (log == nullptr) return std::hash<std::string_view>()(text);
    ++log->hashed;
    return log->collide ? 0 : std::hash<std::string_view>()(text);
  }
  size_t operator()(const Word& word) const { return (*this)(std::string_view(word.text())); }
  WordLog* log = nullptr;
};

struct WordEqual {
  using is_transparent = void;
  bool operator()(const Word& candidate, std::string_view text) const {
    MayThrow();
    if (log != nullptr) ++log->compared;
    const bool equal = candidate.text() == text;
    if (log != nullptr && log->on_compare) log->on_compare(candidate);
    return equal;
  }
  bool operator()(const Word& candidate, const Word& word) const {
    return (*this)(candidate, std::string_view(word.text()));
  }
  WordLog* log = nullptr;
};

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_WORD_H_
