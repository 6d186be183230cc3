// SPDX-License-Identifier: Apache-2.0
// GuardedTask: work on one executor whose owner, on another, can hold it: while it is held nothing of it runs, and what it uses is the
// owner's. For work that is spread over threads and whose changes are made in one place.
//
// Schedule and ScheduleWhenIdle are thread-safe; the rest is the owner's, one thread at a time. Hold waits for a turn that is under way,
// which must not wait for the owner.
//
//   struct Copy : GuardedTask {
//     using GuardedTask::GuardedTask;
//     ~Copy() override { Hold(); }
//     void Turn() override { ... }  // on the executor, with what `table` points to
//     Table* table = nullptr;
//   } copy(executor);
//   copy.Hold();
//   copy.table = &other;  // nobody looks
//   copy.Release();       // and a turn begins

#ifndef HVSDK_BASE_GUARDED_TASK_H_
#define HVSDK_BASE_GUARDED_TASK_H_

#include <atomic>
#include <cstdint>

#include "hvsdk/base/executor.h"

namespace hvsdk {

class GuardedTask : private Task {
 public:
  explicit GuardedTask(Executor& executor) : executor_(executor) {}
  // A class that derives from this one calls Hold in its destructor, also when it is held already, and nobody schedules it behind that:
  // here it would be too late, the executor must not meet a task that is half gone.
  ~GuardedTask() override = default;
  GuardedTask(const GuardedTask&) = delete;
  GuardedTask& operator=(const GuardedTask&) = delete;

  Executor& executor() const { return executor_; }
  // A turn begins soon, or, while it is held, when it is released.
  void Schedule() { executor_.Schedule(*this); }
  void ScheduleWhenIdle() { executor_.ScheduleWhenIdle(*this); }

  // When it returns no turn is under way, and none begins until Release was called as often; nor has the executor anything of it that was
  // scheduled before the call, if it was held before it, too.
  void Hold() {
    ++holds_;
    // The executor's queue orders it: turns that it does not wait for begin behind.
    is_held_.store(true, std::memory_order_relaxed);
    executor_.Drain(*this);
  }
  // The last one lets a turn begin, which finds what has been left undone.
  void Release() {
    if (--holds_ != 0) return;
    // A turn may have been on its way to the question already: what it answers comes with what the owner has done.
    is_held_.store(false, std::memory_order_release);
    Schedule();
  }
  bool is_held() const { return holds_ != 0; }

 protected:
  virtual void Turn() = 0;

 private:
  void Run() final {
    if (!is_held_.load(std::memory_order_acquire)) Turn();
  }

  Executor& executor_;
  std::atomic<bool> is_held_{false};
  uint32_t holds_ = 0;
};

}  // namespace hvsdk

#endif  // HVSDK_BASE_GUARDED_TASK_H_
