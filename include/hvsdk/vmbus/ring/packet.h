// SPDX-License-Identifier: Apache-2.0
// What goes into a ring and what comes out: outcomes, packet headers, and lists of guest pages. Freestanding.

#ifndef HVSDK_VMBUS_RING_PACKET_H_
#define HVSDK_VMBUS_RING_PACKET_H_

#include <cstdint>

#include "hvsdk/hvdef/vmbus_ring.h"

namespace hvsdk::vmbus {

enum class [[nodiscard]] RingStatus : uint8_t{
    kOk,
    kEmpty,    // reader: no packet
    kFull,     // writer: no room at present; see RingWriter::WaitForRoom
    kTooBig,   // the packet can never fit: this ring, the packet format, or the caller's buffer
    kCorrupt,  // the peer broke the ring; fault() says how, and every later call answers the same
};

// What the peer did, once a ring is corrupt.
enum class RingFault : uint8_t {
  kNone,
  kBadSize,        // ours: the data are not whole pages, or beyond 1 GiB
  kBadWriteIndex,  // not a multiple of 8, or beyond the ring
  kBadReadIndex,
  kBadPacketLength,  // length8 is below the descriptor, or beyond what was written
  kBadPacketOffset,  // data_offset8 points into the descriptor or behind the packet
};

// Whether the peer must be told; the caller does it (HvCallSignalEvent from the child, an event flag from the root),
// and not while it holds a lock.
enum class [[nodiscard]] Signal : bool{kNotNeeded = false, kNeeded = true};

inline Signal operator|(Signal a, Signal b) { return static_cast<Signal>(static_cast<bool>(a) | static_cast<bool>(b)); }

// The ring's own part of a packet to be sent.
struct PacketHeader {
  hvdef::PacketType type = hvdef::PacketType::kDataInBand;
  uint16_t flags = 0;
  uint64_t transaction_id = 0;

  static constexpr PacketHeader InBand(uint64_t transaction_id, bool completion_requested) {
    return {hvdef::PacketType::kDataInBand, completion_requested ? hvdef::kPacketFlagCompletionRequested : uint16_t{0},
            transaction_id};
  }
  // Answers the packet that carried `transaction_id`.
  static constexpr PacketHeader Completion(uint64_t transaction_id) {
    return {hvdef::PacketType::kCompletion, 0, transaction_id};
  }
};

// Bytes of guest memory to send along: a page list gives one buffer a page; a multi-page buffer gives all its pages
// in one.
struct GpaBuffer {
  uint32_t byte_count;
  uint32_t byte_offset;  // into the first page; below 4096
  const uint64_t* pfns;  // one for each page the bytes touch

  constexpr uint32_t pfn_count() const {
    return static_cast<uint32_t>((uint64_t{byte_offset} + byte_count + hvdef::kRingPageSize - 1) /
                                 hvdef::kRingPageSize);
  }
};

// Bytes that a packet takes in the ring, trailer included: what RingWriter::WaitForRoom wants. 0: no packet can be
// so long.
constexpr uint32_t PacketSize(uint32_t payload_size, uint32_t extension_size = 0) {
  const uint64_t length =
      (sizeof(hvdef::PacketDescriptor) + uint64_t{extension_size} + payload_size + 7) & ~uint64_t{7};
  return length > 0xFFFFu * 8u ? 0 : static_cast<uint32_t>(length + sizeof(hvdef::PacketTrailer));
}

// A received packet, copied into the caller's own memory, which the peer cannot change. The payload is padded to a
// multiple of 8 bytes; how much of it is meant, its own header says.
struct Packet {
  hvdef::PacketType type = hvdef::PacketType::kInvalid;
  uint16_t flags = 0;
  uint64_t transaction_id = 0;
  const uint8_t* extension = nullptr;  // between descriptor and payload: GPA-direct or transfer-page header and ranges
  uint32_t extension_size = 0;
  const uint8_t* payload = nullptr;
  uint32_t payload_size = 0;

  bool completion_requested() const { return (flags & hvdef::kPacketFlagCompletionRequested) != 0; }
};

// Walks the guest buffers of a GPA-direct packet in private memory. Hostile input ends the walk with valid() false; no
// page number outside the extension is ever read, and a GpaBuffer it yields is not empty and starts in its first page.
//
//   GpaBufferWalk walk(packet.extension, packet.extension_size);
//   for (GpaBuffer buffer; walk.Next(buffer);) Add(buffer);
//   if (!walk.valid()) return Reject();
class GpaBufferWalk {
 public:
  // `extension` is aligned to 8 bytes.
  GpaBufferWalk(const void* extension, uint32_t size_bytes)
      : at_(static_cast<const uint64_t*>(extension)), end_(at_ + size_bytes / 8) {
    if (at_ == end_) return;
    left_ = static_cast<uint32_t>(*at_++ >> 32);  // GpaDirectHeader::range_count
    valid_ = left_ != 0;
  }

  bool Next(GpaBuffer& buffer) {
    if (!valid_ || left_ == 0) return false;
    --left_;
    valid_ = false;
    if (at_ == end_) return false;
    const auto byte_count = static_cast<uint32_t>(*at_);  // GpaRange
    const auto byte_offset = static_cast<uint32_t>(*at_ >> 32);
    ++at_;
    buffer = GpaBuffer{byte_count, byte_offset, at_};
    if (byte_count == 0 || byte_offset >= hvdef::kRingPageSize) return false;
    if (buffer.pfn_count() > static_cast<uint64_t>(end_ - at_)) return false;
    at_ += buffer.pfn_count();
    valid_ = true;
    return true;
  }

  bool valid() const { return valid_; }

 private:
  const uint64_t* at_;
  const uint64_t* end_;
  uint32_t left_ = 0;
  bool valid_ = false;
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_RING_PACKET_H_
