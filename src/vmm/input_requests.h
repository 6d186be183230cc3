// SPDX-License-Identifier: Apache-2.0
// What a control socket's clients type and point.
//
// Thread class: the loop's thread.

#ifndef HVSDK_SRC_VMM_INPUT_REQUESTS_H_
#define HVSDK_SRC_VMM_INPUT_REQUESTS_H_

#include <string>

#include "absl/status/status.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/vmm/control.pb.h"
#include "hvsdk/vmm/control_server.h"

namespace hvsdk::vmm {

// `layout` is the machine's.
void Type(machine::Machine& machine, const TypeRequest& request, const std::string& layout,
          ControlHandler::Reply reply);

absl::Status Point(machine::Machine& machine, const google::protobuf::RepeatedPtrField<PointerPosition>& positions);

InputStatus ToInputStatus(const machine::InputComponents& input);

}  // namespace hvsdk::vmm

#endif  // HVSDK_SRC_VMM_INPUT_REQUESTS_H_
