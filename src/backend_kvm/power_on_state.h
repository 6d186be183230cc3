// SPDX-License-Identifier: Apache-2.0
// What a vCPU is when KVM has made it, kept so that it can become that again. The kernel has no call that resets one.

#ifndef HVSDK_SRC_BACKEND_KVM_POWER_ON_STATE_H_
#define HVSDK_SRC_BACKEND_KVM_POWER_ON_STATE_H_

#include <linux/kvm.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend_kvm/host_features.h"
#include "backend_kvm/kvm_api.h"

namespace hvsdk::backend::kvm {

class PowerOnState {
 public:
  // Of a vCPU that has its CPUID and has not run.
  static absl::StatusOr<PowerOnState> Take(const Fd& vcpu, const HostFeatures& host);

  // Gives all of it back to the kernel, and drops what is pending. All but the TSC, which goes on.
  absl::Status Restore(const Fd& vcpu) const;

 private:
  PowerOnState() = default;

  kvm_regs regs_;
  kvm_sregs sregs_;
  kvm_debugregs debug_;
  kvm_xcrs xcrs_;
  kvm_vcpu_events events_;
  kvm_lapic_state apic_;
  std::vector<uint8_t> xsave_;
  std::vector<kvm_msr_entry> msrs_;
  std::vector<uint8_t> nested_;  // empty: this KVM has no virtualisation for guests
};

}  // namespace hvsdk::backend::kvm

#endif  // HVSDK_SRC_BACKEND_KVM_POWER_ON_STATE_H_
