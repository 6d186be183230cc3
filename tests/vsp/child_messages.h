// SPDX-License-Identifier: Apache-2.0
// Messages between a child that is played by a component's test, and the root, as text.

#ifndef HVSDK_TESTS_VSP_CHILD_MESSAGES_H_
#define HVSDK_TESTS_VSP_CHILD_MESSAGES_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "hvsdk/base/queue_executor.h"
#include "hvsdk/hvdef/vmbus.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"
#include "hvsdk/vmbus/transcript.h"

namespace hvsdk::vsp {

// What the root has sent, a line each; events are taken and not told.
inline std::string TakeMessages(vmbus::LoopbackHypervisor& hypervisor, QueueExecutor& executor) {
  std::string seen;
  vmbus::LoopbackHypervisor::Message message;
  while (hypervisor.TakeMessage(VpIndex{0}, Sint{2}, message)) {
    absl::StrAppend(&seen, "message ",
                    absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(message.payload.data()),
                                                             message.payload.size())),
                    "\n");
    executor.RunUntilIdle();
  }
  std::array<uint64_t, vmbus::LoopbackHypervisor::kEventWords> flags;
  (void)hypervisor.TakeEvents(VpIndex{0}, Sint{2}, absl::MakeSpan(flags));
  return seen;
}

// Posts a message as vmbus/transcript.h writes it, and answers what comes back.
inline std::string PostMessage(vmbus::LoopbackHypervisor& hypervisor, QueueExecutor& executor, bool is_connected,
                               absl::string_view text) {
  (void)hypervisor.ChildPostMessage(ConnectionId{is_connected ? 4u : 1u}, hvdef::vmbus::kSynicMessageType,
                                    *vmbus::ParseMessage(text));
  executor.RunUntilIdle();
  return TakeMessages(hypervisor, executor);
}

}  // namespace hvsdk::vsp

#endif  // HVSDK_TESTS_VSP_CHILD_MESSAGES_H_
