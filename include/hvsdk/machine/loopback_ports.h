// SPDX-License-Identifier: Apache-2.0
// LoopbackPorts: sixteen connections by which a guest's first processor sends itself messages and events, one for each
// SINT, and one more by which a device interrupts it. A machine has them if its configuration says so; they are for
// guests that test the SynIC and HvCallRetargetDeviceInterrupt.
//
// Connection kFirstLoopbackConnection + n: a message comes back, with its type and contents, in the slot of SINT n of
// VP 0; an event sets the same flag of that SINT. What the SynIC answers is the guest's status.
//
// Connection kLoopbackDeviceConnection: an event with flag F makes the device kLoopbackDevice send its interrupt of the
// address kLoopbackMsiAddress and the data F: vector F, fixed, for the APIC with id 0, unless the guest retargeted it.
// It takes no messages.
//
// Thread-safe once registered. Destroy it when no VP runs.

#ifndef HVSDK_MACHINE_LOOPBACK_PORTS_H_
#define HVSDK_MACHINE_LOOPBACK_PORTS_H_

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "hvsdk/hvdef/message.h"
#include "hvsdk/partition/partition.h"

namespace hvsdk::machine {

// Above the connections of VMBus channels, which end at 0xFFFF.
inline constexpr uint32_t kFirstLoopbackConnection = 0x10000;
inline constexpr uint32_t kLoopbackDeviceConnection = kFirstLoopbackConnection + hvdef::kSintCount;
inline constexpr uint64_t kLoopbackDevice = 0x10000;
inline constexpr uint64_t kLoopbackMsiAddress = 0xFEE00000;

class LoopbackPorts {
 public:
  // `partition` outlives this.
  explicit LoopbackPorts(partition::Partition& partition) : partition_(partition) {}
  LoopbackPorts(const LoopbackPorts&) = delete;
  LoopbackPorts& operator=(const LoopbackPorts&) = delete;
  ~LoopbackPorts() {
    for (uint32_t sint = 0; sint < registered_; ++sint) partition_.UnregisterPort(Connection(sint));
    if (!has_device_) return;
    partition_.UnregisterPort(ConnectionId{kLoopbackDeviceConnection});
    partition_.UnregisterDevice(kLoopbackDevice);
  }

  // Once, before a VP runs. AlreadyExists: another has these connections, or the device's id.
  absl::Status Register() {
    for (; registered_ < ports_.size(); ++registered_) {
      Port& port = ports_[registered_];
      port.partition = &partition_;
      port.sint = Sint{static_cast<uint8_t>(registered_)};
      absl::Status status = partition_.RegisterPort(Connection(registered_), &port);
      if (!status.ok()) return status;
    }
    absl::Status status = partition_.RegisterDevice(kLoopbackDevice, 1);
    if (!status.ok()) return status;
    status = partition_.RegisterPort(ConnectionId{kLoopbackDeviceConnection}, &device_);
    has_device_ = status.ok();
    if (!has_device_) partition_.UnregisterDevice(kLoopbackDevice);
    return status;
  }

 private:
  struct Port final : PortHandler {
    hvdef::HvStatus OnMessage(uint32_t message_type, absl::Span<const uint8_t> payload) override {
      return partition->PostMessage(VpIndex{0}, sint, message_type, payload);
    }
    hvdef::HvStatus OnEvent(uint16_t flag) override { return partition->SignalEvent(VpIndex{0}, sint, flag); }

    partition::Partition* partition = nullptr;
    Sint sint{};
  };
  struct Device final : PortHandler {
    explicit Device(partition::Partition& to) : partition(to) {}
    hvdef::HvStatus OnEvent(uint16_t flag) override {
      partition.SignalDeviceInterrupt(kLoopbackDevice, kLoopbackMsiAddress, flag);
      return hvdef::HvStatus::kSuccess;
    }

    partition::Partition& partition;
  };

  static ConnectionId Connection(uint32_t sint) { return ConnectionId{kFirstLoopbackConnection + sint}; }

  partition::Partition& partition_;
  std::array<Port, hvdef::kSintCount> ports_;
  uint32_t registered_ = 0;
  Device device_{partition_};
  bool has_device_ = false;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_LOOPBACK_PORTS_H_
