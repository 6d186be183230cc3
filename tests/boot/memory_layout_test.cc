// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/boot/memory_layout.h"

#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/random_seed.h"

namespace hvsdk::boot {
namespace {

using ::testing::ElementsAre;

constexpr uint64_t kMib = 1 << 20;
constexpr uint64_t kGib = uint64_t{1} << 30;

TEST(MemoryLayoutTest, SmallMachine) {
  const auto layout = MemoryLayout::ForSize(512 * kMib);
  ASSERT_TRUE(layout.ok());
  EXPECT_THAT(layout->memory, ElementsAre(GpaRange{0, 512 * kMib}));
  EXPECT_THAT(layout->E820(), ElementsAre(E820Entry{0, 0x9FC00, 1}, E820Entry{0x9FC00, 0x60400, 2},
                                          E820Entry{0x100000, 511 * kMib, 1}));
}

TEST(MemoryLayoutTest, MemoryBeyondThreeGibMovesAboveFour) {
  const auto layout = MemoryLayout::ForSize(4 * kGib);
  ASSERT_TRUE(layout.ok());
  EXPECT_THAT(layout->memory, ElementsAre(GpaRange{0, 3 * kGib}, GpaRange{4 * kGib, kGib}));
  EXPECT_EQ(layout->E820().back(), (E820Entry{4 * kGib, kGib, 1}));
}

TEST(MemoryLayoutTest, ExactlyThreeGibHasNoUpperRange) {
  const auto layout = MemoryLayout::ForSize(3 * kGib);
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->memory.size(), 1u);
}

TEST(MemoryLayoutTest, AFrameBufferIsAllThatVmbusHandsOut) {
  const auto layout = MemoryLayout::ForSize(512 * kMib, 8 * kMib);
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->video, (GpaRange{0xF8000000, 8 * kMib}));
  EXPECT_EQ(layout->low_mmio(), layout->video);
  EXPECT_THAT(layout->memory, ElementsAre(GpaRange{0, 512 * kMib}));
  EXPECT_EQ(layout->E820(), MemoryLayout::ForSize(512 * kMib)->E820());
  EXPECT_EQ(MemoryLayout::ForSize(512 * kMib)->low_mmio(), kLowMmio);
  for (const uint64_t bytes : {kMib / 2, 3 * kMib, 128 * kMib, ~uint64_t{0}}) {
    EXPECT_FALSE(MemoryLayout::ForSize(512 * kMib, bytes).ok()) << bytes;
  }
}

TEST(MemoryLayoutTest, RoomToGrowIsAboveAllMemory) {
  const auto small = MemoryLayout::ForSize(512 * kMib, 8 * kMib, 4 * kGib);
  ASSERT_TRUE(small.ok());
  EXPECT_EQ(small->growth, (GpaRange{4 * kGib, 4 * kGib - 512 * kMib}));
  EXPECT_EQ(small->high_mmio, MemoryLayout::ForSize(512 * kMib)->high_mmio);
  EXPECT_EQ(small->E820(), MemoryLayout::ForSize(512 * kMib)->E820());
  const auto large = MemoryLayout::ForSize(5 * kGib + kMib, 0, 100 * kGib + 3 * kMib);
  ASSERT_TRUE(large.ok());
  EXPECT_EQ(large->growth, (GpaRange{8 * kGib, 95 * kGib + 2 * kMib}));
  EXPECT_EQ(large->high_mmio.gpa, 104 * kGib) << "nothing else is in the guest's last block";
  EXPECT_EQ(MemoryLayout::ForSize(512 * kMib, 0, 512 * kMib)->growth, GpaRange{});
  EXPECT_EQ(MemoryLayout::ForSize(512 * kMib)->growth, GpaRange{});
  for (const uint64_t bytes : {511 * kMib, 513 * kMib + 4096, kMaxMemoryBytes + kMib, ~uint64_t{0}}) {
    EXPECT_FALSE(MemoryLayout::ForSize(512 * kMib, 0, bytes).ok()) << bytes;
  }
}

TEST(MemoryLayoutTest, RefusesTheImpossible) {
  for (uint64_t bytes : {uint64_t{0}, kMib, 2 * kMib + 4096, kMaxMemoryBytes + kMib, ~uint64_t{0}}) {
    EXPECT_EQ(MemoryLayout::ForSize(bytes).status().code(), absl::StatusCode::kInvalidArgument) << bytes;
  }
}

TEST(MemoryLayoutTest, HoldsForEverySize) {
  const uint32_t seed = TestSeed();
  std::mt19937_64 random(seed);
  for (int i = 0; i < 10000; ++i) {
    const uint64_t bytes = (2 + random() % (uint64_t{1} << (1 + random() % 22))) * kMib;
    if (bytes > kMaxMemoryBytes) continue;
    const auto layout = MemoryLayout::ForSize(bytes);
    ASSERT_TRUE(layout.ok());
    uint64_t total = 0, last_end = 0;
    for (const GpaRange& range : layout->memory) {
      ASSERT_GE(range.gpa, last_end);
      // No memory in the hole, where the interrupt controllers and MMIO windows are.
      ASSERT_TRUE(range.end() <= kLowMemoryEnd || range.gpa >= kHighMemoryStart);
      last_end = range.end();
      total += range.size_bytes;
    }
    ASSERT_EQ(total, bytes);
    ASSERT_GE(layout->high_mmio.gpa, last_end);
    uint64_t usable = 0;
    last_end = 0;
    for (const E820Entry& entry : layout->E820()) {
      ASSERT_GE(entry.gpa, last_end);
      last_end = entry.gpa + entry.size_bytes;
      if (entry.type == E820Entry::kUsable) usable += entry.size_bytes;
    }
    ASSERT_EQ(usable, bytes - (kExtendedStart - kConventionalEnd));
  }
}

}  // namespace
}  // namespace hvsdk::boot
