// SPDX-License-Identifier: Apache-2.0
// What the adapters of a MachineConfig are plugged into: ports made as NetworkConfig says.
//
// Thread class: made, used and destroyed on the loop's thread or while it does not run. Ports may outlive it.
//
//   NetworkPorts ports(loop);
//   for (const NetworkConfig& network : config.networks()) {
//     absl::StatusOr<machine::MachineNetwork> adapter = ports.Make(network);
//     if (!adapter.ok()) return adapter.status();
//     options.networks.push_back(*std::move(adapter));
//   }

#ifndef HVSDK_VMM_NETWORKS_H_
#define HVSDK_VMM_NETWORKS_H_

#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/network/capture.h"
#include "hvsdk/network/switch.h"
#include "hvsdk/os/event_loop.h"
#include "hvsdk/vmm/machine.pb.h"

namespace hvsdk::vmm {

// InvalidArgument: "mac: ...", as one that no adapter can have. What only making it shows is not found out.
absl::Status ValidateNetwork(const NetworkConfig& network);

// "02:15:5d:00:00:01". InvalidArgument: anything else, or a group's.
absl::StatusOr<MacAddress> ParseMac(absl::string_view text);

// Gives each adapter its address, where the configuration leaves it open. It follows from what the adapter is plugged into and from
// its place, so that it is the same at every start and another one at a socket's other end.
void ChooseMacs(MachineConfig& config);

// What an adapter is plugged into: "user", "tap", "socket" or "switch"; of a valid network.
absl::string_view PortKind(const NetworkConfig& network);

class NetworkPorts {
 public:
  explicit NetworkPorts(os::EventLoop& loop) : loop_(loop) {}

  // A valid network, whose address has been chosen; or one that is plugged into nothing. Errors: those of its port, whose message names the key that is at fault.
  absl::StatusOr<machine::MachineNetwork> Make(const NetworkConfig& network);
  // The port that was made for an adapter with that address; nullptr: it is gone, or there was none.
  std::shared_ptr<network::CapturedPort> Find(const NetworkConfig& network) const;

 private:
  absl::StatusOr<std::unique_ptr<NetworkPort>> MakePort(const NetworkConfig& network);

  os::EventLoop& loop_;
  std::map<std::string, network::Switch> lans_;
  std::map<MacAddress, std::weak_ptr<network::CapturedPort>> captured_;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_NETWORKS_H_
