// SPDX-License-Identifier: Apache-2.0
// The BlockMap of a dynamic or differencing VHD file, and that of a fixed one.
//
// A VHD file has no log. What keeps it whole is the order: a block is written where the footer was, behind which the
// footer is written anew; its bitmap is in place, and with its data flushed, before the allocation table is changed;
// then the table and bits of bitmaps are written, each sector by itself right before and after. Until the footer is
// there again, its copy in the first sector stands for it.
//
// In a dynamic disk the bits of a bitmap say nothing: whoever makes a block makes it of zeroes. They are kept set for
// readers that look.

#ifndef HVSDK_SRC_IMAGE_VHD_MAP_H_
#define HVSDK_SRC_IMAGE_VHD_MAP_H_

#include <memory>
#include <vector>

#include "image/block_map.h"
#include "image/metadata_cache.h"
#include "image/vhd_file.h"

namespace hvsdk::internal::vhd {

class VhdMap : public BlockMap {
 public:
  VhdMap(std::shared_ptr<ImageFile> file, Geometry geometry);

  Extent Find(uint64_t offset, uint64_t size_bytes, bool for_write) override;
  bool is_changed() override { return !cache_.changed().empty(); }
  BlockStatus Load(uint64_t offset, bool for_write) override;
  BlockStatus Allocate(uint64_t offset) override;
  BlockStatus MarkWritten(uint64_t offset, uint64_t size_bytes) override;
  BlockStatus WriteZeroes(uint64_t offset, uint64_t size_bytes, bool discard) override;
  BlockStatus Commit() override;
  bool wants_commit() override { return cache_.changed().size() >= 64; }
  bool has_freed() override { return !freed_.empty(); }
  void ReleaseFreed() override;
  BlockStatus Close() override;

 private:
  BlockPart PartAt(uint64_t offset, uint64_t size_bytes) const {
    return internal::PartAt(offset, size_bytes, geometry_.block_bytes, geometry_.disk_bytes);
  }
  uint64_t EntryAt(uint64_t block) const { return geometry_.table_offset + block * 4; }
  // Under the lock, or on the image's own thread. False: not in memory.
  bool GetEntry(uint64_t block, uint32_t& entry);
  BlockStatus LoadEntry(uint64_t block, uint32_t& entry);
  void SetEntry(uint64_t block, uint32_t entry);
  // Whether a block's room is within the file, as far as it is used.
  bool IsWithinFile(uint32_t entry, uint64_t bytes_of_block, uint64_t block);

  const std::shared_ptr<ImageFile> file_;
  const Geometry geometry_;
  MetadataCache cache_;
  // The image's own thread's.
  uint64_t end_;
  bool is_written_ = false;
  std::vector<uint32_t> room_;   // sectors of blocks that nobody has
  std::vector<uint32_t> freed_;  // that the table does not name any more
};

// All of the disk from the file's first byte on.
class FixedMap : public BlockMap {
 public:
  explicit FixedMap(std::shared_ptr<ImageFile> file) : file_(std::move(file)) {}

  Extent Find(uint64_t offset, uint64_t size_bytes, bool for_write) override;
  bool is_changed() override { return false; }
  BlockStatus Load(uint64_t, bool) override { return BlockStatus::kOk; }
  BlockStatus Allocate(uint64_t) override { return BlockStatus::kOk; }
  BlockStatus MarkWritten(uint64_t, uint64_t) override { return BlockStatus::kOk; }
  BlockStatus WriteZeroes(uint64_t offset, uint64_t size_bytes, bool discard) override;
  BlockStatus Commit() override;
  bool wants_commit() override { return false; }
  bool has_freed() override { return false; }
  void ReleaseFreed() override {}
  BlockStatus Close() override { return BlockStatus::kOk; }

 private:
  const std::shared_ptr<ImageFile> file_;
};

}  // namespace hvsdk::internal::vhd

#endif  // HVSDK_SRC_IMAGE_VHD_MAP_H_
