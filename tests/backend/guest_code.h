// SPDX-License-Identifier: Apache-2.0
// Tiny guests, written in assembly next to the test that runs them.
//
//   HVSDK_GUEST(AddOne, 64, "inc rax; out 0xF4, al");
//   machine.Load(kCodeGpa, AddOne());

#ifndef HVSDK_TESTS_BACKEND_GUEST_CODE_H_
#define HVSDK_TESTS_BACKEND_GUEST_CODE_H_

#include <cstdint>

#include "absl/types/span.h"

// Defines a function NAME() that returns the machine code of TEXT, in Intel syntax, for BITS = 16, 32 or 64. A label L
// of the text is at `L - guest_NAME_begin` from the place where the code is loaded; code that needs an absolute address
// writes `LOAD_GPA + L - guest_NAME_begin`.
#define HVSDK_GUEST(NAME, BITS, TEXT)                                                              \
  asm(".pushsection .rodata\n"                                                                     \
      ".balign 16\n"                                                                               \
      ".globl guest_" #NAME                                                                        \
      "_begin\n"                                                                                   \
      ".globl guest_" #NAME                                                                        \
      "_end\n"                                                                                     \
      "guest_" #NAME                                                                               \
      "_begin:\n"                                                                                  \
      ".code" #BITS                                                                                \
      "\n"                                                                                         \
      ".intel_syntax noprefix\n" TEXT                                                              \
      "\n.att_syntax prefix\n"                                                                     \
      ".code64\n"                                                                                  \
      "guest_" #NAME                                                                               \
      "_end:\n"                                                                                    \
      ".popsection\n");                                                                            \
  extern "C" const uint8_t guest_##NAME##_begin[], guest_##NAME##_end[];                           \
  inline absl::Span<const uint8_t> NAME() {                                                        \
    return {guest_##NAME##_begin, static_cast<size_t>(guest_##NAME##_end - guest_##NAME##_begin)}; \
  }

#endif  // HVSDK_TESTS_BACKEND_GUEST_CODE_H_
