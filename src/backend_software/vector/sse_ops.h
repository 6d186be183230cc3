// SPDX-License-Identifier: Apache-2.0
// What the vector instructions compute, apart from where their operands come from: SSE to SSE4.2, AES, PCLMULQDQ, SHA,
// and the MMX forms. Each is a function of register values, found once when an instruction is decoded; an immediate
// selects the function, so nothing is left to look up when it runs.
//
// Floating-point functions use the MXCSR that the host's processor has loaded: the interpreter keeps the guest's there,
// all exceptions masked, while guest code runs.
//
// Not here: moves, inserts, extracts and conversions from and to general registers, whose operands are all they are.
// Source: Intel SDM volume 2.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_VECTOR_SSE_OPS_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_VECTOR_SSE_OPS_H_

#include <Zydis/Zydis.h>
#include <emmintrin.h>

#include <cstdint>

namespace hvsdk::software {

// destination = op(destination, source).
using VectorOp = __m128i (*)(__m128i destination, __m128i source);
// The same with XMM0 as a third operand (BLENDVPS and its kin).
using VectorOp3 = __m128i (*)(__m128i destination, __m128i source, __m128i xmm0);
// Arithmetic RFLAGS of a comparison; those it does not name are zero.
using VectorFlagsOp = uint32_t (*)(__m128i destination, __m128i source);

// Which elements of a result may be too small for a normal number.
enum class Underflow : uint8_t { kNever, kScalarSingle, kScalarDouble, kSingles, kDoubles };

struct SseOp {
  VectorOp op = nullptr;  // exactly one of the three is set
  VectorOp3 op3 = nullptr;
  VectorFlagsOp flags_op = nullptr;
  uint8_t source_bytes = 16;  // of a memory operand; a smaller one is zero-extended. 16 must be aligned
  bool floating = false;      // may raise exceptions in MXCSR
  Underflow underflow = Underflow::kNever;
};

// The XMM form of `mnemonic`, or nullptr if there is none here or `imm` is not one it takes.
// The pointer stays valid.
const SseOp* FindSseOp(ZydisMnemonic mnemonic, uint8_t imm);

// The forms of PSLLW and its kin whose count is an immediate (XMM; for MMX the low half holds, PSLLDQ and PSRLDQ do
// not exist).
const SseOp* FindSseShiftImm(ZydisMnemonic mnemonic, uint8_t imm);

// The MMX form: operands and result are the low 64 bits; 8-byte memory operands (4 for PUNPCKL*), any alignment.
const SseOp* FindMmxOp(ZydisMnemonic mnemonic, uint8_t imm);

// PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM: `length1` and `length2` are EAX and EDX as signed numbers for the forms
// with explicit lengths, whose absolute value saturates at 16 or 8.
struct StringCompare {
  uint32_t index;   // for ECX
  __m128i mask;     // for XMM0
  uint32_t rflags;  // CF, ZF, SF, OF; AF and PF are zero
};
StringCompare CompareStrings(__m128i first, __m128i second, bool explicit_lengths, int64_t length1, int64_t length2,
                             uint8_t imm);

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_VECTOR_SSE_OPS_H_
