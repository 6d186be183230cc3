// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/partition_hypervisor.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/status_macros.h"
#include "hvsdk/hvdef/privilege.h"

namespace hvsdk::vmm {

struct PartitionHypervisor::Port final : partition::PortHandler {
  Port(ConnectionId connection, vmbus::PortHandler* handler) : connection(connection), handler(handler) {}

  hvdef::HvStatus OnMessage(uint32_t message_type, absl::Span<const uint8_t> payload) override {
    return handler->OnMessage(message_type, payload);
  }
  hvdef::HvStatus OnEvent(uint16_t flag) override {
    if (flag != 0) return hvdef::HvStatus::kInvalidParameter;  // it has one
    handler->OnEvent(flag);
    return hvdef::HvStatus::kSuccess;
  }

  const ConnectionId connection;
  vmbus::PortHandler* const handler;
  int event_fd = -1;
};

PartitionHypervisor::PartitionHypervisor(partition::Partition& partition, EventLoop& loop)
    : partition_(partition), loop_(loop) {
  partition_.SetMessageSlotObserver(this);
}

PartitionHypervisor::~PartitionHypervisor() { partition_.SetMessageSlotObserver(nullptr); }

absl::Status PartitionHypervisor::RegisterPort(ConnectionId connection, vmbus::PortHandler* handler) {
  auto port = std::make_unique<Port>(connection, handler);
  RETURN_IF_ERROR(partition_.RegisterPort(connection, port.get()));
  AddShortcut(*port);
  ports_[connection] = std::move(port);
  return absl::OkStatus();
}

void PartitionHypervisor::UnregisterPort(ConnectionId connection) {
  const auto it = ports_.find(connection);
  if (it == ports_.end()) return;
  RemoveShortcut(*it->second);
  partition_.UnregisterPort(connection);
  ports_.erase(it);
}

// The shortcut is worth a descriptor for channels only, not for the bus' own few connections. Without it, because the
// engine has none or no more, the guest's signal is a hypercall like any other.
void PartitionHypervisor::AddShortcut(Port& port) {
  constexpr uint32_t kFirstChannelConnection = 0x1000;  // SINT in bits 12 to 15
  const partition::Environment& environment = partition_.environment();
  if (!environment.caps.signal_event_fd || ToInt(port.connection) < kFirstChannelConnection) return;
  // The engine asks for no privilege.
  if ((partition_.privileges() & hvdef::privilege::kSignalEvents) == 0) return;
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return;
  const bool watched = loop_
                           .Watch(fd, EPOLLIN,
                                  [this, &port, fd](uint32_t) {
                                    uint64_t count;
                                    if (read(fd, &count, sizeof(count)) != sizeof(count)) return;
                                    ++channel_signals_;
                                    port.handler->OnEvent(0);
                                  })
                           .ok();
  if (watched && environment.backend.AssignSignalEvent(port.connection, fd).ok()) {
    port.event_fd = fd;
    return;
  }
  if (watched) loop_.Unwatch(fd);
  close(fd);
}

void PartitionHypervisor::RemoveShortcut(Port& port) {
  if (port.event_fd < 0) return;
  (void)partition_.environment().backend.UnassignSignalEvent(port.connection, port.event_fd);
  loop_.Unwatch(port.event_fd);
  close(port.event_fd);
}

}  // namespace hvsdk::vmm
