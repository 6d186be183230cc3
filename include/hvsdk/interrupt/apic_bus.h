// SPDX-License-Identifier: Apache-2.0
// The bus between interrupt sources and local APICs: who is addressed, and what is asked of him.
//
// Part of the interrupt controller for engines that have none of their own (the software CPU). The bus holds no lock:
// the local APICs are attached before the first VP runs and stay until the last has stopped.
//
// Source: Intel SDM volume 3, 11.6 "Issuing interprocessor interrupts" and 11.11 "Message signalled interrupts".

#ifndef HVSDK_INTERRUPT_APIC_BUS_H_
#define HVSDK_INTERRUPT_APIC_BUS_H_

#include <cstdint>
#include <vector>

namespace hvsdk::interrupt {

class LocalApic;
class IoApic;

enum class DeliveryMode : uint8_t {
  kFixed = 0,
  kLowestPriority = 1,
  kSmi = 2,
  kNmi = 4,
  kInit = 5,
  kStartUp = 6,
  kExtInt = 7,
};

struct InterruptMessage {
  uint32_t destination = 0;
  bool logical = false;
  // The destination field has 8 bits and 0xFF means everybody (xAPIC, IOAPIC, MSI), as against x2APIC's 32 bits.
  bool narrow = true;
  DeliveryMode mode = DeliveryMode::kFixed;
  bool level = false;
  uint8_t vector = 0;
  bool auto_eoi = false;
};

// Thread-safe once everything is attached.
class ApicBus {
 public:
  // `apic` is addressed by its APIC id, which is unique on the bus.
  void Attach(LocalApic* apic);
  void Attach(IoApic* io_apic) { io_apics_.push_back(io_apic); }

  // Delivers to everybody the message addresses. False: nobody took it.
  bool Deliver(const InterruptMessage& message);

  // Delivers what the PCI bus encodes in an address and a data word.
  void DeliverMsi(uint64_t address, uint32_t data);

  // The two shorthands of the ICR.
  void DeliverToAll(const InterruptMessage& message, const LocalApic* except);

  // A local APIC ended a level-triggered interrupt.
  void BroadcastEoi(uint8_t vector);
  // A local APIC was enabled.
  void RetryHeld();

 private:
  std::vector<LocalApic*> apics_;
  std::vector<IoApic*> io_apics_;
};

}  // namespace hvsdk::interrupt

#endif  // HVSDK_INTERRUPT_APIC_BUS_H_
