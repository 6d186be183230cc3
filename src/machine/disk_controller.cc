// SPDX-License-Identifier: Apache-2.0
#include "machine/disk_controller.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "machine/next_number.h"

namespace hvsdk::machine {
namespace {

// The same at every start, so that a guest finds its disks under the same names.
constexpr hvdef::Guid kInstance = {0x3E7F6C1A, 0x52D4, 0x4B8E, {0x9A, 0x07, 0x68, 0xC1, 0xD2, 0x0F, 0x5B, 0x31}};

}  // namespace

absl::Status DiskController::Attach(Board& board) {
  if (board.is_deterministic()) return absl::UnimplementedError("a deterministic machine has no disks");
  constexpr uint32_t kMost = vsp::StorageController::kMaxSubchannels;
  ASSIGN_OR_RETURN(storage_, vsp::StorageController::Create(
                                 board.vmbus(), board.loop(),
                                 {.instance_id = kInstance,
                                  .max_subchannels = static_cast<uint16_t>(std::min(board.cpus() - 1, kMost))}));
  for (MachineDisk& disk : std::exchange(first_disks_, {})) {
    if (disk.device == nullptr && !disk.is_dvd) {
      if (disk.lun.has_value()) storage_->LeaveOut(*disk.lun);
      continue;
    }
    RETURN_IF_ERROR(Plug(std::move(disk)).status());
  }
  return absl::OkStatus();
}

absl::StatusOr<uint8_t> DiskController::Plug(MachineDisk disk) {
  if (!disk.lun.has_value()) {
    ASSIGN_OR_RETURN(disk.lun, NextNumber("disks", next_lun_, slots_.size(),
                                          [this](uint8_t lun) { return slots_[lun].held.expired(); }));
  }
  const uint8_t lun = *disk.lun;
  const auto held = std::make_shared<Held>();
  std::shared_ptr<scsi::DvdDrive> drive;
  if (disk.is_dvd) {
    std::shared_ptr<BlockDevice> medium;
    if (disk.device != nullptr) medium = Metered(lun, std::move(disk.device), held->meter);
    // The drive has its hold in what it tells.
    ASSIGN_OR_RETURN(drive, storage_->AttachDvd(lun, std::move(medium), [held, lun, this] { on_ejected_(lun); }));
  } else {
    held->disk = Metered(lun, std::move(disk.device), held->meter);
    RETURN_IF_ERROR(storage_->Attach(lun, std::shared_ptr<BlockDevice>(held, held->disk.get())));
  }
  slots_[lun] = {std::move(disk.name), held, drive};
  next_lun_ = static_cast<uint8_t>((lun + 1) % slots_.size());
  return lun;
}

std::shared_ptr<MeteredDisk> DiskController::Metered(uint8_t lun, std::shared_ptr<BlockDevice> device,
                                                     std::shared_ptr<DiskMeter> meter) const {
  const auto tell = [failures = failures_, lun](BlockStatus status) {
    std::lock_guard lock(failures->mutex);
    if (failures->tell) failures->tell(lun, status);
  };
  return std::make_shared<MeteredDisk>(std::move(device), tell, std::move(meter));
}

absl::StatusOr<std::shared_ptr<scsi::DvdDrive>> DiskController::DriveAt(uint8_t lun) const {
  std::shared_ptr<scsi::DvdDrive> drive = lun < slots_.size() ? slots_[lun].drive.lock() : nullptr;
  if (drive == nullptr) return absl::NotFoundError(absl::StrCat("no DVD drive at SCSI LUN ", lun));
  return drive;
}

absl::Status DiskController::Replace(uint8_t lun, std::shared_ptr<BlockDevice> device, std::string name) {
  const std::shared_ptr<Held> held = lun < slots_.size() ? slots_[lun].held.lock() : nullptr;
  if (held == nullptr || held->disk == nullptr) return absl::NotFoundError(absl::StrCat("no disk at SCSI LUN ", lun));
  const BlockInfo &was = held->disk->info(), &is = device->info();
  if (is.size_bytes != was.size_bytes || is.logical_block_bytes != was.logical_block_bytes ||
      is.read_only != was.read_only || (was.can_discard && !is.can_discard)) {
    return absl::InvalidArgumentError(absl::StrCat("the disk at SCSI LUN ", lun, " has another form"));
  }
  held->disk->Replace(std::move(device));
  slots_[lun].name = std::move(name);
  return absl::OkStatus();
}

absl::Status DiskController::Insert(uint8_t lun, std::shared_ptr<BlockDevice> medium) {
  ASSIGN_OR_RETURN(const std::shared_ptr<scsi::DvdDrive> drive, DriveAt(lun));
  // The drive, and what is held for it, may go at any time.
  const std::shared_ptr<Held> held = slots_[lun].held.lock();
  return drive->Insert(Metered(lun, std::move(medium), held == nullptr ? std::make_shared<DiskMeter>() : held->meter));
}

absl::Status DiskController::Eject(uint8_t lun, bool force) {
  ASSIGN_OR_RETURN(const std::shared_ptr<scsi::DvdDrive> drive, DriveAt(lun));
  return drive->Eject(force);
}

absl::Status DiskController::Pull(uint8_t lun, absl::AnyInvocable<void()> gone) {
  const std::shared_ptr<Held> held = lun < slots_.size() ? slots_[lun].held.lock() : nullptr;
  RETURN_IF_ERROR(storage_->Detach(lun));
  held->gone = std::move(gone);
  return absl::OkStatus();
}

void DiskController::Detach() {
  {
    std::lock_guard lock(failures_->mutex);
    failures_->tell = nullptr;
  }
  storage_.reset();
}

std::vector<MachineDiskCounts> DiskController::counts() const {
  std::vector<MachineDiskCounts> all;
  for (size_t lun = 0; lun < slots_.size(); ++lun) {
    const std::shared_ptr<Held> held = slots_[lun].held.lock();
    if (held == nullptr) continue;
    MachineDiskCounts& counts = all.emplace_back();
    counts.lun = static_cast<uint8_t>(lun);
    for (size_t op = 0; op < counts.ops.size(); ++op) counts.ops[op] = held->meter->counts(static_cast<BlockOp>(op));
  }
  return all;
}

std::string DiskController::WaitsFor() const {
  return absl::StrJoin(storage_->BusyDisks(), ", ", [this](std::string* text, uint8_t lun) {
    if (slots_[lun].name.empty()) {
      absl::StrAppend(text, "disk ", lun);
    } else {
      absl::StrAppend(text, "disk '", slots_[lun].name, "'");
    }
  });
}

}  // namespace hvsdk::machine
