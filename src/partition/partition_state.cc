// SPDX-License-Identifier: Apache-2.0
// The component "hypervisor".
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "hvsdk/hvdef/privilege.h"
#include "hvsdk/partition/partition.h"
#include "partition/device_interrupts.h"
#include "partition/overlay_pages.h"
#include "partition/state.h"

namespace hvsdk::partition {

namespace msr = hvdef::msr;
namespace privilege = hvdef::privilege;

namespace {

// Where `overlays()` has them.
enum : size_t { kHypercallPage, kTscPage };

// What the guest may rely on. That the TSC is invariant it has asked for or not.
uint64_t Needed(const HypervisorState& state) {
  return state.privileges & ~(state.tsc_invariant_control == 0 ? privilege::kAccessTscInvariantControls : 0);
}

// The sequence after a change. 0 says that the page is not valid, and all ones said so in older versions of the TLFS.
uint32_t NextSequence(uint32_t sequence) { return sequence >= 0xFFFF'FFFE ? 1 : sequence + 1; }

}  // namespace

std::vector<state::Component*> Partition::components() {
  std::vector<state::Component*> components{this};
  for (auto& each : vps_) components.push_back(each.get());
  return components;
}

std::vector<Overlay*> Partition::overlays() const {
  std::vector<Overlay*> overlays{hypercall_page_.get(), tsc_page_.get()};
  for (const auto& each : vps_) {
    for (Overlay* overlay : each->overlays()) overlays.push_back(overlay);
  }
  return overlays;
}

// What it was created with, or what its own restore made of that.
uint64_t Partition::EngineTscFrequency() const {
  backend::PartitionState state;
  const bool known = environment_.backend.SaveState(state).ok() && state.tsc_frequency_hz != 0;
  return known ? state.tsc_frequency_hz : environment_.caps.tsc_frequency_hz;
}

absl::Status Partition::Save(state::StateWriter& writer) const {
  HypervisorState state;
  state.privileges = privileges_;
  state.hypercall_code = environment_.caps.hypercall_code;
  state.clock_frequency_hz = environment_.clock.tsc_frequency_hz();
  state.clock_scale = environment_.clock.scale();
  state.clock_offset = environment_.clock.offset();
  state.apic_frequency_hz = environment_.caps.apic_frequency_hz;
  state.retargeted = devices_->Save();
  {
    std::lock_guard lock(mutex_);
    state.guest_os_id = guest_os_id_;
    state.hypercall = hypercall_.load(std::memory_order_relaxed);
    state.reference_tsc = reference_tsc_;
    state.tsc_sequence = tsc_sequence_;
    state.tsc_invariant_control = tsc_invariant_control_;
    state.crash_parameters = crash_parameters_;
    state.overlays = overlays_->Save(overlays());
  }
  writer.Write(state);
  return absl::OkStatus();
}

absl::Status Partition::Restore(state::StateReader& reader) {
  HypervisorState state;
  RETURN_IF_ERROR(reader.Read(state));
  if (const uint64_t missing = Needed(state) & ~privileges_; missing != 0) {
    return reader.Invalid("privileges", absl::StrFormat("%#x are not offered here", missing));
  }
  if (state.tsc_invariant_control > msr::kExposeInvariantTsc) {
    return reader.Invalid("tsc_invariant_control", "reserved bits");
  }
  if (state.tsc_sequence == 0) return reader.Invalid("tsc_sequence", "zero");
  const absl::StatusOr<uint64_t> scale = ReferenceClock::ScaleOf(state.clock_frequency_hz);
  if (!scale.ok()) return reader.Invalid("clock_frequency_hz", scale.status().message());
  if (state.clock_scale != *scale) return reader.Invalid("clock_scale", "not that of the frequency");
  if (state.apic_frequency_hz != environment_.caps.apic_frequency_hz) {
    return reader.Invalid("apic_frequency_hz",
                          absl::StrFormat("%u; the local APICs' timers count at %u Hz here", state.apic_frequency_hz,
                                          environment_.caps.apic_frequency_hz));
  }
  RETURN_IF_ERROR(devices_->Check(state.retargeted, vps_.size(), reader));

  const std::vector<Overlay*> overlays = this->overlays();
  RETURN_IF_ERROR(overlays_->Check(state.overlays, overlays, reader));
  const auto is_where = [&](size_t overlay, uint64_t value) {
    return Overlay::IsWhere(value, state.overlays.overlays[overlay].placed, state.overlays.overlays[overlay].gpa);
  };
  if (!is_where(kHypercallPage, state.hypercall)) return reader.Invalid("hypercall", "its overlay page is elsewhere");
  if (!is_where(kTscPage, state.reference_tsc)) return reader.Invalid("reference_tsc", "its overlay page is elsewhere");
  if ((state.hypercall & msr::kPageEnable) != 0) {
    if (state.guest_os_id == 0) return reader.Invalid("hypercall", "enabled without a guest OS id");
    if (environment_.memory.Pointer(state.hypercall & msr::kPageAddressMask, kPageSize) == nullptr) {
      return reader.Invalid("hypercall", "not memory");
    }
  }

  // The guest may be within it, or return there.
  if (state.overlays.overlays[kHypercallPage].placed && state.hypercall_code != environment_.caps.hypercall_code) {
    return reader.Invalid(
        "hypercall_code",
        "this engine's hypercall page is another one; only a guest of the portable processor goes on here");
  }

  // Whoever counts the TSC by itself would go wrong with another frequency.
  const uint64_t frequency_hz = EngineTscFrequency();
  const absl::StatusOr<uint64_t> engine_scale = ReferenceClock::ScaleOf(frequency_hz);
  const bool has_page = (state.reference_tsc & msr::kPageEnable) != 0 && state.tsc_invariant_control == 0;
  if (engine_scale.ok() && *engine_scale != state.clock_scale && !has_page) {
    return reader.Invalid(
        "clock_frequency_hz",
        absl::StrFormat("the guest's TSC runs at %u Hz, this engine's at %u Hz, which cannot be scaled here, and "
                        "the guest does not read the time from the reference TSC page",
                        state.clock_frequency_hz, frequency_hz));
  }

  RETURN_IF_ERROR(environment_.clock.Restore(state.clock_scale, state.clock_offset, frequency_hz));
  devices_->Restore(state.retargeted);
  std::lock_guard lock(mutex_);
  overlays_->Restore(state.overlays, overlays);
  guest_os_id_ = state.guest_os_id;
  hypercall_.store(state.hypercall, std::memory_order_release);
  reference_tsc_ = state.reference_tsc;
  tsc_sequence_ = state.tsc_sequence;
  tsc_invariant_control_ = state.tsc_invariant_control;
  crash_parameters_ = state.crash_parameters;
  if (environment_.clock.scale() != state.clock_scale) {
    tsc_sequence_ = NextSequence(tsc_sequence_);
    if (tsc_page_->placed()) WriteTscPage();
  }
  return absl::OkStatus();
}

}  // namespace hvsdk::partition
