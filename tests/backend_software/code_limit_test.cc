// SPDX-License-Identifier: Apache-2.0
// The limit of the code segment holds for every byte of every instruction (Intel SDM volume 3, 5.3), wherever the
// segment begins, and whatever was decoded there before.

#include <vector>

#include "tests/backend_software/software_test.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

constexpr uint16_t kCode32Bits = 0x409B;  // byte granular

class CodeLimitTest : public SoftwareTest {
 protected:
  // Starts in protected mode at `ip` of a code segment.
  void StartAt(uint64_t base, uint32_t limit, uint32_t ip) {
    machine().Start(Mode::kProtected, ip);
    SetSegment(RegisterName::kCs, base, limit, kCode32, kCode32Bits);
    machine().Set(RegisterName::kRbx, 0);
    recorder_ = Recorder();
  }
  // The EIP that an exception with an error code pushed.
  uint32_t FaultIp() { return machine().Read<uint32_t>(machine().Get(RegisterName::kRsp) + 4); }
  uint32_t ErrorCode() { return machine().Read<uint32_t>(machine().Get(RegisterName::kRsp)); }
};

// Instructions that add one each, of every length that they can have.
std::vector<uint8_t> Adder(int length) {
  switch (length) {
    case 1:
      return {0x43};  // inc ebx
    case 2:
      return {0xFF, 0xC3};
    case 3:
      return {0x83, 0xC3, 0x01};
    case 6:
      return {0x81, 0xC3, 0x01, 0x00, 0x00, 0x00};
    default: {  // prefixes that mean nothing to a register operand
      std::vector<uint8_t> code(length - 1, 0x3E);
      code.push_back(0x43);
      return code;
    }
  }
}

TEST_F(CodeLimitTest, EveryByteOfAnInstructionCounts) {
  for (const uint64_t base : {0x20000, 0x20001, 0x20FFB, 0x20FFF, 0x213F7}) {
    for (const int length : {1, 2, 3, 5, 6, 9, 15}) {
      const std::vector<uint8_t> adder = Adder(length);
      for (uint64_t at = base; at < base + 0x600; at += length) machine().Load(at, adder);
      for (const uint32_t limit : {0, 1, 2, 3, 4, 5, 6, 8, 14, 15, 29, 60, 63, 64, 100, 255, 959, 960, 1000}) {
        SCOPED_TRACE(testing::Message() << std::hex << "base " << base << " limit " << limit << " length " << length);
        StartAt(base, limit, 0);
        machine().Run(recorder_);
        const uint32_t whole = (limit + 1) / length;
        EXPECT_EQ(recorder_.fault, 13);
        EXPECT_EQ(ErrorCode(), 0u);
        EXPECT_EQ(FaultIp(), whole * length);
        EXPECT_EQ(machine().Get(RegisterName::kRbx), whole);
      }
    }
  }
}

TEST_F(CodeLimitTest, NothingBehindTheLimitIsLookedAt) {
  // The last byte within the limit is a prefix; behind it the page is not even there.
  machine().Load(0x3FFFFF, {0x3E});
  StartAt(0x3FFFFF - 8, 8, 8);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, 13);
  EXPECT_EQ(FaultIp(), 8u);
}

// Calls the same code through segments that end at different places, in turn.
HVSDK_GUEST(ManySegments, 32, R"(
    mov ebp, 10
1:  lcall 0x40, 0
    lcall 0x08, 0x20003
    lcall 0x48, 0
    dec ebp
    jnz 1b
    lcall 0x50, 0
)")
TEST_F(CodeLimitTest, TheLimitIsThatOfTheSegmentInUse) {
  constexpr uint64_t kAt = 0x20003;
  machine().Load(0x11000, ManySegments());
  // Six INC EBX and a far return.
  machine().Load(kAt, {{0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0xCB}});
  StartAt(0, 0xFFFFFFFF, 0x11000);
  uint8_t gdt[64];
  ASSERT_TRUE(machine().memory().Read(kGdtGpa, gdt, sizeof(gdt)));
  machine().Load(0x40000, gdt);
  const auto descriptor = [&](uint64_t limit) { return (limit & 0xFFFF) | kAt << 16 | uint64_t{0x409B} << 40; };
  machine().Write<uint64_t>(0x40040, descriptor(0xFFF));
  machine().Write<uint64_t>(0x40048, descriptor(6));
  machine().Write<uint64_t>(0x40050, descriptor(3));
  const hvdef::TableRegister table{{}, 0x57, 0x40000};
  hvdef::RegisterValue value;
  std::memcpy(&value, &table, sizeof(value));
  const RegisterName name = RegisterName::kGdtr;
  ASSERT_TRUE(machine().vp().SetRegisters({&name, 1}, {&value, 1}).ok());
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, 13);
  EXPECT_EQ(FaultIp(), 4u);
  EXPECT_EQ(machine().Get(RegisterName::kRbx), 10u * 18 + 4);
}

// In real mode the instruction pointer does not wrap: what lies behind 64 KiB is behind the limit.
TEST_F(CodeLimitTest, RealModeEndsAt64KiB) {
  const auto run = [&](absl::Span<const uint8_t> code, uint32_t ip) {
    machine().Load(0x20000 + ip, code);
    machine().Start(Mode::kReal, 0x20000);
    machine().Set(RegisterName::kRip, ip);
    machine().Set(RegisterName::kRbx, 0);
    recorder_ = Recorder();
    machine().Run(recorder_);
    EXPECT_EQ(recorder_.fault, 13);
    return machine().Read<uint16_t>(machine().Get(RegisterName::kRsp));
  };
  EXPECT_EQ(run({{0x43, 0x43, 0x43}}, 0xFFFD), 0x0000);
  EXPECT_EQ(machine().Get(RegisterName::kRbx) & 0xFFFF, 3u);
  EXPECT_EQ(run({{0x43, 0xB8, 0x34}}, 0xFFFD), 0xFFFE);
  EXPECT_EQ(machine().Get(RegisterName::kRbx) & 0xFFFF, 1u);
}

// A segment of 4 GiB has no end: the instruction pointer wraps, and so does the linear address of a base that is not 0.
TEST_F(CodeLimitTest, AFlatSegmentWraps) {
  std::vector<uint8_t> code(0x42, 0x43);
  code[0x40] = 0xE6;  // out 0xF4, al
  code[0x41] = 0xF4;
  machine().Load(0x20010 - 0x20, code);
  machine().Start(Mode::kProtected, 0xFFFFFFE0);
  SetSegment(RegisterName::kCs, 0x20010, 0xFFFFFFFF, kCode32, 0xC09B);
  machine().Set(RegisterName::kRbx, 0);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Get(RegisterName::kRbx), 0x40u);
}

}  // namespace
}  // namespace hvsdk::backend
