// SPDX-License-Identifier: Apache-2.0
// FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XRSTOR, XGETBV, XSETBV, LDMXCSR, STMXCSR (Intel SDM volume 1, 10.5 and chapter 13).
// The state components are x87 and SSE.
#include <cstddef>

#include "backend_software/vector/fpu.h"

namespace hvsdk::software {
namespace {

// The legacy region of an FXSAVE or XSAVE area (SDM volume 1, table 10-2). The 32-bit form keeps selectors where the
// 64-bit form has upper halves.
struct Legacy {
  uint16_t control, status;
  uint8_t valid, reserved;
  uint16_t opcode;
  uint64_t ip, dp;
  uint32_t mxcsr, mxcsr_mask;
  uint8_t st[8][16];
  uint8_t xmm[16][16];
};
static_assert(sizeof(Legacy) == 416);
static_assert(offsetof(Legacy, control) == 0 && offsetof(Legacy, status) == 2 && offsetof(Legacy, valid) == 4 &&
              offsetof(Legacy, reserved) == 5 && offsetof(Legacy, opcode) == 6 && offsetof(Legacy, ip) == 8 &&
              offsetof(Legacy, dp) == 16 && offsetof(Legacy, mxcsr) == 24 && offsetof(Legacy, mxcsr_mask) == 28 &&
              offsetof(Legacy, st) == 32 && offsetof(Legacy, xmm) == 160);

constexpr uint64_t kX87 = 1, kSse = 2;

void CheckAligned(Cpu& c, const Op* op, uint64_t linear, uint64_t alignment) {
  if ((linear & (alignment - 1)) == 0) return;
  c.op = op;
  c.Raise(kGeneralProtection, 0);
}

int XmmCount(const Cpu& c) { return c.Is64() ? 16 : 8; }

void PackX87(const Cpu& c, bool wide, Legacy& legacy) {
  legacy.control = c.x87.control;
  legacy.status = c.x87.status;
  legacy.valid = c.x87.valid;
  legacy.reserved = 0;
  legacy.opcode = c.x87.last_opcode;
  legacy.ip = wide ? c.x87.last_ip : static_cast<uint32_t>(c.x87.last_ip) | uint64_t{c.x87.last_cs} << 32;
  legacy.dp = wide ? c.x87.last_dp : static_cast<uint32_t>(c.x87.last_dp) | uint64_t{c.x87.last_ds} << 32;
  c.x87.CopyStackTo(legacy.st);
}
void UnpackX87(Cpu& c, bool wide, const Legacy& legacy) {
  c.x87.SetControl(legacy.control);
  c.x87.status = legacy.status;
  c.x87.valid = legacy.valid;
  c.x87.last_opcode = legacy.opcode & 0x7FF;
  c.x87.last_ip = wide ? legacy.ip : static_cast<uint32_t>(legacy.ip);
  c.x87.last_dp = wide ? legacy.dp : static_cast<uint32_t>(legacy.dp);
  c.x87.last_cs = wide ? 0 : static_cast<uint16_t>(legacy.ip >> 32);
  c.x87.last_ds = wide ? 0 : static_cast<uint16_t>(legacy.dp >> 32);
  c.x87.CopyStackFrom(legacy.st);
  X87UpdateSummary(c.x87);
}

// extra: 1 for the 64-bit form.
const Op* Fxsave(Cpu& c, const Op* op) {
  const uint64_t linear = Address<false>(c, op, 512, true);
  CheckAligned(c, op, linear, 16);
  c.ProbeWrite(op, linear, 512);
  Legacy legacy;
  PackX87(c, op->extra != 0, legacy);
  legacy.mxcsr = GuestMxcsr(c);
  legacy.mxcsr_mask = kMxcsrMask;
  std::memcpy(legacy.xmm, c.xmm, sizeof(legacy.xmm));
  // The bytes behind the last register are not written.
  c.StoreBytes(op, linear, &legacy, 160 + 16 * XmmCount(c));
  return op + 1;
}

const Op* Fxrstor(Cpu& c, const Op* op) {
  const uint64_t linear = Address<false>(c, op, 512, false);
  CheckAligned(c, op, linear, 16);
  Legacy legacy;
  c.LoadBytes(op, linear, &legacy, sizeof(legacy));
  c.op = op;
  if (legacy.mxcsr & ~kMxcsrMask) c.Raise(kGeneralProtection, 0);
  UnpackX87(c, op->extra != 0, legacy);
  SetGuestMxcsr(c, legacy.mxcsr);
  std::memcpy(c.xmm, legacy.xmm, 16 * XmmCount(c));
  return op + 1;
}

const Op* Ldmxcsr(Cpu& c, const Op* op) {
  const uint32_t value = Load<uint32_t>(c, op, Address<false>(c, op, 4, false));
  c.op = op;
  if (value & ~kMxcsrMask) c.Raise(kGeneralProtection, 0);
  SetGuestMxcsr(c, value);
  return op + 1;
}
const Op* Stmxcsr(Cpu& c, const Op* op) {
  Store<uint32_t>(c, op, Address<false>(c, op, 4, true), GuestMxcsr(c));
  return op + 1;
}

uint64_t Requested(const Cpu& c) { return ((c.r[kRdx] & 0xFFFFFFFF) << 32 | (c.r[kRax] & 0xFFFFFFFF)) & c.xcr0; }

// XSAVE and XSAVEOPT. Every component counts as in use, which the optimisations may but need not see otherwise.
const Op* Xsave(Cpu& c, const Op* op) {
  const uint64_t linear = Address<false>(c, op, 576, true);
  CheckAligned(c, op, linear, 64);
  const uint64_t requested = Requested(c);
  c.ProbeWrite(op, linear, 520);
  Legacy legacy;
  PackX87(c, op->extra != 0, legacy);
  legacy.mxcsr = GuestMxcsr(c);
  legacy.mxcsr_mask = kMxcsrMask;
  std::memcpy(legacy.xmm, c.xmm, sizeof(legacy.xmm));
  const uint64_t old = c.LoadSlow(op, linear + 512, 8);
  if (requested & kX87) {
    c.StoreBytes(op, linear, &legacy, 24);
    c.StoreBytes(op, linear + 32, legacy.st, sizeof(legacy.st));
  }
  if (requested & kSse) {
    c.StoreBytes(op, linear + 24, &legacy.mxcsr, 8);
    c.StoreBytes(op, linear + 160, legacy.xmm, 16 * XmmCount(c));
  }
  c.StoreSlow(op, linear + 512, (old & ~requested) | requested, 8);
  return op + 1;
}

const Op* Xrstor(Cpu& c, const Op* op) {
  const uint64_t linear = Address<false>(c, op, 576, false);
  CheckAligned(c, op, linear, 64);
  const uint64_t requested = Requested(c);
  Legacy legacy;
  uint64_t header[3];
  c.LoadBytes(op, linear, &legacy, sizeof(legacy));
  c.LoadBytes(op, linear + 512, header, sizeof(header));
  c.op = op;
  const uint64_t present = header[0];
  // Components that are not enabled, the compacted form, or bytes 8 to 23 of the header; the rest is not looked at.
  bool bad = (present & ~c.xcr0) != 0 || header[1] != 0 || header[2] != 0;
  if ((requested & kSse) && (legacy.mxcsr & ~kMxcsrMask) != 0) bad = true;
  if (bad) c.Raise(kGeneralProtection, 0);
  if (requested & kX87) {
    if (present & kX87) {
      UnpackX87(c, op->extra != 0, legacy);
    } else {
      c.x87 = X87State{};
    }
  }
  if (requested & kSse) {
    SetGuestMxcsr(c, legacy.mxcsr);
    if (present & kSse) {
      std::memcpy(c.xmm, legacy.xmm, 16 * XmmCount(c));
    } else {
      std::memset(c.xmm, 0, 16 * XmmCount(c));
    }
  }
  return op + 1;
}

const Op* Xgetbv(Cpu& c, const Op* op) {
  c.op = op;
  // 0 is XCR0; 1 is XCR0 and the components in use, which are all.
  if (static_cast<uint32_t>(c.r[kRcx]) > (c.features.Has(Feature::kXgetbv1) ? 1 : 0)) c.Raise(kGeneralProtection, 0);
  c.r[kRax] = c.xcr0;
  c.r[kRdx] = 0;
  return op + 1;
}
const Op* Xsetbv(Cpu& c, const Op* op) {
  const uint64_t value = c.r[kRdx] << 32 | (c.r[kRax] & 0xFFFFFFFF);
  c.op = op;
  const bool allowed =
      c.cpl == 0 && static_cast<uint32_t>(c.r[kRcx]) == 0 && (value & kX87) != 0 && (value & ~c.features.xcr0()) == 0;
  if (!allowed) c.Raise(kGeneralProtection, 0);
  c.xcr0 = value;
  return op + 1;
}

// The instructions that save the state of both units fault like x87 ones when there is no unit.
template <Handler kHandler>
bool TranslateSave(Insn& in, Op& op) {
  if (UnitMissing(in, op, Unit::kX87)) return true;
  SetMemory(in, in.o[0], op);
  op.extra = (in.z.attributes & ZYDIS_ATTRIB_HAS_REX) && in.z.raw.rex.W;
  op.handler = kHandler;
  return true;
}
template <Handler kHandler>
bool TranslateExtended(Insn& in, Op& op) {
  if (in.mode & kModeNoXsave) return false;
  if (in.mode & kModeTaskSwitched) {
    op.handler = &RaiseNoDevice;
    in.ends = true;
    return true;
  }
  SetMemory(in, in.o[0], op);
  op.extra = (in.z.attributes & ZYDIS_ATTRIB_HAS_REX) && in.z.raw.rex.W;
  op.handler = kHandler;
  return true;
}
template <Handler kHandler>
bool TranslateControl(Insn& in, Op& op) {
  if (in.mode & kModeNoXsave) return false;
  op.handler = kHandler;
  return true;
}
template <Handler kHandler>
bool TranslateMxcsr(Insn& in, Op& op) {
  if (UnitMissing(in, op, Unit::kSse)) return true;
  SetMemory(in, in.o[0], op);
  op.handler = kHandler;
  return true;
}

}  // namespace

void SaveFxImage(const Cpu& c, uint8_t (&image)[512]) {
  Legacy legacy{};
  PackX87(c, /*wide=*/true, legacy);
  legacy.mxcsr = c.mxcsr;
  legacy.mxcsr_mask = kMxcsrMask;
  std::memcpy(legacy.xmm, c.xmm, sizeof(legacy.xmm));
  std::memset(image, 0, sizeof(image));
  std::memcpy(image, &legacy, sizeof(legacy));
}

uint32_t FxImageMxcsr(const uint8_t (&image)[512]) {
  uint32_t mxcsr;
  std::memcpy(&mxcsr, image + offsetof(Legacy, mxcsr), sizeof(mxcsr));
  return mxcsr;
}

void RestoreFxImage(Cpu& c, const uint8_t (&image)[512]) {
  Legacy legacy;
  std::memcpy(&legacy, image, sizeof(legacy));
  const uint16_t cs = c.x87.last_cs, ds = c.x87.last_ds;
  UnpackX87(c, /*wide=*/true, legacy);
  c.x87.last_cs = cs;
  c.x87.last_ds = ds;
  c.mxcsr = legacy.mxcsr;
  std::memcpy(c.xmm, legacy.xmm, sizeof(legacy.xmm));
}

void RegisterFpuState(TranslatorTable& table) {
  table.Set(ZYDIS_MNEMONIC_FXSAVE, &TranslateSave<&Fxsave>);
  table.Set(ZYDIS_MNEMONIC_FXSAVE64, &TranslateSave<&Fxsave>);
  table.Set(ZYDIS_MNEMONIC_FXRSTOR, &TranslateSave<&Fxrstor>);
  table.Set(ZYDIS_MNEMONIC_FXRSTOR64, &TranslateSave<&Fxrstor>);
  table.Set(ZYDIS_MNEMONIC_XSAVE, &TranslateExtended<&Xsave>);
  table.Set(ZYDIS_MNEMONIC_XSAVE64, &TranslateExtended<&Xsave>);
  table.Set(ZYDIS_MNEMONIC_XSAVEOPT, &TranslateExtended<&Xsave>);
  table.Set(ZYDIS_MNEMONIC_XSAVEOPT64, &TranslateExtended<&Xsave>);
  table.Set(ZYDIS_MNEMONIC_XRSTOR, &TranslateExtended<&Xrstor>);
  table.Set(ZYDIS_MNEMONIC_XRSTOR64, &TranslateExtended<&Xrstor>);
  table.Set(ZYDIS_MNEMONIC_XGETBV, &TranslateControl<&Xgetbv>);
  table.Set(ZYDIS_MNEMONIC_XSETBV, &TranslateControl<&Xsetbv>);
  table.Set(ZYDIS_MNEMONIC_LDMXCSR, &TranslateMxcsr<&Ldmxcsr>);
  table.Set(ZYDIS_MNEMONIC_STMXCSR, &TranslateMxcsr<&Stmxcsr>);
}

}  // namespace hvsdk::software
