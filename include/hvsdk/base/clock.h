// SPDX-License-Identifier: Apache-2.0
// Time, as the core sees it: one clock and one queue of timers, both given from outside.
//
// Nothing below the vmm library reads a host clock. A machine on KVM gets a clock derived from the guest's TSC and a
// queue served by a thread; a deterministic machine gets both from its instruction counter; a test turns the
// hands itself (base/fake_clock.h).

#ifndef HVSDK_BASE_CLOCK_H_
#define HVSDK_BASE_CLOCK_H_

#include <cstdint>
#include <memory>

#include "absl/functional/any_invocable.h"

namespace hvsdk {

// Reference time: 100 ns units since the partition was created, never going back (TLFS 12.3). Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual uint64_t Now100ns() const = 0;
};

// A one-shot timer. Thread-safe.
class Timer {
 public:
  // Cancels; when the destructor returns, the callback is neither running nor going to run. Hence a callback must not
  // destroy its own timer, nor wait for a lock that is held while it is destroyed.
  virtual ~Timer() = default;

  // Runs the callback once at or soon after `deadline_100ns`, in place of any earlier deadline. A deadline that has
  // passed fires as soon as possible, never from inside Arm.
  virtual void Arm(uint64_t deadline_100ns) = 0;

  // The callback does not run for the deadlines set so far, unless it is running already.
  virtual void Cancel() = 0;
};

// Makes timers that share a clock. Thread-safe. Callbacks run one at a time on a thread of the queue's choosing, with
// no lock of the queue held; they must be short.
class TimerQueue {
 public:
  virtual ~TimerQueue() = default;
  virtual std::unique_ptr<Timer> CreateTimer(absl::AnyInvocable<void()> callback) = 0;
};

}  // namespace hvsdk

#endif  // HVSDK_BASE_CLOCK_H_
