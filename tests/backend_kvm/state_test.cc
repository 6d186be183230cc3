// SPDX-License-Identifier: Apache-2.0
// What is KVM's alone when a VP or a partition is saved and restored; what every engine does is the conformance suite's.

#include <algorithm>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/state/writer.h"
#include "tests/backend/conformance.h"
#include "tests/random_seed.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;
using testing::HasSubstr;

// The lines that differ, as the whole is long.
std::string Difference(VpState& a, VpState& b) {
  const std::vector<std::string> lines_a = absl::StrSplit(state::StateText::Of(a), '\n');
  const std::vector<std::string> lines_b = absl::StrSplit(state::StateText::Of(b), '\n');
  std::string text;
  for (size_t i = 0; i < std::min(lines_a.size(), lines_b.size()); ++i) {
    if (lines_a[i] != lines_b[i]) absl::StrAppend(&text, lines_a[i], " became ", lines_b[i], "\n");
  }
  return text;
}

class KvmStateTest : public ConformanceTest {
 protected:
  VpState SaveVp(uint32_t vp = 0) {
    VpState state;
    const absl::Status status = machine().vp(vp).SaveState(state);
    EXPECT_TRUE(status.ok()) << status;
    return state;
  }
  PartitionState SavePartition() {
    PartitionState state;
    const absl::Status status = machine().partition().SaveState(state);
    EXPECT_TRUE(status.ok()) << status;
    return state;
  }
  // The machine goes on as another one, with the same memory.
  void Move() {
    PartitionState partition = SavePartition();
    const VpState vp = SaveVp();
    const std::vector<uint8_t> memory(machine().ram().begin(), machine().ram().end());
    MakeMachine(1);
    std::copy(memory.begin(), memory.end(), machine().ram().begin());
    absl::Status status = machine().partition().RestoreState(partition);
    ASSERT_TRUE(status.ok()) << status;
    status = machine().vp().RestoreState(vp);
    ASSERT_TRUE(status.ok()) << status;
  }
  // That a VP refuses `state` and is as before; why.
  std::string Refusal(const VpState& state) {
    VpState before = SaveVp();
    const absl::Status status = machine().vp().RestoreState(state);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    VpState after = SaveVp();
    EXPECT_TRUE(state::StateText::Of(after) == state::StateText::Of(before)) << Difference(before, after);
    return std::string(status.message());
  }
};
INSTANTIATE_TEST_SUITE_P(Engines, KvmStateTest, testing::Values(Engines().front()),
                         [](const testing::TestParamInfo<Engine>& info) { return info.param.name; });

// Counts to 300000, with a sum in r9 and a write to a port now and then.
HVSDK_GUEST(Count, 64, R"(
    xor r9d, r9d
    mov ecx, 300000
1:  imul r9, r9, 3
    add r9, rcx
    mov [0x80008], r9
    test ecx, 0x7FFF
    jnz 2f
    out 0x42, al
2:  dec ecx
    jnz 1b
    mov [0x80000], r9
    out 0xF4, al
)")
TEST_P(KvmStateTest, AGuestGoesOnInAnotherMachine) {
  uint64_t wanted = 0;
  for (uint64_t i = 300000; i != 0; --i) wanted = wanted * 3 + i;
  std::mt19937 random(TestSeed());
  machine().Start(Mode::kLong, Count());
  for (int i = 0; i < 5; ++i) {
    VpThread thread(machine(), 0, recorder_);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    thread.Join();
    if (recorder_.done) break;
    VpState before = SaveVp();
    ASSERT_NO_FATAL_FAILURE(Move());
    VpState after = SaveVp();
    EXPECT_TRUE(state::StateText::Of(after) == state::StateText::Of(before)) << Difference(before, after);
  }
  if (!recorder_.done) machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint64_t>(0x80000), wanted);
  EXPECT_EQ(recorder_.events.size(), 9u) << "a write each 0x8000 turns";
}

// As Linux' 64-bit kernel does on any processor, though AMD's has SYSENTER outside long mode alone.
HVSDK_GUEST(SetSysenter, 64, R"(
    mov eax, 0x3000
    mov edx, 0xFFFFFE00
    mov ecx, 0x175
    wrmsr
    inc ecx
    wrmsr
    out 0xF4, al
)")
TEST_P(KvmStateTest, WhatAGuestWroteForSysenterIsTaken) {
  machine().Start(Mode::kLong, SetSysenter());
  machine().Run(recorder_);
  ASSERT_EQ(recorder_.fault, -1);
  ASSERT_NO_FATAL_FAILURE(Move());
  EXPECT_EQ(static_cast<uint32_t>(machine().Get(RegisterName::kSysenterEsp)), 0x3000u);
  EXPECT_EQ(static_cast<uint32_t>(machine().Get(RegisterName::kSysenterEip)), 0x3000u);
}

// Uses the local APIC's timer and the FPU as well; xmm1 comes from 0x80020 and goes to 0x80030.
HVSDK_GUEST(CountInBoth, 64, R"(
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    mov dword ptr [rbx + 0x3E0], 0xB
    mov dword ptr [rbx + 0x320], 0x20041
    mov dword ptr [rbx + 0x380], 1000000
    mov ecx, 0xC0000082
    mov eax, 0x12345678
    xor edx, edx
    wrmsr
    movdqu xmm1, [0x80020]
    sti
    xor r9d, r9d
    mov ecx, 400000
1:  imul r9, r9, 3
    add r9, rcx
    dec ecx
    jnz 1b
2:  cmp dword ptr [0x80010], 0  # the timer may be slower than that
    je 2b
    cli
    mov [0x80000], r9
    movdqu [0x80030], xmm1
    mov ecx, 0xC0000082
    rdmsr
    mov [0x80008], eax
    out 0xF4, al
)")
HVSDK_GUEST(CountPeriods, 64, R"(
    inc dword ptr [0x80010]
    push rax
    mov eax, 0xFEE000B0
    mov dword ptr [rax], 0
    pop rax
    iretq
)")
TEST_P(KvmStateTest, AGuestGoesOnInSoftwareAndBack) {
  const auto software = CreateSoftwareBackend({});
  ASSERT_TRUE(software.ok());
  uint64_t wanted = 0;
  for (uint64_t i = 400000; i != 0; --i) wanted = wanted * 3 + i;
  std::mt19937 random(TestSeed());
  machine().Load(0x20000, CountPeriods());
  machine().SetHandler(Mode::kLong, 0x41, 0x20000);
  machine().Start(Mode::kLong, CountInBoth());
  machine().Write<uint64_t>(0x80020, 0x1122334455667788);
  std::unique_ptr<TestMachine> other;
  TestMachine* at = &machine();
  for (int i = 0; i < 6 && !recorder_.done; ++i) {
    {
      VpThread thread(*at, 0, recorder_);
      std::this_thread::sleep_for(std::chrono::microseconds(200 + random() % 1500));
    }
    PartitionState partition;
    VpState vp;
    ASSERT_TRUE(at->partition().SaveState(partition).ok());
    ASSERT_TRUE(at->vp().SaveState(vp).ok());
    const std::vector<uint8_t> memory(at->ram().begin(), at->ram().end());
    if (i % 2 == 0) {
      absl::StatusOr<std::unique_ptr<TestMachine>> made = TestMachine::Create(**software);
      ASSERT_TRUE(made.ok()) << made.status();
      other = *std::move(made);
      at = other.get();
    } else {
      MakeMachine(1);
      at = &machine();
    }
    std::copy(memory.begin(), memory.end(), at->ram().begin());
    absl::Status status = at->partition().RestoreState(partition);
    ASSERT_TRUE(status.ok()) << status;
    status = at->vp().RestoreState(vp);
    ASSERT_TRUE(status.ok()) << status;
  }
  if (!recorder_.done) at->Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(at->Read<uint64_t>(0x80000), wanted);
  EXPECT_EQ(at->Read<uint32_t>(0x80008), 0x12345678u);
  EXPECT_GT(at->Read<uint32_t>(0x80010), 0u);
  EXPECT_EQ(at->Read<uint64_t>(0x80030), 0x1122334455667788u);
}

TEST_P(KvmStateTest, WhatIsNotAProcessorsStateIsRefused) {
  machine().Start(Mode::kLong, kCodeGpa);
  const VpState good = SaveVp();
  const auto with_msr = [&](uint32_t index, uint64_t value) {
    VpState state = good;
    const auto at =
        std::find_if(state.msrs.begin(), state.msrs.end(), [&](const MsrState& msr) { return msr.index >= index; });
    if (at != state.msrs.end() && at->index == index) {
      at->value = value;
    } else {
      state.msrs.insert(at, {index, value});
    }
    return state;
  };
  MakeMachine(1);
  machine().Set(RegisterName::kRbx, 77);                                        // stays, as all does
  EXPECT_THAT(Refusal(with_msr(0x40000001, 0x1001)), HasSubstr("0x40000001"));  // HV_X64_MSR_HYPERCALL
  EXPECT_THAT(Refusal(with_msr(0x4B564D01, 0x1001)), HasSubstr("0x4b564d01"));  // kvmclock
  EXPECT_THAT(Refusal(with_msr(0x10, 1)), HasSubstr("0x10"));
  EXPECT_THAT(Refusal(with_msr(0x803, 1)), HasSubstr("0x803"));
  EXPECT_THAT(Refusal(with_msr(0x277, 0x0203)), HasSubstr("0x277"));       // PAT with types that do not exist
  EXPECT_THAT(Refusal(with_msr(0x12345678, 1)), HasSubstr("0x12345678"));  // no MSR at all
  VpState state = good;
  std::swap(state.msrs[0], state.msrs[1]);
  EXPECT_THAT(Refusal(state), HasSubstr("not in order"));
  state = good;
  state.xsave.push_back({.number = 60, .bytes = std::vector<uint8_t>(64, 1)});
  EXPECT_THAT(Refusal(state), HasSubstr("no component 60"));
  state = good;
  state.apic[0x23] = 0x55;
  EXPECT_THAT(Refusal(state), HasSubstr("0x55000000"));
  state = good;
  state.apic[0x200] = 4;
  EXPECT_THAT(Refusal(state), HasSubstr("vector below 16"));
  state = good;
  state.activity = 3;
  EXPECT_THAT(Refusal(state), HasSubstr("activity"));
  state = good;
  state.pending_interruption = 1 | 7 << 1;
  EXPECT_THAT(Refusal(state), HasSubstr("pending_interruption"));
  state = good;
  state.cr4 |= uint64_t{1} << 40;
  EXPECT_THAT(Refusal(state), HasSubstr("CR4"));
  state = good;
  state.rflags = 0;
  EXPECT_THAT(Refusal(state), HasSubstr("rflags"));
  const absl::Status status = machine().vp().RestoreState(good);
  EXPECT_TRUE(status.ok()) << status;
}

TEST_P(KvmStateTest, ATscOfAnotherFrequencyIsScaledOrChanges) {
  PartitionState state = SavePartition();
  EXPECT_EQ(state.tsc_frequency_hz, backend().caps().tsc_frequency_hz);
  state.guest_tsc = 1'000'000'000;
  state.tsc_frequency_hz += state.tsc_frequency_hz / 10'000;  // as a host may measure after its next boot
  absl::Status status = machine().partition().RestoreState(state);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_GE(machine().partition().GuestTsc(), state.guest_tsc);
  EXPECT_EQ(SavePartition().tsc_frequency_hz, state.tsc_frequency_hz) << "goes on as it was called";

  state.tsc_frequency_hz = 1'234'567'000;
  ASSERT_TRUE(machine().partition().RestoreState(state).ok());
  if (SavePartition().tsc_frequency_hz == 1'234'567'000) {
    const uint64_t before = machine().partition().GuestTsc();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const uint64_t passed = machine().partition().GuestTsc() - before;
    EXPECT_GE(passed, 123'000'000u);
    return;
  }
  // It goes on at the host's, but not with a timer that counts by the old one.
  EXPECT_EQ(SavePartition().tsc_frequency_hz, backend().caps().tsc_frequency_hz);
  VpState vp = SaveVp();
  EXPECT_TRUE(machine().vp().RestoreState(vp).ok());
  vp.tsc_deadline = 5'000'000'000;
  status = machine().vp().RestoreState(vp);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("tsc_deadline"));
}

TEST_P(KvmStateTest, WhatADebugExceptionWillPutIntoDr6Waits) {
  machine().Start(Mode::kLong, Count());
  VpState state = SaveVp();
  state.pending_interruption = 1 | 3 << 1 | 1 << 16;
  state.pending_has_payload = true;
  state.pending_dr6 = 0xFFFF4FF1;  // BS, B0
  ASSERT_TRUE(machine().vp().RestoreState(state).ok());
  EXPECT_EQ(machine().Get(RegisterName::kDr6), 0xFFFF0FF0u) << "not yet";
  VpState again = SaveVp();
  EXPECT_TRUE(state::StateText::Of(again) == state::StateText::Of(state)) << Difference(state, again);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, 1);
  EXPECT_EQ(machine().Get(RegisterName::kDr6), 0xFFFF4FF1u);
}

HVSDK_GUEST(ReadMiscEnable, 64, R"(
    mov ecx, 0x1A0
    rdmsr
    mov [0x80000], eax
    out 0xF4, al
)")
TEST_P(KvmStateTest, StringInstructionsAreFastFromTheBeginning) {
  machine().Start(Mode::kLong, ReadMiscEnable());
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0x80000) & 1, 1u);
  ASSERT_TRUE(machine().vp().Reset().ok());
  machine().Write<uint32_t>(0x80000, 0);
  machine().Start(Mode::kLong, ReadMiscEnable());
  machine().Run(recorder_);
  EXPECT_EQ(machine().Read<uint32_t>(0x80000) & 1, 1u);
}

HVSDK_GUEST(RealModeEnd, 16, R"(
    mov al, 0x5A
    out 0xF4, al
)")
// Another engine may leave a message waiting, where the kernel takes it in at once.
TEST_P(KvmStateTest, MessagesThatWaitArrive) {
  MakeMachine(2);
  machine().Load(0x11000, RealModeEnd());
  VpState state = SaveVp(1);
  EXPECT_EQ(state.activity, static_cast<uint8_t>(Activity::kWaitForSipi));
  state.sipi_pending = true;
  state.sipi_vector = 0x11;
  absl::Status status = machine().vp(1).RestoreState(state);
  ASSERT_TRUE(status.ok()) << status;
  machine().Run(recorder_, 1);
  EXPECT_EQ(recorder_.done_value, 0x5Au);
  EXPECT_EQ(machine().Get(RegisterName::kRip, 1) & ~0xFu, 0u) << "of a segment at 0x11000";

  MakeMachine(2);
  machine().Load(0x11000, RealModeEnd());
  recorder_.done = false;
  machine().Start(Mode::kLong, kCodeGpa, 1);
  state = SaveVp(1);
  state.activity = static_cast<uint8_t>(Activity::kRunning);
  state.init_pending = state.sipi_pending = true;
  state.sipi_vector = 0x11;
  status = machine().vp(1).RestoreState(state);
  ASSERT_TRUE(status.ok()) << status;
  machine().Run(recorder_, 1);
  EXPECT_EQ(recorder_.done_value, 0x5Au);
}

HVSDK_GUEST(EnableApic, 64, R"(
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    out 0xF4, al
    mov al, 0x5B
    out 0xF4, al
)")
TEST_P(KvmStateTest, AVpThatIdlesWithInterruptsMaskedIsWokenByOne) {
  machine().Start(Mode::kLong, EnableApic());
  machine().Run(recorder_);
  VpState state = SaveVp();
  state.activity = static_cast<uint8_t>(Activity::kHalted);
  state.guest_idle = true;
  MakeMachine(1);
  machine().Load(kCodeGpa, EnableApic());
  machine().Start(Mode::kLong, kCodeGpa);
  ASSERT_TRUE(machine().vp().RestoreState(state).ok());
  const absl::StatusOr<Activity> activity = machine().vp().GetActivity();
  ASSERT_TRUE(activity.ok());
  EXPECT_EQ(*activity, Activity::kHalted);
  VpState again = SaveVp();
  EXPECT_TRUE(state::StateText::Of(again) == state::StateText::Of(state)) << Difference(state, again);
  recorder_.done = false;
  {
    VpThread thread(machine(), 0, recorder_);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_FALSE(recorder_.done);
    machine().partition().RequestInterrupt(VpIndex{0}, 0x51, false);
    thread.WaitUntilDone();
  }
  EXPECT_EQ(recorder_.done_value, 0x5Bu);
}

// Input 9 of the IOAPIC: level-triggered, vector 0x45, masked at first.
HVSDK_GUEST(WaitForLevel, 64, R"(
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    mov rdx, 0xFEC00000
    mov dword ptr [rdx], 0x22
    mov dword ptr [rdx + 0x10], 0x18045
    out 0xF4, al
    mov dword ptr [rdx + 0x10], 0x8045
    sti
1:  cmp dword ptr [0x80000], 3
    jb 1b
    cli
    out 0xF4, al
)")
// The handler of an interrupt that the local APIC has: counts, and ends it.
HVSDK_GUEST(CountAndEnd, 64, R"(
    inc dword ptr [0x80000]
    push rax
    mov eax, 0xFEE000B0
    mov dword ptr [rax], 0
    pop rax
    iretq
)")
TEST_P(KvmStateTest, ALineThatIsHeldGoesOnAsking) {
  machine().Load(0x20000, CountAndEnd());
  machine().SetHandler(Mode::kLong, 0x45, 0x20000);
  machine().Start(Mode::kLong, WaitForLevel());
  machine().Run(recorder_);
  machine().partition().SetIrqLine(9, true);
  PartitionState before = SavePartition();
  EXPECT_EQ(before.io_apic_lines, 1u << 9);
  EXPECT_EQ(before.pics[1].lines, 1u << 1);
  ASSERT_NO_FATAL_FAILURE(Move());
  PartitionState after = SavePartition();
  before.guest_tsc = after.guest_tsc = 0;
  EXPECT_EQ(state::StateText::Of(after), state::StateText::Of(before));
  recorder_.done = false;
  machine().Run(recorder_);
  EXPECT_GE(machine().Read<uint32_t>(0x80000), 3u);
}

// Counts interrupts of a one-shot timer, which it starts once, with interrupts off at first.
HVSDK_GUEST(StartTimer, 64, R"(
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    mov dword ptr [rbx + 0x3E0], 0xB
    mov dword ptr [rbx + 0x320], 0x41
    mov dword ptr [rbx + 0x380], 1000
    out 0xF4, al
    sti
    mov ecx, 3000
1:  pause
    dec ecx
    jnz 1b
    out 0xF4, al
)")
TEST_P(KvmStateTest, ATimerExpiresOnceHoweverOftenItIsSaved) {
  machine().Load(0x20000, CountAndEnd());
  machine().SetHandler(Mode::kLong, 0x41, 0x20000);
  machine().Start(Mode::kLong, StartTimer());
  machine().Run(recorder_);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  // It has expired, and the VP was not inside KVM_RUN for the kernel to request the interrupt.
  VpState state = SaveVp();
  EXPECT_EQ(state.apic[0x200 + 0x41 / 32 * 16] & 2, 2) << "in the IRR";
  ASSERT_NO_FATAL_FAILURE(Move());
  recorder_.done = false;
  machine().Run(recorder_);
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 1u);
  for (int i = 0; i < 3; ++i) {
    VpState before = SaveVp();
    ASSERT_NO_FATAL_FAILURE(Move());
    VpState after = SaveVp();
    EXPECT_TRUE(state::StateText::Of(after) == state::StateText::Of(before)) << Difference(before, after);
    machine().Set(RegisterName::kRip, machine().Get(RegisterName::kRip) - 2);  // the last instruction again
    recorder_.done = false;
    machine().Run(recorder_);
  }
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 1u) << "and no more";
}

// Bytes of a state that were hit at random: what is not refused does no harm to the engine.
TEST_P(KvmStateTest, DamagedStatesAreRefusedOrHarmless) {
  std::mt19937 random(TestSeed());
  machine().Start(Mode::kLong, Count());
  const VpState good = SaveVp();
  const std::vector<uint8_t> memory(machine().ram().begin(), machine().ram().end());
  int refused = 0;
  for (int i = 0; i < 60; ++i) {
    VpState state = good;
    const auto hit = [&](void* field, size_t size) {
      static_cast<uint8_t*>(field)[random() % size] ^= 1u << random() % 8;
    };
    for (int hits = 1 + random() % 3; hits > 0; --hits) {
      switch (random() % 8) {
        case 0:
          hit(&state.segments[random() % 8], sizeof(SegmentState));
          break;
        case 1:
          hit(&state.cr0, 5 * sizeof(uint64_t));  // cr0 to xcr0
          break;
        case 2:
          hit(state.apic.data(), state.apic.size());
          break;
        case 3:
          hit(&state.msrs[random() % state.msrs.size()].value, sizeof(uint64_t));
          break;
        case 4:
          hit(state.fxsave.data(), state.fxsave.size());
          break;
        case 5:
          hit(&state.pending_interruption, sizeof(uint64_t));
          break;
        case 6:
          hit(&state.rflags, sizeof(uint64_t));
          break;
        default:
          hit(&state.dr7, sizeof(uint64_t));
          break;
      }
    }
    const absl::Status status = machine().vp().RestoreState(state);
    if (!status.ok()) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
      ++refused;
      continue;
    }
    std::thread kicker([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      machine().vp().Kick();
    });
    // The kernel may find only now that no processor can be so, and says that.
    machine().vp().Run(recorder_).IgnoreError();
    kicker.join();
    ASSERT_TRUE(machine().vp().Reset().ok());
  }
  EXPECT_GT(refused, 0);
  const absl::Status status = machine().vp().RestoreState(good);
  ASSERT_TRUE(status.ok()) << status;
  // What a damaged guest did to its memory, or reported, is its own.
  std::copy(memory.begin(), memory.end(), machine().ram().begin());
  recorder_ = Recorder();
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
}

}  // namespace
}  // namespace hvsdk::backend
