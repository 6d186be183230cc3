// SPDX-License-Identifier: Apache-2.0
// What a CPU-virtualisation engine must do, and nothing else: map memory, make virtual processors, run them to the next
// thing they cannot do alone, read and write registers, deliver interrupts.
//
// Every engine has the interrupt controllers of a PC: local APICs, an IOAPIC at 0xFEC00000, and two 8259As at ports 0x20,
// 0x21, 0xA0, 0xA1, 0x4D0 and 0x4D1, whose accesses do not exit; a word reads as zero there and is not written. The
// 8259As' interrupts reach a VP whose LINT0 is ExtINT or whose local APIC is disabled. After power-on all their inputs are
// masked, and LINT0 of VP 0 is ExtINT, as a PC's firmware leaves it. No engine has a PC's timer (8254): guests use the local
// APICs' and the hypervisor's.
//
// An engine knows neither VMBus nor the meaning of a hypercall. The hypervisor interface that a guest sees is one
// implementation in the partition library, the same on every engine. What engines do differently is data (BackendCaps).
//
// Life: Backend -> CreatePartition -> AddMemory, CreateVp (before the first Run) -> one thread a VP calls Vp::Run
// until the machine ends -> VPs and partition are destroyed when no thread is inside Run, or reset and run again.
//
// Exits come as calls to an ExitHandler on the VP's own thread. An engine holds no lock during such a call, and the
// handler may use the VP's registers there. RIP is within the instruction or behind it; if the handler writes RIP, the next instruction
// is the one at the address that it wrote. A repetition ends there, and so may an instruction that accesses device memory, undone.

#ifndef HVSDK_BACKEND_BACKEND_H_
#define HVSDK_BACKEND_BACKEND_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "hvsdk/backend/state.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/hvdef/register.h"

namespace hvsdk {
class GuestMemory;  // hvsdk/memory/guest_memory.h; a neighbour on this floor, so named and not included.
}

namespace hvsdk::backend {

// What an engine can do on this host. Plain data, fixed for the engine's life.
struct BackendCaps {
  uint32_t max_vps = 1;
  // The frequency of the guest's TSC, the same on all VPs.
  uint64_t tsc_frequency_hz = 0;
  // It never changes its rate nor stops, and CPUID 0x80000007 says so.
  bool invariant_tsc = false;
  // The frequency of the local APIC's timer with divisor 1.
  uint64_t apic_frequency_hz = 0;
  // The instructions that make a hypercall exit from any mode that may call, ending in a near return. They go into the
  // hypercall page (at most 64 bytes). Any register but RAX is intact when OnHypercall runs.
  std::vector<uint8_t> hypercall_code;
  // The engine can deliver an interrupt that never enters the in-service register (a SINT's AutoEOI flag).
  bool auto_eoi = false;
  // It costs no more than one that does; guests are advised against it otherwise.
  bool cheap_auto_eoi = false;
  // The engine itself serves the synthetic EOI, ICR and TPR MSRs (0x40000070 to 0x40000072); they do not exit.
  bool apic_msrs = false;
  // FlushTlb costs less than the guest's own inter-processor interrupts would.
  bool cheap_tlb_flush = false;
  // AssignSignalEvent works.
  bool signal_event_fd = false;
  bool dirty_log = false;
  // RequestInterrupt costs less than the guest's own writes to the interrupt command register.
  bool cheap_ipi = false;
  // An instruction that a VP's CPUID hides is undefined for it, unless it belongs to every x86-64. Otherwise those that
  // the host's processor has and needs no control bit for run all the same: no hardware virtualisation intercepts them.
  // What a guest enables in a control register or an MSR, and INVPCID and RDTSCP, every engine refuses.
  bool hides_instructions = false;
};

// A CPUID leaf as the guest sees it. `subleaf` counts only if `has_subleaves`.
struct CpuidEntry {
  uint32_t leaf = 0;
  uint32_t subleaf = 0;
  bool has_subleaves = false;
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

enum class Gpr : uint8_t {
  kRax,
  kRcx,
  kRdx,
  kRbx,
  kRsp,
  kRbp,
  kRsi,
  kRdi,
  kR8,
  kR9,
  kR10,
  kR11,
  kR12,
  kR13,
  kR14,
  kR15
};

enum class MsrOutcome : uint8_t {
  kDone,
  kFault,  // #GP(0); the instruction has no effect
  kHalt,   // done, and the VP then sleeps until an interrupt arrives, even one that it masks (HV_X64_MSR_GUEST_IDLE)
};

enum class HypercallOutcome : uint8_t {
  kDone,             // the instruction after the call is next
  kRetry,            // the same call again, with the registers as they are now (a rep call that was interrupted)
  kUndefinedOpcode,  // #UD at the call
};

enum class StopReason : uint8_t {
  kKicked,       // Kick was called; nothing is lost by calling Run again
  kTripleFault,  // the VP shut down (a reset request on a PC)
};

class Vp;

// Receives what a VP cannot do alone, on the VP's thread. The order of calls is the guest's program order.
class ExitHandler {
 public:
  virtual ~ExitHandler() = default;

  // 1, 2 or 4 bytes. A port that nobody answers reads as all ones. A repeated string access is one call for each item.
  virtual void OnPortRead(Vp& vp, uint16_t port, absl::Span<uint8_t> data) = 0;
  virtual void OnPortWrite(Vp& vp, uint16_t port, absl::Span<const uint8_t> data) = 0;

  // 1 to 64 bytes at an address that is not mapped, or written where it is mapped read-only.
  virtual void OnMmioRead(Vp& vp, uint64_t gpa, absl::Span<uint8_t> data) = 0;
  virtual void OnMmioWrite(Vp& vp, uint64_t gpa, absl::Span<const uint8_t> data) = 0;

  // MSRs 0x40000000 to 0x400001FF, and any other that the engine does not know.
  virtual MsrOutcome OnMsrRead(Vp& vp, uint32_t msr, uint64_t& value) = 0;
  virtual MsrOutcome OnMsrWrite(Vp& vp, uint32_t msr, uint64_t value) = 0;

  // The guest ran BackendCaps::hypercall_code, or wrote to one of the ports of port_hypercall.h.
  virtual HypercallOutcome OnHypercall(Vp& vp) = 0;
};

// An exception to deliver in place of the next instruction.
struct Exception {
  uint8_t vector;
  absl::optional<uint32_t> error_code;
};

enum class TranslateAccess : uint8_t { kRead = 1, kWrite = 2, kExecute = 4 };

// What a walk of the guest's page tables found.
struct Translation {
  bool present = false;        // gpa is valid
  bool reserved_bits = false;  // not present, because an entry on the way has bits set that must be clear
  uint64_t gpa = 0;
  bool writable = false;  // for the privilege the walk was made with
  bool user = false;
  bool executable = false;
  bool privilege_violation = false;  // present, but the access asked for is not allowed
};

enum class Activity : uint8_t { kRunning, kHalted, kWaitForSipi };

// A virtual processor. Kick is thread-safe; everything else is *VP thread only*: the thread that calls Run, between
// or during its calls (from an exit), or any thread while none calls Run.
class Vp {
 public:
  virtual ~Vp() = default;

  VpIndex index() const { return index_; }
  uint32_t apic_id() const { return apic_id_; }

  // Runs the guest until it is kicked or shuts down. A halted VP sleeps inside.
  // Internal: the engine failed; the VP cannot go on.
  virtual absl::StatusOr<StopReason> Run(ExitHandler& handler) = 0;

  // Makes the Run that is under way, or else the next one, return kKicked. Never lost; several kicks may make one stop.
  virtual void Kick() = 0;

  // A general register, at the price of a load during an exit.
  virtual uint64_t GetGpr(Gpr gpr) const = 0;
  virtual void SetGpr(Gpr gpr, uint64_t value) = 0;

  // Registers by name. InvalidArgument names the first that is unknown or whose value is impossible; then nothing
  // is set.
  virtual absl::Status GetRegisters(absl::Span<const hvdef::RegisterName> names,
                                    absl::Span<hvdef::RegisterValue> values) = 0;
  virtual absl::Status SetRegisters(absl::Span<const hvdef::RegisterName> names,
                                    absl::Span<const hvdef::RegisterValue> values) = 0;

  // Puts the VP back to what CreateVp made: registers, MSRs and local APIC as after power-on (Intel SDM volume 3,
  // table 9-1), running or waiting for SIPI, with no event, exception or interrupt pending and nothing cached of the
  // guest's code and page tables. The TSC is the partition's again (Partition::GuestTsc), and a Kick that no Run has
  // taken stays. For use while no Run is under way, hence not from an exit.
  // Internal: the engine failed; the VP cannot go on.
  virtual absl::Status Reset() = 0;

  // All that the VP is (state.h), and a VP that has not run made into that. For use while no Run is under way, hence not
  // from an exit: what an exit does to the VP is complete by then. The partition's state is restored first. A Kick that no Run has
  // taken is not of it.
  // Restore: InvalidArgument names a register or feature that this VP cannot have; then nothing has changed.
  // Internal: the engine failed; the VP cannot go on.
  virtual absl::Status SaveState(VpState& state) {
    (void)state;
    return absl::UnimplementedError("this engine's processors cannot be saved");
  }
  virtual absl::Status RestoreState(const VpState& state) {
    (void)state;
    return absl::UnimplementedError("this engine's processors cannot be restored");
  }

  virtual void InjectException(const Exception& exception) = 0;

  // With caps.auto_eoi: from now on RequestInterrupt may ask for `vector` of this VP with auto_eoi, on behalf of `sint`; 0 ends that.
  // An engine whose local APIC is told with each request has nothing to do here. Where it has, it may take every interrupt with that
  // vector to end by itself, whoever asks for it.
  virtual absl::Status SetAutoEoiVector(Sint sint, uint8_t vector) {
    (void)sint, (void)vector;
    return absl::OkStatus();
  }

  virtual absl::Status SetActivity(Activity activity) = 0;
  virtual absl::StatusOr<Activity> GetActivity() = 0;

  // Walks the page tables with the VP's current control registers, without setting accessed or dirty bits.
  // `user` makes it a user-mode access, else it is a supervisor's.
  virtual Translation TranslateGva(uint64_t gva, TranslateAccess access, bool user) = 0;

 protected:
  Vp(VpIndex index, uint32_t apic_id) : index_(index), apic_id_(apic_id) {}

 private:
  const VpIndex index_;
  const uint32_t apic_id_;
};

enum class MapAccess : uint8_t { kReadExecute, kReadWriteExecute };

// A partition: one guest's address space and processors. Thread-safe but for what the life above orders.
class Partition {
 public:
  virtual ~Partition() = default;

  // Makes `host` the guest's memory at `gpa`, for the guest, who may do anything there, and for the host: maps it and
  // adds it to the GuestMemory that the partition was created with. Whole pages, no overlap; the bytes outlive both.
  // Before the first Run, or, above all other memory, while VPs run. Errors are those of MapMemory and GuestMemory::AddRange, and change
  // nothing.
  virtual absl::Status AddMemory(uint64_t gpa, absl::Span<uint8_t> host) = 0;
  // Takes the memory above all other away again, from the guest and from GuestMemory. No VP runs, and nobody uses its bytes.
  virtual absl::Status RemoveLastMemory() = 0;

  // Maps host bytes for the guest alone: a ROM, a device's memory. Whole pages, no overlap. The memory outlives the
  // partition. Allowed while VPs run. ResourceExhausted: no room for another region.
  virtual absl::Status MapMemory(uint64_t gpa, absl::Span<uint8_t> host, MapAccess access) = 0;
  // Undoes one MapMemory exactly. Allowed while VPs run.
  virtual absl::Status UnmapMemory(uint64_t gpa, uint64_t size_bytes) = 0;

  // Makes VP `index`, which begins in the architecture's reset state, or waiting for SIPI unless its index is 0.
  // `cpuid` is all that CPUID answers, but for what depends on the VP's own registers (OSXSAVE, APIC id and the like).
  virtual absl::StatusOr<std::unique_ptr<Vp>> CreateVp(VpIndex index, uint32_t apic_id,
                                                       absl::Span<const CpuidEntry> cpuid) = 0;

  // The CPUID leaves of the processor that this engine offers, without any at 0x40000000.
  virtual absl::StatusOr<std::vector<CpuidEntry>> SupportedCpuid() const = 0;

  // Delivers a message-signalled interrupt, encoded as on the bus (Intel SDM volume 3, 11.11).
  virtual void SignalMsi(uint64_t address, uint32_t data) = 0;

  // Requests fixed interrupt `vector` of one VP. With `auto_eoi` it never becomes in-service (needs caps.auto_eoi, and that the VP knows
  // the vector by SetAutoEoiVector).
  virtual void RequestInterrupt(VpIndex vp, uint8_t vector, bool auto_eoi) = 0;

  // Drives interrupt line `irq`, as a PC has them: input `irq` of the IOAPIC and, below 16, of the pair of 8259As, both at
  // once. But for line 0, which is input 2 of the IOAPIC, and for line 2, which leads nowhere, since that input of the
  // 8259As is their cascade.
  virtual void SetIrqLine(uint32_t irq, bool level) = 0;

  // Puts the interrupt controllers that the VPs share back to power-on: every input masked, low and forgotten. Together
  // with Vp::Reset of every VP it is the reset of a machine; memory, mappings and signal events stay. No VP runs.
  virtual absl::Status ResetInterruptControllers() = 0;

  // The guest's TSC now, the same on all VPs that did not write theirs.
  virtual uint64_t GuestTsc() const = 0;

  // The interrupt controllers that the VPs share, and the TSC. No VP runs. Restore, before the VPs' and before the first Run: the TSC
  // goes on from the saved one, and at its frequency where the engine can do that; else at the engine's, which is what SaveState says
  // then. A VP that waits for a moment of the old one (`VpState::tsc_deadline`) is refused there.
  // Restore: InvalidArgument: it makes no sense. FailedPrecondition: the guest's TSC would go back. Then nothing has changed.
  virtual absl::Status SaveState(PartitionState& state) {
    (void)state;
    return absl::UnimplementedError("this engine's partitions cannot be saved");
  }
  virtual absl::Status RestoreState(const PartitionState& state) {
    (void)state;
    return absl::UnimplementedError("this engine's partitions cannot be restored");
  }

  // Returns when no VP of `vps` can use a translation that it had cached before the call. Callable from an exit; two
  // VPs may flush each other at once.
  virtual void FlushTlb(absl::Span<const VpIndex> vps) = 0;

  // With caps.signal_event_fd: a fast HvCallSignalEvent of `connection` with flag 0 counts up `event_fd` in the kernel,
  // without an exit, and returns HV_STATUS_SUCCESS to the guest. Unassign before the fd is closed.
  virtual absl::Status AssignSignalEvent(ConnectionId connection, int event_fd) = 0;
  virtual absl::Status UnassignSignalEvent(ConnectionId connection, int event_fd) = 0;

  // With caps.dirty_log: pages that VPs wrote since they were last taken; one bit a page, ORed into `bitmap`. A
  // page that was touched for the first time may be among them though it was only read. The range is one that
  // MapMemory mapped.
  virtual absl::Status EnableDirtyLog(bool enable) = 0;
  virtual absl::Status TakeDirtyLog(uint64_t gpa, uint64_t size_bytes, absl::Span<uint64_t> bitmap) = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual absl::string_view name() const = 0;
  virtual const BackendCaps& caps() const = 0;
  // `memory` serves page-table walks and engines that execute code themselves; it outlives the partition.
  virtual absl::StatusOr<std::unique_ptr<Partition>> CreatePartition(GuestMemory& memory) = 0;
};

}  // namespace hvsdk::backend

#endif  // HVSDK_BACKEND_BACKEND_H_
