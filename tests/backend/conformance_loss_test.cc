// SPDX-License-Identifier: Apache-2.0
// Pages that the host loses, and the machine checks that guests get for them (backend/machine_check.h).

#include <sys/mman.h>

#include <chrono>
#include <thread>

#include "backend/machine_check.h"
#include "hvsdk/os/lost_memory.h"
#include "tests/backend/conformance.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

constexpr uint64_t kLostGpa = 0x300000, kNextLostGpa = 0x301000;
constexpr uint64_t kCr4Base = 0x20, kCr4Mce = 0x40;  // PAE, as TestMachine has it in long mode

// Whether the kernel itself loses a page when it is asked to, which a KVM needs.
bool KernelLosesPages() {
  void* const page = mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  *static_cast<volatile uint8_t*>(page) = 1;
  const bool lost = madvise(page, kPageSize, MADV_HWPOISON) == 0;
  munmap(page, kPageSize);
  return lost;
}

class LossTest : public ConformanceTest {
 protected:
  void SetUp() override {
    ConformanceTest::SetUp();
    if (IsSkipped()) return;
    static const bool lost = KernelLosesPages();
    if (machine().backend().name() == "kvm" && !lost) GTEST_SKIP() << "this kernel injects no memory errors";
    ASSERT_TRUE(os::HandleLostMemory().ok());
    const auto cpuid = machine().partition().SupportedCpuid();
    ASSERT_TRUE(cpuid.ok());
    amd_ = IsAmd(*cpuid);
  }
  void Lose(uint64_t gpa) {
    machine().Write<uint64_t>(gpa + 8, 0x1234567890);  // so that there is a page
    ASSERT_TRUE(os::LosePage(&machine().ram()[gpa]).ok());
  }
  void TakeMachineChecks(uint32_t vp = 0) { machine().Set(RegisterName::kCr4, kCr4Base | kCr4Mce, vp); }

  bool amd_ = false;
};
HVSDK_CONFORMANCE_SUITE(LossTest);

// Counts at 0xC000; then what the registers say, MCG_STATUS, and MC1's STATUS, ADDR and MISC, at 0xC010 and on, and the place at 0xC030.
#define HVSDK_READ_MSR(NUMBER, TO) "mov ecx, " #NUMBER "\n rdmsr\n mov ds:[" #TO "], eax\n mov ds:[" #TO " + 4], edx\n"
HVSDK_GUEST(MachineCheckHandler, 64,
            "inc dword ptr ds:[0xC000]\n"  //
            HVSDK_READ_MSR(0x17A, 0xC010) HVSDK_READ_MSR(0x405, 0xC018) HVSDK_READ_MSR(0x406, 0xC020)
                HVSDK_READ_MSR(0x407, 0xC028) R"(
    mov rax, [rsp]
    mov ds:[0xC030], rax
    xor eax, eax
    xor edx, edx
    mov ecx, 0x405
    wrmsr
    mov ecx, 0x17A
    wrmsr
    iretq
)")
HVSDK_GUEST(TwoLoads, 64, R"(
    mov ebx, 0x300008
    mov rsi, [rbx]
    jmp 1f
 1: mov ds:[0xC040], rsi
    mov rsi, ds:[0xC000]
    mov ds:[0xC048], rsi
    mov ebx, 0x301008
    mov rsi, [rbx]
    jmp 2f
 2: out 0xF4, al
)")
TEST_P(LossTest, ALostPageIsAMachineCheckOfWhoeverLoadsFromIt) {
  machine().Start(Mode::kLong, TwoLoads());
  machine().Load(0x11000, MachineCheckHandler());
  machine().SetHandler(Mode::kLong, 18, 0x11000, 1);
  TakeMachineChecks();
  Lose(kLostGpa);
  Lose(kNextLostGpa);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0xC000), 2u);
  EXPECT_EQ(machine().Read<uint64_t>(0xC010), 7u) << "in progress, at this instruction, which can be done again";
  // VAL, EN, MISCV, ADDRV, S and UC; then AR and a data load, or AMD's Poison.
  EXPECT_EQ(machine().Read<uint64_t>(0xC018), 0xBD00000000000000 | (amd_ ? uint64_t{1} << 43 : 0x0080000000000134));
  EXPECT_EQ(machine().Read<uint64_t>(0xC020), kNextLostGpa);
  EXPECT_EQ(machine().Read<uint64_t>(0xC028), 0x8Cu) << "a page, by its physical address";
  EXPECT_EQ(machine().Read<uint64_t>(0xC040), 0u);
  EXPECT_EQ(machine().Read<uint64_t>(0xC048), 1u) << "the first comes before the second load";
  EXPECT_EQ(machine().Read<uint64_t>(kNextLostGpa + 8), 0u);
  const uint64_t place = machine().Read<uint64_t>(0xC030) - kCodeGpa;
  const uint64_t end = TwoLoads().size() - 2, load = end - 2 - 3;
  if (machine().backend().name() == "kvm") {
    EXPECT_EQ(place, load);
  } else {
    EXPECT_TRUE(place >= load && place <= end) << place << ": beyond the block of the load at " << load;
  }
}

HVSDK_GUEST(OneLoad, 64, R"(
    mov ebx, 0x300008
    mov rsi, [rbx]
    jmp 1f
 1: out 0xF4, al
)")
TEST_P(LossTest, AGuestThatTakesNoMachineChecksShutsDown) {
  machine().Start(Mode::kLong, OneLoad());
  Lose(kLostGpa);
  const absl::StatusOr<StopReason> stopped = machine().vp().Run(recorder_);
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_EQ(*stopped, StopReason::kTripleFault);
  EXPECT_FALSE(recorder_.done);
  // After a reset it is as any other.
  ASSERT_TRUE(machine().vp().Reset().ok());
  machine().Start(Mode::kLong, OneLoad());
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
}

TEST_P(LossTest, ALossDuringAMachineCheckShutsDown) {
  machine().Start(Mode::kLong, OneLoad());
  machine().SetHandler(Mode::kLong, 18, 0x11000);
  machine().Load(0x11000, TwoLoads());  // which does not end the first machine check
  TakeMachineChecks();
  Lose(kLostGpa);
  Lose(kNextLostGpa);
  const absl::StatusOr<StopReason> stopped = machine().vp().Run(recorder_);
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_EQ(*stopped, StopReason::kTripleFault);
}

HVSDK_GUEST(Sleep, 64, "mov dword ptr ds:[0xC008], 1\n 1: hlt\n cmp dword ptr ds:[0xC000], 0\n je 1b\n out 0xF4, al")
TEST_P(LossTest, WhatTheHostMeetsIsToldToTheFirstProcessor) {
  if (amd_) GTEST_SKIP() << "AMD's processors tell of that in a bank, without an exception";
  machine().Start(Mode::kLong, Sleep());
  machine().Load(0x11000, MachineCheckHandler());
  machine().SetHandler(Mode::kLong, 18, 0x11000, 1);
  TakeMachineChecks();
  Lose(kLostGpa);
  VpThread thread(machine(), 0, recorder_);
  while (machine().Read<uint32_t>(0xC008) == 0) std::this_thread::yield();
  EXPECT_EQ(machine().Read<uint64_t>(kLostGpa + 8), 0u);
  thread.WaitUntilDone();
  thread.Join();
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0xC000), 1u);
  EXPECT_EQ(machine().Read<uint64_t>(0xC010), 5u) << "in progress, not at this instruction";
  EXPECT_EQ(machine().Read<uint64_t>(0xC018), 0xBD000000000000C0) << "action optional: memory scrubbing";
  EXPECT_EQ(machine().Read<uint64_t>(0xC020), kLostGpa);
}

TEST_P(LossTest, TheOtherProcessorsOfIntelsHearOfIt) {
  if (amd_) GTEST_SKIP() << "AMD's processors keep it to themselves";
  MakeMachine(2);
  machine().Start(Mode::kLong, OneLoad());
  machine().Load(0x12000, Sleep());
  machine().Start(Mode::kLong, 0x12000, 1);
  machine().Load(0x11000, MachineCheckHandler());
  machine().SetHandler(Mode::kLong, 18, 0x11000);
  TakeMachineChecks(0);
  TakeMachineChecks(1);
  machine().Set(RegisterName::kRsp, kStackGpa - 0x2000, 1);
  Recorder other;
  VpThread thread(machine(), 1, other);
  while (machine().Read<uint32_t>(0xC008) == 0) std::this_thread::yield();
  Lose(kLostGpa);
  machine().Run(recorder_);
  thread.WaitUntilDone();  // nothing else can wake it
  thread.Join();
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(other.fault, -1);
}

HVSDK_GUEST(BankRegisters, 64, HVSDK_READ_MSR(0x179, 0xC000) HVSDK_READ_MSR(0x404, 0xC008) R"(
    mov ecx, 0x404
    xor eax, eax
    xor edx, edx
    wrmsr
)" HVSDK_READ_MSR(0x404, 0xC010) R"(
    mov ecx, 0x405
    xor eax, eax
    xor edx, edx
    wrmsr
    inc eax
    wrmsr
    out 0xF4, al
)")
TEST_P(LossTest, TheRegistersOfABank) {
  machine().Start(Mode::kLong, BankRegisters());
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, 13) << "no software sets a bank's status";
  EXPECT_EQ(machine().Read<uint64_t>(0xC000), amd_ ? 2u : 0x1000002u)
      << "two banks, and on Intel's that software recovers";
  EXPECT_EQ(machine().Read<uint64_t>(0xC008), ~uint64_t{0});
  EXPECT_EQ(machine().Read<uint64_t>(0xC010), 0u);
}

}  // namespace
}  // namespace hvsdk::backend
