// SPDX-License-Identifier: Apache-2.0
// Disks on a medium that forgets, fails, hangs and moves less than it was asked to: what a flush was acknowledged for
// is there.

#include <sys/uio.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/image/raw_disk.h"
#include "tests/image/forgetful_file.h"
#include "tests/image/waited_request.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace {

// Says of every file that the kernel knows when it would have to wait, so that io_uring's ring is used for ours too.
bool g_never_waits = false;

}  // namespace

extern "C" {

ssize_t __real_preadv2(int, const iovec*, int, off_t, int);
ssize_t __wrap_preadv2(int fd, const iovec* pieces, int count, off_t offset, int flags) {
  if (!g_never_waits || flags == 0) return __real_preadv2(fd, pieces, count, offset, flags);
  errno = EAGAIN;
  return -1;
}

}  // extern "C"

namespace hvsdk {
namespace {

enum class Way { kRing, kIoUring, kThreads };

class ForgetfulDiskTest : public testing::TestWithParam<Way> {
 protected:
  static constexpr size_t kBlock = 512;
  static constexpr size_t kBlocks = 512;

  void SetUp() override {
    g_never_waits = GetParam() == Way::kRing;
    const auto kind = GetParam() == Way::kThreads ? FileEngineKind::kThreads : FileEngineKind::kIoUring;
    auto engine = FileEngine::Create(kind);
    if (absl::IsUnavailable(engine.status())) GTEST_SKIP() << engine.status().message();
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *engine;
    file_ = MakeFile();
  }
  void TearDown() override {
    disk_.reset();
    file_.reset();
  }

  static std::unique_ptr<ForgetfulFile> MakeFile() {
    std::string reason;
    auto file = ForgetfulFile::Create(kBlocks * kBlock, reason);
    if (file == nullptr) [&] { GTEST_SKIP() << "no FUSE here: " << reason; }();
    return file;
  }
  std::shared_ptr<RawDisk> Open(const ForgetfulFile& file) {
    RawDiskOptions options;
    options.on_writes_lost = [this](const absl::Status& status) { told_.push_back(status); };
    auto disk = RawDisk::Open(file.path(), options, engine_);
    EXPECT_TRUE(disk.ok()) << disk.status();
    return disk.ok() ? *disk : nullptr;
  }

  std::shared_ptr<FileEngine> engine_;
  std::unique_ptr<ForgetfulFile> file_;
  std::shared_ptr<RawDisk> disk_;
  std::vector<absl::Status> told_;
};

INSTANTIATE_TEST_SUITE_P(Ways, ForgetfulDiskTest, testing::Values(Way::kRing, Way::kIoUring, Way::kThreads),
                         [](const auto& info) {
                           return info.param == Way::kRing      ? "Ring"
                                  : info.param == Way::kIoUring ? "IoUring"
                                                                : "Threads";
                         });

// A block of version v is filled with v and its own number; version 0 is all zeroes.
void FillBlock(uint8_t* block, uint32_t number, uint32_t version) {
  for (size_t at = 0; at < 512; at += 8) {
    const uint32_t words[2] = {version, version == 0 ? 0 : number};
    std::memcpy(block + at, words, sizeof(words));
  }
}
// Or ~0: not a whole block of any version.
uint32_t VersionOf(const uint8_t* block, uint32_t number) {
  uint32_t version;
  std::memcpy(&version, block, sizeof(version));
  uint8_t expected[512];
  FillBlock(expected, number, version);
  return std::memcmp(block, expected, sizeof(expected)) == 0 ? version : ~0u;
}

// Each block has versions in the order they were written; zeroing makes version 0, and starts a new count above all
// others, so that "written later" is a matter of position in a block's history.
class Model {
 public:
  explicit Model(size_t blocks) : histories_(blocks, History{{0}, 0}) {}

  void Wrote(uint32_t block, uint32_t version) { histories_[block].versions.push_back(version); }
  void LastsFrom(uint32_t block, size_t position) {
    histories_[block].lasting = std::max(histories_[block].lasting, position);
  }
  size_t Newest(uint32_t block) const { return histories_[block].versions.size() - 1; }
  uint32_t NewestVersion(uint32_t block) const { return histories_[block].versions.back(); }
  // Whether a medium that lost power may have `version`: what lasts, or anything written later.
  bool MayHave(uint32_t block, uint32_t version) const {
    const History& history = histories_[block];
    return std::find(history.versions.begin() + static_cast<std::ptrdiff_t>(history.lasting), history.versions.end(),
                     version) != history.versions.end();
  }
  void StartsWith(uint32_t block, uint32_t version) { histories_[block] = {{version}, 0}; }

 private:
  struct History {
    std::vector<uint32_t> versions;
    size_t lasting;  // the position of what must be left at least
  };
  std::vector<History> histories_;
};

TEST_P(ForgetfulDiskTest, WhatWasAcknowledgedLasts) {
  if (file_ == nullptr) return;
  const uint32_t seed = TestSeed();
  std::mt19937_64 random(seed);
  Model model(kBlocks);
  uint32_t next_version = 1;
  const uint32_t rounds = std::max(6u, ScaledCount(60));
  uint64_t acknowledged = 0, lost = 0;
  for (uint32_t round = 0; round < rounds; ++round) {
    disk_ = Open(*file_);
    ASSERT_NE(disk_, nullptr);
    // Not by the ring, which is not used for such files: of a short read by FUSE without the page cache Linux 6.18
    // reads the rest from the same place again.
    file_->MoveInPieces(GetParam() != Way::kRing && random() % 2 == 0, random() % 2 == 0);
    bool is_lost = false;
    told_.clear();
    for (int step = 0; step < 20; ++step) {
      if (random() % 16 == 0) file_->FailNextSync(random() % 2 == 0 ? EIO : ENOSPC);
      // Requests at once, of blocks that no other touches: writes and zeroes, some forced, and reads; and
      // maybe flushes.
      std::vector<WaitedRequest> requests(1 + random() % 12);
      std::vector<BlockRequest*> batch;
      std::vector<size_t> before(kBlocks);
      for (uint32_t block = 0; block < kBlocks; ++block) before[block] = model.Newest(block);
      const size_t part = kBlocks / requests.size();
      for (size_t i = 0; i < requests.size(); ++i) {
        WaitedRequest& request = requests[i];
        const uint32_t count = static_cast<uint32_t>(1 + random() % std::min<size_t>(part, 40));
        const uint32_t first = static_cast<uint32_t>(i * part + random() % (part - count + 1));
        constexpr BlockOp kOps[] = {BlockOp::kWrite, BlockOp::kWrite, BlockOp::kWriteZeroes, BlockOp::kRead,
                                    BlockOp::kFlush};
        request.op = kOps[random() % std::size(kOps)];
        request.fua = request.op != BlockOp::kRead && request.op != BlockOp::kFlush && random() % 4 == 0;
        request.offset_bytes = request.op == BlockOp::kFlush ? 0 : first * kBlock;
        request.size_bytes = request.op == BlockOp::kFlush ? 0 : count * kBlock;
        if (request.op == BlockOp::kRead || request.op == BlockOp::kWrite) {
          request.bytes.resize(request.size_bytes);
          const size_t cut = random() % request.size_bytes / 8 * 8;
          request.pieces = {{request.bytes.data(), cut}, {request.bytes.data() + cut, request.size_bytes - cut}};
          request.buffers = request.pieces;
        }
        if (request.op == BlockOp::kWrite || request.op == BlockOp::kWriteZeroes) {
          const uint32_t version = request.op == BlockOp::kWrite ? next_version++ : 0;
          for (uint32_t j = 0; j < count; ++j) {
            if (version != 0) FillBlock(&request.bytes[j * kBlock], first + j, version);
            model.Wrote(first + j, version);
          }
        }
        batch.push_back(&request);
      }
      disk_->Submit(batch);
      for (WaitedRequest& request : requests) {
        const BlockStatus status = request.Wait();
        const bool syncs = request.op == BlockOp::kFlush || request.fua;
        if (!syncs) {
          ASSERT_EQ(status, BlockStatus::kOk);
        } else if (status == BlockStatus::kWritesLost) {
          is_lost = true;
          ++lost;
        } else {
          ASSERT_EQ(status, BlockStatus::kOk);
          ++acknowledged;
          const bool is_flush = request.op == BlockOp::kFlush;
          const uint32_t first = static_cast<uint32_t>(request.offset_bytes / kBlock);
          const uint32_t end = is_flush ? kBlocks : first + static_cast<uint32_t>(request.size_bytes / kBlock);
          // A flush covers what had completed when it was submitted: what was there before this batch.
          for (uint32_t block = first; block < end; ++block) {
            model.LastsFrom(block, is_flush ? before[block] : model.Newest(block));
          }
        }
      }
      if (!is_lost) {
        for (const WaitedRequest& request : requests) {
          const uint32_t first = static_cast<uint32_t>(request.offset_bytes / kBlock);
          for (uint32_t j = 0; request.op == BlockOp::kRead && j < request.size_bytes / kBlock; ++j) {
            ASSERT_EQ(VersionOf(&request.bytes[j * kBlock], first + j), model.NewestVersion(first + j)) << first + j;
          }
        }
        continue;
      }
      ASSERT_EQ(told_.size(), 1);
      WaitedRequest flush;
      flush.op = BlockOp::kFlush;
      BlockRequest* one = &flush;
      disk_->Submit({&one, 1});
      ASSERT_EQ(flush.Wait(), BlockStatus::kWritesLost);
    }
    disk_.reset();
    file_->LosePower(random);
    file_->FailNextSync(0);
    const std::vector<uint8_t> left = file_->Lasting();
    for (uint32_t block = 0; block < kBlocks; ++block) {
      const uint32_t version = VersionOf(&left[block * kBlock], block);
      ASSERT_TRUE(model.MayHave(block, version))
          << "block " << block << " has version " << version << " in round " << round;
      model.StartsWith(block, version);
    }
  }
  EXPECT_GT(acknowledged, 0);
  EXPECT_GT(lost, 0);
}

TEST_P(ForgetfulDiskTest, WhatIsSettledLastsOrIsReported) {
  if (file_ == nullptr) return;
  const uint32_t seed = TestSeed();
  std::mt19937_64 random(seed);
  disk_ = Open(*file_);
  ASSERT_NE(disk_, nullptr);
  const auto write = [&](uint32_t version) {
    WaitedRequest request;
    request.op = BlockOp::kWrite;
    request.size_bytes = kBlocks * kBlock;
    request.bytes.resize(request.size_bytes);
    for (uint32_t block = 0; block < kBlocks; ++block) FillBlock(&request.bytes[block * kBlock], block, version);
    request.pieces = {{request.bytes.data(), request.bytes.size()}};
    request.buffers = request.pieces;
    BlockRequest* one = &request;
    disk_->Submit({&one, 1});
    EXPECT_EQ(request.Wait(), BlockStatus::kOk);
  };
  write(1);
  ASSERT_TRUE(disk_->Settle().ok());
  file_->LosePower(random);
  const std::vector<uint8_t> left = file_->Lasting();
  for (uint32_t block = 0; block < kBlocks; ++block) ASSERT_EQ(VersionOf(&left[block * kBlock], block), 1u) << block;
  write(2);
  file_->FailNextSync(EIO);
  EXPECT_FALSE(disk_->Settle().ok());
  EXPECT_FALSE(disk_->Settle().ok()) << "lost is lost";
}

TEST_P(ForgetfulDiskTest, AMediumThatHangsHoldsUpNoOther) {
  if (file_ == nullptr) return;
  if (GetParam() == Way::kRing) return;  // which is not used for files on which the kernel waits
  auto other_file = MakeFile();
  ASSERT_NE(other_file, nullptr);
  disk_ = Open(*file_);
  auto other = Open(*other_file);
  ASSERT_TRUE(disk_ != nullptr && other != nullptr);
  file_->Hang();
  std::vector<WaitedRequest> stuck(300);
  std::vector<BlockRequest*> batch;
  for (size_t i = 0; i < stuck.size(); ++i) {
    constexpr BlockOp kOps[] = {BlockOp::kRead, BlockOp::kWrite, BlockOp::kFlush, BlockOp::kWriteZeroes};
    WaitedRequest& request = stuck[i];
    request.op = kOps[i % std::size(kOps)];
    request.size_bytes = request.op == BlockOp::kFlush ? 0 : kBlock;
    request.bytes.resize(kBlock);
    request.pieces = {{request.bytes.data(), kBlock}};
    if (i % 4 < 2) request.buffers = request.pieces;
    batch.push_back(&request);
  }
  disk_->Submit(batch);
  // Everything that a disk does, on the other.
  for (const BlockOp op : {BlockOp::kWrite, BlockOp::kRead, BlockOp::kWriteZeroes, BlockOp::kFlush}) {
    WaitedRequest request;
    request.op = op;
    request.size_bytes = op == BlockOp::kFlush ? 0 : kBlock;
    request.bytes.resize(kBlock);
    request.pieces = {{request.bytes.data(), kBlock}};
    if (op == BlockOp::kWrite || op == BlockOp::kRead) request.buffers = request.pieces;
    BlockRequest* one = &request;
    other->Submit({&one, 1});
    const bool answers = other->WaitUntilIdle(std::chrono::seconds(20));
    if (!answers) file_->GoOn();
    EXPECT_TRUE(answers) << static_cast<int>(op);
    EXPECT_EQ(request.Wait(), BlockStatus::kOk);
  }
  EXPECT_FALSE(disk_->WaitUntilIdle(std::chrono::milliseconds(20)));
  file_->GoOn();
  EXPECT_TRUE(disk_->WaitUntilIdle(std::chrono::seconds(60)));
  for (WaitedRequest& request : stuck) EXPECT_EQ(request.Wait(), BlockStatus::kOk);
}

}  // namespace
}  // namespace hvsdk
