// SPDX-License-Identifier: Apache-2.0
// Guests that run more code than the code cache holds: memory stays within the bound that SoftwareOptions states, and
// nothing of what was forgotten shows. The conformance suite and the code oracle also run with the smallest cache.

#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>

#include "absl/base/config.h"
#include "tests/backend_software/software_test.h"
#include "tests/test_scale.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

constexpr uint64_t kFirstGpa = 0x100000, kEndGpa = 0x1F0000;  // where the guests write code

#if defined(ABSL_HAVE_ADDRESS_SANITIZER) || defined(ABSL_HAVE_THREAD_SANITIZER)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

uint64_t ResidentBytes() {
  unsigned long long size = 0, resident = 0;
  std::FILE* const file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr) return 0;
  const int fields = std::fscanf(file, "%llu %llu", &size, &resident);
  std::fclose(file);
  return fields == 2 ? resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) : 0;
}

// RBP times: writes a function of 60 ADD RAX, imm32 and RET behind the last one, round and round, and calls it. RBX is
// to become what RAX becomes.
HVSDK_GUEST(EverNewFunctions, 64, R"(
    mov edi, 0x100000
    mov esi, 12345
    xor eax, eax
    xor ebx, ebx
1:  imul esi, esi, 1103515245
    add esi, 12345
    mov r8, rdi
    mov ecx, 60
2:  mov word ptr [rdi], 0x0548
    mov [rdi + 2], esi
    movsxd rdx, esi
    add rbx, rdx
    add esi, 77
    add rdi, 6
    dec ecx
    jnz 2b
    mov byte ptr [rdi], 0xC3
    inc rdi
    call r8
    cmp rdi, 0x1E0000
    jb 3f
    mov edi, 0x100000
3:  dec ebp
    jnz 1b
    out 0xF4, al
)")

class CodeCacheTest : public SoftwareTest {
 protected:
  CodeCacheTest() : CodeCacheTest(256 << 10) {}
  explicit CodeCacheTest(size_t bytes) : SoftwareTest({.code_cache_bytes = bytes}) {}
};
TEST_F(CodeCacheTest, EverNewCodeStaysWithinTheBound) {
  // About 80 MiB of decoded code.
  const uint32_t rounds = ScaledCount(40'000);
  const uint64_t before = ResidentBytes();
  machine().Start(Mode::kLong, EverNewFunctions());
  machine().Set(RegisterName::kRbp, rounds);
  machine().Run(recorder_, 0, 120);
  EXPECT_TRUE(recorder_.done);
  EXPECT_EQ(machine().Get(RegisterName::kRax), machine().Get(RegisterName::kRbx));
  // Beside the cache: a megabyte of the guest's memory, and what a VP has else.
  if (!kSanitized) {
    EXPECT_LT(ResidentBytes() - before, 4u << 20);
  }
}

class SmallestCodeCacheTest : public CodeCacheTest {
 protected:
  SmallestCodeCacheTest() : CodeCacheTest(kMinCodeCacheBytes) {}
};
TEST_F(SmallestCodeCacheTest, EverNewCodeRuns) {
  machine().Start(Mode::kLong, EverNewFunctions());
  machine().Set(RegisterName::kRbp, ScaledCount(5'000));
  machine().Run(recorder_, 0, 120);
  EXPECT_TRUE(recorder_.done);
  EXPECT_EQ(machine().Get(RegisterName::kRax), machine().Get(RegisterName::kRbx));
}

// The function at 0x100000, ADD RAX, imm32, jumps within its page to a second one, which jumps to a third in the next
// page, which returns. RBP times: calls it; runs 0 to 15 of the functions at 0x110000, each one block, so that the cache
// is forgotten now before, now behind any of the three; gives one of the three another operand; and calls it again.
HVSDK_GUEST(ChangeAmongManyBlocks, 64, R"(
    xor eax, eax
    xor ebx, ebx
    mov r12d, 1
    mov r13d, 20
    mov r14d, 300
    mov edi, 0x100000
1:  call rdi
    lea rdx, [r12 + r13]
    add rdx, r14
    add rbx, rdx
    mov ecx, ebp
    and ecx, 15
    mov r8d, 0x110000
    jz 3f
2:  call r8
    add r8, 0x40
    dec ecx
    jnz 2b
3:  mov edx, ebp
    imul edx, edx, 0x9E3779
    shr edx, 6
    and edx, 3
    cmp edx, 1
    je 4f
    ja 5f
    mov r12d, ebp
    mov [rdi + 2], r12d
    jmp 6f
4:  mov r13d, ebp
    mov [rdi + 0x800 + 2], r13d
    jmp 6f
5:  mov r14d, ebp
    mov [rdi + 0x1000 + 2], r14d
6:  call rdi
    lea rdx, [r12 + r13]
    add rdx, r14
    add rbx, rdx
    dec ebp
    jnz 1b
    out 0xF4, al
)")
HVSDK_GUEST(Filler, 64, "push rcx; inc rcx; dec rcx; nop; nop; nop; xchg rcx, rdx; xchg rcx, rdx; pop rcx; ret")

TEST_F(SmallestCodeCacheTest, WhatIsWrittenBehindAnEvictionRuns) {
  machine().Start(Mode::kLong, ChangeAmongManyBlocks());
  machine().Set(RegisterName::kRbp, 20'000);
  const auto add = [&](uint64_t gpa, uint32_t operand, int32_t jump) {  // ADD RAX, imm32; JMP rel32 or RET
    machine().Write<uint16_t>(gpa, 0x0548);
    machine().Write<uint32_t>(gpa + 2, operand);
    machine().Write<uint8_t>(gpa + 6, jump != 0 ? 0xE9 : 0xC3);
    if (jump != 0) machine().Write<int32_t>(gpa + 7, jump - 11);
  };
  add(0x100000, 1, 0x800);
  add(0x100800, 20, 0x800);
  add(0x101000, 300, 0);
  for (int i = 0; i < 16; ++i) machine().Load(0x110000 + i * 0x40, Filler());
  machine().Run(recorder_, 0, 120);
  EXPECT_TRUE(recorder_.done);
  EXPECT_EQ(machine().Get(RegisterName::kRax), machine().Get(RegisterName::kRbx));
}

// A function that fills most of the cache overwrites its own end and goes on there. The old one adds 1 to RAX, the new
// one 1000.
HVSDK_GUEST(OverwriteTheBlockUnderWay, 64, R"(
    xor eax, eax
1:  mov esi, 0x100000
    mov edi, 0x1A0000
    mov ecx, 400
    rep movsb
    mov edi, 0x1A0000
    call rdi
    dec ebp
    jnz 1b
    out 0xF4, al
)")
HVSDK_GUEST(OverwritesItsEnd, 64, R"(
    mov dword ptr [rip + 52], 1000
    .rept 50
    nop
    .endr
1:  .byte 0x48, 0x05
    .long 1
    ret
)")

TEST_F(SmallestCodeCacheTest, TheBlockUnderWaySeesWhatItWrites) {
  constexpr uint32_t kRounds = 2'000;
  machine().Start(Mode::kLong, OverwriteTheBlockUnderWay());
  machine().Set(RegisterName::kRbp, kRounds);
  machine().Load(0x100000, OverwritesItsEnd());
  machine().Run(recorder_, 0, 120);
  EXPECT_TRUE(recorder_.done);
  EXPECT_EQ(machine().Get(RegisterName::kRax), kRounds * 1000u);
}

// Code of which the cache keeps nothing under any page: each instruction lies in two. More pages than fit.
HVSDK_GUEST(RunStraddles, 64, R"(
    lea rsi, [rip + 2f]
    mov edi, 0x100FFE
1:  jmp rdi
2:  dec ebp
    jnz 1b
    out 0xF4, al
)")
TEST_F(SmallestCodeCacheTest, PagesWithoutBlocksAreForgottenToo) {
  machine().Start(Mode::kLong, RunStraddles());
  machine().Set(RegisterName::kRbp, 50);
  for (uint64_t gpa = kFirstGpa + 0xFFE; gpa < kEndGpa; gpa += 0x1000) {
    machine().Write<uint8_t>(gpa, 0xE9);
    machine().Write<uint32_t>(gpa + 1, 0x1000 - 5);
  }
  machine().Write<uint16_t>(kEndGpa + 0xFFE, 0xE6FF);  // jmp rsi
  machine().Run(recorder_, 0, 120);
  EXPECT_TRUE(recorder_.done);
}

TEST(CodeCacheOptionTest, HasLimits) {
  for (const size_t bytes : {size_t{0}, kMinCodeCacheBytes - 1, kMaxCodeCacheBytes + 1}) {
    const auto backend = CreateSoftwareBackend({.code_cache_bytes = bytes});
    EXPECT_EQ(backend.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(backend.status().message().find("code_cache_bytes"), absl::string_view::npos) << backend.status();
  }
  EXPECT_TRUE(CreateSoftwareBackend({.code_cache_bytes = kMaxCodeCacheBytes}).ok());
}

TEST(CodeCacheOptionTest, AHostWithoutRoomRefusesTheVp) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer reserves address space beyond measure";
  const auto backend = CreateSoftwareBackend({.code_cache_bytes = kMaxCodeCacheBytes});
  ASSERT_TRUE(backend.ok()) << backend.status();
  GuestMemory memory;
  const auto partition = (*backend)->CreatePartition(memory);
  ASSERT_TRUE(partition.ok()) << partition.status();
  const auto cpuid = (*partition)->SupportedCpuid();
  ASSERT_TRUE(cpuid.ok());
  rlimit before, small;
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
  small = before;
  small.rlim_cur = 512 << 20;
  ASSERT_EQ(setrlimit(RLIMIT_AS, &small), 0);
  const auto vp = (*partition)->CreateVp(VpIndex{0}, 0, *cpuid);
  setrlimit(RLIMIT_AS, &before);
  EXPECT_EQ(vp.status().code(), absl::StatusCode::kResourceExhausted) << vp.status();
  // And it can be made once there is room.
  EXPECT_TRUE((*partition)->CreateVp(VpIndex{0}, 0, *cpuid).ok());
}

}  // namespace
}  // namespace hvsdk::backend
