// SPDX-License-Identifier: Apache-2.0
// BlockMap: where the blocks of a disk lie in an image file, and how that is changed so that a loss of power at any
// moment leaves an image that is whole. VHD and VHDX each have one; MappedDisk moves the data.
//
// Any thread may ask Find under the lock. All else is called by one thread at a time, the image's own, which may wait
// for the file; it takes the lock itself for what Find could see.
//
// A block that is new reads as before until it was written: in an image with a parent a write is first done, and then
// marked.

#ifndef HVSDK_SRC_IMAGE_BLOCK_MAP_H_
#define HVSDK_SRC_IMAGE_BLOCK_MAP_H_

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>

#include "hvsdk/resource/block_device.h"

namespace hvsdk::internal {

struct Extent {
  enum class Place : uint8_t {
    kFile,
    kZeroes,   // nowhere, and no parent has it either
    kParent,   // as the parent has it
    kUnknown,  // Load tells
    kBroken    // the image says what cannot be
  };
  Place place = Place::kUnknown;
  bool unmarked = false;  // for a write to kFile: MarkWritten follows it
  uint64_t file_offset = 0;
  uint64_t size_bytes = 0;  // at least one logical block
};

// The part of a range of the disk that lies within the block of its first byte.
struct BlockPart {
  uint64_t block;
  uint64_t in_block;
  uint64_t size;
  bool is_whole;  // all of the block that the disk has
};
inline BlockPart PartAt(uint64_t offset, uint64_t size_bytes, uint64_t block_bytes, uint64_t disk_bytes) {
  const uint64_t in_block = offset % block_bytes, start = offset - in_block;
  const uint64_t of_disk = std::min(block_bytes, disk_bytes - start);
  const uint64_t size = std::min(size_bytes, of_disk - in_block);
  return {offset / block_bytes, in_block, size, size == of_disk};
}

class BlockMap {
 public:
  virtual ~BlockMap() = default;

  std::mutex& mutex() { return mutex_; }

  // Under the lock. The first part of the range that lies in one place, for a read or for a write. For a write kZeroes
  // and kParent mean that there is no room yet.
  virtual Extent Find(uint64_t offset, uint64_t size_bytes, bool for_write) = 0;
  // Under the lock: something was changed that only Commit makes last.
  virtual bool is_changed() = 0;

  // Makes the first extent at `offset` known.
  virtual BlockStatus Load(uint64_t offset, bool for_write) = 0;
  // Finds room for the block at `offset`.
  virtual BlockStatus Allocate(uint64_t offset) = 0;
  // The range was written; what it covers of blocks without room is left alone.
  virtual BlockStatus MarkWritten(uint64_t offset, uint64_t size_bytes) = 0;
  // The range reads as zeroes. A discard may give room back.
  virtual BlockStatus WriteZeroes(uint64_t offset, uint64_t size_bytes, bool discard) = 0;
  // Whatever was written or changed before lasts.
  virtual BlockStatus Commit() = 0;
  // So much has changed that Commit is called before the next change.
  virtual bool wants_commit() = 0;
  // Room that no block has any more, and that no power cut brings back, because Commit was called since. It is used for
  // other blocks once ReleaseFreed was called: when the requests have ended that may use it still.
  virtual bool has_freed() = 0;
  virtual void ReleaseFreed() = 0;
  // Commit, and the image is as one that nobody uses, until it is changed again. Nothing has been freed since the last
  // Commit, or nothing is in flight.
  virtual BlockStatus Close() = 0;

  // What is wrong with the image, once Find or another call has come upon it; else empty.
  std::string TakeComplaint() { return std::exchange(complaint_, {}); }

 protected:
  // Keeps the first.
  void Complain(std::string what) {
    if (!complained_) complaint_ = std::move(what);
    complained_ = true;
  }

  std::mutex mutex_;

 private:
  std::string complaint_;  // guarded by mutex_
  bool complained_ = false;
};

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_IMAGE_BLOCK_MAP_H_
