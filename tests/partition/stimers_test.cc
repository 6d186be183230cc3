// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/partition/fake_machine.h"
#include "tests/random_seed.h"

namespace hvsdk::partition {
namespace {

namespace msr = hvdef::msr;
using fake::FakeMachine;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Interrupt = fake::FakePartition::Interrupt;

constexpr uint64_t kOn = msr::kStimerEnable;
constexpr uint64_t kPeriodic = msr::kStimerPeriodic;
constexpr uint64_t kLazy = msr::kStimerLazy;
constexpr uint64_t kAuto = msr::kStimerAutoEnable;
constexpr uint64_t Direct(uint8_t vector) { return msr::kStimerDirect | uint64_t{vector} << msr::kStimerVectorShift; }
constexpr uint64_t ToSint(uint8_t sint) { return uint64_t{sint} << msr::kStimerSintShift; }

class StimersTest : public ::testing::Test {
 protected:
  StimersTest() { machine_.EnableSynic(0); }
  void Config(uint64_t value, uint32_t timer = 0) { machine_.Write(msr::kStimer0Config + 2 * timer, value); }
  void Count(uint64_t value, uint32_t timer = 0) { machine_.Write(msr::kStimer0Count + 2 * timer, value); }
  uint64_t Config() { return machine_.Read(msr::kStimer0Config); }
  size_t Fired() { return machine_.backend.TakeInterrupts().size(); }
  // How many interrupts come in each of the next `n` steps of time.
  std::vector<size_t> FiredBySteps(int n, uint64_t step_100ns) {
    std::vector<size_t> fired;
    for (int i = 0; i < n; ++i) {
      machine_.timers.AdvanceBy(step_100ns);
      fired.push_back(Fired());
    }
    return fired;
  }
  hvdef::TimerMessagePayload Payload(uint32_t sint) {
    hvdef::TimerMessagePayload payload;
    std::memcpy(&payload, machine_.Slot(sint).payload, sizeof(payload));
    return payload;
  }
  FakeMachine machine_;
};

TEST_F(StimersTest, OneShotDirectAsLinuxUsesIt) {
  Config(kOn | kAuto | Direct(0xED));
  EXPECT_EQ(Config() & kOn, kOn);
  EXPECT_EQ(machine_.timers.armed(), 0u) << "enabled, not programmed yet";
  machine_.timers.AdvanceTo(1000);
  Count(5000);
  machine_.timers.AdvanceTo(4999);
  EXPECT_EQ(Fired(), 0u) << "never early";
  machine_.timers.AdvanceTo(5000);
  EXPECT_THAT(machine_.backend.TakeInterrupts(), ElementsAre(Interrupt{0, 0xED, false}));
  EXPECT_EQ(Config() & kOn, 0u) << "a one-shot timer disables itself";
  Count(7000);
  EXPECT_EQ(Config() & kOn, kOn) << "and the count enables it again";
  Count(8000);
  machine_.timers.AdvanceTo(7500);
  EXPECT_EQ(Fired(), 0u) << "reprogrammed";
  machine_.timers.AdvanceTo(8000);
  EXPECT_EQ(Fired(), 1u);
  Count(9000);
  Count(0);
  Config(0);
  machine_.timers.AdvanceTo(20000);
  EXPECT_EQ(Fired(), 0u);
}

TEST_F(StimersTest, AOneShotInThePastFiresAtOnce) {
  machine_.timers.AdvanceTo(1000);
  Config(kAuto | Direct(0x30));
  Count(1000);
  EXPECT_EQ(Fired(), 1u);
  Count(1);
  EXPECT_EQ(Fired(), 1u);
  EXPECT_EQ(Config() & kOn, 0u);
  Count(2000);
  Config(0);
  Count(500);
  EXPECT_EQ(Fired(), 0u) << "without auto-enable the count alone does nothing";
  Config(kOn | Direct(0x30));
  EXPECT_EQ(Fired(), 1u);
}

TEST_F(StimersTest, ExpirationMessage) {
  Config(kAuto | ToSint(4), 2);
  Count(5000, 2);
  machine_.clock.Set(5300);  // the queue is late
  machine_.timers.RunDue();
  const hvdef::Message slot = machine_.Slot(4);
  EXPECT_EQ(slot.header.message_type, 0x80000010u);
  EXPECT_EQ(slot.header.payload_size, 24);
  EXPECT_EQ(Payload(4).timer_index, 2u);
  EXPECT_EQ(Payload(4).expiration_time_100ns, 5000u);
  EXPECT_EQ(Payload(4).delivery_time_100ns, 5300u);
  EXPECT_THAT(machine_.backend.TakeInterrupts(), ElementsAre(Interrupt{0, 0x44, false}));
}

TEST_F(StimersTest, ATimerHasOneMessageAndItWaitsForTheSlot) {
  Config(kAuto | kPeriodic | ToSint(4));
  Count(1000);
  machine_.timers.AdvanceTo(5500);
  EXPECT_EQ(Payload(4).expiration_time_100ns, 1000u);
  EXPECT_EQ(machine_.Slot(4).header.flags, hvdef::kMessagePending);
  EXPECT_EQ(Fired(), 1u);
  machine_.EmptySlot(4);
  machine_.Write(msr::kEom, 0);
  EXPECT_EQ(Payload(4).expiration_time_100ns, 2000u);
  EXPECT_EQ(Payload(4).delivery_time_100ns, 5500u);
  EXPECT_EQ(machine_.Slot(4).header.flags, 0) << "the expiries between merged";
  machine_.timers.AdvanceTo(6500);
  Config(0);
  machine_.EmptySlot(4);
  machine_.Write(msr::kEom, 0);
  EXPECT_EQ(machine_.Slot(4).header.message_type, 0u) << "disabling takes back what waits";
}

TEST_F(StimersTest, TimerAndPostedMessagesShareASlot) {
  Config(kAuto | ToSint(4));
  Count(1000);
  const uint8_t payload[] = {1};
  machine_.partition->PostMessage(VpIndex{0}, Sint{4}, 7, payload);
  machine_.partition->PostMessage(VpIndex{0}, Sint{4}, 8, payload);
  machine_.timers.AdvanceTo(1000);
  std::vector<uint32_t> types;
  for (;;) {
    const hvdef::MessageHeader header = machine_.Slot(4).header;
    types.push_back(header.message_type);
    machine_.EmptySlot(4);
    if ((header.flags & hvdef::kMessagePending) == 0) break;
    machine_.Write(msr::kEom, 0);
  }
  EXPECT_THAT(types, ElementsAre(7, 0x80000010, 8));
}

TEST_F(StimersTest, PeriodicOnTime) {
  Config(kAuto | kPeriodic | Direct(0x30));
  Count(1000);
  EXPECT_THAT(FiredBySteps(8, 500), ElementsAre(0, 1, 0, 1, 0, 1, 0, 1));
  EXPECT_EQ(Config() & kOn, kOn);
  Config(kPeriodic | Direct(0x30));
  EXPECT_THAT(FiredBySteps(4, 500), ElementsAre(0, 0, 0, 0));
}

TEST_F(StimersTest, LatePeriodicCatchesUpByShorterPeriods) {
  Config(kAuto | kPeriodic | Direct(0x30));
  Count(10000);
  machine_.clock.Set(45000);  // 10000 was due, and 20000, 30000 and 40000
  machine_.timers.RunDue();
  EXPECT_EQ(Fired(), 1u) << "no burst";
  // Half a period apart: at 50000 (for 20000), 55000, 60000, 65000 (for 50000), 70000 (60000), 75000 (70000), then
  // on time.
  EXPECT_THAT(FiredBySteps(11, 5000), ElementsAre(1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1));
}

TEST_F(StimersTest, VeryLatePeriodicSkips) {
  Config(kAuto | kPeriodic | Direct(0x30));
  Count(10000);
  machine_.clock.Set(10'000'005'000);
  machine_.timers.RunDue();
  EXPECT_EQ(Fired(), 1u);
  EXPECT_THAT(FiredBySteps(6, 5000), ElementsAre(1, 0, 1, 0, 1, 0));
}

TEST_F(StimersTest, LateLazyPeriodicNeverMakesUp) {
  Config(kAuto | kPeriodic | kLazy | Direct(0x30));
  Count(10000);
  machine_.clock.Set(45000);
  machine_.timers.RunDue();
  EXPECT_EQ(Fired(), 1u) << "the deferred signal";
  EXPECT_THAT(FiredBySteps(5, 5000), ElementsAre(1, 0, 1, 0, 1));
  machine_.clock.Set(98000);
  machine_.timers.RunDue();
  EXPECT_EQ(Fired(), 0u) << "the next is near, so this one is skipped";
  machine_.timers.AdvanceTo(100000);
  EXPECT_EQ(Fired(), 1u);
}

TEST_F(StimersTest, AHostilePeriodCostsABoundedShare) {
  for (const uint64_t lazy : {uint64_t{0}, kLazy}) {
    Config(kAuto | kPeriodic | lazy | Direct(0x30));
    Count(1);
    machine_.timers.AdvanceBy(1'000'000);  // 100 ms
    const size_t fired = Fired();
    EXPECT_LE(fired, 2000u) << "one in 50 microseconds";
    EXPECT_GE(fired, 1000u);
    Count(0);
  }
  Config(kAuto | kPeriodic | Direct(0x30));
  Count(~uint64_t{0});
  machine_.timers.AdvanceBy(uint64_t{1} << 60);
  EXPECT_EQ(Fired(), 0u) << "a period beyond all time";
}

TEST_F(StimersTest, ConfigurationsThatAreWrong) {
  for (int bit = 0; bit < 64; ++bit) {
    const bool reserved = (bit >= 13 && bit <= 15) || bit >= 20;
    EXPECT_EQ(machine_.Allows(msr::kStimer0Config, uint64_t{1} << bit), !reserved) << bit;
  }
  Count(1000000);
  Config(kOn | ToSint(0));
  EXPECT_EQ(Config() & kOn, 0u) << "SINT 0 with enable";
  Config(kOn | Direct(15));
  EXPECT_EQ(Config() & kOn, 0u) << "a vector that does not exist";
  Config(kAuto | ToSint(0));
  Count(1);
  EXPECT_EQ(Config() & kOn, 0u) << "nor by auto-enable";
  EXPECT_EQ(Fired(), 0u);
}

TEST_F(StimersTest, SignalsWaitWhileTheMessagePageIsDisabled) {
  machine_.Write(msr::kScontrol, 0);
  Config(kAuto | ToSint(4));
  Count(1000);
  machine_.timers.AdvanceTo(2000);
  EXPECT_EQ(Fired(), 0u);
  machine_.Write(msr::kScontrol, 1);
  EXPECT_EQ(Payload(4).expiration_time_100ns, 1000u);
  EXPECT_EQ(Fired(), 1u);
}

// Four timers, none of them late, against what the specification says about each.
TEST_F(StimersTest, AgreesWithAModelOnRandomSteps) {
  struct Model {
    uint64_t config = 0, count = 0, start = 0;
    uint64_t next = 0;  // 0: not running
  };
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  Model models[4];
  std::vector<Interrupt> expected;
  // So late that a count of the near past is no short period: the least spacing of signals is not modelled.
  machine_.timers.AdvanceTo(10000);
  const auto start = [&](Model& model) {
    const uint64_t now = machine_.clock.Now100ns();
    model.next = 0;
    if ((model.config & kOn) == 0 || model.count == 0) return;
    model.next = model.count;
    if ((model.config & kPeriodic) != 0) {
      const bool beyond_all_time = now + model.count < now;
      model.next = beyond_all_time ? ~uint64_t{0} : now + model.count;
    }
  };
  const auto vector_of = [](const Model& model) { return static_cast<uint8_t>(model.config >> 4); };
  const auto expire_due = [&](Model& model, uint64_t now) {
    while (model.next != 0 && model.next <= now) {
      expected.push_back({0, vector_of(model), false});
      if ((model.config & kPeriodic) != 0) {
        model.next += model.count;
      } else {
        model.next = 0;
        model.config &= ~kOn;
      }
    }
  };
  for (int step = 0; step < 50000; ++step) {
    const uint32_t timer = random() % 4;
    Model& model = models[timer];
    switch (random() % 3) {
      case 0: {
        const uint64_t config = (random() % 16) | Direct(random() % 8 == 0 ? 9 : 0x30 + random() % 64);
        Config(config, timer);
        model.config = static_cast<uint8_t>(config >> 4) < 16 ? config & ~kOn : config;
        start(model);
        expire_due(model, machine_.clock.Now100ns());
        break;
      }
      case 1: {
        uint64_t count = random() % 8 == 0 ? 0 : 1000 + random() % 20000;
        if (random() % 16 == 0) {
          count = ~uint64_t{0} - random() % 20000;
        } else if ((model.config & kPeriodic) == 0 && count != 0) {
          count += machine_.clock.Now100ns() - 5000;
        }
        Count(count, timer);
        model.count = count;
        if (count == 0) {
          model.config &= ~kOn;
        } else if ((model.config & kAuto) != 0 && vector_of(model) >= 16) {
          model.config |= kOn;
        }
        start(model);
        // What is periodic by its configuration and absolute by its count is far in the future; a one-shot may be due.
        expire_due(model, machine_.clock.Now100ns());
        break;
      }
      case 2: {
        const uint64_t to = machine_.clock.Now100ns() + random() % 8000;
        machine_.timers.AdvanceTo(to);
        for (Model& each : models) expire_due(each, to);
        break;
      }
    }
    // Timers that are due at different times in one step come in the order of time; the model goes by timer.
    auto fired = machine_.backend.TakeInterrupts();
    const auto by_vector = [](const Interrupt& a, const Interrupt& b) { return a.vector < b.vector; };
    std::sort(fired.begin(), fired.end(), by_vector);
    std::sort(expected.begin(), expected.end(), by_vector);
    ASSERT_EQ(fired, expected) << "step " << step;
    expected.clear();
    for (uint32_t each = 0; each < 4; ++each) {
      ASSERT_EQ(machine_.Read(msr::kStimer0Config + 2 * each), models[each].config) << "step " << step;
      ASSERT_EQ(machine_.Read(msr::kStimer0Count + 2 * each), models[each].count);
    }
  }
}

}  // namespace
}  // namespace hvsdk::partition
