// SPDX-License-Identifier: Apache-2.0
// StorageController: the storage service provider. A SCSI controller on VMBus with up to 64 disks and DVD drives, which a guest finds
// by the class ba6163d9-04a1-4d29-b605-72e2ffb1dc7f and drives with storvsc (Linux, FreeBSD) or storvsc.sys (Windows).
//
// It speaks the storage protocol from 2.0 (Windows Server 2008) to 6.2 (Windows 10), offers as many subchannels as
// allowed, and moves data between guest pages and disks without a copy: the pages of a packet's list become the buffers
// of one block request. Disks sit on path 0, target 0 and are told apart by their LUN, as Hyper-V does it; they may
// come and go while the guest runs, which it learns by a bus-enumeration notice.
//
// Limits: 64 disks; `queue_depth` commands in flight on a channel, the rest waits in the guest's ring; one command
// moves at most `max_transfer_bytes`. All of it is allocated when a channel opens, nothing per command.
//
// Threads: one executor runs the controller. Attach and Detach are thread-safe. Disks may complete requests on any
// thread, without the executor's help.
//
// A guest that breaks the protocol gets an error completion, or none if its packet has no sense at all. Closing a
// channel waits until the disks have let go of the guest's pages, and a reset until they have returned what they had
// when it came.
//
// Source: hvdef/storvsc.h, scsi/scsi_disk.h; docs/storage.md.
//
//   const vsp::StorageOptions options{.instance_id = id, .max_subchannels = 3};
//   const auto storage = vsp::StorageController::Create(server, executor, options);
//   if (!storage.ok()) return storage.status();
//   const absl::Status status = (*storage)->Attach(0, disk);

#ifndef HVSDK_VSP_STORAGE_H_
#define HVSDK_VSP_STORAGE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/hvdef/guid.h"
#include "hvsdk/hvdef/storvsc.h"
#include "hvsdk/resource/block_device.h"
#include "hvsdk/scsi/dvd_drive.h"
#include "hvsdk/state/component.h"
#include "hvsdk/vmbus/server.h"

namespace hvsdk::vsp {

struct StorageOptions {
  hvdef::Guid instance_id{};              // of this controller; disks without a name of their own derive theirs from it
  uint16_t max_subchannels = 0;           // besides the primary channel; the number of VPs less one is a good choice
  uint32_t max_transfer_bytes = 1 << 20;  // of one command: whole pages, 64 KiB to 8 MiB
  uint32_t queue_depth = 256;             // commands in flight on each channel, 1 to 4096
  hvdef::storvsc::Version newest_version = hvdef::storvsc::Version::kWin10;
  uint32_t number = 0;  // of several in one machine: "storage/0" in its saved state
};

class StorageController : public state::Component {
 public:
  static constexpr uint8_t kMaxDisks = 64;
  static constexpr uint16_t kMaxSubchannels = 256;

  // Puts the controller on the bus. The server and the executor outlive it. InvalidArgument: an option is beyond its
  // limits. Otherwise as vmbus::Server::OfferChannel.
  static absl::StatusOr<std::unique_ptr<StorageController>> Create(vmbus::Server& server, Executor& executor,
                                                                   const StorageOptions& options);

  // Takes the controller off the bus. On the executor, or on any thread once the executor has stopped for good.
  //
  // Waits until disks have returned all requests, which own pages of the guest's until then; a disk that does not
  // answer holds it up without end. After Stop, and if guest memory has an owner (GuestMemory::SetOwner), it does not
  // wait: requests that are still under way keep what they write to until they return. A disk that was given up so
  // stays open as long as the process lives.
  ~StorageController() override;

  // Ends all work because the guest runs no more: nothing is read from its rings or written to them, and no
  // command takes another step. Calls `on_idle` once on the executor, when no disk has a request any more. Once,
  // on the executor.
  void Stop(absl::AnyInvocable<void()> on_idle);
  // Takes no more packets, which wait in their rings, and finishes what is under way, however long that takes; channels stay
  // open. Calls `on_paused` once on the executor when no command is left. Resume takes packets again. On the executor.
  void Pause(absl::AnyInvocable<void()> on_paused);
  void Resume();

  // state::Component, while paused. Besides what guest and controller agreed on, answers that found no room in a ring are
  // saved, and which disks there are: a restore with other ones is refused, naming the LUN (but see LeaveOut). A drive with another
  // disc is told of to the guest. Restored before vmbus::Server,
  // for it puts the guest's subchannels up again, which the server then opens. After a reset the server is reset too.
  std::string StateName() const override;
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

  // The LUNs of disks that have commands under way. On the executor, or once it has stopped.
  std::vector<uint8_t> BusyDisks() const;

  // Plugs a disk in. AlreadyExists: the LUN is taken. OutOfRange: it is not below 64.
  // InvalidArgument: the device is empty or has blocks of a size other than 512 to 4096.
  absl::Status Attach(uint8_t lun, std::shared_ptr<BlockDevice> device);

  // Plugs a DVD drive in, with a medium or, if that is null, empty; later ones come and go by the drive itself.
  // `on_ejected`, which may be null, is told on the executor when the guest has ejected one. AlreadyExists, OutOfRange: as
  // Attach. InvalidArgument: as DvdDrive::Insert.
  absl::StatusOr<std::shared_ptr<scsi::DvdDrive>> AttachDvd(uint8_t lun, std::shared_ptr<BlockDevice> medium,
                                                            std::function<void()> on_ejected);

  // Pulls a disk or a drive out. Commands for it that are in flight end in the ordinary way, on the executor, before the
  // controller lets go of the device; later ones find no logical unit. NotFound: there is none.
  absl::Status Detach(uint8_t lun);

  // Before Restore: the state's disk at this LUN, if it has one there, is pulled out while the guest is away. It learns so by a
  // notice when it goes on. Below 64.
  void LeaveOut(uint8_t lun);

 private:
  class Core;
  explicit StorageController(std::unique_ptr<Core> core);

  const std::unique_ptr<Core> core_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_VSP_STORAGE_H_
