// SPDX-License-Identifier: Apache-2.0
// Frames as they are on a wire, which has no place for offloads: whole, with their checksums, their VLAN tag inside.

#ifndef HVSDK_SRC_NETWORK_WIRE_H_
#define HVSDK_SRC_NETWORK_WIRE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/types/span.h"
#include "hvsdk/ethernet/headers.h"
#include "hvsdk/ethernet/segmentation.h"
#include "hvsdk/resource/network_port.h"
#include "network/frame.h"
#include "resource/host_buffers.h"

namespace hvsdk::network {

// What a port passes over, as no frame for its client, before others have their turn: the other end may write more as fast as it is read.
inline constexpr size_t kMaxPassed = 256;

// Puts a tag into a frame of `size_bytes`, behind which is room for it. Answers the frame's length.
inline size_t PutTag(uint8_t* frame, size_t size_bytes, uint16_t tci) {
  constexpr size_t kAt = ethernet::kTagOffset;
  std::memmove(frame + kAt + ethernet::kVlanTagBytes, frame + kAt, size_bytes - kAt);
  ethernet::WriteBe16(frame + kAt, ethernet::kVlan);
  ethernet::WriteBe16(frame + kAt + 2, tci);
  return size_bytes + ethernet::kVlanTagBytes;
}

// Appends what goes over the wire for `frame`, a frame of CopyFrame's, to `out`: each of its segments behind its length, 32 bits,
// big-endian. Nothing, if its offload lies or one is longer than `max_bytes` without its tag.
template <typename Out>
void AppendToWire(Frame frame, size_t max_bytes, Out& out) {
  const auto append = [&out](size_t size, const FrameOffload& offload, auto write) {
    const size_t begin = out.size();
    out.resize(begin + 4 + size + (offload.has_vlan ? ethernet::kVlanTagBytes : 0));
    uint8_t* const at = out.data() + begin + 4;
    write(absl::MakeSpan(at, size));
    if (offload.has_vlan) size = PutTag(at, size, offload.vlan_tci);
    ethernet::WriteBe32(out.data() + begin, static_cast<uint32_t>(size));
  };
  if (frame.offload.segmentation == FrameOffload::Segmentation::kNone) {
    if (frame.size_bytes > max_bytes || !FinishFrame(frame)) return;
    append(frame.size_bytes, frame.offload,
           [&](absl::Span<uint8_t> to) { std::memcpy(to.data(), frame.data.get(), to.size()); });
    return;
  }
  const auto segmenter = ethernet::Segmenter::For(frame.bytes(), frame.offload);
  if (!segmenter || segmenter->max_bytes() > max_bytes) return;
  for (size_t i = 0; i < segmenter->count(); ++i) {
    append(segmenter->SizeOf(i), frame.offload, [&](absl::Span<uint8_t> to) {
      FrameOffload rest;
      segmenter->Cut(i, ethernet::ChecksumBy::kUs, to, rest);
    });
  }
}

// Copies a frame from the wire into its receiver's memory, and its tag beside it. `offload` is what else is known of it. False: it is
// too short for a frame, or longer than `max_bytes` without its tag or than the memory.
inline bool CopyFromWire(absl::Span<const uint8_t> frame, size_t max_bytes, FrameOffload offload, IncomingFrame& to) {
  if (frame.size() < ethernet::kHeaderBytes) return false;
  constexpr size_t kAt = ethernet::kTagOffset;
  constexpr size_t kTag = ethernet::kVlanTagBytes;
  const bool tagged =
      frame.size() >= ethernet::kHeaderBytes + kTag && ethernet::ReadBe16(&frame[kAt]) == ethernet::kVlan;
  const size_t size = frame.size() - (tagged ? kTag : 0);
  if (size > max_bytes) return false;
  if (tagged) {
    offload.has_vlan = true;
    offload.vlan_tci = ethernet::ReadBe16(&frame[kAt + 2]);
    for (uint16_t* const offset : {&offload.checksum_start, &offload.header_bytes}) {
      *offset = static_cast<uint16_t>(*offset - std::min<size_t>(*offset, kTag));
    }
    if (CopyToBuffers(to.buffers, 0, frame.data(), kAt) != kAt) return false;
    frame.remove_prefix(kAt + kTag);
    if (CopyToBuffers(to.buffers, kAt, frame.data(), frame.size()) != frame.size()) return false;
  } else if (CopyToBuffers(to.buffers, 0, frame.data(), size) != size) {
    return false;
  }
  to.size_bytes = size;
  to.offload = offload;
  return true;
}

}  // namespace hvsdk::network

#endif  // HVSDK_SRC_NETWORK_WIRE_H_
