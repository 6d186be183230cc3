// SPDX-License-Identifier: Apache-2.0
// What CPUID tells a guest: what the engine offers, less what a partition cannot use, with the machine's topology and
// the hypervisor's leaves.

#ifndef HVSDK_VMM_CPUID_H_
#define HVSDK_VMM_CPUID_H_

#include <cstdint>
#include <vector>

#include "hvsdk/backend/backend.h"

namespace hvsdk::vmm {

// `cpus` processors are the cores of one package; APIC ids are VP indices.
std::vector<backend::CpuidEntry> ComposeCpuid(std::vector<backend::CpuidEntry> supported,
                                              const std::vector<backend::CpuidEntry>& hypervisor, uint32_t cpus);

// How many bits a guest physical address has (leaf 0x80000008; 36 without it).
uint32_t PhysicalAddressBits(const std::vector<backend::CpuidEntry>& cpuid);

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_CPUID_H_
