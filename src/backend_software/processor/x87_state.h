// SPDX-License-Identifier: Apache-2.0
// The x87 unit's registers, which MMX shares. vector/x87.h is what is done with them.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_X87_STATE_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_X87_STATE_H_

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

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_X87_STATE_H_
