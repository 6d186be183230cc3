// SPDX-License-Identifier: Apache-2.0
// The loop around blocks: attention, look-up, running, faults.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_RUN_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_RUN_H_

#include <cstdint>

#include "backend_software/processor/cpu.h"

namespace hvsdk::software {

enum class RunResult : uint8_t {
  kKicked,
  kTripleFault,
  kBudget,  // counting, and `instruction_limit` is reached
  kHalted,  // counting, and nothing to do until an interrupt arrives
};

// Runs the guest. Threaded, a halted VP sleeps inside; counting, it returns. VP thread only.
RunResult RunGuest(Cpu& c, uint64_t instruction_limit);

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_RUN_H_
