// SPDX-License-Identifier: Apache-2.0
// DvdDrive: a DVD drive (MMC-6) whose medium comes and goes. How a command is carried out is ScsiUnit's (scsi_unit.h).
//
// A medium is any BlockDevice, usually an ISO file that is opened for reading, seen as blocks of 2048 bytes; it is
// never written. A guest learns of a change by a unit attention and by events, for which Linux asks every two seconds.
// It may lock the drive while it uses what is in it, and it may eject.
//
// Thread-safe.
//
//   const auto drive = std::make_shared<scsi::DvdDrive>(scsi::DvdDriveOptions{.id = id});
//   if (absl::Status status = drive->Insert(iso); !status.ok()) return status;
//   const absl::Status ejected = drive->Eject(/*force=*/false);

#ifndef HVSDK_SCSI_DVD_DRIVE_H_
#define HVSDK_SCSI_DVD_DRIVE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "hvsdk/hvdef/mmc.h"
#include "hvsdk/resource/block_device.h"
#include "hvsdk/scsi/scsi_command.h"
#include "hvsdk/scsi/scsi_unit.h"

namespace hvsdk::scsi {

struct DvdDriveOptions {
  std::array<uint8_t, 16> id{};           // names the drive (VPD pages 0x80 and 0x83); must differ between units
  uint32_t max_transfer_bytes = 1 << 20;  // what one command may transfer
  // The guest has ejected the medium, which is out of the drive. On the thread of its command; may be null.
  std::function<void()> on_ejected = nullptr;
};

class DvdDrive final : public ScsiUnit {
 public:
  // Empty, with the tray closed.
  explicit DvdDrive(DvdDriveOptions options);
  ~DvdDrive() override;

  // Puts a medium in, in place of one that is there, and closes the tray. FailedPrecondition: the guest has locked the
  // drive. InvalidArgument: it is shorter than a block, or has 2^32 blocks or more.
  absl::Status Insert(std::shared_ptr<BlockDevice> medium);
  // Takes the medium out; commands under way end with it in the ordinary way. FailedPrecondition: the guest has locked
  // the drive. Then it is asked to let go, by an event, as by the button of a drive; `force` takes the medium
  // nevertheless. NotFound: none is there.
  absl::Status Eject(bool force);

  std::shared_ptr<BlockDevice> medium() const;
  bool is_locked() const;

  // What the drive remembers, besides its medium.
  struct State {
    bool is_tray_open = false;
    bool is_locked = false;
    bool has_attention = false;  // the medium may have changed: to be said with the next command
    hvdef::scsi::MediaEventCode event = hvdef::scsi::MediaEventCode::kNone;  // to be told
    uint32_t kept_sense = 0;                                                 // as ScsiDisk::State's
  };
  State state() const;
  // While no command is under way.
  void SetState(const State& state);

  // ScsiUnit
  [[nodiscard]] ScsiStep Start(ScsiCommand& command) override;
  [[nodiscard]] ScsiStep Continue(ScsiCommand& command, BlockStatus status) override;
  BlockDevice& target(const ScsiCommand& command) const override { return *command.medium; }
  std::vector<std::shared_ptr<BlockDevice>> devices() const override;

 private:
  // What one command sees.
  struct View {
    std::shared_ptr<BlockDevice> medium;
    uint32_t blocks = 0;
    State state;
  };

  void Dispatch(ScsiCommand& command, bool& submits);
  // Whether `view` has a medium; else the command is answered.
  static bool CheckMedium(ScsiCommand& command, const View& view);
  void Read(ScsiCommand& command, const View& view, uint32_t lba, uint32_t blocks, bool& submits);
  void ReadCd(ScsiCommand& command, const View& view, bool& submits);
  static bool IsCd(const View& view);  // by its size; else it is a DVD
  void StartStop(ScsiCommand& command);
  void PreventAllow(ScsiCommand& command);
  void EventStatus(ScsiCommand& command);

  // dvd_drive_info.cc
  void Inquiry(ScsiCommand& command) const;
  static void ModeSense(ScsiCommand& command, const View& view, bool ten);
  static void Configuration(ScsiCommand& command, const View& view);
  static void Toc(ScsiCommand& command, const View& view);
  static void DiscInformation(ScsiCommand& command);
  static void TrackInformation(ScsiCommand& command, const View& view);
  static void DvdStructure(ScsiCommand& command, const View& view);
  static void MechanismStatus(ScsiCommand& command, const View& view);

  View Look() const;
  // Under the lock. The one that was there is let go of by the caller, without the lock.
  std::shared_ptr<BlockDevice> Replace(std::shared_ptr<BlockDevice> medium);

  const DvdDriveOptions options_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::shared_ptr<BlockDevice> medium_;
  mutable std::vector<std::weak_ptr<BlockDevice>> ejected_;  // that commands may still use
  State state_;
};

}  // namespace hvsdk::scsi

#endif  // HVSDK_SCSI_DVD_DRIVE_H_
