// SPDX-License-Identifier: Apache-2.0
#ifndef HVSDK_SRC_PARTITION_CPUID_H_
#define HVSDK_SRC_PARTITION_CPUID_H_

#include <cstdint>
#include <vector>

#include "hvsdk/backend/backend.h"

namespace hvsdk::partition {

// Of the privileges that are wanted, those that work on an engine.
uint64_t EffectivePrivileges(uint64_t wanted, const backend::BackendCaps& caps, bool has_vp_runtime);

// Leaves 0x40000000 to 0x4000000A.
std::vector<backend::CpuidEntry> HypervisorCpuid(uint64_t privileges, const backend::BackendCaps& caps);

}  // namespace hvsdk::partition

#endif  // HVSDK_SRC_PARTITION_CPUID_H_
