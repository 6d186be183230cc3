// SPDX-License-Identifier: Apache-2.0
// The machine's keyboard and mouse.

#ifndef HVSDK_SRC_MACHINE_INPUT_PART_H_
#define HVSDK_SRC_MACHINE_INPUT_PART_H_

#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "hvsdk/machine/input.h"
#include "hvsdk/machine/part.h"
#include "hvsdk/vsp/input.h"

namespace hvsdk::machine {

class InputPart final : public Part {
 public:
  explicit InputPart(const MachineInput& wanted) : wanted_(wanted) {}

  const InputComponents& found() const { return found_; }

  // Part
  absl::Status Attach(Board& board) override;
  std::vector<state::Component*> components() override;
  // Whoever held a key when a state was saved is not here; one that goes on after a pause is still held.
  void Start() override;
  void Pause(absl::AnyInvocable<void()> done) override;
  void Resume() override;
  void Stop(absl::AnyInvocable<void()> done) override { Pause(std::move(done)); }
  void Detach() override;

 private:
  const MachineInput wanted_;
  InputComponents found_;
  std::vector<std::unique_ptr<vsp::InputComponent>> present_;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_SRC_MACHINE_INPUT_PART_H_
