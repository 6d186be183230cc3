// SPDX-License-Identifier: Apache-2.0
// ADD OR ADC SBB AND SUB XOR CMP TEST INC DEC NEG NOT.
#include "backend_software/code/decoder.h"
#include "backend_software/processor/memory_access.h"

namespace hvsdk::software {
namespace {

struct Add {
  static constexpr bool kWrites = true;
  template <typename T>
  static T Do(LazyFlags& f, T a, T b) {
    const T sum = static_cast<T>(a + b);
    f.SetAdd<T>(a, b, sum);
    return sum;
  }
};
struct Adc {
  static constexpr bool kWrites = true;
  template <typename T>
  static T Do(LazyFlags& f, T a, T b) {
    const T sum = static_cast<T>(a + b + f.cf());
    f.SetAdd<T>(a, b, sum);
    return sum;
  }
};
struct Sub {
  static constexpr bool kWrites = true;
  template <typename T>
  static T Do(LazyFlags& f, T a, T b) {
    const T difference = static_cast<T>(a - b);
    f.SetSub<T>(a, b, difference);
    return difference;
  }
};
struct Sbb {
  static constexpr bool kWrites = true;
  template <typename T>
  static T Do(LazyFlags& f, T a, T b) {
    const T difference = static_cast<T>(a - b - f.cf());
    f.SetSub<T>(a, b, difference);
    return difference;
  }
};
struct Cmp : Sub {
  static constexpr bool kWrites = false;
};
struct And {
  static constexpr bool kWrites = true;
  template <typename T>
  static T Do(LazyFlags& f, T a, T b) {
    f.SetLogic<T>(static_cast<T>(a & b));
    return static_cast<T>(a & b);
  }
};
struct Test : And {
  static constexpr bool kWrites = false;
};
struct Or {
  static constexpr bool kWrites = true;
  template <typename T>
  static T Do(LazyFlags& f, T a, T b) {
    f.SetLogic<T>(static_cast<T>(a | b));
    return static_cast<T>(a | b);
  }
};
struct Xor {
  static constexpr bool kWrites = true;
  template <typename T>
  static T Do(LazyFlags& f, T a, T b) {
    f.SetLogic<T>(static_cast<T>(a ^ b));
    return static_cast<T>(a ^ b);
  }
};

// Without kFlags these leave out the flags, which nobody sees.
template <typename A, typename T, bool kFlags = true>
const Op* RegReg(Cpu& c, const Op* op) {
  LazyFlags unused;
  LazyFlags& flags = kFlags ? c.flags : unused;
  const T value = A::template Do<T>(flags, c.Get<T>(op->a), c.Get<T>(op->b));
  if constexpr (A::kWrites) c.Set<T>(op->a, value);
  HVSDK_NEXT(op + 1);
}
template <typename A, typename T, bool kFlags = true>
const Op* RegImm(Cpu& c, const Op* op) {
  LazyFlags unused;
  LazyFlags& flags = kFlags ? c.flags : unused;
  const T value = A::template Do<T>(flags, c.Get<T>(op->a), static_cast<T>(op->imm));
  if constexpr (A::kWrites) c.Set<T>(op->a, value);
  HVSDK_NEXT(op + 1);
}
template <typename A, typename T, bool kSimple, bool kFlags = true, bool kQuick = true>
HVSDK_TWIN const Op* RegMem(Cpu& c, const Op* op) {
  uint64_t address;
  T b;
  if (!AddressTo<kSimple, kQuick>(c, op, sizeof(T), false, address) || !LoadTo<kQuick>(c, op, address, b))
      [[unlikely]] {
    return RegMem<A, T, kSimple, kFlags, false>(c, op);
  }
  LazyFlags unused;
  LazyFlags& flags = kFlags ? c.flags : unused;
  const T value = A::template Do<T>(flags, c.Get<T>(op->a), b);
  if constexpr (A::kWrites) c.Set<T>(op->a, value);
  HVSDK_NEXT(op + 1);
}
template <typename A, typename T, bool kSimple, bool kImm, bool kQuick = true>
HVSDK_TWIN const Op* MemSrc(Cpu& c, const Op* op) {
  uint64_t address;
  if (!AddressTo<kSimple, kQuick>(c, op, sizeof(T), A::kWrites, address)) [[unlikely]] {
    return MemSrc<A, T, kSimple, kImm, false>(c, op);
  }
  const T b = kImm ? static_cast<T>(op->imm) : c.Get<T>(op->b);
  if constexpr (A::kWrites) {
    if (!RmwTo<kQuick, T>(c, op, address, [&](T a) { return A::template Do<T>(c.flags, a, b); })) [[unlikely]] {
      return MemSrc<A, T, kSimple, kImm, false>(c, op);
    }
  } else {
    T a;
    if (!LoadTo<kQuick>(c, op, address, a)) [[unlikely]]
      return MemSrc<A, T, kSimple, kImm, false>(c, op);
    A::template Do<T>(c.flags, a, b);
  }
  HVSDK_NEXT(op + 1);
}
template <typename A, typename T>
const Op* MemLock(Cpu& c, const Op* op) {
  const uint64_t address = Address<false>(c, op, sizeof(T), true);
  const T b = op->extra ? static_cast<T>(op->imm) : c.Get<T>(op->b);
  const LazyFlags before = c.flags;  // ADC and SBB read the carry, on every try the same
  LockedRmw<T>(c, op, address, [&](T a) {
    c.flags = before;
    return A::template Do<T>(c.flags, a, b);
  });
  return op + 1;
}

template <typename T>
const Op* ZeroReg(Cpu& c, const Op* op) {
  c.flags.result = 0;
  c.flags.aux = 0;
  c.Set<T>(op->a, 0);
  HVSDK_NEXT(op + 1);
}

// ADC and SBB read the carry.
template <typename A>
constexpr bool kReadsCarry = std::is_same_v<A, Adc> || std::is_same_v<A, Sbb>;

// By operand form, the variant that leaves out the flags: of what writes more than flags, and does not read them.
enum class Form { kRegReg, kRegImm, kRegMem, kRegMemSimple };
template <typename A, Form kForm>
Handler WithoutFlags(int size) {
  if constexpr (!A::kWrites || kReadsCarry<A>) {
    return nullptr;
  } else {
    return ByNativeSize(size, []<typename T>() -> Handler {
      if (kForm == Form::kRegReg) return &RegReg<A, T, false>;
      if (kForm == Form::kRegImm) return &RegImm<A, T, false>;
      return kForm == Form::kRegMemSimple ? &RegMem<A, T, true, false> : &RegMem<A, T, false, false>;
    });
  }
}

template <typename A, bool kIsXor = false>
bool TranslateAlu(Insn& in, Op& op) {
  const int size = in.o[0].size;
  if (!in.IsMem(0) && !in.IsMem(1) && !kReadsCarry<A>) in.flag_effect = FlagEffect::kOverwrites;
  if (in.IsReg(0)) {
    op.a = RegisterOffset(in.o[0].reg.value);
    if (in.IsReg(1)) {
      op.b = RegisterOffset(in.o[1].reg.value);
      if (kIsXor && op.a == op.b) {
        op.handler = BySize(size, []<typename T>() -> Handler { return &ZeroReg<T>; });
      } else {
        op.handler = BySize(size, []<typename T>() -> Handler { return &RegReg<A, T>; });
        in.without_flags = WithoutFlags<A, Form::kRegReg>(size);
      }
    } else if (in.IsImm(1)) {
      op.imm = in.o[1].imm.value.u;
      op.handler = BySize(size, []<typename T>() -> Handler { return &RegImm<A, T>; });
      in.without_flags = WithoutFlags<A, Form::kRegImm>(size);
    } else if (SetMemory(in, in.o[1], op)) {
      op.handler = BySize(size, []<typename T>() -> Handler { return &RegMem<A, T, true>; });
      in.without_flags = WithoutFlags<A, Form::kRegMemSimple>(size);
    } else {
      op.handler = BySize(size, []<typename T>() -> Handler { return &RegMem<A, T, false>; });
      in.without_flags = WithoutFlags<A, Form::kRegMem>(size);
    }
    return true;
  }
  const bool simple = SetMemory(in, in.o[0], op);
  const bool imm = in.IsImm(1);
  if (imm) {
    op.imm = in.o[1].imm.value.u;
  } else {
    op.b = RegisterOffset(in.o[1].reg.value);
  }
  if (in.locked()) {
    op.extra = imm;
    if constexpr (A::kWrites) op.handler = BySize(size, []<typename T>() -> Handler { return &MemLock<A, T>; });
    return A::kWrites;
  }
  if (imm) {
    op.handler = simple ? BySize(size, []<typename T>() -> Handler { return &MemSrc<A, T, true, true>; })
                        : BySize(size, []<typename T>() -> Handler { return &MemSrc<A, T, false, true>; });
  } else {
    op.handler = simple ? BySize(size, []<typename T>() -> Handler { return &MemSrc<A, T, true, false>; })
                        : BySize(size, []<typename T>() -> Handler { return &MemSrc<A, T, false, false>; });
  }
  return true;
}

struct Inc {
  template <typename T>
  static T Do(LazyFlags& f, T a) {
    const bool cf = f.cf();
    const T sum = static_cast<T>(a + 1);
    f.SetAdd<T>(a, 1, sum);
    f.SetCf(cf);
    return sum;
  }
};
struct Dec {
  template <typename T>
  static T Do(LazyFlags& f, T a) {
    const bool cf = f.cf();
    const T difference = static_cast<T>(a - 1);
    f.SetSub<T>(a, 1, difference);
    f.SetCf(cf);
    return difference;
  }
};
struct Neg {
  template <typename T>
  static T Do(LazyFlags& f, T a) {
    const T difference = static_cast<T>(-a);
    f.SetSub<T>(0, a, difference);
    return difference;
  }
};
struct Not {
  template <typename T>
  static T Do(LazyFlags&, T a) {
    return static_cast<T>(~a);
  }
};

template <typename A, typename T, bool kFlags = true>
const Op* Unary(Cpu& c, const Op* op) {
  LazyFlags unused;
  LazyFlags& flags = kFlags ? c.flags : unused;
  c.Set<T>(op->a, A::template Do<T>(flags, c.Get<T>(op->a)));
  HVSDK_NEXT(op + 1);
}
template <typename A, typename T, bool kQuick = true>
HVSDK_TWIN const Op* UnaryMem(Cpu& c, const Op* op) {
  uint64_t address;
  if (!AddressTo<false, kQuick>(c, op, sizeof(T), true, address) ||
      !RmwTo<kQuick, T>(c, op, address, [&](T a) { return A::template Do<T>(c.flags, a); })) [[unlikely]] {
    return UnaryMem<A, T, false>(c, op);
  }
  HVSDK_NEXT(op + 1);
}
template <typename A, typename T>
const Op* UnaryLock(Cpu& c, const Op* op) {
  const uint64_t address = Address<false>(c, op, sizeof(T), true);
  const LazyFlags before = c.flags;
  LockedRmw<T>(c, op, address, [&](T a) {
    c.flags = before;
    return A::template Do<T>(c.flags, a);
  });
  return op + 1;
}

template <typename A>
bool TranslateUnary(Insn& in, Op& op) {
  const int size = in.o[0].size;
  if (in.IsReg(0)) {
    op.a = RegisterOffset(in.o[0].reg.value);
    op.handler = BySize(size, []<typename T>() -> Handler { return &Unary<A, T>; });
    in.without_flags = ByNativeSize(size, []<typename T>() -> Handler { return &Unary<A, T, false>; });
    // INC and DEC keep the carry, NOT keeps all.
    in.flag_effect = std::is_same_v<A, Neg> ? FlagEffect::kOverwrites : FlagEffect::kKeeps;
    return true;
  }
  SetMemory(in, in.o[0], op);
  op.handler = in.locked() ? BySize(size, []<typename T>() -> Handler { return &UnaryLock<A, T>; })
                           : BySize(size, []<typename T>() -> Handler { return &UnaryMem<A, T>; });
  return true;
}

// A compare of registers and the branch behind it as one operation. The branch's target is in disp, its condition in
// the type, and length covers both.
template <typename A, typename T, bool kImm, int kCondition>
const Op* Fused(Cpu& c, const Op* op) {
  const T a = c.Get<T>(op->a);
  const T b = kImm ? static_cast<T>(op->imm) : c.Get<T>(op->b);
  const T value = A::template Do<T>(c.flags, a, b);
  using S = std::make_signed_t<T>;
  constexpr bool kIsTest = std::is_same_v<A, Test>;
  bool holds;
  // The conditions that compilers use are one host compare; the others ask the flags.
  switch (kCondition >> 1) {
    case 1:
      holds = kIsTest ? false : a < b;
      break;
    case 2:
      holds = value == 0;
      break;
    case 3:
      holds = kIsTest ? value == 0 : a <= b;
      break;
    case 4:
      holds = static_cast<S>(value) < 0;
      break;
    case 6:
      holds = kIsTest ? static_cast<S>(value) < 0 : static_cast<S>(a) < static_cast<S>(b);
      break;
    case 7:
      holds = kIsTest ? static_cast<S>(value) <= 0 : static_cast<S>(a) <= static_cast<S>(b);
      break;
    default:
      holds = c.flags.Test<kCondition & ~1>();
      break;
  }
  if (holds != static_cast<bool>(kCondition & 1)) {
    c.r[kIp] += static_cast<int64_t>(op->disp);
    const Op* to = LinksOf(op).taken;
    if (to != nullptr && c.attention.load(std::memory_order_relaxed) == 0) [[likely]]
      HVSDK_NEXT(to);
    return FollowTaken(c, op, op->disp);
  }
  c.r[kIp] += op->ip + op->length;
  const Op* to = LinksOf(op).next;
  if (to != nullptr && c.attention.load(std::memory_order_relaxed) == 0) [[likely]]
    HVSDK_NEXT(to);
  return FollowNext(c, op);
}

template <typename A, typename T, bool kImm>
Handler FusedBy(int condition) {
  static constexpr Handler kHandlers[16] = {
      &Fused<A, T, kImm, 0>,  &Fused<A, T, kImm, 1>,  &Fused<A, T, kImm, 2>,  &Fused<A, T, kImm, 3>,
      &Fused<A, T, kImm, 4>,  &Fused<A, T, kImm, 5>,  &Fused<A, T, kImm, 6>,  &Fused<A, T, kImm, 7>,
      &Fused<A, T, kImm, 8>,  &Fused<A, T, kImm, 9>,  &Fused<A, T, kImm, 10>, &Fused<A, T, kImm, 11>,
      &Fused<A, T, kImm, 12>, &Fused<A, T, kImm, 13>, &Fused<A, T, kImm, 14>, &Fused<A, T, kImm, 15>};
  return kHandlers[condition];
}

struct Fusible {
  Handler alone;
  Handler (*by_condition)(int);
};
constexpr Fusible kFusible[] = {
    {&RegReg<Cmp, uint64_t>, &FusedBy<Cmp, uint64_t, false>},
    {&RegReg<Cmp, uint32_t>, &FusedBy<Cmp, uint32_t, false>},
    {&RegImm<Cmp, uint64_t>, &FusedBy<Cmp, uint64_t, true>},
    {&RegImm<Cmp, uint32_t>, &FusedBy<Cmp, uint32_t, true>},
    {&RegReg<Cmp, uint8_t>, &FusedBy<Cmp, uint8_t, false>},
    {&RegImm<Cmp, uint8_t>, &FusedBy<Cmp, uint8_t, true>},
    {&RegReg<Test, uint64_t>, &FusedBy<Test, uint64_t, false>},
    {&RegReg<Test, uint32_t>, &FusedBy<Test, uint32_t, false>},
    {&RegReg<Test, uint8_t>, &FusedBy<Test, uint8_t, false>},
    {&RegImm<Test, uint8_t>, &FusedBy<Test, uint8_t, true>},
};

// A move, and what changes the copy behind it.
template <typename A, typename T, bool kImm, bool kFlags>
const Op* MoveThen(Cpu& c, const Op* op) {
  LazyFlags unused;
  LazyFlags& flags = kFlags ? c.flags : unused;
  const Op* const next = op + 1;
  const T b = kImm ? static_cast<T>(next->imm) : c.Get<T>(next->b);
  c.Set<T>(op->a, A::template Do<T>(flags, c.Get<T>(op->b), b));
  HVSDK_NEXT(op + 2);
}
template <typename A, typename T, bool kFlags>
constexpr Joined kJoinedReg = {8 * sizeof(T), &RegReg<A, T, kFlags>, &MoveThen<A, T, false, kFlags>, true};
template <typename A, typename T, bool kFlags>
constexpr Joined kJoinedImm = {8 * sizeof(T), &RegImm<A, T, kFlags>, &MoveThen<A, T, true, kFlags>, false};
#define HVSDK_JOINED(A, T) \
  kJoinedReg<A, T, false>, kJoinedReg<A, T, true>, kJoinedImm<A, T, false>, kJoinedImm<A, T, true>
constexpr Joined kJoinedAlu[] = {HVSDK_JOINED(Add, uint32_t), HVSDK_JOINED(Add, uint64_t), HVSDK_JOINED(Sub, uint32_t),
                                 HVSDK_JOINED(Sub, uint64_t), HVSDK_JOINED(And, uint32_t), HVSDK_JOINED(And, uint64_t),
                                 HVSDK_JOINED(Or, uint32_t),  HVSDK_JOINED(Or, uint64_t),  HVSDK_JOINED(Xor, uint32_t),
                                 HVSDK_JOINED(Xor, uint64_t)};
#undef HVSDK_JOINED

}  // namespace

absl::Span<const Joined> JoinedAlu() { return kJoinedAlu; }

bool FuseCompareAndBranch(Op& compare, const Op& branch) {
  const int condition = LinkedBranchCondition(branch);
  if (condition < 0) return false;
  for (const Fusible& fusible : kFusible) {
    if (compare.handler != fusible.alone) continue;
    compare.handler = fusible.by_condition(condition);
    compare.disp = static_cast<int32_t>(branch.imm);
    compare.length = static_cast<uint8_t>(compare.length + branch.length);
    return true;
  }
  return false;
}

void RegisterAlu(TranslatorTable& table) {
  table.Set(ZYDIS_MNEMONIC_ADD, &TranslateAlu<Add>);
  table.Set(ZYDIS_MNEMONIC_ADC, &TranslateAlu<Adc>);
  table.Set(ZYDIS_MNEMONIC_SUB, &TranslateAlu<Sub>);
  table.Set(ZYDIS_MNEMONIC_SBB, &TranslateAlu<Sbb>);
  table.Set(ZYDIS_MNEMONIC_CMP, &TranslateAlu<Cmp>);
  table.Set(ZYDIS_MNEMONIC_AND, &TranslateAlu<And>);
  table.Set(ZYDIS_MNEMONIC_TEST, &TranslateAlu<Test>);
  table.Set(ZYDIS_MNEMONIC_OR, &TranslateAlu<Or>);
  table.Set(ZYDIS_MNEMONIC_XOR, (&TranslateAlu<Xor, true>));
  table.Set(ZYDIS_MNEMONIC_INC, &TranslateUnary<Inc>);
  table.Set(ZYDIS_MNEMONIC_DEC, &TranslateUnary<Dec>);
  table.Set(ZYDIS_MNEMONIC_NEG, &TranslateUnary<Neg>);
  table.Set(ZYDIS_MNEMONIC_NOT, &TranslateUnary<Not>);
}

}  // namespace hvsdk::software
