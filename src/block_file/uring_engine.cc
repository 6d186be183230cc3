// SPDX-License-Identifier: Apache-2.0
#include "block_file/uring_engine.h"

#include <linux/falloc.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "block_file/blocking_io.h"

namespace hvsdk::internal {
namespace {

constexpr unsigned kSubmissionEntries = 256;
constexpr unsigned kCompletionEntries = 4096;
constexpr size_t kMaxPieces = 1024;  // UIO_MAXIOV

// io_uring wants iovec; HostBuffer has its layout (asserted in blocking_io.cc).
const iovec* Pieces(const BlockRequest& request) {
  return reinterpret_cast<const iovec*>(request.buffers.data());
}

}  // namespace

absl::StatusOr<std::shared_ptr<FileEngine>> UringEngine::Create() {
  auto engine = std::shared_ptr<UringEngine>(new UringEngine);
  io_uring_params params = {};
  params.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  params.cq_entries = kCompletionEntries;
  const int result = io_uring_queue_init_params(kSubmissionEntries, &engine->ring_, &params);
  if (result < 0) {
    engine->ring_.ring_fd = -1;
    return absl::UnavailableError(
        absl::StrCat("io_uring is not available: ", std::strerror(-result)));
  }
  // Without it completions can be lost, or a request's piece list must outlive the call.
  constexpr unsigned kNeeded = IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;
  if ((params.features & kNeeded) != kNeeded) {
    io_uring_queue_exit(&engine->ring_);
    engine->ring_.ring_fd = -1;
    return absl::UnavailableError("io_uring is not available: this kernel's is too old");
  }
  if (absl::Status started = engine->thread_.Start("disk", [e = engine.get()] { e->WaitForCompletions(); }); !started.ok()) {
    io_uring_queue_exit(&engine->ring_);
    return absl::UnavailableError(started.message());
  }
  return engine;
}

UringEngine::~UringEngine() {
  if (!thread_.is_running()) return;
  stop_.store(true, std::memory_order_relaxed);
  {
    // A request that completes at once gets the thread out of the kernel.
    std::lock_guard lock(submit_mutex_);
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data(sqe, nullptr);
    in_flight_.fetch_add(1, std::memory_order_release);
    Deferred none;
    SubmitPrepared(none);
  }
  in_flight_.notify_one();
  thread_.Join();
  io_uring_queue_exit(&ring_);
}

void UringEngine::Submit(int fd, absl::Span<BlockRequest* const> batch) {
  Deferred deferred;
  {
    std::lock_guard lock(submit_mutex_);
    for (BlockRequest* request : batch) {
      // Zeroing with FUA is two steps, and a request in too many pieces is several: the slow way.
      const bool is_transfer = request->op == BlockOp::kRead || request->op == BlockOp::kWrite;
      if ((request->op == BlockOp::kWriteZeroes && request->fua) ||
          (is_transfer && request->buffers.empty())) {
        slow_.Resume(fd, *request, 0);
      } else {
        Prepare(fd, *request, deferred);
      }
    }
    SubmitPrepared(deferred);
  }
  for (const Done& done : deferred) Complete(*done.request, done.result);
  // What the page cache answered is here already. The thread is only needed for the rest.
  if (in_flight_.load(std::memory_order_relaxed) != 0) Reap();
  if (in_flight_.load(std::memory_order_acquire) != 0) in_flight_.notify_one();
}

void UringEngine::Prepare(int fd, BlockRequest& request, Deferred& deferred) {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) {
    SubmitPrepared(deferred);
    sqe = io_uring_get_sqe(&ring_);
  }
  const unsigned pieces = static_cast<unsigned>(std::min(request.buffers.size(), kMaxPieces));
  const off_t offset = static_cast<off_t>(request.offset_bytes);
  switch (request.op) {
    case BlockOp::kRead:
      if (pieces == 1) {
        const unsigned size =
            static_cast<unsigned>(std::min<size_t>(request.buffers[0].size_bytes, 1 << 30));
        io_uring_prep_read(sqe, fd, request.buffers[0].data, size, offset);
      } else {
        io_uring_prep_readv(sqe, fd, Pieces(request), pieces, offset);
      }
      break;
    case BlockOp::kWrite:
      if (pieces == 1) {
        const unsigned size =
            static_cast<unsigned>(std::min<size_t>(request.buffers[0].size_bytes, 1 << 30));
        io_uring_prep_write(sqe, fd, request.buffers[0].data, size, offset);
      } else {
        io_uring_prep_writev(sqe, fd, Pieces(request), pieces, offset);
      }
      if (request.fua) sqe->rw_flags = RWF_DSYNC;
      break;
    case BlockOp::kFlush:
      io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
      break;
    case BlockOp::kDiscard:
      io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                              static_cast<off_t>(request.size_bytes));
      break;
    case BlockOp::kWriteZeroes:
      io_uring_prep_fallocate(sqe, fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset,
                              static_cast<off_t>(request.size_bytes));
      break;
  }
  request.device_word = static_cast<uint64_t>(fd);
  io_uring_sqe_set_data(sqe, &request);
  // Release pairs with the subtraction in Take: whoever takes the completion sees the request as its owner wrote it.
  in_flight_.fetch_add(1, std::memory_order_release);
}

void UringEngine::SubmitPrepared(Deferred& deferred) {
  while (io_uring_sq_ready(&ring_) != 0) {
    const int result = io_uring_submit(&ring_);
    if (result >= 0 || result == -EINTR) continue;
    // The kernel is short of memory, or its completion queue overflowed: make room and try again.
    HVSDK_CHECK(result == -EAGAIN || result == -EBUSY);
    Done done[64];
    const unsigned count = Take(absl::MakeSpan(done));
    deferred.insert(deferred.end(), done, done + count);
    if (count == 0) std::this_thread::yield();
  }
}

unsigned UringEngine::Take(absl::Span<Done> done) {
  unsigned count = 0;
  {
    std::lock_guard lock(reap_mutex_);
    io_uring_cqe* cqes[64];
    const unsigned ready = io_uring_peek_batch_cqe(
        &ring_, cqes, static_cast<unsigned>(std::min<size_t>(64, done.size())));
    for (unsigned i = 0; i < ready; ++i) {
      auto* request = static_cast<BlockRequest*>(io_uring_cqe_get_data(cqes[i]));
      // The destructor's own request is nobody's.
      if (request != nullptr) done[count++] = {request, cqes[i]->res};
    }
    io_uring_cq_advance(&ring_, ready);
  }
  if (count != 0) in_flight_.fetch_sub(count, std::memory_order_acq_rel);
  return count;
}

void UringEngine::Reap() {
  Done done[64];
  while (const unsigned count = Take(absl::MakeSpan(done))) {
    for (unsigned i = 0; i < count; ++i) Complete(*done[i].request, done[i].result);
  }
}

void UringEngine::Complete(BlockRequest& request, int result) {
  const int fd = static_cast<int>(request.device_word);
  const bool is_transfer = request.op == BlockOp::kRead || request.op == BlockOp::kWrite;
  if (result < 0) {
    const bool retry = result == -EAGAIN || result == -EINTR || result == -ECANCELED;
    const bool other_way = result == -EOPNOTSUPP && (request.op == BlockOp::kWriteZeroes || request.op == BlockOp::kDiscard);
    if (retry || other_way) {
      slow_.Resume(fd, request, 0);
    } else {
      request.on_complete(request, BlockStatusFromErrno(-result));
    }
  } else if (is_transfer && static_cast<uint64_t>(result) < request.size_bytes) {
    slow_.Resume(fd, request, static_cast<uint64_t>(result));
  } else {
    request.on_complete(request, BlockStatus::kOk);
  }
}

void UringEngine::WaitForCompletions() {
  while (!stop_.load(std::memory_order_relaxed)) {
    if (in_flight_.load(std::memory_order_acquire) == 0) {
      in_flight_.wait(0, std::memory_order_acquire);
      continue;
    }
    // Returns once anything is in the completion queue, including what somebody else then reaps.
    io_uring_enter(static_cast<unsigned>(ring_.ring_fd), 0, 1, IORING_ENTER_GETEVENTS, nullptr);
    Reap();
  }
}

}  // namespace hvsdk::internal
