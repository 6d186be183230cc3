// SPDX-License-Identifier: Apache-2.0
// The processor that is the same on every engine.
//
// What it has, KVM has on Intel's processors since Broadwell and on AMD's since Zen, and the software engine everywhere. What it lacks:
//   - XSAVE, and with it AVX: the size and the layout of its area differ between processors, and not every KVM has it
//   - MCE and MCA: how many banks there are is the engine's
//   - IA32_ARCH_CAPABILITIES and IA32_SPEC_CTRL: what a processor leaks is that one's, and the answer would go with the guest
//   - AES and PCLMULQDQ: the software engine has them where its host has
//   - PCID, INVPCID, 1 GiB pages, UMIP, RDSEED, SHA: not every engine has them
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "hvsdk/machine/cpuid.h"

namespace hvsdk::machine {
namespace {

using backend::CpuidEntry;

constexpr uint32_t Bit(int n) { return uint32_t{1} << n; }

uint32_t Word(const char* text) {
  uint32_t word;
  std::memcpy(&word, text, 4);
  return word;
}

// Features (Intel SDM volume 2, CPUID) that the engine must have, by their bits.
struct Feature {
  uint32_t leaf;
  uint32_t CpuidEntry::*word;
  int bit;
  const char* name;
};
constexpr Feature kFeatures[] = {
    {1, &CpuidEntry::edx, 0, "FPU"},
    {1, &CpuidEntry::edx, 2, "DE"},
    {1, &CpuidEntry::edx, 3, "PSE"},
    {1, &CpuidEntry::edx, 4, "TSC"},
    {1, &CpuidEntry::edx, 5, "MSR"},
    {1, &CpuidEntry::edx, 6, "PAE"},
    {1, &CpuidEntry::edx, 8, "CMPXCHG8B"},
    {1, &CpuidEntry::edx, 9, "APIC"},
    {1, &CpuidEntry::edx, 11, "SYSENTER"},
    {1, &CpuidEntry::edx, 12, "MTRR"},
    {1, &CpuidEntry::edx, 13, "PGE"},
    {1, &CpuidEntry::edx, 15, "CMOV"},
    {1, &CpuidEntry::edx, 16, "PAT"},
    {1, &CpuidEntry::edx, 17, "PSE36"},
    {1, &CpuidEntry::edx, 19, "CLFLUSH"},
    {1, &CpuidEntry::edx, 23, "MMX"},
    {1, &CpuidEntry::edx, 24, "FXSR"},
    {1, &CpuidEntry::edx, 25, "SSE"},
    {1, &CpuidEntry::edx, 26, "SSE2"},
    {1, &CpuidEntry::ecx, 0, "SSE3"},
    {1, &CpuidEntry::ecx, 9, "SSSE3"},
    {1, &CpuidEntry::ecx, 13, "CMPXCHG16B"},
    {1, &CpuidEntry::ecx, 19, "SSE4.1"},
    {1, &CpuidEntry::ecx, 20, "SSE4.2"},
    {1, &CpuidEntry::ecx, 21, "x2APIC"},
    {1, &CpuidEntry::ecx, 22, "MOVBE"},
    {1, &CpuidEntry::ecx, 23, "POPCNT"},
    {1, &CpuidEntry::ecx, 24, "TSC-deadline"},
    {1, &CpuidEntry::ecx, 30, "RDRAND"},
    {7, &CpuidEntry::ebx, 0, "FSGSBASE"},
    {7, &CpuidEntry::ebx, 1, "TSC_ADJUST"},
    {7, &CpuidEntry::ebx, 3, "BMI1"},
    {7, &CpuidEntry::ebx, 7, "SMEP"},
    {7, &CpuidEntry::ebx, 8, "BMI2"},
    {7, &CpuidEntry::ebx, 19, "ADX"},
    {7, &CpuidEntry::ebx, 20, "SMAP"},
    {0x80000001, &CpuidEntry::ecx, 0, "LAHF"},
    {0x80000001, &CpuidEntry::ecx, 5, "LZCNT"},
    {0x80000001, &CpuidEntry::edx, 11, "SYSCALL"},
    {0x80000001, &CpuidEntry::edx, 20, "NX"},
    {0x80000001, &CpuidEntry::edx, 27, "RDTSCP"},
    {0x80000001, &CpuidEntry::edx, 29, "LM"},
};
// "Enhanced REP MOVSB": no feature but advice, on which C libraries choose how to copy. The software engine lives by it, and all others
// can follow it.
constexpr uint32_t kErms = Bit(9);

// Those of processors that few bits are left to: an engine may have more.
constexpr uint32_t kPhysicalAddressBits = 39;
constexpr uint32_t kLinearAddressBits = 48;

// The software engine's (src/backend_software/processor/cpuid.h says why this one).
constexpr uint32_t kSignature = 0x000506CF;

const CpuidEntry* Find(const std::vector<CpuidEntry>& leaves, uint32_t leaf) {
  for (const CpuidEntry& entry : leaves) {
    if (entry.leaf == leaf && (!entry.has_subleaves || entry.subleaf == 0)) return &entry;
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<std::vector<CpuidEntry>> PortableCpuid(const std::vector<CpuidEntry>& supported) {
  std::string missing;
  const auto miss = [&](absl::string_view name) { absl::StrAppend(&missing, missing.empty() ? "" : ", ", name); };
  CpuidEntry first{.leaf = 1, .eax = kSignature, .ebx = 8 << 8};  // CLFLUSH: 8 quadwords
  CpuidEntry seventh{.leaf = 7, .has_subleaves = true, .ebx = kErms};
  CpuidEntry extended{.leaf = 0x80000001};
  for (const Feature& feature : kFeatures) {
    const CpuidEntry* entry = Find(supported, feature.leaf);
    if (entry == nullptr || (entry->*feature.word & Bit(feature.bit)) == 0) miss(feature.name);
    CpuidEntry& made = feature.leaf == 1 ? first : feature.leaf == 7 ? seventh : extended;
    made.*feature.word |= Bit(feature.bit);
  }
  if (PhysicalAddressBits(supported) < kPhysicalAddressBits) {
    miss(absl::StrFormat("%u bits of physical addresses", kPhysicalAddressBits));
  }
  if (!missing.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("the engine lacks what a portable processor has: ", missing));
  }

  std::vector<CpuidEntry> leaves = {
      {.leaf = 0, .eax = 0xB, .ebx = Word("Genu"), .ecx = Word("ntel"), .edx = Word("ineI")},
      first,
      // Caches, as the software engine's: C libraries size their copies by the last.
      {.leaf = 2, .eax = 0x00FF0001},
      {.leaf = 4, .subleaf = 0, .has_subleaves = true, .eax = 0x121, .ebx = 7 << 22 | 63, .ecx = 63},
      {.leaf = 4, .subleaf = 1, .has_subleaves = true, .eax = 0x122, .ebx = 7 << 22 | 63, .ecx = 63},
      {.leaf = 4, .subleaf = 2, .has_subleaves = true, .eax = 0x143, .ebx = 15 << 22 | 63, .ecx = 1023},
      {.leaf = 4, .subleaf = 3, .has_subleaves = true, .eax = 0x163, .ebx = 15 << 22 | 63, .ecx = 0x3FFFF, .edx = 2},
      {.leaf = 4, .subleaf = 4, .has_subleaves = true},
      {.leaf = 6, .eax = Bit(2)},  // ARAT
      seventh,
      {.leaf = 0x80000000, .eax = 0x80000008},
      extended,
  };
  const char brand[49] = "hvsdk portable processor";
  for (uint32_t i = 0; i < 3; ++i) {
    const char* part = brand + 16 * i;
    leaves.push_back({.leaf = 0x80000002 + i,
                      .eax = Word(part),
                      .ebx = Word(part + 4),
                      .ecx = Word(part + 8),
                      .edx = Word(part + 12)});
  }
  leaves.push_back({.leaf = 0x80000006, .ecx = 1024 << 16 | 8 << 12 | 64});
  leaves.push_back({.leaf = 0x80000008, .eax = kPhysicalAddressBits | kLinearAddressBits << 8});
  return leaves;
}

}  // namespace hvsdk::machine
