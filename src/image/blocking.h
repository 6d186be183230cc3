// SPDX-License-Identifier: Apache-2.0
// Requests to an image file that the caller waits for: for opening, for tools, and for an image's own thread.

#ifndef HVSDK_SRC_IMAGE_BLOCKING_H_
#define HVSDK_SRC_IMAGE_BLOCKING_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "hvsdk/image/image_file.h"

namespace hvsdk::internal {

BlockStatus Read(ImageFile& file, uint64_t offset, absl::Span<uint8_t> to);
BlockStatus Write(ImageFile& file, uint64_t offset, absl::Span<const uint8_t> from);
BlockStatus Zero(ImageFile& file, uint64_t offset, uint64_t size_bytes, BlockOp op = BlockOp::kWriteZeroes);
BlockStatus Flush(ImageFile& file);

// The same of a disk.
BlockStatus ReadDisk(BlockDevice& disk, uint64_t offset, absl::Span<uint8_t> to);
BlockStatus WriteDisk(BlockDevice& disk, uint64_t offset, absl::Span<const uint8_t> from);
// A flush, a discard, or zeroes.
BlockStatus RunOnDisk(BlockDevice& disk, BlockOp op, uint64_t offset = 0, uint64_t size_bytes = 0);

// "what: the medium failed".
absl::Status ToStatus(BlockStatus status, absl::string_view what);

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_IMAGE_BLOCKING_H_
