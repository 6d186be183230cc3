// SPDX-License-Identifier: Apache-2.0
// Several threads: kicks that are never lost, translations flushed while other VPs run.

#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "tests/backend/conformance.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

class ThreadTest : public ConformanceTest {
 protected:
  std::atomic_ref<uint32_t> Word(uint64_t gpa) {
    return std::atomic_ref<uint32_t>(*machine().memory().Word<uint32_t>(gpa));
  }
};
HVSDK_CONFORMANCE_SUITE(ThreadTest);

HVSDK_GUEST(Spin, 64, R"(
1:  inc rbx
    jmp 1b
)")

TEST_P(ThreadTest, AKickBeforeRunStopsTheNextRun) {
  machine().Start(Mode::kLong, Spin());
  machine().vp().Kick();
  machine().vp().Kick();
  const absl::StatusOr<StopReason> stop = machine().vp().Run(recorder_);
  ASSERT_TRUE(stop.ok()) << stop.status();
  EXPECT_EQ(*stop, StopReason::kKicked);
}

// Two threads in lock step: each kick must end one Run. A kick that is lost hangs the test until its time is over.
TEST_P(ThreadTest, EveryKickEndsARun) {
  machine().Start(Mode::kLong, Spin());
  const uint32_t rounds = ScaledCount(500);
  std::atomic<uint32_t> stops{0};
  std::thread runner([&] {
    for (uint32_t i = 0; i < rounds; ++i) {
      const absl::StatusOr<StopReason> stop = machine().vp().Run(recorder_);
      const bool kicked = stop.ok() && *stop == StopReason::kKicked;
      EXPECT_TRUE(kicked) << stop.status();
      stops.store(kicked ? i + 1 : ~0u, std::memory_order_release);
      stops.notify_one();
      if (!kicked) return;
    }
  });
  for (uint32_t i = 0; i < rounds; ++i) {
    // At varying moments: before, during and after the entry into the guest.
    for (uint32_t delay = i % 64 * 8; delay > 0; --delay) __builtin_ia32_pause();
    machine().vp().Kick();
    while (stops.load(std::memory_order_acquire) == i) stops.wait(i, std::memory_order_acquire);
  }
  runner.join();
  EXPECT_EQ(stops, rounds);
}

HVSDK_GUEST(ExitLoop, 64, R"(
    xor ebx, ebx
1:  mov eax, ebx
    out 0x10, eax
    in eax, 0x11
    cmp eax, ebx
    jne 2f
    inc ebx
    jmp 1b
2:  out 0xF6, al
)")
// Kicks meet exits at any moment; no port access is lost, done twice or answered wrongly.
TEST_P(ThreadTest, KicksDuringExitsLoseNothing) {
  machine().Start(Mode::kLong, ExitLoop());
  const uint32_t rounds = ScaledCount(1000);
  uint32_t expected = 0;
  std::atomic<bool> finished{false};
  recorder_.record = false;
  recorder_.on_port_write = [&](Vp&, uint16_t, absl::Span<const uint8_t> data) {
    uint32_t value;
    std::memcpy(&value, data.data(), 4);
    ASSERT_EQ(value, expected);
  };
  recorder_.on_port_read = [&](Vp& vp, uint16_t, absl::Span<uint8_t> data) {
    std::memcpy(data.data(), &expected, 4);
    if (++expected < rounds) return;
    finished = true;
    vp.Kick();
  };
  std::thread kicker([&] {
    // Kicks without a pause would leave the guest no time at all.
    for (uint32_t i = 0; !finished; ++i) {
      machine().vp().Kick();
      std::this_thread::sleep_for(std::chrono::microseconds(i % 100));
    }
  });
  uint64_t stops = 0;
  while (!finished && !recorder_.done) {
    const absl::StatusOr<StopReason> stop = machine().vp().Run(recorder_);
    ASSERT_TRUE(stop.ok()) << stop.status();
    ++stops;
  }
  kicker.join();
  EXPECT_FALSE(recorder_.done) << "the guest read a wrong value";
  EXPECT_GT(stops, 0u);
}

HVSDK_GUEST(Halt, 64, R"(
    mov dword ptr [0x80000], 1
1:  cli
    hlt
    jmp 1b
)")
TEST_P(ThreadTest, AKickWakesAHaltedVp) {
  machine().Start(Mode::kLong, Halt());
  for (int i = 0; i < 50; ++i) {
    std::thread kicker([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(i % 5));
      machine().vp().Kick();
    });
    const absl::StatusOr<StopReason> stop = machine().vp().Run(recorder_);
    kicker.join();
    ASSERT_TRUE(stop.ok()) << stop.status();
    ASSERT_EQ(*stop, StopReason::kKicked);
  }
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 1u);
}

// VP 1 spins on a mapping; VP 0 changes the page table and flushes. VP 1 must then see the new page.
HVSDK_GUEST(WatchPage, 64, R"(
1:  mov eax, [0x60000]
    mov [0x80000], eax
    jmp 1b
)")
TEST_P(ThreadTest, FlushTlbOfARunningVp) {
  MakeMachine(2);
  machine().Load(kCodeGpa, WatchPage());
  const uint32_t rounds = ScaledCount(200);
  for (uint32_t i = 0; i < 2; ++i) machine().Write<uint32_t>(0x60000 + i * kPageSize, i);
  machine().Start(Mode::kLong, kCodeGpa, 1);
  VpThread thread(machine(), 1, recorder_);
  const VpIndex target[] = {VpIndex{1}};
  std::atomic_ref<uint64_t> entry(*machine().memory().Word<uint64_t>(kFirstPageTableGpa + 0x60 * 8));
  for (uint32_t i = 0; i < rounds; ++i) {
    const uint32_t page = (i + 1) % 2;
    entry.store((0x60000 + page * kPageSize) | 7);
    machine().partition().FlushTlb(target);
    // At most the store of one read from before the flush may still come.
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (Word(0x80000).load() != page) {
      ASSERT_LT(std::chrono::steady_clock::now(), limit) << "round " << i;
    }
  }
}

// Each VP flushes both, all the time, from its own exits.
HVSDK_GUEST(FlushLoop, 64, R"(
1:  in al, 0x10
    jmp 1b
)")
TEST_P(ThreadTest, VpsThatFlushEachOtherGoOn) {
  MakeMachine(2);
  machine().Load(kCodeGpa, FlushLoop());
  const uint32_t rounds = ScaledCount(2000);
  const VpIndex both[] = {VpIndex{0}, VpIndex{1}};
  std::atomic<uint32_t> exits[2] = {0, 0};
  Recorder recorders[2];
  for (uint32_t i = 0; i < 2; ++i) {
    recorders[i].record = false;
    recorders[i].on_port_read = [&, i](Vp&, uint16_t, absl::Span<uint8_t>) {
      ++exits[i];
      machine().partition().FlushTlb(both);
    };
    machine().Start(Mode::kLong, kCodeGpa, i);
  }
  {
    VpThread first(machine(), 0, recorders[0]);
    VpThread second(machine(), 1, recorders[1]);
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (exits[0] < rounds || exits[1] < rounds) {
      ASSERT_LT(std::chrono::steady_clock::now(), limit) << exits[0] << " and " << exits[1] << " exits";
      machine().partition().FlushTlb(both);
      std::this_thread::yield();
    }
  }
}

// A VP that sleeps is flushed before it next runs.
HVSDK_GUEST(SleepThenRead, 64, R"(
    mov rbx, 0xFEE00000
    mov dword ptr [rbx + 0xF0], 0x1FF
    mov eax, [0x60000]
    mov dword ptr [0x80010], 1
    sti
    hlt
    mov eax, [0x60000]
    mov [0x80000], eax
    out 0xF4, al
)")
HVSDK_GUEST(JustReturn, 64, "iretq")
TEST_P(ThreadTest, FlushTlbOfASleepingVp) {
  machine().Start(Mode::kLong, SleepThenRead());
  machine().Load(0x11000, JustReturn());
  machine().SetHandler(Mode::kLong, 0x41, 0x11000);
  machine().Write<uint32_t>(0x60000, 0x1111);
  machine().Write<uint32_t>(0x61000, 0x2222);
  VpThread thread(machine(), 0, recorder_);
  while (Word(0x80010).load() != 1) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  std::atomic_ref<uint64_t>(*machine().memory().Word<uint64_t>(kFirstPageTableGpa + 0x60 * 8)).store(0x61000 | 7);
  const VpIndex target[] = {VpIndex{0}};
  machine().partition().FlushTlb(target);
  machine().partition().RequestInterrupt(VpIndex{0}, 0x41, false);
  thread.WaitUntilDone();
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 0x2222u);
}

// Both VPs increment one word with locked instructions; the host counts along.
HVSDK_GUEST(LockedAdd, 64, R"(
    mov ecx, [0x80008]
1:  lock inc dword ptr [0x80000]
    dec ecx
    jnz 1b
    out 0xF4, al
)")
TEST_P(ThreadTest, LockedInstructionsAreAtomic) {
  MakeMachine(2);
  machine().Load(kCodeGpa, LockedAdd());
  const uint32_t rounds = ScaledCount(20000);
  machine().Write<uint32_t>(0x80008, rounds);
  Recorder recorders[2];
  {
    machine().Start(Mode::kLong, kCodeGpa, 0);
    machine().Start(Mode::kLong, kCodeGpa, 1);
    VpThread first(machine(), 0, recorders[0]);
    VpThread second(machine(), 1, recorders[1]);
    for (uint32_t i = 0; i < rounds; ++i) Word(0x80000).fetch_add(1);
    first.WaitUntilDone();
    second.WaitUntilDone();
  }
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 3 * rounds);
}

// One VP writes the immediate operand of an instruction that the other runs, by plain and locked stores. The other
// looks at the counter, serialises and runs it: it must see what was written before the counter.
HVSDK_GUEST(WritesCode, 64, R"(
    mov ecx, [0x80008]
1:  mov eax, [0x80000]
    inc eax
    test eax, 1
    jz 2f
    mov [0x20001], eax
    jmp 3f
2:  mov edx, eax
    xchg [0x20001], edx
3:  mov [0x80000], eax
4:  pause
    cmp [0x80010], eax
    jb 4b
    dec ecx
    jnz 1b
    out 0xF4, al
)")
HVSDK_GUEST(RunsCode, 64, R"(
    mov r12d, [0x80008]
    xor r13d, r13d
1:  mov r14d, [0x80000]
    cmp r14d, r13d
    je 1b
    xor eax, eax
    cpuid
    mov edi, 0x20000
    call rdi
    cmp eax, r14d
    je 2f
    inc dword ptr [0x80018]
2:  mov r13d, r14d
    mov [0x80010], r13d
    cmp r13d, r12d
    jb 1b
    out 0xF4, al
)")
TEST_P(ThreadTest, CodeThatAnotherVpWritesIsSeen) {
  MakeMachine(2);
  machine().Load(kCodeGpa, WritesCode());
  machine().Load(kCodeGpa + 0x1000, RunsCode());
  machine().Load(0x20000, {{0xB8, 0, 0, 0, 0, 0xC3}});  // mov eax, imm32; ret
  machine().Write<uint32_t>(0x80008, ScaledCount(1000));
  Recorder recorders[2];
  machine().Start(Mode::kLong, kCodeGpa, 0);
  machine().Start(Mode::kLong, kCodeGpa + 0x1000, 1);
  {
    VpThread first(machine(), 0, recorders[0]);
    VpThread second(machine(), 1, recorders[1]);
    first.WaitUntilDone(60);
    second.WaitUntilDone(60);
  }
  EXPECT_EQ(machine().Read<uint32_t>(0x80010), ScaledCount(1000));
  EXPECT_EQ(machine().Read<uint32_t>(0x80018), 0u) << "old code ran";
}

// Writes to a page at random, by stores of several kinds, and now and then makes the processor set the accessed and dirty bits of
// the page's table entry anew.
HVSDK_GUEST(WritesAtRandom, 64, R"(
    cld
1:  imul ebp, ebp, 1664525
    add ebp, 1013904223
    mov eax, ebp
    shr eax, 12
    and eax, 0xFF
    shl eax, 12
    mov ecx, ebp
    shr ecx, 20
    and ecx, 0xFC0
    lea edi, [rax + rcx + 0x100000]
    mov rsi, rdi
    mov [rdi], ebp
    lock add [rdi + 8], ebp
    xchg [rdi + 16], ebx
    mov eax, ebp
    mov ecx, 5
    rep stosd
    test ebp, 0x70000
    jnz 1b
    mov eax, esi
    shr eax, 12
    and qword ptr [rax * 8 + 0x7000], -0x61
    invlpg [rsi]
    jmp 1b
)")

// A copy that is kept by the dirty log, while the guest runs and while it does not, is memory whenever it does not.
TEST_P(ThreadTest, ACopyOfTheDirtyPagesIsMemory) {
  if (!backend().caps().dirty_log) GTEST_SKIP() << "no dirty log";
  MakeMachine(2);
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  constexpr uint64_t kPages = kRamSize / kPageSize;
  std::vector<uint8_t> copy(kRamSize);
  std::vector<uint64_t> dirty(kPages / 64);
  uint64_t taken = 0;
  const auto copy_dirty = [&] {
    std::fill(dirty.begin(), dirty.end(), 0);
    ASSERT_TRUE(machine().partition().TakeDirtyLog(0, kRamSize, absl::MakeSpan(dirty)).ok());
    for (uint64_t page = 0; page < kPages; ++page) {
      if ((dirty[page / 64] >> page % 64 & 1) == 0) continue;
      ++taken;
      ASSERT_TRUE(machine().memory().Read(page * kPageSize, &copy[page * kPageSize], kPageSize));
    }
  };
  machine().Load(kCodeGpa, WritesAtRandom());
  for (uint32_t vp = 0; vp < 2; ++vp) {
    machine().Start(Mode::kLong, kCodeGpa, vp);
    machine().Set(RegisterName::kRbp, random(), vp);
  }
  const uint32_t rounds = ScaledCount(30);
  for (uint32_t round = 0; round < rounds; ++round) {
    {
      Recorder recorders[2];
      VpThread first(machine(), 0, recorders[0]);
      VpThread second(machine(), 1, recorders[1]);
      if (round == 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        ASSERT_TRUE(machine().partition().EnableDirtyLog(true).ok());
        ASSERT_TRUE(machine().memory().Read(0, copy.data(), copy.size()));
      }
      for (uint32_t takes = random() % 4; takes > 0; --takes) {
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
        ASSERT_NO_FATAL_FAILURE(copy_dirty());
      }
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    }
    ASSERT_NO_FATAL_FAILURE(copy_dirty());
    for (uint64_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(std::memcmp(&copy[page * kPageSize], &machine().ram()[page * kPageSize], kPageSize), 0)
          << "page " << page << ", round " << round << ", seed " << seed;
    }
  }
  EXPECT_GT(taken, rounds);
  EXPECT_TRUE(machine().partition().EnableDirtyLog(false).ok());
}

}  // namespace
}  // namespace hvsdk::backend
