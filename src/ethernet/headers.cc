// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/ethernet/headers.h"

namespace hvsdk::ethernet {
namespace {

constexpr size_t kIp6HeaderBytes = 40;
constexpr uint8_t kHopByHop = 0, kRouting = 43, kFragment = 44, kDestination = 60;  // IPv6 extension headers
constexpr int kMaxExtensions = 8;

void ReadTransport(absl::Span<const uint8_t> start, size_t offset, uint8_t protocol, FrameHeaders& headers) {
  size_t size = 8;
  if (protocol == kTcp) {
    if (start.size() < offset + 20) return;
    size = size_t{4} * (start[offset + 12] >> 4);
    if (size < 20) return;
  } else if (protocol != kUdp) {
    headers.protocol = protocol;
    return;
  }
  if (start.size() < offset + size) return;
  headers.protocol = protocol;
  headers.transport_offset = static_cast<uint16_t>(offset);
  headers.payload_offset = static_cast<uint16_t>(offset + size);
}

void ReadIp4(absl::Span<const uint8_t> start, size_t offset, FrameHeaders& headers) {
  if (start.size() < offset + 20 || start[offset] >> 4 != 4) return;
  const size_t size = size_t{4} * (start[offset] & 0xF);
  if (size < 20 || start.size() < offset + size) return;
  headers.ip_version = 4;
  headers.ip_offset = static_cast<uint16_t>(offset);
  const uint16_t fragment = ReadBe16(&start[offset + 6]);
  headers.is_fragment = (fragment & 0x3FFF) != 0;  // MF, or an offset
  if ((fragment & 0x1FFF) == 0) ReadTransport(start, offset + size, start[offset + 9], headers);
}

void ReadIp6(absl::Span<const uint8_t> start, size_t offset, FrameHeaders& headers) {
  if (start.size() < offset + kIp6HeaderBytes || start[offset] >> 4 != 6) return;
  headers.ip_version = 6;
  headers.ip_offset = static_cast<uint16_t>(offset);
  uint8_t next = start[offset + 6];
  size_t at = offset + kIp6HeaderBytes;
  for (int i = 0; i < kMaxExtensions; ++i) {
    if (next != kHopByHop && next != kRouting && next != kFragment && next != kDestination) {
      ReadTransport(start, at, next, headers);
      return;
    }
    if (start.size() < at + 8) return;
    size_t size = 8;
    if (next == kFragment) {
      headers.is_fragment = true;
      if ((ReadBe16(&start[at + 2]) & 0xFFF8) != 0) return;  // not the first
    } else {
      size += size_t{8} * start[at + 1];
    }
    next = start[at];
    at += size;
  }
}

}  // namespace

FrameHeaders ReadHeaders(absl::Span<const uint8_t> start) {
  FrameHeaders headers;
  size_t offset = kHeaderBytes;
  if (start.size() < offset) return headers;
  headers.type = ReadBe16(&start[kTagOffset]);
  if (headers.type == kVlan) {
    offset += kVlanTagBytes;
    headers.type = start.size() < offset ? uint16_t{0} : ReadBe16(&start[kTagOffset + kVlanTagBytes]);
  }
  start = start.first(start.size() < kMaxHeadersBytes ? start.size() : kMaxHeadersBytes);
  if (headers.type == kIp4) ReadIp4(start, offset, headers);
  if (headers.type == kIp6) ReadIp6(start, offset, headers);
  return headers;
}

}  // namespace hvsdk::ethernet
