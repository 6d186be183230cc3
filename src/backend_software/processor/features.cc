// SPDX-License-Identifier: Apache-2.0
#include "backend_software/processor/features.h"

#include <algorithm>

#include "backend_software/processor/cpu.h"
#include "backend_software/processor/cpuid.h"

namespace hvsdk::software {
namespace {

using backend::CpuidEntry;

const CpuidEntry* Find(absl::Span<const CpuidEntry> cpuid, uint32_t leaf, uint32_t subleaf) {
  for (const CpuidEntry& entry : cpuid) {
    if (entry.leaf == leaf && (!entry.has_subleaves || entry.subleaf == subleaf)) return &entry;
  }
  return nullptr;
}

// In the order of Feature's words.
constexpr struct {
  uint32_t leaf, subleaf;
  uint32_t CpuidEntry::*word;
} kWords[] = {{1, 0, &CpuidEntry::ecx},          {7, 0, &CpuidEntry::ebx},   {7, 0, &CpuidEntry::ecx},
              {7, 0, &CpuidEntry::edx},          {0xD, 1, &CpuidEntry::eax}, {0x80000001, 0, &CpuidEntry::ecx},
              {0x80000001, 0, &CpuidEntry::edx}, {7, 2, &CpuidEntry::edx}};

constexpr struct {
  Feature feature;
  uint64_t cr4;
} kCr4Features[] = {{Feature::kPcid, kCr4Pcide}, {Feature::kXsave, kCr4Osxsave},     {Feature::kSmep, kCr4Smep},
                    {Feature::kSmap, kCr4Smap},  {Feature::kFsgsbase, kCr4Fsgsbase}, {Feature::kUmip, kCr4Umip}};

}  // namespace

Features::Features(absl::Span<const CpuidEntry> cpuid) {
  const std::vector<CpuidEntry> supported = SupportedCpuid();
  const auto shown = [&](uint32_t leaf, uint32_t subleaf, uint32_t CpuidEntry::*word) {
    const CpuidEntry* const guest = Find(cpuid, leaf, subleaf);
    const CpuidEntry* const engine = Find(supported, leaf, subleaf);
    return guest == nullptr || engine == nullptr ? 0 : guest->*word & engine->*word;
  };
  static_assert(std::size(kWords) == sizeof(words_) / sizeof(words_[0]));
  for (size_t i = 0; i < std::size(kWords); ++i) words_[i] = shown(kWords[i].leaf, kWords[i].subleaf, kWords[i].word);

  cr4_ = kCr4Tsd | kCr4De | kCr4Pse | kCr4Pae | kCr4Mce | kCr4Pge | kCr4Pce | kCr4Osfxsr | kCr4Osxmmexcpt;
  for (const auto& each : kCr4Features) {
    if (Has(each.feature)) cr4_ |= each.cr4;
  }
  efer_ = kEferSce | (Has(Feature::kLongMode) ? kEferLme | kEferLma : 0) | (Has(Feature::kNx) ? kEferNxe : 0);
  if (Has(Feature::kXsave)) xcr0_ |= shown(0xD, 0, &CpuidEntry::eax);
  if (const CpuidEntry* const sizes = Find(cpuid, 0x80000008, 0); sizes != nullptr) {
    physical_address_bits_ = std::clamp(static_cast<int>(sizes->eax & 0xFF), 32, kPhysicalAddressBits);
  }
}

}  // namespace hvsdk::software
