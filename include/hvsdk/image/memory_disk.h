// SPDX-License-Identifier: Apache-2.0
// MemoryDisk: a BlockDevice whose medium is a byte array, for tests, RAM disks and images that need not last.
//
// Thread-safe: requests complete within Submit, one at a time, on the submitting thread. A flush has nothing to do.

#ifndef HVSDK_IMAGE_MEMORY_DISK_H_
#define HVSDK_IMAGE_MEMORY_DISK_H_

#include <cstdint>
#include <mutex>
#include <vector>

#include "hvsdk/resource/block_device.h"

namespace hvsdk {

class MemoryDisk : public BlockDevice {
 public:
  // `contents` is rounded up to whole blocks; info.size_bytes is taken from it.
  explicit MemoryDisk(std::vector<uint8_t> contents, BlockInfo info = DefaultInfo());

  static BlockInfo DefaultInfo();

  const BlockInfo& info() const override { return info_; }
  void Submit(absl::Span<BlockRequest* const> batch) override;

  // A copy of the medium.
  std::vector<uint8_t> Contents() const;

 private:
  void Perform(const BlockRequest& request);

  mutable std::mutex mutex_;
  std::vector<uint8_t> bytes_;  // guarded by mutex_
  BlockInfo info_;
};

}  // namespace hvsdk

#endif  // HVSDK_IMAGE_MEMORY_DISK_H_
