// SPDX-License-Identifier: Apache-2.0
// Checksums of frames that lie in pieces of guest memory, which the guest may change meanwhile.

#ifndef HVSDK_SRC_VSP_FRAME_PIECES_H_
#define HVSDK_SRC_VSP_FRAME_PIECES_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "hvsdk/ethernet/checksum.h"
#include "hvsdk/memory/host_buffer.h"
#include "resource/host_buffers.h"

namespace hvsdk::vsp {

// The checksum of bytes [start, size) of the pieces, in which the pseudo header's sum stands. Not zero, which says to UDP that there is
// none, and is the same to TCP.
inline uint16_t ChecksumOf(absl::Span<const HostBuffer> pieces, size_t start, size_t size_bytes) {
  std::array<uint8_t, 1024> chunk;  // of even length: sums may be taken in turn
  uint16_t sum = 0;
  size_t filled = 0;
  ForEachPiece(pieces, start, size_bytes - start, [&](const uint8_t* bytes, size_t size) {
    while (size != 0) {
      const size_t count = std::min(size, chunk.size() - filled);
      internal::GuestCopy(&chunk[filled], bytes, count);
      filled += count;
      bytes += count;
      size -= count;
      if (filled == chunk.size()) {
        sum = ethernet::Sum(chunk, sum);
        filled = 0;
      }
    }
  });
  sum = ethernet::Sum(absl::MakeConstSpan(chunk).first(filled), sum);
  const auto checksum = static_cast<uint16_t>(~sum);
  return checksum == 0 ? uint16_t{0xFFFF} : checksum;
}

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_FRAME_PIECES_H_
