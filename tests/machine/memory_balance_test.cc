// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/machine/memory_balance.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/random_seed.h"

namespace hvsdk::machine {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kMib = 1 << 20;

uint64_t WishOf(const MemoryNeed& need) {
  return std::clamp(std::min(need.needed_bytes, need.max_bytes) / 5 * 6, need.min_bytes, need.max_bytes);
}

TEST(MemoryBalanceTest, EachGetsWhatItNeedsAndAFifth) {
  EXPECT_THAT(DivideMemory(1000 * kMib, {{{0, 500 * kMib, 100 * kMib}, {200 * kMib, 500 * kMib, 100 * kMib}}}),
              ElementsAre(120 * kMib, 200 * kMib));
  EXPECT_THAT(DivideMemory(1000 * kMib, {{{0, 100 * kMib, 100 * kMib}, {0, 500 * kMib, 0}}}),
              ElementsAre(100 * kMib, 0u));
  EXPECT_THAT(DivideMemory(1000 * kMib, {}), IsEmpty());
}

TEST(MemoryBalanceTest, WhatIsTooLittleIsDividedByNeed) {
  EXPECT_THAT(DivideMemory(720 * kMib, {{{0, 2000 * kMib, 400 * kMib}, {0, 2000 * kMib, 800 * kMib}}}),
              ElementsAre(240 * kMib, 480 * kMib));
  // The first has less than its part's least, so the others have less.
  EXPECT_THAT(DivideMemory(768 * kMib, {{{384 * kMib, 2000 * kMib, 10 * kMib},
                                         {64 * kMib, 2000 * kMib, 800 * kMib},
                                         {64 * kMib, 2000 * kMib, 800 * kMib}}}),
              ElementsAre(384 * kMib, 192 * kMib, 192 * kMib));
  // Not even the least.
  EXPECT_THAT(DivideMemory(100 * kMib, {{{80 * kMib, 200 * kMib, 400 * kMib}, {60 * kMib, 60 * kMib, 0}}}),
              ElementsAre(80 * kMib, 60 * kMib));
}

MemoryHolder Holder(uint64_t has_mib, uint64_t needed_mib) {
  return {.need = {64 * kMib, 1024 * kMib, needed_mib * kMib}, .has_bytes = has_mib * kMib};
}

TEST(MemoryBalanceTest, WhoHasTooLittleIsGivenWhatIsLeftAndWhatOthersCanDoWithout) {
  std::vector<MemoryHolder> holders = {Holder(300, 500), Holder(500, 100), Holder(400, 100)};
  EXPECT_THAT(PlanMoves(1300 * kMib, 1200 * kMib, holders), ElementsAre(400 * kMib, 472 * kMib, absl::nullopt));
  EXPECT_THAT(PlanMoves(2000 * kMib, 1200 * kMib, holders), ElementsAre(428 * kMib, absl::nullopt, absl::nullopt));
  // What is on its way already is not asked for once more.
  holders[1].wanted_bytes = 372 * kMib;
  EXPECT_THAT(PlanMoves(1200 * kMib, 1200 * kMib, holders), ElementsAre(absl::nullopt, absl::nullopt, absl::nullopt));
  holders[0].wanted_bytes = 400 * kMib;
  holders[1].wanted_bytes.reset();
  EXPECT_THAT(PlanMoves(1300 * kMib, 1200 * kMib, holders), ElementsAre(absl::nullopt, absl::nullopt, absl::nullopt));
}

// Others are asked instead of it.
TEST(MemoryBalanceTest, WhoIsNotToBeCountedOn) {
  std::vector<MemoryHolder> holders = {Holder(300, 500), Holder(500, 100), Holder(400, 100)};
  holders[1].wanted_bytes = 372 * kMib;
  holders[1].is_reliable = false;
  EXPECT_THAT(PlanMoves(1200 * kMib, 1200 * kMib, holders), ElementsAre(absl::nullopt, absl::nullopt, 272 * kMib));
  holders[1].is_reliable = true;
  holders[1].keeps_all = true;
  EXPECT_THAT(PlanMoves(1200 * kMib, 1200 * kMib, holders), ElementsAre(absl::nullopt, absl::nullopt, 272 * kMib));
  holders[1] = Holder(500, 100);
  holders[1].is_resting = true;
  EXPECT_THAT(PlanMoves(1200 * kMib, 1200 * kMib, holders), ElementsAre(absl::nullopt, absl::nullopt, 272 * kMib));
}

TEST(MemoryBalanceTest, HoldsForAnyMachines) {
  std::mt19937_64 random(TestSeed());
  int too_little = 0, enough = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<MemoryNeed> needs(random() % 8);
    uint64_t least = 0, wishes = 0;
    for (MemoryNeed& need : needs) {
      const uint64_t scale = uint64_t{1} << (random() % 40);
      need.min_bytes = random() % 512 * scale;
      need.max_bytes = need.min_bytes + random() % 512 * scale;
      need.needed_bytes = random() % 8 == 0 ? random() : random() % 1024 * scale;
      least += need.min_bytes;
      wishes += WishOf(need);
    }
    const uint64_t total = random() % 4 == 0 ? random() % (uint64_t{1} << 60) : wishes / 1024 * (random() % 1536);
    const std::vector<uint64_t> shares = DivideMemory(total, needs);
    ASSERT_EQ(shares.size(), needs.size());
    const uint64_t sum = std::accumulate(shares.begin(), shares.end(), uint64_t{0});
    ASSERT_LE(sum, std::max(total, least));
    for (size_t i = 0; i < needs.size(); ++i) {
      ASSERT_GE(shares[i], needs[i].min_bytes);
      ASSERT_LE(shares[i], needs[i].max_bytes);
      ASSERT_LE(shares[i], std::max(WishOf(needs[i]), needs[i].min_bytes));
      if (wishes <= total) {
        ASSERT_GE(shares[i] + 2 * kMib, WishOf(needs[i]));
      }
      // Who needs more gets no less, within the same bounds.
      for (size_t j = 0; j < needs.size(); ++j) {
        if (needs[j].min_bytes == needs[i].min_bytes && needs[j].max_bytes == needs[i].max_bytes &&
            needs[j].needed_bytes > needs[i].needed_bytes) {
          ASSERT_GE(shares[j], shares[i]);
        }
      }
    }
    // Nothing to speak of is kept from those who want more.
    if (wishes > total && total > least) {
      ++too_little;
      uint64_t room = 0;
      for (size_t i = 0; i < needs.size(); ++i) room += (WishOf(needs[i]) >> 19) + 2 * (2 * kMib);
      ASSERT_GE(sum + room, total);
    } else {
      ++enough;
    }
  }
  EXPECT_GT(too_little, 1000);
  EXPECT_GT(enough, 1000);
}

}  // namespace
}  // namespace hvsdk::machine
