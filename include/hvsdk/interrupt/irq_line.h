// SPDX-License-Identifier: Apache-2.0
// The wire from a device to an input of the interrupt controller.
//
// A device decides its level under its own lock and drives the wire after it, because driving calls out. Two threads
// that do so at once must not leave the wire at the older level, nor swallow an edge: ISA inputs are edge-triggered,
// and a lost edge is a device that never interrupts again. So Want counts transitions in the order they were decided,
// and Drive lets one thread at a time carry out what has been decided so far.
//
//   bool drive;
//   {
//     std::lock_guard lock(mutex_);
//     pending_ |= kReceived;
//     drive = line_.Want(pending_ & enabled_);
//   }
//   if (drive) line_.Drive();

#ifndef HVSDK_INTERRUPT_IRQ_LINE_H_
#define HVSDK_INTERRUPT_IRQ_LINE_H_

#include <atomic>
#include <cstdint>
#include <utility>

#include "absl/functional/any_invocable.h"

namespace hvsdk::interrupt {

class IrqLine {
 public:
  // `sink` gets each level, from any thread but never from two at once. The wire begins low.
  explicit IrqLine(absl::AnyInvocable<void(bool level)> sink) : sink_(std::move(sink)) {}
  IrqLine(const IrqLine&) = delete;
  IrqLine& operator=(const IrqLine&) = delete;

  // Decides the level. Under the device's lock. True: it changed, and the caller must Drive.
  [[nodiscard]] bool Want(bool level) {
    const uint32_t transitions = transitions_.load(std::memory_order_relaxed);
    if ((transitions & 1) == level) return false;
    transitions_.store(transitions + 1, std::memory_order_release);
    return true;
  }

  // The wire is at this level already: after a restore or a reset of what it leads to. Nobody else uses it meanwhile.
  void Adopt(bool level) {
    driven_ = level ? 1 : 0;
    transitions_.store(driven_, std::memory_order_relaxed);
  }
  bool level() const { return (transitions_.load(std::memory_order_relaxed) & 1) != 0; }

  // Carries out what was decided before the call, or leaves it to a thread that is doing so. Without the lock.
  void Drive() {
    // Pairs with the exchange below: either we become the driver, or the driver sees our count and looks once more.
    uint32_t callers = callers_.fetch_add(1, std::memory_order_acq_rel) + 1;
    if (callers != 1) return;
    do {
      const uint32_t wanted = transitions_.load(std::memory_order_acquire);
      if (wanted == driven_) continue;
      const bool level = wanted & 1;
      // The same level again after an excursion: the edge must be seen.
      if (((wanted ^ driven_) & 1) == 0) sink_(!level);
      sink_(level);
      driven_ = wanted;
    } while (!callers_.compare_exchange_strong(callers, 0, std::memory_order_acq_rel));
  }

 private:
  absl::AnyInvocable<void(bool level)> sink_;
  std::atomic<uint32_t> transitions_{0};  // odd: high
  std::atomic<uint32_t> callers_{0};
  uint32_t driven_ = 0;  // the driver's
};

}  // namespace hvsdk::interrupt

#endif  // HVSDK_INTERRUPT_IRQ_LINE_H_
