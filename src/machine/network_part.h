// SPDX-License-Identifier: Apache-2.0
// One network adapter of the machine's, on VMBus.

#ifndef HVSDK_SRC_MACHINE_NETWORK_PART_H_
#define HVSDK_SRC_MACHINE_NETWORK_PART_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/machine/part.h"
#include "hvsdk/vsp/network.h"

namespace hvsdk::machine {

class NetworkPart final : public Part {
 public:
  // The machine's adapter of that number.
  NetworkPart(MachineNetwork network, uint32_t number) : network_(std::move(network)), number_(number) {}

  MachineNetworkCounts counts() const { return {number_, adapter_->counts()}; }

  // Part
  absl::Status Attach(Board& board) override;
  std::vector<state::Component*> components() override { return {adapter_.get()}; }
  void Pause(absl::AnyInvocable<void()> done) override { adapter_->Pause(std::move(done)); }
  void Resume() override { adapter_->Resume(); }
  void Stop(absl::AnyInvocable<void()> done) override { adapter_->Stop(std::move(done)); }
  void Detach() override { adapter_.reset(); }

 private:
  MachineNetwork network_;
  const uint32_t number_;
  std::unique_ptr<vsp::NetworkAdapter> adapter_;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_SRC_MACHINE_NETWORK_PART_H_
