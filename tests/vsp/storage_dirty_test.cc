// SPDX-License-Identifier: Apache-2.0
// Whatever the root writes to a guest's memory for its disks, the dirty log has: rings, pages that reads fill, interrupt pages.

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/random_seed.h"
#include "tests/vsp/dirty_copy.h"
#include "tests/vsp/storage_fixture.h"

namespace hvsdk::vsp {
namespace {

class StorageDirtyTest : public StorageFixture, public testing::WithParamInterface<hvdef::vmbus::Version> {
 protected:
  static constexpr size_t kSeenPages = 512;
};

struct Io {
  vsc::StorageRequest request;
  GuestBuffer buffer;
  bool is_busy = false;
};

TEST_P(StorageDirtyTest, ACopyOfTheDirtyPagesIsMemory) {
  Make({.max_subchannels = 1}, GetParam());
  const auto disk = std::make_shared<HoldingDisk>(Pattern(1 << 20));
  ASSERT_TRUE(storage_->Attach(0, disk).ok());
  const uint32_t seed = TestSeed();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  auto primary = Open(0, 2);
  auto second = primary.get();
  std::unique_ptr<Opened> subchannel;
  primary->client->Start();
  Pump();
  if (hvdef::vmbus::HasSubchannels(GetParam())) {
    ASSERT_TRUE(primary->client->RequestSubchannels(1));
    Pump();
    subchannel = Open(1, 3);
    subchannel->client->StartSubchannel(*primary->client);
    second = subchannel.get();
  }
  vsc::StorageClient* const clients[] = {primary->client.get(), second->client.get()};
  std::vector<std::unique_ptr<Io>> ios;
  for (size_t i = 0; i < 40; ++i) {
    ios.push_back(std::make_unique<Io>());
    ios.back()->buffer = Allocate(512 * (1 + i % 20), 512 * (i % 5), i % 3 == 0);
  }
  ASSERT_LT(child_->AllocatePages(1), kSeenPages * kPageSize);

  const auto guest_step = [&] {
    switch (random() % 4) {
      case 0:
      case 1: {
        Io& io = *ios[random() % ios.size()];
        if (io.request.is_done) io.is_busy = false;
        if (io.is_busy) break;
        io.request = {};
        const uint32_t blocks = io.buffer.size_bytes / 512;
        const uint64_t lba = random() % 2000;
        switch (random() % 4) {
          case 0:
            io.request.SetWrite(lba, blocks);
            break;
          case 1:
            io.request.SetInquiry(static_cast<uint16_t>(random() % 512));
            break;
          default:
            io.request.SetRead(random() % 10 == 0 ? lba + 2000 : lba, blocks);  // there may be no such blocks
        }
        io.request.data = io.buffer.gpa_buffer();
        io.is_busy = clients[random() % 2]->Send(io.request);
        break;
      }
      case 2:
        clients[random() % 2]->Publish();
        break;
      default:
        child_->Poll();
    }
  };
  DirtyCopy copy(memory_, bytes_.get(), kSeenPages);
  for (int phase = 0; phase < 1500; ++phase) {
    for (uint32_t i = random() % 8; i > 0; --i) guest_step();
    copy.CopyAll();
    bool has_landed = false;
    for (uint32_t i = random() % 8; i > 0; --i) {
      if (random() % 2 == 0 && disk->held() != 0) {
        disk->ReleaseOne();
        has_landed = true;
      }
      executor_.RunOne();
    }
    // What a disk has filled is marked when the command is answered, and a root that is paused has answered all.
    if (has_landed) executor_.RunUntilIdle();
    ASSERT_NO_FATAL_FAILURE(copy.CopyDirty()) << "phase " << phase;
  }
  EXPECT_GT(copy.changes, 500u);
  // Rings are in the log whether they were written or not; all else only if they were.
  EXPECT_LT(copy.dirty, copy.changes + 1500 * (3 + 5 + 8));

  // The root's end of a ring that was closed is the guest's again.
  for (vsc::StorageClient* client : clients) client->Publish();
  for (int i = 0; i < 200; ++i) {
    Pump();
    disk->ReleaseAll();
  }
  copy.CopyAll();
  child_->client().Close(primary->channel);
  for (int i = 0; i < 20; ++i) {
    executor_.RunUntilIdle();
    ASSERT_NO_FATAL_FAILURE(copy.CopyDirty());
    child_->Poll();
    copy.CopyAll();
  }
  if (subchannel == nullptr) {
    copy.dirty = 0;
    ASSERT_NO_FATAL_FAILURE(copy.CopyDirty());
    EXPECT_EQ(copy.dirty, 0u) << "nothing is shared any more";
  }
}

INSTANTIATE_TEST_SUITE_P(Versions, StorageDirtyTest,
                         testing::Values(hvdef::vmbus::Version::kV0_13, hvdef::vmbus::kNewestVersion),
                         [](const testing::TestParamInfo<hvdef::vmbus::Version>& info) {
                           return info.param == hvdef::vmbus::kNewestVersion ? "Newest" : "Oldest";
                         });

using InterruptPageDirtyTest = StorageFixture;

// In the oldest version the guest signals by a bit of a page, and the root takes it from there.
TEST_F(InterruptPageDirtyTest, IsInTheLog) {
  Make({}, hvdef::vmbus::Version::kV0_13);
  ASSERT_TRUE(storage_->Attach(0, std::make_shared<MemoryDisk>(Pattern(1 << 20))).ok());
  auto opened = OpenReady();
  memory_.EnableDirtyTracking(true);
  // The loopback child has it first of its pages.
  const auto is_dirty = [&] {
    uint64_t bit = 0;
    memory_.TakeDirty(kPageSize, 1, absl::MakeSpan(&bit, 1));
    return bit != 0;
  };
  ASSERT_FALSE(is_dirty());
  vsc::StorageRequest request;
  request.SetTestUnitReady();
  ASSERT_TRUE(opened->client->Send(request));
  opened->client->Publish();
  EXPECT_TRUE(is_dirty()) << "the root cleared a bit";
  ASSERT_FALSE(is_dirty());
  executor_.RunUntilIdle();
  EXPECT_TRUE(is_dirty()) << "the root set a bit";
  Pump();
  EXPECT_TRUE(request.ok());
}

}  // namespace
}  // namespace hvsdk::vsp
