// SPDX-License-Identifier: Apache-2.0
// Exceptions, interrupts, sleep and shutdown.

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/backend/conformance.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

class EventTest : public ConformanceTest {};
HVSDK_CONFORMANCE_SUITE(EventTest);

HVSDK_GUEST(Faults, 64, R"(
    mov rax, 0x1122
    xor edx, edx
    xor ecx, ecx
    div ecx
    out 0xF4, al
)")
TEST_P(EventTest, DivideErrorComesToTheGuest) {
  machine().Start(Mode::kLong, Faults());
  machine().Run(recorder_);
  ASSERT_EQ(recorder_.fault, 0);
  const Frame frame = machine().ReadFrame(0);
  EXPECT_EQ(frame.rip, kCodeGpa + 11);
  EXPECT_EQ(frame.cs, kCode64);
  EXPECT_EQ(frame.rsp, kStackGpa);
  EXPECT_EQ(frame.rflags & 0x202, 2u);
}

HVSDK_GUEST(PageFault, 64, R"(
    mov rax, 0x40010
    mov dword ptr [rax], 1
    out 0xF4, al
)")
TEST_P(EventTest, PageFaultCarriesAddressAndErrorCode) {
  machine().Start(Mode::kLong, PageFault());
  machine().Write<uint64_t>(kFirstPageTableGpa + 0x40 * 8, 0x40000 | 1);  // read-only
  machine().Run(recorder_);
  ASSERT_EQ(recorder_.fault, 14);
  const Frame frame = machine().ReadFrame(14);
  EXPECT_EQ(frame.error_code, 3u) << "a write to a present page";
  EXPECT_EQ(frame.rip, kCodeGpa + 7);
  EXPECT_EQ(machine().Get(RegisterName::kCr2), 0x40010u);
}

HVSDK_GUEST(Undefined, 64, R"(
    ud2
)")
TEST_P(EventTest, UndefinedOpcode) {
  machine().Start(Mode::kLong, Undefined());
  machine().Run(recorder_);
  ASSERT_EQ(recorder_.fault, 6);
  EXPECT_EQ(machine().ReadFrame(6).rip, kCodeGpa);
}

HVSDK_GUEST(TwoExits, 64, R"(
    in al, 0x10
    nop
    out 0xF4, al
)")
TEST_P(EventTest, InjectedExceptions) {
  const struct {
    uint8_t vector;
    absl::optional<uint32_t> error_code;
  } cases[] = {{6, absl::nullopt}, {13, 0x18}, {14, 0x5}, {11, 0}, {0, absl::nullopt}};
  for (const auto& c : cases) {
    Recorder recorder;
    // Before the first instruction.
    machine().Start(Mode::kLong, TwoExits());
    machine().vp().InjectException({c.vector, c.error_code});
    machine().Run(recorder);
    ASSERT_EQ(recorder.fault, c.vector);
    EXPECT_TRUE(recorder.events.empty());
    Frame frame = machine().ReadFrame(c.vector);
    EXPECT_EQ(frame.rip, kCodeGpa);
    EXPECT_EQ(frame.error_code, c.error_code.value_or(0));
    EXPECT_EQ(frame.rsp, kStackGpa);

    // From an exit: the instruction is done, the exception comes in place of the next one.
    Recorder inside;
    machine().Start(Mode::kLong, TwoExits());
    inside.on_port_read = [&](Vp& vp, uint16_t, absl::Span<uint8_t>) { vp.InjectException({c.vector, c.error_code}); };
    machine().Run(inside);
    ASSERT_EQ(inside.fault, c.vector);
    frame = machine().ReadFrame(c.vector);
    EXPECT_EQ(frame.rip, kCodeGpa + 2);
    EXPECT_EQ(frame.error_code, c.error_code.value_or(0));
  }
}

TEST_P(EventTest, AnInjectedExceptionOutlivesRegisterWrites) {
  machine().Start(Mode::kLong, TwoExits());
  machine().vp().InjectException({13, 0x20});
  machine().vp().SetGpr(Gpr::kRbx, 5);
  machine().Set(RegisterName::kCr2, 0x99);
  machine().Set(RegisterName::kRsi, 6);
  machine().Run(recorder_);
  ASSERT_EQ(recorder_.fault, 13);
  EXPECT_EQ(machine().ReadFrame(13).error_code, 0x20u);
  EXPECT_EQ(machine().vp().GetGpr(Gpr::kRbx), 5u);
  EXPECT_EQ(machine().vp().GetGpr(Gpr::kRsi), 6u);
}

// Counts interrupts at 0x80000 and acknowledges each; the main program is at the start, the handler at `handler`.
HVSDK_GUEST(CountInterrupts, 64, R"(
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    in al, 0x10
    mov dword ptr [0x80010], 1
    sti
1:  pause
    cmp dword ptr [0x80000], 3
    jb 1b
    out 0xF4, al
)")
HVSDK_GUEST(CountingHandler, 64, R"(
    inc dword ptr [0x80000]
    push rbx
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xB0], 0
    pop rbx
    iretq
)")
TEST_P(EventTest, InterruptsOfOneVp) {
  machine().Start(Mode::kLong, CountInterrupts());
  machine().Load(0x11000, CountingHandler());
  machine().SetHandler(Mode::kLong, 0x40, 0x11000);
  machine().SetHandler(Mode::kLong, 0x50, 0x11000);
  machine().SetHandler(Mode::kLong, 0xF0, 0x11000);
  recorder_.on_port_read = [&](Vp&, uint16_t, absl::Span<uint8_t>) {
    // Interrupts are off; all wait in the local APIC. One vector twice is one interrupt.
    machine().partition().RequestInterrupt(VpIndex{0}, 0x40, false);
    machine().partition().RequestInterrupt(VpIndex{0}, 0x40, false);
    machine().partition().RequestInterrupt(VpIndex{0}, 0x50, false);
    machine().partition().SignalMsi(0xFEE00000, 0xF0);  // physical destination 0, fixed, edge
  };
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 3u);
}

// Says that it is ready for the next interrupt, which has the same vector, until the third; nobody writes EOI.
HVSDK_GUEST(AwaitAutoEoi, 64, R"(
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    sti
1:  mov eax, [0x80000]
    cmp eax, 3
    jae 2f
    in al, 0x10
3:  pause
    mov ecx, [0x80000]
    cmp ecx, [0x80004]
    je 3b
    mov [0x80004], ecx
    jmp 1b
2:  out 0xF4, al
)")
HVSDK_GUEST(HandlerWithoutEoi, 64, R"(
    push rbx
    push rax
    mov rbx, 0xFEE00000
    mov eax, [rbx + 0x120]
    or [0x80008], eax
    inc dword ptr [0x80000]
    pop rax
    pop rbx
    iretq
)")
TEST_P(EventTest, AnAutoEoiInterruptIsNeverInService) {
  if (!backend().caps().auto_eoi) GTEST_SKIP() << "this engine has no AutoEOI";
  machine().Start(Mode::kLong, AwaitAutoEoi());
  machine().Load(0x11000, HandlerWithoutEoi());
  machine().SetHandler(Mode::kLong, 0x41, 0x11000);
  ASSERT_TRUE(machine().vp().SetAutoEoiVector(Sint{2}, 0x41).ok());
  recorder_.on_port_read = [&](Vp&, uint16_t, absl::Span<uint8_t>) {
    machine().partition().RequestInterrupt(VpIndex{0}, 0x41, /*auto_eoi=*/true);
  };
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 3u);
  EXPECT_EQ(machine().Read<uint32_t>(0x80008), 0u) << "the in-service register, as the handler saw it";
}

TEST_P(EventTest, AVectorThatIsNoLongerAutoEoiIsInService) {
  if (!backend().caps().auto_eoi) GTEST_SKIP() << "this engine has no AutoEOI";
  machine().Start(Mode::kLong, AwaitAutoEoi());
  machine().Load(0x11000, HandlerWithoutEoi());
  machine().SetHandler(Mode::kLong, 0x41, 0x11000);
  machine().Write<uint32_t>(0x80000, 2);  // the first is the last
  machine().Write<uint32_t>(0x80004, 2);
  ASSERT_TRUE(machine().vp().SetAutoEoiVector(Sint{15}, 0x41).ok());
  ASSERT_TRUE(machine().vp().SetAutoEoiVector(Sint{15}, 0).ok());
  recorder_.on_port_read = [&](Vp&, uint16_t, absl::Span<uint8_t>) {
    machine().partition().RequestInterrupt(VpIndex{0}, 0x41, /*auto_eoi=*/false);
  };
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0x80008), 2u) << "bit 1 of the in-service register's third word";
}

HVSDK_GUEST(SpinWithInterrupts, 64, R"(
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    mov dword ptr [0x80010], 1
    sti
1:  pause
    cmp dword ptr [0x80000], 1
    jb 1b
    cli
    mov dword ptr [0x80010], 2
2:  pause
    cmp dword ptr [0x80014], 1
    jne 2b
    mov eax, [0x80000]
    mov [0x80018], eax
    sti
3:  pause
    cmp dword ptr [0x80000], 2
    jb 3b
    out 0xF4, al
)")
TEST_P(EventTest, AnInterruptWaitsForTheInterruptFlag) {
  machine().Start(Mode::kLong, SpinWithInterrupts());
  machine().Load(0x11000, CountingHandler());
  machine().SetHandler(Mode::kLong, 0x41, 0x11000);
  VpThread thread(machine(), 0, recorder_);
  ASSERT_TRUE(WaitForWord(0x80010, 1));
  machine().partition().RequestInterrupt(VpIndex{0}, 0x41, false);  // it is spinning with interrupts on
  ASSERT_TRUE(WaitForWord(0x80010, 2));
  machine().partition().RequestInterrupt(VpIndex{0}, 0x41, false);  // and now with interrupts off
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  std::atomic_ref<uint32_t>(*machine().memory().Word<uint32_t>(0x80014)).store(1);
  ASSERT_TRUE(WaitForWord(0x80000, 2));
  thread.WaitUntilDone();
  EXPECT_EQ(machine().Read<uint32_t>(0x80018), 1u);
}

HVSDK_GUEST(SleepAndWake, 64, R"(
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
1:  mov eax, [0x80000]
    inc eax
    mov [0x80010], eax
    cmp eax, 101
    je 2f
    sti
    hlt
    cli
    jmp 1b
2:  out 0xF4, al
)")
TEST_P(EventTest, AHaltedVpSleepsAndWakes) {
  machine().Start(Mode::kLong, SleepAndWake());
  machine().Load(0x11000, CountingHandler());
  machine().SetHandler(Mode::kLong, 0x41, 0x11000);
  VpThread thread(machine(), 0, recorder_);
  for (uint32_t round = 1; round <= 100; ++round) {
    ASSERT_TRUE(WaitForWord(0x80010, round)) << round;
    machine().partition().RequestInterrupt(VpIndex{0}, 0x41, false);
  }
  thread.WaitUntilDone();
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 100u);
}

HVSDK_GUEST(IdleMsr, 64, R"(
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    mov ecx, 0x400000F0
    mov dword ptr [0x80010], 1
    rdmsr
    mov [0x80020], eax
    mov eax, [0x80000]
    mov [0x80024], eax
    mov dword ptr [0x80010], 2
    sti
    nop
    mov dword ptr [0x80010], 3
1:  rdmsr
    cmp dword ptr [0x80000], 2
    jb 1b
    out 0xF4, al
)")
TEST_P(EventTest, AnMsrMayPutTheVpToSleep) {
  machine().Start(Mode::kLong, IdleMsr());
  machine().Load(0x11000, CountingHandler());
  machine().SetHandler(Mode::kLong, 0x41, 0x11000);
  std::atomic<int> reads{0};
  recorder_.on_msr_read = [&](Vp&, uint32_t, uint64_t& value) {
    ++reads;
    value = 0x77;
    return MsrOutcome::kHalt;
  };
  VpThread thread(machine(), 0, recorder_);
  ASSERT_TRUE(WaitForWord(0x80010, 1));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(machine().Read<uint32_t>(0x80010), 1u) << "it sleeps with interrupts off";
  machine().partition().RequestInterrupt(VpIndex{0}, 0x41, false);
  ASSERT_TRUE(WaitForWord(0x80010, 3)) << "an interrupt that is masked wakes it";
  EXPECT_EQ(machine().Read<uint32_t>(0x80024), 0u) << "and is delivered when the guest allows it";
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 1u);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 1u);
  EXPECT_LT(reads, 20) << "it sleeps";
  machine().partition().RequestInterrupt(VpIndex{0}, 0x41, false);
  thread.WaitUntilDone();
  EXPECT_EQ(machine().Read<uint32_t>(0x80020), 0x77u);
}

TEST_P(EventTest, AVpThatSleepsMaskedCanBeStopped) {
  machine().Start(Mode::kLong, IdleMsr());
  recorder_.on_msr_read = [](Vp&, uint32_t, uint64_t&) { return MsrOutcome::kHalt; };
  VpThread thread(machine(), 0, recorder_);
  ASSERT_TRUE(WaitForWord(0x80010, 1));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  thread.Join();
  EXPECT_EQ(machine().Read<uint32_t>(0x80010), 1u);
}

HVSDK_GUEST(Nmi, 64, R"(
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    in al, 0x10
    nop
    nop
    out 0xF4, al
)")
TEST_P(EventTest, AnNmiNeedsNoInterruptFlag) {
  machine().Start(Mode::kLong, Nmi());
  recorder_.on_port_read = [&](Vp&, uint16_t, absl::Span<uint8_t>) {
    machine().partition().SignalMsi(0xFEE00000, 0x400);  // delivery mode NMI
  };
  machine().Run(recorder_);
  ASSERT_EQ(recorder_.fault, 2);
  EXPECT_EQ(machine().ReadFrame(2).rflags & 0x200, 0u);
}

// While an NMI's handler runs, the next one waits for its IRET, in every form, and for no more (Intel SDM volume 3, 6.7.1). The word at
// 0xC000 counts NMIs, that at 0xC004 is how many there were at the handler's end, that at 0xC008 how many there are after it. Where they
// come from is exits of port 0x10.
#define HVSDK_NMI_MAIN(NAME, BITS) \
  HVSDK_GUEST(NAME, BITS,          \
              "in al, 0x10\n .rept 16\n nop\n .endr\n mov eax, ds:[0xC000]\n mov ds:[0xC008], eax\n out 0xF4, al")
#define HVSDK_NMI_HANDLER(NAME, BITS, SPOIL, RETURN)                                              \
  HVSDK_GUEST(NAME, BITS,                                                                         \
              "inc dword ptr ds:[0xC000]\n cmp dword ptr ds:[0xC000], 1\n jne 1f\n in al, 0x10\n" \
              ".rept 16\n nop\n .endr\n mov eax, ds:[0xC000]\n mov ds:[0xC004], eax\n" SPOIL "\n 1:" RETURN)
// KVM, unlike processors (Intel SDM volume 3, 10.4.7.2), takes no NMI from the bus while the local APIC is software-disabled.
#define HVSDK_ENABLE_APIC(NAME, BITS)                           \
  HVSDK_GUEST(NAME, BITS,                                       \
              "mov ecx, 0x1B\n rdmsr\n or eax, 0xC00\n wrmsr\n" \
              "mov ecx, 0x80F\n mov eax, 0x1FF\n xor edx, edx\n wrmsr\n out 0xF4, al")
HVSDK_ENABLE_APIC(EnableApic16, 16)
HVSDK_ENABLE_APIC(EnableApic32, 32)
HVSDK_ENABLE_APIC(EnableApic64, 64)
HVSDK_NMI_MAIN(NmiMain16, 16)
HVSDK_NMI_MAIN(NmiMain32, 32)
HVSDK_NMI_MAIN(NmiMain64, 64)
HVSDK_NMI_HANDLER(NmiHandler16, 16, "", "iret")
HVSDK_NMI_HANDLER(NmiHandler32, 32, "", "iretd")
HVSDK_NMI_HANDLER(NmiHandler64, 64, "", "iretq")
HVSDK_NMI_HANDLER(NmiHandlerBad32, 32, "mov word ptr [esp + 4], 0xFFF8", "iretd")
HVSDK_NMI_HANDLER(NmiHandlerBad64, 64, "mov word ptr [rsp + 8], 0xFFF8", "iretq")
HVSDK_NMI_HANDLER(NmiHandlerNotPresent64, 64, "mov rsp, 0x70000", "iretq")
TEST_P(EventTest, AnNmiWaitsForTheEndOfTheLastAndNoLonger) {
  const struct {
    const char* name;
    Mode mode;
    absl::Span<const uint8_t> enable, main, handler;
    int fault;  // of the first IRET, whose handler is then the one that looks
  } cases[] = {
      {"real mode", Mode::kReal, EnableApic16(), NmiMain16(), NmiHandler16(), -1},
      {"protected mode", Mode::kProtected, EnableApic32(), NmiMain32(), NmiHandler32(), -1},
      {"long mode", Mode::kLong, EnableApic64(), NmiMain64(), NmiHandler64(), -1},
      {"protected mode, IRET faults", Mode::kProtected, EnableApic32(), NmiMain32(), NmiHandlerBad32(), 13},
      {"long mode, IRET faults", Mode::kLong, EnableApic64(), NmiMain64(), NmiHandlerBad64(), 13},
      {"long mode, IRET's stack is not there", Mode::kLong, EnableApic64(), NmiMain64(), NmiHandlerNotPresent64(), 14}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    MakeMachine(1);
    Recorder recorder;
    machine().Start(c.mode, c.enable);
    machine().Run(recorder);
    machine().Start(c.mode, c.main);
    machine().Load(0x11000, c.handler);
    machine().SetHandler(c.mode, 2, 0x11000);
    if (c.fault >= 0) {
      // It looks as the main program does, from the first instruction on; long mode gives it a stack of its own.
      machine().Load(0x12000, c.main.subspan(2));
      machine().SetHandler(c.mode, static_cast<uint8_t>(c.fault), 0x12000, c.mode == Mode::kLong ? 1 : 0);
      machine().Write<uint64_t>(kFirstPageTableGpa + 0x70 * 8, 0);
    }
    recorder.on_port_read = [&](Vp&, uint16_t, absl::Span<uint8_t>) {
      machine().partition().SignalMsi(0xFEE00000, 0x400);  // delivery mode NMI
    };
    machine().Run(recorder);
    EXPECT_EQ(recorder.fault, -1);
    EXPECT_EQ(machine().Read<uint32_t>(0xC004), 1u);
    EXPECT_EQ(machine().Read<uint32_t>(0xC008), 2u);
  }
}

TEST_P(EventTest, AnNmiComesWhenTheHostUnblocksIt) {
  machine().Start(Mode::kLong, EnableApic64());
  machine().Run(recorder_);
  machine().Start(Mode::kLong, NmiMain64());
  machine().Set(RegisterName::kInterruptState, 2);
  recorder_.on_port_read = [&](Vp& vp, uint16_t, absl::Span<uint8_t>) {
    machine().partition().SignalMsi(0xFEE00000, 0x400);
    vp.Kick();
  };
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1) << "it is blocked";
  machine().Set(RegisterName::kInterruptState, 0);
  machine().Set(RegisterName::kRip, kCodeGpa + 2);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, 2);
}

// Masks the 8259s, if there are any, and routes IOAPIC pin 9 to vector 0x45, edge-triggered, physical destination 0.
HVSDK_GUEST(IoApic, 64, R"(
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    mov al, 0xFF
    out 0x21, al
    out 0xA1, al
    mov rdx, 0xFEC00000
    mov dword ptr [rdx], 0x23
    mov dword ptr [rdx + 0x10], 0
    mov dword ptr [rdx], 0x22
    mov dword ptr [rdx + 0x10], 0x45
    mov dword ptr [rdx], 0x22
    mov eax, [rdx + 0x10]
    mov [0x80020], eax
    mov dword ptr [0x80010], 1
    sti
1:  hlt
    cmp dword ptr [0x80000], 2
    jb 1b
    out 0xF4, al
)")
TEST_P(EventTest, AnInterruptLineReachesTheVp) {
  machine().Start(Mode::kLong, IoApic());
  machine().Load(0x11000, CountingHandler());
  machine().SetHandler(Mode::kLong, 0x45, 0x11000);
  VpThread thread(machine(), 0, recorder_);
  ASSERT_TRUE(WaitForWord(0x80010, 1));
  EXPECT_EQ(machine().Read<uint32_t>(0x80020) & 0x1FFFF, 0x45u);
  for (uint32_t i = 1; i <= 2; ++i) {
    machine().partition().SetIrqLine(9, true);
    machine().partition().SetIrqLine(9, false);
    ASSERT_TRUE(WaitForWord(0x80000, i));
  }
  thread.WaitUntilDone();
  EXPECT_EQ(recorder_.fault, -1);
}

HVSDK_GUEST(TripleFault, 64, R"(
    lidt [0x80100]
    ud2
    out 0xF4, al
)")
TEST_P(EventTest, ATripleFaultStopsTheVp) {
  machine().Start(Mode::kLong, TripleFault());  // ten zero bytes: an empty interrupt table
  const absl::StatusOr<StopReason> stop = machine().vp().Run(recorder_);
  ASSERT_TRUE(stop.ok()) << stop.status();
  EXPECT_EQ(*stop, StopReason::kTripleFault);
  EXPECT_FALSE(recorder_.done);
}

HVSDK_GUEST(LocalTimer, 64, R"(
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    mov dword ptr [rbx + 0x3E0], 0xB
    mov dword ptr [rbx + 0x320], 0x41
    mov dword ptr [rbx + 0x380], 100000
    sti
1:  hlt
    cmp dword ptr [0x80000], 1
    jb 1b
    out 0xF4, al
)")
TEST_P(EventTest, TheLocalTimerWakesAHaltedVp) {
  machine().Start(Mode::kLong, LocalTimer());
  machine().Load(0x11000, CountingHandler());
  machine().SetHandler(Mode::kLong, 0x41, 0x11000);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 1u);
}

TEST_P(EventTest, PendingInterruptionCanBeSavedAndRestored) {
  machine().Start(Mode::kLong, TwoExits());
  // HV_X64_PENDING_INTERRUPTION_REGISTER: pending, type exception, error code delivered, vector 13, error code 0x30.
  machine().Set(RegisterName::kPendingInterruption, 1 | 3 << 1 | 1 << 4 | 13 << 16 | uint64_t{0x30} << 32);
  EXPECT_EQ(machine().Get(RegisterName::kPendingInterruption), 1 | 3 << 1 | 1 << 4 | 13 << 16 | uint64_t{0x30} << 32);
  machine().Run(recorder_);
  ASSERT_EQ(recorder_.fault, 13);
  EXPECT_EQ(machine().ReadFrame(13).error_code, 0x30u);
  EXPECT_EQ(machine().Get(RegisterName::kPendingInterruption), 0u);
}

}  // namespace
}  // namespace hvsdk::backend
