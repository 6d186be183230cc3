// SPDX-License-Identifier: Apache-2.0
// UnixSockets: a guest's sockets (resource/socket_service.h) as Unix sockets on the host, by the convention of Firecracker's `uds_path`,
// which Cloud Hypervisor and OpenVMM share.
//
// To the guest: a program connects to the socket at `path` and writes "CONNECT PORT\n", decimal, or "CONNECT SERVICE\n" with a GUID. When
// the guest accepts, it reads "OK NUMBER\n" ("OK GUID\n" after a GUID), where the number is its end's port, and from then on the guest's
// bytes. If the guest does not, or the line is no such, the socket is closed.
// From the guest: a connection to port P goes to the socket "PATH_P", one to another service, or to a port without that, to
// "PATH_service-guid". If nobody listens there it is refused.
//
// Each end of a stream is an end for the other side, too (shutdown). Where `path` is a folder, the socket is "vsock" in it.
//
// Limits: `max_waiting` programs that have not written their line; the next ones wait for accept(). How many connections there are at
// once is the hub's. A program that listens with a backlog that is full is asked again for 5 s. A path with "_4294967295" is at most 107
// bytes.
//
// Thread class: the loop's thread, or while it does not run; the hub's executor is the loop.
//
// Source: Firecracker, docs/vsock.md; OpenVMM, support/hybrid_vsock (GUIDs).
//
//   auto sockets = network::UnixSockets::Create(loop, hub, {.path = "/run/guest/v.sock"});
//   if (!sockets.ok()) return sockets.status();

#ifndef HVSDK_NETWORK_UNIX_SOCKETS_H_
#define HVSDK_NETWORK_UNIX_SOCKETS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/os/event_loop.h"
#include "hvsdk/resource/socket_service.h"

namespace hvsdk::network {

struct UnixSocketsOptions {
  std::string path;
  uint32_t max_waiting = 256;
};

class UnixSockets {
 public:
  virtual ~UnixSockets() = default;

  // Listens from now on, and takes the hub's services that nobody else does. `hub` outlives it; streams that are open live on without it.
  // InvalidArgument: the path is empty or too long. FailedPrecondition and others: the socket cannot be made.
  static absl::StatusOr<std::unique_ptr<UnixSockets>> Create(os::EventLoop& loop, SocketHub& hub,
                                                             const UnixSocketsOptions& options);

  // Where it listens.
  virtual const std::string& path() const = 0;
};

}  // namespace hvsdk::network

#endif  // HVSDK_NETWORK_UNIX_SOCKETS_H_
