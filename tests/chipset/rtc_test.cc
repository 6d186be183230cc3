// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/chipset/rtc.h"

#include <ctime>
#include <random>
#include <utility>

#include "gtest/gtest.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/chipset/bus.h"
#include "tests/random_seed.h"

namespace hvsdk::chipset {
namespace {

// Civil time that runs with the fake clock.
class FakeWallClock final : public WallClock {
 public:
  explicit FakeWallClock(const Clock& clock) : clock_(clock) {}
  int64_t NowNs() const override { return start_ns + static_cast<int64_t>(clock_.Now100ns()) * 100; }
  int64_t start_ns = 1'700'000'000'000'000'000;

 private:
  const Clock& clock_;
};

class RtcTest : public ::testing::Test {
 protected:
  RtcTest()
      : wall_(clock_), rtc_(wall_, clock_, timers_, [this](bool level) {
          interrupts_ += level;
          irq_ = level;
        }) {
    EXPECT_TRUE(bus_.Map(0x70, Rtc::kPorts, &rtc_).ok());
  }
  uint8_t Get(uint8_t index) {
    bus_.Write(0x70, {index});
    uint8_t value;
    bus_.Read(0x71, absl::MakeSpan(&value, 1));
    return value;
  }
  void Set(uint8_t index, uint8_t value) {
    bus_.Write(0x70, {index});
    bus_.Write(0x71, {value});
  }
  static int Bcd(uint8_t value) { return (value >> 4) * 10 + (value & 15); }
  static uint8_t ToBcd(int value) { return value / 10 * 16 + value % 10; }

  FakeClock clock_;
  FakeTimerQueue timers_{clock_};
  FakeWallClock wall_;
  int interrupts_ = 0;
  bool irq_ = false;
  Rtc rtc_;
  Bus bus_;
};

// Every date against the C library's calendar, in each of the four formats.
TEST_F(RtcTest, ModelOfTheCalendar) {
  const uint32_t seed = TestSeed();
  std::mt19937_64 random(seed);
  for (int i = 0; i < 20000; ++i) {
    wall_.start_ns = static_cast<int64_t>(random() >> 1);  // until 2262
    const time_t seconds = wall_.start_ns / 1'000'000'000;
    tm date;
    gmtime_r(&seconds, &date);
    const uint8_t format = (random() % 4) << 1;
    Set(11, format);
    const auto decode = [&](uint8_t value) { return (format & 4) ? value : Bcd(value); };
    ASSERT_EQ(decode(Get(0)), date.tm_sec);
    ASSERT_EQ(decode(Get(2)), date.tm_min);
    const uint8_t hour = Get(4);
    if (format & 2) {
      ASSERT_EQ(decode(hour), date.tm_hour);
    } else {
      ASSERT_EQ(decode(hour & 0x7F) % 12 + (hour >= 0x80 ? 12 : 0), date.tm_hour);
      ASSERT_NE(decode(hour & 0x7F), 0);
    }
    ASSERT_EQ(Get(6), date.tm_wday + 1);
    ASSERT_EQ(decode(Get(7)), date.tm_mday);
    ASSERT_EQ(decode(Get(8)), date.tm_mon + 1);
    ASSERT_EQ(decode(Get(9)) + decode(Get(0x32)) * 100, date.tm_year + 1900);
  }
}

TEST_F(RtcTest, SetTimeRunsOn) {
  Set(11, 0x82);  // SET, 24 hours, BCD
  Set(0, 0x58);
  Set(2, 0x59);
  Set(4, 0x23);
  Set(7, 0x31);
  Set(8, 0x12);
  Set(9, 0x99);
  Set(0x32, 0x19);
  timers_.AdvanceBy(50'000'000);  // stands still while SET
  EXPECT_EQ(Get(0), 0x58);
  Set(11, 0x02);
  timers_.AdvanceBy(30'000'000);
  EXPECT_EQ(Get(0), 0x01);
  EXPECT_EQ(Get(4), 0x00);
  EXPECT_EQ(Get(7), 0x01);
  EXPECT_EQ(Get(8), 0x01);
  EXPECT_EQ(Get(9), 0x00);
  EXPECT_EQ(Get(0x32), 0x20);
}

TEST_F(RtcTest, UpdateInProgressBeforeTheSecondEnds) {
  timers_.AdvanceBy(9'998'000);
  EXPECT_EQ(Get(10) & 0x80, 0x80);
  timers_.AdvanceBy(20'000);
  EXPECT_EQ(Get(10) & 0x80, 0);
}

TEST_F(RtcTest, PeriodicInterruptWaitsForItsAcknowledgement) {
  Set(10, 0x2F);  // 2 Hz
  Set(11, 0x42);
  timers_.AdvanceBy(50'000'000);
  EXPECT_EQ(interrupts_, 1);
  EXPECT_TRUE(irq_);
  EXPECT_EQ(Get(12) & 0xC0, 0xC0);
  EXPECT_FALSE(irq_);
  int seen = 0;
  for (int i = 0; i < 100; ++i) {
    timers_.AdvanceBy(1'000'000);
    if (irq_) {
      ++seen;
      (void)Get(12);
    }
  }
  EXPECT_NEAR(seen, 20, 1);
  Set(11, 0x02);
  (void)Get(12);
  timers_.AdvanceBy(100'000'000);
  EXPECT_FALSE(irq_);
}

TEST_F(RtcTest, AlarmAtItsTimeAndEachMinuteWithDoNotCare) {
  // 2023-11-14 22:13:20
  Set(1, 0x05);
  Set(3, 0x14);
  Set(5, 0x22);
  Set(11, 0x22);
  timers_.AdvanceBy(440'000'000);
  EXPECT_FALSE(irq_);
  timers_.AdvanceBy(15'000'000);
  EXPECT_TRUE(irq_);
  EXPECT_EQ(Get(12) & 0xA0, 0xA0);
  Set(3, 0xFF);
  Set(5, 0xC0);
  int seen = 0;
  for (int second = 0; second < 300; ++second) {
    timers_.AdvanceBy(10'000'000);
    if (irq_) {
      ++seen;
      (void)Get(12);
    }
  }
  EXPECT_EQ(seen, 5);
}

TEST_F(RtcTest, UpdateEndedInterruptEachSecond) {
  Set(11, 0x12);
  int seen = 0;
  for (int i = 0; i < 105; ++i) {
    timers_.AdvanceBy(1'000'000);
    if (!irq_) continue;
    ++seen;
    EXPECT_EQ(Get(12) & 0x90, 0x90);
    EXPECT_EQ(Get(12) & 0x90, 0);  // the first read has cleared it
    EXPECT_FALSE(irq_);
  }
  EXPECT_EQ(seen, 10);
  Set(11, 0x92);  // SET clears the enable bit
  EXPECT_EQ(Get(11), 0x82);
  timers_.AdvanceBy(50'000'000);
  EXPECT_FALSE(irq_);
}

// "Interrupts" of the datasheet: a flag that is set already interrupts as soon as it is enabled, and does until it is
// read or disabled.
TEST_F(RtcTest, EnablingAFlagThatIsSetInterruptsAtOnce) {
  for (const auto& [enable, flag] : {std::pair{0x42, 0x40}, {0x22, 0x20}, {0x12, 0x10}}) {
    for (const uint8_t alarm : {1, 3, 5}) Set(alarm, 0xFF);
    (void)Get(12);
    timers_.AdvanceBy(20'000'000);
    EXPECT_FALSE(irq_);
    (void)Get(11);
    Set(11, enable);
    EXPECT_TRUE(irq_) << flag;
    Set(11, 0x02);
    EXPECT_FALSE(irq_) << flag;
    Set(11, enable);
    EXPECT_TRUE(irq_) << flag;
    EXPECT_EQ(Get(12) & (0x80 | flag), 0x80 | flag);
    EXPECT_FALSE(irq_) << flag;
    Set(11, 0x02);
  }
}

TEST_F(RtcTest, AlarmInEveryFormat) {
  // 2023-11-14 22:13:20; the alarm is at 22:13:30.
  const struct {
    uint8_t format, second, minute, hour;
  } kFormats[] = {{0x02, 0x30, 0x13, 0x22}, {0x06, 30, 13, 22}, {0x00, 0x30, 0x13, 0x90}, {0x04, 30, 13, 0x8A}};
  for (const auto& [format, second, minute, hour] : kFormats) {
    wall_.start_ns = 1'700'000'000'000'000'000 - static_cast<int64_t>(clock_.Now100ns()) * 100;
    Set(11, format);
    Set(1, second);
    Set(3, minute);
    Set(5, hour);
    (void)Get(12);
    Set(11, format | 0x20);
    (void)Get(12);
    timers_.AdvanceBy(95'000'000);
    EXPECT_FALSE(irq_) << int{format};
    timers_.AdvanceBy(10'000'000);
    EXPECT_TRUE(irq_) << int{format};
    (void)Get(12);
    timers_.AdvanceBy(600'000'000);  // once a day
    EXPECT_FALSE(irq_) << int{format};
  }
}

TEST_F(RtcTest, FlagsWithoutInterruptsCanBePolled) {
  (void)Get(12);
  timers_.AdvanceBy(10'000'000);
  EXPECT_EQ(Get(12) & 0xD0, 0x50);  // a second and many ticks went by, and no interrupt was asked for
  EXPECT_FALSE(irq_);
}

TEST_F(RtcTest, RemembersMemory) {
  for (int i = 14; i < 128; ++i) {
    if (i != Rtc::kCenturyIndex) Set(i, i ^ 0x5A);
  }
  for (int i = 14; i < 128; ++i) {
    if (i == Rtc::kCenturyIndex) continue;
    EXPECT_EQ(Get(i), i ^ 0x5A);
  }
  EXPECT_EQ(Get(13), 0x80);
}

// Whatever a guest did to it: set anew, the clock runs on from there and wakes the next driver.
TEST_F(RtcTest, AnyAccessIsHarmless) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  for (int i = 0; i < 200000; ++i) {
    Set(random() % 50, random());
    (void)Get(random());
    if (random() % 100 == 0) timers_.AdvanceBy(random() % 10'000'000);
    ASSERT_LE(timers_.armed(), 1u);
  }
  Set(11, 0x86);  // stands still; binary, 24 hours
  const std::pair<uint8_t, uint8_t> date[] = {
      {0, 58}, {2, 59}, {4, 23}, {7, 28}, {8, 2}, {9, 24}, {Rtc::kCenturyIndex, 20}};
  for (const auto& [index, value] : date) Set(index, value);
  Set(11, 0x06);
  for (const auto& [index, value] : date) EXPECT_EQ(Get(index), value);
  (void)Get(12);
  EXPECT_FALSE(irq_);
  Set(11, 0x16);  // an interrupt at each second
  timers_.AdvanceBy(20'000'000);
  EXPECT_TRUE(irq_);
  EXPECT_EQ(Get(12) & 0x90, 0x90);
  EXPECT_EQ(Get(0), 0);
  EXPECT_EQ(Get(4), 0);
  EXPECT_EQ(Get(7), 29);
}

}  // namespace
}  // namespace hvsdk::chipset
