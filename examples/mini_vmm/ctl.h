// SPDX-License-Identifier: Apache-2.0
// mini_vmm ctl: manages a running machine through its control socket.

#ifndef HVSDK_EXAMPLES_MINI_VMM_CTL_H_
#define HVSDK_EXAMPLES_MINI_VMM_CTL_H_

namespace mini_vmm {

// `arguments` are what follows "ctl". Returns the exit status: 0, 2 for a mistake or what the machine refuses, 3 where there is no machine.
int RunCtl(int count, char** arguments);

}  // namespace mini_vmm

#endif  // HVSDK_EXAMPLES_MINI_VMM_CTL_H_
