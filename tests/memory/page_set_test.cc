// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/memory/page_set.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/random_seed.h"

namespace hvsdk {
namespace {

TEST(PageSetTest, AgreesWithAModelOnRandomSteps) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  for (int round = 0; round < 300; ++round) {
    const uint64_t size = round % 10 == 0 ? 64 * (round / 10) : random() % 300;
    PageSet set(size);
    std::vector<bool> model(size);
    for (int step = 0; step < 20 && size != 0; ++step) {
      switch (random() % 8) {
        case 6:
        case 7: {
          const uint64_t first = random() % size;
          const uint64_t count = random() % (size - first + 1);
          uint64_t found = 0;
          for (uint64_t page = first; page < first + count; ++page) found += model[page];
          ASSERT_EQ(set.CountRun(first, count), found) << "seed " << seed;
          const bool adds = random() % 2 == 0;
          adds ? set.AddRun(first, count) : set.RemoveRun(first, count);
          for (uint64_t page = first; page < first + count; ++page) model[page] = adds;
          break;
        }
        case 0:
        case 1: {
          const uint64_t page = random() % size;
          set.Add(page);
          model[page] = true;
          break;
        }
        case 2: {
          const uint64_t first = random() % size;
          const uint64_t bits[] = {random() & random(), random() & 1};
          for (uint64_t i = 0; i < 128; ++i) {
            // Bits beyond the end are the caller's mistake.
            if ((bits[i / 64] >> i % 64 & 1) != 0 && first + i < size) model[first + i] = true;
          }
          uint64_t valid[] = {bits[0], bits[1]};
          for (uint64_t i = 0; i < 128; ++i) {
            if (first + i >= size) valid[i / 64] &= ~(uint64_t{1} << i % 64);
          }
          set.AddBits(first, valid);
          break;
        }
        case 3: {
          PageSet other(size);
          for (uint64_t page = random() % size; page < size; page += 1 + random() % 7) {
            other.Add(page);
            model[page] = true;
          }
          set.Add(other);
          break;
        }
        case 4:
          if (random() % 8 == 0) {
            set.AddAll();
            model.assign(size, true);
          }
          break;
        default:
          if (random() % 8 == 0) {
            set.Clear();
            model.assign(size, false);
          }
      }
    }
    uint64_t count = 0;
    for (uint64_t page = 0; page < size; ++page) {
      ASSERT_EQ(set.Contains(page), model[page]) << "seed " << seed;
      count += model[page];
    }
    EXPECT_FALSE(set.Contains(size));
    ASSERT_EQ(set.Count(), count) << "seed " << seed;
    std::vector<bool> visited(size);
    uint64_t behind = 0;
    set.ForEachRun([&](uint64_t first, uint64_t pages) {
      EXPECT_TRUE(pages != 0 && (first > behind || behind == 0)) << "runs that touch are one";
      for (uint64_t page = first; page < first + pages; ++page) visited[page] = true;
      behind = first + pages;
      return true;
    });
    ASSERT_EQ(visited, model) << "seed " << seed;
    int runs = 0;
    set.ForEachRun([&](uint64_t, uint64_t) { return ++runs < 2; });
    EXPECT_LE(runs, 2);
  }
}

}  // namespace
}  // namespace hvsdk
