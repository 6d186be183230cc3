// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/image/memory_disk.h"

#include <cstring>
#include <utility>

#include "resource/host_buffers.h"

namespace hvsdk {

BlockInfo MemoryDisk::DefaultInfo() {
  BlockInfo info;
  info.physical_block_bytes = 512;
  info.discard_granularity_bytes = 512;
  info.can_discard = true;
  info.discard_reads_zeroes = true;
  return info;
}

MemoryDisk::MemoryDisk(std::vector<uint8_t> contents, BlockInfo info)
    : bytes_(std::move(contents)), info_(std::move(info)) {
  const size_t block = info_.logical_block_bytes;
  bytes_.resize((bytes_.size() + block - 1) / block * block);
  info_.size_bytes = bytes_.size();
}

void MemoryDisk::Submit(absl::Span<BlockRequest* const> batch) {
  for (BlockRequest* request : batch) {
    const BlockStatus status = CheckBlockRequest(info_, *request);
    if (status == BlockStatus::kOk) Perform(*request);
    request->on_complete(*request, status);
  }
}

void MemoryDisk::Perform(const BlockRequest& request) {
  std::lock_guard lock(mutex_);
  uint8_t* medium = bytes_.data() + request.offset_bytes;
  switch (request.op) {
    case BlockOp::kRead:
      CopyToBuffers(request.buffers, 0, medium, request.size_bytes);
      break;
    case BlockOp::kWrite:
      CopyFromBuffers(request.buffers, 0, medium, request.size_bytes);
      break;
    case BlockOp::kDiscard:
    case BlockOp::kWriteZeroes:
      std::memset(medium, 0, request.size_bytes);
      break;
    case BlockOp::kFlush:
      break;
  }
}

std::vector<uint8_t> MemoryDisk::Contents() const {
  std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace hvsdk
