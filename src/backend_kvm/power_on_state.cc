// SPDX-License-Identifier: Apache-2.0
#include "backend_kvm/power_on_state.h"

#include <algorithm>
#include <cstring>

#include "base/status_macros.h"

namespace hvsdk::backend::kvm {
namespace {

constexpr uint32_t kMsrTsc = 0x10;
constexpr size_t kXsaveBytes = 4096;  // where there is no KVM_GET_XSAVE2

// What the kernel keeps and does not list: memory types (MTRRs) and machine checks (Intel SDM volume 4, table 2-2).
struct MsrRange {
  uint32_t first, count;
};
constexpr MsrRange kUnlisted[] = {{0x17A, 2}, {0x200, 16}, {0x250, 1},  {0x258, 2},
                                  {0x268, 8}, {0x2FF, 1},  {0x400, 128}};

// struct kvm_nested_state without data, whose size in C++ is not that in C.
constexpr size_t kNestedHeaderBytes = 128;
constexpr unsigned long kGetNestedState = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0xBE, kNestedHeaderBytes);
constexpr unsigned long kSetNestedState = _IOC(_IOC_WRITE, KVMIO, 0xBF, kNestedHeaderBytes);

// KVM_GET_MSRS and KVM_SET_MSRS end at the first MSR that they refuse; this goes on behind it. What they took, in order.
std::vector<kvm_msr_entry> ForEachMsr(const Fd& vcpu, unsigned long request, absl::Span<const kvm_msr_entry> msrs) {
  std::vector<kvm_msr_entry> done;
  done.reserve(msrs.size());
  while (!msrs.empty()) {
    List<kvm_msr_entry> list(msrs);
    const int count = std::max(::ioctl(vcpu.get(), request, list.get()), 0);
    done.insert(done.end(), list.elements(), list.elements() + count);
    msrs.remove_prefix(std::min<size_t>(count + 1, msrs.size()));
  }
  return done;
}

}  // namespace

absl::StatusOr<PowerOnState> PowerOnState::Take(const Fd& vcpu, const HostFeatures& host) {
  PowerOnState state;
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_REGS, &state.regs_));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_SREGS, &state.sregs_));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_DEBUGREGS, &state.debug_));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_VCPU_EVENTS, &state.events_));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_LAPIC, &state.apic_));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_XCRS, &state.xcrs_));
  state.xsave_.resize(std::max<size_t>(kXsaveBytes, host.xsave_size_bytes));
  RETURN_IF_ERROR(
      Ioctl(vcpu, host.xsave_size_bytes != 0 ? kGetXsave2 : kGetXsave, "KVM_GET_XSAVE", state.xsave_.data()));
  std::vector<kvm_msr_entry> msrs;
  msrs.reserve(host.msrs.size());
  const auto add = [&](uint32_t index) { msrs.push_back({.index = index, .reserved = 0, .data = 0}); };
  for (const uint32_t index : host.msrs) {
    if (index != kMsrTsc) add(index);
  }
  for (const MsrRange& range : kUnlisted) {
    for (uint32_t i = 0; i < range.count; ++i) add(range.first + i);
  }
  state.msrs_ = ForEachMsr(vcpu, kGetMsrs, msrs);
  if (host.nested_state) {
    state.nested_.resize(kNestedHeaderBytes);
    const auto size = static_cast<uint32_t>(kNestedHeaderBytes);
    std::memcpy(state.nested_.data() + offsetof(kvm_nested_state, size), &size, sizeof(size));
    RETURN_IF_ERROR(Ioctl(vcpu, kGetNestedState, "KVM_GET_NESTED_STATE", state.nested_.data()));
  }
  return state;
}

absl::Status PowerOnState::Restore(const Fd& vcpu) const {
  // Reading these two has the kernel take INIT, start-up messages and NMIs that wait, which can then be forgotten.
  kvm_mp_state activity;
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_MP_STATE, &activity));
  kvm_vcpu_events waiting;
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_VCPU_EVENTS, &waiting));

  if (!nested_.empty()) {
    RETURN_IF_ERROR(Ioctl(vcpu, kSetNestedState, "KVM_SET_NESTED_STATE", nested_.data()));
  }
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_SET_SREGS, &sregs_));
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_SET_DEBUGREGS, &debug_));
  if (xcrs_.nr_xcrs != 0) RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_SET_XCRS, &xcrs_));
  RETURN_IF_ERROR(Ioctl(vcpu, kSetXsave, "KVM_SET_XSAVE", xsave_.data()));
  // The APIC before the MSRs, of which one arms its timer; it is on in what SREGS have.
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_SET_LAPIC, &apic_));
  ForEachMsr(vcpu, kSetMsrs, msrs_);  // a kernel refuses some that nobody can change
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_SET_REGS, &regs_));
  return HVSDK_KVM_IOCTL(vcpu, KVM_SET_VCPU_EVENTS, &events_);  // KVM_SET_REGS would drop an exception
}

}  // namespace hvsdk::backend::kvm
