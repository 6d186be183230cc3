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

// The driver writes memory as the host does, so whatever changed is the host's doing.
TEST(HostileGuest, AllThatChangesItsMemoryIsInTheDirtyLog) {
  const uint32_t seeds = ScaledCount(4000);
  const uint32_t first = TestSeed();
  std::unique_ptr<fake::FakeMachine> machine;
  std::vector<uint8_t> copy;
  uint64_t changes = 0, dirty_pages = 0;
  for (uint32_t i = 0; i < seeds; ++i) {
    if (i % 100 == 0) {
      machine = std::make_unique<fake::FakeMachine>();
      machine->backend.StopRecording();
      for (uint32_t vp = 0; vp < 2; ++vp) machine->EnableSynic(vp);
      machine->memory.EnableDirtyTracking(true);
      copy = machine->host;
    }
    std::mt19937_64 random(first + i);
    std::vector<uint8_t> input(random() % 400);
    for (auto& byte : input) byte = static_cast<uint8_t>(random());
    fuzz::GuestDriver(*machine).Drive(input);
    uint64_t dirty = 0;
    machine->memory.TakeDirty(0, 64, absl::MakeSpan(&dirty, 1));
    for (uint64_t page = 0; page < 64; ++page) {
      const auto now = machine->host.begin() + page * kPageSize;
      const bool changed = !std::equal(now, now + kPageSize, copy.begin() + page * kPageSize);
      const bool is_dirty = (dirty >> page & 1) != 0;
      changes += changed;
      dirty_pages += is_dirty;
      ASSERT_TRUE(is_dirty || !changed) << "page " << page << ", seed " << first + i;
      std::copy(now, now + kPageSize, copy.begin() + page * kPageSize);
    }
  }
  EXPECT_GT(changes, seeds / 10);
  EXPECT_LT(dirty_pages, uint64_t{seeds} * 16);
}

}  // namespace
}  // namespace hvsdk::partition
