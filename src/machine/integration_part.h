// SPDX-License-Identifier: Apache-2.0
// The machine's integration components.

#ifndef HVSDK_SRC_MACHINE_INTEGRATION_PART_H_
#define HVSDK_SRC_MACHINE_INTEGRATION_PART_H_

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "hvsdk/machine/integration.h"
#include "hvsdk/machine/part.h"
#include "hvsdk/vsp/integration.h"

namespace hvsdk::machine {

class IntegrationPart final : public Part {
 public:
  IntegrationPart(const MachineIntegration& wanted, std::function<void(vsp::GuestContact)> on_contact)
      : wanted_(wanted), on_contact_(std::move(on_contact)) {}

  const IntegrationComponents& found() const { return found_; }

  // Part
  absl::Status Attach(Board& board) override;
  std::vector<state::Component*> components() override;
  // One that goes on from a saved state is set right as after a pause.
  void Start() override { Resume(); }
  void Pause(absl::AnyInvocable<void()> done) override;
  void Resume() override;
  void Stop(absl::AnyInvocable<void()> done) override { Pause(std::move(done)); }
  void Detach() override;

 private:
  const MachineIntegration wanted_;
  const std::function<void(vsp::GuestContact)> on_contact_;
  IntegrationComponents found_;
  std::vector<std::unique_ptr<vsp::IntegrationComponent>> present_;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_SRC_MACHINE_INTEGRATION_PART_H_
