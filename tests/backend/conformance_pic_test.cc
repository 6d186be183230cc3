// SPDX-License-Identifier: Apache-2.0
// The 8259As that every engine has: their way to a VP, the lines that drive them, and what they are after power-on.

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/backend/conformance.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

// What the handler leaves: how many interrupts came, and the inputs that were in service, ORed.
constexpr uint64_t kCount = 0x80000, kInService = 0x80004;
constexpr uint64_t kReady = 0x80010, kWanted = 0x80014, kEnough = 0x80018;

class PicTest : public ConformanceTest {
 protected:
  void Pulse(uint32_t irq) {
    machine().partition().SetIrqLine(irq, true);
    machine().partition().SetIrqLine(irq, false);
  }
  // Loads the guest, whose 8259s give vectors from 0x30 and whose interrupts of the IOAPIC have vector 0x45.
  void Start(absl::Span<const uint8_t> code, uint32_t wanted);
};
HVSDK_CONFORMANCE_SUITE(PicTest);

// Counts, notes what both 8259s have in service before it ends that in both, and says when the count is what is wanted.
HVSDK_GUEST(PicHandler, 64, R"(
    push rax
    mov al, 0x0B
    out 0x20, al
    out 0xA0, al
    in al, 0x20
    or [0x80004], al
    in al, 0xA0
    or [0x80005], al
    mov al, 0x20
    out 0xA0, al
    out 0x20, al
    inc dword ptr [0x80000]
    mov eax, [0x80000]
    cmp eax, [0x80014]
    jne 1f
    mov dword ptr [0x80018], 1
1:  pop rax
    iretq
)")
HVSDK_GUEST(IoApicHandler, 64, R"(
    push rbx
    inc dword ptr [0x80008]
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xB0], 0
    pop rbx
    iretq
)")
// Initialises the pair for vectors 0x30 and 0x38, and opens all inputs.
#define HVSDK_INIT_PICS                                         \
  "mov al, 0x11\n out 0x20, al\n out 0xA0, al\n"                \
  "mov al, 0x30\n out 0x21, al\n mov al, 0x38\n out 0xA1, al\n" \
  "mov al, 4\n out 0x21, al\n mov al, 2\n out 0xA1, al\n"       \
  "mov al, 1\n out 0x21, al\n out 0xA1, al\n"                   \
  "xor eax, eax\n out 0x21, al\n out 0xA1, al\n"
// Says that it is ready, and sleeps until so many interrupts as are wanted have come from the 8259s.
// Time for an interrupt to come.
asm(".macro spin\n mov ecx, 20000\n 9: pause\n dec ecx\n jnz 9b\n .endm");
#define HVSDK_AWAIT                    \
  "mov dword ptr [0x80010], 1\n sti\n" \
  "1: hlt\n mov eax, [0x80000]\n cmp eax, [0x80014]\n jb 1b\n out 0xF4, al\n"

HVSDK_GUEST(AsFirmwareLeavesIt, 64, HVSDK_INIT_PICS HVSDK_AWAIT)
HVSDK_GUEST(WithoutApic, 64, "mov ecx, 0x1B\n rdmsr\n and eax, 0xFFFFF7FF\n wrmsr\n" HVSDK_INIT_PICS HVSDK_AWAIT)
HVSDK_GUEST(
    ThroughLint0, 64,
    "mov rbx, 0xFEE00000\n mov dword ptr [rbx + 0xF0], 0x1FF\n mov dword ptr [rbx + 0x350], 0x700\n" HVSDK_INIT_PICS
        HVSDK_AWAIT)

void PicTest::Start(absl::Span<const uint8_t> code, uint32_t wanted) {
  machine().Start(Mode::kLong, code);
  machine().Load(0x11000, PicHandler());
  machine().Load(0x11800, IoApicHandler());
  for (uint8_t vector = 0x30; vector < 0x40; ++vector) machine().SetHandler(Mode::kLong, vector, 0x11000);
  machine().SetHandler(Mode::kLong, 0x45, 0x11800);
  machine().Write<uint32_t>(kWanted, wanted);
}

TEST_P(PicTest, InterruptsReachTheVp) {
  const struct {
    const char* name;
    absl::Span<const uint8_t> code;
  } cases[] = {{"as firmware leaves it", AsFirmwareLeavesIt()},
               {"with the local APIC disabled", WithoutApic()},
               {"through LINT0", ThroughLint0()}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    MakeMachine(1);
    Start(c.code, 4);
    Recorder recorder;
    VpThread thread(machine(), 0, recorder);
    ASSERT_TRUE(WaitForWord(kReady, 1));
    uint32_t in_service = 0;
    uint32_t count = 0;
    for (const auto& [irq, inputs] :
         std::vector<std::pair<uint32_t, uint32_t>>{{4, 0x0010}, {9, 0x0204}, {0, 0x0001}, {15, 0x8004}}) {
      Pulse(irq);
      ASSERT_TRUE(WaitForWord(kCount, ++count)) << irq;
      in_service |= inputs;
      EXPECT_EQ(machine().Read<uint32_t>(kInService), in_service) << irq;
    }
    thread.WaitUntilDone();
    EXPECT_EQ(recorder.fault, -1);
  }
}

// Masks LINT0, lets the host drive line 4 from port 0x10, and looks whether its interrupt came; then opens LINT0.
// KVM does not look again at what waits behind LINT0 before the 8259 raises INT anew, so the guest masks all and opens
// it.
HVSDK_GUEST(MaskedLint0, 64,
            "mov rbx, 0xFEE00000\n mov dword ptr [rbx + 0xF0], 0x1FF\n mov dword ptr [rbx + 0x350], "
            "0x10700\n" HVSDK_INIT_PICS R"(
    sti
    in al, 0x10
    spin
    mov eax, [0x80000]
    mov [0x80020], eax
    mov dword ptr [rbx + 0x350], 0x700
    mov al, 0xFF
    out 0x21, al
    xor eax, eax
    out 0x21, al
    spin
    mov eax, [0x80000]
    mov [0x80024], eax
    out 0xF4, al
)")
TEST_P(PicTest, Lint0MayBeMasked) {
  Start(MaskedLint0(), 0);
  recorder_.on_port_read = [&](Vp&, uint16_t, absl::Span<uint8_t>) { Pulse(4); };
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0x80020), 0u);
  EXPECT_EQ(machine().Read<uint32_t>(0x80024), 1u);
}

// Routes IOAPIC inputs 2 and 4 to vector 0x45, and has the host drive lines from port 0x10 with interrupts off.
HVSDK_GUEST(
    BothControllers, 64,
    "mov rbx, 0xFEE00000\n mov dword ptr [rbx + 0xF0], 0x1FF\n mov dword ptr [rbx + 0x350], 0x700\n" HVSDK_INIT_PICS R"(
    mov rdx, 0xFEC00000
    mov dword ptr [rdx], 0x15
    mov dword ptr [rdx + 0x10], 0
    mov dword ptr [rdx], 0x14
    mov dword ptr [rdx + 0x10], 0x45
    mov dword ptr [rdx], 0x19
    mov dword ptr [rdx + 0x10], 0
    mov dword ptr [rdx], 0x18
    mov dword ptr [rdx + 0x10], 0x45
    in al, 0x10
    sti
    spin
    out 0xF4, al
)")
TEST_P(PicTest, ALineDrivesBothControllers) {
  const struct { uint32_t irq, in_service, io_apic; } cases[] = {{4, 0x10, 1}, {0, 0x01, 1}, {2, 0, 0}, {3, 0x08, 0}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.irq);
    MakeMachine(1);
    Start(BothControllers(), 0);
    Recorder recorder;
    recorder.on_port_read = [&](Vp&, uint16_t, absl::Span<uint8_t>) { Pulse(c.irq); };
    machine().Run(recorder);
    EXPECT_EQ(recorder.fault, -1);
    EXPECT_EQ(machine().Read<uint32_t>(kInService), c.in_service);
    EXPECT_EQ(machine().Read<uint32_t>(kCount), c.in_service != 0);
    EXPECT_EQ(machine().Read<uint32_t>(0x80008), c.io_apic);
  }
}

// As a guest that has never heard of 8259s does.
HVSDK_GUEST(IgnorePics, 64, R"(
    in al, 0x21
    mov [0x80020], al
    in al, 0xA1
    mov [0x80021], al
    mov rbx, 0xFEE00000
    mov eax, [rbx + 0x350]
    mov [0x80024], eax
    sti
    in al, 0x10
    spin
    out 0xF4, al
)")
TEST_P(PicTest, NothingComesAfterPowerOn) {
  for (int round = 0; round < 2; ++round) {
    SCOPED_TRACE(round == 0 ? "power-on" : "reset");
    Recorder recorder;
    Start(IgnorePics(), 0);
    recorder.on_port_read = [&](Vp&, uint16_t, absl::Span<uint8_t>) {
      for (uint32_t irq = 0; irq < 16; ++irq) machine().partition().SetIrqLine(irq, true);
    };
    machine().Run(recorder);
    EXPECT_EQ(recorder.fault, -1);
    EXPECT_EQ(machine().Read<uint32_t>(kCount), 0u);
    EXPECT_EQ(machine().Read<uint16_t>(0x80020), 0xFFFFu) << "masks";
    EXPECT_EQ(machine().Read<uint32_t>(0x80024), 0x700u) << "LINT0";
    if (round == 1) break;
    Start(AsFirmwareLeavesIt(), 1);
    machine().Write<uint32_t>(kCount, 0);
    Recorder used;
    VpThread thread(machine(), 0, used);
    ASSERT_TRUE(WaitForWord(kReady, 1));
    for (uint32_t irq = 0; irq < 16; ++irq) machine().partition().SetIrqLine(irq, false);
    Pulse(5);
    thread.WaitUntilDone();
    machine().Write<uint32_t>(kCount, 0);
    ASSERT_TRUE(machine().partition().ResetInterruptControllers().ok());
    ASSERT_TRUE(machine().vp().Reset().ok());
  }
}

TEST_P(PicTest, OnlyTheFirstVpHasAVirtualWire) {
  MakeMachine(2);
  machine().Load(kCodeGpa, IgnorePics());
  machine().Start(Mode::kLong, kCodeGpa, 1);
  machine().Run(recorder_, 1);
  EXPECT_EQ(machine().Read<uint32_t>(0x80024), 0x10000u);
}

HVSDK_GUEST(SleepMasked, 64, HVSDK_INIT_PICS R"(
    mov ecx, 0x400000F0
    mov dword ptr [0x80010], 1
    rdmsr
    mov eax, [0x80000]
    mov [0x80020], eax
    sti
    spin
    out 0xF4, al
)")
TEST_P(PicTest, ARequestThatIsMaskedWakesAnIdleVp) {
  Start(SleepMasked(), 0);
  recorder_.on_msr_read = [](Vp&, uint32_t, uint64_t&) { return MsrOutcome::kHalt; };
  VpThread thread(machine(), 0, recorder_);
  ASSERT_TRUE(WaitForWord(kReady, 1));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  Pulse(12);
  thread.WaitUntilDone();
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0x80020), 0u);
  EXPECT_EQ(machine().Read<uint32_t>(kCount), 1u);
}

// Input 5 is level-triggered.
HVSDK_GUEST(LevelTriggered, 64, HVSDK_INIT_PICS "mov al, 0x20\n mov dx, 0x4D0\n out dx, al\n" HVSDK_AWAIT)
TEST_P(PicTest, ALevelComesAgainUntilItIsLow) {
  Start(LevelTriggered(), 5);
  VpThread thread(machine(), 0, recorder_);
  ASSERT_TRUE(WaitForWord(kReady, 1));
  machine().partition().SetIrqLine(5, true);
  ASSERT_TRUE(WaitForWord(kEnough, 1));
  machine().partition().SetIrqLine(5, false);
  thread.WaitUntilDone();
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(kInService), 0x20u);
}

HVSDK_GUEST(PicRegisters, 64, HVSDK_INIT_PICS R"(
    mov ax, 0x1234
    out 0x20, ax
    out 0xA0, ax
    mov al, 0x5A
    out 0x21, al
    mov al, 0xA5
    out 0xA1, al
    in al, 0x21
    mov [0x80020], al
    in al, 0xA1
    mov [0x80021], al
    mov al, 0xFF
    mov dx, 0x4D0
    out dx, al
    inc dx
    out dx, al
    dec dx
    in al, dx
    mov [0x80022], al
    inc dx
    in al, dx
    mov [0x80023], al
    mov eax, -1
    in ax, 0x20
    mov [0x80024], ax
    out 0xF4, al
)")
TEST_P(PicTest, RegistersAreBytes) {
  Start(PicRegisters(), 0);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_TRUE(recorder_.events.empty()) << "these ports do not exit";
  EXPECT_EQ(machine().Read<uint16_t>(0x80020), 0xA55Au);
  EXPECT_EQ(machine().Read<uint16_t>(0x80022), 0xDEF8u) << "inputs that can be level-triggered";
  EXPECT_EQ(machine().Read<uint16_t>(0x80024), 0u);
}

// Input 6 is in service when 3 and 7 come: 3 interrupts it, 7 waits.
HVSDK_GUEST(Nested, 64, HVSDK_INIT_PICS R"(
    sti
    in al, 0x10
    spin
    out 0xF4, al
)")
HVSDK_GUEST(NestedHandler6, 64, R"(
    in al, 0x12
    sti
    spin
    cli
    mov eax, [0x80004]
    mov [0x80020], eax
    mov al, 0x66
    out 0x20, al
    iretq
)")
TEST_P(PicTest, PrioritiesNest) {
  Start(Nested(), 0);
  machine().Load(0x12000, NestedHandler6());
  machine().SetHandler(Mode::kLong, 0x36, 0x12000);
  recorder_.on_port_read = [&](Vp&, uint16_t port, absl::Span<uint8_t>) {
    if (port == 0x10) {
      Pulse(6);
    } else {
      Pulse(7), Pulse(3);
    }
  };
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0x80020), 0x48u) << "3 over 6";
  EXPECT_EQ(machine().Read<uint32_t>(kInService), 0xC8u) << "7 at the end";
  EXPECT_EQ(machine().Read<uint32_t>(kCount), 2u);
}

}  // namespace
}  // namespace hvsdk::backend
