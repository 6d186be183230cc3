// SPDX-License-Identifier: Apache-2.0
// What a protocol that speaks with a guest by messages and events (VMBus, for one) needs of a hypervisor: post a
// message, set an event flag, and receive the same from the guest by ports. A partition is one (partition/partition.h),
// with machine/partition_hypervisor.h before it where the engine has a shortcut for signals; an in-process pair binds
// it to a queue, and no CPU is needed (vmbus/loopback_hypervisor.h).
//
// Limits are the SynIC's: messages of at most 240 bytes, 16 SINTs, 2048 event flags each.
//
// Thread-safe, and so are handlers: each is called on the thread of the VP that sends, several at once.
//
// Source: TLFS, chapter "Inter-Partition Communication".
//
//   struct Doorbell : PortHandler {
//     hvdef::HvStatus OnEvent(uint16_t) override { return ++rings, hvdef::HvStatus::kSuccess; }
//     std::atomic<int> rings{0};
//   } doorbell;
//   const absl::Status status = hypervisor.RegisterPort(ConnectionId{0x20000}, &doorbell);
//   if (!status.ok()) return status;
//   hypervisor.PostMessage(VpIndex{0}, Sint{2}, 1, payload);  // to the guest
//   ...
//   hypervisor.UnregisterPort(ConnectionId{0x20000});  // before the handler is destroyed

#ifndef HVSDK_BASE_HYPERVISOR_H_
#define HVSDK_BASE_HYPERVISOR_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/hvdef/status.h"

namespace hvsdk {

// Receives what the guest sends to a connection. Called with no lock held. The status is the guest's answer.
class PortHandler {
 public:
  virtual ~PortHandler() = default;

  // HvCallPostMessage: 0 to 240 bytes, a private copy. kInvalidPortId: not a message port. kInsufficientBuffers asks
  // the guest to try again later.
  virtual hvdef::HvStatus OnMessage(uint32_t message_type, absl::Span<const uint8_t> payload) {
    (void)message_type, (void)payload;
    return hvdef::HvStatus::kInvalidPortId;
  }

  // HvCallSignalEvent, or an engine's shortcut for it (then with flag 0, and on another thread). kInvalidParameter: the
  // port has no such flag. kInvalidPortId: not an event port.
  virtual hvdef::HvStatus OnEvent(uint16_t flag) {
    (void)flag;
    return hvdef::HvStatus::kInvalidPortId;
  }
};

// Told when a message queue that was found full has room again. Called with no lock held, on the VP's thread if that
// has one.
class MessageSlotObserver {
 public:
  virtual ~MessageSlotObserver() = default;
  virtual void OnMessageSlotFree(VpIndex vp, Sint sint) = 0;
};

// Every function may be called from within the handlers above, but as it says.
class Hypervisor {
 public:
  virtual ~Hypervisor() = default;

  // Puts a message of up to 240 bytes into the slot of `sint` on `vp`, or queues it behind one that the guest has not
  // taken yet. A masked SINT takes messages without interrupt.
  // kInsufficientBuffers: the bounded queue is full; the observer will be told. kInvalidVpIndex.
  // kInvalidParameter: the payload is too long or the type is zero. kInvalidSynicState: SynIC or message page
  // is disabled.
  virtual hvdef::HvStatus PostMessage(VpIndex vp, Sint sint, uint32_t message_type,
                                      absl::Span<const uint8_t> payload) = 0;
  // At most one; set before the first VP runs, or nullptr after the last has ended.
  virtual void SetMessageSlotObserver(MessageSlotObserver* observer) = 0;

  // Sets one of the 2048 event flags of `sint` on `vp`, and interrupts the VP if the flag was clear.
  // kInvalidVpIndex, kInvalidParameter (flag); kInvalidSynicState: SynIC or flags page is disabled, or the SINT masked.
  virtual hvdef::HvStatus SignalEvent(VpIndex vp, Sint sint, uint16_t flag) = 0;

  // Routes a connection to a handler. AlreadyExists: the id is taken. InvalidArgument: more than 24 bits.
  virtual absl::Status RegisterPort(ConnectionId connection, PortHandler* handler) = 0;
  // Afterwards the handler is not running and will not be called; hence never from within that handler.
  virtual void UnregisterPort(ConnectionId connection) = 0;
};

}  // namespace hvsdk

#endif  // HVSDK_BASE_HYPERVISOR_H_
