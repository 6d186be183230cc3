// SPDX-License-Identifier: Apache-2.0
// ScsiDisk: a direct-access SCSI logical unit (SPC-3, SBC-3) over a BlockDevice. How a command is carried out is
// ScsiUnit's (scsi_unit.h).
//
// A read or a write takes one submission, straight between the device and the caller's buffers, without a copy or an
// allocation; a READ that is forced to the medium, UNMAP, WRITE SAME, VERIFY and MODE SELECT may take several.

#ifndef HVSDK_SCSI_SCSI_DISK_H_
#define HVSDK_SCSI_SCSI_DISK_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "hvsdk/hvdef/scsi.h"
#include "hvsdk/hvdef/scsi_data.h"
#include "hvsdk/resource/block_device.h"
#include "hvsdk/scsi/scsi_command.h"
#include "hvsdk/scsi/scsi_unit.h"

namespace hvsdk::scsi {

struct ScsiDiskOptions {
  // Names the unit where the device has no name of its own (VPD pages 0x80 and 0x83). Must differ between disks.
  std::array<uint8_t, 16> id{};
  // What one command may transfer (VPD page 0xB0).
  uint32_t max_transfer_bytes = 1 << 20;
};

class ScsiDisk final : public ScsiUnit {
 public:
  ScsiDisk(std::shared_ptr<BlockDevice> device, const ScsiDiskOptions& options);

  BlockDevice& device() const { return *device_; }
  BlockDevice& target(const ScsiCommand&) const override { return *device_; }
  std::vector<std::shared_ptr<BlockDevice>> devices() const override { return {device_}; }

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

  [[nodiscard]] ScsiStep Start(ScsiCommand& command) override;
  [[nodiscard]] ScsiStep Continue(ScsiCommand& command, BlockStatus status) override;

 private:
  struct BlockRange {
    uint64_t lba;
    uint64_t blocks;
  };

  // Commands that return data about the unit (scsi_disk_info.cc).
  void Inquiry(ScsiCommand& command);
  void VitalProductData(ScsiCommand& command, uint8_t page, size_t allocation);
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
  void FailBlock(ScsiCommand& command, BlockStatus status);

  const std::shared_ptr<BlockDevice> device_;
  const BlockInfo info_;
  const std::array<uint8_t, 16> id_;
  const std::string serial_;
  const uint32_t max_transfer_bytes_;
  const uint32_t block_shift_;
  const uint64_t blocks_;
  std::atomic<bool> write_cache_{true};  // WCE of the caching mode page; off, every write is forced to the medium
};

}  // namespace hvsdk::scsi

#endif  // HVSDK_SCSI_SCSI_DISK_H_
