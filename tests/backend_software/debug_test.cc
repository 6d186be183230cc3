// SPDX-License-Identifier: Apache-2.0
// Debug exceptions, case by case through Intel SDM volume 3, chapters 6.8.3 and 17. The guest's handler writes down
// each exception.

#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "tests/backend_software/software_test.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

constexpr uint64_t kLogGpa = 0x82000;
constexpr uint64_t kLogPointer = 0x81000;
constexpr uint64_t kWatched = 0x80040;

// Writes RIP, DR6 and RFLAGS to the log, clears DR6, and sets RF in the frame if the exception came at the address in
// DR0, since the processor leaves that to the handler.
HVSDK_GUEST(DebugHandler, 64, R"(
    push rax
    push rbx
    mov rbx, [0x81000]
    mov rax, [rsp + 16]
    mov [rbx], rax
    mov rax, dr6
    mov [rbx + 8], rax
    mov rax, [rsp + 32]
    mov [rbx + 16], rax
    add rbx, 24
    mov [0x81000], rbx
    xor eax, eax
    mov dr6, rax
    mov rax, dr0
    cmp rax, [rsp + 16]
    jne 1f
    or dword ptr [rsp + 32], 0x10000
1:  pop rbx
    pop rax
    iretq
)")
HVSDK_GUEST(PlainHandler, 64, "iretq\n")

struct Seen {
  uint64_t offset;  // of RIP from kCodeGpa
  uint64_t dr6;     // B0 to B3, BD, BS
  bool rf;
  bool operator==(const Seen& other) const = default;
};
std::ostream& operator<<(std::ostream& out, const Seen& seen) {
  return out << absl::StrFormat("{%#x, %#x, RF %d}", seen.offset, seen.dr6, seen.rf);
}

constexpr uint64_t kBs = 1 << 14, kBd = 1 << 13;
enum Kind : uint64_t { kExecute, kWrite, kPort, kReadWrite };
// DR7 for breakpoint `i`, locally enabled.
constexpr uint64_t Dr7(int i, Kind kind, int length) {
  const uint64_t len = length == 1 ? 0 : length == 2 ? 1 : length == 8 ? 2 : 3;
  return uint64_t{1} << (2 * i) | (static_cast<uint64_t>(kind) | len << 2) << (16 + 4 * i) | 0x400;
}

class DebugTest : public SoftwareTest {
 protected:
  // Starts `code`, with breakpoints and RFLAGS, runs it to its end and returns what the handler saw. The OUT at the end
  // stops the VP before the handler of its own trap runs.
  std::vector<Seen> Run(absl::Span<const uint8_t> code, uint64_t dr0, uint64_t dr7, uint64_t rflags = 2,
                        uint64_t cr4 = 0) {
    machine().Load(kCodeGpa, code);
    return Run(kCodeGpa, dr0, dr7, rflags, cr4);
  }
  std::vector<Seen> Run(uint64_t rip, uint64_t dr0, uint64_t dr7, uint64_t rflags = 2, uint64_t cr4 = 0) {
    machine().Start(Mode::kLong, rip);
    machine().Load(0x11000, DebugHandler());
    machine().Load(0x11100, PlainHandler());
    machine().SetHandler(Mode::kLong, 1, 0x11000);
    machine().SetHandler(Mode::kLong, 0x41, 0x11100);
    machine().Write<uint64_t>(kLogPointer, kLogGpa);
    machine().Set(RegisterName::kCr4, 0x620 | cr4);
    machine().Set(RegisterName::kDr0, dr0);
    machine().Set(RegisterName::kDr6, 0xFFFF0FF0);
    machine().Set(RegisterName::kDr7, dr7 | 0x400);
    machine().Set(RegisterName::kRflags, rflags);
    recorder_.fault = -1;
    recorder_.events.clear();
    machine().Run(recorder_);
    std::vector<Seen> log;
    const auto end = machine().Read<uint64_t>(kLogPointer);
    for (uint64_t at = kLogGpa; at < end; at += 24) {
      EXPECT_EQ(machine().Read<uint64_t>(at + 8) & 0xFFFF0FF0, 0xFFFF0FF0u);
      log.push_back({machine().Read<uint64_t>(at) - kCodeGpa, machine().Read<uint64_t>(at + 8) & 0xF00F,
                     (machine().Read<uint64_t>(at + 16) & 0x10000) != 0});
    }
    return log;
  }
};

using Log = std::vector<Seen>;

// ---- single steps ----

HVSDK_GUEST(PopTrapFlag, 64, R"(
    pushfq
    or dword ptr [rsp], 0x100
    popfq
    nop
    pushfq
    and dword ptr [rsp], 0xFFFFFEFF
    popfq
    nop
    out 0xF4, al
)")
TEST_F(DebugTest, PopfTrapsByTheFlagAsItWas) {
  EXPECT_EQ(Run(PopTrapFlag(), 0, 0), (Log{{10, kBs, false}, {11, kBs, false}, {18, kBs, false}, {19, kBs, false}}));
}

HVSDK_GUEST(InterruptReturns, 64, R"(
    mov ecx, 0x102
1:  mov rax, rsp
    mov edx, ss
    push rdx
    push rax
    push rcx
    mov edx, cs
    push rdx
    lea rdx, [rip + 2f]
    push rdx
    iretq
2:  nop
    nop
    cmp ecx, 2
    mov ecx, 2
    jne 1b
    nop
    out 0xF4, al
)")
TEST_F(DebugTest, IretTrapsByTheFlagAsItWas) {
  const Log log = Run(InterruptReturns(), 0, 0);
  ASSERT_GE(log.size(), 3u);
  const uint64_t target = log[0].offset - 1;
  EXPECT_EQ(machine().Read<uint8_t>(kCodeGpa + target), 0x90);
  EXPECT_EQ(log[0], (Seen{target + 1, kBs, false})) << "not behind the IRET that set TF";
  EXPECT_EQ(log.back(), (Seen{target, kBs, false})) << "but behind the one that cleared it";
  // NOP NOP CMP MOV JNE, and the ten up to IRETQ.
  EXPECT_EQ(log.size(), 5u + 10);
}

HVSDK_GUEST(Halt, 64, R"(
    nop
    hlt
    nop
    out 0xF4, al
)")
TEST_F(DebugTest, ATrapBehindHltWakes) {
  EXPECT_EQ(Run(Halt(), 0, 0, 0x102), (Log{{1, kBs, false}, {2, kBs, false}, {3, kBs, false}}));
}

HVSDK_GUEST(IdleByMsr, 64, R"(
    mov ecx, 0x400000F0
    rdmsr
    nop
    out 0xF4, al
)")
TEST_F(DebugTest, ATrapBehindAnMsrThatIdlesWakes) {
  recorder_.on_msr_read = [](Vp&, uint32_t, uint64_t&) { return MsrOutcome::kHalt; };
  EXPECT_EQ(Run(IdleByMsr(), 0, 0, 0x102), (Log{{5, kBs, false}, {7, kBs, false}, {8, kBs, false}}));
}

HVSDK_GUEST(HaltByPort, 64, R"(
    out 0x80, al
    nop
    out 0xF4, al
)")
TEST_F(DebugTest, AnExceptionThatIsInjectedWakes) {
  recorder_.on_port_write = [](Vp& vp, uint16_t, absl::Span<const uint8_t>) {
    ASSERT_TRUE(vp.SetActivity(Activity::kHalted).ok());
    vp.InjectException({6, absl::nullopt});
  };
  Run(HaltByPort(), 0, 0);
  EXPECT_EQ(recorder_.fault, 6);
}

HVSDK_GUEST(SoftwareInterrupts, 64, R"(
    int 0x41
    nop
    out 0xF4, al
)")
TEST_F(DebugTest, SoftwareInterruptsClearTheFlag) {
  EXPECT_EQ(Run(SoftwareInterrupts(), 0, 0, 0x102), (Log{{3, kBs, false}}));
}

HVSDK_GUEST(LoadStackSegment, 64, R"(
    mov eax, ss
    mov ss, eax
    nop
    nop
    out 0xF4, al
)")
TEST_F(DebugTest, NoStepBehindALoadOfTheStackSegment) {
  EXPECT_EQ(Run(LoadStackSegment(), 0, 0, 0x102), (Log{{2, kBs, false}, {5, kBs, false}, {6, kBs, false}}));
}

HVSDK_GUEST(Repeat, 64, R"(
    mov edi, 0x80040
    mov ecx, 3
    rep stosb
    nop
    out 0xF4, al
)")
TEST_F(DebugTest, EachIterationIsAStep) {
  EXPECT_EQ(
      Run(Repeat(), 0, 0, 0x102),
      (Log{{5, kBs, false}, {10, kBs, false}, {10, kBs, true}, {10, kBs, true}, {12, kBs, false}, {13, kBs, false}}));
}

HVSDK_GUEST(EnableInterrupts, 64, R"(
    sti
    nop
    cli
    out 0xF4, al
)")
TEST_F(DebugTest, StiShadowsNoDebugEvent) {
  EXPECT_EQ(Run(EnableInterrupts(), 0, 0, 0x102), (Log{{1, kBs, false}, {2, kBs, false}, {3, kBs, false}}));
  EXPECT_EQ(Run(EnableInterrupts(), kCodeGpa + 1, Dr7(0, kExecute, 1)), (Log{{1, 1, false}}));
}

// ---- instruction breakpoints ----

HVSDK_GUEST(Instructions, 64, R"(
    nop
    .byte 0x3E, 0x66, 0x90
    nop
    out 0xF4, al
)")
TEST_F(DebugTest, AnInstructionBreakpointIsAFaultAtTheFirstByte) {
  EXPECT_EQ(Run(Instructions(), kCodeGpa + 1, Dr7(0, kExecute, 1)), (Log{{1, 1, false}}));
  EXPECT_EQ(Run(Instructions(), kCodeGpa + 2, Dr7(0, kExecute, 1)), Log{}) << "not the first byte";
  EXPECT_EQ(Run(Instructions(), kCodeGpa + 1, Dr7(0, kExecute, 1) & ~uint64_t{1}), Log{}) << "not enabled";
  EXPECT_EQ(Run(Instructions(), kCodeGpa + 1, Dr7(0, kExecute, 1) << 1 & 2), (Log{{1, 1, false}})) << "globally";
}

TEST_F(DebugTest, AStepComesBeforeTheNextInstructionsBreakpoint) {
  // The handler sets RF at DR0's address, so the breakpoint there is not met behind the step.
  EXPECT_EQ(Run(Instructions(), kCodeGpa + 4, Dr7(0, kExecute, 1), 0x102),
            (Log{{1, kBs, false}, {4, kBs, false}, {5, kBs, false}}));
}

TEST_F(DebugTest, NoInstructionBreakpointBehindALoadOfTheStackSegment) {
  EXPECT_EQ(Run(LoadStackSegment(), kCodeGpa + 4, Dr7(0, kExecute, 1)), Log{});
  EXPECT_EQ(Run(LoadStackSegment(), kCodeGpa + 5, Dr7(0, kExecute, 1)), (Log{{5, 1, false}}));
}

TEST_F(DebugTest, ARepeatedInstructionMeetsItsBreakpointOnce) {
  EXPECT_EQ(Run(Repeat(), kCodeGpa + 10, Dr7(0, kExecute, 1)), (Log{{10, 1, false}}));
}

TEST_F(DebugTest, ABreakpointComesBeforeTheFetch) {
  // An instruction across two pages, the second of which is not there.
  const uint64_t at = 0x50FFF;
  machine().Write<uint8_t>(at, 0xB8);
  machine().Write<uint64_t>(kFirstPageTableGpa + 0x51 * 8, 0);
  EXPECT_EQ(Run(at, at, Dr7(0, kExecute, 1)), (Log{{at - kCodeGpa, 1, false}}));
  EXPECT_EQ(recorder_.fault, 14);
  EXPECT_EQ(machine().ReadFrame(14).rflags & 0x10000, 0x10000u);
  EXPECT_EQ(machine().Get(RegisterName::kCr2), at + 1);
}

HVSDK_GUEST(Short32, 32, R"(
    nop
    inc ebx
    out 0xF4, al
)")
TEST_F(DebugTest, AnInstructionBreakpointIsALinearAddress) {
  machine().Load(0x30007, Short32());
  machine().Start(Mode::kProtected, uint64_t{0});
  SetSegment(RegisterName::kCs, 0x30007, 0xFFFF, kCode32, 0x409B);
  machine().Set(RegisterName::kDr0, 0x30008);
  machine().Set(RegisterName::kDr7, Dr7(0, kExecute, 1));
  machine().Set(RegisterName::kRbx, 0);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, 1);
  EXPECT_EQ(machine().Get(RegisterName::kRbx), 0u);
  EXPECT_EQ(machine().Read<uint32_t>(machine().Get(RegisterName::kRsp)), 1u);
}

// ---- data breakpoints ----

HVSDK_GUEST(Accesses, 64, R"(
    mov edi, 0x80040
    mov al, [rdi]
    mov [rdi], al
    inc byte ptr [rdi]
    cmp byte ptr [rdi], 1
    lock add byte ptr [rdi], 0
    movdqu xmm0, [rdi - 8]
    movdqu [rdi - 8], xmm0
    fild word ptr [rdi - 1]
    fistp word ptr [rdi - 1]
    out 0xF4, al
)")
TEST_F(DebugTest, DataBreakpointsAreTrapsByKind) {
  // Behind: load 7, store 9, inc 11, cmp 14, lock add 18, SSE load 23, store 28, x87 load 31, store 34.
  EXPECT_EQ(Run(Accesses(), kWatched, Dr7(0, kWrite, 1)),
            (Log{{9, 1, false}, {11, 1, false}, {18, 1, false}, {28, 1, false}, {34, 1, false}}));
  EXPECT_EQ(Run(Accesses(), kWatched, Dr7(0, kReadWrite, 1)), (Log{{7, 1, false},
                                                                   {9, 1, false},
                                                                   {11, 1, false},
                                                                   {14, 1, false},
                                                                   {18, 1, false},
                                                                   {23, 1, false},
                                                                   {28, 1, false},
                                                                   {31, 1, false},
                                                                   {34, 1, false}}));
  EXPECT_EQ(Run(Accesses(), kWatched, Dr7(0, kPort, 1)), Log{});
  EXPECT_EQ(Run(Accesses(), kWatched, Dr7(0, kPort, 1), 2, 8), Log{});
}

HVSDK_GUEST(Store1, 64, "mov [rdi], al; out 0xF4, al\n")
HVSDK_GUEST(Store2, 64, "mov [rdi], ax; out 0xF4, al\n")
HVSDK_GUEST(Store4, 64, "mov [rdi], eax; out 0xF4, al\n")
HVSDK_GUEST(Store8, 64, "mov [rdi], rax; out 0xF4, al\n")
TEST_F(DebugTest, TheLengthMasksTheAddress) {
  const struct {
    int size;
    absl::Span<const uint8_t> code;
    uint64_t end;
  } stores[] = {{1, Store1(), 2}, {2, Store2(), 3}, {4, Store4(), 2}, {8, Store8(), 3}};
  for (const auto& store : stores) {
    for (const int length : {1, 2, 4, 8}) {
      for (uint64_t watched = kWatched; watched < kWatched + 8; watched += 3) {
        for (uint64_t to = kWatched - 8; to < kWatched + 16; ++to) {
          SCOPED_TRACE(testing::Message()
                       << store.size << " bytes to " << std::hex << to << ", watched " << length << " at " << watched);
          const uint64_t first = watched & ~static_cast<uint64_t>(length - 1);
          const bool meets = to < first + length && first < to + store.size;
          machine().Set(RegisterName::kRdi, to);
          EXPECT_EQ(Run(store.code, watched, Dr7(0, kWrite, length)), meets ? (Log{{store.end, 1, false}}) : Log{});
        }
      }
    }
  }
}

HVSDK_GUEST(Stack, 64, R"(
    mov esp, 0x80048
    push rax
    pop rbx
    call 1f
1:  pop rbx
    mov esp, 0x90000
    out 0xF4, al
)")
TEST_F(DebugTest, TheStackMayBeWatched) {
  EXPECT_EQ(Run(Stack(), kWatched, Dr7(0, kWrite, 8)), (Log{{6, 1, false}, {12, 1, false}}));
}

TEST_F(DebugTest, ARepeatedInstructionTrapsBehindTheIteration) {
  EXPECT_EQ(Run(Repeat(), kWatched + 1, Dr7(0, kWrite, 1)), (Log{{10, 1, true}}));
  EXPECT_EQ(Run(Repeat(), kWatched + 2, Dr7(0, kWrite, 1)), (Log{{12, 1, false}})) << "the last";
}

TEST_F(DebugTest, AllThatIsMetIsTold) {
  machine().Set(RegisterName::kDr3, kWatched);
  machine().Set(RegisterName::kDr2, kWatched + 1);
  machine().Set(RegisterName::kDr1, kWatched);
  machine().Set(RegisterName::kRdi, kWatched);
  EXPECT_EQ(Run(Store1(), kWatched, Dr7(0, kWrite, 1) | Dr7(1, kReadWrite, 4) | Dr7(2, kWrite, 1) | Dr7(3, kExecute, 1),
                0x102),
            (Log{{2, kBs | 3, false}}));
}

// What a load of SS met is told behind the next instruction, wherever that went (6.8.3).
HVSDK_GUEST(LoadWatchedStack, 64, R"(
    mov edi, 0x80040
    mov ss, [rdi]
    nop
    nop
    out 0xF4, al
)")
HVSDK_GUEST(LoadWatchedStackAndInterrupt, 64, R"(
    mov edi, 0x80040
    mov ss, [rdi]
    int 0x41
    out 0xF4, al
)")
TEST_F(DebugTest, WhatALoadOfTheStackSegmentMetWaits) {
  machine().Write<uint16_t>(kWatched, kData32);
  EXPECT_EQ(Run(LoadWatchedStack(), kWatched, Dr7(0, kReadWrite, 2)), (Log{{8, 1, false}}));
  EXPECT_EQ(Run(LoadWatchedStackAndInterrupt(), kWatched, Dr7(0, kReadWrite, 2)), (Log{{0x1100, 1, false}}))
      << "at the handler's first instruction";
}

// ---- ports ----

HVSDK_GUEST(Ports, 64, R"(
    mov edx, 0x20
    in al, 0x20
    out dx, ax
    in eax, 0x22
    out 0x24, al
    mov esi, 0x80040
    mov ecx, 2
    rep outsb
    out 0xF4, al
)")
TEST_F(DebugTest, PortsMayBeWatched) {
  // Behind: in 7, out dx 9, in 11, out 13; rep outsb at 23.
  EXPECT_EQ(Run(Ports(), 0x20, Dr7(0, kPort, 1), 2, 8),
            (Log{{7, 1, false}, {9, 1, false}, {23, 1, true}, {25, 1, false}}));
  EXPECT_EQ(Run(Ports(), 0x21, Dr7(0, kPort, 1), 2, 8), (Log{{9, 1, false}}));
  EXPECT_EQ(Run(Ports(), 0x24, Dr7(0, kPort, 4), 2, 8), (Log{{11, 1, false}, {13, 1, false}}));
  EXPECT_EQ(Run(Ports(), 0x20, Dr7(0, kPort, 1)), Log{}) << "CR4.DE is clear";
}

// ---- general detect, DR6, RF ----

HVSDK_GUEST(UseDebugRegisters, 64, R"(
    nop
    mov rax, dr3
    mov dr3, rax
    out 0xF4, al
)")
TEST_F(DebugTest, GeneralDetectIsAFaultAndTurnsItselfOff) {
  EXPECT_EQ(Run(UseDebugRegisters(), 0, 0x2000), (Log{{1, kBd, true}}));
  EXPECT_EQ(machine().Get(RegisterName::kDr7), 0x400u);
}
TEST_F(DebugTest, AnyDebugExceptionTurnsGeneralDetectOff) {
  EXPECT_EQ(Run(Instructions(), kCodeGpa + 1, Dr7(0, kExecute, 1) | 0x2000), (Log{{1, 1, false}}));
  EXPECT_EQ(machine().Get(RegisterName::kDr7), Dr7(0, kExecute, 1));
}

TEST_F(DebugTest, Dr6KeepsAllButTheBreakpointsBits) {
  machine().Start(Mode::kLong, Store1());
  machine().Set(RegisterName::kRdi, kWatched);
  machine().Set(RegisterName::kDr1, kWatched);
  machine().Set(RegisterName::kDr6, 0xFFFF0FF0 | kBd | 0xD);
  machine().Set(RegisterName::kDr7, Dr7(1, kWrite, 1));
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, 1);
  EXPECT_EQ(machine().Get(RegisterName::kDr6), 0xFFFF0FF0 | kBd | 2);
}

HVSDK_GUEST(Faults, 64, "nop; ud2\n")
TEST_F(DebugTest, FaultsPushTheResumeFlag) {
  Run(Faults(), 0, 0);
  EXPECT_EQ(recorder_.fault, 6);
  EXPECT_EQ(machine().ReadFrame(6).rflags & 0x10000, 0x10000u);
}

TEST_F(DebugTest, TheResumeFlagIsForOneInstruction) {
  // RF at the start: the breakpoint there is passed, the next is met.
  EXPECT_EQ(Run(Instructions(), kCodeGpa, Dr7(0, kExecute, 1), 0x10002), Log{});
  EXPECT_EQ(Run(Instructions(), kCodeGpa + 1, Dr7(0, kExecute, 1), 0x10002), (Log{{1, 1, false}}));
}

HVSDK_GUEST(WriteDr7, 64, R"(
    mov eax, 0x401
    mov dr7, rax
    nop
    out 0xF4, al
)")
TEST_F(DebugTest, ABreakpointHoldsFromTheNextInstruction) {
  EXPECT_EQ(Run(WriteDr7(), kCodeGpa + 8, 0), (Log{{8, 1, false}}));
}

HVSDK_GUEST(BreakpointInstruction, 64, "int1\n")
TEST_F(DebugTest, Int1LeavesDr6) {
  machine().Start(Mode::kLong, BreakpointInstruction());
  machine().Set(RegisterName::kDr6, 0xFFFF0FF0);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, 1);
  EXPECT_EQ(machine().ReadFrame(1).rip, kCodeGpa + 1);
  EXPECT_EQ(machine().Get(RegisterName::kDr6), 0xFFFF0FF0u);
}

}  // namespace
}  // namespace hvsdk::backend
