// SPDX-License-Identifier: Apache-2.0
// Rules of segments that no random program comes upon: what a return to user mode leaves of a segment that it takes
// away, and what ARPL asks of an operand that it does not change.

#include "tests/backend/register_values.h"
#include "tests/backend_software/software_test.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

class SegmentRulesTest : public SoftwareTest {
 protected:
  hvdef::SegmentRegister Segment(RegisterName name) {
    hvdef::RegisterValue value{};
    EXPECT_TRUE(machine().vp().GetRegisters({&name, 1}, {&value, 1}).ok());
    hvdef::SegmentRegister segment;
    std::memcpy(&segment, &value, sizeof(segment));
    return segment;
  }
  // Kernel's segments whose bases are what an MSR or WRGSBASE made them.
  void StartWithKernelSegments(absl::Span<const uint8_t> code) {
    machine().Start(Mode::kLong, code);
    machine().Load(kCodeGpa + 0x1000, {0xCC});  // where user mode begins
    SetSegment(RegisterName::kFs, 0x1122334455, 0xFFFFFFFF, kData32, 0xC093);
    SetSegment(RegisterName::kGs, 0xFFFF800012345678, 0xFFFFFFFF, kData32, 0xC093);
    SetSegment(RegisterName::kEs, 0, 0xFFFFFFFF, kUserData, 0xC0F3);
  }
  void ExpectTakenAwayWithoutTheirBases() {
    EXPECT_EQ(recorder_.fault, 13) << "INT3 through a gate of privilege 0: user mode was reached";
    EXPECT_EQ(machine().ReadFrame(13).cs, kUserCode64);
    EXPECT_EQ(Segment(RegisterName::kFs).selector, 0);
    EXPECT_EQ(Segment(RegisterName::kFs).base, 0x1122334455u);
    EXPECT_EQ(Segment(RegisterName::kGs).selector, 0);
    EXPECT_EQ(Segment(RegisterName::kGs).base, 0xFFFF800012345678u);
    EXPECT_EQ(Segment(RegisterName::kDs).selector, 0);
    EXPECT_EQ(Segment(RegisterName::kEs).selector, kUserData) << "user mode may have it";
  }
};

HVSDK_GUEST(InterruptReturn, 64, R"(
    push 0x23
    push 0x80000
    push 2
    push 0x2B
    push 0x11000
    iretq
)")
TEST_F(SegmentRulesTest, InterruptReturnKeepsTheBasesOfSegmentsThatItTakesAway) {
  StartWithKernelSegments(InterruptReturn());
  machine().Run(recorder_);
  ExpectTakenAwayWithoutTheirBases();
}

HVSDK_GUEST(FarReturn, 64, R"(
    push 0x23
    push 0x80000
    push 0x2B
    push 0x11000
    rex.w retf
)")
TEST_F(SegmentRulesTest, SoDoesAFarReturn) {
  StartWithKernelSegments(FarReturn());
  machine().Run(recorder_);
  ExpectTakenAwayWithoutTheirBases();
}

// A page that may not be written, and a segment.
HVSDK_GUEST(AdjustReadOnly, 32, R"(
    mov ecx, 1
    arpl word ptr ds:[0x400000], cx
    setz dl
    arpl word ptr es:[0x80000], cx
    setz dh
    mov ecx, 3
    arpl word ptr ds:[0x80000], cx
    setz al
    out 0xF4, al
)")
HVSDK_GUEST(AdjustReadOnlyPage, 32, "mov ecx, 3; arpl word ptr ds:[0x400000], cx; out 0xF4, al\n")
HVSDK_GUEST(AdjustReadOnlySegment, 32, "mov ecx, 3; arpl word ptr es:[0x80000], cx; out 0xF4, al\n")
TEST_F(SegmentRulesTest, ArplNeedsNoWritableOperandUnlessItWrites) {
  const auto run = [this](absl::Span<const uint8_t> code) {
    machine().Start(Mode::kProtected, code);
    // The second 4 MiB page shows the first once more, read-only.
    machine().Write<uint32_t>(kPageDirectory32Gpa + 4, 0x80 | 5);
    machine().Set(RegisterName::kCr3, kPageDirectory32Gpa);
    machine().Set(RegisterName::kCr4, 0x10);
    machine().Set(RegisterName::kCr0, 0x80010033);
    machine().Write<uint16_t>(0, 0x1235);
    machine().Write<uint16_t>(kDataGpa, 0x4322);
    SetSegment(RegisterName::kEs, 0, 0xFFFFFFFF, kData32, 0xC091);
    machine().Set(RegisterName::kRdx, 0x5A5A);
    recorder_ = Recorder();
    machine().Run(recorder_);
  };
  run(AdjustReadOnly());
  EXPECT_EQ(recorder_.fault, -1);
  EXPECT_EQ(machine().Get(RegisterName::kRdx) & 0xFFFF, 0u) << "ZF clear: nothing was adjusted";
  EXPECT_EQ(machine().Get(RegisterName::kRax) & 0xFF, 1u);
  EXPECT_EQ(machine().Read<uint16_t>(kDataGpa), 0x4323);
  run(AdjustReadOnlyPage());
  EXPECT_EQ(recorder_.fault, 14);
  EXPECT_EQ(machine().Get(RegisterName::kCr2), 0x400000u);
  EXPECT_EQ(machine().Read<uint32_t>(machine().Get(RegisterName::kRsp)), 3u) << "present, write";
  run(AdjustReadOnlySegment());
  EXPECT_EQ(recorder_.fault, 13);
}

}  // namespace
}  // namespace hvsdk::backend
