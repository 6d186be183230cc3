// SPDX-License-Identifier: Apache-2.0
// A bus: which device answers at which address. One class serves I/O ports and MMIO.
//
// Thread-safe. Read and Write take no lock; Map and Unmap may be called while VPs run. Whoever unmapped a device
// destroys it only once no access that was under way can still be inside; on a machine::Board, Board::Unmap sees to that.
// Nothing a guest addresses is an error: bytes that no device answers read as ones, and writes to them are dropped.
//
//   Bus ports;
//   if (const absl::Status status = ports.Map(0x3F8, Uart16550::kPorts, &uart); !status.ok()) return status;
//   const uint8_t text[] = {'!'};
//   ports.Write(0x3F8, text);

#ifndef HVSDK_CHIPSET_BUS_H_
#define HVSDK_CHIPSET_BUS_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "hvsdk/base/device.h"

namespace hvsdk::chipset {

class Bus {
 public:
  Bus();
  ~Bus();
  Bus(const Bus&) = delete;
  Bus& operator=(const Bus&) = delete;

  // Makes `device` answer [base, base + size_bytes), from now on; `base` is its offset `offset`, for a device with
  // registers in several places. InvalidArgument: empty, wraps around, or overlaps; the message names both devices.
  absl::Status Map(uint64_t base, uint64_t size_bytes, Device* device, uint64_t offset = 0);
  // Nothing that begins afterwards reaches `device`, wherever it was mapped. Returns a mark for Reclaim.
  uint64_t Unmap(const Device* device);
  // Frees what the bus kept for accesses that began before the Unmap that returned `mark`, now that none is under way.
  void Reclaim(uint64_t mark);

  // True if a device answered every byte.
  bool Read(uint64_t address, absl::Span<uint8_t> data) const;
  bool Write(uint64_t address, absl::Span<const uint8_t> data) const;

 private:
  struct Mapping {
    uint64_t base;
    uint64_t size_bytes;
    uint64_t offset;
    Device* device;
  };
  using Table = std::vector<Mapping>;  // by base
  static const Mapping* Find(const Table& table, uint64_t address);
  void Publish(std::unique_ptr<const Table> table);

  std::mutex mutex_;                                 // serialises changes
  std::atomic<const Table*> table_;                  // the last of tables_
  std::deque<std::unique_ptr<const Table>> tables_;  // those before may still have readers
  uint64_t reclaimed_ = 0;                           // how many are gone from its front
};

}  // namespace hvsdk::chipset

#endif  // HVSDK_CHIPSET_BUS_H_
