// SPDX-License-Identifier: Apache-2.0
// Whether the host can run 32-bit code: a hypervisor or a kernel may leave its segments out.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_HOST_SEGMENT_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_HOST_SEGMENT_H_

#include <cstdint>

namespace hvsdk {

// There is a code segment by this selector that this program may go to (Intel SDM volume 2, LAR).
inline bool HostHasCodeSegment(uint32_t selector) {
  uint32_t rights = 0;
  bool valid;
  asm("lar %2, %0" : "+r"(rights), "=@ccz"(valid) : "r"(selector));
  return valid && (rights & 0x9800) == 0x9800;  // present, code
}

}  // namespace hvsdk

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_HOST_SEGMENT_H_
