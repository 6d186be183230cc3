// SPDX-License-Identifier: Apache-2.0
// Random programs that write their own code, made so that they end whatever they turn themselves into.
//
// All frames have one layout of slots, places with an instruction of a given length and kind, and every instruction is
// drawn for its slot; so any frame makes sense at any page of the window. What a store may change of a slot keeps its
// kind: an immediate operand, a branch's target, a one-byte instruction. Branches go forward, but for loops that count
// ECX down to zero, which nothing else writes. The first bytes of a frame are one-byte instructions, so that they may
// be the end of an instruction in the frame before, which may begin at any of its last bytes.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_CODE_ORACLE_PROGRAM_GENERATOR_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_CODE_ORACLE_PROGRAM_GENERATOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tests/backend_software/code_oracle/world.h"
#include "tests/backend_software/oracle/random.h"

namespace hvsdk::code_oracle {

class ProgramGenerator {
 public:
  explicit ProgramGenerator(uint64_t seed) : random_(seed) {}

  void Next(Program& program);

 private:
  enum Kind : uint8_t {
    kOneByte,
    kRegisters2,   // an operation of two registers
    kImmediate5,   // MOV r32, imm32; ADD EAX, imm32
    kImmediate6,   // an operation of a register and imm32
    kStoreByte,    // MOV byte [EDI + disp32], imm8
    kStoreDword,   // MOV dword [EDI + disp32], imm32
    kModify,       // an operation or exchange of [EDI + disp32] and a register
    kLocked,       // the same under LOCK, and XADD, CMPXCHG
    kStoreVector,  // MOVD through XMM0
    kJump,
    kJumpIf,
    kLoop,     // DEC ECX; JG back
    kJumpFar,  // JMP rel32 over the middle of the frame
    kUndefined,
    kKinds
  };
  struct Slot {
    uint32_t at;
    Kind kind;
  };

  void MakeLayout();
  void AddSlots(uint32_t begin, uint32_t end);
  void Fill(const Slot& slot, Frame& frame);
  void FillEnd(Frame& frame);
  uint8_t OneByte();
  uint8_t PlainRegister();
  // What a store may put where: an offset in the window, and the bytes.
  Patch StoreTarget(uint32_t near, int size);
  bool PatchOf(const Slot& slot, int size, Patch& patch);
  uint32_t ImmediateIn(uint32_t near, int size);
  uint8_t Displacement(uint32_t from, bool back);
  void MakeStep(Step& step);

  oracle::Random random_;
  std::vector<Slot> slots_;
  const Program* program_ = nullptr;
  std::array<Mapping, kSpaces> spaces_{};
  int space_ = -1;
};

}  // namespace hvsdk::code_oracle

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_CODE_ORACLE_PROGRAM_GENERATOR_H_
