// SPDX-License-Identifier: Apache-2.0
// QueueExecutor: tasks wait until somebody calls RunUntilIdle. For tests, examples and single-threaded programs.
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
  // Runs the oldest task. False: there was none.
  bool RunOne() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (queue_.empty()) return false;
    Task* const task = queue_.front();
    queue_.pop_front();
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
    const auto queued = std::find(queue_.begin(), queue_.end(), &task);
    if (queued != queue_.end()) {
      queue_.erase(queued);
      Unschedule(task);
    }
    if (runner_ != std::this_thread::get_id()) ran_.wait(lock, [&] { return running_ != &task; });
  }

 private:
  void Enqueue(Task& task) override {
    std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(&task);
  }

  std::mutex mutex_;
  std::condition_variable ran_;
  std::deque<Task*> queue_;
  Task* running_ = nullptr;
  std::thread::id runner_;  // the thread of the latest run
};

}  // namespace hvsdk

#endif  // HVSDK_BASE_QUEUE_EXECUTOR_H_
