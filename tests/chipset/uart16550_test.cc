// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/chipset/uart16550.h"

#include <deque>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "hvsdk/chipset/bus.h"
#include "tests/random_seed.h"

namespace hvsdk::chipset {
namespace {

class UartTest : public ::testing::Test {
 protected:
  UartTest()
      : uart_({.irq =
                   [this](bool level) {
                     edges_ += level;
                     irq_ = level;
                   },
               .output_ready = [this] { ++output_ready_; },
               .input_room = [this] { ++input_room_; }}) {
    EXPECT_TRUE(bus_.Map(0x3F8, Uart16550::kPorts, &uart_).ok());
  }

  uint8_t In(uint64_t reg) {
    uint8_t value;
    EXPECT_TRUE(bus_.Read(0x3F8 + reg, absl::MakeSpan(&value, 1)));
    return value;
  }
  void Out(uint64_t reg, uint8_t value) { EXPECT_TRUE(bus_.Write(0x3F8 + reg, {value})); }
  std::string Output() {
    std::string all(Uart16550::kOutputSize, 0);
    all.resize(uart_.TakeOutput(absl::MakeSpan(reinterpret_cast<uint8_t*>(all.data()), all.size())));
    return all;
  }
  size_t Input(absl::string_view text) {
    return uart_.PutInput(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  }

  int edges_ = 0, output_ready_ = 0, input_room_ = 0;
  bool irq_ = false;
  Uart16550 uart_;
  Bus bus_;
};

TEST_F(UartTest, SendsInOrderAndTellsOnce) {
  for (char c : std::string("hello")) Out(0, c);
  EXPECT_EQ(output_ready_, 1);
  EXPECT_EQ(Output(), "hello");
  Out(0, '!');
  EXPECT_EQ(output_ready_, 2);
  EXPECT_EQ(In(5), 0x60);
}

// However fast the line, a handler like Linux' comes to its end.
TEST_F(UartTest, AnInterruptHasAnEnd) {
  const std::string sent(5000, 'o');
  std::string input;
  for (int i = 0; i < 5000; ++i) input += static_cast<char>(i);
  size_t written = 0, put = 0, most = 0;
  std::string got;
  // Somebody who is always faster than the guest.
  const auto refill = [&] { put += Input(absl::string_view(input).substr(put, 64)); };
  Out(2, 0x07);  // FIFOs, emptied
  Out(4, 0x08);
  Out(1, 0x03);
  refill();
  int handlers = 0;
  for (int seen = 0; seen != edges_ && handlers < 5000; ++handlers) {
    seen = edges_;
    size_t moved = 0;
    for (uint8_t id; ((id = In(2)) & 1) == 0;) {
      for (int i = 0; i < 256 && (In(5) & 1) != 0; ++i, ++moved) {
        got += static_cast<char>(In(0));
        refill();
      }
      if (id != 0xC2) continue;
      if (written == sent.size()) Out(1, 0x01);
      for (int i = 0; i < 16 && written < sent.size(); ++i, ++moved) Out(0, sent[written++]);
    }
    most = std::max(most, moved);
  }
  EXPECT_EQ(written, sent.size());
  EXPECT_TRUE(Output() == sent);
  EXPECT_TRUE(got == input);
  EXPECT_LE(most, Uart16550::kMostAtOnce + 256 + 16);
  EXPECT_FALSE(irq_);
}

// A handler that looks once for each edge gets one as long as there is something to do.
TEST_F(UartTest, AHandlerThatLooksOnceIsCalledAgain) {
  const std::string sent(5000, 'o');
  size_t written = 0;
  Out(2, 0x07);
  Out(4, 0x08);
  Out(1, 0x02);
  for (int seen = 0, handlers = 0; seen != edges_ && written < sent.size() && handlers < 5000; ++handlers) {
    seen = edges_;
    if (In(2) != 0xC2) continue;
    for (int i = 0; i < 16 && written < sent.size(); ++i) Out(0, sent[written++]);
  }
  EXPECT_TRUE(Output() == sent);
}

// How Linux finds out whether a port tells again, once it is asked to, that the transmitter is empty.
TEST_F(UartTest, EnablingTellsThatTheTransmitterIsEmpty) {
  for (int i = 0; i < 40; ++i) Out(0, 'x');
  for (int i = 0; i < 3; ++i) {
    Out(1, 0x02);
    EXPECT_EQ(In(2), 0x02);
    Out(1, 0x00);
    EXPECT_EQ(In(2), 0x01);
  }
}

TEST_F(UartTest, BusyWhenTheHostDoesNotRead) {
  Out(4, 0x08);
  Out(1, 0x02);  // THRE interrupts
  EXPECT_TRUE(irq_);
  for (size_t i = 0; i < Uart16550::kOutputSize; ++i) Out(0, 'x');
  EXPECT_EQ(In(5) & 0x60, 0);
  EXPECT_FALSE(irq_);
  Out(0, 'y');  // lost
  const int edges = edges_;
  EXPECT_EQ(Output(), std::string(Uart16550::kOutputSize, 'x'));
  EXPECT_EQ(In(5) & 0x60, 0x60);
  EXPECT_EQ(edges_, edges + 1);
  EXPECT_EQ(In(2) & 0x0F, 0x02);
  EXPECT_FALSE(irq_);
}

// Linux's 8250 driver: autoconfig looks at the interrupt enable register, the scratch register and the loopback.
TEST_F(UartTest, LooksLikeA16550A) {
  Out(1, 0x00);
  EXPECT_EQ(In(1), 0x00);
  Out(1, 0x0F);
  EXPECT_EQ(In(1) & 0x0F, 0x0F);
  Out(1, 0x00);
  Out(4, 0x1A);
  EXPECT_EQ(In(6) & 0xF0, 0x90);
  Out(4, 0x00);
  EXPECT_EQ(In(2) >> 6, 0);
  Out(2, 0x01);
  EXPECT_EQ(In(2) >> 6, 3);
  Out(3, 0x80);
  Out(0, 0x01);
  Out(1, 0x00);
  EXPECT_EQ(In(0), 0x01);
  Out(3, 0x03);
  Out(7, 0xA5);
  EXPECT_EQ(In(7), 0xA5);
  Out(2, 0x21);  // a 16750 would show bit 5
  EXPECT_EQ(In(2) & 0x20, 0);
}

TEST_F(UartTest, LoopbackSendsToItself) {
  Out(2, 0x01);
  Out(4, 0x10);
  for (uint8_t c : {'a', 'b', 'c'}) Out(0, c);
  EXPECT_EQ(Input("host"), 0u);  // cut off from the line
  EXPECT_EQ(In(0), 'a');
  EXPECT_EQ(In(0), 'b');
  EXPECT_EQ(In(5) & 0x01, 0x01);
  EXPECT_EQ(In(0), 'c');
  EXPECT_EQ(Output(), "");
  Out(4, 0x00);
  EXPECT_GE(input_room_, 1);
}

TEST_F(UartTest, ModemDeltasInterrupt) {
  Out(4, 0x1F);  // loopback with all outputs on
  (void)In(6);
  Out(4, 0x10);
  EXPECT_EQ(In(6), 0x0F);  // all four fell; RI shows its trailing edge
  EXPECT_EQ(In(6), 0x00);
}

TEST_F(UartTest, OverrunIsReportedOnce) {
  Out(4, 0x10);
  Out(0, 'a');
  Out(0, 'b');  // no FIFO: one place
  EXPECT_EQ(In(5) & 0x03, 0x03);
  EXPECT_EQ(In(5) & 0x03, 0x01);
  EXPECT_EQ(In(0), 'b');
}

TEST_F(UartTest, InterruptPriorityAndGate) {
  Out(2, 0x81);  // FIFO, trigger 8
  Out(1, 0x0F);
  EXPECT_FALSE(irq_);  // OUT2 is off
  Out(4, 0x08);
  EXPECT_TRUE(irq_);
  EXPECT_EQ(Input("1234567"), 7u);
  EXPECT_EQ(In(2) & 0x0F, 0x0C);  // below the trigger: time-out
  EXPECT_EQ(Input("8"), 1u);
  EXPECT_EQ(In(2) & 0x0F, 0x04);
  for (int i = 0; i < 8; ++i) (void)In(0);
  EXPECT_EQ(In(2) & 0x0F, 0x02);
  EXPECT_EQ(In(2) & 0x0F, 0x01);
}

// Random accesses against what the datasheet says of the data path.
TEST_F(UartTest, ModelOfDataPath) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  std::deque<uint8_t> receiver;
  std::string sent, taken;
  size_t capacity = 1;
  bool loop = false;
  for (int step = 0; step < 200000; ++step) {
    const uint8_t value = random();
    switch (random() % 6) {
      case 0:
        if (loop) {
          if (receiver.size() < capacity) {
            receiver.push_back(value);
          } else if (capacity == 1) {
            receiver.back() = value;
          }
        } else if (sent.size() - taken.size() < Uart16550::kOutputSize) {
          sent += value;
        }
        Out(0, value);
        break;
      case 1: {
        const uint8_t expected = receiver.empty() ? 0 : receiver.front();
        if (!receiver.empty()) receiver.pop_front();
        ASSERT_EQ(In(0), expected);
        break;
      }
      case 2: {
        const std::string input(random() % 4, value);
        const size_t room = loop ? 0 : std::min(input.size(), capacity - receiver.size());
        ASSERT_EQ(Input(input), room);
        receiver.insert(receiver.end(), room, value);
        break;
      }
      case 3:
        taken += Output();
        ASSERT_EQ(taken, sent);
        taken.clear();
        sent.clear();
        break;
      case 4:
        if (random() % 20 == 0) {
          loop = value & 0x10;
          Out(4, value & 0x1F);
        }
        break;
      case 5:
        if (random() % 20 == 0) {
          const bool enable = value & 1;
          if (enable != (capacity == 16) || (enable && (value & 2))) receiver.clear();
          capacity = enable ? 16 : 1;
          Out(2, value);
        }
        break;
    }
    ASSERT_EQ(In(5) & 0x01, !receiver.empty());
  }
}

// Whatever a guest did to it: the next driver sets it up and finds it working.
TEST_F(UartTest, AnyAccessIsHarmless) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  for (int i = 0; i < 500000; ++i) {
    uint8_t data[4];
    for (uint8_t& byte : data) byte = random();
    const auto span = absl::MakeSpan(data).subspan(0, 1 + random() % 4);
    const uint64_t address = 0x3F4 + random() % 16;
    const bool is_ours = address >= 0x3F8 && address + span.size() <= 0x400;
    ASSERT_EQ(random() % 2 ? bus_.Write(address, span) : bus_.Read(address, span), is_ours);
    if (random() % 1000 == 0) Output();
    if (random() % 1000 == 0) Input("input");
  }
  Out(3, 0x03);  // the registers, not the divisor
  Out(4, 0x08);  // no loopback
  Out(1, 0x00);
  Out(2, 0x07);  // FIFOs, emptied
  Output();
  EXPECT_FALSE(irq_);
  EXPECT_EQ(In(5), 0x60);
  for (char c : std::string("hello")) Out(0, c);
  EXPECT_EQ(Output(), "hello");
  Out(1, 0x01);
  EXPECT_EQ(Input("hi"), 2u);
  EXPECT_TRUE(irq_);
  EXPECT_EQ(In(0), 'h');
  EXPECT_EQ(In(0), 'i');
  EXPECT_FALSE(irq_);
}

}  // namespace
}  // namespace hvsdk::chipset
