// SPDX-License-Identifier: Apache-2.0
#include "network/frame.h"

#include <algorithm>
#include <cstring>

#include "hvsdk/ethernet/checksum.h"
#include "hvsdk/ethernet/headers.h"
#include "hvsdk/ethernet/segmentation.h"
#include "resource/host_buffers.h"

namespace hvsdk::network {
namespace {

// The tag that stands in the frame, as some senders have it, becomes the one beside it.
void TakeTag(Frame& frame) {
  const auto bytes = frame.bytes();
  if (frame.offload.has_vlan || bytes.size() < ethernet::kHeaderBytes + ethernet::kVlanTagBytes ||
      ethernet::ReadBe16(&bytes[ethernet::kTagOffset]) != ethernet::kVlan) {
    return;
  }
  frame.offload.has_vlan = true;
  frame.offload.vlan_tci = ethernet::ReadBe16(&bytes[ethernet::kTagOffset + 2]);
  constexpr size_t kBehind = ethernet::kTagOffset + ethernet::kVlanTagBytes;
  std::memmove(&bytes[ethernet::kTagOffset], &bytes[kBehind], bytes.size() - kBehind);
  frame.size_bytes -= ethernet::kVlanTagBytes;
  for (uint16_t* const offset : {&frame.offload.checksum_start, &frame.offload.header_bytes}) {
    *offset = static_cast<uint16_t>(*offset - std::min<size_t>(*offset, ethernet::kVlanTagBytes));
  }
}

}  // namespace

Frame MakeFrame(size_t size_bytes) {
  return {.data = std::make_unique_for_overwrite<uint8_t[]>(size_bytes), .size_bytes = size_bytes};
}

Frame CopyFrame(const OutgoingFrame& from, size_t max_bytes) {
  if (from.size_bytes < ethernet::kHeaderBytes || from.size_bytes > max_bytes) return {};
  Frame frame = MakeFrame(from.size_bytes);
  if (CopyFromBuffers(from.buffers, 0, frame.data.get(), from.size_bytes) != from.size_bytes) return {};
  frame.offload = from.offload;
  TakeTag(frame);
  const FrameOffload& offload = frame.offload;
  if (offload.segmentation != FrameOffload::Segmentation::kNone) {
    if (!ethernet::Segmenter::For(frame.bytes(), offload)) return {};
  } else if (offload.needs_checksum &&
             size_t{offload.checksum_start} + offload.checksum_offset + 2 > frame.size_bytes) {
    return {};
  }
  return frame;
}

bool FinishFrame(Frame& frame) { return ethernet::FinishChecksum(frame.bytes(), frame.offload); }

}  // namespace hvsdk::network
