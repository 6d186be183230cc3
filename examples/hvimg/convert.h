// SPDX-License-Identifier: Apache-2.0
// Copies what is on one disk to another.

#ifndef HVSDK_EXAMPLES_HVIMG_CONVERT_H_
#define HVSDK_EXAMPLES_HVIMG_CONVERT_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "hvsdk/resource/block_device.h"

namespace hvimg {

// Blocks of zeroes are left out: `to` has zeroes already. `progress` is told how many bytes are done. What was copied
// lasts when it returns.
absl::Status Copy(hvsdk::BlockDevice& from, hvsdk::BlockDevice& to, const std::function<void(uint64_t)>& progress);

// Compares them; `from` may be shorter if the rest of the other is zeroes. OutOfRange: they differ, and where.
absl::Status Compare(hvsdk::BlockDevice& from, hvsdk::BlockDevice& to, const std::function<void(uint64_t)>& progress);

}  // namespace hvimg

#endif  // HVSDK_EXAMPLES_HVIMG_CONVERT_H_
