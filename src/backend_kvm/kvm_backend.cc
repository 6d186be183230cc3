// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/backend_kvm/kvm_backend.h"

#include <cpuid.h>
#include <fcntl.h>
#include <signal.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "backend/machine_check.h"
#include "backend_kvm/kick_signal.h"
#include "backend_kvm/kvm_api.h"
#include "backend_kvm/kvm_partition.h"
#include "base/status_macros.h"
#include "hvsdk/backend/port_hypercall.h"

namespace hvsdk::backend {
namespace kvm {
namespace {

constexpr uint32_t kMaxVps = 2048;
// KVM's local APIC counts at 1 GHz with divisor 1.
constexpr uint64_t kApicFrequencyHz = 1'000'000'000;

struct NeededCap {
  int capability;
  absl::string_view name;
};
constexpr NeededCap kNeededCaps[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
    {KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"},
    {KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"},
    {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
    {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
    {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"},
    {KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
    {KVM_CAP_SYNC_REGS, "KVM_CAP_SYNC_REGS"},
    {KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR"},
    {KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER"},
    {KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ"},
};

class KvmBackend : public Backend {
 public:
  explicit KvmBackend(HostFeatures host) : host_(std::move(host)) {}
  absl::string_view name() const override { return "kvm"; }
  const BackendCaps& caps() const override { return host_.caps; }
  absl::StatusOr<std::unique_ptr<Partition>> CreatePartition(GuestMemory& memory) override {
    ASSIGN_OR_RETURN(Fd vm, CreateConfiguredVm(host_));
    ASSIGN_OR_RETURN(InterruptControllers power_on, InterruptControllers::PowerOn(vm));
    return std::make_unique<KvmPartition>(host_, std::move(vm), memory, power_on);
  }

 private:
  const HostFeatures host_;
};

// What becomes of a guest's TSC, which a VM on the side tells.
absl::Status ProbeTsc(HostFeatures& host) {
  ASSIGN_OR_RETURN(const Fd vm, CreateVm(host.device));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vm, KVM_CREATE_IRQCHIP, 0));
  const Fd vcpu(::ioctl(vm.get(), KVM_CREATE_VCPU, 0UL));
  if (vcpu.get() < 0) return KvmError("KVM_CREATE_VCPU", errno);
  const int khz = ::ioctl(vcpu.get(), KVM_GET_TSC_KHZ, 0);
  if (khz <= 0) return KvmError("KVM_GET_TSC_KHZ", errno);
  host.caps.tsc_frequency_hz = uint64_t{1000} * static_cast<uint64_t>(khz);
  host.tsc_scaling = CheckExtension(host.device, KVM_CAP_TSC_CONTROL) != 0;
  if (HasTscOffset(vcpu)) {
    constexpr uint64_t kOffset = uint64_t{1} << 40;
    RETURN_IF_ERROR(SetTscOffset(vcpu, kOffset));
    ASSIGN_OR_RETURN(const uint64_t offset, GetTscOffset(vcpu));
    host.tsc_offsets = offset == kOffset;
  }
  return absl::OkStatus();
}

absl::StatusOr<HostFeatures> Probe(const KvmOptions& options) {
  HostFeatures host;
  host.device = Fd(::open(options.device.c_str(), O_RDWR | O_CLOEXEC));
  if (host.device.get() < 0) return absl::UnavailableError(absl::StrCat(options.device, ": ", std::strerror(errno)));
  const int version = ::ioctl(host.device.get(), KVM_GET_API_VERSION, 0);
  if (version != KVM_API_VERSION) {
    return absl::UnavailableError(absl::StrCat(options.device, " is not a KVM of version ", KVM_API_VERSION));
  }
  const Fd& device = host.device;
  for (const NeededCap& cap : kNeededCaps) {
    if (CheckExtension(device, cap.capability) == 0) {
      return absl::UnimplementedError(absl::StrCat(options.device, " lacks ", cap.name));
    }
  }
  if ((CheckExtension(device, KVM_CAP_SYNC_REGS) & KVM_SYNC_X86_REGS) == 0) {
    return absl::UnimplementedError(absl::StrCat(options.device, " lacks KVM_SYNC_X86_REGS"));
  }
  host.kick_signal = options.kick_signal != 0 ? options.kick_signal : SIGRTMIN + 7;
  RETURN_IF_ERROR(PrepareKickSignal(host.kick_signal));

  host.run_size_bytes = ::ioctl(device.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (host.run_size_bytes < static_cast<int>(sizeof(kvm_run))) return KvmError("KVM_GET_VCPU_MMAP_SIZE", errno);
  host.max_slots = static_cast<uint32_t>(std::max(CheckExtension(device, KVM_CAP_NR_MEMSLOTS), 32));
  host.xsave_size_bytes = static_cast<uint32_t>(CheckExtension(device, KVM_CAP_XSAVE2));
  host.exception_payload = CheckExtension(device, KVM_CAP_EXCEPTION_PAYLOAD) != 0;
  host.tsc_deadline_timer = CheckExtension(device, KVM_CAP_TSC_DEADLINE_TIMER) != 0;
  constexpr int kX2apicFlags = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
  host.x2apic_ids = (CheckExtension(device, KVM_CAP_X2APIC_API) & kX2apicFlags) == kX2apicFlags;
  host.enforce_pv_cpuid = CheckExtension(device, KVM_CAP_ENFORCE_PV_FEATURE_CPUID) != 0;
  host.enforce_hyperv_cpuid = CheckExtension(device, KVM_CAP_HYPERV_ENFORCE_CPUID) != 0;
  uint64_t mce_cap = 0;
  host.machine_checks = CheckExtension(device, KVM_CAP_MCE) >= static_cast<int>(kMachineCheckBanks) &&
                        ::ioctl(device.get(), KVM_X86_GET_MCE_CAP_SUPPORTED, &mce_cap) == 0 &&
                        (kMcgCap & ~uint64_t{0xFF} & ~mce_cap) == 0;
  host.nested_state = CheckExtension(device, KVM_CAP_NESTED_STATE) != 0;
  ASSIGN_OR_RETURN(host.msrs, GetMsrIndices(device));

  BackendCaps& caps = host.caps;
  caps.max_vps =
      std::min<uint32_t>(static_cast<uint32_t>(std::max(CheckExtension(device, KVM_CAP_MAX_VCPUS), 1)), kMaxVps);
  RETURN_IF_ERROR(ProbeTsc(host));
  // The guest reads the host's, and the kernel passes on what the processor says of it.
  ASSIGN_OR_RETURN(const std::vector<kvm_cpuid_entry2> cpuid, GetSupportedCpuid(device));
  caps.invariant_tsc = std::any_of(cpuid.begin(), cpuid.end(), [](const kvm_cpuid_entry2& entry) {
    return entry.function == 0x80000007 && (entry.edx & 1u << 8) != 0;
  });
  caps.apic_frequency_hz = kApicFrequencyHz;
  caps.hypercall_code.assign(std::begin(kPortHypercallCode), std::end(kPortHypercallCode));
  // The kernel serves these three only to a guest whose CPUID allows it, if it can be told to look there.
  caps.apic_msrs = CheckExtension(device, KVM_CAP_HYPERV_VAPIC) != 0 && host.enforce_hyperv_cpuid;
  // Of the kernel's SynIC this alone is used (kvm_vp.h). Guests are advised against it: it turns off the delivery of interrupts by
  // the processor itself.
  caps.auto_eoi = CheckExtension(device, KVM_CAP_HYPERV_SYNIC) != 0;
  caps.signal_event_fd = true;
  caps.dirty_log = true;
  return host;
}

}  // namespace
}  // namespace kvm

absl::StatusOr<std::unique_ptr<Backend>> CreateKvmBackend(const KvmOptions& options) {
  ASSIGN_OR_RETURN(kvm::HostFeatures host, kvm::Probe(options));
  return std::make_unique<kvm::KvmBackend>(std::move(host));
}

bool ProcessorHasVirtualization() {
  constexpr uint32_t kVmx = 1u << 5;  // CPUID 1, ECX
  constexpr uint32_t kSvm = 1u << 2;  // CPUID 0x80000001, ECX
  uint32_t eax, ebx, ecx, edx;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & kVmx) != 0) return true;
  return __get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) && (ecx & kSvm) != 0;
}

}  // namespace hvsdk::backend
