// SPDX-License-Identifier: Apache-2.0
// One channel of a storage controller, primary or sub: takes packets out of its ring, runs them,
// and answers.
//
// Commands live in slots that are allocated when the channel opens. A slot is free, busy (its
// command is at a disk, or has come back and waits to be looked at) or answered (the completion
// waits for room in the ring towards the guest).

#ifndef HVSDK_SRC_VSP_STORAGE_CHANNEL_H_
#define HVSDK_SRC_VSP_STORAGE_CHANNEL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "hvsdk/base/executor.h"
#include "hvsdk/hvdef/storvsc.h"
#include "hvsdk/vmbus/channel.h"
#include "hvsdk/vsp/scsi_disk.h"

namespace hvsdk::vsp {

// A disk in its LUN, and how many commands use it. The executor's own.
struct AttachedDisk {
  AttachedDisk(std::shared_ptr<BlockDevice> device, const ScsiDiskOptions& options)
      : disk(std::move(device), options) {}
  ScsiDisk disk;
  uint32_t in_flight = 0;
  bool is_attached = true;
};

// What a channel needs of its controller. Called on the executor.
class StorageChannelHost {
 public:
  virtual ~StorageChannelHost() = default;

  virtual bool is_ready() const = 0;
  // Turns a packet without a SCSI command into its completion.
  virtual void HandleControl(hvdef::storvsc::Packet& packet, size_t size_bytes, bool is_primary) = 0;
  // The disk at an address, or nullptr.
  virtual AttachedDisk* FindDisk(const hvdef::storvsc::ScsiRequest& request) = 0;
  // Answers a command for which there is no disk, or that is the controller's own.
  virtual bool HandleWithoutDisk(const hvdef::storvsc::ScsiRequest& request, ScsiCommand& command) = 0;
  virtual void ReleaseDisk(AttachedDisk& disk) = 0;
  // The channel has no busy slot left and was told to stop.
  virtual void OnIdle() = 0;
  // The primary channel has just been opened.
  virtual void OnPrimaryOpen() = 0;
  // The size of a bus-enumeration notice, or 0 if the guest takes none.
  virtual size_t bus_notice_bytes() const = 0;
};

class StorageChannel : public vmbus::ChannelHandler, private Task {
 public:
  StorageChannel(StorageChannelHost& host, Executor& executor, bool is_primary, uint32_t queue_depth,
                 uint32_t max_transfer_bytes);
  // The vmbus channel is gone, and WaitUntilDisksLetGo returned.
  ~StorageChannel() override;

  // No new commands; answers are dropped.
  void Stop();
  bool is_open() const { return channel_ != nullptr; }
  bool is_close_requested() const { return is_close_requested_; }
  bool is_idle() const { return busy_ == 0; }
  // When idle: gives the rings back to the guest.
  void FinishClose();
  // Tells the guest to look for disks, soon.
  void NotifyBusChange();
  // Sleeps until no disk holds a request of ours any more; their outcome is forgotten.
  void WaitUntilDisksLetGo();

 private:
  struct Slot;

  // vmbus::ChannelHandler
  bool OnOpen(vmbus::Channel& channel) override;
  void OnClose(vmbus::Channel& channel) override;
  void OnSignal(vmbus::Channel& channel) override;
  // Task: requests have completed.
  void Run() override;

  void Process();
  // Returns how many commands it sent on to their next step.
  uint32_t TakeCompleted();
  // False: the ring towards the guest is full, and the rest waits.
  bool SendAnswers();
  bool Stage(uint64_t transaction_id, const hvdef::storvsc::Packet& packet, size_t size_bytes, bool is_completion);
  // Returns how many packets it took.
  uint32_t ReadPackets(uint32_t limit);
  void HandlePacket(const vmbus::Packet& packet);
  void ExecuteSrb(const vmbus::Packet& packet, Slot& slot);
  bool GatherBuffers(const vmbus::Packet& packet, Slot& slot);
  void Advance(Slot& slot, ScsiStep step);
  void Answer(Slot& slot);
  void QueueAnswer(Slot& slot);
  void SubmitBatch();
  static void OnBlockComplete(BlockRequest& request, BlockStatus status);

  StorageChannelHost& host_;
  Executor& executor_;
  const bool is_primary_;
  const uint32_t queue_depth_;
  const uint32_t max_transfer_bytes_;
  const uint32_t max_pieces_;  // of a command's data

  vmbus::Channel* channel_ = nullptr;
  bool is_accepting_ = false;
  bool is_close_requested_ = false;
  bool wants_bus_notice_ = false;

  std::unique_ptr<Slot[]> slots_;
  std::unique_ptr<HostBuffer[]> buffers_;  // max_pieces_ for each slot; touched only as far as used
  std::unique_ptr<uint64_t[]> gpas_;       // beside them
  std::vector<uint64_t> packet_buffer_;
  Slot* free_ = nullptr;
  Slot* answered_first_ = nullptr;
  Slot* answered_last_ = nullptr;
  uint32_t busy_ = 0;

  static constexpr size_t kMaxBatch = 64;
  BlockDevice* batch_device_ = nullptr;
  size_t batch_size_ = 0;
  BlockRequest* batch_[kMaxBatch];

  // Shared with the threads on which disks complete requests.
  alignas(64) std::atomic<Slot*> completed_{nullptr};  // last one first
  std::atomic<uint32_t> at_disks_{0};                  // requests whose on_complete has not returned
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_STORAGE_CHANNEL_H_
