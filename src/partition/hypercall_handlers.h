// SPDX-License-Identifier: Apache-2.0
// HypercallHandlers: what the specification's hypercalls do. Each function is one call; the table that binds them to
// codes, names and privileges is at the end of the source. Source: TLFS, appendix "Hypercall Reference".

#ifndef HVSDK_SRC_PARTITION_HYPERCALL_HANDLERS_H_
#define HVSDK_SRC_PARTITION_HYPERCALL_HANDLERS_H_

#include <cstdint>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/hvdef/hypercall.h"
#include "hvsdk/hypercall/dispatcher.h"

namespace hvsdk::partition {

class Partition;
class Vp;

class HypercallHandlers {
 public:
  explicit HypercallHandlers(Partition& partition) : partition_(partition) {}

  absl::Status AddTo(hypercall::Dispatcher& dispatcher);

 private:
  using Caller = hypercall::Caller;
  using HvStatus = hvdef::HvStatus;
  using Variable = absl::Span<const uint64_t>;
  template <typename In, typename Out = hypercall::Nothing>
  using Reps = hypercall::Reps<In, Out>;
  using RepResult = hypercall::RepResult;
  // Does not allocate up to 64 VPs.
  using VpList = absl::InlinedVector<VpIndex, 64>;

  HvStatus FlushVirtualAddressSpace(Caller& caller, const hvdef::FlushVirtualAddressInput& in);
  RepResult FlushVirtualAddressList(Caller& caller, const hvdef::FlushVirtualAddressInput& in, Reps<uint64_t> ranges);
  HvStatus FlushVirtualAddressSpaceEx(Caller& caller, const hvdef::FlushVirtualAddressExInput& in, Variable banks);
  RepResult FlushVirtualAddressListEx(Caller& caller, const hvdef::FlushVirtualAddressExInput& in, Variable banks,
                                      Reps<uint64_t> ranges);
  HvStatus NotifyLongSpinWait(Caller& caller, const hvdef::NotifyLongSpinWaitInput& in);
  HvStatus SendSyntheticClusterIpi(Caller& caller, const hvdef::SendSyntheticClusterIpiInput& in);
  HvStatus SendSyntheticClusterIpiEx(Caller& caller, const hvdef::SendSyntheticClusterIpiExInput& in, Variable banks);
  RepResult GetVpRegisters(Caller& caller, const hvdef::VpRegistersInput& in,
                           Reps<hvdef::RegisterName, hvdef::RegisterValue> registers);
  RepResult SetVpRegisters(Caller& caller, const hvdef::VpRegistersInput& in,
                           Reps<hvdef::RegisterAssociation> registers);
  HvStatus TranslateVirtualAddress(Caller& caller, const hvdef::TranslateVirtualAddressInput& in,
                                   hvdef::TranslateVirtualAddressOutput& out);
  HvStatus PostMessage(Caller& caller, const hvdef::PostMessageInput& in);
  HvStatus SignalEvent(Caller& caller, const hvdef::SignalEventInput& in);
  HvStatus RetargetDeviceInterrupt(Caller& caller, const hvdef::RetargetDeviceInterruptInput& in, Variable set);
  HvStatus AssertVirtualInterrupt(Caller& caller, const hvdef::AssertVirtualInterruptInput& in);
  HvStatus StartVirtualProcessor(Caller& caller, const hvdef::StartVirtualProcessorInput& in);
  RepResult GetVpIndexFromApicId(Caller& caller, const hvdef::GetVpIndexFromApicIdInput& in,
                                 Reps<uint32_t, uint32_t> ids);
  HvStatus QueryCapabilities(Caller& caller, const hypercall::Nothing& in, uint64_t& out);
  RepResult MemoryHeatHint(Caller& caller, const hvdef::MemoryHeatHintInput& in, Reps<hvdef::GpaPageRange> ranges);

  VpList FromMask(uint64_t mask) const;
  HvStatus FromSet(const hvdef::VpSetHeader& header, Variable banks, VpList& vps) const;
  HvStatus Flush(uint64_t flags, uint64_t allowed, const VpList& vps);
  HvStatus SendIpi(uint32_t vector, uint8_t target_vtl, const VpList& vps);
  // The VP that (partition id, index) means to `caller`; kSuccess and `vp` are set together.
  HvStatus FindVp(const Caller& caller, uint64_t partition_id, uint32_t index, Vp*& vp) const;
  Vp& CallingVp(const Caller& caller) const;

  Partition& partition_;
};

}  // namespace hvsdk::partition

#endif  // HVSDK_SRC_PARTITION_HYPERCALL_HANDLERS_H_
