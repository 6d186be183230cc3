// SPDX-License-Identifier: Apache-2.0
// EventLoop: one thread of I/O, of a machine or of several. It runs tasks (base/executor.h), watches file descriptors (epoll) and
// serves timers (LoopTimers).
//
// Thread class: Schedule, Drain and Stop are thread-safe; Watch and Unwatch are called on the loop's thread or while it
// does not run. Tasks and callbacks run on the thread inside Run, with no lock of the loop's held.
//
//   const absl::StatusOr<std::unique_ptr<EventLoop>> made = EventLoop::Create();
//   if (!made.ok()) return made.status();
//   EventLoop& loop = **made;
//   const absl::Status status = loop.Watch(fd, EPOLLIN, [&](uint32_t events) { ... });
//   if (status.ok()) loop.Run();  // until somebody calls loop.Stop()
//
// Stop ends Run soon, whatever tasks, timers and descriptors still want: each turn of a task has to be short (tens of
// milliseconds), but they may go on for ever.

#ifndef HVSDK_OS_EVENT_LOOP_H_
#define HVSDK_OS_EVENT_LOOP_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/base/clock.h"
#include "hvsdk/base/executor.h"

namespace hvsdk::internal {
class IdleWatch;
}

namespace hvsdk::os {

class EventLoop final : public Executor {
 public:
  // Internal or ResourceExhausted: the host has no more descriptors.
  static absl::StatusOr<std::unique_ptr<EventLoop>> Create();
  ~EventLoop() override;

  // Calls `callback` with the epoll events whenever there are any of `events` at `fd`, level-triggered.
  absl::Status Watch(int fd, uint32_t events, absl::AnyInvocable<void(uint32_t)> callback);
  // The callback is not called any more. Allowed from within it.
  void Unwatch(int fd);

  // Works until Stop. What was scheduled before Stop has its turn first, once each, and for no longer than 100 ms
  // together; whatever is scheduled then stays so, for the next Run or for Drain.
  void Run();
  void Stop();
  // As Run, but for no longer than `limit`. False: that was over first.
  bool RunFor(std::chrono::milliseconds limit);

  // For a thread that has other work beside the loop's: does what is scheduled and ready by now, and comes back. With
  // `wait`, sleeps until there is something, if there was nothing.
  void RunOnce(bool wait);

  // Inside Run and RunFor; a thread that has other work does not wait for an idle processor.
  bool knows_idle() const override;

  // Takes `task` out of the queue; if it is running on another thread, waits for it.
  void Drain(Task& task) override;

 protected:
  void Enqueue(Task& task) override;
  void EnqueueWhenIdle(Task& task) override;

 private:
  struct Watched;
  EventLoop(int epoll_fd, int wake_fd);
  // The first `count` of the queue, or as many as there are. False: there was none.
  bool RunTasks(size_t count, std::chrono::steady_clock::time_point deadline);
  // Sleeps until there is something, or for `timeout_ms` if that is not negative.
  void PollDescriptors(int timeout_ms);
  bool RunUntil(std::chrono::steady_clock::time_point deadline);
  // Ends the wait for descriptors; without mutex_.
  void WakeUp() const;
  // On the watch's thread.
  void OnIdle();
  // With mutex_ held.
  void EndIdleWait();

  const int epoll_fd_;
  const int wake_fd_;

  // The loop's thread only. A watch that was removed stays until the events at hand have been gone through.
  std::map<int, std::unique_ptr<Watched>> watched_;
  std::deque<std::unique_ptr<Watched>> removed_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable task_done_;
  std::deque<Task*> queue_;
  Task* running_ = nullptr;
  std::thread::id thread_;
  bool sleeping_ = false;
  bool stop_ = false;
  // For an idle processor, or a moment, whichever comes first. The watch is made when it is first needed.
  std::deque<Task*> idle_queue_;
  std::chrono::steady_clock::time_point idle_deadline_;
  std::unique_ptr<internal::IdleWatch> idle_watch_;
  bool has_no_idle_watch_ = false;  // the host refused it
  std::atomic<bool> is_running_{false};
};

// Timers on a loop's thread, on the time of a partition's reference clock. Thread-safe.
//
// Arming costs no allocation, and a system call only if the timer is the next to fire.
class LoopTimers final : public TimerQueue {
 public:
  // `loop` and `clock` outlive the queue, which outlives its timers. Made and destroyed while the loop does not run, or
  // on its thread, but not from within a timer's callback.
  static absl::StatusOr<std::unique_ptr<LoopTimers>> Create(EventLoop& loop, const Clock& clock);
  ~LoopTimers() override;

  std::unique_ptr<Timer> CreateTimer(absl::AnyInvocable<void()> callback) override;

 private:
  class LoopTimer;
  using Deadlines = std::multimap<uint64_t, LoopTimer*>;

  LoopTimers(EventLoop& loop, const Clock& clock, int timer_fd);
  void OnExpired();
  void Program(uint64_t deadline_100ns);

  EventLoop& loop_;
  const Clock& clock_;
  const int timer_fd_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable callback_done_;
  Deadlines deadlines_;
  LoopTimer* running_ = nullptr;
  std::thread::id running_thread_;
  uint64_t programmed_100ns_;  // when the descriptor fires
};

}  // namespace hvsdk::os

#endif  // HVSDK_OS_EVENT_LOOP_H_
