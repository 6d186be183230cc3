// SPDX-License-Identifier: Apache-2.0
// Op: an instruction after decoding, as handlers get it, and the modes that code is decoded for. code/decoded_block.h says
// what becomes of a row of them.
//
// Registers are named by their byte offset in Registers::r, which covers AH to BH and partial registers alike.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_OPERATION_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_OPERATION_H_

#include <cstdint>

namespace hvsdk::software {

struct Cpu;
struct Op;

using Handler = const Op* (*)(Cpu& c, const Op* op);

enum OpFlag : uint8_t {
  kOpLegacyAddress = 1,  // address size or segment needs the slow computation
  kOpStackSegment = 2,   // faults of the operand are #SS, not #GP
  kOpLock = 4,
  kOpRep = 8,     // F3
  kOpRepne = 16,  // F2
  kOpAddress32 = 32,
  kOpAddress16 = 64,
  kOpRipBias = 128,  // add kRipBias to disp, which did not fit
};

inline constexpr int kRipBias = 8192;

struct Op {
  Handler handler;
  uint64_t imm;  // immediate, or a branch's target relative to the block's first byte
  int32_t disp;  // displacement of the memory operand
  uint8_t a;     // destination register (offset in Cpu::r, or in Cpu::xmm)
  uint8_t b;     // source register
  uint8_t base;  // memory operand: base, index and segment base, all offsets in Cpu::r
  uint8_t index;
  uint8_t segment;
  uint8_t scale;   // shift of the index
  uint8_t flags;   // OpFlag
  uint8_t length;  // of the instruction in bytes
  uint16_t ip;     // the instruction's first byte relative to the block's
  uint8_t count;   // instructions of the block before this one
  uint8_t extra;   // the handler's own: a condition, a second immediate, an operand size
};
static_assert(sizeof(Op) == 32);

// What decides, beside its bytes, how code decodes.
enum ModeBits : uint32_t {
  kModeBits16 = 0,
  kModeBits32 = 1,
  kModeBits64 = 2,
  kModeBitsMask = 3,
  kModeStack32 = 1 << 2,
  kModeTaskSwitched = 1 << 3,  // CR0.TS
  kModeEmulate = 1 << 4,       // CR0.EM
  kModeNoSse = 1 << 5,         // CR4.OSFXSR is clear
  kModeNoXsave = 1 << 6,       // CR4.OSXSAVE is clear
  kModeUser = 1 << 7,          // CPL 3
  kModeCount = 1 << 8,
};
static_assert(kModeCount <= 1 << 16, "the upper half is the limit's epoch in Cpu::code_tag");

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_OPERATION_H_
