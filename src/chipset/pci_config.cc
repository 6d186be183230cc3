// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/chipset/pci_config.h"

namespace hvsdk::chipset {
namespace {

constexpr uint64_t kAddressPort = 0;
constexpr uint64_t kDataPort = 4;
constexpr uint32_t kEnable = 1u << 31;
constexpr uint32_t kFunctionMask = 0x00FFFF00;  // bus, device, function
constexpr uint32_t kRegisterMask = 0x000000FC;
constexpr uint32_t kAddressMask = kEnable | kFunctionMask | kRegisterMask;

// 6.1: the header of the host bridge, an 82443BX as a generation 1 VM has it. What is not here reads as zero, and none
// of it can be written.
constexpr uint8_t kHostBridge[16] = {
    0x86, 0x80,        // vendor: Intel
    0x92, 0x71,        // device: 82443BX without AGP
    0x00, 0x00,        // command
    0x00, 0x00,        // status
    0x03,              // revision
    0x00, 0x00, 0x06,  // class: host bridge
};

struct PciConfigState {
  static constexpr uint32_t kSchema = 1;
  uint32_t address = 0;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "address", address);
  }
};

}  // namespace

absl::Status PciConfigPorts::Save(state::StateWriter& writer) const {
  PciConfigState state{.address = address_};
  writer.Write(state);
  return absl::OkStatus();
}

absl::Status PciConfigPorts::Restore(state::StateReader& reader) {
  PciConfigState state;
  if (absl::Status status = reader.Read(state); !status.ok()) return status;
  if ((state.address & ~kAddressMask) != 0) return reader.Invalid("address", "bits that there are not");
  address_ = state.address;
  return absl::OkStatus();
}

void PciConfigPorts::Reset() { address_ = 0; }

// Bus 0, function 0 of a device.
PciFunction* PciConfigPorts::FunctionAt(uint32_t address) const {
  constexpr uint32_t kDeviceMask = 0x0000F800, kDeviceShift = 11;
  if (!(address & kEnable) || (address & kFunctionMask & ~kDeviceMask) != 0) return nullptr;
  return functions_[(address & kDeviceMask) >> kDeviceShift];
}

uint8_t PciConfigPorts::ReadConfig(uint32_t address, uint64_t byte) const {
  if (PciFunction* const function = FunctionAt(address); function != nullptr) {
    return function->ReadConfig(static_cast<uint8_t>((address & kRegisterMask) + byte));
  }
  if (!(address & kEnable) || (address & kFunctionMask) != 0) return 0xFF;
  const uint64_t at = (address & kRegisterMask) + byte;
  return at < sizeof(kHostBridge) ? kHostBridge[at] : 0;
}

void PciConfigPorts::Read(uint64_t offset, absl::Span<uint8_t> data) {
  const uint32_t address = address_.load(std::memory_order_relaxed);
  for (uint8_t& byte : data) {
    if (offset >= kDataPort) {
      byte = ReadConfig(address, offset - kDataPort);
    } else {
      // The address register answers whole double words alone; narrower ones are other devices' ports.
      byte = data.size() == 4 ? static_cast<uint8_t>(address >> (8 * offset)) : 0xFF;
    }
    ++offset;
  }
}

void PciConfigPorts::Write(uint64_t offset, absl::Span<const uint8_t> data) {
  if (offset >= kDataPort) {
    const uint32_t address = address_.load(std::memory_order_relaxed);
    PciFunction* const function = FunctionAt(address);
    if (function == nullptr) return;
    for (const uint8_t byte : data) {
      function->WriteConfig(static_cast<uint8_t>((address & kRegisterMask) + (offset++ - kDataPort)), byte);
    }
    return;
  }
  if (offset != kAddressPort || data.size() != 4) return;
  const uint32_t address = data[0] | data[1] << 8 | data[2] << 16 | uint32_t{data[3]} << 24;
  address_.store(address & kAddressMask, std::memory_order_relaxed);
}

}  // namespace hvsdk::chipset
