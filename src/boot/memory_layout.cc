// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/boot/memory_layout.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace hvsdk::boot {
namespace {

constexpr uint64_t kMib = uint64_t{1} << 20;
constexpr uint64_t kGib = uint64_t{1} << 30;
constexpr uint64_t kHighMmioStart = 0xFE0000000;
constexpr uint64_t kHighMmioSize = 0x20000000;
// What a Linux guest adds at once, at most (drivers/hv/hv_balloon.c, memory_block_size_bytes): from 64 GiB on it may be so much, and
// nothing else may be in it.
constexpr uint64_t kGrowthAlignment = 2 * kGib;

uint64_t RoundUp(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

}  // namespace

absl::StatusOr<MemoryLayout> MemoryLayout::ForSize(uint64_t memory_bytes, uint64_t video_bytes,
                                                   uint64_t max_memory_bytes) {
  if (memory_bytes < kMinMemoryBytes || memory_bytes > kMaxMemoryBytes || memory_bytes % kMib != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("memory of %d bytes is not whole MiB between 2 MiB and 4 TiB", memory_bytes));
  }
  if (max_memory_bytes != 0 &&
      (max_memory_bytes < memory_bytes || max_memory_bytes > kMaxMemoryBytes || max_memory_bytes % kMib != 0)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "memory that grows to %d bytes is not whole MiB between %d bytes and 4 TiB", max_memory_bytes, memory_bytes));
  }
  if (video_bytes % kMib != 0 || (video_bytes & (video_bytes - 1)) != 0 || video_bytes > kLowMmio.size_bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a frame buffer of %d bytes is no power of two of MiB, at most %d", video_bytes, 64 * kMib));
  }
  MemoryLayout layout;
  if (video_bytes != 0) layout.video = {kLowMmio.gpa, video_bytes};
  layout.memory.push_back({0, std::min(memory_bytes, kLowMemoryEnd)});
  if (memory_bytes > kLowMemoryEnd) layout.memory.push_back({kHighMemoryStart, memory_bytes - kLowMemoryEnd});
  uint64_t memory_end = RoundUp(layout.memory.back().end(), kGib);
  if (max_memory_bytes > memory_bytes) {
    layout.growth = {RoundUp(std::max(layout.memory.back().end(), kHighMemoryStart), kGrowthAlignment),
                     max_memory_bytes - memory_bytes};
    memory_end = RoundUp(layout.growth.end(), kGrowthAlignment);
  }
  layout.high_mmio = {std::max(kHighMmioStart, memory_end), kHighMmioSize};
  return layout;
}

std::vector<E820Entry> MemoryLayout::E820() const {
  std::vector<E820Entry> map = {
      {0, kConventionalEnd, E820Entry::kUsable},
      {kConventionalEnd, kExtendedStart - kConventionalEnd, E820Entry::kReserved},
      {kExtendedStart, memory[0].size_bytes - kExtendedStart, E820Entry::kUsable},
  };
  if (memory.size() > 1) map.push_back({memory[1].gpa, memory[1].size_bytes, E820Entry::kUsable});
  return map;
}

}  // namespace hvsdk::boot
