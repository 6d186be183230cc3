// SPDX-License-Identifier: Apache-2.0
// The BlockMap of a VHDX file ([MS-VHDX] 2.4, 2.5).
//
// What is changed of the allocation table and the sector bitmaps stays in memory until Commit, which
//   1. flushes the file: data are there before the table says so;
//   2. writes one log entry with the changed pages, and flushes it;
//   3. writes the pages in place. The flush of the next Commit comes before the log forgets them.
// Whenever power is lost, the table is as after a Commit, or the log makes it so.
//
// Room comes from blocks that were discarded, from what the table leaves of the file, and from the file's end.

#ifndef HVSDK_SRC_IMAGE_VHDX_MAP_H_
#define HVSDK_SRC_IMAGE_VHDX_MAP_H_

#include <memory>
#include <vector>

#include "image/block_map.h"
#include "image/metadata_cache.h"
#include "image/vhdx_file.h"
#include "image/vhdx_log.h"

namespace hvsdk::internal::vhdx {

class VhdxMap : public BlockMap {
 public:
  // The log is empty. `new_id` is the data write GUID that the first write gives it; zeroes: a new one.
  VhdxMap(std::shared_ptr<ImageFile> file, const CurrentHeader& header, Geometry geometry, const Guid& new_id = {});

  Extent Find(uint64_t offset, uint64_t size_bytes, bool for_write) override;
  bool is_changed() override { return !cache_.changed().empty(); }
  BlockStatus Load(uint64_t offset, bool for_write) override;
  BlockStatus Allocate(uint64_t offset) override;
  BlockStatus MarkWritten(uint64_t offset, uint64_t size_bytes) override;
  BlockStatus WriteZeroes(uint64_t offset, uint64_t size_bytes, bool discard) override;
  BlockStatus Commit() override;
  bool wants_commit() override { return cache_.changed().size() >= kPagesBeforeCommit; }
  bool has_freed() override { return !freed_.empty(); }
  void ReleaseFreed() override;
  BlockStatus Close() override;

  const Geometry& geometry() const { return geometry_; }

 private:
  // With what one block changes at most (itself, and 16 pages of bitmap), well below what fits an entry of the log.
  static constexpr size_t kPagesBeforeCommit = 32;

  BlockPart PartAt(uint64_t offset, uint64_t size_bytes) const {
    return internal::PartAt(offset, size_bytes, geometry_.block_bytes, geometry_.disk_bytes);
  }
  uint64_t BitmapByte(uint64_t bitmap, uint64_t offset) const;
  uint64_t BitOf(uint64_t offset) const { return offset / geometry_.logical_sector_bytes % 8; }

  // Under the lock, or on the image's own thread. False: not in memory.
  bool GetEntry(uint64_t at, uint64_t& entry);
  // Whether the entry's place is within the file.
  bool IsWithinFile(uint64_t place, uint64_t size_bytes, uint64_t block);

  BlockStatus BeginWriting();
  BlockStatus LoadEntry(uint64_t at, uint64_t& entry);
  void SetEntry(uint64_t at, uint64_t entry);
  BlockStatus NewRoom(uint64_t size_bytes, uint64_t& place);
  // Room for blocks that the table in the file leaves: discarded in another life of the image, or lost with power.
  BlockStatus FindRoom();
  // Sets or clears the bits of a range within one block, whose sector bitmap there is.
  BlockStatus SetBits(uint64_t bitmap, uint64_t offset, uint64_t size_bytes, bool value);
  BlockStatus LoadBitmap(uint64_t block, uint64_t& bitmap, bool allocate);

  const std::shared_ptr<ImageFile> file_;
  CurrentHeader header_;
  const Geometry geometry_;
  const Guid new_id_;
  MetadataCache cache_;
  LogWriter log_;
  bool is_writing_ = false;  // guarded by mutex_ for all but the image's own thread
  // The image's own thread's.
  std::vector<uint64_t> room_;   // for blocks, in the file, which nobody has; zeroes
  std::vector<uint64_t> found_;  // the same, with whatever was left there
  bool has_looked_ = false;      // for that
  std::vector<uint64_t> freed_;  // that the table does not name any more
};

}  // namespace hvsdk::internal::vhdx

#endif  // HVSDK_SRC_IMAGE_VHDX_MAP_H_
