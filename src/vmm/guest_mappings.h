// SPDX-License-Identifier: Apache-2.0
// What a guest's page tables map: long mode's, of four or five levels (Intel SDM volume 3, 4.5).

#ifndef HVSDK_SRC_VMM_GUEST_MAPPINGS_H_
#define HVSDK_SRC_VMM_GUEST_MAPPINGS_H_

#include <cstdint>
#include <vector>

#include "hvsdk/memory/guest_memory.h"

namespace hvsdk::vmm {

struct GuestMapping {
  uint64_t gva, gpa, size_bytes;

  friend bool operator==(const GuestMapping&, const GuestMapping&) = default;
};

// In the order of addresses, neighbours that are neighbours in memory, too, as one; what is no memory is left out, and what lies beyond
// `most` of them or beyond 65536 tables, which a guest may have made of one table that names itself. While nobody runs.
std::vector<GuestMapping> ReadGuestMappings(GuestMemory& memory, uint64_t root_gpa, int levels, size_t most);

}  // namespace hvsdk::vmm

#endif  // HVSDK_SRC_VMM_GUEST_MAPPINGS_H_
