// SPDX-License-Identifier: Apache-2.0
#include "tests/backend_software/system_oracle/differences.h"

#include <cstring>

#include "absl/strings/str_format.h"

namespace hvsdk::oracle {
namespace {

using hvdef::RegisterName;

constexpr const char* kNames[] = {
    "cr0",         "cr2",          "cr3",          "cr4",  "efer",  "rax",   "rcx",    "rdx", "rbx", "rsp",
    "rbp",         "rsi",          "rdi",          "r8",   "r9",    "r10",   "r11",    "r12", "r13", "r14",
    "r15",         "rip",          "rflags",       "es",   "cs",    "ss",    "ds",     "fs",  "gs",  "ldtr",
    "tr",          "idtr",         "gdtr",         "dr0",  "dr1",   "dr2",   "dr3",    "dr6", "dr7", "kernel_gs",
    "sysenter_cs", "sysenter_esp", "sysenter_eip", "star", "lstar", "cstar", "sfmask", "pat"};
static_assert(std::size(kNames) == kStateCount);

hvdef::SegmentRegister AsSegment(const hvdef::RegisterValue& value) {
  hvdef::SegmentRegister segment;
  std::memcpy(&segment, &value, sizeof(segment));
  return segment;
}

// The error code that the last exception pushed.
void ExcuseErrorCode(const SystemOutcome& ours, SystemOutcome& theirs) {
  const int vector = ours.port - kExceptionPort;
  if (vector < 10 || vector > 14) return;
  const hvdef::SegmentRegister stack = AsSegment(ours.state[RegisterName::kSs]);
  const bool in_64 =
      (AsSegment(ours.state[RegisterName::kCs]).attributes & 0x2000) && (ours.state[RegisterName::kEfer].low & 0x400);
  uint64_t at = ours.state[RegisterName::kRsp].low;
  if (!in_64) at = stack.base + (at & (stack.attributes & 0x4000 ? 0xFFFFFFFF : 0xFFFF));
  if (at + 2 > kSystemMemory) return;
  uint16_t our_code, their_code;
  std::memcpy(&our_code, ours.memory.data() + at, 2);
  std::memcpy(&their_code, theirs.memory.data() + at, 2);
  bool excused;
  if (vector == 14) {
    // For a reserved bit QEMU forgets the bits for present and, elsewhere than in the last entry, write (SDM volume
    // 3, 4.7).
    excused = (our_code & 9) == 9 && (their_code & 1) == 0 && (our_code | 3) == (their_code | 3);
  } else {
    // It never sets EXT (SDM volume 3, 6.13), and in long mode takes gates for 16 bytes where it computes a
    // vector's code.
    excused = their_code == (our_code & ~1) || ((our_code & 2) && their_code == ((our_code & 0xFFF8) * 2 | 2));
  }
  if (excused) std::memcpy(theirs.memory.data() + at, &our_code, 2);
}

}  // namespace

std::string Show(const SystemOutcome& outcome) {
  switch (outcome.how) {
    case SystemOutcome::kPort:
      return absl::StrFormat("port %02x", outcome.port);
    case SystemOutcome::kTripleFault:
      return "triple fault";
    default:
      return "no end";
  }
}

void Excuse(const Scenario& scenario, bool qemu, const SystemOutcome& ours, SystemOutcome& theirs) {
  if (ours.how != theirs.how || ours.how == SystemOutcome::kNoEnd) return;
  // LAR leaves bits 19:16 undefined (Intel SDM volume 2).
  if (scenario.uses_lar) {
    uint64_t& value = theirs.state[RegisterName::kRcx].low;
    value = (value & ~uint64_t{0xF0000}) | (ours.state[RegisterName::kRcx].low & 0xF0000);
  }
  if ((AsSegment(ours.state[RegisterName::kLdtr]).selector & ~3) == 0 &&
      (AsSegment(theirs.state[RegisterName::kLdtr]).selector & ~3) == 0) {
    theirs.state[RegisterName::kLdtr] = ours.state[RegisterName::kLdtr];
  }
  // An entry that was used on the way to a fault may or may not be marked as accessed (SDM volume 3, 4.8).
  for (uint64_t at = kPml4Table; at < kPt32 + 0x1000; ++at) {
    if (theirs.memory[at] == (ours.memory[at] | 0x20)) theirs.memory[at] = ours.memory[at];
  }
  // KVM on AMD's processors makes up the granularity from the limit.
  for (int i = StateIndex(RegisterName::kEs); i <= StateIndex(RegisterName::kTr); ++i) {
    const hvdef::SegmentRegister segment = AsSegment(ours.state.values[i]);
    if (segment.limit <= 0xFFFFF) theirs.state.values[i].high |= ours.state.values[i].high & uint64_t{0x8000} << 48;
  }
  // What is behind a segment register that holds no segment is nobody's business.
  for (const RegisterName name :
       {RegisterName::kEs, RegisterName::kSs, RegisterName::kDs, RegisterName::kFs, RegisterName::kGs}) {
    const hvdef::SegmentRegister a = AsSegment(theirs.state[name]), b = AsSegment(ours.state[name]);
    if (a.selector == b.selector && (a.selector & ~3) == 0 && !(b.attributes & 0x80) &&
        (!(a.attributes & 0x80) || name == RegisterName::kSs)) {
      theirs.state[name] = ours.state[name];
    }
  }
  if (!qemu) return;
  // QEMU does not set the accessed bit of code segments and stacks that an interrupt or a call gate loads (SDM volume
  // 3, 3.4.5.1).
  for (const RegisterName name : {RegisterName::kCs, RegisterName::kSs}) {
    theirs.state[name].high |= ours.state[name].high & uint64_t{1} << 48;
  }
  bool accessed = false;
  for (uint64_t at = kGdtBase + 5; at < kGdtBase + kGdtLimit; at += 8) {
    accessed |= (ours.memory[at] & ~theirs.memory[at] & 1) != 0;
    theirs.memory[at] |= ours.memory[at] & 1;
  }
  if (accessed) {  // and then the page is dirty
    for (const uint64_t at : {kPtTable + 8 * (kGdtBase >> 12), kPt32 + 4 * (kGdtBase >> 12)})
      theirs.memory[at] |= ours.memory[at] & 0x60;
  }
  // It leaves RPL in a null FS or GS that goes to an outer ring (SDM volume 2, RET and IRET).
  for (const RegisterName name : {RegisterName::kFs, RegisterName::kGs}) {
    const uint16_t selector = AsSegment(theirs.state[name]).selector;
    if (selector < 4 && AsSegment(ours.state[name]).selector == 0) theirs.state[name] = ours.state[name];
  }
  // It sets an accessed bit in the page-directory-pointer entries of PAE paging, which have none (SDM volume 3,
  // table 4-8).
  for (uint64_t at = kPaePdpt; at < kPaePdpt + 32; at += 8) theirs.memory[at] = ours.memory[at];
  ExcuseErrorCode(ours, theirs);
  // It pushes RF clear for faults (SDM volume 3, 17.3.1.1): bit 16 behind what looks like flags.
  for (uint64_t at = kTss32; at < kSystemMemory; ++at) {
    const bool flags_below = (ours.memory[at - 2] & 0x2A) == 2 && (ours.memory[at - 1] & 0x80) == 0;
    if (flags_below && (ours.memory[at] ^ theirs.memory[at]) == 1 && (ours.memory[at] & 1)) theirs.memory[at] |= 1;
  }
}

bool MissedDoubleFault(const SystemOutcome& theirs, const SystemOutcome& ours) {
  return ours.how == SystemOutcome::kPort && ours.port == kExceptionPort + 8 && theirs.how == SystemOutcome::kPort &&
         theirs.port >= kExceptionPort + 10 && theirs.port <= kExceptionPort + 14;
}

std::string Difference(const SystemOutcome& theirs, const SystemOutcome& ours) {
  if (ours.how != theirs.how || ours.port != theirs.port) {
    std::string text = absl::StrFormat("  ends: theirs %s, ours %s\n", Show(theirs), Show(ours));
    if (theirs.how == SystemOutcome::kPort)
      text += absl::StrFormat("  theirs: rip %x rsp %x\n", theirs.state[RegisterName::kRip].low,
                              theirs.state[RegisterName::kRsp].low);
    if (ours.how == SystemOutcome::kPort)
      text += absl::StrFormat("  ours: rip %x rsp %x\n", ours.state[RegisterName::kRip].low,
                              ours.state[RegisterName::kRsp].low);
    return text;
  }
  // Before a triple fault code may have run that nobody wrote.
  if (ours.how != SystemOutcome::kPort) return "";
  std::string text;
  if (ours.accesses != theirs.accesses) text += "  the port accesses differ\n";
  if (ours.how == SystemOutcome::kPort) {
    const bool in_64 =
        AsSegment(ours.state[RegisterName::kCs]).attributes & 0x2000 && (ours.state[RegisterName::kEfer].low & 0x400);
    for (int i = 0; i < kStateCount; ++i) {
      hvdef::RegisterValue a = theirs.state.values[i], b = ours.state.values[i];
      // Outside 64-bit mode the upper halves of registers are nobody's.
      if (!in_64 && kStateNames[i] >= RegisterName::kRax && kStateNames[i] <= RegisterName::kRdi) {
        a.low &= 0xFFFFFFFF;
        b.low &= 0xFFFFFFFF;
      }
      // During the exit of an OUT, engines may be before or behind the instruction.
      if (kStateNames[i] == RegisterName::kRip && a.low == b.low + 2) a.low = b.low;
      if (a.low == b.low && a.high == b.high) continue;
      text += absl::StrFormat("  %-12s theirs %016x:%016x ours %016x:%016x\n", kNames[i], a.high, a.low, b.high, b.low);
    }
  }
  int shown = 0;
  for (size_t i = 0; i < kSystemMemory && shown < 12; ++i) {
    if (theirs.memory[i] == ours.memory[i]) continue;
    text += absl::StrFormat("  memory at %05x: theirs %02x ours %02x\n", i, theirs.memory[i], ours.memory[i]);
    ++shown;
  }
  return text;
}

std::string Stack(const SystemOutcome& outcome) {
  if (outcome.how != SystemOutcome::kPort) return Show(outcome) + "\n";
  const hvdef::SegmentRegister stack = AsSegment(outcome.state[RegisterName::kSs]);
  uint64_t at = outcome.state[RegisterName::kRsp].low;
  if (!(outcome.state[RegisterName::kEfer].low & 0x400))
    at = stack.base + (at & (stack.attributes & 0x4000 ? 0xFFFFFFFF : 0xFFFF));
  std::string text = absl::StrFormat("%s, stack at %x:", Show(outcome), at);
  for (int i = 0; i < 14 && at + 4 <= kSystemMemory; ++i, at += 4) {
    uint32_t word;
    std::memcpy(&word, outcome.memory.data() + at, 4);
    text += absl::StrFormat(" %x", word);
  }
  return text + "\n";
}

}  // namespace hvsdk::oracle
