// SPDX-License-Identifier: Apache-2.0
#include "partition/port_table.h"

#include "absl/strings/str_format.h"

namespace hvsdk::partition {

PortTable::~PortTable() {
  for (auto& branch : root_) {
    if (branch == nullptr) continue;
    for (auto& leaf : *branch.load()) delete leaf.load();
    delete branch.load();
  }
}

absl::Status PortTable::Register(ConnectionId connection, PortHandler* handler) {
  const uint32_t index = ConnectionIndex(connection);
  if (index >> 24 != 0) {
    return absl::InvalidArgumentError(absl::StrFormat("connection id %#x has more than 24 bits", index));
  }
  std::lock_guard lock(mutex_);
  std::atomic<Branch*>& branch = root_[index >> 16];
  if (branch.load(std::memory_order_relaxed) == nullptr) branch.store(new Branch{}, std::memory_order_release);
  std::atomic<Leaf*>& leaf = (*branch.load(std::memory_order_relaxed))[index >> 8 & 0xFF];
  if (leaf.load(std::memory_order_relaxed) == nullptr) leaf.store(new Leaf{}, std::memory_order_release);
  Port& port = (*leaf.load(std::memory_order_relaxed))[index & 0xFF];
  PortHandler* none = nullptr;
  if (!port.handler.compare_exchange_strong(none, handler, std::memory_order_seq_cst)) {
    return absl::AlreadyExistsError(absl::StrFormat("connection id %#x is taken", index));
  }
  return absl::OkStatus();
}

void PortTable::Unregister(ConnectionId connection) {
  Port* port = Find(ConnectionIndex(connection));
  if (port == nullptr) return;
  port->handler.exchange(nullptr, std::memory_order_seq_cst);
  for (uint32_t users; (users = port->users.load(std::memory_order_seq_cst)) != 0;) port->users.Wait(users);
}

}  // namespace hvsdk::partition
