// SPDX-License-Identifier: Apache-2.0
#include "machine/integration_part.h"

#include "base/status_macros.h"

namespace hvsdk::machine {

absl::Status IntegrationPart::Attach(Board& board) {
  const vsp::IntegrationResources resources{.executor = board.loop(), .timers = board.timers(), .clock = board.clock()};
  if (wanted_.shutdown) {
    ASSIGN_OR_RETURN(shutdown_, vsp::Shutdown::Create(board.vmbus(), resources));
  }
  // What asks by itself, asks anew after each pause; and a deterministic machine must not notice one.
  if (board.is_deterministic()) return absl::OkStatus();
  if (wanted_.heartbeat) {
    ASSIGN_OR_RETURN(heartbeat_, vsp::Heartbeat::Create(board.vmbus(), resources, {.on_change = on_contact_}));
  }
  if (wanted_.time_sync) {
    ASSIGN_OR_RETURN(time_sync_, vsp::TimeSync::Create(board.vmbus(), resources, board.wall_clock(),
                                                       {.samples_only = wanted_.time_samples_only}));
  }
  return absl::OkStatus();
}

std::vector<vsp::IntegrationComponent*> IntegrationPart::present() const {
  std::vector<vsp::IntegrationComponent*> all{shutdown_.get(), heartbeat_.get(), time_sync_.get()};
  std::erase(all, nullptr);
  return all;
}

std::vector<state::Component*> IntegrationPart::components() {
  const std::vector<vsp::IntegrationComponent*> all = present();
  return {all.begin(), all.end()};
}

void IntegrationPart::Pause(absl::AnyInvocable<void()> done) {
  for (vsp::IntegrationComponent* const component : present()) component->Pause();
  done();
}

void IntegrationPart::Resume() {
  for (vsp::IntegrationComponent* const component : present()) component->Resume();
}

void IntegrationPart::Detach() {
  shutdown_.reset();
  heartbeat_.reset();
  time_sync_.reset();
}

}  // namespace hvsdk::machine
