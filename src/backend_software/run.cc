// SPDX-License-Identifier: Apache-2.0
#include "backend_software/run.h"

#include <utility>

#include "backend_software/code/code_cache.h"

namespace hvsdk::software {
namespace {

using backend::Activity;

constexpr uint32_t kWakes = kAttentionKick | kAttentionInterrupt | kAttentionTripleFault;

bool IsHalted(const Cpu& c) { return c.halted != static_cast<uint8_t>(Activity::kRunning); }

void WakeUp(Cpu& c) {
  c.halted = static_cast<uint8_t>(Activity::kRunning);
  c.idle = false;
  c.attention.fetch_and(~kAttentionHalt, std::memory_order_relaxed);
}

void TakeSignals(Cpu& c) {
  interrupt::LocalApic& apic = *c.apic;
  if (!apic.HasSignals()) return;
  const uint32_t signals = apic.TakeSignals();
  if (signals & interrupt::LocalApic::kInit) {
    c.Init();
    apic.Reset(/*init=*/true);
    c.attention.fetch_and(~kAttentionHalt, std::memory_order_relaxed);
    if (c.index != 0) {
      c.halted = static_cast<uint8_t>(Activity::kWaitForSipi);
      c.attention.fetch_or(kAttentionHalt, std::memory_order_relaxed);
    }
  }
  if ((signals & interrupt::LocalApic::kSipi) && c.halted == static_cast<uint8_t>(Activity::kWaitForSipi)) {
    c.segment[kCs].selector = static_cast<uint16_t>(apic.sipi_vector() << 8);
    c.base(kCs) = static_cast<uint64_t>(apic.sipi_vector()) << 12;
    c.r[kIp] = 0;
    WakeUp(c);
    c.UpdateMode();
  }
  if ((signals & interrupt::LocalApic::kNmi) && c.halted != static_cast<uint8_t>(Activity::kWaitForSipi)) {
    c.nmi_pending = true;
  }
}

// Tells the guest of memory that the host has lost. One that cannot be told shuts down, as a processor does (Intel SDM volume 3, 15.10.4),
// but does not for what another VP met.
void TakeLoss(Cpu& c) {
  if (c.exception_pending) return;  // which goes first; what waits is looked at again
  const absl::optional<backend::Loss> loss = c.losses.Take();
  if (!loss.has_value()) return;
  const bool amd = backend::IsAmd(c.cpuid);
  const backend::MachineCheck check = backend::MakeMachineCheck(*loss, amd);
  if (check.raises_exception()) {
    if (!(c.cr4 & kCr4Mce) || (c.mcg_status & backend::kMcgStatusMcip)) {
      if (loss->by != backend::LossBy::kOther) c.attention.fetch_or(kAttentionTripleFault, std::memory_order_relaxed);
      return;
    }
    c.mcg_status = check.mcg_status;
    c.injected = {kMachineCheck, false, 0};
    c.injected_type = 3;
    c.exception_pending = true;
    if (!amd && loss->by != backend::LossBy::kOther) c.host.TellOthers(c);
  }
  const auto bank = [&](uint32_t number) -> uint64_t& {
    return c.mc_bank[check.bank * backend::kBankRegisters + number];
  };
  const uint64_t over = (bank(backend::kBankStatus) & backend::kMciVal) != 0 ? backend::kMciOver : 0;
  bank(backend::kBankStatus) = check.status | over;
  bank(backend::kBankAddress) = check.address;
  bank(backend::kBankMisc) = check.misc;
}

void DeliverExternal(Cpu& c, uint8_t vector) {
  c.delivering = -1;
  c.op = nullptr;
  Cpu::Event event{vector};
  event.external = true;
  event.return_ip = c.r[kIp];
  c.Interrupt(event);
}

// What InjectException or the pending interruption register asked for.
void InjectPending(Cpu& c) {
  switch (c.injected_type) {
    case 0:
      DeliverExternal(c, c.injected.vector);
      break;
    case 2:
      c.nmi_blocked = true;
      DeliverExternal(c, kNmi);
      break;
    case 3:
      c.fault = c.injected;
      std::longjmp(c.unwind, kUnwindFault);
    default: {
      Cpu::Event event{c.injected.vector};
      event.software = true;
      event.return_ip = c.r[kIp] + c.injected_length;
      c.Interrupt(event);
    }
  }
}

// Delivers what is due before the next instruction. One event at a time: an interrupt's handler may itself be
// interrupted before its first instruction, as it may on any processor.
void DeliverEvents(Cpu& c) {
  interrupt::LocalApic& apic = *c.apic;
  if (IsHalted(c)) {
    const bool due = c.MayInterrupt() && (c.idle || (c.rflags & kFlagIf));
    if (c.halted == static_cast<uint8_t>(Activity::kHalted) &&
        (due || (c.nmi_pending && !c.nmi_blocked) || c.exception_pending)) {
      WakeUp(c);
    }
    if (IsHalted(c)) return;
  }
  if (c.exception_pending || c.interrupt_shadow) {
    // What waits behind that is looked at again.
    if (c.nmi_pending || c.MayInterrupt() || c.losses.waiting()) {
      c.attention.fetch_or(kAttentionInterrupt, std::memory_order_relaxed);
    }
    if (std::exchange(c.exception_pending, false)) InjectPending(c);
    return;
  }
  if (c.nmi_pending && !c.nmi_blocked) {
    c.nmi_pending = false;
    c.nmi_blocked = true;
    DeliverExternal(c, kNmi);
  }
  if (c.rflags & kFlagIf) {
    // The 8259s first, as KVM does; nothing ranks them against the local APIC's.
    const int vector = c.HasExtInt() ? c.host.pic().Acknowledge() : apic.Acknowledge();
    if (vector >= 0) {
      // An interrupt gate leaves IF clear, so the next one is found when it is set again.
      DeliverExternal(c, static_cast<uint8_t>(vector));
      if (c.rflags & kFlagIf) c.LookAtApic();
    }
  }
}

// Everything but running. False: leave with `result`.
bool Attend(Cpu& c, uint64_t limit, RunResult& result) {
  for (;;) {
    uint32_t attention = c.attention.load(std::memory_order_acquire);
    if (attention & kAttentionRequest) c.ServeRequests();
    if (attention & kAttentionInterrupt) {
      TakeLoss(c);  // also before a kick, behind which the VP may be saved
      attention = c.attention.load(std::memory_order_acquire);
    }
    if (attention & kAttentionTripleFault) {
      c.attention.fetch_and(~kAttentionTripleFault, std::memory_order_relaxed);
      result = RunResult::kTripleFault;
      return false;
    }
    if (attention & kAttentionKick) {
      c.attention.fetch_and(~kAttentionKick, std::memory_order_acq_rel);
      result = RunResult::kKicked;
      return false;
    }
    if (attention & kAttentionInterrupt) {
      c.attention.fetch_and(~kAttentionInterrupt, std::memory_order_acq_rel);
      TakeSignals(c);
      DeliverEvents(c);
    } else if ((attention & kAttentionHalt) && c.halted == static_cast<uint8_t>(Activity::kHalted)) {
      // Going to sleep: what arrived while it was masked may wake.
      DeliverEvents(c);
    }
    if (!IsHalted(c)) break;
    if (c.counting) {
      if (c.attention.load(std::memory_order_relaxed) & kWakes) continue;
      result = RunResult::kHalted;
      return false;
    }
    c.Leave();
    for (uint32_t now = c.attention.load(std::memory_order_acquire); !(now & kWakes);
         now = c.attention.load(std::memory_order_acquire)) {
      c.attention.Wait(now);
    }
    c.Enter();
  }
  if (c.counting && c.instructions >= limit) {
    result = RunResult::kBudget;
    return false;
  }
  return true;
}

void RunOps(Cpu& c, const Op* op) {
  while (op != nullptr) op = op->handler(c, op);
}

// One instruction, with everything that can only be seen around one.
void Step(Cpu& c) {
  c.op = nullptr;
  if (!c.stack_shadow) {
    if (const uint64_t hits = c.InstructionBreakpoints(); hits != 0 && !(c.rflags & kFlagRf)) c.RaiseDebug(hits);
    c.pending_debug = 0;
  }
  c.trap_after = c.rflags & kFlagTf;
  c.stepping = true;  // which has the block end behind the instruction, whatever it does to TF or DR7
  c.EndShadow();
  const Op* op = c.code->LookupStep();
  c.rflags &= ~kFlagRf;
  RunOps(c, op);
  c.op = nullptr;
  c.instructions += c.block_instructions;
  c.before_exit = 0;
  c.stepping = false;
  c.UpdateStepping();
  // What the load of a stack segment met waits for the instruction behind it (Intel SDM volume 3, 6.8.3).
  if (c.stack_shadow) return;
  const uint64_t bits = c.pending_debug | (c.trap_after ? kDr6SingleStep : 0);
  if (bits != 0) c.RaiseDebug(bits);
}

// After a longjmp: makes r[kIp] the instruction's own address and counts what was done before it.
void LeaveInstruction(Cpu& c) {
  if (c.holds_exclusive) c.host.EndExclusive(c);
  c.in_exit = c.redirected = c.limited = false;
  if (std::exchange(c.stepping, false)) c.UpdateStepping();
  if (c.op != nullptr) {
    c.instructions += c.op->count;
    c.r[kIp] = (c.r[kIp] + c.op->ip) & c.IpMask();
    c.op = nullptr;
  } else {
    c.instructions += c.before_exit;
  }
  c.before_exit = 0;
}

}  // namespace

RunResult RunGuest(Cpu& c, uint64_t instruction_limit) {
  RunResult result = RunResult::kKicked;
  c.Enter();
  const int why = setjmp(c.unwind);
  if (why == kUnwindFault) {
    LeaveInstruction(c);
    ++c.instructions;  // a fault takes time too, or a guest that only faults would stop the clock
    c.trap_after = false;
    c.pending_debug = 0;
    // Whatever it was that put the VP to sleep, it also raised an event, whose handler runs.
    if (c.halted == static_cast<uint8_t>(Activity::kHalted)) WakeUp(c);
    if (!c.DeliverFault()) {
      c.delivering = -1;
      c.attention.fetch_or(kAttentionTripleFault, std::memory_order_relaxed);
    }
  } else if (why == kUnwindRedirect) {
    c.op = nullptr;
    LeaveInstruction(c);
  }
  for (;;) {
    c.op = nullptr;
    const uint32_t attention = c.attention.load(std::memory_order_relaxed);
    if (attention != 0) {
      if (!Attend(c, instruction_limit, result)) break;
      if ((c.rflags & kFlagTf) || (c.dr7 & 0xFF) || c.interrupt_shadow) {
        Step(c);
        continue;
      }
    }
    c.rflags &= ~kFlagRf;  // no breakpoint is enabled
    c.code->Trim();
    const uint64_t linear = c.r[kIp] + c.code_base;
    const JumpEntry& entry = c.jump[JumpIndex(linear)];
    const Op* op;
    if (entry.linear == linear && entry.tag == c.code_tag) {
      op = entry.op;
      c.block_instructions = static_cast<uint32_t>(entry.instructions);
    } else {
      op = c.code->Lookup();
    }
    if (c.counting && c.instructions + c.block_instructions > instruction_limit) {
      // To the instruction: where blocks end depends on what was decoded before, which a restored machine has not.
      c.limited = true;
      Step(c);
      c.limited = false;
      continue;
    }
    RunOps(c, op);
    c.instructions += c.block_instructions;
    c.before_exit = 0;
  }
  c.Leave();
  return result;
}

}  // namespace hvsdk::software
