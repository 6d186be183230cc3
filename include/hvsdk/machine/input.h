// SPDX-License-Identifier: Apache-2.0
// The keyboard and the mouse of a machine: which there are, and how one gets at them.
//
//   InputSource viewer(machine->input().keyboard, machine->input().mouse);  // either may be null

#ifndef HVSDK_MACHINE_INPUT_H_
#define HVSDK_MACHINE_INPUT_H_

#include "hvsdk/vsp/keyboard.h"
#include "hvsdk/vsp/mouse.h"

namespace hvsdk::machine {

// Which the guest finds. A deterministic machine has none.
struct MachineInput {
  bool keyboard = false;
  bool mouse = false;
};

// Those that the machine has, for as long as it lives. Null: it has none. On the loop's thread.
struct InputComponents {
  vsp::Keyboard* keyboard = nullptr;
  vsp::Mouse* mouse = nullptr;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_INPUT_H_
