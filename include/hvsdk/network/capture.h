// SPDX-License-Identifier: Apache-2.0
// Capture: what goes through a port, in a file that Wireshark and tcpdump read (pcap, with nanoseconds).
//
// A frame is recorded when the port has taken it, or has given it: as it is then, with a VLAN tag inside, and whole where it is
// still to be cut or checksummed. The file is written on a thread of its own. What it cannot keep up with is left out of it, and
// nobody waits for it.
//
// Threads: as resource/network_port.h has it.
//
// Source: draft-ietf-opsawg-pcap, PCAP Capture File Format.
//
//   absl::StatusOr<std::unique_ptr<NetworkPort>> watched = Capture(std::move(port), "net.pcap");

#ifndef HVSDK_NETWORK_CAPTURE_H_
#define HVSDK_NETWORK_CAPTURE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "hvsdk/resource/network_port.h"

namespace hvsdk::network {

// `path` is made or emptied. Errors: those of opening it.
absl::StatusOr<std::unique_ptr<NetworkPort>> Capture(std::unique_ptr<NetworkPort> port, const std::string& path);

}  // namespace hvsdk::network

#endif  // HVSDK_NETWORK_CAPTURE_H_
