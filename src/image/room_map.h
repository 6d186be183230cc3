// SPDX-License-Identifier: Apache-2.0
// RoomMap: which parts of a file something has, a bit for each unit.

#ifndef HVSDK_SRC_IMAGE_ROOM_MAP_H_
#define HVSDK_SRC_IMAGE_ROOM_MAP_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace hvsdk::internal {

class RoomMap {
 public:
  RoomMap(uint64_t file_bytes, uint64_t unit_bytes)
      : unit_(unit_bytes), units_((file_bytes + unit_bytes - 1) / unit_bytes), taken_(units_) {}

  // Whether it takes no more than 1 GiB of memory.
  static bool Fits(uint64_t file_bytes, uint64_t unit_bytes) {
    return file_bytes / unit_bytes / 8 <= uint64_t{1} << 30;
  }

  // False: somebody has part of it. What lies behind the end is left out.
  bool Take(uint64_t offset, uint64_t size_bytes) {
    bool was_free = true;
    const uint64_t end = offset / unit_ >= units_ ? 0 : std::min(units_, (offset + size_bytes + unit_ - 1) / unit_);
    for (uint64_t i = offset / unit_; i < end; ++i) {
      was_free &= !taken_[i];
      taken_[i] = true;
    }
    return was_free;
  }
  // Where the last part that something has ends.
  uint64_t end() const {
    return static_cast<uint64_t>(taken_.rend() - std::find(taken_.rbegin(), taken_.rend(), true)) * unit_;
  }
  uint64_t unused_bytes() const {
    return static_cast<uint64_t>(std::count(taken_.begin(), taken_.end(), false)) * unit_;
  }
  // The first place from `from` on where there is room of this size, in whole units; or ~0.
  uint64_t FindFirst(uint64_t size_bytes, uint64_t from) const {
    const uint64_t size = (size_bytes + unit_ - 1) / unit_;
    for (uint64_t i = (from + unit_ - 1) / unit_, run = 0; i < units_; ++i) {
      run = taken_[i] ? 0 : run + 1;
      if (run == size) return (i + 1 - size) * unit_;
    }
    return ~uint64_t{0};
  }
  // The first places, up to `max_count`, where there is room of this size, in whole units.
  std::vector<uint64_t> FindFree(uint64_t size_bytes, size_t max_count) const {
    std::vector<uint64_t> places;
    const uint64_t size = size_bytes / unit_;
    for (uint64_t i = 0, run = 0; i < units_ && places.size() < max_count; ++i) {
      run = taken_[i] ? 0 : run + 1;
      if (run == size) {
        places.push_back((i + 1 - size) * unit_);
        run = 0;
      }
    }
    return places;
  }

 private:
  const uint64_t unit_, units_;
  std::vector<bool> taken_;
};

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_IMAGE_ROOM_MAP_H_
