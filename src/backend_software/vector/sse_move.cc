// SPDX-License-Identifier: Apache-2.0
// SSE and MMX instructions that move: whole registers and parts of them, to and from memory and general registers, and
// the conversions between numbers in general or MMX registers and floating point.
#include <smmintrin.h>

#include "backend_software/vector/fpu.h"

namespace hvsdk::software {
namespace {

__m128i FromU64(uint64_t value) { return _mm_cvtsi64_si128(static_cast<int64_t>(value)); }
uint64_t LowOf(__m128i value) { return static_cast<uint64_t>(_mm_cvtsi128_si64(value)); }

// ---- whole registers ----

const Op* MoveRegReg(Cpu& c, const Op* op) {
  SetVector(c, op->a, GetVector(c, op->b));
  HVSDK_NEXT(op + 1);
}
template <bool kAligned>
const Op* MoveRegMem(Cpu& c, const Op* op) {
  SetVector(c, op->a, LoadVector<kAligned>(c, op, Address<false>(c, op, 16, false)));
  HVSDK_NEXT(op + 1);
}
template <bool kAligned>
const Op* MoveMemReg(Cpu& c, const Op* op) {
  StoreVector<kAligned>(c, op, Address<false>(c, op, 16, true), GetVector(c, op->b));
  HVSDK_NEXT(op + 1);
}

template <bool kAligned>
bool TranslateMove(Insn& in, Op& op) {
  if (UnitMissing(in, op, Unit::kSse)) return true;
  if (in.IsMem(0)) {
    op.b = XmmOffset(in.o[1]);
    SetMemory(in, in.o[0], op);
    op.handler = &MoveMemReg<kAligned>;
    return true;
  }
  op.a = XmmOffset(in.o[0]);
  if (in.IsMem(1)) {
    SetMemory(in, in.o[1], op);
    op.handler = &MoveRegMem<kAligned>;
  } else {
    op.b = XmmOffset(in.o[1]);
    op.handler = &MoveRegReg;
  }
  return true;
}

// ---- low parts: MOVSS, MOVSD, MOVQ, MOVD ----

template <typename T>
const Op* LoadLow(Cpu& c, const Op* op) {  // the rest becomes zero
  SetVector(c, op->a, FromU64(Load<T>(c, op, Address<false>(c, op, sizeof(T), false))));
  HVSDK_NEXT(op + 1);
}
template <typename T, int kAt>
const Op* StorePart(Cpu& c, const Op* op) {
  T value;
  std::memcpy(&value, c.XmmAt(op->b).bytes + kAt, sizeof(T));
  Store<T>(c, op, Address<false>(c, op, sizeof(T), true), value);
  HVSDK_NEXT(op + 1);
}
template <typename T, int kFrom, int kTo>
const Op* CopyPart(Cpu& c, const Op* op) {  // the rest stays
  std::memcpy(c.XmmAt(op->a).bytes + kTo, c.XmmAt(op->b).bytes + kFrom, sizeof(T));
  HVSDK_NEXT(op + 1);
}
template <int kTo>
const Op* LoadHalf(Cpu& c, const Op* op) {
  const uint64_t value = Load<uint64_t>(c, op, Address<false>(c, op, 8, false));
  std::memcpy(c.XmmAt(op->a).bytes + kTo, &value, 8);
  HVSDK_NEXT(op + 1);
}
const Op* CopyLowQuad(Cpu& c, const Op* op) {
  SetVector(c, op->a, _mm_move_epi64(GetVector(c, op->b)));
  HVSDK_NEXT(op + 1);
}
template <typename T>
const Op* LowFromGeneral(Cpu& c, const Op* op) {
  SetVector(c, op->a, FromU64(c.Get<T>(op->b)));
  HVSDK_NEXT(op + 1);
}
template <typename T>
const Op* GeneralFromLow(Cpu& c, const Op* op) {
  c.Set<T>(op->a, static_cast<T>(c.XmmAt(op->b).low()));
  HVSDK_NEXT(op + 1);
}

template <typename T>
bool TranslateScalarMove(Insn& in, Op& op) {
  if (UnitMissing(in, op, Unit::kSse)) return true;
  if (in.IsMem(0)) {
    op.b = XmmOffset(in.o[1]);
    SetMemory(in, in.o[0], op);
    op.handler = &StorePart<T, 0>;
  } else if (in.IsMem(1)) {
    op.a = XmmOffset(in.o[0]);
    SetMemory(in, in.o[1], op);
    op.handler = &LoadLow<T>;
  } else {
    op.a = XmmOffset(in.o[0]);
    op.b = XmmOffset(in.o[1]);
    op.handler = &CopyPart<T, 0, 0>;
  }
  return true;
}

// MOVNTI, which is SSE2's but stores a general register. Nothing here is cached, so it is a plain store.
template <typename T>
const Op* StoreGeneral(Cpu& c, const Op* op) {
  Store<T>(c, op, Address<false>(c, op, sizeof(T), true), c.Get<T>(op->b));
  return op + 1;
}
bool TranslateMovnti(Insn& in, Op& op) {
  SetMemory(in, in.o[0], op);
  op.b = RegisterOffset(in.o[1].reg.value);
  op.handler = in.o[1].size == 64 ? &StoreGeneral<uint64_t> : &StoreGeneral<uint32_t>;
  return true;
}

// ---- MMX ----

template <typename T>
const Op* MmxFromMemory(Cpu& c, const Op* op) {
  CheckX87Pending(c, op);
  const uint64_t value = Load<T>(c, op, Address<false>(c, op, sizeof(T), false));
  c.x87.EnterMmx();
  SetMmx(c, op->a, value);
  return op + 1;
}
template <typename T>
const Op* MmxToMemory(Cpu& c, const Op* op) {
  CheckX87Pending(c, op);
  Store<T>(c, op, Address<false>(c, op, sizeof(T), true), static_cast<T>(GetMmx(c, op->b)));
  c.x87.EnterMmx();
  return op + 1;
}
const Op* MmxFromMmx(Cpu& c, const Op* op) {
  CheckX87Pending(c, op);
  c.x87.EnterMmx();
  SetMmx(c, op->a, GetMmx(c, op->b));
  return op + 1;
}
template <typename T>
const Op* MmxFromGeneral(Cpu& c, const Op* op) {
  CheckX87Pending(c, op);
  c.x87.EnterMmx();
  SetMmx(c, op->a, c.Get<T>(op->b));
  return op + 1;
}
template <typename T>
const Op* GeneralFromMmx(Cpu& c, const Op* op) {
  CheckX87Pending(c, op);
  c.x87.EnterMmx();
  c.Set<T>(op->a, static_cast<T>(GetMmx(c, op->b)));
  return op + 1;
}
const Op* MmxFromXmm(Cpu& c, const Op* op) {
  CheckX87Pending(c, op);
  c.x87.EnterMmx();
  SetMmx(c, op->a, c.XmmAt(op->b).low());
  return op + 1;
}
const Op* XmmFromMmx(Cpu& c, const Op* op) {
  CheckX87Pending(c, op);
  c.x87.EnterMmx();
  SetVector(c, op->a, FromU64(GetMmx(c, op->b)));
  return op + 1;
}

// MOVD and MOVQ among memory, general, MMX and XMM registers.
template <typename T>
bool TranslateMoveDouble(Insn& in, Op& op) {
  const bool mmx = IsMmx(in.o[0]) || IsMmx(in.o[1]);
  if (UnitMissing(in, op, mmx ? Unit::kMmx : Unit::kSse)) return true;
  if (in.IsMem(0)) {
    SetMemory(in, in.o[0], op);
    op.b = mmx ? MmxIndex(in.o[1]) : XmmOffset(in.o[1]);
    op.handler = mmx ? &MmxToMemory<T> : &StorePart<T, 0>;
    return true;
  }
  if (in.IsMem(1)) {
    SetMemory(in, in.o[1], op);
    op.a = mmx ? MmxIndex(in.o[0]) : XmmOffset(in.o[0]);
    op.handler = mmx ? &MmxFromMemory<T> : &LoadLow<T>;
    return true;
  }
  const bool to_general = !IsMmx(in.o[0]) && !IsXmm(in.o[0]);
  const bool from_general = !IsMmx(in.o[1]) && !IsXmm(in.o[1]);
  if (to_general) {
    op.a = RegisterOffset(in.o[0].reg.value);
    op.b = mmx ? MmxIndex(in.o[1]) : XmmOffset(in.o[1]);
    op.handler = mmx ? &GeneralFromMmx<T> : &GeneralFromLow<T>;
  } else if (from_general) {
    op.a = mmx ? MmxIndex(in.o[0]) : XmmOffset(in.o[0]);
    op.b = RegisterOffset(in.o[1].reg.value);
    op.handler = mmx ? &MmxFromGeneral<T> : &LowFromGeneral<T>;
  } else if (mmx) {
    op.a = MmxIndex(in.o[0]);
    op.b = MmxIndex(in.o[1]);
    op.handler = &MmxFromMmx;
  } else {
    op.a = XmmOffset(in.o[0]);
    op.b = XmmOffset(in.o[1]);
    op.handler = &CopyLowQuad;
  }
  return true;
}

bool TranslateMoveBetween(Insn& in, Op& op) {  // MOVDQ2Q, MOVQ2DQ
  if (UnitMissing(in, op, Unit::kSse)) return true;
  if (IsMmx(in.o[0])) {
    op.a = MmxIndex(in.o[0]);
    op.b = XmmOffset(in.o[1]);
    op.handler = &MmxFromXmm;
  } else {
    op.a = XmmOffset(in.o[0]);
    op.b = MmxIndex(in.o[1]);
    op.handler = &XmmFromMmx;
  }
  return true;
}

bool TranslateMmxStore(Insn& in, Op& op) {  // MOVNTQ
  if (UnitMissing(in, op, Unit::kMmx)) return true;
  SetMemory(in, in.o[0], op);
  op.b = MmxIndex(in.o[1]);
  op.handler = &MmxToMemory<uint64_t>;
  return true;
}

// ---- halves: MOVLPS, MOVHPS and their kin ----

template <int kHalf>
bool TranslateHalf(Insn& in, Op& op) {
  if (UnitMissing(in, op, Unit::kSse)) return true;
  if (in.IsMem(0)) {
    op.b = XmmOffset(in.o[1]);
    SetMemory(in, in.o[0], op);
    op.handler = &StorePart<uint64_t, kHalf>;
  } else {
    op.a = XmmOffset(in.o[0]);
    SetMemory(in, in.o[1], op);
    op.handler = &LoadHalf<kHalf>;
  }
  return true;
}
template <int kFrom, int kTo>
bool TranslateCross(Insn& in, Op& op) {  // MOVHLPS, MOVLHPS
  if (UnitMissing(in, op, Unit::kSse)) return true;
  op.a = XmmOffset(in.o[0]);
  op.b = XmmOffset(in.o[1]);
  op.handler = &CopyPart<uint64_t, kFrom, kTo>;
  return true;
}

// ---- masks ----

enum class MaskKind { kBytes, kSingles, kDoubles };
template <MaskKind kKind>
const Op* Mask(Cpu& c, const Op* op) {
  const __m128i value = GetVector(c, op->b);
  int mask;
  if constexpr (kKind == MaskKind::kBytes) mask = _mm_movemask_epi8(value);
  if constexpr (kKind == MaskKind::kSingles) mask = _mm_movemask_ps(_mm_castsi128_ps(value));
  if constexpr (kKind == MaskKind::kDoubles) mask = _mm_movemask_pd(_mm_castsi128_pd(value));
  c.Set<uint32_t>(op->a, static_cast<uint32_t>(mask));
  HVSDK_NEXT(op + 1);
}
const Op* MaskMmx(Cpu& c, const Op* op) {
  CheckX87Pending(c, op);
  c.x87.EnterMmx();
  c.Set<uint32_t>(op->a, static_cast<uint32_t>(_mm_movemask_epi8(FromU64(GetMmx(c, op->b)))));
  return op + 1;
}
template <MaskKind kKind>
bool TranslateMask(Insn& in, Op& op) {
  const bool mmx = IsMmx(in.o[1]);
  if (UnitMissing(in, op, mmx ? Unit::kMmx : Unit::kSse)) return true;
  op.a = RegisterOffset(in.o[0].reg.value);
  op.b = mmx ? MmxIndex(in.o[1]) : XmmOffset(in.o[1]);
  op.handler = mmx ? &MaskMmx : &Mask<kKind>;
  return true;
}

// MASKMOVDQU and MASKMOVQ: bytes whose mask bit is set go to DS:RDI. Op's memory operand is [RDI].
template <bool kMmx>
const Op* MaskedStore(Cpu& c, const Op* op) {
  constexpr int kBytes = kMmx ? 8 : 16;
  uint8_t data[16], mask[16];
  if constexpr (kMmx) {
    CheckX87Pending(c, op);
    c.x87.EnterMmx();
    const uint64_t values[2] = {GetMmx(c, op->a), GetMmx(c, op->b)};
    std::memcpy(data, &values[0], 8);
    std::memcpy(mask, &values[1], 8);
  } else {
    std::memcpy(data, c.XmmAt(op->a).bytes, 16);
    std::memcpy(mask, c.XmmAt(op->b).bytes, 16);
  }
  const uint64_t linear = Address<false>(c, op, kBytes, true);
  // All or nothing, and the whole range counts, as on AMD's processors.
  c.ProbeWrite(op, linear, kBytes);
  for (int i = 0; i < kBytes; ++i) {
    if (mask[i] & 0x80) Store<uint8_t>(c, op, linear + static_cast<uint64_t>(i), data[i]);
  }
  return op + 1;
}
bool TranslateMaskedStore(Insn& in, Op& op) {
  const bool mmx = IsMmx(in.o[0]);
  if (UnitMissing(in, op, mmx ? Unit::kMmx : Unit::kSse)) return true;
  // The address is implicit, so it is spelled out here: DS (or an override), RDI at the address size.
  ZydisDecodedOperand memory{};
  memory.type = ZYDIS_OPERAND_TYPE_MEMORY;
  memory.mem.base = in.z.address_width == 64   ? ZYDIS_REGISTER_RDI
                    : in.z.address_width == 32 ? ZYDIS_REGISTER_EDI
                                               : ZYDIS_REGISTER_DI;
  memory.mem.segment = in.z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS   ? ZYDIS_REGISTER_FS
                       : in.z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS ? ZYDIS_REGISTER_GS
                       : in.z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_ES ? ZYDIS_REGISTER_ES
                       : in.z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_SS ? ZYDIS_REGISTER_SS
                       : in.z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS ? ZYDIS_REGISTER_CS
                                                                       : ZYDIS_REGISTER_DS;
  SetMemory(in, memory, op);
  op.a = mmx ? MmxIndex(in.o[0]) : XmmOffset(in.o[0]);
  op.b = mmx ? MmxIndex(in.o[1]) : XmmOffset(in.o[1]);
  op.handler = mmx ? &MaskedStore<true> : &MaskedStore<false>;
  return true;
}

// ---- inserts and extracts; extra is the byte offset of the element ----

template <typename T>
const Op* InsertFromGeneral(Cpu& c, const Op* op) {
  const T value = c.Get<T>(op->b);
  std::memcpy(c.XmmAt(op->a).bytes + op->extra, &value, sizeof(T));
  HVSDK_NEXT(op + 1);
}
template <typename T>
const Op* InsertFromMemory(Cpu& c, const Op* op) {
  const T value = Load<T>(c, op, Address<false>(c, op, sizeof(T), false));
  std::memcpy(c.XmmAt(op->a).bytes + op->extra, &value, sizeof(T));
  return op + 1;
}
template <typename T>
const Op* ExtractToGeneral(Cpu& c, const Op* op) {
  T value;
  std::memcpy(&value, c.XmmAt(op->b).bytes + op->extra, sizeof(T));
  c.Set<uint64_t>(op->a, value);
  HVSDK_NEXT(op + 1);
}
template <typename T>
const Op* ExtractToMemory(Cpu& c, const Op* op) {
  T value;
  std::memcpy(&value, c.XmmAt(op->b).bytes + op->extra, sizeof(T));
  Store<T>(c, op, Address<false>(c, op, sizeof(T), true), value);
  return op + 1;
}
template <bool kMemory>
const Op* InsertMmx(Cpu& c, const Op* op) {
  CheckX87Pending(c, op);
  uint64_t word;
  if constexpr (kMemory) {
    word = Load<uint16_t>(c, op, Address<false>(c, op, 2, false));
  } else {
    word = c.Get<uint16_t>(op->b);
  }
  c.x87.EnterMmx();
  const int shift = op->extra * 8;
  SetMmx(c, op->a, (GetMmx(c, op->a) & ~(uint64_t{0xFFFF} << shift)) | word << shift);
  return op + 1;
}
const Op* ExtractMmx(Cpu& c, const Op* op) {
  CheckX87Pending(c, op);
  c.x87.EnterMmx();
  c.Set<uint64_t>(op->a, GetMmx(c, op->b) >> (op->extra * 8) & 0xFFFF);
  return op + 1;
}

uint8_t ElementOffset(const Insn& in, int size, int total) {
  return static_cast<uint8_t>((in.o[2].imm.value.u * size) & (total - 1));
}
template <typename T>
bool TranslateInsert(Insn& in, Op& op) {
  const bool mmx = IsMmx(in.o[0]);
  if (UnitMissing(in, op, mmx ? Unit::kMmx : Unit::kSse)) return true;
  op.extra = ElementOffset(in, sizeof(T), mmx ? 8 : 16);
  op.a = mmx ? MmxIndex(in.o[0]) : XmmOffset(in.o[0]);
  if (in.IsMem(1)) {
    SetMemory(in, in.o[1], op);
    op.handler = mmx ? &InsertMmx<true> : &InsertFromMemory<T>;
  } else {
    op.b = RegisterOffset(in.o[1].reg.value);
    op.handler = mmx ? &InsertMmx<false> : &InsertFromGeneral<T>;
  }
  return true;
}
template <typename T>
bool TranslateExtract(Insn& in, Op& op) {
  const bool mmx = IsMmx(in.o[1]);
  if (UnitMissing(in, op, mmx ? Unit::kMmx : Unit::kSse)) return true;
  op.extra = ElementOffset(in, sizeof(T), mmx ? 8 : 16);
  op.b = mmx ? MmxIndex(in.o[1]) : XmmOffset(in.o[1]);
  if (in.IsMem(0)) {
    SetMemory(in, in.o[0], op);
    op.handler = &ExtractToMemory<T>;
  } else {
    op.a = RegisterOffset(in.o[0].reg.value);
    op.handler = mmx ? &ExtractMmx : &ExtractToGeneral<T>;
  }
  return true;
}

// ---- conversions ----

template <typename Integer, bool kDouble, bool kMemory>
const Op* FloatFromInteger(Cpu& c, const Op* op) {
  Integer value;
  if constexpr (kMemory) {
    value =
        static_cast<Integer>(Load<std::make_unsigned_t<Integer>>(c, op, Address<false>(c, op, sizeof(Integer), false)));
  } else {
    value = c.Get<Integer>(op->b);
  }
  const __m128i before = GetVector(c, op->a);
  SetVector(c, op->a, Floating(c, op, [&]() -> __m128i {
              if constexpr (kDouble) {
                if constexpr (sizeof(Integer) == 8)
                  return _mm_castpd_si128(_mm_cvtsi64_sd(_mm_castsi128_pd(before), value));
                return _mm_castpd_si128(_mm_cvtsi32_sd(_mm_castsi128_pd(before), static_cast<int>(value)));
              } else {
                if constexpr (sizeof(Integer) == 8)
                  return _mm_castps_si128(_mm_cvtsi64_ss(_mm_castsi128_ps(before), value));
                return _mm_castps_si128(_mm_cvtsi32_ss(_mm_castsi128_ps(before), static_cast<int>(value)));
              }
            }));
  return op + 1;
}
template <bool kDouble>
bool TranslateFloatFromInteger(Insn& in, Op& op) {
  if (UnitMissing(in, op, Unit::kSse)) return true;
  op.a = XmmOffset(in.o[0]);
  const bool wide = in.o[1].size == 64;
  if (in.IsMem(1)) {
    SetMemory(in, in.o[1], op);
    op.handler = wide ? &FloatFromInteger<int64_t, kDouble, true> : &FloatFromInteger<int32_t, kDouble, true>;
  } else {
    op.b = RegisterOffset(in.o[1].reg.value);
    op.handler = wide ? &FloatFromInteger<int64_t, kDouble, false> : &FloatFromInteger<int32_t, kDouble, false>;
  }
  return true;
}

template <typename Integer, bool kDouble, bool kTruncate, bool kMemory>
const Op* IntegerFromFloat(Cpu& c, const Op* op) {
  __m128i source;
  if constexpr (kMemory) {
    source = LoadOperand < kDouble ? 8 : 4 > (c, op);
  } else {
    source = GetVector(c, op->b);
  }
  const Integer value = Floating(c, op, [&]() -> Integer {
    if constexpr (kDouble) {
      const __m128d pd = _mm_castsi128_pd(source);
      if constexpr (sizeof(Integer) == 8) return kTruncate ? _mm_cvttsd_si64(pd) : _mm_cvtsd_si64(pd);
      return static_cast<Integer>(kTruncate ? _mm_cvttsd_si32(pd) : _mm_cvtsd_si32(pd));
    } else {
      const __m128 ps = _mm_castsi128_ps(source);
      if constexpr (sizeof(Integer) == 8) return kTruncate ? _mm_cvttss_si64(ps) : _mm_cvtss_si64(ps);
      return static_cast<Integer>(kTruncate ? _mm_cvttss_si32(ps) : _mm_cvtss_si32(ps));
    }
  });
  c.Set<std::make_unsigned_t<Integer>>(op->a, static_cast<std::make_unsigned_t<Integer>>(value));
  return op + 1;
}
template <bool kDouble, bool kTruncate>
bool TranslateIntegerFromFloat(Insn& in, Op& op) {
  if (UnitMissing(in, op, Unit::kSse)) return true;
  op.a = RegisterOffset(in.o[0].reg.value);
  const bool wide = in.o[0].size == 64;
  if (in.IsMem(1)) {
    SetMemory(in, in.o[1], op);
    op.handler = wide ? &IntegerFromFloat<int64_t, kDouble, kTruncate, true>
                      : &IntegerFromFloat<int32_t, kDouble, kTruncate, true>;
  } else {
    op.b = XmmOffset(in.o[1]);
    op.handler = wide ? &IntegerFromFloat<int64_t, kDouble, kTruncate, false>
                      : &IntegerFromFloat<int32_t, kDouble, kTruncate, false>;
  }
  return true;
}

// Two packed numbers between MMX and XMM registers.
template <bool kDouble, bool kMemory>
const Op* FloatFromMmx(Cpu& c, const Op* op) {
  uint64_t integers;
  // With a memory operand no MMX register is touched, and the x87 stack is left alone.
  constexpr bool kUsesMmx = !kMemory;
  if constexpr (kUsesMmx) CheckX87Pending(c, op);
  if constexpr (kMemory)
    integers = Load<uint64_t>(c, op, Address<false>(c, op, 8, false));
  else
    integers = GetMmx(c, op->b);
  if constexpr (kUsesMmx) c.x87.EnterMmx();  // even if #XM follows
  const __m128i before = GetVector(c, op->a);
  const __m128i result = Floating(c, op, [&]() -> __m128i {
    if constexpr (kDouble) return _mm_castpd_si128(_mm_cvtepi32_pd(FromU64(integers)));
    const __m128i singles = _mm_castps_si128(_mm_cvtepi32_ps(FromU64(integers)));
    return _mm_unpacklo_epi64(singles, _mm_unpackhi_epi64(before, before));
  });
  SetVector(c, op->a, result);
  return op + 1;
}
template <bool kDouble>
bool TranslateFloatFromMmx(Insn& in, Op& op) {
  if (UnitMissing(in, op, Unit::kSse)) return true;
  op.a = XmmOffset(in.o[0]);
  if (in.IsMem(1)) {
    SetMemory(in, in.o[1], op);
    op.handler = &FloatFromMmx<kDouble, true>;
  } else {
    op.b = MmxIndex(in.o[1]);
    op.handler = &FloatFromMmx<kDouble, false>;
  }
  return true;
}
template <bool kDouble, bool kTruncate, bool kMemory>
const Op* MmxFromFloat(Cpu& c, const Op* op) {
  CheckX87Pending(c, op);
  __m128i source;
  if constexpr (kMemory) {
    source = LoadOperand < kDouble ? 16 : 8 > (c, op);
  } else {
    source = GetVector(c, op->b);
    // The upper half is not converted, hence may not raise an exception.
    if constexpr (!kDouble) source = _mm_move_epi64(source);
  }
  c.x87.EnterMmx();  // even if #XM follows
  const __m128i result = Floating(c, op, [&]() -> __m128i {
    if constexpr (kDouble)
      return kTruncate ? _mm_cvttpd_epi32(_mm_castsi128_pd(source)) : _mm_cvtpd_epi32(_mm_castsi128_pd(source));
    return kTruncate ? _mm_cvttps_epi32(_mm_castsi128_ps(source)) : _mm_cvtps_epi32(_mm_castsi128_ps(source));
  });
  SetMmx(c, op->a, LowOf(result));
  return op + 1;
}
template <bool kDouble, bool kTruncate>
bool TranslateMmxFromFloat(Insn& in, Op& op) {
  if (UnitMissing(in, op, Unit::kSse)) return true;
  op.a = MmxIndex(in.o[0]);
  if (in.IsMem(1)) {
    SetMemory(in, in.o[1], op);
    op.handler = &MmxFromFloat<kDouble, kTruncate, true>;
  } else {
    op.b = XmmOffset(in.o[1]);
    op.handler = &MmxFromFloat<kDouble, kTruncate, false>;
  }
  return true;
}

}  // namespace

bool TranslateSseMovsd(Insn& in, Op& op) { return TranslateScalarMove<uint64_t>(in, op); }

void RegisterSseMove(TranslatorTable& table) {
  for (ZydisMnemonic mnemonic :
       {ZYDIS_MNEMONIC_MOVAPS, ZYDIS_MNEMONIC_MOVAPD, ZYDIS_MNEMONIC_MOVDQA, ZYDIS_MNEMONIC_MOVNTPS,
        ZYDIS_MNEMONIC_MOVNTPD, ZYDIS_MNEMONIC_MOVNTDQ, ZYDIS_MNEMONIC_MOVNTDQA}) {
    table.Set(mnemonic, &TranslateMove<true>);
  }
  for (ZydisMnemonic mnemonic :
       {ZYDIS_MNEMONIC_MOVUPS, ZYDIS_MNEMONIC_MOVUPD, ZYDIS_MNEMONIC_MOVDQU, ZYDIS_MNEMONIC_LDDQU}) {
    table.Set(mnemonic, &TranslateMove<false>);
  }
  table.Set(ZYDIS_MNEMONIC_MOVSS, &TranslateScalarMove<uint32_t>);
  table.Set(ZYDIS_MNEMONIC_MOVD, &TranslateMoveDouble<uint32_t>);
  table.Set(ZYDIS_MNEMONIC_MOVQ, &TranslateMoveDouble<uint64_t>);
  table.Set(ZYDIS_MNEMONIC_MOVDQ2Q, &TranslateMoveBetween);
  table.Set(ZYDIS_MNEMONIC_MOVQ2DQ, &TranslateMoveBetween);
  table.Set(ZYDIS_MNEMONIC_MOVNTQ, &TranslateMmxStore);
  table.Set(ZYDIS_MNEMONIC_MOVNTI, &TranslateMovnti);
  table.Set(ZYDIS_MNEMONIC_MOVLPS, &TranslateHalf<0>);
  table.Set(ZYDIS_MNEMONIC_MOVLPD, &TranslateHalf<0>);
  table.Set(ZYDIS_MNEMONIC_MOVHPS, &TranslateHalf<8>);
  table.Set(ZYDIS_MNEMONIC_MOVHPD, &TranslateHalf<8>);
  table.Set(ZYDIS_MNEMONIC_MOVHLPS, &TranslateCross<8, 0>);
  table.Set(ZYDIS_MNEMONIC_MOVLHPS, &TranslateCross<0, 8>);
  table.Set(ZYDIS_MNEMONIC_PMOVMSKB, &TranslateMask<MaskKind::kBytes>);
  table.Set(ZYDIS_MNEMONIC_MOVMSKPS, &TranslateMask<MaskKind::kSingles>);
  table.Set(ZYDIS_MNEMONIC_MOVMSKPD, &TranslateMask<MaskKind::kDoubles>);
  table.Set(ZYDIS_MNEMONIC_MASKMOVDQU, &TranslateMaskedStore);
  table.Set(ZYDIS_MNEMONIC_MASKMOVQ, &TranslateMaskedStore);
  table.Set(ZYDIS_MNEMONIC_PINSRB, &TranslateInsert<uint8_t>);
  table.Set(ZYDIS_MNEMONIC_PINSRW, &TranslateInsert<uint16_t>);
  table.Set(ZYDIS_MNEMONIC_PINSRD, &TranslateInsert<uint32_t>);
  table.Set(ZYDIS_MNEMONIC_PINSRQ, &TranslateInsert<uint64_t>);
  table.Set(ZYDIS_MNEMONIC_PEXTRB, &TranslateExtract<uint8_t>);
  table.Set(ZYDIS_MNEMONIC_PEXTRW, &TranslateExtract<uint16_t>);
  table.Set(ZYDIS_MNEMONIC_PEXTRD, &TranslateExtract<uint32_t>);
  table.Set(ZYDIS_MNEMONIC_PEXTRQ, &TranslateExtract<uint64_t>);
  table.Set(ZYDIS_MNEMONIC_EXTRACTPS, &TranslateExtract<uint32_t>);
  table.Set(ZYDIS_MNEMONIC_CVTSI2SS, &TranslateFloatFromInteger<false>);
  table.Set(ZYDIS_MNEMONIC_CVTSI2SD, &TranslateFloatFromInteger<true>);
  table.Set(ZYDIS_MNEMONIC_CVTSS2SI, &TranslateIntegerFromFloat<false, false>);
  table.Set(ZYDIS_MNEMONIC_CVTTSS2SI, &TranslateIntegerFromFloat<false, true>);
  table.Set(ZYDIS_MNEMONIC_CVTSD2SI, &TranslateIntegerFromFloat<true, false>);
  table.Set(ZYDIS_MNEMONIC_CVTTSD2SI, &TranslateIntegerFromFloat<true, true>);
  table.Set(ZYDIS_MNEMONIC_CVTPI2PS, &TranslateFloatFromMmx<false>);
  table.Set(ZYDIS_MNEMONIC_CVTPI2PD, &TranslateFloatFromMmx<true>);
  table.Set(ZYDIS_MNEMONIC_CVTPS2PI, &TranslateMmxFromFloat<false, false>);
  table.Set(ZYDIS_MNEMONIC_CVTTPS2PI, &TranslateMmxFromFloat<false, true>);
  table.Set(ZYDIS_MNEMONIC_CVTPD2PI, &TranslateMmxFromFloat<true, false>);
  table.Set(ZYDIS_MNEMONIC_CVTTPD2PI, &TranslateMmxFromFloat<true, true>);
}

}  // namespace hvsdk::software
