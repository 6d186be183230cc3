// SPDX-License-Identifier: Apache-2.0
// Those who look at a machine's display from outside.

#ifndef HVSDK_EXAMPLES_MINI_VMM_VIEWERS_H_
#define HVSDK_EXAMPLES_MINI_VMM_VIEWERS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/viewer/rfb_server.h"
#include "hvsdk/vmm/config.h"

namespace mini_vmm {

// Has viewers connect where the configuration says, if it does. InvalidArgument and others: one line for the user, without the flag.
absl::StatusOr<std::unique_ptr<hvsdk::viewer::RfbServer>> ServeVnc(const hvsdk::vmm::MachineConfig& config,
                                                                   hvsdk::machine::Machine& machine,
                                                                   hvsdk::os::EventLoop& loop);

}  // namespace mini_vmm

#endif  // HVSDK_EXAMPLES_MINI_VMM_VIEWERS_H_
