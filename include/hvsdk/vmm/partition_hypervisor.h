// SPDX-License-Identifier: Apache-2.0
// What VMBus needs of a hypervisor, provided by a partition. Where the engine can, a guest's signal to a channel goes
// by an event descriptor straight to the event loop, without an exit.
//
// Thread class: as vmbus::Hypervisor, but RegisterPort and UnregisterPort on the loop's thread or while it does
// not run.

#ifndef HVSDK_VMM_PARTITION_HYPERVISOR_H_
#define HVSDK_VMM_PARTITION_HYPERVISOR_H_

#include <map>
#include <memory>

#include "hvsdk/backend/backend.h"
#include "hvsdk/partition/partition.h"
#include "hvsdk/vmbus/hypervisor.h"
#include "hvsdk/vmm/event_loop.h"

namespace hvsdk::vmm {

class PartitionHypervisor final : public vmbus::Hypervisor, private partition::MessageSlotObserver {
 public:
  // All outlive this; the partition has no other message slot observer.
  PartitionHypervisor(partition::Partition& partition, EventLoop& loop);
  ~PartitionHypervisor() override;

  hvdef::HvStatus PostMessage(VpIndex vp, Sint sint, uint32_t message_type,
                              absl::Span<const uint8_t> payload) override {
    return partition_.PostMessage(vp, sint, message_type, payload);
  }
  void SetMessageSlotObserver(vmbus::MessageSlotObserver* observer) override { observer_ = observer; }
  hvdef::HvStatus SignalEvent(VpIndex vp, Sint sint, uint16_t flag) override {
    return partition_.SignalEvent(vp, sint, flag);
  }
  absl::Status RegisterPort(ConnectionId connection, vmbus::PortHandler* handler) override;
  void UnregisterPort(ConnectionId connection) override;

  // Signals that came by an event descriptor so far. On the loop's thread.
  uint64_t channel_signals() const { return channel_signals_; }

 private:
  struct Port;

  void OnMessageSlotFree(VpIndex vp, Sint sint) override {
    if (observer_ != nullptr) observer_->OnMessageSlotFree(vp, sint);
  }
  void AddShortcut(Port& port);
  void RemoveShortcut(Port& port);

  partition::Partition& partition_;
  EventLoop& loop_;
  vmbus::MessageSlotObserver* observer_ = nullptr;  // set before the guest runs
  std::map<ConnectionId, std::unique_ptr<Port>> ports_;
  uint64_t channel_signals_ = 0;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_PARTITION_HYPERVISOR_H_
