// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/chipset/power.h"

namespace hvsdk::chipset {
namespace {

// ACPI 6.4, tables 4.11 and 4.12: PM1 status and enable registers have an event's two bits in the same place.
constexpr uint16_t kGlobalLock = 1 << 5;  // released by firmware, which never holds it
constexpr uint16_t kPowerButton = 1 << 8;
constexpr uint16_t kRtc = 1 << 10;
constexpr uint16_t kEvents = kPowerButton | kRtc;
// Guests want to see that what they enabled is enabled.
constexpr uint16_t kEnableMask = kEvents | kGlobalLock;

// Table 4.13: the PM1 control register. Its high byte has the sleep control register's layout.
constexpr uint16_t kSciEnabled = 1 << 0;             // ACPI mode
constexpr uint16_t kControlMask = 1 << 1 | 7 << 10;  // bus master reload, sleep type

// Table 4.22: the sleep control register.
constexpr uint8_t kSleepEnable = 0x20;
constexpr unsigned kSleepTypeShift = 2;
constexpr uint8_t kSleepTypeMask = 0x07;

// Keyboard controller's commands.
constexpr uint16_t kOutputFull = 0x100;
constexpr uint8_t kStatusOutputFull = 0x01;
constexpr uint8_t kReadCommandByte = 0x20;
constexpr uint8_t kWriteCommandByte = 0x60;
constexpr uint8_t kTestAuxiliary = 0xA9;
constexpr uint8_t kSelfTest = 0xAA;
constexpr uint8_t kTestKeyboard = 0xAB;
constexpr uint8_t kReadOutputPort = 0xD0;
constexpr uint8_t kWriteOutputPort = 0xD1;
constexpr uint8_t kPulseOutputPort = 0xF0;  // low nibble: which lines to leave alone
constexpr uint8_t kSelfTestPassed = 0x55;
constexpr uint8_t kPortAbsent = 0x03;
constexpr uint8_t kNotReset = 0x01;  // output port: the processor's reset line, active low
constexpr uint8_t kA20 = 0x02;

// A byte of a 16-bit register.
constexpr uint8_t ByteOf(uint16_t value, uint64_t offset) { return static_cast<uint8_t>(value >> (8 * (offset & 1))); }
constexpr uint16_t Shifted(uint8_t byte, uint64_t offset) { return static_cast<uint16_t>(byte << (8 * (offset & 1))); }

}  // namespace

void AcpiPower::PressPowerButton() { Raise(kPowerButton); }

void AcpiPower::OnRtcAlarm() { Raise(kRtc); }

void AcpiPower::Raise(uint16_t event) {
  bool drive;
  {
    std::lock_guard lock(mutex_);
    status_ |= event;
    drive = UpdateSci();
  }
  if (drive) sci_.Drive();
}

bool AcpiPower::UpdateSci() { return sci_.Want((status_ & enable_ & kEvents) != 0); }

void AcpiPower::Sleep(uint8_t control) {
  const uint8_t type = (control >> kSleepTypeShift) & kSleepTypeMask;
  if ((control & kSleepEnable) && type == kSleepTypeOff) handler_.OnPowerOff();
}

uint8_t AcpiPower::ReadByte(uint64_t offset) {
  std::lock_guard lock(mutex_);
  switch (offset & ~uint64_t{1}) {
    case kPm1Event:
      return ByteOf(status_, offset);
    case kPm1Event + 2:
      return ByteOf(enable_, offset);
    case kPm1Control:
      return ByteOf(control_ | kSciEnabled, offset);
  }
  return 0;
}

void AcpiPower::WriteByte(uint64_t offset, uint8_t value) {
  switch (offset) {
    case kSleepControl:
    case kPm1Control + 1:
      Sleep(value);
      break;
    case kReset:
      if (value == kResetValue) handler_.OnReset();
      break;
  }
  bool drive;
  {
    std::lock_guard lock(mutex_);
    // What a write of one byte leaves of a register.
    const auto merge = [&](uint16_t old) { return (old & Shifted(0xFF, offset ^ 1)) | Shifted(value, offset); };
    switch (offset & ~uint64_t{1}) {
      case kPm1Event:  // ones clear
        status_ &= ~Shifted(value, offset);
        break;
      case kPm1Event + 2:
        enable_ = merge(enable_) & kEnableMask;
        break;
      case kPm1Control:
        control_ = merge(control_) & kControlMask;
        break;
    }
    drive = UpdateSci();
  }
  if (drive) sci_.Drive();
}

void KeyboardController::Answer(uint8_t value) { output_.store(kOutputFull | value, std::memory_order_relaxed); }

uint8_t KeyboardController::ReadByte(uint64_t offset) {
  if (offset == kCommand) {
    return (output_.load(std::memory_order_relaxed) & kOutputFull) ? kStatusOutputFull : 0;
  }
  if (offset != kData) return 0xFF;
  return static_cast<uint8_t>(output_.fetch_and(0xFF, std::memory_order_relaxed));
}

void KeyboardController::WriteByte(uint64_t offset, uint8_t value) {
  if (offset == kData) {
    const uint8_t command = awaited_.exchange(0, std::memory_order_relaxed);
    if (command == kWriteCommandByte) command_byte_.store(value, std::memory_order_relaxed);
    if (command == kWriteOutputPort && !(value & kNotReset)) handler_.OnReset();
    return;  // there is nobody behind the controller to take any other byte
  }
  if (offset != kCommand) return;
  awaited_.store(0, std::memory_order_relaxed);
  switch (value) {
    case kReadCommandByte:
      Answer(command_byte_.load(std::memory_order_relaxed));
      break;
    case kWriteCommandByte:
    case kWriteOutputPort:
      awaited_.store(value, std::memory_order_relaxed);
      break;
    case kSelfTest:
      Answer(kSelfTestPassed);
      break;
    case kTestKeyboard:
    case kTestAuxiliary:
      Answer(kPortAbsent);
      break;
    case kReadOutputPort:
      Answer(kNotReset | kA20);
      break;
    default:
      if ((value & 0xF0) == kPulseOutputPort && !(value & kNotReset)) handler_.OnReset();
      break;
  }
}

uint8_t SystemControlPort::ReadByte(uint64_t) { return value_.load(std::memory_order_relaxed); }

void SystemControlPort::WriteByte(uint64_t, uint8_t value) {
  value_.store(value & ~0x01, std::memory_order_relaxed);
  if (value & 0x01) handler_.OnReset();
}

}  // namespace hvsdk::chipset
