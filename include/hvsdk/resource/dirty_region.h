// SPDX-License-Identifier: Apache-2.0
// DirtyRegion: which pixels of a frame have changed, by tiles of 64 x 16 of them, which is as high as a line of a text console. However many
// rectangles are added, it takes what its frame wants, and 4 KiB at most.
//
// Thread-compatible.
//
//   DirtyRegion region(1024, 768);
//   region.Add({.x = 8, .y = 16, .width = 640, .height = 16});
//   for (const Rectangle& rectangle : region.Rectangles()) Send(rectangle);
//   region.Clear();

#ifndef HVSDK_RESOURCE_DIRTY_REGION_H_
#define HVSDK_RESOURCE_DIRTY_REGION_H_

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace hvsdk {

// In pixels. Of which both sides are at least 1, or it is empty.
struct Rectangle {
  uint32_t x = 0, y = 0, width = 0, height = 0;
  bool operator==(const Rectangle&) const = default;
};

class DirtyRegion {
 public:
  static constexpr uint32_t kMaxWidth = 8192, kMaxHeight = 4096;
  static constexpr uint32_t kTileWidth = 64, kTileHeight = 16;

  DirtyRegion() = default;
  // Of a frame of that size, at most kMaxWidth x kMaxHeight.
  DirtyRegion(uint32_t width, uint32_t height)
      : width_(std::min(width, kMaxWidth)),
        height_(std::min(height, kMaxHeight)),
        words_a_row_(((width_ + kTileWidth - 1) / kTileWidth + 63) / 64),
        words_(uint64_t{words_a_row_} * ((height_ + kTileHeight - 1) / kTileHeight)) {}

  bool empty() const { return is_empty_; }

  // What of it lies in the frame.
  void Add(const Rectangle& rectangle) {
    if (rectangle.x >= width_ || rectangle.y >= height_ || rectangle.width == 0 || rectangle.height == 0) return;
    const uint32_t right = rectangle.x + std::min(rectangle.width, width_ - rectangle.x);
    const uint32_t bottom = rectangle.y + std::min(rectangle.height, height_ - rectangle.y);
    const uint32_t first = rectangle.x / kTileWidth, last = (right - 1) / kTileWidth;
    for (uint32_t row = rectangle.y / kTileHeight; row <= (bottom - 1) / kTileHeight; ++row) {
      for (uint32_t word = first / 64; word <= last / 64; ++word) {
        const uint32_t from = word == first / 64 ? first % 64 : 0, to = word == last / 64 ? last % 64 : 63;
        words_[row * words_a_row_ + word] |= (~uint64_t{0} << from) & (~uint64_t{0} >> (63 - to));
      }
    }
    is_empty_ = false;
  }
  void AddAll() { Add({0, 0, width_, height_}); }
  void Clear() {
    std::fill(words_.begin(), words_.end(), 0);
    is_empty_ = true;
  }

  // Rectangles that together are what was added and what of its tiles was not, none of which overlap, from the top down.
  std::vector<Rectangle> Rectangles() const {
    std::vector<Rectangle> all;
    const uint32_t rows = words_a_row_ == 0 ? 0 : static_cast<uint32_t>(words_.size() / words_a_row_);
    for (uint32_t row = 0, next; row < rows; row = next) {
      // Rows that are the same are one.
      const auto begin = words_.begin() + row * words_a_row_;
      next = row + 1;
      while (next < rows && std::equal(begin, begin + words_a_row_, words_.begin() + next * words_a_row_)) ++next;
      const uint32_t top = row * kTileHeight, bottom = std::min(next * kTileHeight, height_);
      for (uint32_t column = 0; (column = FindColumn(row, column, true)) < words_a_row_ * 64;) {
        const uint32_t end = FindColumn(row, column, false);
        const uint32_t left = column * kTileWidth, right = std::min(end * kTileWidth, width_);
        all.push_back({left, top, right - left, bottom - top});
        column = end;
      }
    }
    return all;
  }

 private:
  // The first tile of a row, from `column` on, that is set or is not; beyond the row: there is none.
  uint32_t FindColumn(uint32_t row, uint32_t column, bool is_set) const {
    for (uint32_t word = column / 64; word < words_a_row_; ++word) {
      uint64_t bits = words_[row * words_a_row_ + word];
      if (!is_set) bits = ~bits;
      if (word == column / 64) bits &= ~uint64_t{0} << column % 64;
      if (bits != 0) return word * 64 + static_cast<uint32_t>(std::countr_zero(bits));
    }
    return words_a_row_ * 64;
  }

  uint32_t width_ = 0, height_ = 0;
  uint32_t words_a_row_ = 0;
  std::vector<uint64_t> words_;
  bool is_empty_ = true;
};

}  // namespace hvsdk

#endif  // HVSDK_RESOURCE_DIRTY_REGION_H_
