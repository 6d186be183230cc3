// SPDX-License-Identifier: Apache-2.0
#include "disks.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hvsdk/image/snapshot.h"
#include "hvsdk/vmm/config.h"

namespace mini_vmm {

using hvsdk::vmm::DiskConfig;
using hvsdk::vmm::DiskSnapshot;
using hvsdk::vmm::DiskStatus;
using hvsdk::vmm::MachineConfig;

namespace {

// A folder that is there after a loss of power, too, if it was not there yet.
absl::Status MakeFolder(const std::string& path, bool& is_made) {
  const auto error = [&path] { return absl::ErrnoToStatus(errno, absl::StrCat("'", path, "'")); };
  is_made = mkdir(path.c_str(), 0777) == 0;
  if (!is_made) return errno == EEXIST ? absl::OkStatus() : error();
  const int parent = open(absl::StrCat(path, "/..").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  absl::Status status;
  if (parent < 0 || (fsync(parent) != 0 && errno != EINVAL)) status = error();
  if (parent >= 0) close(parent);
  return status;
}

}  // namespace

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

std::vector<int> Disks::Written() const {
  std::vector<int> written;
  for (int i = 0; i < config_.disks_size(); ++i) {
    if (!config_.disks(i).dvd() && !config_.disks(i).read_only()) written.push_back(i);
  }
  return written;
}

absl::Status Disks::CheckSnapshot() const {
  const std::vector<int> written = Written();
  if (written.empty()) return absl::FailedPreconditionError("the machine has no disk that it writes");
  for (const int i : written) {
    absl::Status possible = hvsdk::CheckSnapshot(*files_.disks[static_cast<size_t>(i)]);
    if (!possible.ok()) return possible;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<DiskSnapshot>> Disks::Snapshot(const std::string& directory) {
  // Disks may have come and gone since.
  if (absl::Status possible = CheckSnapshot(); !possible.ok()) return possible;
  const std::vector<int> written = Written();
  std::vector<hvsdk::ImageSnapshot> wanted;
  for (const int i : written) {
    wanted.push_back(
        {files_.disks[static_cast<size_t>(i)], absl::StrCat(directory, "/storage-", config_.disks(i).lun(), ".avhdx")});
  }
  bool is_made = false;
  const absl::Status folder = MakeFolder(directory, is_made);
  using Disks = std::vector<std::shared_ptr<hvsdk::ImageDisk>>;
  auto taken = folder.ok() ? hvsdk::SnapshotImages(wanted, TellOfDisk, files_.engine) : absl::StatusOr<Disks>(folder);
  if (!taken.ok()) {
    if (is_made) rmdir(directory.c_str());
    return taken.status();
  }
  std::vector<DiskSnapshot> snapshots;
  for (size_t n = 0; n < written.size(); ++n) {
    const int i = written[n];
    DiskConfig& config = *config_.mutable_disks(i);
    DiskSnapshot& snapshot = snapshots.emplace_back();
    snapshot.set_device(absl::StrCat("storage/", config.lun()));
    snapshot.set_snapshot(wanted[n].disk->path());
    snapshot.set_path(wanted[n].path);
    std::shared_ptr<hvsdk::ImageDisk>& file = files_.disks[static_cast<size_t>(i)];
    file = std::move((*taken)[n]);
    // The guest's last flush was the old one's: an error here would be one of ours.
    absl::Status replaced = machine_.ReplaceDisk(static_cast<uint8_t>(config.lun()), file, wanted[n].path);
    if (!replaced.ok()) return absl::InternalError(replaced.message());
    config.set_path(wanted[n].path);
    config.set_format("vhdx");  // which one with a parent needs
  }
  return snapshots;
}

int Disks::Find(uint8_t lun) const {
  for (int i = 0; i < config_.disks_size(); ++i) {
    if (config_.disks(i).lun() == lun) return i;
  }
  return -1;
}

}  // namespace mini_vmm
