// SPDX-License-Identifier: Apache-2.0
// The flags register: CLC STC CMC CLD STD LAHF SAHF SALC, PUSHF POPF, CLI STI, CLAC STAC.
#include "backend_software/code/decoder.h"
#include "backend_software/processor/memory_access.h"

namespace hvsdk::software {
namespace {

const Op* Clc(Cpu& c, const Op* op) {
  c.flags.SetCf(false);
  HVSDK_NEXT(op + 1);
}
const Op* Stc(Cpu& c, const Op* op) {
  c.flags.SetCf(true);
  HVSDK_NEXT(op + 1);
}
const Op* Cmc(Cpu& c, const Op* op) {
  c.flags.SetCf(!c.flags.cf());
  HVSDK_NEXT(op + 1);
}
const Op* Cld(Cpu& c, const Op* op) {
  c.rflags &= ~kFlagDf;
  HVSDK_NEXT(op + 1);
}
const Op* Std(Cpu& c, const Op* op) {
  c.rflags |= kFlagDf;
  HVSDK_NEXT(op + 1);
}
const Op* Lahf(Cpu& c, const Op* op) {
  c.Set<uint8_t>(SlotOffset(kRax) + 1, static_cast<uint8_t>(c.flags.Get() | kFlagOne));
  HVSDK_NEXT(op + 1);
}
const Op* Sahf(Cpu& c, const Op* op) {
  const uint64_t keep = c.flags.Get() & kFlagOf;
  c.flags.Set(keep | c.Get<uint8_t>(SlotOffset(kRax) + 1));
  HVSDK_NEXT(op + 1);
}
const Op* Salc(Cpu& c, const Op* op) {
  c.Set<uint8_t>(SlotOffset(kRax), c.flags.cf() ? 0xFF : 0);
  HVSDK_NEXT(op + 1);
}

const Op* Pushf(Cpu& c, const Op* op) {
  c.op = op;
  if (c.IsVm86() && c.Iopl() < 3) c.Raise(kGeneralProtection, 0);
  c.Push(c.GetRflags() & ~uint64_t{kFlagRf | kFlagVm}, op->extra);
  return op + 1;
}

const Op* Popf(Cpu& c, const Op* op) {
  c.op = op;
  if (c.IsVm86() && c.Iopl() < 3) c.Raise(kGeneralProtection, 0);
  const uint64_t value = c.Pop(op->extra);
  uint64_t change = kArithmeticFlags | kFlagTf | kFlagDf | kFlagNt | kFlagAc | kFlagId;
  if (c.cpl == 0 || !c.IsProtected()) change |= kFlagIopl;
  if (c.cpl <= c.Iopl() || !c.IsProtected()) change |= kFlagIf;
  if (c.IsVm86()) change = (change & ~kFlagIopl) | kFlagIf;
  if (op->extra == 2) change &= 0xFFFF;
  c.r[kIp] = c.NextIp(op) & c.IpMask();
  c.SetRflags((((c.GetRflags() & ~change) | (value & change)) & ~kFlagRf) | kFlagOne);
  return LookUpJump(c);
}

bool MayChangeIf(Cpu& c) { return !c.IsProtected() || c.cpl <= c.Iopl(); }

const Op* Cli(Cpu& c, const Op* op) {
  c.op = op;
  if (!MayChangeIf(c)) c.Raise(kGeneralProtection, 0);
  c.rflags &= ~kFlagIf;
  HVSDK_NEXT(op + 1);
}
const Op* Sti(Cpu& c, const Op* op) {
  c.op = op;
  if (!MayChangeIf(c)) c.Raise(kGeneralProtection, 0);
  if (c.rflags & kFlagIf) return op + 1;
  c.rflags |= kFlagIf;
  c.LookAtApic();
  // The next instruction runs before any interrupt, also one that arrives only now. In a block nobody looks between the
  // two, and the block ends behind the second.
  if (op->extra == kHasSuccessor) return op + 1;
  c.r[kIp] = c.NextIp(op) & c.IpMask();
  c.BeginShadow(/*stack=*/false);
  return nullptr;
}

template <bool kSet>
const Op* AccessFlag(Cpu& c, const Op* op) {
  c.op = op;
  if (c.cpl != 0) c.Raise(kInvalidOpcode);
  c.rflags = kSet ? c.rflags | kFlagAc : c.rflags & ~kFlagAc;
  c.tlb = c.tlb_entries[c.DataTlbMode()];
  if (c.dr7 & 0xFF) c.UpdateMode();
  HVSDK_NEXT(op + 1);
}

template <Handler kHandler>
bool TranslateFlag(Insn&, Op& op) {
  op.handler = kHandler;
  return true;
}
bool TranslateSti(Insn& in, Op& op) {
  in.shadows = true;
  op.handler = &Sti;
  return true;
}
template <Handler kHandler, bool kEnds>
bool TranslateStackFlag(Insn& in, Op& op) {
  in.ends = kEnds;
  op.flags |= kOpStackSegment;
  op.extra = in.width() == 16 ? 2 : in.Is64() ? 8 : 4;
  op.handler = kHandler;
  return true;
}

}  // namespace

void RegisterFlag(TranslatorTable& table) {
  table.Set(ZYDIS_MNEMONIC_CLC, &TranslateFlag<&Clc>);
  table.Set(ZYDIS_MNEMONIC_STC, &TranslateFlag<&Stc>);
  table.Set(ZYDIS_MNEMONIC_CMC, &TranslateFlag<&Cmc>);
  table.Set(ZYDIS_MNEMONIC_CLD, &TranslateFlag<&Cld>);
  table.Set(ZYDIS_MNEMONIC_STD, &TranslateFlag<&Std>);
  table.Set(ZYDIS_MNEMONIC_LAHF, &TranslateFlag<&Lahf>);
  table.Set(ZYDIS_MNEMONIC_SAHF, &TranslateFlag<&Sahf>);
  table.Set(ZYDIS_MNEMONIC_SALC, &TranslateFlag<&Salc>);
  table.Set(ZYDIS_MNEMONIC_CLI, &TranslateFlag<&Cli>);
  table.Set(ZYDIS_MNEMONIC_STI, &TranslateSti);
  table.Set(ZYDIS_MNEMONIC_CLAC, &TranslateFlag<&AccessFlag<false>>);
  table.Set(ZYDIS_MNEMONIC_STAC, &TranslateFlag<&AccessFlag<true>>);
  table.Set(ZYDIS_MNEMONIC_PUSHF, (&TranslateStackFlag<&Pushf, false>));
  table.Set(ZYDIS_MNEMONIC_PUSHFD, (&TranslateStackFlag<&Pushf, false>));
  table.Set(ZYDIS_MNEMONIC_PUSHFQ, (&TranslateStackFlag<&Pushf, false>));
  table.Set(ZYDIS_MNEMONIC_POPF, (&TranslateStackFlag<&Popf, true>));
  table.Set(ZYDIS_MNEMONIC_POPFD, (&TranslateStackFlag<&Popf, true>));
  table.Set(ZYDIS_MNEMONIC_POPFQ, (&TranslateStackFlag<&Popf, true>));
}

}  // namespace hvsdk::software
