// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/image/raw_disk.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/image/waited_request.h"
#include "tests/random_seed.h"

namespace hvsdk {
namespace {

using testing::HasSubstr;

class RawDiskTest : public testing::TestWithParam<FileEngineKind> {
 protected:
  static constexpr uint64_t kSize = 4 << 20;

  void SetUp() override {
    auto engine = FileEngine::Create(GetParam());
    if (GetParam() == FileEngineKind::kIoUring && absl::IsUnavailable(engine.status())) {
      GTEST_SKIP() << engine.status().message();
    }
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *engine;
    char path[] = "/tmp/hvsdk-raw-disk-XXXXXX";
    const int fd = mkstemp(path);
    ASSERT_GE(fd, 0);
    path_ = path;
    ASSERT_EQ(ftruncate(fd, kSize), 0);
    close(fd);
  }
  void TearDown() override { unlink(path_.c_str()); }

  std::shared_ptr<RawDisk> Open(RawDiskOptions options = {}) {
    auto disk = RawDisk::Open(path_, options, engine_);
    EXPECT_TRUE(disk.ok()) << disk.status();
    return disk.ok() ? *disk : nullptr;
  }
  absl::Status OpenStatus(const std::string& path, bool read_only = false) {
    return RawDisk::Open(path, {.read_only = read_only, .id = {}, .serial = {}}, engine_).status();
  }
  static void Fill(WaitedRequest& request, BlockOp op, uint64_t offset, uint64_t size, size_t piece = 0) {
    request.op = op;
    request.offset_bytes = offset;
    request.size_bytes = size;
    request.pieces.clear();
    if (op == BlockOp::kRead || op == BlockOp::kWrite) {
      request.bytes.resize(size);
      if (piece == 0) piece = size;
      for (size_t at = 0; at < size; at += piece) {
        request.pieces.push_back({request.bytes.data() + at, std::min<size_t>(piece, size - at)});
      }
    }
    request.buffers = request.pieces;
  }
  static BlockStatus Run(BlockDevice& disk, WaitedRequest& request) {
    BlockRequest* one = &request;
    disk.Submit({&one, 1});
    return request.Wait();
  }
  std::vector<uint8_t> FileContents() {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::string path_;
  std::shared_ptr<FileEngine> engine_;
};

INSTANTIATE_TEST_SUITE_P(Engines, RawDiskTest,
                         testing::Values(FileEngineKind::kAuto, FileEngineKind::kIoUring, FileEngineKind::kThreads),
                         [](const auto& info) {
                           return info.param == FileEngineKind::kAuto      ? "Auto"
                                  : info.param == FileEngineKind::kIoUring ? "IoUring"
                                                                           : "Threads";
                         });

TEST_P(RawDiskTest, WritesReachTheFileAndReadsComeBack) {
  auto disk = Open();
  EXPECT_EQ(disk->info().size_bytes, kSize);
  EXPECT_FALSE(disk->info().read_only);
  WaitedRequest request;
  for (const size_t piece : {0u, 512u, 1000u, 40u}) {  // 40: more pieces than one system call takes
    Fill(request, BlockOp::kWrite, 512 * 3, 64 << 10, piece);
    for (size_t i = 0; i < request.bytes.size(); ++i) request.bytes[i] = static_cast<uint8_t>(i * 31 + piece);
    const auto written = request.bytes;
    ASSERT_EQ(Run(*disk, request), BlockStatus::kOk);
    const auto contents = FileContents();
    ASSERT_EQ(std::memcmp(contents.data() + 512 * 3, written.data(), written.size()), 0);
    ASSERT_EQ(contents[512 * 3 - 1], 0);
    std::fill(request.bytes.begin(), request.bytes.end(), 0);
    request.op = BlockOp::kRead;
    ASSERT_EQ(Run(*disk, request), BlockStatus::kOk);
    ASSERT_EQ(request.bytes, written);
  }
  Fill(request, BlockOp::kFlush, 0, 0);
  EXPECT_EQ(Run(*disk, request), BlockStatus::kOk);
  Fill(request, BlockOp::kWrite, 0, 512);
  request.fua = true;
  EXPECT_EQ(Run(*disk, request), BlockStatus::kOk);
}

TEST_P(RawDiskTest, TellsWhereDataMayBe) {
  auto disk = Open();
  const bool has_holes = disk->info().can_discard;
  constexpr uint64_t kMiB = 1 << 20, kBytes = 64 << 10;
  WaitedRequest request;
  // The second one behind a question: what lies there has changed since.
  EXPECT_EQ(disk->FindData(0).size_bytes, has_holes ? 0 : kSize);
  for (const uint64_t offset : {3 * kMiB, kMiB}) {
    Fill(request, BlockOp::kWrite, offset, kBytes);
    std::fill(request.bytes.begin(), request.bytes.end(), 1);
    ASSERT_EQ(Run(*disk, request), BlockStatus::kOk);
    const BlockRange data = disk->FindData(0);
    if (has_holes) {
      EXPECT_EQ(data.offset_bytes, offset);
      EXPECT_EQ(data.size_bytes, kBytes);
    } else {
      EXPECT_EQ(data.size_bytes, kSize);
    }
    // In the midst of it.
    const BlockRange rest = disk->FindData(offset + 512);
    EXPECT_EQ(rest.offset_bytes, offset + 512);
    EXPECT_GE(rest.size_bytes, kBytes - 512);
  }
  EXPECT_EQ(disk->FindData(kMiB + kBytes).offset_bytes, has_holes ? 3 * kMiB : kMiB + kBytes);
  EXPECT_EQ(disk->FindData(3 * kMiB + kBytes).size_bytes, has_holes ? 0 : kMiB - kBytes);
  EXPECT_EQ(disk->FindData(kSize).size_bytes, 0);
  EXPECT_EQ(disk->FindData(kSize + 1).size_bytes, 0);
}

TEST_P(RawDiskTest, ZeroesAndHoles) {
  auto disk = Open();
  WaitedRequest request;
  Fill(request, BlockOp::kWrite, 0, 1 << 20);
  std::fill(request.bytes.begin(), request.bytes.end(), 0xAB);
  ASSERT_EQ(Run(*disk, request), BlockStatus::kOk);
  WaitedRequest zero;
  for (const bool fua : {false, true}) {
    Fill(zero, BlockOp::kWriteZeroes, 4096 + fua * 65536, 8192);
    zero.fua = fua;
    ASSERT_EQ(Run(*disk, zero), BlockStatus::kOk);
  }
  zero.fua = false;
  Fill(zero, BlockOp::kDiscard, 512 << 10, 128 << 10);
  ASSERT_EQ(Run(*disk, zero), disk->info().can_discard ? BlockStatus::kOk : BlockStatus::kUnsupported);
  Fill(zero, BlockOp::kDiscard, 0, 0);
  ASSERT_EQ(Run(*disk, zero), disk->info().can_discard ? BlockStatus::kOk : BlockStatus::kUnsupported);
  const auto contents = FileContents();
  ASSERT_EQ(contents.size(), kSize);
  for (size_t i = 0; i < 1 << 20; ++i) {
    const bool zeroed = (i >= 4096 && i < 4096 + 8192) || (i >= 4096 + 65536 && i < 4096 + 65536 + 8192) ||
                        (disk->info().can_discard && i >= 512 << 10 && i < 640 << 10);
    ASSERT_EQ(contents[i], zeroed ? 0 : 0xAB) << i;
  }
}

TEST_P(RawDiskTest, AgreesWithAByteArrayUnderManyThreadsAndBatches) {
  auto disk = Open();
  const uint32_t seed = TestSeed();
  constexpr int kThreads = 3;
  constexpr uint64_t kShare = kSize / 4 / 512 * 512;
  std::vector<std::vector<uint8_t>> models(kThreads, std::vector<uint8_t>(kShare));
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(seed + t);
      std::vector<WaitedRequest> requests(16);
      for (int round = 0; round < 60; ++round) {
        // A batch of requests that do not overlap: one in each sixteenth of the thread's share.
        std::vector<BlockRequest*> batch;
        for (size_t i = 0; i < requests.size(); ++i) {
          const uint64_t part = kShare / requests.size();
          const uint64_t size = 512 * (1 + random() % (part / 512));
          const uint64_t offset = i * part + random() % (part - size + 1) / 512 * 512;
          WaitedRequest& request = requests[i];
          const int kind = static_cast<int>(random() % 8);
          Fill(request,
               kind < 4   ? BlockOp::kRead
               : kind < 7 ? BlockOp::kWrite
                          : BlockOp::kWriteZeroes,
               t * kShare + offset, size, 512 * (1 + random() % 8));
          uint8_t* model = models[t].data() + offset;
          if (request.op == BlockOp::kWrite) {
            for (auto& byte : request.bytes) byte = static_cast<uint8_t>(random());
            std::memcpy(model, request.bytes.data(), size);
            request.fua = random() % 16 == 0;
          } else if (request.op == BlockOp::kWriteZeroes) {
            std::memset(model, 0, size);
          }
          batch.push_back(&request);
        }
        disk->Submit(batch);
        for (WaitedRequest& request : requests) {
          ASSERT_EQ(request.Wait(), BlockStatus::kOk);
          if (request.op == BlockOp::kRead) {
            ASSERT_EQ(std::memcmp(request.bytes.data(), models[t].data() + (request.offset_bytes - t * kShare),
                                  request.size_bytes),
                      0);
          }
          request.fua = false;
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  const auto contents = FileContents();
  for (int t = 0; t < kThreads; ++t) EXPECT_EQ(std::memcmp(contents.data() + t * kShare, models[t].data(), kShare), 0);
}

TEST_P(RawDiskTest, MoreRequestsThanTheQueueHolds) {
  auto disk = Open();
  std::vector<WaitedRequest> requests(1000);
  std::vector<BlockRequest*> batch;
  for (size_t i = 0; i < requests.size(); ++i) {
    Fill(requests[i], BlockOp::kWrite, i * 4096, 4096);
    std::fill(requests[i].bytes.begin(), requests[i].bytes.end(), static_cast<uint8_t>(i));
    batch.push_back(&requests[i]);
  }
  disk->Submit(batch);
  for (auto& request : requests) ASSERT_EQ(request.Wait(), BlockStatus::kOk);
  const auto contents = FileContents();
  for (size_t i = 0; i < requests.size(); ++i) ASSERT_EQ(contents[i * 4096 + 4095], static_cast<uint8_t>(i));
}

TEST_P(RawDiskTest, RefusesWhatDoesNotFit) {
  auto disk = Open();
  std::vector<WaitedRequest> requests(5);
  Fill(requests[0], BlockOp::kRead, kSize - 512, 512);
  Fill(requests[1], BlockOp::kRead, kSize - 512, 1024);
  Fill(requests[2], BlockOp::kRead, 256, 512);
  Fill(requests[3], BlockOp::kWrite, ~uint64_t{511}, 512);
  Fill(requests[4], BlockOp::kRead, 0, 512);
  std::vector<BlockRequest*> batch;
  for (auto& request : requests) batch.push_back(&request);
  disk->Submit(batch);
  EXPECT_EQ(requests[0].Wait(), BlockStatus::kOk);
  EXPECT_EQ(requests[1].Wait(), BlockStatus::kOutOfRange);
  EXPECT_EQ(requests[2].Wait(), BlockStatus::kOutOfRange);
  EXPECT_EQ(requests[3].Wait(), BlockStatus::kOutOfRange);
  EXPECT_EQ(requests[4].Wait(), BlockStatus::kOk);
}

TEST_P(RawDiskTest, AReadOnlyDiskStaysUntouched) {
  ASSERT_EQ(chmod(path_.c_str(), 0444), 0);
  auto disk = Open({.read_only = true, .id = {}, .serial = {}});
  EXPECT_TRUE(disk->info().read_only);
  EXPECT_FALSE(disk->info().can_discard);
  WaitedRequest request;
  for (const BlockOp op : {BlockOp::kWrite, BlockOp::kWriteZeroes, BlockOp::kDiscard}) {
    Fill(request, op, 0, 512);
    EXPECT_EQ(Run(*disk, request), BlockStatus::kReadOnly);
  }
  Fill(request, BlockOp::kRead, 0, 512);
  EXPECT_EQ(Run(*disk, request), BlockStatus::kOk);
  Fill(request, BlockOp::kFlush, 0, 0);
  EXPECT_EQ(Run(*disk, request), BlockStatus::kOk);
}

TEST_P(RawDiskTest, OpeningForWritingChangesNothing) {
  // Blocks that were allocated ahead, behind the end, are the owner's.
  const int fd = open(path_.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  const int allocated = fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, kSize + (1 << 20));
  const bool is_known = allocated == 0 || errno == EOPNOTSUPP;
  close(fd);
  ASSERT_TRUE(is_known);
  // Long enough ago that no clock is too coarse to tell a change of the status apart.
  const timespec times[2] = {{.tv_sec = 1000, .tv_nsec = 0}, {.tv_sec = 1000, .tv_nsec = 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, path_.c_str(), times, 0), 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  struct stat before;
  ASSERT_EQ(stat(path_.c_str(), &before), 0);
  Open().reset();
  struct stat after;
  ASSERT_EQ(stat(path_.c_str(), &after), 0);
  EXPECT_EQ(after.st_size, before.st_size);
  EXPECT_EQ(after.st_blocks, before.st_blocks);
  EXPECT_EQ(after.st_mtim.tv_sec, before.st_mtim.tv_sec);
  EXPECT_EQ(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
  EXPECT_EQ(after.st_ctim.tv_sec, before.st_ctim.tv_sec);
  EXPECT_EQ(after.st_ctim.tv_nsec, before.st_ctim.tv_nsec);
}

TEST_P(RawDiskTest, OneWriterOrManyReaders) {
  {
    auto writer = Open();
    const absl::Status second = OpenStatus(path_);
    EXPECT_TRUE(absl::IsFailedPrecondition(second));
    EXPECT_THAT(second.message(), HasSubstr(path_));
    EXPECT_FALSE(OpenStatus(path_, /*read_only=*/true).ok());
  }
  auto reader = Open({.read_only = true, .id = {}, .serial = {}});
  EXPECT_TRUE(OpenStatus(path_, /*read_only=*/true).ok());
  EXPECT_FALSE(OpenStatus(path_).ok());
}

TEST_P(RawDiskTest, AFileThatSomebodyIsMakingIsInUse) {
  const int fd = open(path_.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  ASSERT_EQ(fcntl(fd, F_OFD_SETLK, &lock), 0);
  for (const off_t size : {off_t{0}, off_t{1000}}) {
    ASSERT_EQ(ftruncate(fd, size), 0);
    EXPECT_THAT(OpenStatus(path_).message(), HasSubstr("is in use"));
  }
  ASSERT_EQ(ftruncate(fd, kSize), 0);
  close(fd);
  EXPECT_TRUE(OpenStatus(path_).ok());
}

TEST_P(RawDiskTest, OpeningErrorsNameTheFile) {
  const absl::Status missing = OpenStatus("/nonexistent/disk.img");
  EXPECT_TRUE(absl::IsNotFound(missing));
  EXPECT_THAT(missing.message(), HasSubstr("/nonexistent/disk.img"));
  const absl::Status directory = OpenStatus("/tmp", true);
  EXPECT_TRUE(absl::IsInvalidArgument(directory));
  EXPECT_THAT(directory.message(), HasSubstr("neither a file nor a block device"));
  EXPECT_TRUE(absl::IsInvalidArgument(OpenStatus("/dev/null")));
  ASSERT_EQ(truncate(path_.c_str(), 1000), 0);
  EXPECT_THAT(OpenStatus(path_).message(), HasSubstr("its size, 1000 bytes, is not a multiple of 512"));
  ASSERT_EQ(truncate(path_.c_str(), 0), 0);
  EXPECT_THAT(OpenStatus(path_).message(), HasSubstr("is empty"));
}

TEST_P(RawDiskTest, AFileThatShrinksFailsReads) {
  auto disk = Open();
  ASSERT_EQ(truncate(path_.c_str(), 4096), 0);
  WaitedRequest request;
  Fill(request, BlockOp::kRead, 0, 8192);
  EXPECT_EQ(Run(*disk, request), BlockStatus::kIoError);
  Fill(request, BlockOp::kRead, 0, 4096);
  EXPECT_EQ(Run(*disk, request), BlockStatus::kOk);
}

TEST_P(RawDiskTest, NoSpaceIsToldApart) {
  auto disk = Open();
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 8192;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  WaitedRequest request;
  Fill(request, BlockOp::kWrite, 65536, 4096);
  const BlockStatus status = Run(*disk, request);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(status, BlockStatus::kNoSpace);
}

}  // namespace
}  // namespace hvsdk
