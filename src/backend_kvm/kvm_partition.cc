// SPDX-License-Identifier: Apache-2.0
#include "backend_kvm/kvm_partition.h"

#include <cpuid.h>
#include <x86intrin.h>

#include <algorithm>
#include <array>
#include <limits>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_format.h"
#include "backend/machine_check.h"
#include "backend_kvm/kvm_vp.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "hvsdk/backend/port_hypercall.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk::backend::kvm {
namespace {

// Where KVM on Intel keeps a task state segment and an identity page table while the guest is in real mode: below the
// reset vector, above the interrupt controllers, where PCs have firmware.
constexpr uint64_t kIdentityMapAddress = 0xFEFFC000;
constexpr uint64_t kTssAddress = 0xFEFFD000;

constexpr uint32_t kMsrTsc = 0x10;  // IA32_TIME_STAMP_COUNTER
constexpr uint32_t kMsrTscAdjust = 0x3B;
// The kernel takes frequencies that are no further apart for the same (its tsc_tolerance_ppm is 250): a host measures its own
// anew each time it boots.
constexpr uint64_t kTscToleranceDivisor = 4000;
constexpr uint32_t kSyntheticMsrFirst = 0x40000000;
constexpr uint32_t kSyntheticMsrCount = 0x200;
constexpr uint32_t kApicMsrFirst = 0x40000070;  // HV_X64_MSR_EOI, ICR, TPR
constexpr uint32_t kApicMsrCount = 3;

// QEMU's TCG does not intercept XSETBV for a nested hypervisor. KVM there believes that its guest's XCR0 is still
// that of reset, and puts it back at every entry: a guest that uses XSAVE loses state. So it gets none there, and
// saves by FXSAVE.
bool RunsUnderTcg() {
  uint32_t eax, ebx, ecx, edx;
  __cpuid(1, eax, ebx, ecx, edx);
  if (!(ecx & 1u << 31)) return false;
  __cpuid(0x40000000, eax, ebx, ecx, edx);
  return ebx == 0x54474354 && ecx == 0x43544743 && edx == 0x47435447;  // "TCGTCGTCGTCG"
}

void HideXsave(CpuidEntry& entry) {
  if (entry.leaf == 1) entry.ecx &= ~(1u << 12 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 29);  // FMA, XSAVE, AVX, F16C
  if (entry.leaf == 7 && entry.subleaf == 0) {
    entry.ebx &= ~(1u << 5 | 0xDC230000);          // AVX2, AVX-512
    entry.ecx &= ~(1u << 3 | 1u << 9 | 1u << 10);  // PKU, VAES, VPCLMULQDQ
  }
  if (entry.leaf == 0xD) entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
  if (entry.leaf == 0x80000001) entry.ecx &= ~(1u << 11 | 1u << 15 | 1u << 16);  // XOP, LWP, FMA4
}

absl::StatusOr<uint64_t> ReadMsr(const Fd& vcpu, uint32_t index) {
  List<kvm_msr_entry> msr(1);
  msr.elements()->index = index;
  const int done = ::ioctl(vcpu.get(), kGetMsrs, msr.get());
  if (done != 1) return KvmError("KVM_GET_MSRS", done < 0 ? errno : EINVAL);
  return uint64_t{msr.elements()->data};
}
absl::StatusOr<uint64_t> ReadTsc(const Fd& vcpu) { return ReadMsr(vcpu, kMsrTsc); }

// As a PC's firmware leaves it: without, an operating system believes that it must not copy by string instructions, ERMS or
// not (Intel SDM volume 4, IA32_MISC_ENABLE). Processors of other makers have no such MSR.
void EnableFastStrings(const Fd& vcpu) {
  constexpr uint32_t kMsrMiscEnable = 0x1A0;
  constexpr uint64_t kFastStrings = 1;
  const absl::StatusOr<uint64_t> value = ReadMsr(vcpu, kMsrMiscEnable);
  if (!value.ok()) return;
  List<kvm_msr_entry> msr(1);
  *msr.elements() = {.index = kMsrMiscEnable, .reserved = 0, .data = *value | kFastStrings};
  ::ioctl(vcpu.get(), kSetMsrs, msr.get());
}

absl::Status FilterMsrs(const Fd& vm, bool kernel_has_apic_msrs) {
  // A clear bit denies the access, which comes to us as an exit.
  std::array<uint8_t, kSyntheticMsrCount / 8> bitmap{};
  if (kernel_has_apic_msrs) {
    for (uint32_t i = kApicMsrFirst - kSyntheticMsrFirst; i < kApicMsrFirst - kSyntheticMsrFirst + kApicMsrCount; ++i) {
      bitmap[i / 8] |= static_cast<uint8_t>(1u << (i % 8));
    }
  }
  kvm_msr_filter filter{};
  filter.flags = KVM_MSR_FILTER_DEFAULT_ALLOW;
  filter.ranges[0].flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
  filter.ranges[0].base = kSyntheticMsrFirst;
  filter.ranges[0].nmsrs = kSyntheticMsrCount;
  filter.ranges[0].bitmap = bitmap.data();
  return HVSDK_KVM_IOCTL(vm, KVM_X86_SET_MSR_FILTER, &filter);
}

// Which inputs of the controllers an interrupt line drives. The kernel's own choice is a PC's but for lines 0 and 2.
absl::Status RouteLines(const Fd& vm) {
  std::vector<kvm_irq_routing_entry> entries;
  const auto add = [&](uint32_t line, uint32_t chip, uint32_t pin) {
    kvm_irq_routing_entry entry{};
    entry.gsi = line;
    entry.type = KVM_IRQ_ROUTING_IRQCHIP;
    entry.u.irqchip = {.irqchip = chip, .pin = pin};
    entries.push_back(entry);
  };
  for (uint32_t line = 0; line < KVM_IOAPIC_NUM_PINS; ++line) {
    if (line == 2) continue;  // the 8259s' cascade; that input of the IOAPIC is the timer's, line 0
    if (line < 16) add(line, line < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, line % 8);
    add(line, KVM_IRQCHIP_IOAPIC, line == 0 ? 2 : line);
  }
  List<kvm_irq_routing_entry> list(entries);
  return Ioctl(vm, kSetGsiRouting, "KVM_SET_GSI_ROUTING", list.get());
}

}  // namespace

absl::StatusOr<Fd> CreateConfiguredVm(const HostFeatures& host) {
  ASSIGN_OR_RETURN(Fd vm, CreateVm(host.device));
  uint64_t identity_map = kIdentityMapAddress;
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vm, KVM_SET_TSS_ADDR, kTssAddress));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vm, KVM_CREATE_IRQCHIP, 0));
  RETURN_IF_ERROR(RouteLines(vm));
  RETURN_IF_ERROR(EnableCap(vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_UNKNOWN,
                            "KVM_CAP_X86_USER_SPACE_MSR"));
  RETURN_IF_ERROR(FilterMsrs(vm, host.caps.apic_msrs));
  if (host.exception_payload) {
    RETURN_IF_ERROR(EnableCap(vm, KVM_CAP_EXCEPTION_PAYLOAD, 1, "KVM_CAP_EXCEPTION_PAYLOAD"));
  }
  if (host.x2apic_ids) {
    RETURN_IF_ERROR(EnableCap(vm, KVM_CAP_X2APIC_API,
                              KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
                              "KVM_CAP_X2APIC_API"));
  }
  return vm;
}

KvmPartition::KvmPartition(const HostFeatures& host, Fd vm, GuestMemory& memory, const InterruptControllers& power_on)
    : host_(host),
      vm_(std::move(vm)),
      memory_(memory),
      power_on_(power_on),
      tsc_frequency_hz_(host.caps.tsc_frequency_hz),
      vps_(host.caps.max_vps) {}

KvmPartition::~KvmPartition() { UnwatchLostMemory(*this); }

// Memory.

absl::Status KvmPartition::SetSlot(uint64_t gpa, const Slot& slot, uint64_t size_bytes) {
  kvm_userspace_memory_region region{};
  region.slot = slot.id;
  region.flags = (slot.read_only ? KVM_MEM_READONLY : 0) |
                 (dirty_log_ && !slot.read_only && size_bytes != 0 ? KVM_MEM_LOG_DIRTY_PAGES : 0);
  region.guest_phys_addr = gpa;
  region.memory_size = size_bytes;
  region.userspace_addr = reinterpret_cast<uint64_t>(slot.host);
  return HVSDK_KVM_IOCTL(vm_, KVM_SET_USER_MEMORY_REGION, &region);
}

absl::Status KvmPartition::AddMemory(uint64_t gpa, absl::Span<uint8_t> host) {
  RETURN_IF_ERROR(MapMemory(gpa, host, MapAccess::kReadWriteExecute));
  absl::Status status = !host_.machine_checks || WatchLostMemory(host, *this)
                            ? memory_.AddRange(gpa, host)
                            : absl::ResourceExhaustedError("too many ranges of memory");
  if (!status.ok()) {
    UnwatchLostMemory(*this, host.data());
    UnmapMemory(gpa, host.size()).IgnoreError();
  }
  return status;
}

absl::Status KvmPartition::RemoveLastMemory() {
  const GuestMemory::Range last = memory_.ranges().back();
  RETURN_IF_ERROR(UnmapMemory(last.gpa, last.size_bytes));
  UnwatchLostMemory(*this, last.host);
  memory_.RemoveLastRange();
  return absl::OkStatus();
}

// In a signal handler. The kernel sends the signal to the thread that is in KVM_RUN, whose guest then makes the access again.
void KvmPartition::OnLostPage(const uint8_t* page) {
  const GuestMemory::Range* found = nullptr;
  for (const GuestMemory::Range& range : memory_.ranges()) {
    if (page >= range.host && page < range.host + range.size_bytes) found = &range;
  }
  if (found == nullptr) return;
  KvmVp* vp = KvmVp::Running();
  if (vp != nullptr && FindVp(vp->index()) != vp) vp = nullptr;
  const LossBy by = vp != nullptr ? LossBy::kProcessor : LossBy::kHost;
  if (vp == nullptr) vp = FindVp(VpIndex{0});
  if (vp != nullptr) vp->RequestLoss(found->gpa + static_cast<uint64_t>(page - found->host), by);
}

void KvmPartition::TellOthers(const KvmVp& self) {
  for (const auto& vp : vps_) {
    KvmVp* const other = vp.load(std::memory_order_acquire);
    if (other != nullptr && other != &self) other->RequestLoss(0, LossBy::kOther);
  }
}

absl::Status KvmPartition::MapMemory(uint64_t gpa, absl::Span<uint8_t> host, MapAccess access) {
  if (host.empty() || gpa % kPageSize != 0 || host.size() % kPageSize != 0 ||
      reinterpret_cast<uintptr_t>(host.data()) % kPageSize != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("memory at %#x: %u bytes at %p are not whole pages", gpa, host.size(), host.data()));
  }
  std::lock_guard lock(mutex_);
  if (free_slots_.empty() && next_slot_ == host_.max_slots) {
    return absl::ResourceExhaustedError(absl::StrFormat("all %u memory slots are in use", host_.max_slots));
  }
  Slot slot{next_slot_, host.size(), host.data(), access == MapAccess::kReadExecute};
  if (!free_slots_.empty()) slot.id = free_slots_.back();
  RETURN_IF_ERROR(SetSlot(gpa, slot, slot.size_bytes));
  if (slot.id == next_slot_) {
    ++next_slot_;
  } else {
    free_slots_.pop_back();
  }
  slots_[gpa] = slot;
  return absl::OkStatus();
}

absl::Status KvmPartition::UnmapMemory(uint64_t gpa, uint64_t size_bytes) {
  std::lock_guard lock(mutex_);
  const auto found = slots_.find(gpa);
  if (found == slots_.end() || found->second.size_bytes != size_bytes) {
    return absl::NotFoundError(absl::StrFormat("no mapping of %u bytes at %#x", size_bytes, gpa));
  }
  RETURN_IF_ERROR(SetSlot(gpa, found->second, 0));
  free_slots_.push_back(found->second.id);
  slots_.erase(found);
  return absl::OkStatus();
}

absl::Status KvmPartition::EnableDirtyLog(bool enable) {
  std::lock_guard lock(mutex_);
  if (dirty_log_ == enable) return absl::OkStatus();
  const auto set_all = [&]() -> absl::Status {
    for (const auto& [gpa, slot] : slots_) {
      if (!slot.read_only) RETURN_IF_ERROR(SetSlot(gpa, slot, slot.size_bytes));
    }
    return absl::OkStatus();
  };
  dirty_log_ = enable;
  absl::Status status = set_all();
  if (status.ok()) return status;
  // Those that were changed before the kernel refused one go back to what they were; the others are that already.
  dirty_log_ = !enable;
  set_all().IgnoreError();
  return status;
}

absl::Status KvmPartition::TakeDirtyLog(uint64_t gpa, uint64_t size_bytes, absl::Span<uint64_t> bitmap) {
  std::lock_guard lock(mutex_);
  const auto found = slots_.find(gpa);
  if (found == slots_.end() || found->second.size_bytes != size_bytes) {
    return absl::NotFoundError(absl::StrFormat("no mapping of %u bytes at %#x", size_bytes, gpa));
  }
  const uint64_t words = (size_bytes / kPageSize + 63) / 64;
  if (bitmap.size() < words) return absl::InvalidArgumentError("the bitmap is smaller than the range");
  if (!dirty_log_) return absl::FailedPreconditionError("the dirty log is off");
  if (found->second.read_only) return absl::OkStatus();
  std::vector<uint64_t> taken(words);
  kvm_dirty_log log{};
  log.slot = found->second.id;
  log.dirty_bitmap = taken.data();
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vm_, KVM_GET_DIRTY_LOG, &log));
  for (uint64_t i = 0; i < words; ++i) bitmap[i] |= taken[i];
  return absl::OkStatus();
}

// Processors.

absl::StatusOr<std::vector<CpuidEntry>> KvmPartition::SupportedCpuid() const {
  ASSIGN_OR_RETURN(const std::vector<kvm_cpuid_entry2> entries, GetSupportedCpuid(host_.device));
  std::vector<CpuidEntry> result;
  const bool has_xcr0 = !RunsUnderTcg();
  bool amd = false;
  for (const kvm_cpuid_entry2& entry : entries) {
    if ((entry.function & 0xF0000000) == 0x40000000) continue;
    CpuidEntry out{entry.function, entry.index, (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0,
                   entry.eax,      entry.ebx,   entry.ecx,
                   entry.edx};
    if (out.leaf == 0) amd = IsAmd({&out, 1});
    // The kernel's local APIC has both, but KVM leaves it to its user to say so.
    if (out.leaf == 1) out.ecx |= 1u << 21 | (host_.tsc_deadline_timer ? 1u << 24 : 0);
    if (!has_xcr0) HideXsave(out);
    // A guest recovers from a machine check of AMD's only where these say that it can: nothing is lost of two, and what is poisoned stays so.
    if (amd && out.leaf == 0x80000007 && host_.machine_checks) out.ebx |= 1u << 0 | 1u << 1;  // OVERFLOW_RECOV, SUCCOR
    result.push_back(out);
  }
  return result;
}

absl::StatusOr<std::unique_ptr<Vp>> KvmPartition::CreateVp(VpIndex index, uint32_t apic_id,
                                                           absl::Span<const CpuidEntry> cpuid) {
  if (ToInt(index) >= vps_.size()) {
    return absl::InvalidArgumentError(absl::StrFormat("VP %u: at most %u", ToInt(index), vps_.size()));
  }
  if (FindVp(index) != nullptr) return absl::AlreadyExistsError(absl::StrFormat("VP %u exists", ToInt(index)));
  if (apic_id >= 255 && !host_.x2apic_ids) {
    return absl::InvalidArgumentError(absl::StrFormat("APIC id %u: this kernel has none above 254", apic_id));
  }
  // Which vCPU begins running, and is the bootstrap processor in its APIC_BASE, must be known before the first exists.
  if (ToInt(index) == 0 && apic_id != 0) {
    RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vm_, KVM_SET_BOOT_CPU_ID, static_cast<unsigned long>(apic_id)));
  }
  // KVM takes the vCPU's id for its APIC id.
  const int fd = ::ioctl(vm_.get(), KVM_CREATE_VCPU, static_cast<unsigned long>(apic_id));
  if (fd < 0) return KvmError("KVM_CREATE_VCPU", errno);
  Fd vcpu(fd);
  if (host_.enforce_pv_cpuid) {
    RETURN_IF_ERROR(EnableCap(vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1, "KVM_CAP_ENFORCE_PV_FEATURE_CPUID"));
  }
  if (host_.enforce_hyperv_cpuid) {
    RETURN_IF_ERROR(EnableCap(vcpu, KVM_CAP_HYPERV_ENFORCE_CPUID, 1, "KVM_CAP_HYPERV_ENFORCE_CPUID"));
  }

  uint8_t physical_bits = 36;  // without the leaf that tells
  std::vector<kvm_cpuid_entry2> entries;
  entries.reserve(cpuid.size());
  for (const CpuidEntry& entry : cpuid) {
    kvm_cpuid_entry2 out{};
    out.function = entry.leaf;
    out.index = entry.subleaf;
    out.flags = entry.has_subleaves ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
    out.eax = entry.eax;
    out.ebx = entry.ebx;
    out.ecx = entry.ecx;
    out.edx = entry.edx;
    // The places where a processor tells its own APIC id.
    if (out.function == 1) out.ebx = (out.ebx & 0x00FFFFFF) | apic_id << 24;
    if (out.function == 0xB || out.function == 0x1F) out.edx = apic_id;
    if (out.function == 0x8000001E) out.eax = apic_id;
    if (out.function == 0x80000008) physical_bits = std::min(out.eax & 0xFF, 52u);
    entries.push_back(out);
  }
  RETURN_IF_ERROR(SetCpuid(vcpu, entries));
  RETURN_IF_ERROR(AdoptTsc(vcpu));
  EnableFastStrings(vcpu);
  if (host_.machine_checks) {
    uint64_t mcg_cap = kMcgCap;
    RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_X86_SETUP_MCE, &mcg_cap));
  }

  ASSIGN_OR_RETURN(std::unique_ptr<KvmVp> vp,
                   KvmVp::Create(*this, std::move(vcpu), index, apic_id, physical_bits, IsAmd(cpuid)));
  vps_[ToInt(index)].store(vp.get(), std::memory_order_release);
  return vp;
}

// The TSC.

// Lets the guest read the host's TSC as it is. An offset would be as easy on hardware, but a KVM without hardware
// virtualisation cannot apply one. A kernel without that attribute (before 5.16) synchronises new vCPUs by itself; what
// it came to is measured once.
absl::Status KvmPartition::AdoptTsc(const Fd& vcpu) {
  if (HasTscOffset(vcpu) || scaled_tsc_khz_.has_value()) return SetTsc(vcpu, 0);
  ASSIGN_OR_RETURN(guest_tsc_, ReadTsc(vcpu));
  host_tsc_ = __rdtsc();
  return absl::OkStatus();
}

// The kernel multiplies the host's TSC by a fraction of its own making before it adds the offset, so the offset for a
// scaled TSC comes from one that the kernel made.
absl::StatusOr<uint64_t> KvmPartition::KernelTscOffset(const Fd& vcpu) {
  if (!scaled_tsc_khz_.has_value()) return guest_tsc_ - host_tsc_;
  if (!kernel_tsc_offset_.has_value()) {
    ASSIGN_OR_RETURN(const uint64_t offset, GetTscOffset(vcpu));
    ASSIGN_OR_RETURN(const uint64_t tsc, ReadTsc(vcpu));
    kernel_tsc_offset_ = GuestTsc() - (tsc - offset);
  }
  return *kernel_tsc_offset_;
}

absl::Status KvmPartition::SetTsc(const Fd& vcpu, uint64_t vp_offset) {
  if (scaled_tsc_khz_.has_value()) {
    RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_SET_TSC_KHZ, static_cast<unsigned long>(*scaled_tsc_khz_)));
  }
  if (!HasTscOffset(vcpu)) {
    List<kvm_msr_entry> tsc(1);
    *tsc.elements() = {.index = kMsrTsc, .reserved = 0, .data = GuestTsc() + vp_offset};
    return Ioctl(vcpu, kSetMsrs, "KVM_SET_MSRS", tsc.get());
  }
  ASSIGN_OR_RETURN(const uint64_t offset, KernelTscOffset(vcpu));
  return SetTscOffset(vcpu, offset + vp_offset);
}

absl::StatusOr<uint64_t> KvmPartition::TscOffsetOf(const Fd& vcpu) const {
  if (HasTscOffset(vcpu)) {
    ASSIGN_OR_RETURN(const uint64_t offset, GetTscOffset(vcpu));
    return offset - kernel_tsc_offset_.value_or(guest_tsc_ - host_tsc_);
  }
  // The kernel counts what a guest adds to its TSC there.
  return ReadMsr(vcpu, kMsrTscAdjust);
}

uint64_t KvmPartition::GuestTsc() const {
  const uint64_t passed = __rdtsc() - host_tsc_;
  if (!scaled_tsc_khz_.has_value()) return guest_tsc_ + passed;
  const auto product = static_cast<unsigned __int128>(passed) * *scaled_tsc_khz_;
  return guest_tsc_ + static_cast<uint64_t>(product / (host_.caps.tsc_frequency_hz / 1000));
}

// State.

absl::Status KvmPartition::SaveState(PartitionState& state) {
  ASSIGN_OR_RETURN(const InterruptControllers controllers, InterruptControllers::Take(vm_));
  state = {};
  state.tsc_frequency_hz = tsc_frequency_hz_;
  state.guest_tsc = GuestTsc();
  controllers.ToState(lines_.load(std::memory_order_relaxed), state);
  return absl::OkStatus();
}

absl::Status KvmPartition::RestoreState(const PartitionState& state) {
  InterruptControllers controllers = power_on_;
  uint32_t lines = 0;
  RETURN_IF_ERROR(controllers.FromState(state, lines));
  const uint64_t host_hz = host_.caps.tsc_frequency_hz, wanted_hz = state.tsc_frequency_hz;
  if (wanted_hz == 0) return absl::InvalidArgumentError("tsc_frequency_hz: it is 0");
  const uint64_t difference = std::max(host_hz, wanted_hz) - std::min(host_hz, wanted_hz);
  const bool differs = difference > host_hz / kTscToleranceDivisor;
  const bool scaled = differs && host_.tsc_scaling && wanted_hz / 1000 <= std::numeric_limits<int32_t>::max();
  // Where the guest has the host's TSC itself, it may leap forward.
  if (!host_.tsc_offsets && state.guest_tsc > __rdtsc()) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "the saved TSC is at %u, this host's at %u, and a guest has no other here", state.guest_tsc, __rdtsc()));
  }

  scaled_tsc_khz_.reset();
  if (scaled) scaled_tsc_khz_ = static_cast<uint32_t>(wanted_hz / 1000);
  kernel_tsc_offset_.reset();
  tsc_frequency_hz_ = differs && !scaled ? host_hz : wanted_hz;
  tsc_changed_ = differs && !scaled;
  guest_tsc_ = host_.tsc_offsets ? state.guest_tsc : 0;
  host_tsc_ = host_.tsc_offsets ? __rdtsc() : 0;
  for (const auto& vp : vps_) {
    KvmVp* made = vp.load(std::memory_order_acquire);
    if (made != nullptr) RETURN_IF_ERROR(SetTsc(made->vcpu(), 0));
  }
  lines_.store(lines, std::memory_order_relaxed);
  return controllers.Restore(vm_, lines);
}

void KvmPartition::RemoveVp(VpIndex index) { vps_[ToInt(index)].store(nullptr, std::memory_order_release); }

KvmVp* KvmPartition::FindVp(VpIndex index) const {
  return ToInt(index) < vps_.size() ? vps_[ToInt(index)].load(std::memory_order_acquire) : nullptr;
}

void KvmPartition::FlushTlb(absl::Span<const VpIndex> vps) {
  // All are asked before any is waited for. A VP in an exit is outside the guest, so two that flush each other wait
  // for nothing.
  absl::InlinedVector<std::pair<KvmVp*, uint32_t>, 16> running;
  for (VpIndex index : vps) {
    KvmVp* vp = FindVp(index);
    if (vp == nullptr) continue;
    if (const uint32_t ticket = vp->RequestTlbFlush(); ticket != 0) running.emplace_back(vp, ticket);
  }
  for (const auto& [vp, ticket] : running) vp->WaitForExit(ticket);
}

// Interrupts.

void KvmPartition::SignalMsi(uint64_t address, uint32_t data) {
  kvm_msi msi{};
  msi.address_lo = static_cast<uint32_t>(address);
  msi.address_hi = static_cast<uint32_t>(address >> 32);
  msi.data = data;
  // Refused only where real hardware would lose the message, too: nobody is addressed, or the address means nothing.
  ::ioctl(vm_.get(), KVM_SIGNAL_MSI, &msi);
}

void KvmPartition::RequestInterrupt(VpIndex index, uint8_t vector, bool auto_eoi) {
  HVSDK_CHECK(!auto_eoi || host_.caps.auto_eoi);
  const KvmVp* vp = FindVp(index);  // which has told the kernel which vectors end by themselves
  if (vp == nullptr) return;
  SignalTo(*vp, vector);  // fixed, edge
}

void KvmPartition::SignalTo(const Vp& vp, uint32_t data) {
  // Physical destination. KVM takes bits 31:8 of an x2APIC id in the upper word.
  const uint64_t id = vp.apic_id();
  SignalMsi(0xFEE00000 | (id & 0xFF) << 12 | (id & ~uint64_t{0xFF}) << 32, data);
}

void KvmPartition::SetIrqLine(uint32_t irq, bool level) {
  if (irq < KVM_IOAPIC_NUM_PINS) {
    level ? lines_.fetch_or(1u << irq, std::memory_order_relaxed)
          : lines_.fetch_and(~(1u << irq), std::memory_order_relaxed);
  }
  kvm_irq_level line{};
  line.irq = irq;
  line.level = level;
  ::ioctl(vm_.get(), KVM_IRQ_LINE, &line);
}

absl::Status KvmPartition::ResetInterruptControllers() {
  lines_.store(0, std::memory_order_relaxed);
  return power_on_.Restore(vm_, 0);
}

absl::Status KvmPartition::SetSignalEvent(ConnectionId connection, int event_fd, uint32_t flags) {
  kvm_ioeventfd event{};
  event.addr = kSignalPort;
  event.len = 4;
  event.datamatch = ToInt(connection);
  event.fd = event_fd;
  event.flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH | flags;
  return HVSDK_KVM_IOCTL(vm_, KVM_IOEVENTFD, &event);
}

absl::Status KvmPartition::AssignSignalEvent(ConnectionId connection, int event_fd) {
  return SetSignalEvent(connection, event_fd, 0);
}

absl::Status KvmPartition::UnassignSignalEvent(ConnectionId connection, int event_fd) {
  return SetSignalEvent(connection, event_fd, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

}  // namespace hvsdk::backend::kvm
