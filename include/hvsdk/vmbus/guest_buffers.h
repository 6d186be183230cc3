// SPDX-License-Identifier: Apache-2.0
// GuestBuffers: bytes that a guest names by page numbers, in a GPA-direct packet or a GPADL, as a list of pieces of host
// memory, for a transfer without a copy.
//
// Gather checks that every byte is memory, and joins pages that follow each other in the guest and on the host. What it
// answers with `false` is the guest's doing: a list that is broken or too short, pages that are not memory. There are at
// most as many pieces as the packet or the GPADL has page numbers. Whoever carries out the transfer uses the pieces, and
// Release lets go of them, saying how much the host has written: those pages are then marked (GuestMemory::MarkWritten).
// Without Release nothing is; that is for pieces that outlive the guest's GuestMemory.
//
// The guest may change the bytes at any time, so what is to be looked at is copied first. Pieces of a GPADL may be used
// while there is a lease of it.
//
// Used again it allocates nothing, unless a list is longer than those before. Thread-compatible.
//
//   GuestBuffers buffers;
//   if (!buffers.Gather(channel.memory(), packet, request.size_bytes)) return Refuse();
//   const uint64_t read_bytes = ReadFromSomewhere(buffers.pieces());
//   buffers.Release(read_bytes);

#ifndef HVSDK_VMBUS_GUEST_BUFFERS_H_
#define HVSDK_VMBUS_GUEST_BUFFERS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/memory/host_buffer.h"
#include "hvsdk/vmbus/gpadl.h"
#include "hvsdk/vmbus/ring/packet.h"

namespace hvsdk::vmbus {

class GuestBuffers {
 public:
  GuestBuffers() = default;
  GuestBuffers(GuestBuffers&&) = default;
  GuestBuffers& operator=(GuestBuffers&&) = default;

  // All bytes that a packet names. False also if it names none. What was gathered before is forgotten.
  [[nodiscard]] bool Gather(GuestMemory& memory, const Packet& packet);
  // The first `size_bytes` of them; page numbers behind them are not looked at.
  [[nodiscard]] bool Gather(GuestMemory& memory, const Packet& packet, uint64_t size_bytes);
  // Bytes [offset, offset + size) of the ranges of a GPADL laid end to end.
  [[nodiscard]] bool Gather(const Gpadl& gpadl, uint64_t offset, uint64_t size_bytes);

  // Empty after a failure. A transfer may shorten pieces, which then do not count in Release for what they were.
  absl::Span<HostBuffer> pieces() { return absl::MakeSpan(pieces_); }
  // Of all that was gathered.
  uint64_t size_bytes() const { return size_bytes_; }

  // The host has written the first `written_bytes` of the pieces (all, if there are fewer), and uses none any more.
  void Release(uint64_t written_bytes);

 private:
  void Begin(GuestMemory& memory);
  void Add(uint64_t gpa, uint8_t* host, uint64_t size_bytes);
  void Clear();
  bool Fail();

  GuestMemory* memory_ = nullptr;
  std::vector<HostBuffer> pieces_;
  std::vector<uint64_t> gpas_;  // beside pieces_
  uint64_t size_bytes_ = 0;
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_GUEST_BUFFERS_H_
