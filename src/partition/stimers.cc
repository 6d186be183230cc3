// SPDX-License-Identifier: Apache-2.0
#include "partition/stimers.h"

#include <algorithm>

#include "hvsdk/hvdef/msr.h"

namespace hvsdk::partition {

namespace msr = hvdef::msr;
using backend::MsrOutcome;

namespace {

uint64_t SaturatingAdd(uint64_t a, uint64_t b) { return a + b < a ? ~uint64_t{0} : a + b; }

uint8_t VectorOf(uint64_t config) { return static_cast<uint8_t>(config >> msr::kStimerVectorShift); }
Sint SintOf(uint64_t config) { return Sint(config >> msr::kStimerSintShift & 0xF); }

// Whether a timer so configured has somewhere to signal.
bool HasTarget(uint64_t config) {
  return (config & msr::kStimerDirect) != 0 ? VectorOf(config) >= msr::kFirstValidVector : ToInt(SintOf(config)) != 0;
}

}  // namespace

Stimers::Stimers(backend::Partition& backend, Synic& synic, const Clock& clock, TimerQueue& timers, VpIndex vp)
    : backend_(backend), synic_(synic), clock_(clock), vp_(vp) {
  for (uint32_t index = 0; index < stimers_.size(); ++index) {
    stimers_[index].timer = timers.CreateTimer([this, index] { OnTimer(index); });
  }
}

MsrOutcome Stimers::ReadMsr(uint32_t msr, uint64_t& value) const {
  const uint32_t offset = msr - msr::kStimer0Config;
  if (offset >= 2 * hvdef::kStimerCount) return MsrOutcome::kFault;
  std::lock_guard lock(mutex_);
  const Stimer& stimer = stimers_[offset / 2];
  value = offset % 2 == 0 ? stimer.config : stimer.count;
  return MsrOutcome::kDone;
}

MsrOutcome Stimers::WriteMsr(uint32_t msr, uint64_t value) {
  const uint32_t offset = msr - msr::kStimer0Config;
  if (offset >= 2 * hvdef::kStimerCount) return MsrOutcome::kFault;
  const uint32_t index = offset / 2;
  std::lock_guard lock(mutex_);
  Stimer& stimer = stimers_[index];
  if (offset % 2 == 0) {
    if ((value & msr::kStimerReservedMask) != 0) return MsrOutcome::kFault;
    stimer.config = HasTarget(value) ? value : value & ~msr::kStimerEnable;
  } else {
    stimer.count = value;
    if (value == 0) {
      stimer.config &= ~msr::kStimerEnable;
    } else if ((stimer.config & msr::kStimerAutoEnable) != 0 && HasTarget(stimer.config)) {
      stimer.config |= msr::kStimerEnable;
    }
  }
  if ((stimer.config & msr::kStimerEnable) == 0) synic_.CancelTimerMessage(index);
  Start(stimer);
  ExpireIfDue(index);
  return MsrOutcome::kDone;
}

// Begins anew with what the registers say.
void Stimers::Start(Stimer& stimer) {
  // A count of zero is what an enabled timer has before it is first programmed.
  if ((stimer.config & msr::kStimerEnable) == 0 || stimer.count == 0) {
    stimer.timer->Cancel();
    stimer.fire_100ns = kNever;
    return;
  }
  const bool periodic = (stimer.config & msr::kStimerPeriodic) != 0;
  stimer.deadline_100ns = periodic ? SaturatingAdd(clock_.Now100ns(), stimer.count) : stimer.count;
  stimer.fire_100ns = stimer.deadline_100ns;
  if (stimer.fire_100ns > clock_.Now100ns()) stimer.timer->Arm(stimer.fire_100ns);
}

void Stimers::OnTimer(uint32_t index) {
  std::lock_guard lock(mutex_);
  ExpireIfDue(index);
}

// Signals with the lock held, so that nothing comes from a timer after it was disabled.
void Stimers::ExpireIfDue(uint32_t index) {
  Stimer& stimer = stimers_[index];
  const uint64_t now = clock_.Now100ns();
  // Not due: a timer that ran for an earlier programming; the present one is armed.
  if (stimer.fire_100ns == kNever || now < stimer.fire_100ns) return;
  const uint64_t expiration_100ns = stimer.deadline_100ns;
  bool on_time = true;
  if ((stimer.config & msr::kStimerPeriodic) == 0) {
    stimer.config &= ~msr::kStimerEnable;
    stimer.fire_100ns = kNever;
  } else {
    on_time = ScheduleNextPeriod(stimer, now);
    stimer.timer->Arm(stimer.fire_100ns);
  }
  if (!on_time) return;
  ++expirations_;
  if ((stimer.config & msr::kStimerDirect) != 0) {
    backend_.RequestInterrupt(vp_, VectorOf(stimer.config), /*auto_eoi=*/false);
  } else {
    synic_.PostTimerMessage(index, SintOf(stimer.config), expiration_100ns);
  }
}

// Sets the next deadline. False: this signal comes so late that it is skipped.
bool Stimers::ScheduleNextPeriod(Stimer& stimer, uint64_t now_100ns) {
  const uint64_t period = stimer.count;
  const uint64_t missed = (now_100ns - stimer.deadline_100ns) / period;
  const bool lazy = (stimer.config & msr::kStimerLazy) != 0;
  bool on_time = true;
  if (lazy || missed > kMaxCatchUp) {
    stimer.deadline_100ns = SaturatingAdd(stimer.deadline_100ns + missed * period, period);
    stimer.fire_100ns = stimer.deadline_100ns;
    on_time = !lazy || missed == 0 || stimer.deadline_100ns - now_100ns > period / 4;
  } else {
    stimer.deadline_100ns = SaturatingAdd(stimer.deadline_100ns, period);
    stimer.fire_100ns = std::max(stimer.deadline_100ns, now_100ns + period / 2);
  }
  stimer.fire_100ns = std::max(stimer.fire_100ns, now_100ns + kMinSpacing100ns);
  return on_time;
}

void Stimers::Reset() {
  std::lock_guard lock(mutex_);
  for (Stimer& stimer : stimers_) {
    stimer.config = stimer.count = 0;
    Start(stimer);
  }
}

Stimers::State Stimers::Save() const {
  std::lock_guard lock(mutex_);
  State state;
  for (size_t index = 0; index < stimers_.size(); ++index) {
    const Stimer& stimer = stimers_[index];
    StimerState& saved = state[index];
    saved.config = stimer.config;
    saved.count = stimer.count;
    saved.armed = stimer.fire_100ns != kNever;
    if (!saved.armed) continue;
    saved.deadline_100ns = stimer.deadline_100ns;
    saved.fire_100ns = stimer.fire_100ns;
  }
  return state;
}

absl::Status Stimers::Check(const State& state, const state::StateReader& reader) {
  for (const StimerState& stimer : state) {
    const bool enabled = (stimer.config & msr::kStimerEnable) != 0;
    if ((stimer.config & msr::kStimerReservedMask) != 0) return reader.Invalid("stimers.config", "reserved bits");
    if (enabled && !HasTarget(stimer.config)) return reader.Invalid("stimers.config", "enabled without a target");
    if (!stimer.armed) {
      if (stimer.deadline_100ns != 0 || stimer.fire_100ns != 0) {
        return reader.Invalid("stimers.armed", "a deadline without it");
      }
      continue;
    }
    // A period of zero would be divided by.
    if (!enabled || stimer.count == 0) return reader.Invalid("stimers.armed", "without enable and count");
    if (stimer.fire_100ns == kNever || stimer.deadline_100ns > stimer.fire_100ns) {
      return reader.Invalid("stimers.fire_100ns", "earlier than the deadline, or never");
    }
  }
  return absl::OkStatus();
}

void Stimers::Restore(const State& state) {
  std::lock_guard lock(mutex_);
  for (size_t index = 0; index < stimers_.size(); ++index) {
    const StimerState& saved = state[index];
    Stimer& stimer = stimers_[index];
    stimer.config = saved.config;
    stimer.count = saved.count;
    stimer.deadline_100ns = saved.deadline_100ns;
    stimer.fire_100ns = saved.armed ? saved.fire_100ns : kNever;
    if (saved.armed) {
      stimer.timer->Arm(stimer.fire_100ns);
    } else {
      stimer.timer->Cancel();
    }
  }
}

}  // namespace hvsdk::partition
