// SPDX-License-Identifier: Apache-2.0
// Partition: one guest, as the hypervisor interface "Hv#1" describes it to that guest, on any engine: CPUID leaves,
// synthetic MSRs, SynIC, timers, reference time, hypercalls, ports and connections, crash and reset.
//
// A feature is offered only where it works: CPUID follows the privileges, and the privileges follow the engine.
//
// Life: Create -> AddVp for each VP, hypercalls().Add, RegisterPort -> VPs run (vp.h) -> all VP threads have ended ->
// destroy, or Reset and run again.
//
// State: components() are what the guest can tell from a fresh partition. Before a VP runs there are restored, in this
// order: the engine's partition (its TSC goes on) and its VPs; guest memory as the guest saw it, with the overlays in
// place; and then components(), which find in memory the bytes of the overlays that are seen, and have what lies
// beneath.
// docs/hypervisor-interface.md says more, and what becomes of time.
//
// Thread class: thread-safe, but for what Life and State order. Guest input never makes any of this fail, hang or
// allocate without bound.
//
//   const partition::Environment environment{.backend = engine, .caps = backend.caps(), .memory = memory,
//                                            .clock = clock, .timers = timers, .events = machine};
//   const absl::StatusOr<std::unique_ptr<partition::Partition>> guest = partition::Partition::Create({}, environment);
//   if (!guest.ok()) return guest.status();
//   for (const backend::CpuidEntry& leaf : (*guest)->Cpuid()) cpuid.push_back(leaf);  // beside the engine's
//   for (uint32_t i = 0; i < vp_count; ++i) {
//     absl::StatusOr<std::unique_ptr<backend::Vp>> engine_vp = engine.CreateVp(VpIndex{i}, i, cpuid);
//     if (!engine_vp.ok()) return engine_vp.status();
//     engine_vps.push_back(*std::move(engine_vp));  // outlives the partition
//     const absl::StatusOr<partition::Vp*> vp = (*guest)->AddVp(*engine_vps.back());
//     if (!vp.ok()) return vp.status();
//   }

#ifndef HVSDK_PARTITION_PARTITION_H_
#define HVSDK_PARTITION_PARTITION_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/base/clock.h"
#include "hvsdk/base/hypervisor.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/hvdef/status.h"
#include "hvsdk/hypercall/dispatcher.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/partition/reference_clock.h"
#include "hvsdk/partition/vp.h"
#include "hvsdk/state/component.h"

namespace hvsdk::partition {

class DeviceInterrupts;
class HypercallHandlers;
class Overlay;
class OverlayPages;
class PortTable;

// A guest's last words (TLFS, "Partition Crash Enlightenment").
struct CrashReport {
  VpIndex vp{};
  uint64_t control = 0;                  // CRASH_CTL as it was written
  std::array<uint64_t, 5> parameters{};  // P0 to P4
  std::string message;                   // at most 4096 bytes, as the guest wrote them
};

// What happens to the partition as a whole. Called on the VP's thread with no lock held.
class PartitionEvents {
 public:
  virtual ~PartitionEvents() = default;
  virtual void OnResetRequested(VpIndex vp) = 0;  // HV_X64_MSR_RESET
  virtual void OnCrash(const CrashReport& report) = 0;
};

// How much time a VP has used, guest and host on its behalf, in 100 ns units. Called on the VP's own thread.
class VpRuntimeSource {
 public:
  virtual ~VpRuntimeSource() = default;
  virtual uint64_t VpRuntime100ns(VpIndex vp) = 0;
};

struct Config {
  // What the partition may do, at most (hvdef/privilege.h). What the engine cannot do is taken away: privileges() is
  // the rest.
  uint64_t privileges = ~uint64_t{0};
};

// What a partition is built on; all of it outlives the partition.
struct Environment {
  backend::Partition& backend;
  const backend::BackendCaps& caps;
  GuestMemory& memory;
  ReferenceClock& clock;  // Partition::Restore makes it go on from the saved time
  TimerQueue& timers;     // on `clock`'s time
  PartitionEvents& events;
  VpRuntimeSource* vp_runtime = nullptr;  // without it VP_RUNTIME is not offered
};

class Partition final : public state::Component, public Hypervisor {
 public:
  // InvalidArgument: the engine's hypercall code does not fit.
  static absl::StatusOr<std::unique_ptr<Partition>> Create(const Config& config, const Environment& environment);
  ~Partition() override;

  // The effective privileges.
  uint64_t privileges() const { return privileges_; }
  // Leaves 0x40000000 to 0x4000000A. Leaf 1's hypervisor bit (hvdef::cpuid::kHypervisorPresent) is the composer's
  // to set.
  std::vector<backend::CpuidEntry> Cpuid() const;

  // Adds the next VP: indices count up from 0. `vp` outlives the partition.
  absl::StatusOr<Vp*> AddVp(backend::Vp& vp);
  size_t vp_count() const { return vps_.size(); }
  // nullptr: no such VP.
  Vp* vp(VpIndex index) { return ToInt(index) < vps_.size() ? vps_[ToInt(index)].get() : nullptr; }

  // Where hypercalls are answered; calls of one's own are added here before the first VP runs.
  hypercall::Dispatcher& hypercalls() { return dispatcher_; }

  // As Hypervisor says; 16 messages wait behind a slot.
  hvdef::HvStatus PostMessage(VpIndex vp, Sint sint, uint32_t message_type,
                              absl::Span<const uint8_t> payload) override {
    return PostMessage(vp, sint, message_type, payload, /*origin=*/0);
  }
  // The same with the id of the port by which it came, which the guest finds in the message's header.
  hvdef::HvStatus PostMessage(VpIndex vp, Sint sint, uint32_t message_type, absl::Span<const uint8_t> payload,
                              uint64_t origin);
  void SetMessageSlotObserver(MessageSlotObserver* observer) override { slot_observer_ = observer; }
  // Cost: one lock of the VP's own SynIC, held for a few instructions.
  hvdef::HvStatus SignalEvent(VpIndex vp, Sint sint, uint16_t flag) override;
  absl::Status RegisterPort(ConnectionId connection, PortHandler* handler) override;
  void UnregisterPort(ConnectionId connection) override;

  // Requests the interrupt of `sint` on `vp` and nothing else: no message, no event flag. For a protocol of one's own
  // whose state lies elsewhere, in memory that root and guest share. As a line it is an edge: what is requested while
  // it is pending already is one interrupt.
  // kInvalidVpIndex, kInvalidParameter (sint); kInvalidSynicState: the SynIC is disabled, or the SINT is masked or
  // polled.
  hvdef::HvStatus AssertSint(VpIndex vp, Sint sint);

  // What HvCallSignalEvent does, for an engine's shortcut that took the call on another thread.
  hvdef::HvStatus SignalPort(ConnectionId connection, uint16_t flag);

  // A device whose message-signalled interrupts the guest may retarget with HvCallRetargetDeviceInterrupt. At most
  // `max_interrupts` of its interrupts are remembered. AlreadyExists: the id is taken.
  absl::Status RegisterDevice(uint64_t device_id, uint32_t max_interrupts);
  void UnregisterDevice(uint64_t device_id);
  // The device's interrupt, where the guest wants it by now.
  void SignalDeviceInterrupt(uint64_t device_id, uint64_t msi_address, uint32_t msi_data);

  // This partition and its VPs, in the order in which they are restored.
  std::vector<state::Component*> components();

  // "hypervisor": the partition's registers, overlay pages (its VPs', too), retargeted interrupts and reference time.
  std::string StateName() const override { return "hypervisor"; }
  absl::Status Save(state::StateWriter& writer) const override;
  // InvalidArgument also: another number of VPs, a device that is not registered, or a privilege that the guest was
  // given and this engine cannot give.
  absl::Status Restore(state::StateReader& reader) override;
  // Back to the state after creation: MSRs, SynIC, timers, overlay pages (the guest's own contents return), of all VPs,
  // too. Ports, devices and reference time stay. No VP runs meanwhile.
  void Reset() override;

  const Environment& environment() const { return environment_; }

 private:
  friend class HypercallHandlers;
  friend class Vp;

  Partition(const Config& config, const Environment& environment);

  backend::MsrOutcome ReadMsr(uint32_t msr, uint64_t& value);
  backend::MsrOutcome WriteMsr(Vp& vp, uint32_t msr, uint64_t value);
  backend::MsrOutcome WriteGuestOsId(uint64_t value);
  backend::MsrOutcome WriteHypercall(uint64_t value);
  backend::MsrOutcome WriteReferenceTsc(uint64_t value);
  backend::MsrOutcome WriteTscInvariantControl(uint64_t value);
  void WriteCrashControl(Vp& vp, uint64_t value);
  void WriteHypercallCode();
  void WriteTscPage();
  std::vector<Overlay*> overlays() const;
  uint64_t EngineTscFrequency() const;

  const Environment environment_;
  const uint64_t privileges_;
  hypercall::Dispatcher dispatcher_;
  std::vector<std::unique_ptr<Vp>> vps_;
  const std::unique_ptr<OverlayPages> overlays_;
  const std::unique_ptr<PortTable> ports_;
  const std::unique_ptr<DeviceInterrupts> devices_;
  const std::unique_ptr<HypercallHandlers> handlers_;
  MessageSlotObserver* slot_observer_ = nullptr;

  mutable std::mutex mutex_;  // the partition-wide registers; a leaf but for the overlay pages
  const std::unique_ptr<Overlay> hypercall_page_;
  const std::unique_ptr<Overlay> tsc_page_;
  std::atomic<uint64_t> hypercall_{0};  // read without the lock by every hypercall
  uint64_t guest_os_id_ = 0;
  uint64_t reference_tsc_ = 0;
  uint32_t tsc_sequence_ = 1;  // counts changes of scale and offset; never zero
  uint64_t tsc_invariant_control_ = 0;
  std::array<uint64_t, 5> crash_parameters_{};
};

}  // namespace hvsdk::partition

#endif  // HVSDK_PARTITION_PARTITION_H_
