// SPDX-License-Identifier: Apache-2.0
// The x87 unit: 80-bit registers and every instruction of the opcodes D8 to DF.
//
// The host is an x86 processor, and its own unit is the one implementation whose 80-bit results, condition codes, stack
// faults and tags are right by definition. So a computing instruction is carried out there: the guest's state goes in,
// the very same instruction runs, and the state comes out. An unmasked exception cannot reach this process, for the
// host's unit reports it at its next instruction and is initialised before. That costs a few hundred cycles, which x87
// code of today (long double) can afford.
// Control instructions and the environment formats are plain code.
//
// Not kept apart: the 16-bit and the real-mode environment formats write linear addresses of zero.
// Source: Intel SDM volume 1, chapter 8; volume 2 for each instruction; volume 3, 2.5 for CR0.
//
// Thread class: none; each VP has a state of its own.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_X87_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_X87_H_

#include <cstdint>

namespace hvsdk::software {

struct X87State {
  uint16_t control = 0x037F;
  uint16_t status = 0;
  uint8_t valid = 0;  // FXSAVE's abridged tag word: bit i says that physical register i is not empty
  uint16_t last_opcode = 0;
  uint64_t last_ip = 0;
  uint64_t last_dp = 0;
  uint16_t last_cs = 0;
  uint16_t last_ds = 0;
  alignas(16) uint8_t st[8][16] = {};  // ST(0) to ST(7), ten bytes each, as FXSAVE has them

  uint32_t top() const { return status >> 11 & 7; }
  // What MMX calls MM`index`: the low 64 bits of physical register `index`.
  uint8_t* physical(uint32_t index) { return st[(index - top()) & 7]; }
  // Every MMX instruction but EMMS makes the whole stack valid and its top zero; a write also fills bits 79:64
  // with ones.
  void EnterMmx();
};

enum class X87Outcome : uint8_t {
  kDone,
  kPendingException,  // #MF before the instruction: an unmasked exception of an earlier one waits
  kUndefinedOpcode,   // #UD
};

// What an instruction does with its memory operand; `size_bytes` is 0 for a register form or an invalid one.
struct X87Memory {
  uint8_t size_bytes;
  bool store;
};
X87Memory X87MemoryOperand(uint8_t opcode, uint8_t modrm, bool operand_size_16);

// Whether the instruction is one of those that do not look for pending exceptions (FNINIT, FNSTCW and so on).
bool X87IsNoWait(uint8_t opcode, uint8_t modrm);

// Carries out `opcode` (D8 to DF) with `modrm`. `memory` holds the operand of a load, and receives that of a store if
// the outcome is kDone. `rflags` is read by FCMOVcc and written by FCOMI and its kin; `ax` is written by FNSTSW AX.
// last_ip, last_dp and last_opcode are the caller's to keep.
// Returns in `stored` whether memory was written (an unmasked exception suppresses a store).
X87Outcome ExecuteX87(X87State& state, uint8_t opcode, uint8_t modrm, bool operand_size_16, uint8_t* memory,
                      uint64_t& rflags, uint16_t& ax, bool& stored);

// Recomputes the summary and busy bits after the control or status word was replaced.
void X87UpdateSummary(X87State& state);

// WAIT/FWAIT: whether #MF must be raised.
inline bool X87ExceptionPending(const X87State& state) { return (state.status & 0x80) != 0; }

// The 16-bit tag word that FNSTENV stores: two bits a physical register.
uint16_t X87FullTag(const X87State& state);
void X87SetFullTag(X87State& state, uint16_t tag);

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_X87_H_
