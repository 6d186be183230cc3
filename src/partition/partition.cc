// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/partition/partition.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "hvsdk/hvdef/message.h"
#include "hvsdk/hvdef/msr.h"
#include "partition/cpuid.h"
#include "partition/device_interrupts.h"
#include "partition/hypercall_handlers.h"
#include "partition/overlay_pages.h"
#include "partition/port_table.h"
#include "partition/synic.h"

namespace hvsdk::partition {

namespace msr = hvdef::msr;
using backend::MsrOutcome;
using hvdef::HvStatus;

absl::StatusOr<std::unique_ptr<Partition>> Partition::Create(const Config& config, const Environment& environment) {
  const size_t code_bytes = environment.caps.hypercall_code.size();
  if (code_bytes == 0 || code_bytes > 64) {
    return absl::InvalidArgumentError(absl::StrFormat("hypercall code of %d bytes; want 1 to 64", code_bytes));
  }
  std::unique_ptr<Partition> partition(new Partition(config, environment));
  RETURN_IF_ERROR(partition->handlers_->AddTo(partition->dispatcher_));
  return partition;
}

Partition::Partition(const Config& config, const Environment& environment)
    : environment_(environment),
      privileges_(EffectivePrivileges(config.privileges, environment.caps, environment.vp_runtime != nullptr)),
      dispatcher_(environment.memory),
      overlays_(std::make_unique<OverlayPages>(environment.memory)),
      ports_(std::make_unique<PortTable>()),
      devices_(std::make_unique<DeviceInterrupts>(environment.backend)),
      handlers_(std::make_unique<HypercallHandlers>(*this)),
      hypercall_page_(std::make_unique<Overlay>()),
      tsc_page_(std::make_unique<Overlay>()) {}

// VPs go first: their timers and SynIC use the rest.
Partition::~Partition() { vps_.clear(); }

std::vector<backend::CpuidEntry> Partition::Cpuid() const { return HypervisorCpuid(privileges_, environment_.caps); }

absl::StatusOr<Vp*> Partition::AddVp(backend::Vp& vp) {
  if (ToInt(vp.index()) != vps_.size()) {
    return absl::InvalidArgumentError(absl::StrFormat("VP %d added where %d is next", ToInt(vp.index()), vps_.size()));
  }
  vps_.push_back(std::make_unique<Vp>(*this, vp));
  return vps_.back().get();
}

HvStatus Partition::PostMessage(VpIndex index, Sint sint, uint32_t message_type, absl::Span<const uint8_t> payload,
                                uint64_t origin) {
  Vp* target = vp(index);
  return target == nullptr ? HvStatus::kInvalidVpIndex
                           : target->synic_->PostMessage(sint, message_type, payload, origin);
}

HvStatus Partition::SignalEvent(VpIndex index, Sint sint, uint16_t flag) {
  Vp* target = vp(index);
  return target == nullptr ? HvStatus::kInvalidVpIndex : target->synic_->SignalEvent(sint, flag);
}

HvStatus Partition::AssertSint(VpIndex index, Sint sint) {
  Vp* target = vp(index);
  return target == nullptr ? HvStatus::kInvalidVpIndex : target->synic_->Assert(sint);
}

absl::Status Partition::RegisterPort(ConnectionId connection, PortHandler* handler) {
  return ports_->Register(connection, handler);
}
void Partition::UnregisterPort(ConnectionId connection) { ports_->Unregister(connection); }

HvStatus Partition::SignalPort(ConnectionId connection, uint16_t flag) {
  return ports_->Use(connection, [flag](PortHandler& handler) { return handler.OnEvent(flag); });
}

absl::Status Partition::RegisterDevice(uint64_t device_id, uint32_t max_interrupts) {
  return devices_->Register(device_id, max_interrupts);
}
void Partition::UnregisterDevice(uint64_t device_id) { devices_->Unregister(device_id); }
void Partition::SignalDeviceInterrupt(uint64_t device_id, uint64_t msi_address, uint32_t msi_data) {
  devices_->Signal(device_id, msi_address, msi_data);
}

void Partition::Reset() {
  for (auto& each : vps_) each->Reset();
  devices_->Reset();
  std::lock_guard lock(mutex_);
  overlays_->Clear(*hypercall_page_);
  overlays_->Clear(*tsc_page_);
  tsc_sequence_ = 1;
  hypercall_.store(0, std::memory_order_release);
  guest_os_id_ = reference_tsc_ = tsc_invariant_control_ = 0;
  crash_parameters_.fill(0);
}

MsrOutcome Partition::ReadMsr(uint32_t msr, uint64_t& value) {
  switch (msr) {
    case msr::kHypercall:
      value = hypercall_.load(std::memory_order_relaxed);
      return MsrOutcome::kDone;
    case msr::kTimeRefCount:
      value = environment_.clock.Now100ns();
      return MsrOutcome::kDone;
    case msr::kTscFrequency:
      value = environment_.clock.tsc_frequency_hz();
      return MsrOutcome::kDone;
    case msr::kApicFrequency:
      value = environment_.caps.apic_frequency_hz;
      return MsrOutcome::kDone;
    case msr::kCrashCtl:
      value = msr::kCrashNotify | msr::kCrashMessage;
      return MsrOutcome::kDone;
    default:
      break;
  }
  std::lock_guard lock(mutex_);
  if (msr == msr::kGuestOsId) {
    value = guest_os_id_;
  } else if (msr == msr::kReferenceTsc) {
    value = reference_tsc_;
  } else if (msr == msr::kTscInvariantControl) {
    value = tsc_invariant_control_;
  } else if (msr >= msr::kCrashP0 && msr <= msr::kCrashP4) {
    value = crash_parameters_[msr - msr::kCrashP0];
  } else {
    return MsrOutcome::kFault;
  }
  return MsrOutcome::kDone;
}

MsrOutcome Partition::WriteMsr(Vp& vp, uint32_t msr, uint64_t value) {
  switch (msr) {
    case msr::kGuestOsId:
      return WriteGuestOsId(value);
    case msr::kHypercall:
      return WriteHypercall(value);
    case msr::kReferenceTsc:
      return WriteReferenceTsc(value);
    case msr::kTscInvariantControl:
      return WriteTscInvariantControl(value);
    case msr::kReset:
      if ((value & msr::kResetNow) != 0) environment_.events.OnResetRequested(vp.index());
      return MsrOutcome::kDone;
    case msr::kCrashCtl:
      WriteCrashControl(vp, value);
      return MsrOutcome::kDone;
    default:
      break;
  }
  if (msr < msr::kCrashP0 || msr > msr::kCrashP4) return MsrOutcome::kFault;
  std::lock_guard lock(mutex_);
  crash_parameters_[msr - msr::kCrashP0] = value;
  return MsrOutcome::kDone;
}

MsrOutcome Partition::WriteGuestOsId(uint64_t value) {
  std::lock_guard lock(mutex_);
  guest_os_id_ = value;
  if (value == 0) {
    hypercall_.store(hypercall_.load(std::memory_order_relaxed) & ~msr::kPageEnable, std::memory_order_release);
    overlays_->Remove(*hypercall_page_);
  }
  return MsrOutcome::kDone;
}

MsrOutcome Partition::WriteHypercall(uint64_t value) {
  std::lock_guard lock(mutex_);
  const uint64_t old = hypercall_.load(std::memory_order_relaxed);
  if ((old & msr::kHypercallLocked) != 0) return value == old ? MsrOutcome::kDone : MsrOutcome::kFault;
  if (guest_os_id_ == 0) value &= ~msr::kPageEnable;
  if ((value & msr::kPageEnable) == 0) {
    hypercall_.store(value, std::memory_order_release);
    overlays_->Remove(*hypercall_page_);
    return MsrOutcome::kDone;
  }
  const uint64_t gpa = value & msr::kPageAddressMask;
  // This page must be seen to be of use, so an address that is not memory faults.
  if (environment_.memory.Pointer(gpa, kPageSize) == nullptr) return MsrOutcome::kFault;
  overlays_->Place(*hypercall_page_, gpa);
  WriteHypercallCode();
  hypercall_.store(value, std::memory_order_release);
  return MsrOutcome::kDone;
}

void Partition::WriteHypercallCode() {
  const std::vector<uint8_t>& code = environment_.caps.hypercall_code;
  std::memcpy(hypercall_page_->bytes(), code.data(), code.size());
  // What follows the code traps, should a guest get there.
  constexpr uint8_t kInt3 = 0xCC;
  std::memset(hypercall_page_->bytes() + code.size(), kInt3, kPageSize - code.size());
  overlays_->Written(*hypercall_page_, 0, kPageSize);
}

MsrOutcome Partition::WriteReferenceTsc(uint64_t value) {
  std::lock_guard lock(mutex_);
  reference_tsc_ = value;
  if ((value & msr::kPageEnable) == 0) {
    overlays_->Remove(*tsc_page_);
    return MsrOutcome::kDone;
  }
  overlays_->Place(*tsc_page_, value & msr::kPageAddressMask);
  WriteTscPage();
  return MsrOutcome::kDone;
}

void Partition::WriteTscPage() {
  const hvdef::ReferenceTscPage page{
      .sequence = tsc_sequence_, .scale = environment_.clock.scale(), .offset = environment_.clock.offset()};
  std::memcpy(tsc_page_->bytes(), &page, sizeof(page));
  overlays_->Written(*tsc_page_, 0, sizeof(page));
}

// A guest that asks for an invariant TSC relies on it from then on, and has no way back (as in Linux arch/x86/kvm/x86.c).
MsrOutcome Partition::WriteTscInvariantControl(uint64_t value) {
  std::lock_guard lock(mutex_);
  if ((value & ~msr::kExposeInvariantTsc) != 0 || value < tsc_invariant_control_) return MsrOutcome::kFault;
  tsc_invariant_control_ = value;
  return MsrOutcome::kDone;
}

void Partition::WriteCrashControl(Vp& vp, uint64_t value) {
  if ((value & msr::kCrashNotify) == 0) return;
  CrashReport report{.vp = vp.index(), .control = value};
  {
    std::lock_guard lock(mutex_);
    report.parameters = crash_parameters_;
  }
  if ((value & msr::kCrashMessage) != 0) {
    report.message.resize(std::min<uint64_t>(report.parameters[4], msr::kCrashMaxMessageBytes));
    if (!environment_.memory.Read(report.parameters[3], report.message.data(), report.message.size())) {
      report.message.clear();
    }
  }
  environment_.events.OnCrash(report);
}

}  // namespace hvsdk::partition
