// SPDX-License-Identifier: Apache-2.0
// Registers by HV_REGISTER_NAME (TLFS, data type HV_REGISTER_NAME).
#include <cstring>

#include "absl/strings/str_format.h"
#include "backend_software/software_vp.h"
#include "backend_software/vector/fpu.h"

namespace hvsdk::software {
namespace {

using hvdef::RegisterName;
using hvdef::RegisterValue;

uint32_t N(RegisterName name) { return static_cast<uint32_t>(name); }
// The index of `name` in the row that begins at `first`, or -1.
int In(RegisterName name, RegisterName first, int count) {
  const uint32_t at = N(name) - N(first);
  return at < static_cast<uint32_t>(count) ? static_cast<int>(at) : -1;
}

template <typename T>
RegisterValue ToValue(const T& from) {
  static_assert(sizeof(T) == sizeof(RegisterValue));
  RegisterValue value;
  std::memcpy(&value, &from, sizeof(value));
  return value;
}
template <typename T>
T FromValue(const RegisterValue& value) {
  T to;
  static_assert(sizeof(T) == sizeof(RegisterValue));
  std::memcpy(&to, &value, sizeof(to));
  return to;
}

uint64_t* PlainRegister(Cpu& c, RegisterName name) {
  switch (name) {
    case RegisterName::kCr2:
      return &c.cr2;
    case RegisterName::kDr0:
      return &c.dr[0];
    case RegisterName::kDr1:
      return &c.dr[1];
    case RegisterName::kDr2:
      return &c.dr[2];
    case RegisterName::kDr3:
      return &c.dr[3];
    case RegisterName::kDr6:
      return &c.dr6;
    case RegisterName::kDr7:
      return &c.dr7;
    case RegisterName::kXfem:
      return &c.xcr0;
    case RegisterName::kKernelGsBase:
      return &c.kernel_gs_base;
    case RegisterName::kPat:
      return &c.pat;
    case RegisterName::kSysenterCs:
      return &c.sysenter_cs;
    case RegisterName::kSysenterEip:
      return &c.sysenter_eip;
    case RegisterName::kSysenterEsp:
      return &c.sysenter_esp;
    case RegisterName::kStar:
      return &c.star;
    case RegisterName::kLstar:
      return &c.lstar;
    case RegisterName::kCstar:
      return &c.cstar;
    case RegisterName::kSfmask:
      return &c.sfmask;
    case RegisterName::kTscAux:
      return &c.tsc_aux;
    case RegisterName::kCr3:
      return &c.cr3;
    default:
      return nullptr;
  }
}

bool Get(Cpu& c, RegisterName name, RegisterValue& value) {
  value = {};
  if (const int i = In(name, RegisterName::kRax, 16); i >= 0) {
    value.low = c.r[i];
  } else if (const int x = In(name, RegisterName::kXmm0, 16); x >= 0) {
    std::memcpy(&value, &c.xmm[x], 16);
  } else if (const int f = In(name, RegisterName::kFpMmx0, 8); f >= 0) {
    std::memcpy(&value, c.x87.st(f), 10);
  } else if (const int s = In(name, RegisterName::kEs, 8); s >= 0) {
    const Segment& segment = c.segment[s];
    value = ToValue(hvdef::SegmentRegister{c.base(s), segment.limit, segment.selector, segment.attributes});
  } else if (const uint64_t* plain = PlainRegister(c, name); plain != nullptr) {
    value.low = *plain;
  } else {
    switch (name) {
      case RegisterName::kRip:
        value.low = c.in_exit ? c.exit_ip : c.r[kIp];
        break;
      case RegisterName::kRflags:
        value.low = c.GetRflags();
        break;
      case RegisterName::kCr0:
        value.low = c.cr0;
        break;
      case RegisterName::kCr4:
        value.low = c.cr4;
        break;
      case RegisterName::kCr8:
        value.low = c.apic->cr8();
        break;
      case RegisterName::kEfer:
        value.low = c.efer;
        break;
      case RegisterName::kTsc:
        value.low = c.ReadTsc();
        break;
      case RegisterName::kApicBase:
        value.low = c.apic->base();
        break;
      case RegisterName::kInitialApicId:
        value.low = c.apic_id;
        break;
      case RegisterName::kIdtr:
        value = ToValue(hvdef::TableRegister{{}, c.idtr.limit, c.idtr.base});
        break;
      case RegisterName::kGdtr:
        value = ToValue(hvdef::TableRegister{{}, c.gdtr.limit, c.gdtr.base});
        break;
      case RegisterName::kInterruptState:
        value.low = (c.interrupt_shadow ? 1 : 0) | (c.nmi_blocked ? 2 : 0);
        break;
      case RegisterName::kPendingInterruption:
        value.low = c.PendingInterruption();
        break;
      case RegisterName::kFpControlStatus:
        value.low = c.x87.control | static_cast<uint64_t>(c.x87.status) << 16 |
                    static_cast<uint64_t>(c.x87.valid) << 32 | static_cast<uint64_t>(c.x87.last_opcode) << 48;
        value.high = c.x87.last_ip;
        break;
      case RegisterName::kXmmControlStatus:
        value.low = c.x87.last_dp;
        value.high = c.mxcsr | uint64_t{0xFFFF} << 32;
        break;
      default:
        return false;
    }
  }
  return true;
}

bool ValidPat(uint64_t value) {
  for (int i = 0; i < 8; ++i) {
    const uint64_t type = value >> (8 * i) & 0xFF;
    if (type > 7 || type == 2 || type == 3) return false;
  }
  return true;
}

bool MayBe(const Features& features, RegisterName name, const RegisterValue& value) {
  switch (name) {
    case RegisterName::kCr0:
      return value.low >> 32 == 0 && !((value.low & kCr0Pg) && !(value.low & kCr0Pe));
    case RegisterName::kCr3:
      return value.low >> features.physical_address_bits() == 0;
    case RegisterName::kCr4:
      return (value.low & ~features.cr4()) == 0;
    case RegisterName::kCr8:
      return value.low < 16;
    case RegisterName::kEfer:
      return (value.low & ~features.efer()) == 0;
    case RegisterName::kXfem:
      return (value.low & 1) != 0 && (value.low & ~features.xcr0()) == 0;
    case RegisterName::kRip:
    case RegisterName::kKernelGsBase:
    case RegisterName::kLstar:
    case RegisterName::kCstar:
      return IsCanonical(value.low);
    case RegisterName::kXmmControlStatus:
      return (value.high & 0xFFFF0000) == 0;
    case RegisterName::kPendingInterruption:
      return (value.low & 0xFF00FC00) == 0 && (value.low >> 1 & 7) != 1 && (value.low >> 1 & 7) != 7;
    case RegisterName::kPat:
      return ValidPat(value.low);
    case RegisterName::kInitialApicId:
      return false;
    default:
      return true;
  }
}

void Set(Cpu& c, RegisterName name, const RegisterValue& value) {
  if (const int i = In(name, RegisterName::kRax, 16); i >= 0) {
    c.r[i] = value.low;
  } else if (const int x = In(name, RegisterName::kXmm0, 16); x >= 0) {
    std::memcpy(&c.xmm[x], &value, 16);
  } else if (const int f = In(name, RegisterName::kFpMmx0, 8); f >= 0) {
    std::memcpy(c.x87.st(f), &value, 10);
  } else if (const int s = In(name, RegisterName::kEs, 8); s >= 0) {
    const auto segment = FromValue<hvdef::SegmentRegister>(value);
    c.base(s) = segment.base;
    c.segment[s] = {segment.selector, segment.attributes, segment.limit};
    // CPL is the stack segment's DPL.
    if (s == kSs) c.cpl = static_cast<uint8_t>(c.segment[kSs].dpl());
  } else if (uint64_t* plain = PlainRegister(c, name); plain != nullptr) {
    *plain = value.low;
  } else {
    switch (name) {
      case RegisterName::kRip:
        c.r[kIp] = c.exit_ip = value.low;
        break;
      case RegisterName::kRflags:
        c.flags.Set(value.low);
        c.rflags = (value.low & ~kArithmeticFlags & kRflagsBits) | kFlagOne;
        break;
      case RegisterName::kCr0:
        c.cr0 = value.low | kCr0Et;
        break;
      case RegisterName::kCr4:
        c.cr4 = value.low;
        break;
      case RegisterName::kCr8:
        c.apic->SetCr8(value.low);
        break;
      case RegisterName::kEfer:
        c.efer = value.low;
        break;
      case RegisterName::kTsc:
        c.tsc_offset += value.low - c.ReadTsc();
        c.apic->OnTscChanged();
        break;
      case RegisterName::kApicBase:
        (void)c.apic->WriteBase(value.low);
        break;
      case RegisterName::kIdtr: {
        const auto table = FromValue<hvdef::TableRegister>(value);
        c.idtr = {table.base, table.limit};
        break;
      }
      case RegisterName::kGdtr: {
        const auto table = FromValue<hvdef::TableRegister>(value);
        c.gdtr = {table.base, table.limit};
        break;
      }
      case RegisterName::kInterruptState:
        c.interrupt_shadow = value.low & 1;
        c.stack_shadow = false;
        c.SetNmiBlocked(value.low & 2);
        break;
      case RegisterName::kPendingInterruption:
        c.SetPendingInterruption(value.low);
        break;
      case RegisterName::kFpControlStatus: {
        // The other names are ST(0) to ST(7), in whatever order they are set.
        uint8_t stack[8][16];
        c.x87.CopyStackTo(stack);
        c.x87.SetControl(static_cast<uint16_t>(value.low));
        c.x87.status = static_cast<uint16_t>(value.low >> 16);
        c.x87.CopyStackFrom(stack);
        X87UpdateSummary(c.x87);
        c.x87.valid = static_cast<uint8_t>(value.low >> 32);
        c.x87.last_opcode = static_cast<uint16_t>(value.low >> 48 & 0x7FF);
        c.x87.last_ip = value.high;
        break;
      }
      case RegisterName::kXmmControlStatus:
        c.x87.last_dp = value.low;
        c.mxcsr = static_cast<uint32_t>(value.high);
        break;
      default:
        break;
    }
  }
}

// What of the processor's caches depends on these registers: all but the plain data.
bool ChangesMode(RegisterName name) {
  return In(name, RegisterName::kEs, 6) >= 0 || name == RegisterName::kCr0 || name == RegisterName::kCr3 ||
         name == RegisterName::kCr4 || name == RegisterName::kEfer || name == RegisterName::kRflags ||
         name == RegisterName::kDr7 || name == RegisterName::kInterruptState;
}

}  // namespace

uint64_t Cpu::PendingInterruption() const {
  if (!exception_pending) return 0;
  return 1 | static_cast<uint64_t>(injected_type) << 1 | (injected.has_error ? 1 << 4 : 0) |
         static_cast<uint64_t>(injected_length) << 5 | static_cast<uint64_t>(injected.vector) << 16 |
         static_cast<uint64_t>(injected.error) << 32;
}

void Cpu::SetPendingInterruption(uint64_t event) {
  exception_pending = event & 1;
  injected_type = event >> 1 & 7;
  injected_length = event >> 5 & 15;
  injected = {static_cast<uint8_t>(event >> 16), (event & 1 << 4) != 0, static_cast<uint32_t>(event >> 32)};
  if (exception_pending) attention.fetch_or(kAttentionInterrupt, std::memory_order_relaxed);
}

absl::Status SoftwareVp::GetRegisters(absl::Span<const RegisterName> names, absl::Span<RegisterValue> values) {
  if (names.size() != values.size()) return absl::InvalidArgumentError("as many values as names are wanted");
  for (size_t i = 0; i < names.size(); ++i) {
    if (!Get(*cpu_, names[i], values[i])) {
      return absl::InvalidArgumentError(absl::StrFormat("register %#x is unknown", N(names[i])));
    }
  }
  return absl::OkStatus();
}

absl::Status SoftwareVp::SetRegisters(absl::Span<const RegisterName> names, absl::Span<const RegisterValue> values) {
  if (names.size() != values.size()) return absl::InvalidArgumentError("as many values as names are wanted");
  RegisterValue old;
  for (size_t i = 0; i < names.size(); ++i) {
    if (!Get(*cpu_, names[i], old)) {
      return absl::InvalidArgumentError(absl::StrFormat("register %#x is unknown", N(names[i])));
    }
    if (!MayBe(cpu_->features, names[i], values[i])) {
      return absl::InvalidArgumentError(
          absl::StrFormat("register %#x cannot be %#x:%#x", N(names[i]), values[i].high, values[i].low));
    }
  }
  Cpu& c = *cpu_;
  bool mode = false;
  bool memory = false;
  for (size_t i = 0; i < names.size(); ++i) {
    Set(c, names[i], values[i]);
    mode |= ChangesMode(names[i]);
    memory |= names[i] == RegisterName::kCr0 || names[i] == RegisterName::kCr3 || names[i] == RegisterName::kCr4 ||
              names[i] == RegisterName::kEfer || names[i] == RegisterName::kApicBase;
    if (names[i] == RegisterName::kRip) c.redirected = c.in_exit;
    if (names[i] == RegisterName::kCr8 || names[i] == RegisterName::kRflags || names[i] == RegisterName::kApicBase) {
      c.attention.fetch_or(kAttentionInterrupt, std::memory_order_relaxed);
    }
  }
  if (memory) c.FlushTlb(false);
  if (mode) {
    if (!c.IsProtected()) c.cpl = 0;
    if (c.IsVm86()) c.cpl = 3;
    c.UpdateMode();
    c.UpdateStepping();
  }
  if (c.in_exit && mode) c.attention.fetch_or(kAttentionInterrupt, std::memory_order_relaxed);
  return absl::OkStatus();
}

}  // namespace hvsdk::software
