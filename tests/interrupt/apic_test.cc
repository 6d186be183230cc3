// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/interrupt/apic_bus.h"
#include "hvsdk/interrupt/io_apic.h"
#include "hvsdk/interrupt/local_apic.h"
#include "tests/random_seed.h"

namespace hvsdk::interrupt {
namespace {

constexpr uint64_t kTscHz = 1'000'000'000;
constexpr uint64_t kTimerHz = 100'000'000;

struct Processor : LocalApicHost {
  Processor(uint32_t id, ApicBus& bus, FakeClock& clock, TimerQueue& timers) : clock(clock) {
    apic = std::make_unique<LocalApic>(LocalApic::Config{id, id == 0, kTscHz, kTimerHz}, bus, *this, clock, timers);
  }
  void OnApicWork() override { wakes.fetch_add(1); }
  uint64_t ReadTsc() override { return clock.Now100ns() * (kTscHz / 10'000'000) + tsc_offset; }
  void Enable() { apic->WriteMmio(0xF0, 0x1FF); }
  void EnableX2apic() { ASSERT_TRUE(apic->WriteBase(apic->base() | LocalApic::kBaseX2apic)); }

  FakeClock& clock;
  uint64_t tsc_offset = 0;
  std::atomic<int> wakes{0};
  std::unique_ptr<LocalApic> apic;
};

class ApicTest : public testing::Test {
 protected:
  ApicTest() : timers_(clock_), io_apic_(bus_) {
    for (uint32_t id : {3u, 0u, 1u, 2u}) cpus_.push_back(std::make_unique<Processor>(id, bus_, clock_, timers_));
    std::sort(cpus_.begin(), cpus_.end(), [](auto& a, auto& b) { return a->apic->id() < b->apic->id(); });
    for (auto& cpu : cpus_) cpu->Enable();
  }
  LocalApic& apic(int i) { return *cpus_[i]->apic; }
  void Program(uint32_t pin, uint64_t entry) {
    io_apic_.WriteMmio(0, 0x11 + 2 * pin);
    io_apic_.WriteMmio(0x10, static_cast<uint32_t>(entry >> 32));
    io_apic_.WriteMmio(0, 0x10 + 2 * pin);
    io_apic_.WriteMmio(0x10, static_cast<uint32_t>(entry));
  }

  FakeClock clock_;
  FakeTimerQueue timers_;
  ApicBus bus_;
  IoApic io_apic_;
  std::vector<std::unique_ptr<Processor>> cpus_;
};

TEST_F(ApicTest, HigherVectorsGoFirstAndLowerOnesWaitForEoi) {
  bus_.Deliver({.destination = 0, .vector = 0x41});
  bus_.Deliver({.destination = 0, .vector = 0x52});
  EXPECT_EQ(apic(0).Acknowledge(), 0x52);
  EXPECT_EQ(apic(0).PendingVector(), -1) << "0x41 is of a lower class than the one in service";
  bus_.Deliver({.destination = 0, .vector = 0x61});
  EXPECT_EQ(apic(0).Acknowledge(), 0x61) << "a higher class interrupts";
  apic(0).Eoi();
  EXPECT_EQ(apic(0).PendingVector(), -1);
  const int wakes = cpus_[0]->wakes;
  apic(0).Eoi();
  EXPECT_GT(cpus_[0]->wakes, wakes) << "lowering the priority tells the processor to look again";
  EXPECT_EQ(apic(0).Acknowledge(), 0x41);
}

TEST_F(ApicTest, TaskPriorityHoldsInterruptsBack) {
  apic(0).SetCr8(5);
  bus_.Deliver({.destination = 0, .vector = 0x5F});
  EXPECT_EQ(apic(0).PendingVector(), -1);
  bus_.Deliver({.destination = 0, .vector = 0x60});
  EXPECT_EQ(apic(0).PendingVector(), 0x60);
  apic(0).SetCr8(4);
  EXPECT_EQ(apic(0).Acknowledge(), 0x60);
}

TEST_F(ApicTest, AutoEoiNeverBecomesInService) {
  bus_.Deliver({.destination = 0, .vector = 0x80, .auto_eoi = true});
  EXPECT_EQ(apic(0).Acknowledge(), 0x80);
  bus_.Deliver({.destination = 0, .vector = 0x31});
  EXPECT_EQ(apic(0).Acknowledge(), 0x31) << "nothing is in service";
  bus_.Deliver({.destination = 0, .vector = 0x80});
  EXPECT_EQ(apic(0).Acknowledge(), 0x80);
  EXPECT_EQ(apic(0).PendingVector(), -1);
  bus_.Deliver({.destination = 0, .vector = 0x31});
  EXPECT_EQ(apic(0).PendingVector(), -1) << "this time it is in service";
}

TEST_F(ApicTest, DestinationsSelectWhomTheyName) {
  struct Case {
    InterruptMessage message;
    std::vector<bool> expected;
  };
  for (int i = 0; i < 4; ++i) apic(i).WriteMmio(0xD0, 1u << (24 + i));  // flat model
  const std::vector<Case> cases = {
      {{.destination = 2, .vector = 0x40}, {false, false, true, false}},
      {{.destination = 0xFF, .vector = 0x40}, {true, true, true, true}},
      {{.destination = 9, .vector = 0x40}, {false, false, false, false}},
      {{.destination = 0b1010, .logical = true, .vector = 0x40}, {false, true, false, true}},
      {{.destination = 0xFFFFFFFF, .narrow = false, .vector = 0x40}, {true, true, true, true}},
  };
  for (const Case& c : cases) {
    bus_.Deliver(c.message);
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(apic(i).Acknowledge() >= 0, c.expected[i]) << c.message.destination << " at " << i;
      apic(i).Eoi();
    }
  }
}

TEST_F(ApicTest, X2apicLogicalIdsAreDerived) {
  for (auto& cpu : cpus_) cpu->EnableX2apic();
  uint64_t ldr = 0;
  ASSERT_TRUE(apic(3).ReadMsr(0x80D, ldr));
  EXPECT_EQ(ldr, 0x8u);
  ASSERT_TRUE(apic(0).WriteMsr(0x830, uint64_t{0b0110} << 32 | 1 << 11 | 0x45));
  EXPECT_EQ(apic(0).Acknowledge(), -1);
  EXPECT_EQ(apic(1).Acknowledge(), 0x45);
  EXPECT_EQ(apic(2).Acknowledge(), 0x45);
  EXPECT_EQ(apic(3).Acknowledge(), -1);
}

TEST_F(ApicTest, X2apicRefusesWhatTheManualForbids) {
  auto& a = apic(0);
  uint64_t value;
  EXPECT_FALSE(a.ReadMsr(0x802, value)) << "not in x2APIC mode yet";
  EXPECT_FALSE(a.WriteBase(0xFEE00000 | LocalApic::kBaseX2apic)) << "extended without enabled";
  EXPECT_FALSE(a.WriteBase(0xFEE00001 | LocalApic::kBaseEnable)) << "reserved bit";
  cpus_[0]->EnableX2apic();
  EXPECT_FALSE(a.WriteBase(0xFEE00000 | LocalApic::kBaseEnable)) << "back to xAPIC";
  EXPECT_FALSE(a.WriteMsr(0x80B, 1)) << "EOI takes zero only";
  EXPECT_FALSE(a.WriteMsr(0x802, 0)) << "the id is read-only";
  EXPECT_FALSE(a.WriteMsr(0x808, 0x100)) << "TPR has eight bits";
  EXPECT_FALSE(a.WriteMsr(0x830, 1 << 20)) << "reserved ICR bit";
  EXPECT_FALSE(a.ReadMsr(0x80E, value)) << "no DFR in x2APIC mode";
  EXPECT_FALSE(a.WriteMsr(0x838, uint64_t{1} << 32));
  EXPECT_TRUE(a.WriteMsr(0x83F, 0x77)) << "self IPI";
  EXPECT_EQ(a.Acknowledge(), 0x77);
}

TEST_F(ApicTest, InitAndStartUpReachTheOtherProcessors) {
  apic(0).WriteMmio(0x310, 1u << 24);
  apic(0).WriteMmio(0x300, 0x4500);
  EXPECT_EQ(apic(1).TakeSignals(), LocalApic::kInit);
  apic(0).WriteMmio(0x300, 0x8500);
  EXPECT_EQ(apic(1).TakeSignals(), 0u) << "level de-assert does nothing";
  apic(0).WriteMmio(0x300, 0x4608 + 0x91);
  EXPECT_EQ(apic(1).TakeSignals(), LocalApic::kSipi);
  EXPECT_EQ(apic(1).sipi_vector(), 0x99);
  apic(0).WriteMmio(0x300, 0xC4400);  // NMI to all but self
  EXPECT_EQ(apic(0).TakeSignals(), 0u);
  for (int i = 1; i < 4; ++i) EXPECT_EQ(apic(i).TakeSignals(), LocalApic::kNmi);
}

TEST_F(ApicTest, IllegalVectorsRaiseTheErrorInterrupt) {
  apic(0).WriteMmio(0x370, 0x91);
  apic(0).WriteMmio(0x300, 0x40000 | 5);  // self, vector 5
  EXPECT_EQ(apic(0).Acknowledge(), 0x91);
  apic(0).WriteMmio(0x280, 0);
  EXPECT_EQ(apic(0).ReadMmio(0x280), 0x20u);
  apic(0).WriteMmio(0x370, 0x01);  // an error vector that is itself illegal
  bus_.Deliver({.destination = 0, .vector = 3});
  EXPECT_EQ(apic(0).PendingVector(), -1);
}

TEST_F(ApicTest, DisabledAcceptsNoFixedInterrupts) {
  apic(2).WriteMmio(0xF0, 0xFF);
  bus_.Deliver({.destination = 2, .vector = 0x40});
  EXPECT_EQ(apic(2).PendingVector(), -1);
  bus_.Deliver({.destination = 2, .mode = DeliveryMode::kNmi});
  EXPECT_EQ(apic(2).TakeSignals(), LocalApic::kNmi);
  apic(2).WriteMmio(0x320, 0x40);
  EXPECT_EQ(apic(2).ReadMmio(0x320), 0x10040u) << "entries stay masked while disabled";
}

TEST_F(ApicTest, OneShotTimerFiresOnceOnTime) {
  auto& a = apic(0);
  a.WriteMmio(0x320, 0x40);
  a.WriteMmio(0x3E0, 0b1011);     // divide by 1
  a.WriteMmio(0x380, 1'000'000);  // 10 ms at 100 MHz
  clock_.Advance(99'999);
  timers_.RunDue();
  EXPECT_EQ(a.PendingVector(), -1);
  EXPECT_EQ(a.ReadMmio(0x390), 10u);
  clock_.Advance(1);
  timers_.RunDue();
  EXPECT_EQ(a.Acknowledge(), 0x40);
  EXPECT_EQ(a.ReadMmio(0x390), 0u);
  EXPECT_EQ(a.ReadMmio(0x380), 1'000'000u);
  a.Eoi();
  clock_.Advance(1'000'000);
  timers_.RunDue();
  EXPECT_EQ(a.PendingVector(), -1);
}

TEST_F(ApicTest, PeriodicTimerKeepsItsPhaseAndMergesMissedPeriods) {
  auto& a = apic(0);
  a.WriteMmio(0x3E0, 0b0000);  // divide by 2
  a.WriteMmio(0x320, 0x40 | 1 << 17);
  a.WriteMmio(0x380, 500'000);  // 10 ms
  for (int i = 0; i < 3; ++i) {
    clock_.Advance(100'000);
    timers_.RunDue();
    EXPECT_EQ(a.Acknowledge(), 0x40) << i;
    a.Eoi();
  }
  clock_.Advance(350'000);
  timers_.RunDue();
  EXPECT_EQ(a.Acknowledge(), 0x40);
  a.Eoi();
  EXPECT_EQ(a.PendingVector(), -1);
  clock_.Advance(50'000);
  timers_.RunDue();
  EXPECT_EQ(a.Acknowledge(), 0x40) << "the phase is that of the first period";
  a.Eoi();
  a.WriteMmio(0x380, 0);
  clock_.Advance(1'000'000);
  timers_.RunDue();
  EXPECT_EQ(a.PendingVector(), -1);
}

TEST_F(ApicTest, TscDeadlineNeverFiresEarlyAndDisarmsItself) {
  auto& a = apic(0);
  a.WriteMmio(0x320, 0x40 | 2 << 17);
  ASSERT_TRUE(a.WriteMsr(0x6E0, cpus_[0]->ReadTsc() + 1'000'050));
  clock_.Advance(10'000);
  timers_.RunDue();
  EXPECT_EQ(a.PendingVector(), -1);
  clock_.Advance(1);
  timers_.RunDue();
  EXPECT_EQ(a.Acknowledge(), 0x40);
  uint64_t deadline = 1;
  ASSERT_TRUE(a.ReadMsr(0x6E0, deadline));
  EXPECT_EQ(deadline, 0u);
  a.Eoi();
  ASSERT_TRUE(a.WriteMsr(0x6E0, 1));
  timers_.RunDue();
  EXPECT_EQ(a.Acknowledge(), 0x40) << "a deadline in the past fires at once";
  a.Eoi();
  ASSERT_TRUE(a.WriteMsr(0x6E0, ~uint64_t{0}));
  a.WriteMmio(0x320, 0x40);
  clock_.Advance(uint64_t{1} << 40);
  timers_.RunDue();
  EXPECT_EQ(a.PendingVector(), -1) << "leaving the mode disarms";
}

TEST_F(ApicTest, ADeadlineThatHasPassedFiresAtOnce) {
  auto& a = apic(0);
  clock_.Advance(1000);
  a.WriteMmio(0x320, 0x40 | 2 << 17);
  for (const uint64_t deadline : {uint64_t{1}, cpus_[0]->ReadTsc()}) {
    ASSERT_TRUE(a.WriteMsr(0x6E0, deadline));
    EXPECT_EQ(a.Acknowledge(), 0x40) << "without the timer's thread";
    a.Eoi();
    uint64_t value = 1;
    ASSERT_TRUE(a.ReadMsr(0x6E0, value));
    EXPECT_EQ(value, 0u);
  }
  timers_.RunDue();
  EXPECT_EQ(a.PendingVector(), -1) << "and once";
  a.WriteMmio(0x320, 0x10040 | 2 << 17);
  ASSERT_TRUE(a.WriteMsr(0x6E0, 1));
  a.WriteMmio(0x320, 0x40 | 2 << 17);
  EXPECT_EQ(a.PendingVector(), -1) << "it expired while it was masked";
}

TEST_F(ApicTest, ADeadlineGoesByTheTsc) {
  auto& a = apic(0);
  a.WriteMmio(0x320, 0x40 | 2 << 17);
  ASSERT_TRUE(a.WriteMsr(0x6E0, cpus_[0]->ReadTsc() + 1'000'000));
  cpus_[0]->tsc_offset = 2'000'000;
  a.OnTscChanged();
  EXPECT_EQ(a.Acknowledge(), 0x40);
  a.Eoi();
  ASSERT_TRUE(a.WriteMsr(0x6E0, cpus_[0]->ReadTsc() + 1'000));
  cpus_[0]->tsc_offset = 0;
  a.OnTscChanged();
  clock_.Advance(10'000);
  timers_.RunDue();
  EXPECT_EQ(a.PendingVector(), -1) << "the deadline is two milliseconds further away";
  clock_.Advance(11'000);
  timers_.RunDue();
  EXPECT_EQ(a.Acknowledge(), 0x40);
}

TEST_F(ApicTest, AnExpiredTimerStaysExpiredInAnotherMode) {
  auto& a = apic(0);
  a.WriteMmio(0x3E0, 0b1011);
  for (const bool late : {false, true}) {
    a.WriteMmio(0x320, 0x40);
    a.WriteMmio(0x380, 1'000'000);  // 10 ms
    clock_.Advance(150'000);
    if (!late) timers_.RunDue();
    a.WriteMmio(0x320, 0x41 | 1 << 17);
    EXPECT_EQ(a.ReadMmio(0x390), 0u);
    EXPECT_EQ(a.Acknowledge(), 0x40) << "what expired, by the entry of that time";
    a.Eoi();
    clock_.Advance(1'000'000);
    timers_.RunDue();
    EXPECT_EQ(a.PendingVector(), -1) << "only a write of the initial count starts it";
    EXPECT_EQ(a.ReadMmio(0x390), 0u);
  }
}

TEST_F(ApicTest, ACountUnderWayGoesOnInAnotherMode) {
  auto& a = apic(0);
  a.WriteMmio(0x3E0, 0b1011);
  a.WriteMmio(0x320, 0x40);
  a.WriteMmio(0x380, 1'000'000);
  clock_.Advance(40'000);
  a.WriteMmio(0x320, 0x40 | 1 << 17);
  EXPECT_EQ(a.ReadMmio(0x390), 600'000u);
  clock_.Advance(60'000);
  timers_.RunDue();
  EXPECT_EQ(a.Acknowledge(), 0x40);
  a.Eoi();
  clock_.Advance(230'000);
  timers_.RunDue();
  EXPECT_EQ(a.Acknowledge(), 0x40) << "now it repeats";
  a.Eoi();
  EXPECT_EQ(a.ReadMmio(0x390), 700'000u);
  a.WriteMmio(0x320, 0x40);
  EXPECT_EQ(a.ReadMmio(0x390), 700'000u) << "in its third period";
  clock_.Advance(70'000);
  timers_.RunDue();
  EXPECT_EQ(a.Acknowledge(), 0x40);
  a.Eoi();
  clock_.Advance(1'000'000);
  timers_.RunDue();
  EXPECT_EQ(a.PendingVector(), -1) << "which was the last";
  a.WriteMmio(0x380, 1'000'000);
  a.WriteMmio(0x320, 0x40 | 2 << 17);
  EXPECT_EQ(a.ReadMmio(0x390), 0u) << "the deadline mode ends it";
  a.WriteMmio(0x320, 0x40);
  clock_.Advance(1'000'000);
  timers_.RunDue();
  EXPECT_EQ(a.PendingVector(), -1);
}

TEST_F(ApicTest, WhatIsLeftOfACountGoesOnAtTheNewRate) {
  auto& a = apic(0);
  a.WriteMmio(0x320, 0x40);
  a.WriteMmio(0x3E0, 0b1011);
  a.WriteMmio(0x380, 1'000'000);
  clock_.Advance(50'000);
  a.WriteMmio(0x3E0, 0b0000);  // half as fast
  EXPECT_EQ(a.ReadMmio(0x390), 500'000u);
  clock_.Advance(99'999);
  timers_.RunDue();
  EXPECT_EQ(a.PendingVector(), -1);
  clock_.Advance(1);
  timers_.RunDue();
  EXPECT_EQ(a.Acknowledge(), 0x40);
}

TEST_F(ApicTest, AModeThatTheProcessorLacksIsReserved) {
  ApicBus bus;
  Processor cpu(0, bus, clock_, timers_);
  cpu.apic = std::make_unique<LocalApic>(LocalApic::Config{.tsc_frequency_hz = kTscHz,
                                                           .timer_frequency_hz = kTimerHz,
                                                           .x2apic = false,
                                                           .tsc_deadline = false,
                                                           .physical_address_bits = 40},
                                         bus, cpu, clock_, timers_);
  cpu.Enable();
  EXPECT_FALSE(cpu.apic->WriteBase(cpu.apic->base() | LocalApic::kBaseX2apic));
  EXPECT_FALSE(cpu.apic->WriteBase(cpu.apic->base() | uint64_t{1} << 40));
  uint64_t value;
  EXPECT_FALSE(cpu.apic->ReadMsr(0x6E0, value));
  EXPECT_FALSE(cpu.apic->WriteMsr(0x6E0, 1));
  cpu.apic->WriteMmio(0x320, 0x40 | 2 << 17);
  EXPECT_EQ(cpu.apic->ReadMmio(0x320), 0x40u);
}

TEST_F(ApicTest, IoApicEdgeInterruptsAreSentOncePerEdge) {
  Program(4, 0x34);
  io_apic_.SetLine(4, true);
  io_apic_.SetLine(4, true);
  EXPECT_EQ(apic(0).Acknowledge(), 0x34);
  apic(0).Eoi();
  EXPECT_EQ(apic(0).PendingVector(), -1);
  io_apic_.SetLine(4, false);
  Program(4, 0x34 | 1 << 16);
  io_apic_.SetLine(4, true);
  EXPECT_EQ(apic(0).PendingVector(), -1);
  Program(4, 0x34);
  EXPECT_EQ(apic(0).PendingVector(), -1) << "an edge on a masked pin is not held (82093AA, 3.2.4, bit 16)";
  io_apic_.SetLine(4, false);
  io_apic_.SetLine(4, true);
  EXPECT_EQ(apic(0).Acknowledge(), 0x34);
  apic(0).Eoi();
  Program(4, 0x34 | 1 << 15);
  EXPECT_EQ(apic(0).Acknowledge(), 0x34) << "as a level it is there";
}

TEST_F(ApicTest, IoApicLevelInterruptsAreHeldWhileMaskedOrRefused) {
  constexpr uint64_t kLevel = 1 << 15, kMasked = 1 << 16, kStatus = 1 << 12, kRemoteIrr = 1 << 14;
  const auto low = [&] {
    io_apic_.WriteMmio(0, 0x10 + 18);
    return io_apic_.ReadMmio(0x10) & (kStatus | kRemoteIrr);
  };
  Program(9, uint64_t{2} << 56 | 0x99 | kLevel | kMasked);
  io_apic_.SetLine(9, true);
  EXPECT_EQ(low(), 0u) << "a level on a masked pin has no effect";
  apic(2).WriteMmio(0xF0, 0xFF);
  Program(9, uint64_t{2} << 56 | 0x99 | kLevel);
  EXPECT_EQ(low(), kStatus) << "the processor takes no interrupts: delivery is pending, and nothing is to be ended";
  apic(2).WriteMmio(0xF0, 0x1FF);
  EXPECT_EQ(low(), kRemoteIrr);
  EXPECT_EQ(apic(2).Acknowledge(), 0x99);
  Program(9, uint64_t{2} << 56 | 0x99 | kLevel | kMasked);
  EXPECT_EQ(low(), kRemoteIrr) << "masking does not end what was accepted";
  apic(2).Eoi();
  EXPECT_EQ(low(), 0u);
  EXPECT_EQ(apic(2).PendingVector(), -1);
  Program(9, uint64_t{9} << 56 | 0x99 | kLevel);
  EXPECT_EQ(low(), kStatus) << "no such processor";
  io_apic_.SetLine(9, false);
  EXPECT_EQ(low(), 0u);
}

TEST_F(ApicTest, IoApicReadOnlyBitsStay) {
  Program(3, 0xFFFFFFFFFFFE0000 | 0x5000 | 1 << 16);
  io_apic_.WriteMmio(0, 0x10 + 6);
  EXPECT_EQ(io_apic_.ReadMmio(0x10), 1u << 16) << "delivery status, remote IRR and reserved bits";
  io_apic_.WriteMmio(0, 0x11 + 6);
  EXPECT_EQ(io_apic_.ReadMmio(0x10), 0xFF000000u);
  for (const uint32_t reg : {1u, 2u}) {
    io_apic_.WriteMmio(0, reg);
    const uint32_t before = io_apic_.ReadMmio(0x10);
    io_apic_.WriteMmio(0x10, ~before);
    EXPECT_EQ(io_apic_.ReadMmio(0x10), before);
  }
  io_apic_.WriteMmio(0, 0xFFFFFF00);
  EXPECT_EQ(io_apic_.ReadMmio(0), 0u) << "the select register has eight bits";
}

TEST_F(ApicTest, IoApicNmisAreEdgesWhateverTheirEntrySays) {
  Program(5, 0x400 | 1 << 15);
  for (int i = 0; i < 2; ++i) {
    io_apic_.SetLine(5, true);
    EXPECT_EQ(apic(0).TakeSignals(), LocalApic::kNmi);
    io_apic_.WriteMmio(0, 0x10 + 10);
    EXPECT_FALSE(io_apic_.ReadMmio(0x10) & 1 << 14);
    io_apic_.SetLine(5, true);
    EXPECT_EQ(apic(0).TakeSignals(), 0u);
    io_apic_.SetLine(5, false);
  }
}

TEST_F(ApicTest, IoApicLevelInterruptsComeBackUntilTheLineDrops) {
  Program(9, uint64_t{1} << 56 | 0x99 | 1 << 15);
  io_apic_.SetLine(9, true);
  EXPECT_EQ(apic(1).Acknowledge(), 0x99);
  io_apic_.WriteMmio(0, 0x10 + 18);
  EXPECT_TRUE(io_apic_.ReadMmio(0x10) & 1 << 14) << "remote IRR";
  EXPECT_EQ(apic(1).PendingVector(), -1);
  apic(1).Eoi();
  EXPECT_EQ(apic(1).Acknowledge(), 0x99) << "the line is still up";
  io_apic_.SetLine(9, false);
  apic(1).Eoi();
  EXPECT_EQ(apic(1).PendingVector(), -1);
  EXPECT_FALSE(io_apic_.ReadMmio(0x10) & 1 << 14);
}

TEST_F(ApicTest, MessageSignalledInterruptsAreDecoded) {
  bus_.DeliverMsi(0xFEE00000 | 3 << 12, 0x4077);
  EXPECT_EQ(apic(3).Acknowledge(), 0x77);
  bus_.DeliverMsi(0x12345000, 0x77);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(apic(i).PendingVector(), -1);
}

// Intel SDM volume 3, 11.4.3 and 11.5.1: LINT0 leads 8259s in while it is ExtINT and open, or the APIC is disabled.
TEST_F(ApicTest, ExtIntComesByLint0) {
  const auto accepts = [&](uint32_t lint0) {
    apic(0).WriteMmio(0x350, lint0);
    return apic(0).accepts_extint();
  };
  EXPECT_FALSE(apic(0).accepts_extint()) << "masked by reset";
  EXPECT_TRUE(accepts(0x700));
  EXPECT_FALSE(accepts(0x10700));
  EXPECT_FALSE(accepts(0x400)) << "an NMI";
  EXPECT_TRUE(accepts(0x8731)) << "neither trigger nor vector count";
  apic(0).WriteMmio(0xF0, 0xFF);
  EXPECT_FALSE(apic(0).accepts_extint()) << "masked when the APIC is disabled by software";
  ASSERT_TRUE(apic(0).WriteBase(apic(0).base() & ~LocalApic::kBaseEnable));
  EXPECT_TRUE(apic(0).accepts_extint());
  LocalApic wired({.id = 9, .tsc_frequency_hz = kTscHz, .timer_frequency_hz = kTimerHz, .virtual_wire = true}, bus_,
                  *cpus_[1], clock_, timers_);
  EXPECT_TRUE(wired.accepts_extint());
  EXPECT_EQ(wired.ReadMmio(0x350), 0x700u);
  wired.WriteMmio(0x350, 0x10000);
  wired.Reset(/*init=*/true);
  EXPECT_TRUE(wired.accepts_extint());
}

TEST_F(ApicTest, RandomRegisterWritesNeverBreakInvariants) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  for (int step = 0; step < 100'000; ++step) {
    auto& a = apic(random() % 4);
    switch (random() % 6) {
      case 0:
        a.WriteMmio(random() % 64 * 16, random());
        break;
      case 1:
        (void)a.WriteMsr(0x800 + random() % 64, random());
        break;
      case 2:
        bus_.DeliverMsi(0xFEE00000 | random() % 0x100000, random() & 0xFFFF);
        break;
      case 3:
        io_apic_.WriteMmio(random() % 2 * 16, random());
        break;
      case 4:
        io_apic_.SetLine(random() % 30, random() % 2);
        break;
      case 5:
        clock_.Advance(random() % 100'000);
        timers_.RunDue();
        break;
    }
    const int pending = a.PendingVector();
    if (pending >= 0) {
      ASSERT_GE(pending, 16);
      ASSERT_GT(pending >> 4, a.processor_priority() >> 4);
      ASSERT_EQ(a.Acknowledge(), pending);
    }
    if (random() % 2) a.Eoi();
    (void)a.TakeSignals();
  }
}

TEST_F(ApicTest, InterruptsFromManyThreadsAreNeverLost) {
  std::vector<std::thread> senders;
  for (int sender = 0; sender < 2; ++sender) {
    senders.emplace_back([this, sender] {
      for (int vector = 0x20 + sender; vector < 0x100; vector += 2) {
        bus_.Deliver({.destination = 1, .vector = static_cast<uint8_t>(vector)});
      }
    });
  }
  int received = 0;
  while (received < 0xE0) {
    if (apic(1).Acknowledge() < 0) continue;
    apic(1).Eoi();
    ++received;
  }
  for (auto& sender : senders) sender.join();
  EXPECT_EQ(apic(1).PendingVector(), -1);
}

}  // namespace
}  // namespace hvsdk::interrupt
