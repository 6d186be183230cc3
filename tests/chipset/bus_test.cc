// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/chipset/bus.h"

#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/random_seed.h"

namespace hvsdk::chipset {
namespace {

using ::testing::HasSubstr;

// Bytes of memory that record how they were accessed.
class Ram final : public Device {
 public:
  Ram(std::string name, uint64_t size) : name_(std::move(name)), bytes_(size) {}
  absl::string_view Name() const override { return name_; }
  void Read(uint64_t offset, absl::Span<uint8_t> data) override {
    for (uint8_t& byte : data) byte = bytes_.at(offset++);
  }
  void Write(uint64_t offset, absl::Span<const uint8_t> data) override {
    widths.push_back(data.size());
    for (uint8_t byte : data) bytes_.at(offset++) = byte;
  }
  std::vector<size_t> widths;

 private:
  std::string name_;
  std::vector<uint8_t> bytes_;
};

TEST(BusTest, UnmappedReadsOnesAndDropsWrites) {
  Bus bus;
  uint8_t data[4] = {1, 2, 3, 4};
  EXPECT_FALSE(bus.Write(0x80, data));
  EXPECT_FALSE(bus.Read(0xCF8, absl::MakeSpan(data)));
  EXPECT_THAT(data, ::testing::Each(0xFF));
}

TEST(BusTest, RefusesOverlapNamingBoth) {
  Bus bus;
  Ram a("first", 8), b("second", 8);
  ASSERT_TRUE(bus.Map(0x3F8, 8, &a).ok());
  for (uint64_t base : {0x3F1, 0x3F8, 0x3FF}) {
    const absl::Status status = bus.Map(base, 8, &b);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("first"));
    EXPECT_THAT(status.message(), HasSubstr("second"));
  }
  EXPECT_TRUE(bus.Map(0x3F0, 8, &b).ok());
  EXPECT_FALSE(bus.Map(0x500, 0, &b).ok());
  EXPECT_FALSE(bus.Map(~uint64_t{0}, 2, &b).ok());
}

TEST(BusTest, WideAccessIsOneCallInsideADeviceAndBytesAcrossTwo) {
  Bus bus;
  Ram a("a", 4), b("b", 4);
  ASSERT_TRUE(bus.Map(0x100, 4, &a).ok());
  ASSERT_TRUE(bus.Map(0x104, 4, &b).ok());
  const uint8_t data[4] = {1, 2, 3, 4};
  EXPECT_TRUE(bus.Write(0x100, data));
  EXPECT_THAT(a.widths, ::testing::ElementsAre(4));
  EXPECT_TRUE(bus.Write(0x102, data));
  EXPECT_THAT(a.widths, ::testing::ElementsAre(4, 1, 1));
  EXPECT_THAT(b.widths, ::testing::ElementsAre(1, 1));
  EXPECT_FALSE(bus.Write(0x106, data));  // two bytes are nobody's
}

TEST(BusTest, ModelOfRandomMappings) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  for (int round = 0; round < 200; ++round) {
    Bus bus;
    std::vector<std::unique_ptr<Ram>> devices;
    std::map<uint64_t, uint8_t> model;  // every mapped byte
    for (int i = 0; i < 20; ++i) {
      const uint64_t base = random() % 256, size = 1 + random() % 24;
      devices.push_back(std::make_unique<Ram>("ram", size));
      bool overlaps = false;
      for (uint64_t at = base; at < base + size; ++at) overlaps |= model.count(at) != 0;
      ASSERT_EQ(bus.Map(base, size, devices.back().get()).ok(), !overlaps);
      if (!overlaps) {
        for (uint64_t at = base; at < base + size; ++at) model[at] = 0;
      }
    }
    for (int i = 0; i < 500; ++i) {
      const uint64_t address = random() % 290;
      std::vector<uint8_t> data(1 + random() % 8);
      bool all = true;
      for (size_t k = 0; k < data.size(); ++k) all &= model.count(address + k) != 0;
      if (random() % 2) {
        for (uint8_t& byte : data) byte = random();
        ASSERT_EQ(bus.Write(address, data), all);
        for (size_t k = 0; k < data.size(); ++k) {
          if (model.count(address + k)) model[address + k] = data[k];
        }
      } else {
        ASSERT_EQ(bus.Read(address, absl::MakeSpan(data)), all);
        for (size_t k = 0; k < data.size(); ++k) {
          ASSERT_EQ(data[k], model.count(address + k) ? model[address + k] : 0xFF);
        }
      }
    }
  }
}

}  // namespace
}  // namespace hvsdk::chipset
