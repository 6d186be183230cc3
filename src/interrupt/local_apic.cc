// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/interrupt/local_apic.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_format.h"

namespace hvsdk::interrupt {
namespace {

// Registers by x2APIC number; the xAPIC page has them at 16 times that (SDM volume 3, table 11-6).
constexpr uint32_t kRegId = 0x02, kRegVersion = 0x03, kRegTpr = 0x08, kRegApr = 0x09, kRegPpr = 0x0A, kRegEoi = 0x0B,
                   kRegLdr = 0x0D, kRegDfr = 0x0E, kRegSpurious = 0x0F, kRegIsr = 0x10, kRegTmr = 0x18, kRegIrr = 0x20,
                   kRegEsr = 0x28, kRegIcrLow = 0x30, kRegIcrHigh = 0x31, kRegLvtTimer = 0x32, kRegLvtError = 0x37,
                   kRegInitialCount = 0x38, kRegCurrentCount = 0x39, kRegDivide = 0x3E, kRegSelfIpi = 0x3F;

constexpr uint32_t kLvtMasked = 1 << 16, kLvtMode = 7 << 8, kLvtExtInt = 7 << 8;
constexpr uint32_t kTimerModeMask = 3 << 17, kTimerPeriodic = 1 << 17, kTimerTscDeadline = 2 << 17;
constexpr uint32_t kSpuriousEnable = 1 << 8;
constexpr uint32_t kErrorSendIllegalVector = 1 << 5, kErrorReceiveIllegalVector = 1 << 6,
                   kErrorIllegalRegister = 1 << 7;

constexpr uint32_t kMsrX2apicFirst = 0x800, kMsrX2apicLast = 0x83F, kMsrTscDeadline = 0x6E0;

// Hundreds of nanoseconds a second.
constexpr uint64_t kReferenceHz = 10'000'000;

// A guest may ask for a period of one tick. The host's timer thread would do nothing else, so periods end here, as
// in KVM.
constexpr uint64_t kMinimumPeriod100ns = 2'000;

uint64_t MulDiv(uint64_t value, uint64_t numerator, uint64_t denominator) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(value) * numerator / denominator);
}

// The writable bits of each local vector table entry (SDM volume 3, figure 11-8).
constexpr uint32_t kLvtWritable[] = {0x700FF, 0x107FF, 0x107FF, 0x1A7FF, 0x1A7FF, 0x100FF};

}  // namespace

LocalApic::LocalApic(const Config& config, ApicBus& bus, LocalApicHost& host, const Clock& clock, TimerQueue& timers)
    : config_(config),
      bus_(bus),
      host_(host),
      clock_(clock),
      base_(0xFEE00000 | kBaseEnable | (config.bootstrap ? kBaseBootstrap : 0)),
      tsc_frequency_hz_(config.tsc_frequency_hz) {
  timer_ = timers.CreateTimer([this] { OnTimer(); });
  Reset(/*init=*/false);
  bus.Attach(this);
}

void LocalApic::Reset(bool init) {
  if (!init) base_ = 0xFEE00000 | kBaseEnable | (config_.bootstrap ? kBaseBootstrap : 0);
  for (int i = 0; i < 4; ++i) irr_[i] = isr_[i] = tmr_[i] = auto_eoi_[i] = 0;
  for (auto& entry : lvt_) entry = kLvtMasked;
  if (config_.virtual_wire) lvt_[kLvtLint0] = kLvtExtInt;
  spurious_ = 0xFF;
  ldr_ = 0;
  dfr_ = 0xFFFFFFFF;
  tpr_ = 0;
  ppr_ = 0;
  errors_ = 0;
  esr_ = 0;
  icr_ = 0;
  if (!init) signals_ = 0;
  std::lock_guard lock(timer_mutex_);
  divide_ = initial_count_ = start_count_ = 0;
  counting_ = false;
  next_100ns_ = tsc_deadline_ = 0;
  timer_->Cancel();
}

bool LocalApic::TestBit(const Bits& bits, int vector) {
  return bits[vector / 64].load(std::memory_order_relaxed) >> (vector % 64) & 1;
}
void LocalApic::SetBit(Bits& bits, int vector) {
  bits[vector / 64].fetch_or(uint64_t{1} << (vector % 64), std::memory_order_release);
}
void LocalApic::ClearBit(Bits& bits, int vector) {
  bits[vector / 64].fetch_and(~(uint64_t{1} << (vector % 64)), std::memory_order_acquire);
}
int LocalApic::HighestBit(const Bits& bits) {
  for (int i = 3; i >= 0; --i) {
    // Acquire pairs with SetBit's release: who sees the interrupt sees what its sender wrote before.
    const uint64_t word = bits[i].load(std::memory_order_acquire);
    if (word != 0) return i * 64 + 63 - std::countl_zero(word);
  }
  return -1;
}
uint32_t LocalApic::Word(const Bits& bits, uint32_t index) {
  return static_cast<uint32_t>(bits[index / 2].load(std::memory_order_relaxed) >> (index % 2 * 32));
}

bool LocalApic::accepts_fixed() const {
  return enabled() && (spurious_.load(std::memory_order_relaxed) & kSpuriousEnable) != 0;
}

bool LocalApic::accepts_extint() const {
  return !enabled() || (lvt_[kLvtLint0].load(std::memory_order_relaxed) & (kLvtMasked | kLvtMode)) == kLvtExtInt;
}

bool LocalApic::Accept(const InterruptMessage& message) {
  if (!enabled()) return false;
  switch (message.mode) {
    case DeliveryMode::kFixed:
    case DeliveryMode::kLowestPriority:
      if (!accepts_fixed()) return false;
      if (message.vector < 16) {
        RaiseError(kErrorReceiveIllegalVector);
        return true;
      }
      // The flags of a vector are in place before it shows in the IRR, whose release publishes them.
      message.level ? SetBit(tmr_, message.vector) : ClearBit(tmr_, message.vector);
      message.auto_eoi ? SetBit(auto_eoi_, message.vector) : ClearBit(auto_eoi_, message.vector);
      SetBit(irr_, message.vector);
      break;
    case DeliveryMode::kNmi:
      signals_.fetch_or(kNmi, std::memory_order_release);
      break;
    case DeliveryMode::kInit:
      // A SIPI that came before INIT no longer counts.
      signals_.fetch_and(~uint32_t{kSipi}, std::memory_order_relaxed);
      signals_.fetch_or(kInit, std::memory_order_release);
      break;
    case DeliveryMode::kStartUp:
      sipi_vector_.store(message.vector, std::memory_order_relaxed);
      signals_.fetch_or(kSipi, std::memory_order_release);
      break;
    case DeliveryMode::kSmi:
    case DeliveryMode::kExtInt:
      return true;  // no system management mode; 8259s are wired to LINT0 alone
    default:
      return true;
  }
  host_.OnApicWork();
  return true;
}

bool LocalApic::IsAddressed(uint32_t destination, bool logical, bool narrow) const {
  if (destination == (narrow ? 0xFFu : 0xFFFFFFFFu)) return true;
  if (!logical) return destination == config_.id;
  if (x2apic()) {
    const uint32_t ldr = (config_.id >> 4) << 16 | 1u << (config_.id & 0xF);
    return (destination >> 16) == (ldr >> 16) && (destination & ldr & 0xFFFF) != 0;
  }
  if (destination > 0xFF) return false;
  const uint32_t ldr = ldr_.load(std::memory_order_relaxed) >> 24;
  if (dfr_.load(std::memory_order_relaxed) >> 28 == 0xF) return (destination & ldr) != 0;
  return (destination >> 4 == ldr >> 4 || destination >> 4 == 0xF) && (destination & ldr & 0xF) != 0;
}

int LocalApic::PendingVector() const {
  const int vector = HighestBit(irr_);
  return vector >= 0 && vector >> 4 > ppr_.load(std::memory_order_relaxed) >> 4 ? vector : -1;
}

int LocalApic::Acknowledge() {
  const int vector = PendingVector();
  if (vector < 0) return -1;
  ClearBit(irr_, vector);
  if (!TestBit(auto_eoi_, vector)) {
    SetBit(isr_, vector);
    UpdatePpr();
  }
  return vector;
}

void LocalApic::UpdatePpr() {
  const int in_service = std::max(HighestBit(isr_), 0);
  const uint8_t tpr = tpr_.load(std::memory_order_relaxed);
  const uint8_t ppr = tpr >> 4 >= in_service >> 4 ? tpr : static_cast<uint8_t>(in_service & 0xF0);
  const bool lowered = ppr < ppr_.load(std::memory_order_relaxed);
  ppr_.store(ppr, std::memory_order_relaxed);
  if (lowered && PendingVector() >= 0) host_.OnApicWork();
}

void LocalApic::SetTpr(uint8_t value) {
  tpr_.store(value, std::memory_order_relaxed);
  UpdatePpr();
}

void LocalApic::Eoi() {
  const int vector = HighestBit(isr_);
  if (vector < 0) return;
  ClearBit(isr_, vector);
  const bool level = TestBit(tmr_, vector);
  UpdatePpr();
  if (level) bus_.BroadcastEoi(static_cast<uint8_t>(vector));
}

void LocalApic::RaiseError(uint32_t bit) {
  errors_.fetch_or(bit, std::memory_order_relaxed);
  const uint32_t entry = lvt_[kLvtError].load(std::memory_order_relaxed);
  // An error vector that is itself illegal must not raise another error without end.
  if ((entry & 0xFF) >= 16) TriggerLvt(kLvtError);
}

void LocalApic::Trigger(LvtIndex index, uint32_t entry) {
  if (entry & kLvtMasked) return;
  const bool fixed_only = index == kLvtTimer || index == kLvtError;
  Accept({.mode = fixed_only ? DeliveryMode::kFixed : static_cast<DeliveryMode>((entry >> 8) & 7),
          .vector = static_cast<uint8_t>(entry)});
}

bool LocalApic::WriteIcr(uint64_t value) {
  constexpr uint64_t kDeliveryStatus = 1 << 12, kAssert = 1 << 14, kLevel = 1 << 15;
  constexpr uint64_t kX2apicReserved = 0xFFF32000;
  if (x2apic() && (value & kX2apicReserved) != 0) return false;
  icr_ = value & ~kDeliveryStatus;
  const InterruptMessage message{.destination = static_cast<uint32_t>(x2apic() ? value >> 32 : value >> 56),
                                 .logical = (value & 1 << 11) != 0,
                                 .narrow = !x2apic(),
                                 .mode = static_cast<DeliveryMode>((value >> 8) & 7),
                                 .level = false,  // processors have had edge-triggered IPIs only since the Pentium 4
                                 .vector = static_cast<uint8_t>(value)};
  // INIT level de-assert is a synchronisation of arbitration ids that no longer exist.
  if (message.mode == DeliveryMode::kInit && (value & kLevel) != 0 && (value & kAssert) == 0) return true;
  const bool fixed = message.mode == DeliveryMode::kFixed || message.mode == DeliveryMode::kLowestPriority;
  if (fixed && message.vector < 16) {
    RaiseError(kErrorSendIllegalVector);
    return true;
  }
  switch (value >> 18 & 3) {
    case 0:
      bus_.Deliver(message);
      break;
    case 1:
      if (fixed) Accept(message);
      break;
    case 2:
      bus_.DeliverToAll(message, nullptr);
      break;
    case 3:
      bus_.DeliverToAll(message, this);
      break;
  }
  return true;
}

bool LocalApic::WriteBase(uint64_t value) {
  const uint64_t reserved =
      ~((uint64_t{1} << config_.physical_address_bits) - 1) | 0x2FF | (config_.x2apic ? 0 : kBaseX2apic);
  if ((value & reserved) != 0) return false;
  const bool enable = value & kBaseEnable, extended = value & kBaseX2apic;
  if (extended && !enable) return false;
  if (extended && !enabled()) return false;           // x2APIC mode is entered from xAPIC mode only
  if (x2apic() && enable && !extended) return false;  // and left through disabled only
  const bool disables = enabled() && !enable;
  base_ = value;
  if (disables) Reset(/*init=*/true);
  return true;
}

int LocalApic::LvtOf(uint32_t reg) {
  return reg >= kRegLvtTimer && reg <= kRegLvtError ? static_cast<int>(reg - kRegLvtTimer) : -1;
}

uint32_t LocalApic::ReadRegister(uint32_t reg, bool& known) {
  known = true;
  if (const int lvt = LvtOf(reg); lvt >= 0) return lvt_[lvt].load(std::memory_order_relaxed);
  if (reg >= kRegIsr && reg < kRegTmr) return Word(isr_, reg - kRegIsr);
  if (reg >= kRegTmr && reg < kRegIrr) return Word(tmr_, reg - kRegTmr);
  if (reg >= kRegIrr && reg < kRegEsr) return Word(irr_, reg - kRegIrr);
  switch (reg) {
    case kRegId:
      return x2apic() ? config_.id : config_.id << 24;
    case kRegVersion:
      return 0x14 | (kLvtCount - 1) << 16;
    case kRegTpr:
      return tpr();
    case kRegPpr:
      return processor_priority();
    case kRegLdr:
      return x2apic() ? (config_.id >> 4) << 16 | 1u << (config_.id & 0xF) : ldr_.load(std::memory_order_relaxed);
    case kRegSpurious:
      return spurious_.load(std::memory_order_relaxed);
    case kRegEsr:
      return esr_;
    case kRegIcrLow:
      return static_cast<uint32_t>(icr_);
    case kRegInitialCount: {
      std::lock_guard lock(timer_mutex_);
      return initial_count_;
    }
    case kRegCurrentCount: {
      std::lock_guard lock(timer_mutex_);
      return CountNow();
    }
    case kRegDivide: {
      std::lock_guard lock(timer_mutex_);
      return divide_;
    }
  }
  if (!x2apic()) {
    switch (reg) {
      case kRegApr:
        return 0;
      case kRegDfr:
        return dfr_.load(std::memory_order_relaxed);
      case kRegIcrHigh:
        return static_cast<uint32_t>(icr_ >> 32);
    }
  }
  known = false;
  return 0;
}

bool LocalApic::WriteRegister(uint32_t reg, uint32_t value) {
  if (const int lvt = LvtOf(reg); lvt >= 0) {
    const uint32_t writable = kLvtWritable[lvt] & ~(config_.tsc_deadline ? 0 : kTimerTscDeadline);
    if (x2apic() && (value & ~(writable | 1 << 12 | 1 << 14)) != 0) return false;
    uint32_t stored = value & writable;
    // While the APIC is disabled by software its entries stay masked (SDM volume 3, 11.4.7.2).
    if ((spurious_.load(std::memory_order_relaxed) & kSpuriousEnable) == 0) stored |= kLvtMasked;
    if (lvt != kLvtTimer) {
      lvt_[lvt].store(stored, std::memory_order_relaxed);
      return true;
    }
    bool expired;
    const uint32_t before = lvt_[lvt].load(std::memory_order_relaxed);
    {
      std::lock_guard lock(timer_mutex_);
      expired = ExpireTimer();  // by the rules of before
      lvt_[lvt].store(stored, std::memory_order_relaxed);
      // Between one-shot and periodic a count under way goes on, and one that has ended stays so (SDM volume 3, 11.5.4).
      if (((before ^ stored) & kTimerTscDeadline) != 0) {
        counting_ = false;
        initial_count_ = 0;
        next_100ns_ = tsc_deadline_ = 0;
      }
      RearmTimer();
    }
    if (expired) Trigger(kLvtTimer, before);
    return true;
  }
  switch (reg) {
    case kRegTpr:
      if (x2apic() && value > 0xFF) return false;
      SetTpr(static_cast<uint8_t>(value));
      return true;
    case kRegEoi:
      if (x2apic() && value != 0) return false;
      Eoi();
      return true;
    case kRegSpurious:
      if (x2apic() && (value & ~0x3FFu) != 0) return false;
      if ((spurious_.exchange(value & 0x3FF, std::memory_order_relaxed) & kSpuriousEnable) == 0) {
        if ((value & kSpuriousEnable) != 0) bus_.RetryHeld();
      }
      if ((value & kSpuriousEnable) == 0) {
        for (auto& entry : lvt_) entry.fetch_or(kLvtMasked, std::memory_order_relaxed);
      }
      return true;
    case kRegEsr:
      if (x2apic() && value != 0) return false;
      esr_ = errors_.exchange(0, std::memory_order_relaxed);
      return true;
    case kRegInitialCount:
    case kRegDivide: {
      if (reg == kRegDivide && x2apic() && (value & ~0xBu) != 0) return false;
      bool expired;
      {
        std::lock_guard lock(timer_mutex_);
        expired = ExpireTimer();
        if (reg == kRegDivide) {
          // What is left goes on at the new rate.
          start_count_ = CountNow();
          divide_ = value & 0xB;
        } else if ((lvt_[kLvtTimer].load(std::memory_order_relaxed) & kTimerModeMask) != kTimerTscDeadline) {
          initial_count_ = start_count_ = value;
          counting_ = value != 0;
        }
        if (counting_) {
          count_start_100ns_ = clock_.Now100ns();
          next_100ns_ = 0;
        }
        RearmTimer();
      }
      if (expired) TriggerLvt(kLvtTimer);
      return true;
    }
    case kRegSelfIpi:
      if (!x2apic() || value > 0xFF) return false;
      return WriteIcr(uint64_t{1} << 18 | value);
  }
  if (!x2apic()) {
    switch (reg) {
      case kRegLdr:
        ldr_.store(value & 0xFF000000, std::memory_order_relaxed);
        return true;
      case kRegDfr:
        dfr_.store(value | 0x0FFFFFFF, std::memory_order_relaxed);
        return true;
      case kRegIcrLow:
        return WriteIcr((icr_ & 0xFFFFFFFF00000000) | value);
      case kRegIcrHigh:
        icr_ = (icr_ & 0xFFFFFFFF) | static_cast<uint64_t>(value & 0xFF000000) << 32;
        return true;
      case kRegId:
        return true;  // read-only here, as on processors since the Xeon
    }
  }
  return false;
}

uint32_t LocalApic::ReadMmio(uint32_t offset) {
  if (offset % 16 != 0 || offset > 0x3F0 || x2apic() || !enabled()) return 0;
  bool known;
  const uint32_t value = ReadRegister(offset / 16, known);
  if (!known) RaiseError(kErrorIllegalRegister);
  return value;
}

void LocalApic::WriteMmio(uint32_t offset, uint32_t value) {
  if (offset % 16 != 0 || offset > 0x3F0 || x2apic() || !enabled()) return;
  if (!WriteRegister(offset / 16, value)) RaiseError(kErrorIllegalRegister);
}

bool LocalApic::ReadMsr(uint32_t msr, uint64_t& value) {
  if (msr == kMsrTscDeadline) {
    if (!config_.tsc_deadline) return false;
    std::lock_guard lock(timer_mutex_);
    value = tsc_deadline_;
    return true;
  }
  if (!x2apic() || msr < kMsrX2apicFirst || msr > kMsrX2apicLast) return false;
  const uint32_t reg = msr - kMsrX2apicFirst;
  if (reg == kRegIcrLow) {
    value = icr_;
    return true;
  }
  bool known;
  value = ReadRegister(reg, known);
  return known;
}

bool LocalApic::WriteMsr(uint32_t msr, uint64_t value) {
  if (msr == kMsrTscDeadline) {
    if (!config_.tsc_deadline) return false;
    bool expired;
    {
      std::lock_guard lock(timer_mutex_);
      if ((lvt_[kLvtTimer].load(std::memory_order_relaxed) & kTimerModeMask) != kTimerTscDeadline) return true;
      expired = ExpireTimer();
      tsc_deadline_ = value;
      RearmTimer();
      expired |= ExpireTimer();  // a deadline that has passed does not wait for another thread
    }
    if (expired) TriggerLvt(kLvtTimer);
    return true;
  }
  if (!x2apic() || msr < kMsrX2apicFirst || msr > kMsrX2apicLast) return false;
  const uint32_t reg = msr - kMsrX2apicFirst;
  if (reg == kRegIcrLow) return WriteIcr(value);
  if (value >> 32 != 0) return false;
  return WriteRegister(reg, static_cast<uint32_t>(value));
}

uint32_t LocalApic::divisor() const {
  const uint32_t code = (divide_ & 3) | (divide_ & 8) >> 1;
  return code == 7 ? 1 : 2u << code;
}

uint64_t LocalApic::TicksTo100ns(uint64_t ticks) const {
  return MulDiv(ticks * divisor(), kReferenceHz, config_.timer_frequency_hz);
}

uint64_t LocalApic::DeadlineFor(uint64_t tsc_deadline) {
  const uint64_t now_tsc = host_.ReadTsc();
  const uint64_t now = clock_.Now100ns();
  if (tsc_deadline <= now_tsc) return now;
  // Rounded up, for an interrupt that comes before its deadline looks to a guest like a broken clock.
  const unsigned __int128 wait =
      (static_cast<unsigned __int128>(tsc_deadline - now_tsc) * kReferenceHz) / tsc_frequency_hz_ + 1;
  constexpr uint64_t kFar = uint64_t{1} << 62;
  return wait > kFar ? kFar : now + static_cast<uint64_t>(wait);
}

// Arm never calls back from within, so the timer may be set under the lock, and must be: set after the lock is gone, an older deadline
// could overtake a newer one.
void LocalApic::RearmTimer() {
  const uint32_t mode = lvt_[kLvtTimer].load(std::memory_order_relaxed) & kTimerModeMask;
  if (mode == kTimerTscDeadline) {
    next_100ns_ = tsc_deadline_ == 0 ? 0 : std::max<uint64_t>(DeadlineFor(tsc_deadline_), 1);
  } else if (!counting_) {
    next_100ns_ = 0;
  } else if (next_100ns_ == 0) {
    uint64_t period = TicksTo100ns(start_count_);
    if (mode == kTimerPeriodic) period = std::max(period, kMinimumPeriod100ns);
    next_100ns_ = count_start_100ns_ + period;
  }
  if (next_100ns_ == 0) {
    timer_->Cancel();
  } else {
    timer_->Arm(next_100ns_);
  }
}

bool LocalApic::ExpireTimer() {
  if (next_100ns_ == 0) return false;
  const uint32_t mode = lvt_[kLvtTimer].load(std::memory_order_relaxed) & kTimerModeMask;
  if (mode == kTimerTscDeadline) {
    if (host_.ReadTsc() < tsc_deadline_) return false;
    next_100ns_ = tsc_deadline_ = 0;
  } else {
    const uint64_t now = clock_.Now100ns();
    if (now < next_100ns_) return false;
    if (mode == kTimerPeriodic) {
      // Periods that passed while nobody looked give one interrupt, as the IRR holds no more.
      const uint64_t period = std::max(TicksTo100ns(initial_count_), kMinimumPeriod100ns);
      count_start_100ns_ = next_100ns_ + (now - next_100ns_) / period * period;
      start_count_ = initial_count_;
      next_100ns_ = count_start_100ns_ + period;
    } else {
      next_100ns_ = 0;
      counting_ = false;
    }
  }
  return true;
}

void LocalApic::OnTimer() {
  bool expired;
  {
    std::lock_guard lock(timer_mutex_);
    expired = ExpireTimer();
    if (next_100ns_ != 0) RearmTimer();
  }
  if (expired) TriggerLvt(kLvtTimer);
}

void LocalApic::OnTscChanged() {
  bool expired;
  {
    std::lock_guard lock(timer_mutex_);
    if (tsc_deadline_ == 0) return;
    RearmTimer();
    expired = ExpireTimer();
  }
  if (expired) TriggerLvt(kLvtTimer);
}

uint32_t LocalApic::CountNow() const {
  if (!counting_) return 0;
  const uint64_t elapsed =
      MulDiv(clock_.Now100ns() - count_start_100ns_, config_.timer_frequency_hz, kReferenceHz) / divisor();
  if (elapsed < start_count_) return static_cast<uint32_t>(start_count_ - elapsed);
  if ((lvt_[kLvtTimer].load(std::memory_order_relaxed) & kTimerModeMask) != kTimerPeriodic) return 0;
  return static_cast<uint32_t>(initial_count_ - (elapsed - start_count_) % initial_count_);
}

// ---- state ----

namespace {

uint32_t PageWord(const LocalApicState& state, uint32_t reg) {
  uint32_t value;
  std::memcpy(&value, state.page.data() + 16 * reg, sizeof(value));
  return value;
}
void SetPageWord(LocalApicState& state, uint32_t reg, uint32_t value) {
  std::memcpy(state.page.data() + 16 * reg, &value, sizeof(value));
}

}  // namespace

void LocalApic::SetTscFrequency(uint64_t hz) {
  std::lock_guard lock(timer_mutex_);
  tsc_frequency_hz_ = hz;
}

LocalApicState LocalApic::Save() {
  // What is due and was not noticed by the timer's thread is an interrupt that waits.
  bool expired;
  {
    std::lock_guard lock(timer_mutex_);
    expired = ExpireTimer();
    if (next_100ns_ != 0) RearmTimer();
  }
  if (expired) TriggerLvt(kLvtTimer);
  LocalApicState state;
  for (uint32_t reg = 0; reg < state.page.size() / 16; ++reg) {
    bool known;
    const uint32_t value = ReadRegister(reg, known);
    if (known) SetPageWord(state, reg, value);
  }
  SetPageWord(state, kRegIcrHigh, static_cast<uint32_t>(icr_ >> 32));
  state.base = base();
  for (size_t i = 0; i < state.auto_eoi.size(); ++i) state.auto_eoi[i] = auto_eoi_[i] & irr_[i];
  state.signals = signals_;
  state.sipi_vector = static_cast<uint8_t>((state.signals & kSipi) != 0 ? sipi_vector() : 0);
  state.errors = errors_;
  std::lock_guard lock(timer_mutex_);
  state.tsc_deadline = tsc_deadline_;
  if (counting_) {
    const uint64_t now = clock_.Now100ns();
    state.start_count = start_count_;
    state.elapsed_100ns = now - count_start_100ns_;
    state.wait_100ns = next_100ns_ > now ? next_100ns_ - now : 0;
  }
  return state;
}

absl::Status LocalApic::Check(const LocalApicState& state) const {
  const uint64_t reserved =
      ~((uint64_t{1} << config_.physical_address_bits) - 1) | 0x2FF | (config_.x2apic ? 0 : kBaseX2apic);
  const bool enabled = (state.base & kBaseEnable) != 0, extended = (state.base & kBaseX2apic) != 0;
  if ((state.base & reserved) != 0 || (extended && !enabled)) {
    return absl::InvalidArgumentError(absl::StrFormat("IA32_APIC_BASE cannot be %#x", state.base));
  }
  const uint32_t id = extended ? config_.id : config_.id << 24;
  if (enabled && PageWord(state, kRegId) != id) {
    return absl::InvalidArgumentError(
        absl::StrFormat("apic: its id is %#x, this processor's %#x", PageWord(state, kRegId), id));
  }
  for (const uint32_t bits : {kRegIsr, kRegTmr, kRegIrr}) {
    if ((PageWord(state, bits) & 0xFFFF) != 0) {
      return absl::InvalidArgumentError(absl::StrFormat("apic: a vector below 16 at %#x", 16 * bits));
    }
  }
  if (PageWord(state, kRegCurrentCount) > PageWord(state, kRegInitialCount)) {
    return absl::InvalidArgumentError("apic: the timer's current count is above its initial one");
  }
  if (state.tsc_deadline != 0 && !config_.tsc_deadline) {
    return absl::InvalidArgumentError("tsc_deadline: this processor has no such timer");
  }
  return absl::OkStatus();
}

void LocalApic::Restore(const LocalApicState& state) {
  base_ = state.base;
  for (uint32_t i = 0; i < 4; ++i) {
    const auto wide = [&](uint32_t reg) {
      return PageWord(state, reg + 2 * i) | static_cast<uint64_t>(PageWord(state, reg + 2 * i + 1)) << 32;
    };
    isr_[i] = wide(kRegIsr);
    tmr_[i] = wide(kRegTmr);
    irr_[i] = wide(kRegIrr);
    auto_eoi_[i] = state.auto_eoi[i] & irr_[i];
  }
  for (uint32_t i = 0; i < kLvtCount; ++i) {
    lvt_[i] = PageWord(state, kRegLvtTimer + i) & kLvtWritable[i] & ~(config_.tsc_deadline ? 0 : kTimerTscDeadline);
  }
  spurious_ = PageWord(state, kRegSpurious) & 0x3FF;
  // x2APIC mode has neither, and is left by a reset.
  ldr_ = x2apic() ? 0 : PageWord(state, kRegLdr) & 0xFF000000;
  dfr_ = x2apic() ? 0xFFFFFFFF : PageWord(state, kRegDfr) | 0x0FFFFFFF;
  icr_ = PageWord(state, kRegIcrLow) | static_cast<uint64_t>(PageWord(state, kRegIcrHigh)) << 32;
  esr_ = PageWord(state, kRegEsr);
  errors_ = state.errors;
  sipi_vector_ = state.sipi_vector;
  signals_ = state.signals & (kNmi | kInit | kSipi);
  ppr_ = 0;
  SetTpr(static_cast<uint8_t>(PageWord(state, kRegTpr)));
  bool expired;
  {
    std::lock_guard lock(timer_mutex_);
    divide_ = PageWord(state, kRegDivide) & 0xB;
    initial_count_ = PageWord(state, kRegInitialCount);
    start_count_ = PageWord(state, kRegCurrentCount);
    const uint32_t mode = lvt_[kLvtTimer].load(std::memory_order_relaxed) & kTimerModeMask;
    tsc_deadline_ = mode == kTimerTscDeadline ? state.tsc_deadline : 0;
    const uint64_t now = clock_.Now100ns();
    next_100ns_ = 0;
    counting_ = false;
    if (mode != kTimerTscDeadline && (start_count_ != 0 || state.start_count != 0)) {
      counting_ = true;
      // The count's beginning, within a tick, if it makes the count what the page says. It may be before this clock's.
      const uint32_t wanted = start_count_;
      const uint64_t longest = TicksTo100ns(initial_count_) + kMinimumPeriod100ns;
      const bool possible = state.start_count != 0 && state.start_count <= initial_count_ &&
                            state.elapsed_100ns <= longest && state.wait_100ns <= longest;
      start_count_ = state.start_count;
      count_start_100ns_ = now - state.elapsed_100ns;
      next_100ns_ = now + state.wait_100ns;
      if (!possible || CountNow() != wanted) {
        counting_ = wanted != 0;
        start_count_ = wanted;
        count_start_100ns_ = now;
        next_100ns_ = 0;
      }
    }
    RearmTimer();
    expired = ExpireTimer();
    if (next_100ns_ != 0) RearmTimer();
  }
  if (expired) TriggerLvt(kLvtTimer);
  host_.OnApicWork();
}

}  // namespace hvsdk::interrupt
