// SPDX-License-Identifier: Apache-2.0
// SSE, SSE2 to SSE4.2, AES, PCLMULQDQ, SHA and MMX instructions that compute a register from two operands: where the
// operands come from. What is computed stands in sse_ops.cc.
#include <bit>

#include "backend_software/processor/cpuid.h"
#include "backend_software/vector/fpu.h"
#include "backend_software/vector/sse_ops.h"

namespace hvsdk::software {
namespace {

// The function stands in Op::imm.
template <typename Function>
Function FunctionOf(const Op* op) {
  return std::bit_cast<Function>(op->imm);
}

template <int kBytes, bool kMemory>
__m128i Source(Cpu& c, const Op* op) {
  if constexpr (kMemory) return LoadOperand<kBytes>(c, op);
  return GetVector(c, op->b);
}

template <int kBytes, bool kMemory>
const Op* Vector(Cpu& c, const Op* op) {
  const __m128i source = Source<kBytes, kMemory>(c, op);
  SetVector(c, op->a, FunctionOf<VectorOp>(op)(GetVector(c, op->a), source));
  HVSDK_NEXT(op + 1);
}
template <int kBytes, bool kMemory>
const Op* VectorFloating(Cpu& c, const Op* op) {
  const __m128i source = Source<kBytes, kMemory>(c, op);
  const __m128i destination = GetVector(c, op->a);
  SetVector(
      c, op->a,
      Floating(
          c, op, [&] { return FunctionOf<VectorOp>(op)(destination, source); }, static_cast<Underflow>(op->extra)));
  return op + 1;
}

// DPPS and DPPD; extra is the immediate. Of its multiplications and its additions each stage is over, and its
// exceptions are taken, before the next begins.
template <bool kDoubles, bool kMemory>
const Op* DotProduct(Cpu& c, const Op* op) {
  const __m128i source = Source<16, kMemory>(c, op);
  const __m128i destination = GetVector(c, op->a);
  if ((c.mxcsr & kMxcsrMasks) != kMxcsrMasks) {
    const int chosen = op->extra >> 4;
    const __m128i bits = kDoubles ? _mm_setr_epi32(1, 1, 2, 2) : _mm_setr_epi32(1, 2, 4, 8);
    const __m128i mask = _mm_cmpeq_epi32(_mm_and_si128(_mm_set1_epi32(chosen), bits), bits);
    const __m128i left = _mm_and_si128(destination, mask), right = _mm_and_si128(source, mask);
    const VectorOp multiply = FindSseOp(kDoubles ? ZYDIS_MNEMONIC_MULPD : ZYDIS_MNEMONIC_MULPS, 0)->op;
    const VectorOp add = FindSseOp(kDoubles ? ZYDIS_MNEMONIC_HADDPD : ZYDIS_MNEMONIC_HADDPS, 0)->op;
    constexpr Underflow kElements = kDoubles ? Underflow::kDoubles : Underflow::kSingles;
    __m128i sums = Floating(
        c, op, [&] { return multiply(left, right); }, kElements);
    for (int stage = 0; stage < (kDoubles ? 1 : 2); ++stage) {
      sums = Floating(
          c, op, [&] { return add(sums, sums); }, kElements);
    }
  }
  SetVector(c, op->a, FunctionOf<VectorOp>(op)(destination, source));
  return op + 1;
}
template <int kBytes, bool kMemory>
const Op* VectorFlags(Cpu& c, const Op* op) {
  const __m128i source = Source<kBytes, kMemory>(c, op);
  const __m128i destination = GetVector(c, op->a);
  c.flags.Set(Floating(c, op, [&] { return FunctionOf<VectorFlagsOp>(op)(destination, source); }));
  return op + 1;
}
template <int kBytes, bool kMemory>
const Op* VectorXmm0(Cpu& c, const Op* op) {
  const __m128i source = Source<kBytes, kMemory>(c, op);
  SetVector(c, op->a, FunctionOf<VectorOp3>(op)(GetVector(c, op->a), source, GetVector(c, 0)));
  return op + 1;
}

// Packed single precision and packed integers in the hottest loops, without a call through a pointer.
template <typename Compute, bool kMemory>
const Op* VectorDirect(Cpu& c, const Op* op) {
  const __m128i source = Source<16, kMemory>(c, op);
  SetVector(c, op->a, Compute{}(GetVector(c, op->a), source));
  HVSDK_NEXT(op + 1);
}

Handler DirectHandler(ZydisMnemonic mnemonic, bool memory) {
#define DIRECT(name, function)                                                    \
  case ZYDIS_MNEMONIC_##name: {                                                   \
    struct Compute {                                                              \
      __m128i operator()(__m128i a, __m128i b) const { return function(a, b); }   \
    };                                                                            \
    return memory ? &VectorDirect<Compute, true> : &VectorDirect<Compute, false>; \
  }
  switch (mnemonic) {
    DIRECT(PXOR, _mm_xor_si128)
    DIRECT(XORPS, _mm_xor_si128)
    DIRECT(POR, _mm_or_si128)
    DIRECT(PAND, _mm_and_si128)
    DIRECT(PADDB, _mm_add_epi8)
    DIRECT(PADDD, _mm_add_epi32)
    DIRECT(PADDQ, _mm_add_epi64)
    DIRECT(PSUBB, _mm_sub_epi8)
    DIRECT(PCMPEQB, _mm_cmpeq_epi8)
    DIRECT(PCMPEQD, _mm_cmpeq_epi32)
    DIRECT(PMINUB, _mm_min_epu8)
    DIRECT(PUNPCKLBW, _mm_unpacklo_epi8)
    DIRECT(PUNPCKLQDQ, _mm_unpacklo_epi64)
    default:
      return nullptr;
  }
#undef DIRECT
}

template <int kBytes, bool kMemory>
const Op* Mmx(Cpu& c, const Op* op) {
  CheckX87Pending(c, op);
  __m128i source;
  if constexpr (kMemory) source = LoadOperand<kBytes>(c, op);
  c.x87.EnterMmx();
  if constexpr (!kMemory) source = _mm_cvtsi64_si128(static_cast<int64_t>(GetMmx(c, op->b)));
  const __m128i destination = _mm_cvtsi64_si128(static_cast<int64_t>(GetMmx(c, op->a)));
  SetMmx(c, op->a, static_cast<uint64_t>(_mm_cvtsi128_si64(FunctionOf<VectorOp>(op)(destination, source))));
  return op + 1;
}

bool TranslateMmx(Insn& in, Op& op) {
  if (UnitMissing(in, op, Unit::kMmx)) return true;
  op.a = MmxIndex(in.o[0]);
  const bool shift_imm = in.IsImm(1);
  const uint8_t imm = shift_imm                        ? static_cast<uint8_t>(in.o[1].imm.value.u)
                      : in.z.operand_count_visible > 2 ? static_cast<uint8_t>(in.o[2].imm.value.u)
                                                       : 0;
  const SseOp* found = shift_imm ? FindSseShiftImm(in.z.mnemonic, imm) : FindMmxOp(in.z.mnemonic, imm);
  if (found == nullptr) return false;
  op.imm = std::bit_cast<uint64_t>(found->op);
  if (in.IsMem(1)) {
    SetMemory(in, in.o[1], op);
    op.handler = found->source_bytes == 4 ? &Mmx<4, true> : &Mmx<8, true>;
  } else {
    op.b = shift_imm ? op.a : MmxIndex(in.o[1]);
    op.handler = &Mmx<8, false>;
  }
  return true;
}

bool TranslateVector(Insn& in, Op& op) {
  if (IsMmx(in.o[0])) return TranslateMmx(in, op);
  if (!IsXmm(in.o[0])) return false;
  if (UnitMissing(in, op, Unit::kSse)) return true;
  op.a = XmmOffset(in.o[0]);
  const bool shift_imm = in.IsImm(1);
  const bool memory = in.IsMem(1);
  uint8_t imm = 0;
  if (shift_imm) {
    imm = static_cast<uint8_t>(in.o[1].imm.value.u);
  } else if (in.z.operand_count_visible > 2 && in.IsImm(2)) {
    imm = static_cast<uint8_t>(in.o[2].imm.value.u);
  }
  // In memory there is nothing for INSERTPS to choose from.
  if (in.z.mnemonic == ZYDIS_MNEMONIC_INSERTPS && memory) imm &= 0x3F;
  const SseOp* found = shift_imm ? FindSseShiftImm(in.z.mnemonic, imm) : FindSseOp(in.z.mnemonic, imm);
  if (found == nullptr) return false;
  if (memory) {
    SetMemory(in, in.o[1], op);
  } else {
    op.b = shift_imm ? op.a : XmmOffset(in.o[1]);
  }
  if (found->op3 != nullptr) {
    op.imm = std::bit_cast<uint64_t>(found->op3);
    op.handler = memory ? &VectorXmm0<16, true> : &VectorXmm0<16, false>;
    return true;
  }
  if (found->flags_op != nullptr) {
    op.imm = std::bit_cast<uint64_t>(found->flags_op);
    op.handler = memory
                     ? ByBytes(found->source_bytes, []<int kBytes>() -> Handler { return &VectorFlags<kBytes, true>; })
                     : &VectorFlags<16, false>;
    return true;
  }
  op.imm = std::bit_cast<uint64_t>(found->op);
  if (in.z.mnemonic == ZYDIS_MNEMONIC_DPPS || in.z.mnemonic == ZYDIS_MNEMONIC_DPPD) {
    const bool doubles = in.z.mnemonic == ZYDIS_MNEMONIC_DPPD;
    op.extra = imm;
    op.handler = memory ? (doubles ? &DotProduct<true, true> : &DotProduct<false, true>)
                        : (doubles ? &DotProduct<true, false> : &DotProduct<false, false>);
    return true;
  }
  if (found->floating) {
    op.extra = static_cast<uint8_t>(found->underflow);
    op.handler =
        memory ? ByBytes(found->source_bytes, []<int kBytes>() -> Handler { return &VectorFloating<kBytes, true>; })
               : &VectorFloating<16, false>;
    return true;
  }
  op.handler = shift_imm ? nullptr : DirectHandler(in.z.mnemonic, memory);
  if (op.handler == nullptr) {
    op.handler = memory ? ByBytes(found->source_bytes, []<int kBytes>() -> Handler { return &Vector<kBytes, true>; })
                        : &Vector<16, false>;
  }
  return true;
}

// ---- string comparisons ----

// extra: the immediate. imm: 1 explicit lengths, 2 they are 64 bits wide, 4 the result is a mask.
template <bool kMemory>
const Op* StringCompareOp(Cpu& c, const Op* op) {
  __m128i second;
  if constexpr (kMemory) {
    second = LoadVector<false>(c, op, Address<false>(c, op, 16, false));
  } else {
    second = GetVector(c, op->b);
  }
  int64_t length1 = static_cast<int64_t>(c.r[kRax]), length2 = static_cast<int64_t>(c.r[kRdx]);
  if ((op->imm & 2) == 0) {
    length1 = static_cast<int32_t>(length1);
    length2 = static_cast<int32_t>(length2);
  }
  const StringCompare result =
      CompareStrings(GetVector(c, op->a), second, (op->imm & 1) != 0, length1, length2, op->extra);
  if (op->imm & 4) {
    SetVector(c, 0, result.mask);
  } else {
    c.Set<uint32_t>(SlotOffset(kRcx), result.index);
  }
  c.flags.Set(result.rflags);
  return op + 1;
}

bool TranslateStringCompare(Insn& in, Op& op) {
  if (UnitMissing(in, op, Unit::kSse)) return true;
  const bool is_explicit = in.z.mnemonic == ZYDIS_MNEMONIC_PCMPESTRI || in.z.mnemonic == ZYDIS_MNEMONIC_PCMPESTRM;
  const bool is_mask = in.z.mnemonic == ZYDIS_MNEMONIC_PCMPESTRM || in.z.mnemonic == ZYDIS_MNEMONIC_PCMPISTRM;
  op.a = XmmOffset(in.o[0]);
  op.extra = static_cast<uint8_t>(in.o[2].imm.value.u);
  op.imm =
      (is_explicit ? 1 : 0) | ((in.z.attributes & ZYDIS_ATTRIB_HAS_REX) && in.z.raw.rex.W ? 2 : 0) | (is_mask ? 4 : 0);
  if (in.IsMem(1)) {
    SetMemory(in, in.o[1], op);
    op.handler = &StringCompareOp<true>;
  } else {
    op.b = XmmOffset(in.o[1]);
    op.handler = &StringCompareOp<false>;
  }
  return true;
}

}  // namespace

bool HasDenormal(__m128i value, Underflow underflow) {
  const bool doubles = underflow == Underflow::kDoubles || underflow == Underflow::kScalarDouble;
  const bool scalar = underflow == Underflow::kScalarSingle || underflow == Underflow::kScalarDouble;
  const int count = scalar ? 1 : doubles ? 2 : 4;
  const int fraction_bits = doubles ? 52 : 23;
  alignas(16) uint64_t words[2];
  _mm_store_si128(reinterpret_cast<__m128i*>(words), value);
  for (int i = 0; i < count; ++i) {
    const uint64_t element = doubles ? words[i] : words[i / 2] >> (32 * (i % 2)) & 0xFFFFFFFF;
    const uint64_t exponent = element >> fraction_bits & (doubles ? 0x7FF : 0xFF);
    if (exponent == 0 && (element & ((uint64_t{1} << fraction_bits) - 1)) != 0) return true;
  }
  return false;
}

bool TranslateSseCmpsd(Insn& in, Op& op) { return TranslateVector(in, op); }

void RegisterSseCompute(TranslatorTable& table) {
  for (int i = 0; i <= ZYDIS_MNEMONIC_MAX_VALUE; ++i) {
    const auto mnemonic = static_cast<ZydisMnemonic>(i);
    if (mnemonic == ZYDIS_MNEMONIC_CMPSD) continue;  // shares its name with a string instruction
    if (FindSseOp(mnemonic, 0) != nullptr || FindMmxOp(mnemonic, 0) != nullptr ||
        FindSseShiftImm(mnemonic, 0) != nullptr) {
      table.Set(mnemonic, &TranslateVector);
    }
  }
  for (ZydisMnemonic mnemonic :
       {ZYDIS_MNEMONIC_PCMPESTRI, ZYDIS_MNEMONIC_PCMPESTRM, ZYDIS_MNEMONIC_PCMPISTRI, ZYDIS_MNEMONIC_PCMPISTRM}) {
    table.Set(mnemonic, &TranslateStringCompare);
  }
  // What the host cannot do is not there for the guest either.
  const auto remove = [&](std::initializer_list<ZydisMnemonic> mnemonics) {
    for (ZydisMnemonic mnemonic : mnemonics) table.Set(mnemonic, nullptr);
  };
  if (!__builtin_cpu_supports("aes")) {
    remove({ZYDIS_MNEMONIC_AESENC, ZYDIS_MNEMONIC_AESENCLAST, ZYDIS_MNEMONIC_AESDEC, ZYDIS_MNEMONIC_AESDECLAST,
            ZYDIS_MNEMONIC_AESIMC, ZYDIS_MNEMONIC_AESKEYGENASSIST});
  }
  if (!__builtin_cpu_supports("pclmul")) remove({ZYDIS_MNEMONIC_PCLMULQDQ});
  if (!HostHasSha()) {
    remove({ZYDIS_MNEMONIC_SHA1NEXTE, ZYDIS_MNEMONIC_SHA1MSG1, ZYDIS_MNEMONIC_SHA1MSG2, ZYDIS_MNEMONIC_SHA1RNDS4,
            ZYDIS_MNEMONIC_SHA256MSG1, ZYDIS_MNEMONIC_SHA256MSG2, ZYDIS_MNEMONIC_SHA256RNDS2});
  }
}

}  // namespace hvsdk::software
