// SPDX-License-Identifier: Apache-2.0
#include "networks.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "files.h"
#include "hvsdk/vmm/config.h"

namespace mini_vmm {

using hvsdk::vmm::MachineConfig;
using hvsdk::vmm::NetworkConfig;
using hvsdk::vmm::NetworkStatus;

std::vector<NetworkStatus> Networks::networks() const {
  std::vector<NetworkStatus> all;
  for (const NetworkConfig& config : config_.networks()) {
    NetworkStatus& network = all.emplace_back();
    network.set_number(config.number());
    network.set_name(config.name());
    network.set_mac(config.mac());
    network.set_port(std::string(hvsdk::vmm::PortKind(config)));
  }
  return all;
}

absl::StatusOr<uint8_t> Networks::Attach(const NetworkConfig& network) {
  MachineConfig with = config_;
  NetworkConfig& added = *with.add_networks() = network;
  added.clear_number();
  if (const absl::Status valid = hvsdk::vmm::ValidateMachineConfig(with); !valid.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--", valid.message()));
  }
  if (absl::Status roles = CheckRoles(config_path_, with); !roles.ok()) return roles;
  hvsdk::vmm::ChooseMacs(with);
  absl::StatusOr<hvsdk::machine::MachineNetwork> made = ports_.Make(added);
  if (!made.ok()) return FileError("--net", made.status());
  const absl::StatusOr<uint8_t> number = machine_.AttachNetwork(*std::move(made));
  if (!number.ok()) return absl::Status(number.status().code(), absl::StrCat("--net: ", number.status().message()));
  added.set_number(*number);
  config_.Swap(&with);
  return number;
}

absl::Status Networks::Detach(uint8_t number, absl::AnyInvocable<void()> gone) {
  return machine_.DetachNetwork(number, [this, number, gone = std::move(gone)]() mutable {
    auto& networks = *config_.mutable_networks();
    for (int i = 0; i < networks.size(); ++i) {
      if (networks[i].number() != number) continue;
      networks.DeleteSubrange(i, 1);
      break;
    }
    if (gone) gone();
  });
}

}  // namespace mini_vmm
