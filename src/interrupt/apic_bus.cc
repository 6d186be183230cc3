// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/interrupt/apic_bus.h"

#include <algorithm>

#include "hvsdk/interrupt/io_apic.h"
#include "hvsdk/interrupt/local_apic.h"

namespace hvsdk::interrupt {
namespace {

bool ById(const LocalApic* apic, uint32_t id) { return apic->id() < id; }

}  // namespace

void ApicBus::Attach(LocalApic* apic) {
  apics_.insert(std::lower_bound(apics_.begin(), apics_.end(), apic->id(), ById), apic);
}

bool ApicBus::Deliver(const InterruptMessage& message) {
  const uint32_t everybody = message.narrow ? 0xFF : 0xFFFFFFFF;
  if (message.mode == DeliveryMode::kLowestPriority) {
    LocalApic* chosen = nullptr;
    for (LocalApic* apic : apics_) {
      if (!apic->accepts_fixed() || !apic->IsAddressed(message.destination, message.logical, message.narrow)) continue;
      if (chosen == nullptr || apic->processor_priority() < chosen->processor_priority()) chosen = apic;
    }
    return chosen != nullptr && chosen->Accept(message);
  }
  if (!message.logical && message.destination != everybody) {
    const auto found = std::lower_bound(apics_.begin(), apics_.end(), message.destination, ById);
    return found != apics_.end() && (*found)->id() == message.destination && (*found)->Accept(message);
  }
  bool accepted = false;
  for (LocalApic* apic : apics_) {
    if (apic->IsAddressed(message.destination, message.logical, message.narrow)) accepted |= apic->Accept(message);
  }
  return accepted;
}

void ApicBus::DeliverMsi(uint64_t address, uint32_t data) {
  if ((address & 0xFFF00000) != 0xFEE00000) return;
  // Seven more bits of a physical destination stand in address bits 11:5, the convention that lets a guest without
  // interrupt remapping address up to 32768 processors (CPUID 0x40000082 on Hyper-V, KVM_FEATURE_MSI_EXT_DEST_ID
  // on KVM).
  const uint32_t high = static_cast<uint32_t>(address >> 5) & 0x7F;
  Deliver({.destination = (static_cast<uint32_t>(address >> 12) & 0xFF) | high << 8,
           .logical = (address & 4) != 0,
           .narrow = high == 0,
           .mode = static_cast<DeliveryMode>((data >> 8) & 7),
           .level = (data & 0x8000) != 0,
           .vector = static_cast<uint8_t>(data)});
}

void ApicBus::DeliverToAll(const InterruptMessage& message, const LocalApic* except) {
  for (LocalApic* apic : apics_) {
    if (apic != except) apic->Accept(message);
  }
}

void ApicBus::BroadcastEoi(uint8_t vector) {
  for (IoApic* io_apic : io_apics_) io_apic->OnEoi(vector);
}

void ApicBus::RetryHeld() {
  for (IoApic* io_apic : io_apics_) io_apic->Retry();
}

}  // namespace hvsdk::interrupt
