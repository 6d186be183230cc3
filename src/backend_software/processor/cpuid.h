// SPDX-License-Identifier: Apache-2.0
// The CPUID leaves of the software processor: exactly what it has.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_CPUID_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_CPUID_H_

#include <cstdint>
#include <vector>

#include "hvsdk/backend/backend.h"

namespace hvsdk::software {

// CPUID.1:EAX, and RDX after a reset: family 6, model 0x5C (Goldmont). A model decides two things for which there are no bits. glibc
// takes it for one that is fast with unaligned addresses, and copies by `rep movsb` or plain SSE2; models that need AVX for that, or
// are unknown, get the copy by SSSE3's PALIGNR, which an interpreter is slow at. And Linux has it among those that leak little; what
// is left, IA32_ARCH_CAPABILITIES denies (msr.cc). The stepping is none that was sold: no list of old microcode knows it.
inline constexpr uint32_t kProcessorSignature = 0x000506CF;

std::vector<backend::CpuidEntry> SupportedCpuid();

// Whether the host's processor has the SHA instructions, which the compiler's own test does not know.
bool HostHasSha();

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_CPUID_H_
