// SPDX-License-Identifier: Apache-2.0
// DeviceInterrupts: where the message-signalled interrupts of devices go, once the guest has retargeted them
// (TLFS, HvCallRetargetDeviceInterrupt). The guest names an interrupt by the address and data it was first given.
//
// Thread-safe; a lock is held for the look-up alone.

#ifndef HVSDK_SRC_PARTITION_DEVICE_INTERRUPTS_H_
#define HVSDK_SRC_PARTITION_DEVICE_INTERRUPTS_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/hvdef/status.h"
#include "hvsdk/state/reader.h"
#include "partition/state.h"

namespace hvsdk::partition {

class DeviceInterrupts {
 public:
  explicit DeviceInterrupts(backend::Partition& backend) : backend_(backend) {}

  absl::Status Register(uint64_t device_id, uint32_t max_interrupts);
  void Unregister(uint64_t device_id);

  // Sends the interrupt (address, data) of a device to `vector` on all of `targets`, or with `multicast` false on the
  // first. kInvalidParameter: no such device. kInsufficientBuffers: it has more interrupts than it was registered with.
  hvdef::HvStatus Retarget(uint64_t device_id, uint64_t address, uint32_t data, uint8_t vector, bool multicast,
                           std::vector<VpIndex> targets);

  // Delivers an interrupt: as retargeted, else as the message itself says.
  void Signal(uint64_t device_id, uint64_t address, uint32_t data);

  // Forgets all retargeting.
  void Reset();

  std::vector<RetargetState> Save() const;
  // Whether Restore may be given this, in a partition of `vp_count` VPs. InvalidArgument names a device that was
  // retargeted and is not registered.
  absl::Status Check(const std::vector<RetargetState>& state, size_t vp_count, const state::StateReader& reader) const;
  void Restore(const std::vector<RetargetState>& state);

 private:
  struct Target {
    uint8_t vector;
    std::vector<VpIndex> vps;
  };
  struct Device {
    uint32_t max_interrupts;
    std::map<std::pair<uint64_t, uint32_t>, Target> targets;
  };

  backend::Partition& backend_;
  mutable std::mutex mutex_;
  std::map<uint64_t, Device> devices_;
};

}  // namespace hvsdk::partition

#endif  // HVSDK_SRC_PARTITION_DEVICE_INTERRUPTS_H_
