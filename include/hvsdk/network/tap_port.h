// SPDX-License-Identifier: Apache-2.0
// A TAP device: the host's kernel is at the other end, with its bridges, routes and filters.
//
// Frames to be cut and checksums go to the kernel as they are, and come from it so if the client takes them. Each queue is a
// descriptor of its own (IFF_MULTI_QUEUE); the kernel steers a flow to the queue it came from. The device's MTU, addresses and
// whether it is up are whoever's who made it.
//
// Thread class: made and destroyed on the loop's thread or while it does not run; else as resource/network_port.h has it.
//
// Source: Linux, Documentation/networking/tuntap.rst; virtio 1.2, 5.1.6 (the header before each frame).
//
//   absl::StatusOr<std::unique_ptr<NetworkPort>> port = CreateTapPort(loop, {.name = "tap0", .queues = 4});

#ifndef HVSDK_NETWORK_TAP_PORT_H_
#define HVSDK_NETWORK_TAP_PORT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "hvsdk/os/event_loop.h"
#include "hvsdk/resource/network_port.h"

namespace hvsdk::network {

struct TapPortOptions {
  // A device that is there, or is made if the process may, and then goes with the port.
  std::string name;
  // In place of a name: descriptors of one device, a queue each, which the port owns from now on.
  std::vector<int> descriptors;
  uint16_t queues = 1;     // 1 to 64; of a name
  uint32_t mtu_bytes = 0;  // of the guest, 68 to 65535; 0: the device's
};

// InvalidArgument: options that no device has, or descriptors of none. PermissionDenied, NotFound and others: the host refuses the device.
absl::StatusOr<std::unique_ptr<NetworkPort>> CreateTapPort(os::EventLoop& loop, const TapPortOptions& options);

}  // namespace hvsdk::network

#endif  // HVSDK_NETWORK_TAP_PORT_H_
