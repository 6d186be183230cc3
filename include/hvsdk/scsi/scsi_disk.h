// SPDX-License-Identifier: Apache-2.0
// ScsiDisk: a direct-access SCSI logical unit (SPC-3, SBC-3) over a BlockDevice, as a state machine that performs no
// I/O of its own.
//
// Start decodes a command. Either it is done at once, or the command, which is a BlockRequest, has
// been filled in for the device: submit it, alone or in a batch, and give the outcome to Continue,
// which again is done or wants another submission. A read or a write takes one submission, straight
// between the device and the caller's buffers, without a copy or an allocation; a READ that is forced
// to the medium, UNMAP, WRITE SAME, VERIFY and MODE SELECT may take several.
//
// Thread-safe for different commands; a command is one thread's at a time. The command's data may be memory that a
// guest is changing meanwhile.
//
// What a guest does wrong is answered by status and sense data, never otherwise.
//
//   if (disk.Start(command) == ScsiStep::kSubmit) disk.device().Submit({&command});
//   // in on_complete, until the command is done:
//   if (disk.Continue(command, status) == ScsiStep::kSubmit) disk.device().Submit({&command});
//   // then use command.status, command.transferred, command.sense

#ifndef HVSDK_SCSI_SCSI_DISK_H_
#define HVSDK_SCSI_SCSI_DISK_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "hvsdk/hvdef/scsi.h"
#include "hvsdk/hvdef/scsi_data.h"
#include "hvsdk/resource/block_device.h"
#include "hvsdk/scsi/scsi_command.h"

namespace hvsdk::scsi {

enum class ScsiStep : uint8_t { kDone, kSubmit };

struct ScsiDiskOptions {
  // Names the unit where the device has no name of its own (VPD pages 0x80 and 0x83). Must differ between disks.
  std::array<uint8_t, 16> id{};
  // What one command may transfer (VPD page 0xB0).
  uint32_t max_transfer_bytes = 1 << 20;
};

class ScsiDisk {
 public:
  ScsiDisk(std::shared_ptr<BlockDevice> device, const ScsiDiskOptions& options);

  BlockDevice& device() const { return *device_; }

  // What the unit remembers between commands.
  struct State {
    bool write_cache = true;  // WCE of the caching mode page
    uint32_t kept_sense = 0;  // for REQUEST SENSE: key << 16 | code and qualifier
  };
  State state() const {
    return {write_cache_.load(std::memory_order_relaxed), kept_sense_.load(std::memory_order_relaxed)};
  }
  // While no command is under way.
  void SetState(const State& state) {
    write_cache_.store(state.write_cache, std::memory_order_relaxed);
    kept_sense_.store(state.kept_sense, std::memory_order_relaxed);
  }

  [[nodiscard]] ScsiStep Start(ScsiCommand& command);
  [[nodiscard]] ScsiStep Continue(ScsiCommand& command, BlockStatus status);
  // In place of Continue: ends a command of several steps between two.
  void Abort(ScsiCommand& command, hvdef::scsi::SenseKey key, hvdef::scsi::Asc asc);

 private:
  struct BlockRange {
    uint64_t lba;
    uint64_t blocks;
  };

  // Commands that return data about the unit (scsi_disk_info.cc).
  void Inquiry(ScsiCommand& command);
  void VitalProductData(ScsiCommand& command, uint8_t page, size_t allocation);
  void RequestSense(ScsiCommand& command);
  void ReadCapacity10(ScsiCommand& command);
  void ReadCapacity16(ScsiCommand& command);
  hvdef::scsi::ModeBlockDescriptor BlockDescriptor() const;
  void ModeSense(ScsiCommand& command, bool ten);
  [[nodiscard]] ScsiStep ModeSelect(ScsiCommand& command, bool ten);

  // Commands that touch the medium (scsi_disk.cc).
  [[nodiscard]] ScsiStep Dispatch(ScsiCommand& command);
  [[nodiscard]] ScsiStep ReadOrWrite(ScsiCommand& command, BlockOp op, BlockRange range);
  [[nodiscard]] ScsiStep Transfer(ScsiCommand& command, BlockOp op, BlockRange range);
  [[nodiscard]] ScsiStep Verify(ScsiCommand& command, BlockRange range, bool compare);
  [[nodiscard]] ScsiStep WriteSame(ScsiCommand& command, BlockRange range);
  [[nodiscard]] ScsiStep Unmap(ScsiCommand& command);
  [[nodiscard]] ScsiStep Flush(ScsiCommand& command);
  [[nodiscard]] ScsiStep NextStep(ScsiCommand& command);

  // False after it answered the command: the range is not on the disk, or the disk may not be written.
  bool CheckRange(ScsiCommand& command, BlockRange range) const;
  bool CheckLength(ScsiCommand& command, BlockRange range) const;
  bool CheckWritable(ScsiCommand& command) const;
  bool CheckData(ScsiCommand& command, DataDirection direction, uint64_t size_bytes) const;
  void Finish(ScsiCommand& command);
  void FailBlock(ScsiCommand& command, BlockStatus status);

  const std::shared_ptr<BlockDevice> device_;
  const BlockInfo info_;
  const std::array<uint8_t, 16> id_;
  const std::string serial_;
  const uint32_t max_transfer_bytes_;
  const uint32_t block_shift_;
  const uint64_t blocks_;
  std::atomic<bool> write_cache_{true};  // WCE of the caching mode page; off, every write is forced to the medium
  std::atomic<uint32_t> kept_sense_{0};  // key << 16 | code and qualifier, for REQUEST SENSE
};

}  // namespace hvsdk::scsi

#endif  // HVSDK_SCSI_SCSI_DISK_H_
