// SPDX-License-Identifier: Apache-2.0
#include "vsp/transmit_batch.h"

#include <algorithm>
#include <cstring>

#include "hvsdk/ethernet/checksum.h"
#include "hvsdk/hvdef/rndis.h"
#include "resource/host_buffers.h"
#include "vsp/frame_pieces.h"

namespace hvsdk::vsp {

namespace rndis = hvdef::rndis;
using ethernet::FrameHeaders;
using ethernet::ReadBe16;
using ethernet::WriteBe16;

namespace {

using ethernet::kVlanTagBytes;
constexpr size_t kEthernetBytes = ethernet::kHeaderBytes;
constexpr size_t kMaxIpBytes = 65535;

// TCP's flags, in its fourteenth byte.
constexpr uint8_t kTcpFin = 0x01, kTcpPush = 0x08, kTcpCwr = 0x80;

bool HasTransport(const FrameHeaders& headers) { return headers.transport_offset != 0 && !headers.is_fragment; }
uint16_t ChecksumOffset(const FrameHeaders& headers) {
  return headers.protocol == ethernet::kTcp ? ethernet::kTcpChecksumOffset : ethernet::kUdpChecksumOffset;
}

// Sets the length that IP says, of its header and everything behind.
void SetIpLength(uint8_t* frame, const FrameHeaders& headers, size_t size_bytes) {
  uint8_t* const ip = frame + headers.ip_offset;
  if (headers.ip_version == 4) {
    WriteBe16(ip + 2, static_cast<uint16_t>(size_bytes));
  } else {
    WriteBe16(ip + 4, static_cast<uint16_t>(size_bytes - 40));
  }
}

void SetIpv4Checksum(uint8_t* frame, const FrameHeaders& headers) {
  uint8_t* const ip = frame + headers.ip_offset;
  WriteBe16(ip + 10, 0);
  const size_t size = (ip[0] & 15u) * size_t{4};
  WriteBe16(ip + 10, static_cast<uint16_t>(~ethernet::Sum(absl::MakeConstSpan(ip, size))));
}

// Puts the pseudo header's sum where the checksum goes.
void BeginChecksum(absl::Span<uint8_t> start, const FrameHeaders& headers, size_t transport_bytes) {
  WriteBe16(&start[headers.transport_offset + size_t{ChecksumOffset(headers)}],
            ethernet::PseudoHeaderSum(start, headers, static_cast<uint32_t>(transport_bytes)));
}

}  // namespace

TransmitBatch::TransmitBatch(const NetworkPortInfo& port, uint32_t mtu_bytes) : port_(port), mtu_bytes_(mtu_bytes) {
  frames_.reserve(kFrames);
  first_buffer_.reserve(kFrames);
  buffers_.reserve(4 * kFrames);
  headers_.reserve(kFrames + kMaxSegments);
}

void TransmitBatch::GoBackTo(const Mark& mark) {
  frames_.resize(mark.frames);
  first_buffer_.resize(mark.frames);
  buffers_.resize(mark.buffers);
  headers_.resize(mark.headers);
}

void TransmitBatch::Clear() {
  GoBackTo({0, 0, 0});
  sent_ = 0;
}

bool TransmitBatch::Send(NetworkPort& port, uint16_t queue) {
  if (frames_.empty()) return true;
  for (size_t i = sent_; i < frames_.size(); ++i) {
    const size_t end = i + 1 < frames_.size() ? first_buffer_[i + 1] : buffers_.size();
    frames_[i].buffers = absl::MakeConstSpan(buffers_).subspan(first_buffer_[i], end - first_buffer_[i]);
  }
  sent_ += port.Send(queue, absl::MakeConstSpan(frames_).subspan(sent_));
  if (sent_ < frames_.size()) return false;
  Clear();
  return true;
}

void TransmitBatch::AddFrame(const Header* header, size_t header_bytes, absl::Span<const HostBuffer> pieces,
                             size_t offset, size_t size, const FrameOffload& offload) {
  first_buffer_.push_back(buffers_.size());
  if (header != nullptr) buffers_.push_back({const_cast<uint8_t*>(header->data()), header_bytes});
  ForEachPiece(pieces, offset, size, [&](uint8_t* bytes, size_t count) { buffers_.push_back({bytes, count}); });
  frames_.push_back({.buffers = {}, .size_bytes = header_bytes + size, .offload = offload});
}

bool TransmitBatch::Add(absl::Span<const HostBuffer> pieces, size_t offset, size_t size,
                        const TransmitRequest& request) {
  if (headers_.size() == headers_.capacity()) return false;
  FrameOffload offload;
  offload.has_vlan = request.has_vlan;
  offload.vlan_tci = static_cast<uint16_t>((request.vlan & 7) << 13 | (request.vlan & 8) << 9 | request.vlan >> 4);
  if (size < kEthernetBytes) return false;
  const bool wants_checksum =
      request.has_checksum &&
      (request.checksum & (rndis::kChecksumTcp | rndis::kChecksumUdp | rndis::kChecksumIpHeader)) != 0;
  if (wants_checksum || request.has_large_send) return AddWithHeaders(pieces, offset, size, request, offload);
  uint8_t start[kEthernetBytes + kVlanTagBytes];
  const size_t start_bytes = CopyFromBuffers(pieces, offset, start, std::min(size, sizeof(start)));
  if (!offload.has_vlan && start_bytes == sizeof(start) && ReadBe16(start + 12) == ethernet::kVlan) {
    // A tag in the frame becomes one beside it.
    if (size - kVlanTagBytes > mtu_bytes_ + kEthernetBytes) return false;
    offload.has_vlan = true;
    offload.vlan_tci = ReadBe16(start + 14);
    Header& header = headers_.emplace_back();
    std::memcpy(header.data(), start, 12);
    std::memcpy(header.data() + 12, start + 16, 2);
    AddFrame(&header, kEthernetBytes, pieces, offset + sizeof(start), size - sizeof(start), offload);
    return true;
  }
  if (size > mtu_bytes_ + kEthernetBytes) return false;
  AddFrame(nullptr, 0, pieces, offset, size, offload);
  return true;
}

// Headers are ours from here on: what was looked at is what is sent.
bool TransmitBatch::AddWithHeaders(absl::Span<const HostBuffer> pieces, size_t offset, size_t size,
                                   const TransmitRequest& request, const FrameOffload& offload_so_far) {
  FrameOffload offload = offload_so_far;
  Header header;
  size_t looked_at = CopyFromBuffers(pieces, offset, header.data(), std::min(size, header.size()));
  if (!offload.has_vlan && looked_at >= kEthernetBytes + kVlanTagBytes &&
      ReadBe16(header.data() + 12) == ethernet::kVlan) {
    offload.has_vlan = true;
    offload.vlan_tci = ReadBe16(header.data() + 14);
    std::memmove(header.data() + 12, header.data() + 16, looked_at - 16);
    looked_at -= kVlanTagBytes;
    offset += kVlanTagBytes;  // from here on of the frame without its tag, whose header is ours
    size -= kVlanTagBytes;
  }
  const FrameHeaders headers = ethernet::ReadHeaders(absl::MakeConstSpan(header).first(looked_at));
  if (headers.ip_version == 0) return false;
  const size_t transport_bytes = size - headers.transport_offset;
  const bool is_transport = HasTransport(headers);
  if (request.has_large_send) {
    const uint32_t segment_bytes = request.large_send & 0xFFFFF;
    const size_t ip_bytes = size - headers.ip_offset;
    if (!HasTransport(headers) || headers.protocol != ethernet::kTcp || segment_bytes == 0 ||
        headers.payload_offset + segment_bytes > mtu_bytes_ + kEthernetBytes) {
      return false;
    }
    if (ip_bytes > (headers.ip_version == 4 ? kMaxIpBytes : kMaxIpBytes + 40)) return false;
    if (size - headers.payload_offset > segment_bytes) {
      return AddSegments(pieces, offset, size, headers, header, offload, segment_bytes);
    }
    SetIpLength(header.data(), headers, ip_bytes);
  } else if (size > mtu_bytes_ + kEthernetBytes) {
    return false;
  }
  const bool wants_ip =
      headers.ip_version == 4 && (request.has_large_send || (request.checksum & rndis::kChecksumIpHeader) != 0);
  if (wants_ip) SetIpv4Checksum(header.data(), headers);
  const uint32_t wanted = headers.protocol == ethernet::kTcp ? rndis::kChecksumTcp : rndis::kChecksumUdp;
  const bool wants_transport = request.has_large_send || (request.checksum & wanted) != 0;
  if (!wants_transport && (request.checksum & (rndis::kChecksumTcp | rndis::kChecksumUdp)) != 0) return false;
  if (wants_transport && !is_transport) return false;
  const size_t header_bytes = wants_transport ? headers.payload_offset : looked_at;
  Header& kept = headers_.emplace_back(header);
  if (wants_transport) {
    BeginChecksum(absl::MakeSpan(kept), headers, transport_bytes);
    offload.needs_checksum = true;
    offload.checksum_start = headers.transport_offset;
    offload.checksum_offset = ChecksumOffset(headers);
  }
  AddFrame(&kept, header_bytes, pieces, offset + header_bytes, size - header_bytes, offload);
  if (wants_transport) FinishChecksum(headers, kept.data(), frames_.back().offload);
  return true;
}

// Of the last frame, if the port does not.
void TransmitBatch::FinishChecksum(const FrameHeaders& headers, uint8_t* header, FrameOffload& offload) {
  if (port_.takes_checksum) return;
  const auto buffers = absl::MakeConstSpan(buffers_).subspan(first_buffer_.back());
  WriteBe16(header + headers.transport_offset + ChecksumOffset(headers),
            ChecksumOf(buffers, headers.transport_offset, frames_.back().size_bytes));
  offload.needs_checksum = false;
  offload.checksum_is_valid = true;
}

bool TransmitBatch::AddSegments(absl::Span<const HostBuffer> pieces, size_t offset, size_t size,
                                const FrameHeaders& headers, const Header& header, const FrameOffload& offload_so_far,
                                uint32_t segment_bytes) {
  FrameOffload offload = offload_so_far;
  offload.needs_checksum = true;
  offload.checksum_start = headers.transport_offset;
  offload.checksum_offset = ChecksumOffset(headers);
  const size_t header_bytes = headers.payload_offset;
  const size_t payload_bytes = size - header_bytes;
  const auto add = [&](size_t payload_at, size_t bytes, auto edit) -> uint8_t* {
    Header& kept = headers_.emplace_back(header);
    SetIpLength(kept.data(), headers, header_bytes + bytes - headers.ip_offset);
    edit(kept.data());
    if (headers.ip_version == 4) SetIpv4Checksum(kept.data(), headers);
    const size_t transport_bytes = header_bytes - headers.transport_offset + bytes;
    BeginChecksum(absl::MakeSpan(kept), headers, transport_bytes);
    AddFrame(&kept, header_bytes, pieces, offset + header_bytes + payload_at, bytes, offload);
    return kept.data();
  };
  if (port_.takes_segmentation && size <= port_.max_frame_bytes) {
    offload.segmentation =
        headers.ip_version == 4 ? FrameOffload::Segmentation::kTcp4 : FrameOffload::Segmentation::kTcp6;
    offload.segment_bytes = static_cast<uint16_t>(segment_bytes);
    offload.header_bytes = static_cast<uint16_t>(header_bytes);
    add(0, payload_bytes, [](uint8_t*) {});
    return true;
  }
  const size_t segments = (payload_bytes + segment_bytes - 1) / segment_bytes;
  if (segments > kMaxSegments || segments > headers_.capacity() - headers_.size()) return false;
  const uint8_t* const ip = header.data() + headers.ip_offset;
  const uint16_t id = headers.ip_version == 4 ? ReadBe16(ip + 4) : uint16_t{0};
  const uint32_t sequence = ethernet::ReadBe32(header.data() + headers.transport_offset + 4);
  for (size_t i = 0; i < segments; ++i) {
    const size_t at = i * segment_bytes;
    uint8_t* const kept = add(at, std::min<size_t>(segment_bytes, payload_bytes - at), [&](uint8_t* frame) {
      if (headers.ip_version == 4) WriteBe16(frame + headers.ip_offset + 4, static_cast<uint16_t>(id + i));
      uint8_t* const tcp = frame + headers.transport_offset;
      ethernet::WriteBe32(tcp + 4, static_cast<uint32_t>(sequence + at));
      if (i + 1 < segments) tcp[13] = static_cast<uint8_t>(tcp[13] & ~(kTcpFin | kTcpPush));
      if (i != 0) tcp[13] = static_cast<uint8_t>(tcp[13] & ~kTcpCwr);
    });
    FinishChecksum(headers, kept, frames_.back().offload);
  }
  return true;
}

}  // namespace hvsdk::vsp
