// SPDX-License-Identifier: Apache-2.0
// What XRSTOR refuses: byte by byte of the header (Intel SDM volume 1, 13.8; the values are a processor's).

#include "tests/backend_software/software_test.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;

class XsaveTest : public SoftwareTest {
 protected:
  // The vector of the exception that XRSTOR of `components` raises, or -1. What the area holds beside is the caller's.
  int Restore(uint32_t components);
  void ClearArea() {
    for (uint64_t at = 0; at < 1024; at += 8) machine().Write<uint64_t>(kDataGpa + at, 0);
    machine().Write<uint16_t>(kDataGpa, 0x37F);
    machine().Write<uint32_t>(kDataGpa + 24, 0x1F80);
    machine().Write<uint64_t>(kDataGpa + 512, 3);
  }
};

HVSDK_GUEST(RestoreCode, 64, "xrstor [rsi]; out 0xF4, al\n")
int XsaveTest::Restore(uint32_t components) {
  machine().Start(Mode::kLong, RestoreCode());
  machine().Set(RegisterName::kCr4, 0x40620);
  machine().Set(RegisterName::kXfem, 3);
  machine().Set(RegisterName::kRax, components);
  machine().Set(RegisterName::kRdx, 0);
  machine().Set(RegisterName::kRsi, kDataGpa);
  recorder_ = Recorder();
  machine().Run(recorder_);
  return recorder_.fault;
}

TEST_F(XsaveTest, OnlyBytes8To23OfTheHeaderMustBeZero) {
  for (int byte = 8; byte < 64; ++byte) {
    ClearArea();
    machine().Write<uint8_t>(kDataGpa + 512 + byte, 0x80);
    EXPECT_EQ(Restore(3), byte < 24 ? 13 : -1) << "byte " << byte;
  }
}

TEST_F(XsaveTest, ComponentsThatAreNotEnabledMayNotBePresent) {
  for (int component = 0; component < 64; ++component) {
    ClearArea();
    machine().Write<uint64_t>(kDataGpa + 512, uint64_t{1} << component);
    EXPECT_EQ(Restore(3), component < 2 ? -1 : 13) << "component " << component;
  }
}

TEST_F(XsaveTest, MxcsrCountsWhereverSseIsAskedFor) {
  for (uint64_t present = 0; present < 4; ++present) {
    for (uint32_t components = 0; components < 4; ++components) {
      ClearArea();
      machine().Write<uint32_t>(kDataGpa + 24, 0xFFFFFFFF);
      machine().Write<uint64_t>(kDataGpa + 512, present);
      EXPECT_EQ(Restore(components), components & 2 ? 13 : -1) << present << ' ' << components;
    }
  }
}

}  // namespace
}  // namespace hvsdk::backend
