// SPDX-License-Identifier: Apache-2.0
// What CPUID tells a guest: what the engine offers, less what a partition cannot use, with the machine's topology and
// the hypervisor's leaves.

#ifndef HVSDK_MACHINE_CPUID_H_
#define HVSDK_MACHINE_CPUID_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "hvsdk/backend/backend.h"

namespace hvsdk::machine {

enum class Processor : uint8_t {
  kHost,      // all that the engine offers
  kPortable,  // the same on every engine and host, so that a guest that was saved on one may go on on another
};

// The leaves of the portable processor, for ComposeCpuid in place of what the engine supports. Its model and vendor are the
// software engine's; it has what x86-64-v2 has, MOVBE, BMI1, BMI2, LZCNT, ADX, RDRAND, FSGSBASE, SMEP and SMAP; no XSAVE,
// and nothing that tells of an engine's weaknesses or of how invariant its TSC is; 39 bits of physical addresses.
// FailedPrecondition names all that is in it and not in `supported`.
absl::StatusOr<std::vector<backend::CpuidEntry>> PortableCpuid(const std::vector<backend::CpuidEntry>& supported);

// `cpus` processors are the cores of one package; APIC ids are VP indices.
std::vector<backend::CpuidEntry> ComposeCpuid(std::vector<backend::CpuidEntry> supported,
                                              const std::vector<backend::CpuidEntry>& hypervisor, uint32_t cpus);

// How many bits a guest physical address has (leaf 0x80000008; 36 without it).
uint32_t PhysicalAddressBits(const std::vector<backend::CpuidEntry>& cpuid);

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_CPUID_H_
