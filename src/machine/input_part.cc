// SPDX-License-Identifier: Apache-2.0
#include "machine/input_part.h"

#include "base/status_macros.h"

namespace hvsdk::machine {

absl::Status InputPart::Attach(Board& board) {
  if (board.is_deterministic()) return absl::UnimplementedError("a deterministic machine has no keyboard and no mouse");
  const vsp::InputResources resources{.executor = board.loop(), .timers = board.timers(), .clock = board.clock()};
  if (wanted_.keyboard) {
    ASSIGN_OR_RETURN(auto keyboard, vsp::Keyboard::Create(board.vmbus(), resources));
    found_.keyboard = keyboard.get();
    present_.push_back(std::move(keyboard));
  }
  if (wanted_.mouse) {
    ASSIGN_OR_RETURN(auto mouse, vsp::Mouse::Create(board.vmbus(), resources));
    found_.mouse = mouse.get();
    present_.push_back(std::move(mouse));
  }
  return absl::OkStatus();
}

std::vector<state::Component*> InputPart::components() {
  std::vector<state::Component*> all;
  for (const auto& component : present_) all.push_back(component.get());
  return all;
}

void InputPart::Start() {
  for (const auto& component : present_) component->ReleaseAll();
  Resume();
}

void InputPart::Pause(absl::AnyInvocable<void()> done) {
  for (const auto& component : present_) component->Pause();
  done();
}

void InputPart::Resume() {
  for (const auto& component : present_) component->Resume();
}

void InputPart::Detach() {
  found_ = {};
  present_.clear();
}

}  // namespace hvsdk::machine
