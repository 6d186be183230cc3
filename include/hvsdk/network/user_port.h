// SPDX-License-Identifier: Apache-2.0
// A network in user space, which needs no privilege: the guest is behind a router that translates addresses, whose connections
// are sockets of this process (libslirp 4.7 or later, which is loaded when the first such port is made).
//
// The guest's network is 10.0.2.0/24 and fec0::/64. By DHCP it gets 10.0.2.15, the router 10.0.2.2 and a name server, 10.0.2.3,
// which asks those of the host. Whatever else it reaches the host reaches, too, but for the host's own loopback; that is closed
// unless `host_loopback` is set, and is at the router's address then. Nobody reaches the guest but by host forwards.
//
// Frames to be cut and checksums are taken, and frames arrive with their checksums known to be right. There are no VLANs.
//
// Thread class: made and destroyed on the loop's thread or while it does not run; else as resource/network_port.h has it. The
// program ignores SIGPIPE, because a peer may close a connection that is written to.
//
//   absl::StatusOr<HostForward> ssh = ParseHostForward("tcp:127.0.0.1:2222-:22");
//   absl::StatusOr<std::unique_ptr<NetworkPort>> port = CreateUserPort(loop, {.host_forwards = {*ssh}});

#ifndef HVSDK_NETWORK_USER_PORT_H_
#define HVSDK_NETWORK_USER_PORT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/os/event_loop.h"
#include "hvsdk/resource/network_port.h"

namespace hvsdk::network {

// What arrives at an address of the host goes on to the guest.
struct HostForward {
  bool udp = false;
  uint32_t host_address = 0;  // IPv4, its first byte the highest; 0: all of the host's
  uint16_t host_port = 0;
  uint32_t guest_address = 0;  // likewise; 0: the one that the guest gets by DHCP
  uint16_t guest_port = 0;

  bool operator==(const HostForward&) const = default;
};

// "tcp:127.0.0.1:2222-:22", "udp::53-10.0.2.15:53". InvalidArgument: anything else, in words for its user.
absl::StatusOr<HostForward> ParseHostForward(absl::string_view text);

// "10.0.2.3" as its first byte the highest. InvalidArgument: anything else.
absl::StatusOr<uint32_t> ParseIp4(absl::string_view text);

inline constexpr uint32_t kMinUserMtuBytes = 1280;  // which IPv6 asks for

struct UserPortOptions {
  uint32_t mtu_bytes = 1500;  // kMinUserMtuBytes to 65521
  std::vector<HostForward> host_forwards;
  bool restricted = false;     // the guest reaches nobody; forwards stay
  bool host_loopback = false;  // the host's loopback is at 10.0.2.2 and fec0::2
  uint32_t dns_address = 0;    // of the name server, in 10.0.2.0/24; 0: 10.0.2.3
};

// InvalidArgument: an option that no network has. FailedPrecondition: the host refuses a forward, which is named. Unimplemented: libslirp is not there, or this library was built without its header.
absl::StatusOr<std::unique_ptr<NetworkPort>> CreateUserPort(os::EventLoop& loop, const UserPortOptions& options);

}  // namespace hvsdk::network

#endif  // HVSDK_NETWORK_USER_PORT_H_
