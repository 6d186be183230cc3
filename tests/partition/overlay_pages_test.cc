// SPDX-License-Identifier: Apache-2.0
#include "partition/overlay_pages.h"

#include <array>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/random_seed.h"

namespace hvsdk::partition {
namespace {

constexpr uint64_t kPages = 4;

class OverlayPagesTest : public ::testing::Test {
 protected:
  OverlayPagesTest() : host_(kPages * kPageSize), pages_(memory_) {
    EXPECT_TRUE(memory_.AddRange(0, absl::MakeSpan(host_)).ok());
    for (uint64_t i = 0; i < kPages; ++i) std::memset(&host_[i * kPageSize], 0xA0 + i, kPageSize);
  }
  uint8_t& Byte(uint64_t page) { return host_[page * kPageSize + 17]; }

  std::vector<uint8_t> host_;
  GuestMemory memory_;
  OverlayPages pages_;
};

TEST_F(OverlayPagesTest, CoversAndGivesBack) {
  Overlay overlay;
  EXPECT_EQ(overlay.bytes(), nullptr);
  pages_.Place(overlay, kPageSize);
  EXPECT_EQ(Byte(1), 0);
  EXPECT_TRUE(pages_.Covers(kPageSize + 5));
  overlay.bytes()[17] = 9;
  EXPECT_EQ(Byte(1), 9);
  pages_.Place(overlay, 2 * kPageSize);
  EXPECT_EQ(Byte(1), 0xA1);
  EXPECT_EQ(Byte(2), 9) << "the overlay's bytes move along";
  Byte(2) = 10;  // the guest writes it like RAM
  pages_.Remove(overlay);
  EXPECT_EQ(Byte(2), 0xA2);
  EXPECT_FALSE(pages_.Covers(2 * kPageSize));
  EXPECT_EQ(overlay.bytes()[17], 10);
}

TEST_F(OverlayPagesTest, OutsideMemoryItIsSeenByNobody) {
  Overlay overlay;
  for (const uint64_t gpa : {kPages * kPageSize, ~uint64_t{0xFFF}, uint64_t{1} << 40}) {
    pages_.Place(overlay, gpa);
    ASSERT_NE(overlay.bytes(), nullptr);
    overlay.bytes()[0] = 1;
    pages_.Written(overlay, 0, kPageSize);
    EXPECT_FALSE(pages_.Covers(gpa));
  }
  pages_.Place(overlay, 0);
  EXPECT_EQ(host_[0], 1);
  pages_.Remove(overlay);
  EXPECT_EQ(host_[0], 0xA0);
}

TEST_F(OverlayPagesTest, HostWritesAreMarked) {
  memory_.EnableDirtyTracking(true);
  Overlay overlay;
  uint64_t bits = 0;
  pages_.Place(overlay, kPageSize);
  memory_.TakeDirty(0, kPages, absl::MakeSpan(&bits, 1));
  EXPECT_EQ(bits, 0b10u);
  bits = 0;
  pages_.Written(overlay, 8, 8);
  memory_.TakeDirty(0, kPages, absl::MakeSpan(&bits, 1));
  EXPECT_EQ(bits, 0b10u);
}

// The model: a stack of overlays for each page, and the bytes that each has.
TEST_F(OverlayPagesTest, AgreesWithAModelOnRandomSteps) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  constexpr int kOverlays = 5;
  std::array<Overlay, kOverlays> overlays;
  std::array<int, kOverlays> bytes{};  // of each overlay
  std::array<int, kOverlays> place;    // -1: nowhere
  place.fill(-1);
  std::array<int, kPages> guest{0xA0, 0xA1, 0xA2, 0xA3};  // what the guest has below
  std::array<std::vector<int>, kPages> stacks;
  const auto remove = [&](int i) {
    if (place[i] >= 0 && place[i] < static_cast<int>(kPages)) std::erase(stacks[place[i]], i);
    place[i] = -1;
  };
  for (int step = 0; step < 20000; ++step) {
    const int i = random() % kOverlays;
    switch (random() % 4) {
      case 0: {
        const int page = random() % (kPages + 1);  // the last is not memory
        pages_.Place(overlays[i], page * kPageSize);
        if (place[i] == page) break;
        remove(i);
        place[i] = page;
        if (page < static_cast<int>(kPages)) stacks[page].push_back(i);
        break;
      }
      case 1:
        pages_.Remove(overlays[i]);
        remove(i);
        break;
      case 2:  // the hypervisor writes
        if (overlays[i].bytes() == nullptr) break;
        overlays[i].bytes()[17] = bytes[i] = random() % 256;
        break;
      case 3: {  // the guest writes
        const int page = random() % kPages;
        Byte(page) = random() % 256;
        (stacks[page].empty() ? guest[page] : bytes[stacks[page].back()]) = Byte(page);
        break;
      }
    }
    for (uint64_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(Byte(page), stacks[page].empty() ? guest[page] : bytes[stacks[page].back()]) << "step " << step;
      ASSERT_EQ(pages_.Covers(page * kPageSize), !stacks[page].empty());
    }
    for (int each = 0; each < kOverlays; ++each) {
      if (overlays[each].bytes() == nullptr) continue;
      ASSERT_EQ(overlays[each].bytes()[17], bytes[each]) << "step " << step;
    }
  }
}

}  // namespace
}  // namespace hvsdk::partition
