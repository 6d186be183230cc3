// SPDX-License-Identifier: Apache-2.0
#include "fuzz/hypercall/drive_guest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hvsdk::fake::FakeMachine machine;
  machine.backend.StopRecording();
  hvsdk::fuzz::GuestDriver(machine).Drive({data, size});
  return 0;
}
