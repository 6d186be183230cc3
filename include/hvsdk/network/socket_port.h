// SPDX-License-Identifier: Apache-2.0
// Frames over a Unix socket: to the other end's virtual machine, QEMU, a passt process.
//
// Streams carry each frame behind its length, 32 bits, big-endian, as QEMU's `-netdev stream` and passt have it; datagrams are
// frames, as with QEMU's `-netdev dgram`. VLAN tags stand in the frames; frames to be cut and checksums are taken and done here,
// for the wire has no word for them.
//
// The link is up while there is a peer. A peer that goes may come back: a listening port takes the next one, and one that
// connects tries again, several times a second, for ever. Without a peer frames are dropped; with one that does not read the
// sender is held back.
//
// Thread class: made and destroyed on the loop's thread or while it does not run; else as resource/network_port.h has it.
//
//   absl::StatusOr<std::unique_ptr<NetworkPort>> port = CreateSocketPort(loop, {.path = "/run/lan", .listens = true});

#ifndef HVSDK_NETWORK_SOCKET_PORT_H_
#define HVSDK_NETWORK_SOCKET_PORT_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "hvsdk/os/event_loop.h"
#include "hvsdk/resource/network_port.h"

namespace hvsdk::network {

struct SocketPortOptions {
  // A stream: the socket to connect to or, if `listens`, to be made. Datagrams: the peer's.
  std::string path;
  bool listens = false;
  // Set: datagrams; the port's own socket, to be made.
  std::string datagram_path;
  // Not negative: in place of all these a connected socket, stream or datagram, which the port owns from now on.
  int descriptor = -1;
  uint32_t mtu_bytes = 1500;  // 68 to 65535
};

// InvalidArgument: options that do not fit together, a path too long, a descriptor that is no such socket. FailedPrecondition and
// others: the socket cannot be made. That nobody is there to connect to is no error.
absl::StatusOr<std::unique_ptr<NetworkPort>> CreateSocketPort(os::EventLoop& loop, const SocketPortOptions& options);

}  // namespace hvsdk::network

#endif  // HVSDK_NETWORK_SOCKET_PORT_H_
