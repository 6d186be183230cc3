// SPDX-License-Identifier: Apache-2.0
// Random bytes as hypercall input, registers and MSR values: everything ends in a status or a fault.
#include <random>
#include <vector>

#include "fuzz/hypercall/drive_guest.h"
#include "gtest/gtest.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::partition {
namespace {

TEST(HostileGuest, RandomBytesEndInAStatus) {
  const uint32_t seeds = ScaledCount(100000);
  const uint32_t first = TestSeed();
  std::unique_ptr<fake::FakeMachine> machine;
  uint64_t succeeded = 0, failed = 0;
  for (uint32_t i = 0; i < seeds; ++i) {
    // A guest's state lasts for some inputs, so that they act on what earlier ones left.
    if (i % 500 == 0) {
      machine = std::make_unique<fake::FakeMachine>();
      machine->backend.StopRecording();
    }
    std::mt19937_64 random(first + i);
    std::vector<uint8_t> input(random() % 400);
    for (auto& byte : input) byte = static_cast<uint8_t>(random());
    fuzz::GuestDriver driver(*machine);
    driver.Drive(input);
    succeeded += driver.succeeded();
    failed += driver.failed();
  }
  // Both kinds of end are reached, so the bytes get past the first check and do not pass every one.
  EXPECT_GT(succeeded, seeds / 10);
  EXPECT_GT(failed, seeds / 10);
}

}  // namespace
}  // namespace hvsdk::partition
