// SPDX-License-Identifier: Apache-2.0
// TCP segmentation in software: a frame that a sender left to be cut becomes the frames that go over a wire, or one long
// packet for a receiver that reads those. Pure; thread-compatible.
//
// What the long frame says of its own lengths and checksums is not looked at, because senders differ in it; addresses,
// options, sequence number and flags are. Of the segments the first alone has CWR, the last alone FIN and PSH, and an
// IPv4 identification counts up (RFC 3168, 6.1.2; NDIS large send offload, version 2).
//
//   const std::optional<Segmenter> segmenter = Segmenter::For(frame, offload);
//   if (!segmenter) return;  // the frame is not what its offload says: dropped
//   for (size_t i = 0; i < segmenter->count(); ++i) {
//     FrameOffload rest;
//     Transmit(out.first(segmenter->Cut(i, ChecksumBy::kUs, out, rest)), rest);
//   }

#ifndef HVSDK_ETHERNET_SEGMENTATION_H_
#define HVSDK_ETHERNET_SEGMENTATION_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "hvsdk/ethernet/headers.h"
#include "hvsdk/resource/network_port.h"

namespace hvsdk::ethernet {

// Who makes the TCP checksums of segments: the receiver gets the pseudo header's sum in their place.
enum class ChecksumBy { kUs, kReceiver };

// The least that a segment may carry, so that a frame becomes 8192 at most: what Linux asks for, too (TCP_MIN_GSO_SIZE).
inline constexpr uint16_t kMinSegmentBytes = 8;

class Segmenter {
 public:
  // Empty: `frame` is no TCP segment over the IP that `offload` names, has a header that is not whole or no payload, is a fragment,
  // is longer than kMaxFrameBytes, or is to be cut into pieces below kMinSegmentBytes. The frame is used until the last Cut.
  static std::optional<Segmenter> For(absl::Span<const uint8_t> frame, const FrameOffload& offload);

  size_t count() const { return count_; }
  size_t header_bytes() const { return headers_.payload_offset; }
  // Of the longest segment.
  size_t max_bytes() const;
  size_t SizeOf(size_t index) const;

  // Writes segment `index` to the start of `to`, and what is left to do of it to `offload`, which keeps a VLAN tag. Answers the
  // segment's length; 0: `to` is shorter than that.
  size_t Cut(size_t index, ChecksumBy checksum, absl::Span<uint8_t> to, FrameOffload& offload) const;

 private:
  Segmenter(absl::Span<const uint8_t> frame, const FrameOffload& offload, const FrameHeaders& headers);
  size_t PayloadOf(size_t index) const;

  absl::Span<const uint8_t> frame_;
  FrameOffload offload_;
  FrameHeaders headers_;
  size_t payload_bytes_;
  size_t count_;
};

// Makes the frame one TCP segment as it is, with lengths and checksums of its own. False: as Segmenter::For has it, or the
// packet would be longer than its header can say.
bool FinishWhole(absl::Span<uint8_t> frame, FrameOffload& offload);

}  // namespace hvsdk::ethernet

#endif  // HVSDK_ETHERNET_SEGMENTATION_H_
