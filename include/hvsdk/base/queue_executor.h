// SPDX-License-Identifier: Apache-2.0
// QueueExecutor: tasks wait until somebody calls RunUntilIdle. For tests, examples and single-threaded programs.
//
// If it is told so, it knows when it is idle: when no other task is left.
//
// Thread-safe; one thread at a time runs.
//
//   QueueExecutor executor;
//   executor.Schedule(task);
//   executor.RunUntilIdle();  // task.Run() and whatever it schedules

#ifndef HVSDK_BASE_QUEUE_EXECUTOR_H_
#define HVSDK_BASE_QUEUE_EXECUTOR_H_

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <thread>

#include "hvsdk/base/executor.h"

namespace hvsdk {

class QueueExecutor final : public Executor {
 public:
  QueueExecutor() = default;
  explicit QueueExecutor(bool knows_idle) : knows_idle_(knows_idle) {}

  bool knows_idle() const override { return knows_idle_; }

  // Runs the oldest task, and of those that wait until it is idle the oldest when there is no other. False: there was none.
  bool RunOne() {
    std::unique_lock<std::mutex> lock(mutex_);
    std::deque<Task*>& queue = queue_.empty() ? idle_queue_ : queue_;
    if (queue.empty()) return false;
    Task* const task = queue.front();
    queue.pop_front();
    running_ = task;
    runner_ = std::this_thread::get_id();
    lock.unlock();
    RunTask(*task);
    lock.lock();
    running_ = nullptr;
    ran_.notify_all();
    return true;
  }

  // Runs until the queue is empty; answers how many tasks it ran.
  size_t RunUntilIdle() {
    size_t count = 0;
    while (RunOne()) ++count;
    return count;
  }

  void Drain(Task& task) override {
    std::unique_lock<std::mutex> lock(mutex_);
    for (std::deque<Task*>* queue : {&queue_, &idle_queue_}) {
      const auto queued = std::find(queue->begin(), queue->end(), &task);
      if (queued == queue->end()) continue;
      queue->erase(queued);
      Unschedule(task);
    }
    if (runner_ != std::this_thread::get_id()) ran_.wait(lock, [&] { return running_ != &task; });
  }

 private:
  void Enqueue(Task& task) override {
    std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(&task);
  }
  void EnqueueWhenIdle(Task& task) override {
    std::lock_guard<std::mutex> lock(mutex_);
    (knows_idle_ ? idle_queue_ : queue_).push_back(&task);
  }

  const bool knows_idle_ = false;
  std::mutex mutex_;
  std::condition_variable ran_;
  std::deque<Task*> queue_;
  std::deque<Task*> idle_queue_;
  Task* running_ = nullptr;
  std::thread::id runner_;  // the thread of the latest run
};

}  // namespace hvsdk

#endif  // HVSDK_BASE_QUEUE_EXECUTOR_H_
