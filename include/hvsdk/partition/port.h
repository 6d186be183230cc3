// SPDX-License-Identifier: Apache-2.0
// The root's ends of ports and connections: who receives what the guest sends, and who is told that a message slot has
// room. Source: TLFS, chapter "Inter-Partition Communication", "Ports and Connections".
//
// Handlers are thread-safe: each is called on the thread of the VP that sends, several at once.
//
//   struct Doorbell : PortHandler {
//     hvdef::HvStatus OnEvent(uint16_t) override { return ++rings, hvdef::HvStatus::kSuccess; }
//     std::atomic<int> rings{0};
//   } doorbell;
//   const absl::Status status = partition.RegisterPort(ConnectionId{0x20000}, &doorbell);
//   if (!status.ok()) return status;
//   ...
//   partition.UnregisterPort(ConnectionId{0x20000});  // before the handler is destroyed

#ifndef HVSDK_PARTITION_PORT_H_
#define HVSDK_PARTITION_PORT_H_

#include <cstdint>

#include "absl/types/span.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/hvdef/status.h"

namespace hvsdk::partition {

// Receives what the guest sends to a connection. Called with no lock held. The status is the guest's answer.
class PortHandler {
 public:
  virtual ~PortHandler() = default;

  // HvCallPostMessage: 0 to 240 bytes, a private copy. kInvalidPortId: not a message port.
  virtual hvdef::HvStatus OnMessage(uint32_t message_type, absl::Span<const uint8_t> payload) {
    (void)message_type, (void)payload;
    return hvdef::HvStatus::kInvalidPortId;
  }

  // HvCallSignalEvent. kInvalidParameter: the port has no such flag. kInvalidPortId: not an event port.
  virtual hvdef::HvStatus OnEvent(uint16_t flag) {
    (void)flag;
    return hvdef::HvStatus::kInvalidPortId;
  }
};

// Told when a message queue that was found full has room again. Called on the VP's thread with no lock held.
class MessageSlotObserver {
 public:
  virtual ~MessageSlotObserver() = default;
  virtual void OnMessageSlotFree(VpIndex vp, Sint sint) = 0;
};

}  // namespace hvsdk::partition

#endif  // HVSDK_PARTITION_PORT_H_
