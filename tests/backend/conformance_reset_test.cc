// SPDX-License-Identifier: Apache-2.0
// Reset: a processor or an interrupt controller that was used is as one that was just made.

#include <cstring>

#include "tests/backend/conformance.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;
using hvdef::RegisterValue;

class ResetTest : public ConformanceTest {
 protected:
  // Everything that has a name, but for the TSC.
  std::vector<RegisterValue> AllRegisters(uint32_t vp = 0) {
    std::vector<RegisterValue> values(Names().size());
    const absl::Status status = machine().vp(vp).GetRegisters(Names(), absl::MakeSpan(values));
    EXPECT_TRUE(status.ok()) << status;
    return values;
  }
  static const std::vector<RegisterName>& Names() {
    static const std::vector<RegisterName> names = [] {
      std::vector<RegisterName> made;
      const auto add = [&](RegisterName first, RegisterName last) {
        for (auto i = static_cast<uint32_t>(first); i <= static_cast<uint32_t>(last); ++i)
          made.push_back(RegisterName{i});
      };
      add(RegisterName::kPendingInterruption, RegisterName::kInterruptState);
      add(RegisterName::kRax, RegisterName::kRflags);
      add(RegisterName::kXmm0, RegisterName::kXmmControlStatus);
      add(RegisterName::kCr0, RegisterName::kXfem);
      add(RegisterName::kDr0, RegisterName::kDr7);
      add(RegisterName::kEs, RegisterName::kTr);
      add(RegisterName::kIdtr, RegisterName::kGdtr);
      add(RegisterName::kEfer, RegisterName::kInitialApicId);
      return made;
    }();
    return names;
  }
  void ExpectRegisters(const std::vector<RegisterValue>& wanted, uint32_t vp = 0) {
    const std::vector<RegisterValue> got = AllRegisters(vp);
    for (size_t i = 0; i < wanted.size(); ++i) {
      EXPECT_EQ(got[i].low, wanted[i].low) << "register " << std::hex << static_cast<uint32_t>(Names()[i]);
      EXPECT_EQ(got[i].high, wanted[i].high) << "register " << std::hex << static_cast<uint32_t>(Names()[i]);
    }
  }
  void UseFpu(uint32_t vp = 0) {
    const RegisterName names[] = {RegisterName::kXmm3, RegisterName::kFpMmx0, RegisterName::kXmmControlStatus};
    const RegisterValue values[] = {{0x1122334455667788, 0x99}, {0xC90FDAA22168C235, 0x4000}, {0, 0x1FA0}};
    const absl::Status status = machine().vp(vp).SetRegisters(names, values);
    ASSERT_TRUE(status.ok()) << status;
  }
  Activity GetActivity(uint32_t vp = 0) {
    const absl::StatusOr<Activity> activity = machine().vp(vp).GetActivity();
    EXPECT_TRUE(activity.ok()) << activity.status();
    return activity.value_or(Activity::kHalted);
  }
};
HVSDK_CONFORMANCE_SUITE(ResetTest);

// Writes to whatever a processor has that keeps a value, but for what a KVM that emulates would not: UseFpu does that. Its breakpoint is
// where no code is, because QEMU, the processor below a nested KVM, may keep it in force after the VP is gone.
HVSDK_GUEST(UseEverything, 64, R"(
    .macro set_msr number, low, high
    mov ecx, \number
    mov eax, \low
    mov edx, \high
    wrmsr
    .endm
    set_msr 0x2FF, 0xC06, 0
    set_msr 0x250, 0x06060606, 0x06060606
    set_msr 0x200, 0x80000006, 0
    set_msr 0x10, 0, 0x7000
    set_msr 0xC0000081, 1, 0x00230010
    set_msr 0xC0000082, 0x81000000, 0xFFFFFFFF
    set_msr 0xC0000084, 0x47700, 0
    set_msr 0xC0000102, 0x12345000, 0xFFFF8000
    set_msr 0x174, 0x10, 0
    set_msr 0x277, 0x00010406, 0x00070406
    mov eax, 0x9F000
    mov dr0, rax
    mov eax, 0x401
    mov dr7, rax
    mov cr2, rax
    mov r15, rax
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    mov dword ptr [rbx + 0x80], 0x20
    mov dword ptr [rbx + 0xD0], 0x02000000
    mov dword ptr [rbx + 0x350], 0x700
    mov dword ptr [rbx + 0x3E0], 0xB
    mov dword ptr [rbx + 0x320], 0x20041
    mov dword ptr [rbx + 0x380], 1000000
    out 0xF4, al
)")
// Reads what only a guest can see, to 0x80100, and waits with interrupts on for one that must not come.
HVSDK_GUEST(LookAround, 64, R"(
    .macro get_msr number, at
    mov ecx, \number
    rdmsr
    mov [0x80100 + \at], eax
    mov [0x80104 + \at], edx
    .endm
    get_msr 0x2FF, 0
    get_msr 0x250, 8
    get_msr 0x200, 16
    get_msr 0x277, 24
    mov rbx, 0xFEE00000
    mov eax, [rbx + 0xF0]
    mov [0x80120], eax
    mov eax, [rbx + 0x80]
    mov [0x80124], eax
    mov eax, [rbx + 0xD0]
    mov [0x80128], eax
    mov eax, [rbx + 0x350]
    mov [0x8012C], eax
    mov eax, [rbx + 0x320]
    mov [0x80130], eax
    mov eax, [rbx + 0x380]
    mov [0x80134], eax
    mov eax, [rbx + 0x390]
    mov [0x80138], eax
    mov eax, [rbx + 0x220]
    mov [0x8013C], eax
    mov dword ptr [rbx + 0xF0], 0x1FF
    sti
    mov ecx, 200000
1:  pause
    dec ecx
    jnz 1b
    out 0xF4, al
)")
TEST_P(ResetTest, AUsedVpIsAsANewOne) {
  const auto look = [&] {
    machine().Start(Mode::kLong, LookAround());
    machine().Run(recorder_);
    EXPECT_EQ(recorder_.fault, -1);
    std::vector<uint32_t> seen;
    for (uint64_t at = 0x80100; at < 0x80140; at += 4) seen.push_back(machine().Read<uint32_t>(at));
    return seen;
  };
  const std::vector<RegisterValue> power_on = AllRegisters();
  const std::vector<uint32_t> seen_by_first = look();
  ASSERT_TRUE(machine().vp().Reset().ok());
  ExpectRegisters(power_on);

  machine().Start(Mode::kLong, UseEverything());
  UseFpu();
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  machine().Set(RegisterName::kXfem, 1);
  machine().partition().RequestInterrupt(VpIndex{0}, 0x51, false);
  machine().partition().SignalMsi(0xFEE00000, 0x400);  // an NMI
  machine().vp().InjectException({13, 0});
  ASSERT_TRUE(machine().vp().SetActivity(Activity::kHalted).ok());
  const absl::Status status = machine().vp().Reset();
  ASSERT_TRUE(status.ok()) << status;
  ExpectRegisters(power_on);
  EXPECT_EQ(GetActivity(), Activity::kRunning);
  EXPECT_EQ(look(), seen_by_first);
}

TEST_P(ResetTest, PowerOnStateIsTheManuals) {
  machine().Start(Mode::kLong, UseEverything());
  UseFpu();
  machine().Run(recorder_);
  ASSERT_TRUE(machine().vp().Reset().ok());
  EXPECT_EQ(machine().Get(RegisterName::kRip), 0xFFF0u);
  EXPECT_EQ(machine().Get(RegisterName::kRflags), 2u);
  EXPECT_EQ(machine().Get(RegisterName::kCr0), 0x60000010u);
  EXPECT_EQ(machine().Get(RegisterName::kEfer), 0u);
  EXPECT_EQ(machine().Get(RegisterName::kXmm3), 0u);
  EXPECT_EQ(machine().Get(RegisterName::kApicBase), 0xFEE00900u);
  EXPECT_EQ(machine().Get(RegisterName::kPat), 0x0007040600070406u);
}

HVSDK_GUEST(ReadTscOnce, 64, R"(
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov [0x80000], rax
    out 0xF4, al
)")
TEST_P(ResetTest, TheTscIsThePartitionsAgain) {
  machine().Start(Mode::kLong, UseEverything());
  UseFpu();
  machine().Run(recorder_);
  ASSERT_TRUE(machine().vp().Reset().ok());
  const uint64_t before = machine().partition().GuestTsc();
  machine().Start(Mode::kLong, ReadTscOnce());
  machine().Run(recorder_);
  EXPECT_LT(before, machine().Read<uint64_t>(0x80000));
  EXPECT_GT(machine().partition().GuestTsc(), machine().Read<uint64_t>(0x80000));
}

TEST_P(ResetTest, ProcessorsOtherThanTheFirstWaitToBeStarted) {
  MakeMachine(2);
  const std::vector<RegisterValue> power_on = AllRegisters(1);
  machine().Load(kCodeGpa, UseEverything());
  machine().Start(Mode::kLong, kCodeGpa, 1);
  UseFpu(1);
  machine().Run(recorder_, 1);
  EXPECT_EQ(GetActivity(1), Activity::kRunning);
  machine().partition().SignalMsi(0xFEE01000, 0x500);  // INIT
  machine().partition().SignalMsi(0xFEE01000, 0x611);  // and a start-up message, both too late
  ASSERT_TRUE(machine().vp(1).Reset().ok());
  ExpectRegisters(power_on, 1);
  EXPECT_EQ(GetActivity(1), Activity::kWaitForSipi);
  EXPECT_EQ(GetActivity(0), Activity::kRunning);
}

TEST_P(ResetTest, AKickIsNotLost) {
  machine().vp().Kick();
  ASSERT_TRUE(machine().vp().Reset().ok());
  const absl::StatusOr<StopReason> stop = machine().vp().Run(recorder_);
  ASSERT_TRUE(stop.ok()) << stop.status();
  EXPECT_EQ(*stop, StopReason::kKicked);
  EXPECT_EQ(machine().Get(RegisterName::kRip), 0xFFF0u) << "nothing was run";
}

HVSDK_GUEST(ShutDown, 64, R"(
    lidt [0x80100]
    ud2
)")
HVSDK_GUEST(StoreSeven, 64, R"(
    mov dword ptr [0x80000], 7
    out 0xF4, al
)")
TEST_P(ResetTest, AVpThatShutDownRunsAgain) {
  for (int round = 0; round < 3; ++round) {
    machine().Write<uint32_t>(0x80000, 0);
    machine().Start(Mode::kLong, ShutDown());
    const absl::StatusOr<StopReason> stop = machine().vp().Run(recorder_);
    ASSERT_TRUE(stop.ok()) << stop.status();
    EXPECT_EQ(*stop, StopReason::kTripleFault);
    ASSERT_TRUE(machine().vp().Reset().ok());
    machine().Start(Mode::kLong, StoreSeven());
    machine().Run(recorder_);
    EXPECT_EQ(machine().Read<uint32_t>(0x80000), 7u);
  }
}

HVSDK_GUEST(ReadThere, 64, R"(
    mov eax, [0x80000]
    mov [0x80010], eax
    out 0xF4, al
)")
TEST_P(ResetTest, NothingIsRememberedOfPageTables) {
  machine().Write<uint32_t>(0x80000, 1);
  machine().Write<uint32_t>(0xA0000, 2);
  machine().Start(Mode::kLong, ReadThere());
  machine().Run(recorder_);
  EXPECT_EQ(machine().Read<uint32_t>(0x80010), 1u);
  machine().Write<uint64_t>(kFirstPageTableGpa + 0x80 * 8, 0xA0007);
  machine().Write<uint64_t>(kFirstPageTableGpa + 0xA0 * 8, 0x80007);
  ASSERT_TRUE(machine().vp().Reset().ok());
  machine().Start(Mode::kLong, kCodeGpa);
  machine().Run(recorder_);
  EXPECT_EQ(machine().Read<uint32_t>(0xA0010), 2u) << "the page at 0x80000 is another now";
}

// Routes IOAPIC pin 9 to vector 0x45.
HVSDK_GUEST(Route, 64, R"(
    mov rdx, 0xFEC00000
    mov dword ptr [rdx], 0x23
    mov dword ptr [rdx + 0x10], 0x07000000
    mov dword ptr [rdx], 0x22
    mov dword ptr [rdx + 0x10], 0x45
    out 0xF4, al
)")
HVSDK_GUEST(ReadRoute, 64, R"(
    mov rdx, 0xFEC00000
    mov eax, [rdx]
    mov [0x80008], eax
    mov dword ptr [rdx], 0x22
    mov eax, [rdx + 0x10]
    mov [0x80000], eax
    mov dword ptr [rdx], 0x23
    mov eax, [rdx + 0x10]
    mov [0x80004], eax
    out 0xF4, al
)")
TEST_P(ResetTest, InterruptControllersForget) {
  const auto read = [&] {
    machine().Start(Mode::kLong, ReadRoute());
    machine().Run(recorder_);
    return std::array{machine().Read<uint32_t>(0x80000), machine().Read<uint32_t>(0x80004),
                      machine().Read<uint32_t>(0x80008)};
  };
  const auto power_on = read();
  EXPECT_EQ(power_on[0] & 0x10000, 0x10000u) << "masked";
  ASSERT_TRUE(machine().partition().ResetInterruptControllers().ok());
  machine().Start(Mode::kLong, Route());
  machine().Run(recorder_);
  EXPECT_EQ(read()[0] & 0x100FF, 0x45u);
  machine().partition().SetIrqLine(9, true);
  ASSERT_TRUE(machine().partition().ResetInterruptControllers().ok());
  EXPECT_EQ(read(), power_on);
}

}  // namespace
}  // namespace hvsdk::backend
