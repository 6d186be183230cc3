// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>

#include "fuzz/video/video_harness.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static hvsdk::vsp::VideoHarness harness;
  harness.Play(data, size);
  return 0;
}
