// SPDX-License-Identifier: Apache-2.0
// Who made the host's processor, for comparisons with what one maker's processors do and the manuals leave open.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_HOST_MAKER_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_HOST_MAKER_H_

#include <cpuid.h>

namespace hvsdk {

enum class Maker { kIntel, kAmd, kOther };

// Asked once: in a virtual machine each CPUID is an exit.
inline Maker HostMaker() {
  static const Maker maker = [] {
    unsigned eax, ebx = 0, ecx, edx;
    __get_cpuid(0, &eax, &ebx, &ecx, &edx);
    return ebx == signature_INTEL_ebx ? Maker::kIntel : ebx == signature_AMD_ebx ? Maker::kAmd : Maker::kOther;
  }();
  return maker;
}

}  // namespace hvsdk

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_HOST_MAKER_H_
