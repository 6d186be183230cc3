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

std::vector<state::Component*> IntegrationPart::components() {
  std::vector<state::Component*> all;
  if (shutdown_ != nullptr) all.push_back(shutdown_.get());
  if (heartbeat_ != nullptr) all.push_back(heartbeat_.get());
  if (time_sync_ != nullptr) all.push_back(time_sync_.get());
  return all;
}

void IntegrationPart::Pause(absl::AnyInvocable<void()> done) {
  if (shutdown_ != nullptr) shutdown_->Pause();
  if (heartbeat_ != nullptr) heartbeat_->Pause();
  if (time_sync_ != nullptr) time_sync_->Pause();
  done();
}

void IntegrationPart::Resume() {
  if (shutdown_ != nullptr) shutdown_->Resume();
  if (heartbeat_ != nullptr) heartbeat_->Resume();
  if (time_sync_ != nullptr) time_sync_->Resume();
}

void IntegrationPart::Detach() {
  shutdown_.reset();
  heartbeat_.reset();
  time_sync_.reset();
}

}  // namespace hvsdk::machine
