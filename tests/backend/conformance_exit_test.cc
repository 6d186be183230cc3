// SPDX-License-Identifier: Apache-2.0
// Ports, memory-mapped devices and MSRs come to the exit handler, and its answers come to the guest.

#include <atomic>
#include <chrono>
#include <thread>

#include "absl/strings/str_format.h"
#include "tests/backend/conformance.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;
using testing::ElementsAre;
using testing::IsEmpty;

class ExitTest : public ConformanceTest {};
HVSDK_CONFORMANCE_SUITE(ExitTest);

HVSDK_GUEST(PortSizes, 64, R"(
    mov dx, 0x1234
    mov eax, 0x11223344
    out dx, al
    out dx, ax
    out dx, eax
    out 0x42, al
    xor ebx, ebx
    mov rax, -1
    in al, dx
    mov bl, al
    mov [0x80000], rax
    mov rax, -1
    in ax, dx
    mov [0x80008], rax
    mov rax, -1
    in eax, dx
    mov [0x80010], rax
    out 0xF4, al
)")
TEST_P(ExitTest, PortsOfEverySize) {
  machine().Start(Mode::kLong, PortSizes());
  recorder_.port_values[0x1234] = 0xA1B2C3D4;
  machine().Run(recorder_);
  EXPECT_THAT(recorder_.events,
              ElementsAre(Event{Event::kPortWrite, 0x1234, 1, 0x44}, Event{Event::kPortWrite, 0x1234, 2, 0x3344},
                          Event{Event::kPortWrite, 0x1234, 4, 0x11223344}, Event{Event::kPortWrite, 0x42, 1, 0x44},
                          Event{Event::kPortRead, 0x1234, 1, 0xD4}, Event{Event::kPortRead, 0x1234, 2, 0xC3D4},
                          Event{Event::kPortRead, 0x1234, 4, 0xA1B2C3D4}));
  EXPECT_EQ(machine().Read<uint64_t>(kDataGpa), 0xFFFFFFFFFFFFFFD4);
  EXPECT_EQ(machine().Read<uint64_t>(kDataGpa + 8), 0xFFFFFFFFFFFFC3D4);
  EXPECT_EQ(machine().Read<uint64_t>(kDataGpa + 16), 0xA1B2C3D4) << "a 32-bit read clears the upper half of RAX";
}

HVSDK_GUEST(PortInRealMode, 16, R"(
    mov dx, 0x3F8
    mov al, 'A'
    out dx, al
    in ax, dx
    mov bx, ax
    out 0xF4, al
)")
TEST_P(ExitTest, PortsInRealMode) {
  machine().Start(Mode::kReal, PortInRealMode());
  recorder_.port_values[0x3F8] = 0xBEEF;
  machine().Run(recorder_);
  EXPECT_EQ(machine().vp().GetGpr(Gpr::kRbx) & 0xFFFF, 0xBEEF);
}

HVSDK_GUEST(PortStrings, 64, R"(
    cld
    mov dx, 0x500
    mov rsi, 0x80000
    mov ecx, 5
    rep outsb
    mov [0x80100], rsi
    mov [0x80108], rcx
    mov rsi, 0x80000
    mov ecx, 3
    rep outsd
    mov dx, 0x501
    mov rdi, 0x80200
    mov ecx, 4
    rep insw
    mov [0x80110], rdi
    std
    mov rdi, 0x80302
    mov ecx, 2
    rep insw
    cld
    xor ecx, ecx
    rep outsb
    out 0xF4, al
)")
TEST_P(ExitTest, RepeatedStringPorts) {
  machine().Start(Mode::kLong, PortStrings());
  for (uint8_t i = 0; i < 16; ++i) machine().Write<uint8_t>(kDataGpa + i, 0x10 + i);
  uint16_t next = 0xAB00;
  recorder_.on_port_read = [&](Vp&, uint16_t, absl::Span<uint8_t> data) {
    ASSERT_EQ(data.size(), 2u);
    data[0] = static_cast<uint8_t>(next);
    data[1] = static_cast<uint8_t>(next >> 8);
    ++next;
  };
  machine().Run(recorder_);
  EXPECT_THAT(
      recorder_.events,
      ElementsAre(Event{Event::kPortWrite, 0x500, 1, 0x10}, Event{Event::kPortWrite, 0x500, 1, 0x11},
                  Event{Event::kPortWrite, 0x500, 1, 0x12}, Event{Event::kPortWrite, 0x500, 1, 0x13},
                  Event{Event::kPortWrite, 0x500, 1, 0x14}, Event{Event::kPortWrite, 0x500, 4, 0x13121110},
                  Event{Event::kPortWrite, 0x500, 4, 0x17161514}, Event{Event::kPortWrite, 0x500, 4, 0x1B1A1918},
                  Event{Event::kPortRead, 0x501, 2, 0xAB00}, Event{Event::kPortRead, 0x501, 2, 0xAB01},
                  Event{Event::kPortRead, 0x501, 2, 0xAB02}, Event{Event::kPortRead, 0x501, 2, 0xAB03},
                  Event{Event::kPortRead, 0x501, 2, 0xAB04}, Event{Event::kPortRead, 0x501, 2, 0xAB05}));
  EXPECT_EQ(machine().Read<uint64_t>(0x80100), 0x80005u);
  EXPECT_EQ(machine().Read<uint64_t>(0x80108), 0u);
  EXPECT_EQ(machine().Read<uint64_t>(0x80110), 0x80208u);
  EXPECT_EQ(machine().Read<uint64_t>(0x80200), 0xAB03AB02AB01AB00);
  EXPECT_EQ(machine().Read<uint32_t>(0x80300), 0xAB04AB05);
}

HVSDK_GUEST(UserPort, 64, R"(
    mov al, 1
    out 0x42, al
    out 0xF4, al
)")
TEST_P(ExitTest, UserModeMayNotUsePorts) {
  machine().Start(Mode::kLong, UserPort());
  machine().SetUserMode(kCodeGpa);
  machine().Run(recorder_);
  EXPECT_THAT(recorder_.events, IsEmpty());
  ASSERT_EQ(recorder_.fault, 13);
  const Frame frame = machine().ReadFrame(13);
  EXPECT_EQ(frame.rip, kCodeGpa + 2);
  EXPECT_EQ(frame.error_code, 0u);
}

HVSDK_GUEST(MmioSizes, 64, R"(
    mov rbx, 0x10000000
    mov rax, 0x1122334455667788
    mov [rbx], al
    mov [rbx+2], ax
    mov [rbx+4], eax
    mov [rbx+8], rax
    mov word ptr [rbx+16], 0x7654
    mov rcx, -1
    mov cl, [rbx]
    mov [0x80000], rcx
    movzx ecx, word ptr [rbx+2]
    mov [0x80008], rcx
    movsx rcx, byte ptr [rbx]
    mov [0x80010], rcx
    mov ecx, [rbx+4]
    mov [0x80018], rcx
    mov rcx, [rbx+8]
    mov [0x80020], rcx
    out 0xF4, al
)")
TEST_P(ExitTest, MmioOfEverySize) {
  machine().Start(Mode::kLong, MmioSizes());
  recorder_.mmio_values = {
      {kMmioGpa, 0x80}, {kMmioGpa + 2, 0xBEEF}, {kMmioGpa + 4, 0xFEEDF00D}, {kMmioGpa + 8, 0x0123456789ABCDEF}};
  machine().Run(recorder_);
  EXPECT_THAT(
      recorder_.events,
      ElementsAre(Event{Event::kMmioWrite, kMmioGpa, 1, 0x88}, Event{Event::kMmioWrite, kMmioGpa + 2, 2, 0x7788},
                  Event{Event::kMmioWrite, kMmioGpa + 4, 4, 0x55667788},
                  Event{Event::kMmioWrite, kMmioGpa + 8, 8, 0x1122334455667788},
                  Event{Event::kMmioWrite, kMmioGpa + 16, 2, 0x7654}, Event{Event::kMmioRead, kMmioGpa, 1, 0x80},
                  Event{Event::kMmioRead, kMmioGpa + 2, 2, 0xBEEF}, Event{Event::kMmioRead, kMmioGpa, 1, 0x80},
                  Event{Event::kMmioRead, kMmioGpa + 4, 4, 0xFEEDF00D},
                  Event{Event::kMmioRead, kMmioGpa + 8, 8, 0x0123456789ABCDEF}));
  EXPECT_EQ(machine().Read<uint64_t>(0x80000), 0xFFFFFFFFFFFFFF80);
  EXPECT_EQ(machine().Read<uint64_t>(0x80008), 0xBEEFu);
  EXPECT_EQ(machine().Read<uint64_t>(0x80010), 0xFFFFFFFFFFFFFF80);
  EXPECT_EQ(machine().Read<uint64_t>(0x80018), 0xFEEDF00Du);
  EXPECT_EQ(machine().Read<uint64_t>(0x80020), 0x0123456789ABCDEFu);
}

HVSDK_GUEST(MmioReadModifyWrite, 64, R"(
    mov rbx, 0x10000000
    mov eax, 0x0F
    or [rbx], eax
    pushfq
    pop qword ptr [0x80008]
    mov ecx, 0x1234
    xchg [rbx], ecx
    mov [0x80000], rcx
    mov edx, 5
    lock xadd [rbx], edx
    mov [0x80010], rdx
    out 0xF4, al
)")
TEST_P(ExitTest, MmioReadModifyWrite) {
  machine().Start(Mode::kLong, MmioReadModifyWrite());
  recorder_.mmio_values[kMmioGpa] = 0x80000000;
  machine().Run(recorder_);
  EXPECT_THAT(
      recorder_.events,
      ElementsAre(Event{Event::kMmioRead, kMmioGpa, 4, 0x80000000}, Event{Event::kMmioWrite, kMmioGpa, 4, 0x8000000F},
                  Event{Event::kMmioRead, kMmioGpa, 4, 0x80000000}, Event{Event::kMmioWrite, kMmioGpa, 4, 0x1234},
                  Event{Event::kMmioRead, kMmioGpa, 4, 0x80000000}, Event{Event::kMmioWrite, kMmioGpa, 4, 0x80000005}));
  EXPECT_EQ(machine().Read<uint64_t>(0x80000), 0x80000000u);
  EXPECT_EQ(machine().Read<uint64_t>(0x80010), 0x80000000u);
  EXPECT_EQ(machine().Read<uint64_t>(0x80008) & 0x80, 0x80u) << "SF";
}

HVSDK_GUEST(MmioStrings, 64, R"(
    cld
    mov rsi, 0x80000
    mov rdi, 0x10000000
    mov ecx, 3
    rep movsb
    mov rsi, 0x10000100
    mov rdi, 0x80100
    mov ecx, 2
    rep movsd
    mov eax, 0x5A
    mov rdi, 0x10000200
    mov ecx, 2
    rep stosw
    out 0xF4, al
)")
TEST_P(ExitTest, StringInstructionsOnMmio) {
  machine().Start(Mode::kLong, MmioStrings());
  machine().Write<uint32_t>(kDataGpa, 0x00332211);
  recorder_.mmio_values = {{kMmioGpa + 0x100, 0x11111111}, {kMmioGpa + 0x104, 0x22222222}};
  machine().Run(recorder_);
  EXPECT_THAT(recorder_.events,
              ElementsAre(Event{Event::kMmioWrite, kMmioGpa, 1, 0x11}, Event{Event::kMmioWrite, kMmioGpa + 1, 1, 0x22},
                          Event{Event::kMmioWrite, kMmioGpa + 2, 1, 0x33},
                          Event{Event::kMmioRead, kMmioGpa + 0x100, 4, 0x11111111},
                          Event{Event::kMmioRead, kMmioGpa + 0x104, 4, 0x22222222},
                          Event{Event::kMmioWrite, kMmioGpa + 0x200, 2, 0x5A},
                          Event{Event::kMmioWrite, kMmioGpa + 0x202, 2, 0x5A}));
  EXPECT_EQ(machine().Read<uint64_t>(0x80100), 0x2222222211111111u);
}

HVSDK_GUEST(MmioVector, 64, R"(
    mov rbx, 0x10000000
    movups xmm0, [0x80000]
    movups [rbx], xmm0
    movups xmm1, [rbx+0x40]
    movups [0x80010], xmm1
    out 0xF4, al
)")
TEST_P(ExitTest, WideMmioMayComeInPieces) {
  machine().Start(Mode::kLong, MmioVector());
  machine().Write<uint64_t>(0x80000, 0x0706050403020100);
  machine().Write<uint64_t>(0x80008, 0x0F0E0D0C0B0A0908);
  recorder_.mmio_values = {{kMmioGpa + 0x40, 0x1111111111111111}, {kMmioGpa + 0x48, 0x2222222222222222}};
  std::map<uint64_t, uint8_t> written;
  recorder_.on_mmio_write = [&](Vp&, uint64_t gpa, absl::Span<const uint8_t> data) {
    for (size_t i = 0; i < data.size(); ++i) written[gpa + i] = data[i];
  };
  machine().Run(recorder_);
  ASSERT_EQ(written.size(), 16u);
  for (uint8_t i = 0; i < 16; ++i) EXPECT_EQ(written[kMmioGpa + i], i);
  EXPECT_EQ(machine().Read<uint64_t>(0x80010), 0x1111111111111111u);
}

HVSDK_GUEST(SyntheticMsrs, 64, R"(
    mov ecx, 0x40000000
    mov eax, 0x89ABCDEF
    mov edx, 0x01234567
    wrmsr
    mov ecx, 0x40000001
    mov rax, -1
    mov rdx, -1
    rdmsr
    mov [0x80000], rax
    mov [0x80008], rdx
    mov ecx, 0x400001FF
    rdmsr
    mov ecx, 0x40000020
    rdmsr
    mov ecx, 0x40000105
    wrmsr
    out 0xF4, al
)")
TEST_P(ExitTest, SyntheticMsrsExit) {
  machine().Start(Mode::kLong, SyntheticMsrs());
  recorder_.msr_values = {{0x40000001, 0xFEDCBA9876543210}, {0x400001FF, 1}, {0x40000020, 0x100000002}};
  machine().Run(recorder_);
  EXPECT_THAT(recorder_.events,
              ElementsAre(Event{Event::kMsrWrite, 0x40000000, 8, 0x0123456789ABCDEF},
                          Event{Event::kMsrRead, 0x40000001, 8, 0xFEDCBA9876543210},
                          Event{Event::kMsrRead, 0x400001FF, 8, 1}, Event{Event::kMsrRead, 0x40000020, 8, 0x100000002},
                          Event{Event::kMsrWrite, 0x40000105, 8, 0x100000002}));
  EXPECT_EQ(machine().Read<uint64_t>(0x80000), 0x76543210u) << "RDMSR clears the upper halves";
  EXPECT_EQ(machine().Read<uint64_t>(0x80008), 0xFEDCBA98u);
}

HVSDK_GUEST(MsrFault, 64, R"(
    mov ecx, 0x40000002
    mov eax, 0x1111
    mov edx, 0x2222
    rdmsr
    out 0xF4, al
)")
TEST_P(ExitTest, RefusedMsrReadIsGeneralProtection) {
  machine().Start(Mode::kLong, MsrFault());
  machine().Run(recorder_);
  ASSERT_EQ(recorder_.fault, 13);
  const Frame frame = machine().ReadFrame(13);
  EXPECT_EQ(frame.rip, kCodeGpa + 15);
  EXPECT_EQ(frame.error_code, 0u);
  EXPECT_EQ(machine().vp().GetGpr(Gpr::kRdx), 0x2222u) << "the instruction has no effect";
}

HVSDK_GUEST(MsrWriteFault, 64, R"(
    mov ecx, 0x40000010
    mov eax, 1
    xor edx, edx
    wrmsr
    out 0xF4, al
)")
TEST_P(ExitTest, RefusedMsrWriteIsGeneralProtection) {
  machine().Start(Mode::kLong, MsrWriteFault());
  recorder_.on_msr_write = [](Vp&, uint32_t, uint64_t) { return MsrOutcome::kFault; };
  machine().Run(recorder_);
  ASSERT_EQ(recorder_.fault, 13);
  EXPECT_EQ(machine().ReadFrame(13).rip, kCodeGpa + 12);
}

HVSDK_GUEST(UnknownMsr, 64, R"(
    mov ecx, 0x12345
    rdmsr
    mov ebx, eax
    mov eax, 7
    xor edx, edx
    wrmsr
    out 0xF4, al
)")
TEST_P(ExitTest, MsrsTheEngineDoesNotKnowExit) {
  machine().Start(Mode::kLong, UnknownMsr());
  recorder_.msr_values[0x12345] = 42;
  machine().Run(recorder_);
  EXPECT_THAT(recorder_.events,
              ElementsAre(Event{Event::kMsrRead, 0x12345, 8, 42}, Event{Event::kMsrWrite, 0x12345, 8, 7}));
  EXPECT_EQ(machine().vp().GetGpr(Gpr::kRbx), 42u);
}

HVSDK_GUEST(ExitRegisters, 64, R"(
    mov rax, 0x1111111111111111
    mov rbx, 0x2222222222222222
    out 0x42, al
    mov [0x80000], rax
    mov [0x80008], rbx
    mov rax, -1
    in al, 0x43
    mov [0x80010], rax
    mov [0x80018], rbx
    mov rdx, 0x10000000
    mov ecx, [rdx]
    mov [0x80020], rcx
    mov [0x80028], rbx
    out 0xF4, al
)")
TEST_P(ExitTest, HandlersMayChangeRegisters) {
  machine().Start(Mode::kLong, ExitRegisters());
  recorder_.on_port_write = [](Vp& vp, uint16_t, absl::Span<const uint8_t>) {
    EXPECT_EQ(vp.GetGpr(Gpr::kRbx), 0x2222222222222222u);
    vp.SetGpr(Gpr::kRax, 0x3333);
    vp.SetGpr(Gpr::kRbx, 0x4444);
  };
  recorder_.on_port_read = [](Vp& vp, uint16_t, absl::Span<uint8_t> data) {
    vp.SetGpr(Gpr::kRbx, 0x5555);
    data[0] = 0xA5;
  };
  recorder_.mmio_values[kMmioGpa] = 0xCAFE;
  recorder_.on_mmio_read = [](Vp& vp, uint64_t) { vp.SetGpr(Gpr::kRbx, 0x6666); };
  machine().Run(recorder_);
  EXPECT_EQ(machine().Read<uint64_t>(0x80000), 0x3333u);
  EXPECT_EQ(machine().Read<uint64_t>(0x80008), 0x4444u);
  EXPECT_EQ(machine().Read<uint64_t>(0x80010), 0xFFFFFFFFFFFFFFA5u);
  EXPECT_EQ(machine().Read<uint64_t>(0x80018), 0x5555u);
  EXPECT_EQ(machine().Read<uint64_t>(0x80020), 0xCAFEu);
  EXPECT_EQ(machine().Read<uint64_t>(0x80028), 0x6666u);
}

HVSDK_GUEST(KickedInExit, 64, R"(
    in al, 0x43
    mov [0x80000], al
    mov rbx, 0x10000000
    mov eax, [rbx]
    mov [0x80008], eax
    mov ecx, 0x40000020
    rdmsr
    mov [0x80010], eax
    mov rsi, 0x80100
    mov ecx, 3
    mov dx, 0x500
    rep outsb
    out 0xF4, al
)")
TEST_P(ExitTest, AKickInAnExitLosesNoCompletion) {
  machine().Start(Mode::kLong, KickedInExit());
  machine().Write<uint32_t>(0x80100, 0x030201);
  // Every exit is followed by a stop, during which all registers are written back as they are.
  class Kicker : public Recorder {
   public:
    void OnPortRead(Vp& vp, uint16_t port, absl::Span<uint8_t> data) override {
      Recorder::OnPortRead(vp, port, data);
      vp.Kick();
    }
    void OnPortWrite(Vp& vp, uint16_t port, absl::Span<const uint8_t> data) override {
      Recorder::OnPortWrite(vp, port, data);
      vp.Kick();
    }
    void OnMmioRead(Vp& vp, uint64_t gpa, absl::Span<uint8_t> data) override {
      Recorder::OnMmioRead(vp, gpa, data);
      vp.Kick();
    }
    MsrOutcome OnMsrRead(Vp& vp, uint32_t msr, uint64_t& value) override {
      const MsrOutcome outcome = Recorder::OnMsrRead(vp, msr, value);
      vp.Kick();
      return outcome;
    }
  } kicker;
  kicker.port_values[0x43] = 0x5A;
  kicker.mmio_values[kMmioGpa] = 0x12345678;
  kicker.msr_values[0x40000020] = 0x9ABC;
  int stops = 0;
  while (!kicker.done) {
    const absl::StatusOr<StopReason> stop = machine().vp().Run(kicker);
    ASSERT_TRUE(stop.ok()) << stop.status();
    ASSERT_LT(++stops, 100);
    const uint64_t rip = machine().Get(RegisterName::kRip);
    machine().Set(RegisterName::kRip, rip);
    machine().Set(RegisterName::kCr2, 0x77);
  }
  EXPECT_EQ(machine().Read<uint8_t>(0x80000), 0x5A);
  EXPECT_EQ(machine().Read<uint32_t>(0x80008), 0x12345678u);
  EXPECT_EQ(machine().Read<uint32_t>(0x80010), 0x9ABCu);
  EXPECT_THAT(kicker.events,
              ElementsAre(Event{Event::kPortRead, 0x43, 1, 0x5A}, Event{Event::kMmioRead, kMmioGpa, 4, 0x12345678},
                          Event{Event::kMsrRead, 0x40000020, 8, 0x9ABC}, Event{Event::kPortWrite, 0x500, 1, 1},
                          Event{Event::kPortWrite, 0x500, 1, 2}, Event{Event::kPortWrite, 0x500, 1, 3}));
  EXPECT_GE(stops, 4);
}

// Each exit is followed by a write that a handler jumps over, to `mov bl, 0x77`.
#define HVSDK_REDIRECTED(NAME, PREPARE, EXIT)                                                           \
  HVSDK_GUEST(NAME, 64,                                                                                 \
              "xor ebx, ebx\n xor ebp, ebp\n" PREPARE "\n .org guest_" #NAME "_begin + 64, 0x90\n" EXIT \
              "\n mov ebp, 1\n .org guest_" #NAME "_begin + 128, 0x90\n mov bl, 0x77\n out 0xF4, al")
HVSDK_REDIRECTED(RedirectedOut, "", "out 0x42, al")
HVSDK_REDIRECTED(RedirectedIn, "", "in al, 0x42")
HVSDK_REDIRECTED(RedirectedRdmsr, "mov ecx, 0x40000020", "rdmsr")
HVSDK_REDIRECTED(RedirectedWrmsr, "mov ecx, 0x40000020", "wrmsr")
HVSDK_REDIRECTED(RedirectedLoad, "mov edx, 0x10000000", "mov rax, [rdx]")
HVSDK_REDIRECTED(RedirectedStore, "mov edx, 0x10000000", "mov [rdx], eax")
HVSDK_REDIRECTED(RedirectedOuts, "mov esi, 0x80000\n mov dx, 0x42", "outsb")
HVSDK_REDIRECTED(RedirectedIns, "mov edi, 0x80000\n mov dx, 0x42", "insb")
HVSDK_REDIRECTED(RedirectedCall, "mov eax, 0xF000", "call rax")
TEST_P(ExitTest, AHandlerMayGoOnElsewhere) {
  const struct {
    const char* name;
    absl::Span<const uint8_t> code;
  } cases[] = {{"out", RedirectedOut()},     {"in", RedirectedIn()},     {"rdmsr", RedirectedRdmsr()},
               {"wrmsr", RedirectedWrmsr()}, {"load", RedirectedLoad()}, {"store", RedirectedStore()},
               {"outs", RedirectedOuts()},   {"ins", RedirectedIns()},   {"call", RedirectedCall()}};
  // Once to another place, once to where the exit was, from which it comes again.
  for (const auto& c : cases) {
    for (const bool again : {false, true}) {
      SCOPED_TRACE(absl::StrFormat("%s, %s", c.name, again ? "again" : "elsewhere"));
      machine().Start(Mode::kLong, c.code);
      int exits = 0;
      const auto redirect = [&](Vp& vp) {
        if (++exits > 1 && again) return;
        const RegisterName name = RegisterName::kRip;
        const hvdef::RegisterValue value{kCodeGpa + (again ? 64u : 128u), 0};
        EXPECT_TRUE(vp.SetRegisters({&name, 1}, {&value, 1}).ok());
        EXPECT_EQ(machine().Get(RegisterName::kRip), value.low);
      };
      Recorder recorder;
      recorder.on_port_read = [&](Vp& vp, uint16_t, absl::Span<uint8_t>) { redirect(vp); };
      recorder.on_port_write = [&](Vp& vp, uint16_t, absl::Span<const uint8_t>) { redirect(vp); };
      recorder.on_mmio_read = [&](Vp& vp, uint64_t) { redirect(vp); };
      recorder.on_mmio_write = [&](Vp& vp, uint64_t, absl::Span<const uint8_t>) { redirect(vp); };
      recorder.on_msr_read = [&](Vp& vp, uint32_t, uint64_t&) { return redirect(vp), MsrOutcome::kDone; };
      recorder.on_msr_write = [&](Vp& vp, uint32_t, uint64_t) { return redirect(vp), MsrOutcome::kDone; };
      recorder.on_hypercall = [&](Vp& vp) { return redirect(vp), HypercallOutcome::kDone; };
      machine().Run(recorder);
      EXPECT_EQ(recorder.fault, -1);
      EXPECT_EQ(exits, again ? 2 : 1);
      EXPECT_EQ(machine().vp().GetGpr(Gpr::kRbx), 0x77u);
      EXPECT_EQ(machine().vp().GetGpr(Gpr::kRbp), again ? 1u : 0u);
    }
  }
}

// A write of RIP counts for its own exit alone, whatever else that exit brings.
TEST_P(ExitTest, GoingOnElsewhereIsForgottenAfterwards) {
  machine().Start(Mode::kLong, RedirectedRdmsr());
  std::atomic<int> exits{0};
  recorder_.on_msr_read = [&](Vp& vp, uint32_t, uint64_t&) {
    ++exits;
    const RegisterName name = RegisterName::kRip;
    const hvdef::RegisterValue value{kCodeGpa + 128, 0};
    EXPECT_TRUE(vp.SetRegisters({&name, 1}, {&value, 1}).ok());
    return MsrOutcome::kHalt;
  };
  VpThread thread(machine(), 0, recorder_);
  while (exits == 0) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  thread.Join();
  EXPECT_FALSE(recorder_.done) << "it sleeps";
  EXPECT_EQ(machine().Get(RegisterName::kRip), kCodeGpa + 128);
  ASSERT_TRUE(machine().vp().SetActivity(Activity::kRunning).ok());
  machine().Run(recorder_);
  EXPECT_EQ(exits, 1);
  EXPECT_EQ(machine().vp().GetGpr(Gpr::kRbx), 0x77u);
}

}  // namespace
}  // namespace hvsdk::backend
