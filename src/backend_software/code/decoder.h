// SPDX-License-Identifier: Apache-2.0
// From bytes to Ops: Zydis decodes, then a translator per mnemonic picks the handler and extracts its operands.
//
// Each group of instructions (a file) registers its translators in a table indexed by mnemonic. A mnemonic without
// one is an undefined opcode, so what is not registered does not exist.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_CODE_DECODER_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_CODE_DECODER_H_

#include <Zydis/Zydis.h>

#include <cstdint>

#include "absl/types/span.h"
#include "backend_software/code/decoded_block.h"
#include "backend_software/code/jump.h"
#include "backend_software/processor/cpu.h"

namespace hvsdk::software {

// An instruction under translation.
// What an instruction does to the arithmetic flags, as far as it matters for leaving out what nobody can see.
enum class FlagEffect : uint8_t {
  kSees,        // it may read them, or fault, or be left for the host: they must be right before it
  kKeeps,       // it neither reads nor faults, and leaves those that it does not write as they are
  kOverwrites,  // it neither reads nor faults, and nothing of them is left after it
};

struct Insn {
  const ZydisDecodedInstruction& z;
  const ZydisDecodedOperand* o;  // visible operands first
  uint32_t mode;
  bool ends = false;   // the block ends after this instruction
  bool links = false;  // its handler goes on over the block's links
  // The block ends after the next instruction, and op.extra becomes kHasSuccessor if there is one.
  bool shadows = false;
  FlagEffect flag_effect = FlagEffect::kSees;
  Handler without_flags = nullptr;  // does all of it but the flags

  bool Is64() const { return (mode & kModeBitsMask) == kModeBits64; }
  int width() const { return z.operand_width; }  // in bits
  bool IsReg(int i) const { return o[i].type == ZYDIS_OPERAND_TYPE_REGISTER; }
  bool IsMem(int i) const { return o[i].type == ZYDIS_OPERAND_TYPE_MEMORY; }
  bool IsImm(int i) const { return o[i].type == ZYDIS_OPERAND_TYPE_IMMEDIATE; }
  bool locked() const { return z.attributes & ZYDIS_ATTRIB_HAS_LOCK; }
};

inline constexpr uint8_t kHasSuccessor = 1;

// Fills `op`, whose ip, length and count are set. False: undefined opcode.
using Translator = bool (*)(Insn& in, Op& op);

struct TranslatorTable {
  Translator by_mnemonic[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {};
  void Set(ZydisMnemonic mnemonic, Translator translator) { by_mnemonic[mnemonic] = translator; }
};

// One a group; called once.
void RegisterAlu(TranslatorTable& table);         // ops_alu.cc
void RegisterMove(TranslatorTable& table);        // ops_move.cc
void RegisterShift(TranslatorTable& table);       // ops_shift.cc
void RegisterBit(TranslatorTable& table);         // ops_bit.cc
void RegisterMultiply(TranslatorTable& table);    // ops_multiply.cc
void RegisterBranch(TranslatorTable& table);      // ops_branch.cc
void RegisterString(TranslatorTable& table);      // ops_string.cc
void RegisterFlag(TranslatorTable& table);        // ops_flag.cc
void RegisterSegment(TranslatorTable& table);     // ops_segment.cc
void RegisterSystem(TranslatorTable& table);      // ops_system.cc
void RegisterX87(TranslatorTable& table);         // x87_ops.cc
void RegisterSseMove(TranslatorTable& table);     // sse_move.cc
void RegisterSseCompute(TranslatorTable& table);  // sse_compute.cc
void RegisterFpuState(TranslatorTable& table);    // fpu_state.cc

// The offset of a general register, of any width, in Cpu::r; of an XMM register in Cpu::xmm; MMX in X87State::physical is its
// number.
uint8_t RegisterOffset(ZydisRegister reg);
inline uint8_t XmmOffset(const ZydisDecodedOperand& operand) {
  return static_cast<uint8_t>((operand.reg.value - ZYDIS_REGISTER_XMM0) * 16);
}

// The SegmentIndex that a memory operand's segment register has.
int SegmentOf(ZydisRegister reg);
// Fills the memory operand's fields. True if the simple form of Address will do.
bool SetMemory(const Insn& in, const ZydisDecodedOperand& operand, Op& op);

// MOV, PUSH and POP of segment, control and debug registers (ops_segment.cc, ops_system.cc).
bool TranslateMoveToSegment(Insn& in, Op& op);
bool TranslateMoveFromSegment(Insn& in, Op& op);
bool TranslatePushSegment(Insn& in, Op& op);
bool TranslatePopSegment(Insn& in, Op& op);
bool TranslateMoveControl(Insn& in, Op& op);
bool TranslatePause(Insn& in, Op& op);
// Two mnemonics that name a string and an SSE2 instruction (ops_string.cc, sse_move.cc, sse_compute.cc).
bool TranslateMovsd(Insn& in, Op& op);
bool TranslateCmpsd(Insn& in, Op& op);
bool TranslateSseMovsd(Insn& in, Op& op);
bool TranslateSseCmpsd(Insn& in, Op& op);

// A handler by operand size: BySize(32, []<typename T>() -> Handler { return &AddRR<T>; }).
template <typename Pick>
Handler BySize(int bits, Pick pick) {
  switch (bits) {
    case 8:
      return pick.template operator()<uint8_t>();
    case 16:
      return pick.template operator()<uint16_t>();
    case 32:
      return pick.template operator()<uint32_t>();
    default:
      return pick.template operator()<uint64_t>();
  }
}
template <typename Pick>
Handler ByWideSize(int bits, Pick pick) {  // no bytes
  switch (bits) {
    case 16:
      return pick.template operator()<uint16_t>();
    case 32:
      return pick.template operator()<uint32_t>();
    default:
      return pick.template operator()<uint64_t>();
  }
}

// The same for operands of 32 and 64 bits, of which there is a variant; nullptr for others.
template <typename Pick>
Handler ByNativeSize(int bits, Pick pick) {
  return bits == 32   ? pick.template operator()<uint32_t>()
         : bits == 64 ? pick.template operator()<uint64_t>()
                      : nullptr;
}

// Joins a compare and the conditional branch behind it, where there is a handler for both (ops_branch.cc).
bool FuseCompareAndBranch(Op& compare, const Op& branch);
// The condition of a conditional branch that may be fused, or -1.
int LinkedBranchCondition(const Op& branch);

// Joins a move between registers with the operation behind it that changes the copy, where there is a handler for both
// (ops_move.cc): the result is written once, and nobody waits for the copy. Each keeps its Op, which the handler reads.
bool JoinMove(Op& move, const Op& next);
struct Joined {
  int bits;  // of the move, 32 or 64
  Handler next, both;
  bool reads_b;  // the second operand is a register, which must not be the copy
};
absl::Span<const Joined> JoinedAlu();    // ops_alu.cc
absl::Span<const Joined> JoinedShift();  // ops_shift.cc

// Go on over a link that is not there yet, or when attention is asked for; r[kIp] is the target.
const Op* FollowTaken(Cpu& c, const Op* op, int64_t delta);  // delta: how far r[kIp] went
const Op* FollowNext(Cpu& c, const Op* op);

// Handlers that every block needs.
const Op* EndBlock(Cpu& c, const Op* op);  // goes on behind the block
const Op* RaiseUndefined(Cpu& c, const Op* op);
const Op* RaiseTooLong(Cpu& c, const Op* op);
const Op* RaiseNoDevice(Cpu& c, const Op* op);

class Decoder {
 public:
  // Instructions that `features` lacks are undefined, or what they were before.
  explicit Decoder(const Features& features);

  struct Result {
    int ops = 0;           // with the end and the links
    int instructions = 0;  // 0: the first instruction needs more bytes
    int size_bytes = 0;
  };
  // Room in `ops` for kMaxOps.
  static constexpr int kMaxOps = kMaxBlockInstructions + 4;
  Result DecodeBlock(const uint8_t* bytes, int available, uint32_t mode, int max_instructions, Op* ops) const;

 private:
  const Features& features_;
  ZydisDecoder decoders_[3];
};

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_CODE_DECODER_H_
