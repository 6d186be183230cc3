// SPDX-License-Identifier: Apache-2.0
// What SCSI says (a status, sense data, a residual) in the words of the storage protocol. docs/storage.md has the table.

#ifndef HVSDK_SRC_VSP_SRB_STATUS_H_
#define HVSDK_SRC_VSP_SRB_STATUS_H_

#include "hvsdk/hvdef/storvsc.h"
#include "hvsdk/scsi/scsi_command.h"

namespace hvsdk::vsp {

// Of a command that is done.
hvdef::storvsc::SrbStatus SrbStatusOf(const scsi::ScsiCommand& command);
// The status of the packet that carries it.
hvdef::storvsc::Status PacketStatusOf(hvdef::storvsc::SrbStatus srb);

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_SRB_STATUS_H_
