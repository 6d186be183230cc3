// SPDX-License-Identifier: Apache-2.0
// What a partition and its VPs are in a saved state: the components "hypervisor" and "hypervisor/vp/N".
//
// What covers what: guest memory is saved as the guest sees it, with the overlays in place. So the bytes of an overlay
// that is seen are in memory and nowhere else, and this state has the rest: what lies beneath (the guest's own page,
// and overlays that are covered themselves), and the bytes of overlays that are nowhere to be seen.

#ifndef HVSDK_SRC_PARTITION_STATE_H_
#define HVSDK_SRC_PARTITION_STATE_H_

#include <array>
#include <cstdint>
#include <vector>

#include "hvsdk/hvdef/message.h"
#include "hvsdk/hvdef/msr.h"

namespace hvsdk::partition {

// One overlay page.
struct OverlayState {
  bool placed = false;
  uint64_t gpa = 0;            // where
  std::vector<uint8_t> bytes;  // its own 4096; none: they are zero, or the overlay is seen and memory has them

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "placed", placed);
    visit(2, "gpa", gpa);
    visit(3, "bytes", bytes);
  }
};

// A page of guest memory under overlays.
struct CoveredState {
  uint64_t gpa = 0;
  std::vector<uint8_t> guest;      // what the guest has there
  std::vector<uint32_t> overlays;  // indices into OverlaysState::overlays; the last one is seen

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "gpa", gpa);
    visit(2, "guest", guest);
    visit(3, "overlays", overlays);
  }
};

struct OverlaysState {
  std::vector<OverlayState> overlays;  // hypercall page, reference TSC page; of each VP SIM, SIEF and assist page
  std::vector<CoveredState> covered;   // by ascending address

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "overlays", overlays);
    visit(2, "covered", covered);
  }
};

// Where the guest sent an interrupt of a device.
struct RetargetState {
  uint64_t device_id = 0;
  uint64_t msi_address = 0;
  uint32_t msi_data = 0;
  uint8_t vector = 0;
  std::vector<uint32_t> vps;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "device_id", device_id);
    visit(2, "msi_address", msi_address);
    visit(3, "msi_data", msi_data);
    visit(4, "vector", vector);
    visit(5, "vps", vps);
  }
};

struct HypervisorState {
  static constexpr uint32_t kSchema = 1;

  uint64_t privileges = 0;  // what the guest has read from CPUID
  uint64_t guest_os_id = 0;
  uint64_t hypercall = 0;
  std::vector<uint8_t> hypercall_code;  // that of the engine it ran on
  uint64_t reference_tsc = 0;
  uint32_t tsc_sequence = 0;
  uint64_t tsc_invariant_control = 0;
  std::array<uint64_t, 5> crash_parameters{};
  uint64_t clock_frequency_hz = 0;  // ReferenceClock's
  uint64_t clock_scale = 0;
  int64_t clock_offset = 0;
  std::vector<RetargetState> retargeted;  // ascending by device, address and data
  OverlaysState overlays;
  uint64_t apic_frequency_hz = 0;  // of the engine it ran on; a guest arms timers by it

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "privileges", privileges);
    visit(2, "guest_os_id", guest_os_id);
    visit(3, "hypercall", hypercall);
    visit(4, "hypercall_code", hypercall_code);
    visit(5, "reference_tsc", reference_tsc);
    visit(6, "tsc_sequence", tsc_sequence);
    visit(7, "tsc_invariant_control", tsc_invariant_control);
    visit(8, "crash_parameters", crash_parameters);
    visit(9, "clock_frequency_hz", clock_frequency_hz);
    visit(10, "clock_scale", clock_scale);
    visit(11, "clock_offset", clock_offset);
    visit(12, "retargeted", retargeted);
    visit(13, "overlays", overlays);
    visit(14, "apic_frequency_hz", apic_frequency_hz);
  }
};

// A message that waits behind its slot.
struct MessageState {
  uint32_t type = 0;
  std::vector<uint8_t> payload;
  uint64_t origin = 0;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "type", type);
    visit(2, "payload", payload);
    visit(3, "origin", origin);
  }
};

struct SintState {
  uint64_t value = hvdef::msr::kSintDefault;
  bool found_full = false;             // somebody waits to be told of room in the queue
  std::vector<MessageState> messages;  // the oldest first

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "value", value);
    visit(2, "found_full", found_full);
    visit(3, "messages", messages);
  }
};

// A timer's message that has not reached its slot.
struct TimerMessageState {
  bool waits = false;
  uint8_t sint = 0;
  uint64_t expiration_100ns = 0;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "waits", waits);
    visit(2, "sint", sint);
    visit(3, "expiration_100ns", expiration_100ns);
  }
};

struct SynicState {
  uint64_t scontrol = 0, siefp = 0, simp = 0;
  std::array<SintState, hvdef::kSintCount> sints{};
  std::array<TimerMessageState, hvdef::kStimerCount> timer_messages{};

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "scontrol", scontrol);
    visit(2, "siefp", siefp);
    visit(3, "simp", simp);
    visit(4, "sints", sints);
    visit(5, "timer_messages", timer_messages);
  }
};

struct StimerState {
  uint64_t config = 0;
  uint64_t count = 0;
  bool armed = false;
  uint64_t deadline_100ns = 0;  // nominal, where it is armed
  uint64_t fire_100ns = 0;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "config", config);
    visit(2, "count", count);
    visit(3, "armed", armed);
    visit(4, "deadline_100ns", deadline_100ns);
    visit(5, "fire_100ns", fire_100ns);
  }
};

struct HypervisorVpState {
  static constexpr uint32_t kSchema = 1;

  SynicState synic;
  std::array<StimerState, hvdef::kStimerCount> stimers{};
  uint64_t vp_assist_page = 0;
  uint64_t runtime_base_100ns = 0;  // VP_RUNTIME is that much more than the host counts
  uint64_t runtime_seen_100ns = 0;  // what the guest read last

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "synic", synic);
    visit(2, "stimers", stimers);
    visit(3, "vp_assist_page", vp_assist_page);
    visit(4, "runtime_base_100ns", runtime_base_100ns);
    visit(5, "runtime_seen_100ns", runtime_seen_100ns);
  }
};

}  // namespace hvsdk::partition

#endif  // HVSDK_SRC_PARTITION_STATE_H_
