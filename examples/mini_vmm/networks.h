// SPDX-License-Identifier: Apache-2.0
// The running machine's network adapters, as its user has attached them: by flags, and by mini_vmm ctl.

#ifndef HVSDK_EXAMPLES_MINI_VMM_NETWORKS_H_
#define HVSDK_EXAMPLES_MINI_VMM_NETWORKS_H_

#include <memory>
#include <string>
#include <vector>

#include "hvsdk/machine/machine.h"
#include "hvsdk/vmm/machine_control.h"
#include "hvsdk/vmm/networks.h"

namespace mini_vmm {

class Networks final : public hvsdk::vmm::NetworkOwner {
 public:
  // `config` is the machine's, and follows what is attached. All outlive this.
  Networks(const std::string& config_path, hvsdk::vmm::MachineConfig& config, hvsdk::vmm::NetworkPorts& ports,
           hvsdk::machine::Machine& machine)
      : config_path_(config_path), config_(config), ports_(ports), machine_(machine) {}

  std::vector<hvsdk::vmm::NetworkStatus> networks() const override;
  absl::StatusOr<uint8_t> Attach(const hvsdk::vmm::NetworkConfig& network) override;
  absl::Status Detach(uint8_t number, absl::AnyInvocable<void()> gone) override;
  absl::Status StartTrace(uint8_t number, const std::string& path) override;
  absl::Status StopTrace(uint8_t number) override;

 private:
  absl::StatusOr<std::shared_ptr<hvsdk::network::CapturedPort>> PortOf(uint8_t number) const;

  const std::string& config_path_;
  hvsdk::vmm::MachineConfig& config_;
  hvsdk::vmm::NetworkPorts& ports_;
  hvsdk::machine::Machine& machine_;
};

}  // namespace mini_vmm

#endif  // HVSDK_EXAMPLES_MINI_VMM_NETWORKS_H_
