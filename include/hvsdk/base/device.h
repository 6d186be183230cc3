// SPDX-License-Identifier: Apache-2.0
// A device on a port or MMIO bus: it answers reads and writes at offsets of its own. What it is mapped at is bound
// elsewhere (bus.h), so that the same device serves any machine.
//
// Thread-safe: VPs call from their own threads, several at once. An access has 1 to 64 bytes and lies within
// the mapping.
//
//   class Beeper : public ByteDevice {
//    public:
//     absl::string_view Name() const override { return "beeper"; }
//
//    protected:
//     uint8_t ReadByte(uint64_t) override { return tone_; }
//     void WriteByte(uint64_t, uint8_t value) override { tone_ = value; }
//     std::atomic<uint8_t> tone_{0};
//   };
//   Beeper beeper;
//   const absl::Status status = ports.Map(0x61, 1, &beeper);

#ifndef HVSDK_BASE_DEVICE_H_
#define HVSDK_BASE_DEVICE_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace hvsdk {

// Offset and data are the guest's choice within the mapping; no value of them is an error of ours.
class Device {
 public:
  virtual ~Device() = default;

  // For messages and traces, such as "serial port".
  virtual absl::string_view Name() const = 0;

  // `data` is 1 to 64 bytes and lies wholly inside the device.
  virtual void Read(uint64_t offset, absl::Span<uint8_t> data) = 0;
  virtual void Write(uint64_t offset, absl::Span<const uint8_t> data) = 0;
};

// A device with 8-bit registers. As on the ISA bus, a wider access becomes byte accesses in ascending order.
class ByteDevice : public Device {
 public:
  void Read(uint64_t offset, absl::Span<uint8_t> data) final {
    for (uint8_t& byte : data) byte = ReadByte(offset++);
  }
  void Write(uint64_t offset, absl::Span<const uint8_t> data) final {
    for (const uint8_t byte : data) WriteByte(offset++, byte);
  }

 protected:
  virtual uint8_t ReadByte(uint64_t offset) = 0;
  virtual void WriteByte(uint64_t offset, uint8_t value) = 0;
};

}  // namespace hvsdk

#endif  // HVSDK_BASE_DEVICE_H_
