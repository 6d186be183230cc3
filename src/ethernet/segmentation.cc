// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/ethernet/segmentation.h"

#include <algorithm>
#include <cstring>

#include "hvsdk/ethernet/checksum.h"

namespace hvsdk::ethernet {
namespace {

constexpr uint8_t kFin = 0x01, kPsh = 0x08, kCwr = 0x80;

// Sets the lengths that the headers say, and the checksum of an IPv4 header.
void SetLengths(absl::Span<uint8_t> frame, const FrameHeaders& headers) {
  uint8_t* const ip = &frame[headers.ip_offset];
  const size_t packet = frame.size() - headers.ip_offset;
  if (headers.ip_version == 4) {
    WriteBe16(ip + 2, static_cast<uint16_t>(packet));
    WriteBe16(ip + 10, 0);
    const size_t size = size_t{4} * (ip[0] & 0xF);
    WriteBe16(ip + 10, static_cast<uint16_t>(~Sum(absl::MakeConstSpan(ip, size))));
  } else {
    WriteBe16(ip + 4, static_cast<uint16_t>(packet - 40));
  }
}

// Puts the pseudo header's sum where the checksum goes, and the rest of the work into `offload`.
void BeginChecksum(absl::Span<uint8_t> frame, const FrameHeaders& headers, FrameOffload& offload) {
  const size_t transport = headers.transport_offset;
  WriteBe16(&frame[transport + kTcpChecksumOffset],
            PseudoHeaderSum(frame, headers, static_cast<uint32_t>(frame.size() - transport)));
  offload.needs_checksum = true;
  offload.checksum_start = static_cast<uint16_t>(transport);
  offload.checksum_offset = kTcpChecksumOffset;
}

}  // namespace

std::optional<Segmenter> Segmenter::For(absl::Span<const uint8_t> frame, const FrameOffload& offload) {
  if (frame.size() > kMaxFrameBytes || offload.segment_bytes < kMinSegmentBytes) return std::nullopt;
  const int version = offload.segmentation == FrameOffload::Segmentation::kTcp4   ? 4
                      : offload.segmentation == FrameOffload::Segmentation::kTcp6 ? 6
                                                                                  : -1;
  const FrameHeaders headers = ReadHeaders(frame);
  if (headers.ip_version != version || headers.is_fragment || headers.protocol != kTcp ||
      headers.payload_offset >= frame.size()) {
    return std::nullopt;
  }
  return Segmenter(frame, offload, headers);
}

Segmenter::Segmenter(absl::Span<const uint8_t> frame, const FrameOffload& offload, const FrameHeaders& headers)
    : frame_(frame),
      offload_(offload),
      headers_(headers),
      payload_bytes_(frame.size() - headers.payload_offset),
      count_((payload_bytes_ + offload.segment_bytes - 1) / offload.segment_bytes) {}

size_t Segmenter::PayloadOf(size_t index) const {
  return std::min<size_t>(payload_bytes_ - index * offload_.segment_bytes, offload_.segment_bytes);
}

size_t Segmenter::SizeOf(size_t index) const { return headers_.payload_offset + PayloadOf(index); }

size_t Segmenter::max_bytes() const { return SizeOf(0); }

size_t Segmenter::Cut(size_t index, ChecksumBy checksum, absl::Span<uint8_t> to, FrameOffload& offload) const {
  const size_t header_bytes = headers_.payload_offset;
  const size_t begin = index * offload_.segment_bytes;
  const size_t payload = PayloadOf(index);
  if (to.size() < header_bytes + payload) return 0;
  to = to.first(header_bytes + payload);
  std::memcpy(to.data(), frame_.data(), header_bytes);
  std::memcpy(to.data() + header_bytes, frame_.data() + header_bytes + begin, payload);

  if (headers_.ip_version == 4) {
    uint8_t* const id = &to[headers_.ip_offset + 4];
    WriteBe16(id, static_cast<uint16_t>(ReadBe16(id) + index));
  }
  SetLengths(to, headers_);
  uint8_t* const tcp = &to[headers_.transport_offset];
  WriteBe32(tcp + 4, ReadBe32(tcp + 4) + static_cast<uint32_t>(begin));
  if (index != 0) tcp[13] &= static_cast<uint8_t>(~kCwr);
  if (index + 1 != count_) tcp[13] &= static_cast<uint8_t>(~(kFin | kPsh));

  offload = {};
  offload.has_vlan = offload_.has_vlan;
  offload.vlan_tci = offload_.vlan_tci;
  BeginChecksum(to, headers_, offload);
  if (checksum == ChecksumBy::kUs) FinishChecksum(to, offload);
  return to.size();
}

bool FinishWhole(absl::Span<uint8_t> frame, FrameOffload& offload) {
  if (!Segmenter::For(frame, offload)) return false;
  const FrameHeaders headers = ReadHeaders(frame);
  if (frame.size() - headers.ip_offset - (headers.ip_version == 6 ? 40 : 0) > 65535) return false;
  SetLengths(frame, headers);
  offload.segmentation = FrameOffload::Segmentation::kNone;
  offload.segment_bytes = offload.header_bytes = 0;
  BeginChecksum(frame, headers, offload);
  return FinishChecksum(frame, offload);
}

}  // namespace hvsdk::ethernet
