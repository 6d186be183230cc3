// SPDX-License-Identifier: Apache-2.0
// MUL IMUL DIV IDIV MULX ADCX ADOX, and the decimal adjustments of 16- and 32-bit code.
#include "backend_software/code/decoder.h"
#include "backend_software/processor/memory_access.h"

namespace hvsdk::software {
namespace {

template <typename T>
constexpr int kBits = 8 * sizeof(T);

template <typename T>
struct Wider;
template <>
struct Wider<uint8_t> {
  using U = uint16_t;
  using S = int16_t;
};
template <>
struct Wider<uint16_t> {
  using U = uint32_t;
  using S = int32_t;
};
template <>
struct Wider<uint32_t> {
  using U = uint64_t;
  using S = int64_t;
};
template <>
struct Wider<uint64_t> {
  using U = unsigned __int128;
  using S = __int128;
};

// The double-width accumulator: AH:AL for bytes, else RDX:RAX.
template <typename T>
inline void GetPair(Cpu& c, T& low, T& high) {
  low = c.Get<T>(SlotOffset(kRax));
  high = c.Get<T>(sizeof(T) == 1 ? SlotOffset(kRax) + 1 : SlotOffset(kRdx));
}
template <typename T>
void SetPair(Cpu& c, T low, T high) {
  if constexpr (sizeof(T) == 1) {
    c.Set<uint16_t>(SlotOffset(kRax), static_cast<uint16_t>(high << 8 | low));
  } else {
    c.Set<T>(SlotOffset(kRax), low);
    c.Set<T>(SlotOffset(kRdx), high);
  }
}

template <typename T, bool kMemory, bool kSigned, bool kQuick = true>
HVSDK_TWIN const Op* Multiply(Cpu& c, const Op* op) {
  T b;
  if (!SourceTo<T, kMemory, kQuick>(c, op, b)) [[unlikely]]
    return Multiply<T, kMemory, kSigned, false>(c, op);
  const T a = c.Get<T>(SlotOffset(kRax));
  using U = typename Wider<T>::U;
  U product;
  bool overflow;
  if constexpr (kSigned) {
    using S = typename Wider<T>::S;
    using N = std::make_signed_t<T>;
    const S wide = static_cast<S>(static_cast<S>(static_cast<N>(a)) * static_cast<N>(b));
    product = static_cast<U>(wide);
    overflow = wide != static_cast<N>(wide);
  } else {
    product = static_cast<U>(static_cast<U>(a) * b);
    overflow = product >> kBits<T> != 0;
  }
  SetPair<T>(c, static_cast<T>(product), static_cast<T>(product >> kBits<T>));
  c.flags.SetLogic<T>(static_cast<T>(product));
  c.flags.SetCfOf(overflow, overflow);
  HVSDK_NEXT(op + 1);
}

// extra: 2 two operands, 3 an immediate.
template <typename T, bool kMemory, bool kImm, bool kFlags = true, bool kQuick = true>
HVSDK_TWIN const Op* MultiplyTo(Cpu& c, const Op* op) {
  T b;
  if (!SourceTo<T, kMemory, kQuick>(c, op, b)) [[unlikely]]
    return MultiplyTo<T, kMemory, kImm, kFlags, false>(c, op);
  LazyFlags unused;
  LazyFlags& flags = kFlags ? c.flags : unused;
  using S = typename Wider<T>::S;
  using N = std::make_signed_t<T>;
  const T a = kImm ? static_cast<T>(op->imm) : c.Get<T>(op->a);
  const S wide = static_cast<S>(static_cast<S>(static_cast<N>(a)) * static_cast<N>(b));
  const T value = static_cast<T>(wide);
  const bool overflow = wide != static_cast<N>(value);
  c.Set<T>(op->a, value);
  flags.SetLogic<T>(value);
  flags.SetCfOf(overflow, overflow);
  HVSDK_NEXT(op + 1);
}

// The host's own instruction, whose quotient must fit: the host would fault as the guest's processor does.
template <typename T>
inline void HostDivide(T& low, T& high, T divisor) {
  if constexpr (sizeof(T) == 8) {
    asm("divq %2" : "+a"(low), "+d"(high) : "r"(divisor) : "cc");
  } else if constexpr (sizeof(T) == 4) {
    asm("divl %2" : "+a"(low), "+d"(high) : "r"(divisor) : "cc");
  } else {
    const uint32_t dividend = static_cast<uint32_t>(high) << kBits<T> | low;
    low = static_cast<T>(dividend / divisor);
    high = static_cast<T>(dividend % divisor);
  }
}

// The quotient fits if and only if the upper half of the dividend is less than the divisor, which then is not zero.
template <typename T, bool kMemory, bool kQuick = true>
HVSDK_TWIN const Op* Divide(Cpu& c, const Op* op) {
  T divisor;
  if (!SourceTo<T, kMemory, kQuick>(c, op, divisor)) [[unlikely]]
    return Divide<T, kMemory, false>(c, op);
  T low, high;
  GetPair<T>(c, low, high);
  if (high >= divisor) [[unlikely]] {
    if constexpr (kQuick) {
      return Divide<T, kMemory, false>(c, op);
    } else {
      c.op = op;
      c.Raise(kDivideError);
    }
  }
  HostDivide<T>(low, high, divisor);
  SetPair<T>(c, low, high);
  HVSDK_NEXT(op + 1);
}

// False: no quotient, or one that does not fit.
template <typename T>
inline bool DivideSignedPair(T& low, T& high, T divisor) {
  using N = std::make_signed_t<T>;
  constexpr T kTop = static_cast<T>(T{1} << (kBits<T> - 1));
  // Most dividends fit one word, and of their quotients one alone does not. Dividing by -1 is negation.
  if (high == static_cast<T>(static_cast<N>(low) >> (kBits<T> - 1)) && static_cast<T>(divisor + 1) > 1) [[likely]] {
    const N n = static_cast<N>(low);
    const N d = static_cast<N>(divisor);
    low = static_cast<T>(n / d);
    high = static_cast<T>(n % d);
    return true;
  }
  // By magnitudes, of which that of a quotient may be one more if it is negative.
  const bool dividend_negative = high & kTop;
  const bool negative = dividend_negative != static_cast<bool>(divisor & kTop);
  const T d = (divisor & kTop) ? static_cast<T>(T{0} - divisor) : divisor;
  T q = low, r = high;
  if (dividend_negative) {
    q = static_cast<T>(T{0} - low);
    r = static_cast<T>(T{0} - high - (low != 0));
  }
  if (r >= d) return false;
  HostDivide<T>(q, r, d);
  if (negative ? q > kTop : q >= kTop) return false;
  low = negative ? static_cast<T>(T{0} - q) : q;
  high = dividend_negative ? static_cast<T>(T{0} - r) : r;
  return true;
}

template <typename T, bool kMemory, bool kQuick = true>
HVSDK_TWIN const Op* DivideSigned(Cpu& c, const Op* op) {
  T divisor;
  if (!SourceTo<T, kMemory, kQuick>(c, op, divisor)) [[unlikely]]
    return DivideSigned<T, kMemory, false>(c, op);
  T low, high;
  GetPair<T>(c, low, high);
  if (!DivideSignedPair<T>(low, high, divisor)) [[unlikely]] {
    if constexpr (kQuick) {
      return DivideSigned<T, kMemory, false>(c, op);
    } else {
      c.op = op;
      c.Raise(kDivideError);
    }
  }
  SetPair<T>(c, low, high);
  HVSDK_NEXT(op + 1);
}

template <template <typename, bool> class Run>
bool TranslateOne(Insn& in, Op& op) {
  const int size = in.o[0].size;
  if (in.IsReg(0)) {
    op.b = RegisterOffset(in.o[0].reg.value);
    op.handler = BySize(size, []<typename T>() -> Handler { return Run<T, false>::kHandler; });
  } else {
    SetMemory(in, in.o[0], op);
    op.handler = BySize(size, []<typename T>() -> Handler { return Run<T, true>::kHandler; });
  }
  return true;
}
template <typename T, bool kMemory>
struct Mul {
  static constexpr Handler kHandler = &Multiply<T, kMemory, false>;
};
template <typename T, bool kMemory>
struct Imul {
  static constexpr Handler kHandler = &Multiply<T, kMemory, true>;
};
template <typename T, bool kMemory>
struct Div {
  static constexpr Handler kHandler = &Divide<T, kMemory>;
};
template <typename T, bool kMemory>
struct Idiv {
  static constexpr Handler kHandler = &DivideSigned<T, kMemory>;
};

bool TranslateImul(Insn& in, Op& op) {
  if (in.z.operand_count_visible == 1) return TranslateOne<Imul>(in, op);
  const int size = in.o[0].size;
  op.a = RegisterOffset(in.o[0].reg.value);
  const bool imm = in.z.operand_count_visible == 3;
  if (imm) op.imm = in.o[2].imm.value.u;
  if (in.IsReg(1)) {
    op.b = RegisterOffset(in.o[1].reg.value);
    in.flag_effect = FlagEffect::kOverwrites;
    in.without_flags =
        imm ? ByNativeSize(size, []<typename T>() -> Handler { return &MultiplyTo<T, false, true, false>; })
            : ByNativeSize(size, []<typename T>() -> Handler { return &MultiplyTo<T, false, false, false>; });
    op.handler = imm ? ByWideSize(size, []<typename T>() -> Handler { return &MultiplyTo<T, false, true>; })
                     : ByWideSize(size, []<typename T>() -> Handler { return &MultiplyTo<T, false, false>; });
  } else {
    SetMemory(in, in.o[1], op);
    op.handler = imm ? ByWideSize(size, []<typename T>() -> Handler { return &MultiplyTo<T, true, true>; })
                     : ByWideSize(size, []<typename T>() -> Handler { return &MultiplyTo<T, true, false>; });
  }
  return true;
}

template <typename T, bool kMemory, bool kQuick = true>
HVSDK_TWIN const Op* Mulx(Cpu& c, const Op* op) {
  T b;
  if (!SourceTo<T, kMemory, kQuick>(c, op, b)) [[unlikely]]
    return Mulx<T, kMemory, false>(c, op);
  using U = typename Wider<T>::U;
  const U product = static_cast<U>(c.Get<T>(SlotOffset(kRdx))) * b;
  c.Set<T>(op->extra, static_cast<T>(product));
  c.Set<T>(op->a, static_cast<T>(product >> kBits<T>));  // last: wins when both are one register
  HVSDK_NEXT(op + 1);
}
bool TranslateMulx(Insn& in, Op& op) {
  op.a = RegisterOffset(in.o[0].reg.value);
  op.extra = RegisterOffset(in.o[1].reg.value);
  const bool wide = in.o[0].size == 64;
  if (in.IsReg(2)) {
    op.b = RegisterOffset(in.o[2].reg.value);
    op.handler = wide ? &Mulx<uint64_t, false> : &Mulx<uint32_t, false>;
  } else {
    SetMemory(in, in.o[2], op);
    op.handler = wide ? &Mulx<uint64_t, true> : &Mulx<uint32_t, true>;
  }
  return true;
}

template <typename T, bool kMemory, bool kOverflow, bool kQuick = true>
HVSDK_TWIN const Op* AddExtended(Cpu& c, const Op* op) {
  T b;
  if (!SourceTo<T, kMemory, kQuick>(c, op, b)) [[unlikely]]
    return AddExtended<T, kMemory, kOverflow, false>(c, op);
  const bool cf = c.flags.cf();
  const bool of = c.flags.of();
  using U = typename Wider<T>::U;
  const U sum = static_cast<U>(c.Get<T>(op->a)) + b + (kOverflow ? of : cf);
  c.Set<T>(op->a, static_cast<T>(sum));
  const bool carry = sum >> kBits<T> != 0;
  if (kOverflow) {
    c.flags.SetCfOf(cf, carry);
  } else {
    c.flags.SetCfOf(carry, of);
  }
  HVSDK_NEXT(op + 1);
}
template <bool kOverflow>
bool TranslateAddExtended(Insn& in, Op& op) {
  op.a = RegisterOffset(in.o[0].reg.value);
  const bool wide = in.o[0].size == 64;
  if (in.IsReg(1)) {
    op.b = RegisterOffset(in.o[1].reg.value);
    op.handler = wide ? &AddExtended<uint64_t, false, kOverflow> : &AddExtended<uint32_t, false, kOverflow>;
  } else {
    SetMemory(in, in.o[1], op);
    op.handler = wide ? &AddExtended<uint64_t, true, kOverflow> : &AddExtended<uint32_t, true, kOverflow>;
  }
  return true;
}

// ---- decimal ----

const Op* Aam(Cpu& c, const Op* op) {
  c.op = op;
  const auto base = static_cast<uint8_t>(op->imm);
  if (base == 0) c.Raise(kDivideError);
  const auto al = c.Get<uint8_t>(SlotOffset(kRax));
  c.Set<uint16_t>(SlotOffset(kRax), static_cast<uint16_t>(al / base << 8 | al % base));
  c.flags.SetLogic<uint8_t>(static_cast<uint8_t>(al % base));
  return op + 1;
}
const Op* Aad(Cpu& c, const Op* op) {
  const auto ax = c.Get<uint16_t>(SlotOffset(kRax));
  const auto al = static_cast<uint8_t>((ax & 0xFF) + (ax >> 8) * (op->imm & 0xFF));
  c.Set<uint16_t>(SlotOffset(kRax), al);
  c.flags.SetLogic<uint8_t>(al);
  return op + 1;
}
template <bool kSubtract>
const Op* AdjustAscii(Cpu& c, const Op* op) {
  const auto ax = c.Get<uint16_t>(SlotOffset(kRax));
  const bool adjust = (ax & 15) > 9 || c.flags.af();
  uint16_t out = ax;
  if (adjust) out = static_cast<uint16_t>(kSubtract ? ax - 0x106 : ax + 0x106);
  out &= 0xFF0F;
  c.Set<uint16_t>(SlotOffset(kRax), out);
  c.flags.SetLogic<uint8_t>(static_cast<uint8_t>(out));
  c.flags.Set((c.flags.Get() & ~uint64_t{kFlagAf | kFlagCf}) | (adjust ? kFlagAf | kFlagCf : 0));
  return op + 1;
}
template <bool kSubtract>
const Op* AdjustDecimal(Cpu& c, const Op* op) {
  const auto al = c.Get<uint8_t>(SlotOffset(kRax));
  uint8_t out = al;
  bool af = false;
  bool cf = false;
  const bool old_cf = c.flags.cf();
  if ((al & 15) > 9 || c.flags.af()) {
    const int wide = kSubtract ? al - 6 : al + 6;
    cf = old_cf || wide > 0xFF || wide < 0;
    out = static_cast<uint8_t>(wide);
    af = true;
  }
  if (al > 0x99 || old_cf) {
    out = static_cast<uint8_t>(kSubtract ? out - 0x60 : out + 0x60);
    cf = true;
  } else if (!kSubtract) {
    cf = false;
  }
  c.Set<uint8_t>(SlotOffset(kRax), out);
  c.flags.SetLogic<uint8_t>(out);
  c.flags.Set((c.flags.Get() & ~uint64_t{kFlagAf | kFlagCf}) | (af ? kFlagAf : 0) | (cf ? kFlagCf : 0));
  return op + 1;
}
template <Handler kHandler>
bool TranslateDecimal(Insn& in, Op& op) {
  op.imm = in.z.operand_count_visible > 0 && in.IsImm(0) ? in.o[0].imm.value.u & 0xFF : 10;
  op.handler = kHandler;
  return true;
}

}  // namespace

void RegisterMultiply(TranslatorTable& table) {
  table.Set(ZYDIS_MNEMONIC_MUL, &TranslateOne<Mul>);
  table.Set(ZYDIS_MNEMONIC_IMUL, &TranslateImul);
  table.Set(ZYDIS_MNEMONIC_DIV, &TranslateOne<Div>);
  table.Set(ZYDIS_MNEMONIC_IDIV, &TranslateOne<Idiv>);
  table.Set(ZYDIS_MNEMONIC_MULX, &TranslateMulx);
  table.Set(ZYDIS_MNEMONIC_ADCX, &TranslateAddExtended<false>);
  table.Set(ZYDIS_MNEMONIC_ADOX, &TranslateAddExtended<true>);
  table.Set(ZYDIS_MNEMONIC_AAM, &TranslateDecimal<&Aam>);
  table.Set(ZYDIS_MNEMONIC_AAD, &TranslateDecimal<&Aad>);
  table.Set(ZYDIS_MNEMONIC_AAA, &TranslateDecimal<&AdjustAscii<false>>);
  table.Set(ZYDIS_MNEMONIC_AAS, &TranslateDecimal<&AdjustAscii<true>>);
  table.Set(ZYDIS_MNEMONIC_DAA, &TranslateDecimal<&AdjustDecimal<false>>);
  table.Set(ZYDIS_MNEMONIC_DAS, &TranslateDecimal<&AdjustDecimal<true>>);
}

}  // namespace hvsdk::software
