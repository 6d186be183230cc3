// SPDX-License-Identifier: Apache-2.0
// What the first bytes of an Ethernet frame say: where its headers stand, and what is in it.
//
// Frames are private memory here: whoever has one in a guest's copies it, or its first bytes, once. Pure functions;
// thread-safe. Whatever the bytes are, what is answered lies within them.
//
// Source: IEEE 802.3 and 802.1Q; RFC 791 (IPv4), 8200 (IPv6), 9293 (TCP), 768 (UDP).
//
//   const FrameHeaders headers = ReadHeaders(frame);
//   if (headers.protocol == kTcp) payload = frame.subspan(headers.payload_offset);

#ifndef HVSDK_ETHERNET_HEADERS_H_
#define HVSDK_ETHERNET_HEADERS_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace hvsdk::ethernet {

inline constexpr size_t kHeaderBytes = 14;
inline constexpr size_t kVlanTagBytes = 4;
inline constexpr size_t kTagOffset = 12;  // of a tag, or of the type where there is none
// So many bytes show all headers of a frame that it makes sense to look at.
inline constexpr size_t kMaxHeadersBytes = 256;
// A frame to be cut, or one of a device with the largest MTU: an IPv4 packet's longest.
inline constexpr size_t kMaxFrameBytes = kHeaderBytes + 65535;

inline constexpr uint16_t kIp4 = 0x0800;
inline constexpr uint16_t kArp = 0x0806;
inline constexpr uint16_t kVlan = 0x8100;
inline constexpr uint16_t kIp6 = 0x86DD;

// IANA's protocol numbers.
inline constexpr uint8_t kTcp = 6;
inline constexpr uint8_t kUdp = 17;

inline uint16_t ReadBe16(const uint8_t* at) { return static_cast<uint16_t>(at[0] << 8 | at[1]); }
inline uint32_t ReadBe32(const uint8_t* at) { return uint32_t{ReadBe16(at)} << 16 | ReadBe16(at + 2); }
inline void WriteBe16(uint8_t* at, uint16_t value) {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}
inline void WriteBe32(uint8_t* at, uint32_t value) {
  WriteBe16(at, static_cast<uint16_t>(value >> 16));
  WriteBe16(at + 2, static_cast<uint16_t>(value));
}

struct FrameHeaders {
  uint16_t type = 0;  // EtherType, of what is behind a VLAN tag if there is one in the frame; 0: the frame is too short
  uint8_t ip_version = 0;  // 4 or 6; 0: no IP, or a header that is not whole
  bool is_fragment = false;
  uint8_t protocol = 0;    // in IP, behind extension headers; of a later fragment and unless the header is whole 0
  uint16_t ip_offset = 0;  // of the IP header, if there is one
  uint16_t transport_offset = 0;  // of the TCP or UDP header, if protocol says so
  uint16_t payload_offset = 0;    // behind it
};

// `start` is the frame, or its first kMaxHeadersBytes.
FrameHeaders ReadHeaders(absl::Span<const uint8_t> start);

}  // namespace hvsdk::ethernet

#endif  // HVSDK_ETHERNET_HEADERS_H_
