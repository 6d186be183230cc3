// SPDX-License-Identifier: Apache-2.0
// MachineConfig (proto/hvsdk/vmm/machine.proto): reading it from text, and whether it makes sense.
//
// Every error is one line that names the field, so that a program can show it to its user as it is.
//
//   const absl::StatusOr<MachineConfig> config = ParseMachineConfig("kernel: \"vmlinuz\"");
//   if (!config.ok()) return config.status();
//   if (const absl::Status status = ValidateMachineConfig(*config); !status.ok()) return status;

#ifndef HVSDK_VMM_CONFIG_H_
#define HVSDK_VMM_CONFIG_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "hvsdk/boot/smbios_tables.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/vmm/machine.pb.h"

namespace hvsdk::vmm {

inline constexpr uint32_t kDefaultMemoryMib = 512;
inline constexpr uint32_t kDefaultCpus = 2;
inline constexpr uint32_t kMaxCpus = 1024;
inline constexpr uint32_t kMaxIoThreads = 63;
inline constexpr uint32_t kMaxDisks = 64;  // one SCSI controller's
inline constexpr uint32_t kMaxNetworks = 8;

// Parses protobuf text. InvalidArgument: "line:column: what"; an unknown field is an error.
absl::StatusOr<MachineConfig> ParseMachineConfig(const std::string& text);

// InvalidArgument: a value that no machine can have, or a kernel is missing.
absl::Status ValidateMachineConfig(const MachineConfig& config);

// "512M", "4G", "65536K" or bytes, as whole MiB. InvalidArgument: anything else.
absl::StatusOr<uint32_t> ParseMemoryMib(absl::string_view text);

// What its `smbios` says, and the defaults for the rest. InvalidArgument: "smbios: serial: ...", as one that is not valid.
absl::StatusOr<boot::SmbiosIdentity> SmbiosOf(const MachineConfig& config);

// What its `integration` says. InvalidArgument: "integration: ...", likewise.
absl::StatusOr<machine::MachineIntegration> IntegrationOf(const MachineConfig& config);

// What its `input` says. InvalidArgument: "input: ...", likewise.
absl::StatusOr<machine::MachineInput> InputOf(const MachineConfig& config);

// What its `video` says; nothing: it has no display. InvalidArgument: "video: ...", likewise.
absl::StatusOr<absl::optional<machine::MachineVideo>> VideoOf(const MachineConfig& config);

inline uint32_t MemoryMib(const MachineConfig& config) {
  return config.has_memory_mib() ? config.memory_mib() : kDefaultMemoryMib;
}
inline uint32_t Cpus(const MachineConfig& config) { return config.has_cpus() ? config.cpus() : kDefaultCpus; }

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_CONFIG_H_
