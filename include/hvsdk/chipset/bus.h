// SPDX-License-Identifier: Apache-2.0
// A bus: which device answers at which address. One class serves I/O ports and MMIO.
//
// Thread class: Map before the first VP runs; Read and Write are thread-safe after that and take no lock.
// Nothing a guest addresses is an error: bytes that no device answers read as ones, and writes to them are dropped.
//
//   Bus ports;
//   RETURN_IF_ERROR(ports.Map(0x3F8, Uart16550::kPorts, &uart));
//   ports.Write(0x3F8, {'!'});

#ifndef HVSDK_CHIPSET_BUS_H_
#define HVSDK_CHIPSET_BUS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "hvsdk/chipset/device.h"

namespace hvsdk::chipset {

class Bus {
 public:
  // Makes `device`, which outlives the bus, answer [base, base + size_bytes).
  // InvalidArgument: empty, wraps around, or overlaps; the message names both devices.
  absl::Status Map(uint64_t base, uint64_t size_bytes, Device* device);

  // True if a device answered every byte.
  bool Read(uint64_t address, absl::Span<uint8_t> data) const;
  bool Write(uint64_t address, absl::Span<const uint8_t> data) const;

 private:
  struct Mapping {
    uint64_t base;
    uint64_t size_bytes;
    Device* device;
  };
  const Mapping* Find(uint64_t address) const;

  std::vector<Mapping> mappings_;  // by base
};

}  // namespace hvsdk::chipset

#endif  // HVSDK_CHIPSET_BUS_H_
