// SPDX-License-Identifier: Apache-2.0
// A guest kernel that asks everything of the hypervisor that hvsdk has to answer, reports it on the serial port and
// powers off. If its command line says "peer", it talks with another of its kind instead.

#include "console.h"
#include "cpu.h"
#include "tests.h"

extern "C" {

using Constructor = void (*)();
extern const Constructor init_array_begin[], init_array_end[];

void KernelMain() {
  for (const Constructor* constructor = init_array_begin; constructor != init_array_end; ++constructor)
    (*constructor)();
  Print("TAP version 13\n");
  StartInterrupts();
  if (CommandLineHas("peer")) {
    TestPeer();
    Finish();
    PowerOff();
  }
  TestCpuid();
  TestMsrs();
  TestApic();
  TestHypercalls();
  TestOverlays();
  TestSynic();
  TestTimers();
  TestClocks();
  TestVmbusVersions();
  TestDisk();
  TestNetwork();
  TestHypercallLock();
  if (CommandLineHas("screen")) TestScreen();
  Finish();
  PowerOff();
}

}  // extern "C"
