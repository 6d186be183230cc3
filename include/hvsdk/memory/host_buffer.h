// SPDX-License-Identifier: Apache-2.0
// HostBuffer: a piece of host memory, usually guest pages. The layout is that of POSIX' struct iovec, so that a list of
// them is one.

#ifndef HVSDK_MEMORY_HOST_BUFFER_H_
#define HVSDK_MEMORY_HOST_BUFFER_H_

#include <cstddef>
#include <cstdint>

namespace hvsdk {

struct HostBuffer {
  uint8_t* data;
  size_t size_bytes;
};

}  // namespace hvsdk

#endif  // HVSDK_MEMORY_HOST_BUFFER_H_
