// SPDX-License-Identifier: Apache-2.0
#include "partition/device_interrupts.h"

#include "absl/strings/str_format.h"

namespace hvsdk::partition {

using hvdef::HvStatus;

absl::Status DeviceInterrupts::Register(uint64_t device_id, uint32_t max_interrupts) {
  std::lock_guard lock(mutex_);
  if (!devices_.try_emplace(device_id, Device{max_interrupts, {}}).second) {
    return absl::AlreadyExistsError(absl::StrFormat("device id %#x is taken", device_id));
  }
  return absl::OkStatus();
}

void DeviceInterrupts::Unregister(uint64_t device_id) {
  std::lock_guard lock(mutex_);
  devices_.erase(device_id);
}

HvStatus DeviceInterrupts::Retarget(uint64_t device_id, uint64_t address, uint32_t data, uint8_t vector, bool multicast,
                                    std::vector<VpIndex> targets) {
  if (targets.empty()) return HvStatus::kInvalidParameter;
  if (!multicast) targets.resize(1);
  std::lock_guard lock(mutex_);
  const auto device = devices_.find(device_id);
  if (device == devices_.end()) return HvStatus::kInvalidParameter;
  const std::pair key(address, data);
  auto& known = device->second.targets;
  if (known.size() >= device->second.max_interrupts && !known.contains(key)) return HvStatus::kInsufficientBuffers;
  known[key] = {vector, std::move(targets)};
  return HvStatus::kSuccess;
}

void DeviceInterrupts::Signal(uint64_t device_id, uint64_t address, uint32_t data) {
  Target target;
  {
    std::lock_guard lock(mutex_);
    const auto device = devices_.find(device_id);
    if (device == devices_.end()) return;
    const auto found = device->second.targets.find({address, data});
    if (found != device->second.targets.end()) target = found->second;
  }
  if (target.vps.empty()) return backend_.SignalMsi(address, data);
  for (VpIndex vp : target.vps) backend_.RequestInterrupt(vp, target.vector, /*auto_eoi=*/false);
}

void DeviceInterrupts::Reset() {
  std::lock_guard lock(mutex_);
  for (auto& [id, device] : devices_) device.targets.clear();
}

}  // namespace hvsdk::partition
