// SPDX-License-Identifier: Apache-2.0
// PortTable: from a connection id to the handler of its port.
//
// The guest's side of it, Use, is on the path of every signal: three dependent loads and two locked additions on a
// cache line that only users of the same port share; no lock. A radix tree of three levels of 8 bits holds the 24 bits
// of an id; only RegisterPort grows it, 18 KiB for each 256 neighbouring ids, and it shrinks with the table alone.
//
// Thread-safe.

#ifndef HVSDK_SRC_PARTITION_PORT_TABLE_H_
#define HVSDK_SRC_PARTITION_PORT_TABLE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>

#include "absl/status/status.h"
#include "base/wait_word.h"
#include "hvsdk/base/hypervisor.h"
#include "hvsdk/base/ids.h"

namespace hvsdk::partition {

class PortTable {
 public:
  PortTable() = default;
  ~PortTable();
  PortTable(const PortTable&) = delete;
  PortTable& operator=(const PortTable&) = delete;

  absl::Status Register(ConnectionId connection, PortHandler* handler);
  void Unregister(ConnectionId connection);

  // Calls `use` with the handler of `connection`, which stays registered meanwhile.
  // kInvalidConnectionId: there is none.
  template <typename UseHandler>
  hvdef::HvStatus Use(ConnectionId connection, UseHandler use) {
    Port* port = Find(ConnectionIndex(connection));
    if (port == nullptr) return hvdef::HvStatus::kInvalidConnectionId;
    // Both sequentially consistent, as is the exchange and the load in Unregister: either we see that the handler has
    // gone, or Unregister sees our count and waits.
    port->users.fetch_add(1, std::memory_order_seq_cst);
    PortHandler* handler = port->handler.load(std::memory_order_seq_cst);
    const hvdef::HvStatus status = handler == nullptr ? hvdef::HvStatus::kInvalidConnectionId : use(*handler);
    if (port->users.fetch_sub(1, std::memory_order_seq_cst) == 1 &&
        port->handler.load(std::memory_order_seq_cst) == nullptr) {
      port->users.WakeAll();
    }
    return status;
  }

 private:
  struct alignas(64) Port {
    std::atomic<PortHandler*> handler{nullptr};
    WaitWord users;
  };
  using Leaf = std::array<Port, 256>;
  using Branch = std::array<std::atomic<Leaf*>, 256>;

  static uint32_t ConnectionIndex(ConnectionId connection) { return ToInt(connection); }
  Port* Find(uint32_t index) const {
    if (index >> 24 != 0) return nullptr;
    // Acquire pairs with the release in Register, which publishes a node that is complete.
    const Branch* branch = root_[index >> 16].load(std::memory_order_acquire);
    if (branch == nullptr) return nullptr;
    Leaf* leaf = (*branch)[index >> 8 & 0xFF].load(std::memory_order_acquire);
    return leaf == nullptr ? nullptr : &(*leaf)[index & 0xFF];
  }

  std::mutex mutex_;  // serialises Register
  std::array<std::atomic<Branch*>, 256> root_{};
};

}  // namespace hvsdk::partition

#endif  // HVSDK_SRC_PARTITION_PORT_TABLE_H_
