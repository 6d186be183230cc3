// SPDX-License-Identifier: Apache-2.0
// What a vCPU is, in the kernel's structures: taken when KVM has made it, so that it can become that again (the kernel has
// no call that resets one), and whenever its state is saved.

#ifndef HVSDK_SRC_BACKEND_KVM_VCPU_STATE_H_
#define HVSDK_SRC_BACKEND_KVM_VCPU_STATE_H_

#include <linux/kvm.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "backend_kvm/host_features.h"
#include "backend_kvm/kvm_api.h"

namespace hvsdk::backend::kvm {

struct VcpuState {
  // Of a vCPU that has its CPUID. What other processors sent it (INIT, a start-up message, an NMI) is taken in before.
  static absl::StatusOr<VcpuState> Take(const Fd& vcpu, const HostFeatures& host);

  // Gives all of it to the kernel, and drops what is pending. All but the TSC, which goes on, and `activity`: Take
  // alone knows it, so that INIT can be told from halted.
  absl::Status Restore(const Fd& vcpu) const;

  kvm_regs regs;
  kvm_sregs sregs;
  kvm_debugregs debug;
  kvm_xcrs xcrs;
  kvm_vcpu_events events;
  kvm_lapic_state apic;
  kvm_mp_state activity;
  std::vector<uint8_t> xsave;
  std::vector<kvm_msr_entry> msrs;  // those that the kernel has, as far as it tells
  std::vector<uint8_t> nested;      // empty: this KVM has no virtualisation for guests
};

// The values of `msrs`, without those that the kernel refuses.
std::vector<kvm_msr_entry> ReadMsrs(const Fd& vcpu, absl::Span<const kvm_msr_entry> msrs);

}  // namespace hvsdk::backend::kvm

#endif  // HVSDK_SRC_BACKEND_KVM_VCPU_STATE_H_
