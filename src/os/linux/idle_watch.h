// SPDX-License-Identifier: Apache-2.0
// IdleWatch: says when the host has a processor to spare. A thread that the scheduler lets run only where nobody else wants to
// (SCHED_IDLE) is woken, and by running says so.

#ifndef HVSDK_SRC_OS_LINUX_IDLE_WATCH_H_
#define HVSDK_SRC_OS_LINUX_IDLE_WATCH_H_

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "base/host_thread.h"
#include "base/wait_word.h"

namespace hvsdk::internal {

class IdleWatch {
 public:
  // `on_idle` runs on the watch's thread.
  explicit IdleWatch(absl::AnyInvocable<void()> on_idle) : on_idle_(std::move(on_idle)) {}
  ~IdleWatch();

  // Before all else. ResourceExhausted: the host has no thread to give.
  absl::Status Start();
  // Once a processor is idle after this, on_idle is called. Thread-safe.
  void Ask();

 private:
  enum : uint32_t { kNothing, kAsked, kStop };
  void Run();

  absl::AnyInvocable<void()> on_idle_;
  WaitWord word_{kNothing};
  HostThread thread_;
};

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_OS_LINUX_IDLE_WATCH_H_
