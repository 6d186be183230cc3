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

}  // namespace

absl::StatusOr<MemoryLayout> MemoryLayout::ForSize(uint64_t memory_bytes, uint64_t video_bytes) {
  if (memory_bytes < kMinMemoryBytes || memory_bytes > kMaxMemoryBytes || memory_bytes % kMib != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("memory of %d bytes is not whole MiB between 2 MiB and 4 TiB", memory_bytes));
  }
  if (video_bytes % kMib != 0 || (video_bytes & (video_bytes - 1)) != 0 || video_bytes > kLowMmio.size_bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a frame buffer of %d bytes is no power of two of MiB, at most %d", video_bytes, 64 * kMib));
  }
  MemoryLayout layout;
  if (video_bytes != 0) layout.video = {kLowMmio.gpa, video_bytes};
  layout.memory.push_back({0, std::min(memory_bytes, kLowMemoryEnd)});
  if (memory_bytes > kLowMemoryEnd) layout.memory.push_back({kHighMemoryStart, memory_bytes - kLowMemoryEnd});
  const uint64_t memory_end = (layout.memory.back().end() + kGib - 1) / kGib * kGib;
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
