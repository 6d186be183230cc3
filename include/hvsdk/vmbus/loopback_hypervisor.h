// SPDX-License-Identifier: Apache-2.0
// LoopbackHypervisor: what lies between root and child of a partition, without a partition: both sides live in one
// process and no CPU is virtualised. The root side is the Hypervisor that a Server wants; the child side is what
// hypercalls and the SynIC's pages are to a guest.
//
// Each SINT of each VP has one message slot, a short queue behind it, and 2048 event flags, as a SynIC has.
//
// Thread-safe.
//
//   LoopbackHypervisor hypervisor(1);
//   vmbus::Server server(memory, hypervisor, {});
//   hypervisor.ChildPostMessage(ConnectionId{1}, 1, bytes);  // the child's hypercall
//   LoopbackHypervisor::Message message;
//   while (hypervisor.TakeMessage(VpIndex{0}, Sint{2}, message)) Handle(message.payload);

#ifndef HVSDK_VMBUS_LOOPBACK_HYPERVISOR_H_
#define HVSDK_VMBUS_LOOPBACK_HYPERVISOR_H_

#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "hvsdk/base/hypervisor.h"

namespace hvsdk::vmbus {

class LoopbackHypervisor : public Hypervisor {
 public:
  static constexpr size_t kEventWords = 32;  // 2048 flags

  struct Message {
    uint32_t type = 0;
    std::vector<uint8_t> payload;
  };

  // `queue_limit` messages of a SINT may wait behind the slot.
  explicit LoopbackHypervisor(uint32_t vp_count, size_t queue_limit = 4);

  // --- The root's side. ---
  hvdef::HvStatus PostMessage(VpIndex vp, Sint sint, uint32_t message_type, absl::Span<const uint8_t> payload) override;
  void SetMessageSlotObserver(MessageSlotObserver* observer) override;
  hvdef::HvStatus SignalEvent(VpIndex vp, Sint sint, uint16_t flag) override;
  absl::Status RegisterPort(ConnectionId connection, PortHandler* handler) override;
  void UnregisterPort(ConnectionId connection) override;

  // --- The child's side. ---

  // HvCallPostMessage and HvCallSignalEvent.
  hvdef::HvStatus ChildPostMessage(ConnectionId connection, uint32_t message_type, absl::Span<const uint8_t> payload);
  hvdef::HvStatus ChildSignalEvent(ConnectionId connection, uint16_t flag = 0);

  // Takes the message out of the slot and ends it, so that the next one comes. False: the slot is empty.
  bool TakeMessage(VpIndex vp, Sint sint, Message& message);
  // Takes all event flags that are set. False: there are none.
  bool TakeEvents(VpIndex vp, Sint sint, absl::Span<uint64_t> words);

  // Called on the root's thread when a slot is filled or a flag becomes set. Before anything runs.
  using Interrupt = absl::AnyInvocable<void(VpIndex vp, Sint sint)>;
  void SetInterrupt(Interrupt interrupt) { interrupt_ = std::move(interrupt); }

 private:
  struct Source {
    std::deque<Message> messages;  // the first is in the slot
    std::array<uint64_t, kEventWords> flags{};
    bool was_full = false;  // the observer waits for room
  };
  struct Port {
    PortHandler* handler = nullptr;
    int running = 0;
    bool closing = false;
  };

  Source* Find(VpIndex vp, Sint sint);
  template <typename Call>
  hvdef::HvStatus CallPort(ConnectionId connection, Call call);

  const size_t queue_limit_;
  Interrupt interrupt_;
  std::mutex mutex_;
  std::condition_variable port_idle_;
  std::vector<std::array<Source, 16>> vps_;
  std::map<ConnectionId, Port> ports_;
  MessageSlotObserver* observer_ = nullptr;
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_LOOPBACK_HYPERVISOR_H_
