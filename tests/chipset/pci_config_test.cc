// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/chipset/pci_config.h"

#include <cstring>

#include "gtest/gtest.h"
#include "hvsdk/chipset/bus.h"

namespace hvsdk::chipset {
namespace {

class PciConfigTest : public ::testing::Test {
 protected:
  PciConfigTest() { EXPECT_TRUE(bus_.Map(0xCF8, PciConfigPorts::kPorts, &pci_).ok()); }
  template <typename T>
  T In(uint64_t port) {
    uint8_t data[sizeof(T)];
    bus_.Read(port, absl::MakeSpan(data));
    T value;
    std::memcpy(&value, data, sizeof(T));
    return value;
  }
  template <typename T>
  void Out(uint64_t port, T value) {
    uint8_t data[sizeof(T)];
    std::memcpy(data, &value, sizeof(T));
    bus_.Write(port, data);
  }
  uint32_t Config(uint32_t device, uint32_t function, uint32_t reg) {
    Out<uint32_t>(0xCF8, 0x80000000 | device << 11 | function << 8 | reg);
    return In<uint32_t>(0xCFC);
  }
  PciConfigPorts pci_;
  Bus bus_;
};

// How Linux decides that mechanism #1 works (arch/x86/pci/direct.c).
TEST_F(PciConfigTest, LinuxFindsMechanismOne) {
  Out<uint8_t>(0xCFB, 1);
  Out<uint32_t>(0xCF8, 0x80000000);
  EXPECT_EQ(In<uint32_t>(0xCF8), 0x80000000u);
  EXPECT_EQ(In<uint16_t>(0xCFC), 0x8086);
  Out<uint32_t>(0xCF8, 0x80000008);
  EXPECT_EQ(In<uint16_t>(0xCFE), 0x0600);
}

TEST_F(PciConfigTest, TheBridgeIsAlone) {
  EXPECT_EQ(Config(0, 0, 0), 0x71928086u);
  EXPECT_EQ(Config(0, 0, 0x10), 0u);
  for (uint32_t device = 0; device < 32; ++device) {
    for (uint32_t function = 0; function < 8; ++function) {
      if (device + function != 0) {
        EXPECT_EQ(Config(device, function, 0), 0xFFFFFFFFu);
      }
    }
  }
  Out<uint32_t>(0xCF8, 0);  // not enabled
  EXPECT_EQ(In<uint32_t>(0xCFC), 0xFFFFFFFFu);
}

TEST_F(PciConfigTest, WritesChangeNothing) {
  const uint32_t before = Config(0, 0, 4);
  Out<uint32_t>(0xCFC, 0xFFFFFFFF);
  EXPECT_EQ(Config(0, 0, 4), before);
  EXPECT_EQ(In<uint8_t>(0xCF9), 0xFF);
}

}  // namespace
}  // namespace hvsdk::chipset
