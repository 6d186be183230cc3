// SPDX-License-Identifier: Apache-2.0
// A partition's own clock and timer queue, for its local APICs: on the host's time with a thread, or on a count of
// instructions without one.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_HOST_TIMERS_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_HOST_TIMERS_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/status/status.h"
#include "base/host_thread.h"
#include "hvsdk/base/clock.h"

namespace hvsdk::software {

// Timers sorted by deadline; somebody else decides when to run what is due. Thread-safe.
class SortedTimers : public TimerQueue {
 public:
  ~SortedTimers() override = default;
  std::unique_ptr<Timer> CreateTimer(absl::AnyInvocable<void()> callback) override;

  // All ones when nothing is armed.
  uint64_t NextDeadline();
  // Runs the callbacks of all deadlines up to `now_100ns`, in order; on one thread at a time.
  void RunDue(uint64_t now_100ns);

 protected:
  // The earliest deadline moved to an earlier time.
  virtual void OnEarlier() {}

 private:
  class SortedTimer;
  using Deadlines = std::multimap<uint64_t, SortedTimer*>;

  std::mutex mutex_;  // guards what follows
  std::condition_variable callback_done_;
  Deadlines deadlines_;
  SortedTimer* running_ = nullptr;
  std::thread::id running_thread_;
};

// Timers on a thread of their own.
class HostTimers final : public SortedTimers {
 public:
  explicit HostTimers(const Clock& clock) : clock_(clock) {}
  ~HostTimers() override;

  // Before the first timer is due. ResourceExhausted: the host has no thread for it.
  absl::Status Start() {
    return thread_.Start("timers", [this] { Loop(); });
  }

 private:
  void OnEarlier() override;
  void Loop();

  const Clock& clock_;
  std::mutex wake_mutex_;
  std::condition_variable wake_;
  bool changed_ = false;
  bool stop_ = false;
  HostThread thread_;
};

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_HOST_TIMERS_H_
