// SPDX-License-Identifier: Apache-2.0
// What there is to know about this host's KVM.

#ifndef HVSDK_SRC_BACKEND_KVM_HOST_FEATURES_H_
#define HVSDK_SRC_BACKEND_KVM_HOST_FEATURES_H_

#include <cstdint>
#include <vector>

#include "backend_kvm/kvm_api.h"
#include "hvsdk/backend/backend.h"

namespace hvsdk::backend::kvm {

// What the backend learned of the host; it outlives its partitions.
struct HostFeatures {
  Fd device;
  int kick_signal = 0;
  int run_size_bytes = 0;
  uint32_t max_slots = 0;
  uint32_t xsave_size_bytes = 0;  // 0: no KVM_GET_XSAVE2
  bool exception_payload = false;
  bool tsc_deadline_timer = false;
  bool x2apic_ids = false;
  bool enforce_pv_cpuid = false;
  bool enforce_hyperv_cpuid = false;
  bool nested_state = false;
  bool machine_checks = false;  // with recovery by software
  bool tsc_scaling = false;
  // A vCPU's TSC can be another than the host's. One without hardware virtualisation says so, and it is not.
  bool tsc_offsets = true;
  std::vector<uint32_t> msrs;  // those that can be saved and restored
  BackendCaps caps;
};

}  // namespace hvsdk::backend::kvm

#endif  // HVSDK_SRC_BACKEND_KVM_HOST_FEATURES_H_
