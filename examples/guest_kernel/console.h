// SPDX-License-Identifier: Apache-2.0
// The report: text on the first serial port, in the Test Anything Protocol.
//
//   Check(status == HvStatus::kSuccess, "HvCallPostMessage: a message to the root");

#ifndef HVSDK_EXAMPLES_GUEST_KERNEL_CONSOLE_H_
#define HVSDK_EXAMPLES_GUEST_KERNEL_CONSOLE_H_

#include <cstdint>

void Print(const char* text);
void PrintNumber(uint64_t value);
void PrintHex(uint64_t value);

// One line of the report. The text depends on the test alone, so that the reports of all machines are the same.
bool Check(bool ok, const char* what);
// The same for one of several: "what 3".
bool Check(bool ok, const char* what, uint64_t number);
// Two values that should be equal; if not, both are shown.
template <typename T>
bool CheckEqual(T actual, T expected, const char* what);

// Ends the report. False: something failed.
bool Finish();

namespace internal {
bool CheckValue(uint64_t actual, uint64_t expected, const char* what);
}

template <typename T>
bool CheckEqual(T actual, T expected, const char* what) {
  return internal::CheckValue(static_cast<uint64_t>(actual), static_cast<uint64_t>(expected), what);
}

#endif  // HVSDK_EXAMPLES_GUEST_KERNEL_CONSOLE_H_
