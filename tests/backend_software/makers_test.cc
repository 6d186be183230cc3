// SPDX-License-Identifier: Apache-2.0
// Where processors differ by maker, ours does as Intel's manual says, for that is what CPUID tells the guest it is. The oracle cannot hold
// it to that on a host of another maker.

#include <cstdint>

#include "backend_software/processor/cpuid.h"
#include "tests/backend_software/software_test.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

constexpr uint64_t kLastByte = 0x1EFFFF, kAbsent = 0x1F0000;

class MakersTest : public SoftwareTest {
 protected:
  void Start(absl::Span<const uint8_t> code) {
    machine().Start(Mode::kLong, code);
    machine().Write<uint64_t>(kFirstPageTableGpa + (kAbsent >> kPageShift) * 8, 0);
  }
};

// Intel SDM volume 2, REP: a page fault in the middle of a repeated SCAS or CMPS leaves EFLAGS as before the instruction, and the registers
// as of the iterations done.
HVSDK_GUEST(Scan, 64, R"(
    xor eax, eax
    stc
    repne scasb
    out 0xF4, al
)")
TEST_F(MakersTest, AScanThatFaultsLeavesTheFlags) {
  Start(Scan());
  machine().Write<uint8_t>(kLastByte - 1, 1);
  machine().Write<uint8_t>(kLastByte, 2);
  machine().Set(RegisterName::kRdi, kLastByte - 1);
  machine().Set(RegisterName::kRcx, 8);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, 14);
  EXPECT_EQ(machine().Get(RegisterName::kRdi), kAbsent);
  EXPECT_EQ(machine().Get(RegisterName::kRcx), 6u);
  EXPECT_EQ(machine().ReadFrame(14).rflags & 0x8D5, 0x45u);  // of XOR and STC: ZF, PF, CF
}

HVSDK_GUEST(CompareStrings, 64, R"(
    xor eax, eax
    stc
    repe cmpsb
    out 0xF4, al
)")
TEST_F(MakersTest, AComparisonThatFaultsLeavesTheFlags) {
  Start(CompareStrings());
  machine().Set(RegisterName::kRsi, 0x1E0000);
  machine().Set(RegisterName::kRdi, kLastByte);
  machine().Set(RegisterName::kRcx, 8);
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.fault, 14);
  EXPECT_EQ(machine().Get(RegisterName::kRsi), 0x1E0001u);
  EXPECT_EQ(machine().Get(RegisterName::kRcx), 7u);
  EXPECT_EQ(machine().ReadFrame(14).rflags & 0x8D5, 0x45u);
}

// Intel SDM volume 2, "Type 4" exceptions: operands in memory are aligned.
HVSDK_GUEST(Sha, 64, R"(
    sha256msg1 xmm1, [rbx]
    out 0xF4, al
)")
TEST_F(MakersTest, ShaWantsAlignedOperands) {
  if (!software::HostHasSha()) GTEST_SKIP() << "the host has no SHA";
  for (const uint64_t offset : {0, 1, 8}) {
    recorder_.fault = -1;
    machine().Start(Mode::kLong, Sha());
    machine().Set(RegisterName::kRbx, 0x1E0000 + offset);
    machine().Run(recorder_);
    EXPECT_EQ(recorder_.fault, offset == 0 ? -1 : 13) << offset;
  }
}

}  // namespace
}  // namespace hvsdk::backend
