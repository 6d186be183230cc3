// SPDX-License-Identifier: Apache-2.0
// A machine that is saved, and restored into a fresh partition with a copy of its memory, goes on as if nothing had been.

#include <algorithm>
#include <cstring>
#include <random>

#include "hvsdk/state/writer.h"
#include "tests/backend/conformance.h"
#include "tests/random_seed.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

class SaveTest : public ConformanceTest {
 protected:
  struct Saved {
    PartitionState partition;
    std::vector<VpState> vps;
    std::vector<uint8_t> ram;
  };

  void SetUp() override {
    ConformanceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    VpState state;
    const absl::Status status = machine().vp().SaveState(state);
    if (absl::IsUnimplemented(status)) GTEST_SKIP() << status;
    ASSERT_TRUE(status.ok()) << status;
  }

  void Save(Saved& saved, uint32_t vps = 1) {
    const absl::Status status = machine().partition().SaveState(saved.partition);
    ASSERT_TRUE(status.ok()) << status;
    saved.vps.resize(vps);
    for (uint32_t i = 0; i < vps; ++i) {
      const absl::Status vp = machine().vp(i).SaveState(saved.vps[i]);
      ASSERT_TRUE(vp.ok()) << vp;
    }
    saved.ram.assign(machine().ram().begin(), machine().ram().end());
  }
  void Restore(const Saved& saved) {
    ASSERT_NO_FATAL_FAILURE(MakeMachine(static_cast<uint32_t>(saved.vps.size())));
    std::copy(saved.ram.begin(), saved.ram.end(), machine().ram().begin());
    const absl::Status status = machine().partition().RestoreState(saved.partition);
    ASSERT_TRUE(status.ok()) << status;
    for (uint32_t i = 0; i < saved.vps.size(); ++i) {
      const absl::Status vp = machine().vp(i).RestoreState(saved.vps[i]);
      ASSERT_TRUE(vp.ok()) << vp;
    }
  }
  // Into another partition.
  void Move(uint32_t vps = 1) {
    Saved saved;
    ASSERT_NO_FATAL_FAILURE(Save(saved, vps));
    ASSERT_NO_FATAL_FAILURE(Restore(saved));
  }
  // Runs VP 0 for so long, or until it is done.
  void RunFor(std::chrono::microseconds time) {
    std::thread kicker([&] {
      std::this_thread::sleep_for(time);
      machine().vp().Kick();
    });
    const absl::StatusOr<StopReason> stop = machine().vp().Run(recorder_);
    kicker.join();
    ASSERT_TRUE(stop.ok()) << stop.status();
    ASSERT_EQ(*stop, StopReason::kKicked);
  }
  // A guest that is moved at random moments, at most so often, ends with the result of one that is not.
  template <typename Result>
  void MoveInTheMidstOf(absl::Span<const uint8_t> code, int most_moves, Result result) {
    // A KVM that emulates may run a million instructions a second.
    constexpr int kLimitSeconds = 90;
    machine().Start(Mode::kLong, code);
    machine().Run(recorder_, /*vp=*/0, kLimitSeconds);
    const auto wanted = result();
    std::mt19937_64 random(TestSeed());
    int moves = 0;
    // On a busy host whoever is to stop the guest may come too late.
    for (int attempt = 0; attempt < 50 && moves <= 1; ++attempt) {
      MakeMachine(1);
      machine().Start(Mode::kLong, code);
      recorder_.done = false;
      for (moves = 0; !recorder_.done && moves < most_moves; ++moves) {
        ASSERT_NO_FATAL_FAILURE(RunFor(std::chrono::microseconds(random() % 2000)));
        ASSERT_NO_FATAL_FAILURE(Move());
      }
      if (!recorder_.done) machine().Run(recorder_, /*vp=*/0, kLimitSeconds);
      EXPECT_EQ(recorder_.fault, -1);
      EXPECT_EQ(result(), wanted);
    }
    EXPECT_GT(moves, 1) << "it was saved in its midst";
  }
  static uint32_t ApicWord(const VpState& state, size_t offset) {
    uint32_t value;
    std::memcpy(&value, state.apic.data() + offset, sizeof(value));
    return value;
  }
};
HVSDK_CONFORMANCE_SUITE(SaveTest);

// Adds up in registers and memory, with flags carried from one instruction to the next.
HVSDK_GUEST(AddUp, 64, R"(
    mov ecx, 3000000
    xor eax, eax
    xor ebx, ebx
    mov r9, 0x123456789
1:  add rax, rcx
    adc rbx, r9
    xor [0x80000], rax
    rol r9, 7
    dec ecx
    jnz 1b
    mov [0x80008], rbx
    mov [0x80010], r9
    out 0xF4, al
)")
TEST_P(SaveTest, AComputationGoesOn) {
  MoveInTheMidstOf(AddUp(), 20, [this] {
    return std::array{machine().Read<uint64_t>(0x80000), machine().Read<uint64_t>(0x80008),
                      machine().Read<uint64_t>(0x80010)};
  });
}

// Counts its interrupts at 0x80020 and ends each in the local APIC. At `done_at` (0x80024) it tells port 0x10.
HVSDK_GUEST(CountInterrupt, 64, R"(
    push rax
    push rbx
    inc dword ptr [0x80020]
    mov eax, [0x80020]
    cmp eax, [0x80024]
    jne 1f
    out 0x10, al
1:  mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xB0], 0
    pop rbx
    pop rax
    iretq
)")
HVSDK_GUEST(CountNmi, 64, R"(
    inc dword ptr [0x80028]
    iretq
)")
constexpr uint64_t kCount = 0x80020, kTellAt = 0x80024, kNmis = 0x80028;
constexpr uint8_t kVector = 0x41;

// Each `out 0xF4` is a place to be saved at.
#define HVSDK_ENABLE_APIC "mov rbx, 0xFEE00000\n mov dword ptr [rbx + 0xF0], 0x1FF\n"
HVSDK_GUEST(SleepOnce, 64, HVSDK_ENABLE_APIC "sti\n hlt\n cli\n out 0xF4, al\n")
TEST_P(SaveTest, AHaltedProcessorSleepsOn) {
  machine().Start(Mode::kLong, SleepOnce());
  machine().Load(0x11000, CountInterrupt());
  machine().SetHandler(Mode::kLong, kVector, 0x11000);
  // A busy host may not have brought it there yet.
  for (int i = 0; i < 500 && machine().vp().GetActivity().value_or(Activity::kHalted) != Activity::kHalted; ++i) {
    ASSERT_NO_FATAL_FAILURE(RunFor(std::chrono::milliseconds(20)));
  }
  for (int i = 0; i < 3; ++i) {
    ASSERT_NO_FATAL_FAILURE(RunFor(std::chrono::milliseconds(20)));
    ASSERT_NO_FATAL_FAILURE(Move());
    const absl::StatusOr<Activity> activity = machine().vp().GetActivity();
    ASSERT_TRUE(activity.ok()) << activity.status();
    EXPECT_EQ(*activity, Activity::kHalted);
  }
  EXPECT_FALSE(recorder_.done);
  machine().partition().RequestInterrupt(VpIndex{0}, kVector, false);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(kCount), 1u);
}

HVSDK_GUEST(OpenLater, 64, HVSDK_ENABLE_APIC "out 0xF4, al\n sti\n nop\n nop\n cli\n out 0xF4, al\n")
TEST_P(SaveTest, WhatWaitsArrivesOnce) {
  machine().Start(Mode::kLong, OpenLater());
  machine().Load(0x11000, CountInterrupt());
  machine().Load(0x11800, CountNmi());
  machine().SetHandler(Mode::kLong, kVector, 0x11000);
  machine().SetHandler(Mode::kLong, 0x62, 0x11000);
  machine().SetHandler(Mode::kLong, 2, 0x11800);
  machine().Run(recorder_);
  machine().partition().RequestInterrupt(VpIndex{0}, kVector, false);
  machine().partition().RequestInterrupt(VpIndex{0}, 0x62, false);
  machine().partition().SignalMsi(0xFEE00000, 0x400);  // an NMI
  ASSERT_NO_FATAL_FAILURE(Move());
  ASSERT_NO_FATAL_FAILURE(Move());
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(kCount), 2u);
  EXPECT_EQ(machine().Read<uint32_t>(kNmis), 1u);
}

HVSDK_GUEST(WaitForTimer, 64, HVSDK_ENABLE_APIC R"(
    mov dword ptr [rbx + 0x3E0], 0xB
    mov dword ptr [rbx + 0x320], 0x41
    mov dword ptr [rbx + 0x380], 120000000
    out 0xF4, al
    sti
    hlt
    cli
    out 0xF4, al
)")
TEST_P(SaveTest, TheTimerGoesOnWithWhatIsLeftToCount) {
  machine().Start(Mode::kLong, WaitForTimer());
  machine().Load(0x11000, CountInterrupt());
  machine().SetHandler(Mode::kLong, kVector, 0x11000);
  machine().Run(recorder_);
  Saved first, second;
  ASSERT_NO_FATAL_FAILURE(Save(first));
  // What passes between a save and a restore does not count.
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  ASSERT_NO_FATAL_FAILURE(Restore(first));
  ASSERT_NO_FATAL_FAILURE(Save(second));
  EXPECT_EQ(ApicWord(first.vps[0], 0x380), 120'000'000u);
  EXPECT_EQ(ApicWord(second.vps[0], 0x380), 120'000'000u);
  EXPECT_GT(ApicWord(first.vps[0], 0x390), 0u);
  EXPECT_LE(ApicWord(second.vps[0], 0x390), ApicWord(first.vps[0], 0x390));
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(kCount), 1u);
}

HVSDK_GUEST(HeldLevel, 64, HVSDK_ENABLE_APIC R"(
    mov rdx, 0xFEC00000
    mov dword ptr [rdx], 0x23
    mov dword ptr [rdx + 0x10], 0
    mov dword ptr [rdx], 0x22
    mov dword ptr [rdx + 0x10], 0x8041
    out 0xF4, al
    sti
    nop
1:  pause
    cmp dword ptr [0x80020], 3
    jb 1b
    mov ecx, 100000
2:  pause
    dec ecx
    jnz 2b
    cli
    out 0xF4, al
)")
TEST_P(SaveTest, ALevelStaysUp) {
  machine().Start(Mode::kLong, HeldLevel());
  machine().Load(0x11000, CountInterrupt());
  machine().SetHandler(Mode::kLong, kVector, 0x11000);
  machine().Write<uint32_t>(kTellAt, 3);
  recorder_.on_port_write = [this](Vp&, uint16_t, absl::Span<const uint8_t>) {
    machine().partition().SetIrqLine(9, false);
  };
  machine().Run(recorder_);
  machine().partition().SetIrqLine(9, true);
  ASSERT_NO_FATAL_FAILURE(Move());
  ASSERT_NO_FATAL_FAILURE(Move());
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(kCount), 3u) << "it came again while it was up, and no more after that";
}

HVSDK_GUEST(InitialisePic, 64, R"(
    mov al, 0x11
    out 0x20, al
    mov al, 0x30
    out 0x21, al
    out 0xF4, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    xor eax, eax
    out 0x21, al
    out 0xF4, al
    sti
    nop
    nop
    cli
    out 0xF4, al
)")
TEST_P(SaveTest, AnInitialisationOfThe8259GoesOn) {
  machine().Start(Mode::kLong, InitialisePic());
  machine().Load(0x11000, CountInterrupt());
  machine().SetHandler(Mode::kLong, 0x34, 0x11000);
  for (int i = 0; i < 2; ++i) {
    machine().Run(recorder_);
    ASSERT_NO_FATAL_FAILURE(Move());
  }
  machine().partition().SetIrqLine(4, true);
  machine().partition().SetIrqLine(4, false);
  ASSERT_NO_FATAL_FAILURE(Move());
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(kCount), 1u);
}

TEST_P(SaveTest, TheTscGoesOn) {
  Saved saved;
  ASSERT_NO_FATAL_FAILURE(Save(saved));
  std::this_thread::sleep_for(std::chrono::milliseconds(1));
  saved.partition.guest_tsc += uint64_t{1} << 40;
  ASSERT_NO_FATAL_FAILURE(Restore(saved));
  const uint64_t tsc = machine().partition().GuestTsc();
  EXPECT_GE(tsc, saved.partition.guest_tsc);
  EXPECT_LT(tsc - saved.partition.guest_tsc, 60 * saved.partition.tsc_frequency_hz);

  // Another frequency is kept, or the engine goes on at its own.
  const uint64_t own = saved.partition.tsc_frequency_hz;
  saved.partition.tsc_frequency_hz = 3 * own;
  MakeMachine(1);
  ASSERT_TRUE(machine().partition().RestoreState(saved.partition).ok());
  backend::PartitionState now;
  ASSERT_TRUE(machine().partition().SaveState(now).ok());
  ASSERT_TRUE(now.tsc_frequency_hz == 3 * own || now.tsc_frequency_hz == own) << now.tsc_frequency_hz;
  const double expected = static_cast<double>(now.tsc_frequency_hz);
  const auto start = std::chrono::steady_clock::now();
  const uint64_t before = machine().partition().GuestTsc();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const uint64_t after = machine().partition().GuestTsc();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  EXPECT_GT(static_cast<double>(after - before), 0.05 * 0.97 * expected);
  EXPECT_LT(static_cast<double>(after - before), took.count() * 1.03 * expected);
}

HVSDK_GUEST(LeaveNmi, 64, R"(
    inc dword ptr [0x80028]
    out 0xF4, al
    iretq
)")
// A KVM takes an NMI from the bus only where the local APIC is enabled.
HVSDK_GUEST(EnableApic, 64, HVSDK_ENABLE_APIC "out 0xF4, al\n nop\n nop\n out 0xF4, al\n")
TEST_P(SaveTest, ANmiWaitsForTheHandlerOfTheLast) {
  machine().Start(Mode::kLong, EnableApic());
  machine().Load(0x11800, LeaveNmi());
  machine().SetHandler(Mode::kLong, 2, 0x11800);
  machine().Run(recorder_);
  machine().partition().SignalMsi(0xFEE00000, 0x400);
  machine().Run(recorder_);
  ASSERT_EQ(machine().Read<uint32_t>(kNmis), 1u);
  machine().partition().SignalMsi(0xFEE00000, 0x400);
  ASSERT_NO_FATAL_FAILURE(Move());
  VpState state;
  ASSERT_TRUE(machine().vp().SaveState(state).ok());
  EXPECT_TRUE(state.nmi_blocked);
  EXPECT_TRUE(state.nmi_pending);
  machine().Run(recorder_);
  EXPECT_EQ(machine().Read<uint32_t>(kNmis), 2u);
  EXPECT_EQ(machine().Get(RegisterName::kRip) & ~uint64_t{7}, 0x11808u & ~uint64_t{7}) << "in the handler once more";
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(kNmis), 2u);
}

// The instruction behind STI is the first one after the restore.
HVSDK_GUEST(Shadowed, 64, "inc dword ptr [0x80030]\n nop\n nop\n cli\n out 0xF4, al\n")
HVSDK_GUEST(NoteShadowed, 64, R"(
    push rax
    mov eax, [0x80030]
    mov [0x80034], eax
    pop rax
    iretq
)")
TEST_P(SaveTest, AnInterruptShadowLastsOneInstruction) {
  machine().Start(Mode::kLong, Shadowed());
  machine().Load(0x11000, NoteShadowed());
  machine().SetHandler(Mode::kLong, kVector, 0x11000);
  machine().Write<uint32_t>(0x80034, 0xFFFF);
  Saved saved;
  ASSERT_NO_FATAL_FAILURE(Save(saved));
  saved.vps[0].rflags |= 0x200;
  saved.vps[0].interrupt_shadow = true;
  saved.vps[0].apic[0xF0] = 0xFF;
  saved.vps[0].apic[0xF1] = 1;
  saved.vps[0].apic[0x200 + kVector / 32 * 16] = 1 << kVector % 32;
  ASSERT_NO_FATAL_FAILURE(Restore(saved));
  ASSERT_NO_FATAL_FAILURE(Move());
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Read<uint32_t>(0x80034), 1u);
}

// Keeps its sums in the units' registers.
HVSDK_GUEST(AddUpFractions, 64, R"(
    fninit
    fldpi
    fldz
    mov eax, 3
    cvtsi2sd xmm1, eax
    xorps xmm2, xmm2
    mov ecx, 400000
1:  fadd st, st(1)
    addsd xmm2, xmm1
    divsd xmm2, xmm1
    dec ecx
    jnz 1b
    fstp tbyte ptr [0x80000]
    movups [0x80010], xmm2
    out 0xF4, al
)")
TEST_P(SaveTest, FloatingPointGoesOn) {
  MoveInTheMidstOf(AddUpFractions(), 10, [this] {
    return std::array{machine().Read<uint64_t>(0x80000), uint64_t{machine().Read<uint16_t>(0x80008)},
                      machine().Read<uint64_t>(0x80010), machine().Read<uint64_t>(0x80018)};
  });
}

// Any state that makes sense.
template <typename State>
std::string BytesOf(State& state) {
  state::StateWriter writer;
  writer.Write(state);
  return writer.bytes();
}
void Randomise(VpState& state, std::mt19937_64& random) {
  for (uint64_t& gpr : state.gpr) gpr = random();
  state.rip = kCodeGpa + random() % 0x1000;
  state.rflags = 2 | (random() & 0xCD5);
  state.cr2 = random();
  for (uint64_t& dr : state.dr) dr = random() & 0x7FFFFFFFFFFF;
  for (size_t i = 32; i < 416; ++i) {
    if (i >= 160 || i % 16 < 10) state.fxsave[i] = static_cast<uint8_t>(random());
  }
  state.fxsave[4] = static_cast<uint8_t>(random());
  state.interrupt_shadow = random() % 2;
  state.nmi_blocked = random() % 2;
  for (MsrState& msr : state.msrs) {
    if (msr.index == 0xC0000082 || msr.index == 0xC0000102) msr.value = random() & 0x7FFFFFFFFFFF;
    if (msr.index == 0xC0000081) msr.value = random();
  }
  if (random() % 2) state.pending_interruption = uint64_t{random() % 0x10000} << 32 | 13 << 16 | 1 << 4 | 3 << 1 | 1;
}
TEST_P(SaveTest, WhatIsSavedAfterARestoreIsWhatWasRestored) {
  std::mt19937_64 random(TestSeed());
  for (int i = 0; i < 20; ++i) {
    machine().Start(Mode::kLong, kCodeGpa);
    Saved saved, again;
    ASSERT_NO_FATAL_FAILURE(Save(saved));
    Randomise(saved.vps[0], random);
    ASSERT_NO_FATAL_FAILURE(Restore(saved));
    ASSERT_NO_FATAL_FAILURE(Save(again));
    EXPECT_EQ(BytesOf(again.vps[0]), BytesOf(saved.vps[0])) << "round " << i;
    again.partition.guest_tsc = saved.partition.guest_tsc;
    EXPECT_EQ(BytesOf(again.partition), BytesOf(saved.partition)) << "round " << i;
  }
}

TEST_P(SaveTest, ImpossibleStatesAreRefusedAndChangeNothing) {
  machine().Start(Mode::kLong, kCodeGpa);
  Saved good, now;
  ASSERT_NO_FATAL_FAILURE(Save(good));
  const struct {
    const char* name;
    std::function<void(VpState&)> damage;
    const char* named;
  } cases[] = {
      {"a component of XSAVE",
       [](VpState& s) {
         s.xsave.push_back({62, std::vector<uint8_t>(8, 1)});
       },
       "62"},
      {"an MSR",
       [](VpState& s) {
         s.msrs.push_back({0xC0010FFF, 1});
       },
       "0xc0010fff"},
      {"PAT",
       [](VpState& s) {
         for (MsrState& msr : s.msrs) {
           if (msr.index == 0x277) msr.value = 2;
         }
       },
       "0x277"},
      {"the order of MSRs", [](VpState& s) { std::swap(s.msrs.front(), s.msrs.back()); }, "order"},
      {"activity", [](VpState& s) { s.activity = 3; }, "activity"},
      {"RFLAGS", [](VpState& s) { s.rflags = 0; }, "rflags"},
      {"a vector", [](VpState& s) { s.apic[0x200] = 1; }, "apic"},
      {"an event", [](VpState& s) { s.pending_interruption = 1 | 7 << 1; }, "pending_interruption"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    VpState state = good.vps[0];
    c.damage(state);
    const absl::Status status = machine().vp().RestoreState(state);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(c.named));
  }
  for (const auto& damage : std::initializer_list<std::function<void(PartitionState&)>>{
           [](PartitionState& s) { s.redirection[3] = 1 << 20; }, [](PartitionState& s) { s.pics[1].init_step = 9; },
           [](PartitionState& s) { s.pics[0].vector_base = 3; }, [](PartitionState& s) { s.io_apic_lines = 1u << 30; },
           [](PartitionState& s) { s.tsc_frequency_hz = 0; }}) {
    PartitionState state = good.partition;
    damage(state);
    EXPECT_FALSE(machine().partition().RestoreState(state).ok());
  }
  ASSERT_NO_FATAL_FAILURE(Save(now));
  EXPECT_EQ(BytesOf(now.vps[0]), BytesOf(good.vps[0]));
  now.partition.guest_tsc = good.partition.guest_tsc;
  EXPECT_EQ(BytesOf(now.partition), BytesOf(good.partition));
}

// Gives a field here and there another value.
class Mutator {
 public:
  explicit Mutator(std::mt19937_64& random) : random_(random) {}
  template <typename T>
  void operator()(uint16_t, const char*, T& value) {
    if constexpr (state::Integer<T>) {
      if (random_() % 40 != 0) return;
      constexpr uint64_t kOdd[] = {0, 1, 0x80, 0xFFFF, 0x80000000, 0xFFFFFFFF, uint64_t{1} << 63, ~uint64_t{0}};
      const uint64_t flipped = static_cast<uint64_t>(value) ^ uint64_t { 1 } << random_() % 64;
      const uint64_t chosen = random_() % 2 ? flipped : random_() % 2 ? kOdd[random_() % 8] : random_();
      value = static_cast<T>(chosen);
    } else if constexpr (state::Bytes<T>) {
      for (uint64_t i = random_() % 4; i > 0 && !value.empty(); --i) {
        value[random_() % value.size()] = static_cast<uint8_t>(random_());
      }
    } else if constexpr (state::Structure<T>) {
      value.Fields(*this);
    } else {
      for (auto& item : value) (*this)(0, "", item);
    }
  }

 private:
  std::mt19937_64& random_;
};

// A damaged file is refused, or is another machine, which harms nobody.
TEST_P(SaveTest, DamagedStatesDoNoHarm) {
  std::mt19937_64 random(TestSeed());
  machine().Start(Mode::kLong, AddUp());
  ASSERT_NO_FATAL_FAILURE(RunFor(std::chrono::microseconds(500)));
  Saved good;
  ASSERT_NO_FATAL_FAILURE(Save(good));
  Mutator mutate(random);
  int restored = 0;
  for (int i = 0; i < 200; ++i) {
    SCOPED_TRACE(i);
    VpState vp_state = good.vps[0];
    PartitionState partition_state = good.partition;
    vp_state.Fields(mutate);
    partition_state.Fields(mutate);
    ASSERT_NO_FATAL_FAILURE(MakeMachine(1));
    std::copy(good.ram.begin(), good.ram.end(), machine().ram().begin());
    (void)machine().partition().RestoreState(partition_state);
    if (!machine().vp().RestoreState(vp_state).ok()) continue;
    ++restored;
    machine().partition().SetIrqLine(9, true);
    machine().partition().RequestInterrupt(VpIndex{0}, 0x80, false);
    std::thread kicker([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(500));
      machine().vp().Kick();
    });
    Recorder recorder;
    recorder.record = false;
    (void)machine().vp().Run(recorder);
    kicker.join();
    VpState after;
    EXPECT_TRUE(machine().vp().SaveState(after).ok());
  }
  EXPECT_GT(restored, 0);
}

}  // namespace
}  // namespace hvsdk::backend
