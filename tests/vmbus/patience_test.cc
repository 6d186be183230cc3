// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmbus/patience.h"

#include <cstdint>

#include "gtest/gtest.h"

namespace hvsdk::vmbus {
namespace {

// A guest that has `in_flight` requests, of which the host's thread sees the first unless it waits.
uint64_t Waits(Patience& patience, uint64_t in_flight, int turns) {
  uint64_t waits = 0;
  bool waited = false;
  for (int i = 0; i < turns; ++i) {
    waited = patience.AfterTurn(waited ? in_flight : 1, waited);
    waits += waited;
  }
  return waits;
}

TEST(PatienceTest, WaitsForManyAndNotForOne) {
  Patience patience;
  EXPECT_LT(Waits(patience, 1, 10'000), 20u);
  EXPECT_GT(Waits(patience, 32, 10'000), 8'000u);  // the next try was a thousand turns away
  EXPECT_LT(Waits(patience, 1, 10'000), 30u);
  Patience eager;
  EXPECT_GT(Waits(eager, 2, 100), 80u);
}

TEST(PatienceTest, NothingIsNoReason) {
  Patience patience;
  for (int i = 0; i < 10'000; ++i) ASSERT_FALSE(patience.AfterTurn(0, false));
  ASSERT_TRUE(patience.AfterTurn(2, false));
  int waits = 0;
  while (patience.AfterTurn(0, true) || patience.AfterTurn(1, false)) ASSERT_LT(++waits, 8);
}

}  // namespace
}  // namespace hvsdk::vmbus
