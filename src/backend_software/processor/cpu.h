// SPDX-License-Identifier: Apache-2.0
// A processor: its state (Registers, Events, Tlb) and the functions that handlers share. Handlers are grouped by file (integer/,
// vector/); what they call lives here, in mmu.cc, exceptions.cc, far_transfer.cc, system.cc, msr.cc, debug.cc.
//
// Everything here belongs to the VP's own thread, but for the members under "shared".
//
// A fault inside an instruction leaves it by longjmp to the loop in RunGuest (Raise is [[noreturn]]). So no function
// between the loop and Raise may own anything with a destructor.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_CPU_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_CPU_H_

#include <atomic>
#include <csetjmp>
#include <cstdint>
#include <vector>

#include "backend_software/processor/events.h"
#include "backend_software/processor/features.h"
#include "backend_software/processor/physical_memory.h"
#include "backend_software/processor/processor_host.h"
#include "backend_software/processor/registers.h"
#include "backend_software/processor/tlb.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/interrupt/local_apic.h"

namespace hvsdk::software {

class CodeCache;

inline constexpr uint32_t kAccessRead = 0, kAccessWrite = 2, kAccessExecute = 16;  // page-fault error bits

inline constexpr uint32_t kFaultPresent = 1, kFaultUser = 4, kFaultReserved = 8, kFaultFetch = 16;

// Result of a walk of the guest's page tables.
struct Walk {
  bool allowed = false;
  bool present = false;  // a leaf was found; what follows is valid
  uint64_t gpa = 0;      // of the 4 KiB page
  bool user = false;
  bool writable = false;  // for the privilege asked for
  bool executable = false;
  bool dirty = false;
  bool global = false;
  bool large = false;
  uint32_t error = 0;  // the page fault's error code when not allowed
};

struct Cpu : Registers, Events, Tlb {
  // `cpuid` is what the guest sees, and what decides what it has. Counting, VPs run in turn, and instructions are counted.
  Cpu(ProcessorHost& host, PhysicalMemory& memory, bool counting, uint32_t index, uint32_t apic_id,
      absl::Span<const backend::CpuidEntry> cpuid);
  Cpu(const Cpu&) = delete;
  Cpu& operator=(const Cpu&) = delete;

  // --- the instruction under way ---
  const Op* op = nullptr;  // the one that may fault
  uint32_t host_mxcsr = 0x1F80;
  uint16_t host_x87_control = kX87HostControl;
  bool holds_exclusive = false;
  bool redirected = false;  // an exit changed RIP or the mode
  bool in_exit = false;
  uint64_t exit_ip = 0;  // RIP as seen from an exit
  uint32_t spins = 0;    // PAUSE seen
  std::jmp_buf unwind;

  // --- counting ---
  uint64_t instructions = 0;  // done before the block under way; kept only while counting
  uint64_t slice_start = 0;   // of them, before the present slice
  uint32_t block_instructions = 0;
  uint32_t before_exit = 0;  // of the block under way, when an exit has cleared `op`

  // --- shared ---
  std::atomic<uint32_t> inside{0};  // in guest code, so caches are in use
  std::atomic<uint64_t> requested{0}, served{0};
  std::atomic<uint32_t> requests{0};

  // --- around it ---
  ProcessorHost& host;
  PhysicalMemory& memory;
  const bool counting;
  const uint32_t index;
  const uint32_t apic_id;
  const std::vector<backend::CpuidEntry> cpuid;
  const Features features;
  const uint64_t address_mask;  // the address in a paging structure's entry
  // Set before it runs.
  interrupt::LocalApic* apic = nullptr;
  CodeCache* code = nullptr;
  backend::Vp* vp = nullptr;
  backend::ExitHandler* exits = nullptr;

  uint64_t CodeLinear() const { return Is64() ? r[kIp] : (r[kIp] + code_base) & 0xFFFFFFFF; }
  void SetRflags(uint64_t value);  // unchecked; takes effect at once

  // --- faults ---
  [[noreturn]] void Raise(uint8_t vector);
  [[noreturn]] void Raise(uint8_t vector, uint32_t error);
  [[noreturn]] void RaisePageFault(uint64_t linear, uint32_t error);
  void Undefined(const Op* at) __attribute__((noreturn)) {
    op = at;
    Raise(kInvalidOpcode);
  }

  // --- breakpoints (debug.cc) ---
  uint64_t InstructionBreakpoints() const;  // the bits of DR6 for those at r[kIp]
  void CheckWatchpoints(uint64_t linear, int size, bool write);
  void CheckPortWatchpoints(uint16_t port, int size);
  [[noreturn]] void RaiseDebug(uint64_t dr6_bits);

  // --- memory: the long way (mmu.cc) ---
  uint64_t LoadSlow(const Op* at, uint64_t linear, int size);
  void StoreSlow(const Op* at, uint64_t linear, uint64_t value, int size);
  uint64_t LoadForWriteSlow(const Op* at, uint64_t linear, int size);  // faults as a write would
  void LoadBytes(const Op* at, uint64_t linear, void* to, int size);
  void StoreBytes(const Op* at, uint64_t linear, const void* from, int size);
  void ProbeWrite(const Op* at, uint64_t linear, int size);
  // Host bytes of memory that may be read or written directly, all in one page; nullptr where that cannot be.
  uint8_t* HostForRead(const Op* at, uint64_t linear, int size);
  uint8_t* HostForWrite(const Op* at, uint64_t linear, int size);
  // A locked access that has no fast entry. Host bytes to operate on atomically, or nullptr when the bytes are in two
  // pages or not memory: then `exclusive` is held, and Load/Store do it. EndLocked ends either.
  uint8_t* BeginLocked(const Op* at, uint64_t linear, int size);
  void EndLocked(uint64_t linear, int size, bool exclusive);
  // Accesses of the processor itself (descriptor tables, TSS): supervisor's, whatever CPL is.
  uint64_t LoadSystem(uint64_t linear, int size);
  void StoreSystem(uint64_t linear, uint64_t value, int size, TlbMode as = kTlbSupervisor);

  uint64_t LegacyAddress(const Op* at, int size, bool write);
  uint64_t LegacyOffset(const Op* at) const;                                         // without the segment's base
  uint64_t SegmentLinear(int segment_index, uint64_t offset, int size, bool write);  // checks; any mode
  uint64_t StackLinear(uint64_t offset, int size, bool write) { return SegmentLinear(kSs, offset, size, write); }

  Walk WalkPages(uint64_t linear, uint32_t access, TlbMode as, bool set_accessed_dirty);
  TlbPage& FillTlb(uint64_t linear, uint32_t access, TlbMode as);
  TlbPage& Resolve(uint64_t linear, uint32_t access, TlbMode as);
  bool MakeWriteFast(TlbEntry& entry, TlbPage& page, uint64_t tag);
  void CheckLinear(const Op* at, uint64_t linear, int size);
  uint64_t LoadPiece(uint64_t linear, int size, uint32_t access);
  void StorePiece(uint64_t linear, uint64_t value, int size, TlbMode as);
  void WroteSlow(uint64_t gpa, int size, PageState& state);  // after a write that no fast entry announced
  void FlushTlb(bool keep_global);
  void FlushTlbPage(uint64_t linear);
  void PurgeWrites(const PageState* only);  // nullptr: all
  void BumpCodeGeneration();
  void UpdateCodeTag();
  TlbMode DataTlbMode() const;

  // --- stack (any mode) ---
  void Push(uint64_t value, int size);
  uint64_t Pop(int size);
  uint64_t StackMask() const { return Is64() ? ~uint64_t{0} : (mode & kModeStack32) ? 0xFFFFFFFFull : 0xFFFFull; }
  void SetSp(uint64_t value) {
    const uint64_t mask = StackMask();
    r[kRsp] = mask == 0xFFFF ? (r[kRsp] & ~mask) | (value & mask) : value & mask;
  }

  // --- control transfer ---
  void UpdateMode();      // after any change of CS, SS, CR0, CR4, EFER, CPL, AC
  void UpdateStepping();  // after any change of TF, DR7, the interrupt shadow or `stepping`
  void Idle();            // sleeps from the next instruction on, until an interrupt arrives, masked or not
  void LookAtApic();      // the VP itself changed what its APIC may deliver
  // The 8259s request an interrupt that this VP takes.
  bool HasExtInt() { return host.pic().interrupt() && apic->accepts_extint(); }
  bool MayInterrupt() { return apic->PendingVector() >= 0 || HasExtInt(); }
  void BeginShadow(
      bool stack);  // the next instruction runs before any interrupt; after a load of SS, before a debug event
  void EndShadow();
  void SetNmiBlocked(bool blocked);  // one that was latched meanwhile comes before the next instruction

  // --- events (exceptions.cc) ---
  // Goes through the interrupt table. Nothing is changed until nothing can fault any more.
  struct Event {
    uint8_t vector;
    bool has_error = false;
    uint32_t error = 0;
    bool software = false;  // INT n, INT3, INTO: the gate's DPL counts
    bool external = false;  // sets the EXT bit of faults on the way
    uint64_t return_ip = 0;
    uint64_t pushed_rf = 0;  // kFlagRf for faults
  };
  void Interrupt(const Event& event);
  void InterruptReal(const Event& event);
  void InterruptLong(const Event& event);
  void InterruptProtected(const Event& event);
  // After a fault: delivers it, or what it makes of the delivery under way. False: triple fault.
  bool DeliverFault();

  // --- segments (far_transfer.cc) ---
  struct Descriptor {
    uint64_t base;
    Segment segment;
    uint64_t raw;
    uint64_t linear;  // where the descriptor is
  };
  bool ReadDescriptor(uint16_t selector, Descriptor& descriptor);
  void LoadSegment(int segment_index, uint16_t selector);
  void SetSegmentReal(int segment_index, uint16_t selector);
  void SetSegment(int segment_index, uint16_t selector, const Descriptor& descriptor);
  void SetNullSegment(int segment_index, uint16_t selector);
  void FarJump(uint16_t selector, uint64_t offset, int size);
  void FarCall(uint16_t selector, uint64_t offset, int size, uint64_t return_ip);
  void FarReturn(int size, uint32_t pop);
  void InterruptReturn(int size);
  [[noreturn]] void ReturnToTask();
  void SetCodeSegment(uint16_t selector, const Descriptor& descriptor, int new_cpl);
  void SetAccessedBit(Descriptor& descriptor);
  void TaskStack(int privilege, uint32_t ext, uint16_t& selector, uint64_t& sp);
  void CheckCodeDescriptor(uint16_t selector, const Descriptor& descriptor, uint32_t ext);
  void CheckIpLimit(const Descriptor& descriptor, uint64_t ip);
  void ReadReturnCode(uint16_t cs, uint64_t ip, Descriptor& code);
  void CallGate(uint16_t selector, const Descriptor& gate, bool call, uint64_t return_ip);
  void ReturnOuter(uint16_t cs, const Descriptor& code, uint64_t ip, uint16_t ss, uint64_t sp);
  void SetFlatSegments(uint16_t cs, uint16_t ss, int new_cpl, bool long_mode);  // SYSCALL and its kin

  // --- system (system.cc, msr.cc) ---
  // #GP if PAE paging would begin with page-directory-pointer entries that have reserved bits.
  void CheckPaePointers(uint64_t new_cr0, uint64_t new_cr3, uint64_t new_cr4);
  void SetCr0(uint64_t value);
  void SetCr3(uint64_t value);
  void SetCr4(uint64_t value);
  bool SetEfer(uint64_t value);
  void CheckPort(uint16_t port, int size);  // #GP unless the privilege or the TSS allows it
  uint64_t ReadTsc() const;
  bool ReadMsr(uint32_t number, uint64_t& value);  // false: #GP
  backend::MsrOutcome WriteMsr(uint32_t number, uint64_t value);
  // The event under delivery, as HV_X64_PENDING_INTERRUPTION_REGISTER: 0 if there is none.
  uint64_t PendingInterruption() const;
  void SetPendingInterruption(uint64_t event);
  // Of the MSRs that are plain values which the guest may change: where it is kept, or nullptr.
  uint64_t* PlainMsr(uint32_t number);
  static absl::Span<const uint32_t> PlainMsrs();           // ascending
  bool MayHoldMsr(uint32_t number, uint64_t value) const;  // one of them
  void Cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4]) const;
  void Reset();
  void Init();

  // --- exits: the guest is left and entered again around each (exits.cc) ---
  void Leave();
  void Enter();
  void BeginExit();  // Leave, and the handler sees exit_ip as RIP
  void EndExit();
  void PortRead(uint16_t port, uint8_t* data, int size);
  void PortWrite(uint16_t port, const uint8_t* data, int size);
  void PhysicalRead(uint64_t gpa, uint8_t* data, int size);
  void PhysicalWrite(uint64_t gpa, const uint8_t* data, int size);

  // --- requests of other threads ---
  void ServeRequests();
  uint64_t vp_bit() const { return uint64_t{1} << index; }
};

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_CPU_H_
