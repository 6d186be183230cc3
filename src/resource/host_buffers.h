// SPDX-License-Identifier: Apache-2.0
// Copies between private memory and a list of host buffers, which usually is guest memory: each byte is touched once.

#ifndef HVSDK_SRC_RESOURCE_HOST_BUFFERS_H_
#define HVSDK_SRC_RESOURCE_HOST_BUFFERS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "hvsdk/resource/block_device.h"
#include "memory/guest_copy.h"

namespace hvsdk {

// Visits the bytes from `offset` on, at most `size_bytes`, as pieces; returns how many there were.
template <typename Visit>
size_t ForEachPiece(absl::Span<const HostBuffer> buffers, size_t offset, size_t size_bytes, Visit visit) {
  size_t done = 0;
  for (const HostBuffer& buffer : buffers) {
    if (offset >= buffer.size_bytes) {
      offset -= buffer.size_bytes;
      continue;
    }
    const size_t piece = std::min(buffer.size_bytes - offset, size_bytes - done);
    if (piece == 0) break;
    visit(buffer.data + offset, piece);
    done += piece;
    offset = 0;
  }
  return done;
}

inline size_t CopyToBuffers(absl::Span<const HostBuffer> buffers, size_t offset, const void* from, size_t size_bytes) {
  const auto* in = static_cast<const uint8_t*>(from);
  return ForEachPiece(buffers, offset, size_bytes, [&](uint8_t* host, size_t size) {
    internal::GuestCopy(host, in, size);
    in += size;
  });
}

inline size_t CopyFromBuffers(absl::Span<const HostBuffer> buffers, size_t offset, void* to, size_t size_bytes) {
  auto* out = static_cast<uint8_t*>(to);
  return ForEachPiece(buffers, offset, size_bytes, [&](const uint8_t* host, size_t size) {
    internal::GuestCopy(out, host, size);
    out += size;
  });
}

// Makes the list exactly `size_bytes` long, which is at most what it holds; returns the shortened list.
inline absl::Span<HostBuffer> TrimBuffers(absl::Span<HostBuffer> buffers, uint64_t size_bytes) {
  size_t count = 0;
  while (size_bytes != 0) {
    HostBuffer& buffer = buffers[count++];
    if (buffer.size_bytes > size_bytes) buffer.size_bytes = static_cast<size_t>(size_bytes);
    size_bytes -= buffer.size_bytes;
  }
  return buffers.first(count);
}

}  // namespace hvsdk

#endif  // HVSDK_SRC_RESOURCE_HOST_BUFFERS_H_
