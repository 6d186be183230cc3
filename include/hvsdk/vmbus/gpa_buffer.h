// SPDX-License-Identifier: Apache-2.0
// From the guest's page numbers, in a GPADL or a GPA-direct packet, to host memory, without copying.
//
// The GpaBuffer and its page numbers are a private copy (RingReader::Read, Gpadl), because a guest could change them
// between check and use. Thread-compatible. Guest-chosen values are valid arguments and answered with `false`.
//
//   GpaBufferWalk walk(packet.extension, packet.extension_size);
//   for (GpaBuffer buffer; walk.Next(buffer);) {
//     if (!ForEachPiece(memory, buffer, 0, buffer.byte_count, [&](uint64_t, uint8_t* host, uint64_t size) {
//           pieces.push_back({host, size});
//         })) return Reject();
//   }
//   if (!walk.valid()) return Reject();

#ifndef HVSDK_VMBUS_GPA_BUFFER_H_
#define HVSDK_VMBUS_GPA_BUFFER_H_

#include <algorithm>
#include <cstdint>

#include "hvsdk/base/ids.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/ring/packet.h"

namespace hvsdk::vmbus {

// Visits bytes [offset, offset + size) of a buffer as pieces of host memory, visit(gpa, host, size_bytes), joining
// pages that follow each other in the guest and on the host. False, perhaps after some visits, if the bytes are not all
// in the buffer and in memory: collect first, then act. Whoever writes through `host` tells GuestMemory::MarkWritten.
template <typename Visit>
[[nodiscard]] bool ForEachPiece(const GuestMemory& memory, const GpaBuffer& buffer, uint64_t offset, uint64_t size,
                                Visit&& visit) {
  if (offset > buffer.byte_count || size > buffer.byte_count - offset) return false;
  uint64_t at = buffer.byte_offset + offset;  // from the start of the first page
  uint64_t gpa = 0;
  uint8_t* host = nullptr;
  uint64_t piece = 0;
  while (size != 0) {
    const uint64_t in_page = at & (kPageSize - 1);
    const uint64_t chunk = std::min(size, kPageSize - in_page);
    const uint64_t pfn = buffer.pfns[at >> kPageShift];
    if (pfn >> (64 - kPageShift) != 0) return false;
    const uint64_t chunk_gpa = (pfn << kPageShift) + in_page;
    uint8_t* const chunk_host = memory.Pointer(chunk_gpa, chunk);
    if (chunk_host == nullptr) return false;
    if (piece != 0 && chunk_gpa == gpa + piece && chunk_host == host + piece) {
      piece += chunk;
    } else {
      if (piece != 0) visit(gpa, host, piece);
      gpa = chunk_gpa;
      host = chunk_host;
      piece = chunk;
    }
    at += chunk;
    size -= chunk;
  }
  if (piece != 0) visit(gpa, host, piece);
  return true;
}

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_GPA_BUFFER_H_
