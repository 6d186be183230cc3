// SPDX-License-Identifier: Apache-2.0
#include "backend_kvm/kvm_registers.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace hvsdk::backend::kvm {
namespace {

using hvdef::RegisterName;
using hvdef::RegisterValue;

// kvm_regs in the order of the instruction encoding.
constexpr __u64 kvm_regs::*kGprs[16] = {&kvm_regs::rax, &kvm_regs::rcx, &kvm_regs::rdx, &kvm_regs::rbx,
                                        &kvm_regs::rsp, &kvm_regs::rbp, &kvm_regs::rsi, &kvm_regs::rdi,
                                        &kvm_regs::r8,  &kvm_regs::r9,  &kvm_regs::r10, &kvm_regs::r11,
                                        &kvm_regs::r12, &kvm_regs::r13, &kvm_regs::r14, &kvm_regs::r15};

constexpr kvm_segment kvm_sregs::*kSegments[8] = {&kvm_sregs::es, &kvm_sregs::cs, &kvm_sregs::ss,  &kvm_sregs::ds,
                                                  &kvm_sregs::fs, &kvm_sregs::gs, &kvm_sregs::ldt, &kvm_sregs::tr};

// The FXSAVE image and the header behind it (Intel SDM volume 1, 10.5.1 and 13.4).
constexpr size_t kFxSt0 = 32;
constexpr size_t kFxXmm0 = 160;
constexpr size_t kXstateBv = 512;
constexpr uint64_t kXstateX87 = 1;
constexpr uint64_t kXstateSse = 2;

// The MSR behind a name, or 0. No register here is MSR 0.
uint32_t MsrOf(RegisterName name) {
  switch (name) {
    case RegisterName::kTsc:
      return 0x10;
    case RegisterName::kKernelGsBase:
      return 0xC0000102;
    case RegisterName::kPat:
      return 0x277;
    case RegisterName::kSysenterCs:
      return 0x174;
    case RegisterName::kSysenterEsp:
      return 0x175;
    case RegisterName::kSysenterEip:
      return 0x176;
    case RegisterName::kStar:
      return 0xC0000081;
    case RegisterName::kLstar:
      return 0xC0000082;
    case RegisterName::kCstar:
      return 0xC0000083;
    case RegisterName::kSfmask:
      return 0xC0000084;
    case RegisterName::kTscAux:
      return 0xC0000103;
    default:
      return 0;
  }
}

constexpr uint32_t Index(RegisterName name, RegisterName first) {
  return static_cast<uint32_t>(name) - static_cast<uint32_t>(first);
}
constexpr bool Between(RegisterName name, RegisterName first, RegisterName last) {
  return name >= first && name <= last;
}

template <typename T>
RegisterValue FromStruct(const T& from) {
  static_assert(sizeof(T) == sizeof(RegisterValue));
  RegisterValue value;
  std::memcpy(&value, &from, sizeof(value));
  return value;
}
template <typename T>
T ToStruct(const RegisterValue& value) {
  static_assert(sizeof(T) == sizeof(RegisterValue));
  T to;
  std::memcpy(&to, &value, sizeof(to));
  return to;
}

RegisterValue FromTable(const kvm_dtable& table) {
  hvdef::TableRegister out{};
  out.limit = table.limit;
  out.base = table.base;
  return FromStruct(out);
}

kvm_dtable ToTable(const RegisterValue& value) {
  const auto in = ToStruct<hvdef::TableRegister>(value);
  kvm_dtable table{};
  table.limit = in.limit;
  table.base = in.base;
  return table;
}

// HV_X64_PENDING_INTERRUPTION_REGISTER.
enum PendingType : uint64_t { kExternalInterrupt = 0, kNmi = 2, kException = 3, kSoftwareInterrupt = 4 };
constexpr uint64_t kEventPending = 1;
constexpr uint64_t kInterruptionErrorCode = 1u << 4;
constexpr uint64_t kExceptionErrorCode = 1u << 8;
constexpr unsigned kVectorShift = 16;
constexpr uint8_t kNmiVector = 2;
// #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP, #VC, #SX (APM volume 2, 8.2).
constexpr uint32_t kVectorsWithErrorCode = 0x60227D00;
constexpr unsigned kErrorCodeShift = 32;

absl::Status BadValue(RegisterName name) {
  return absl::InvalidArgumentError(absl::StrFormat("register %#x: impossible value", static_cast<uint32_t>(name)));
}

}  // namespace

// Memory types 2 and 3 do not exist, nor do those above 7.
bool IsPat(uint64_t value) {
  for (int i = 0; i < 8; ++i, value >>= 8) {
    if ((value & 0xFF) > 7 || (value & 0xFE) == 2) return false;
  }
  return true;
}

kvm_segment& SegmentOf(kvm_sregs& sregs, size_t index) { return sregs.*kSegments[index & 7]; }
const kvm_segment& SegmentOf(const kvm_sregs& sregs, size_t index) { return sregs.*kSegments[index & 7]; }

hvdef::SegmentRegister FromSegment(const kvm_segment& segment) {
  hvdef::SegmentRegister out{};
  out.base = segment.base;
  out.limit = segment.limit;
  out.selector = segment.selector;
  out.attributes =
      static_cast<uint16_t>((segment.type & 15) | (segment.s & 1) << 4 | (segment.dpl & 3) << 5 |
                            ((segment.present && !segment.unusable) ? 1 : 0) << 7 | (segment.avl & 1) << 12 |
                            (segment.l & 1) << 13 | (segment.db & 1) << 14 | (segment.g & 1) << 15);
  return out;
}

kvm_segment ToSegment(const hvdef::SegmentRegister& in) {
  kvm_segment segment{};
  segment.base = in.base;
  segment.limit = in.limit;
  segment.selector = in.selector;
  segment.type = in.attributes & 15;
  segment.s = in.attributes >> 4 & 1;
  segment.dpl = in.attributes >> 5 & 3;
  segment.present = in.attributes >> 7 & 1;
  segment.avl = in.attributes >> 12 & 1;
  segment.l = in.attributes >> 13 & 1;
  segment.db = in.attributes >> 14 & 1;
  segment.g = in.attributes >> 15 & 1;
  segment.unusable = !segment.present;
  return segment;
}

RegisterValue PendingInterruption(const kvm_vcpu_events& events) {
  if (events.exception.injected) {
    return {kEventPending | kException << 1 | (events.exception.has_error_code ? kInterruptionErrorCode : 0) |
                uint64_t{events.exception.nr} << kVectorShift |
                uint64_t{events.exception.error_code} << kErrorCodeShift,
            0};
  }
  if (events.interrupt.injected) {
    const uint64_t type = events.interrupt.soft ? kSoftwareInterrupt : kExternalInterrupt;
    return {kEventPending | type << 1 | uint64_t{events.interrupt.nr} << kVectorShift, 0};
  }
  if (events.nmi.injected) return {kEventPending | kNmi << 1 | uint64_t{2} << kVectorShift, 0};
  return {0, 0};
}

bool SetPendingInterruption(kvm_vcpu_events& events, uint64_t value) {
  events.exception.injected = 0;
  events.interrupt.injected = 0;
  events.nmi.injected = 0;
  if ((value & kEventPending) == 0) return true;
  const uint8_t vector = static_cast<uint8_t>(value >> kVectorShift);
  switch (value >> 1 & 7) {
    case kException:
      // What a processor would not enter the guest with.
      if (vector > 31 || vector == kNmiVector) return false;
      if ((value & kInterruptionErrorCode) != 0 && (kVectorsWithErrorCode >> vector & 1) == 0) return false;
      events.exception.injected = 1;
      events.exception.pending = 0;
      events.exception.nr = vector;
      events.exception.has_error_code = (value & kInterruptionErrorCode) != 0;
      events.exception.error_code = static_cast<uint32_t>(value >> kErrorCodeShift);
      return true;
    case kExternalInterrupt:
    case kSoftwareInterrupt:
      events.interrupt.injected = 1;
      events.interrupt.nr = vector;
      events.interrupt.soft = (value >> 1 & 7) == kSoftwareInterrupt;
      return true;
    case kNmi:
      events.nmi.injected = 1;
      return true;
    default:
      return false;
  }
}

uint64_t ReadGpr(const kvm_regs& regs, Gpr gpr) { return regs.*kGprs[static_cast<uint8_t>(gpr) & 15]; }
void WriteGpr(kvm_regs& regs, Gpr gpr, uint64_t value) { regs.*kGprs[static_cast<uint8_t>(gpr) & 15] = value; }

RegisterGroup GroupOf(RegisterName name) {
  if (IsGpr(name) || name == RegisterName::kRip || name == RegisterName::kRflags) return RegisterGroup::kGeneral;
  if (Between(name, RegisterName::kXmm0, RegisterName::kXmmControlStatus)) return RegisterGroup::kFpu;
  if (Between(name, RegisterName::kCr0, RegisterName::kCr8)) return RegisterGroup::kSpecial;
  if (name == RegisterName::kXfem) return RegisterGroup::kExtendedControl;
  if (Between(name, RegisterName::kDr0, RegisterName::kDr7)) return RegisterGroup::kDebug;
  if (Between(name, RegisterName::kEs, RegisterName::kTr)) return RegisterGroup::kSpecial;
  if (MsrOf(name) != 0) return RegisterGroup::kMsrs;
  switch (name) {
    case RegisterName::kIdtr:
    case RegisterName::kGdtr:
    case RegisterName::kEfer:
    case RegisterName::kApicBase:
      return RegisterGroup::kSpecial;
    case RegisterName::kPendingInterruption:
    case RegisterName::kInterruptState:
    case RegisterName::kPendingEvent0:
      return RegisterGroup::kEvents;
    case RegisterName::kInitialApicId:
      return RegisterGroup::kFixed;
    default:
      return RegisterGroup::kUnknown;
  }
}

void RegisterImage::Provide(const kvm_regs& regs) {
  regs_ = regs;
  loaded_ |= Bit(RegisterGroup::kGeneral);
}
void RegisterImage::Provide(const kvm_sregs& sregs) {
  sregs_ = sregs;
  loaded_ |= Bit(RegisterGroup::kSpecial);
}

absl::Status RegisterImage::Load(RegisterGroup group) {
  if ((loaded_ & Bit(group)) != 0) return absl::OkStatus();
  switch (group) {
    case RegisterGroup::kGeneral:
      RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_GET_REGS, &regs_));
      break;
    case RegisterGroup::kSpecial:
      RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_GET_SREGS, &sregs_));
      break;
    case RegisterGroup::kFpu:
      xsave_.resize(std::max<uint32_t>(xsave_size_, sizeof(kvm_xsave)));
      if (xsave_size_ != 0) {
        RETURN_IF_ERROR(Ioctl(vcpu_, kGetXsave2, "KVM_GET_XSAVE2", xsave_.data()));
      } else {
        RETURN_IF_ERROR(Ioctl(vcpu_, kGetXsave, "KVM_GET_XSAVE", xsave_.data()));
      }
      break;
    case RegisterGroup::kDebug:
      RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_GET_DEBUGREGS, &debug_));
      break;
    case RegisterGroup::kExtendedControl:
      RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_GET_XCRS, &xcrs_));
      break;
    case RegisterGroup::kEvents:
      RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu_, KVM_GET_VCPU_EVENTS, &events_));
      // What other threads may change meanwhile (an NMI, a SIPI) is not given back.
      events_.flags = KVM_VCPUEVENT_VALID_SHADOW | (exception_payload_ ? KVM_VCPUEVENT_VALID_PAYLOAD : 0);
      break;
    default:
      break;  // MSRs are loaded one by one
  }
  loaded_ |= Bit(group);
  return absl::OkStatus();
}

absl::Status RegisterImage::Store(RegisterGroup group) {
  switch (group) {
    case RegisterGroup::kSpecial: {
      // The bitmap of interrupts is for a local APIC in user space.
      std::memset(sregs_.interrupt_bitmap, 0, sizeof(sregs_.interrupt_bitmap));
      return HVSDK_KVM_IOCTL(vcpu_, KVM_SET_SREGS, &sregs_);
    }
    case RegisterGroup::kFpu:
      // A component whose bit is clear is loaded as initial, whatever its bytes say.
      SetFpuField<uint64_t>(kXstateBv, FpuField<uint64_t>(kXstateBv) | kXstateX87 | kXstateSse);
      return Ioctl(vcpu_, kSetXsave, "KVM_SET_XSAVE", xsave_.data());
    case RegisterGroup::kDebug:
      return HVSDK_KVM_IOCTL(vcpu_, KVM_SET_DEBUGREGS, &debug_);
    case RegisterGroup::kExtendedControl:
      return HVSDK_KVM_IOCTL(vcpu_, KVM_SET_XCRS, &xcrs_);
    case RegisterGroup::kEvents:
      return HVSDK_KVM_IOCTL(vcpu_, KVM_SET_VCPU_EVENTS, &events_);
    case RegisterGroup::kMsrs: {
      List<kvm_msr_entry> list{absl::Span<const kvm_msr_entry>(msrs_)};
      const int done = ::ioctl(vcpu_.get(), kSetMsrs, list.get());
      if (done < 0) return KvmError("KVM_SET_MSRS", errno);
      if (static_cast<size_t>(done) < msrs_.size()) {
        return absl::InvalidArgumentError(absl::StrFormat("MSR %#x: impossible value %#x",
                                                          static_cast<uint32_t>(msrs_[done].index),
                                                          static_cast<uint64_t>(msrs_[done].data)));
      }
      return absl::OkStatus();
    }
    default:
      return absl::OkStatus();
  }
}

kvm_msr_entry* RegisterImage::FindMsr(uint32_t index) {
  for (kvm_msr_entry& entry : msrs_) {
    if (entry.index == index) return &entry;
  }
  return nullptr;
}

absl::Status RegisterImage::LoadMsr(uint32_t index) {
  if (FindMsr(index) != nullptr) return absl::OkStatus();
  List<kvm_msr_entry> list(1);
  list.elements()->index = index;
  const int done = ::ioctl(vcpu_.get(), kGetMsrs, list.get());
  if (done < 0) return KvmError("KVM_GET_MSRS", errno);
  if (done == 0) return absl::InvalidArgumentError(absl::StrFormat("MSR %#x: not on this processor", index));
  msrs_.push_back(*list.elements());
  return absl::OkStatus();
}

absl::Status RegisterImage::Get(RegisterName name, RegisterValue& value) {
  const RegisterGroup group = GroupOf(name);
  if (group == RegisterGroup::kUnknown) {
    return absl::InvalidArgumentError(absl::StrFormat("register %#x: unknown", static_cast<uint32_t>(name)));
  }
  if (group == RegisterGroup::kMsrs) {
    RETURN_IF_ERROR(LoadMsr(MsrOf(name)));
    value = {FindMsr(MsrOf(name))->data, 0};
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(Load(group));
  value = Extract(name);
  return absl::OkStatus();
}

absl::Status RegisterImage::Set(RegisterName name, const RegisterValue& value) {
  const RegisterGroup group = GroupOf(name);
  switch (group) {
    case RegisterGroup::kUnknown:
      return absl::InvalidArgumentError(absl::StrFormat("register %#x: unknown", static_cast<uint32_t>(name)));
    case RegisterGroup::kFixed:
      return value.low == apic_id_ ? absl::OkStatus() : BadValue(name);
    case RegisterGroup::kMsrs:
      if (name == RegisterName::kPat && !IsPat(value.low)) return BadValue(name);
      RETURN_IF_ERROR(LoadMsr(MsrOf(name)));
      FindMsr(MsrOf(name))->data = value.low;
      break;
    default:
      RETURN_IF_ERROR(Load(group));
      RETURN_IF_ERROR(Insert(name, value));
  }
  changed_ |= Bit(group);
  return absl::OkStatus();
}

RegisterValue RegisterImage::Extract(RegisterName name) const {
  if (IsGpr(name)) return {regs_.*kGprs[Index(name, RegisterName::kRax)], 0};
  if (Between(name, RegisterName::kXmm0, RegisterName::kXmm15)) {
    return FpuField<RegisterValue>(kFxXmm0 + 16 * Index(name, RegisterName::kXmm0));
  }
  if (Between(name, RegisterName::kFpMmx0, RegisterName::kFpMmx7)) {
    auto value = FpuField<RegisterValue>(kFxSt0 + 16 * Index(name, RegisterName::kFpMmx0));
    value.high &= 0xFFFF;
    return value;
  }
  if (Between(name, RegisterName::kEs, RegisterName::kTr)) {
    return FromStruct(FromSegment(sregs_.*kSegments[Index(name, RegisterName::kEs)]));
  }
  if (Between(name, RegisterName::kDr0, RegisterName(static_cast<uint32_t>(RegisterName::kDr0) + 3))) {
    return {debug_.db[Index(name, RegisterName::kDr0)], 0};
  }
  switch (name) {
    case RegisterName::kRip:
      return {regs_.rip, 0};
    case RegisterName::kRflags:
      return {regs_.rflags, 0};
    case RegisterName::kFpControlStatus:
      // HV_X64_FP_CONTROL_STATUS_REGISTER and its SSE counterpart are the head of the FXSAVE image.
      return FpuField<RegisterValue>(0);
    case RegisterName::kXmmControlStatus:
      return FpuField<RegisterValue>(16);
    case RegisterName::kCr0:
      return {sregs_.cr0, 0};
    case RegisterName::kCr2:
      return {sregs_.cr2, 0};
    case RegisterName::kCr3:
      return {sregs_.cr3, 0};
    case RegisterName::kCr4:
      return {sregs_.cr4, 0};
    case RegisterName::kCr8:
      return {sregs_.cr8, 0};
    case RegisterName::kEfer:
      return {sregs_.efer, 0};
    case RegisterName::kApicBase:
      return {sregs_.apic_base, 0};
    case RegisterName::kIdtr:
      return FromTable(sregs_.idt);
    case RegisterName::kGdtr:
      return FromTable(sregs_.gdt);
    case RegisterName::kDr6:
      return {debug_.dr6, 0};
    case RegisterName::kDr7:
      return {debug_.dr7, 0};
    case RegisterName::kXfem:
      for (uint32_t i = 0; i < xcrs_.nr_xcrs && i < KVM_MAX_XCRS; ++i) {
        if (xcrs_.xcrs[i].xcr == 0) return {xcrs_.xcrs[i].value, 0};
      }
      return {1, 0};  // without XSAVE the x87 state is all there is
    case RegisterName::kPendingInterruption:
      return PendingInterruption(events_);
    case RegisterName::kInterruptState:
      return {(events_.interrupt.shadow ? 1u : 0u) | (events_.nmi.masked ? 2u : 0u), 0};
    case RegisterName::kPendingEvent0: {
      if (!exception_payload_ || !events_.exception.pending) return {0, 0};
      return {kEventPending | (events_.exception.has_error_code ? kExceptionErrorCode : 0) |
                  uint64_t{events_.exception.nr} << kVectorShift |
                  uint64_t{events_.exception.error_code} << kErrorCodeShift,
              events_.exception_payload};
    }
    case RegisterName::kInitialApicId:
      return {apic_id_, 0};
    default:
      return {0, 0};
  }
}

absl::Status RegisterImage::Insert(RegisterName name, const RegisterValue& value) {
  if (IsGpr(name)) {
    regs_.*kGprs[Index(name, RegisterName::kRax)] = value.low;
    return absl::OkStatus();
  }
  if (Between(name, RegisterName::kXmm0, RegisterName::kXmm15)) {
    SetFpuField(kFxXmm0 + 16 * Index(name, RegisterName::kXmm0), value);
    return absl::OkStatus();
  }
  if (Between(name, RegisterName::kFpMmx0, RegisterName::kFpMmx7)) {
    SetFpuField(kFxSt0 + 16 * Index(name, RegisterName::kFpMmx0), RegisterValue{value.low, value.high & 0xFFFF});
    return absl::OkStatus();
  }
  if (Between(name, RegisterName::kEs, RegisterName::kTr)) {
    sregs_.*kSegments[Index(name, RegisterName::kEs)] = ToSegment(ToStruct<hvdef::SegmentRegister>(value));
    return absl::OkStatus();
  }
  if (Between(name, RegisterName::kDr0, RegisterName(static_cast<uint32_t>(RegisterName::kDr0) + 3))) {
    debug_.db[Index(name, RegisterName::kDr0)] = value.low;
    return absl::OkStatus();
  }
  switch (name) {
    case RegisterName::kRip:
      regs_.rip = value.low;
      break;
    case RegisterName::kRflags:
      regs_.rflags = value.low;
      break;
    case RegisterName::kFpControlStatus:
      SetFpuField(0, value);
      break;
    case RegisterName::kXmmControlStatus:
      // Bits without a meaning would fault when the state is loaded.
      if ((static_cast<uint32_t>(value.high) & 0xFFFF0000) != 0) return BadValue(name);
      SetFpuField(16, RegisterValue{value.low, (value.high & 0xFFFFFFFF) | FpuField<uint64_t>(24) >> 32 << 32});
      break;
    case RegisterName::kCr0:
      if (value.low >> 32 != 0) return BadValue(name);
      sregs_.cr0 = value.low;
      break;
    case RegisterName::kCr2:
      sregs_.cr2 = value.low;
      break;
    case RegisterName::kCr3:
      sregs_.cr3 = value.low;
      break;
    case RegisterName::kCr4:
      sregs_.cr4 = value.low;
      break;
    case RegisterName::kCr8:
      if (value.low > 15) return BadValue(name);
      sregs_.cr8 = value.low;
      break;
    case RegisterName::kEfer:
      sregs_.efer = value.low;
      break;
    case RegisterName::kApicBase:
      sregs_.apic_base = value.low;
      break;
    case RegisterName::kIdtr:
      sregs_.idt = ToTable(value);
      break;
    case RegisterName::kGdtr:
      sregs_.gdt = ToTable(value);
      break;
    case RegisterName::kDr6:
      if (value.low >> 32 != 0) return BadValue(name);
      debug_.dr6 = value.low;
      break;
    case RegisterName::kDr7:
      if (value.low >> 32 != 0) return BadValue(name);
      debug_.dr7 = value.low;
      break;
    case RegisterName::kXfem: {
      if ((value.low & 1) == 0) return BadValue(name);
      xcrs_ = {};
      xcrs_.nr_xcrs = 1;
      xcrs_.xcrs[0].value = value.low;
      break;
    }
    case RegisterName::kPendingInterruption:
      if (!SetPendingInterruption(events_, value.low)) return BadValue(name);
      break;
    case RegisterName::kInterruptState:
      events_.interrupt.shadow = (value.low & 1) != 0 ? KVM_X86_SHADOW_INT_STI : 0;
      events_.nmi.masked = (value.low & 2) != 0;
      break;
    case RegisterName::kPendingEvent0: {
      const bool pending = (value.low & kEventPending) != 0;
      const uint8_t vector = static_cast<uint8_t>(value.low >> kVectorShift);
      if (pending && (vector > 31 || vector == 2 || (value.low >> 1 & 7) != 0)) return BadValue(name);
      // Without payloads KVM does not tell a pending exception from one whose delivery had begun.
      events_.exception.pending = pending && exception_payload_;
      events_.exception.injected = pending && !exception_payload_;
      events_.exception.nr = vector;
      events_.exception.has_error_code = (value.low & kExceptionErrorCode) != 0;
      events_.exception.error_code = static_cast<uint32_t>(value.low >> kErrorCodeShift);
      events_.exception_has_payload = 0;
      break;
    }
    default:
      return absl::InternalError("register without a place");
  }
  return absl::OkStatus();
}

}  // namespace hvsdk::backend::kvm
