// SPDX-License-Identifier: Apache-2.0
// A vCPU's state from the kernel's structures into those that all engines share (hvsdk/backend/state.h), and back.

#ifndef HVSDK_SRC_BACKEND_KVM_VP_STATE_H_
#define HVSDK_SRC_BACKEND_KVM_VP_STATE_H_

#include <cstdint>
#include <cstring>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend_kvm/host_features.h"
#include "backend_kvm/vcpu_state.h"
#include "hvsdk/backend/state.h"

namespace hvsdk::backend::kvm {

// Registers in the local APIC's page (Intel SDM volume 3, table 11-1).
inline constexpr size_t kApicId = 0x20, kApicVersion = 0x30, kApicIsr = 0x100, kApicTmr = 0x180, kApicIrr = 0x200,
                        kApicLvtCmci = 0x2F0, kApicLvtTimer = 0x320, kApicInitialCount = 0x380,
                        kApicCurrentCount = 0x390;
inline constexpr uint32_t kLvtMasked = 1 << 16, kLvtTimerMode = 3 << 17;
template <typename Page>
uint32_t ApicWord(const Page& page, size_t offset) {
  uint32_t value;
  std::memcpy(&value, &page[offset], sizeof(value));
  return value;
}
template <typename Page>
void SetApicWord(Page& page, size_t offset, uint32_t value) {
  std::memcpy(&page[offset], &value, sizeof(value));
}

// What all vCPUs of an engine begin as is no part of a VP's state: MSRs are given where they differ from `power_on`. The rest that
// only the VP knows is left as it is: tsc_offset, auto_eoi, activity, guest_idle. `state` is as made.
void ToVpState(const VcpuState& now, const VcpuState& power_on, const HostFeatures& host, VpState& state);

// InvalidArgument names what this vCPU cannot be. The kernel has its own say when it is given the result. Not in it: the
// activity, and what waits for the VP (INIT and start-up messages).
absl::StatusOr<VcpuState> FromVpState(const VpState& state, const VcpuState& power_on, const HostFeatures& host,
                                      uint32_t apic_id);

// The kernel ignores or masks some values of MSRs: InvalidArgument names the first of state.msrs that is another now.
absl::Status CheckMsrs(const Fd& vcpu, const VpState& state);

}  // namespace hvsdk::backend::kvm

#endif  // HVSDK_SRC_BACKEND_KVM_VP_STATE_H_
