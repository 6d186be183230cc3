// SPDX-License-Identifier: Apache-2.0
// What the loaders of the two kernel formats share.

#ifndef HVSDK_SRC_BOOT_KERNEL_LOADER_INTERNAL_H_
#define HVSDK_SRC_BOOT_KERNEL_LOADER_INTERNAL_H_

#include <cstdint>

#include "hvsdk/boot/kernel_loader.h"

namespace hvsdk::boot::internal {

struct LoadContext {
  const LoadRequest& request;
  const MemoryLayout& layout;
  GuestMemory& memory;
  LoadInput& blame;

  uint64_t low_memory_end() const { return layout.memory[0].end(); }
};

// Reads [offset, offset + size) of the image to `gpa`. InvalidArgument: that is not in the image, or not wholly memory.
absl::Status LoadPiece(LoadContext& context, const ByteSource& source, uint64_t offset, uint64_t size_bytes,
                       uint64_t gpa);

// Puts the initial RAM disk, if there is one, as high as may be: below `limit` and the end of low memory,
// above `floor`.
absl::StatusOr<GpaRange> LoadInitrd(LoadContext& context, uint64_t floor, uint64_t limit);

// Writes the command line. InvalidArgument: longer than `limit`, which excludes the final zero byte.
absl::Status WriteCommandLine(LoadContext& context, uint64_t limit);

absl::StatusOr<InitialState> LoadBzImage(LoadContext& context);
absl::StatusOr<InitialState> LoadPvhElf(LoadContext& context);

}  // namespace hvsdk::boot::internal

#endif  // HVSDK_SRC_BOOT_KERNEL_LOADER_INTERNAL_H_
