// SPDX-License-Identifier: Apache-2.0
#include "backend_software/vector/x87.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/backend_software/host_maker.h"
#include "tests/random_seed.h"

namespace hvsdk::software {
namespace {

class X87Test : public testing::Test {
 protected:
  X87Outcome Run(uint8_t opcode, uint8_t modrm, X87Image image = X87Image::kProtected32) {
    return ExecuteX87(state_, opcode, modrm, image, memory_, rflags_, ax_, stored_);
  }
  X87Outcome Load(double value) {
    std::memcpy(memory_, &value, 8);
    return Run(0xDD, 0x00);
  }
  long double St(int i) {
    long double value = 0;
    std::memcpy(&value, state_.st(i), 10);
    return value;
  }
  X87State state_;
  uint8_t memory_[128] = {};
  uint64_t rflags_ = 2;
  uint16_t ax_ = 0;
  bool stored_ = false;
};

TEST_F(X87Test, DividesToSixtyFourBitsOfSignificand) {
  Load(3);
  Load(1);
  EXPECT_EQ(Run(0xD8, 0xF1), X87Outcome::kDone);  // FDIV ST0, ST1
  EXPECT_EQ(St(0), 1.0L / 3.0L);
  EXPECT_EQ(state_.top(), 6u);
  EXPECT_EQ(state_.status & 0x20, 0x20) << "inexact";
  const uint8_t third[10] = {0xAB, 0xAA, 0xAA, 0xAA, 0xAA, 0xAA, 0xAA, 0xAA, 0xFD, 0x3F};
  EXPECT_EQ(std::memcmp(state_.st(0), third, 10), 0);
}

TEST_F(X87Test, HonoursPrecisionAndRoundingControl) {
  state_.control = 0x0C7F;  // single precision, towards zero
  Load(3);
  Load(2);
  Run(0xD8, 0xF1);
  EXPECT_EQ(St(0), static_cast<long double>(std::nextafter(2.0f / 3.0f, 0.0f)));
}

TEST_F(X87Test, StackOverflowAndUnderflowAreReported) {
  for (int i = 0; i < 8; ++i) Load(i);
  EXPECT_EQ(state_.status & 0x41, 0);
  Load(9);
  EXPECT_EQ(state_.status & 0x241, 0x241) << "invalid, stack fault, C1: overflow";
  EXPECT_TRUE(std::isnan(St(0)));
  Run(0xDB, 0xE3);
  Run(0xDD, 0xD8);  // FSTP ST0 of an empty stack
  EXPECT_EQ(state_.status & 0x241, 0x041) << "C1 is clear: underflow";
}

TEST_F(X87Test, AnUnmaskedZeroDivideLeavesTheOperandsAndWaits) {
  state_.control = 0x037B;
  Load(0);
  Load(1);
  EXPECT_EQ(Run(0xDE, 0xF1), X87Outcome::kDone);  // FDIVRP: 1 / 0
  EXPECT_EQ(state_.top(), 6u) << "nothing was popped";
  EXPECT_EQ(St(0), 1.0L);
  EXPECT_EQ(state_.status & 0x84, 0x84);
  EXPECT_TRUE(X87ExceptionPending(state_));
  EXPECT_EQ(Run(0xD8, 0xC0), X87Outcome::kPendingException);
  EXPECT_EQ(Run(0xDF, 0xE0), X87Outcome::kDone) << "FNSTSW does not wait";
  EXPECT_EQ(ax_ & 0x8084, 0x8084);
  EXPECT_EQ(Run(0xDB, 0xE2), X87Outcome::kDone);
  EXPECT_EQ(Run(0xD8, 0xC0), X87Outcome::kDone);
  EXPECT_EQ(St(0), 2.0L);
}

TEST_F(X87Test, AnUnmaskedInvalidStoreWritesNothing) {
  state_.control = 0x037E;
  Load(1e300);
  memory_[0] = 0x5A;
  EXPECT_EQ(Run(0xDB, 0x18), X87Outcome::kDone);  // FISTP m32: does not fit
  EXPECT_FALSE(stored_);
  EXPECT_EQ(memory_[0], 0x5A);
  EXPECT_EQ(state_.top(), 7u);
  EXPECT_TRUE(X87ExceptionPending(state_));
}

TEST_F(X87Test, ComparesIntoRflagsAndMovesByThem) {
  Load(2);
  Load(1);
  rflags_ = 0x202;
  Run(0xDB, 0xF1);  // FCOMI ST0, ST1: below
  EXPECT_EQ(rflags_, 0x203u) << "CF; other flags are not ours";
  Run(0xDA, 0xC1);  // FCMOVB
  EXPECT_EQ(St(0), 2.0L);
}

TEST_F(X87Test, EnvironmentAndStateRoundTrip) {
  Load(0);
  Load(-1.5);
  Load(INFINITY);
  state_.last_ip = 0x12345678;
  state_.last_opcode = 0x5D8;
  const X87State before = state_;
  EXPECT_EQ(X87MemoryOperand(0xDD, 0x30, X87Image::kProtected32).size_bytes, 108);
  EXPECT_EQ(X87MemoryOperand(0xDD, 0x30, X87Image::kProtected16).size_bytes, 94);
  EXPECT_EQ(X87MemoryOperand(0xD9, 0x30, X87Image::kProtected16).size_bytes, 14);
  EXPECT_EQ(Run(0xDD, 0x30), X87Outcome::kDone);  // FNSAVE
  EXPECT_TRUE(stored_);
  EXPECT_EQ(state_.valid, 0);
  uint16_t tag;
  std::memcpy(&tag, memory_ + 8, 2);
  EXPECT_EQ(tag, 0b01'00'10'11'11'11'11'11) << "zero, valid, special, then empty";
  EXPECT_EQ(Run(0xDD, 0x20), X87Outcome::kDone);  // FRSTOR
  EXPECT_EQ(state_.status, before.status);
  EXPECT_EQ(state_.valid, before.valid);
  EXPECT_EQ(state_.last_ip, before.last_ip);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(std::memcmp(state_.st(i), before.st(i), 10), 0) << i;
}

TEST_F(X87Test, ARestoredEnvironmentMovesTheTopAndNotTheRegisters) {
  Load(7);
  Run(0xD9, 0x30);  // FNSTENV
  memory_[5] = (memory_[5] & 0xC7) | 5 << 3;
  Run(0xD9, 0x20);  // FLDENV
  EXPECT_EQ(state_.top(), 5u);
  EXPECT_EQ(St(2), 7.0L) << "physical register 7";
}

// Loads and stores the environment in both forms of protected mode, here and on the host, whose processor may keep no
// selectors.
TEST_F(X87Test, EnvironmentsAreTheHosts) {
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 2000; ++round) {
    alignas(16) uint8_t image[28];
    for (uint8_t& byte : image) byte = static_cast<uint8_t>(random());
    for (const X87Image from : {X87Image::kProtected32, X87Image::kProtected16}) {
      for (const X87Image to : {X87Image::kProtected32, X87Image::kProtected16}) {
        uint8_t host[28] = {}, before[28];
        // What a 16-bit image does not have is what the wider one before it left, or is not.
        for (uint8_t& byte : before) byte = static_cast<uint8_t>(random());
#define HOST_LOAD_AND_STORE(load, store)                                      \
  asm volatile("fninit; fldenv %1; fnclex; " load " %2; " store " %0; fninit" \
               : "=m"(host)                                                   \
               : "m"(before), "m"(image)                                      \
               : "memor"                                                      \
                 "y")
        const bool narrow = from == X87Image::kProtected16;
        if (to == X87Image::kProtected32) {
          if (narrow) HOST_LOAD_AND_STORE("fldenvs", "fnstenv");
          if (!narrow) HOST_LOAD_AND_STORE("fldenv", "fnstenv");
        } else {
          if (narrow) HOST_LOAD_AND_STORE("fldenvs", "fnstenvs");
          if (!narrow) HOST_LOAD_AND_STORE("fldenv", "fnstenvs");
        }
#undef HOST_LOAD_AND_STORE
        state_ = X87State{};
        std::memcpy(memory_, before, sizeof(before));
        Run(0xD9, 0x20);
        std::memcpy(memory_, image, sizeof(image));
        Run(0xDB, 0xE2);  // FNCLEX: an exception would wait for the next
        ASSERT_EQ(Run(0xD9, 0x20, from), X87Outcome::kDone);
        std::memset(memory_, 0, sizeof(memory_));
        ASSERT_EQ(Run(0xD9, 0x30, to), X87Outcome::kDone);
        const size_t width = to == X87Image::kProtected16 ? 2 : 4;
        for (const size_t selector : {4 * width, 6 * width}) {
          if (host[selector] == 0 && host[selector + 1] == 0) memory_[selector] = memory_[selector + 1] = 0;
        }
        // What becomes of the pointers' parts that an image has not is told by no manual, and only Intel's processors were asked.
        if (HostMaker() != Maker::kIntel) {
          std::memset(host + 3 * width, 0, 4 * width);
          std::memset(memory_ + 3 * width, 0, 4 * width);
        }
        // The tags of registers that are not empty are what is in them, which differs here.
        for (uint8_t* tags : {host + 2 * width, memory_ + 2 * width}) {
          for (int i = 0; i < 2; ++i) tags[i] = tags[i] & tags[i] << 1 & 0xAA;
        }
        ASSERT_EQ(std::memcmp(memory_, host, sizeof(host)), 0)
            << "round " << round << ", from " << (narrow ? 16 : 32) << " to " << 8 * width << " bits";
      }
    }
  }
}

TEST_F(X87Test, EnvironmentsOfRealModeRoundTrip) {
  for (const X87Image image : {X87Image::kReal32, X87Image::kReal16}) {
    state_ = X87State{};
    state_.last_cs = 0x1234, state_.last_ip = 0x5678, state_.last_ds = 0x4321, state_.last_dp = 0x8765;
    state_.last_opcode = 0x5D8;
    uint8_t first[28];
    Run(0xD9, 0x30, image);
    std::memcpy(first, memory_, sizeof(first));
    state_ = X87State{};
    Run(0xD9, 0x20, image);
    EXPECT_EQ(state_.last_ip, 0x12340u + 0x5678);
    EXPECT_EQ(state_.last_dp, 0x43210u + 0x8765);
    EXPECT_EQ(state_.last_opcode, 0x5D8);
    state_.control = 0x037F;
    Run(0xD9, 0x30, image);
    EXPECT_EQ(std::memcmp(memory_, first, image == X87Image::kReal32 ? 28 : 14), 0);
  }
}

TEST_F(X87Test, UndefinedFormsAreRefused) {
  EXPECT_EQ(Run(0xD9, 0x08), X87Outcome::kUndefinedOpcode);
  EXPECT_EQ(Run(0xD9, 0xD1), X87Outcome::kUndefinedOpcode);
  EXPECT_EQ(Run(0xDA, 0xE8), X87Outcome::kUndefinedOpcode);
  EXPECT_EQ(Run(0xDB, 0x20), X87Outcome::kUndefinedOpcode);
  EXPECT_EQ(Run(0xDF, 0xE1), X87Outcome::kUndefinedOpcode);
}

TEST_F(X87Test, MmxSeesThePhysicalRegisters) {
  Load(1);
  state_.EnterMmx();
  EXPECT_EQ(state_.top(), 0u);
  EXPECT_EQ(state_.valid, 0xFF);
  EXPECT_EQ(St(7), 1.0L);
}

// Random sequences here and straight on the host's unit must give the same state, step by step, exceptions masked.
TEST_F(X87Test, RandomSequencesAgreeWithTheHost) {
  const uint32_t seed = TestSeed();
  std::mt19937_64 random(seed);
  struct alignas(16) Image {
    uint8_t bytes[512];
  } host = {};
  asm volatile("fxsave64 %0" : "=m"(host));
  const Image keep = host;
  asm volatile("fninit; fxsave64 %0; fxrstor64 %1" : "=m"(host) : "m"(keep));
  std::memset(host.bytes + 32, 0, 128);  // FNINIT leaves old values in the empty registers
  for (int step = 0; step < 20'000; ++step) {
    uint64_t bits = random();
    if (random() % 4 == 0) bits &= 0x8000000000000000;
    if (random() % 8 == 0) bits |= 0x7FF0000000000000;
    std::memcpy(memory_, &bits, 8);
    const int which = random() % 6;
    switch (which) {
#define HOST_STEP(text) \
  asm volatile("fxrstor64 %0; " text "; fxsave64 %0; fninit" : "+m"(host) : "m"(memory_), "r"(memory_) : "memory")
      case 0:
        HOST_STEP("fldl (%2)");
        Run(0xDD, 0x00);
        break;
      case 1:
        HOST_STEP("faddl (%2)");
        Run(0xDC, 0x00);
        break;
      case 2:
        HOST_STEP("fmul %%st(1), %%st");
        Run(0xD8, 0xC9);
        break;
      case 3:
        HOST_STEP(".byte 0xDE, 0xF1");
        Run(0xDE, 0xF1);
        break;
      case 4:
        HOST_STEP("fsqrt");
        Run(0xD9, 0xFA);
        break;
      case 5:
        HOST_STEP("fcoml (%2)");
        Run(0xDC, 0x10);
        break;
#undef HOST_STEP
    }
    uint16_t status;
    std::memcpy(&status, host.bytes + 2, 2);
    ASSERT_EQ(state_.status, status) << "operation " << which << " at step " << step;
    ASSERT_EQ(state_.valid, host.bytes[4]);
    for (int i = 0; i < 8; ++i) {
      ASSERT_EQ(std::memcmp(state_.st(i), host.bytes + 32 + 16 * i, 10), 0) << "ST" << i << ", operation " << which;
    }
  }
}

}  // namespace
}  // namespace hvsdk::software
