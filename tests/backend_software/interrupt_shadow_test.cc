// SPDX-License-Identifier: Apache-2.0
// Interrupts that arrive from another thread whenever they like. Whatever the moment, each is delivered once, none
// before the instruction behind an STI that set IF, or behind a load of SS, has run (Intel SDM volume 2, STI; volume 3,
// 6.8.3), and none is left waiting when a window between STI and CLI closes.

#include <atomic>
#include <thread>

#include "tests/backend_software/software_test.h"
#include "tests/test_scale.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

constexpr uint64_t kCount = 0x80000;  // interrupts taken
constexpr uint64_t kStop = 0x80008;
constexpr uint64_t kRounds = 0x80010;
constexpr uint64_t kForbidden = 0x80100;  // return addresses that must not be seen, up to a zero
constexpr uint64_t kBroken = 0x80018;     // how often one was

// Counts, compares the return address, and acknowledges.
HVSDK_GUEST(CheckReturnAddress, 64, R"(
    push rax
    push rbx
    inc dword ptr [0x80000]
    mov ebx, 0x80100
1:  mov rax, [rbx]
    test rax, rax
    jz 3f
    cmp rax, [rsp + 16]
    jne 2f
    inc dword ptr [0x80018]
2:  add ebx, 8
    jmp 1b
3:  mov ebx, 0xFEE00000
    mov dword ptr [rbx + 0xB0], 0
    pop rbx
    pop rax
    iretq
)")

// At a label f_shadow_ no interrupt may return. Windows of one instruction: what waited is taken behind the NOP.
HVSDK_GUEST(ManyShadows, 64, R"(
    mov ebx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    mov ebp, ss
1:  sti
    .globl f_shadow_1
f_shadow_1:
    cli
    sti
    .globl f_shadow_2
f_shadow_2:
    nop
    cli
    sti
    .globl f_shadow_3
f_shadow_3:
    inc qword ptr [0x80010]
    jmp 2f
2:  cli
    sti
    .globl f_shadow_4
f_shadow_4:
    sti
    nop
    cli
    nop
    sti
    .globl f_shadow_5
f_shadow_5:
    jmp 3f
    nop
3:  nop
    mov ss, ebp
    .globl f_shadow_7
f_shadow_7:
    nop
    push rbp
    pop rax
    mov ss, eax
    .globl f_shadow_8
f_shadow_8:
    mov rax, rsp
    cli
    call across
    cmp dword ptr [0x80008], 0
    je 1b
    out 0xF4, al
    .org guest_ManyShadows_begin + 0xFFE, 0x90
across:
    nop
    sti
    .globl f_shadow_9
f_shadow_9:
    nop
    cli
    jmp straddle
    .org guest_ManyShadows_begin + 0x1FFA, 0x90
straddle:
    nop
    sti
    .globl f_shadow_10
f_shadow_10:
    mov rax, 0x1111111111111111
    cli
    ret
)")
class InterruptShadowTest : public SoftwareTest {
 protected:
  std::atomic_ref<uint32_t> Word(uint64_t gpa) {
    return std::atomic_ref<uint32_t>(*machine().memory().Word<uint32_t>(gpa));
  }
};

extern "C" const uint8_t f_shadow_1[], f_shadow_2[], f_shadow_3[], f_shadow_4[], f_shadow_5[], f_shadow_7[],
    f_shadow_8[], f_shadow_9[], f_shadow_10[];

TEST_F(InterruptShadowTest, NoneComesInAShadowAndEachComesOnce) {
  machine().Start(Mode::kLong, ManyShadows());
  machine().Load(0x14000, CheckReturnAddress());
  machine().SetHandler(Mode::kLong, 0x41, 0x14000);
  uint64_t at = kForbidden;
  for (const uint8_t* label :
       {f_shadow_1, f_shadow_2, f_shadow_3, f_shadow_4, f_shadow_5, f_shadow_7, f_shadow_8, f_shadow_9, f_shadow_10}) {
    machine().Write<uint64_t>(at, kCodeGpa + (label - guest_ManyShadows_begin));
    at += 8;
  }
  VpThread thread(machine(), 0, recorder_);
  while (Word(kRounds).load() == 0) std::this_thread::yield();
  // Wherever the guest is: a number of turns that differs each time, then an interrupt, then wait until it was taken.
  const uint32_t interrupts = ScaledCount(20'000);
  uint32_t turns = 1;
  for (uint32_t sent = 1; sent <= interrupts; ++sent) {
    machine().partition().RequestInterrupt(VpIndex{0}, 0x41, false);
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    // A short sleep, since a yield to other threads that spin costs their whole time slices.
    for (int spins = 0; Word(kCount).load() < sent; ++spins) {
      if (spins < 200) continue;
      ASSERT_LT(std::chrono::steady_clock::now(), limit) << "interrupt " << sent << " is lost";
      std::this_thread::sleep_for(std::chrono::microseconds(1));
    }
    turns = turns * 1103515245 + 12345;
    for (uint32_t i = turns >> 20; i != 0; --i) std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  Word(kStop).store(1);
  thread.WaitUntilDone();
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(Word(kCount).load(), interrupts);
  EXPECT_EQ(Word(kBroken).load(), 0u) << "interrupts came in a shadow";
}

// An interrupt that is pending when the window opens is taken in it, though the window is one instruction long.
HVSDK_GUEST(OneWindow, 64, R"(
    mov ebx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    in al, 0x10
    sti
    nop
    cli
    mov r14d, [0x80000]
    in al, 0x10
    sti
    cli
    mov r15d, [0x80000]
    sti
    hlt
    cli
    mov r13d, [0x80000]
    out 0xF4, al
)")
TEST_F(InterruptShadowTest, AWindowOfOneInstructionIsEnough) {
  machine().Start(Mode::kLong, OneWindow());
  machine().Load(0x14000, CheckReturnAddress());
  machine().SetHandler(Mode::kLong, 0x41, 0x14000);
  recorder_.on_port_read = [&](Vp&, uint16_t, absl::Span<uint8_t>) {
    machine().partition().RequestInterrupt(VpIndex{0}, 0x41, false);
  };
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Get(RegisterName::kR14), 1u);
  EXPECT_EQ(machine().Get(RegisterName::kR15), 1u) << "STI, CLI is no window";
  EXPECT_EQ(machine().Get(RegisterName::kR13), 2u);
}

// IF is set already: STI shadows nothing. The interrupt that waits for the task priority alone comes before the next
// instruction.
HVSDK_GUEST(StiTwice, 64, R"(
    mov ebx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    mov eax, 15
    mov cr8, rax
    sti
    nop
    in al, 0x10
    xor eax, eax
    mov cr8, rax
    mov r14d, [0x80000]
    out 0xF4, al
)")
TEST_F(InterruptShadowTest, LoweringThePriorityIsNoShadow) {
  machine().Start(Mode::kLong, StiTwice());
  machine().Load(0x14000, CheckReturnAddress());
  machine().SetHandler(Mode::kLong, 0x41, 0x14000);
  recorder_.on_port_read = [&](Vp&, uint16_t, absl::Span<uint8_t>) {
    machine().partition().RequestInterrupt(VpIndex{0}, 0x41, false);
  };
  machine().Run(recorder_);
  EXPECT_EQ(machine().Get(RegisterName::kR14), 1u);
}

}  // namespace
}  // namespace hvsdk::backend
