// SPDX-License-Identifier: Apache-2.0
// What the processor of one VP has: what its CPUID shows of what this engine can do. What is hidden is refused as on a processor without
// it: control bits are reserved, MSRs are not there, instructions are undefined or what they were before.
//
// Baseline, not asked for: x87, MMX, SSE, SSE2, CMOV, CMPXCHG8B, FXSAVE, SYSENTER, CLFLUSH, and all that CPUID leaf 1 tells of paging in
// EDX. KVM refuses none of these either, as no processor with hardware virtualisation can be told to.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_FEATURES_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_FEATURES_H_

#include <cstdint>

#include "absl/types/span.h"
#include "hvsdk/backend/backend.h"

namespace hvsdk::software {

// A word of feature bits times 32, plus the bit.
enum class Feature : uint16_t {
  // CPUID.1:ECX
  kSse3 = 0,
  kPclmulqdq = 1,
  kSsse3 = 9,
  kCmpxchg16b = 13,
  kPcid = 17,
  kSse41 = 19,
  kSse42 = 20,
  kX2apic = 21,
  kMovbe = 22,
  kPopcnt = 23,
  kTscDeadline = 24,
  kAes = 25,
  kXsave = 26,
  kRdrand = 30,
  // CPUID.(7,0):EBX
  kFsgsbase = 32 + 0,
  kTscAdjust = 32 + 1,
  kBmi1 = 32 + 3,
  kSmep = 32 + 7,
  kBmi2 = 32 + 8,
  kInvpcid = 32 + 10,
  kRdseed = 32 + 18,
  kAdx = 32 + 19,
  kSmap = 32 + 20,
  kClflushopt = 32 + 23,
  kClwb = 32 + 24,
  kSha = 32 + 29,
  // CPUID.(7,0):ECX
  kUmip = 64 + 2,
  kRdpid = 64 + 22,
  // CPUID.(7,0):EDX
  kSpecCtrl = 96 + 26,
  kArchCapabilities = 96 + 29,
  // CPUID.(0xD,1):EAX
  kXsaveopt = 128 + 0,
  kXgetbv1 = 128 + 2,
  // CPUID.0x80000001:ECX
  kLzcnt = 160 + 5,
  // CPUID.0x80000001:EDX
  kNx = 192 + 20,
  kGigabytePages = 192 + 26,
  kRdtscp = 192 + 27,
  kLongMode = 192 + 29,
  // CPUID.(7,2):EDX
  kBhiCtrl = 224 + 4,
};

class Features {
 public:
  // `cpuid` is what the guest sees; bits of what this engine does not have count for nothing.
  explicit Features(absl::Span<const backend::CpuidEntry> cpuid);

  bool Has(Feature feature) const {
    return words_[static_cast<int>(feature) / 32] >> (static_cast<int>(feature) % 32) & 1;
  }

  // The bits that may be set.
  uint64_t cr4() const { return cr4_; }
  uint64_t efer() const { return efer_; }
  uint64_t xcr0() const { return xcr0_; }
  int physical_address_bits() const { return physical_address_bits_; }

 private:
  uint32_t words_[8] = {};
  uint64_t cr4_ = 0, efer_ = 0, xcr0_ = 1;
  int physical_address_bits_ = 36;  // without the leaf that tells
};

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_FEATURES_H_
