// SPDX-License-Identifier: Apache-2.0
#ifdef WEAKCACHE_REDIS_TIER  // else this file is empty: see "Plain" in README.md
#include "weakcache/cache/internal/redis/dispatcher.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <thread>
#include <utility>
#include <vector>

namespace weakcache::internal {
namespace {

bool IsChange(const Notice& notice) {
  return notice.kind == Notice::Kind::kChanged || notice.kind == Notice::Kind::kGroupErased;
}

void TellOne(TierListener& listener, const Notice& notice) {
  switch (notice.kind) {
    case Notice::Kind::kChanged:
      return listener.OnChanged(notice.key);
    case Notice::Kind::kGroupErased:
      return listener.OnGroupErased(notice.group);
    case Notice::Kind::kAllErased:
      return listener.OnAllErased();
    case Notice::Kind::kDisconnected:
      return listener.OnDisconnected();
    case Notice::Kind::kConnected:
      return listener.OnConnected();
    case Notice::Kind::kTask:
      return;
  }
}

template <typename T>
bool TryReserve(std::vector<T>& vector, size_t size) {
#ifdef __cpp_exceptions
  try {
    vector.reserve(size);
  } catch (const std::bad_alloc&) {
    return false;
  }
#else
  vector.reserve(size);
#endif
  return true;
}

}  // namespace

void Dispatcher::Start() {
  thread_ = std::thread([self = shared_from_this()] { self->Run(); });
}

void Dispatcher::Stop() {
  {
    const MutexLock lock(mutex_);
    stop_ = true;
  }
  changed_.NotifyAll();
  told_condition_.NotifyAll();
  // A listener may have had the last reference to the tier.
  if (thread_.get_id() == std::this_thread::get_id()) {
    thread_.detach();
  } else {
    thread_.join();
  }
}

void Dispatcher::Post(Notice notice) {
  {
    const MutexLock lock(mutex_);
    PostLocked(std::move(notice));
  }
  changed_.NotifyAll();
}

void Dispatcher::PostLocked(Notice notice) {
  if (notice.kind == Notice::Kind::kConnected) connected_ = true;
  if (notice.kind == Notice::Kind::kDisconnected) connected_ = false;
  if (IsChange(notice) && ++changes_ > kMaxNotices) {
    std::erase_if(notices_, IsChange);
    changes_ = 0;
    notice = {.kind = Notice::Kind::kAllErased};
  }
  notice.number = ++posted_;
  notices_.push_back(std::move(notice));
}

void Dispatcher::Add(std::weak_ptr<TierListener> listener) {
  {
    const MutexLock lock(mutex_);
    std::erase_if(listeners_, [](const auto& other) { return other.listener.expired(); });
    listeners_.push_back(
        {.listener = std::move(listener), .first = posted_ + 1, .connected = connected_});
    // For that listener, which is told first whether the tier is connected.
    PostLocked({.kind = Notice::Kind::kTask});
  }
  changed_.NotifyAll();
}

void Dispatcher::Run() {
  while (true) {
    Notice notice;
    {
      const MutexLock lock(mutex_);
      changed_.Wait(mutex_,
                    [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stop_ || !notices_.empty(); });
      if (notices_.empty()) return;
      notice = std::move(notices_.front());
      notices_.pop_front();
      if (IsChange(notice)) --changes_;
    }
    Tell(notice);
    {
      const MutexLock lock(mutex_);
      told_ = notice.number;
    }
    told_condition_.NotifyAll();
  }
}

bool Dispatcher::AwaitTold(std::chrono::steady_clock::time_point deadline) {
  const bool may_wait = std::this_thread::get_id() != thread_.get_id();
  const MutexLock lock(mutex_);
  const uint64_t last = posted_;
  if (!may_wait) return told_ >= last;
  told_condition_.WaitUntil(
      mutex_, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stop_ || told_ >= last; }, deadline);
  return told_ >= last;
}

size_t Dispatcher::CountListeners() {
  const MutexLock lock(mutex_);
  return listeners_.size();
}

void Dispatcher::Tell(const Notice& notice) {
  if (notice.task) notice.task();
  const Notice connected = {.kind = Notice::Kind::kConnected};
  const Notice disconnected = {.kind = Notice::Kind::kDisconnected};
  std::vector<std::pair<std::shared_ptr<TierListener>, const Notice*>> calls;
  for (bool is_done = false; !is_done;) {
    // A notice must not be lost for want of memory, nor others wait for that under the lock.
    while (!TryReserve(calls, 2 * CountListeners())) std::this_thread::yield();
    const MutexLock lock(mutex_);
    if (calls.capacity() < 2 * listeners_.size()) continue;
    is_done = true;
    // No listener's last reference is dropped here: user code would run under the lock.
    for (Listener& added : listeners_) {
      if (notice.number < added.first) continue;
      if (added.told && notice.kind == Notice::Kind::kTask) continue;
      std::shared_ptr<TierListener> listener = added.listener.lock();
      if (listener == nullptr) continue;
      if (!std::exchange(added.told, true)) {
        calls.emplace_back(listener, added.connected ? &connected : &disconnected);
      }
      if (notice.kind != Notice::Kind::kTask) calls.emplace_back(std::move(listener), &notice);
    }
  }
  for (const auto& [listener, call] : calls) TellOne(*listener, *call);
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_REDIS_TIER
