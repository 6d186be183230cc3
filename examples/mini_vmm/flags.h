// SPDX-License-Identifier: Apache-2.0
// mini_vmm's command line.

#ifndef HVSDK_EXAMPLES_MINI_VMM_FLAGS_H_
#define HVSDK_EXAMPLES_MINI_VMM_FLAGS_H_

#include <string>

#include "absl/status/statusor.h"
#include "hvsdk/vmm/config.h"

namespace mini_vmm {

struct Flags {
  bool help = false;
  std::string config_path;  // empty: no configuration file
  hvsdk::vmm::MachineConfig config;
};

// Reads the command line and, if it names one, the configuration file, which the other flags then change. The result is
// valid. InvalidArgument: one line for the user. Others: the host could not read the file.
absl::StatusOr<Flags> ParseFlags(int argc, char** argv);

std::string HelpText();

}  // namespace mini_vmm

#endif  // HVSDK_EXAMPLES_MINI_VMM_FLAGS_H_
