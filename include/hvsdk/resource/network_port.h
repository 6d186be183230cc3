// SPDX-License-Identifier: Apache-2.0
// NetworkPort: what a network adapter needs of whatever carries its frames. The network VSP and emulated adapters speak
// through it; NAT in user space, a TAP device, a socket and a switch's ports implement it (network/).
//
// Shapes: a frame is Ethernet from the destination address to the end of the payload, without the frame check sequence and
// without a VLAN tag, which stands in its FrameOffload. It lies in pieces of host memory, usually guest pages, cut as the
// caller likes. Nothing is kept after a call returns, so the caller's memory is its own again: a port copies a frame once,
// to where it goes, and a receiver names the memory where the next frames shall lie.
//
// Frames are pulled: a port says that there are some (NetworkPortClient::OnFrames), and the adapter asks for them when the
// guest has room. What an adapter does not ask for waits in the port, up to a limit of the port's; beyond it the port drops,
// as a real network does, or holds its sender back.
//
// Queues: an adapter may use several at once, each from one thread at a time; other calls are made by one thread at a time
// and not beside each other. A port steers what belongs to one flow to one queue.
//
// Threads: Send and Receive never wait for anybody. Clients are told on any thread, and never from within a call of
// theirs; a port holds no lock while it tells. After Detach returns, nothing is told any more.
//
// Offloads are those of virtio's network header, which hosts and switches carry on without touching the payload
// (virtio 1.2, 5.1.6: csum_start, csum_offset, gso_type, gso_size).
//
//   size_t sent = 0;
//   OutgoingFrame frame{.buffers = absl::MakeConstSpan(&buffer, 1), .size_bytes = buffer.size_bytes};
//   if (port.Send(/*queue=*/0, {&frame, 1}) == 0) WaitForOnRoom();

#ifndef HVSDK_RESOURCE_NETWORK_PORT_H_
#define HVSDK_RESOURCE_NETWORK_PORT_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "hvsdk/memory/host_buffer.h"

namespace hvsdk {

using MacAddress = std::array<uint8_t, 6>;

// What whoever sends a frame has left to do, or has found out already.
struct FrameOffload {
  enum class Segmentation : uint8_t { kNone, kTcp4, kTcp6 };

  // The 16-bit one's complement sum of everything from `checksum_start` on is to be put at `checksum_start +
  // checksum_offset`, where the pseudo header's sum stands. Offsets are from the frame's first byte.
  bool needs_checksum = false;
  // The sender has checked or made the TCP or UDP checksum, or the frame never left this host.
  bool checksum_is_valid = false;
  // The frame is a TCP segment of any length, to be cut into ones of `segment_bytes` of payload each; needs_checksum is set.
  Segmentation segmentation = Segmentation::kNone;
  bool has_vlan = false;
  uint16_t checksum_start = 0;
  uint16_t checksum_offset = 0;
  uint16_t segment_bytes = 0;
  uint16_t header_bytes = 0;  // Ethernet to TCP, of a frame to be cut
  uint16_t vlan_tci = 0;      // IEEE 802.1Q: priority, DEI, VLAN id

  bool operator==(const FrameOffload&) const = default;
};

struct OutgoingFrame {
  absl::Span<const HostBuffer> buffers;  // together at least `size_bytes`
  size_t size_bytes = 0;
  FrameOffload offload;
};

struct IncomingFrame {
  absl::Span<const HostBuffer> buffers;  // where it may lie
  size_t size_bytes = 0;                 // of the frame; set by Receive
  FrameOffload offload;                  // likewise
};

// What a port is, constant while a client is attached; or what a client takes.
struct NetworkPortInfo {
  uint32_t mtu_bytes = 1500;        // of the payload, after the Ethernet header: 68 to 65521
  uint32_t max_frame_bytes = 1514;  // either way; more than MTU + 14 where a port takes or gives frames to be cut
  uint16_t queues = 1;
  bool takes_checksum = false;      // Send takes frames with needs_checksum, for TCP and UDP over IPv4 and IPv6
  bool takes_segmentation = false;  // Send takes frames to be cut
};

// What a port tells its adapter. Calls are cheap and edge-triggered: one for the first of many frames is enough, and more
// than needed do no harm.
class NetworkPortClient {
 public:
  virtual ~NetworkPortClient() = default;
  // There are frames to be received from a queue, which was empty.
  virtual void OnFrames(uint16_t queue) = 0;
  // A queue takes frames again after Send took less than it was given.
  virtual void OnRoom(uint16_t queue) = 0;
  // NetworkPort::link_is_up may answer something else.
  virtual void OnLink() = 0;
};

class NetworkPort {
 public:
  virtual ~NetworkPort() = default;

  virtual NetworkPortInfo info() const = 0;
  virtual bool link_is_up() const = 0;

  // Frames go to and from `client` until Detach. `accepts` says which offloads Receive may leave to the client, in the
  // fields takes_checksum and takes_segmentation, how long its frames may be and how many queues it uses; the port does
  // the rest itself. FailedPrecondition: the port has a client already.
  virtual absl::Status Attach(NetworkPortClient& client, const NetworkPortInfo& accepts) = 0;
  // The client takes something else from now on; as Attach has it, while it is attached, but for the queues. Frames that it took and does not
  // take any more are cut by the port, or dropped where it cannot.
  virtual void ChangeAccepted(const NetworkPortInfo& accepts) = 0;
  // Frames that wait in the port are dropped.
  virtual void Detach() = 0;

  // Sends frames in order and answers how many it has taken. Fewer than all: there is no room, and OnRoom is told when
  // there is. A frame that the port cannot carry (too short, too long, an offload that it does not take) is taken and
  // dropped.
  virtual size_t Send(uint16_t queue, absl::Span<const OutgoingFrame> frames) = 0;

  // Puts frames that have arrived into `frames` in order, and answers how many there are. A frame that is longer than its
  // buffers is dropped. Fewer than asked for: there are no more now, and OnFrames is told when there are.
  virtual size_t Receive(uint16_t queue, absl::Span<IncomingFrame> frames) = 0;
};

}  // namespace hvsdk

#endif  // HVSDK_RESOURCE_NETWORK_PORT_H_
