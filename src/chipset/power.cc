// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/chipset/power.h"

namespace hvsdk::chipset {
namespace {

// ACPI 6.4, table 4.22: the sleep control register.
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

}  // namespace

uint8_t AcpiPower::ReadByte(uint64_t) { return 0; }

void AcpiPower::WriteByte(uint64_t offset, uint8_t value) {
  if (offset == kSleepControl) {
    const uint8_t type = (value >> kSleepTypeShift) & kSleepTypeMask;
    if ((value & kSleepEnable) && type == kSleepTypeOff) handler_.OnPowerOff();
  } else if (offset == kReset && value == kResetValue) {
    handler_.OnReset();
  }
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
