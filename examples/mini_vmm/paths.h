// SPDX-License-Identifier: Apache-2.0
// Paths that mean the same file in every folder.

#ifndef HVSDK_EXAMPLES_MINI_VMM_PATHS_H_
#define HVSDK_EXAMPLES_MINI_VMM_PATHS_H_

#include <string>

#include "absl/strings/string_view.h"
#include "flags.h"

namespace mini_vmm {

// An empty path stays empty.
std::string Absolute(absl::string_view path);

void MakeAbsolute(hvsdk::vmm::NetworkConfig& network);
// All that the machine names, for a state, from which it goes on in another folder.
void MakeAbsolute(hvsdk::vmm::MachineConfig& config);

}  // namespace mini_vmm

#endif  // HVSDK_EXAMPLES_MINI_VMM_PATHS_H_
