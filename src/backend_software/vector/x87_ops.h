// SPDX-License-Identifier: Apache-2.0
// What the two ways of an x87 instruction share (x87.h): the operation's immediate, the pointers to the last instruction,
// and how the one goes on as the other.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_VECTOR_X87_OPS_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_VECTOR_X87_OPS_H_

#include <cstdint>

#include "backend_software/code/decoded_block.h"
#include "backend_software/processor/cpu.h"

namespace hvsdk::software {

// Op::imm: opcode, ModRM, whether the operand size is 16 bits, the memory operand's size, direction and segment, and for
// handlers of the short way the bits of the host's status word that become the guest's (x87::Run).
struct X87Form {
  uint8_t opcode;
  uint8_t modrm;
  bool narrow;
  uint8_t bytes;
  bool store;
  uint8_t segment;
  uint16_t taken;

  uint64_t Pack() const {
    return opcode | uint64_t{modrm} << 8 | uint64_t{narrow} << 16 | uint64_t{bytes} << 24 | uint64_t{store} << 32 |
           uint64_t{segment} << 40 | uint64_t{taken} << 48;
  }
  static X87Form Unpack(uint64_t imm) {
    return {static_cast<uint8_t>(imm),       static_cast<uint8_t>(imm >> 8), (imm >> 16 & 1) != 0,
            static_cast<uint8_t>(imm >> 24), (imm >> 32 & 1) != 0,           static_cast<uint8_t>(imm >> 40 & 7),
            static_cast<uint16_t>(imm >> 48)};
  }
};

// The pointers to the last instruction that computed, and to its memory operand.
inline void RememberX87Instruction(Cpu& c, const Op* op) {
  const X87Form form = X87Form::Unpack(op->imm);
  c.x87.last_opcode = static_cast<uint16_t>((form.opcode & 7) << 8 | form.modrm);
  c.x87.last_ip = c.r[kIp] + op->ip;
  c.x87.last_cs = c.segment[kCs].selector;
}
inline void RememberX87Operand(Cpu& c, const Op* op, uint64_t linear) {
  const uint64_t offset = linear - c.Get<uint64_t>(op->segment);
  c.x87.last_dp = op->flags & kOpLegacyAddress ? static_cast<uint32_t>(offset) : offset;
  c.x87.last_ds = c.segment[X87Form::Unpack(op->imm).segment].selector;
}

// The handler for every instruction in every state (x87_ops.cc).
const Op* X87LongWay(Cpu& c, const Op* op);

// The tags that a handler of the short way asks for: these registers full, or ST(7), which a push makes ST(0), empty.
struct X87Tags {
  uint8_t mask = 0, value = 0;
};
struct X87Short {
  X87Tags tags;
  Handler handler = nullptr;  // none: the long way alone
};
X87Short PickX87Short(uint8_t opcode, uint8_t modrm);  // x87_short.cc

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_VECTOR_X87_OPS_H_
