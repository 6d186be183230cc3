// SPDX-License-Identifier: Apache-2.0
// A snapshot of a machine's disks while its guest runs: the guest's file systems are frozen, the machine stands still for a moment in which its
// disks go on in new images, and the file systems are thawed, whatever became of it.
//
// Thread class: the loop's thread.

#ifndef HVSDK_SRC_VMM_MACHINE_SNAPSHOT_H_
#define HVSDK_SRC_VMM_MACHINE_SNAPSHOT_H_

#include "absl/functional/any_invocable.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/vmm/control.pb.h"
#include "hvsdk/vmm/control_server.h"
#include "hvsdk/vmm/machine_control.h"

namespace hvsdk::vmm {

// `disks` may be null: there are none. `on_taken` is called once there is a snapshot, before the guest is thawed. A client that goes before that has
// none. The machine and `disks` outlive its run.
void TakeSnapshot(machine::Machine& machine, DiskOwner* disks, const SnapshotRequest& request,
                  absl::AnyInvocable<void()> on_taken, ControlHandler::Reply reply);

}  // namespace hvsdk::vmm

#endif  // HVSDK_SRC_VMM_MACHINE_SNAPSHOT_H_
