// SPDX-License-Identifier: Apache-2.0
// Code that is written while it runs, and code that lies across pages. A processor lets each instruction see what the
// one before it wrote, without a branch between them (Intel SDM volume 3, 8.1.3 and 11.6).

#include <cstring>
#include <initializer_list>

#include "tests/backend/conformance.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

constexpr uint64_t kOld = 0x1111111111111111;
constexpr uint64_t kNew = 0x2222222222222222;  // in RBX and at kDataGpa

class CodeTest : public ConformanceTest {
 protected:
  struct Store {
    const char* name;
    absl::Span<const uint8_t> code;
    uint64_t value;  // of the immediate operands behind it
  };
  void ExpectSeen(std::initializer_list<Store> stores) {
    recorder_.port_values[0x20] = 0x22222222;
    for (const Store& store : stores) {
      SCOPED_TRACE(store.name);
      machine().Start(Mode::kLong, store.code);
      machine().Write<uint64_t>(kFirstPageTableGpa + 0x110 * 8, kCodeGpa | 7);  // the code's page once more
      machine().Write<uint64_t>(kDataGpa, kNew);
      recorder_.fault = -1;
      machine().Run(recorder_);
      EXPECT_EQ(recorder_.fault, -1);
      EXPECT_EQ(machine().Get(RegisterName::kR14), store.value);
      EXPECT_EQ(machine().Get(RegisterName::kR15), store.value);
    }
  }
  // Makes a second address space like the first, by tables from 0x20000 on.
  void CopyTables() {
    uint8_t tables[4 * 4096];
    ASSERT_TRUE(machine().memory().Read(kPml4Gpa, tables, sizeof(tables)));
    machine().Load(0x20000, tables);
    machine().Write<uint64_t>(0x20000, 0x21000 | 7);
    machine().Write<uint64_t>(0x21000, 0x22000 | 7);
    machine().Write<uint64_t>(0x22000, 0x23000 | 7);
  }
};
HVSDK_CONFORMANCE_SUITE(CodeTest);

// Twice in a straight line: STORE, with RDI at the immediate operand of the instruction behind it.
#define HVSDK_STORE_GUEST(NAME, STORE)        \
  HVSDK_GUEST(NAME, 64,                       \
              "mov rbx, 0x2222222222222222\n" \
              "lea rdi, [rip + 1f]\n" STORE   \
              ".byte 0x49, 0xBE\n"            \
              "1: .quad 0x1111111111111111\n" \
              "lea rdi, [rip + 2f]\n" STORE   \
              ".byte 0x49, 0xBF\n"            \
              "2: .quad 0x1111111111111111\n" \
              "out 0xF4, al\n")

HVSDK_STORE_GUEST(StoreMov, "mov [rdi], rbx\n")
HVSDK_STORE_GUEST(StoreMovByte, "mov [rdi + 3], bl\n")
HVSDK_STORE_GUEST(StoreMovImmediate, "mov dword ptr [rdi], 5\n")
HVSDK_STORE_GUEST(StoreMovIndexed, "mov ecx, 2; mov [rdi + rcx * 2], ebx\n")
HVSDK_STORE_GUEST(StoreMovSegment, "mov [rdi], ss\n")
HVSDK_STORE_GUEST(StoreMovnti, "movnti [rdi], rbx\n")
HVSDK_STORE_GUEST(StoreSub, "sub dword ptr [rdi], 0x11\n")
HVSDK_STORE_GUEST(StoreAdd, "add [rdi], rbx\n")
HVSDK_STORE_GUEST(StoreInc, "inc qword ptr [rdi]\n")
HVSDK_STORE_GUEST(StoreNot, "not qword ptr [rdi]\n")
HVSDK_STORE_GUEST(StoreShift, "shl dword ptr [rdi], 1\n")
HVSDK_STORE_GUEST(StoreRotate, "mov cl, 4; clc; rcl qword ptr [rdi], cl\n")
HVSDK_STORE_GUEST(StoreDoubleShift, "shld [rdi], rbx, 8\n")
HVSDK_STORE_GUEST(StoreBitSet, "bts qword ptr [rdi], 1\n")
HVSDK_STORE_GUEST(StoreBitReset, "mov ecx, 4; lock btr [rdi], rcx\n")
HVSDK_STORE_GUEST(StoreSetcc, "stc; setc [rdi]\n")
HVSDK_STORE_GUEST(StoreXchg, "mov rcx, rbx; xchg [rdi], rcx\n")
HVSDK_STORE_GUEST(StoreXadd, "mov rcx, rbx; xadd [rdi], rcx\n")
HVSDK_STORE_GUEST(StoreLockAdd, "lock add qword ptr [rdi], 1\n")
HVSDK_STORE_GUEST(StoreLockXadd, "mov rcx, rbx; lock xadd [rdi], rcx\n")
HVSDK_STORE_GUEST(StoreCmpxchg, "mov rax, [rdi]; cmpxchg [rdi], rbx\n")
HVSDK_STORE_GUEST(StoreLockCmpxchg, "mov rax, [rdi]; lock cmpxchg [rdi], rbx\n")
HVSDK_STORE_GUEST(StoreCmpxchg8b, "mov eax, [rdi]; mov edx, eax; mov ecx, ebx; lock cmpxchg8b [rdi]\n")
HVSDK_STORE_GUEST(StoreStos, "mov rax, rbx; stosq\n")
HVSDK_STORE_GUEST(StoreRepStos, "mov eax, ebx; mov ecx, 8; rep stosb\n")
HVSDK_STORE_GUEST(StoreMovs, "mov esi, 0x80000; movsq\n")
HVSDK_STORE_GUEST(StoreRepMovs, "mov esi, 0x80000; mov ecx, 2; rep movsd\n")
HVSDK_STORE_GUEST(StoreRepMovsDown, "mov esi, 0x80007; add rdi, 7; mov ecx, 8; std; rep movsb; cld\n")
HVSDK_STORE_GUEST(StoreIns, "mov edx, 0x20; insd\n")
HVSDK_STORE_GUEST(StorePush, "lea rsp, [rdi + 8]; push rbx\n")
HVSDK_STORE_GUEST(StorePushImmediate, "lea rsp, [rdi + 8]; push 5\n")
HVSDK_STORE_GUEST(StorePushMemory, "lea rsp, [rdi + 8]; push qword ptr [0x80000]\n")
HVSDK_STORE_GUEST(StorePop, "mov esp, 0x80000; pop qword ptr [rdi]\n")
HVSDK_STORE_GUEST(StoreEnter, "lea rsp, [rdi + 8]; mov rbp, rbx; enter 0, 0\n")
HVSDK_STORE_GUEST(StoreMovq, "movq xmm1, rbx; movq [rdi], xmm1\n")
HVSDK_STORE_GUEST(StoreMovss, "movd xmm1, ebx; movss [rdi], xmm1\n")
HVSDK_STORE_GUEST(StoreMovlps, "movlps xmm1, [0x80000]; movlps [rdi], xmm1\n")
HVSDK_STORE_GUEST(StoreMovhps, "movhps xmm1, [0x80000]; movhps [rdi], xmm1\n")
HVSDK_STORE_GUEST(StoreMovdqu, "movdqu xmm1, [rdi]; movlps xmm1, [0x80000]; movdqu [rdi], xmm1\n")
HVSDK_STORE_GUEST(StoreMaskmov, R"(
    movlps xmm1, [0x80000]
    xorps xmm2, xmm2
    pcmpeqd xmm3, xmm3
    movsd xmm2, xmm3
    maskmovdqu xmm1, xmm2
)")
HVSDK_STORE_GUEST(StoreMmx, "movq mm1, [0x80000]; movq [rdi], mm1; emms\n")
HVSDK_STORE_GUEST(StoreFst, "fld qword ptr [0x80000]; fstp qword ptr [rdi]\n")
HVSDK_STORE_GUEST(StoreFist, "fild qword ptr [0x80000]; fistp qword ptr [rdi]\n")
HVSDK_STORE_GUEST(StoreFstcw, "fninit; fnstcw [rdi]\n")
HVSDK_STORE_GUEST(StoreAlias, "mov [rdi + 0x100000], rbx\n")

TEST_P(CodeTest, AnInstructionSeesWhatTheOneBeforeItWrote) {
  ExpectSeen({
      {"mov", StoreMov(), kNew},
      {"mov byte", StoreMovByte(), 0x1111111122111111},
      {"mov imm", StoreMovImmediate(), 0x1111111100000005},
      {"mov [base+index]", StoreMovIndexed(), 0x2222222211111111},
      {"mov sreg", StoreMovSegment(), 0x1111111111110000 | kData32},
      {"movnti", StoreMovnti(), kNew},
      {"sub", StoreSub(), 0x1111111111111100},
      {"add", StoreAdd(), kOld + kNew},
      {"inc", StoreInc(), kOld + 1},
      {"not", StoreNot(), ~kOld},
      {"shl", StoreShift(), 0x1111111122222222},
      {"rcl", StoreRotate(), 0x1111111111111110},
      {"shld", StoreDoubleShift(), 0x1111111111111122},
      {"bts", StoreBitSet(), kOld + 2},
      {"lock btr", StoreBitReset(), kOld - 0x10},
      {"setc", StoreSetcc(), 0x1111111111111101},
      {"xchg", StoreXchg(), kNew},
      {"xadd", StoreXadd(), kOld + kNew},
      {"lock add", StoreLockAdd(), kOld + 1},
      {"lock xadd", StoreLockXadd(), kOld + kNew},
      {"cmpxchg", StoreCmpxchg(), kNew},
      {"lock cmpxchg", StoreLockCmpxchg(), kNew},
      {"cmpxchg8b", StoreCmpxchg8b(), kNew},
      {"stos", StoreStos(), kNew},
      {"rep stos", StoreRepStos(), kNew},
      {"movs", StoreMovs(), kNew},
      {"rep movs", StoreRepMovs(), kNew},
      {"rep movs down", StoreRepMovsDown(), kNew},
      {"ins", StoreIns(), 0x1111111122222222},
      {"push", StorePush(), kNew},
      {"push imm", StorePushImmediate(), 5},
      {"push mem", StorePushMemory(), kNew},
      {"pop", StorePop(), kNew},
      {"enter", StoreEnter(), kNew},
      {"mov by another address", StoreAlias(), kNew},
  });
}
TEST_P(CodeTest, AnInstructionSeesWhatAVectorStoreWrote) {
  ExpectSeen({
      {"movq", StoreMovq(), kNew},
      {"movss", StoreMovss(), 0x1111111122222222},
      {"movlps", StoreMovlps(), kNew},
      {"movhps", StoreMovhps(), kNew},
      {"movdqu", StoreMovdqu(), kNew},
      {"maskmovdqu", StoreMaskmov(), kNew},
      {"movq mmx", StoreMmx(), kNew},
      {"fst", StoreFst(), kNew},
      {"fist", StoreFist(), kNew},
      {"fstcw", StoreFstcw(), 0x111111111111037F},
  });
}

// Return addresses as immediate operands: R14 and R15 are to be RBP and RSI. The rest of an interrupt's frame adds to
// the bytes at RAX.
HVSDK_GUEST(CallIntoCode, 64, R"(
    lea rsp, [rip + 1f + 8]
    call 3f
3:  .byte 0x49, 0xBE
1:  .quad 0
    lea rbp, [rip + 3b]
    lea rsp, [rip + 2f + 8]
    lea rax, [rip + 4f]
    call rax
4:  .byte 0x49, 0xBF
2:  .quad 0
    lea rsi, [rip + 4b]
    out 0xF4, al
)")
HVSDK_GUEST(InterruptIntoCode, 64, R"(
    mov eax, 0x80000
    lea rsp, [rip + 1f + 40]
    int 0x41
3:  .org guest_InterruptIntoCode_begin + 0x106, 0x90
    .byte 0x49, 0xBE
1:  .quad 0
    .skip 32, 0x90
    mov esp, 0x90000
    lea rbp, [rip + 3b]
    out 0xF4, al
)")
HVSDK_GUEST(ReturnFromInterrupt, 64, "iretq\n")
TEST_P(CodeTest, CallsMayPushOntoCode) {
  machine().Start(Mode::kLong, CallIntoCode());
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Get(RegisterName::kR14), machine().Get(RegisterName::kRbp));
  EXPECT_EQ(machine().Get(RegisterName::kR15), machine().Get(RegisterName::kRsi));
}
TEST_P(CodeTest, InterruptsMayPushOntoCode) {
  machine().Start(Mode::kLong, InterruptIntoCode());
  machine().Load(0x11000, ReturnFromInterrupt());
  machine().SetHandler(Mode::kLong, 0x41, 0x11000);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Get(RegisterName::kR14), machine().Get(RegisterName::kRbp));
}

// FXSAVE over the code behind it: the registers' images are the next instructions.
HVSDK_GUEST(SaveIntoCode, 64, R"(
    movdqu xmm0, [0x80010]
    jmp 3f
    .balign 16, 0x90
1:  .skip 152, 0x90
3:  fxsave64 [rip + 1b]
    .byte 0x49, 0xBE
    .quad 0x1111111111111111
    .byte 0xE9
    .long 337
    nop
    .skip 336, 0x90
    out 0xF4, al
)")
TEST_P(CodeTest, StatesMayBeSavedOntoCode) {
  machine().Start(Mode::kLong, SaveIntoCode());
  uint8_t image[16] = {0x49, 0xBE, 0, 0, 0, 0, 0, 0, 0, 0, 0xE9, 337 & 0xFF, 337 >> 8, 0, 0, 0x90};
  std::memcpy(image + 2, &kNew, 8);
  machine().Load(0x80010, image);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Get(RegisterName::kR14), kNew);
}

// A loop that counts in its own immediate operand.
HVSDK_GUEST(CountInCode, 64, R"(
    mov ecx, 1000
    xor eax, eax
1:  inc dword ptr [rip + 2f]
    .byte 0x05
2:  .long 0
    dec ecx
    jnz 1b
    mov r14, rax
    out 0xF4, al
)")
TEST_P(CodeTest, ALoopMayChangeItself) {
  machine().Start(Mode::kLong, CountInCode());
  machine().Run(recorder_);
  EXPECT_EQ(machine().Get(RegisterName::kR14), 1000u * 1001 / 2);
}

// The flags of an instruction that changes its successor are there, though the successor as it was would have set them
// anew.
HVSDK_GUEST(FlagsBehindAStore, 64, R"(
    mov eax, 5
    mov ecx, 0x50A1
    xor [rip + 1f], ecx
1:  .byte 0x31, 0xC0, 0x90, 0x90
    sets r15b
    mov r14d, eax
    out 0xF4, al
)")
TEST_P(CodeTest, FlagsAreThereBehindAStoreIntoCode) {
  machine().Start(Mode::kLong, FlagsBehindAStore());
  machine().Set(RegisterName::kR15, 0);
  machine().Run(recorder_);
  EXPECT_EQ(machine().Get(RegisterName::kR14), 5u) << "XOR EAX, EAX has become two NOPs";
  EXPECT_EQ(machine().Get(RegisterName::kR15), 1u) << "the sign of 90909090";
}

// The handler of an exit is a device that writes the code behind the access.
HVSDK_GUEST(DeviceWritesCode, 64, R"(
    mov edi, 0x10000000
    mov eax, [rdi]
    .byte 0x49, 0xBE
1:  .quad 0x1111111111111111
    mov [rdi], eax
    .byte 0x49, 0xBF
2:  .quad 0x1111111111111111
    in al, 0x10
    .byte 0x48, 0xBD
3:  .quad 0x1111111111111111
    out 0x10, al
    .byte 0x48, 0xBE
4:  .quad 0x1111111111111111
    out 0xF4, al
)")
TEST_P(CodeTest, ADeviceMayWriteTheCodeBehindItsAccess) {
  machine().Start(Mode::kLong, DeviceWritesCode());
  const auto write = [&](uint64_t offset) { ASSERT_TRUE(machine().memory().WriteObject(kCodeGpa + offset, kNew)); };
  recorder_.on_mmio_read = [&](Vp&, uint64_t) { write(9); };
  recorder_.on_mmio_write = [&](Vp&, uint64_t, absl::Span<const uint8_t>) { write(21); };
  recorder_.on_port_read = [&](Vp&, uint16_t, absl::Span<uint8_t>) { write(33); };
  recorder_.on_port_write = [&](Vp&, uint16_t, absl::Span<const uint8_t>) { write(45); };
  machine().Run(recorder_);
  EXPECT_EQ(machine().Get(RegisterName::kR14), kNew);
  EXPECT_EQ(machine().Get(RegisterName::kR15), kNew);
  EXPECT_EQ(machine().Get(RegisterName::kRbp), kNew);
  EXPECT_EQ(machine().Get(RegisterName::kRsi), kNew);
}

// ---- across pages ----

// Calls the last byte of the page at 1 MiB in two address spaces in turn, four times each, and adds up what comes in
// RAX.
HVSDK_GUEST(TwoSpaces, 64, R"(
    mov ecx, 4
    xor ebx, ebx
    mov edi, 0x100FFF
1:  mov eax, 0x4000
    mov cr3, rax
    call rdi
    add ebx, eax
    mov eax, 0x20000
    mov cr3, rax
    mov eax, 1
    call rdi
    add ebx, eax
    dec ecx
    jnz 1b
    out 0xF4, al
)")
TEST_P(CodeTest, AnInstructionAcrossPagesBelongsToItsAddressSpace) {
  machine().Start(Mode::kLong, TwoSpaces());
  CopyTables();
  // The one has MOV EAX, 0x1000; RET there, across two pages; the other RET, and no second page.
  machine().Write<uint64_t>(kFirstPageTableGpa + 0x100 * 8, 0x30000 | 7);
  machine().Write<uint64_t>(kFirstPageTableGpa + 0x101 * 8, 0x31000 | 7);
  machine().Write<uint8_t>(0x30FFF, 0xB8);
  machine().Load(0x31000, {{0x00, 0x10, 0x00, 0x00, 0xC3}});
  machine().Write<uint64_t>(0x23000 + 0x100 * 8, 0x32000 | 7);
  machine().Write<uint64_t>(0x23000 + 0x101 * 8, 0);
  machine().Write<uint8_t>(0x32FFF, 0xC3);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Get(RegisterName::kRbx), 4u * 0x1001);
}

// One CALL, whose target is another function in each address space, at first three times in a row; then the function of
// the second is written, and then mapped elsewhere.
HVSDK_GUEST(CallInSpaces, 64, R"(
    mov r8d, 0x4000
    mov r9d, 0x20000
    mov ecx, 16
    xor ebx, ebx
1:  mov cr3, r8
    mov edx, 3
2:  call guest_CallInSpaces_begin + 0x100000 - 0x10000
    add ebx, eax
    dec edx
    jnz 2b
    test ecx, ecx
    jz 4f
    xchg r8, r9
    dec ecx
    jz 3f
    test ecx, 1
    jnz 1b
    inc byte ptr [0x32001]
    jmp 1b
3:  mov qword ptr [0x23800], 0x30007
    mov edi, 0x100000
    invlpg [rdi]
    mov edx, 1
    jmp 2b
4:  out 0xF4, al
)")
TEST_P(CodeTest, ACallGoesWhereItsTargetIs) {
  machine().Start(Mode::kLong, CallInSpaces());
  CopyTables();
  machine().Write<uint64_t>(kFirstPageTableGpa + 0x100 * 8, 0x30000 | 7);
  machine().Write<uint64_t>(0x23000 + 0x100 * 8, 0x32000 | 7);
  machine().Load(0x30000, {{0xB8, 0x00, 0x01, 0x00, 0x00, 0xC3}});  // mov eax, 0x100; ret
  machine().Load(0x32000, {{0xB8, 0x00, 0x00, 0x00, 0x00, 0xC3}});
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  // Eight rounds in each space, three calls each: 0x100 in the one, the number of the round in the other; then once
  // more the one.
  EXPECT_EQ(machine().Get(RegisterName::kRbx), 24u * 0x100 + 3 * (0 + 1 + 2 + 3 + 4 + 5 + 6 + 7) + 0x100);
}

// The same in one address space, by INVLPG of the first page alone and by a store: the second page goes and comes.
HVSDK_GUEST(OneSpace, 64, R"(
    mov edi, 0x100FFF
    mov edx, 0x7800
    mov ecx, 4
    xor ebx, ebx
1:  mov qword ptr [rdx], 0x30007
    mov qword ptr [rdx + 8], 0x31007
    invlpg [rdi]
    call rdi
    add ebx, eax
    mov qword ptr [rdx], 0x32007
    mov qword ptr [rdx + 8], 0
    invlpg [rdi]
    invlpg [rdi + 1]
    mov eax, 1
    call rdi
    add ebx, eax
    dec ecx
    jnz 1b
    mov byte ptr [rdi], 0xC3
    call rdi
    out 0xF4, al
)")
TEST_P(CodeTest, AnInstructionAcrossPagesIsForgottenWithEitherPage) {
  machine().Start(Mode::kLong, OneSpace());
  machine().Write<uint8_t>(0x30FFF, 0xB8);
  machine().Load(0x31000, {{0x00, 0x10, 0x00, 0x00, 0xC3}});
  machine().Write<uint8_t>(0x32FFF, 0xC3);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Get(RegisterName::kRbx), 4u * 0x1001);
}

// Stores into both halves of an instruction across two pages, each from the straight line before it.
HVSDK_GUEST(StoreAcross, 64, R"(
    mov edi, 0x50FF0
    mov byte ptr [rdi + 15], 0xB8
    mov dword ptr [rdi + 16], 0x1234
    mov byte ptr [rdi + 20], 0xC3
    call rdi
    mov r14d, eax
    mov dword ptr [rdi + 16], 0x4321
    call rdi
    mov r15d, eax
    mov byte ptr [rdi + 15], 0x3D
    xor eax, eax
    call rdi
    mov ebp, eax
    mov rax, 0x00C300777777B890
    mov [rdi + 14], rax
    call rdi
    mov esi, eax
    out 0xF4, al
)")
TEST_P(CodeTest, AnInstructionAcrossPagesMayBeWritten) {
  machine().Start(Mode::kLong, StoreAcross());
  uint8_t nops[16];
  std::memset(nops, 0x90, sizeof(nops));
  machine().Load(0x50FF0, nops);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Get(RegisterName::kR14), 0x1234u);
  EXPECT_EQ(machine().Get(RegisterName::kR15), 0x4321u);
  EXPECT_EQ(machine().Get(RegisterName::kRbp), 0u) << "CMP now";
  EXPECT_EQ(machine().Get(RegisterName::kRsi), 0x777777u);
}

}  // namespace
}  // namespace hvsdk::backend
