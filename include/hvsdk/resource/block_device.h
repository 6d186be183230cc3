// SPDX-License-Identifier: Apache-2.0
// BlockDevice: what a disk controller needs of whatever keeps the bytes. The storage VSP, an emulated IDE or
// NVMe controller and a disk image format all speak through it; files, memory and other images implement it.
//
// Shapes and limits: a request covers whole logical blocks, [offset, offset + size) within the device. Its buffers are
// host memory, usually guest pages, cut as the caller likes; for a read or a write they are together exactly
// `size_bytes` long. Nothing is copied or allocated on the way: the caller owns the request and its buffer list until
// on_complete is called.
//
// Ordering: requests in flight together may be carried out in any order. A flush covers the
// requests that had completed when it was submitted: when it completes, they survive a loss of
// power. So does a write with `fua`, by itself. A device that failed to keep that once cannot say what of
// it is there, so it ends every later flush and request with `fua` as kWritesLost.
//
// Thread-safe: any thread may submit, and on_complete runs on any thread, possibly before Submit returns; the
// device holds no lock while it calls. Whoever destroys a device makes sure that no request is in flight.
//
//   struct MyRequest : BlockRequest {
//     void Done(BlockStatus) { ... }
//   } request;
//   request.op = BlockOp::kRead;
//   request.offset_bytes = 0;
//   request.size_bytes = 512;
//   request.buffers = absl::MakeConstSpan(&buffer, 1);
//   request.on_complete = [](BlockRequest& r, BlockStatus status) { static_cast<MyRequest&>(r).Done(status); };
//   device.Submit({&request});

#ifndef HVSDK_RESOURCE_BLOCK_DEVICE_H_
#define HVSDK_RESOURCE_BLOCK_DEVICE_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "hvsdk/memory/host_buffer.h"

namespace hvsdk {

enum class BlockOp : uint8_t {
  kRead,
  kWrite,
  kFlush,        // no range
  kDiscard,      // the range's contents no longer matter; it reads as zeroes if BlockInfo says so
  kWriteZeroes,  // the range reads as zeroes
};

enum class BlockStatus : uint8_t {
  kOk,
  kIoError,      // the medium failed; how much of the range was transferred is unknown; a flush may be tried again
  kNoSpace,      // the host's file system or quota is full
  kReadOnly,     // a request that writes, to a device that does not
  kOutOfRange,   // not whole blocks, or beyond the end
  kUnsupported,  // a discard, where BlockInfo does not offer it
  kWritesLost    // a flush, or a request with `fua`: what was written since the last flush may never last
};

struct BlockRequest {
  BlockOp op = BlockOp::kRead;
  bool fua = false;  // writes and write-zeroes: on the medium before the request completes
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;
  absl::Span<const HostBuffer> buffers;  // read and write only

  // Called exactly once for each submission. The request may be submitted again from within.
  void (*on_complete)(BlockRequest& request, BlockStatus status) = nullptr;

  // The device's own while the request is in flight.
  BlockRequest* device_next = nullptr;
  uint64_t device_word = 0;

  // Those of a MeteredDisk before it (image/metered_disk.h).
  void (*metered_complete)(BlockRequest& request, BlockStatus status) = nullptr;
  void* meter = nullptr;
  uint64_t metered_ns = 0;
};

// What a device is; constant over its life.
struct BlockInfo {
  uint64_t size_bytes = 0;             // whole logical blocks
  uint32_t logical_block_bytes = 512;  // 512 or 4096
  uint32_t physical_block_bytes = 4096;
  uint32_t discard_granularity_bytes = 4096;
  bool read_only = false;
  bool can_discard = false;
  bool discard_reads_zeroes = false;
  bool rotational = false;
  // Who the medium is, as told to guests; all zeroes and empty if it has no name of its own.
  std::array<uint8_t, 16> id{};
  std::string serial;
};

struct BlockRange {
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;
};

class BlockDevice {
 public:
  virtual ~BlockDevice() = default;

  virtual const BlockInfo& info() const = 0;

  // Starts every request of the batch, for at most one system call where the host allows. Never blocks on the medium.
  virtual void Submit(absl::Span<BlockRequest* const> batch) = 0;

  // For whoever copies all of it: the first range from `offset_bytes` on that may have other bytes than zeroes, as far as that
  // can be told without reading them; of no bytes if there is none. What lies before it reads as zeroes while nobody writes.
  // May block on the medium. It need not be whole blocks.
  virtual BlockRange FindData(uint64_t offset_bytes) {
    const uint64_t size = info().size_bytes;
    return {offset_bytes, size - (offset_bytes < size ? offset_bytes : size)};
  }
};

// The answer for a request that the device must refuse, or kOk. Every implementation asks it first.
inline BlockStatus CheckBlockRequest(const BlockInfo& info, const BlockRequest& request) {
  if (request.op == BlockOp::kFlush) return BlockStatus::kOk;
  if (info.read_only && request.op != BlockOp::kRead) return BlockStatus::kReadOnly;
  if (request.op == BlockOp::kDiscard && !info.can_discard) return BlockStatus::kUnsupported;
  if ((request.offset_bytes | request.size_bytes) % info.logical_block_bytes != 0) return BlockStatus::kOutOfRange;
  if (request.offset_bytes > info.size_bytes || request.size_bytes > info.size_bytes - request.offset_bytes) {
    return BlockStatus::kOutOfRange;
  }
  return BlockStatus::kOk;
}

}  // namespace hvsdk

#endif  // HVSDK_RESOURCE_BLOCK_DEVICE_H_
