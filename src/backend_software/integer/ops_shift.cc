// SPDX-License-Identifier: Apache-2.0
// SHL SHR SAR ROL ROR RCL RCR SHLD SHRD, and BMI2's SHLX SHRX SARX RORX.
#include "backend_software/code/decoder.h"
#include "backend_software/processor/memory_access.h"

namespace hvsdk::software {
namespace {

template <typename T>
constexpr int kBits = 8 * sizeof(T);
template <typename T>
constexpr int kCountMask = sizeof(T) == 8 ? 63 : 31;
template <typename T>
bool Top(T value) {
  return value >> (kBits<T> - 1);
}

// Each takes a count that is masked and not zero.
struct Shl {
  template <typename T>
  static T Do(LazyFlags& f, T a, int n) {
    bool cf;
    T result;
    if constexpr (sizeof(T) < 4) {
      const uint64_t wide = static_cast<uint64_t>(a) << n;
      cf = wide >> kBits<T> & 1;
      result = static_cast<T>(wide);
    } else {
      cf = a >> (kBits<T> - n) & 1;
      result = static_cast<T>(a << n);
    }
    f.SetLogic<T>(result);
    f.SetCfOf(cf, Top(result) != cf);
    return result;
  }
};
struct Shr {
  template <typename T>
  static T Do(LazyFlags& f, T a, int n) {
    const uint64_t wide = a;
    const bool cf = wide >> (n - 1) & 1;
    const T result = static_cast<T>(wide >> n);
    f.SetLogic<T>(result);
    f.SetCfOf(cf, Top(a));
    return result;
  }
};
struct Sar {
  template <typename T>
  static T Do(LazyFlags& f, T a, int n) {
    const int64_t wide = static_cast<std::make_signed_t<T>>(a);
    const bool cf = wide >> (n - 1) & 1;
    const T result = static_cast<T>(wide >> n);
    f.SetLogic<T>(result);
    f.SetCfOf(cf, false);
    return result;
  }
};
struct Rol {
  template <typename T>
  static T Do(LazyFlags& f, T a, int n) {
    n &= kBits<T> - 1;
    const T result = n == 0 ? a : static_cast<T>(a << n | a >> (kBits<T> - n));
    f.SetCfOf(result & 1, Top(result) != static_cast<bool>(result & 1));
    return result;
  }
};
struct Ror {
  template <typename T>
  static T Do(LazyFlags& f, T a, int n) {
    n &= kBits<T> - 1;
    const T result = n == 0 ? a : static_cast<T>(a >> n | a << (kBits<T> - n));
    f.SetCfOf(Top(result), Top(result) != static_cast<bool>(result >> (kBits<T> - 2) & 1));
    return result;
  }
};
struct Rcl {
  template <typename T>
  static T Do(LazyFlags& f, T a, int n) {
    if constexpr (sizeof(T) < 4) n %= kBits<T> + 1;
    bool cf = f.cf();
    if (n == 0) return a;
    for (int i = 0; i < n; ++i) {
      const bool out = Top(a);
      a = static_cast<T>(a << 1 | cf);
      cf = out;
    }
    f.SetCfOf(cf, Top(a) != cf);
    return a;
  }
};
struct Rcr {
  template <typename T>
  static T Do(LazyFlags& f, T a, int n) {
    if constexpr (sizeof(T) < 4) n %= kBits<T> + 1;
    bool cf = f.cf();
    if (n == 0) return a;
    for (int i = 0; i < n; ++i) {
      const bool out = a & 1;
      a = static_cast<T>(a >> 1 | static_cast<T>(cf) << (kBits<T> - 1));
      cf = out;
    }
    f.SetCfOf(cf, Top(a) != static_cast<bool>(a >> (kBits<T> - 2) & 1));
    return a;
  }
};

template <typename A, typename T, bool kCl, bool kFlags = true>
const Op* ShiftReg(Cpu& c, const Op* op) {
  LazyFlags unused;
  LazyFlags& flags = kFlags ? c.flags : unused;
  const int n = (kCl ? static_cast<int>(c.r[kRcx]) : op->extra) & kCountMask<T>;
  if (n != 0) [[likely]] {
    c.Set<T>(op->a, A::template Do<T>(flags, c.Get<T>(op->a), n));
  } else {
    c.Set<T>(op->a, c.Get<T>(op->a));
  }
  HVSDK_NEXT(op + 1);
}
template <typename A, typename T, bool kCl>
const Op* ShiftMem(Cpu& c, const Op* op) {
  const int n = (kCl ? static_cast<int>(c.r[kRcx]) : op->extra) & kCountMask<T>;
  const uint64_t address = Address<false>(c, op, sizeof(T), true);
  Rmw<T>(c, op, address, [&](T a) { return n == 0 ? a : A::template Do<T>(c.flags, a, n); });
  HVSDK_NEXT(op + 1);
}

// A move, and the shift of the copy behind it.
template <typename A, typename T, bool kFlags>
const Op* MoveThenShift(Cpu& c, const Op* op) {
  LazyFlags unused;
  LazyFlags& flags = kFlags ? c.flags : unused;
  const int n = op[1].extra & kCountMask<T>;
  const T value = c.Get<T>(op->b);
  c.Set<T>(op->a, n != 0 ? A::template Do<T>(flags, value, n) : value);
  HVSDK_NEXT(op + 2);
}
template <typename A, typename T, bool kFlags>
constexpr Joined kJoined = {8 * sizeof(T), &ShiftReg<A, T, false, kFlags>, &MoveThenShift<A, T, kFlags>, false};
#define HVSDK_JOINED(A) \
  kJoined<A, uint32_t, false>, kJoined<A, uint32_t, true>, kJoined<A, uint64_t, false>, kJoined<A, uint64_t, true>
constexpr Joined kJoinedShift[] = {HVSDK_JOINED(Shl), HVSDK_JOINED(Shr), HVSDK_JOINED(Sar), HVSDK_JOINED(Rol),
                                   HVSDK_JOINED(Ror)};
#undef HVSDK_JOINED

template <typename A>
bool TranslateShift(Insn& in, Op& op) {
  const int size = in.o[0].size;
  const bool cl = in.z.operand_count_visible > 1 && in.IsReg(1);
  op.extra = 1;
  if (in.z.operand_count_visible > 1 && in.IsImm(1)) op.extra = static_cast<uint8_t>(in.o[1].imm.value.u);
  if (in.IsReg(0)) {
    op.a = RegisterOffset(in.o[0].reg.value);
    op.handler = cl ? BySize(size, []<typename T>() -> Handler { return &ShiftReg<A, T, true>; })
                    : BySize(size, []<typename T>() -> Handler { return &ShiftReg<A, T, false>; });
    // A count of zero changes no flag, and a rotation not all.
    constexpr bool kRotatesCarry = std::is_same_v<A, Rcl> || std::is_same_v<A, Rcr>;
    constexpr bool kRotates = kRotatesCarry || std::is_same_v<A, Rol> || std::is_same_v<A, Ror>;
    if constexpr (!kRotatesCarry) {
      in.without_flags = cl ? ByNativeSize(size, []<typename T>() -> Handler { return &ShiftReg<A, T, true, false>; })
                            : ByNativeSize(size, []<typename T>() -> Handler { return &ShiftReg<A, T, false, false>; });
      const bool sure = !cl && !kRotates && (op.extra & (size == 64 ? 63 : 31)) != 0;
      in.flag_effect = sure ? FlagEffect::kOverwrites : FlagEffect::kKeeps;
    }
  } else {
    SetMemory(in, in.o[0], op);
    op.handler = cl ? BySize(size, []<typename T>() -> Handler { return &ShiftMem<A, T, true>; })
                    : BySize(size, []<typename T>() -> Handler { return &ShiftMem<A, T, false>; });
  }
  return true;
}

// SHLD and SHRD; a count beyond the operand (16 bits only) is undefined, and here takes bits from both again.
template <typename T, bool kLeft>
T DoubleShift(LazyFlags& f, T a, T b, int n) {
  if (n == 0) return a;
  T result;
  bool cf;
  if constexpr (sizeof(T) == 2) {
    if (kLeft) {
      const uint64_t wide = static_cast<uint64_t>(a) << 32 | static_cast<uint64_t>(b) << 16 | a;
      result = static_cast<T>(wide << n >> 32);
      cf = wide >> (48 - n) & 1;
    } else {
      const uint64_t wide = static_cast<uint64_t>(a) << 32 | static_cast<uint64_t>(b) << 16 | a;
      result = static_cast<T>(wide >> n);
      cf = wide >> (n - 1) & 1;
    }
  } else if (kLeft) {
    result = static_cast<T>(a << n | b >> (kBits<T> - n));
    cf = a >> (kBits<T> - n) & 1;
  } else {
    result = static_cast<T>(a >> n | b << (kBits<T> - n));
    cf = a >> (n - 1) & 1;
  }
  f.SetLogic<T>(result);
  f.SetCfOf(cf, Top(result) != Top(a));
  return result;
}
template <typename T, bool kLeft>
const Op* DoubleReg(Cpu& c, const Op* op) {
  const int n = (op->extra == 0xFF ? static_cast<int>(c.r[kRcx]) : static_cast<int>(op->imm)) & kCountMask<T>;
  c.Set<T>(op->a, DoubleShift<T, kLeft>(c.flags, c.Get<T>(op->a), c.Get<T>(op->b), n));
  HVSDK_NEXT(op + 1);
}
template <typename T, bool kLeft>
const Op* DoubleMem(Cpu& c, const Op* op) {
  const int n = (op->extra == 0xFF ? static_cast<int>(c.r[kRcx]) : static_cast<int>(op->imm)) & kCountMask<T>;
  const T b = c.Get<T>(op->b);
  Rmw<T>(c, op, Address<false>(c, op, sizeof(T), true), [&](T a) { return DoubleShift<T, kLeft>(c.flags, a, b, n); });
  return op + 1;
}
template <bool kLeft>
bool TranslateDouble(Insn& in, Op& op) {
  const int size = in.o[0].size;
  op.b = RegisterOffset(in.o[1].reg.value);
  if (in.IsImm(2)) {
    op.imm = in.o[2].imm.value.u;
  } else {
    op.extra = 0xFF;
  }
  if (in.IsReg(0)) {
    op.a = RegisterOffset(in.o[0].reg.value);
    op.handler = ByWideSize(size, []<typename T>() -> Handler { return &DoubleReg<T, kLeft>; });
  } else {
    SetMemory(in, in.o[0], op);
    op.handler = ByWideSize(size, []<typename T>() -> Handler { return &DoubleMem<T, kLeft>; });
  }
  return true;
}

// BMI2: source in a register (b) or memory, count in a register (extra) or immediate; flags stay.
enum class Plain { kShl, kShr, kSar, kRor };
template <typename T, Plain kKind>
T PlainShift(T a, int n) {
  n &= kCountMask<T>;
  switch (kKind) {
    case Plain::kShl:
      return static_cast<T>(a << n);
    case Plain::kShr:
      return static_cast<T>(a >> n);
    case Plain::kSar:
      return static_cast<T>(static_cast<std::make_signed_t<T>>(a) >> n);
    default:
      return n == 0 ? a : static_cast<T>(a >> n | a << (kBits<T> - n));
  }
}
template <typename T, Plain kKind, bool kMemory, bool kQuick = true>
HVSDK_TWIN const Op* ShiftX(Cpu& c, const Op* op) {
  T a;
  if (!SourceTo<T, kMemory, kQuick>(c, op, a)) [[unlikely]]
    return ShiftX<T, kKind, kMemory, false>(c, op);
  const int n = kKind == Plain::kRor ? static_cast<int>(op->imm) : static_cast<int>(c.Get<uint8_t>(op->extra));
  c.Set<T>(op->a, PlainShift<T, kKind>(a, n));
  HVSDK_NEXT(op + 1);
}
template <Plain kKind>
bool TranslateShiftX(Insn& in, Op& op) {
  op.a = RegisterOffset(in.o[0].reg.value);
  if (kKind == Plain::kRor) {
    op.imm = in.o[2].imm.value.u;
  } else {
    op.extra = RegisterOffset(in.o[2].reg.value);
  }
  const bool wide = in.o[0].size == 64;
  if (in.IsReg(1)) {
    op.b = RegisterOffset(in.o[1].reg.value);
    op.handler = wide ? &ShiftX<uint64_t, kKind, false> : &ShiftX<uint32_t, kKind, false>;
  } else {
    SetMemory(in, in.o[1], op);
    op.handler = wide ? &ShiftX<uint64_t, kKind, true> : &ShiftX<uint32_t, kKind, true>;
  }
  return true;
}

}  // namespace

absl::Span<const Joined> JoinedShift() { return kJoinedShift; }

void RegisterShift(TranslatorTable& table) {
  table.Set(ZYDIS_MNEMONIC_SHL, &TranslateShift<Shl>);
  table.Set(ZYDIS_MNEMONIC_SHR, &TranslateShift<Shr>);
  table.Set(ZYDIS_MNEMONIC_SAR, &TranslateShift<Sar>);
  table.Set(ZYDIS_MNEMONIC_ROL, &TranslateShift<Rol>);
  table.Set(ZYDIS_MNEMONIC_ROR, &TranslateShift<Ror>);
  table.Set(ZYDIS_MNEMONIC_RCL, &TranslateShift<Rcl>);
  table.Set(ZYDIS_MNEMONIC_RCR, &TranslateShift<Rcr>);
  table.Set(ZYDIS_MNEMONIC_SHLD, &TranslateDouble<true>);
  table.Set(ZYDIS_MNEMONIC_SHRD, &TranslateDouble<false>);
  table.Set(ZYDIS_MNEMONIC_SHLX, &TranslateShiftX<Plain::kShl>);
  table.Set(ZYDIS_MNEMONIC_SHRX, &TranslateShiftX<Plain::kShr>);
  table.Set(ZYDIS_MNEMONIC_SARX, &TranslateShiftX<Plain::kSar>);
  table.Set(ZYDIS_MNEMONIC_RORX, &TranslateShiftX<Plain::kRor>);
}

}  // namespace hvsdk::software
