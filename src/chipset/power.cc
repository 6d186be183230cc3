// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/chipset/power.h"

namespace hvsdk::chipset {
namespace {

// ACPI 6.4, tables 4.11 and 4.12: PM1 status and enable registers have an event's two bits in the same place.
constexpr uint16_t kGlobalLock = 1 << 5;  // released by firmware, which never holds it
constexpr uint16_t kPowerButton = 1 << 8;
constexpr uint16_t kRtc = 1 << 10;
constexpr uint16_t kEvents = kPowerButton | kRtc;
constexpr uint8_t kGpes = 1 << AcpiPower::kGenerationIdGpe;
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

struct AcpiPowerState {
  static constexpr uint32_t kSchema = 1;
  uint16_t status = 0, enable = 0, control = 0;
  uint8_t gpe_status = 0, gpe_enable = 0;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "status", status);
    visit(2, "enable", enable);
    visit(3, "control", control);
    visit(4, "gpe_status", gpe_status);
    visit(5, "gpe_enable", gpe_enable);
  }
};

struct KeyboardState {
  static constexpr uint32_t kSchema = 1;
  uint16_t output = 0;  // bit 8: full
  uint8_t awaited = 0, command_byte = 0;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "output", output);
    visit(2, "awaited", awaited);
    visit(3, "command_byte", command_byte);
  }
};

constexpr uint8_t kSystemControlAtReset = 0x02;

struct SystemControlState {
  static constexpr uint32_t kSchema = 1;
  uint8_t value = kSystemControlAtReset;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "value", value);
  }
};

}  // namespace

absl::Status AcpiPower::Save(state::StateWriter& writer) const {
  std::lock_guard lock(mutex_);
  AcpiPowerState state{
      .status = status_, .enable = enable_, .control = control_, .gpe_status = gpe_status_, .gpe_enable = gpe_enable_};
  writer.Write(state);
  return absl::OkStatus();
}

absl::Status AcpiPower::Restore(state::StateReader& reader) {
  AcpiPowerState state;
  if (absl::Status status = reader.Read(state); !status.ok()) return status;
  if ((state.status & ~kEvents) != 0) return reader.Invalid("status", "events that there are not");
  if ((state.enable & ~kEnableMask) != 0) return reader.Invalid("enable", "events that there are not");
  if ((state.control & ~kControlMask) != 0) return reader.Invalid("control", "bits that there are not");
  if ((state.gpe_status & ~kGpes) != 0) return reader.Invalid("gpe_status", "events that there are not");
  if ((state.gpe_enable & ~kGpes) != 0) return reader.Invalid("gpe_enable", "events that there are not");
  std::lock_guard lock(mutex_);
  status_ = state.status;
  enable_ = state.enable;
  control_ = state.control;
  gpe_status_ = state.gpe_status;
  gpe_enable_ = state.gpe_enable;
  sci_.Adopt(WantsSci());
  return absl::OkStatus();
}

void AcpiPower::Reset() {
  std::lock_guard lock(mutex_);
  status_ = enable_ = control_ = 0;
  gpe_status_ = gpe_enable_ = 0;
  sci_.Adopt(false);
}

absl::Status KeyboardController::Save(state::StateWriter& writer) const {
  KeyboardState state{.output = output_, .awaited = awaited_, .command_byte = command_byte_};
  writer.Write(state);
  return absl::OkStatus();
}

absl::Status KeyboardController::Restore(state::StateReader& reader) {
  KeyboardState state;
  if (absl::Status status = reader.Read(state); !status.ok()) return status;
  if (state.output > (kOutputFull | 0xFF)) return reader.Invalid("output", "more than a byte");
  output_ = state.output;
  awaited_ = state.awaited;
  command_byte_ = state.command_byte;
  return absl::OkStatus();
}

void KeyboardController::Reset() {
  output_ = 0;
  awaited_ = command_byte_ = 0;
}

absl::Status SystemControlPort::Save(state::StateWriter& writer) const {
  SystemControlState state{.value = value_};
  writer.Write(state);
  return absl::OkStatus();
}

absl::Status SystemControlPort::Restore(state::StateReader& reader) {
  SystemControlState state;
  if (absl::Status status = reader.Read(state); !status.ok()) return status;
  if ((state.value & 1) != 0) return reader.Invalid("value", "resets the machine");
  value_ = state.value;
  return absl::OkStatus();
}

void SystemControlPort::Reset() { value_ = kSystemControlAtReset; }

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

void AcpiPower::OnNewGenerationId() {
  bool drive;
  {
    std::lock_guard lock(mutex_);
    gpe_status_ |= 1 << kGenerationIdGpe;
    drive = UpdateSci();
  }
  if (drive) sci_.Drive();
}

bool AcpiPower::WantsSci() const { return (status_ & enable_ & kEvents) != 0 || (gpe_status_ & gpe_enable_) != 0; }

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
    case kGpe0:
      return offset == kGpe0 ? gpe_status_ : gpe_enable_;
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
      case kGpe0:
        if (offset == kGpe0) {
          gpe_status_ &= ~value;  // ones clear
        } else {
          gpe_enable_ = value & kGpes;
        }
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
