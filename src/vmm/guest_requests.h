// SPDX-License-Identifier: Apache-2.0
// What a control socket's clients ask of a guest, by its integration drivers: key-value pairs, and files that it is to have.
//
// Thread class: the loop's thread.

#ifndef HVSDK_SRC_VMM_GUEST_REQUESTS_H_
#define HVSDK_SRC_VMM_GUEST_REQUESTS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/vmm/control.pb.h"
#include "hvsdk/vmm/control_server.h"

namespace hvsdk::vmm {

// "command: " stands before an error's message.
absl::Status ErrorOf(absl::string_view command, const absl::Status& status);
ControlReply ReplyOf(const absl::Status& status);

// `networks`: the machine's network adapters. The machine outlives the reply.
void AskKeyValue(machine::Machine& machine, const KeyValueRequest& request, const std::vector<NetworkStatus>& networks,
                 ControlHandler::Reply reply);
// What a guest is to be told. InvalidArgument: an address is none, on one line.
absl::StatusOr<vsp::GuestAddresses> ParseGuestAddresses(const AdapterAddresses& addresses);
void CopyFile(machine::Machine& machine, const CopyFileRequest& request, ControlHandler::Reply reply);

}  // namespace hvsdk::vmm

#endif  // HVSDK_SRC_VMM_GUEST_REQUESTS_H_
