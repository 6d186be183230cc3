// SPDX-License-Identifier: Apache-2.0
// A writer of AML, ACPI's byte code: each function returns the encoding of one term, and terms nest by being passed on.
// Only what a description of fixed hardware needs.
//
// Source: ACPI 6.4, 20 "ACPI Machine Language (AML) Specification"; 6.4 "Resource Data Types for ACPI".
//
//   std::string dsdt = aml::Scope("\\_SB_", aml::Device("COM1", aml::Name("_HID", aml::EisaId("PNP0501"))));

#ifndef HVSDK_SRC_BOOT_AML_H_
#define HVSDK_SRC_BOOT_AML_H_

#include <cstdint>
#include <initializer_list>
#include <string>

#include "absl/strings/string_view.h"

namespace hvsdk::boot::aml {

// Names: segments of exactly four characters, dots between them, an optional leading backslash.
std::string Name(absl::string_view name, absl::string_view value);
std::string Scope(absl::string_view name, absl::string_view terms);
std::string Device(absl::string_view name, absl::string_view terms);
// Without arguments.
std::string Method(absl::string_view name, absl::string_view terms);
// Tells the driver of `device`.
std::string Notify(absl::string_view device, uint8_t what);

std::string Integer(uint64_t value);
std::string String(absl::string_view text);
// Three capital letters and four hexadecimal digits, packed into an integer.
std::string EisaId(absl::string_view id);
std::string Package(std::initializer_list<std::string> elements);

// The value of a _CRS: descriptors one after the other; the end tag is added.
std::string ResourceTemplate(absl::string_view descriptors);
std::string IoPorts(uint16_t first, uint8_t count);
std::string Irq(uint8_t irq);
// Of PCI buses behind a bridge.
std::string BusNumbers(uint16_t first, uint16_t count);
// Windows of address space that the device passes on to its children.
std::string MemoryWindow32(uint32_t first, uint32_t size_bytes);
std::string MemoryWindow64(uint64_t first, uint64_t size_bytes);

}  // namespace hvsdk::boot::aml

#endif  // HVSDK_SRC_BOOT_AML_H_
