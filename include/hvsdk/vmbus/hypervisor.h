// SPDX-License-Identifier: Apache-2.0
// All that VMBus' root side needs of a hypervisor: post a message, set an event flag, and be told of the same from
// the guest. The vmm library binds it to a partition; a test or an in-process pair binds it to a queue, and no CPU
// is needed.
//
// Limits are the SynIC's: messages of at most 240 bytes, 16 SINTs, 2048 event flags each (TLFS,
// "Inter-Partition Communication").
//
// Thread-safe. Handlers are called on the thread of the VP that sends, several at once.
//
//   LoopbackHypervisor hypervisor(vp_count);                   // or what vmm::Machine has
//   Server server(memory, hypervisor, {});
//   hypervisor.PostMessage(VpIndex{0}, Sint{2}, 1, payload);   // what the server does to reach the guest

#ifndef HVSDK_VMBUS_HYPERVISOR_H_
#define HVSDK_VMBUS_HYPERVISOR_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/hvdef/status.h"

namespace hvsdk::vmbus {

// Receives what the guest sends to a connection. Called on the sending VP's thread, with no lock of the
// hypervisor's held.
class PortHandler {
 public:
  virtual ~PortHandler() = default;

  // HvCallPostMessage: up to 240 bytes, a private copy. The status is the guest's answer; kInsufficientBuffers asks it
  // to try again later.
  virtual hvdef::HvStatus OnMessage(uint32_t message_type, absl::Span<const uint8_t> payload) = 0;

  // HvCallSignalEvent, or the in-kernel shortcut for it (then on the event loop's thread).
  virtual void OnEvent(uint16_t flag) = 0;
};

// Told when a message slot that was full has room again.
class MessageSlotObserver {
 public:
  virtual ~MessageSlotObserver() = default;
  virtual void OnMessageSlotFree(VpIndex vp, Sint sint) = 0;
};

// Thread-safe. Every function may be called from within the handlers above.
class Hypervisor {
 public:
  virtual ~Hypervisor() = default;

  // Puts a message into the slot of `sint` on `vp`, or queues it behind one the guest has not yet taken. A masked SINT
  // takes messages without an interrupt. kInsufficientBuffers: the bounded queue is full; the observer will be told.
  // kInvalidVpIndex. kInvalidSynicState: the VP's SynIC or message page is disabled.
  virtual hvdef::HvStatus PostMessage(VpIndex vp, Sint sint, uint32_t message_type,
                                      absl::Span<const uint8_t> payload) = 0;
  virtual void SetMessageSlotObserver(MessageSlotObserver* observer) = 0;

  // Sets one of the 2048 event flags of `sint` on `vp`, and interrupts the VP if the flag was clear. kInvalidVpIndex,
  // kInvalidParameter (the flag). kInvalidSynicState: the VP's SynIC or flags page is disabled, or the SINT is masked.
  virtual hvdef::HvStatus SignalEvent(VpIndex vp, Sint sint, uint16_t flag) = 0;

  // Routes a connection id to a handler. AlreadyExists: the id is taken. After Unregister returns the handler is not
  // running and will not be called; hence never unregister a port from within its own handler.
  virtual absl::Status RegisterPort(ConnectionId connection, PortHandler* handler) = 0;
  virtual void UnregisterPort(ConnectionId connection) = 0;
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_HYPERVISOR_H_
