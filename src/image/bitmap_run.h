// SPDX-License-Identifier: Apache-2.0
// Runs of equal bits in a sector bitmap. VHDX counts the bits of a byte from the lowest, VHD from the highest.

#ifndef HVSDK_SRC_IMAGE_BITMAP_RUN_H_
#define HVSDK_SRC_IMAGE_BITMAP_RUN_H_

#include <cstdint>

#include "absl/types/span.h"

namespace hvsdk::internal {

enum class BitOrder : uint8_t { kLowestFirst, kHighestFirst };

inline uint8_t BitMask(uint64_t bit, BitOrder order) {
  return static_cast<uint8_t>(order == BitOrder::kLowestFirst ? 1 << (bit % 8) : 0x80 >> (bit % 8));
}

struct BitRun {
  bool is_set;
  uint64_t length;  // up to `max_bits`, and to the end of the bytes
};

inline BitRun FindRun(absl::Span<const uint8_t> bytes, uint64_t first_bit, uint64_t max_bits, BitOrder order) {
  const auto is_set = [&](uint64_t bit) { return (bytes[bit / 8] & BitMask(bit, order)) != 0; };
  const bool value = is_set(first_bit);
  const uint64_t end = max_bits < bytes.size() * 8 - first_bit ? first_bit + max_bits : bytes.size() * 8;
  uint64_t bit = first_bit + 1;
  while (bit < end) {
    if (bit % 8 == 0 && end - bit >= 8 && bytes[bit / 8] == (value ? 0xFF : 0)) {
      bit += 8;
    } else if (is_set(bit) == value) {
      ++bit;
    } else {
      break;
    }
  }
  return {value, bit - first_bit};
}

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_IMAGE_BITMAP_RUN_H_
