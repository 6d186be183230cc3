// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/ethernet/checksum.h"

#include <bit>
#include <cstring>

namespace hvsdk::ethernet {
namespace {

uint16_t Fold(uint64_t sum) {
  while (sum >> 16 != 0) sum = (sum & 0xFFFF) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

}  // namespace

uint16_t Sum(absl::Span<const uint8_t> bytes, uint16_t sum) {
  // The sum does not depend on the order of bytes within words (RFC 1071, 2.B), so words are taken as the host has them.
  static_assert(std::endian::native == std::endian::little);
  uint64_t total = 0;
  const uint8_t* at = bytes.data();
  size_t left = bytes.size();
  for (; left >= 8; at += 8, left -= 8) {
    uint64_t word;
    std::memcpy(&word, at, 8);
    total += (word & 0xFFFFFFFF) + (word >> 32);
  }
  for (; left >= 2; at += 2, left -= 2) total += static_cast<uint64_t>(at[0] | at[1] << 8);
  if (left != 0) total += *at;
  const uint16_t folded = Fold(total);
  return Fold(uint64_t{sum} + static_cast<uint16_t>(folded << 8 | folded >> 8));
}

uint16_t PseudoHeaderSum(absl::Span<const uint8_t> frame, const FrameHeaders& headers, uint32_t transport_bytes) {
  const bool ip4 = headers.ip_version == 4;
  const uint16_t addresses = Sum(frame.subspan(headers.ip_offset + (ip4 ? 12 : 8), ip4 ? 8 : 32));
  return Fold(uint64_t{addresses} + headers.protocol + (transport_bytes >> 16) + (transport_bytes & 0xFFFF));
}

bool FinishChecksum(absl::Span<uint8_t> frame, FrameOffload& offload) {
  if (!offload.needs_checksum) return true;
  const size_t start = offload.checksum_start;
  const size_t at = start + offload.checksum_offset;
  if (at + 2 > frame.size()) return false;
  const auto checksum = static_cast<uint16_t>(~Sum(frame.subspan(start)));
  // UDP has no other way to say that there is a checksum; to TCP both are the same.
  WriteBe16(&frame[at], checksum == 0 ? 0xFFFF : checksum);
  offload.needs_checksum = false;
  offload.checksum_start = offload.checksum_offset = 0;
  offload.checksum_is_valid = true;
  return true;
}

bool ChecksumsAreRight(absl::Span<const uint8_t> frame) {
  const FrameHeaders headers = ReadHeaders(frame);
  if (headers.ip_version == 0) return true;
  const size_t ip = headers.ip_offset;
  size_t end = 0;
  if (headers.ip_version == 4) {
    if (Sum(frame.subspan(ip, size_t{4} * (frame[ip] & 0xF))) != 0xFFFF) return false;
    end = ip + ReadBe16(&frame[ip + 2]);
  } else {
    end = ip + 40 + ReadBe16(&frame[ip + 4]);
  }
  if (headers.is_fragment || headers.transport_offset == 0) return true;
  if (end > frame.size() || end < headers.payload_offset) return false;
  const size_t transport = headers.transport_offset;
  // A datagram over IPv4 may come without.
  if (headers.protocol == kUdp && headers.ip_version == 4 && ReadBe16(&frame[transport + kUdpChecksumOffset]) == 0) {
    return true;
  }
  const uint16_t pseudo = PseudoHeaderSum(frame, headers, static_cast<uint32_t>(end - transport));
  return Sum(frame.subspan(transport, end - transport), pseudo) == 0xFFFF;
}

}  // namespace hvsdk::ethernet
