// SPDX-License-Identifier: Apache-2.0
// VMBus' server as guest and host call it, also from within its own calls.

#include <cstddef>
#include <cstdint>

#include "fuzz/vmbus_calls/calls_driver.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Every third byte is for what is done inside; both shrink and grow with the input.
  const size_t outside = size - size / 3;
  hvsdk::vmbus::CallsDriver::Script script(absl::MakeConstSpan(data, outside));
  hvsdk::vmbus::CallsDriver::Script inner(absl::MakeConstSpan(data + outside, size / 3));
  hvsdk::vmbus::CallsDriver driver(&inner);
  while (!script.is_over()) {
    if (script.Take() % 3 == 0) {
      driver.HostStep(script);
    } else {
      driver.GuestStep(script);
    }
  }
  driver.Finish();
  return 0;
}
