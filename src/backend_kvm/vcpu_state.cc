// SPDX-License-Identifier: Apache-2.0
#include "backend_kvm/vcpu_state.h"

#include <algorithm>
#include <cstring>

#include "backend/machine_check.h"
#include "base/status_macros.h"

namespace hvsdk::backend::kvm {
namespace {

constexpr uint32_t kMsrTsc = 0x10;
constexpr size_t kXsaveBytes = 4096;  // where there is no KVM_GET_XSAVE2

// What the kernel keeps and does not list: memory types (MTRRs) and machine checks (Intel SDM volume 4, table 2-2).
struct MsrRange {
  uint32_t first, count;
};
constexpr MsrRange kUnlisted[] = {{0x17A, 2},
                                  {0x200, 16},
                                  {0x250, 1},
                                  {0x258, 2},
                                  {0x268, 8},
                                  {0x2FF, 1},
                                  {kMsrMc0Ctl, kMachineCheckBanks* kBankRegisters}};

// struct kvm_nested_state without data, whose size in C++ is not that in C.
constexpr size_t kNestedHeaderBytes = 128;
constexpr unsigned long kGetNestedState = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0xBE, kNestedHeaderBytes);
constexpr unsigned long kSetNestedState = _IOC(_IOC_WRITE, KVMIO, 0xBF, kNestedHeaderBytes);

// What the kernel takes at once (its MAX_IO_MSRS is 256); it refuses a longer list as a whole.
constexpr size_t kMsrsAtOnce = 128;

// KVM_GET_MSRS and KVM_SET_MSRS end at the first MSR that they refuse; this goes on behind it. What they took, in order.
std::vector<kvm_msr_entry> ForEachMsr(const Fd& vcpu, unsigned long request, absl::Span<const kvm_msr_entry> msrs) {
  std::vector<kvm_msr_entry> done;
  done.reserve(msrs.size());
  while (!msrs.empty()) {
    const absl::Span<const kvm_msr_entry> part = msrs.subspan(0, kMsrsAtOnce);
    List<kvm_msr_entry> list(part);
    const size_t count = static_cast<size_t>(std::max(::ioctl(vcpu.get(), request, list.get()), 0));
    done.insert(done.end(), list.elements(), list.elements() + count);
    msrs.remove_prefix(count + (count < part.size() ? 1 : 0));
  }
  return done;
}

}  // namespace

std::vector<kvm_msr_entry> ReadMsrs(const Fd& vcpu, absl::Span<const kvm_msr_entry> msrs) {
  return ForEachMsr(vcpu, kGetMsrs, msrs);
}

absl::StatusOr<VcpuState> VcpuState::Take(const Fd& vcpu, const HostFeatures& host) {
  VcpuState state;
  // Reading it has the kernel act on an INIT or a start-up message that waits, which changes the rest.
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_MP_STATE, &state.activity));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_REGS, &state.regs));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_SREGS, &state.sregs));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_DEBUGREGS, &state.debug));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_VCPU_EVENTS, &state.events));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_LAPIC, &state.apic));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_XCRS, &state.xcrs));
  state.xsave.resize(std::max<size_t>(kXsaveBytes, host.xsave_size_bytes));
  RETURN_IF_ERROR(
      Ioctl(vcpu, host.xsave_size_bytes != 0 ? kGetXsave2 : kGetXsave, "KVM_GET_XSAVE", state.xsave.data()));
  std::vector<kvm_msr_entry> wanted;
  wanted.reserve(host.msrs.size());
  const auto add = [&](uint32_t index) { wanted.push_back({.index = index, .reserved = 0, .data = 0}); };
  for (const uint32_t index : host.msrs) {
    if (index != kMsrTsc) add(index);
  }
  for (const MsrRange& range : kUnlisted) {
    for (uint32_t i = 0; i < range.count; ++i) add(range.first + i);
  }
  state.msrs = ReadMsrs(vcpu, wanted);
  if (host.nested_state) {
    state.nested.resize(kNestedHeaderBytes);
    const auto size = static_cast<uint32_t>(kNestedHeaderBytes);
    std::memcpy(state.nested.data() + offsetof(kvm_nested_state, size), &size, sizeof(size));
    RETURN_IF_ERROR(Ioctl(vcpu, kGetNestedState, "KVM_GET_NESTED_STATE", state.nested.data()));
  }
  return state;
}

absl::Status VcpuState::Restore(const Fd& vcpu) const {
  // Reading these two has the kernel take INIT, start-up messages and NMIs that wait, which can then be forgotten.
  kvm_mp_state now;
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_MP_STATE, &now));
  kvm_vcpu_events waiting;
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_VCPU_EVENTS, &waiting));

  if (!nested.empty()) {
    RETURN_IF_ERROR(Ioctl(vcpu, kSetNestedState, "KVM_SET_NESTED_STATE", nested.data()));
  }
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_SET_SREGS, &sregs));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_SET_DEBUGREGS, &debug));
  if (xcrs.nr_xcrs != 0) RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_SET_XCRS, &xcrs));
  RETURN_IF_ERROR(Ioctl(vcpu, kSetXsave, "KVM_SET_XSAVE", xsave.data()));
  // The APIC before the MSRs, of which one arms its timer; it is on in what SREGS have.
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_SET_LAPIC, &apic));
  ForEachMsr(vcpu, kSetMsrs, msrs);  // a kernel refuses some that nobody can change
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_SET_REGS, &regs));
  return HVSDK_KVM_IOCTL(vcpu, KVM_SET_VCPU_EVENTS, &events);  // KVM_SET_REGS would drop an exception
}

}  // namespace hvsdk::backend::kvm
