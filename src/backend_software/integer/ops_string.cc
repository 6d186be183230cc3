// SPDX-License-Identifier: Apache-2.0
// MOVS STOS LODS SCAS CMPS INS OUTS, alone and repeated.
//
// A repetition goes on in pieces that lie within a page, which a copy or fill of the host does at once. After each
// piece the registers are those of so many iterations done, so a fault or an interrupt between pieces is precise.
#include <algorithm>
#include <utility>

#include "absl/base/config.h"
#include "backend_software/code/decoder.h"
#include "backend_software/processor/memory_access.h"

namespace hvsdk::software {
namespace {

uint64_t AddressMask(const Op* op) {
  return (op->flags & kOpAddress32) ? 0xFFFFFFFF : (op->flags & kOpAddress16) ? 0xFFFF : ~uint64_t{0};
}
void SetMasked(Cpu& c, uint8_t reg, uint64_t value, uint64_t mask) {
  if (mask == 0xFFFF) {
    c.Set<uint16_t>(SlotOffset(reg), static_cast<uint16_t>(value));
  } else {
    c.r[reg] = value & mask;
  }
}
// Of one that is stepped for a trap each element is seen; not of one that is only to end at its instruction.
bool TakesPieces(const Cpu& c) { return !c.stepping || c.limited; }
// Where time is a count of instructions a piece counts as one, and so it ends where it would end anywhere: not where what
// was at hand ended.
bool Ends(const Cpu& c, uint64_t done, uint64_t piece) {
  return c.attention.load(std::memory_order_relaxed) != 0 && (done == piece || !c.counting);
}
bool Repeated(const Op* op) { return op->flags & (kOpRep | kOpRepne); }

// How many elements, of at most `count`, can be done at once from `offset`: they neither wrap, nor leave the page, nor
// come near the segment's limit. One is always right.
template <typename T>
uint64_t PieceAt(Cpu& c, int segment, uint64_t offset, uint64_t linear, uint64_t mask, uint64_t count) {
  count = std::min(count, (kPageSize - (linear & (kPageSize - 1))) / sizeof(T));
  if (!c.Is64()) {
    const Segment& s = c.segment[segment];
    const uint64_t limit = std::min<uint64_t>(s.limit, mask);
    const bool expands_down = c.IsProtected() && !c.IsVm86() && (s.type() & 12) == 4;
    if (expands_down || offset + count * sizeof(T) - 1 > limit) return 1;
  } else if (mask != ~uint64_t{0} && offset + count * sizeof(T) - 1 > mask) {
    return 1;
  }
  return std::max<uint64_t>(count, 1);
}

// Leaves the block before the repetition is done; it begins anew with the registers as they are.
const Op* Interrupted(Cpu& c, const Op* op) {
  c.r[kIp] += op->ip;
  c.block_instructions = op->count + 1u;
  // What comes between two iterations returns into the instruction, not to it: a breakpoint at it was met already
  // (Intel SDM volume 3, 17.3.1.1).
  c.rflags |= kFlagRf;
  return nullptr;
}

template <typename T>
HVSDK_GUEST_ACCESS void CopyElements(uint8_t* to, const uint8_t* from, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    RawStore<T>(reinterpret_cast<uint64_t>(to) + i * sizeof(T),
                RawLoad<T>(reinterpret_cast<uint64_t>(from) + i * sizeof(T)));
  }
}

template <typename T>
const Op* Movs(Cpu& c, const Op* op) {
  c.op = op;
  const uint64_t mask = AddressMask(op);
  const bool down = c.rflags & kFlagDf;
  const int64_t step = down ? -static_cast<int64_t>(sizeof(T)) : sizeof(T);
  uint64_t count = Repeated(op) ? c.r[kRcx] & mask : 1;
  while (count != 0) {
    const uint64_t si = c.r[kRsi] & mask;
    const uint64_t di = c.r[kRdi] & mask;
    const uint64_t from = c.SegmentLinear(op->a, si, sizeof(T), false);
    const uint64_t to = c.SegmentLinear(kEs, di, sizeof(T), true);
    uint64_t piece = 1;
    if (!down && count > 1 && TakesPieces(c)) {
      piece = std::min(PieceAt<T>(c, op->a, si, from, mask, count), PieceAt<T>(c, kEs, di, to, mask, count));
    }
    uint64_t done = piece;
    bool copied = false;
    if (done > 1) {
      const int bytes = static_cast<int>(done * sizeof(T));
      // Both look-ups may evict what the other found only if they were one page, which then is one entry.
      const uint8_t* source = c.HostForRead(op, from, bytes);
      uint8_t* target = source != nullptr ? c.HostForWrite(op, to, bytes) : nullptr;
      if (target != nullptr) {
        if (target > source && target < source + bytes) {
          CopyElements<T>(target, source, done);  // overlap that repeats what was just written
        } else {
#if defined(ABSL_HAVE_THREAD_SANITIZER)
          CopyElements<T>(target, source, done);
#else
          std::memmove(target, source, bytes);
#endif
        }
        copied = true;
      }
    }
    if (!copied) {
      done = 1;
      Store<T>(c, op, to, Load<T>(c, op, from));
    }
    SetMasked(c, kRsi, si + static_cast<uint64_t>(step) * done, mask);
    SetMasked(c, kRdi, di + static_cast<uint64_t>(step) * done, mask);
    if (!Repeated(op)) break;
    count -= done;
    SetMasked(c, kRcx, count, mask);
    if (count != 0 && Ends(c, done, piece)) return Interrupted(c, op);
  }
  return op + 1;
}

template <typename T>
HVSDK_GUEST_ACCESS void FillElements(uint8_t* to, T value, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) RawStore<T>(reinterpret_cast<uint64_t>(to) + i * sizeof(T), value);
}

template <typename T>
const Op* Stos(Cpu& c, const Op* op) {
  c.op = op;
  const uint64_t mask = AddressMask(op);
  const bool down = c.rflags & kFlagDf;
  const int64_t step = down ? -static_cast<int64_t>(sizeof(T)) : sizeof(T);
  const T value = c.Get<T>(SlotOffset(kRax));
  uint64_t count = Repeated(op) ? c.r[kRcx] & mask : 1;
  while (count != 0) {
    const uint64_t di = c.r[kRdi] & mask;
    const uint64_t to = c.SegmentLinear(kEs, di, sizeof(T), true);
    const uint64_t piece = !down && count > 1 && TakesPieces(c) ? PieceAt<T>(c, kEs, di, to, mask, count) : 1;
    uint64_t done = piece;
    uint8_t* target = done > 1 ? c.HostForWrite(op, to, static_cast<int>(done * sizeof(T))) : nullptr;
    if (target != nullptr) {
#if !defined(ABSL_HAVE_THREAD_SANITIZER)
      if (value == T{0} || sizeof(T) == 1) {
        std::memset(target, static_cast<uint8_t>(value), done * sizeof(T));
      } else
#endif
      {
        FillElements<T>(target, value, done);
      }
    } else {
      done = 1;
      Store<T>(c, op, to, value);
    }
    SetMasked(c, kRdi, di + static_cast<uint64_t>(step) * done, mask);
    if (!Repeated(op)) break;
    count -= done;
    SetMasked(c, kRcx, count, mask);
    if (count != 0 && Ends(c, done, piece)) return Interrupted(c, op);
  }
  return op + 1;
}

template <typename T>
const Op* Lods(Cpu& c, const Op* op) {
  c.op = op;
  const uint64_t mask = AddressMask(op);
  const int64_t step = (c.rflags & kFlagDf) ? -static_cast<int64_t>(sizeof(T)) : sizeof(T);
  uint64_t count = Repeated(op) ? c.r[kRcx] & mask : 1;
  while (count != 0) {
    const uint64_t si = c.r[kRsi] & mask;
    const T value = Load<T>(c, op, c.SegmentLinear(op->a, si, sizeof(T), false));
    c.Set<T>(SlotOffset(kRax), value);
    SetMasked(c, kRsi, si + static_cast<uint64_t>(step), mask);
    if (!Repeated(op)) break;
    SetMasked(c, kRcx, --count, mask);
    if (count != 0 && c.attention.load(std::memory_order_relaxed) != 0) return Interrupted(c, op);
  }
  return op + 1;
}

// SCAS and CMPS change the flags only once they end, or are interrupted: a fault between two iterations finds them as
// before the first (Intel SDM volume 2, REP).
template <typename T>
const Op* Scas(Cpu& c, const Op* op) {
  c.op = op;
  const uint64_t mask = AddressMask(op);
  const int64_t step = (c.rflags & kFlagDf) ? -static_cast<int64_t>(sizeof(T)) : sizeof(T);
  const T a = c.Get<T>(SlotOffset(kRax));
  LazyFlags flags = c.flags;
  uint64_t count = Repeated(op) ? c.r[kRcx] & mask : 1;
  while (count != 0) {
    const uint64_t di = c.r[kRdi] & mask;
    const T b = Load<T>(c, op, c.SegmentLinear(kEs, di, sizeof(T), false));
    flags.SetSub<T>(a, b, static_cast<T>(a - b));
    SetMasked(c, kRdi, di + static_cast<uint64_t>(step), mask);
    if (!Repeated(op)) break;
    SetMasked(c, kRcx, --count, mask);
    if (flags.zf() == static_cast<bool>(op->flags & kOpRepne)) break;
    if (count != 0 && c.attention.load(std::memory_order_relaxed) != 0) {
      c.flags = flags;
      return Interrupted(c, op);
    }
  }
  c.flags = flags;
  return op + 1;
}

template <typename T>
const Op* Cmps(Cpu& c, const Op* op) {
  c.op = op;
  const uint64_t mask = AddressMask(op);
  const int64_t step = (c.rflags & kFlagDf) ? -static_cast<int64_t>(sizeof(T)) : sizeof(T);
  LazyFlags flags = c.flags;
  uint64_t count = Repeated(op) ? c.r[kRcx] & mask : 1;
  while (count != 0) {
    const uint64_t si = c.r[kRsi] & mask;
    const uint64_t di = c.r[kRdi] & mask;
    // ES:RDI first, as AMD's processors do: it tells which of two bad operands faults.
    const T b = Load<T>(c, op, c.SegmentLinear(kEs, di, sizeof(T), false));
    const T a = Load<T>(c, op, c.SegmentLinear(op->a, si, sizeof(T), false));
    flags.SetSub<T>(a, b, static_cast<T>(a - b));
    SetMasked(c, kRsi, si + static_cast<uint64_t>(step), mask);
    SetMasked(c, kRdi, di + static_cast<uint64_t>(step), mask);
    if (!Repeated(op)) break;
    SetMasked(c, kRcx, --count, mask);
    if (flags.zf() == static_cast<bool>(op->flags & kOpRepne)) break;
    if (count != 0 && c.attention.load(std::memory_order_relaxed) != 0) {
      c.flags = flags;
      return Interrupted(c, op);
    }
  }
  c.flags = flags;
  return op + 1;
}

// Behind the instruction, or where the exit handler wants to go on.
const Op* AfterPort(Cpu& c, const Op* op) {
  if (!std::exchange(c.redirected, false)) c.r[kIp] = c.NextIp(op) & c.IpMask();
  return LookUpJump(c);
}

template <typename T>
const Op* Ins(Cpu& c, const Op* op) {
  c.op = op;
  const uint64_t mask = AddressMask(op);
  const int64_t step = (c.rflags & kFlagDf) ? -static_cast<int64_t>(sizeof(T)) : sizeof(T);
  uint64_t count = Repeated(op) ? c.r[kRcx] & mask : 1;
  const auto port = static_cast<uint16_t>(c.r[kRdx]);
  c.CheckPort(port, sizeof(T));
  while (count != 0) {
    const uint64_t di = c.r[kRdi] & mask;
    const uint64_t to = c.SegmentLinear(kEs, di, sizeof(T), true);
    c.ProbeWrite(op, to, sizeof(T));  // a port read has side effects: nothing may fault after it
    T value{};
    c.exit_ip = c.r[kIp] + op->ip;
    c.PortRead(port, reinterpret_cast<uint8_t*>(&value), sizeof(T));
    Store<T>(c, op, to, value);
    SetMasked(c, kRdi, di + static_cast<uint64_t>(step), mask);
    if (Repeated(op)) SetMasked(c, kRcx, --count, mask);
    if (c.redirected || !Repeated(op)) break;
    if (count != 0 && c.attention.load(std::memory_order_relaxed) != 0) return Interrupted(c, op);
  }
  return AfterPort(c, op);
}

template <typename T>
const Op* Outs(Cpu& c, const Op* op) {
  c.op = op;
  const uint64_t mask = AddressMask(op);
  const int64_t step = (c.rflags & kFlagDf) ? -static_cast<int64_t>(sizeof(T)) : sizeof(T);
  uint64_t count = Repeated(op) ? c.r[kRcx] & mask : 1;
  const auto port = static_cast<uint16_t>(c.r[kRdx]);
  c.CheckPort(port, sizeof(T));
  while (count != 0) {
    const uint64_t si = c.r[kRsi] & mask;
    const T value = Load<T>(c, op, c.SegmentLinear(op->a, si, sizeof(T), false));
    c.exit_ip = c.r[kIp] + op->ip;
    c.PortWrite(port, reinterpret_cast<const uint8_t*>(&value), sizeof(T));
    SetMasked(c, kRsi, si + static_cast<uint64_t>(step), mask);
    if (Repeated(op)) SetMasked(c, kRcx, --count, mask);
    if (c.redirected || !Repeated(op)) break;
    if (count != 0 && c.attention.load(std::memory_order_relaxed) != 0) return Interrupted(c, op);
  }
  return AfterPort(c, op);
}

bool Prepare(Insn& in, Op& op) {
  op.a = kDs;
  if (in.z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_ES) op.a = kEs;
  if (in.z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS) op.a = kCs;
  if (in.z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_SS) op.a = kSs;
  if (in.z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS) op.a = kFs;
  if (in.z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS) op.a = kGs;
  if (in.z.address_width == 32) op.flags |= kOpAddress32;
  if (in.z.address_width == 16) op.flags |= kOpAddress16;
  // The stack segment's fault is the operand's only when it was asked for.
  if (op.a == kSs) op.flags |= kOpStackSegment;
  return true;
}
template <Handler kHandler, bool kEnds = false>
bool TranslateString(Insn& in, Op& op) {
  in.ends = kEnds;
  op.handler = kHandler;
  return Prepare(in, op);
}

}  // namespace

void RegisterString(TranslatorTable& table) {
  table.Set(ZYDIS_MNEMONIC_MOVSB, &TranslateString<&Movs<uint8_t>>);
  table.Set(ZYDIS_MNEMONIC_MOVSW, &TranslateString<&Movs<uint16_t>>);
  // MOVSD and CMPSD are also SSE2 instructions, whose translators hand these on here.
  table.Set(ZYDIS_MNEMONIC_MOVSD, &TranslateMovsd);
  table.Set(ZYDIS_MNEMONIC_MOVSQ, &TranslateString<&Movs<uint64_t>>);
  table.Set(ZYDIS_MNEMONIC_STOSB, &TranslateString<&Stos<uint8_t>>);
  table.Set(ZYDIS_MNEMONIC_STOSW, &TranslateString<&Stos<uint16_t>>);
  table.Set(ZYDIS_MNEMONIC_STOSD, &TranslateString<&Stos<uint32_t>>);
  table.Set(ZYDIS_MNEMONIC_STOSQ, &TranslateString<&Stos<uint64_t>>);
  table.Set(ZYDIS_MNEMONIC_LODSB, &TranslateString<&Lods<uint8_t>>);
  table.Set(ZYDIS_MNEMONIC_LODSW, &TranslateString<&Lods<uint16_t>>);
  table.Set(ZYDIS_MNEMONIC_LODSD, &TranslateString<&Lods<uint32_t>>);
  table.Set(ZYDIS_MNEMONIC_LODSQ, &TranslateString<&Lods<uint64_t>>);
  table.Set(ZYDIS_MNEMONIC_SCASB, &TranslateString<&Scas<uint8_t>>);
  table.Set(ZYDIS_MNEMONIC_SCASW, &TranslateString<&Scas<uint16_t>>);
  table.Set(ZYDIS_MNEMONIC_SCASD, &TranslateString<&Scas<uint32_t>>);
  table.Set(ZYDIS_MNEMONIC_SCASQ, &TranslateString<&Scas<uint64_t>>);
  table.Set(ZYDIS_MNEMONIC_CMPSB, &TranslateString<&Cmps<uint8_t>>);
  table.Set(ZYDIS_MNEMONIC_CMPSW, &TranslateString<&Cmps<uint16_t>>);
  table.Set(ZYDIS_MNEMONIC_CMPSD, &TranslateCmpsd);
  table.Set(ZYDIS_MNEMONIC_CMPSQ, &TranslateString<&Cmps<uint64_t>>);
  table.Set(ZYDIS_MNEMONIC_INSB, (&TranslateString<&Ins<uint8_t>, true>));
  table.Set(ZYDIS_MNEMONIC_INSW, (&TranslateString<&Ins<uint16_t>, true>));
  table.Set(ZYDIS_MNEMONIC_INSD, (&TranslateString<&Ins<uint32_t>, true>));
  table.Set(ZYDIS_MNEMONIC_OUTSB, (&TranslateString<&Outs<uint8_t>, true>));
  table.Set(ZYDIS_MNEMONIC_OUTSW, (&TranslateString<&Outs<uint16_t>, true>));
  table.Set(ZYDIS_MNEMONIC_OUTSD, (&TranslateString<&Outs<uint32_t>, true>));
}

bool TranslateMovsd(Insn& in, Op& op) {
  if (in.z.opcode != 0xA5 || in.z.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT) return TranslateSseMovsd(in, op);
  return TranslateString<&Movs<uint32_t>>(in, op);
}
bool TranslateCmpsd(Insn& in, Op& op) {
  if (in.z.opcode != 0xA7 || in.z.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT) return TranslateSseCmpsd(in, op);
  return TranslateString<&Cmps<uint32_t>>(in, op);
}

}  // namespace hvsdk::software
