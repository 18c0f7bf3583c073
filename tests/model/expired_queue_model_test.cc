// The queue between the threads that release referents and the container whose entries expire.
#include <array>
#include <memory>

#include "tests/model/model.h"
#include "tests/model/relacy_policy.h"

namespace weakcache::model {
namespace {

using Watcher = internal::BasicWatcher<RelacyAtomics>;

// A queue whose memory is the model's.
class Queue final : public internal::BasicExpiredQueue<RelacyAtomics> {
 public:
  explicit Queue(int* freed) : freed_(freed) {}
  void Free() {
    RL_ASSERT((*freed_)++ == 0);
    std::destroy_at(this);
  }
  void OnExpired(Watcher* watcher) noexcept override;

 private:
  int* const freed_;
};

// A container's entry: what the releasing thread leaves in it, the container finds.
struct Entry : Watcher {
  explicit Entry(Queue* queue) : Watcher(queue) {}
  RelacyPlain<int> expired{0};
  int arrived = 0;
};

void Queue::OnExpired(Watcher* watcher) noexcept {
  auto* const entry = static_cast<Entry*>(watcher);
  entry->expired = entry->expired + 1;
  if (Push(watcher)) Free();
}

// A queue and some entries in one container.
template <typename Derived, int kThreads, int kEntries>
class QueueModel : public rl::test_suite<Derived, kThreads> {
 public:
  void before() {
    ++current_schedule;
    queue_.Create(&freed_);
    for (Storage<Entry>& entry : entries_) entry.Create(queue_.get());
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
  Queue& queue() { return *queue_.get(); }
  Entry& entry(int index) { return *entries_[index].get(); }

  // What the container does with what it takes; returns how many.
  size_t Drain(Watcher* first) {
    size_t count = 0;
    for (Watcher* watcher = first; watcher != nullptr; watcher = watcher->next()) {
      auto* const entry = static_cast<Entry*>(watcher);
      RL_ASSERT(entry->expired == 1);
      RL_ASSERT(entry->arrived++ == 0);
      ++count;
    }
    return count;
  }
  void Close(size_t taken, size_t arrived) {
    arrived += Drain(queue().Close());
    if (queue().LeaveTo(taken - arrived)) queue().Free();
  }

 private:
  int freed_ = 0;
  Storage<Queue> queue_;
  std::array<Storage<Entry>, kEntries> entries_;
};

// The last thread is the container, each other one brings an entry.
template <int kThreads>
class PushAgainstTakeAll : public QueueModel<PushAgainstTakeAll<kThreads>, kThreads, kThreads - 1> {
 public:
  void Thread(unsigned index) {
    if (index < kThreads - 1) {
      this->queue().OnTaken();
      this->queue().OnExpired(&this->entry(index));
    } else {
      for (int i = 0; i < 2; ++i) arrived_ += this->Drain(this->queue().TakeAll());
    }
  }
  void Finish() {
    RL_ASSERT(this->queue().expired_count() == kThreads - 1);
    arrived_ += this->Drain(this->queue().TakeAll());
    RL_ASSERT(arrived_ == kThreads - 1);
    this->Close(arrived_, arrived_);
  }

 private:
  size_t arrived_ = 0;
};

// An entry that goes through the queue, into another referent's list, and again through the queue,
// while a second one is being pushed: the head's old value comes back.
class PushAgainAgainstPush : public QueueModel<PushAgainAgainstPush, 2, 2> {
 public:
  void Thread(unsigned index) {
    if (index == 0) {
      queue().OnExpired(&entry(0));
      return;
    }
    queue().OnExpired(&entry(1));
    for (Watcher* watcher = queue().TakeAll(); watcher != nullptr;) {
      auto* const entry = static_cast<Entry*>(watcher);
      watcher = watcher->next();
      RL_ASSERT(entry->expired == 1);
      entry->expired = 0;
      if (entry == &this->entry(1)) {
        queue().OnExpired(entry);
      } else {
        ++entry->arrived;
      }
    }
  }
  void Finish() {
    Drain(queue().TakeAll());
    RL_ASSERT(entry(0).arrived == 1 && entry(1).arrived == 1);
    Close(0, 0);
  }
};

// As a container's end: all entries have been taken off their lists, some are still to come.
template <int kThreads>
class CloseAgainstPush : public QueueModel<CloseAgainstPush<kThreads>, kThreads, kThreads - 1> {
 public:
  void Prepare() {
    for (int i = 0; i < kThreads - 1; ++i) this->queue().OnTaken();
  }
  void Thread(unsigned index) {
    if (index < kThreads - 1) {
      this->queue().OnExpired(&this->entry(index));
    } else {
      const size_t arrived = this->Drain(this->queue().TakeAll());
      this->Close(this->queue().expired_count(), arrived);
    }
  }
};

// The whole way: the last release of a watched referent against the end of the container.
class ContainerEndAgainstExpiry : public QueueModel<ContainerEndAgainstExpiry, 2, 1> {
 public:
  void Prepare() {
    block_.Create(&fate_);
    block_->AddWeak();
    block_->AddWatcher(&entry(0));
  }
  void Thread(unsigned index) {
    if (index == 0) {
      block_->UseAndRelease();
      return;
    }
    const bool cancelled = block_->RemoveWatcher(&entry(0));
    RL_ASSERT(queue().expired_count() == (cancelled ? 0 : 1));
    block_->ReleaseWeak();
    Close(queue().expired_count(), 0);
  }
  void Finish() { RL_ASSERT(fate_.Over()); }

 private:
  Fate fate_;
  Storage<ModelBlock> block_;
};

int RunAll() {
  ModelRunner runner;
  runner.Exhaustive<PushAgainstTakeAll<2>>("a push against taking all");
  runner.Exhaustive<PushAgainstTakeAll<3>>("two pushes against taking all");
  runner.Exhaustive<PushAgainAgainstPush>("a push again against a push");
  runner.Exhaustive<CloseAgainstPush<2>>("the close against a push");
  runner.Exhaustive<CloseAgainstPush<3>>("the close against two pushes");
  runner.Bounded<ContainerEndAgainstExpiry>("the container's end against expiry", 4);
  return runner.result();
}

}  // namespace
}  // namespace weakcache::model

int main() { return weakcache::model::RunAll(); }
