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

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_X87_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_X87_H_

#include <cstdint>

namespace hvsdk::software {

// The host's control word while guest code runs, that which FNINIT sets: round to nearest, 64 bits, exceptions masked.
inline constexpr uint16_t kX87HostControl = 0x037F;

struct X87State {
  uint16_t control = 0x037F;
  uint16_t status = 0;
  uint8_t valid = 0;  // FXSAVE's abridged tag word: bit i says that physical register i is not empty
  // The last instruction that was not a control one: its opcode, the offset of its first byte, prefixes included, and the
  // offset of its memory operand, each with the selector it is relative to. CPUID says that they are kept for every
  // instruction, selectors and all (leaf 7, EBX bits 6 and 13 are clear).
  uint16_t last_opcode = 0;
  uint64_t last_ip = 0;
  uint64_t last_dp = 0;
  uint16_t last_cs = 0;
  uint16_t last_ds = 0;
  // The registers as they are numbered apart from the stack, ten bytes each. MM`i` is the low 64 bits of physical[i].
  alignas(16) uint8_t physical[8][16] = {};

  uint32_t top() const { return status >> 11 & 7; }
  uint8_t* st(uint32_t index) { return physical[(top() + index) & 7]; }
  const uint8_t* st(uint32_t index) const { return physical[(top() + index) & 7]; }
  // As FLDCW does: reserved bits keep their value.
  void SetControl(uint16_t value) { control = static_cast<uint16_t>((value & 0x1F7F) | 0x40); }
  void SetTop(uint32_t top) { status = static_cast<uint16_t>((status & ~(7 << 11)) | (top & 7) << 11); }
  // All of them, ST(0) first and 16 bytes each, as FXSAVE has them.
  void CopyStackTo(uint8_t (&to)[8][16]) const;
  void CopyStackFrom(const uint8_t (&from)[8][16]);
  // Every MMX instruction but EMMS makes the whole stack valid and its top zero; a write also fills bits 79:64
  // with ones.
  void EnterMmx();
};

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

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_X87_H_
