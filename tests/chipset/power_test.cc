// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/chipset/power.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/chipset/bus.h"

namespace hvsdk::chipset {
namespace {

class MockPower : public PowerHandler {
 public:
  MOCK_METHOD(void, OnPowerOff, (), (override));
  MOCK_METHOD(void, OnReset, (), (override));
};

class PowerTest : public ::testing::Test {
 protected:
  PowerTest() {
    EXPECT_TRUE(bus_.Map(0x600, AcpiPower::kPorts, &acpi_).ok());
    EXPECT_TRUE(bus_.Map(0x60, 1, &keyboard_, KeyboardController::kData).ok());
    EXPECT_TRUE(bus_.Map(0x64, 1, &keyboard_, KeyboardController::kCommand).ok());
    EXPECT_TRUE(bus_.Map(0x92, 1, &control_).ok());
  }
  void Out(uint64_t port, uint8_t value) { bus_.Write(port, {value}); }
  void Out16(uint64_t port, uint16_t value) {
    bus_.Write(port, {static_cast<uint8_t>(value), static_cast<uint8_t>(value >> 8)});
  }
  uint16_t In16(uint64_t port) {
    uint8_t value[2];
    bus_.Read(port, absl::MakeSpan(value));
    return static_cast<uint16_t>(value[0] | value[1] << 8);
  }
  uint8_t In(uint64_t port) {
    uint8_t value;
    bus_.Read(port, absl::MakeSpan(&value, 1));
    return value;
  }
  testing::StrictMock<MockPower> power_;
  bool sci_ = false;
  AcpiPower acpi_{power_, [this](bool level) { sci_ = level; }};
  KeyboardController keyboard_{power_};
  SystemControlPort control_{power_};
  Bus bus_;
};

TEST_F(PowerTest, SleepTypeFivePowersOff) {
  for (int value = 0; value < 256; ++value) {
    const bool off = (value & 0x20) && ((value >> 2) & 7) == 5;
    EXPECT_CALL(power_, OnPowerOff()).Times(off ? 1 : 0);
    Out(0x600, value);
    testing::Mock::VerifyAndClearExpectations(&power_);
  }
  EXPECT_EQ(In(0x601), 0);
}

TEST_F(PowerTest, ControlRegisterPowersOffBySleepTypeFive) {
  EXPECT_EQ(In16(0x608), 1);  // in ACPI mode
  Out16(0x608, 5 << 10);      // guests set the type first
  EXPECT_EQ(In16(0x608), 5 << 10 | 1);
  EXPECT_CALL(power_, OnPowerOff()).Times(1);
  Out16(0x608, 5 << 10 | 1 << 13);
  testing::Mock::VerifyAndClearExpectations(&power_);
  EXPECT_EQ(In16(0x608) & 1 << 13, 0);  // write-only
  for (const int type : {0, 1, 2, 3, 4, 6, 7}) Out16(0x608, type << 10 | 1 << 13);
}

constexpr uint16_t kButton = 1 << 8, kAlarm = 1 << 10;

TEST_F(PowerTest, EventsInterruptWhileTheyAreEnabled) {
  for (const uint16_t event : {kButton, kAlarm}) {
    const auto happen = [&] { event == kButton ? acpi_.PressPowerButton() : acpi_.OnRtcAlarm(); };
    happen();
    EXPECT_EQ(In16(0x604), event);
    EXPECT_FALSE(sci_);
    Out16(0x606, event);
    EXPECT_EQ(In16(0x606), event);
    EXPECT_TRUE(sci_);
    Out16(0x604, static_cast<uint16_t>(~event));  // clears others
    EXPECT_TRUE(sci_);
    Out16(0x604, event);
    EXPECT_EQ(In16(0x604), 0);
    EXPECT_FALSE(sci_);
    happen();
    EXPECT_TRUE(sci_);
    happen();  // of two presses before the guest looks it sees one
    Out16(0x606, 0);
    EXPECT_FALSE(sci_);
    EXPECT_EQ(In16(0x604), event);
    Out16(0x604, 0xFFFF);
  }
}

TEST_F(PowerTest, BytesOfTheEventRegistersAreApart) {
  Out16(0x606, kButton | kAlarm);
  acpi_.PressPowerButton();
  Out(0x604, 0xFF);  // the other byte's events
  EXPECT_EQ(In16(0x604), kButton);
  EXPECT_TRUE(sci_);
  Out(0x606, 0);
  EXPECT_EQ(In16(0x606), kButton | kAlarm);
  Out(0x605, kButton >> 8);
  EXPECT_FALSE(sci_);
}

// ACPICA reads back what it has enabled, and gives up the global lock if that is not so.
TEST_F(PowerTest, EnableRegisterHoldsWhatThereIs) {
  Out16(0x606, 0xFFFF);
  EXPECT_EQ(In16(0x606), kButton | kAlarm | 1 << 5);
}

TEST_F(PowerTest, ANewGenerationIdIsAGeneralPurposeEvent) {
  acpi_.OnNewGenerationId();
  EXPECT_EQ(In(0x60C), 1);
  EXPECT_FALSE(sci_);
  Out(0x60D, 0xFF);
  EXPECT_EQ(In(0x60D), 1) << "events that there are not";
  EXPECT_TRUE(sci_);
  Out16(0x604, 0xFFFF);  // other events
  EXPECT_TRUE(sci_);
  Out(0x60C, 0xFE);
  EXPECT_TRUE(sci_);
  Out(0x60C, 1);
  EXPECT_EQ(In(0x60C), 0);
  EXPECT_FALSE(sci_);
  Out16(0x606, kButton);
  acpi_.OnNewGenerationId();
  acpi_.PressPowerButton();
  Out(0x60D, 0);
  EXPECT_TRUE(sci_) << "the button's";
  Out16(0x604, kButton);
  EXPECT_FALSE(sci_);
}

TEST_F(PowerTest, ResetRegister) {
  Out(0x602, 0);
  EXPECT_CALL(power_, OnReset()).Times(1);
  Out(0x602, AcpiPower::kResetValue);
}

TEST_F(PowerTest, KeyboardControllerResets) {
  EXPECT_EQ(In(0x64) & 0x02, 0);  // ready for a command, as Linux waits for it
  EXPECT_CALL(power_, OnReset()).Times(1);
  Out(0x64, 0xFE);
  testing::Mock::VerifyAndClearExpectations(&power_);
  Out(0x64, 0xFF);  // pulses nothing
  EXPECT_CALL(power_, OnReset()).Times(1);
  Out(0x64, 0xD1);
  Out(0x60, 0xFE);
  testing::Mock::VerifyAndClearExpectations(&power_);
  Out(0x64, 0xD1);
  Out(0x60, 0xDF);  // A20 on, no reset
}

TEST_F(PowerTest, KeyboardControllerAnswers) {
  Out(0x64, 0xAA);
  EXPECT_EQ(In(0x64) & 1, 1);
  EXPECT_EQ(In(0x60), 0x55);
  EXPECT_EQ(In(0x64) & 1, 0);
  Out(0x64, 0x60);
  Out(0x60, 0x47);
  Out(0x64, 0x20);
  EXPECT_EQ(In(0x60), 0x47);
}

TEST_F(PowerTest, FastReset) {
  Out(0x92, 0x02);
  EXPECT_EQ(In(0x92), 0x02);
  EXPECT_CALL(power_, OnReset()).Times(1);
  Out(0x92, 0x03);
}

}  // namespace
}  // namespace hvsdk::chipset
