// SPDX-License-Identifier: Apache-2.0
// A virtual processor over one KVM vCPU.
//
// Stopping. Another thread that wants something of the VP
//   1. sets a bit in requests_,
//   2. sets kvm_run.immediate_exit,
//   3. if entries_ is odd, signals the thread.
// The VP's thread, before each KVM_RUN,
//   1. clears immediate_exit,
//   2. makes entries_ odd,
//   3. looks at requests_.
// Each side writes before it reads, sequentially consistent, so one of them sees the other. If the VP missed the bit,
// then the signal is sent: before KVM_RUN is entered, immediate_exit is already set and survives, as nothing clears it
// until the next turn; inside KVM_RUN the signal ends it. Hence no request is lost and none is waited for in vain.
//
// Completion. What KVM exited for takes effect when KVM_RUN is entered again. Run never returns with such a completion
// outstanding: it enters once more with immediate_exit set. KVM's emulator forgets the result of a read if the general
// registers are set before completion, so a handler's changes are put aside until then.
//
// AutoEOI. The kernel's local APIC leaves out of service what its SynIC lists as a SINT's AutoEOI vector, whoever requested it (Linux
// arch/x86/kvm/hyperv.c, lapic.c). So a vCPU whose guest asks for it gets a SynIC in the kernel, which holds that list and nothing
// else: the guest's accesses to the MSRs exit as before.

#ifndef HVSDK_SRC_BACKEND_KVM_KVM_VP_H_
#define HVSDK_SRC_BACKEND_KVM_KVM_VP_H_

#include <linux/kvm.h>

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/types/optional.h"
#include "backend/machine_check.h"
#include "backend_kvm/kick_signal.h"
#include "backend_kvm/kvm_api.h"
#include "backend_kvm/kvm_partition.h"
#include "backend_kvm/vcpu_state.h"
#include "base/wait_word.h"
#include "hvsdk/backend/backend.h"

namespace hvsdk::backend::kvm {

class KvmVp : public Vp {
 public:
  static absl::StatusOr<std::unique_ptr<KvmVp>> Create(KvmPartition& partition, Fd vcpu, VpIndex index,
                                                       uint32_t apic_id, uint8_t physical_bits, bool amd);
  ~KvmVp() override;

  absl::StatusOr<StopReason> Run(ExitHandler& handler) override;
  void Kick() override;
  uint64_t GetGpr(Gpr gpr) const override;
  void SetGpr(Gpr gpr, uint64_t value) override;
  absl::Status GetRegisters(absl::Span<const hvdef::RegisterName> names,
                            absl::Span<hvdef::RegisterValue> values) override;
  absl::Status SetRegisters(absl::Span<const hvdef::RegisterName> names,
                            absl::Span<const hvdef::RegisterValue> values) override;
  absl::Status Reset() override;
  absl::Status SaveState(VpState& state) override;
  absl::Status RestoreState(const VpState& state) override;
  void InjectException(const Exception& exception) override;
  absl::Status SetAutoEoiVector(Sint sint, uint8_t vector) override;
  absl::StatusOr<Activity> GetActivity() override;
  absl::Status SetActivity(Activity activity) override;
  Translation TranslateGva(uint64_t gva, TranslateAccess access, bool user) override;

  const Fd& vcpu() const { return vcpu_; }

  // That in whose Run the calling thread is; null: it is in none. Async-signal-safe.
  static KvmVp* Running();
  // Has the guest told of memory that the host has lost, before it goes on. Any thread; from a signal handler, too, as none of ours
  // touches the guest's memory while it holds the lock of a kick.
  void RequestLoss(uint64_t gpa, LossBy by);

  // Makes the VP forget its cached translations before it next runs guest code. If it is running guest code now, stops
  // it and returns a ticket for WaitForExit; else 0. Thread-safe.
  uint32_t RequestTlbFlush();
  // Returns when the VP has left guest mode since the ticket was given.
  void WaitForExit(uint32_t ticket);

 private:
  enum Request : uint32_t { kKick = 1, kFlushTlb = 2, kLoss = 4 };
  // Whether Run goes on.
  enum class Next { kRun, kTripleFault };

  KvmVp(KvmPartition& partition, Fd vcpu, kvm_run* run, VpIndex index, uint32_t apic_id, uint8_t physical_bits,
        bool amd, VcpuState power_on);

  Activity first_activity() const { return ToInt(index()) == 0 ? Activity::kRunning : Activity::kWaitForSipi; }
  const kvm_regs& regs() const { return run_->s.regs.regs; }
  kvm_regs& ChangeRegs();
  std::atomic_ref<uint8_t> immediate_exit() { return std::atomic_ref<uint8_t>(run_->immediate_exit); }
  absl::StatusOr<const kvm_sregs*> Sregs();

  void Interrupt();
  void LeaveGuest();
  absl::Status EnterGuest();
  absl::Status PrepareEntry();
  absl::Status FlushTlb();
  absl::Status TakeLoss();
  absl::Status StoreRegs();
  absl::Status StoreException();
  absl::Status TakeInTimer();
  absl::Status TakeOver(const VpState& state, const VcpuState& vcpu);
  absl::Status CompleteExit(ExitHandler& handler);
  absl::Status CompleteRead(ExitHandler& handler);

  absl::StatusOr<Next> Dispatch(ExitHandler& handler);
  absl::StatusOr<Next> OnExit(ExitHandler& handler);
  absl::Status OnPort(ExitHandler& handler);
  absl::Status OnMmio(ExitHandler& handler);
  absl::Status OnMsr(ExitHandler& handler, bool write);
  absl::Status OnHypercall(ExitHandler& handler, bool from_signal_port);
  absl::Status Sleep();
  absl::Status WaitMasked();
  absl::StatusOr<bool> HasMaskedEvent() const;
  absl::Status InternalError() const;

  KvmPartition& partition_;
  const Fd vcpu_;
  kvm_run* const run_;
  const uint8_t physical_bits_;  // of an address, as its CPUID says
  const bool amd_;               // what its CPUID says it is
  const VcpuState power_on_;

  // VP thread only.
  bool kernel_synic_ = false;
  std::array<uint8_t, 16> auto_eoi_vectors_{};  // by SINT; 0: none
  kvm_sregs sregs_;
  // Of a timer that had expired when it was restored, and of which the kernel therefore does not know; 0: of none.
  uint32_t expired_initial_count_ = 0;
  bool sregs_valid_ = false;         // sregs_ is what the kernel has
  bool waits_masked_ = false;        // in the guest idle state with RFLAGS.IF clear
  bool completion_pending_ = false;  // the last exit takes effect at the next KVM_RUN
  absl::optional<Exception> exception_;
  bool in_read_ = false;                         // the handler of a port or memory read is running
  absl::optional<kvm_regs> regs_before_change_;  // taken at its first change of a general register

  bool in_exit_ = false;  // a handler may be running
  // RIP as a handler wrote it. The kernel advances RIP when it completes an exit, so it is set after that.
  absl::optional<uint64_t> rip_after_exit_;

  // Any thread; see above.
  std::atomic<uint32_t> requests_{0};
  LossQueue losses_;
  WaitWord entries_;  // odd: inside KVM_RUN
  KickTarget kick_target_;
};

}  // namespace hvsdk::backend::kvm

#endif  // HVSDK_SRC_BACKEND_KVM_KVM_VP_H_
