// SPDX-License-Identifier: Apache-2.0
// A walk of the guest's page tables by software (Intel SDM volume 3, chapter 4), for what KVM_TRANSLATE does not say:
// permissions. Sets no accessed or dirty bits. Thread-compatible.

#ifndef HVSDK_SRC_BACKEND_KVM_PAGE_WALK_H_
#define HVSDK_SRC_BACKEND_KVM_PAGE_WALK_H_

#include <cstdint>

#include "hvsdk/backend/backend.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk::backend::kvm {

struct PagingState {
  uint64_t cr0, cr3, cr4, efer;
  uint64_t rflags;        // AC lifts SMAP
  uint8_t physical_bits;  // of an address; above them entries have reserved bits
};

Translation WalkPageTables(const GuestMemory& memory, const PagingState& state, uint64_t gva, TranslateAccess access,
                           bool user);

}  // namespace hvsdk::backend::kvm

#endif  // HVSDK_SRC_BACKEND_KVM_PAGE_WALK_H_
