// SPDX-License-Identifier: Apache-2.0
// ImageDisk: a BlockDevice that a file of the host stands behind, whatever the file's format.
//
// Thread-safe.

#ifndef HVSDK_IMAGE_IMAGE_DISK_H_
#define HVSDK_IMAGE_IMAGE_DISK_H_

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "hvsdk/resource/block_device.h"

namespace hvsdk {

class ImageDisk : public BlockDevice {
 public:
  virtual const std::string& path() const = 0;

  // False: a request that was submitted has not completed in this time. For the end of a program, where no more
  // are submitted.
  virtual bool WaitUntilIdle(std::chrono::milliseconds timeout) const = 0;

  // Brings the file to where closing it would, and all that was written to it to its medium: until the next request that changes the
  // disk nothing more is written to it. Blocks. Errors: the medium's.
  virtual absl::Status Settle() = 0;
};

}  // namespace hvsdk

#endif  // HVSDK_IMAGE_IMAGE_DISK_H_
