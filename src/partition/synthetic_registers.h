// SPDX-License-Identifier: Apache-2.0
// Which synthetic MSR a register name stands for (TLFS, data type HV_REGISTER_NAME), and what each MSR's privilege is.

#ifndef HVSDK_SRC_PARTITION_SYNTHETIC_REGISTERS_H_
#define HVSDK_SRC_PARTITION_SYNTHETIC_REGISTERS_H_

#include <cstdint>

#include "absl/types/optional.h"
#include "hvsdk/hvdef/msr.h"
#include "hvsdk/hvdef/privilege.h"
#include "hvsdk/hvdef/register.h"

namespace hvsdk::partition {

// The MSR behind a synthetic register; nothing for a register of the processor's own.
inline absl::optional<uint32_t> MsrOf(hvdef::RegisterName name) {
  namespace msr = hvdef::msr;
  using Name = hvdef::RegisterName;
  const auto in_group = [name](Name first, Name last, uint32_t first_msr) -> absl::optional<uint32_t> {
    if (name < first || name > last) return absl::nullopt;
    return first_msr + static_cast<uint32_t>(name) - static_cast<uint32_t>(first);
  };
  switch (name) {
    case Name::kVpRuntime:
      return msr::kVpRuntime;
    case Name::kHypercall:
      return msr::kHypercall;
    case Name::kGuestOsId:
      return msr::kGuestOsId;
    case Name::kVpIndex:
      return msr::kVpIndex;
    case Name::kTimeRefCount:
      return msr::kTimeRefCount;
    case Name::kVpAssistPage:
      return msr::kVpAssistPage;
    case Name::kReferenceTsc:
      return msr::kReferenceTsc;
    default:
      break;
  }
  if (const auto found = in_group(Name::kSint0, Name::kSint15, msr::kSint0)) return found;
  if (const auto found = in_group(Name::kScontrol, Name::kEom, msr::kScontrol)) return found;
  if (const auto found = in_group(Name::kStimer0Config, Name::kStimer3Count, msr::kStimer0Config)) return found;
  return in_group(Name::kGuestCrashP0, Name::kGuestCrashCtl, msr::kCrashP0);
}

// What a partition must possess for access to an MSR; 0 if nothing.
inline uint64_t PrivilegeOf(uint32_t msr_index) {
  namespace msr = hvdef::msr;
  namespace privilege = hvdef::privilege;
  switch (msr_index) {
    case msr::kGuestOsId:
    case msr::kHypercall:
      return privilege::kAccessHypercallMsrs;
    case msr::kVpIndex:
      return privilege::kAccessVpIndex;
    case msr::kReset:
      return privilege::kAccessResetReg;
    case msr::kVpRuntime:
      return privilege::kAccessVpRuntimeReg;
    case msr::kTimeRefCount:
      return privilege::kAccessPartitionReferenceCounter;
    case msr::kReferenceTsc:
      return privilege::kAccessPartitionReferenceTsc;
    case msr::kTscFrequency:
    case msr::kApicFrequency:
      return privilege::kAccessFrequencyRegs;
    case msr::kTscInvariantControl:
      return privilege::kAccessTscInvariantControls;
    case msr::kEoi:
    case msr::kIcr:
    case msr::kTpr:
      return privilege::kAccessIntrCtrlRegs;
    case msr::kGuestIdle:
      return privilege::kAccessGuestIdleReg;
    default:
      break;
  }
  if (msr_index >= msr::kScontrol && msr_index <= msr::kSint15) return privilege::kAccessSynicRegs;
  if (msr_index >= msr::kStimer0Config && msr_index <= msr::kStimer3Count) return privilege::kAccessSyntheticTimerRegs;
  return 0;
}

}  // namespace hvsdk::partition

#endif  // HVSDK_SRC_PARTITION_SYNTHETIC_REGISTERS_H_
