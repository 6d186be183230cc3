// SPDX-License-Identifier: Apache-2.0
// The x87 unit: 80-bit registers and every instruction of the opcodes D8 to DF.
//
// The host is an x86 processor, and its own unit is the one implementation whose 80-bit results, condition codes, stack
// faults and tags are right by definition. So a computing instruction is carried out there, in one of two ways.
// The usual one (x87_compute.h): the operands are loaded, the operation runs with every exception masked, and the result
// is stored; registers and tags are the guest's, in memory.
// ExecuteX87 takes what does not go that way, above all unmasked exceptions and stack faults: the guest's whole state
// goes in, the very same instruction runs, and the state comes out, at a few hundred cycles. An unmasked exception cannot
// reach this process, for the host's unit reports it at its next instruction and is initialised before.
// Control instructions and the environment formats are plain code.
//
// Source: Intel SDM volume 1, chapter 8; volume 2 for each instruction; volume 3, 2.5 for CR0.
//
// Thread class: none; each VP has a state of its own.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_VECTOR_X87_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_VECTOR_X87_H_

#include <cstdint>

#include "backend_software/processor/x87_state.h"

namespace hvsdk::software {

enum class X87Outcome : uint8_t {
  kDone,
  kPendingException,  // #MF before the instruction: an unmasked exception of an earlier one waits
  kUndefinedOpcode,   // #UD
};

// The form of the environment that FNSTENV, FNSAVE, FLDENV and FRSTOR have in memory (SDM volume 1, figures 8-9 to 8-12): by
// the operand size, and whether selectors mean anything. Real stands for virtual-8086 mode too.
enum class X87Image : uint8_t { kProtected32, kProtected16, kReal32, kReal16 };
inline bool IsNarrow(X87Image image) { return image == X87Image::kProtected16 || image == X87Image::kReal16; }

// What an instruction does with its memory operand; `size_bytes` is 0 for a register form or an invalid one.
struct X87Memory {
  uint8_t size_bytes;
  bool store;
};
X87Memory X87MemoryOperand(uint8_t opcode, uint8_t modrm, X87Image image);

// Whether the instruction is one of those that do not look for pending exceptions (FNINIT, FNSTCW and so on).
bool X87IsNoWait(uint8_t opcode, uint8_t modrm);

// Carries out `opcode` (D8 to DF) with `modrm`. `memory` holds the operand of a load, and receives that of a store if
// the outcome is kDone. `rflags` is read by FCMOVcc and written by FCOMI and its kin; `ax` is written by FNSTSW AX.
// last_ip, last_dp and last_opcode are the caller's to keep.
// Returns in `stored` whether memory was written (an unmasked exception suppresses a store).
X87Outcome ExecuteX87(X87State& state, uint8_t opcode, uint8_t modrm, X87Image image, uint8_t* memory, uint64_t& rflags,
                      uint16_t& ax, bool& stored);

// Which condition codes an instruction leaves as they were: bits of the status word. The manuals leave that open for
// those that are not its result, so the host's processor is asked.
uint16_t X87KeptConditionCodes(uint8_t opcode, uint8_t modrm);

// Recomputes the summary and busy bits after the control or status word was replaced.
void X87UpdateSummary(X87State& state);

// WAIT/FWAIT: whether #MF must be raised.
inline bool X87ExceptionPending(const X87State& state) { return (state.status & 0x80) != 0; }

// The 16-bit tag word that FNSTENV stores: two bits a physical register.
uint16_t X87FullTag(const X87State& state);
void X87SetFullTag(X87State& state, uint16_t tag);

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_VECTOR_X87_H_
