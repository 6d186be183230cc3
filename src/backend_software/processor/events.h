// SPDX-License-Identifier: Apache-2.0
// Events: what is to happen to a processor before its next instruction, and what keeps it from happening yet.
//
// Intel SDM volume 3, chapter 6.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_EVENTS_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_EVENTS_H_

#include <cstdint>

#include "backend/machine_check.h"
#include "base/wait_word.h"

namespace hvsdk::software {

enum Vector : uint8_t {
  kDivideError = 0,
  kDebug = 1,
  kNmi = 2,
  kBreakpoint = 3,
  kOverflow = 4,
  kBoundRange = 5,
  kInvalidOpcode = 6,
  kDeviceNotAvailable = 7,
  kDoubleFault = 8,
  kInvalidTss = 10,
  kSegmentNotPresent = 11,
  kStackFault = 12,
  kGeneralProtection = 13,
  kPageFault = 14,
  kX87Error = 16,
  kAlignmentCheck = 17,
  kMachineCheck = 18,
  kSimdError = 19,
  kVectorMask = 0xFF,
};

// Reasons to leave the fast path at the end of a block (Cpu::attention).
inline constexpr uint32_t kAttentionKick = 1;
inline constexpr uint32_t kAttentionInterrupt = 2;  // the local APIC may have something, or an exception was injected
inline constexpr uint32_t kAttentionRequest = 4;    // another thread changed what this VP cached (Cpu::requests)
inline constexpr uint32_t kAttentionStep = 8;       // TF, breakpoints, an interrupt shadow: one instruction at a time
inline constexpr uint32_t kAttentionCount = 16;     // instructions are counted
inline constexpr uint32_t kAttentionHalt = 32;
inline constexpr uint32_t kAttentionTripleFault = 64;

struct Fault {
  uint8_t vector;
  bool has_error;
  uint32_t error;
};

// Why an instruction was left by longjmp.
enum Unwind : int {
  kUnwindFault = 1,     // Events::fault
  kUnwindRedirect = 2,  // an exit changed RIP or the mode: go on with those
};

struct Events {
  WaitWord attention;  // shared; a halted VP sleeps on it

  uint8_t halted = 0;  // backend::Activity
  bool idle = false;   // halted such that an interrupt wakes even with RFLAGS.IF clear
  bool interrupt_shadow = false;
  bool stack_shadow = false;  // the interrupt shadow is that of a new stack segment: debug events wait too
  bool nmi_blocked = false;
  bool nmi_pending = false;

  bool exception_pending = false;
  Fault injected = {};
  uint8_t injected_type = 3;    // as in HV_X64_PENDING_INTERRUPTION_REGISTER
  uint8_t injected_length = 0;  // of the instruction, for software interrupts

  backend::LossQueue losses;  // shared; of memory, that the guest is to be told of

  Fault fault = {};            // of the instruction that was left
  int delivering = -1;         // the vector under delivery
  uint64_t pending_debug = 0;  // DR6 bits found by data and port breakpoints of the current instruction
  bool stepping = false;       // the block under way is one instruction
  bool limited = false;        // because no more may be executed, and not for a trap
  bool trap_after = false;     // TF was set when the instruction under way began
};

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_EVENTS_H_
