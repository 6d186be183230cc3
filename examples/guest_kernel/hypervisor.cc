// SPDX-License-Identifier: Apache-2.0
#include "hypervisor.h"

using hvsdk::hvdef::Message;

extern "C" uint64_t hypercall_entry;

namespace {

Page hypercall_page, input_page, output_page, message_page, event_page;

// An open-source operating system (bit 63) of a kind that nobody else is (TLFS, "Reporting the Guest OS Identity").
constexpr uint64_t kGuestOsId = uint64_t{1} << 63 | uint64_t{0x7F} << 56 | 1;

}  // namespace

bool StartHypercalls() {
  hypercall_entry = hypercall_page.gpa();
  return TryWriteMsr(msr::kGuestOsId, kGuestOsId) &&
         TryWriteMsr(msr::kHypercall, hypercall_page.gpa() | msr::kPageEnable) &&
         (ReadMsr(msr::kHypercall) & msr::kPageEnable) != 0;
}

CallResult Call(Control control, const void* input, uint32_t input_size, void* output, uint32_t output_size) {
  __builtin_memcpy(input_page.bytes, input, input_size);
  const uint64_t result = CallHypervisor(control.value, input_page.gpa(), output_page.gpa());
  if (output_size != 0) __builtin_memcpy(output, output_page.bytes, output_size);
  return {hvsdk::hvdef::ResultStatus(result), hvsdk::hvdef::ResultReps(result)};
}

void SetSint(uint32_t sint, uint64_t extra_bits) { TryWriteMsr(msr::kSint0 + sint, SintVector(sint) | extra_bits); }

void StartSynic() {
  for (uint32_t sint = 0; sint < hvsdk::hvdef::kSintCount; ++sint) SetSint(sint);
  TryWriteMsr(msr::kSimp, message_page.gpa() | msr::kPageEnable);
  TryWriteMsr(msr::kSiefp, event_page.gpa() | msr::kPageEnable);
  TryWriteMsr(msr::kScontrol, msr::kScontrolEnable);
}

Message* MessageSlot(uint32_t sint) { return reinterpret_cast<Message*>(message_page.bytes) + sint; }
uint64_t* EventFlags(uint32_t sint) {
  return reinterpret_cast<uint64_t*>(event_page.bytes + sint * hvsdk::hvdef::kEventFlagsBytesPerSint);
}

bool TakeMessage(uint32_t sint, Message& message) {
  Message* const slot = MessageSlot(sint);
  auto* const type = const_cast<volatile uint32_t*>(&slot->header.message_type);
  if (*type == 0) return false;
  asm volatile("" ::: "memory");
  __builtin_memcpy(&message, slot, sizeof(message));
  *type = 0;
  Fence();  // between emptying the slot and reading the flag (TLFS, "SynIC Message Flags")
  if ((*const_cast<volatile uint8_t*>(&slot->header.flags) & hvsdk::hvdef::kMessagePending) != 0) {
    TryWriteMsr(msr::kEom, 0);
  }
  return true;
}
