// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/os/host_memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"

namespace hvsdk::os {
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
  memory.Advise();
  return memory;
}

absl::Status HostMemory::Clear() {
  // A fresh mapping and not MADV_DONTNEED, which would bring back what was mapped from a file.
  if (mmap(data_, size_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
    return Refused(size_bytes_, errno);
  }
  Advise();
  return absl::OkStatus();
}

absl::Status HostMemory::MapFile(uint64_t offset, uint64_t size_bytes, int fd, uint64_t file_offset) {
  HVSDK_CHECK(offset <= size_bytes_ && size_bytes <= size_bytes_ - offset);
  if (mmap(data_ + offset, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd,
           static_cast<off_t>(file_offset)) == MAP_FAILED) {
    return Refused(size_bytes, errno);
  }
  Advise();
  return absl::OkStatus();
}

void HostMemory::Advise() {
  // A fault under virtualisation is expensive; large pages make 512 times fewer. Best effort.
  madvise(data_, size_bytes_, MADV_HUGEPAGE);
  madvise(data_, size_bytes_, MADV_DONTDUMP);
}

HostMemory& HostMemory::operator=(HostMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

HostMemory::~HostMemory() {
  if (data_ != nullptr) munmap(data_, size_bytes_);
}

}  // namespace hvsdk::os
