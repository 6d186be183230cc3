// SPDX-License-Identifier: Apache-2.0
#include "machine/crash_watch.h"

#include <algorithm>
#include <utility>

#include "hvsdk/hvdef/msr.h"

namespace hvsdk::machine {
namespace {

namespace msr = hvdef::msr;

bool IsKeyboard(uint16_t port) { return port == 0x60 || port == 0x64; }

// Clock, timers and interrupts.
bool IsTick(uint32_t index) {
  constexpr uint32_t kTscDeadline = 0x6E0, kFirstX2Apic = 0x800, kLastX2Apic = 0x8FF;
  return (index >= msr::kEoi && index <= msr::kTpr) || index == msr::kEom || index == msr::kGuestIdle ||
         (index >= msr::kStimer0Config && index <= msr::kStimer3Count) || index == kTscDeadline ||
         (index >= kFirstX2Apic && index <= kLastX2Apic);
}

}  // namespace

CrashWatch::CrashWatch(Board& board, uint32_t silence_ms, Tell tell, absl::AnyInvocable<void()> on_silence)
    : board_(board),
      silence_100ns_(uint64_t{silence_ms} * 10'000),
      tell_(std::move(tell)),
      on_silence_(std::move(on_silence)) {}

CrashWatch::~CrashWatch() { Reset(); }

void CrashWatch::Reset() {
  board_.loop().Drain(*this);
  {
    std::lock_guard lock(mutex_);
    report_.reset();
  }
  told_ = false;
  if (timer_ == nullptr) return;
  timer_.reset();
  board_.RemoveLayer(*this);
}

void CrashWatch::Report(const partition::CrashReport& report) {
  {
    std::lock_guard lock(mutex_);
    if (report_.has_value()) return;
    report_ = report;
  }
  board_.loop().Schedule(*this);
}

absl::optional<partition::CrashReport> CrashWatch::report() const {
  std::lock_guard lock(mutex_);
  return report_;
}

void CrashWatch::TellNow() {
  const absl::optional<partition::CrashReport> report = this->report();
  if (report.has_value() && !std::exchange(told_, true) && tell_) tell_(*report);
}

void CrashWatch::Run() {
  TellNow();
  board_.AddLayer(*this);
  timer_ = board_.timers().CreateTimer([this] { Look(); });
  seen_100ns_ = board_.clock().Now100ns();
  Look();
}

void CrashWatch::Look() {
  const uint64_t now = board_.clock().Now100ns();
  if (const uint64_t activity = this->activity(); activity != seen_activity_) {
    seen_activity_ = activity;
    seen_100ns_ = now;
  } else if (now - seen_100ns_ >= silence_100ns_) {
    return on_silence_();
  }
  timer_->Arm(std::min(seen_100ns_ + silence_100ns_, now + silence_100ns_ / 8));
}

void CrashWatch::OnPortRead(backend::Vp& vp, uint16_t port, absl::Span<uint8_t> data) {
  if (!IsKeyboard(port)) Count();
  next().OnPortRead(vp, port, data);
}

void CrashWatch::OnPortWrite(backend::Vp& vp, uint16_t port, absl::Span<const uint8_t> data) {
  if (!IsKeyboard(port)) Count();
  next().OnPortWrite(vp, port, data);
}

void CrashWatch::OnMmioRead(backend::Vp& vp, uint64_t gpa, absl::Span<uint8_t> data) {
  Count();
  next().OnMmioRead(vp, gpa, data);
}

void CrashWatch::OnMmioWrite(backend::Vp& vp, uint64_t gpa, absl::Span<const uint8_t> data) {
  Count();
  next().OnMmioWrite(vp, gpa, data);
}

backend::MsrOutcome CrashWatch::OnMsrWrite(backend::Vp& vp, uint32_t msr, uint64_t value) {
  if (!IsTick(msr)) Count();
  return next().OnMsrWrite(vp, msr, value);
}

backend::HypercallOutcome CrashWatch::OnHypercall(backend::Vp& vp) {
  Count();
  return next().OnHypercall(vp);
}

}  // namespace hvsdk::machine
