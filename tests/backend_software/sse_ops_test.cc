// SPDX-License-Identifier: Apache-2.0
#include "backend_software/vector/sse_ops.h"

#include <immintrin.h>

#include <array>
#include <cstring>
#include <random>
#include <utility>

#include "gtest/gtest.h"
#include "tests/random_seed.h"

namespace hvsdk::software {
namespace {

struct Native {
  uint32_t index;
  __m128i mask;
  uint32_t rflags;
};

template <int kImm>
Native Explicit(__m128i a, __m128i b, int la, int lb) {
  return {static_cast<uint32_t>(_mm_cmpestri(a, la, b, lb, kImm)), _mm_cmpestrm(a, la, b, lb, kImm),
          static_cast<uint32_t>(_mm_cmpestrc(a, la, b, lb, kImm) | _mm_cmpestrz(a, la, b, lb, kImm) << 6 |
                                _mm_cmpestrs(a, la, b, lb, kImm) << 7 | _mm_cmpestro(a, la, b, lb, kImm) << 11)};
}
template <int kImm>
Native Implicit(__m128i a, __m128i b, int, int) {
  return {static_cast<uint32_t>(_mm_cmpistri(a, b, kImm)), _mm_cmpistrm(a, b, kImm),
          static_cast<uint32_t>(_mm_cmpistrc(a, b, kImm) | _mm_cmpistrz(a, b, kImm) << 6 |
                                _mm_cmpistrs(a, b, kImm) << 7 | _mm_cmpistro(a, b, kImm) << 11)};
}
struct NativeFunction {
  Native (*call)(__m128i, __m128i, int, int);
};
template <size_t... kImms>
constexpr std::array<NativeFunction, 128> ExplicitTable(std::index_sequence<kImms...>) {
  return {{NativeFunction{&Explicit<kImms>}...}};
}
template <size_t... kImms>
constexpr std::array<NativeFunction, 128> ImplicitTable(std::index_sequence<kImms...>) {
  return {{NativeFunction{&Implicit<kImms>}...}};
}

TEST(SseOpsTest, StringComparisonsAgreeWithTheHost) {
  if (!__builtin_cpu_supports("sse4.2")) GTEST_SKIP() << "the host has no SSE4.2";
  constexpr auto explicit_table = ExplicitTable(std::make_index_sequence<128>{});
  constexpr auto implicit_table = ImplicitTable(std::make_index_sequence<128>{});
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  for (int step = 0; step < 100'000; ++step) {
    const int imm = random() % 128;
    alignas(16) uint8_t bytes[2][16];
    const int alphabet = step % 2 == 0 ? 3 : 256;  // few symbols make matches likely
    for (auto& string : bytes) {
      for (auto& byte : string) byte = static_cast<uint8_t>(random() % alphabet);
    }
    const __m128i a = _mm_load_si128(reinterpret_cast<__m128i*>(bytes[0]));
    const __m128i b = _mm_load_si128(reinterpret_cast<__m128i*>(bytes[1]));
    const int la = static_cast<int>(random() % 40) - 20, lb = static_cast<int>(random() % 40) - 20;
    for (bool is_explicit : {true, false}) {
      const Native native = (is_explicit ? explicit_table : implicit_table)[imm].call(a, b, la, lb);
      const StringCompare ours = CompareStrings(a, b, is_explicit, la, lb, static_cast<uint8_t>(imm));
      ASSERT_EQ(ours.index, native.index) << "imm " << imm << " explicit " << is_explicit;
      ASSERT_EQ(std::memcmp(&ours.mask, &native.mask, 16), 0) << "imm " << imm;
      ASSERT_EQ(ours.rflags, native.rflags) << "imm " << imm << " explicit " << is_explicit;
    }
  }
}

// The MMX forms that are not the low half of the XMM form, against the MMX instructions themselves.
TEST(SseOpsTest, MmxFormsAgreeWithTheHost) {
  const uint32_t seed = TestSeed();
  std::mt19937_64 random(seed);
  const auto run = [](ZydisMnemonic mnemonic, uint8_t imm, uint64_t a, uint64_t b) {
    const SseOp* op = FindMmxOp(mnemonic, imm);
    return static_cast<uint64_t>(_mm_cvtsi128_si64(
        op->op(_mm_cvtsi64_si128(static_cast<int64_t>(a)), _mm_cvtsi64_si128(static_cast<int64_t>(b)))));
  };
#define AGREES(name, text)                                                        \
  {                                                                               \
    uint64_t native;                                                              \
    asm volatile("movq %1, %%mm0; movq %2, %%mm1; " text "; movq %%mm0, %0; emms" \
                 : "=r"(native)                                                   \
                 : "r"(a), "r"(b)                                                 \
                 : "mm0", "mm1");                                                 \
    ASSERT_EQ(run(ZYDIS_MNEMONIC_##name, 0x5B & 15, a, b), native) << #name;      \
  }
  for (int step = 0; step < 10'000; ++step) {
    const uint64_t a = random(), b = random();
    AGREES(PUNPCKLBW, "punpcklbw %%mm1, %%mm0")
    AGREES(PUNPCKHBW, "punpckhbw %%mm1, %%mm0")
    AGREES(PUNPCKLWD, "punpcklwd %%mm1, %%mm0")
    AGREES(PUNPCKHWD, "punpckhwd %%mm1, %%mm0")
    AGREES(PUNPCKLDQ, "punpckldq %%mm1, %%mm0")
    AGREES(PUNPCKHDQ, "punpckhdq %%mm1, %%mm0")
    AGREES(PACKSSWB, "packsswb %%mm1, %%mm0")
    AGREES(PACKSSDW, "packssdw %%mm1, %%mm0")
    AGREES(PACKUSWB, "packuswb %%mm1, %%mm0")
    AGREES(PSHUFB, "pshufb %%mm1, %%mm0")
    AGREES(PHADDW, "phaddw %%mm1, %%mm0")
    AGREES(PHADDD, "phaddd %%mm1, %%mm0")
    AGREES(PHADDSW, "phaddsw %%mm1, %%mm0")
    AGREES(PHSUBW, "phsubw %%mm1, %%mm0")
    AGREES(PHSUBD, "phsubd %%mm1, %%mm0")
    AGREES(PHSUBSW, "phsubsw %%mm1, %%mm0")
    AGREES(PSHUFW, "pshufw $11, %%mm1, %%mm0")
    AGREES(PALIGNR, "palignr $11, %%mm1, %%mm0")
    AGREES(PMADDUBSW, "pmaddubsw %%mm1, %%mm0")
    AGREES(PSADBW, "psadbw %%mm1, %%mm0")
    AGREES(PMULUDQ, "pmuludq %%mm1, %%mm0")
  }
#undef AGREES
}

TEST(SseOpsTest, ComparisonsGiveTheFlagsOfTheManual) {
  const auto flags = [](double a, double b) {
    return FindSseOp(ZYDIS_MNEMONIC_UCOMISD, 0)
        ->flags_op(_mm_castpd_si128(_mm_set_sd(a)), _mm_castpd_si128(_mm_set_sd(b)));
  };
  EXPECT_EQ(flags(1, 2), 0x01u);
  EXPECT_EQ(flags(2, 1), 0x00u);
  EXPECT_EQ(flags(2, 2), 0x40u);
  EXPECT_EQ(flags(__builtin_nan(""), 1), 0x45u);
}

}  // namespace
}  // namespace hvsdk::software
