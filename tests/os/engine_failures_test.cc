// SPDX-License-Identifier: Apache-2.0
// What the host may refuse an engine, refused on demand: this program is linked so that the system functions below come
// here first. Every request must complete, whatever happens.

#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/image/raw_disk.h"
#include "tests/image/waited_request.h"

namespace {

// What happens instead of a call; 0: nothing special.
struct Host {
  std::atomic<bool> refuses_threads{false};
  std::atomic<int> submit_error{0};
  std::atomic<int> missing_operation{-1};
  std::atomic<int> completion_error{0};  // of whatever the kernel did
  std::atomic<bool> punches_no_holes{false};
  std::atomic<int> interrupted_syncs{0};  // to come
  std::atomic<int> sync_error{0};         // of the next sync alone: Linux tells once
  std::atomic<bool> holds_syncs{false};
  std::atomic<int> syncs{0};  // that have begun, not counting interrupted ones
} host;

}  // namespace

extern "C" {

int __real_pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
int __wrap_pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*), void* argument) {
  return host.refuses_threads ? EAGAIN : __real_pthread_create(thread, attributes, body, argument);
}

int __real_io_uring_submit(io_uring*);
int __wrap_io_uring_submit(io_uring* ring) {
  if (host.submit_error == 0) return __real_io_uring_submit(ring);
  // The queue has been made visible to the kernel when it refuses.
  *ring->sq.ktail = ring->sq.sqe_head = ring->sq.sqe_tail;
  return -host.submit_error;
}

io_uring_probe* __real_io_uring_get_probe_ring(io_uring*);
io_uring_probe* __wrap_io_uring_get_probe_ring(io_uring* ring) {
  io_uring_probe* probe = __real_io_uring_get_probe_ring(ring);
  if (probe != nullptr && host.missing_operation >= 0)
    probe->ops[host.missing_operation].flags &= static_cast<uint16_t>(~IO_URING_OP_SUPPORTED);
  return probe;
}

unsigned __real_io_uring_peek_batch_cqe(io_uring*, io_uring_cqe**, unsigned);
unsigned __wrap_io_uring_peek_batch_cqe(io_uring* ring, io_uring_cqe** cqes, unsigned count) {
  const unsigned ready = __real_io_uring_peek_batch_cqe(ring, cqes, count);
  if (host.completion_error != 0) {
    for (unsigned i = 0; i < ready; ++i) cqes[i]->res = -host.completion_error;
  }
  return ready;
}

int __real_fallocate(int, int, off_t, off_t);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t size) {
  if (!host.punches_no_holes) return __real_fallocate(fd, mode, offset, size);
  errno = EOPNOTSUPP;
  return -1;
}

int __real_fdatasync(int);
int __wrap_fdatasync(int fd) {
  if (host.interrupted_syncs > 0) {
    --host.interrupted_syncs;
    errno = EINTR;
    return -1;
  }
  ++host.syncs;
  host.syncs.notify_all();
  host.holds_syncs.wait(true);
  if (const int error = host.sync_error.exchange(0); error != 0) {
    errno = error;
    return -1;
  }
  return __real_fdatasync(fd);
}

}  // extern "C"

namespace hvsdk {
namespace {

class EngineFailuresTest : public testing::TestWithParam<FileEngineKind> {
 protected:
  static constexpr uint64_t kSize = 4 << 20;
  static constexpr size_t kPieceBytes = 4096;

  void SetUp() override {
    char path[] = "/tmp/hvsdk-engine-failures-XXXXXX";
    const int fd = mkstemp(path);
    ASSERT_GE(fd, 0);
    path_ = path;
    ASSERT_EQ(ftruncate(fd, kSize), 0);
    close(fd);
  }
  void TearDown() override {
    Mend();
    disk_.reset();
    unlink(path_.c_str());
  }
  static void Mend() {
    host.refuses_threads = false;
    host.submit_error = 0;
    host.missing_operation = -1;
    host.completion_error = 0;
    host.punches_no_holes = false;
    host.interrupted_syncs = 0;
    host.sync_error = 0;
    host.syncs = 0;
  }
  static bool IsMissing(const absl::Status& status) {
    return GetParam() == FileEngineKind::kIoUring && absl::IsUnavailable(status);
  }

  void Open() {
    auto engine = FileEngine::Create(GetParam());
    if (IsMissing(engine.status())) GTEST_SKIP() << engine.status();
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *engine;
    OpenDisk();
  }
  void OpenDisk() {
    disk_.reset();
    RawDiskOptions options;
    options.on_writes_lost = [this](const absl::Status& status) { told_.push_back(status); };
    auto disk = RawDisk::Open(path_, options, engine_);
    ASSERT_TRUE(disk.ok()) << disk.status();
    disk_ = *disk;
  }
  static void Fill(WaitedRequest& request, BlockOp op, uint64_t offset, uint64_t size, uint8_t value = 0) {
    request.op = op;
    request.fua = false;
    request.offset_bytes = offset;
    request.size_bytes = size;
    request.buffers = {};
    if (op != BlockOp::kRead && op != BlockOp::kWrite) return;
    request.bytes.assign(size, value);
    request.pieces = {{request.bytes.data(), size}};
    request.buffers = request.pieces;
  }
  BlockStatus Run(WaitedRequest& request) {
    BlockRequest* one = &request;
    disk_->Submit({&one, 1});
    return request.Wait();
  }
  // Writes more pieces than the queue holds with one call, and reads them back with another.
  void WriteAndReadBack(uint8_t first) {
    std::vector<WaitedRequest> requests(700);
    std::vector<BlockRequest*> batch;
    for (size_t i = 0; i < requests.size(); ++i) {
      Fill(requests[i], BlockOp::kWrite, i * kPieceBytes, kPieceBytes, static_cast<uint8_t>(first + i));
      batch.push_back(&requests[i]);
    }
    disk_->Submit(batch);
    for (WaitedRequest& request : requests) ASSERT_EQ(request.Wait(), BlockStatus::kOk);
    for (WaitedRequest& request : requests) {
      request.op = BlockOp::kRead;
      std::fill(request.bytes.begin(), request.bytes.end(), 0);
    }
    disk_->Submit(batch);
    for (size_t i = 0; i < requests.size(); ++i) {
      ASSERT_EQ(requests[i].Wait(), BlockStatus::kOk);
      ASSERT_EQ(requests[i].bytes, std::vector<uint8_t>(kPieceBytes, static_cast<uint8_t>(first + i)));
    }
  }

  std::string path_;
  std::shared_ptr<FileEngine> engine_;
  std::shared_ptr<RawDisk> disk_;
  std::vector<absl::Status> told_;
};

INSTANTIATE_TEST_SUITE_P(Engines, EngineFailuresTest,
                         testing::Values(FileEngineKind::kIoUring, FileEngineKind::kThreads), [](const auto& info) {
                           return info.param == FileEngineKind::kIoUring ? "IoUring" : "Threads";
                         });

TEST_P(EngineFailuresTest, WithoutAThreadThereIsNoDisk) {
  auto engine = FileEngine::Create(GetParam());
  if (IsMissing(engine.status())) GTEST_SKIP() << engine.status();
  ASSERT_TRUE(engine.ok()) << engine.status();
  host.refuses_threads = true;
  EXPECT_TRUE(absl::IsResourceExhausted(RawDisk::Open(path_, {}, *engine).status()));
  if (GetParam() == FileEngineKind::kIoUring) {
    EXPECT_TRUE(absl::IsResourceExhausted(FileEngine::Create(GetParam()).status()));
  }
}

TEST_P(EngineFailuresTest, NoMoreThreadsWillDo) {
  ASSERT_NO_FATAL_FAILURE(Open());
  if (disk_ == nullptr) return;
  host.refuses_threads = true;
  host.completion_error = EAGAIN;  // io_uring leaves it all to its thread
  WriteAndReadBack(1);
}

TEST_P(EngineFailuresTest, WhatTheRingDoesNotTakeIsDoneByAThread) {
  ASSERT_NO_FATAL_FAILURE(Open());
  if (disk_ == nullptr) return;
  uint8_t first = 1;
  for (const int error : {ENOMEM, EAGAIN, EBUSY, ENXIO, EINVAL}) {
    host.submit_error = error;
    ASSERT_NO_FATAL_FAILURE(WriteAndReadBack(first)) << std::strerror(error);
    host.submit_error = 0;
    ASSERT_NO_FATAL_FAILURE(WriteAndReadBack(static_cast<uint8_t>(first + 1)));
    first = static_cast<uint8_t>(first + 2);
  }
}

TEST_P(EngineFailuresTest, WhatTheRingCannotDoIsDoneByAThread) {
  ASSERT_NO_FATAL_FAILURE(Open());
  if (disk_ == nullptr) return;
  for (const int error : {ENOMEM, EOPNOTSUPP, EINTR}) {
    host.completion_error = error;
    ASSERT_NO_FATAL_FAILURE(WriteAndReadBack(static_cast<uint8_t>(error))) << std::strerror(error);
  }
}

TEST_P(EngineFailuresTest, AKernelThatLacksAnOperationMeansThreads) {
  for (const int operation : {IORING_OP_READ, IORING_OP_WRITE, IORING_OP_WRITEV}) {
    host.missing_operation = operation;
    const auto engine = FileEngine::Create(GetParam());
    EXPECT_EQ(engine.ok(), GetParam() == FileEngineKind::kThreads);
    EXPECT_EQ(absl::IsUnavailable(engine.status()), GetParam() == FileEngineKind::kIoUring);
    const auto any = FileEngine::Create(FileEngineKind::kAuto);
    ASSERT_TRUE(any.ok()) << any.status();
    EXPECT_EQ((*any)->name(), "threads");
  }
}

TEST_P(EngineFailuresTest, WhereThereAreNoHolesADiscardWritesZeroes) {
  ASSERT_NO_FATAL_FAILURE(Open());
  if (disk_ == nullptr) return;
  if (!disk_->info().can_discard) GTEST_SKIP() << "no discard on this file system";
  WaitedRequest request;
  Fill(request, BlockOp::kWrite, 0, kSize, 0xAB);
  ASSERT_EQ(Run(request), BlockStatus::kOk);
  host.punches_no_holes = true;
  host.completion_error = EOPNOTSUPP;
  Fill(request, BlockOp::kDiscard, 4096, 3 << 20);
  EXPECT_EQ(Run(request), BlockStatus::kOk);
  Mend();
  Fill(request, BlockOp::kRead, 0, kSize, 1);
  ASSERT_EQ(Run(request), BlockStatus::kOk);
  for (size_t i = 0; i < kSize; ++i) ASSERT_EQ(request.bytes[i], i >= 4096 && i < 4096 + (3 << 20) ? 0 : 0xAB) << i;
}

TEST_P(EngineFailuresTest, AForcedWriteIsSyncedOnce) {
  ASSERT_NO_FATAL_FAILURE(Open());
  if (disk_ == nullptr) return;
  // Whether the ring did it, a part of it, or nothing.
  for (const int error : {0, EAGAIN, EOPNOTSUPP}) {
    host.completion_error = error;
    for (const BlockOp op : {BlockOp::kWrite, BlockOp::kWriteZeroes}) {
      host.syncs = 0;
      WaitedRequest request;
      Fill(request, op, 0, 4096, 0xAB);
      request.fua = true;
      EXPECT_EQ(Run(request), BlockStatus::kOk);
      EXPECT_EQ(host.syncs, 1);
    }
  }
}

TEST_P(EngineFailuresTest, AnInterruptedFlushIsTriedAgain) {
  ASSERT_NO_FATAL_FAILURE(Open());
  if (disk_ == nullptr) return;
  host.interrupted_syncs = 3;
  WaitedRequest request;
  Fill(request, BlockOp::kFlush, 0, 0);
  EXPECT_EQ(Run(request), BlockStatus::kOk);
  EXPECT_EQ(host.syncs, 1);
}

// Linux tells once that it could not write back, drops what it had, and calls the next sync a success.
TEST_P(EngineFailuresTest, AfterAFailedSyncNoFlushIsBelieved) {
  ASSERT_NO_FATAL_FAILURE(Open());
  if (disk_ == nullptr) return;
  struct Way {
    BlockOp op;
    bool fua;
  };
  constexpr Way kSyncs[] = {{BlockOp::kFlush, false}, {BlockOp::kWrite, true}, {BlockOp::kWriteZeroes, true}};
  constexpr Way kOthers[] = {{BlockOp::kRead, false}, {BlockOp::kWrite, false}, {BlockOp::kWriteZeroes, false}};
  WaitedRequest request;
  const auto run = [&](Way way) {
    const bool has_range = way.op != BlockOp::kFlush;
    Fill(request, way.op, has_range ? 8192 : 0, has_range ? 4096 : 0, 0xCD);
    request.fua = way.fua;
    return Run(request);
  };
  for (const Way first : kSyncs) {
    // An error of writeback comes out of fdatasync as what the device said, whatever else the number may mean.
    for (const int error : {EIO, ENOSPC, EDQUOT, EAGAIN, ENOMEM, EOPNOTSUPP, ECANCELED, EREMOTEIO, ETIMEDOUT, EROFS}) {
      ASSERT_NO_FATAL_FAILURE(OpenDisk());
      told_.clear();
      for (const Way way : kSyncs) ASSERT_EQ(run(way), BlockStatus::kOk);
      host.sync_error = error;
      ASSERT_EQ(run(first), BlockStatus::kWritesLost) << std::strerror(error);
      host.syncs = 0;
      for (int i = 0; i < 3; ++i) {
        for (const Way way : kSyncs) ASSERT_EQ(run(way), BlockStatus::kWritesLost) << std::strerror(error);
        for (const Way way : kOthers) ASSERT_EQ(run(way), BlockStatus::kOk) << std::strerror(error);
      }
      EXPECT_EQ(host.syncs, 0);
      ASSERT_EQ(told_.size(), 1);
      EXPECT_TRUE(absl::IsDataLoss(told_[0]));
      EXPECT_THAT(told_[0].message(), testing::HasSubstr(path_));
      EXPECT_THAT(told_[0].message(), testing::HasSubstr(std::strerror(error)));
    }
  }
}

TEST_P(EngineFailuresTest, RequestsThatWaitShareTheNextSyncAndItsFailure) {
  ASSERT_NO_FATAL_FAILURE(Open());
  if (disk_ == nullptr) return;
  for (const bool fails : {false, true}) {
    host.syncs = 0;
    host.holds_syncs = true;
    WaitedRequest first;
    Fill(first, BlockOp::kFlush, 0, 0);
    BlockRequest* one = &first;
    disk_->Submit({&one, 1});
    host.syncs.wait(0);
    // None of these is covered by a sync that began before them.
    std::vector<WaitedRequest> others(20);
    std::vector<BlockRequest*> batch;
    for (WaitedRequest& other : others) {
      const bool is_write = batch.size() % 2 == 1;
      Fill(other, is_write ? BlockOp::kWrite : BlockOp::kFlush, is_write ? batch.size() * 4096 : 0,
           is_write ? 4096 : 0);
      other.fua = is_write;
      batch.push_back(&other);
    }
    disk_->Submit(batch);
    EXPECT_FALSE(disk_->WaitUntilIdle(std::chrono::milliseconds(50)));
    EXPECT_EQ(host.syncs, 1);
    if (fails) host.sync_error = EIO;
    host.holds_syncs = false;
    host.holds_syncs.notify_all();
    const BlockStatus expected = fails ? BlockStatus::kWritesLost : BlockStatus::kOk;
    EXPECT_EQ(first.Wait(), expected);
    for (WaitedRequest& other : others) EXPECT_EQ(other.Wait(), expected);
    EXPECT_TRUE(disk_->WaitUntilIdle(std::chrono::seconds(10)));
    // One for all that waited, or a few where some came late.
    EXPECT_LT(host.syncs, 12);
  }
}

TEST_P(EngineFailuresTest, AReadOnlyDiskHasNothingToFlush) {
  ASSERT_NO_FATAL_FAILURE(Open());
  if (disk_ == nullptr) return;
  disk_.reset();
  auto disk = RawDisk::Open(path_, {.read_only = true}, engine_);
  ASSERT_TRUE(disk.ok()) << disk.status();
  disk_ = *disk;
  host.sync_error = EIO;
  WaitedRequest request;
  Fill(request, BlockOp::kFlush, 0, 0);
  EXPECT_EQ(Run(request), BlockStatus::kOk);
  EXPECT_EQ(host.syncs, 0);
}

}  // namespace
}  // namespace hvsdk
