// SPDX-License-Identifier: Apache-2.0
// The pointers to the last x87 instruction and its operand, in every form in which they reach memory: FNSTENV and its
// kin by mode and operand size (Intel SDM volume 1, 8.1.8 and figures 8-9 to 8-12), FXSAVE and XSAVE with and without
// REX.W. The host cannot be asked for all of it: processors of today keep no selectors, and the operand's offset only for
// an unmasked exception.

#include <utility>

#include "tests/backend_software/software_test.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

constexpr uint64_t kOperandGpa = 0x123450;
constexpr uint16_t kOperandSelector = 0x1233;  // nothing of the guest's loads it
constexpr uint32_t kOffset = 0xA8;             // of the operand: EBX and a displacement of 8
constexpr uint32_t kInstruction = 4;           // of the instruction that computes, a prefix included
constexpr uint16_t kOpcode32 = 0x443, kOpcode16 = 0x447;

// Where the images go in the data page.
constexpr uint64_t kWide = kDataGpa, kNarrow = kDataGpa + 0x40, kFx = kDataGpa + 0x100, kFx64 = kDataGpa + 0x300,
                   kX = kDataGpa + 0x800, kX64 = kDataGpa + 0xC00;

class X87EnvironmentTest : public SoftwareTest {
 protected:
  void Run() {
    machine().Set(RegisterName::kRbx, kOffset - 8);
    machine().Write<double>(kOperandGpa + kOffset, 2.0);
    recorder_ = Recorder();
    machine().Run(recorder_);
    ASSERT_EQ(recorder_.fault, -1);
  }
  uint16_t Half(uint64_t image, int field) { return machine().Read<uint16_t>(image + 2 * field); }
  uint32_t Word(uint64_t image, int field) { return machine().Read<uint32_t>(image + 4 * field); }
  void ExpectRealImages(uint32_t ip, uint32_t dp);
};

HVSDK_GUEST(ProtectedCode, 32, R"(
    fninit
    fld1
    fadd qword ptr es:[ebx + 8]
    fldcw [0x80030]
    fnstenv [0x80000]
    .byte 0x66
    fnstenv [0x80040]
    fxsave [0x80100]
    out 0xF4, al)")

TEST_F(X87EnvironmentTest, InProtectedModeThePointersAreOffsetsAndSelectors) {
  machine().Start(Mode::kProtected, ProtectedCode());
  SetSegment(RegisterName::kEs, kOperandGpa, 0xFFFFF, kOperandSelector, 0xC093);
  machine().Write<uint16_t>(kDataGpa + 0x30, 0x37F);
  Run();
  EXPECT_EQ(Word(kWide, 3), kCodeGpa + kInstruction);
  EXPECT_EQ(Word(kWide, 4), uint32_t{kOpcode32} << 16 | kCode32);
  EXPECT_EQ(Word(kWide, 5), kOffset);
  EXPECT_EQ(Word(kWide, 6) & 0xFFFF, kOperandSelector);
  EXPECT_EQ(Half(kNarrow, 3), (kCodeGpa + kInstruction) & 0xFFFF);
  EXPECT_EQ(Half(kNarrow, 4), kCode32);
  EXPECT_EQ(Half(kNarrow, 5), kOffset);
  EXPECT_EQ(Half(kNarrow, 6), kOperandSelector);
  EXPECT_EQ(machine().Read<uint16_t>(kFx + 6), kOpcode32);
  EXPECT_EQ(machine().Read<uint64_t>(kFx + 8), uint64_t{kCode32} << 32 | (kCodeGpa + kInstruction));
  EXPECT_EQ(machine().Read<uint64_t>(kFx + 16), uint64_t{kOperandSelector} << 32 | kOffset);
}

HVSDK_GUEST(StackCode, 32, R"(
    fninit
    fld1
    fstp tbyte ptr [ebp + 8]
    fnstenv [0x80000]
    out 0xF4, al)")
TEST_F(X87EnvironmentTest, TheSegmentIsTheOneThatIsUsed) {
  machine().Start(Mode::kProtected, StackCode());
  SetSegment(RegisterName::kSs, kOperandGpa, 0xFFFFF, kOperandSelector & ~3, 0xC093);
  machine().Set(RegisterName::kRbp, 0x70);
  Run();
  EXPECT_EQ(Word(kWide, 5), 0x78u);
  EXPECT_EQ(Word(kWide, 6) & 0xFFFF, kOperandSelector & ~3);
}

HVSDK_GUEST(RealCode, 16, R"(
    fninit
    fld1
    fadd qword ptr es:[bx + 8]
    .byte 0x66
    fnstenv [si]
    fnstenv [si + 0x40]
    out 0xF4, al)")

// The pointers are linear addresses in these forms.
void X87EnvironmentTest::ExpectRealImages(uint32_t ip, uint32_t dp) {
  EXPECT_EQ(Word(kWide, 3) & 0xFFFF, ip & 0xFFFF);
  EXPECT_EQ(Word(kWide, 4), (ip >> 16) << 12 | kOpcode16);
  EXPECT_EQ(Word(kWide, 5) & 0xFFFF, dp & 0xFFFF);
  EXPECT_EQ(Word(kWide, 6), (dp >> 16) << 12);
  EXPECT_EQ(Half(kNarrow, 3), ip & 0xFFFF);
  EXPECT_EQ(Half(kNarrow, 4), (ip >> 16 & 15) << 12 | kOpcode16);
  EXPECT_EQ(Half(kNarrow, 5), dp & 0xFFFF);
  EXPECT_EQ(Half(kNarrow, 6), (dp >> 16 & 15) << 12);
}

TEST_F(X87EnvironmentTest, InRealModeThePointersAreLinear) {
  machine().Start(Mode::kReal, RealCode());
  // A selector of a real segment below 1 MiB.
  constexpr uint64_t kBase = 0x62340;
  SetSegment(RegisterName::kDs, kDataGpa, 0xFFFF, kDataGpa >> 4, 0x93);
  SetSegment(RegisterName::kEs, kBase, 0xFFFF, kBase >> 4, 0x93);
  machine().Set(RegisterName::kRsi, 0);
  Run();
  ExpectRealImages(kCodeGpa + kInstruction, kBase + kOffset);
}

TEST_F(X87EnvironmentTest, InVirtual8086ModeThePointersAreLinear) {
  machine().Start(Mode::kProtected, RealCode());
  constexpr uint64_t kBase = 0x62340;
  for (const auto& [name, base] : {std::pair{RegisterName::kCs, kCodeGpa}, std::pair{RegisterName::kDs, kDataGpa},
                                   std::pair{RegisterName::kEs, kBase}, std::pair{RegisterName::kSs, kStackGpa},
                                   std::pair{RegisterName::kFs, kBase}, std::pair{RegisterName::kGs, kBase}}) {
    SetSegment(name, base, 0xFFFF, static_cast<uint16_t>(base >> 4), 0xF3);
  }
  SetSegment(RegisterName::kTr, kTssGpa, 0x100, kTss, 0x8B);  // a bitmap that allows the port
  machine().Set(RegisterName::kRflags, 0x20002);
  machine().Set(RegisterName::kRip, 0);
  machine().Set(RegisterName::kRsp, 0x100);
  machine().Set(RegisterName::kRsi, 0);
  Run();
  ExpectRealImages(kCodeGpa + kInstruction, kBase + kOffset);
}

HVSDK_GUEST(LongCode, 64, R"(
    fninit
    fld1
    fadd qword ptr gs:[rbx + 8]
    fxsave [0x80100]
    fxsave64 [0x80300]
    mov eax, 3
    xor edx, edx
    xsave [0x80800]
    xsave64 [0x80C00]
    fnstenv [0x80000]
    .byte 0x66, 0x48
    fnstenv [0x80040]
    out 0xF4, al)")
TEST_F(X87EnvironmentTest, In64BitModeRexWChoosesBetweenSelectorsAndUpperHalves) {
  machine().Start(Mode::kLong, LongCode());
  machine().Set(RegisterName::kCr4, 0x40620);
  machine().Set(RegisterName::kXfem, 3);
  SetSegment(RegisterName::kGs, kOperandGpa + 0x1'0000'0000, 0xFFFFFFFF, kOperandSelector, 0xC093);
  machine().Set(RegisterName::kRbx, kOffset - 8 - 0x1'0000'0000);
  machine().Write<double>(kOperandGpa + kOffset, 2.0);
  recorder_ = Recorder();
  machine().Run(recorder_);
  ASSERT_EQ(recorder_.fault, -1);
  constexpr uint64_t kDp = kOffset - 0x1'0000'0000;
  for (const uint64_t narrow : {kFx, kX}) {
    EXPECT_EQ(machine().Read<uint16_t>(narrow + 6), kOpcode32);
    EXPECT_EQ(machine().Read<uint64_t>(narrow + 8), uint64_t{kCode64} << 32 | (kCodeGpa + kInstruction));
    EXPECT_EQ(machine().Read<uint64_t>(narrow + 16), uint64_t{kOperandSelector} << 32 | kOffset);
  }
  for (const uint64_t wide : {kFx64, kX64}) {
    EXPECT_EQ(machine().Read<uint64_t>(wide + 8), kCodeGpa + kInstruction);
    EXPECT_EQ(machine().Read<uint64_t>(wide + 16), kDp);
  }
  // FNSTENV has no wider form; with REX.W a prefix for 16 bits is nothing.
  for (const uint64_t image : {kWide, kNarrow}) {
    EXPECT_EQ(Word(image, 4), uint32_t{kOpcode32} << 16 | kCode64);
    EXPECT_EQ(Word(image, 5), kOffset);
    EXPECT_EQ(Word(image, 6) & 0xFFFF, kOperandSelector);
  }
}

// What a guest is told is what it gets.
TEST_F(X87EnvironmentTest, CpuidSaysThatEveryInstructionLeavesBothPointersAndSelectors) {
  const auto cpuid = machine().partition().SupportedCpuid();
  ASSERT_TRUE(cpuid.ok());
  for (const CpuidEntry& entry : *cpuid) {
    if (entry.leaf == 7 && entry.subleaf == 0) {
      EXPECT_EQ(entry.ebx & (1 << 6 | 1 << 13), 0u);
    }
  }
}

}  // namespace
}  // namespace hvsdk::backend
