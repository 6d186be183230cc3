// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/machine/cpuid.h"

#include <algorithm>
#include <bit>

#include "hvsdk/hvdef/cpuid.h"

namespace hvsdk::machine {
namespace {

using backend::CpuidEntry;

// Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.
constexpr uint32_t kLeaf1EcxVmx = 1u << 5;
constexpr uint32_t kLeaf1EdxHtt = 1u << 28;
constexpr uint32_t kExtendedEcxCmpLegacy = 1u << 1;
constexpr uint32_t kExtendedEcxSvm = 1u << 2;
constexpr uint32_t kExtendedEcxNodeIdMsr = 1u << 19;
constexpr uint32_t kExtendedEcxTopology = 1u << 22;

}  // namespace

std::vector<CpuidEntry> ComposeCpuid(std::vector<CpuidEntry> supported, const std::vector<CpuidEntry>& hypervisor,
                                     uint32_t cpus) {
  const uint32_t id_bits = std::bit_width(cpus - 1);
  std::vector<CpuidEntry> result;
  const bool intel = std::any_of(supported.begin(), supported.end(), [](const CpuidEntry& entry) {
    return entry.leaf == 0 && entry.ebx == 0x756E6547;  // "Genu"
  });
  for (CpuidEntry& entry : supported) {
    switch (entry.leaf) {
      case 0x1:
        entry.ecx = (entry.ecx | hvdef::cpuid::kHypervisorPresent) & ~kLeaf1EcxVmx;
        entry.ebx = (entry.ebx & 0xFF00FFFF) | std::min(cpus, 255u) << 16;
        entry.edx = cpus > 1 ? entry.edx | kLeaf1EdxHtt : entry.edx & ~kLeaf1EdxHtt;
        break;
      case 0x4:
        // Each core has its caches to itself but for the last level, which the package shares.
        if ((entry.eax & 0x1F) != 0) {
          const bool last_level = ((entry.eax >> 5) & 7) >= 3;
          entry.eax = (entry.eax & 0x3FFF) | (last_level ? (std::min(1u << id_bits, 4096u) - 1) << 14 : 0) |
                      (std::min(1u << id_bits, 64u) - 1) << 26;
        }
        break;
      case 0xB:
      case 0x1F:
        continue;  // made below
      case 0x80000001:
        // Without the topology leaves a guest derives the same topology from leaf 0x80000008.
        entry.ecx &= ~(kExtendedEcxSvm | kExtendedEcxNodeIdMsr | kExtendedEcxTopology);
        if (!intel) entry.ecx = cpus > 1 ? entry.ecx | kExtendedEcxCmpLegacy : entry.ecx & ~kExtendedEcxCmpLegacy;
        break;
      case 0x80000008:
        if (!intel) entry.ecx = (entry.ecx & 0xFFFF0000) | id_bits << 12 | std::min(cpus - 1, 255u);
        break;
      case 0x8000000A:
      case 0x8000001D:
      case 0x8000001E:
        continue;
    }
    result.push_back(entry);
  }
  // Extended topology: one thread in a core, `cpus` cores in the package. The engine fills in EDX.
  result.push_back({.leaf = 0xB, .subleaf = 0, .has_subleaves = true, .eax = 0, .ebx = 1, .ecx = 0x100});
  result.push_back({.leaf = 0xB, .subleaf = 1, .has_subleaves = true, .eax = id_bits, .ebx = cpus, .ecx = 0x201});
  result.push_back({.leaf = 0xB, .subleaf = 2, .has_subleaves = true, .ecx = 2});
  result.insert(result.end(), hypervisor.begin(), hypervisor.end());
  return result;
}

uint32_t PhysicalAddressBits(const std::vector<CpuidEntry>& cpuid) {
  for (const CpuidEntry& entry : cpuid) {
    if (entry.leaf == 0x80000008) return entry.eax & 0xFF;
  }
  return 36;
}

}  // namespace hvsdk::machine
