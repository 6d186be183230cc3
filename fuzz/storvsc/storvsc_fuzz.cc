// SPDX-License-Identifier: Apache-2.0
// The storage client: any packets and control words from the provider, at any time.

#include <cstddef>
#include <cstdint>

#include "fuzz/storvsc/storvsc_harness.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hvsdk::vsc::StorvscHarness(absl::MakeConstSpan(data, size)).Run();
  return 0;
}
