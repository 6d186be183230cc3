// SPDX-License-Identifier: Apache-2.0
// The SMBIOS tables that tell a guest what machine it runs on: Linux shows them in /sys/class/dmi/id and by dmidecode.
// Tools for clouds and inventories, systemd and drivers' lists of exceptions look there.
//
// What is said by default is what guests of Hyper-V look for: manufacturer and product. What tells one machine from
// another (UUID, serial number, asset tag) is not there until somebody sets it.
//
// The asset tag is not set to "7783-7084-3265-9085-8269-3286-77", the tag of all machines in Azure, and by which alone
// guests tell Azure from Hyper-V elsewhere: cloud-init would wait for Azure's services at every start.
//
// Source: DMTF DSP0134, version 3.0.0: 5.2 "Table convention" (entry points), 6.1 "Structure standards", 7 (structures).
//
//   SmbiosOptions options{.identity = {.serial = "A-1"}, .memory = layout.memory, .cpus = 2};
//   const std::string bytes = BuildSmbiosTables(options, kSmbiosGpa);

#ifndef HVSDK_BOOT_SMBIOS_TABLES_H_
#define HVSDK_BOOT_SMBIOS_TABLES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/boot/memory_layout.h"
#include "hvsdk/hvdef/guid.h"

namespace hvsdk::boot {

// Firmware without EFI has the entry points on a 16-byte boundary in 0xF0000 to 0xFFFFF.
inline constexpr uint64_t kSmbiosGpa = 0xFF000;
inline constexpr size_t kMaxSmbiosSize = 0xFF0;  // then comes the reset vector
inline constexpr size_t kMaxSmbiosString = 64;

// What the machine says it is. Empty: not specified. Strings are printable ASCII without spaces at either end, of at
// most kMaxSmbiosString characters.
struct SmbiosIdentity {
  absl::optional<hvdef::Guid> uuid;  // nothing or zero: the machine has none
  std::string manufacturer = "Microsoft Corporation";
  std::string product = "Virtual Machine";
  std::string version = "7.0";
  std::string serial;  // of system, board and chassis
  std::string sku;
  std::string family;
  std::string asset_tag;  // of the chassis
  std::string bios_vendor = "hvsdk";
  std::string bios_version;  // empty: this library's version
};

struct SmbiosOptions {
  SmbiosIdentity identity;
  std::vector<GpaRange> memory;
  uint32_t cpus = 1;
  std::vector<backend::CpuidEntry> cpuid;  // leaves 0, 1 and 0x80000002 to 0x80000004 name the processor
};

// InvalidArgument: "serial: ..." names the string that is too long or has other characters.
absl::Status ValidateSmbiosIdentity(const SmbiosIdentity& identity);

// The 64-bit entry point ("_SM3_"), behind it the 32-bit one ("_SM_") for guests that know no other, and the structures;
// to be put at `gpa`, a multiple of 16. The identity is valid. At most kMaxSmbiosSize bytes.
std::string BuildSmbiosTables(const SmbiosOptions& options, uint64_t gpa);

}  // namespace hvsdk::boot

#endif  // HVSDK_BOOT_SMBIOS_TABLES_H_
