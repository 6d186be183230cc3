// SPDX-License-Identifier: Apache-2.0
// A partition whose ports have the engine's shortcut: where the engine can, a guest's signal to a channel goes by an
// event descriptor straight to the event loop, without an exit. The rest is the partition's.
//
// Thread class: as Hypervisor, but RegisterPort and UnregisterPort on the loop's thread or while it does not run.

#ifndef HVSDK_MACHINE_PARTITION_HYPERVISOR_H_
#define HVSDK_MACHINE_PARTITION_HYPERVISOR_H_

#include <map>

#include "hvsdk/base/hypervisor.h"
#include "hvsdk/os/event_loop.h"
#include "hvsdk/partition/partition.h"

namespace hvsdk::machine {

class PartitionHypervisor final : public Hypervisor {
 public:
  // Both outlive this.
  PartitionHypervisor(partition::Partition& partition, os::EventLoop& loop) : partition_(partition), loop_(loop) {}

  hvdef::HvStatus PostMessage(VpIndex vp, Sint sint, uint32_t message_type,
                              absl::Span<const uint8_t> payload) override {
    return partition_.PostMessage(vp, sint, message_type, payload);
  }
  void SetMessageSlotObserver(MessageSlotObserver* observer) override { partition_.SetMessageSlotObserver(observer); }
  hvdef::HvStatus SignalEvent(VpIndex vp, Sint sint, uint16_t flag) override {
    return partition_.SignalEvent(vp, sint, flag);
  }
  absl::Status RegisterPort(ConnectionId connection, PortHandler* handler) override;
  void UnregisterPort(ConnectionId connection) override;

  // Signals that came by an event descriptor so far. On the loop's thread.
  uint64_t channel_signals() const { return channel_signals_; }

 private:
  void AddShortcut(ConnectionId connection, PortHandler* handler);
  void RemoveShortcut(ConnectionId connection);

  partition::Partition& partition_;
  os::EventLoop& loop_;
  std::map<ConnectionId, int> event_fds_;  // of the ports that have a shortcut
  uint64_t channel_signals_ = 0;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_PARTITION_HYPERVISOR_H_
