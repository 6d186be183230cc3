// SPDX-License-Identifier: Apache-2.0
// Both reference clocks, alone and against each other (TLFS, "Reference Counter" and "Partition Reference
// Time Enlightenment").

#include "console.h"
#include "hypervisor.h"
#include "tests.h"

using hvsdk::hvdef::ReferenceTscPage;

namespace {

Page tsc_page;

// False: the page is not valid at present.
bool ReadTscClock(uint64_t& time_100ns) {
  const auto* page = reinterpret_cast<const volatile ReferenceTscPage*>(tsc_page.bytes);
  for (;;) {
    const uint32_t sequence = page->sequence;
    if (sequence == 0) return false;
    const uint64_t scale = page->scale;
    const int64_t offset = page->offset;
    const uint64_t tsc = ReadTsc();
    if (page->sequence != sequence) continue;
    time_100ns = static_cast<uint64_t>(static_cast<unsigned __int128>(tsc) * scale >> 64) + offset;
    return true;
  }
}

}  // namespace

void TestClocks() {
  bool monotonic = true;
  const uint64_t start = Now();
  uint64_t last = start;
  for (int i = 0; i < 1000; ++i) {
    const uint64_t now = Now();
    monotonic = monotonic && now >= last;
    last = now;
  }
  Check(monotonic && last > start, "clock: the counter runs and never goes back");

  TryWriteMsr(msr::kReferenceTsc, tsc_page.gpa() | msr::kPageEnable);
  Check((ReadMsr(msr::kReferenceTsc) & msr::kPageEnable) != 0, "clock: the reference TSC page is there");
  // A guest must not trust the page while it is not valid, and nothing here makes it so.
  bool valid = true, agrees = true, runs = true;
  uint64_t first_tsc = 0, by_tsc = 0, before_tsc = 0;
  valid = ReadTscClock(first_tsc);
  for (int i = 0; i < 1000 && valid; ++i) {
    valid = ReadTscClock(before_tsc);
    const uint64_t before = Now();
    valid = valid && ReadTscClock(by_tsc);
    const uint64_t after = Now();
    // A tick of rounding at each end.
    agrees = agrees && by_tsc + 1 >= before && by_tsc <= after + 1;
    runs = runs && by_tsc >= before_tsc;
  }
  Check(valid, "clock: the reference TSC page is valid");
  Check(valid && agrees, "clock: the reference TSC page agrees with the counter");
  Check(valid && runs && by_tsc > first_tsc, "clock: the reference TSC page runs and never goes back");
  TryWriteMsr(msr::kReferenceTsc, 0);

  const uint64_t t0 = Now(), c0 = ReadTsc();
  Wait(20 * kMillisecond);
  const uint64_t time = Now() - t0, cycles = ReadTsc() - c0;
  const uint64_t expected = ReadMsr(msr::kTscFrequency) / 1000 * time / 10'000;
  Check(expected != 0 && cycles > expected / 2 && cycles < expected * 2,
        "clock: the TSC runs at the frequency it is said to");
}
