// SPDX-License-Identifier: Apache-2.0
// What the synthetic keyboard and mouse take from the program that embeds them, and what they are.
//
//   const vsp::InputResources resources{.executor = loop, .timers = timers, .clock = clock};

#ifndef HVSDK_VSP_INPUT_H_
#define HVSDK_VSP_INPUT_H_

#include "hvsdk/base/clock.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/state/component.h"

namespace hvsdk::vsp {

// All outlive the components.
struct InputResources {
  Executor& executor;  // where they run
  TimerQueue& timers;
  const Clock& clock;  // the partition's reference time, which is the timers', too
};

// What both are. On the executor.
class InputComponent : public state::Component {
 public:
  // The guest does not run: nothing goes to it until Resume.
  virtual void Pause() = 0;
  virtual void Resume() = 0;
  // Lets go of every key, or button, that is held: behind what is on its way.
  virtual void ReleaseAll() = 0;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_VSP_INPUT_H_
