// SPDX-License-Identifier: Apache-2.0
// What the model tests share: a control block that watches its own fate, and how models are run.
#ifndef WEAKCACHE_TESTS_MODEL_MODEL_H_
#define WEAKCACHE_TESTS_MODEL_MODEL_H_

#include <chrono>
#include <iostream>
#include <memory>
#include <new>
#include <ostream>
#include <string>
#include <utility>

#include "tests/model/relacy_policy.h"
#include "tests/support/rounds.h"

namespace weakcache::model {

// Memory for a T that a model creates and the code under test destroys. The memory stays, so that
// a use after the destruction finds the life mark instead of something else.
template <typename T>
class Storage {
 public:
  template <typename... Args>
  T* Create(Args&&... args) {
    return ::new (static_cast<void*>(bytes_)) T(std::forward<Args>(args)...);
  }
  T* get() { return std::launder(reinterpret_cast<T*>(bytes_)); }
  T* operator->() { return get(); }

 private:
  alignas(T) unsigned char bytes_[sizeof(T)];
};

// What has happened to a block and its referent.
struct Fate {
  bool Over() const { return destroyed == 1 && freed == 1; }

  int destroyed = 0;
  int freed = 0;
};

// A control block with a referent that must be there while it is used, and go once. It must not
// look at its own counts in between: an acquire of the model's would hide one that is missing.
class ModelBlock : public internal::BasicControlBlock<RelacyAtomics> {
 public:
  explicit ModelBlock(Fate* fate) : fate_(fate) {}
  virtual ~ModelBlock() = default;

  // The caller holds a strong reference.
  void UseReferent() { RL_ASSERT(alive_ == 1); }
  void UseAndRelease() {
    UseReferent();
    ReleaseStrong();
  }
  // The same, in one step if it is the only reference.
  void UseAndReleaseAsOnly() {
    UseReferent();
    DeferredReleases deferred;
    if (!TryReleaseOnlyStrong(deferred)) ReleaseStrong(deferred);
  }

 private:
  // What the referent's destructor does.
  virtual void RunDestructor() {}

  void Expire() noexcept override {
    RL_ASSERT(fate_->destroyed++ == 0);
    alive_ = 0;
    RunDestructor();
    FinishExpiry();
  }
  void FreeBlock() noexcept override {
    RL_ASSERT(fate_->destroyed == 1);
    RL_ASSERT(fate_->freed++ == 0);
    std::destroy_at(this);
  }

  Fate* const fate_;
  RelacyPlain<int> alive_{1};
};

// A model with one block. Derived has Thread(unsigned); Prepare() and Finish() run before and after
// all threads, with everything ordered.
template <typename Derived, int kThreads, typename Block = ModelBlock>
class BlockModel : public rl::test_suite<Derived, kThreads> {
 public:
  void before() {
    ++current_schedule;
    block_.Create(&fate_);
    static_cast<Derived*>(this)->Prepare();
  }
  void thread(unsigned index) { static_cast<Derived*>(this)->Thread(index); }
  void after() {
    static_cast<Derived*>(this)->Finish();
    RL_ASSERT(fate_.Over());
  }

 protected:
  void Prepare() {}
  void Finish() {}
  ModelBlock& block() { return *block_.get(); }
  const Fate& fate() const { return fate_; }

 private:
  Fate fate_;
  Storage<Block> block_;
};

// Runs models and prints for each how many schedules passed. The first that fails ends the run,
// with the history of the schedule that failed.
class ModelRunner {
 public:
  // Every interleaving, with the spurious failures that Relacy tries, and for each load the last
  // value and the one before. (Of older ones the random search tries one more.)
  template <typename Model>
  void Exhaustive(const char* name) {
    rl::test_params params;
    params.search_type = rl::fair_full_search_scheduler_type;
    Run<Model, rl::full_search_scheduler<Model::params::thread_count>>(name, "exhaustive", params);
  }

  // For a model with too many interleavings: every one that takes the turn away from a thread at
  // most `preemptions` times, and then `random_schedules` others. Unless AllRounds(), one
  // preemption less (but at least one, if there is to be any) and a tenth of the others.
  template <typename Model>
  void Bounded(const char* name, unsigned preemptions, rl::iteration_t random_schedules = 500'000) {
    if (!testing::AllRounds()) {
      if (preemptions > 0) --preemptions;
      random_schedules /= 4;
    }
    rl::test_params params;
    params.search_type = rl::fair_context_bound_scheduler_type;
    params.context_bound = preemptions;
    const std::string mode = "exhaustive up to " + std::to_string(preemptions) + " preemptions";
    Run<Model, rl::context_bound_scheduler<Model::params::thread_count>>(name, mode.c_str(),
                                                                         params);
    params = rl::test_params();
    params.search_type = rl::random_scheduler_type;
    params.iteration_count = random_schedules;
    Run<Model, rl::random_scheduler<Model::params::thread_count>>(name, "random", params);
  }

  // For main to return.
  int result() const { return failed_ ? 1 : 0; }

 private:
  // As rl::simulate, which instantiates each model for all schedulers and says less.
  template <typename Model, typename Scheduler>
  void Run(const char* name, const char* mode, rl::test_params& params) {
    if (failed_) return;
    std::ostream nowhere(nullptr);
    params.progress_stream = &nowhere;
    params.output_stream = &std::cout;
    rl::ostringstream schedule;
    const auto start = std::chrono::steady_clock::now();
    failed_ = rl::run_test<Model, Scheduler>(params, schedule, false) != rl::test_result_success;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::cout << (failed_ ? "FAILED: " : "passed: ") << name << ": " << params.stop_iteration
              << " schedules, " << mode << ", " << seconds.count() << " s" << std::endl;
    if (!failed_) return;
    // Once more the schedule that failed, to print what happened in it.
    params.initial_state = schedule.str();
    params.collect_history = true;
    rl::run_test<Model, Scheduler>(params, schedule, true);
  }

  bool failed_ = false;
};

}  // namespace weakcache::model

#endif  // WEAKCACHE_TESTS_MODEL_MODEL_H_
