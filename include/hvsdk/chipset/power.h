// SPDX-License-Identifier: Apache-2.0
// The devices by which a guest turns its machine off or resets it, and by which it is told to wake up, to turn it off, or that
// it is a copy.
//
// All are thread-safe. The handler runs on the VP's thread, at the guest's write, with no lock held; it notes the wish
// and stops the machine afterwards.

#ifndef HVSDK_CHIPSET_POWER_H_
#define HVSDK_CHIPSET_POWER_H_

#include <atomic>
#include <cstdint>
#include <mutex>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "hvsdk/base/device.h"
#include "hvsdk/interrupt/irq_line.h"
#include "hvsdk/state/component.h"

namespace hvsdk::chipset {

class PowerHandler {
 public:
  virtual ~PowerHandler() = default;
  virtual void OnPowerOff() = 0;
  virtual void OnReset() = 0;
};

// ACPI's fixed hardware (ACPI 6.4, 4.8.3.1 PM1 event registers, 4.8.3.2 PM1 control register, 4.8.3.6 reset register) with
// two events, power button and alarm of the real-time clock. They are what wakes a guest that sleeps in S0, for guests arm
// the system control interrupt (SCI) alone for that. A block of general-purpose events (4.8.4.1) has one, of which the DSDT says
// that the generation id has changed. Besides the registers for sleep of hardware-reduced ACPI (4.8.3.7), by which a small guest
// turns the machine off with a single byte. A machine's FADT says where they are and its DSDT's _S5 holds kSleepTypeOff. The
// machine is always in ACPI mode.
class AcpiPower final : public ByteDevice, public state::Component {
 public:
  static constexpr uint64_t kSleepControl = 0;
  static constexpr uint64_t kSleepStatus = 1;
  static constexpr uint64_t kReset = 2;
  static constexpr uint64_t kPm1Event = 4;  // status and enable, 2 bytes each
  static constexpr uint64_t kPm1EventSize = 4;
  static constexpr uint64_t kPm1Control = 8;
  static constexpr uint64_t kPm1ControlSize = 2;
  static constexpr uint64_t kGpe0 = 12;  // status and enable, a byte each
  static constexpr uint64_t kGpe0Size = 2;
  static constexpr uint64_t kPorts = 14;

  static constexpr uint8_t kGenerationIdGpe = 0;  // the event's number
  static constexpr uint8_t kSleepTypeOff = 5;
  static constexpr uint8_t kResetValue = 1;

  // `sci` drives the interrupt line, which is level-triggered.
  AcpiPower(PowerHandler& handler, absl::AnyInvocable<void(bool level)> sci)
      : handler_(handler), sci_(std::move(sci)) {}
  absl::string_view Name() const override { return "ACPI power registers"; }
  std::string StateName() const override { return "acpi-power"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

  // The user presses and lets go. A guest that has not enabled the event finds it in the status register later.
  void PressPowerButton();
  // The real-time clock has raised its interrupt.
  void OnRtcAlarm();
  // The guest goes on from a saved state, and has another generation id (boot/acpi_tables.h) than when it was saved.
  void OnNewGenerationId();

 protected:
  uint8_t ReadByte(uint64_t offset) override;
  void WriteByte(uint64_t offset, uint8_t value) override;

 private:
  void Raise(uint16_t event);
  bool WantsSci() const;
  bool UpdateSci() { return sci_.Want(WantsSci()); }
  void Sleep(uint8_t control);

  PowerHandler& handler_;
  interrupt::IrqLine sci_;

  mutable std::mutex mutex_;  // guards what follows
  uint16_t status_ = 0, enable_ = 0, control_ = 0;
  uint8_t gpe_status_ = 0, gpe_enable_ = 0;
};

// What is left of the 8042 keyboard controller when there is neither keyboard nor mouse: its self-test, its command
// byte and the output port, whose bit 0 resets the processor. On a PC the data register is port 0x60, command and
// status port 0x64; those between are others'.
//
// Source: Intel 8042 as in the IBM PC AT Technical Reference, "Keyboard controller".
class KeyboardController final : public ByteDevice, public state::Component {
 public:
  static constexpr uint64_t kData = 0;
  static constexpr uint64_t kCommand = 4;

  explicit KeyboardController(PowerHandler& handler) : handler_(handler) {}
  absl::string_view Name() const override { return "keyboard controller"; }
  std::string StateName() const override { return "keyboard"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

 protected:
  uint8_t ReadByte(uint64_t offset) override;
  void WriteByte(uint64_t offset, uint8_t value) override;

 private:
  void Answer(uint8_t value);

  PowerHandler& handler_;
  std::atomic<uint16_t> output_{0};  // bit 8: full
  std::atomic<uint8_t> awaited_{0};  // the command whose data byte comes next, or 0
  std::atomic<uint8_t> command_byte_{0};
};

// System control port A of the PS/2 (port 0x92): bit 0 resets the processor, bit 1 is the A20 gate, which is
// remembered and has no effect.
class SystemControlPort final : public ByteDevice, public state::Component {
 public:
  explicit SystemControlPort(PowerHandler& handler) : handler_(handler) {}
  absl::string_view Name() const override { return "system control port A"; }
  std::string StateName() const override { return "system-control"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

 protected:
  uint8_t ReadByte(uint64_t offset) override;
  void WriteByte(uint64_t offset, uint8_t value) override;

 private:
  PowerHandler& handler_;
  std::atomic<uint8_t> value_{0x02};
};

}  // namespace hvsdk::chipset

#endif  // HVSDK_CHIPSET_POWER_H_
