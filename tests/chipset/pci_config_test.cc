// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/chipset/pci_config.h"

#include <cstring>
#include <random>

#include "gtest/gtest.h"
#include "hvsdk/chipset/bus.h"
#include "hvsdk/chipset/pci_video.h"
#include "tests/random_seed.h"

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

// How an operating system finds out how large a function's memory is (PCI 3.0, 6.2.5.1), and what Linux sees of it (lspci -n).
TEST_F(PciConfigTest, VideoSaysWhereItsMemoryIs) {
  PciVideo video(0xF8000000, 8 << 20);
  pci_.SetFunction(PciVideo::kDevice, &video);
  EXPECT_EQ(Config(8, 0, 0x00), 0x53531414u);
  EXPECT_EQ(Config(8, 0, 0x04), 0x00000002u);  // decodes memory
  EXPECT_EQ(Config(8, 0, 0x08), 0x03800000u);
  EXPECT_EQ(Config(8, 0, 0x10), 0xF8000008u);  // prefetchable
  EXPECT_EQ(Config(8, 0, 0x3C), 0u);           // no interrupt
  EXPECT_EQ(Config(8, 1, 0x00), 0xFFFFFFFFu);
  EXPECT_EQ(Config(7, 0, 0x00), 0xFFFFFFFFu);
  EXPECT_EQ(Config(0, 0, 0x00), 0x71928086u);
  (void)Config(8, 0, 0x10);
  Out<uint32_t>(0xCFC, 0xFFFFFFFF);
  EXPECT_EQ(Config(8, 0, 0x10), 0xFF800008u);
  Out<uint32_t>(0xCFC, 0xF8000008);
  EXPECT_EQ(Config(8, 0, 0x10), 0xF8000008u);
  for (uint32_t other = 0x14; other <= 0x30; other += 4) {
    (void)Config(8, 0, other);
    Out<uint32_t>(0xCFC, 0xFFFFFFFF);
    EXPECT_EQ(Config(8, 0, other), 0u) << other;
  }
  (void)Config(8, 0, 0x04);
  Out<uint16_t>(0xCFC, 0xFFFF);
  EXPECT_EQ(Config(8, 0, 0x04), 0x00000006u);
  Out<uint8_t>(0xCFD, 0xFF);
  Out<uint16_t>(0xCFE, 0xFFFF);
  EXPECT_EQ(Config(8, 0, 0x04), 0x00000006u);
  video.Reset();
  EXPECT_EQ(Config(8, 0, 0x04), 0x00000002u);
}

// Whatever is written, at any width and place, the identity stays and the address is one of its size.
TEST_F(PciConfigTest, AnyWritesToVideo) {
  PciVideo video(0xF8000000, 32 << 20);
  pci_.SetFunction(PciVideo::kDevice, &video);
  std::mt19937 random(TestSeed());
  for (int i = 0; i < 2000; ++i) {
    Out<uint32_t>(0xCF8, 0x80000000 | 8 << 11 | (random() & 0xFC));
    const uint64_t port = 0xCFC + random() % 4;
    if (random() % 2 == 0) {
      Out<uint8_t>(port, static_cast<uint8_t>(random()));
    } else {
      Out<uint32_t>(0xCFC, random());
    }
    ASSERT_EQ(Config(8, 0, 0x00), 0x53531414u);
    ASSERT_EQ(Config(8, 0, 0x10) & 0x01FFFFFF, 0x8u);
  }
}

}  // namespace
}  // namespace hvsdk::chipset
