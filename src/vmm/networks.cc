// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/networks.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "hvsdk/network/socket_port.h"
#include "hvsdk/network/tap_port.h"
#include "hvsdk/network/user_port.h"
#include "hvsdk/os/host_clock.h"
#include "hvsdk/vmm/config.h"
#include "hvsdk/vmm/output_file.h"
#include "hvsdk/vsp/network.h"

namespace hvsdk::vmm {
namespace {

constexpr uint32_t kMinMtu = 68, kMaxMtu = vsp::NetworkAdapter::kMaxMtuBytes;
constexpr uint32_t kMaxQueues = 64;
static_assert(kMaxNetworks == machine::kMaxNetworks);

absl::Status Invalid(absl::string_view key, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(key, ": ", why));
}

absl::Status CheckPath(absl::string_view key, const std::string& path) {
  return path.find('\0') == std::string::npos ? absl::OkStatus() : Invalid(key, "contains a zero byte");
}

absl::Status ValidateUser(const UserNetwork& user) {
  for (const std::string& text : user.hostfwd()) {
    const auto forward = network::ParseHostForward(text);
    if (!forward.ok()) return Invalid("hostfwd", forward.status().message());
  }
  if (!user.dns().empty()) {
    const auto address = network::ParseIp4(user.dns());
    if (!address.ok()) return Invalid("dns", address.status().message());
  }
  return absl::OkStatus();
}

// Ports outlive what makes them, and so does the time of those that need it.
const Clock& Now() {
  static const os::HostClock clock;
  return clock;
}

}  // namespace

absl::StatusOr<MacAddress> ParseMac(absl::string_view text) {
  MacAddress address{};
  bool good = text.size() == 17;
  for (size_t i = 0; good && i < address.size(); ++i) {
    const absl::string_view digits = text.substr(3 * i, 2);
    good = absl::ascii_isxdigit(digits[0]) && absl::ascii_isxdigit(digits[1]) && (i == 5 || text[3 * i + 2] == ':');
    if (good) address[i] = static_cast<uint8_t>(absl::HexStringToBytes(digits)[0]);
  }
  if (!good) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", absl::CEscape(text), "\" is not an address such as 02:15:5d:00:00:01"));
  }
  if ((address[0] & 1) != 0) return absl::InvalidArgumentError(absl::StrCat(text, " is a group's address"));
  if (address == MacAddress{}) return absl::InvalidArgumentError(absl::StrCat(text, " is nobody's address"));
  return address;
}

absl::Status ValidateNetwork(const NetworkConfig& network) {
  if (!network.mac().empty()) {
    const auto mac = ParseMac(network.mac());
    if (!mac.ok()) return Invalid("mac", mac.status().message());
  }
  const uint32_t min_mtu = network.has_user() ? network::kMinUserMtuBytes : kMinMtu;
  if (network.mtu() != 0 && (network.mtu() < min_mtu || network.mtu() > kMaxMtu)) {
    return Invalid("mtu", absl::StrCat(network.mtu(), " is not between ", min_mtu, " and ", kMaxMtu));
  }
  if (network.queues() > kMaxQueues) {
    return Invalid("queues", absl::StrCat(network.queues(), " is more than ", kMaxQueues));
  }
  RETURN_IF_ERROR(CheckPath("pcap", network.pcap()));
  switch (network.to_case()) {
    case NetworkConfig::kUser:
      return ValidateUser(network.user());
    case NetworkConfig::kTap:
      if (network.tap().device().empty() == network.tap().fd().empty()) {
        return absl::InvalidArgumentError("tap: either device=NAME or fd=N is needed");
      }
      return CheckPath("device", network.tap().device());
    case NetworkConfig::kSocket: {
      const SocketNetwork& socket = network.socket();
      if (socket.path().empty() != socket.has_fd()) {
        return absl::InvalidArgumentError("socket: either path=PATH or fd=N is needed");
      }
      RETURN_IF_ERROR(CheckPath("path", socket.path()));
      return CheckPath("local", socket.local());
    }
    case NetworkConfig::kSwitch:
      if (network.switch_().vlan() > 4094)
        return Invalid("vlan", absl::StrCat(network.switch_().vlan(), " is more than 4094"));
      return absl::OkStatus();
    case NetworkConfig::TO_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("none of user, tap, socket and switch");
}

absl::string_view PortKind(const NetworkConfig& network) {
  return network.GetDescriptor()->FindFieldByNumber(static_cast<int>(network.to_case()))->name();
}

void ChooseMacs(MachineConfig& config) {
  std::set<std::string> taken;
  for (const NetworkConfig& network : config.networks()) taken.insert(absl::AsciiStrToLower(network.mac()));
  uint64_t number = 0;
  for (NetworkConfig& network : *config.mutable_networks()) {
    const std::string text = network.SerializeAsString();
    for (uint64_t seed = number++; network.mac().empty(); seed += uint64_t{1} << 32) {
      const uint64_t hash = XXH3_64bits_withSeed(text.data(), text.size(), seed);
      const std::string mac = absl::StrFormat("02:15:5d:%02x:%02x:%02x", hash & 255, hash >> 8 & 255, hash >> 16 & 255);
      if (taken.insert(mac).second) network.set_mac(mac);
    }
  }
}

absl::StatusOr<std::unique_ptr<NetworkPort>> NetworkPorts::MakePort(const NetworkConfig& network) {
  const uint32_t mtu = network.mtu() != 0 ? network.mtu() : 1500;
  const auto queues = static_cast<uint16_t>(network.queues() != 0 ? network.queues() : 1);
  switch (network.to_case()) {
    case NetworkConfig::kUser: {
      network::UserPortOptions options;
      options.mtu_bytes = mtu;
      options.restricted = network.user().restrict();
      options.host_loopback = network.user().host_loopback();
      for (const std::string& text : network.user().hostfwd()) {
        ASSIGN_OR_RETURN(const network::HostForward forward, network::ParseHostForward(text));
        options.host_forwards.push_back(forward);
      }
      if (!network.user().dns().empty()) {
        ASSIGN_OR_RETURN(options.dns_address, network::ParseIp4(network.user().dns()));
      }
      return network::CreateUserPort(loop_, options);
    }
    case NetworkConfig::kTap: {
      network::TapPortOptions options;
      options.name = network.tap().device();
      for (const uint32_t fd : network.tap().fd()) options.descriptors.push_back(static_cast<int>(fd));
      options.queues = queues;
      options.mtu_bytes = network.mtu();
      return network::CreateTapPort(loop_, options);
    }
    case NetworkConfig::kSocket: {
      network::SocketPortOptions options;
      options.path = network.socket().path();
      options.listens = network.socket().listen();
      options.datagram_path = network.socket().local();
      if (network.socket().has_fd()) options.descriptor = static_cast<int>(network.socket().fd());
      options.mtu_bytes = mtu;
      return network::CreateSocketPort(loop_, options);
    }
    case NetworkConfig::kSwitch: {
      const auto lan = lans_.try_emplace(network.switch_().lan(), Now()).first;
      return lan->second.AddPort(
          {.mtu_bytes = mtu, .queues = queues, .access_vlan = static_cast<uint16_t>(network.switch_().vlan())});
    }
    case NetworkConfig::TO_NOT_SET:
      break;
  }
  return nullptr;
}

absl::StatusOr<machine::MachineNetwork> NetworkPorts::Make(const NetworkConfig& network) {
  machine::MachineNetwork made;
  ASSIGN_OR_RETURN(made.mac_address, ParseMac(network.mac()));
  made.name = network.name();
  made.queues = network.queues();
  if (network.has_number()) made.number = static_cast<uint8_t>(network.number());
  ASSIGN_OR_RETURN(std::unique_ptr<NetworkPort> port, MakePort(network));
  if (port == nullptr) return made;
  const auto captured = std::make_shared<network::CapturedPort>(std::move(port));
  if (!network.pcap().empty()) {
    OutputFile file;
    if (const absl::Status opened = file.Open(network.pcap()); !opened.ok()) {
      return absl::Status(opened.code(), absl::StrCat("pcap: ", network.pcap(), ": ", opened.message()));
    }
    file.Commit();
    RETURN_IF_ERROR(captured->Start(file.fd()));
  }
  captured_[made.mac_address] = captured;
  made.port = captured;
  return made;
}

std::shared_ptr<network::CapturedPort> NetworkPorts::Find(const NetworkConfig& network) const {
  const auto mac = ParseMac(network.mac());
  const auto found = mac.ok() ? captured_.find(*mac) : captured_.end();
  return found == captured_.end() ? nullptr : found->second.lock();
}

}  // namespace hvsdk::vmm
