// SPDX-License-Identifier: Apache-2.0
// Switch: an Ethernet switch in this process, between the adapters of one machine or of several. It learns which addresses are
// behind which port, floods what it does not know, and keeps VLANs apart.
//
// Frames to be cut pass whole between ports whose clients take them; for others they are cut and checksummed here. What a
// receiver does not fetch waits, within limits, and then is dropped, so that nobody waits for a slow port.
//
// Thread-safe: a port may be added, used and destroyed on any thread; each port is used as resource/network_port.h
// says. Nothing is allocated without bound: a port has so many addresses, and so many frames and bytes that wait.
//
// Source: IEEE 802.1Q-2018, 8.6 to 8.8.
//
//   network::Switch lan(clock);
//   absl::StatusOr<std::unique_ptr<NetworkPort>> port = lan.AddPort({.access_vlan = 7});

#ifndef HVSDK_NETWORK_SWITCH_H_
#define HVSDK_NETWORK_SWITCH_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "hvsdk/base/clock.h"
#include "hvsdk/resource/network_port.h"

namespace hvsdk::network {

struct SwitchOptions {
  size_t max_ports = 1024;
  size_t max_addresses = 256;                  // behind each port, at least one; of more the last ones are known
  uint64_t aging_100ns = 300 * 10'000'000ull;  // for so long after its last frame an address is known
  size_t queue_frames = 1024;                  // that wait, in each queue of each port
  size_t queue_bytes = size_t{4} << 20;
};

struct SwitchPortOptions {
  uint32_t mtu_bytes = 1500;
  uint16_t queues = 1;
  // An access port belongs to this VLAN, 1 to 4094, and knows nothing of tags: those that arrive tagged for another are dropped.
  uint16_t access_vlan = 0;
  // Else it is a trunk: frames of these VLANs pass, with their tags. 0 stands for those without a tag, which are a VLAN of
  // their own. Empty: all pass.
  std::vector<uint16_t> trunk_vlans;
};

class Switch {
 public:
  // `clock` outlives the switch and its ports; its time may start anywhere.
  explicit Switch(const Clock& clock, const SwitchOptions& options = {});
  ~Switch();

  // The port may outlive the switch. InvalidArgument: an MTU, VLAN or number of queues (1 to 64) that no port has. ResourceExhausted:
  // it has too many ports.
  absl::StatusOr<std::unique_ptr<NetworkPort>> AddPort(const SwitchPortOptions& options);

 private:
  class Core;
  class Port;
  const std::shared_ptr<Core> core_;
};

}  // namespace hvsdk::network

#endif  // HVSDK_NETWORK_SWITCH_H_
