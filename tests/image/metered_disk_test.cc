// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/image/metered_disk.h"

#include <memory>
#include <vector>

#include "gtest/gtest.h"

namespace hvsdk {
namespace {

// Answers with what it is told to.
class ScriptedDisk : public BlockDevice {
 public:
  const BlockInfo& info() const override { return info_; }
  void Submit(absl::Span<BlockRequest* const> batch) override {
    for (BlockRequest* const request : batch) request->on_complete(*request, next);
  }
  BlockStatus next = BlockStatus::kOk;

 private:
  BlockInfo info_{.size_bytes = 1 << 20};
};

struct Request : BlockRequest {
  explicit Request(BlockOp what) {
    op = what;
    size_bytes = 4096;
    on_complete = [](BlockRequest& request, BlockStatus status) {
      auto& self = static_cast<Request&>(request);
      self.status = status;
      ++self.completions;
    };
  }
  BlockStatus status = BlockStatus::kOk;
  int completions = 0;
};

TEST(MeteredDiskTest, CountsByKindAndOutcome) {
  const auto disk = std::make_shared<ScriptedDisk>();
  std::vector<BlockStatus> failures;
  MeteredDisk metered(disk, [&](BlockStatus status) { failures.push_back(status); });
  EXPECT_EQ(metered.info().size_bytes, 1u << 20);
  Request read(BlockOp::kRead), write(BlockOp::kWrite), flush(BlockOp::kFlush);
  BlockRequest* const batch[] = {&read, &write};
  metered.Submit(batch);
  metered.Submit(batch);
  // What no disk would take is the asker's fault, not the disk's.
  disk->next = BlockStatus::kOutOfRange;
  metered.Submit(batch);
  EXPECT_TRUE(failures.empty());
  disk->next = BlockStatus::kWritesLost;
  BlockRequest* const flushes[] = {&flush};
  metered.Submit(flushes);
  disk->next = BlockStatus::kIoError;
  metered.Submit(batch);
  EXPECT_EQ(read.completions, 4);
  EXPECT_EQ(read.status, BlockStatus::kIoError);
  EXPECT_EQ(flush.status, BlockStatus::kWritesLost);
  EXPECT_EQ(failures, std::vector<BlockStatus>{BlockStatus::kWritesLost}) << "the first alone";
  const MeteredDisk::Counts reads = metered.counts(BlockOp::kRead);
  EXPECT_EQ(reads.requests, 4u);
  EXPECT_EQ(reads.bytes, 8192u);
  EXPECT_EQ(reads.errors, 1u);
  EXPECT_EQ(metered.counts(BlockOp::kFlush).errors, 1u);
  EXPECT_EQ(metered.counts(BlockOp::kDiscard).requests, 0u);
}

// A request may be used again from within its completion.
TEST(MeteredDiskTest, RequestsGoOnFromWithinTheirCompletion) {
  struct Chain : BlockRequest {
    MeteredDisk* disk;
    int left = 5;
  };
  MeteredDisk metered(std::make_shared<ScriptedDisk>());
  Chain chain;
  chain.disk = &metered;
  chain.op = BlockOp::kWrite;
  chain.on_complete = [](BlockRequest& request, BlockStatus) {
    auto& self = static_cast<Chain&>(request);
    BlockRequest* const again[] = {&self};
    if (--self.left > 0) self.disk->Submit(again);
  };
  BlockRequest* const first[] = {&chain};
  metered.Submit(first);
  EXPECT_EQ(chain.left, 0);
  EXPECT_EQ(metered.counts(BlockOp::kWrite).requests, 5u);
}

TEST(MeteredDiskTest, OneMeterCountsDisksThatComeAndGo) {
  const auto meter = std::make_shared<DiskMeter>();
  for (int i = 1; i <= 2; ++i) {
    MeteredDisk metered(std::make_shared<ScriptedDisk>(), nullptr, meter);
    Request read(BlockOp::kRead);
    BlockRequest* const one = &read;
    metered.Submit({&one, 1});
    EXPECT_EQ(metered.counts(BlockOp::kRead).requests, i);
  }
  EXPECT_EQ(meter->counts(BlockOp::kRead).requests, 2);
  EXPECT_EQ(meter->counts(BlockOp::kRead).bytes, 8192);
}

TEST(MeteredDiskTest, AnotherGoesOnInItsPlace) {
  const auto first = std::make_shared<ScriptedDisk>(), second = std::make_shared<ScriptedDisk>();
  MeteredDisk metered(first);
  const BlockInfo* const info = &metered.info();
  Request read(BlockOp::kRead);
  BlockRequest* const batch[] = {&read};
  metered.Submit(batch);
  second->next = BlockStatus::kIoError;
  metered.Replace(second);
  EXPECT_EQ(first.use_count(), 1);
  EXPECT_EQ(&metered.info(), info) << "who remembers it may go on to do so";
  metered.Submit(batch);
  EXPECT_EQ(read.status, BlockStatus::kIoError);
  EXPECT_EQ(metered.counts(BlockOp::kRead).requests, 2u);
}

}  // namespace
}  // namespace hvsdk
