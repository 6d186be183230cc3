// SPDX-License-Identifier: Apache-2.0
// Processor modes, the switches between them, start-up of further processors, activity and time.

#include <x86intrin.h>

#include <cstdlib>

#include "tests/backend/conformance.h"
#include "tests/backend/register_values.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;
using testing::ElementsAre;

class ModeTest : public ConformanceTest {};
HVSDK_CONFORMANCE_SUITE(ModeTest);

HVSDK_GUEST(RealModeCode, 16, R"(
    mov ax, 0x2000
    mov ds, ax
    mov es, ax
    mov word ptr ds:[0x10], 0x1234
    mov bx, ds:[0x10]
    xor dx, dx
    mov ax, 0xFFFF
    add ax, 2
    adc dx, 0
    push bx
    pop si
    mov cx, 4
    mov di, 0x20
    mov al, 0x5A
    cld
    rep stosb
    mov eax, 0x12345678
    mov ds:[0x30], eax
    int 0x21
    out 0xF4, al
)")
HVSDK_GUEST(RealModeHandler, 16, R"(
    mov bp, 0xB9B9
    iret
)")
TEST_P(ModeTest, RealMode) {
  machine().Start(Mode::kReal, RealModeCode());
  machine().Load(0x11000, RealModeHandler());
  machine().SetHandler(Mode::kReal, 0x21, 0x11000);
  machine().Run(recorder_);
  ASSERT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint16_t>(0x20010), 0x1234);
  EXPECT_EQ(machine().vp().GetGpr(Gpr::kRsi) & 0xFFFF, 0x1234u);
  EXPECT_EQ(machine().vp().GetGpr(Gpr::kRdx) & 0xFFFF, 1u);
  EXPECT_EQ(machine().vp().GetGpr(Gpr::kRbp) & 0xFFFF, 0xB9B9u);
  EXPECT_EQ(machine().Read<uint32_t>(0x20020), 0x5A5A5A5Au);
  EXPECT_EQ(machine().Read<uint32_t>(0x20030), 0x12345678u);
}

// Each push of PUSHA wraps by itself, and what LGDT reads outside 64-bit mode are six bytes.
HVSDK_GUEST(RealModeEnds, 16, R"(
    mov ax, 0x2000
    mov ds, ax
    lgdt ds:[0xFFFA]
    sgdt ds:[0x10]
    mov ax, 0x3000
    mov ss, ax
    mov sp, 8
    mov ax, 0x1111
    mov di, 0x7777
    pusha
    mov si, sp
    out 0xF4, al
)")
TEST_P(ModeTest, RealModeSegmentsAreUsedToTheirEnds) {
  machine().Start(Mode::kReal, RealModeEnds());
  machine().Write<uint16_t>(0x2FFFA, 0x1234);
  machine().Write<uint32_t>(0x2FFFC, 0x00567890);
  machine().Run(recorder_);
  ASSERT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint16_t>(0x20010), 0x1234);
  EXPECT_EQ(machine().Read<uint32_t>(0x20012) & 0xFFFFFF, 0x567890u);
  EXPECT_EQ(machine().vp().GetGpr(Gpr::kRsi) & 0xFFFF, 0xFFF8u);
  EXPECT_EQ(machine().Read<uint16_t>(0x30006), 0x1111);
  EXPECT_EQ(machine().Read<uint16_t>(0x3FFF8), 0x7777);
}

HVSDK_GUEST(ProtectedModeCode, 32, R"(
    mov eax, cr0
    mov ds:[0x80000], eax
    mov eax, 0x80000000
    mov ebx, 3
    mul ebx
    mov ds:[0x80004], edx
    push 0x11223344
    pop esi
    mov edi, offset 0x80010
    mov ecx, 3
    mov eax, 0xA5A5A5A5
    cld
    rep stosd
    mov ax, cs
    mov ds:[0x80020], ax
    out 0xF4, al
)")
TEST_P(ModeTest, ProtectedMode) {
  machine().Start(Mode::kProtected, ProtectedModeCode());
  machine().Run(recorder_);
  ASSERT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0x80000) & 0x80000001, 1u);
  EXPECT_EQ(machine().Read<uint32_t>(0x80004), 1u);
  EXPECT_EQ(machine().vp().GetGpr(Gpr::kRsi), 0x11223344u);
  EXPECT_EQ(machine().Read<uint32_t>(0x80018), 0xA5A5A5A5u);
  EXPECT_EQ(machine().Read<uint16_t>(0x80020), kCode32);
}

// Real mode to protected mode to long mode, in one go, as firmware does; tables are those of the machine. It says where
// it is by a port write in each mode.
asm(".pushsection .rodata\n"
    ".globl guest_Climb_begin\n.globl guest_Climb_end\n"
    "guest_Climb_begin:\n"
    ".code16\n.intel_syntax noprefix\n"
    "  mov al, 1\n"
    "  out 0x10, al\n"
    "  cli\n"
    "  lgdt cs:[climb_gdt - guest_Climb_begin]\n"
    "  lidt cs:[climb_idt - guest_Climb_begin]\n"
    "  mov eax, cr0\n"
    "  or al, 1\n"
    "  mov cr0, eax\n"
    "  .byte 0x66, 0xEA\n"  // jmp far, 32-bit offset
    "  .long 0x10000 + climb_32 - guest_Climb_begin\n"
    "  .word 0x08\n"
    "climb_32:\n"
    ".code32\n"
    "  mov ax, 0x10\n"
    "  mov ds, ax\n"
    "  mov es, ax\n"
    "  mov ss, ax\n"
    "  mov esp, 0x90000\n"
    "  mov al, 2\n"
    "  out 0x10, al\n"
    "  mov eax, cr4\n"
    "  or eax, 0x20\n"
    "  mov cr4, eax\n"
    "  mov eax, 0x4000\n"
    "  mov cr3, eax\n"
    "  mov ecx, 0xC0000080\n"
    "  rdmsr\n"
    "  or eax, 0x100\n"
    "  wrmsr\n"
    "  mov eax, cr0\n"
    "  or eax, 0x80000000\n"
    "  mov cr0, eax\n"
    "  mov al, 3\n"
    "  out 0x10, al\n"  // still 32-bit code: compatibility mode
    "  .byte 0xEA\n"
    "  .long 0x10000 + climb_64 - guest_Climb_begin\n"
    "  .word 0x18\n"
    "climb_64:\n"
    ".code64\n"
    "  mov rax, 0x123456789ABCDEF0\n"
    "  mov [0x80000], rax\n"
    "  mov r15, rax\n"
    "  mov al, 4\n"
    "  out 0x10, al\n"
    "  mov ecx, 0xC0000080\n"
    "  rdmsr\n"
    "  mov [0x80008], eax\n"
    "  out 0xF4, al\n"
    ".balign 4\n"
    "climb_gdt: .word 63\n .long 0x1000\n"
    "climb_idt: .word 4095\n .long 0x2000\n"
    ".att_syntax prefix\n.code64\n"
    "guest_Climb_end:\n"
    ".popsection\n");
extern "C" const uint8_t guest_Climb_begin[], guest_Climb_end[];

TEST_P(ModeTest, RealToProtectedToLong) {
  machine().Start(Mode::kReal, {guest_Climb_begin, static_cast<size_t>(guest_Climb_end - guest_Climb_begin)});
  machine().Run(recorder_);
  EXPECT_THAT(recorder_.events,
              ElementsAre(Event{Event::kPortWrite, 0x10, 1, 1}, Event{Event::kPortWrite, 0x10, 1, 2},
                          Event{Event::kPortWrite, 0x10, 1, 3}, Event{Event::kPortWrite, 0x10, 1, 4}));
  EXPECT_EQ(machine().Read<uint64_t>(0x80000), 0x123456789ABCDEF0u);
  EXPECT_EQ(machine().Read<uint32_t>(0x80008) & 0x500, 0x500u) << "LMA and LME";
  EXPECT_EQ(machine().Get(RegisterName::kEfer) & 0x500, 0x500u);
  EXPECT_EQ(machine().Get(RegisterName::kCr0) & 0x80000001, 0x80000001u);
  EXPECT_EQ(machine().vp().GetGpr(Gpr::kR15), 0x123456789ABCDEF0u);
}

HVSDK_GUEST(BackToProtected, 64, R"(
    mov rax, 0x10000
    push 0x08
    lea rax, [rip + 1f]
    push rax
    .byte 0x48, 0xCB
1:
    .code32
    mov eax, 0x55AA55AA
    mov ds:[0x80000], eax
    mov ax, cs
    mov ds:[0x80004], ax
    out 0xF4, al
)")
TEST_P(ModeTest, CompatibilityMode) {
  machine().Start(Mode::kLong, BackToProtected());
  machine().Run(recorder_);
  ASSERT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 0x55AA55AAu);
  EXPECT_EQ(machine().Read<uint16_t>(0x80004), kCode32);
}

HVSDK_GUEST(Paging32, 32, R"(
    mov eax, cr4
    or eax, 0x10
    mov cr4, eax
    mov eax, 0x9000
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    mov eax, ds:[0x00C80000]
    mov ds:[0x80004], eax
    out 0xF4, al
)")
TEST_P(ModeTest, LegacyPaging) {
  machine().Load(kCodeGpa, Paging32());
  machine().Write<uint32_t>(kPageDirectory32Gpa + 3 * 4, 0x83);  // 12 MiB is 0 again
  machine().Write<uint32_t>(0x80000, 0x600DF00D);
  machine().Start(Mode::kProtected, kCodeGpa);
  machine().Run(recorder_);
  ASSERT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0x80004), 0x600DF00Du);
}

// The bootstrap processor starts another: INIT, then start-up at page 0x11.
HVSDK_GUEST(StartAnother, 64, R"(
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    mov dword ptr [rbx + 0x310], 0x01000000
    mov dword ptr [rbx + 0x300], 0x00004500
    mov dword ptr [rbx + 0x310], 0x01000000
    mov dword ptr [rbx + 0x300], 0x00004611
1:  pause
    cmp dword ptr [0x80000], 0x4150
    jne 1b
    out 0xF4, al
)")
HVSDK_GUEST(Started, 16, R"(
    mov ax, cs
    mov bx, ax
    mov ax, 0x8000
    mov ds, ax
    mov ds:[4], bx
    mov dword ptr ds:[0], 0x4150
    cli
    hlt
)")
TEST_P(ModeTest, InitAndStartupStartAProcessor) {
  MakeMachine(2);
  machine().Load(0x11000, Started());
  machine().Start(Mode::kLong, StartAnother());
  Recorder second;
  VpThread thread(machine(), 1, second);
  machine().Run(recorder_);
  thread.Join();
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint16_t>(0x80004), 0x1100);
}

// A processor that was started has selectors of 0 in front of descriptors that protected mode may use (Intel SDM volume 3, table 9-1 and
// 9.9.1): it reads its tables through them, and its stack too, before it loads any segment.
asm(".pushsection .rodata\n"
    ".globl guest_KeepSegments_begin\n.globl guest_KeepSegments_end\n"
    "guest_KeepSegments_begin:\n"
    ".code16\n.intel_syntax noprefix\n"
    "  mov eax, cr0\n"
    "  or al, 1\n"
    "  mov cr0, eax\n"
    "  mov esp, 0xD000\n"
    "  push 0x1234\n"
    "  pop es:[0xC020]\n"
    "  mov ax, fs:[0xC010]\n"
    "  mov gs:[0xC022], ax\n"
    "  lgdt ds:[0xC010]\n"
    "  .byte 0x66, 0xEA\n"
    "  .long 0x11000 + keep_32 - guest_KeepSegments_begin\n"
    "  .word 0x08\n"
    "keep_32:\n"
    ".code32\n"
    "  mov dword ptr ds:[0xC000], 0x4150\n"  // still by the descriptor of before
    "1: hlt\n"
    "  jmp 1b\n"
    ".att_syntax prefix\n.code64\n"
    "guest_KeepSegments_end:\n"
    ".popsection\n");
extern "C" const uint8_t guest_KeepSegments_begin[], guest_KeepSegments_end[];
// From real mode to long mode at once.
asm(".pushsection .rodata\n"
    ".globl guest_StraightToLong_begin\n.globl guest_StraightToLong_end\n"
    "guest_StraightToLong_begin:\n"
    ".code16\n.intel_syntax noprefix\n"
    "  mov eax, 0x20\n"
    "  mov cr4, eax\n"
    "  mov eax, 0x4000\n"
    "  mov cr3, eax\n"
    "  mov ecx, 0xC0000080\n"
    "  rdmsr\n"
    "  or eax, 0x100\n"
    "  wrmsr\n"
    "  mov eax, 0x80000011\n"
    "  mov cr0, eax\n"
    "  mov word ptr ds:[0xC020], 0x1234\n"
    "  mov ax, es:[0xC010]\n"
    "  mov ds:[0xC022], ax\n"
    "  lgdt ds:[0xC010]\n"
    "  .byte 0x66, 0xEA\n"
    "  .long 0x11000 + straight_64 - guest_StraightToLong_begin\n"
    "  .word 0x18\n"
    "straight_64:\n"
    ".code64\n"
    "  mov dword ptr [0xC000], 0x4150\n"
    "1: hlt\n"
    "  jmp 1b\n"
    ".att_syntax prefix\n.code64\n"
    "guest_StraightToLong_end:\n"
    ".popsection\n");
extern "C" const uint8_t guest_StraightToLong_begin[], guest_StraightToLong_end[];

HVSDK_GUEST(StartAndWait, 64, R"(
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    mov dword ptr [rbx + 0x310], 0x01000000
    mov dword ptr [rbx + 0x300], 0x00004500
    mov dword ptr [rbx + 0x310], 0x01000000
    mov dword ptr [rbx + 0x300], 0x00004611
1:  pause
    cmp dword ptr [0xC000], 0x4150
    jne 1b
    out 0xF4, al
)")
TEST_P(ModeTest, AStartedProcessorKeepsItsSegmentsInProtectedMode) {
  const absl::Span<const uint8_t> codes[] = {
      {guest_KeepSegments_begin, static_cast<size_t>(guest_KeepSegments_end - guest_KeepSegments_begin)},
      {guest_StraightToLong_begin, static_cast<size_t>(guest_StraightToLong_end - guest_StraightToLong_begin)}};
  for (const absl::Span<const uint8_t> code : codes) {
    MakeMachine(2);
    machine().Load(0x11000, code);
    machine().Write<uint16_t>(0xC010, 63);
    machine().Write<uint32_t>(0xC012, kGdtGpa);
    machine().Start(Mode::kLong, StartAndWait());
    Recorder second;
    {
      VpThread thread(machine(), 1, second);
      machine().Run(recorder_);
      thread.Join();
    }
    EXPECT_EQ(recorder_.fault, -1);
    EXPECT_EQ(second.fault, -1);
    EXPECT_EQ(machine().Read<uint16_t>(0xC020), 0x1234);
    EXPECT_EQ(machine().Read<uint16_t>(0xC022), 63);
  }
}

HVSDK_GUEST(EverySegment, 32, R"(
    mov dword ptr ds:[0x80000], 1
    mov dword ptr es:[0x80004], 2
    mov dword ptr ss:[0x80008], 3
    mov dword ptr fs:[0x8000C], 4
    mov dword ptr gs:[0x80010], 5
    push 6
    pop dword ptr ds:[0x80014]
    xor eax, eax
    mov fs, eax
    mov gs:[0x80018], eax
    mov dword ptr fs:[0x8001C], 7
    out 0xF4, al
)")
TEST_P(ModeTest, ADescriptorCountsWhateverItsSelectorIs) {
  machine().Start(Mode::kProtected, EverySegment());
  const RegisterName names[] = {RegisterName::kEs, RegisterName::kSs, RegisterName::kDs, RegisterName::kFs,
                                RegisterName::kGs};
  const hvdef::RegisterValue value = SegmentValue(0, 0xFFFFFFFF, 0, 0xC093);
  const hvdef::RegisterValue values[] = {value, value, value, value, value};
  ASSERT_TRUE(machine().vp().SetRegisters(names, values).ok());
  machine().Run(recorder_);
  for (uint32_t i = 0; i < 6; ++i) EXPECT_EQ(machine().Read<uint32_t>(0x80000 + 4 * i), i + 1);
  if (GetParam().name == "kvm" && std::getenv("HVSDK_NESTED") != nullptr)
    return;  // QEMU, below that KVM, does not look
  EXPECT_EQ(machine().Read<uint32_t>(0x8001C), 0u);
  EXPECT_EQ(recorder_.fault, 13) << "a null selector that was loaded is of no use";
}

// Goes to user mode, which a DS of more privilege does not survive, whatever its selector is.
HVSDK_GUEST(LeaveDataBehind, 64, R"(
    mov ax, 0x0C
    mov fs, ax
    mov ax, fs
    mov [0x80000], ax
    push 0x23
    push 0x8E000
    push 0x02
    push 0x2B
    lea rax, [rip + 1f]
    push rax
    iretq
1:  out 0xF4, al
)")
TEST_P(ModeTest, LocalTablesAndReturnsGoByTheDescriptorToo) {
  machine().Start(Mode::kLong, LeaveDataBehind());
  machine().Write<uint64_t>(0x82000 + 8, 0x00CFF3000000FFFF);
  const RegisterName names[] = {RegisterName::kLdtr, RegisterName::kDs};
  const hvdef::RegisterValue values[] = {SegmentValue(0x82000, 15, 0, 0x82), SegmentValue(0, 0xFFFFFFFF, 0, 0xC093)};
  ASSERT_TRUE(machine().vp().SetRegisters(names, values).ok());
  machine().Run(recorder_);
  EXPECT_EQ(machine().Read<uint16_t>(0x80000), 0x0C) << "a descriptor of a local table that has no selector";
  EXPECT_EQ(recorder_.fault, 13) << "no port for user mode";
  hvdef::RegisterValue ds;
  ASSERT_TRUE(machine().vp().GetRegisters({&names[1], 1}, {&ds, 1}).ok());
  EXPECT_EQ(ds.high >> 48 & 0x80, 0u);
}

HVSDK_GUEST(SayAndStop, 64, R"(
    mov [0x80000], rbx
    out 0xF4, al
)")
TEST_P(ModeTest, AVpMayBeStartedByItsRegisters) {
  MakeMachine(2);
  machine().Load(kCodeGpa, SayAndStop());
  machine().Start(Mode::kLong, kCodeGpa, 1);
  machine().Set(RegisterName::kRbx, 0x1234, 1);
  machine().Run(recorder_, 1);
  EXPECT_EQ(machine().Read<uint64_t>(0x80000), 0x1234u);
}

HVSDK_GUEST(ReadTsc, 64, R"(
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov [0x80000], rax
    in al, 0x10
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov [0x80008], rax
    out 0xF4, al
)")
TEST_P(ModeTest, TheHostKnowsTheGuestsTsc) {
  MakeMachine(2);
  machine().Load(kCodeGpa, ReadTsc());
  uint64_t last = 0;
  for (uint32_t vp = 0; vp < 2; ++vp) {
    machine().Start(Mode::kLong, kCodeGpa, vp);
    uint64_t inside = 0;
    recorder_.on_port_read = [&](Vp&, uint16_t, absl::Span<uint8_t>) { inside = machine().partition().GuestTsc(); };
    const uint64_t before = machine().partition().GuestTsc();
    machine().Run(recorder_, vp);
    const uint64_t after = machine().partition().GuestTsc();
    const uint64_t first = machine().Read<uint64_t>(0x80000);
    const uint64_t second = machine().Read<uint64_t>(0x80008);
    EXPECT_LT(last, before);
    EXPECT_LT(before, first);
    EXPECT_LT(first, inside);
    EXPECT_LT(inside, second);
    EXPECT_LT(second, after);
    last = after;
  }
  EXPECT_GE(backend().caps().tsc_frequency_hz, 1000000u);
}

}  // namespace
}  // namespace hvsdk::backend
