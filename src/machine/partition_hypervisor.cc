// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/machine/partition_hypervisor.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/status_macros.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/hvdef/privilege.h"

namespace hvsdk::machine {

absl::Status PartitionHypervisor::RegisterPort(ConnectionId connection, PortHandler* handler) {
  RETURN_IF_ERROR(partition_.RegisterPort(connection, handler));
  AddShortcut(connection, handler);
  return absl::OkStatus();
}

void PartitionHypervisor::UnregisterPort(ConnectionId connection) {
  RemoveShortcut(connection);
  partition_.UnregisterPort(connection);
}

// The shortcut is worth a descriptor for channels only, not for the bus' own few connections. Without it, because the
// engine has none or no more, the guest's signal is a hypercall like any other.
void PartitionHypervisor::AddShortcut(ConnectionId connection, PortHandler* handler) {
  constexpr uint32_t kFirstChannelConnection = 0x1000;  // SINT in bits 12 to 15
  const partition::Environment& environment = partition_.environment();
  if (!environment.caps.signal_event_fd || ToInt(connection) < kFirstChannelConnection) return;
  // The engine asks for no privilege.
  if ((partition_.privileges() & hvdef::privilege::kSignalEvents) == 0) return;
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return;
  const bool watched = loop_
                           .Watch(fd, EPOLLIN,
                                  [this, handler, fd](uint32_t) {
                                    uint64_t count;
                                    if (read(fd, &count, sizeof(count)) != sizeof(count)) return;
                                    ++channel_signals_;
                                    (void)handler->OnEvent(0);  // the guest has had its answer
                                  })
                           .ok();
  if (watched && environment.backend.AssignSignalEvent(connection, fd).ok()) {
    event_fds_[connection] = fd;
    return;
  }
  if (watched) loop_.Unwatch(fd);
  close(fd);
}

void PartitionHypervisor::RemoveShortcut(ConnectionId connection) {
  const auto found = event_fds_.find(connection);
  if (found == event_fds_.end()) return;
  (void)partition_.environment().backend.UnassignSignalEvent(connection, found->second);
  loop_.Unwatch(found->second);
  close(found->second);
  event_fds_.erase(found);
}

}  // namespace hvsdk::machine
