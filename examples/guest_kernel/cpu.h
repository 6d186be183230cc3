// SPDX-License-Identifier: Apache-2.0
// The processor: ports, CPUID, MSRs that may fault, interrupts and the local APIC.

#ifndef HVSDK_EXAMPLES_GUEST_KERNEL_CPU_H_
#define HVSDK_EXAMPLES_GUEST_KERNEL_CPU_H_

#include <cstdint>

inline constexpr uint32_t kPageSize = 4096;

// A page of memory; its address is its guest physical address.
struct alignas(kPageSize) Page {
  uint8_t bytes[kPageSize];
  uint64_t gpa() const { return reinterpret_cast<uint64_t>(bytes); }
  uint64_t pfn() const { return gpa() / kPageSize; }
};

inline void OutByte(uint16_t port, uint8_t value) { asm volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
inline uint8_t InByte(uint16_t port) {
  uint8_t value;
  asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

struct Cpuid {
  explicit Cpuid(uint32_t leaf) {
    asm volatile("cpuid" : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx) : "a"(leaf), "c"(0));
  }
  uint32_t eax, ebx, ecx, edx;
};

inline uint64_t ReadTsc() {
  uint32_t low, high;
  asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high)::"memory");
  return uint64_t{high} << 32 | low;
}
inline void Fence() { asm volatile("lock orl $0, (%%rsp)" ::: "memory", "cc"); }
inline void Pause() { asm volatile("pause" ::: "memory"); }

extern "C" {
// False: it faulted.
bool TryReadMsr(uint32_t msr, uint64_t* value);
bool TryWriteMsr(uint32_t msr, uint64_t value);
}
// 0 if it faults.
inline uint64_t ReadMsr(uint32_t msr) {
  uint64_t value = 0;
  return TryReadMsr(msr, &value) ? value : 0;
}
inline bool MsrFaultsOnRead(uint32_t msr) {
  uint64_t value;
  return !TryReadMsr(msr, &value);
}

// Takes all vectors, enables the local APIC and interrupts.
void StartInterrupts();
// Registers of the local APIC, by their offset (Intel SDM volume 3, "Local APIC Register Address Map").
inline constexpr uint32_t kApicTaskPriority = 0x80, kApicEoi = 0xB0, kApicCommand = 0x300, kApicCommandHigh = 0x310;
uint32_t ReadApic(uint32_t offset);
void WriteApic(uint32_t offset, uint32_t value);
// From now on, interrupts are left in service; whoever wants the next one ends them.
void LeaveInService(bool leave);
// How often a vector has come.
uint32_t InterruptCount(uint8_t vector);

// Whether the kernel's command line has the word.
bool CommandLineHas(const char* word);
// The one thing in which engines differ: a KVM that emulates has neither the APIC's MSRs nor an in-service register
// that holds anything back. Whoever starts the machine knows which it is, and requires the rest of all others.
inline bool RequiresWholeApic() { return CommandLineHas("require-whole-apic"); }

[[noreturn]] void PowerOff();

#endif  // HVSDK_EXAMPLES_GUEST_KERNEL_CPU_H_
