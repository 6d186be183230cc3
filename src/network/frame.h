// SPDX-License-Identifier: Apache-2.0
// Frame: an Ethernet frame in private memory, on its way from one port to another.

#ifndef HVSDK_SRC_NETWORK_FRAME_H_
#define HVSDK_SRC_NETWORK_FRAME_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "hvsdk/resource/network_port.h"

namespace hvsdk::network {

struct Frame {
  std::unique_ptr<uint8_t[]> data;
  size_t size_bytes = 0;
  FrameOffload offload;

  absl::Span<uint8_t> bytes() { return {data.get(), size_bytes}; }
  absl::Span<const uint8_t> bytes() const { return {data.get(), size_bytes}; }
};

// A frame whose bytes are not set.
Frame MakeFrame(size_t size_bytes);

// Copies `from` once out of its sender's memory. A VLAN tag that stands in the frame goes into its offload. Without bytes: it
// cannot be carried, being shorter than a header, longer than `max_bytes`, or with an offload that makes no sense.
Frame CopyFrame(const OutgoingFrame& from, size_t max_bytes);

// Does what is left to do of a frame that is not to be cut. False: its offload lies.
bool FinishFrame(Frame& frame);

}  // namespace hvsdk::network

#endif  // HVSDK_SRC_NETWORK_FRAME_H_
