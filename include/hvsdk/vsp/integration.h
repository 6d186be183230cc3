// SPDX-License-Identifier: Apache-2.0
// What every integration component takes from the program that embeds it, and what it is.
//
//   const vsp::IntegrationResources resources{.executor = loop, .timers = timers, .clock = clock};

#ifndef HVSDK_VSP_INTEGRATION_H_
#define HVSDK_VSP_INTEGRATION_H_

#include "hvsdk/base/clock.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/state/component.h"

namespace hvsdk::vsp {

// All outlive the components.
struct IntegrationResources {
  Executor& executor;  // where they run
  TimerQueue& timers;
  const Clock& clock;  // the partition's reference time, which is the timers', too
};

// What all of them are. On the executor.
class IntegrationComponent : public state::Component {
 public:
  // The guest does not run: it is asked nothing until Resume.
  virtual void Pause() = 0;
  virtual void Resume() = 0;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_VSP_INTEGRATION_H_
