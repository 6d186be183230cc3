// SPDX-License-Identifier: Apache-2.0
// The Internet checksum (RFC 1071), and what a sender has left to do of it. Pure; thread-safe.
//
//   if (!FinishChecksum(frame, offload)) return;  // the frame's offload lies about it: dropped

#ifndef HVSDK_ETHERNET_CHECKSUM_H_
#define HVSDK_ETHERNET_CHECKSUM_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "hvsdk/ethernet/headers.h"
#include "hvsdk/resource/network_port.h"

namespace hvsdk::ethernet {

// The one's complement sum of 16-bit big-endian words, not complemented, that continues `sum`; a last odd byte counts as
// the upper half of a word. Sums of pieces of even length may be taken in turn.
uint16_t Sum(absl::Span<const uint8_t> bytes, uint16_t sum = 0);

// The sum of a pseudo header: the addresses of the packet whose IP header `headers` names, the protocol, and the length of
// what is behind the IP headers. Whoever sends leaves it in the checksum's place for others to finish.
uint16_t PseudoHeaderSum(absl::Span<const uint8_t> frame, const FrameHeaders& headers, uint32_t transport_bytes);

// Does what `offload.needs_checksum` asks for, and says so in `offload`. False: the offsets are not within the frame.
bool FinishChecksum(absl::Span<uint8_t> frame, FrameOffload& offload);

// Where the checksum of TCP or UDP stands behind the header's start.
inline constexpr uint16_t kTcpChecksumOffset = 16;
inline constexpr uint16_t kUdpChecksumOffset = 6;

// Whether the checksums that a frame has are right: that of an IPv4 header, and of TCP or UDP in a packet that is no
// fragment. For tests and for receivers that find out.
bool ChecksumsAreRight(absl::Span<const uint8_t> frame);

}  // namespace hvsdk::ethernet

#endif  // HVSDK_ETHERNET_CHECKSUM_H_
