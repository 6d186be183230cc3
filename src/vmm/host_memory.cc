// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/host_memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

#include <utility>

#include "absl/strings/str_format.h"

namespace hvsdk::vmm {
namespace {

// A size beyond everything the host has is a mistake in the size; any other refusal is the host's.
absl::Status Refused(uint64_t size_bytes, int error) {
  struct sysinfo host;
  if (error == ENOMEM && sysinfo(&host) == 0) {
    const uint64_t has_bytes = (uint64_t{host.totalram} + host.totalswap) * host.mem_unit;
    if (size_bytes > has_bytes) {
      return absl::InvalidArgumentError(
          absl::StrFormat("more than the %d MiB of memory and swap that the host has", has_bytes >> 20));
    }
  }
  return absl::ResourceExhaustedError(
      absl::StrFormat("the host refuses %d MiB: %s", size_bytes >> 20, strerror(error)));
}

}  // namespace

absl::StatusOr<HostMemory> HostMemory::Reserve(uint64_t size_bytes) {
  constexpr uint64_t kAlignment = uint64_t{2} << 20;
  // Without MAP_NORESERVE, so that the host's policy on promises it may not keep (vm.overcommit_memory) decides
  // about ours.
  void* const mapped = mmap(nullptr, size_bytes + kAlignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return Refused(size_bytes, errno);
  // Keeps the aligned middle.
  auto* const start = static_cast<uint8_t*>(mapped);
  const uint64_t before = -reinterpret_cast<uintptr_t>(start) % kAlignment;
  if (before != 0) munmap(start, before);
  if (before != kAlignment) munmap(start + before + size_bytes, kAlignment - before);
  HostMemory memory;
  memory.data_ = start + before;
  memory.size_bytes_ = size_bytes;
  if (mprotect(memory.data_, size_bytes, PROT_READ | PROT_WRITE) != 0) return Refused(size_bytes, errno);
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
