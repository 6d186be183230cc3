// SPDX-License-Identifier: Apache-2.0
// The short way of x87 instructions.
//
// Each handler looks whether it may (x87::IsReady; Op::extra and Op::b are the tags), computes, and then changes the
// state; else it goes on as X87LongWay, which does the whole instruction. Op::a is the number of the other register, if any.
#include "backend_software/vector/fpu.h"
#include "backend_software/vector/x87_compute.h"
#include "backend_software/vector/x87_ops.h"

namespace hvsdk::software {
namespace {

using x87::BitsOf;
using x87::Format;

inline bool IsReady(const Cpu& c, const Op* op) { return x87::IsReady(c.x87, op->extra, op->b); }
inline uint16_t Taken(const Op* op) { return X87Form::Unpack(op->imm).taken; }
// Computes a number: `compute` returns an x87::Result.
template <typename Compute>
inline bool Run(Cpu& c, const Op* op, long double& value, Compute compute) {
  return x87::Run(c.x87, Taken(op), [&] {
    const x87::Result result = compute();
    value = result.value;
    return result.status;
  });
}
// For what is but a copy: it clears C1.
inline void RunNothing(Cpu& c, const Op* op) {
  c.x87.status &= static_cast<uint16_t>(~(Taken(op) & x87::kConditionCodes));
}
inline void CopyRegister(uint8_t* to, const uint8_t* from) {
  uint64_t significand;
  uint16_t exponent;
  std::memcpy(&significand, from, 8);
  std::memcpy(&exponent, from + 8, 2);
  std::memcpy(to, &significand, 8);
  std::memcpy(to + 8, &exponent, 2);
}

template <typename Compute, Format kFormat>
const Op* ArithmeticMemory(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  const uint64_t linear = Address<false>(c, op, sizeof(BitsOf<kFormat>), false);
  const auto operand = Load<BitsOf<kFormat>>(c, op, linear);
  uint8_t* const top = c.x87.st(0);
  long double value;
  if (!Run(c, op, value, [&] { return Compute::template Memory<kFormat>(x87::Get(top), operand); })) [[unlikely]]
    return X87LongWay(c, op);
  x87::Put(top, value);
  RememberX87Instruction(c, op);
  RememberX87Operand(c, op, linear);
  HVSDK_NEXT(op + 1);
}

enum class Into { kTop, kOther, kOtherPop };
// Between ST(0) and another. Which of the two receives the result, not which comes first, is what tells D8 from DC and DE.
template <typename Compute, Into kInto>
const Op* ArithmeticRegister(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  uint8_t* const top = c.x87.st(0);
  uint8_t* const other = c.x87.st(op->a);
  long double value;
  if (!Run(c, op, value, [&] { return Compute::Register(x87::Get(top), x87::Get(other)); })) [[unlikely]]
    return X87LongWay(c, op);
  x87::Put(kInto == Into::kTop ? top : other, value);
  if constexpr (kInto == Into::kOtherPop) x87::Pop(c.x87);
  RememberX87Instruction(c, op);
  HVSDK_NEXT(op + 1);
}

template <Format kFormat, int kPops>
const Op* CompareMemory(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  const uint64_t linear = Address<false>(c, op, sizeof(BitsOf<kFormat>), false);
  const auto operand = Load<BitsOf<kFormat>>(c, op, linear);
  const uint8_t* const top = c.x87.st(0);
  if (!x87::Run(c.x87, Taken(op), [&] { return x87::Compare::Memory<kFormat>(x87::Get(top), operand); })) [[unlikely]]
    return X87LongWay(c, op);
  if constexpr (kPops != 0) x87::Pop(c.x87);
  RememberX87Instruction(c, op);
  RememberX87Operand(c, op, linear);
  HVSDK_NEXT(op + 1);
}
template <typename Compute, int kPops>
const Op* CompareRegister(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  const uint8_t* const top = c.x87.st(0);
  const uint8_t* const other = c.x87.st(op->a);
  if (!x87::Run(c.x87, Taken(op), [&] { return Compute::Register(x87::Get(top), x87::Get(other)); })) [[unlikely]]
    return X87LongWay(c, op);
  for (int i = 0; i < kPops; ++i) x87::Pop(c.x87);
  RememberX87Instruction(c, op);
  HVSDK_NEXT(op + 1);
}
template <typename Compute, int kPops>
const Op* CompareToFlags(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  const uint8_t* const top = c.x87.st(0);
  const uint8_t* const other = c.x87.st(op->a);
  bool zero = false, parity = false, carry = false;
  const auto compute = [&] { return Compute::Of(x87::Get(top), x87::Get(other), zero, parity, carry); };
  if (!x87::Run(c.x87, Taken(op), compute)) [[unlikely]]
    return X87LongWay(c, op);
  c.flags.Set((zero ? kFlagZf : 0) | (parity ? kFlagPf : 0) | (carry ? kFlagCf : 0));
  if constexpr (kPops != 0) x87::Pop(c.x87);
  RememberX87Instruction(c, op);
  HVSDK_NEXT(op + 1);
}
template <typename Compute>
const Op* ExamineTop(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  const uint8_t* const top = c.x87.st(0);
  if (!x87::Run(c.x87, Taken(op), [&] { return Compute::Of(x87::Get(top)); })) [[unlikely]]
    return X87LongWay(c, op);
  RememberX87Instruction(c, op);
  HVSDK_NEXT(op + 1);
}

template <typename Compute>
const Op* Unary(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  uint8_t* const top = c.x87.st(0);
  long double value;
  if (!Run(c, op, value, [&] { return Compute::Of(x87::Get(top)); })) [[unlikely]]
    return X87LongWay(c, op);
  x87::Put(top, value);
  RememberX87Instruction(c, op);
  HVSDK_NEXT(op + 1);
}
template <typename Compute, bool kPop>
const Op* Binary(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  uint8_t* const top = c.x87.st(0);
  uint8_t* const other = c.x87.st(1);
  long double value;
  if (!Run(c, op, value, [&] { return Compute::Of(x87::Get(top), x87::Get(other)); })) [[unlikely]]
    return X87LongWay(c, op);
  x87::Put(kPop ? other : top, value);
  if constexpr (kPop) x87::Pop(c.x87);
  RememberX87Instruction(c, op);
  HVSDK_NEXT(op + 1);
}
template <bool kNegate>
const Op* ChangeSign(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  uint8_t& last = c.x87.st(0)[9];
  last = static_cast<uint8_t>(kNegate ? last ^ 0x80 : last & 0x7F);
  RunNothing(c, op);
  RememberX87Instruction(c, op);
  HVSDK_NEXT(op + 1);
}

template <Format kFormat>
const Op* LoadMemory(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  const uint64_t linear = Address<false>(c, op, sizeof(BitsOf<kFormat>), false);
  const auto operand = Load<BitsOf<kFormat>>(c, op, linear);
  long double value;
  if (!Run(c, op, value, [&] { return x87::LoadAs<kFormat>(operand); })) [[unlikely]]
    return X87LongWay(c, op);
  x87::Put(x87::Push(c.x87), value);
  RememberX87Instruction(c, op);
  RememberX87Operand(c, op, linear);
  HVSDK_NEXT(op + 1);
}
// FLD m80 and FSTP m80 where the operand is not over the end of a page.
const Op* LoadExtended(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  const uint64_t linear = Address<false>(c, op, 10, false);
  const TlbEntry& entry = TlbAt(c, linear);
  if (entry.read != ((linear + 9) & ~(kPageSize - 1))) [[unlikely]]
    return X87LongWay(c, op);
  const auto significand = RawLoad<uint64_t>(entry.addend + linear);
  const auto exponent = RawLoad<uint16_t>(entry.addend + linear + 8);
  uint8_t* const to = x87::Push(c.x87);
  std::memcpy(to, &significand, 8);
  std::memcpy(to + 8, &exponent, 2);
  RunNothing(c, op);
  RememberX87Instruction(c, op);
  RememberX87Operand(c, op, linear);
  HVSDK_NEXT(op + 1);
}
const Op* StoreExtended(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  const uint64_t linear = Address<false>(c, op, 10, true);
  const TlbEntry& entry = TlbAt(c, linear);
  if (entry.write != ((linear + 9) & ~(kPageSize - 1))) [[unlikely]]
    return X87LongWay(c, op);
  uint64_t significand;
  uint16_t exponent;
  std::memcpy(&significand, c.x87.st(0), 8);
  std::memcpy(&exponent, c.x87.st(0) + 8, 2);
  RawStore<uint64_t>(entry.addend + linear, significand);
  RawStore<uint16_t>(entry.addend + linear + 8, exponent);
  x87::Pop(c.x87);
  RunNothing(c, op);
  RememberX87Instruction(c, op);
  RememberX87Operand(c, op, linear);
  HVSDK_NEXT(op + 1);
}
template <Format kFormat, bool kTruncate, int kPops>
const Op* StoreMemory(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  const uint64_t linear = Address<false>(c, op, sizeof(BitsOf<kFormat>), true);
  const TlbEntry& entry = TlbAt(c, linear);
  if (entry.write != TagOf<BitsOf<kFormat>>(linear)) [[unlikely]]
    return X87LongWay(c, op);
  const uint8_t* const top = c.x87.st(0);
  BitsOf<kFormat> bits;
  const auto compute = [&] {
    if constexpr (kTruncate) return x87::StoreTruncated<kFormat>(x87::Get(top), bits);
    if constexpr (!kTruncate) return x87::StoreAs<kFormat>(x87::Get(top), bits);
  };
  if (!x87::Run(c.x87, Taken(op), compute)) [[unlikely]]
    return X87LongWay(c, op);
  RawStore<BitsOf<kFormat>>(entry.addend + linear, bits);
  if constexpr (kPops != 0) x87::Pop(c.x87);
  RememberX87Instruction(c, op);
  RememberX87Operand(c, op, linear);
  HVSDK_NEXT(op + 1);
}

template <typename Compute>
const Op* LoadConstant(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  long double value;
  if (!Run(c, op, value, [&] { return Compute::Of(); })) [[unlikely]]
    return X87LongWay(c, op);
  x87::Put(x87::Push(c.x87), value);
  RememberX87Instruction(c, op);
  HVSDK_NEXT(op + 1);
}
const Op* LoadRegister(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  const uint8_t* const from = c.x87.st(op->a);
  CopyRegister(x87::Push(c.x87), from);
  RunNothing(c, op);
  RememberX87Instruction(c, op);
  HVSDK_NEXT(op + 1);
}
template <bool kPop>
const Op* StoreRegister(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  CopyRegister(c.x87.st(op->a), c.x87.st(0));
  c.x87.valid |= static_cast<uint8_t>(1 << ((c.x87.top() + op->a) & 7));
  if constexpr (kPop) x87::Pop(c.x87);
  RunNothing(c, op);
  RememberX87Instruction(c, op);
  HVSDK_NEXT(op + 1);
}
const Op* Exchange(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  uint8_t* const top = c.x87.st(0);
  uint8_t* const other = c.x87.st(op->a);
  const long double first = x87::Get(top), second = x87::Get(other);
  x87::Put(top, second);
  x87::Put(other, first);
  RunNothing(c, op);
  RememberX87Instruction(c, op);
  HVSDK_NEXT(op + 1);
}
template <uint64_t kFlags, bool kWanted>
const Op* ConditionalMove(Cpu& c, const Op* op) {
  if (!IsReady(c, op)) [[unlikely]]
    return X87LongWay(c, op);
  if (((c.flags.Get() & kFlags) != 0) == kWanted) CopyRegister(c.x87.st(0), c.x87.st(op->a));
  RunNothing(c, op);
  RememberX87Instruction(c, op);
  HVSDK_NEXT(op + 1);
}

const Op* LoadControl(Cpu& c, const Op* op) {
  CheckX87Pending(c, op);
  const auto control = Load<uint16_t>(c, op, Address<false>(c, op, 2, false));
  c.x87.SetControl(control);
  X87UpdateSummary(c.x87);
  HVSDK_NEXT(op + 1);
}
const Op* StoreControl(Cpu& c, const Op* op) {
  Store<uint16_t>(c, op, Address<false>(c, op, 2, true), c.x87.control);
  HVSDK_NEXT(op + 1);
}
const Op* StoreStatus(Cpu& c, const Op* op) {
  Store<uint16_t>(c, op, Address<false>(c, op, 2, true), c.x87.status);
  HVSDK_NEXT(op + 1);
}
const Op* StoreStatusToAx(Cpu& c, const Op* op) {
  c.Set<uint16_t>(SlotOffset(kRax), c.x87.status);
  HVSDK_NEXT(op + 1);
}

// ---- which handler ------------------------------------------------------------------------------------------------

// Arithmetic by ModRM.reg; 2 and 3 are comparisons.
template <Format kFormat>
Handler PickArithmeticMemory(int reg) {
  constexpr Handler kHandlers[8] = {&ArithmeticMemory<x87::Add, kFormat>,
                                    &ArithmeticMemory<x87::Multiply, kFormat>,
                                    &CompareMemory<kFormat, 0>,
                                    &CompareMemory<kFormat, 1>,
                                    &ArithmeticMemory<x87::Subtract, kFormat>,
                                    &ArithmeticMemory<x87::SubtractReversed, kFormat>,
                                    &ArithmeticMemory<x87::Divide, kFormat>,
                                    &ArithmeticMemory<x87::DivideReversed, kFormat>};
  return kHandlers[reg];
}
template <Into kInto>
Handler PickArithmeticRegister(int reg) {
  constexpr Handler kHandlers[8] = {&ArithmeticRegister<x87::Add, kInto>,
                                    &ArithmeticRegister<x87::Multiply, kInto>,
                                    nullptr,
                                    nullptr,
                                    &ArithmeticRegister<x87::Subtract, kInto>,
                                    &ArithmeticRegister<x87::SubtractReversed, kInto>,
                                    &ArithmeticRegister<x87::Divide, kInto>,
                                    &ArithmeticRegister<x87::DivideReversed, kInto>};
  return kHandlers[reg];
}

constexpr X87Tags Full(int registers) { return {static_cast<uint8_t>(registers), static_cast<uint8_t>(registers)}; }
constexpr X87Tags RoomAnd(int registers) {
  return {static_cast<uint8_t>(registers | 0x80), static_cast<uint8_t>(registers)};
}
X87Short PickMemory(uint8_t opcode, int reg) {
  const X87Tags top = Full(1), push = RoomAnd(0);
  switch (opcode << 4 | reg) {
    case 0xD90:
      return {push, &LoadMemory<Format::kSingle>};
    case 0xD92:
      return {top, &StoreMemory<Format::kSingle, false, 0>};
    case 0xD93:
      return {top, &StoreMemory<Format::kSingle, false, 1>};
    case 0xD95:
      return {top, &LoadControl};
    case 0xD97:
      return {top, &StoreControl};
    case 0xDB0:
      return {push, &LoadMemory<Format::kInt32>};
    case 0xDB1:
      return {top, &StoreMemory<Format::kInt32, true, 1>};
    case 0xDB2:
      return {top, &StoreMemory<Format::kInt32, false, 0>};
    case 0xDB3:
      return {top, &StoreMemory<Format::kInt32, false, 1>};
    case 0xDB5:
      return {push, &LoadExtended};
    case 0xDB7:
      return {top, &StoreExtended};
    case 0xDD0:
      return {push, &LoadMemory<Format::kDouble>};
    case 0xDD1:
      return {top, &StoreMemory<Format::kInt64, true, 1>};
    case 0xDD2:
      return {top, &StoreMemory<Format::kDouble, false, 0>};
    case 0xDD3:
      return {top, &StoreMemory<Format::kDouble, false, 1>};
    case 0xDD7:
      return {top, &StoreStatus};
    case 0xDF0:
      return {push, &LoadMemory<Format::kInt16>};
    case 0xDF1:
      return {top, &StoreMemory<Format::kInt16, true, 1>};
    case 0xDF2:
      return {top, &StoreMemory<Format::kInt16, false, 0>};
    case 0xDF3:
      return {top, &StoreMemory<Format::kInt16, false, 1>};
    case 0xDF5:
      return {push, &LoadMemory<Format::kInt64>};
    case 0xDF7:
      return {top, &StoreMemory<Format::kInt64, false, 1>};
    default:
      break;
  }
  if (opcode == 0xD8) return {top, PickArithmeticMemory<Format::kSingle>(reg)};
  if (opcode == 0xDA) return {top, PickArithmeticMemory<Format::kInt32>(reg)};
  if (opcode == 0xDC) return {top, PickArithmeticMemory<Format::kDouble>(reg)};
  if (opcode == 0xDE) return {top, PickArithmeticMemory<Format::kInt16>(reg)};
  return {};
}

// D9 E0 to D9 FF, whose operands are implied. FPREM and FPREM1 leave condition codes alone when an operand is invalid, and
// only then, so they are for the long way.
X87Short PickImplied(uint8_t modrm) {
  const X87Tags top = Full(1), push = RoomAnd(0), both = Full(3);
  switch (modrm) {
    case 0xE0:
      return {top, &ChangeSign<true>};
    case 0xE1:
      return {top, &ChangeSign<false>};
    case 0xE4:
      return {top, &ExamineTop<x87::Test>};
    case 0xE5:
      return {top, &ExamineTop<x87::Examine>};
    case 0xE8:
      return {push, &LoadConstant<x87::One>};
    case 0xE9:
      return {push, &LoadConstant<x87::Log2Of10>};
    case 0xEA:
      return {push, &LoadConstant<x87::Log2OfE>};
    case 0xEB:
      return {push, &LoadConstant<x87::Pi>};
    case 0xEC:
      return {push, &LoadConstant<x87::Log10Of2>};
    case 0xED:
      return {push, &LoadConstant<x87::LogEOf2>};
    case 0xEE:
      return {push, &LoadConstant<x87::Zero>};
    case 0xF0:
      return {top, &Unary<x87::PowerOfTwo>};
    case 0xF1:
      return {both, &Binary<x87::Logarithm, true>};
    case 0xF3:
      return {both, &Binary<x87::ArcTangent, true>};
    case 0xF9:
      return {both, &Binary<x87::LogarithmPlusOne, true>};
    case 0xFA:
      return {top, &Unary<x87::SquareRoot>};
    case 0xFC:
      return {top, &Unary<x87::Round>};
    case 0xFD:
      return {both, &Binary<x87::Scale, false>};
    case 0xFE:
      return {top, &Unary<x87::Sine>};
    case 0xFF:
      return {top, &Unary<x87::Cosine>};
    default:
      return {};
  }
}

X87Short PickRegister(uint8_t opcode, uint8_t modrm) {
  const int reg = modrm >> 3 & 7, other = modrm & 7;
  const X87Tags both = Full(1 | 1 << other);
  switch (opcode << 4 | reg) {
    case 0xD82:
      return {both, &CompareRegister<x87::Compare, 0>};
    case 0xD83:
      return {both, &CompareRegister<x87::Compare, 1>};
    case 0xD90:
      // ST(7) cannot be both full and where the push goes.
      if (other == 7) return {};
      return {RoomAnd(1 << other), &LoadRegister};
    case 0xD91:
      return {both, &Exchange};
    case 0xDA0:
      return {both, &ConditionalMove<kFlagCf, true>};
    case 0xDA1:
      return {both, &ConditionalMove<kFlagZf, true>};
    case 0xDA2:
      return {both, &ConditionalMove<kFlagCf | kFlagZf, true>};
    case 0xDA3:
      return {both, &ConditionalMove<kFlagPf, true>};
    case 0xDB0:
      return {both, &ConditionalMove<kFlagCf, false>};
    case 0xDB1:
      return {both, &ConditionalMove<kFlagZf, false>};
    case 0xDB2:
      return {both, &ConditionalMove<kFlagCf | kFlagZf, false>};
    case 0xDB3:
      return {both, &ConditionalMove<kFlagPf, false>};
    case 0xDA5:
      return {both, other == 1 ? &CompareRegister<x87::CompareUnordered, 2> : nullptr};
    case 0xDB5:
      return {both, &CompareToFlags<x87::CompareFlagsUnordered, 0>};
    case 0xDB6:
      return {both, &CompareToFlags<x87::CompareFlags, 0>};
    case 0xDD2:
      return {Full(1), &StoreRegister<false>};
    case 0xDD3:
      return {Full(1), &StoreRegister<true>};
    case 0xDD4:
      return {both, &CompareRegister<x87::CompareUnordered, 0>};
    case 0xDD5:
      return {both, &CompareRegister<x87::CompareUnordered, 1>};
    case 0xDE3:
      return {both, other == 1 ? &CompareRegister<x87::Compare, 2> : nullptr};
    case 0xDF4:
      return {both, other == 0 ? &StoreStatusToAx : nullptr};
    case 0xDF5:
      return {both, &CompareToFlags<x87::CompareFlagsUnordered, 1>};
    case 0xDF6:
      return {both, &CompareToFlags<x87::CompareFlags, 1>};
    default:
      break;
  }
  if (opcode == 0xD9 && modrm >= 0xE0) return PickImplied(modrm);
  if (opcode == 0xD8) return {both, PickArithmeticRegister<Into::kTop>(reg)};
  if (opcode == 0xDC) return {both, PickArithmeticRegister<Into::kOther>(reg)};
  if (opcode == 0xDE) return {both, PickArithmeticRegister<Into::kOtherPop>(reg)};
  return {};
}

}  // namespace

X87Short PickX87Short(uint8_t opcode, uint8_t modrm) {
  return modrm < 0xC0 ? PickMemory(opcode, modrm >> 3 & 7) : PickRegister(opcode, modrm);
}

}  // namespace hvsdk::software
