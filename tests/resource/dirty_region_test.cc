// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/resource/dirty_region.h"

#include <algorithm>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/random_seed.h"

namespace hvsdk {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(DirtyRegionTest, TilesOfARectangle) {
  DirtyRegion region(1024, 768);
  EXPECT_TRUE(region.empty());
  region.Add({.x = 8, .y = 17, .width = 1, .height = 1});
  EXPECT_THAT(region.Rectangles(), ElementsAre(Rectangle{0, 16, 64, 16}));
  region.Add({.x = 63, .y = 31, .width = 2, .height = 2});
  EXPECT_THAT(region.Rectangles(), ElementsAre(Rectangle{0, 16, 128, 32}));
  region.Add({.x = 640, .y = 16, .width = 64, .height = 16});
  EXPECT_THAT(region.Rectangles(),
              ElementsAre(Rectangle{0, 16, 128, 16}, Rectangle{640, 16, 64, 16}, Rectangle{0, 32, 128, 16}));
  region.Clear();
  EXPECT_TRUE(region.empty());
  EXPECT_THAT(region.Rectangles(), IsEmpty());
}

TEST(DirtyRegionTest, AFrameOfNoTilesSize) {
  DirtyRegion region(1366, 769);
  region.AddAll();
  EXPECT_THAT(region.Rectangles(), ElementsAre(Rectangle{0, 0, 1366, 769}));
  region.Clear();
  region.Add({.x = 1365, .y = 768, .width = ~0u, .height = ~0u});
  EXPECT_THAT(region.Rectangles(), ElementsAre(Rectangle{1344, 768, 22, 1}));
  region.Clear();
  for (const Rectangle& outside : {Rectangle{1366, 0, 1, 1}, Rectangle{0, 769, 1, 1}, Rectangle{~0u, ~0u, ~0u, ~0u},
                                   Rectangle{1, 1, 0, 5}, Rectangle{1, 1, 5, 0}}) {
    region.Add(outside);
    EXPECT_TRUE(region.empty());
  }
}

TEST(DirtyRegionTest, NoFrameAndTooLargeOnes) {
  DirtyRegion none;
  none.AddAll();
  none.Add({0, 0, 10, 10});
  EXPECT_TRUE(none.empty());
  EXPECT_THAT(none.Rectangles(), IsEmpty());
  DirtyRegion large(~0u, ~0u);
  large.AddAll();
  EXPECT_THAT(large.Rectangles(), ElementsAre(Rectangle{0, 0, DirtyRegion::kMaxWidth, DirtyRegion::kMaxHeight}));
}

// Every pixel that was added is in exactly one rectangle, every rectangle in the frame, and no tile in one that nothing touched.
TEST(DirtyRegionTest, AgainstTiles) {
  std::mt19937 random(TestSeed());
  for (int round = 0; round < 200; ++round) {
    const uint32_t width = 1 + random() % 8192, height = 1 + random() % 1200;
    DirtyRegion region(width, height);
    const uint32_t columns = (width + 63) / 64, rows = (height + 15) / 16;
    std::vector<int> wanted(columns * rows), found(columns * rows);
    for (uint32_t count = random() % 12; count != 0; --count) {
      const auto below = [&random](uint32_t limit) { return static_cast<uint32_t>(random() % limit); };
      const Rectangle added{below(width), below(height), below(700), below(100)};
      region.Add(added);
      if (added.width == 0 || added.height == 0) continue;
      for (uint32_t y = added.y / 16; y <= std::min(added.y + added.height - 1, height - 1) / 16; ++y) {
        for (uint32_t x = added.x / 64; x <= std::min(added.x + added.width - 1, width - 1) / 64; ++x) {
          wanted[y * columns + x] = 1;
        }
      }
    }
    for (const Rectangle& rectangle : region.Rectangles()) {
      ASSERT_LE(rectangle.x + rectangle.width, width);
      ASSERT_LE(rectangle.y + rectangle.height, height);
      ASSERT_TRUE(rectangle.x % 64 == 0 && rectangle.y % 16 == 0 && rectangle.width != 0 && rectangle.height != 0);
      for (uint32_t y = rectangle.y / 16; y * 16 < rectangle.y + rectangle.height; ++y) {
        for (uint32_t x = rectangle.x / 64; x * 64 < rectangle.x + rectangle.width; ++x) ++found[y * columns + x];
      }
    }
    ASSERT_EQ(found, wanted) << width << " x " << height;
    ASSERT_EQ(region.empty(), *std::max_element(wanted.begin(), wanted.end()) == 0);
  }
}

}  // namespace
}  // namespace hvsdk
