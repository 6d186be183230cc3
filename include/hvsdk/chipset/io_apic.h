// SPDX-License-Identifier: Apache-2.0
// An IOAPIC with 24 inputs, as the 82093AA: turns interrupt lines into messages on the APIC bus.
//
// Thread-safe. A decision is made under a lock, the message is delivered after it.
// Source: Intel 82093AA datasheet, section 3.

#ifndef HVSDK_CHIPSET_IO_APIC_H_
#define HVSDK_CHIPSET_IO_APIC_H_

#include <array>
#include <cstdint>
#include <mutex>

#include "hvsdk/chipset/apic_bus.h"

namespace hvsdk::chipset {

class IoApic {
 public:
  static constexpr uint32_t kPins = 24;
  static constexpr uint64_t kDefaultGpa = 0xFEC00000;

  // Attaches itself to the bus, which outlives it.
  explicit IoApic(ApicBus& bus, uint8_t id = 0);

  // Drives input `pin`; pins that do not exist are ignored.
  void SetLine(uint32_t pin, bool level);

  // IOREGSEL at offset 0, IOWIN at 0x10; double words, anything else reads as zero.
  uint32_t ReadMmio(uint32_t offset);
  void WriteMmio(uint32_t offset, uint32_t value);

  // A processor ended a level-triggered interrupt of this vector.
  void OnEoi(uint8_t vector);

 private:
  // Whether input `pin` must send now; called under the lock, marks a level-triggered one as sent.
  bool Service(uint32_t pin, InterruptMessage& message);
  void ServiceAndDeliver(uint32_t pin);
  uint32_t ReadRegister() const;
  void WriteRegister(uint32_t value);

  ApicBus& bus_;
  std::mutex mutex_;
  uint32_t select_ = 0;
  uint8_t id_;
  uint32_t lines_ = 0;    // the inputs' levels
  uint32_t pending_ = 0;  // edges not yet sent because their pin is masked
  std::array<uint64_t, kPins> redirection_;
};

}  // namespace hvsdk::chipset

#endif  // HVSDK_CHIPSET_IO_APIC_H_
