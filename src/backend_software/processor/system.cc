// SPDX-License-Identifier: Apache-2.0
// Control registers, modes, reset, port permissions.
#include "backend_software/processor/cpu.h"
#include "backend_software/processor/cpuid.h"
#include "backend_software/processor/memory_access.h"

namespace hvsdk::software {
namespace {

// Never hits: every access takes the long way, where alignment and breakpoints are checked.
TlbEntry* NullTlb() {
  static TlbEntry* const entries = [] {
    static TlbEntry table[kTlbEntries];
    std::memset(table, 0xFF, sizeof(table));
    return table;
  }();
  return entries;
}

}  // namespace

Cpu::Cpu(ProcessorHost& around, PhysicalMemory& physical_memory, bool counts, uint32_t vp_index, uint32_t id,
         absl::Span<const backend::CpuidEntry> shown)
    : host(around),
      memory(physical_memory),
      counting(counts),
      index(vp_index),
      apic_id(id),
      cpuid(shown.begin(), shown.end()),
      features(shown),
      address_mask(((uint64_t{1} << features.physical_address_bits()) - 1) & ~(kPageSize - 1)) {
  large_low[0] = large_low[1] = ~uint64_t{0};
  large_high[0] = large_high[1] = 0;
  Reset();
}

void Cpu::Reset() {
  Init();
  cr0 = kCr0Et | kCr0Nw | kCr0Cd;
  xcr0 = 1;
  std::memset(xmm, 0, sizeof(xmm));
  mxcsr = 0x1F80;
  x87 = X87State{};
  x87.control = 0x40;
  kernel_gs_base = tsc_aux = star = lstar = cstar = sfmask = 0;
  sysenter_cs = sysenter_esp = sysenter_eip = 0;
  pat = 0x0007040600070406;
  misc_enable = 0x1801;
  mtrr_def_type = 0;
  std::memset(mtrr_fixed, 0, sizeof(mtrr_fixed));
  std::memset(mtrr_variable, 0, sizeof(mtrr_variable));
  std::memset(mc_bank, 0, sizeof(mc_bank));
  // As KVM's processors begin, so that a state need not say it.
  for (uint32_t i = 0; i < backend::kMachineCheckBanks; ++i) mc_bank[i * backend::kBankRegisters] = ~uint64_t{0};
  spec_ctrl = mcg_status = microcode = 0;
  tsc_offset = 0;
  FlushTlb(false);
}

// What INIT does (Intel SDM volume 3, table 9-1): MSRs, the TSC and the FPU stay.
void Cpu::Init() {
  std::memset(r, 0, sizeof(r));
  flags.Set(0);
  rflags = kFlagOne;
  r[kRdx] = kProcessorSignature;
  r[kIp] = 0xFFF0;
  cpl = 0;
  cr0 = kCr0Et | (cr0 & (kCr0Cd | kCr0Nw));
  cr2 = cr3 = cr4 = efer = 0;
  dr[0] = dr[1] = dr[2] = dr[3] = 0;
  dr6 = 0xFFFF0FF0;
  dr7 = 0x400;
  for (int i = 0; i < 8; ++i) {
    segment[i] = Segment{};
    segment[i].limit = 0xFFFF;
    segment[i].attributes = i == kLdtr ? 0x82 : i == kTr ? 0x8B : i == kCs ? 0x9B : 0x93;
  }
  segment[kCs].selector = 0xF000;
  base(kCs) = 0xFFFF0000;
  gdtr = idtr = TableRegister{};
  halted = static_cast<uint8_t>(backend::Activity::kRunning);
  idle = interrupt_shadow = stack_shadow = nmi_blocked = nmi_pending = exception_pending = false;
  pending_debug = 0;
  delivering = -1;
  in_exit = redirected = trap_after = stepping = limited = false;
  FlushTlb(false);
  UpdateMode();
  UpdateStepping();
}

void Cpu::UpdateMode() {
  uint32_t now = 0;
  if (IsLong() && segment[kCs].long_mode()) {
    now = kModeBits64;
    code_base = 0;
  } else {
    if (IsProtected() && !IsVm86() && segment[kCs].big()) now = kModeBits32;
    if (IsProtected() && !IsVm86() && segment[kSs].big()) now |= kModeStack32;
    // Unreal code: a descriptor cache with D set is honoured outside protected mode too.
    if (!IsProtected() && segment[kCs].big()) now |= kModeBits32;
    code_base = base(kCs);
  }
  if (cr0 & kCr0Ts) now |= kModeTaskSwitched;
  if (cr0 & kCr0Em) now |= kModeEmulate;
  if (!(cr4 & kCr4Osfxsr)) now |= kModeNoSse;
  if (!(cr4 & kCr4Osxsave)) now |= kModeNoXsave;
  if (cpl == 3) now |= kModeUser;
  mode = now;
  code_limit_epoch = 0;
  if (CodeIsLimited()) [[unlikely]] {
    const uint64_t end = code_base + segment[kCs].limit;
    if (end != last_limit_end || last_limit_epoch == 0) {
      last_limit_end = end;
      if (++last_limit_epoch == 0) {
        BumpCodeGeneration();  // epochs repeat
        last_limit_epoch = 1;
      }
    }
    code_limit_epoch = last_limit_epoch;
  }
  UpdateCodeTag();
  const bool checks = (dr7 & 0xFF) || (cpl == 3 && (rflags & kFlagAc) && (cr0 & kCr0Am));
  tlb = checks ? NullTlb() : tlb_entries[DataTlbMode()];
}

void Cpu::UpdateCodeTag() {
  code_tag = static_cast<uint64_t>(code_generation) << 32 | static_cast<uint32_t>(code_limit_epoch) << 16 | mode;
}

void Cpu::BumpCodeGeneration() {
  ++link_tag;
  if (++code_generation == 0) {  // tags repeat
    std::memset(jump, 0, sizeof(TlbTables::jump));
    code_generation = 1;
  }
  UpdateCodeTag();
}

void Cpu::UpdateStepping() {
  const bool step = (rflags & kFlagTf) || (dr7 & 0xFF) || interrupt_shadow || stepping;
  if (step) {
    attention.fetch_or(kAttentionStep, std::memory_order_relaxed);
  } else {
    attention.fetch_and(~kAttentionStep, std::memory_order_relaxed);
  }
}

void Cpu::BeginShadow(bool stack) {
  interrupt_shadow = true;
  stack_shadow = stack;
  UpdateStepping();
}

void Cpu::EndShadow() {
  interrupt_shadow = stack_shadow = false;
  UpdateStepping();
}

void Cpu::SetNmiBlocked(bool blocked) {
  nmi_blocked = blocked;
  if (!blocked && nmi_pending) attention.fetch_or(kAttentionInterrupt, std::memory_order_relaxed);
}

void Cpu::SetRflags(uint64_t value) {
  const uint64_t old = rflags;
  flags.Set(value);
  rflags = (value & ~kArithmeticFlags & kRflagsBits) | kFlagOne;
  // RF is for the next instruction alone, and only a breakpoint asks for it.
  if (!(dr7 & 0xFF)) rflags &= ~uint64_t{kFlagRf};
  const uint64_t changed = old ^ rflags;
  if (changed & kFlagTf) UpdateStepping();
  if (changed & (kFlagAc | kFlagVm)) UpdateMode();
  if (changed & rflags & kFlagIf) LookAtApic();
}

void Cpu::CheckPaePointers(uint64_t new_cr0, uint64_t new_cr3, uint64_t new_cr4) {
  if (!(new_cr0 & kCr0Pg) || !(new_cr4 & kCr4Pae) || (efer & kEferLme)) return;
  // Intel SDM volume 3, table 4-8: bits 2:1, 8:5 and those beyond the physical address.
  const uint64_t reserved = 0x1E6 | ~(address_mask | (kPageSize - 1));
  for (uint64_t i = 0; i < 4; ++i) {
    const uint64_t gpa = (new_cr3 & 0xFFFFFFE0) + 8 * i;
    const PhysicalPage page = memory.Find(gpa);
    if (page.host == nullptr) continue;
    const auto entry = RawLoad<uint64_t>(reinterpret_cast<uint64_t>(page.host) + (gpa & (kPageSize - 1)));
    if ((entry & 1) && (entry & reserved)) Raise(kGeneralProtection, 0);
  }
}

void Cpu::SetCr0(uint64_t value) {
  value = (value & 0xE005003F) | kCr0Et;
  const uint64_t changed = cr0 ^ value;
  if ((changed & kCr0Pg) && (efer & kEferLme)) {
    if (value & kCr0Pg) {
      efer |= kEferLma;
    } else {
      efer &= ~kEferLma;
    }
  }
  cr0 = value;
  if (changed & (kCr0Pg | kCr0Pe | kCr0Wp)) FlushTlb(false);
  UpdateMode();
}

void Cpu::SetCr3(uint64_t value) {
  // With PCIDs bit 63 allows old entries to stay; that they go is always right.
  cr3 = value & ~(uint64_t{1} << 63);
  FlushTlb(true);
}

void Cpu::SetCr4(uint64_t value) {
  const uint64_t changed = cr4 ^ value;
  cr4 = value;
  if (changed & (kCr4Pge | kCr4Pae | kCr4Pse | kCr4Smep | kCr4Smap | kCr4Pcide)) FlushTlb(false);
  UpdateMode();
}

bool Cpu::SetEfer(uint64_t value) {
  if (value & ~features.efer()) return false;
  if (((value ^ efer) & kEferLme) && (cr0 & kCr0Pg)) return false;
  const uint64_t changed = (efer ^ value) & ~kEferLma;
  efer = (value & ~kEferLma) | (efer & kEferLma);
  if (changed & kEferNxe) FlushTlb(false);
  return true;
}

void Cpu::CheckPort(uint16_t port, int size) {
  if (!IsProtected() || (cpl <= Iopl() && !IsVm86())) return;
  if (segment[kTr].limit < 103 || !segment[kTr].present() || !(segment[kTr].type() & 8)) Raise(kGeneralProtection, 0);
  const uint64_t map = LoadSystem(base(kTr) + 102, 2) + port / 8;
  if (map + 1 > segment[kTr].limit) Raise(kGeneralProtection, 0);
  const uint64_t bits = LoadSystem(base(kTr) + map, 2);
  if (bits >> (port & 7) & ((1 << size) - 1)) Raise(kGeneralProtection, 0);
}

uint64_t Cpu::ReadTsc() const { return host.Tsc(*this) + tsc_offset; }

}  // namespace hvsdk::software
