// SPDX-License-Identifier: Apache-2.0
// Where things lie in the little machine that the system oracle's scenarios run on: 128 KiB of memory, identity-mapped
// where paging is on, with descriptor tables and page tables for every mode at once.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_MACHINE_MAP_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_MACHINE_MAP_H_

#include <cstdint>

namespace hvsdk::oracle {

inline constexpr uint64_t kSystemMemory = 0x20000;

inline constexpr uint64_t kGdtBase = 0x1000, kLdtBase = 0x1800;
inline constexpr uint64_t kIdt64 = 0x2000, kIdt32 = 0x3000;
inline constexpr uint64_t kTss32 = 0x4000, kTss64 = 0x4800;
inline constexpr uint16_t kTssLimit = 0x68 + 128;  // the I/O permission map covers the ports below 1024
inline constexpr uint64_t kPml4Table = 0x5000, kPdptTable = 0x6000, kPdTable = 0x7000, kPtTable = 0x8000;
inline constexpr uint64_t kPaePdpt = 0x9400, kPd32 = 0xA000, kPt32 = 0xB000;
inline constexpr uint64_t kSystemStubs = 0xC000;  // four bytes a vector

// What 16-bit code reaches: its segments begin here.
inline constexpr uint64_t kSegmentBase16 = 0x10000;
inline constexpr uint64_t kFragments = 0x10000, kFragmentSize = 0x200, kFragmentCount = 16;
inline constexpr uint64_t kOperands = 0x14000;  // memory operands; grows
inline constexpr uint64_t kOddPages = 0x18000;  // four pages with page-table bits of any kind
inline constexpr uint64_t kStack0 = 0x1C800, kStack1 = 0x1E800, kStack3 = 0x1D800, kIstStack = 0x1F800;  // tops
// With large pages, memory is seen again from here on (the first in 32-bit paging, the second in the others).
inline constexpr uint64_t kLarge32 = 0x400000, kLarge = 0x200000;

// Port writes that end a scenario: its own end, and one for each exception and for each interrupt from 0x30 to 0x3F.
inline constexpr uint8_t kEndPort = 0xF4, kExceptionPort = 0x80, kInterruptPort = 0xD0, kOtherPort = 0xFE;
// Ports that only do input and output.
inline constexpr uint16_t kFirstPort = 0x100, kPorts = 0x2C0;

// Descriptors by index.
enum DescriptorIndex : uint16_t {
  kCode32 = 1,
  kData32,
  kCode64,
  kCode16,
  kData16,
  kUserCode32,
  kUserData32,
  kUserCode64,
  // Rows as SYSENTER and SYSEXIT want them.
  kFastCode,
  kFastData,
  kFastUserCode32,
  kFastUserData,
  kFastUserCode64,
  kFastUserData64,
  kConforming32,
  kConforming64,
  kExecuteOnly,
  kReadOnly,
  kExpandDown,
  kAbsentCode,
  kAbsentData,
  kSmallData,
  kCodeRing1,
  kDataRing1,
  kCodeRing2,
  kDataRing2,
  kCallGate32,
  kCallGate16,
  kUnused29,
  kFreeTss32,
  kBusyTss32,
  kFreeTss64,
  kBusyTss64 = kFreeTss64 + 2,
  kLdt = kBusyTss64 + 2,
  kCallGate64 = kLdt + 2,
  kAbsentGate = kCallGate64 + 2,
  kBothSizes = kAbsentGate + 2,
  kZero,
  kSystemZero,
  kInterruptGateInGdt,
  kAbsentCode64,
  kUserConforming,
  kRandomFirst,
  kRandomLast = kRandomFirst + 5,
  kDescriptors,
};
inline constexpr uint16_t kGdtLimit = kDescriptors * 8 - 1;
static_assert(kGdtBase + kGdtLimit < kLdtBase);

}  // namespace hvsdk::oracle

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_MACHINE_MAP_H_
