// SPDX-License-Identifier: Apache-2.0
// mini_vmm's command line.

#ifndef HVSDK_EXAMPLES_MINI_VMM_FLAGS_H_
#define HVSDK_EXAMPLES_MINI_VMM_FLAGS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/vmm/config.h"
#include "hvsdk/vmm/state_directory.h"

namespace mini_vmm {

struct Flags {
  bool help = false;
  std::string config_path;  // empty: no configuration file
  hvsdk::vmm::MachineConfig config;
  // Of --restore: the state, and what it says of the machine. `config` is that machine with what the flags changed.
  std::string restore_path;
  std::shared_ptr<const hvsdk::vmm::StateDirectory> state;
  hvsdk::vmm::SavedConfig saved;
  bool accept_changed_disks = false;
  bool names_boot_files = false;            // --kernel or --initrd stands beside --restore
  std::vector<uint8_t> left_out;            // disks of the state that the machine is without
  std::vector<uint32_t> left_out_networks;  // adapters that are pulled out when it goes on
};

// Reads the command line and, if it names one, the configuration file, which the other flags then change. The result is
// valid. InvalidArgument: one line for the user. Others: the host could not read the file.
absl::StatusOr<Flags> ParseFlags(int argc, char** argv);

// "PATH[,format=raw][,readonly][,name=TEXT]". InvalidArgument: an option that does not exist.
absl::StatusOr<hvsdk::vmm::DiskConfig> ParseDisk(absl::string_view text);

// "[PATH][,name=TEXT]": a DVD drive, without PATH an empty one. InvalidArgument: an option that does not exist.
absl::StatusOr<hvsdk::vmm::DiskConfig> ParseDvd(absl::string_view text);

// "user[,KEY=VALUE]...": the keys are the configuration's own. InvalidArgument: a kind or key that does not exist, or a value of
// another kind.
absl::StatusOr<hvsdk::vmm::NetworkConfig> ParseNetwork(absl::string_view text);

std::string HelpText();

}  // namespace mini_vmm

#endif  // HVSDK_EXAMPLES_MINI_VMM_FLAGS_H_
