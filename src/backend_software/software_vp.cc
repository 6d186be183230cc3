// SPDX-License-Identifier: Apache-2.0
#include "backend_software/software_vp.h"

#include <utility>

#include "backend_software/code/code_cache.h"
#include "backend_software/run.h"

namespace hvsdk::software {

SoftwareVp::SoftwareVp(std::shared_ptr<Machine> machine, std::unique_ptr<Cpu> cpu, std::unique_ptr<CodeCache> code)
    : Vp(VpIndex{cpu->index}, cpu->apic_id),
      machine_(std::move(machine)),
      cpu_(&machine_->Attach(std::move(cpu), std::move(code))) {
  cpu_->vp = this;
  if (cpu_->index != 0) (void)SetActivity(backend::Activity::kWaitForSipi);
}

SoftwareVp::~SoftwareVp() { machine_->Detach(*cpu_); }

absl::StatusOr<backend::StopReason> SoftwareVp::Run(backend::ExitHandler& handler) {
  if (machine_->counting()) return absl::FailedPreconditionError("a deterministic VP is run by DeterministicMachine");
  cpu_->exits = &handler;
  Machine::SetRunning(cpu_);
  const RunResult result = RunGuest(*cpu_, 0);
  Machine::SetRunning(nullptr);
  return result == RunResult::kTripleFault ? backend::StopReason::kTripleFault : backend::StopReason::kKicked;
}

void SoftwareVp::Kick() {
  cpu_->attention.fetch_or(kAttentionKick, std::memory_order_release);
  cpu_->attention.WakeOne();
}

absl::Status SoftwareVp::Reset() {
  cpu_->Reset();
  (void)cpu_->losses.Take();
  machine_->apic(ToInt(index())).Reset(/*init=*/false);
  // What others asked of this VP stays, and so does how it runs.
  cpu_->attention.fetch_and(kAttentionKick | kAttentionRequest | kAttentionCount | kAttentionStep,
                            std::memory_order_relaxed);
  return SetActivity(ToInt(index()) == 0 ? backend::Activity::kRunning : backend::Activity::kWaitForSipi);
}

void SoftwareVp::InjectException(const backend::Exception& exception) {
  cpu_->injected = {exception.vector, exception.error_code.has_value(), exception.error_code.value_or(0)};
  cpu_->injected_type = 3;
  cpu_->exception_pending = true;
  cpu_->attention.fetch_or(kAttentionInterrupt, std::memory_order_relaxed);
}

absl::Status SoftwareVp::SetActivity(backend::Activity activity) {
  cpu_->halted = static_cast<uint8_t>(activity);
  cpu_->idle = false;
  if (activity == backend::Activity::kRunning) {
    cpu_->attention.fetch_and(~kAttentionHalt, std::memory_order_relaxed);
    // What waited while it slept may be due.
    cpu_->attention.fetch_or(kAttentionInterrupt, std::memory_order_relaxed);
  } else {
    cpu_->attention.fetch_or(kAttentionHalt, std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

backend::Translation SoftwareVp::TranslateGva(uint64_t gva, backend::TranslateAccess access, bool user) {
  backend::Translation result;
  Cpu& c = *cpu_;
  if (c.IsLong() ? !IsCanonical(gva) : gva >> 32 != 0) return result;
  const uint32_t kind = access == backend::TranslateAccess::kWrite     ? kAccessWrite
                        : access == backend::TranslateAccess::kExecute ? kAccessExecute
                                                                       : kAccessRead;
  const TlbMode as = user                                          ? kTlbUser
                     : (c.cr4 & kCr4Smap) && !(c.rflags & kFlagAc) ? kTlbSupervisor
                                                                   : kTlbSupervisorUserAccess;
  const Walk walk = c.WalkPages(gva, kind, as, false);
  result.present = walk.present;
  result.reserved_bits = (walk.error & kFaultReserved) != 0;
  if (!walk.present) return result;
  result.gpa = walk.gpa | (gva & (kPageSize - 1));
  result.writable = walk.writable;
  result.user = walk.user;
  result.executable = walk.executable;
  result.privilege_violation = !walk.allowed;
  return result;
}

}  // namespace hvsdk::software
