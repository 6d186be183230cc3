// SPDX-License-Identifier: Apache-2.0
// What every integration component takes from the program that embeds it. Plain data.
//
//   const vsp::IntegrationResources resources{.executor = loop, .timers = timers, .clock = clock};

#ifndef HVSDK_VSP_INTEGRATION_H_
#define HVSDK_VSP_INTEGRATION_H_

#include "hvsdk/base/clock.h"
#include "hvsdk/base/executor.h"

namespace hvsdk::vsp {

// All outlive the components.
struct IntegrationResources {
  Executor& executor;  // where they run
  TimerQueue& timers;
  const Clock& clock;  // the partition's reference time, which is the timers', too
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_VSP_INTEGRATION_H_
