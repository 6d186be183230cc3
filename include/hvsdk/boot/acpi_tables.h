// SPDX-License-Identifier: Apache-2.0
// The ACPI tables that describe a machine to its guest: RSDP, XSDT, FADT, FACS, MADT and DSDT.
//
// The machine has no PIT and no PM timer; a guest that knows Hyper-V needs neither, and each would cost it exits. It has
// 8259s, for guests that are told to do without the IOAPIC. It is not hardware-reduced, for Linux has no other wake-up
// sources by ACPI than the fixed hardware's: power button and alarm of the real-time clock, which raise the SCI
// (drivers/rtc/rtc-cmos.c; drivers/acpi/evged.c, the event device of hardware-reduced machines, does not keep its
// interrupts while the system sleeps). The DSDT declares VMBus below a module device that passes on the MMIO windows, as a
// generation 1 VM has it, the serial port, the real-time clock, the generation id, whose change is a general-purpose event, and a PCI bus if
// there is something on it.
//
// Source: ACPI 6.4, 5.2 "ACPI System Description Tables"; Microsoft, "Virtual Machine Generation ID" (2012).

#ifndef HVSDK_BOOT_ACPI_TABLES_H_
#define HVSDK_BOOT_ACPI_TABLES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "hvsdk/boot/memory_layout.h"

namespace hvsdk::boot {

// Where the machine's devices are; the guest learns these figures from the tables alone.
inline constexpr uint16_t kPowerPort = 0x600;
inline constexpr uint16_t kSerialPort = 0x3F8;
inline constexpr uint8_t kSerialIrq = 4;
inline constexpr uint16_t kRtcPort = 0x70;
inline constexpr uint8_t kRtcIrq = 8;
inline constexpr uint8_t kSciIrq = 9;
// 128 bits of memory that no two machines share, nor a machine with another that goes on from a state of it. In a page that guests do
// not use for anything else, and aligned to 8 bytes, as Microsoft's specification wants it.
inline constexpr uint64_t kGenerationIdGpa = 0xDF010;
inline constexpr size_t kGenerationIdSize = 16;

struct AcpiOptions {
  std::vector<uint32_t> apic_ids;  // one for each VP, in the order of their indices
  bool serial_port = true;
  GpaRange low_mmio;
  GpaRange high_mmio;
  GpaRange pci_mmio{};               // what the PCI bus and VMBus hand out; empty: the guest is not told of the PCI bus
  std::vector<std::string> tables;   // more of them, whole; the XSDT lists them behind the machine's
  std::vector<std::string> devices;  // AML terms for the DSDT's scope \_SB_
};

// A table with the header of ACPI 6.4, 5.2.6 around `body`: length, checksum, and who made it. `signature` has
// four characters.
std::string MakeAcpiTable(absl::string_view signature, uint8_t revision, absl::string_view body);

// All tables, to be put at `gpa`, which is a multiple of 64 below 4 GiB. The RSDP comes first.
std::string BuildAcpiTables(const AcpiOptions& options, uint64_t gpa);

}  // namespace hvsdk::boot

#endif  // HVSDK_BOOT_ACPI_TABLES_H_
