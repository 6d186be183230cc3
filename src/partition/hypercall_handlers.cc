// SPDX-License-Identifier: Apache-2.0
#include "partition/hypercall_handlers.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <thread>
#include <vector>

#include "hvsdk/hvdef/message.h"
#include "hvsdk/hvdef/msr.h"
#include "hvsdk/hvdef/privilege.h"
#include "hvsdk/partition/partition.h"
#include "hvsdk/partition/vp.h"
#include "partition/device_interrupts.h"
#include "partition/overlay_pages.h"
#include "partition/port_table.h"
#include "partition/synthetic_registers.h"

namespace hvsdk::partition {

namespace privilege = hvdef::privilege;
using hvdef::RegisterName;
using hvdef::RegisterValue;

namespace {

using hvdef::HvStatus;

// HV_INPUT_VTL: the only VTL there is, or none named.
bool IsVtl0(uint8_t input_vtl) { return (input_vtl & ~hvdef::kInputVtlUse) == 0; }

bool IsInterruptVector(uint32_t vector) { return vector >= hvdef::msr::kFirstValidVector && vector <= 0xFF; }

constexpr bool IsZero(const uint8_t (&bytes)[3]) { return (bytes[0] | bytes[1] | bytes[2]) == 0; }
constexpr bool IsZero(const uint8_t (&bytes)[7]) {
  return (bytes[0] | bytes[1] | bytes[2] | bytes[3] | bytes[4] | bytes[5] | bytes[6]) == 0;
}

template <typename Register>
RegisterValue ToValue(const Register& reg) {
  static_assert(sizeof(Register) == sizeof(RegisterValue));
  RegisterValue value;
  std::memcpy(&value, &reg, sizeof(value));
  return value;
}

}  // namespace

Vp& HypercallHandlers::CallingVp(const Caller& caller) const { return *partition_.vp(caller.vp.index()); }

HvStatus HypercallHandlers::FindVp(const Caller& caller, uint64_t partition_id, uint32_t index, Vp*& vp) const {
  if (partition_id != hvdef::kPartitionIdSelf) return HvStatus::kInvalidPartitionId;
  vp = index == hvdef::kVpIndexSelf ? &CallingVp(caller) : partition_.vp(VpIndex{index});
  return vp == nullptr ? HvStatus::kInvalidVpIndex : HvStatus::kSuccess;
}

// VPs that do not exist are left out.
HypercallHandlers::VpList HypercallHandlers::FromMask(uint64_t mask) const {
  VpList vps;
  for (; mask != 0; mask &= mask - 1) {
    const uint32_t index = std::countr_zero(mask);
    if (index < partition_.vp_count()) vps.push_back(VpIndex{index});
  }
  return vps;
}

HvStatus HypercallHandlers::FromSet(const hvdef::VpSetHeader& header, Variable banks, VpList& vps) const {
  if (header.format == static_cast<uint64_t>(hvdef::VpSetFormat::kAll)) {
    for (uint32_t index = 0; index < partition_.vp_count(); ++index) vps.push_back(VpIndex{index});
    return HvStatus::kSuccess;
  }
  if (header.format != static_cast<uint64_t>(hvdef::VpSetFormat::kSparse4K)) return HvStatus::kInvalidParameter;
  if (banks.size() != static_cast<size_t>(std::popcount(header.valid_banks))) return HvStatus::kInvalidHypercallInput;
  size_t next = 0;
  for (uint64_t valid = header.valid_banks; valid != 0; valid &= valid - 1) {
    const uint32_t first = std::countr_zero(valid) * 64u;
    for (uint64_t bank = banks[next++]; bank != 0; bank &= bank - 1) {
      const uint32_t index = first + std::countr_zero(bank);
      if (index < partition_.vp_count()) vps.push_back(VpIndex{index});
    }
  }
  return HvStatus::kSuccess;
}

// An engine flushes whole VPs, which is more than any of these calls asks for, and never wrong.
HvStatus HypercallHandlers::Flush(uint64_t flags, uint64_t allowed, const VpList& vps) {
  if ((flags & ~allowed) != 0) return HvStatus::kInvalidParameter;
  if ((flags & hvdef::kFlushAllProcessors) != 0) {
    VpList every(partition_.vp_count(), VpIndex{});
    for (uint32_t index = 0; index < every.size(); ++index) every[index] = VpIndex{index};
    partition_.environment_.backend.FlushTlb(every);
  } else if (!vps.empty()) {
    partition_.environment_.backend.FlushTlb(vps);
  }
  return HvStatus::kSuccess;
}

constexpr uint64_t kListFlags = hvdef::kFlushAllProcessors | hvdef::kFlushAllVirtualAddressSpaces;
constexpr uint64_t kSpaceFlags = kListFlags | hvdef::kFlushNonGlobalMappingsOnly;

HvStatus HypercallHandlers::FlushVirtualAddressSpace(Caller&, const hvdef::FlushVirtualAddressInput& in) {
  return Flush(in.flags, kSpaceFlags, FromMask(in.processor_mask));
}

hypercall::RepResult HypercallHandlers::FlushVirtualAddressList(Caller&, const hvdef::FlushVirtualAddressInput& in,
                                                                Reps<uint64_t> ranges) {
  const HvStatus status = Flush(in.flags, kListFlags, FromMask(in.processor_mask));
  return {status, status == HvStatus::kSuccess ? ranges.size() : uint16_t{0}};
}

HvStatus HypercallHandlers::FlushVirtualAddressSpaceEx(Caller&, const hvdef::FlushVirtualAddressExInput& in,
                                                       Variable banks) {
  VpList vps;
  const HvStatus status = FromSet(in.processor_set, banks, vps);
  return status == HvStatus::kSuccess ? Flush(in.flags, kSpaceFlags, vps) : status;
}

hypercall::RepResult HypercallHandlers::FlushVirtualAddressListEx(Caller&, const hvdef::FlushVirtualAddressExInput& in,
                                                                  Variable banks, Reps<uint64_t> ranges) {
  VpList vps;
  HvStatus status = FromSet(in.processor_set, banks, vps);
  if (status == HvStatus::kSuccess) status = Flush(in.flags, kListFlags, vps);
  return {status, status == HvStatus::kSuccess ? ranges.size() : uint16_t{0}};
}

HvStatus HypercallHandlers::NotifyLongSpinWait(Caller&, const hvdef::NotifyLongSpinWaitInput&) {
  std::this_thread::yield();  // to the thread, perhaps, whose VP holds the lock
  return HvStatus::kSuccess;
}

HvStatus HypercallHandlers::SendIpi(uint32_t vector, uint8_t target_vtl, const VpList& vps) {
  if (!IsInterruptVector(vector) || !IsVtl0(target_vtl)) return HvStatus::kInvalidParameter;
  for (VpIndex vp : vps) {
    partition_.environment_.backend.RequestInterrupt(vp, static_cast<uint8_t>(vector),
                                                     /*auto_eoi=*/false);
  }
  return HvStatus::kSuccess;
}

HvStatus HypercallHandlers::SendSyntheticClusterIpi(Caller&, const hvdef::SendSyntheticClusterIpiInput& in) {
  if (!IsZero(in.reserved)) return HvStatus::kInvalidParameter;
  return SendIpi(in.vector, in.target_vtl, FromMask(in.processor_mask));
}

HvStatus HypercallHandlers::SendSyntheticClusterIpiEx(Caller&, const hvdef::SendSyntheticClusterIpiExInput& in,
                                                      Variable banks) {
  if (!IsZero(in.reserved)) return HvStatus::kInvalidParameter;
  VpList vps;
  const HvStatus status = FromSet(in.processor_set, banks, vps);
  return status == HvStatus::kSuccess ? SendIpi(in.vector, in.target_vtl, vps) : status;
}

hypercall::RepResult HypercallHandlers::GetVpRegisters(Caller& caller, const hvdef::VpRegistersInput& in,
                                                       Reps<RegisterName, RegisterValue> registers) {
  Vp* vp;
  if (const HvStatus status = FindVp(caller, in.partition_id, in.vp_index, vp); status != HvStatus::kSuccess) {
    return {status, 0};
  }
  if (!IsVtl0(in.target_vtl) || !IsZero(in.reserved)) return {HvStatus::kInvalidParameter, 0};
  uint16_t done = 0;
  vp->RunOn(&CallingVp(caller), [&] {
    for (; done < registers.size(); ++done) {
      const RegisterName name = registers.input(done);
      RegisterValue value{};
      if (const auto msr = MsrOf(name); msr.has_value()) {
        if (vp->ReadMsr(*msr, value.low) != backend::MsrOutcome::kDone) return;
      } else if (!vp->backend_.GetRegisters(absl::MakeConstSpan(&name, 1), absl::MakeSpan(&value, 1)).ok()) {
        return;
      }
      registers.output(done) = value;
    }
  });
  return {done == registers.size() ? HvStatus::kSuccess : HvStatus::kInvalidParameter, done};
}

hypercall::RepResult HypercallHandlers::SetVpRegisters(Caller& caller, const hvdef::VpRegistersInput& in,
                                                       Reps<hvdef::RegisterAssociation> registers) {
  Vp* vp;
  if (const HvStatus status = FindVp(caller, in.partition_id, in.vp_index, vp); status != HvStatus::kSuccess) {
    return {status, 0};
  }
  if (!IsVtl0(in.target_vtl) || !IsZero(in.reserved)) return {HvStatus::kInvalidParameter, 0};
  uint16_t done = 0;
  vp->RunOn(&CallingVp(caller), [&] {
    for (; done < registers.size(); ++done) {
      const hvdef::RegisterAssociation& element = registers.input(done);
      if (element.reserved1 != 0 || element.reserved2 != 0) return;
      const auto name = static_cast<RegisterName>(element.name);
      if (const auto msr = MsrOf(name); msr.has_value()) {
        if (element.value.high != 0 || vp->WriteMsr(*msr, element.value.low) != backend::MsrOutcome::kDone) return;
      } else if (!vp->backend_.SetRegisters(absl::MakeConstSpan(&name, 1), absl::MakeConstSpan(&element.value, 1))
                      .ok()) {
        return;
      }
    }
  });
  return {done == registers.size() ? HvStatus::kSuccess : HvStatus::kInvalidParameter, done};
}

HvStatus HypercallHandlers::TranslateVirtualAddress(Caller& caller, const hvdef::TranslateVirtualAddressInput& in,
                                                    hvdef::TranslateVirtualAddressOutput& out) {
  constexpr uint64_t kValidate =
      hvdef::kTranslateValidateRead | hvdef::kTranslateValidateWrite | hvdef::kTranslateValidateExecute;
  constexpr uint64_t kSupported =
      kValidate | hvdef::kTranslatePrivilegeExempt | hvdef::kTranslateSupervisorAccess | hvdef::kTranslateUserAccess;
  constexpr uint32_t kInputVtlShift = 56;
  Vp* vp;
  if (const HvStatus status = FindVp(caller, in.partition_id, in.vp_index, vp); status != HvStatus::kSuccess) {
    return status;
  }
  const uint64_t flags = in.control_flags & ~(uint64_t{0xFF} << kInputVtlShift);
  const bool supervisor = (flags & hvdef::kTranslateSupervisorAccess) != 0;
  bool user = (flags & hvdef::kTranslateUserAccess) != 0;
  if (!IsVtl0(in.control_flags >> kInputVtlShift) || (flags & ~kSupported) != 0 || in.reserved != 0 ||
      in.gva_page >> 52 != 0 || (supervisor && user)) {
    return HvStatus::kInvalidParameter;
  }
  const bool check = (flags & kValidate) != 0 && (flags & hvdef::kTranslatePrivilegeExempt) == 0;
  backend::Translation found;
  bool violation = false;
  vp->RunOn(&CallingVp(caller), [&] {
    if (!supervisor && !user) {
      hvdef::RegisterValue value;
      hvdef::SegmentRegister ss{};
      const RegisterName name = RegisterName::kSs;
      if (vp->backend_.GetRegisters(absl::MakeConstSpan(&name, 1), absl::MakeSpan(&value, 1)).ok()) {
        std::memcpy(&ss, &value, sizeof(ss));
      }
      constexpr uint16_t kDplShift = 5;
      user = (ss.attributes >> kDplShift & 3) == 3;
    }
    using backend::TranslateAccess;
    found = vp->backend_.TranslateGva(in.gva_page << kPageShift, TranslateAccess::kRead, user);
    if (!check || !found.present) return;
    const std::array wanted{std::pair(hvdef::kTranslateValidateRead, TranslateAccess::kRead),
                            std::pair(hvdef::kTranslateValidateWrite, TranslateAccess::kWrite),
                            std::pair(hvdef::kTranslateValidateExecute, TranslateAccess::kExecute)};
    for (const auto& [flag, access] : wanted) {
      if ((flags & flag) == 0) continue;
      violation |= vp->backend_.TranslateGva(in.gva_page << kPageShift, access, user).privilege_violation;
    }
  });
  const auto result = [&] {
    if (found.reserved_bits) return hvdef::TranslateResult::kInvalidPageTableFlags;
    if (!found.present) return hvdef::TranslateResult::kPageNotPresent;
    if (violation) return hvdef::TranslateResult::kPrivilegeViolation;
    if (partition_.environment_.memory.Pointer(found.gpa, 1) == nullptr) return hvdef::TranslateResult::kGpaUnmapped;
    return hvdef::TranslateResult::kSuccess;
  }();
  out.result_code = static_cast<uint32_t>(result);
  if (result == hvdef::TranslateResult::kSuccess) {
    out.cache_type = hvdef::kCacheTypeWriteBack;
    out.overlay_page = partition_.overlays_->Covers(found.gpa);
    out.gpa_page = found.gpa >> kPageShift;
  }
  return HvStatus::kSuccess;
}

HvStatus HypercallHandlers::PostMessage(Caller&, const hvdef::PostMessageInput& in) {
  if (in.reserved != 0 || in.message_type == 0 || (in.message_type & hvdef::kHypervisorMessageBit) != 0 ||
      in.payload_size > sizeof(in.payload)) {
    return HvStatus::kInvalidParameter;
  }
  return partition_.ports_->Use(ConnectionId{in.connection_id}, [&](PortHandler& handler) {
    return handler.OnMessage(in.message_type, absl::MakeConstSpan(in.payload, in.payload_size));
  });
}

HvStatus HypercallHandlers::SignalEvent(Caller&, const hvdef::SignalEventInput& in) {
  if (in.reserved != 0) return HvStatus::kInvalidParameter;
  return partition_.SignalPort(ConnectionId{in.connection_id}, in.flag_number);
}

HvStatus HypercallHandlers::RetargetDeviceInterrupt(Caller&, const hvdef::RetargetDeviceInterruptInput& in,
                                                    Variable set) {
  constexpr uint32_t kFlags = hvdef::kInterruptTargetMulticast | hvdef::kInterruptTargetProcessorSet;
  if (in.partition_id != hvdef::kPartitionIdSelf) return HvStatus::kInvalidPartitionId;
  if (in.entry.source != hvdef::kInterruptSourceMsi || in.entry.reserved != 0 || in.reserved != 0 ||
      (in.flags & ~kFlags) != 0 || !IsInterruptVector(in.vector)) {
    return HvStatus::kInvalidParameter;
  }
  VpList vps;
  if ((in.flags & hvdef::kInterruptTargetProcessorSet) == 0) {
    if (!set.empty()) return HvStatus::kInvalidHypercallInput;
    vps = FromMask(in.mask_or_format);
  } else {
    if (set.empty()) return HvStatus::kInvalidHypercallInput;
    const HvStatus status = FromSet({.format = in.mask_or_format, .valid_banks = set[0]}, set.subspan(1), vps);
    if (status != HvStatus::kSuccess) return status;
  }
  return partition_.devices_->Retarget(in.device_id, in.entry.msi_address, in.entry.msi_data,
                                       static_cast<uint8_t>(in.vector),
                                       (in.flags & hvdef::kInterruptTargetMulticast) != 0, {vps.begin(), vps.end()});
}

// The destination and the delivery mode go out as the message that says the same on the bus (Intel SDM volume 3,
// "Message Signalled Interrupts"). INIT, SIPI and the rest have no message of their own; a guest has its APIC for them.
HvStatus HypercallHandlers::AssertVirtualInterrupt(Caller&, const hvdef::AssertVirtualInterruptInput& in) {
  constexpr uint32_t kFlags = hvdef::kInterruptLevelTriggered | hvdef::kInterruptLogicalDestination;
  constexpr uint64_t kMsiBase = 0xFEE00000, kMsiLogical = 1 << 2;
  constexpr uint32_t kMsiDestinationShift = 12, kMsiModeShift = 8, kMsiAssertLevel = 3 << 14;
  if (in.partition_id != hvdef::kPartitionIdSelf) return HvStatus::kInvalidPartitionId;
  const auto type = static_cast<hvdef::InterruptType>(in.interrupt_type);
  const bool fixed = type == hvdef::InterruptType::kFixed || type == hvdef::InterruptType::kLowestPriority;
  if (!fixed && type != hvdef::InterruptType::kNmi) return HvStatus::kInvalidParameter;
  if (fixed ? !IsInterruptVector(in.vector) : in.vector > 0xFF) return HvStatus::kInvalidParameter;
  if ((in.interrupt_flags & ~kFlags) != 0 || !IsVtl0(in.target_vtl) || in.reserved0 != 0 || in.reserved1 != 0) {
    return HvStatus::kInvalidParameter;
  }
  const bool logical = (in.interrupt_flags & hvdef::kInterruptLogicalDestination) != 0;
  if (in.destination > 0xFF) return HvStatus::kInvalidParameter;
  uint32_t data = in.vector | in.interrupt_type << kMsiModeShift;
  if ((in.interrupt_flags & hvdef::kInterruptLevelTriggered) != 0) data |= kMsiAssertLevel;
  partition_.environment_.backend.SignalMsi(
      kMsiBase | in.destination << kMsiDestinationShift | (logical ? kMsiLogical : 0), data);
  return HvStatus::kSuccess;
}

HvStatus HypercallHandlers::StartVirtualProcessor(Caller& caller, const hvdef::StartVirtualProcessorInput& in) {
  Vp* vp;
  if (const HvStatus status = FindVp(caller, in.partition_id, in.vp_index, vp); status != HvStatus::kSuccess) {
    return status;
  }
  if (!IsZero(in.reserved)) return HvStatus::kInvalidParameter;
  if (in.target_vtl != 0) return HvStatus::kInvalidVtlState;
  const hvdef::InitialVpContext& context = in.context;
  using Name = RegisterName;
  static constexpr std::array kNames{Name::kRip,  Name::kRsp,  Name::kRflags, Name::kCs,  Name::kDs,   Name::kEs,
                                     Name::kFs,   Name::kGs,   Name::kSs,     Name::kTr,  Name::kLdtr, Name::kIdtr,
                                     Name::kGdtr, Name::kEfer, Name::kCr0,    Name::kCr3, Name::kCr4,  Name::kPat};
  const std::array<RegisterValue, kNames.size()> values{RegisterValue{context.rip, 0},
                                                        {context.rsp, 0},
                                                        {context.rflags, 0},
                                                        ToValue(context.cs),
                                                        ToValue(context.ds),
                                                        ToValue(context.es),
                                                        ToValue(context.fs),
                                                        ToValue(context.gs),
                                                        ToValue(context.ss),
                                                        ToValue(context.tr),
                                                        ToValue(context.ldtr),
                                                        ToValue(context.idtr),
                                                        ToValue(context.gdtr),
                                                        {context.efer, 0},
                                                        {context.cr0, 0},
                                                        {context.cr3, 0},
                                                        {context.cr4, 0},
                                                        {context.pat, 0}};
  HvStatus status = HvStatus::kSuccess;
  vp->RunOn(&CallingVp(caller), [&] {
    const absl::StatusOr<backend::Activity> activity = vp->backend_.GetActivity();
    if (!activity.ok() || *activity != backend::Activity::kWaitForSipi) {
      status = HvStatus::kInvalidVpState;
    } else if (!vp->backend_.SetRegisters(kNames, values).ok()) {
      status = HvStatus::kInvalidRegisterValue;
    } else if (!vp->backend_.SetActivity(backend::Activity::kRunning).ok()) {
      status = HvStatus::kInvalidVpState;
    }
  });
  return status;
}

hypercall::RepResult HypercallHandlers::GetVpIndexFromApicId(Caller&, const hvdef::GetVpIndexFromApicIdInput& in,
                                                             Reps<uint32_t, uint32_t> ids) {
  if (in.partition_id != hvdef::kPartitionIdSelf) return {HvStatus::kInvalidPartitionId, 0};
  if (in.target_vtl != 0 || !IsZero(in.reserved)) return {HvStatus::kInvalidParameter, 0};
  for (uint16_t i = 0; i < ids.size(); ++i) {
    const auto vp = std::find_if(partition_.vps_.begin(), partition_.vps_.end(),
                                 [&](const auto& each) { return each->backend_.apic_id() == ids.input(i); });
    if (vp == partition_.vps_.end()) return {HvStatus::kInvalidParameter, i};
    ids.output(i) = ToInt((*vp)->index());
  }
  return {HvStatus::kSuccess, ids.size()};
}

HvStatus HypercallHandlers::QueryCapabilities(Caller&, const hypercall::Nothing&, uint64_t& out) {
  out = partition_.environment_.memory.can_discard() ? hvdef::kCapabilityColdDiscardHint : 0;
  return HvStatus::kSuccess;
}

// At once, and not later by somebody else: when this returns, the guest may use the pages again. What of them is no memory, or is in use
// here, was but a hint.
hypercall::RepResult HypercallHandlers::MemoryHeatHint(Caller&, const hvdef::MemoryHeatHintInput& in,
                                                       Reps<hvdef::GpaPageRange> ranges) {
  GuestMemory& memory = partition_.environment_.memory;
  if (in.type != hvdef::kHeatHintColdDiscard || !memory.can_discard()) return {HvStatus::kInvalidParameter, 0};
  std::vector<GuestMemory::PageRange> unused;
  for (const hvdef::GpaPageRange& range : ranges.inputs()) unused.push_back({range.first(), range.count()});
  memory.Discard(unused);
  return {HvStatus::kSuccess, ranges.size()};
}

absl::Status HypercallHandlers::AddTo(hypercall::Dispatcher& dispatcher) {
  using H = HypercallHandlers;
  using hvdef::CallCode;
  using hypercall::Describe;
  // A register may cost a system call; as many as stay within the 50 microseconds that a call may take.
  constexpr uint16_t kMaxRegisters = 32;
  constexpr uint16_t kMaxApicIds = 64;
  // Each may be of many GiB.
  constexpr uint16_t kMaxHints = 4;
  static constexpr std::array kCalls{
      Describe<&H::FlushVirtualAddressSpace>(CallCode::kFlushVirtualAddressSpace, "HvCallFlushVirtualAddressSpace"),
      Describe<&H::FlushVirtualAddressList>(CallCode::kFlushVirtualAddressList, "HvCallFlushVirtualAddressList"),
      Describe<&H::FlushVirtualAddressSpaceEx>(CallCode::kFlushVirtualAddressSpaceEx,
                                               "HvCallFlushVirtualAddressSpaceEx"),
      Describe<&H::FlushVirtualAddressListEx>(CallCode::kFlushVirtualAddressListEx, "HvCallFlushVirtualAddressListEx"),
      Describe<&H::NotifyLongSpinWait>(CallCode::kNotifyLongSpinWait, "HvCallNotifyLongSpinWait"),
      Describe<&H::SendSyntheticClusterIpi>(CallCode::kSendSyntheticClusterIpi, "HvCallSendSyntheticClusterIpi"),
      Describe<&H::SendSyntheticClusterIpiEx>(CallCode::kSendSyntheticClusterIpiEx, "HvCallSendSyntheticClusterIpiEx"),
      Describe<&H::GetVpRegisters>(CallCode::kGetVpRegisters, "HvCallGetVpRegisters", privilege::kAccessVpRegisters,
                                   kMaxRegisters),
      Describe<&H::SetVpRegisters>(CallCode::kSetVpRegisters, "HvCallSetVpRegisters", privilege::kAccessVpRegisters,
                                   kMaxRegisters),
      Describe<&H::TranslateVirtualAddress>(CallCode::kTranslateVirtualAddress, "HvCallTranslateVirtualAddress",
                                            privilege::kAccessVpRegisters),
      Describe<&H::PostMessage>(CallCode::kPostMessage, "HvCallPostMessage", privilege::kPostMessages),
      Describe<&H::SignalEvent>(CallCode::kSignalEvent, "HvCallSignalEvent", privilege::kSignalEvents),
      Describe<&H::RetargetDeviceInterrupt>(CallCode::kRetargetDeviceInterrupt, "HvCallRetargetDeviceInterrupt"),
      Describe<&H::AssertVirtualInterrupt>(CallCode::kAssertVirtualInterrupt, "HvCallAssertVirtualInterrupt"),
      Describe<&H::StartVirtualProcessor>(CallCode::kStartVirtualProcessor, "HvCallStartVirtualProcessor",
                                          privilege::kStartVirtualProcessor),
      Describe<&H::GetVpIndexFromApicId>(CallCode::kGetVpIndexFromApicId, "HvCallGetVpIndexFromApicId",
                                         privilege::kStartVirtualProcessor, kMaxApicIds),
      Describe<&H::QueryCapabilities>(CallCode::kQueryCapabilities, "HvExtCallQueryCapabilities",
                                      privilege::kEnableExtendedHypercalls),
      Describe<&H::MemoryHeatHint>(CallCode::kMemoryHeatHint, "HvExtCallMemoryHeatHint",
                                   privilege::kEnableExtendedHypercalls, kMaxHints),
  };
  return dispatcher.Add<HypercallHandlers>(kCalls, *this);
}

}  // namespace hvsdk::partition
