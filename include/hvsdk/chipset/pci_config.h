// SPDX-License-Identifier: Apache-2.0
// PCI configuration space behind ports 0xCF8 to 0xCFF (configuration mechanism #1), with the host bridge on its bus, and
// what is put beside it. A guest that finds a bridge knows that there is a PCI bus and that it is empty; without one it complains.
//
// Thread-safe: address and data are two accesses, which a guest makes under a lock of its own; mixing them up between
// processors addresses the wrong register, as on hardware.
//
// Source: PCI Local Bus Specification 3.0, 3.2.2.3.2 and 6.1.
//
//   PciConfigPorts pci;
//   const absl::Status status = ports.Map(0xCF8, PciConfigPorts::kPorts, &pci);

#ifndef HVSDK_CHIPSET_PCI_CONFIG_H_
#define HVSDK_CHIPSET_PCI_CONFIG_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "hvsdk/base/device.h"
#include "hvsdk/state/component.h"

namespace hvsdk::chipset {

// Function 0 of a device on the bus: its configuration space, byte by byte. Thread-safe.
class PciFunction {
 public:
  virtual ~PciFunction() = default;
  virtual uint8_t ReadConfig(uint8_t at) = 0;
  virtual void WriteConfig(uint8_t at, uint8_t value) = 0;
};

class PciConfigPorts final : public Device, public state::Component {
 public:
  static constexpr uint64_t kPorts = 8;
  static constexpr uint8_t kDevices = 32;

  // Puts a function beside the bridge, or with nullptr takes it away: device 1 to 31 of bus 0. Before the first VP runs; it outlives that.
  void SetFunction(uint8_t device, PciFunction* function) { functions_[device % kDevices] = function; }

  absl::string_view Name() const override { return "PCI configuration ports"; }
  std::string StateName() const override { return "pci-config"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;
  void Read(uint64_t offset, absl::Span<uint8_t> data) override;
  void Write(uint64_t offset, absl::Span<const uint8_t> data) override;

 private:
  // One byte of the addressed function's configuration space.
  uint8_t ReadConfig(uint32_t address, uint64_t byte) const;

  PciFunction* FunctionAt(uint32_t address) const;

  std::atomic<uint32_t> address_{0};
  std::array<PciFunction*, kDevices> functions_{};
};

}  // namespace hvsdk::chipset

#endif  // HVSDK_CHIPSET_PCI_CONFIG_H_
