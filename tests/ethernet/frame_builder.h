// SPDX-License-Identifier: Apache-2.0
// Makes Ethernet frames for tests: what a guest's stack would send.

#ifndef HVSDK_TESTS_ETHERNET_FRAME_BUILDER_H_
#define HVSDK_TESTS_ETHERNET_FRAME_BUILDER_H_

#include <cstdint>
#include <vector>

#include "hvsdk/ethernet/checksum.h"
#include "hvsdk/ethernet/headers.h"
#include "hvsdk/resource/network_port.h"

namespace hvsdk::ethernet {

struct FrameSpec {
  MacAddress to = {2, 0, 0, 0, 0, 2};
  MacAddress from = {2, 0, 0, 0, 0, 1};
  int ip_version = 4;                   // or 6
  uint8_t protocol = kTcp;              // or kUdp
  uint32_t from_host = 1, to_host = 2;  // the last four bytes of the addresses
  uint16_t from_port = 1000, to_port = 2000;
  uint32_t sequence = 1;
  uint8_t flags = 0x10;
  uint16_t id = 7;
  size_t ip_option_bytes = 0, tcp_option_bytes = 0;  // multiples of 4
  std::vector<uint8_t> payload;
};

// A frame with right lengths and checksums.
inline std::vector<uint8_t> MakeFrame(const FrameSpec& spec) {
  std::vector<uint8_t> frame;
  const auto put = [&frame](std::initializer_list<int> bytes) {
    for (const int byte : bytes) frame.push_back(static_cast<uint8_t>(byte));
  };
  const auto put16 = [&put](uint32_t value) {
    put({static_cast<int>(value >> 8 & 0xFF), static_cast<int>(value & 0xFF)});
  };
  const auto put32 = [&put16](uint32_t value) { put16(value >> 16), put16(value & 0xFFFF); };
  frame.insert(frame.end(), spec.to.begin(), spec.to.end());
  frame.insert(frame.end(), spec.from.begin(), spec.from.end());
  put16(spec.ip_version == 4 ? kIp4 : kIp6);
  const size_t transport_bytes = (spec.protocol == kTcp ? 20 + spec.tcp_option_bytes : 8) + spec.payload.size();
  const size_t ip = frame.size();
  if (spec.ip_version == 4) {
    const size_t header = 20 + spec.ip_option_bytes;
    put({static_cast<int>(0x40 | header / 4), 0});
    put16(static_cast<uint32_t>(header + transport_bytes));
    put16(spec.id), put16(0x4000), put({64, spec.protocol}), put16(0);
    put32(0x0A000000 | spec.from_host), put32(0x0A000000 | spec.to_host);
    frame.insert(frame.end(), spec.ip_option_bytes, 1);  // no operation
    WriteBe16(&frame[ip + 10], static_cast<uint16_t>(~Sum(absl::MakeConstSpan(&frame[ip], header))));
  } else {
    put({0x60, 0, 0, 0}), put16(static_cast<uint32_t>(transport_bytes)), put({spec.protocol, 64});
    for (const uint32_t host : {spec.from_host, spec.to_host}) put32(0xFD000000), put32(0), put32(0), put32(host);
  }
  const size_t transport = frame.size();
  put16(spec.from_port), put16(spec.to_port);
  if (spec.protocol == kTcp) {
    put32(spec.sequence), put32(5), put({static_cast<int>((20 + spec.tcp_option_bytes) / 4 << 4), spec.flags});
    put16(1000), put16(0), put16(0);
    frame.insert(frame.end(), spec.tcp_option_bytes, 1);
  } else {
    put16(static_cast<uint32_t>(transport_bytes)), put16(0);
  }
  frame.insert(frame.end(), spec.payload.begin(), spec.payload.end());
  FrameOffload offload{.needs_checksum = true,
                       .checksum_start = static_cast<uint16_t>(transport),
                       .checksum_offset = spec.protocol == kTcp ? kTcpChecksumOffset : kUdpChecksumOffset};
  WriteBe16(&frame[transport + offload.checksum_offset],
            PseudoHeaderSum(frame, ReadHeaders(frame), static_cast<uint32_t>(transport_bytes)));
  FinishChecksum(absl::MakeSpan(frame), offload);
  return frame;
}

// What is left to do of a frame of MakeFrame's whose sender leaves the checksum to others; puts the pseudo header's sum there.
inline FrameOffload LeaveChecksum(std::vector<uint8_t>& frame) {
  const FrameHeaders headers = ReadHeaders(frame);
  FrameOffload offload{.needs_checksum = true,
                       .checksum_start = headers.transport_offset,
                       .checksum_offset = headers.protocol == kTcp ? kTcpChecksumOffset : kUdpChecksumOffset};
  WriteBe16(&frame[headers.transport_offset + offload.checksum_offset],
            PseudoHeaderSum(frame, headers, static_cast<uint32_t>(frame.size() - headers.transport_offset)));
  return offload;
}

// The same, and the cutting into segments.
inline FrameOffload LeaveSegmentation(std::vector<uint8_t>& frame, uint16_t segment_bytes) {
  FrameOffload offload = LeaveChecksum(frame);
  const FrameHeaders headers = ReadHeaders(frame);
  offload.segmentation =
      headers.ip_version == 4 ? FrameOffload::Segmentation::kTcp4 : FrameOffload::Segmentation::kTcp6;
  offload.segment_bytes = segment_bytes;
  offload.header_bytes = headers.payload_offset;
  return offload;
}

}  // namespace hvsdk::ethernet

#endif  // HVSDK_TESTS_ETHERNET_FRAME_BUILDER_H_
