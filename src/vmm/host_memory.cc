// SPDX-License-Identifier: Apache-2.0
#include "vmm/host_memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <utility>

#include "absl/strings/str_format.h"

namespace hvsdk::vmm {

absl::StatusOr<HostMemory> HostMemory::Reserve(uint64_t size_bytes) {
  constexpr uint64_t kAlignment = uint64_t{2} << 20;
  void* const mapped = mmap(nullptr, size_bytes + kAlignment, PROT_NONE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("cannot reserve %d MiB of memory: %s", size_bytes >> 20, strerror(errno)));
  }
  // Keeps the aligned middle.
  auto* const start = static_cast<uint8_t*>(mapped);
  const uint64_t before = -reinterpret_cast<uintptr_t>(start) % kAlignment;
  if (before != 0) munmap(start, before);
  if (before != kAlignment) munmap(start + before + size_bytes, kAlignment - before);
  HostMemory memory;
  memory.data_ = start + before;
  memory.size_bytes_ = size_bytes;
  if (mprotect(memory.data_, size_bytes, PROT_READ | PROT_WRITE) != 0) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("cannot have %d MiB of memory: %s", size_bytes >> 20, strerror(errno)));
  }
  // A fault under virtualisation is expensive; large pages make 512 times fewer. Best effort.
  madvise(memory.data_, size_bytes, MADV_HUGEPAGE);
  madvise(memory.data_, size_bytes, MADV_DONTDUMP);
  return memory;
}

HostMemory& HostMemory::operator=(HostMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

HostMemory::~HostMemory() {
  if (data_ != nullptr) munmap(data_, size_bytes_);
}

}  // namespace hvsdk::vmm
