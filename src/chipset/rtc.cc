// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/chipset/rtc.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace hvsdk::chipset {
namespace {

// Table 2 of the datasheet: where the date stands.
enum Index : uint8_t {
  kSeconds = 0,
  kSecondsAlarm = 1,
  kMinutes = 2,
  kMinutesAlarm = 3,
  kHours = 4,
  kHoursAlarm = 5,
  kDayOfWeek = 6,  // Sunday is 1
  kDayOfMonth = 7,
  kMonth = 8,
  kYear = 9,
  kA = 10,
  kB = 11,
  kC = 12,
  kD = 13,
};

constexpr uint8_t kUpdateInProgress = 0x80;  // register A
constexpr uint8_t kDividerMask = 0x70;
constexpr uint8_t kDivider32kHz = 0x20;
constexpr uint8_t kRateMask = 0x0F;

constexpr uint8_t kSet = 0x80;  // register B
constexpr uint8_t kEnableMask = 0x70;
constexpr uint8_t kUpdateEnable = 0x10;
constexpr uint8_t kAlarmEnable = 0x20;
constexpr uint8_t kPeriodicEnable = 0x40;
constexpr uint8_t kBinary = 0x04;
constexpr uint8_t k24Hours = 0x02;

constexpr uint8_t kIrqFlag = 0x80;  // register C
constexpr uint8_t kPeriodicFlag = 0x40;
constexpr uint8_t kAlarmFlag = 0x20;
constexpr uint8_t kUpdateFlag = 0x10;

constexpr uint8_t kValid = 0x80;  // register D: never without power
constexpr uint8_t kPm = 0x80;     // hours, in 12-hour mode
constexpr uint8_t kAlarmDontCare = 0xC0;

constexpr int64_t kNsPerSecond = 1'000'000'000;
constexpr int64_t kSecondsPerDay = 86400;
// Register A's bit announces an update 244 us before it begins.
constexpr int64_t kUpdateNoticeNs = 244'000;

int64_t FloorDiv(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

bool IsDateIndex(uint8_t index) {
  return index == Rtc::kCenturyIndex ||
         (index <= kYear && index != kSecondsAlarm && index != kMinutesAlarm && index != kHoursAlarm);
}

struct RtcState {
  static constexpr uint32_t kSchema = 1;
  uint8_t index = 0;
  std::array<uint8_t, 128> cmos{};
  int64_t offset_ns = 0;    // of the guest's date from civil time
  int64_t advanced_ns = 0;  // the guest's time up to which flags have been set

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "index", index);
    visit(2, "cmos", cmos);
    visit(3, "offset_ns", offset_ns);
    visit(4, "advanced_ns", advanced_ns);
  }
};

// Nanoseconds in 64 bits reach some 292 years to either side of 1970, and the host's clock is added to these.
constexpr int64_t kFarthestSecond = 7'000'000'000;

}  // namespace

absl::Status Rtc::Save(state::StateWriter& writer) const {
  std::lock_guard lock(mutex_);
  RtcState state{.index = index_, .cmos = cmos_, .offset_ns = offset_ns_, .advanced_ns = advanced_ns_};
  writer.Write(state);
  return absl::OkStatus();
}

// What should have happened since it was saved, an alarm for one, happens now: civil time has gone on.
absl::Status Rtc::Restore(state::StateReader& reader) {
  RtcState state;
  if (absl::Status status = reader.Read(state); !status.ok()) return status;
  // The farthest date, seen from any time of the host's: sums with the host's clock stay within 64 bits.
  constexpr int64_t kFarthestNs = kFarthestSecond * kNsPerSecond, kBackNs = -9'000'000'000 * kNsPerSecond;
  if (state.index >= state.cmos.size()) return reader.Invalid("index", "beyond the memory");
  if (state.offset_ns > kFarthestNs || state.offset_ns < kBackNs) return reader.Invalid("offset_ns", "too far");
  if (state.advanced_ns > -kBackNs || state.advanced_ns < kBackNs) return reader.Invalid("advanced_ns", "too far");
  std::lock_guard lock(mutex_);
  index_ = state.index;
  cmos_ = state.cmos;
  offset_ns_ = state.offset_ns;
  advanced_ns_ = state.advanced_ns;
  irq_.Adopt((cmos_[kC] & kIrqFlag) != 0);
  ArmTimer();
  return absl::OkStatus();
}

void Rtc::Reset() {
  std::lock_guard lock(mutex_);
  SetPowerOn();
}

// Its memory has a battery on a PC; a machine that begins anew here is one of a series that are alike.
void Rtc::SetPowerOn() {
  index_ = 0;
  cmos_ = {};
  cmos_[kA] = kDivider32kHz | 0x06;  // 1024 Hz
  cmos_[kB] = k24Hours;
  cmos_[kD] = kValid;
  offset_ns_ = 0;
  advanced_ns_ = GuestNs();
  irq_.Adopt(false);
  if (timer_ != nullptr) timer_->Cancel();
}

Rtc::Rtc(const WallClock& wall_clock, const Clock& clock, TimerQueue& timers, absl::AnyInvocable<void(bool level)> irq)
    : wall_clock_(wall_clock), clock_(clock), irq_(std::move(irq)) {
  SetPowerOn();
  timer_ = timers.CreateTimer([this] { OnTimer(); });
}

Rtc::~Rtc() = default;

// Table 5: the rates of a 32.768 kHz time base.
int64_t Rtc::PeriodNs() const {
  unsigned rate = cmos_[kA] & kRateMask;
  if (rate == 0 || (cmos_[kA] & kDividerMask) != kDivider32kHz) return 0;
  if (rate <= 2) rate += 7;
  return (int64_t{1} << (rate - 1)) * kNsPerSecond / 32768;
}

uint8_t Rtc::Encode(unsigned value) const {
  return static_cast<uint8_t>((cmos_[kB] & kBinary) ? value : value / 10 * 16 + value % 10);
}

unsigned Rtc::Decode(uint8_t value) const {
  return (cmos_[kB] & kBinary) ? value : (value >> 4) * 10u + (value & 0x0F);
}

uint8_t Rtc::EncodeHour(unsigned hour) const {
  if (cmos_[kB] & k24Hours) return Encode(hour);
  return Encode((hour + 11) % 12 + 1) | (hour >= 12 ? kPm : 0);
}

unsigned Rtc::DecodeHour(uint8_t value) const {
  if (cmos_[kB] & k24Hours) return Decode(value);
  return Decode(value & ~kPm) % 12 + ((value & kPm) ? 12 : 0);
}

void Rtc::LoadDate() {
  if (cmos_[kB] & kSet) return;  // the guest is setting the clock
  const int64_t now = FloorDiv(GuestNs(), kNsPerSecond);
  const int64_t day = FloorDiv(now, kSecondsPerDay);
  const int64_t of_day = now - day * kSecondsPerDay;
  const std::chrono::sys_days midnight{std::chrono::days{day}};
  const std::chrono::year_month_day date{midnight};
  const int year = std::clamp(static_cast<int>(date.year()), 0, 9999);
  cmos_[kSeconds] = Encode(of_day % 60);
  cmos_[kMinutes] = Encode(of_day / 60 % 60);
  cmos_[kHours] = EncodeHour(of_day / 3600);
  cmos_[kDayOfWeek] = static_cast<uint8_t>(std::chrono::weekday{midnight}.c_encoding() + 1);
  cmos_[kDayOfMonth] = Encode(static_cast<unsigned>(date.day()));
  cmos_[kMonth] = Encode(static_cast<unsigned>(date.month()));
  cmos_[kYear] = Encode(year % 100);
  cmos_[kCenturyIndex] = Encode(year / 100);
}

// Any bytes make a date: what is out of range carries over, so nonsense from the guest is a wrong date and no more.
void Rtc::StoreDate() {
  using std::chrono::months, std::chrono::days, std::chrono::sys_days;
  const int year = static_cast<int>(Decode(cmos_[kCenturyIndex]) * 100 + Decode(cmos_[kYear]));
  const auto month =
      std::chrono::year{year} / std::chrono::January + months{static_cast<int>(Decode(cmos_[kMonth])) - 1};
  const sys_days midnight = sys_days{month / 1} + days{static_cast<int>(Decode(cmos_[kDayOfMonth])) - 1};
  const int64_t wanted = midnight.time_since_epoch().count() * kSecondsPerDay + DecodeHour(cmos_[kHours]) * 3600 +
                         Decode(cmos_[kMinutes]) * 60 + Decode(cmos_[kSeconds]);
  const int64_t second = std::clamp(wanted, -kFarthestSecond, kFarthestSecond);
  offset_ns_ = second * kNsPerSecond - wall_clock_.NowNs();
  advanced_ns_ = GuestNs();
}

bool Rtc::AlarmMatches(int64_t second) const {
  const int64_t of_day = second - FloorDiv(second, kSecondsPerDay) * kSecondsPerDay;
  const auto matches = [&](uint8_t alarm, unsigned now, unsigned wanted) {
    return (alarm & kAlarmDontCare) == kAlarmDontCare || now == wanted;
  };
  const uint8_t hour = cmos_[kHoursAlarm];
  return matches(cmos_[kSecondsAlarm], of_day % 60, Decode(cmos_[kSecondsAlarm])) &&
         matches(cmos_[kMinutesAlarm], of_day / 60 % 60, Decode(cmos_[kMinutesAlarm])) &&
         matches(hour, static_cast<unsigned>(of_day / 3600), DecodeHour(hour));
}

void Rtc::Advance() {
  if (cmos_[kB] & kSet) return;
  const int64_t now_ns = GuestNs();
  const int64_t last_ns = std::exchange(advanced_ns_, now_ns);
  if (now_ns <= last_ns) return;  // the host's clock was set back
  const int64_t last_second = FloorDiv(last_ns, kNsPerSecond);
  const int64_t now_second = FloorDiv(now_ns, kNsPerSecond);
  if (now_second != last_second) {
    cmos_[kC] |= kUpdateFlag;
    // After a day every second of the day has been.
    const int64_t seconds = std::min(now_second - last_second, kSecondsPerDay);
    for (int64_t second = now_second; (cmos_[kC] & kAlarmFlag) == 0 && second > now_second - seconds; --second) {
      if (AlarmMatches(second)) cmos_[kC] |= kAlarmFlag;
    }
  }
  const int64_t period = PeriodNs();
  if (period != 0 && FloorDiv(now_ns, period) != FloorDiv(last_ns, period)) cmos_[kC] |= kPeriodicFlag;
}

bool Rtc::UpdateLine() {
  // The enable bits of B stand where the flags of C do.
  const bool request = (cmos_[kC] & cmos_[kB] & kEnableMask) != 0;
  cmos_[kC] = static_cast<uint8_t>((cmos_[kC] & kEnableMask) | (request ? kIrqFlag : 0));
  return irq_.Want(request);
}

void Rtc::ArmTimer() {
  const uint8_t enabled = cmos_[kB] & kEnableMask & ~cmos_[kC];
  const int64_t now_ns = GuestNs();
  int64_t next_ns = INT64_MAX;
  if ((enabled & (kUpdateEnable | kAlarmEnable)) && !(cmos_[kB] & kSet)) {
    next_ns = (FloorDiv(now_ns, kNsPerSecond) + 1) * kNsPerSecond;
  }
  if (const int64_t period = PeriodNs(); (enabled & kPeriodicEnable) && period != 0) {
    next_ns = std::min(next_ns, (FloorDiv(now_ns, period) + 1) * period);
  }
  if (next_ns == INT64_MAX) {
    timer_->Cancel();
  } else {
    timer_->Arm(clock_.Now100ns() + static_cast<uint64_t>((next_ns - now_ns) / 100) + 1);
  }
}

void Rtc::OnTimer() {
  bool drive;
  {
    std::lock_guard lock(mutex_);
    Advance();
    drive = UpdateLine();
    ArmTimer();
  }
  if (drive) irq_.Drive();
}

uint8_t Rtc::ReadRegister() {
  if (IsDateIndex(index_)) LoadDate();
  uint8_t value = cmos_[index_];
  switch (index_) {
    case kA: {
      const int64_t now_ns = GuestNs();
      const int64_t of_second = now_ns - FloorDiv(now_ns, kNsPerSecond) * kNsPerSecond;
      if (!(cmos_[kB] & kSet) && of_second >= kNsPerSecond - kUpdateNoticeNs) value |= kUpdateInProgress;
      break;
    }
    case kC:
      Advance();
      (void)UpdateLine();
      value = std::exchange(cmos_[kC], 0);
      ArmTimer();
      break;
  }
  return value;
}

void Rtc::WriteRegister(uint8_t value) {
  switch (index_) {
    case kA:
      Advance();
      cmos_[kA] = value & ~kUpdateInProgress;
      ArmTimer();
      return;
    case kB: {
      Advance();
      LoadDate();  // what stands still from now on, if SET is set
      const bool was_set = (cmos_[kB] & kSet) != 0;
      cmos_[kB] = (value & kSet) ? value & ~kUpdateEnable : value;  // SET clears UIE
      if (was_set && !(value & kSet)) StoreDate();
      ArmTimer();
      return;
    }
    case kC:
    case kD:
      return;  // read-only
  }
  if (!IsDateIndex(index_)) {
    cmos_[index_] = value;
    return;
  }
  LoadDate();
  cmos_[index_] = value;
  if (!(cmos_[kB] & kSet)) StoreDate();
}

uint8_t Rtc::ReadByte(uint64_t offset) {
  uint8_t value;
  bool drive;
  {
    std::lock_guard lock(mutex_);
    value = offset == 0 ? index_ : ReadRegister();
    drive = UpdateLine();
  }
  if (drive) irq_.Drive();
  return value;
}

void Rtc::WriteByte(uint64_t offset, uint8_t value) {
  bool drive;
  {
    std::lock_guard lock(mutex_);
    if (offset == 0) {
      index_ = value & 0x7F;  // bit 7 masks NMI, which nothing here raises
    } else {
      WriteRegister(value);
    }
    drive = UpdateLine();
  }
  if (drive) irq_.Drive();
}

}  // namespace hvsdk::chipset
