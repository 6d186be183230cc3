// SPDX-License-Identifier: Apache-2.0
// Page tables that are code at the same time. The processor's own writes to them, of accessed and dirty bits, change it
// as others do.

#include "tests/backend_software/software_test.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

// Runs the entries at 0x7F78 twice: MOV AL, [RBX] in one that is not present, then MOV AL, imm8 whose operand is the
// low byte of the next, which maps RBX; its other bytes add to memory, and the last entry comes back here by RSI.
HVSDK_GUEST(RunEntries, 64, R"(
    mov ebp, 2
    mov ebx, 0x1F0000
    mov ecx, 0x80000
    mov edi, 0x7F78
    lea rsi, [rip + 2f]
1:  mov eax, 0x80000
    jmp rdi
2:  dec ebp
    jnz 1b
    out 0xF4, al
)")
HVSDK_GUEST(EntryBefore, 64, "mov al, [rbx]; nop; nop; nop; nop; nop; .byte 0xB0\n")
HVSDK_GUEST(EntryBehind, 64, ".byte 0xC4; jmp rsi\n")  // completes ADD AH, AL

class PageTableTest : public SoftwareTest {};
TEST_F(PageTableTest, AccessedBitsAreSeenAsCode) {
  machine().Start(Mode::kLong, RunEntries());
  constexpr uint64_t kEntry = kFirstPageTableGpa + 8 * 0x1F0;
  machine().Write<uint64_t>(kEntry - 8, 0);
  machine().Write<uint64_t>(kEntry, 0x90000 | 7);
  machine().Write<uint64_t>(kEntry + 8, 0);
  machine().Load(kEntry - 8, EntryBefore());
  machine().Load(kEntry + 8, EntryBehind());
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint8_t>(kEntry), 0x27);
  EXPECT_EQ(machine().Get(RegisterName::kRax) & 0xFF, 0x27u);
}

// A processor that has not run has translated nothing, page 0 and what goes on there from the end of the address space included.
HVSDK_GUEST(ReadPage0, 64, "xor ebx, ebx; mov rax, [rbx]; out 0xF4, al\n")
HVSDK_GUEST(ReadAcrossTheEnd, 64, "mov rbx, -4; mov rax, [rbx]; out 0xF4, al\n")
TEST_F(PageTableTest, PageZeroIsNotThereBeforeItIsMapped) {
  machine().Start(Mode::kLong, ReadPage0());
  machine().Write<uint64_t>(kFirstPageTableGpa, 0);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, 14);
}
TEST_F(PageTableTest, TheEndOfTheAddressSpaceIsNotThereBeforeItIsMapped) {
  machine().Start(Mode::kLong, ReadAcrossTheEnd());
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, 14);
}

}  // namespace
}  // namespace hvsdk::backend
