// SPDX-License-Identifier: Apache-2.0
#include "networks.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "files.h"
#include "hvsdk/vmm/config.h"
#include "hvsdk/vmm/output_file.h"

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
    if (const auto port = ports_.Find(config); port != nullptr) network.set_recorded(port->is_recorded());
  }
  return all;
}

absl::StatusOr<uint8_t> Networks::Attach(const NetworkConfig& network) {
  MachineConfig with = config_;
  NetworkConfig& added = *with.add_networks() = network;
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

absl::StatusOr<std::shared_ptr<hvsdk::network::CapturedPort>> Networks::PortOf(uint8_t number) const {
  for (const NetworkConfig& network : config_.networks()) {
    if (network.number() != number) continue;
    if (auto port = ports_.Find(network); port != nullptr) return port;
  }
  return absl::NotFoundError(absl::StrCat("trace: network/", number, " is plugged into nothing"));
}

absl::Status Networks::StartTrace(uint8_t number, const std::string& path) {
  const auto port = PortOf(number);
  if (!port.ok()) return port.status();
  if ((*port)->is_recorded()) {
    return absl::FailedPreconditionError(absl::StrCat("trace: network/", number, " is traced already"));
  }
  hvsdk::vmm::OutputFile file;
  if (absl::Status opened = OpenTrace(config_path_, config_, path, file); !opened.ok()) return opened;
  file.Commit();
  return FileError("trace", (*port)->Start(file.fd()));
}

absl::Status Networks::StopTrace(uint8_t number) {
  const auto port = PortOf(number);
  return port.ok() ? FileError("trace", (*port)->Stop()) : port.status();
}

}  // namespace mini_vmm
