// SPDX-License-Identifier: Apache-2.0
// The machine's disks: one SCSI controller on VMBus.

#ifndef HVSDK_SRC_MACHINE_DISK_CONTROLLER_H_
#define HVSDK_SRC_MACHINE_DISK_CONTROLLER_H_

#include <array>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/image/metered_disk.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/machine/part.h"
#include "hvsdk/resource/block_device.h"
#include "hvsdk/vsp/storage.h"

namespace hvsdk::machine {

class DiskController final : public Part {
 public:
  static constexpr absl::string_view kStateName = "storage/0";

  using OnFailure = std::function<void(uint8_t lun, BlockStatus)>;

  using OnEjected = std::function<void(uint8_t lun)>;

  // A controller with these; more may come and go. `on_failure` is told of each disk's first error, on any thread, and
  // `on_ejected` of guests that open a drive, on the loop's.
  DiskController(std::vector<MachineDisk> disks, OnFailure on_failure, OnEjected on_ejected)
      : first_disks_(std::move(disks)), on_ejected_(std::move(on_ejected)), failures_(std::make_shared<Failures>()) {
    failures_->tell = std::move(on_failure);
  }

  // As Machine has it; on the loop's thread.
  absl::StatusOr<uint8_t> Plug(MachineDisk disk);
  absl::Status Pull(uint8_t lun, absl::AnyInvocable<void()> gone);

  absl::Status Replace(uint8_t lun, std::shared_ptr<BlockDevice> device, std::string name);
  absl::Status Insert(uint8_t lun, std::shared_ptr<BlockDevice> medium);
  absl::Status Eject(uint8_t lun, bool force);

  std::vector<MachineDiskCounts> counts() const;

  // Part
  absl::Status Attach(Board& board) override;
  std::vector<state::Component*> components() override { return {storage_.get()}; }
  void Pause(absl::AnyInvocable<void()> done) override { storage_->Pause(std::move(done)); }
  void Resume() override { storage_->Resume(); }
  void Stop(absl::AnyInvocable<void()> done) override { storage_->Stop(std::move(done)); }
  std::string WaitsFor() const override;
  void Detach() override;

 private:
  // The storage provider's hold on a disk: when the last of it goes, so does this.
  struct Held {
    ~Held() {
      disk.reset();
      if (gone) gone();
    }
    std::shared_ptr<MeteredDisk> disk;                                 // null: a drive's, whose media come and go
    std::shared_ptr<DiskMeter> meter = std::make_shared<DiskMeter>();  // of the disk, or of all media of the drive
    absl::AnyInvocable<void()> gone;
  };
  // A disk that was given up may fail when the machine is gone.
  struct Failures {
    std::mutex mutex;
    OnFailure tell;
  };
  struct Slot {
    std::string name;
    std::weak_ptr<Held> held;             // of the disk in it
    std::weak_ptr<scsi::DvdDrive> drive;  // if it is one
  };

  absl::StatusOr<std::shared_ptr<scsi::DvdDrive>> DriveAt(uint8_t lun) const;
  std::shared_ptr<MeteredDisk> Metered(uint8_t lun, std::shared_ptr<BlockDevice> device,
                                       std::shared_ptr<DiskMeter> meter) const;

  std::vector<MachineDisk> first_disks_;  // until Attach
  const OnEjected on_ejected_;
  const std::shared_ptr<Failures> failures_;
  std::unique_ptr<vsp::StorageController> storage_;
  std::array<Slot, vsp::StorageController::kMaxDisks> slots_;
  uint8_t next_lun_ = 0;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_SRC_MACHINE_DISK_CONTROLLER_H_
