// SPDX-License-Identifier: Apache-2.0
// One channel of a storage controller, primary or sub: takes packets out of its ring, runs them, and answers. The
// executor's own, but for what the disks complete (command_slots.h).

#ifndef HVSDK_SRC_VSP_STORAGE_CHANNEL_H_
#define HVSDK_SRC_VSP_STORAGE_CHANNEL_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "hvsdk/base/executor.h"
#include "hvsdk/hvdef/storvsc.h"
#include "hvsdk/scsi/dvd_drive.h"
#include "hvsdk/scsi/scsi_disk.h"
#include "hvsdk/scsi/scsi_unit.h"
#include "hvsdk/vmbus/channel.h"
#include "hvsdk/vmbus/packet_pump.h"
#include "vsp/command_epochs.h"
#include "vsp/command_slots.h"

namespace hvsdk::vsp {

// A disk or a DVD drive in its LUN, and the commands that use it. The executor's own.
struct AttachedDisk {
  AttachedDisk(uint8_t lun, std::shared_ptr<scsi::ScsiDisk> disk) : lun(lun), unit(disk), disk(std::move(disk)) {}
  AttachedDisk(uint8_t lun, std::shared_ptr<scsi::DvdDrive> dvd) : lun(lun), unit(dvd), dvd(std::move(dvd)) {}

  // Whether a command that has been told to end, by a reset or because the disk is gone, is one of that epoch.
  bool HasEnded(uint64_t epoch) const { return !is_attached || epoch < reset_epoch; }

  const uint8_t lun;
  const std::shared_ptr<scsi::ScsiUnit> unit;
  // Either of these.
  const std::shared_ptr<scsi::ScsiDisk> disk;
  const std::shared_ptr<scsi::DvdDrive> dvd;
  bool is_attached = true;
  CommandEpochs epochs;
  uint64_t reset_epoch = 0;  // commands of earlier ones take no further step
  // Resets that wait for commands of epochs before theirs, the earliest first.
  std::deque<std::pair<uint64_t, CommandSlot*>> resets;
};

// What a channel needs of its controller. Called on the executor.
class StorageChannelHost {
 public:
  virtual ~StorageChannelHost() = default;

  virtual bool is_ready() const = 0;
  // No packets are taken for now.
  virtual bool is_paused() const = 0;
  // Turns a packet without a SCSI command into its completion. False: a reset, which waits for commands that are under
  // way; StorageChannel::FinishReset follows.
  virtual bool HandleControl(CommandSlot& slot, bool is_primary) = 0;
  // The channel has been told to stop: what its resets wait for does not matter any more.
  virtual void ForgetResets(StorageChannel& channel) = 0;
  // The disk at an address, or nullptr.
  virtual AttachedDisk* FindDisk(const hvdef::storvsc::ScsiRequest& request) = 0;
  // Answers a command for which there is no disk, or that is the controller's own.
  virtual bool HandleWithoutDisk(const hvdef::storvsc::ScsiRequest& request, scsi::ScsiCommand& command) = 0;
  // A command of that epoch has ended.
  virtual void ReleaseDisk(AttachedDisk& disk, uint64_t epoch) = 0;
  // The channel has no busy slot left and was told to stop or to pause.
  virtual void OnIdle() = 0;
  // The guest closed the channel.
  virtual void OnCloseRequested(StorageChannel& channel) = 0;
  // The primary channel is about to open. False: the controller has stopped.
  virtual bool OnPrimaryOpen() = 0;
  // The size of a bus-enumeration notice, or 0 if the guest takes none.
  virtual size_t bus_notice_bytes() const = 0;
};

// What is saved of a channel that is paused: what it has not been able to say yet.
struct StorageChannelState {
  struct AnswerState {
    uint64_t transaction_id = 0;
    std::vector<uint8_t> packet;

    template <typename Visitor>
    void Fields(Visitor& visit) {
      visit(1, "transaction_id", transaction_id);
      visit(2, "packet", packet);
    }
  };
  bool wants_bus_notice = false;
  std::vector<AnswerState> answers;  // the oldest first

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "wants_bus_notice", wants_bus_notice);
    visit(2, "answers", answers);
  }
};

class StorageChannel : public vmbus::PacketPump, private Task {
 public:
  StorageChannel(StorageChannelHost& host, Executor& executor, bool is_primary, uint32_t queue_depth,
                 uint32_t max_transfer_bytes);
  // The vmbus channel is gone, and no disk has a request of ours (Disown).
  ~StorageChannel() override;

  // No new commands; answers are dropped.
  void Stop();
  bool is_open() const { return slots_ != nullptr; }
  bool is_close_requested() const { return is_close_requested_; }
  bool is_idle() const { return busy_ == 0; }
  // Paused, and all answers that had room are in the ring.
  bool is_quiet() const { return !is_open() || !is_accepting_ || is_quiet_; }
  // The controller has paused, or goes on.
  void OnPauseChanged();
  // While quiet.
  StorageChannelState Save() const;
  bool IsPossible(const StorageChannelState& state) const;
  // For OnRestored, which may follow.
  void Restore(StorageChannelState state) { restored_ = std::move(state); }
  // Forgets what it had to say.
  void Reset();
  // When idle: gives the rings back to the guest.
  void FinishClose();
  // Tells the guest to look for disks, soon.
  void NotifyBusChange();
  // A reset has been obeyed.
  void FinishReset(CommandSlot& slot);
  // Requests that disks still have are theirs: as CommandSlots::Disown.
  void Disown(std::shared_ptr<const void> memory, std::vector<std::shared_ptr<BlockDevice>> disks);

 private:
  // vmbus::PacketPump
  bool OnOpen(vmbus::Channel& channel) override;
  void OnRestored(vmbus::Channel& channel) override;
  void OnClosing(vmbus::Channel& channel) override;
  void OnSignal(vmbus::Channel& channel) override;
  vmbus::Take OnTurn() override;
  vmbus::Take OnPacket(const vmbus::Packet& packet) override;
  // More pages than a command may have. What it asks for is in its payload; that its pages are missing ends it.
  vmbus::Take OnLongPacket(const vmbus::Packet& packet) override { return OnPacket(packet); }
  // Task: requests have completed, or something else is to be done.
  void Run() override;

  void Begin(vmbus::Channel& channel);
  void TakeCompleted();
  // False: the ring towards the guest is full, and the rest waits.
  bool SendAnswers();
  void HandlePacket(const vmbus::Packet& packet);
  void ExecuteSrb(const vmbus::Packet& packet, CommandSlot& slot);
  scsi::ScsiStep NextStep(CommandSlot& slot);
  void Advance(CommandSlot& slot, scsi::ScsiStep step);
  void Finish(CommandSlot& slot);
  void QueueAnswer(CommandSlot& slot);
  void SubmitBatch();

  StorageChannelHost& host_;
  Executor& executor_;
  const bool is_primary_;
  const uint32_t queue_depth_;
  const uint32_t max_transfer_bytes_;

  bool is_accepting_ = false;
  bool is_close_requested_ = false;
  bool wants_bus_notice_ = false;
  bool is_quiet_ = false;
  StorageChannelState restored_;

  std::shared_ptr<CommandSlots> slots_;  // while the channel is open
  CommandSlot* answered_first_ = nullptr;
  CommandSlot* answered_last_ = nullptr;
  uint32_t busy_ = 0;

  static constexpr size_t kMaxBatch = 64;
  BlockDevice* batch_device_ = nullptr;
  size_t batch_size_ = 0;
  BlockRequest* batch_[kMaxBatch];
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_STORAGE_CHANNEL_H_
