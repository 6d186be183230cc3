// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/os/host_memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"

namespace hvsdk::os {
namespace {

// Each hole in what is mapped from a file costs two of the mappings that a process may have, 65530 of them by default.
constexpr size_t kMaxFileParts = 4096;

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
  files_.reset();
  Advise();
  return absl::OkStatus();
}

absl::Status HostMemory::MapFile(uint64_t offset, uint64_t size_bytes, int fd, uint64_t file_offset) {
  HVSDK_CHECK(offset <= size_bytes_ && size_bytes <= size_bytes_ - offset);
  if (mmap(data_ + offset, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd,
           static_cast<off_t>(file_offset)) == MAP_FAILED) {
    return Refused(size_bytes, errno);
  }
  if (files_ == nullptr) files_ = std::make_unique<FileParts>();
  // Over what may have been mapped there before.
  std::map<uint64_t, uint64_t>& parts = files_->parts;
  const uint64_t end = offset + size_bytes;
  for (auto part = parts.begin(); part != parts.end();) {
    const auto [from, to] = *part;
    if (to <= offset || from >= end) {
      ++part;
      continue;
    }
    part = parts.erase(part);
    if (from < offset) parts[from] = offset;
    if (to > end) parts[end] = to;
  }
  parts[offset] = end;
  Advise();
  return absl::OkStatus();
}

uint64_t HostMemory::Discard(uint64_t offset, uint64_t size_bytes) {
  HVSDK_CHECK(offset <= size_bytes_ && size_bytes <= size_bytes_ - offset);
  const auto drop = [this](uint64_t from, uint64_t to) {
    return madvise(data_ + from, to - from, MADV_DONTNEED) == 0 ? to - from : 0;
  };
  const uint64_t end = offset + size_bytes;
  if (files_ == nullptr) return size_bytes == 0 ? 0 : drop(offset, end);
  std::lock_guard lock(files_->mutex);
  std::map<uint64_t, uint64_t>& parts = files_->parts;
  uint64_t dropped = 0;
  for (uint64_t at = offset; at < end;) {
    auto part = parts.upper_bound(at);
    if (part != parts.begin() && std::prev(part)->second > at) --part;
    if (part == parts.end() || part->first >= end) return dropped + drop(at, end);
    if (part->first > at) {
      dropped += drop(at, part->first);
      at = part->first;
    }
    // MADV_DONTNEED would bring the file's bytes back.
    const auto [part_from, part_to] = *part;
    const uint64_t to = std::min(end, part_to);
    const bool tears = part_from < at && to < part_to;
    if ((!tears || parts.size() < kMaxFileParts) && Replace(at, to - at)) {
      dropped += to - at;
      parts.erase(part);
      if (part_from < at) parts[part_from] = at;
      if (to < part_to) parts[to] = part_to;
    }
    at = to;
  }
  return dropped;
}

bool HostMemory::Replace(uint64_t offset, uint64_t size_bytes) {
  if (mmap(data_ + offset, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
      MAP_FAILED) {
    return false;
  }
  Advise(offset, size_bytes);
  return true;
}

void HostMemory::Advise() { Advise(0, size_bytes_); }

void HostMemory::Advise(uint64_t offset, uint64_t size_bytes) {
  // A fault under virtualisation is expensive; large pages make 512 times fewer. Best effort.
  madvise(data_ + offset, size_bytes, MADV_HUGEPAGE);
  madvise(data_ + offset, size_bytes, MADV_DONTDUMP);
}

HostMemory& HostMemory::operator=(HostMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  std::swap(files_, other.files_);
  return *this;
}

HostMemory::~HostMemory() {
  if (data_ != nullptr) munmap(data_, size_bytes_);
}

}  // namespace hvsdk::os
