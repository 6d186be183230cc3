// SPDX-License-Identifier: Apache-2.0
// What stack instructions do to ESP and EBP, upper halves and all, by the width of the stack segment and of the operand.
// The values are those of a processor that ran the same code at the same addresses in a segment of a local descriptor
// table.

#include <ostream>
#include <string>
#include <vector>

#include "tests/backend_software/software_test.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

constexpr uint64_t kStackBase = 0x20000;
constexpr uint16_t kStack16 = 0x0093, kStack32 = 0x4093;  // present, writable; 64 KiB

struct Case {
  const char* what;
  std::vector<uint8_t> code;
  uint32_t esp, ebp;
  uint32_t esp_after, ebp_after;
  uint32_t pushed_at = 0, pushed = 0;  // a 32-bit word of the stack afterwards
};
std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.what; }

class StackWidthTest : public SoftwareTest {
 protected:
  // The vector of the exception, or -1.
  int Run(const Case& c, uint16_t attributes) {
    std::vector<uint8_t> code = c.code;
    code.insert(code.end(), {0xE6, 0xF4});  // out 0xF4, al
    machine().Start(Mode::kProtected, code);
    // Word n of the stack says where it is.
    for (uint32_t at = 0; at < 0x10000; at += 4) machine().Write<uint32_t>(kStackBase + at, 0xA0000000 | at);
    SetSegment(RegisterName::kSs, kStackBase, 0xFFFF, kData32, attributes);
    SetSegment(RegisterName::kDs, (kStackBase - 0x56780000) & 0xFFFFFFFF, 0xFFFFFFFF, kData32, 0xC093);
    machine().Set(RegisterName::kRsp, c.esp);
    machine().Set(RegisterName::kRbp, c.ebp);
    machine().Set(RegisterName::kRax, 0x11223344);
    recorder_ = Recorder();
    machine().Run(recorder_);
    return recorder_.fault;
  }
  void Expect(const Case& c, uint16_t attributes) {
    SCOPED_TRACE(c);
    EXPECT_EQ(Run(c, attributes), -1);
    EXPECT_EQ(machine().Get(RegisterName::kRsp), c.esp_after);
    EXPECT_EQ(machine().Get(RegisterName::kRbp), c.ebp_after);
    if (c.pushed_at != 0) {
      EXPECT_EQ(machine().Read<uint32_t>(kStackBase + c.pushed_at), c.pushed);
    }
  }
};

TEST_F(StackWidthTest, ANarrowStackLeavesUpperHalvesAlone) {
  constexpr uint32_t kSp = 0x56781000, kBp = 0x43218000;
  const std::vector<Case> cases = {
      {"enter 8, 0", {0xC8, 8, 0, 0}, kSp, kBp, 0x56780FF4, 0x56780FFC, 0x0FFC, kBp},
      {"enter 8, 0 of 16 bits", {0x66, 0xC8, 8, 0, 0}, kSp, kBp, 0x56780FF6, 0x43210FFE},
      {"enter 8, 3", {0xC8, 8, 0, 3}, kSp, kBp, 0x56780FE8, 0x56780FFC, 0x0FF0, 0x56780FFC},
      {"enter 8, 3 copies the display", {0xC8, 8, 0, 3}, kSp, kBp, 0x56780FE8, 0x56780FFC, 0x0FF8, 0xA0007FFC},
      {"enter 8, 3 of 16 bits", {0x66, 0xC8, 8, 0, 3}, kSp, kBp, 0x56780FF0, 0x43210FFE},
      {"enter 8, 3 below BP 4", {0xC8, 8, 0, 3}, kSp, 0x43210004, 0x56780FE8, 0x56780FFC, 0x0FF4, 0xA000FFFC},
      {"enter 8, 1 from SP 0", {0xC8, 8, 0, 1}, 0x56780000, kBp, 0x5678FFF0, 0x5678FFFC, 0xFFF8, 0x5678FFFC},
      {"enter 65535, 0", {0xC8, 0xFF, 0xFF, 0}, kSp, kBp, 0x56780FFD, 0x56780FFC},
      {"leave", {0xC9}, kSp, kBp, 0x56788004, 0xA0008000},
      {"leave of 16 bits", {0x66, 0xC9}, kSp, kBp, 0x56788002, 0x43218000},
      {"push eax", {0x50}, 0x56780004, kBp, 0x56780000, kBp, 0, 0},
      {"push eax from SP 0", {0x50}, 0x56780000, kBp, 0x5678FFFC, kBp, 0xFFFC, 0x11223344},
      {"push esp", {0x54}, kSp, kBp, 0x56780FFC, kBp, 0x0FFC, kSp},
      {"pop esp", {0x5C}, kSp, kBp, 0xA0001000, kBp},
      {"pop sp", {0x66, 0x5C}, kSp, kBp, kSp, kBp},
      {"pop eax at FFFC", {0x58}, 0x5678FFFC, kBp, 0x56780000, kBp},
      {"pop [esp] of DS, with ESP popped", {0x3E, 0x8F, 0x04, 0x24}, kSp, kBp, 0x56781004, kBp, 0x1004, 0xA0001000},
      {"pusha", {0x60}, kSp, kBp, 0x56780FE0, kBp, 0x0FEC, kSp},
      {"pusha of 16 bits", {0x66, 0x60}, kSp, kBp, 0x56780FF0, kBp},
      {"popa", {0x61}, kSp, kBp, 0x56781020, 0xA0001008},
      {"popa of 16 bits", {0x66, 0x61}, kSp, kBp, 0x56781010, 0x43211004},
      {"pushf, popf of 16 bits", {0x9C, 0x66, 0x9D}, 0x56780004, kBp, 0x56780002, kBp},
      {"call, pop", {0xE8, 0, 0, 0, 0, 0x58}, 0x56780004, kBp, 0x56780004, kBp},
      {"call, ret 8", {0xE8, 2, 0, 0, 0, 0xEB, 3, 0xC2, 8, 0}, 0x5678FFFC, kBp, 0x56780004, kBp},
      {"push ds, pop es", {0x1E, 0x07}, 0x56780004, kBp, 0x56780004, kBp},
  };
  for (const Case& c : cases) Expect(c, kStack16);
}

TEST_F(StackWidthTest, AWideStackMovesAllOfThem) {
  const std::vector<Case> cases = {
      {"enter 8, 0", {0xC8, 8, 0, 0}, 0x1000, 0x8000, 0xFF4, 0xFFC},
      {"enter 8, 0 of 16 bits", {0x66, 0xC8, 8, 0, 0}, 0x1000, 0x43218000, 0xFF6, 0x43210FFE},
      {"leave", {0xC9}, 0x1000, 0x8000, 0x8004, 0xA0008000},
      {"leave of 16 bits", {0x66, 0xC9}, 0x56781000, 0x8000, 0x8002, 0x8000},
  };
  for (const Case& c : cases) Expect(c, kStack32);
}

TEST_F(StackWidthTest, AFaultLeavesThePointersAlone) {
  const std::vector<Case> cases = {
      {"leave over the end", {0xC9}, 0x56781000, 0x4321FFFF, 0, 0},
      {"enter 8, 2 with a display over the end", {0xC8, 8, 0, 2}, 0x56781000, 0x43210002, 0, 0},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c);
    EXPECT_EQ(Run(c, kStack16), 12);
    EXPECT_EQ(machine().Get(RegisterName::kRsp), c.esp - 16) << "an error code, EIP, CS and EFLAGS";
    EXPECT_EQ(machine().Get(RegisterName::kRbp), c.ebp);
  }
}

}  // namespace
}  // namespace hvsdk::backend
