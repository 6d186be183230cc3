// SPDX-License-Identifier: Apache-2.0
// The host's pages behind a guest's memory. They are promised, not allocated: a page costs the host something from its
// first use on.

#ifndef HVSDK_VMM_HOST_MEMORY_H_
#define HVSDK_VMM_HOST_MEMORY_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace hvsdk::vmm {

class HostMemory {
 public:
  // Zeroed, and aligned so that huge pages can back it. InvalidArgument: more than the host has, and it
  // makes no such promises (vm.overcommit_memory). ResourceExhausted: it refuses for another reason.
  static absl::StatusOr<HostMemory> Reserve(uint64_t size_bytes);

  HostMemory() = default;
  HostMemory(HostMemory&& other) noexcept { *this = std::move(other); }
  HostMemory& operator=(HostMemory&& other) noexcept;
  ~HostMemory();

  absl::Span<uint8_t> bytes() const { return {data_, size_bytes_}; }

 private:
  uint8_t* data_ = nullptr;
  uint64_t size_bytes_ = 0;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_HOST_MEMORY_H_
