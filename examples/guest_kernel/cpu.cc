// SPDX-License-Identifier: Apache-2.0
#include "cpu.h"

#include "console.h"

namespace {

constexpr uint64_t kLocalApic = 0xFEE00000;
constexpr uint32_t kApicSpurious = 0xF0;
constexpr uint8_t kSpuriousVector = 0xFF;
constexpr uint8_t kFirstInterrupt = 32;

// ACPI's sleep control register, where the machine's FADT has it (hvsdk/boot/acpi_tables.h).
constexpr uint16_t kSleepControlPort = 0x600;
constexpr uint8_t kSleepEnable = 1 << 5, kSleepTypeOff = 5 << 2;

volatile uint32_t counts[256];
volatile bool leave_in_service;

// Intel SDM volume 3, 6.14.1 "64-Bit Mode IDT".
struct Gate {
  uint16_t offset_low;
  uint16_t selector;
  uint16_t attributes;
  uint16_t offset_middle;
  uint32_t offset_high;
  uint32_t reserved;
};
Gate gates[256];

struct Frame {
  uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
  uint64_t vector, error_code;
  uint64_t rip, cs, rflags, rsp, ss;
};

}  // namespace

extern "C" {

extern uint8_t interrupt_stubs[];
extern volatile uint64_t probe_resume;
extern const uint64_t start_info;

void OnInterrupt(Frame* frame) {
  const auto vector = static_cast<uint8_t>(frame->vector);
  if (vector >= kFirstInterrupt) {
    counts[vector] = counts[vector] + 1;
    if (vector != kSpuriousVector && !leave_in_service) WriteApic(kApicEoi, 0);
    return;
  }
  constexpr uint8_t kUndefinedOpcode = 6, kGeneralProtection = 13;
  if (probe_resume != 0 && (vector == kUndefinedOpcode || vector == kGeneralProtection)) {
    frame->rip = probe_resume;
    probe_resume = 0;
    return;
  }
  Print("Bail out! exception ");
  PrintNumber(vector);
  Print(" at ");
  PrintHex(frame->rip);
  Print("\n");
  PowerOff();
}

}  // extern "C"

uint32_t ReadApic(uint32_t offset) { return *reinterpret_cast<volatile uint32_t*>(kLocalApic + offset); }
void WriteApic(uint32_t offset, uint32_t value) { *reinterpret_cast<volatile uint32_t*>(kLocalApic + offset) = value; }
void LeaveInService(bool leave) { leave_in_service = leave; }

void StartInterrupts() {
  constexpr uint16_t kPresentInterruptGate = 0x8E00;
  constexpr uint64_t kStubSize = 16;
  for (uint64_t vector = 0; vector < 256; ++vector) {
    const uint64_t stub = reinterpret_cast<uint64_t>(interrupt_stubs) + vector * kStubSize;
    gates[vector] = {static_cast<uint16_t>(stub),       0x08, kPresentInterruptGate, static_cast<uint16_t>(stub >> 16),
                     static_cast<uint32_t>(stub >> 32), 0};
  }
  struct [[gnu::packed]] {
    uint16_t limit;
    uint64_t base;
  } const pointer = {sizeof(gates) - 1, reinterpret_cast<uint64_t>(gates)};
  asm volatile("lidt %0" ::"m"(pointer));
  WriteApic(kApicTaskPriority, 0);
  WriteApic(kApicSpurious, 0x100 | kSpuriousVector);
  asm volatile("sti" ::: "memory");
}

uint32_t InterruptCount(uint8_t vector) { return counts[vector]; }

bool CommandLineHas(const char* word) {
  constexpr uint32_t kCommandLinePointer = 24;  // in hvm_start_info (Xen, "x86/HVM direct boot ABI")
  const uint64_t address = *reinterpret_cast<const uint64_t*>(start_info + kCommandLinePointer);
  if (address == 0) return false;
  for (auto* text = reinterpret_cast<const char*>(address); *text != '\0';) {
    const char* wanted = word;
    while (*wanted != '\0' && *text == *wanted) ++text, ++wanted;
    if (*wanted == '\0' && (*text == '\0' || *text == ' ')) return true;
    while (*text != '\0' && *text != ' ') ++text;
    while (*text == ' ') ++text;
  }
  return false;
}

void PowerOff() {
  for (;;) OutByte(kSleepControlPort, kSleepEnable | kSleepTypeOff);
}
