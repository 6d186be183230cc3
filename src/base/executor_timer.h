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
    deadline_100ns_ = clock_.Now100ns() + static_cast<uint64_t>(time.count()) * 10'000;
    is_armed_ = true;
    timer_->Arm(deadline_100ns_);
  }
  void Cancel() {
    is_armed_ = false;
    timer_->Cancel();
  }
  bool is_armed() const { return is_armed_; }

 private:
  // One that comes from a deadline which was taken back or put off since is none.
  void Run() override {
    if (!is_armed_ || clock_.Now100ns() < deadline_100ns_) return;
    is_armed_ = false;
    callback_();
  }

  const Clock& clock_;
  Executor& executor_;
  absl::AnyInvocable<void()> callback_;
  uint64_t deadline_100ns_ = 0;
  bool is_armed_ = false;
  std::unique_ptr<Timer> timer_;  // last: its callback uses the rest
};

}  // namespace hvsdk

#endif  // HVSDK_SRC_BASE_EXECUTOR_TIMER_H_
