// SPDX-License-Identifier: Apache-2.0
// Where work runs that must not run on the caller's stack: an event loop in a machine, a plain queue in a test.
//
// An Executor is thread-safe: Schedule and Drain from anywhere. A Task belongs to one executor, never runs twice at a
// time, and costs no allocation to schedule.
//
//   struct Refill : Task {
//     void Run() override { ... }                // on the executor
//   } refill;
//   executor.Schedule(refill), executor.Schedule(refill);   // at least one run begins after this
//   executor.Drain(refill);                      // before it is destroyed

#ifndef HVSDK_BASE_EXECUTOR_H_
#define HVSDK_BASE_EXECUTOR_H_

#include <atomic>

namespace hvsdk {

// A piece of recurring work, such as "look at this channel's ring". It is scheduled without allocating, and any number
// of wake-ups before it starts make one run.
class Task {
 public:
  virtual ~Task() = default;
  virtual void Run() = 0;

 private:
  friend class Executor;
  std::atomic<bool> scheduled_{false};
};

// Runs tasks, one at a time and in the order they were scheduled. Thread-safe.
//
// A task that is destroyed must not be scheduled: its owner calls Drain first.
class Executor {
 public:
  virtual ~Executor() = default;

  // Runs `task` soon, once for all calls since it last started. What the caller wrote before is visible to the run.
  void Schedule(Task& task) {
    // Pairs with the exchange in RunTask: either the run that follows sees our writes, or we see `false` and queue it.
    if (!task.scheduled_.exchange(true, std::memory_order_acq_rel)) Enqueue(task);
  }

  // Whether it can tell when the host has a processor to spare. The answer may change at any time.
  virtual bool knows_idle() const { return false; }
  // As Schedule, but whatever else wants a processor of the host's goes first, for a millisecond or two at most: for work
  // that is cheaper done later, when there is more of it. Calls of Schedule meanwhile do not hasten it. An executor that does
  // not know treats it as Schedule.
  void ScheduleWhenIdle(Task& task) {
    if (!task.scheduled_.exchange(true, std::memory_order_acq_rel)) EnqueueWhenIdle(task);
  }

  // Returns when `task` is neither queued nor running. Called on the executor's own thread it takes the task out of the
  // queue and returns at once.
  virtual void Drain(Task& task) = 0;

 protected:
  // Queues a task that is not queued.
  virtual void Enqueue(Task& task) = 0;
  virtual void EnqueueWhenIdle(Task& task) { Enqueue(task); }

  // Runs a task that was taken from the queue.
  static void RunTask(Task& task) {
    task.scheduled_.exchange(false, std::memory_order_acq_rel);
    task.Run();
  }
  static void Unschedule(Task& task) { task.scheduled_.store(false, std::memory_order_release); }
};

}  // namespace hvsdk

#endif  // HVSDK_BASE_EXECUTOR_H_
