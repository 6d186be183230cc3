// SPDX-License-Identifier: Apache-2.0
#include "machine/integration_part.h"

#include <utility>

#include "base/status_macros.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/vsp/time_sync.h"

namespace hvsdk::machine {

absl::Status IntegrationPart::Attach(Board& board) {
  const vsp::IntegrationResources resources{.executor = board.loop(), .timers = board.timers(), .clock = board.clock()};
  const auto keep = [this](auto component) {
    auto* const kept = component.get();
    present_.push_back(std::move(component));
    return kept;
  };
  if (wanted_.shutdown) {
    ASSIGN_OR_RETURN(auto shutdown, vsp::Shutdown::Create(board.vmbus(), resources));
    found_.shutdown = keep(std::move(shutdown));
  }
  // What asks by itself, asks anew after each pause; and a deterministic machine must not notice one.
  if (board.is_deterministic()) return absl::OkStatus();
  if (wanted_.heartbeat) {
    ASSIGN_OR_RETURN(auto heartbeat, vsp::Heartbeat::Create(board.vmbus(), resources, {.on_change = on_contact_}));
    found_.heartbeat = keep(std::move(heartbeat));
  }
  if (wanted_.time_sync) {
    ASSIGN_OR_RETURN(auto time_sync, vsp::TimeSync::Create(board.vmbus(), resources, board.wall_clock(),
                                                           {.samples_only = wanted_.time_samples_only}));
    keep(std::move(time_sync));
  }
  if (wanted_.balloon) {
    const boot::GpaRange &video = board.layout().video, &growth = board.layout().growth;
    vsp::BalloonOptions options{
        .min_pages = wanted_.balloon_min_bytes >> kPageShift,
        .device_gpa = video.gpa,
        .device_bytes = video.size_bytes,
        .growth = {.first_page = growth.gpa >> kPageShift, .pages = growth.size_bytes >> kPageShift},
        .budget = wanted_.memory_budget};
    options.growth.grow = [&board](uint64_t pages) { return board.GrowMemory(pages << kPageShift); };
    ASSIGN_OR_RETURN(auto balloon, vsp::Balloon::Create(board.vmbus(), board.memory(), resources, std::move(options)));
    found_.balloon = keep(std::move(balloon));
  }
  if (wanted_.key_value) {
    ASSIGN_OR_RETURN(auto key_value, vsp::KeyValueExchange::Create(board.vmbus(), resources, {}));
    found_.key_value = keep(std::move(key_value));
  }
  if (wanted_.file_copy) {
    ASSIGN_OR_RETURN(auto file_copy, vsp::GuestFileCopy::Create(board.vmbus(), resources, {}));
    found_.file_copy = keep(std::move(file_copy));
  }
  if (wanted_.backup) {
    ASSIGN_OR_RETURN(auto backup, vsp::Backup::Create(board.vmbus(), resources, {}));
    found_.backup = keep(std::move(backup));
  }
  return absl::OkStatus();
}

std::vector<state::Component*> IntegrationPart::components() {
  std::vector<state::Component*> all;
  for (const auto& component : present_) all.push_back(component.get());
  return all;
}

void IntegrationPart::Pause(absl::AnyInvocable<void()> done) {
  for (const auto& component : present_) component->Pause();
  done();
}

void IntegrationPart::Resume() {
  for (const auto& component : present_) component->Resume();
}

void IntegrationPart::Detach() {
  found_ = {};
  present_.clear();
}

}  // namespace hvsdk::machine
