// SPDX-License-Identifier: Apache-2.0
#include "partition/device_interrupts.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_format.h"
#include "hvsdk/hvdef/msr.h"

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

std::vector<RetargetState> DeviceInterrupts::Save() const {
  std::lock_guard lock(mutex_);
  std::vector<RetargetState> state;
  for (const auto& [id, device] : devices_) {
    for (const auto& [message, target] : device.targets) {
      RetargetState& saved = state.emplace_back();
      saved.device_id = id;
      saved.msi_address = message.first;
      saved.msi_data = message.second;
      saved.vector = target.vector;
      for (const VpIndex vp : target.vps) saved.vps.push_back(ToInt(vp));
    }
  }
  return state;
}

absl::Status DeviceInterrupts::Check(const std::vector<RetargetState>& state, size_t vp_count,
                                     const state::StateReader& reader) const {
  const auto key = [](const RetargetState& each) {
    return std::tuple(each.device_id, each.msi_address, each.msi_data);
  };
  std::lock_guard lock(mutex_);
  uint64_t of_device = 0;
  for (size_t i = 0; i < state.size(); ++i) {
    const RetargetState& saved = state[i];
    if (i != 0 && key(saved) <= key(state[i - 1])) return reader.Invalid("retargeted", "not in order");
    of_device = i != 0 && saved.device_id == state[i - 1].device_id ? of_device + 1 : 1;
    const auto device = devices_.find(saved.device_id);
    if (device == devices_.end()) {
      return reader.Invalid("retargeted.device_id", absl::StrFormat("there is no device %#x here", saved.device_id));
    }
    if (of_device > device->second.max_interrupts) {
      return reader.Invalid("retargeted", absl::StrFormat("device %#x has fewer interrupts here", saved.device_id));
    }
    if (saved.vector < hvdef::msr::kFirstValidVector) return reader.Invalid("retargeted.vector", "not an interrupt's");
    if (saved.vps.empty() || saved.vps.size() > vp_count ||
        std::any_of(saved.vps.begin(), saved.vps.end(), [&](uint32_t vp) { return vp >= vp_count; })) {
      return reader.Invalid("retargeted.vps", "not VPs of this partition");
    }
  }
  return absl::OkStatus();
}

void DeviceInterrupts::Restore(const std::vector<RetargetState>& state) {
  std::lock_guard lock(mutex_);
  for (auto& [id, device] : devices_) device.targets.clear();
  for (const RetargetState& saved : state) {
    Target target{.vector = saved.vector, .vps = {}};
    for (const uint32_t vp : saved.vps) target.vps.push_back(VpIndex{vp});
    devices_.at(saved.device_id).targets[{saved.msi_address, saved.msi_data}] = std::move(target);
  }
}

}  // namespace hvsdk::partition
