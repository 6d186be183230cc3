// SPDX-License-Identifier: Apache-2.0
// Each of the four timers in each of its modes (TLFS, "Synthetic Timers").

#include "console.h"
#include "hypervisor.h"
#include "tests.h"

using hvsdk::hvdef::Message;
using hvsdk::hvdef::TimerMessagePayload;

namespace {

constexpr uint32_t kSint = 3;
constexpr uint64_t kToSint = uint64_t{kSint} << msr::kStimerSintShift;
constexpr uint8_t kDirectVector = 0x70;

struct Timer {
  explicit Timer(uint32_t timer) : index(timer), config(msr::kStimer0Config + 2 * timer), count(config + 1) {}
  void Stop() const {
    TryWriteMsr(config, 0);
    Message message;
    while (TakeMessage(kSint, message)) {
    }
  }
  // Waits for this timer's message.
  bool Take(TimerMessagePayload& payload) const {
    Message message;
    if (!WaitUntil([&] { return TakeMessage(kSint, message); })) return false;
    __builtin_memcpy(&payload, message.payload, sizeof(payload));
    return payload.timer_index == index;
  }
  bool is_enabled() const { return (ReadMsr(config) & msr::kStimerEnable) != 0; }

  uint32_t index, config, count;
};

void TestOneShot(const Timer& timer) {
  TimerMessagePayload payload;
  const uint64_t due = Now() + 2 * kMillisecond;
  TryWriteMsr(timer.count, due);
  TryWriteMsr(timer.config, kToSint | msr::kStimerEnable);
  bool ok = timer.is_enabled() || Now() >= due;
  ok = ok && timer.Take(payload) && Now() >= due;
  ok = ok && payload.expiration_time_100ns == due && payload.delivery_time_100ns >= due;
  Check(ok && !timer.is_enabled(), "timer: one-shot, not early, then disabled:", timer.index);

  TryWriteMsr(timer.count, 1);
  TryWriteMsr(timer.config, kToSint | msr::kStimerEnable);
  Check(timer.Take(payload) && !timer.is_enabled(), "timer: one-shot in the past, at once:", timer.index);
  timer.Stop();
}

void TestAutoEnable(const Timer& timer) {
  TimerMessagePayload payload;
  TryWriteMsr(timer.config, kToSint | msr::kStimerAutoEnable);
  const bool off = !timer.is_enabled();
  TryWriteMsr(timer.count, Now() + 20 * kSecond);
  const bool on = timer.is_enabled();
  TryWriteMsr(timer.count, Now() + kMillisecond);
  Check(off && on && timer.Take(payload) && !timer.is_enabled(), "timer: auto-enabled by its count:", timer.index);
  timer.Stop();
}

void TestPeriodic(const Timer& timer, uint64_t mode, const char* what) {
  constexpr uint64_t kPeriod = 3 * kMillisecond;
  TimerMessagePayload payload = {};
  const uint64_t start = Now();
  TryWriteMsr(timer.count, kPeriod);
  TryWriteMsr(timer.config, kToSint | mode | msr::kStimerPeriodic | msr::kStimerEnable);
  bool ok = true;
  uint64_t last = start;
  for (uint64_t i = 0; ok && i < 4; ++i) {
    ok = timer.Take(payload) && payload.expiration_time_100ns > last;
    last = payload.expiration_time_100ns;
  }
  ok = ok && timer.is_enabled() && Now() >= start + 4 * kPeriod;
  TryWriteMsr(timer.config, 0);
  timer.Stop();
  Wait(2 * kPeriod);
  Message message;
  Check(ok && !TakeMessage(kSint, message), what, timer.index);
}

void TestDirect(const Timer& timer) {
  const auto vector = static_cast<uint8_t>(kDirectVector + timer.index);
  if ((Cpuid(cpuid::kFeatures).edx & cpuid::kFeatureDirectTimers) == 0) {
    Check(true, "timer: direct, an interrupt and no message:", timer.index);
    return;
  }
  const uint32_t before = InterruptCount(vector);
  TryWriteMsr(timer.count, Now() + kMillisecond);
  TryWriteMsr(timer.config, uint64_t{vector} << msr::kStimerVectorShift | msr::kStimerDirect | msr::kStimerEnable);
  const bool came = WaitUntil([=] { return InterruptCount(vector) == before + 1; });
  Message message;
  Check(came && !TakeMessage(kSint, message), "timer: direct, an interrupt and no message:", timer.index);
  timer.Stop();
}

}  // namespace

void TestTimers() {
  for (uint32_t index = 0; index < hvsdk::hvdef::kStimerCount; ++index) {
    const Timer timer(index);
    TestOneShot(timer);
    TestAutoEnable(timer);
    TestPeriodic(timer, 0, "timer: periodic, until it is stopped:");
    TestPeriodic(timer, msr::kStimerLazy, "timer: lazy and periodic, until it is stopped:");
    TestDirect(timer);
  }

  // HLT, and the MSR that does the same, end with an interrupt. A periodic timer comes again should the first interrupt be too
  // early.
  constexpr uint64_t kDirect = uint64_t{kDirectVector} << msr::kStimerVectorShift | msr::kStimerDirect;
  uint32_t before = InterruptCount(kDirectVector);
  TryWriteMsr(msr::kStimer0Count, 3 * kMillisecond);
  TryWriteMsr(msr::kStimer0Config, kDirect | msr::kStimerPeriodic | msr::kStimerEnable);
  asm volatile("hlt" ::: "memory");
  Check(InterruptCount(kDirectVector) != before, "timer: wakes a processor from HLT");
  before = InterruptCount(kDirectVector);
  Check(MsrFaultsOnRead(msr::kGuestIdle) == !HasPrivilege(privilege::kAccessGuestIdleReg), "MSR GUEST_IDLE: as CPUID says");
  Check(WaitUntil([=] { return InterruptCount(kDirectVector) != before; }), "timer: wakes a processor from GUEST_IDLE");
  TryWriteMsr(msr::kStimer0Config, 0);
}
