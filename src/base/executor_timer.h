// SPDX-License-Identifier: Apache-2.0
// ExecutorTimer: a timer whose callback runs on an executor, for those who have all of theirs there and no lock.
//
// Thread class: the executor.

#ifndef HVSDK_SRC_BASE_EXECUTOR_TIMER_H_
#define HVSDK_SRC_BASE_EXECUTOR_TIMER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "hvsdk/base/clock.h"
#include "hvsdk/base/executor.h"

namespace hvsdk {

class ExecutorTimer final : private Task {
 public:
  // All outlive it. The callback may arm it again, and must not destroy it.
  ExecutorTimer(TimerQueue& timers, const Clock& clock, Executor& executor, absl::AnyInvocable<void()> callback)
      : clock_(clock),
        executor_(executor),
        callback_(std::move(callback)),
        timer_(timers.CreateTimer([this] { executor_.Schedule(*this); })) {}
  ~ExecutorTimer() override {
    timer_.reset();
    executor_.Drain(*this);
  }

  // In place of any earlier deadline.
  void ArmIn(std::chrono::milliseconds time) {
    left_100ns_ = static_cast<uint64_t>(time.count()) * 10'000;
    is_armed_ = true;
    if (!is_paused_) ArmLeft();
  }
  void Cancel() {
    is_armed_ = false;
    timer_->Cancel();
  }
  bool is_armed() const { return is_armed_; }

  // Its time stands still from Pause until Resume, and what was left then is left. Either may be said again.
  void Pause() {
    if (std::exchange(is_paused_, true) || !is_armed_) return;
    const uint64_t now = clock_.Now100ns();
    left_100ns_ = deadline_100ns_ > now ? deadline_100ns_ - now : 0;
    timer_->Cancel();
  }
  void Resume() {
    if (std::exchange(is_paused_, false) && is_armed_) ArmLeft();
  }

 private:
  void ArmLeft() {
    deadline_100ns_ = clock_.Now100ns() + left_100ns_;
    timer_->Arm(deadline_100ns_);
  }

  // One that comes from a deadline which was taken back or put off since is none.
  void Run() override {
    if (!is_armed_ || is_paused_ || clock_.Now100ns() < deadline_100ns_) return;
    is_armed_ = false;
    callback_();
  }

  const Clock& clock_;
  Executor& executor_;
  absl::AnyInvocable<void()> callback_;
  uint64_t deadline_100ns_ = 0, left_100ns_ = 0;
  bool is_armed_ = false, is_paused_ = false;
  std::unique_ptr<Timer> timer_;  // last: its callback uses the rest
};

}  // namespace hvsdk

#endif  // HVSDK_SRC_BASE_EXECUTOR_TIMER_H_
