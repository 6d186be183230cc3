// SPDX-License-Identifier: Apache-2.0
#include "backend_software/vector/sse_ops.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace hvsdk::software {
namespace {

using V = __m128i;

__m128 Ps(V v) { return _mm_castsi128_ps(v); }
__m128d Pd(V v) { return _mm_castsi128_pd(v); }
V Si(V v) { return v; }
V Si(__m128 v) { return _mm_castps_si128(v); }
V Si(__m128d v) { return _mm_castpd_si128(v); }

constexpr uint32_t kCf = 1, kPf = 4, kZf = 0x40;

// The low 64 bits of both, for MMX instructions that combine their operands.
V Both(V low, V high) { return _mm_unpacklo_epi64(low, high); }

uint32_t CompareFlags(bool unordered, bool less, bool equal) {
  if (unordered) return kZf | kPf | kCf;
  return (less ? kCf : 0) | (equal ? kZf : 0);
}

uint32_t PtestFlags(V a, V b) { return (_mm_testz_si128(a, b) ? kZf : 0) | (_mm_testc_si128(a, b) ? kCf : 0); }

// The instructions themselves, for a compiler may not turn a quiet comparison into a loud one.
template <bool kSignalling>
uint32_t CompareSs(V a, V b) {
  bool carry, parity, zero;
  if constexpr (kSignalling) {
    asm volatile("comiss %4, %3" : "=@ccc"(carry), "=@ccp"(parity), "=@ccz"(zero) : "x"(a), "x"(b));
  } else {
    asm volatile("ucomiss %4, %3" : "=@ccc"(carry), "=@ccp"(parity), "=@ccz"(zero) : "x"(a), "x"(b));
  }
  return CompareFlags(parity, carry, zero);
}
template <bool kSignalling>
uint32_t CompareSd(V a, V b) {
  bool carry, parity, zero;
  if constexpr (kSignalling) {
    asm volatile("comisd %4, %3" : "=@ccc"(carry), "=@ccp"(parity), "=@ccz"(zero) : "x"(a), "x"(b));
  } else {
    asm volatile("ucomisd %4, %3" : "=@ccc"(carry), "=@ccp"(parity), "=@ccz"(zero) : "x"(a), "x"(b));
  }
  return CompareFlags(parity, carry, zero);
}

#define OP2(name, expression)                           \
  case ZYDIS_MNEMONIC_##name: {                         \
    static constexpr SseOp op{.op = [](V a, V b) -> V { \
      (void)a;                                          \
      (void)b;                                          \
      return Si(expression);                            \
    }};                                                 \
    return &op;                                         \
  }
#define OPF(name, bytes, expression)                    \
  case ZYDIS_MNEMONIC_##name: {                         \
    static constexpr SseOp op{.op = [](V a, V b) -> V { \
                                (void)a;                \
                                (void)b;                \
                                return Si(expression);  \
                              },                        \
                              .source_bytes = bytes,    \
                              .floating = true};        \
    return &op;                                         \
  }
// Arithmetic whose result may be too small.
#define OPA(name, bytes, which, expression)                   \
  case ZYDIS_MNEMONIC_##name: {                               \
    static constexpr SseOp op{.op = [](V a, V b) -> V {       \
                                (void)a;                      \
                                return Si(expression);        \
                              },                              \
                              .source_bytes = bytes,          \
                              .floating = true,               \
                              .underflow = Underflow::which}; \
    return &op;                                               \
  }
#define OPN(name, bytes, expression)                    \
  case ZYDIS_MNEMONIC_##name: {                         \
    static constexpr SseOp op{.op = [](V a, V b) -> V { \
                                (void)a;                \
                                (void)b;                \
                                return Si(expression);  \
                              },                        \
                              .source_bytes = bytes};   \
    return &op;                                         \
  }
#define OPX(name, expression)                                                            \
  case ZYDIS_MNEMONIC_##name: {                                                          \
    static constexpr SseOp op{.op3 = [](V a, V b, V c) -> V { return Si(expression); }}; \
    return &op;                                                                          \
  }
#define FLAGS(name, bytes, is_floating, function)                                                    \
  case ZYDIS_MNEMONIC_##name: {                                                                      \
    static constexpr SseOp op{.flags_op = function, .source_bytes = bytes, .floating = is_floating}; \
    return &op;                                                                                      \
  }

// For each instruction with an immediate, a table of the functions for all its values.
#define IMM_TABLE(table, count, bytes, is_floating, expression)                                         \
  template <size_t kImm>                                                                                \
  V table##Function(V a, V b) {                                                                         \
    (void)a;                                                                                            \
    (void)b;                                                                                            \
    return Si(expression);                                                                              \
  }                                                                                                     \
  template <size_t... kImms>                                                                            \
  constexpr std::array<SseOp, sizeof...(kImms)> table##Make(std::index_sequence<kImms...>) {            \
    return {{SseOp{.op = &table##Function<kImms>, .source_bytes = bytes, .floating = is_floating}...}}; \
  }                                                                                                     \
  constexpr auto table = table##Make(std::make_index_sequence<count>{});

// The comparison predicates beyond 7 belong to AVX; SSE looks at three bits.
template <int kPredicate>
__m128 ComparePs(__m128 a, __m128 b) {
  switch (kPredicate) {
    case 0:
      return _mm_cmpeq_ps(a, b);
    case 1:
      return _mm_cmplt_ps(a, b);
    case 2:
      return _mm_cmple_ps(a, b);
    case 3:
      return _mm_cmpunord_ps(a, b);
    case 4:
      return _mm_cmpneq_ps(a, b);
    case 5:
      return _mm_cmpnlt_ps(a, b);
    case 6:
      return _mm_cmpnle_ps(a, b);
    default:
      return _mm_cmpord_ps(a, b);
  }
}
template <int kPredicate>
__m128 CompareMaskSs(__m128 a, __m128 b) {
  switch (kPredicate) {
    case 0:
      return _mm_cmpeq_ss(a, b);
    case 1:
      return _mm_cmplt_ss(a, b);
    case 2:
      return _mm_cmple_ss(a, b);
    case 3:
      return _mm_cmpunord_ss(a, b);
    case 4:
      return _mm_cmpneq_ss(a, b);
    case 5:
      return _mm_cmpnlt_ss(a, b);
    case 6:
      return _mm_cmpnle_ss(a, b);
    default:
      return _mm_cmpord_ss(a, b);
  }
}
template <int kPredicate>
__m128d ComparePd(__m128d a, __m128d b) {
  switch (kPredicate) {
    case 0:
      return _mm_cmpeq_pd(a, b);
    case 1:
      return _mm_cmplt_pd(a, b);
    case 2:
      return _mm_cmple_pd(a, b);
    case 3:
      return _mm_cmpunord_pd(a, b);
    case 4:
      return _mm_cmpneq_pd(a, b);
    case 5:
      return _mm_cmpnlt_pd(a, b);
    case 6:
      return _mm_cmpnle_pd(a, b);
    default:
      return _mm_cmpord_pd(a, b);
  }
}
template <int kPredicate>
__m128d CompareMaskSd(__m128d a, __m128d b) {
  switch (kPredicate) {
    case 0:
      return _mm_cmpeq_sd(a, b);
    case 1:
      return _mm_cmplt_sd(a, b);
    case 2:
      return _mm_cmple_sd(a, b);
    case 3:
      return _mm_cmpunord_sd(a, b);
    case 4:
      return _mm_cmpneq_sd(a, b);
    case 5:
      return _mm_cmpnlt_sd(a, b);
    case 6:
      return _mm_cmpnle_sd(a, b);
    default:
      return _mm_cmpord_sd(a, b);
  }
}

IMM_TABLE(kCmpps, 8, 16, true, ComparePs<kImm>(Ps(a), Ps(b)))
IMM_TABLE(kCmpss, 8, 4, true, CompareMaskSs<kImm>(Ps(a), Ps(b)))
IMM_TABLE(kCmppd, 8, 16, true, ComparePd<kImm>(Pd(a), Pd(b)))
IMM_TABLE(kCmpsd, 8, 8, true, CompareMaskSd<kImm>(Pd(a), Pd(b)))
IMM_TABLE(kRoundps, 16, 16, true, _mm_round_ps(Ps(b), kImm))
IMM_TABLE(kRoundpd, 16, 16, true, _mm_round_pd(Pd(b), kImm))
IMM_TABLE(kRoundss, 16, 4, true, _mm_round_ss(Ps(a), Ps(b), kImm))
IMM_TABLE(kRoundsd, 16, 8, true, _mm_round_sd(Pd(a), Pd(b), kImm))
IMM_TABLE(kShufps, 256, 16, false, _mm_shuffle_ps(Ps(a), Ps(b), kImm))
IMM_TABLE(kShufpd, 4, 16, false, _mm_shuffle_pd(Pd(a), Pd(b), kImm))
IMM_TABLE(kPshufd, 256, 16, false, _mm_shuffle_epi32(b, kImm))
IMM_TABLE(kPshufhw, 256, 16, false, _mm_shufflehi_epi16(b, kImm))
IMM_TABLE(kPshuflw, 256, 16, false, _mm_shufflelo_epi16(b, kImm))
IMM_TABLE(kPalignr, 33, 16, false, _mm_alignr_epi8(a, b, kImm))
IMM_TABLE(kPblendw, 256, 16, false, _mm_blend_epi16(a, b, kImm))
IMM_TABLE(kBlendps, 16, 16, false, _mm_blend_ps(Ps(a), Ps(b), kImm))
IMM_TABLE(kBlendpd, 4, 16, false, _mm_blend_pd(Pd(a), Pd(b), kImm))
IMM_TABLE(kDpps, 256, 16, true, _mm_dp_ps(Ps(a), Ps(b), kImm))
IMM_TABLE(kDppd, 256, 16, true, _mm_dp_pd(Pd(a), Pd(b), kImm))
IMM_TABLE(kMpsadbw, 8, 16, false, _mm_mpsadbw_epu8(a, b, kImm))
// From memory the source is the double word itself and the selector's top bits do not count.
IMM_TABLE(kInsertps, 256, 4, false, _mm_insert_ps(Ps(a), Ps(b), kImm))
// Bits 0 and 4 select the halves.
IMM_TABLE(kPclmulqdq, 4, 16, false, _mm_clmulepi64_si128(a, b, (kImm & 1) | (kImm & 2) << 3))
IMM_TABLE(kAeskeygenassist, 256, 16, false, _mm_aeskeygenassist_si128(b, kImm))
template <size_t kImm>
V Sha1Rounds(V a, V b) {
  return _mm_sha1rnds4_epu32(a, b, kImm);
}
constexpr std::array<SseOp, 4> kSha1rnds4 = {
    {{.op = &Sha1Rounds<0>}, {.op = &Sha1Rounds<1>}, {.op = &Sha1Rounds<2>}, {.op = &Sha1Rounds<3>}}};

// Shifts by an immediate; beyond a lane's width all are the same. Zydis gives them as two-operand instructions whose source is the
// immediate.
IMM_TABLE(kPsllwImm, 17, 16, false, _mm_slli_epi16(a, kImm))
IMM_TABLE(kPslldImm, 33, 16, false, _mm_slli_epi32(a, kImm))
IMM_TABLE(kPsllqImm, 65, 16, false, _mm_slli_epi64(a, kImm))
IMM_TABLE(kPsrlwImm, 17, 16, false, _mm_srli_epi16(a, kImm))
IMM_TABLE(kPsrldImm, 33, 16, false, _mm_srli_epi32(a, kImm))
IMM_TABLE(kPsrlqImm, 65, 16, false, _mm_srli_epi64(a, kImm))
IMM_TABLE(kPsrawImm, 17, 16, false, _mm_srai_epi16(a, kImm))
IMM_TABLE(kPsradImm, 33, 16, false, _mm_srai_epi32(a, kImm))
IMM_TABLE(kPslldqImm, 17, 16, false, _mm_slli_si128(a, kImm))
IMM_TABLE(kPsrldqImm, 17, 16, false, _mm_srli_si128(a, kImm))

// MMX forms that differ from the low half of the XMM form.
IMM_TABLE(kPshufwMmx, 256, 8, false, _mm_shufflelo_epi16(b, kImm))
IMM_TABLE(kPalignrMmx, 17, 8, false, _mm_srli_si128(Both(b, a), kImm))

const SseOp* InTable(const SseOp* table, size_t count, uint8_t imm) { return table + std::min<size_t>(imm, count - 1); }
#define IMM(name, table)      \
  case ZYDIS_MNEMONIC_##name: \
    return &table[imm & (table.size() - 1)];
#define IMM_SATURATED(name, table) \
  case ZYDIS_MNEMONIC_##name:      \
    return InTable(table.data(), table.size(), imm);

}  // namespace

const SseOp* FindSseOp(ZydisMnemonic mnemonic, uint8_t imm) {
  switch (mnemonic) {
    // Floating point.
    OPA(ADDPS, 16, kSingles, _mm_add_ps(Ps(a), Ps(b)))
    OPA(ADDSS, 4, kScalarSingle, _mm_add_ss(Ps(a), Ps(b)))
    OPA(ADDPD, 16, kDoubles, _mm_add_pd(Pd(a), Pd(b)))
    OPA(ADDSD, 8, kScalarDouble, _mm_add_sd(Pd(a), Pd(b)))
    OPA(SUBPS, 16, kSingles, _mm_sub_ps(Ps(a), Ps(b)))
    OPA(SUBSS, 4, kScalarSingle, _mm_sub_ss(Ps(a), Ps(b)))
    OPA(SUBPD, 16, kDoubles, _mm_sub_pd(Pd(a), Pd(b)))
    OPA(SUBSD, 8, kScalarDouble, _mm_sub_sd(Pd(a), Pd(b)))
    OPA(MULPS, 16, kSingles, _mm_mul_ps(Ps(a), Ps(b)))
    OPA(MULSS, 4, kScalarSingle, _mm_mul_ss(Ps(a), Ps(b)))
    OPA(MULPD, 16, kDoubles, _mm_mul_pd(Pd(a), Pd(b)))
    OPA(MULSD, 8, kScalarDouble, _mm_mul_sd(Pd(a), Pd(b)))
    OPA(DIVPS, 16, kSingles, _mm_div_ps(Ps(a), Ps(b)))
    OPA(DIVSS, 4, kScalarSingle, _mm_div_ss(Ps(a), Ps(b)))
    OPA(DIVPD, 16, kDoubles, _mm_div_pd(Pd(a), Pd(b)))
    OPA(DIVSD, 8, kScalarDouble, _mm_div_sd(Pd(a), Pd(b)))
    OPF(MINPS, 16, _mm_min_ps(Ps(a), Ps(b)))
    OPF(MINSS, 4, _mm_min_ss(Ps(a), Ps(b)))
    OPF(MINPD, 16, _mm_min_pd(Pd(a), Pd(b)))
    OPF(MINSD, 8, _mm_min_sd(Pd(a), Pd(b)))
    OPF(MAXPS, 16, _mm_max_ps(Ps(a), Ps(b)))
    OPF(MAXSS, 4, _mm_max_ss(Ps(a), Ps(b)))
    OPF(MAXPD, 16, _mm_max_pd(Pd(a), Pd(b)))
    OPF(MAXSD, 8, _mm_max_sd(Pd(a), Pd(b)))
    OPF(SQRTPS, 16, _mm_sqrt_ps(Ps(b)))
    OPF(SQRTSS, 4, _mm_move_ss(Ps(a), _mm_sqrt_ss(Ps(b))))
    OPF(SQRTPD, 16, _mm_sqrt_pd(Pd(b)))
    OPF(SQRTSD, 8, _mm_sqrt_sd(Pd(a), Pd(b)))
    OPN(RCPPS, 16, _mm_rcp_ps(Ps(b)))
    OPN(RCPSS, 4, _mm_move_ss(Ps(a), _mm_rcp_ss(Ps(b))))
    OPN(RSQRTPS, 16, _mm_rsqrt_ps(Ps(b)))
    OPN(RSQRTSS, 4, _mm_move_ss(Ps(a), _mm_rsqrt_ss(Ps(b))))
    OPA(ADDSUBPS, 16, kSingles, _mm_addsub_ps(Ps(a), Ps(b)))
    OPA(ADDSUBPD, 16, kDoubles, _mm_addsub_pd(Pd(a), Pd(b)))
    OPA(HADDPS, 16, kSingles, _mm_hadd_ps(Ps(a), Ps(b)))
    OPA(HADDPD, 16, kDoubles, _mm_hadd_pd(Pd(a), Pd(b)))
    OPA(HSUBPS, 16, kSingles, _mm_hsub_ps(Ps(a), Ps(b)))
    OPA(HSUBPD, 16, kDoubles, _mm_hsub_pd(Pd(a), Pd(b)))
    OPF(CVTPS2PD, 8, _mm_cvtps_pd(Ps(b)))
    OPA(CVTPD2PS, 16, kSingles, _mm_cvtpd_ps(Pd(b)))
    OPF(CVTSS2SD, 4, _mm_cvtss_sd(Pd(a), Ps(b)))
    OPA(CVTSD2SS, 8, kScalarSingle, _mm_cvtsd_ss(Ps(a), Pd(b)))
    OPF(CVTDQ2PS, 16, _mm_cvtepi32_ps(b))
    OPF(CVTPS2DQ, 16, _mm_cvtps_epi32(Ps(b)))
    OPF(CVTTPS2DQ, 16, _mm_cvttps_epi32(Ps(b)))
    OPN(CVTDQ2PD, 8, _mm_cvtepi32_pd(b))
    OPF(CVTPD2DQ, 16, _mm_cvtpd_epi32(Pd(b)))
    OPF(CVTTPD2DQ, 16, _mm_cvttpd_epi32(Pd(b)))
    FLAGS(COMISS, 4, true, &CompareSs<true>)
    FLAGS(UCOMISS, 4, true, &CompareSs<false>)
    FLAGS(COMISD, 8, true, &CompareSd<true>)
    FLAGS(UCOMISD, 8, true, &CompareSd<false>)
    IMM(CMPPS, kCmpps)
    IMM(CMPSS, kCmpss)
    IMM(CMPPD, kCmppd)
    IMM(CMPSD, kCmpsd)
    IMM(ROUNDPS, kRoundps)
    IMM(ROUNDPD, kRoundpd)
    IMM(ROUNDSS, kRoundss)
    IMM(ROUNDSD, kRoundsd)
    IMM(DPPS, kDpps)
    IMM(DPPD, kDppd)

    // Bits and shuffles.
    OP2(ANDPS, _mm_and_si128(a, b))
    OP2(ANDPD, _mm_and_si128(a, b))
    OP2(PAND, _mm_and_si128(a, b))
    OP2(ANDNPS, _mm_andnot_si128(a, b))
    OP2(ANDNPD, _mm_andnot_si128(a, b))
    OP2(PANDN, _mm_andnot_si128(a, b))
    OP2(ORPS, _mm_or_si128(a, b))
    OP2(ORPD, _mm_or_si128(a, b))
    OP2(POR, _mm_or_si128(a, b))
    OP2(XORPS, _mm_xor_si128(a, b))
    OP2(XORPD, _mm_xor_si128(a, b))
    OP2(PXOR, _mm_xor_si128(a, b))
    OP2(UNPCKLPS, _mm_unpacklo_epi32(a, b))
    OP2(UNPCKHPS, _mm_unpackhi_epi32(a, b))
    OP2(UNPCKLPD, _mm_unpacklo_epi64(a, b))
    OP2(UNPCKHPD, _mm_unpackhi_epi64(a, b))
    OP2(PUNPCKLBW, _mm_unpacklo_epi8(a, b))
    OP2(PUNPCKLWD, _mm_unpacklo_epi16(a, b))
    OP2(PUNPCKLDQ, _mm_unpacklo_epi32(a, b))
    OP2(PUNPCKLQDQ, _mm_unpacklo_epi64(a, b))
    OP2(PUNPCKHBW, _mm_unpackhi_epi8(a, b))
    OP2(PUNPCKHWD, _mm_unpackhi_epi16(a, b))
    OP2(PUNPCKHDQ, _mm_unpackhi_epi32(a, b))
    OP2(PUNPCKHQDQ, _mm_unpackhi_epi64(a, b))
    OP2(PACKSSWB, _mm_packs_epi16(a, b))
    OP2(PACKSSDW, _mm_packs_epi32(a, b))
    OP2(PACKUSWB, _mm_packus_epi16(a, b))
    OP2(PACKUSDW, _mm_packus_epi32(a, b))
    OP2(PSHUFB, _mm_shuffle_epi8(a, b))
    OPN(MOVDDUP, 8, _mm_unpacklo_epi64(b, b))
    OP2(MOVSHDUP, _mm_shuffle_epi32(b, 0xF5))
    OP2(MOVSLDUP, _mm_shuffle_epi32(b, 0xA0))
    OPX(PBLENDVB, _mm_blendv_epi8(a, b, c))
    OPX(BLENDVPS, _mm_blendv_ps(Ps(a), Ps(b), Ps(c)))
    OPX(BLENDVPD, _mm_blendv_pd(Pd(a), Pd(b), Pd(c)))
    IMM(SHUFPS, kShufps)
    IMM(SHUFPD, kShufpd)
    IMM(PSHUFD, kPshufd)
    IMM(PSHUFHW, kPshufhw)
    IMM(PSHUFLW, kPshuflw)
    IMM_SATURATED(PALIGNR, kPalignr)
    IMM(PBLENDW, kPblendw)
    IMM(BLENDPS, kBlendps)
    IMM(BLENDPD, kBlendpd)
    IMM(INSERTPS, kInsertps)
    FLAGS(PTEST, 16, false, &PtestFlags)

    // Integer arithmetic.
    OP2(PADDB, _mm_add_epi8(a, b))
    OP2(PADDW, _mm_add_epi16(a, b))
    OP2(PADDD, _mm_add_epi32(a, b))
    OP2(PADDQ, _mm_add_epi64(a, b))
    OP2(PSUBB, _mm_sub_epi8(a, b))
    OP2(PSUBW, _mm_sub_epi16(a, b))
    OP2(PSUBD, _mm_sub_epi32(a, b))
    OP2(PSUBQ, _mm_sub_epi64(a, b))
    OP2(PADDSB, _mm_adds_epi8(a, b))
    OP2(PADDSW, _mm_adds_epi16(a, b))
    OP2(PADDUSB, _mm_adds_epu8(a, b))
    OP2(PADDUSW, _mm_adds_epu16(a, b))
    OP2(PSUBSB, _mm_subs_epi8(a, b))
    OP2(PSUBSW, _mm_subs_epi16(a, b))
    OP2(PSUBUSB, _mm_subs_epu8(a, b))
    OP2(PSUBUSW, _mm_subs_epu16(a, b))
    OP2(PMULLW, _mm_mullo_epi16(a, b))
    OP2(PMULLD, _mm_mullo_epi32(a, b))
    OP2(PMULHW, _mm_mulhi_epi16(a, b))
    OP2(PMULHUW, _mm_mulhi_epu16(a, b))
    OP2(PMULHRSW, _mm_mulhrs_epi16(a, b))
    OP2(PMULUDQ, _mm_mul_epu32(a, b))
    OP2(PMULDQ, _mm_mul_epi32(a, b))
    OP2(PMADDWD, _mm_madd_epi16(a, b))
    OP2(PMADDUBSW, _mm_maddubs_epi16(a, b))
    OP2(PSADBW, _mm_sad_epu8(a, b))
    OP2(PAVGB, _mm_avg_epu8(a, b))
    OP2(PAVGW, _mm_avg_epu16(a, b))
    OP2(PMINUB, _mm_min_epu8(a, b))
    OP2(PMINUW, _mm_min_epu16(a, b))
    OP2(PMINUD, _mm_min_epu32(a, b))
    OP2(PMINSB, _mm_min_epi8(a, b))
    OP2(PMINSW, _mm_min_epi16(a, b))
    OP2(PMINSD, _mm_min_epi32(a, b))
    OP2(PMAXUB, _mm_max_epu8(a, b))
    OP2(PMAXUW, _mm_max_epu16(a, b))
    OP2(PMAXUD, _mm_max_epu32(a, b))
    OP2(PMAXSB, _mm_max_epi8(a, b))
    OP2(PMAXSW, _mm_max_epi16(a, b))
    OP2(PMAXSD, _mm_max_epi32(a, b))
    OP2(PCMPEQB, _mm_cmpeq_epi8(a, b))
    OP2(PCMPEQW, _mm_cmpeq_epi16(a, b))
    OP2(PCMPEQD, _mm_cmpeq_epi32(a, b))
    OP2(PCMPEQQ, _mm_cmpeq_epi64(a, b))
    OP2(PCMPGTB, _mm_cmpgt_epi8(a, b))
    OP2(PCMPGTW, _mm_cmpgt_epi16(a, b))
    OP2(PCMPGTD, _mm_cmpgt_epi32(a, b))
    OP2(PCMPGTQ, _mm_cmpgt_epi64(a, b))
    OP2(PABSB, _mm_abs_epi8(b))
    OP2(PABSW, _mm_abs_epi16(b))
    OP2(PABSD, _mm_abs_epi32(b))
    OP2(PSIGNB, _mm_sign_epi8(a, b))
    OP2(PSIGNW, _mm_sign_epi16(a, b))
    OP2(PSIGND, _mm_sign_epi32(a, b))
    OP2(PHADDW, _mm_hadd_epi16(a, b))
    OP2(PHADDD, _mm_hadd_epi32(a, b))
    OP2(PHADDSW, _mm_hadds_epi16(a, b))
    OP2(PHSUBW, _mm_hsub_epi16(a, b))
    OP2(PHSUBD, _mm_hsub_epi32(a, b))
    OP2(PHSUBSW, _mm_hsubs_epi16(a, b))
    OP2(PHMINPOSUW, _mm_minpos_epu16(b))
    OP2(PSLLW, _mm_sll_epi16(a, b))
    OP2(PSLLD, _mm_sll_epi32(a, b))
    OP2(PSLLQ, _mm_sll_epi64(a, b))
    OP2(PSRLW, _mm_srl_epi16(a, b))
    OP2(PSRLD, _mm_srl_epi32(a, b))
    OP2(PSRLQ, _mm_srl_epi64(a, b))
    OP2(PSRAW, _mm_sra_epi16(a, b))
    OP2(PSRAD, _mm_sra_epi32(a, b))
    OPN(PMOVSXBW, 8, _mm_cvtepi8_epi16(b))
    OPN(PMOVSXBD, 4, _mm_cvtepi8_epi32(b))
    OPN(PMOVSXBQ, 2, _mm_cvtepi8_epi64(b))
    OPN(PMOVSXWD, 8, _mm_cvtepi16_epi32(b))
    OPN(PMOVSXWQ, 4, _mm_cvtepi16_epi64(b))
    OPN(PMOVSXDQ, 8, _mm_cvtepi32_epi64(b))
    OPN(PMOVZXBW, 8, _mm_cvtepu8_epi16(b))
    OPN(PMOVZXBD, 4, _mm_cvtepu8_epi32(b))
    OPN(PMOVZXBQ, 2, _mm_cvtepu8_epi64(b))
    OPN(PMOVZXWD, 8, _mm_cvtepu16_epi32(b))
    OPN(PMOVZXWQ, 4, _mm_cvtepu16_epi64(b))
    OPN(PMOVZXDQ, 8, _mm_cvtepu32_epi64(b))
    IMM(MPSADBW, kMpsadbw)

    // Cryptography.
    OP2(AESENC, _mm_aesenc_si128(a, b))
    OP2(AESENCLAST, _mm_aesenclast_si128(a, b))
    OP2(AESDEC, _mm_aesdec_si128(a, b))
    OP2(AESDECLAST, _mm_aesdeclast_si128(a, b))
    OP2(AESIMC, _mm_aesimc_si128(b))
    IMM(AESKEYGENASSIST, kAeskeygenassist)
    OP2(SHA1NEXTE, _mm_sha1nexte_epu32(a, b))
    OP2(SHA1MSG1, _mm_sha1msg1_epu32(a, b))
    OP2(SHA1MSG2, _mm_sha1msg2_epu32(a, b))
    OP2(SHA256MSG1, _mm_sha256msg1_epu32(a, b))
    OP2(SHA256MSG2, _mm_sha256msg2_epu32(a, b))
    OPX(SHA256RNDS2, _mm_sha256rnds2_epu32(a, b, c))
    IMM(SHA1RNDS4, kSha1rnds4)
    case ZYDIS_MNEMONIC_PCLMULQDQ:
      return &kPclmulqdq[(imm & 1) | (imm >> 3 & 2)];
    default:
      return nullptr;
  }
}

const SseOp* FindSseShiftImm(ZydisMnemonic mnemonic, uint8_t imm) {
  switch (mnemonic) {
    IMM_SATURATED(PSLLW, kPsllwImm)
    IMM_SATURATED(PSLLD, kPslldImm)
    IMM_SATURATED(PSLLQ, kPsllqImm)
    IMM_SATURATED(PSRLW, kPsrlwImm)
    IMM_SATURATED(PSRLD, kPsrldImm)
    IMM_SATURATED(PSRLQ, kPsrlqImm)
    IMM_SATURATED(PSRAW, kPsrawImm)
    IMM_SATURATED(PSRAD, kPsradImm)
    IMM_SATURATED(PSLLDQ, kPslldqImm)
    IMM_SATURATED(PSRLDQ, kPsrldqImm)
    default:
      return nullptr;
  }
}

const SseOp* FindMmxOp(ZydisMnemonic mnemonic, uint8_t imm) {
  switch (mnemonic) {
    // The halves that an XMM instruction would take from bits 127:64.
    OPN(PUNPCKLBW, 4, _mm_unpacklo_epi8(a, b))
    OPN(PUNPCKLWD, 4, _mm_unpacklo_epi16(a, b))
    OPN(PUNPCKLDQ, 4, _mm_unpacklo_epi32(a, b))
    OPN(PUNPCKHBW, 8, _mm_srli_si128(_mm_unpacklo_epi8(a, b), 8))
    OPN(PUNPCKHWD, 8, _mm_srli_si128(_mm_unpacklo_epi16(a, b), 8))
    OPN(PUNPCKHDQ, 8, _mm_srli_si128(_mm_unpacklo_epi32(a, b), 8))
    OPN(PACKSSWB, 8, _mm_packs_epi16(Both(a, b), b))
    OPN(PACKSSDW, 8, _mm_packs_epi32(Both(a, b), b))
    OPN(PACKUSWB, 8, _mm_packus_epi16(Both(a, b), b))
    OPN(PSHUFB, 8, _mm_shuffle_epi8(a, _mm_and_si128(b, _mm_set1_epi8(static_cast<char>(0x87)))))
    OPN(PHADDW, 8, _mm_hadd_epi16(Both(a, b), b))
    OPN(PHADDD, 8, _mm_hadd_epi32(Both(a, b), b))
    OPN(PHADDSW, 8, _mm_hadds_epi16(Both(a, b), b))
    OPN(PHSUBW, 8, _mm_hsub_epi16(Both(a, b), b))
    OPN(PHSUBD, 8, _mm_hsub_epi32(Both(a, b), b))
    OPN(PHSUBSW, 8, _mm_hsubs_epi16(Both(a, b), b))
    IMM(PSHUFW, kPshufwMmx)
    IMM_SATURATED(PALIGNR, kPalignrMmx)
    // Lane by lane, the low half of the XMM form is the MMX form.
    case ZYDIS_MNEMONIC_PAND:
    case ZYDIS_MNEMONIC_PANDN:
    case ZYDIS_MNEMONIC_POR:
    case ZYDIS_MNEMONIC_PXOR:
    case ZYDIS_MNEMONIC_PADDB:
    case ZYDIS_MNEMONIC_PADDW:
    case ZYDIS_MNEMONIC_PADDD:
    case ZYDIS_MNEMONIC_PADDQ:
    case ZYDIS_MNEMONIC_PSUBB:
    case ZYDIS_MNEMONIC_PSUBW:
    case ZYDIS_MNEMONIC_PSUBD:
    case ZYDIS_MNEMONIC_PSUBQ:
    case ZYDIS_MNEMONIC_PADDSB:
    case ZYDIS_MNEMONIC_PADDSW:
    case ZYDIS_MNEMONIC_PADDUSB:
    case ZYDIS_MNEMONIC_PADDUSW:
    case ZYDIS_MNEMONIC_PSUBSB:
    case ZYDIS_MNEMONIC_PSUBSW:
    case ZYDIS_MNEMONIC_PSUBUSB:
    case ZYDIS_MNEMONIC_PSUBUSW:
    case ZYDIS_MNEMONIC_PMULLW:
    case ZYDIS_MNEMONIC_PMULHW:
    case ZYDIS_MNEMONIC_PMULHUW:
    case ZYDIS_MNEMONIC_PMULHRSW:
    case ZYDIS_MNEMONIC_PMULUDQ:
    case ZYDIS_MNEMONIC_PMADDWD:
    case ZYDIS_MNEMONIC_PMADDUBSW:
    case ZYDIS_MNEMONIC_PSADBW:
    case ZYDIS_MNEMONIC_PAVGB:
    case ZYDIS_MNEMONIC_PAVGW:
    case ZYDIS_MNEMONIC_PMINUB:
    case ZYDIS_MNEMONIC_PMINSW:
    case ZYDIS_MNEMONIC_PMAXUB:
    case ZYDIS_MNEMONIC_PMAXSW:
    case ZYDIS_MNEMONIC_PCMPEQB:
    case ZYDIS_MNEMONIC_PCMPEQW:
    case ZYDIS_MNEMONIC_PCMPEQD:
    case ZYDIS_MNEMONIC_PCMPGTB:
    case ZYDIS_MNEMONIC_PCMPGTW:
    case ZYDIS_MNEMONIC_PCMPGTD:
    case ZYDIS_MNEMONIC_PABSB:
    case ZYDIS_MNEMONIC_PABSW:
    case ZYDIS_MNEMONIC_PABSD:
    case ZYDIS_MNEMONIC_PSIGNB:
    case ZYDIS_MNEMONIC_PSIGNW:
    case ZYDIS_MNEMONIC_PSIGND:
    case ZYDIS_MNEMONIC_PSLLW:
    case ZYDIS_MNEMONIC_PSLLD:
    case ZYDIS_MNEMONIC_PSLLQ:
    case ZYDIS_MNEMONIC_PSRLW:
    case ZYDIS_MNEMONIC_PSRLD:
    case ZYDIS_MNEMONIC_PSRLQ:
    case ZYDIS_MNEMONIC_PSRAW:
    case ZYDIS_MNEMONIC_PSRAD:
      return FindSseOp(mnemonic, imm);
    default:
      return nullptr;
  }
}

StringCompare CompareStrings(__m128i first, __m128i second, bool explicit_lengths, int64_t length1, int64_t length2,
                             uint8_t imm) {
  const bool words = imm & 1, is_signed = imm & 2;
  const int count = words ? 8 : 16;
  alignas(16) uint8_t a[16], b[16];
  std::memcpy(a, &first, 16);
  std::memcpy(b, &second, 16);
  const auto element = [&](const uint8_t* from, int i) -> int32_t {
    if (words) {
      uint16_t value;
      std::memcpy(&value, from + 2 * i, 2);
      return is_signed ? static_cast<int16_t>(value) : value;
    }
    return is_signed ? static_cast<int8_t>(from[i]) : from[i];
  };
  const auto length = [&](const uint8_t* from, int64_t given) {
    if (explicit_lengths) {
      const uint64_t magnitude = given < 0 ? -static_cast<uint64_t>(given) : static_cast<uint64_t>(given);
      return static_cast<int>(std::min<uint64_t>(magnitude, count));
    }
    for (int i = 0; i < count; ++i) {
      if (element(from, i) == 0) return i;
    }
    return count;
  };
  const int la = length(a, length1), lb = length(b, length2);

  uint32_t result = 0;
  for (int j = 0; j < count; ++j) {
    bool bit = false;
    switch (imm >> 2 & 3) {
      case 0:  // equal any
        for (int i = 0; i < la && j < lb; ++i) bit |= element(a, i) == element(b, j);
        break;
      case 1:  // ranges
        for (int i = 0; i + 1 < la && j < lb; i += 2) {
          bit |= element(a, i) <= element(b, j) && element(b, j) <= element(a, i + 1);
        }
        break;
      case 2:  // equal each: two ends agree, an end and an element do not
        bit = j < la && j < lb ? element(a, j) == element(b, j) : j >= la && j >= lb;
        break;
      case 3:  // equal ordered: where the first string begins within the second
        bit = true;
        for (int i = 0; i < la && i + j < count && bit; ++i) bit = i + j < lb && element(a, i) == element(b, i + j);
        break;
    }
    result |= static_cast<uint32_t>(bit) << j;
  }
  const uint32_t all = (1u << count) - 1;
  if ((imm & 0x30) == 0x10) result ^= all;
  if ((imm & 0x30) == 0x30) result ^= (1u << lb) - 1;

  StringCompare compare{};
  if (result == 0) {
    compare.index = static_cast<uint32_t>(count);
  } else {
    compare.index = static_cast<uint32_t>(imm & 0x40 ? 31 - __builtin_clz(result) : __builtin_ctz(result));
  }
  alignas(16) uint8_t mask[16] = {};
  if (imm & 0x40) {
    for (int i = 0; i < 16; ++i) mask[i] = result >> (words ? i / 2 : i) & 1 ? 0xFF : 0;
  } else {
    std::memcpy(mask, &result, 2);
  }
  std::memcpy(&compare.mask, mask, 16);
  constexpr uint32_t kSf = 0x80, kOf = 0x800;
  compare.rflags = (result != 0 ? kCf : 0) | (lb < count ? kZf : 0) | (la < count ? kSf : 0) | (result & 1 ? kOf : 0);
  return compare;
}

}  // namespace hvsdk::software
