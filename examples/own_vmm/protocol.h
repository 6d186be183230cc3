// SPDX-License-Identifier: Apache-2.0
// What own_vmm and its guest have agreed on.
#pragma once
#include <cstdint>

#include "hvsdk/hvdef/guid.h"

namespace own {

inline constexpr uint16_t kCounterPort = 0x5F0;  // each byte read from it is one more than the last
inline constexpr uint16_t kLogPort = 0xE9;       // text for the monitor
// A write asserts kDoorbellIrq, a read takes the value and deasserts it.
inline constexpr uint64_t kDoorbellGpa = 0xF0000000;
inline constexpr uint32_t kDoorbellIrq = 5;
inline constexpr uint32_t kCpuidLeaf = 0x40000100;  // EAX: kSignature
inline constexpr uint32_t kMsr = 0x40000190;        // what was written to it, negated
inline constexpr uint32_t kSignature = 0x214E574F;  // "OWN!", also the ACPI table's
inline constexpr hvsdk::hvdef::Guid kReverser = hvsdk::hvdef::MakeGuid("5d0d9b1e-0c55-4a0c-9a4e-63a8f2b7c90f");

}  // namespace own
