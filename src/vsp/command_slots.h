// SPDX-License-Identifier: Apache-2.0
// The commands of a storage channel while it is open: a slot for each, and the way back from the disks. A disk and its threads write to all of that while they have a request, so it is one object that
// lives until the last request has come back: usually as long as the channel is open, and longer if the channel has to
// go while a disk does not answer.
//
// Threads: requests complete on any; all else is the executor's.

#ifndef HVSDK_SRC_VSP_COMMAND_SLOTS_H_
#define HVSDK_SRC_VSP_COMMAND_SLOTS_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/hvdef/storvsc.h"
#include "hvsdk/resource/block_device.h"
#include "hvsdk/scsi/scsi_command.h"
#include "hvsdk/vmbus/guest_buffers.h"

namespace hvsdk::vsp {

class CommandSlots;
class StorageChannel;
struct AttachedDisk;

// A slot is free, busy (its command is at a disk, has come back and waits to be looked at, or waits for others) or
// answered (the completion waits for room in the ring towards the guest).
struct CommandSlot : scsi::ScsiCommand {
  CommandSlots* slots = nullptr;
  StorageChannel* channel = nullptr;
  CommandSlot* next = nullptr;   // in the free, answered or completed list
  AttachedDisk* disk = nullptr;  // while busy at a disk
  uint64_t epoch = 0;            // of that disk's commands
  uint32_t waits_for = 0;        // a reset: disks that have commands from before it
  uint64_t transaction_id = 0;
  size_t reply_bytes = 0;
  BlockStatus outcome{};
  vmbus::GuestBuffers buffers;     // the command's data
  bool was_submitted = false;      // a disk may have written to the guest's pages, even if it then failed
  hvdef::storvsc::Packet reply{};  // the request, then its completion
};

class CommandSlots : public std::enable_shared_from_this<CommandSlots> {
 public:
  // `task` is scheduled when requests have come back.
  CommandSlots(uint32_t count, StorageChannel& channel, Executor& executor, Task& task);

  bool has_free() const { return free_ != nullptr; }
  CommandSlot& Take() { return *std::exchange(free_, free_->next); }
  void Free(CommandSlot& slot) { slot.next = std::exchange(free_, &slot); }

  // Slots, as requests.
  void Submit(BlockDevice& device, absl::Span<BlockRequest* const> batch) {
    at_disks_ += batch.size();
    device.Submit(batch);
  }
  bool has_completed() const { return completed_.load(std::memory_order_acquire) != nullptr; }
  // What has come back, in that order, linked by `next`.
  CommandSlot* TakeCompleted();

  // The executor looks for what comes back in a moment anyhow: nobody needs to ask for it. Until it is told `false`.
  void SetExpected(bool is_expected) { is_expected_.store(is_expected, std::memory_order_seq_cst); }

  // While it lives, the executor looks for what comes back on its own thread by itself.
  class Looking {
   public:
    explicit Looking(const CommandSlots& slots);
    ~Looking();
  };

  // The channel goes. When this returns, neither it nor the executor is touched any more. Requests that a disk still has keep
  // what they need, `memory` and `disks` too; without `memory`, whose owner is then somewhere else, they are waited for.
  void Disown(std::shared_ptr<const void> memory, std::vector<std::shared_ptr<BlockDevice>> disks);

 private:
  static void OnComplete(BlockRequest& request, BlockStatus status);
  // Sees to it that somebody looks at what has come back.
  void Wake();
  void Count();  // mutex_ held, nobody looks: takes what has come back off the list
  static void Retain(std::vector<std::shared_ptr<BlockDevice>> disks);

  Executor& executor_;
  std::unique_ptr<CommandSlot[]> slots_;
  // What the executor and the disks' threads write is on cache lines apart.
  alignas(64) CommandSlot* free_ = nullptr;
  uint64_t at_disks_ = 0;  // the executor's until Disown, then guarded by mutex_

  alignas(64) std::mutex mutex_;  // guards what follows
  std::condition_variable returned_;
  Task* task_;  // null once disowned
  std::shared_ptr<CommandSlots> self_;
  std::shared_ptr<const void> memory_;
  std::vector<std::shared_ptr<BlockDevice>> disks_;

  // Shared with the threads on which disks complete requests.
  alignas(64) std::atomic<CommandSlot*> completed_{nullptr};  // last one first
  std::atomic<bool> is_expected_{false};
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_COMMAND_SLOTS_H_
