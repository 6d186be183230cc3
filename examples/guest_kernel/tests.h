// SPDX-License-Identifier: Apache-2.0
// The parts of the report, in their order. Each assumes what those before it have set up.

#ifndef HVSDK_EXAMPLES_GUEST_KERNEL_TESTS_H_
#define HVSDK_EXAMPLES_GUEST_KERNEL_TESTS_H_

void TestCpuid();
void TestMsrs();  // before anything is enabled; leaves the hypercall page in place
void TestApic();
void TestHypercalls();
void TestOverlays();  // leaves the SynIC started
void TestSynic();
void TestTimers();
void TestClocks();
void TestVmbusVersions();
void TestDisk();
void TestNetwork();
void TestHypercallLock();
void TestScreen();  // if the command line says "screen"

void TestPeer();  // in place of them all

#endif  // HVSDK_EXAMPLES_GUEST_KERNEL_TESTS_H_
