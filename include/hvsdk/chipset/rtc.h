// SPDX-License-Identifier: Apache-2.0
// The real-time clock of a PC: an MC146818 with 128 bytes of memory.
//
// The date is the host's wall clock plus what the guest set it off by; it is computed when it is read, so a clock that
// nobody reads costs nothing. The interrupts (periodic, update-ended, alarm) take one timer while they are enabled.
//
// Thread-safe. Callbacks run with no lock held.
// Source: Motorola MC146818 datasheet (1984), "Registers"; the century at 0x32 is a convention of PCs, told to the
// guest by ACPI (FADT.CENTURY).
//
//   Rtc rtc(wall_clock, clock, timers, [&](bool level) { partition.SetIrqLine(8, level); });
//   const absl::Status status = ports.Map(0x70, Rtc::kPorts, &rtc);

#ifndef HVSDK_CHIPSET_RTC_H_
#define HVSDK_CHIPSET_RTC_H_

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>

#include "absl/functional/any_invocable.h"
#include "hvsdk/base/clock.h"
#include "hvsdk/base/device.h"
#include "hvsdk/interrupt/irq_line.h"
#include "hvsdk/resource/wall_clock.h"
#include "hvsdk/state/component.h"

namespace hvsdk::chipset {

class Rtc final : public ByteDevice, public state::Component {
 public:
  static constexpr uint64_t kPorts = 2;  // the index (0x70 on a PC) and the data
  static constexpr uint8_t kCenturyIndex = 0x32;

  // All outlive the device.
  Rtc(const WallClock& wall_clock, const Clock& clock, TimerQueue& timers, absl::AnyInvocable<void(bool level)> irq);
  ~Rtc() override;

  absl::string_view Name() const override { return "real-time clock"; }
  std::string StateName() const override { return "rtc"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

 protected:
  uint8_t ReadByte(uint64_t offset) override;
  void WriteByte(uint64_t offset, uint8_t value) override;

 private:
  void SetPowerOn();
  int64_t GuestNs() const { return wall_clock_.NowNs() + offset_ns_; }
  int64_t PeriodNs() const;
  uint8_t Encode(unsigned value) const;
  unsigned Decode(uint8_t value) const;
  uint8_t EncodeHour(unsigned hour) const;
  unsigned DecodeHour(uint8_t value) const;
  void LoadDate();
  void StoreDate();
  bool AlarmMatches(int64_t second) const;
  // Sets the flags of register C for what happened up to now.
  void Advance();
  bool UpdateLine();
  void ArmTimer();
  uint8_t ReadRegister();
  void WriteRegister(uint8_t value);
  void OnTimer();

  const WallClock& wall_clock_;
  const Clock& clock_;
  interrupt::IrqLine irq_;

  mutable std::mutex mutex_;  // guards what follows
  uint8_t index_ = 0;
  std::array<uint8_t, 128> cmos_{};
  int64_t offset_ns_ = 0;
  int64_t advanced_ns_ = 0;  // the guest's time of the last Advance

  std::unique_ptr<Timer> timer_;  // last: its destructor waits for a running callback
};

}  // namespace hvsdk::chipset

#endif  // HVSDK_CHIPSET_RTC_H_
