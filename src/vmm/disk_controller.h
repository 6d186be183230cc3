// SPDX-License-Identifier: Apache-2.0
// The machine's disks: one SCSI controller on VMBus.

#ifndef HVSDK_SRC_VMM_DISK_CONTROLLER_H_
#define HVSDK_SRC_VMM_DISK_CONTROLLER_H_

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "hvsdk/base/block_device.h"
#include "hvsdk/vmm/part.h"
#include "hvsdk/vsp/storage.h"

namespace hvsdk::vmm {

class DiskController final : public Part {
 public:
  // LUNs 0, 1, ... `names` are theirs, for messages, as far as there are any.
  DiskController(std::vector<std::shared_ptr<BlockDevice>> disks, std::vector<std::string> names)
      : disks_(std::move(disks)), names_(std::move(names)) {}

  absl::Status Attach(Board& board) override {
    if (board.is_deterministic()) return absl::UnimplementedError("a deterministic machine has no disks");
    constexpr uint32_t kMost = vsp::StorageController::kMaxSubchannels;
    auto made = vsp::StorageController::Create(
        board.vmbus(), board.loop(),
        {.instance_id = kInstance, .max_subchannels = static_cast<uint16_t>(std::min(board.cpus() - 1, kMost))});
    if (!made.ok()) return made.status();
    storage_ = *std::move(made);
    for (size_t lun = 0; lun < disks_.size(); ++lun) {
      const absl::Status status = storage_->Attach(static_cast<uint8_t>(lun), disks_[lun]);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  void Stop(absl::AnyInvocable<void()> done) override { storage_->Stop(std::move(done)); }
  std::string WaitsFor() const override {
    return absl::StrJoin(storage_->BusyDisks(), ", ", [this](std::string* text, uint8_t lun) {
      if (lun < names_.size()) {
        absl::StrAppend(text, "disk '", names_[lun], "'");
      } else {
        absl::StrAppend(text, "disk ", lun);
      }
    });
  }
  void Detach() override { storage_.reset(); }

 private:
  // The same at every start, so that a guest finds its disks under the same names.
  static constexpr hvdef::Guid kInstance = {
      0x3E7F6C1A, 0x52D4, 0x4B8E, {0x9A, 0x07, 0x68, 0xC1, 0xD2, 0x0F, 0x5B, 0x31}};

  const std::vector<std::shared_ptr<BlockDevice>> disks_;
  const std::vector<std::string> names_;
  std::unique_ptr<vsp::StorageController> storage_;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_SRC_VMM_DISK_CONTROLLER_H_
