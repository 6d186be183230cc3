// SPDX-License-Identifier: Apache-2.0
// The pair of 8259As: what the data sheet says case by case, and random steps beside a reference written from it.
#include "hvsdk/interrupt/pic8259.h"

#include <array>
#include <deque>
#include <random>
#include <sstream>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::interrupt {
namespace {

constexpr uint64_t kMaster = Pic8259Pair::kMaster, kSlave = Pic8259Pair::kSlave, kTrigger = Pic8259Pair::kTrigger;

class Pic8259Test : public testing::Test {
 protected:
  void Write(uint64_t offset, uint8_t value) { pic_.Write(offset, {&value, 1}); }
  uint8_t Read(uint64_t offset) {
    uint8_t value = 0;
    pic_.Read(offset, {&value, 1});
    return value;
  }
  uint8_t InService(uint64_t chip) {
    Write(chip, 0x0B);
    return Read(chip);
  }
  uint8_t Requests(uint64_t chip) {
    Write(chip, 0x0A);
    return Read(chip);
  }
  // As a PC's firmware does, with vectors from 8 and 0x70, and everything open.
  void Initialise(uint8_t master_icw4 = 1, uint8_t slave_icw4 = 1) {
    for (const auto& [chip, icws] : {std::pair{kMaster, std::array<uint8_t, 3>{0x08, 4, master_icw4}},
                                     std::pair{kSlave, std::array<uint8_t, 3>{0x70, 2, slave_icw4}}}) {
      Write(chip, 0x11);
      for (const uint8_t icw : icws) Write(chip + 1, icw);
    }
  }
  void Pulse(uint32_t irq) {
    pic_.SetLine(irq, true);
    pic_.SetLine(irq, false);
  }
  // INTA, if there is an interrupt.
  int Take() { return pic_.interrupt() ? pic_.Acknowledge() : -1; }

  int raised_ = 0;
  Pic8259Pair pic_{[this] { ++raised_; }};
};

TEST_F(Pic8259Test, OffsetsOfPorts) {
  for (uint32_t port = 0; port < 0x10000; ++port) {
    const int offset = Pic8259Pair::OffsetOf(static_cast<uint16_t>(port));
    switch (port) {
      case 0x20:
        EXPECT_EQ(offset, 0);
        break;
      case 0x21:
        EXPECT_EQ(offset, 1);
        break;
      case 0xA0:
        EXPECT_EQ(offset, 2);
        break;
      case 0xA1:
        EXPECT_EQ(offset, 3);
        break;
      case 0x4D0:
        EXPECT_EQ(offset, 4);
        break;
      case 0x4D1:
        EXPECT_EQ(offset, 5);
        break;
      default:
        EXPECT_EQ(offset, -1) << port;
    }
  }
}

TEST_F(Pic8259Test, AllIsMaskedAtPowerOn) {
  EXPECT_EQ(Read(kMaster + 1), 0xFF);
  EXPECT_EQ(Read(kSlave + 1), 0xFF);
  for (uint32_t irq = 0; irq < 20; ++irq) Pulse(irq);
  EXPECT_EQ(Take(), -1);
  EXPECT_EQ(raised_, 0);
  // What Linux asks to learn whether there are any.
  Write(kMaster + 1, 0xFB);
  EXPECT_EQ(Read(kMaster + 1), 0xFB);
  EXPECT_EQ(Take(), -1) << "the slave is masked";
}

TEST_F(Pic8259Test, InitialisationForgets) {
  Initialise();
  Pulse(1);
  EXPECT_EQ(Take(), 0x09);
  Write(kMaster + 1, 0xF0);
  Write(kMaster, 0xC3);  // priorities
  Write(kMaster, 0x68);  // special mask mode
  pic_.SetLine(3, true);
  pic_.SetLine(9, true);
  Initialise();
  EXPECT_EQ(Read(kMaster + 1), 0) << "ICW1 opens all";
  EXPECT_EQ(InService(kMaster), 0);
  EXPECT_EQ(Requests(kMaster), 0) << "an edge that was before counts no more";
  EXPECT_EQ(Take(), -1);
  pic_.SetLine(3, true);
  EXPECT_EQ(Take(), -1) << "it has not been low";
  Pulse(4), Pulse(0);
  EXPECT_EQ(Take(), 0x08) << "input 7 is the lowest again";
}

TEST_F(Pic8259Test, NothingIsRequestedWhileItIsInitialised) {
  Initialise();
  Write(kTrigger, 0x20);
  Write(kMaster, 0x11);
  pic_.SetLine(5, true);
  for (const uint8_t icw : {0x40, 4, 1}) {
    EXPECT_EQ(Take(), -1);
    Write(kMaster + 1, icw);
  }
  EXPECT_EQ(Take(), 0x45);
}

TEST_F(Pic8259Test, IcwSequencesHaveTheirLengths) {
  Write(kMaster, 0x12);  // single, no ICW4
  Write(kMaster + 1, 0x57);
  Write(kMaster + 1, 0xA5);
  EXPECT_EQ(Read(kMaster + 1), 0xA5);
  Write(kMaster, 0x13);  // single, ICW4
  Write(kMaster + 1, 0x57), Write(kMaster + 1, 0x01);
  Write(kMaster + 1, 0xA6);
  EXPECT_EQ(Read(kMaster + 1), 0xA6);
  Write(kMaster, 0x10);  // ICW3, no ICW4
  Write(kMaster + 1, 0x57), Write(kMaster + 1, 0x04);
  Write(kMaster + 1, 0xA7);
  EXPECT_EQ(Read(kMaster + 1), 0xA7);
  Pulse(6);
  EXPECT_EQ(Take(), 0x56) << "of ICW2 the upper five bits";
}

TEST_F(Pic8259Test, PrioritiesNest) {
  Initialise();
  Pulse(5);
  EXPECT_EQ(Take(), 0x0D);
  Pulse(5), Pulse(6), Pulse(3);
  EXPECT_EQ(Requests(kMaster), 0x68);
  EXPECT_EQ(Take(), 0x0B);
  EXPECT_EQ(InService(kMaster), 0x28);
  EXPECT_EQ(Take(), -1);
  Write(kMaster, 0x20);  // ends 3
  EXPECT_EQ(InService(kMaster), 0x20);
  EXPECT_EQ(Take(), -1) << "neither 5, which is in service, nor 6";
  Write(kMaster, 0x20);
  EXPECT_EQ(Take(), 0x0D);
  Write(kMaster, 0x65);  // specifically
  EXPECT_EQ(Take(), 0x0E);
}

TEST_F(Pic8259Test, TheSlaveIsBehindInput2) {
  Initialise();
  Pulse(12), Pulse(3);
  EXPECT_EQ(Take(), 0x74);
  EXPECT_EQ(InService(kMaster), 0x04);
  EXPECT_EQ(InService(kSlave), 0x10);
  Pulse(8);
  EXPECT_EQ(Take(), -1) << "the master does not see more of a slave in service";
  Write(kSlave, 0x20);
  EXPECT_EQ(Take(), -1);
  Write(kMaster, 0x20);
  EXPECT_EQ(Take(), 0x70);
  Write(kSlave, 0x20), Write(kMaster, 0x20);
  EXPECT_EQ(Take(), 0x0B);
}

TEST_F(Pic8259Test, SpecialFullyNestedModeSeesMoreOfTheSlave) {
  Initialise(0x11);
  Pulse(12);
  EXPECT_EQ(Take(), 0x74);
  Pulse(3), Pulse(13);
  EXPECT_EQ(Take(), -1) << "lower ones wait";
  Pulse(9);
  EXPECT_EQ(Take(), 0x71);
  EXPECT_EQ(InService(kSlave), 0x12);
  Write(kSlave, 0x20), Write(kSlave, 0x20);
  EXPECT_EQ(Take(), 0x75);
}

TEST_F(Pic8259Test, PrioritiesRotate) {
  Initialise();
  Pulse(3), Pulse(5);
  EXPECT_EQ(Take(), 0x0B);
  Write(kMaster, 0xA0);  // ends 3, which is the lowest now
  Pulse(3), Pulse(1);
  EXPECT_EQ(Take(), 0x0D);
  Write(kMaster, 0xE5);  // ends 5 specifically
  EXPECT_EQ(Take(), 0x09);
  Write(kMaster, 0x61);
  EXPECT_EQ(Take(), 0x0B);
  Write(kMaster, 0x20);
  Write(kMaster, 0xC6);  // sets priority: 7 is the highest
  Pulse(0), Pulse(6), Pulse(7);
  EXPECT_EQ(Take(), 0x0F);
  EXPECT_EQ(Take(), -1);
  Write(kMaster, 0x40);  // no operation
  EXPECT_EQ(Take(), -1);
  Write(kMaster, 0x20);
  EXPECT_EQ(Take(), 0x08);
}

TEST_F(Pic8259Test, AutomaticEnd) {
  Initialise(3, 3);
  Pulse(4), Pulse(11);
  EXPECT_EQ(Take(), 0x73);
  EXPECT_EQ(InService(kMaster) | InService(kSlave), 0);
  EXPECT_EQ(Take(), 0x0C);
  Write(kMaster, 0x80);  // rotates
  Pulse(3), Pulse(4);
  EXPECT_EQ(Take(), 0x0B);
  Pulse(3);
  EXPECT_EQ(Take(), 0x0C);
  Pulse(4), Pulse(3);
  EXPECT_EQ(Take(), 0x0B);
  EXPECT_EQ(Take(), 0x0C);
  Write(kMaster, 0x00);
  // Two of the slave's, the second of which was there all the time.
  Pulse(9), Pulse(10);
  EXPECT_EQ(Take(), 0x71);
  EXPECT_EQ(Take(), 0x72);
}

TEST_F(Pic8259Test, SpecialMaskModeLetsLowerOnesIn) {
  Initialise();
  Pulse(4);
  EXPECT_EQ(Take(), 0x0C);
  Pulse(6);
  EXPECT_EQ(Take(), -1);
  Write(kMaster + 1, 0x10);
  EXPECT_EQ(Take(), -1);
  Write(kMaster, 0x68);
  EXPECT_EQ(Take(), 0x0E);
  Write(kMaster, 0x20);
  EXPECT_EQ(InService(kMaster), 0x10) << "a masked one is not ended by a non-specific EOI";
  Write(kMaster, 0x20);
  EXPECT_EQ(InService(kMaster), 0x10);
  Write(kMaster, 0x64);
  EXPECT_EQ(InService(kMaster), 0);
  Pulse(5);
  EXPECT_EQ(Take(), 0x0D);
  Write(kMaster, 0x48);  // ends the mode
  Write(kMaster + 1, 0x20);
  Pulse(7);
  EXPECT_EQ(Take(), -1);
  Write(kMaster, 0x08);  // leaves it as it is
  EXPECT_EQ(Take(), -1);
}

TEST_F(Pic8259Test, PollTakesIntoService) {
  Initialise();
  Write(kMaster, 0x0C);
  EXPECT_EQ(Read(kMaster) & 0x80, 0);
  Pulse(6), Pulse(3);
  Write(kMaster, 0x0C);
  EXPECT_EQ(Read(kMaster), 0x83);
  EXPECT_EQ(Read(kMaster), 0x40) << "one read alone is a poll";
  EXPECT_EQ(InService(kMaster), 0x08);
  EXPECT_FALSE(pic_.interrupt());
  Write(kMaster, 0x20);
  // The slave's are polled of either.
  Pulse(10);
  Write(kSlave, 0x0C);
  EXPECT_EQ(Read(kSlave + 1), 0x82);
  EXPECT_EQ(InService(kSlave), 0x04);
  Write(kMaster, 0x0F);  // both: the poll counts, and the register stays
  EXPECT_EQ(Read(kMaster), 0x82);
}

TEST_F(Pic8259Test, LevelsComeAgain) {
  Initialise();
  Write(kTrigger, 0xFF), Write(kTrigger + 1, 0xFF);
  EXPECT_EQ(Read(kTrigger), 0xF8);
  EXPECT_EQ(Read(kTrigger + 1), 0xDE);
  pic_.SetLine(5, true);
  EXPECT_EQ(Take(), 0x0D);
  EXPECT_EQ(Take(), -1);
  Write(kMaster, 0x20);
  EXPECT_EQ(Take(), 0x0D);
  pic_.SetLine(5, false);
  Write(kMaster, 0x20);
  EXPECT_EQ(Take(), -1);
  pic_.SetLine(10, true);
  EXPECT_EQ(Take(), 0x72);
  Write(kSlave, 0x20), Write(kMaster, 0x20);
  EXPECT_EQ(Take(), 0x72);
  Pulse(1);
  Write(kTrigger, 0);
  EXPECT_EQ(Requests(kMaster) & 0x20, 0);
}

TEST_F(Pic8259Test, WhatIsWithdrawnIsSpurious) {
  Initialise();
  Write(kTrigger, 0x20);
  pic_.SetLine(5, true);
  EXPECT_TRUE(pic_.interrupt());
  pic_.SetLine(5, false);
  EXPECT_FALSE(pic_.interrupt());
  EXPECT_EQ(pic_.Acknowledge(), 0x0F);
  EXPECT_EQ(InService(kMaster), 0);
  Pulse(9);
  Write(kSlave + 1, 0x02);  // masked behind the master's back
  EXPECT_EQ(Take(), 0x77);
  EXPECT_EQ(InService(kMaster), 0x04) << "the master knows no better";
  EXPECT_EQ(InService(kSlave), 0);
}

TEST_F(Pic8259Test, TheProcessorIsToldOfEachRise) {
  Initialise();
  Pulse(5);
  EXPECT_EQ(raised_, 1);
  Pulse(3), Pulse(6);
  EXPECT_EQ(raised_, 1);
  EXPECT_EQ(Take(), 0x0B);
  EXPECT_EQ(raised_, 1);
  Write(kMaster, 0x20);
  EXPECT_EQ(raised_, 2);
  Write(kMaster + 1, 0xFF);
  Write(kMaster + 1, 0x00);
  EXPECT_EQ(raised_, 3);
}

// ---- A reference: the data sheet's words, for two chips that know each other by wires alone. ----
//
// Priorities are a list of inputs, the most urgent first; a rotation moves entries. Requests, service and masks are
// sets of bool. Nothing here is shared with the pair above.
class ReferenceChip {
 public:
  struct Input {
    bool line = false, latch = false, level = false, masked = true, in_service = false;
  };
  Input inputs[8];
  std::deque<int> order{0, 1, 2, 3, 4, 5, 6, 7};
  int vectors = 0;
  std::deque<int> expected_icws;
  bool single = false, aeoi = false, aeoi_rotates = false, special_mask = false, sfnm = false, poll = false,
       read_isr = false;
  bool is_master = false;

  bool Requests(int i) const { return inputs[i].level ? inputs[i].line : inputs[i].latch; }
  void Line(int i, bool level) {
    if (level && !inputs[i].line && !inputs[i].level) inputs[i].latch = true;
    inputs[i].line = level;
  }
  void Lowest(int i) {
    while (order.back() != i) {
      order.push_back(order.front());
      order.pop_front();
    }
  }
  // Which input INT is for.
  int Int() const {
    if (!expected_icws.empty()) return -1;
    for (const int i : order) {
      const bool wants = Requests(i) && !inputs[i].masked;
      const bool served = inputs[i].in_service && !(special_mask && inputs[i].masked);
      if (wants && !served) return i;
      if (wants && served && sfnm && is_master && !single && i == 2) return i;
      if (served) return -1;  // nothing at this level or below
    }
    return -1;
  }
  int Inta() {
    const int i = Int();
    if (i < 0) return -1;
    inputs[i].latch = false;
    inputs[i].in_service = !aeoi || inputs[i].in_service;
    if (aeoi && aeoi_rotates) Lowest(i);
    return i;
  }
  void Command(uint8_t value) {
    if (value & 0x10) {
      for (Input& input : inputs) input.latch = input.masked = input.in_service = false;
      order = {0, 1, 2, 3, 4, 5, 6, 7};
      aeoi = aeoi_rotates = special_mask = sfnm = poll = read_isr = false;
      single = value & 2;
      expected_icws = {2};
      if (!single) expected_icws.push_back(3);
      if (value & 1) expected_icws.push_back(4);
    } else if (value & 8) {
      if (value & 4) {
        poll = true;
      } else if ((value & 3) >= 2) {
        read_isr = (value & 3) == 3;
      }
      if ((value & 0x60) == 0x60) special_mask = true;
      if ((value & 0x60) == 0x40) special_mask = false;
    } else {
      const int named = value & 7;
      switch (value >> 5) {
        case 0:
          aeoi_rotates = false;
          break;
        case 4:
          aeoi_rotates = true;
          break;
        case 1:
        case 5:
          for (const int i : std::deque<int>(order)) {
            if (!inputs[i].in_service || (special_mask && inputs[i].masked)) continue;
            inputs[i].in_service = false;
            if (value >> 5 == 5) Lowest(i);
            break;
          }
          break;
        case 3:
        case 7:
          inputs[named].in_service = false;
          if (value >> 5 == 7) Lowest(named);
          break;
        case 6:
          Lowest(named);
          break;
      }
    }
  }
  void Data(uint8_t value) {
    if (expected_icws.empty()) {
      for (int i = 0; i < 8; ++i) inputs[i].masked = value >> i & 1;
      return;
    }
    const int icw = expected_icws.front();
    expected_icws.pop_front();
    if (icw == 2) vectors = value / 8 * 8;
    if (icw == 4) aeoi = value & 2, sfnm = value & 0x10;
  }
  uint8_t Read(bool data) {
    if (std::exchange(poll, false)) {
      const int i = Inta();
      return static_cast<uint8_t>(i < 0 ? 7 : 0x80 + i);
    }
    int value = 0;
    for (int i = 0; i < 8; ++i) value |= (data ? inputs[i].masked : read_isr ? inputs[i].in_service : Requests(i)) << i;
    return static_cast<uint8_t>(value);
  }
  void Levels(uint8_t value) {
    for (int i = 0; i < 8; ++i) {
      inputs[i].level = value >> i & 1;
      if (inputs[i].level) inputs[i].latch = false;
    }
  }
};

class ReferencePair {
 public:
  ReferencePair() { chips_[0].is_master = true; }
  void Line(int irq, bool level) {
    if (irq != 2) chips_[irq / 8].Line(irq % 8, level);
    Wire();
  }
  int Int() { return chips_[0].Int() >= 0; }
  uint8_t Inta() {
    int chip = 0;
    int i = chips_[0].Inta();
    if (i == 2 && !chips_[0].single) {
      chip = 1;
      i = SlaveInta();
    }
    Wire();
    return static_cast<uint8_t>(chips_[chip].vectors + (i < 0 ? 7 : i));
  }
  void Write(uint64_t offset, uint8_t value) {
    if (offset >= 4) {
      chips_[offset - 4].Levels(value & (offset == 4 ? 0xF8 : 0xDE));
    } else {
      offset % 2 ? chips_[offset / 2].Data(value) : chips_[offset / 2].Command(value);
    }
    Wire();
  }
  uint8_t Read(uint64_t offset) {
    int value = 0;
    if (offset >= 4) {
      for (int i = 0; i < 8; ++i) value |= chips_[offset - 4].inputs[i].level << i;
    } else {
      if (offset / 2 == 1 && chips_[1].poll) chips_[0].Line(2, false);  // a poll is INTA to the slave
      value = chips_[offset / 2].Read(offset % 2);
    }
    Wire();
    return static_cast<uint8_t>(value);
  }

 private:
  // The slave's INT falls with INTA.
  int SlaveInta() {
    chips_[0].Line(2, false);
    return chips_[1].Inta();
  }
  void Wire() { chips_[0].Line(2, chips_[1].Int() >= 0); }
  ReferenceChip chips_[2];
};

TEST_F(Pic8259Test, RandomStepsAgreeWithTheReference) {
  const uint32_t seed = TestSeed();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  const auto draw = [&](uint32_t end) { return static_cast<uint32_t>(random() % end); };
  for (int machine = 0; machine < static_cast<int>(ScaledCount(300)); ++machine) {
    pic_.Reset();
    ReferencePair reference;
    std::deque<std::string> steps;  // the last few
    const auto note = [&](auto... parts) {
      std::ostringstream text;
      ((text << parts << ' '), ...);
      steps.push_back(text.str());
      if (steps.size() > 60) steps.pop_front();
    };
    bool lines[16] = {};
    for (int step = 0; step < 400; ++step) {
      switch (draw(8)) {
        case 0:
        case 1:
        case 2: {
          const uint32_t irq = draw(16);
          lines[irq] = !lines[irq];
          note("line", irq, lines[irq]);
          pic_.SetLine(irq, lines[irq]);
          reference.Line(static_cast<int>(irq), lines[irq]);
          break;
        }
        case 3: {
          // Now and then a whole initialisation, mostly with everything open; else commands of every kind.
          const uint64_t chip = draw(2) * 2;
          const auto write = [&](uint64_t offset, uint32_t value) {
            note("write", offset, value);
            Write(offset, static_cast<uint8_t>(value));
            reference.Write(offset, static_cast<uint8_t>(value));
          };
          if (draw(6) == 0) {
            const uint32_t icw1 = 0x10 | (draw(4) ? 1 : draw(16));
            write(chip, icw1);
            for (int i = draw(16) ? 3 : 1; i > 0; --i) write(chip + 1, draw(256) & (draw(3) ? 0xFD : 0xFF));
          } else if (draw(3) == 0) {
            write(chip + 1, draw(2) ? 0 : draw(256));
          } else if (draw(4) == 0) {
            write(kTrigger + draw(2), draw(256));
          } else {
            write(chip, draw(2) ? draw(8) << 5 | draw(8) : 8 | draw(8) | draw(4) << 5);
          }
          break;
        }
        case 4:
        case 5: {
          const uint64_t offset = draw(6);
          note("read", offset);
          ASSERT_EQ(Read(offset), reference.Read(offset)) << testing::PrintToString(steps);
          break;
        }
        default:
          // A processor that takes what there is, and some that do not look.
          if (!pic_.interrupt() && draw(8)) break;
          note("inta");
          ASSERT_EQ(pic_.Acknowledge(), reference.Inta()) << testing::PrintToString(steps);
      }
      ASSERT_EQ(pic_.interrupt(), reference.Int()) << testing::PrintToString(steps);
    }
  }
}

}  // namespace
}  // namespace hvsdk::interrupt
