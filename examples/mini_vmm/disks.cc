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
    disk.set_read_only(config.read_only() || config.dvd());
    disk.set_dvd(config.dvd());
    const auto& file = files_.disks[static_cast<size_t>(i)];
    if (file != nullptr) disk.set_size_bytes(file->info().size_bytes);
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
  hvsdk::machine::MachineDisk attached{*device, disk.path()};
  attached.is_dvd = disk.dvd();
  const absl::StatusOr<uint8_t> lun = machine_.AttachDisk(std::move(attached));
  if (!lun.ok()) {
    return absl::Status(lun.status().code(), absl::StrCat(disk.dvd() ? "--dvd: " : "--disk: ", lun.status().message()));
  }
  added.set_lun(*lun);
  config_.Swap(&with);
  files_.disks.push_back(*std::move(device));
  return lun;
}

absl::Status Disks::Detach(uint8_t lun, absl::AnyInvocable<void()> gone) {
  if (const int i = Find(lun); i >= 0) {
    config_.mutable_disks()->DeleteSubrange(i, 1);
    files_.disks.erase(files_.disks.begin() + i);
  }
  return machine_.DetachDisk(lun, std::move(gone));
}

absl::Status Disks::Insert(uint8_t lun, const std::string& path) {
  const int i = Find(lun);
  if (i < 0 || !config_.disks(i).dvd()) return absl::InvalidArgumentError("is no DVD drive");
  if (path.empty()) return absl::InvalidArgumentError("a path is needed");
  MachineConfig with = config_;
  with.mutable_disks()->DeleteSubrange(i, 1);
  DiskConfig& changed = *with.add_disks() = config_.disks(i);
  changed.set_path(path);
  if (absl::Status valid = hvsdk::vmm::ValidateMachineConfig(with); !valid.ok()) return valid;
  auto device = OpenLastDisk(config_path_, with, files_);
  if (!device.ok()) return device.status();
  if (absl::Status inserted = machine_.InsertMedium(lun, *device); !inserted.ok()) return inserted;
  config_.mutable_disks(i)->set_path(path);
  files_.disks[static_cast<size_t>(i)] = *std::move(device);
  return absl::OkStatus();
}

absl::Status Disks::Eject(uint8_t lun, bool force) {
  const int i = Find(lun);
  if (i < 0 || !config_.disks(i).dvd()) return absl::InvalidArgumentError("is no DVD drive");
  if (absl::Status ejected = machine_.EjectMedium(lun, force); !ejected.ok()) return ejected;
  config_.mutable_disks(i)->clear_path();
  files_.disks[static_cast<size_t>(i)].reset();
  return absl::OkStatus();
}

void Disks::OnEjected(absl::string_view device) {
  for (int i = 0; i < config_.disks_size(); ++i) {
    if (device != absl::StrCat("storage/", config_.disks(i).lun())) continue;
    config_.mutable_disks(i)->clear_path();
    files_.disks[static_cast<size_t>(i)].reset();
  }
}

int Disks::Find(uint8_t lun) const {
  for (int i = 0; i < config_.disks_size(); ++i) {
    if (config_.disks(i).lun() == lun) return i;
  }
  return -1;
}

}  // namespace mini_vmm
