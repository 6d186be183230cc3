// SPDX-License-Identifier: Apache-2.0
// Frames of the guest's on their way to a port: where they lie in guest memory, and headers of our own in front of those whose headers
// an offload changes. Does in software what the port does not. One channel's.

#ifndef HVSDK_SRC_VSP_TRANSMIT_BATCH_H_
#define HVSDK_SRC_VSP_TRANSMIT_BATCH_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "hvsdk/ethernet/headers.h"
#include "hvsdk/memory/host_buffer.h"
#include "hvsdk/resource/network_port.h"

namespace hvsdk::vsp {

// What a guest wants done with a frame.
struct TransmitRequest {
  bool has_checksum = false, has_large_send = false, has_vlan = false;
  uint32_t checksum = 0;    // rndis::kChecksum...
  uint32_t large_send = 0;  // rndis::kLargeSend...
  uint32_t vlan = 0;        // InfoType::kVlan
};

class TransmitBatch {
 public:
  static constexpr size_t kFrames = 64;        // with so many it is full
  static constexpr size_t kMaxSegments = 512;  // of one large send

  TransmitBatch() = default;
  // For a port, and frames up to that MTU.
  TransmitBatch(const NetworkPortInfo& port, uint32_t mtu_bytes);

  size_t unsent() const { return frames_.size() - sent_; }
  bool is_empty() const { return frames_.empty(); }
  bool is_full() const { return frames_.size() >= kFrames; }

  // Adds the frame of bytes [offset, offset + size) of `pieces`, in parts if it is a large send. False: it is none that can be
  // carried.
  bool Add(absl::Span<const HostBuffer> pieces, size_t offset, size_t size, const TransmitRequest& request);

  // Goes back to what was there before some were added.
  struct Mark {
    size_t frames, buffers, headers;
  };
  Mark mark() const { return {frames_.size(), buffers_.size(), headers_.size()}; }
  void GoBackTo(const Mark& mark);

  // Sends what has not been sent. True: all was taken, and the batch is empty.
  bool Send(NetworkPort& port, uint16_t queue);
  void Clear();

 private:
  using Header = std::array<uint8_t, ethernet::kMaxHeadersBytes>;

  bool AddWithHeaders(absl::Span<const HostBuffer> pieces, size_t offset, size_t size, const TransmitRequest& request,
                      const FrameOffload& offload);
  bool AddSegments(absl::Span<const HostBuffer> pieces, size_t offset, size_t size,
                   const ethernet::FrameHeaders& headers, const Header& header, const FrameOffload& offload,
                   uint32_t segment_bytes);
  // A frame whose first `header_bytes` are ours.
  void AddFrame(const Header* header, size_t header_bytes, absl::Span<const HostBuffer> pieces, size_t offset,
                size_t size, const FrameOffload& offload);
  void FinishChecksum(const ethernet::FrameHeaders& headers, uint8_t* header, FrameOffload& offload);

  NetworkPortInfo port_;
  uint32_t mtu_bytes_ = 0;
  std::vector<OutgoingFrame> frames_;  // their buffers are set when they are sent
  std::vector<size_t> first_buffer_;   // beside frames_
  std::vector<HostBuffer> buffers_;
  std::vector<Header> headers_;  // never more than reserved: buffers_ point into them
  size_t sent_ = 0;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_TRANSMIT_BATCH_H_
