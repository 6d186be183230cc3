// SPDX-License-Identifier: Apache-2.0
// The state of one processor and the functions that handlers share. Handlers are grouped by file (ops_*.cc, sse_*.cc,
// x87.cc); what they call lives in mmu.cc, exceptions.cc, far_transfer.cc, system.cc and code_cache.cc.
//
// Everything here belongs to the VP's own thread, but for the members under "shared".
//
// A fault inside an instruction leaves it by longjmp to the loop in RunGuest (Raise is [[noreturn]]). So no function
// between the loop and Raise may own anything with a destructor.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_CPU_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_CPU_H_

#include <atomic>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "backend_software/decoded_block.h"
#include "backend_software/features.h"
#include "backend_software/flags.h"
#include "backend_software/physical_memory.h"
#include "backend_software/x87.h"
#include "base/wait_word.h"
#include "hvsdk/backend/backend.h"

// Handlers go on by a jump where the compiler makes one of a call in tail position; else the loop in RunOps calls.
#if defined(HVSDK_SOFTWARE_TAIL_CALLS) && defined(__clang__)
#define HVSDK_NEXT(next)                                     \
  do {                                                       \
    const Op* next_op = (next);                              \
    [[clang::musttail]] return next_op->handler(c, next_op); \
  } while (false)
#elif defined(HVSDK_SOFTWARE_TAIL_CALLS)
#define HVSDK_NEXT(next)                 \
  do {                                   \
    const Op* next_op = (next);          \
    return next_op->handler(c, next_op); \
  } while (false)
#else
#define HVSDK_NEXT(next) return (next)
#endif

namespace hvsdk::software {

class CodeCache;
class Machine;
struct Cpu;

enum SegmentIndex : uint8_t { kEs, kCs, kSs, kDs, kFs, kGs, kLdtr, kTr };

// Slots of Cpu::r after the sixteen general registers.
enum Slot : uint8_t {
  kRax,
  kRcx,
  kRdx,
  kRbx,
  kRsp,
  kRbp,
  kRsi,
  kRdi,
  kIp = 16,      // offset of the current block's first byte; between blocks, the instruction pointer
  kZero = 17,    // always 0
  kSegmentBase,  // eight, by SegmentIndex
  kSlots = kSegmentBase + 8,
};
constexpr uint8_t SlotOffset(int slot) { return static_cast<uint8_t>(slot * 8); }
static_assert(kSlots * 8 <= 256);

enum Vector : uint8_t {
  kDivideError = 0,
  kDebug = 1,
  kNmi = 2,
  kBreakpoint = 3,
  kOverflow = 4,
  kBoundRange = 5,
  kInvalidOpcode = 6,
  kDeviceNotAvailable = 7,
  kDoubleFault = 8,
  kInvalidTss = 10,
  kSegmentNotPresent = 11,
  kStackFault = 12,
  kGeneralProtection = 13,
  kPageFault = 14,
  kX87Error = 16,
  kAlignmentCheck = 17,
  kMachineCheck = 18,
  kSimdError = 19,
  kVectorMask = 0xFF,
};

// Reasons to leave the fast path at the end of a block (Cpu::attention).
inline constexpr uint32_t kAttentionKick = 1;
inline constexpr uint32_t kAttentionInterrupt = 2;  // the local APIC may have something, or an exception was injected
inline constexpr uint32_t kAttentionRequest = 4;    // another thread changed what this VP cached (Cpu::requests)
inline constexpr uint32_t kAttentionStep = 8;       // TF, breakpoints, an interrupt shadow: one instruction at a time
inline constexpr uint32_t kAttentionCount = 16;     // instructions are counted
inline constexpr uint32_t kAttentionHalt = 32;
inline constexpr uint32_t kAttentionTripleFault = 64;

inline constexpr uint64_t kCr0Pe = 1, kCr0Mp = 2, kCr0Em = 4, kCr0Ts = 8, kCr0Et = 16, kCr0Ne = 32, kCr0Wp = 1 << 16,
                          kCr0Am = 1 << 18;
inline constexpr uint64_t kCr0Nw = 1 << 29, kCr0Cd = 1 << 30, kCr0Pg = 1u << 31;
inline constexpr uint64_t kCr4Vme = 1, kCr4Pvi = 2, kCr4Tsd = 4, kCr4De = 8, kCr4Pse = 16, kCr4Pae = 32, kCr4Mce = 64,
                          kCr4Pge = 128;
inline constexpr uint64_t kCr4Pce = 256, kCr4Osfxsr = 512, kCr4Osxmmexcpt = 1024, kCr4Umip = 1 << 11,
                          kCr4Fsgsbase = 1 << 16;
inline constexpr uint64_t kCr4Pcide = 1 << 17, kCr4Osxsave = 1 << 18, kCr4Smep = 1 << 20, kCr4Smap = 1 << 21;
inline constexpr uint64_t kDr6GeneralDetect = 1 << 13, kDr6SingleStep = 1 << 14, kDr7GeneralDetect = 1 << 13;
inline constexpr uint64_t kEferSce = 1, kEferLme = 1 << 8, kEferLma = 1 << 10, kEferNxe = 1 << 11;

struct Segment {
  uint16_t selector = 0;
  uint16_t attributes = 0;  // as hvdef::SegmentRegister
  uint32_t limit = 0;

  int dpl() const { return attributes >> 5 & 3; }
  int type() const { return attributes & 15; }
  bool system() const { return !(attributes & 0x10); }
  bool present() const { return attributes & 0x80; }
  bool code() const { return (attributes & 0x18) == 0x18; }
  bool big() const { return attributes & 0x4000; }
  bool long_mode() const { return attributes & 0x2000; }
};

struct TableRegister {
  uint64_t base = 0;
  uint16_t limit = 0xFFFF;
};

// A software TLB entry. A tag is the page's linear address when an access of that kind may go straight to
// `addend + address`; with kTlbSlow when it is allowed but takes the long way (MMIO, code, a watched page); kTlbInvalid
// else. One compare tells a hit within the page: the tag against the address of the access' last byte, since an
// access that leaves the page never has its first byte's entry under its last byte's page.
struct TlbEntry {
  uint64_t read;
  uint64_t write;
  uint64_t execute;
  uint64_t addend;
};
inline constexpr uint64_t kTlbInvalid = ~uint64_t{0};
inline constexpr uint64_t kTlbSlow = 1;
inline constexpr int kTlbEntries = 2048;
inline constexpr uint32_t kTlbFilled = 2048;
inline constexpr int kPhysicalAddressBits = 40;

// What the long way needs to know of a TLB entry.
struct TlbPage {
  uint64_t gpa;
  uint8_t* host;  // nullptr: MMIO
  PageState* state;
  bool writable;  // mapped memory that may be written
  bool global;
  bool large;
};

enum TlbMode : uint8_t { kTlbSupervisor, kTlbSupervisorUserAccess, kTlbUser, kTlbModes };

struct JumpEntry {
  uint64_t linear;
  uint64_t tag;
  const Op* op;
  uint64_t instructions;  // of the block
};
// One page's entries are one run of kJumpRun.
inline constexpr int kJumpEntries = 16384;
inline constexpr uint32_t kJumpRun = 128;
inline uint32_t JumpIndex(uint64_t linear) {
  const uint32_t page = static_cast<uint32_t>((linear >> 12) ^ (linear >> 19));
  const uint32_t offset = static_cast<uint32_t>(linear ^ (linear >> 5));
  return (page & (kJumpEntries / kJumpRun - 1)) * kJumpRun | (offset & (kJumpRun - 1));
}

struct alignas(16) Xmm {
  uint8_t bytes[16];
  uint64_t low() const { return Half(0); }
  uint64_t high() const { return Half(8); }
  uint64_t Half(int at) const {
    uint64_t value;
    std::memcpy(&value, bytes + at, 8);
    return value;
  }
};

struct Fault {
  uint8_t vector;
  bool has_error;
  uint32_t error;
};

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

struct Cpu {
  // `cpuid` is what the guest sees, and what decides what it has.
  Cpu(Machine& machine, uint32_t index, uint32_t apic_id, absl::Span<const backend::CpuidEntry> cpuid);
  ~Cpu();
  Cpu(const Cpu&) = delete;
  Cpu& operator=(const Cpu&) = delete;

  // --- hot ---
  uint64_t r[kSlots] = {};
  LazyFlags flags;
  TlbEntry* tlb = nullptr;     // of the current privilege
  WaitWord attention;          // shared; a halted VP sleeps on it
  uint32_t mode = 0;           // ModeBits
  uint64_t code_tag = 0;       // code_generation << 32 | code_limit_epoch << 16 | mode
  uint64_t link_tag = 1;       // counts up whenever a translation or a block may have gone; never repeats
  uint64_t code_base = 0;      // linear address of offset 0 of CS
  uint64_t rflags = kFlagOne;  // all but the arithmetic flags
  const Op* op = nullptr;      // the instruction that may fault
  Xmm xmm[16] = {};
  uint32_t mxcsr = 0x1F80;  // see fpu.h
  uint32_t host_mxcsr = 0x1F80;
  uint16_t host_x87_control = kX87HostControl;
  uint8_t cpl = 0;

  // --- architectural ---
  Segment segment[8];
  TableRegister gdtr, idtr;
  uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, efer = 0, xcr0 = 1;
  uint64_t dr[4] = {};
  uint64_t dr6 = 0xFFFF0FF0, dr7 = 0x400;
  uint64_t star = 0, lstar = 0, cstar = 0, sfmask = 0, kernel_gs_base = 0, tsc_aux = 0, pat = 0x0007040600070406;
  uint64_t sysenter_cs = 0, sysenter_esp = 0, sysenter_eip = 0;
  uint64_t misc_enable = 0x1801, mtrr_def_type = 0, mtrr_fixed[11] = {}, mtrr_variable[16] = {};
  std::atomic<uint64_t> tsc_offset{0};  // written by the VP, read by its APIC's timer
  uint64_t spec_ctrl = 0, platform_id = 0, mcg_status = 0, feature_control = 1, microcode = 0;
  X87State x87;

  // --- event delivery ---
  uint8_t halted = 0;  // backend::Activity
  bool idle = false;   // halted such that an interrupt wakes even with RFLAGS.IF clear
  bool interrupt_shadow = false;
  bool nmi_blocked = false;
  bool nmi_pending = false;
  bool exception_pending = false;
  Fault injected = {};
  uint8_t injected_type = 3;    // as in HV_X64_PENDING_INTERRUPTION_REGISTER
  uint8_t injected_length = 0;  // of the instruction, for software interrupts
  uint64_t pending_debug = 0;   // DR6 bits found by data and port breakpoints of the current instruction
  bool stack_shadow = false;    // the interrupt shadow is that of a new stack segment: debug events wait too
  bool stepping = false;        // the block under way is one instruction
  bool holds_exclusive = false;
  bool trap_after = false;  // TF was set when the instruction under way began
  bool redirected = false;  // an exit changed RIP or the mode
  bool in_exit = false;
  uint64_t exit_ip = 0;  // RIP as seen from an exit

  // --- shared ---
  std::atomic<uint32_t> inside{0};  // in guest code, so caches are in use
  std::atomic<uint64_t> requested{0}, served{0};
  std::atomic<uint32_t> requests{0};

  // --- plumbing ---
  Machine& machine;
  const uint32_t index;
  uint32_t apic_id;
  backend::Vp* vp = nullptr;
  backend::ExitHandler* exits = nullptr;
  const std::vector<backend::CpuidEntry> cpuid;
  const Features features;
  const uint64_t address_mask;  // the address in a paging structure's entry
  std::unique_ptr<CodeCache> code;
  uint64_t instructions = 0;  // done before the block under way; kept only while counting
  uint64_t slice_start = 0;   // of them, before the present slice
  uint32_t block_instructions = 0;
  uint32_t before_exit = 0;  // of the block under way, when an exit has cleared `op`
  std::jmp_buf unwind;
  Fault fault = {};
  int delivering = -1;  // the vector under delivery
  uint32_t spins = 0;   // PAUSE seen

  TlbEntry tlb_entries[kTlbModes][kTlbEntries];
  TlbPage tlb_pages[kTlbModes][kTlbEntries];
  // Entries filled since the last flush with what is not global, so that a flush need not look at all; a count beyond
  // the array says that it must.
  uint16_t tlb_filled[kTlbFilled];
  uint32_t tlb_filled_count = 0;
  // The linear range that entries from large pages lie in, by half of the address space; INVLPG inside looks at all.
  uint64_t large_low[2], large_high[2];
  uint32_t code_generation = 0;
  // Blocks in the jump cache lie within CS.limit. Outside 64-bit mode and flat segments, whose epoch is 0, they do so
  // only for the end of the segment that they were looked up with; another end begins another epoch.
  uint16_t code_limit_epoch = 0;
  uint16_t last_limit_epoch = 0;
  uint64_t last_limit_end = 0;  // base + limit
  JumpEntry jump[kJumpEntries];

  // --- registers ---
  template <typename T>
  T Get(uint8_t offset) const {
    T value;
    std::memcpy(&value, reinterpret_cast<const char*>(r) + offset, sizeof(T));
    return value;
  }
  template <typename T>
  void Set(uint8_t offset, T value) {
    if constexpr (sizeof(T) == 4) {
      const uint64_t wide = static_cast<uint32_t>(value);
      std::memcpy(reinterpret_cast<char*>(r) + offset, &wide, 8);
    } else {
      std::memcpy(reinterpret_cast<char*>(r) + offset, &value, sizeof(T));
    }
  }
  Xmm& XmmAt(uint8_t offset) { return *reinterpret_cast<Xmm*>(reinterpret_cast<char*>(xmm) + offset); }
  uint64_t& base(int segment_index) { return r[kSegmentBase + segment_index]; }

  bool Is64() const { return (mode & kModeBitsMask) == kModeBits64; }
  bool IsProtected() const { return cr0 & kCr0Pe; }
  bool IsVm86() const { return rflags & kFlagVm; }
  bool IsRealOrVm86() const { return !IsProtected() || IsVm86(); }
  bool IsLong() const { return efer & kEferLma; }
  int Iopl() const { return static_cast<int>(rflags >> 12 & 3); }
  uint64_t IpMask() const { return Is64() ? ~uint64_t{0} : 0xFFFFFFFF; }
  uint64_t CodeLinear() const { return Is64() ? r[kIp] : (r[kIp] + code_base) & 0xFFFFFFFF; }
  // How many bytes of code there are from r[kIp] on before CS.limit. A segment of 4 GiB wraps without a fault.
  bool CodeIsLimited() const { return !Is64() && segment[kCs].limit != 0xFFFFFFFF; }
  uint64_t CodeBytesLeft() const { return CodeIsLimited() ? segment[kCs].limit - r[kIp] + 1 : ~uint64_t{0}; }
  uint64_t NextIp(const Op* at) const { return r[kIp] + at->ip + at->length; }
  uint64_t GetRflags() const { return rflags | flags.Get(); }
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
  TlbEntry& EntryFor(uint64_t linear, TlbMode as) {
    return tlb_entries[as][(linear >> kPageShift) & (kTlbEntries - 1)];
  }
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
  // Goes on at r[kIp]: the next block's first operation, or nullptr to leave.
  const Op* Continue();
  const Op* ContinueMiss();
  void UpdateMode();      // after any change of CS, SS, CR0, CR4, EFER, CPL, AC
  void UpdateStepping();  // after any change of TF, DR7, the interrupt shadow or `stepping`
  void Idle();            // sleeps from the next instruction on, until an interrupt arrives, masked or not
  void LookAtApic();      // the VP itself changed what its APIC may deliver
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
  void Cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4]) const;
  void Reset();
  void Init();

  // --- exits: the guest is left and entered again around each (machine.cc) ---
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

constexpr bool IsCanonical(uint64_t address) {
  return static_cast<uint64_t>(static_cast<int64_t>(address << 16) >> 16) == address;
}

// Goes on at r[kIp], which the handler has set, by the jump cache.
inline const Op* LookUpJump(Cpu& c) {
  if (c.attention.load(std::memory_order_relaxed) != 0) [[unlikely]]
    return nullptr;
  const uint64_t linear = c.r[kIp] + c.code_base;
  const JumpEntry& entry = c.jump[JumpIndex(linear)];
  if (entry.linear == linear && entry.tag == c.code_tag) [[likely]]
    return entry.op;
  return c.ContinueMiss();
}

// The same as a handler's last act, without a stack frame.
inline const Op* GoOn(Cpu& c, [[maybe_unused]] const Op* op) {
  if (c.attention.load(std::memory_order_relaxed) != 0) [[unlikely]]
    return nullptr;
  const uint64_t linear = c.r[kIp] + c.code_base;
  const JumpEntry& entry = c.jump[JumpIndex(linear)];
  if (entry.linear == linear && entry.tag == c.code_tag) [[likely]]
    HVSDK_NEXT(entry.op);
  return c.ContinueMiss();
}

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_CPU_H_
