// SPDX-License-Identifier: Apache-2.0
// BT BTS BTR BTC BSF BSR TZCNT LZCNT POPCNT, BMI1, BMI2's BZHI PDEP PEXT, CRC32, and the compare-exchange family.
#include <bit>

#include "backend_software/code/decoder.h"
#include "backend_software/processor/memory_access.h"

namespace hvsdk::software {
namespace {

template <typename T>
constexpr int kBits = 8 * sizeof(T);

// A source that is a register (b) or memory.
template <typename T, bool kMemory>
T Source(Cpu& c, const Op* op) {
  if constexpr (kMemory) return Load<T>(c, op, Address<false>(c, op, sizeof(T), false));
  return c.Get<T>(op->b);
}
template <template <typename, bool> class Run>
bool TranslateRegSource(Insn& in, Op& op, int destination, int source) {
  op.a = RegisterOffset(in.o[destination].reg.value);
  const int size = in.o[destination].size;
  if (in.IsReg(source)) {
    op.b = RegisterOffset(in.o[source].reg.value);
    op.handler = ByWideSize(size, []<typename T>() -> Handler { return &Run<T, false>::Go; });
  } else {
    SetMemory(in, in.o[source], op);
    op.handler = ByWideSize(size, []<typename T>() -> Handler { return &Run<T, true>::Go; });
  }
  return true;
}

// ---- bit test ----

enum class BitKind { kTest, kSet, kReset, kComplement };
template <typename T, BitKind kKind>
T ChangeBit(LazyFlags& f, T value, int bit) {
  const T mask = static_cast<T>(T{1} << bit);
  f.SetCf(value & mask);
  switch (kKind) {
    case BitKind::kSet:
      return static_cast<T>(value | mask);
    case BitKind::kReset:
      return static_cast<T>(value & ~mask);
    case BitKind::kComplement:
      return static_cast<T>(value ^ mask);
    default:
      return value;
  }
}
template <typename T, BitKind kKind, bool kImm>
const Op* BitReg(Cpu& c, const Op* op) {
  const int bit = static_cast<int>((kImm ? op->imm : c.Get<T>(op->b)) & (kBits<T> - 1));
  const T value = ChangeBit<T, kKind>(c.flags, c.Get<T>(op->a), bit);
  if constexpr (kKind != BitKind::kTest) c.Set<T>(op->a, value);
  HVSDK_NEXT(op + 1);
}
// A bit number in a register reaches beyond the operand: the word is found by its higher bits, signed.
template <typename T, BitKind kKind, bool kImm>
const Op* BitMem(Cpu& c, const Op* op) {
  int bit;
  uint64_t address;
  if constexpr (kImm) {
    bit = static_cast<int>(op->imm & (kBits<T> - 1));
    address = Address<false>(c, op, sizeof(T), kKind != BitKind::kTest);
  } else {
    const auto number = static_cast<int64_t>(static_cast<std::make_signed_t<T>>(c.Get<T>(op->b)));
    bit = static_cast<int>(number & (kBits<T> - 1));
    const int64_t delta =
        (number >> std::countr_zero(static_cast<unsigned>(kBits<T>))) * static_cast<int64_t>(sizeof(T));
    if (op->flags & (kOpLegacyAddress | kOpRipBias)) {
      // Through the register slots, so that the offset is cut and checked as a whole.
      const uint64_t saved = c.r[kZero];
      Op moved = *op;
      uint64_t offset = c.Get<uint64_t>(op->base) + (c.Get<uint64_t>(op->index) << op->scale) +
                        static_cast<int64_t>(op->disp) + ((op->flags & kOpRipBias) ? kRipBias : 0) + delta;
      if (op->flags & kOpAddress32) offset &= 0xFFFFFFFF;
      if (op->flags & kOpAddress16) offset &= 0xFFFF;
      c.r[kZero] = saved;
      c.op = op;
      address = c.Is64()
                    ? offset + c.Get<uint64_t>(op->segment)
                    : c.SegmentLinear(moved.segment / 8 - kSegmentBase, offset, sizeof(T), kKind != BitKind::kTest);
    } else {
      address = Address<false>(c, op, sizeof(T), kKind != BitKind::kTest) + delta;
    }
  }
  if constexpr (kKind == BitKind::kTest) {
    ChangeBit<T, kKind>(c.flags, Load<T>(c, op, address), bit);
  } else if (op->flags & kOpLock) {
    LockedRmw<T>(c, op, address, [&](T value) { return ChangeBit<T, kKind>(c.flags, value, bit); });
  } else {
    Rmw<T>(c, op, address, [&](T value) { return ChangeBit<T, kKind>(c.flags, value, bit); });
  }
  HVSDK_NEXT(op + 1);
}
template <BitKind kKind>
bool TranslateBit(Insn& in, Op& op) {
  const int size = in.o[0].size;
  const bool imm = in.IsImm(1);
  if (imm) {
    op.imm = in.o[1].imm.value.u;
  } else {
    op.b = RegisterOffset(in.o[1].reg.value);
  }
  if (in.IsReg(0)) {
    op.a = RegisterOffset(in.o[0].reg.value);
    op.handler = imm ? ByWideSize(size, []<typename T>() -> Handler { return &BitReg<T, kKind, true>; })
                     : ByWideSize(size, []<typename T>() -> Handler { return &BitReg<T, kKind, false>; });
  } else {
    SetMemory(in, in.o[0], op);
    op.handler = imm ? ByWideSize(size, []<typename T>() -> Handler { return &BitMem<T, kKind, true>; })
                     : ByWideSize(size, []<typename T>() -> Handler { return &BitMem<T, kKind, false>; });
  }
  return true;
}

// ---- scans and counts ----

// BSF and BSR leave the destination alone when the source is zero, but for the upper half of a 32-bit one? Processors
// leave all 64 bits.
template <typename T, bool kMemory>
struct Bsf {
  static const Op* Go(Cpu& c, const Op* op) {
    const T value = Source<T, kMemory>(c, op);
    c.flags.SetLogic<T>(value);
    if (value != 0) c.Set<T>(op->a, static_cast<T>(std::countr_zero(value)));
    HVSDK_NEXT(op + 1);
  }
};
template <typename T, bool kMemory>
struct Bsr {
  static const Op* Go(Cpu& c, const Op* op) {
    const T value = Source<T, kMemory>(c, op);
    c.flags.SetLogic<T>(value);
    if (value != 0) c.Set<T>(op->a, static_cast<T>(kBits<T> - 1 - std::countl_zero(value)));
    HVSDK_NEXT(op + 1);
  }
};
template <typename T, bool kMemory>
struct Tzcnt {
  static const Op* Go(Cpu& c, const Op* op) {
    const T value = Source<T, kMemory>(c, op);
    const T count = static_cast<T>(std::countr_zero(value));
    c.flags.SetLogic<T>(count);
    c.flags.SetCfOf(value == 0, false);
    c.Set<T>(op->a, count);
    HVSDK_NEXT(op + 1);
  }
};
template <typename T, bool kMemory>
struct Lzcnt {
  static const Op* Go(Cpu& c, const Op* op) {
    const T value = Source<T, kMemory>(c, op);
    const T count = static_cast<T>(std::countl_zero(value));
    c.flags.SetLogic<T>(count);
    c.flags.SetCfOf(value == 0, false);
    c.Set<T>(op->a, count);
    HVSDK_NEXT(op + 1);
  }
};
template <typename T, bool kMemory>
struct Popcnt {
  static const Op* Go(Cpu& c, const Op* op) {
    const T value = Source<T, kMemory>(c, op);
    c.flags.Set(value == 0 ? kFlagZf : 0);
    c.Set<T>(op->a, static_cast<T>(std::popcount(value)));
    HVSDK_NEXT(op + 1);
  }
};

// ---- BMI1 and BMI2 without multiplication; the second source is extra ----

template <typename T, bool kMemory>
struct Andn {
  static const Op* Go(Cpu& c, const Op* op) {
    const T value = static_cast<T>(~c.Get<T>(op->extra) & Source<T, kMemory>(c, op));
    c.flags.SetLogic<T>(value);
    c.Set<T>(op->a, value);
    HVSDK_NEXT(op + 1);
  }
};
template <typename T, bool kMemory>
struct Bextr {
  static const Op* Go(Cpu& c, const Op* op) {
    const T source = Source<T, kMemory>(c, op);
    const T control = c.Get<T>(op->extra);
    const int start = control & 0xFF;
    const int length = control >> 8 & 0xFF;
    T value = start < kBits<T> ? static_cast<T>(source >> start) : T{0};
    if (length < kBits<T>) value &= static_cast<T>((T{1} << length) - 1);
    c.flags.SetLogic<T>(value);
    c.Set<T>(op->a, value);
    HVSDK_NEXT(op + 1);
  }
};
template <typename T, bool kMemory>
struct Blsi {
  static const Op* Go(Cpu& c, const Op* op) {
    const T source = Source<T, kMemory>(c, op);
    const T value = static_cast<T>(source & -source);
    c.flags.SetLogic<T>(value);
    c.flags.SetCfOf(source != 0, false);
    c.Set<T>(op->a, value);
    HVSDK_NEXT(op + 1);
  }
};
template <typename T, bool kMemory>
struct Blsmsk {
  static const Op* Go(Cpu& c, const Op* op) {
    const T source = Source<T, kMemory>(c, op);
    const T value = static_cast<T>(source ^ (source - 1));
    c.flags.SetLogic<T>(value);
    c.flags.SetCfOf(source == 0, false);
    c.Set<T>(op->a, value);
    HVSDK_NEXT(op + 1);
  }
};
template <typename T, bool kMemory>
struct Blsr {
  static const Op* Go(Cpu& c, const Op* op) {
    const T source = Source<T, kMemory>(c, op);
    const T value = static_cast<T>(source & (source - 1));
    c.flags.SetLogic<T>(value);
    c.flags.SetCfOf(source == 0, false);
    c.Set<T>(op->a, value);
    HVSDK_NEXT(op + 1);
  }
};
template <typename T, bool kMemory>
struct Bzhi {
  static const Op* Go(Cpu& c, const Op* op) {
    const T source = Source<T, kMemory>(c, op);
    const int index = c.Get<uint8_t>(op->extra);
    const bool beyond = index >= kBits<T>;
    const T value = beyond ? source : static_cast<T>(source & ((T{1} << index) - 1));
    c.flags.SetLogic<T>(value);
    c.flags.SetCfOf(beyond, false);
    c.Set<T>(op->a, value);
    HVSDK_NEXT(op + 1);
  }
};
// For PDEP and PEXT the mask is the memory operand.
template <typename T, bool kMemory>
struct Pdep {
  static const Op* Go(Cpu& c, const Op* op) {
    T mask = Source<T, kMemory>(c, op);
    T source = c.Get<T>(op->extra);
    T value = 0;
    for (; mask != 0; mask &= static_cast<T>(mask - 1), source >>= 1) {
      if (source & 1) value |= static_cast<T>(mask & -mask);
    }
    c.Set<T>(op->a, value);
    HVSDK_NEXT(op + 1);
  }
};
template <typename T, bool kMemory>
struct Pext {
  static const Op* Go(Cpu& c, const Op* op) {
    T mask = Source<T, kMemory>(c, op);
    const T source = c.Get<T>(op->extra);
    T value = 0;
    for (T bit = 1; mask != 0; mask &= static_cast<T>(mask - 1), bit = static_cast<T>(bit << 1)) {
      if (source & mask & -mask) value |= bit;
    }
    c.Set<T>(op->a, value);
    HVSDK_NEXT(op + 1);
  }
};

template <template <typename, bool> class Run>
bool TranslateTwo(Insn& in, Op& op) {
  return TranslateRegSource<Run>(in, op, 0, 1);
}
// destination, register, source
template <template <typename, bool> class Run>
bool TranslateNds(Insn& in, Op& op) {
  op.extra = RegisterOffset(in.o[1].reg.value);
  return TranslateRegSource<Run>(in, op, 0, 2);
}
// destination, source, register
template <template <typename, bool> class Run>
bool TranslateControl(Insn& in, Op& op) {
  op.extra = RegisterOffset(in.o[2].reg.value);
  return TranslateRegSource<Run>(in, op, 0, 1);
}

// ---- CRC32 (the Castagnoli polynomial, reflected) ----

template <typename T, bool kMemory>
struct Crc32 {
  static const Op* Go(Cpu& c, const Op* op) {
    T source = Source<T, kMemory>(c, op);
    auto crc = c.Get<uint32_t>(op->a);
    for (size_t i = 0; i < sizeof(T); ++i) {
      crc ^= static_cast<uint8_t>(source >> (8 * i));
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78 : 0);
    }
    c.Set<uint32_t>(op->a, crc);
    HVSDK_NEXT(op + 1);
  }
};
bool TranslateCrc32(Insn& in, Op& op) {
  op.a = RegisterOffset(in.o[0].reg.value);
  if (in.IsReg(1)) {
    op.b = RegisterOffset(in.o[1].reg.value);
    op.handler = BySize(in.o[1].size, []<typename T>() -> Handler { return &Crc32<T, false>::Go; });
  } else {
    SetMemory(in, in.o[1], op);
    op.handler = BySize(in.o[1].size, []<typename T>() -> Handler { return &Crc32<T, true>::Go; });
  }
  return true;
}

// ---- XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B ----

template <typename T>
const Op* XaddReg(Cpu& c, const Op* op) {
  const T a = c.Get<T>(op->a);
  const T b = c.Get<T>(op->b);
  const T sum = static_cast<T>(a + b);
  c.flags.SetAdd<T>(a, b, sum);
  c.Set<T>(op->b, a);
  c.Set<T>(op->a, sum);
  HVSDK_NEXT(op + 1);
}
template <typename T>
const Op* XaddMem(Cpu& c, const Op* op) {
  const uint64_t address = Address<false>(c, op, sizeof(T), true);
  const T b = c.Get<T>(op->b);
  T old{};
  const auto change = [&](T a) {
    old = a;
    const T sum = static_cast<T>(a + b);
    c.flags.SetAdd<T>(a, b, sum);
    return sum;
  };
  if (op->flags & kOpLock) {
    LockedRmw<T>(c, op, address, change);
  } else {
    Rmw<T>(c, op, address, change);
  }
  c.Set<T>(op->b, old);
  HVSDK_NEXT(op + 1);
}
bool TranslateXadd(Insn& in, Op& op) {
  op.b = RegisterOffset(in.o[1].reg.value);
  if (in.IsReg(0)) {
    op.a = RegisterOffset(in.o[0].reg.value);
    op.handler = BySize(in.o[0].size, []<typename T>() -> Handler { return &XaddReg<T>; });
  } else {
    SetMemory(in, in.o[0], op);
    op.handler = BySize(in.o[0].size, []<typename T>() -> Handler { return &XaddMem<T>; });
  }
  return true;
}

template <typename T>
const Op* CmpxchgReg(Cpu& c, const Op* op) {
  const T expected = c.Get<T>(SlotOffset(kRax));
  const T seen = c.Get<T>(op->a);
  c.flags.SetSub<T>(expected, seen, static_cast<T>(expected - seen));
  if (expected == seen) {
    c.Set<T>(op->a, c.Get<T>(op->b));
  } else {
    // A 32-bit compare that fails still clears the destination's upper half? No: it is written back unchanged.
    c.Set<T>(SlotOffset(kRax), seen);
  }
  HVSDK_NEXT(op + 1);
}
// The word is written in any case, with what was there when the compare fails.
template <typename T>
const Op* CmpxchgMem(Cpu& c, const Op* op) {
  const uint64_t address = Address<false>(c, op, sizeof(T), true);
  const T expected = c.Get<T>(SlotOffset(kRax));
  const T value = c.Get<T>(op->b);
  T seen{};
  const auto change = [&](T now) {
    seen = now;
    return now == expected ? value : now;
  };
  if (op->flags & kOpLock) {
    LockedRmw<T>(c, op, address, change);
  } else {
    Rmw<T>(c, op, address, change);
  }
  c.flags.SetSub<T>(expected, seen, static_cast<T>(expected - seen));
  if (seen != expected) c.Set<T>(SlotOffset(kRax), seen);
  HVSDK_NEXT(op + 1);
}
bool TranslateCmpxchg(Insn& in, Op& op) {
  op.b = RegisterOffset(in.o[1].reg.value);
  if (in.IsReg(0)) {
    op.a = RegisterOffset(in.o[0].reg.value);
    op.handler = BySize(in.o[0].size, []<typename T>() -> Handler { return &CmpxchgReg<T>; });
  } else {
    SetMemory(in, in.o[0], op);
    op.handler = BySize(in.o[0].size, []<typename T>() -> Handler { return &CmpxchgMem<T>; });
  }
  return true;
}

void SetZf(LazyFlags& f, bool zf) { f.Set((f.Get() & ~kFlagZf) | (zf ? kFlagZf : 0)); }

const Op* Cmpxchg8b(Cpu& c, const Op* op) {
  const uint64_t address = Address<false>(c, op, 8, true);
  const uint64_t expected = (c.r[kRdx] & 0xFFFFFFFF) << 32 | (c.r[kRax] & 0xFFFFFFFF);
  const uint64_t value = (c.r[kRcx] & 0xFFFFFFFF) << 32 | (c.r[kRbx] & 0xFFFFFFFF);
  uint64_t seen = 0;
  LockedRmw<uint64_t>(c, op, address, [&](uint64_t now) {
    seen = now;
    return now == expected ? value : now;
  });
  SetZf(c.flags, seen == expected);
  if (seen != expected) {
    c.r[kRax] = seen & 0xFFFFFFFF;
    c.r[kRdx] = seen >> 32;
  }
  HVSDK_NEXT(op + 1);
}

HVSDK_GUEST_ACCESS unsigned __int128 CompareExchange16(uint64_t host, unsigned __int128 expected,
                                                       unsigned __int128 value) {
  return __sync_val_compare_and_swap(reinterpret_cast<unsigned __int128*>(host), expected, value);
}

const Op* Cmpxchg16b(Cpu& c, const Op* op) {
  const uint64_t address = Address<false>(c, op, 16, true);
  c.op = op;
  if (address & 15) c.Raise(kGeneralProtection, 0);
  using Wide = unsigned __int128;
  const Wide expected = static_cast<Wide>(c.r[kRdx]) << 64 | c.r[kRax];
  const Wide value = static_cast<Wide>(c.r[kRcx]) << 64 | c.r[kRbx];
  Wide seen;
  const TlbEntry& entry = TlbAt(c, address);
  if (entry.write == (address & ~(kPageSize - 1))) [[likely]] {
    seen = CompareExchange16(entry.addend + address, expected, value);
  } else if (uint8_t* host = c.BeginLocked(op, address, 16); host != nullptr) {
    seen = CompareExchange16(reinterpret_cast<uint64_t>(host), expected, value);
    c.EndLocked(address, 16, false);
  } else {
    // A device: two words, the lower first.
    const uint64_t low = c.LoadForWriteSlow(op, address, 8);
    const uint64_t high = c.LoadForWriteSlow(op, address + 8, 8);
    seen = static_cast<Wide>(high) << 64 | low;
    const Wide out = seen == expected ? value : seen;
    c.StoreSlow(op, address, static_cast<uint64_t>(out), 8);
    c.StoreSlow(op, address + 8, static_cast<uint64_t>(out >> 64), 8);
  }
  SetZf(c.flags, seen == expected);
  if (seen != expected) {
    c.r[kRax] = static_cast<uint64_t>(seen);
    c.r[kRdx] = static_cast<uint64_t>(seen >> 64);
  }
  HVSDK_NEXT(op + 1);
}
template <Handler kHandler>
bool TranslateWide(Insn& in, Op& op) {
  SetMemory(in, in.o[0], op);
  op.handler = kHandler;
  return true;
}

}  // namespace

void RegisterBit(TranslatorTable& table) {
  table.Set(ZYDIS_MNEMONIC_BT, &TranslateBit<BitKind::kTest>);
  table.Set(ZYDIS_MNEMONIC_BTS, &TranslateBit<BitKind::kSet>);
  table.Set(ZYDIS_MNEMONIC_BTR, &TranslateBit<BitKind::kReset>);
  table.Set(ZYDIS_MNEMONIC_BTC, &TranslateBit<BitKind::kComplement>);
  table.Set(ZYDIS_MNEMONIC_BSF, &TranslateTwo<Bsf>);
  table.Set(ZYDIS_MNEMONIC_BSR, &TranslateTwo<Bsr>);
  table.Set(ZYDIS_MNEMONIC_TZCNT, &TranslateTwo<Tzcnt>);
  table.Set(ZYDIS_MNEMONIC_LZCNT, &TranslateTwo<Lzcnt>);
  table.Set(ZYDIS_MNEMONIC_POPCNT, &TranslateTwo<Popcnt>);
  table.Set(ZYDIS_MNEMONIC_ANDN, &TranslateNds<Andn>);
  table.Set(ZYDIS_MNEMONIC_BEXTR, &TranslateControl<Bextr>);
  table.Set(ZYDIS_MNEMONIC_BLSI, &TranslateTwo<Blsi>);
  table.Set(ZYDIS_MNEMONIC_BLSMSK, &TranslateTwo<Blsmsk>);
  table.Set(ZYDIS_MNEMONIC_BLSR, &TranslateTwo<Blsr>);
  table.Set(ZYDIS_MNEMONIC_BZHI, &TranslateControl<Bzhi>);
  table.Set(ZYDIS_MNEMONIC_PDEP, &TranslateNds<Pdep>);
  table.Set(ZYDIS_MNEMONIC_PEXT, &TranslateNds<Pext>);
  table.Set(ZYDIS_MNEMONIC_CRC32, &TranslateCrc32);
  table.Set(ZYDIS_MNEMONIC_XADD, &TranslateXadd);
  table.Set(ZYDIS_MNEMONIC_CMPXCHG, &TranslateCmpxchg);
  table.Set(ZYDIS_MNEMONIC_CMPXCHG8B, &TranslateWide<&Cmpxchg8b>);
  table.Set(ZYDIS_MNEMONIC_CMPXCHG16B, &TranslateWide<&Cmpxchg16b>);
}

}  // namespace hvsdk::software
