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
  uint8_t In(uint64_t port) {
    uint8_t value;
    bus_.Read(port, absl::MakeSpan(&value, 1));
    return value;
  }
  testing::StrictMock<MockPower> power_;
  AcpiPower acpi_{power_};
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
