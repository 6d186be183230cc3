// SPDX-License-Identifier: Apache-2.0
#include "disks.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "hvsdk/vmm/config.h"

namespace mini_vmm {

using hvsdk::vmm::DiskConfig;
using hvsdk::vmm::DiskStatus;
using hvsdk::vmm::MachineConfig;

std::vector<DiskStatus> Disks::disks() const {
  std::vector<DiskStatus> all;
  for (int i = 0; i < config_.disks_size(); ++i) {
    const DiskConfig& config = config_.disks(i);
    DiskStatus& disk = all.emplace_back();
    disk.set_lun(config.lun());
    disk.set_name(config.name());
    disk.set_path(config.path());
    disk.set_read_only(config.read_only());
    disk.set_size_bytes(files_.disks[static_cast<size_t>(i)]->info().size_bytes);
  }
  return all;
}

absl::StatusOr<uint8_t> Disks::Attach(const DiskConfig& disk) {
  MachineConfig with = config_;
  DiskConfig& added = *with.add_disks() = disk;
  added.clear_lun();
  if (const absl::Status valid = hvsdk::vmm::ValidateMachineConfig(with); !valid.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--", valid.message()));
  }
  auto device = OpenLastDisk(config_path_, with, files_);
  if (!device.ok()) return device.status();
  const absl::StatusOr<uint8_t> lun = machine_.AttachDisk({*device, disk.path()});
  if (!lun.ok()) return absl::Status(lun.status().code(), absl::StrCat("--disk: ", lun.status().message()));
  added.set_lun(*lun);
  config_.Swap(&with);
  files_.disks.push_back(*std::move(device));
  return lun;
}

absl::Status Disks::Detach(uint8_t lun, absl::AnyInvocable<void()> gone) {
  for (int i = 0; i < config_.disks_size(); ++i) {
    if (config_.disks(i).lun() != lun) continue;
    config_.mutable_disks()->DeleteSubrange(i, 1);
    files_.disks.erase(files_.disks.begin() + i);
    break;
  }
  return machine_.DetachDisk(lun, std::move(gone));
}

}  // namespace mini_vmm
