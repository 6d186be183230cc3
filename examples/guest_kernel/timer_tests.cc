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

void TestExpiration(const Timer& timer) {
  TimerMessagePayload payload;
  const uint64_t due = Now() + 2 * kMillisecond;
  TryWriteMsr(timer.count, due);
  TryWriteMsr(timer.config, kToSint | msr::kStimerEnable);
  bool ok = timer.is_enabled() || Now() >= due;
  ok = ok && timer.Take(payload) && Now() >= due;
  Check(ok && payload.expiration_time_100ns == due && payload.delivery_time_100ns >= due,
        "timer: a message says when it was due and when it came:", timer.index);

  TryWriteMsr(timer.count, 1);
  TryWriteMsr(timer.config, kToSint | msr::kStimerEnable);
  Check(timer.Take(payload) && !timer.is_enabled(), "timer: one-shot in the past, at once:", timer.index);
  timer.Stop();
}

void TestAutoEnable(const Timer& timer) {
  TryWriteMsr(timer.config, kToSint | msr::kStimerAutoEnable);
  const bool off = !timer.is_enabled();
  TryWriteMsr(timer.count, Now() + 20 * kSecond);
  const bool on = timer.is_enabled();
  TryWriteMsr(timer.count, 0);
  Check(off && on && !timer.is_enabled(), "timer: enabled by a count, disabled by a count of zero:", timer.index);
  timer.Stop();
}

// How a timer in any mode tells that it expired: by an interrupt alone, or by a message.
class Signals {
 public:
  Signals(const Timer& timer, bool direct)
      : timer_(timer),
        direct_(direct),
        vector_(static_cast<uint8_t>(kDirectVector + timer.index)),
        taken_(InterruptCount(vector_)) {}
  uint64_t target() const {
    return direct_ ? uint64_t{vector_} << msr::kStimerVectorShift | msr::kStimerDirect : kToSint;
  }
  // Waits for the next one, and takes it.
  bool Take() {
    if (direct_) return WaitUntil([this] { return InterruptCount(vector_) != taken_; }) && (++taken_, true);
    TimerMessagePayload payload;
    return timer_.Take(payload);
  }
  // Nothing but what was taken, of either kind.
  bool IsQuiet() const {
    Message message;
    return InterruptCount(vector_) == taken_ && !TakeMessage(kSint, message);
  }

 private:
  const Timer& timer_;
  const bool direct_;
  const uint8_t vector_;
  uint32_t taken_;
};

// A lazy timer may leave out a period that it is late for, which depends on the host and is not for a guest to provoke:
// what is tested here is that it keeps time like any other. A one-shot timer has no period, so laziness has no effect
// on it.
void TestMode(const Timer& timer, uint64_t mode, const char* what) {
  constexpr uint64_t kPeriod = 2 * kMillisecond;
  const bool periodic = (mode & msr::kStimerPeriodic) != 0;
  Signals signals(timer, (mode & msr::kStimerDirect) != 0);
  const uint64_t config = (mode & ~msr::kStimerDirect) | signals.target();
  const uint64_t start = Now();
  const uint64_t count = periodic ? kPeriod : start + kPeriod;
  // With automatic enabling the count comes last, and starts it.
  if ((mode & msr::kStimerAutoEnable) != 0) {
    TryWriteMsr(timer.config, config);
    TryWriteMsr(timer.count, count);
  } else {
    TryWriteMsr(timer.count, count);
    TryWriteMsr(timer.config, config | msr::kStimerEnable);
  }
  // No signal comes before its time.
  bool ok = true;
  const uint64_t expected = periodic ? 3 : 1;
  for (uint64_t i = 1; ok && i <= expected; ++i) ok = signals.Take() && Now() >= start + i * kPeriod;
  ok = ok && timer.is_enabled() == periodic;
  if (periodic) {
    // What is on its way when it stops may still come.
    TryWriteMsr(timer.config, 0);
    timer.Stop();
    Wait(kMillisecond / 10);
    Signals after(timer, (mode & msr::kStimerDirect) != 0);
    Wait(2 * kPeriod);
    ok = ok && after.IsQuiet();
  } else {
    ok = ok && signals.IsQuiet();
  }
  timer.Stop();
  Check(ok, what, timer.index);
}

}  // namespace

void TestTimers() {
  struct Mode {
    uint64_t bits;
    const char* what;
  };
  using namespace hvsdk::hvdef::msr;
  static constexpr Mode kModes[] = {
      {0, "timer: one-shot:"},
      {kStimerLazy, "timer: one-shot, lazy:"},
      {kStimerAutoEnable, "timer: one-shot, auto-enabled:"},
      {kStimerAutoEnable | kStimerLazy, "timer: one-shot, auto-enabled, lazy:"},
      {kStimerPeriodic, "timer: periodic:"},
      {kStimerPeriodic | kStimerLazy, "timer: periodic, lazy:"},
      {kStimerPeriodic | kStimerAutoEnable, "timer: periodic, auto-enabled:"},
      {kStimerPeriodic | kStimerAutoEnable | kStimerLazy, "timer: periodic, auto-enabled, lazy:"},
      {kStimerDirect, "timer: direct, one-shot:"},
      {kStimerDirect | kStimerLazy, "timer: direct, one-shot, lazy:"},
      {kStimerDirect | kStimerAutoEnable, "timer: direct, one-shot, auto-enabled:"},
      {kStimerDirect | kStimerAutoEnable | kStimerLazy, "timer: direct, one-shot, auto-enabled, lazy:"},
      {kStimerDirect | kStimerPeriodic, "timer: direct, periodic:"},
      {kStimerDirect | kStimerPeriodic | kStimerLazy, "timer: direct, periodic, lazy:"},
      {kStimerDirect | kStimerPeriodic | kStimerAutoEnable, "timer: direct, periodic, auto-enabled:"},
      {kStimerDirect | kStimerPeriodic | kStimerAutoEnable | kStimerLazy,
       "timer: direct, periodic, auto-enabled, lazy:"},
  };
  for (uint32_t index = 0; index < hvsdk::hvdef::kStimerCount; ++index) {
    const Timer timer(index);
    TestExpiration(timer);
    TestAutoEnable(timer);
    for (const Mode& mode : kModes) TestMode(timer, mode.bits, mode.what);
  }

  // HLT, and the MSR that does the same, end with an interrupt. A periodic timer comes again should the first interrupt
  // be too early.
  constexpr uint64_t kDirect = uint64_t{kDirectVector} << msr::kStimerVectorShift | msr::kStimerDirect;
  uint32_t before = InterruptCount(kDirectVector);
  TryWriteMsr(msr::kStimer0Count, 3 * kMillisecond);
  TryWriteMsr(msr::kStimer0Config, kDirect | msr::kStimerPeriodic | msr::kStimerEnable);
  asm volatile("hlt" ::: "memory");
  Check(InterruptCount(kDirectVector) != before, "timer: wakes a processor from HLT");
  before = InterruptCount(kDirectVector);
  Check(!MsrFaultsOnRead(msr::kGuestIdle) && InterruptCount(kDirectVector) != before,
        "timer: wakes a processor from GUEST_IDLE, and nothing does before");
  TryWriteMsr(msr::kStimer0Config, 0);
}
