// SPDX-License-Identifier: Apache-2.0
// A clock whose hands a test turns, and a timer queue that runs on it: no thread, no waiting, the same run each time.
//
// Thread-safe, as the interfaces promise: timers may be armed and destroyed on any thread. Callbacks run inside
// AdvanceTo and AdvanceBy, on the thread that calls them (one thread at a time).
//
//   FakeClock clock;
//   FakeTimerQueue timers(clock);
//   auto timer = timers.CreateTimer([&] { fired = true; });
//   timer->Arm(100);
//   timers.AdvanceBy(100);  // fired, and clock.Now100ns() == 100

#ifndef HVSDK_BASE_FAKE_CLOCK_H_
#define HVSDK_BASE_FAKE_CLOCK_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "hvsdk/base/clock.h"

namespace hvsdk {

class FakeClock : public Clock {
 public:
  explicit FakeClock(uint64_t now_100ns = 0) : now_100ns_(now_100ns) {}
  uint64_t Now100ns() const override { return now_100ns_.load(std::memory_order_acquire); }
  // Without running timers: what a queue that is late looks like.
  void Set(uint64_t now_100ns) { now_100ns_.store(now_100ns, std::memory_order_release); }
  void Advance(uint64_t delta_100ns) { now_100ns_.fetch_add(delta_100ns, std::memory_order_acq_rel); }

 private:
  std::atomic<uint64_t> now_100ns_;
};

class FakeTimerQueue : public TimerQueue {
 public:
  explicit FakeTimerQueue(FakeClock& clock) : clock_(clock) {}
  // Every timer has been destroyed by now.
  ~FakeTimerQueue() override = default;

  std::unique_ptr<Timer> CreateTimer(absl::AnyInvocable<void()> callback) override {
    return std::make_unique<FakeTimer>(*this, std::move(callback));
  }

  // Turns the clock to `now_100ns`. Each timer that is due by then fires at its own deadline, earliest first, ties in
  // the order they were armed; a deadline in the past fires at the present time.
  void AdvanceTo(uint64_t now_100ns) {
    while (RunNext(now_100ns)) {
    }
    clock_.Set(std::max(now_100ns, clock_.Now100ns()));
  }
  void AdvanceBy(uint64_t delta_100ns) { AdvanceTo(clock_.Now100ns() + delta_100ns); }
  // Fires what is due now, without turning the clock: after FakeClock::Set every timer is late.
  void RunDue() { AdvanceTo(clock_.Now100ns()); }

  // How many timers are armed, and the earliest deadline (all ones if none).
  size_t armed() const {
    std::lock_guard lock(mutex_);
    return deadlines_.size();
  }
  uint64_t next_deadline_100ns() const {
    std::lock_guard lock(mutex_);
    return deadlines_.empty() ? ~uint64_t{0} : deadlines_.begin()->first;
  }

 private:
  class FakeTimer : public Timer {
   public:
    FakeTimer(FakeTimerQueue& queue, absl::AnyInvocable<void()> callback)
        : queue_(queue), callback_(std::move(callback)), position_(queue.deadlines_.end()) {}
    ~FakeTimer() override {
      std::unique_lock lock(queue_.mutex_);
      Disarm();
      queue_.idle_.wait(lock, [&] { return queue_.running_ != this; });
    }
    void Arm(uint64_t deadline_100ns) override {
      std::lock_guard lock(queue_.mutex_);
      Disarm();
      position_ = queue_.deadlines_.emplace(deadline_100ns, this);
    }
    void Cancel() override {
      std::lock_guard lock(queue_.mutex_);
      Disarm();
    }

   private:
    friend class FakeTimerQueue;
    void Disarm() {
      if (position_ != queue_.deadlines_.end()) queue_.deadlines_.erase(position_);
      position_ = queue_.deadlines_.end();
    }

    FakeTimerQueue& queue_;
    absl::AnyInvocable<void()> callback_;
    std::multimap<uint64_t, FakeTimer*>::iterator position_;
  };

  bool RunNext(uint64_t until_100ns) {
    FakeTimer* timer;
    {
      std::lock_guard lock(mutex_);
      if (deadlines_.empty() || deadlines_.begin()->first > until_100ns) return false;
      clock_.Set(std::max(clock_.Now100ns(), deadlines_.begin()->first));
      timer = deadlines_.begin()->second;
      timer->Disarm();
      running_ = timer;
    }
    timer->callback_();
    {
      std::lock_guard lock(mutex_);
      running_ = nullptr;
    }
    idle_.notify_all();
    return true;
  }

  FakeClock& clock_;
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  std::multimap<uint64_t, FakeTimer*> deadlines_;
  FakeTimer* running_ = nullptr;
};

}  // namespace hvsdk

#endif  // HVSDK_BASE_FAKE_CLOCK_H_
