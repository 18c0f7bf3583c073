// SPDX-License-Identifier: Apache-2.0
// The queue between the threads that release referents and the container whose entries expire, and
// who frees the memory that both of them use.
#include <array>
#include <memory>

#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"

namespace weakcache::model {
namespace {

// A container's entry: what the releasing thread leaves in it, the container finds.
class Entry {
 public:
  Entry* next() const { return next_; }
  void set_next(Entry* next) { next_ = next; }

  RelacyPlain<int> expired{0};
  int arrived = 0;

 private:
  RelacyPlain<Entry*> next_{nullptr};
};

using Teardown = internal::BasicTeardownCount<RelacyAtomics>;

// What may outlive a container. Its memory is the model's.
class Core {
 public:
  explicit Core(int* freed) : freed_(freed) {}
  void Free() {
    RL_ASSERT((*freed_)++ == 0);
    std::destroy_at(this);
  }
  // By a thread that drops a last reference.
  void Push(Entry* entry) {
    entry->expired = entry->expired + 1;
    if (!queue.Push(entry) && teardown_count.Decrement()) Free();
  }

  internal::BasicRetireList<RelacyAtomics, Entry> queue;
  Teardown teardown_count;

 private:
  int* const freed_;
};

// A queue and some entries in one container.
template <typename Derived, int kThreads, int kEntries>
class QueueModel : public rl::test_suite<Derived, kThreads> {
 public:
  void before() {
    ++current_schedule;
    core_.Create(&freed_);
    for (Storage<Entry>& entry : entries_) entry.Create();
    static_cast<Derived*>(this)->Prepare();
  }
  void thread(unsigned index) { static_cast<Derived*>(this)->Thread(index); }
  void after() {
    static_cast<Derived*>(this)->Finish();
    RL_ASSERT(freed_ == 1);
    for (Storage<Entry>& entry : entries_) std::destroy_at(entry.get());
  }

 protected:
  void Prepare() {}
  void Finish() {}
  Core& core() { return *core_.get(); }
  Entry& entry(int index) { return *entries_[index].get(); }

  // What the container does with what it takes; returns how many.
  size_t Drain(Entry* first) {
    size_t count = 0;
    for (Entry* entry = first; entry != nullptr; entry = entry->next()) {
      RL_ASSERT(entry->expired == 1);
      RL_ASSERT(entry->arrived++ == 0);
      ++count;
    }
    return count;
  }
  void Close(size_t taken, size_t arrived) {
    arrived += Drain(core().queue.Close());
    if (core().teardown_count.SetRemaining(taken - arrived)) core().Free();
  }

 private:
  int freed_ = 0;
  Storage<Core> core_;
  std::array<Storage<Entry>, kEntries> entries_;
};

// The last thread is the container, each other one brings an entry.
template <int kThreads>
class PushAgainstTakeAll : public QueueModel<PushAgainstTakeAll<kThreads>, kThreads, kThreads - 1> {
 public:
  void Thread(unsigned index) {
    if (index < kThreads - 1) {
      this->core().queue.CountExpired();
      this->core().Push(&this->entry(index));
    } else {
      for (int i = 0; i < 2; ++i) arrived_ += this->Drain(this->core().queue.TakeAll());
    }
  }
  void Finish() {
    RL_ASSERT(this->core().queue.expired_count() == kThreads - 1);
    arrived_ += this->Drain(this->core().queue.TakeAll());
    RL_ASSERT(arrived_ == kThreads - 1);
    this->Close(arrived_, arrived_);
  }

 private:
  size_t arrived_ = 0;
};

// An entry that goes through the queue, is used again, and goes again through the queue, while a
// second one is being pushed: the head's old value comes back.
class PushAgainAgainstPush : public QueueModel<PushAgainAgainstPush, 2, 2> {
 public:
  void Thread(unsigned index) {
    if (index == 0) {
      core().Push(&entry(0));
      return;
    }
    core().Push(&entry(1));
    for (Entry* next = core().queue.TakeAll(); next != nullptr;) {
      Entry* const entry = next;
      next = entry->next();
      RL_ASSERT(entry->expired == 1);
      entry->expired = 0;
      if (entry == &this->entry(1)) {
        core().Push(entry);
      } else {
        ++entry->arrived;
      }
    }
  }
  void Finish() {
    Drain(core().queue.TakeAll());
    RL_ASSERT(entry(0).arrived == 1 && entry(1).arrived == 1);
    Close(0, 0);
  }
};

// As a container's end: all entries have been taken, some are still to come.
template <int kThreads>
class CloseAgainstPush : public QueueModel<CloseAgainstPush<kThreads>, kThreads, kThreads - 1> {
 public:
  void Thread(unsigned index) {
    if (index < kThreads - 1) {
      this->core().Push(&this->entry(index));
    } else {
      const size_t arrived = this->Drain(this->core().queue.TakeAll());
      this->Close(kThreads - 1, arrived);
    }
  }
};

// Memory in two levels, as a container's pages and its core: whoever is the last to leave a page
// frees it and leaves the core, which the last of those frees.
template <int kPages>
class TeardownInTwoLevels : public rl::test_suite<TeardownInTwoLevels<kPages>, kPages + 1> {
 public:
  void before() {
    ++current_schedule;
    core_.Create();
    for (Storage<Level>& page : pages_) page.Create();
  }
  void thread(unsigned index) {
    if (index < kPages) {
      Level* const page = pages_[index].get();
      page->contents = page->contents + 1;
      if (!page->teardown_count.Decrement()) return;
      Free(page);
      if (core_->teardown_count.Decrement()) Free(core_.get());
      return;
    }
    size_t pages_left = 0;
    for (Storage<Level>& page : pages_) {
      if (page->teardown_count.SetRemaining(1)) {
        Free(page.get());
      } else {
        ++pages_left;
      }
    }
    if (core_->teardown_count.SetRemaining(pages_left)) Free(core_.get());
  }
  void after() { RL_ASSERT(freed_ == kPages + 1); }

 private:
  struct Level {
    Teardown teardown_count;
    RelacyPlain<int> contents{0};
  };

  // That it happens once is what Level's life marks check.
  void Free(Level* level) {
    ++freed_;
    std::destroy_at(level);
  }

  int freed_ = 0;
  Storage<Level> core_;
  std::array<Storage<Level>, kPages> pages_;
};

int RunAll() {
  ModelRunner runner;
  runner.Exhaustive<PushAgainstTakeAll<2>>("a push against taking all");
  runner.Exhaustive<PushAgainstTakeAll<3>>("two pushes against taking all");
  runner.Exhaustive<PushAgainAgainstPush>("a push again against a push");
  runner.Exhaustive<CloseAgainstPush<2>>("the close against a push");
  runner.Exhaustive<CloseAgainstPush<3>>("the close against two pushes");
  runner.Exhaustive<TeardownInTwoLevels<1>>("a departure from a page");
  runner.Exhaustive<TeardownInTwoLevels<2>>("teardown_count from two pages");
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
