// SPDX-License-Identifier: Apache-2.0
#include "backend_software/host_timers.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace hvsdk::software {

class SortedTimers::SortedTimer final : public Timer {
 public:
  SortedTimer(SortedTimers& owner, absl::AnyInvocable<void()> callback)
      : owner_(owner), callback_(std::move(callback)) {
    // Memory for the deadline is taken once, now: a guest that arms a timer allocates nothing.
    Deadlines one;
    node_ = one.extract(one.emplace(0, this));
  }
  ~SortedTimer() override {
    std::unique_lock lock(owner_.mutex_);
    Remove();
    if (owner_.running_thread_ == std::this_thread::get_id()) return;
    owner_.callback_done_.wait(lock, [&] { return owner_.running_ != this; });
  }

  void Arm(uint64_t deadline_100ns) override {
    bool earlier;
    {
      std::lock_guard lock(owner_.mutex_);
      Remove();
      node_.key() = deadline_100ns;
      at_ = owner_.deadlines_.insert(std::move(node_));
      earlier = at_ == owner_.deadlines_.begin();
    }
    if (earlier) owner_.OnEarlier();
  }
  void Cancel() override {
    std::lock_guard lock(owner_.mutex_);
    Remove();
  }

 private:
  friend class SortedTimers;
  void Remove() {
    if (node_.empty()) node_ = owner_.deadlines_.extract(at_);
  }

  SortedTimers& owner_;
  absl::AnyInvocable<void()> callback_;
  Deadlines::node_type node_;  // empty while armed
  Deadlines::iterator at_;     // while armed
};

std::unique_ptr<Timer> SortedTimers::CreateTimer(absl::AnyInvocable<void()> callback) {
  return std::make_unique<SortedTimer>(*this, std::move(callback));
}

uint64_t SortedTimers::NextDeadline() {
  std::lock_guard lock(mutex_);
  return deadlines_.empty() ? ~uint64_t{0} : deadlines_.begin()->first;
}

void SortedTimers::RunDue(uint64_t now_100ns) {
  std::unique_lock lock(mutex_);
  while (!deadlines_.empty() && deadlines_.begin()->first <= now_100ns) {
    SortedTimer* timer = deadlines_.begin()->second;
    timer->Remove();
    running_ = timer;
    running_thread_ = std::this_thread::get_id();
    lock.unlock();
    timer->callback_();
    lock.lock();
    running_ = nullptr;
    running_thread_ = {};
    callback_done_.notify_all();
  }
}

HostTimers::~HostTimers() {
  {
    std::lock_guard lock(wake_mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  if (thread_.is_running()) thread_.Join();
}

void HostTimers::OnEarlier() {
  {
    std::lock_guard lock(wake_mutex_);
    changed_ = true;
  }
  wake_.notify_one();
}

void HostTimers::Loop() {
  for (;;) {
    RunDue(clock_.Now100ns());
    const uint64_t next = NextDeadline();
    const uint64_t now = clock_.Now100ns();
    std::unique_lock lock(wake_mutex_);
    const auto woken = [&] { return changed_ || stop_; };
    if (next > now) {
      // An hour is as good as never, and cannot overflow.
      const uint64_t delay = std::min<uint64_t>(next - now, uint64_t{36'000'000'000});
      wake_.wait_for(lock, std::chrono::nanoseconds(delay * 100), woken);
    }
    if (stop_) return;
    changed_ = false;
  }
}

}  // namespace hvsdk::software
