// SPDX-License-Identifier: Apache-2.0
// A PC's ports and interrupt controllers: a guest that reads and writes their registers at random, and a host beside it.

#include <cstddef>
#include <cstdint>

#include "fuzz/chipset/chipset_driver.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hvsdk::chipset::ChipsetDriver().Drive(absl::MakeConstSpan(data, size));
  return 0;
}
