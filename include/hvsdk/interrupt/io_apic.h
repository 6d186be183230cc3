// SPDX-License-Identifier: Apache-2.0
// An IOAPIC with 24 inputs, as the 82093AA: turns interrupt lines into messages on the APIC bus.
//
// Thread-safe. A decision is made under a lock, the message is delivered after it.
// Source: Intel 82093AA datasheet, section 3.

#ifndef HVSDK_INTERRUPT_IO_APIC_H_
#define HVSDK_INTERRUPT_IO_APIC_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>

#include "absl/status/status.h"
#include "hvsdk/interrupt/apic_bus.h"

namespace hvsdk::interrupt {

// All that an IOAPIC keeps. Plain data.
struct IoApicState {
  uint8_t id = 0;
  uint8_t select = 0;                      // IOREGSEL
  std::array<uint64_t, 24> redirection{};  // with delivery status and remote IRR
  uint32_t lines = 0;                      // the inputs' levels
};

class IoApic {
 public:
  static constexpr uint32_t kPins = 24;
  static constexpr uint64_t kDefaultGpa = 0xFEC00000;

  // Attaches itself to the bus, which outlives it.
  explicit IoApic(ApicBus& bus, uint8_t id = 0);

  // Back to power-on: every input masked and low.
  void Reset();

  // No VP runs, and nobody drives a line meanwhile. Restore sends nothing: what was sent is in the local APICs' state.
  // Check: InvalidArgument names a field that cannot be so; Restore is for what has passed it.
  IoApicState Save();
  static absl::Status Check(const IoApicState& state);
  void Restore(const IoApicState& state);

  // Drives input `pin`: `level` says that it is asserted, whichever polarity its entry has. Pins that do not exist are ignored,
  // and so is an edge while the pin is masked.
  void SetLine(uint32_t pin, bool level);

  // IOREGSEL at offset 0, IOWIN at 0x10; double words, anything else reads as zero.
  uint32_t ReadMmio(uint32_t offset);
  void WriteMmio(uint32_t offset, uint32_t value);

  // A processor ended a level-triggered interrupt of this vector.
  void OnEoi(uint8_t vector);
  // A processor began to accept interrupts: level-triggered ones that nobody took go out again.
  void Retry();

 private:
  enum class Cause { kEdge, kOther };
  // Whether input `pin` must send now; called under the lock, marks a level-triggered one as sent.
  bool Service(uint32_t pin, Cause cause, InterruptMessage& message);
  void Deliver(uint32_t pin, InterruptMessage message);
  void ServiceAndDeliver(uint32_t pin);
  bool IsHeld(uint32_t pin) const;
  uint32_t ReadRegister() const;
  void WriteRegister(uint32_t value);

  ApicBus& bus_;
  std::mutex mutex_;
  uint32_t select_ = 0;
  const uint8_t first_id_;
  uint8_t id_;
  uint32_t lines_ = 0;  // the inputs' levels
  std::atomic<uint32_t> retries_{0};
  std::array<uint64_t, kPins> redirection_;
};

}  // namespace hvsdk::interrupt

#endif  // HVSDK_INTERRUPT_IO_APIC_H_
