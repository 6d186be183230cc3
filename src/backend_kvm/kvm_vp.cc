// SPDX-License-Identifier: Apache-2.0
#include "backend_kvm/kvm_vp.h"

#include <signal.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "backend_kvm/kvm_registers.h"
#include "backend_kvm/page_walk.h"
#include "backend_kvm/vp_state.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "hvsdk/backend/port_hypercall.h"
#include "hvsdk/hvdef/msr.h"

namespace hvsdk::backend::kvm {
namespace {

constexpr uint64_t kRflagsIf = 1u << 9;
constexpr uint64_t kCr0Mp = 1u << 1;
// Data of a message-signalled interrupt (Intel SDM volume 3, 11.11.2).
constexpr uint32_t kDeliverInit = 0x500, kDeliverStartUp = 0x600;
constexpr uint32_t kMsrSysenterEsp = 0x175, kMsrSysenterEip = 0x176;
// While a thread waits for a VP to leave the guest it looks this often before it sleeps.
constexpr int kWaitSpins = 200;
// Between looks for an interrupt that the guest masks.
constexpr long kShortestPauseNs = 10'000, kLongestPauseNs = 500'000;

// Whether the local APIC would deliver an interrupt, were RFLAGS.IF set: one of a higher class than the processor's
// priority (SDM volume 3, 11.8.3).
bool HasDeliverableInterrupt(const kvm_lapic_state& apic) {
  constexpr size_t kTpr = 0x80, kIsr = 0x100, kIrr = 0x200;
  const auto highest = [&](size_t bits) {
    for (int word = 7; word >= 0; --word) {
      uint32_t value;
      std::memcpy(&value, apic.regs + bits + word * 16, sizeof(value));
      if (value != 0) return word * 32 + static_cast<int>(std::bit_width(value)) - 1;
    }
    return 0;
  };
  const int priority = std::max(static_cast<uint8_t>(apic.regs[kTpr]) >> 4, highest(kIsr) >> 4);
  return highest(kIrr) >> 4 > priority;
}

// Runs a vCPU with `signal` pending for this thread: what KVM_RUN does before it looks at signals, and no more. Its error.
int RunUntilPendingSignal(const Fd& vcpu, int signal) {
  sigset_t only, before;
  ::sigemptyset(&only);
  ::sigaddset(&only, signal);
  ::pthread_sigmask(SIG_BLOCK, &only, &before);
  ::pthread_kill(::pthread_self(), signal);
  // struct kvm_signal_mask: blocked inside is nothing.
  constexpr uint32_t kKernelSigsetBytes = 8;
  const std::array<uint32_t, 3> mask = {kKernelSigsetBytes, 0, 0};
  ::ioctl(vcpu.get(), kSetSignalMask, mask.data());
  const int error = ::ioctl(vcpu.get(), KVM_RUN, 0) < 0 ? errno : 0;
  ::ioctl(vcpu.get(), kSetSignalMask, nullptr);
  const timespec now{};
  ::sigtimedwait(&only, nullptr, &now);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return error;
}

bool IsRequested(const kvm_lapic_state& apic, uint8_t vector) {
  constexpr size_t kIrr = 0x200;
  return (static_cast<uint8_t>(apic.regs[kIrr + vector / 32 * 16 + vector % 32 / 8]) >> vector % 8 & 1) != 0;
}

// Whether LINT0 leads the interrupts of the 8259s in; with the APIC disabled, it is the processor's own pin (SDM volume
// 3, 11.4.3).
bool TakesExtInt(uint64_t apic_base, const kvm_lapic_state& apic) {
  constexpr size_t kLvtLint0 = 0x350;
  constexpr uint64_t kBaseEnable = 1 << 11;
  constexpr uint32_t kMaskAndMode = 0x10700, kExtInt = 0x700;
  uint32_t entry;
  std::memcpy(&entry, apic.regs + kLvtLint0, sizeof(entry));
  return (apic_base & kBaseEnable) == 0 || (entry & kMaskAndMode) == kExtInt;
}

// Whether an 8259 requests an interrupt (8259A data sheet, "Fully Nested Mode"). The kernel shows a slave's request in
// its master's IRR.
bool RequestsInterrupt(const kvm_pic_state& pic) {
  const auto most_urgent = [&](uint8_t inputs) { return std::countr_zero(std::rotr(inputs, pic.priority_add)); };
  const uint8_t served = pic.special_mask ? pic.isr & ~pic.imr : pic.isr;
  return most_urgent(pic.irr & ~pic.imr) < most_urgent(served);
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvmVp>> KvmVp::Create(KvmPartition& partition, Fd vcpu, VpIndex index, uint32_t apic_id,
                                                     uint8_t physical_bits, bool amd) {
  ASSIGN_OR_RETURN(VcpuState power_on, VcpuState::Take(vcpu, partition.host()));
  void* run = ::mmap(nullptr, partition.host().run_size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.get(), 0);
  if (run == MAP_FAILED) return KvmError("mmap of the vCPU", errno);
  std::unique_ptr<KvmVp> vp(new KvmVp(partition, std::move(vcpu), static_cast<kvm_run*>(run), index, apic_id,
                                      physical_bits, amd, std::move(power_on)));
  // From here on the kernel leaves the general registers in the shared page at each exit.
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vp->vcpu_, KVM_GET_REGS, &vp->run_->s.regs.regs));
  vp->run_->kvm_valid_regs = KVM_SYNC_X86_REGS;
  RETURN_IF_ERROR(vp->SetActivity(vp->first_activity()));
  return vp;
}

KvmVp::KvmVp(KvmPartition& partition, Fd vcpu, kvm_run* run, VpIndex index, uint32_t apic_id, uint8_t physical_bits,
             bool amd, VcpuState power_on)
    : Vp(index, apic_id),
      partition_(partition),
      vcpu_(std::move(vcpu)),
      run_(run),
      physical_bits_(physical_bits),
      amd_(amd),
      power_on_(std::move(power_on)) {}

KvmVp::~KvmVp() {
  partition_.RemoveVp(index());
  ::munmap(run_, partition_.host().run_size_bytes);
}

// Requests from other threads.

void KvmVp::Interrupt() {
  immediate_exit().store(1, std::memory_order_seq_cst);
  if ((entries_.load(std::memory_order_seq_cst) & 1) != 0) kick_target_.Send();
}

void KvmVp::Kick() {
  requests_.fetch_or(kKick, std::memory_order_seq_cst);
  Interrupt();
}

// The model keeps the first use, in a signal handler, from allocating.
__attribute__((tls_model("initial-exec"))) static thread_local KvmVp* running_vp = nullptr;

KvmVp* KvmVp::Running() { return running_vp; }

void KvmVp::RequestLoss(uint64_t gpa, LossBy by) {
  losses_.Post(gpa, by);
  requests_.fetch_or(kLoss, std::memory_order_seq_cst);
  // A thread that is itself inside KVM_RUN comes out for the signal that brought it here.
  if (running_vp == this) {
    immediate_exit().store(1, std::memory_order_seq_cst);
  } else {
    Interrupt();
  }
}

uint32_t KvmVp::RequestTlbFlush() {
  requests_.fetch_or(kFlushTlb, std::memory_order_seq_cst);
  const uint32_t ticket = entries_.load(std::memory_order_seq_cst);
  if ((ticket & 1) == 0) return 0;  // it sees the request before it enters
  Interrupt();
  return ticket;
}

void KvmVp::WaitForExit(uint32_t ticket) {
  for (int i = 0; i < kWaitSpins; ++i) {
    if (entries_.load(std::memory_order_acquire) != ticket) return;
    __builtin_ia32_pause();
  }
  entries_.Wait(ticket);
}

void KvmVp::LeaveGuest() {
  entries_.fetch_add(1, std::memory_order_seq_cst);
  entries_.WakeAll();
}

// The run loop.

absl::Status KvmVp::EnterGuest() {
  sregs_valid_ = false;
  const int result = ::ioctl(vcpu_.get(), KVM_RUN, 0);
  const int error = errno;
  LeaveGuest();
  if (result == 0) return absl::OkStatus();
  if (error == EINTR || error == EAGAIN) {
    run_->exit_reason = KVM_EXIT_INTR;
    return absl::OkStatus();
  }
  return KvmError(absl::StrFormat("KVM_RUN of VP %u at RIP %#x", ToInt(index()), static_cast<uint64_t>(regs().rip)),
                  error);
}

absl::StatusOr<StopReason> KvmVp::Run(ExitHandler& handler) {
  kick_target_.Attach(partition_.host().kick_signal);
  struct Detach {
    KickTarget& target;
    ~Detach() { target.Detach(); }
  } detach{kick_target_};
  running_vp = this;
  struct Leave {
    ~Leave() { running_vp = nullptr; }
  } leave;

  RETURN_IF_ERROR(StoreRegs());
  for (;;) {
    if (waits_masked_) {
      RETURN_IF_ERROR(CompleteExit(handler));
      RETURN_IF_ERROR(WaitMasked());
    }
    immediate_exit().store(0, std::memory_order_seq_cst);
    if (exception_.has_value()) {
      RETURN_IF_ERROR(StoreException());
      // An exception that KVM holds pending would be dropped if general registers came after it; there are none now.
    }
    entries_.fetch_add(1, std::memory_order_seq_cst);
    const uint32_t requests = requests_.load(std::memory_order_seq_cst);
    if (requests != 0) {
      LeaveGuest();
      RETURN_IF_ERROR(CompleteExit(handler));
      if ((requests & kFlushTlb) != 0) RETURN_IF_ERROR(FlushTlb());
      if ((requests & kLoss) != 0) RETURN_IF_ERROR(TakeLoss());
      if ((requests & kKick) != 0) {
        requests_.fetch_and(~uint32_t{kKick}, std::memory_order_seq_cst);
        return StopReason::kKicked;
      }
      continue;
    }
    RETURN_IF_ERROR(EnterGuest());
    completion_pending_ = false;
    ASSIGN_OR_RETURN(const Next next, Dispatch(handler));
    if (next == Next::kTripleFault) return StopReason::kTripleFault;
  }
}

absl::Status KvmVp::CompleteExit(ExitHandler& handler) {
  // A repeated string access or a wide memory access goes on with its next part; that part is the guest's as well.
  while (completion_pending_) {
    immediate_exit().store(1, std::memory_order_seq_cst);
    entries_.fetch_add(1, std::memory_order_seq_cst);
    RETURN_IF_ERROR(EnterGuest());
    completion_pending_ = false;
    ASSIGN_OR_RETURN(const Next next, Dispatch(handler));
    if (next == Next::kTripleFault) break;
  }
  return absl::OkStatus();
}

absl::StatusOr<KvmVp::Next> KvmVp::Dispatch(ExitHandler& handler) {
  in_exit_ = true;
  const absl::StatusOr<Next> next = OnExit(handler);
  in_exit_ = false;
  if (!next.ok()) return next;
  if (rip_after_exit_.has_value()) {
    RETURN_IF_ERROR(CompleteExit(handler));
    // The last part of an instruction of several parts has set it already.
    if (rip_after_exit_.has_value()) ChangeRegs().rip = *rip_after_exit_;
    rip_after_exit_.reset();
  }
  return next;
}

absl::StatusOr<KvmVp::Next> KvmVp::OnExit(ExitHandler& handler) {
  switch (run_->exit_reason) {
    case KVM_EXIT_IO:
      completion_pending_ = true;
      RETURN_IF_ERROR(OnPort(handler));
      return Next::kRun;
    case KVM_EXIT_MMIO:
      completion_pending_ = true;
      RETURN_IF_ERROR(OnMmio(handler));
      return Next::kRun;
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
      completion_pending_ = true;
      RETURN_IF_ERROR(OnMsr(handler, run_->exit_reason == KVM_EXIT_X86_WRMSR));
      return Next::kRun;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return Next::kRun;
    case KVM_EXIT_SHUTDOWN:
      return Next::kTripleFault;
    case KVM_EXIT_INTERNAL_ERROR:
      return InternalError();
    default:
      return absl::InternalError(
          absl::StrFormat("VP %u: KVM exit %u (hardware reason %#x) at RIP %#x", ToInt(index()), run_->exit_reason,
                          static_cast<uint64_t>(run_->hw.hardware_exit_reason), static_cast<uint64_t>(regs().rip)));
  }
}

absl::Status KvmVp::OnPort(ExitHandler& handler) {
  const uint16_t port = run_->io.port;
  const uint8_t size = run_->io.size;
  uint8_t* data = reinterpret_cast<uint8_t*>(run_) + run_->io.data_offset;
  if (run_->io.direction == KVM_EXIT_IO_IN) {
    in_read_ = true;
    for (uint32_t i = 0; i < run_->io.count; ++i) handler.OnPortRead(*this, port, {data + i * size, size});
    return CompleteRead(handler);
  }
  if (run_->io.count == 1) {
    if (port == kHypercallPort && size == 1) return OnHypercall(handler, false);
    if (port == kSignalPort && size == 4) return OnHypercall(handler, true);
  }
  for (uint32_t i = 0; i < run_->io.count; ++i) handler.OnPortWrite(*this, port, {data + i * size, size});
  return absl::OkStatus();
}

absl::Status KvmVp::OnMmio(ExitHandler& handler) {
  auto& mmio = run_->mmio;
  if (mmio.is_write != 0) {
    handler.OnMmioWrite(*this, mmio.phys_addr, {mmio.data, mmio.len});
    return absl::OkStatus();
  }
  in_read_ = true;
  handler.OnMmioRead(*this, mmio.phys_addr, {mmio.data, mmio.len});
  return CompleteRead(handler);
}

// If the handler changed general registers, completes the read without the change and then makes it.
absl::Status KvmVp::CompleteRead(ExitHandler& handler) {
  in_read_ = false;
  if (!regs_before_change_.has_value()) return absl::OkStatus();
  const kvm_regs wanted = regs();
  const kvm_regs before = *regs_before_change_;
  regs_before_change_.reset();
  run_->s.regs.regs = before;
  run_->kvm_dirty_regs &= ~uint64_t{KVM_SYNC_X86_REGS};
  RETURN_IF_ERROR(CompleteExit(handler));
  static_assert(sizeof(kvm_regs) == 18 * sizeof(uint64_t));
  const auto* wanted_words = reinterpret_cast<const __u64*>(&wanted);
  const auto* before_words = reinterpret_cast<const __u64*>(&before);
  auto* words = reinterpret_cast<__u64*>(&ChangeRegs());
  for (size_t i = 0; i < sizeof(kvm_regs) / sizeof(uint64_t); ++i) {
    if (wanted_words[i] != before_words[i]) words[i] = wanted_words[i];
  }
  return absl::OkStatus();
}

absl::Status KvmVp::OnMsr(ExitHandler& handler, bool write) {
  uint64_t value = run_->msr.data;
  const MsrOutcome outcome =
      write ? handler.OnMsrWrite(*this, run_->msr.index, value) : handler.OnMsrRead(*this, run_->msr.index, value);
  if (!write) run_->msr.data = value;
  run_->msr.error = outcome == MsrOutcome::kFault;
  return outcome == MsrOutcome::kHalt ? Sleep() : absl::OkStatus();
}

absl::Status KvmVp::Sleep() {
  // KVM's halt ends with an interrupt that can be delivered, and no other.
  if ((regs().rflags & kRflagsIf) == 0) {
    waits_masked_ = true;
    return absl::OkStatus();
  }
  kvm_mp_state state{KVM_MP_STATE_HALTED};
  return HVSDK_KVM_IOCTL(vcpu_, KVM_SET_MP_STATE, &state);
}

// Until an event arrives that the guest masks, or another thread wants something. Interrupts go from VP to VP inside
// the kernel, which tells nobody of those it holds back, so we look for them, ever more seldom; the signal of a kick
// ends a pause early.
absl::Status KvmVp::WaitMasked() {
  for (timespec pause{0, kShortestPauseNs}; requests_.load(std::memory_order_seq_cst) == 0;) {
    ASSIGN_OR_RETURN(const bool has_event, HasMaskedEvent());
    if (has_event) {
      waits_masked_ = false;
      break;
    }
    (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, nullptr);
    pause.tv_nsec = std::min(2 * pause.tv_nsec, kLongestPauseNs);
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> KvmVp::HasMaskedEvent() const {
  kvm_mp_state state;  // reading it takes an INIT or a start-up message that waits
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_GET_MP_STATE, &state));
  if (state.mp_state != KVM_MP_STATE_RUNNABLE) return true;
  kvm_vcpu_events events;
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_GET_VCPU_EVENTS, &events));
  if (events.nmi.pending) return true;
  kvm_lapic_state apic;
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_GET_LAPIC, &apic));
  if (HasDeliverableInterrupt(apic)) return true;
  if (!TakesExtInt(run_->apic_base, apic)) return false;
  kvm_irqchip master{};
  master.chip_id = KVM_IRQCHIP_PIC_MASTER;
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(partition_.vm(), KVM_GET_IRQCHIP, &master));
  return RequestsInterrupt(master.chip.pic);
}

absl::Status KvmVp::OnHypercall(ExitHandler& handler, bool from_signal_port) {
  const HypercallOutcome outcome = handler.OnHypercall(*this);
  if (outcome == HypercallOutcome::kDone) {
    if (from_signal_port) {
      ChangeRegs().rax += regs().rdx;  // the page subtracts it
    }
    return absl::OkStatus();
  }
  // Depending on how KVM came to the exit, RIP is at the OUT or already behind it; after completion it is behind it.
  RETURN_IF_ERROR(CompleteExit(handler));
  ChangeRegs().rip -= kPortHypercallOutBytes;
  if (outcome == HypercallOutcome::kUndefinedOpcode) InjectException({6, absl::nullopt});
  return absl::OkStatus();
}

absl::Status KvmVp::InternalError() const {
  std::string detail;
  for (uint32_t i = 0; i < run_->internal.ndata && i < 16; ++i) {
    absl::StrAppendFormat(&detail, " %x", static_cast<uint64_t>(run_->internal.data[i]));
  }
  return absl::InternalError(absl::StrFormat("VP %u: KVM cannot go on at RIP %#x (suberror %u, data%s)", ToInt(index()),
                                             static_cast<uint64_t>(regs().rip), run_->internal.suberror, detail));
}

// Nothing in KVM's interface flushes a TLB as such. A change of CR0 through KVM_SET_SREGS drops the roots of the vCPU's
// page tables, and loading roots anew at the next entry flushes all that the processor cached for this vCPU: its ASID
// on AMD, its EPT context on Intel; with shadow paging it also synchronises the shadow. CR0.MP means nothing to either.
absl::Status KvmVp::FlushTlb() {
  // Before the work: a request that comes meanwhile costs one more flush.
  requests_.fetch_and(~uint32_t{kFlushTlb}, std::memory_order_seq_cst);
  ASSIGN_OR_RETURN(const kvm_sregs* current, Sregs());
  kvm_sregs changed = *current;
  std::memset(changed.interrupt_bitmap, 0, sizeof(changed.interrupt_bitmap));
  changed.cr0 ^= kCr0Mp;
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_SET_SREGS, &changed));
  changed.cr0 ^= kCr0Mp;
  return HVSDK_KVM_IOCTL(vcpu_, KVM_SET_SREGS, &changed);
}

// The kernel shuts the VP down where the guest takes no machine check, or is in one.
absl::Status KvmVp::TakeLoss() {
  requests_.fetch_and(~uint32_t{kLoss}, std::memory_order_seq_cst);
  const absl::optional<Loss> loss = losses_.Take();
  if (!loss.has_value()) return absl::OkStatus();
  if (loss->by == LossBy::kOther) {
    ASSIGN_OR_RETURN(const kvm_sregs* sregs, Sregs());
    if ((sregs->cr4 & kCr4MachineCheck) == 0) return absl::OkStatus();
  }
  const MachineCheck check = MakeMachineCheck(*loss, amd_);
  // The exception that the kernel then holds pending would be dropped if general registers came after it.
  RETURN_IF_ERROR(StoreRegs());
  kvm_x86_mce mce{};
  mce.bank = static_cast<uint8_t>(check.bank);
  mce.status = check.status;
  mce.mcg_status = check.mcg_status;
  mce.addr = check.address;
  mce.misc = check.misc;
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_X86_SET_MCE, &mce));
  if (!amd_ && check.raises_exception() && loss->by != LossBy::kOther) partition_.TellOthers(*this);
  return absl::OkStatus();
}

// Registers.

kvm_regs& KvmVp::ChangeRegs() {
  if (in_read_ && !regs_before_change_.has_value()) regs_before_change_ = regs();
  run_->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
  return run_->s.regs.regs;
}

uint64_t KvmVp::GetGpr(Gpr gpr) const { return ReadGpr(regs(), gpr); }

void KvmVp::SetGpr(Gpr gpr, uint64_t value) { WriteGpr(ChangeRegs(), gpr, value); }

absl::StatusOr<const kvm_sregs*> KvmVp::Sregs() {
  if (!sregs_valid_) {
    RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_GET_SREGS, &sregs_));
    sregs_valid_ = true;
  }
  return &sregs_;
}

// Gives changed general registers to the kernel now. KVM forgets a pending exception when it takes them, so that is
// kept across; KVM_RUN takes them in a way that has no such exception to lose, as it then comes from an exit.
absl::Status KvmVp::StoreRegs() {
  if ((run_->kvm_dirty_regs & KVM_SYNC_X86_REGS) == 0) return absl::OkStatus();
  RegisterImage image(vcpu_, apic_id(), partition_.host());
  RETURN_IF_ERROR(image.Load(RegisterGroup::kEvents));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_SET_REGS, &run_->s.regs.regs));
  run_->kvm_dirty_regs &= ~uint64_t{KVM_SYNC_X86_REGS};
  if (image.events().exception.pending || image.events().exception.injected) {
    RETURN_IF_ERROR(image.Store(RegisterGroup::kEvents));
  }
  return absl::OkStatus();
}

absl::Status KvmVp::Reset() {
  RETURN_IF_ERROR(power_on_.Restore(vcpu_));
  RETURN_IF_ERROR(partition_.SetTsc(vcpu_, 0));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_GET_REGS, &run_->s.regs.regs));
  run_->kvm_dirty_regs = 0;
  sregs_valid_ = false;
  exception_.reset();
  (void)losses_.Take();
  expired_initial_count_ = 0;
  // What the kernel had in hand when the guest shut down went with it; nothing else outlives a Run.
  completion_pending_ = false;
  RETURN_IF_ERROR(SetActivity(first_activity()));
  return FlushTlb();
}

// The kernel notes that the local APIC's timer expired, and requests the interrupt when KVM_RUN next turns to the guest; a
// state that is taken before would have neither the timer nor the interrupt. So KVM_RUN is entered with a VP that waits for
// a start-up message, which runs nothing, and a signal that ends it.
absl::Status KvmVp::TakeInTimer() {
  kvm_lapic_state apic;
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_GET_LAPIC, &apic));
  if (ApicWord(apic.regs, kApicInitialCount) == 0 || (ApicWord(apic.regs, kApicLvtTimer) & kLvtMasked) != 0) {
    return absl::OkStatus();
  }
  kvm_mp_state activity;
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_GET_MP_STATE, &activity));
  kvm_mp_state waiting{KVM_MP_STATE_INIT_RECEIVED};
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_SET_MP_STATE, &waiting));
  immediate_exit().store(0, std::memory_order_seq_cst);  // a kick is in requests_, too
  const int error = RunUntilPendingSignal(vcpu_, partition_.host().kick_signal);
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_SET_MP_STATE, &activity));
  return error == EINTR ? absl::OkStatus() : KvmError("KVM_RUN of a VP that waits", error);
}

// A Run leaves no completion behind, so the kernel's state and what is put aside here (exception_, waits_masked_) are all
// there is.
absl::Status KvmVp::SaveState(VpState& state) {
  if (exception_.has_value()) RETURN_IF_ERROR(StoreException());
  RETURN_IF_ERROR(StoreRegs());
  RETURN_IF_ERROR(TakeInTimer());
  ASSIGN_OR_RETURN(const VcpuState now, VcpuState::Take(vcpu_, partition_.host()));
  run_->s.regs.regs = now.regs;  // an INIT may have changed them
  sregs_valid_ = false;
  if (now.events.smi.smm != 0) return absl::UnimplementedError("a processor in system management mode cannot be saved");
  state = {};
  ToVpState(now, power_on_, partition_.host(), state);
  if (amd_) {
    // A guest may write 64 bits, of which the kernel puts back 32. SYSENTER, which there is in legacy mode alone, takes no more.
    for (MsrState& msr : state.msrs) {
      if (msr.index == kMsrSysenterEsp || msr.index == kMsrSysenterEip) msr.value = static_cast<uint32_t>(msr.value);
    }
  }
  if (ApicWord(state.apic, kApicInitialCount) == 0) SetApicWord(state.apic, kApicInitialCount, expired_initial_count_);
  ASSIGN_OR_RETURN(state.tsc_offset, partition_.TscOffsetOf(vcpu_));
  ASSIGN_OR_RETURN(const Activity activity, GetActivity());
  state.activity = static_cast<uint8_t>(activity);
  state.guest_idle = activity == Activity::kHalted && waits_masked_;
  for (const uint8_t vector : auto_eoi_vectors_) {
    if (vector != 0 && IsRequested(now.apic, vector)) state.auto_eoi[vector / 64] |= uint64_t{1} << vector % 64;
  }
  return absl::OkStatus();
}

absl::Status KvmVp::RestoreState(const VpState& state) {
  // The kernel refuses a group of registers as a whole.
  constexpr std::pair<absl::string_view, absl::string_view> kGroups[] = {
      {"KVM_SET_SREGS", "CR0, CR3, CR4, EFER or APIC_BASE: "},
      {"KVM_SET_XCRS", "XCR0: "},
      {"KVM_SET_XSAVE", "MXCSR or XSAVE's components: "},
      {"KVM_SET_LAPIC", "the local APIC: "},
  };
  const auto says_who = [&](const absl::Status& status) {
    absl::string_view group;
    for (const auto& [call, registers] : kGroups) {
      if (absl::StartsWith(status.message(), call)) group = registers;
    }
    return absl::Status(status.code(), absl::StrFormat("VP %u: %s%s", ToInt(index()), group, status.message()));
  };
  const absl::StatusOr<VcpuState> vcpu = FromVpState(state, power_on_, partition_.host(), apic_id());
  if (!vcpu.ok()) return says_who(vcpu.status());
  if (state.tsc_deadline != 0 && partition_.tsc_changed()) {
    return says_who(
        absl::FailedPreconditionError("tsc_deadline: the TSC has another frequency here, and cannot be scaled"));
  }
  VpState before;
  RETURN_IF_ERROR(SaveState(before));
  const absl::Status status = TakeOver(state, *vcpu);
  if (status.ok()) return status;
  // What the kernel took before it refused is taken back.
  RETURN_IF_ERROR(Reset());
  ASSIGN_OR_RETURN(const VcpuState old, FromVpState(before, power_on_, partition_.host(), apic_id()));
  RETURN_IF_ERROR(TakeOver(before, old));
  return says_who(status);
}

absl::Status KvmVp::TakeOver(const VpState& state, const VcpuState& vcpu) {
  RETURN_IF_ERROR(partition_.SetTsc(vcpu_, state.tsc_offset));  // first, for a deadline counts by it
  RETURN_IF_ERROR(vcpu.Restore(vcpu_));
  RETURN_IF_ERROR(CheckMsrs(vcpu_, state));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_GET_REGS, &run_->s.regs.regs));
  run_->kvm_dirty_regs = 0;
  sregs_valid_ = false;
  exception_.reset();
  completion_pending_ = false;
  const bool timer_expired = ApicWord(vcpu.apic.regs, kApicInitialCount) == 0;
  expired_initial_count_ = timer_expired ? ApicWord(state.apic, kApicInitialCount) : 0;
  RETURN_IF_ERROR(SetActivity(static_cast<Activity>(state.activity)));
  if (state.guest_idle && (state.rflags & kRflagsIf) == 0) {
    RETURN_IF_ERROR(SetActivity(Activity::kRunning));
    waits_masked_ = true;
  }
  RETURN_IF_ERROR(FlushTlb());
  // A kernel takes what waits for a processor in no other way than as a message.
  if (state.init_pending) partition_.SignalTo(*this, kDeliverInit);
  if (state.sipi_pending) partition_.SignalTo(*this, kDeliverStartUp | state.sipi_vector);
  return absl::OkStatus();
}

void KvmVp::InjectException(const Exception& exception) { exception_ = exception; }

absl::Status KvmVp::StoreException() {
  RETURN_IF_ERROR(StoreRegs());
  RegisterImage image(vcpu_, apic_id(), partition_.host());
  const uint64_t error_code = exception_->error_code.value_or(0);
  const hvdef::RegisterValue value = {
      1 | (exception_->error_code.has_value() ? 1u << 8 : 0) | uint64_t{exception_->vector} << 16 | error_code << 32,
      0};
  exception_.reset();
  RETURN_IF_ERROR(image.Set(hvdef::RegisterName::kPendingEvent0, value));
  return image.Store(RegisterGroup::kEvents);
}

absl::Status KvmVp::GetRegisters(absl::Span<const hvdef::RegisterName> names, absl::Span<hvdef::RegisterValue> values) {
  HVSDK_CHECK(names.size() == values.size());
  RegisterImage image(vcpu_, apic_id(), partition_.host());
  kvm_regs general = regs();
  if (rip_after_exit_.has_value()) general.rip = *rip_after_exit_;
  image.Provide(general);
  for (size_t i = 0; i < names.size(); ++i) {
    if (GroupOf(names[i]) == RegisterGroup::kSpecial) {
      ASSIGN_OR_RETURN(const kvm_sregs* sregs, Sregs());
      image.Provide(*sregs);
    }
    if (names[i] == hvdef::RegisterName::kPendingEvent0 && exception_.has_value()) RETURN_IF_ERROR(StoreException());
    RETURN_IF_ERROR(image.Get(names[i], values[i]));
  }
  return absl::OkStatus();
}

absl::Status KvmVp::SetRegisters(absl::Span<const hvdef::RegisterName> names,
                                 absl::Span<const hvdef::RegisterValue> values) {
  HVSDK_CHECK(names.size() == values.size());
  RegisterImage image(vcpu_, apic_id(), partition_.host());
  RegisterImage before(vcpu_, apic_id(), partition_.host());
  image.Provide(regs());
  before.Provide(regs());
  for (size_t i = 0; i < names.size(); ++i) {
    hvdef::RegisterValue old;
    RETURN_IF_ERROR(before.Get(names[i], old));
    // A round trip makes `before` hold the group as changed, should it be needed to take back.
    RETURN_IF_ERROR(before.Set(names[i], old));
    RETURN_IF_ERROR(image.Set(names[i], values[i]));
  }
  sregs_valid_ = false;
  for (int i = 0; i < static_cast<int>(RegisterGroup::kGeneral); ++i) {
    const auto group = static_cast<RegisterGroup>(i);
    if (!image.changed(group)) continue;
    absl::Status status = image.Store(group);
    if (status.ok()) continue;
    for (int j = 0; j <= i; ++j) {
      if (before.changed(static_cast<RegisterGroup>(j))) before.Store(static_cast<RegisterGroup>(j)).IgnoreError();
    }
    if (status.code() != absl::StatusCode::kInvalidArgument) return status;
    for (size_t k = 0; k < names.size(); ++k) {
      if (GroupOf(names[k]) != group) continue;
      return absl::InvalidArgumentError(absl::StrFormat("register %#x or one set with it: impossible value (%s)",
                                                        static_cast<uint32_t>(names[k]), status.message()));
    }
    return status;
  }
  if (image.changed(RegisterGroup::kEvents)) exception_.reset();
  if (image.changed(RegisterGroup::kGeneral)) {
    const uint64_t rip = regs().rip;
    ChangeRegs() = image.regs();
    if (in_exit_) {
      ChangeRegs().rip = rip;
      if (std::find(names.begin(), names.end(), hvdef::RegisterName::kRip) != names.end()) {
        rip_after_exit_ = image.regs().rip;
      }
    }
  }
  return absl::OkStatus();
}

absl::Status KvmVp::SetAutoEoiVector(Sint sint, uint8_t vector) {
  if (!kernel_synic_) {
    if (vector == 0) return absl::OkStatus();
    RETURN_IF_ERROR(EnableCap(vcpu_, KVM_CAP_HYPERV_SYNIC, 0, "KVM_CAP_HYPERV_SYNIC"));
    kernel_synic_ = true;
  }
  List<kvm_msr_entry> msr(1);
  msr.elements()->index = hvdef::msr::kSint0 + ToInt(sint);
  msr.elements()->data = vector != 0 ? hvdef::msr::kSintAutoEoi | vector : hvdef::msr::kSintDefault;
  const int done = ::ioctl(vcpu_.get(), kSetMsrs, msr.get());
  if (done != 1) return KvmError("KVM_SET_MSRS of a SINT", done < 0 ? errno : EINVAL);
  auto_eoi_vectors_[ToInt(sint)] = vector;
  return absl::OkStatus();
}

absl::StatusOr<Activity> KvmVp::GetActivity() {
  kvm_mp_state state;
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_GET_MP_STATE, &state));
  switch (state.mp_state) {
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED:
      return Activity::kWaitForSipi;
    case KVM_MP_STATE_HALTED:
      return Activity::kHalted;
    default:
      return waits_masked_ ? Activity::kHalted : Activity::kRunning;
  }
}

absl::Status KvmVp::SetActivity(Activity activity) {
  waits_masked_ = false;
  kvm_mp_state state{};
  switch (activity) {
    case Activity::kRunning:
      state.mp_state = KVM_MP_STATE_RUNNABLE;
      break;
    case Activity::kHalted:
      state.mp_state = KVM_MP_STATE_HALTED;
      break;
    case Activity::kWaitForSipi:
      state.mp_state = KVM_MP_STATE_INIT_RECEIVED;
      break;
  }
  return HVSDK_KVM_IOCTL(vcpu_, KVM_SET_MP_STATE, &state);
}

Translation KvmVp::TranslateGva(uint64_t gva, TranslateAccess access, bool user) {
  const absl::StatusOr<const kvm_sregs*> sregs = Sregs();
  if (!sregs.ok()) return {};
  const PagingState state = {(*sregs)->cr0,  (*sregs)->cr3, (*sregs)->cr4,
                             (*sregs)->efer, regs().rflags, physical_bits_};
  return WalkPageTables(partition_.memory(), state, gva, access, user);
}

}  // namespace hvsdk::backend::kvm
