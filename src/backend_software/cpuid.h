// SPDX-License-Identifier: Apache-2.0
// The CPUID leaves of the software processor: exactly what it has.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_CPUID_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_CPUID_H_

#include <vector>

#include "hvsdk/backend/backend.h"

namespace hvsdk::software {

std::vector<backend::CpuidEntry> SupportedCpuid();

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_CPUID_H_
