// SPDX-License-Identifier: Apache-2.0
#include "os/linux/uring_engine.h"

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <iterator>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "os/linux/blocking_io.h"

namespace hvsdk::internal {
namespace {

constexpr unsigned kSubmissionEntries = 256;
constexpr unsigned kCompletionEntries = 4096;
constexpr size_t kMaxPieces = 1024;  // UIO_MAXIOV
constexpr int kMaxTries = 10;        // to submit, while nothing completes
// The kernel's threads for what it must wait for after all: by default so few that one disk can take them all.
constexpr unsigned kMaxKernelWorkers = 256;

// io_uring wants iovec; HostBuffer has its layout (asserted in blocking_io.cc).
const iovec* Pieces(const BlockRequest& request) { return reinterpret_cast<const iovec*>(request.buffers.data()); }

// Kernels got the operations one by one, and know no other way to tell which they have.
bool HasOperations(io_uring& ring) {
  constexpr int kOperations[] = {IORING_OP_NOP, IORING_OP_READ, IORING_OP_READV, IORING_OP_WRITE, IORING_OP_WRITEV};
  io_uring_probe* probe = io_uring_get_probe_ring(&ring);
  if (probe == nullptr) return false;
  const bool has_all = std::all_of(std::begin(kOperations), std::end(kOperations),
                                   [&](int op) { return io_uring_opcode_supported(probe, op) != 0; });
  io_uring_free_probe(probe);
  return has_all;
}

// The kernel would have had to wait, was interrupted or short of memory, or knows no such operation on this file: a
// thread with ordinary system calls, which knows other ways, does better.
bool IsForAThread(int result) {
  switch (-result) {
    case EAGAIN:
    case EINTR:
    case ECANCELED:
    case ENOMEM:
    case EOPNOTSUPP:
      return true;
    default:
      return false;
  }
}

// Whether the kernel can say of this file that it would have to wait. Of others it makes a thread wait for each
// request, and has a limited number of them for all files together.
bool KnowsWhenToWait(int fd) {
  uint8_t byte;
  const iovec piece = {&byte, 1};
  return preadv2(fd, &piece, 1, 0, RWF_NOWAIT) >= 0 || errno != EOPNOTSUPP;
}

}  // namespace

class UringEngine::RingFile final : public FileQueue {
 public:
  RingFile(UringEngine& engine, int fd, SyncFailure on_sync_failure)
      : FileQueue(fd, std::move(on_sync_failure)), engine_(engine) {}
  void Submit(absl::Span<BlockRequest* const> batch) override { engine_.Submit(*this, batch); }

 private:
  UringEngine& engine_;
};

absl::StatusOr<std::shared_ptr<FileEngine>> UringEngine::Create() {
  auto engine = std::shared_ptr<UringEngine>(new UringEngine);
  io_uring_params params = {};
  params.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  params.cq_entries = kCompletionEntries;
  const int result = io_uring_queue_init_params(kSubmissionEntries, &engine->ring_, &params);
  if (result < 0) {
    engine->ring_.ring_fd = -1;
    return absl::UnavailableError(absl::StrCat("io_uring is not available: ", std::strerror(-result)));
  }
  // Without it completions can be lost, or a request's piece list must outlive the call.
  constexpr unsigned kNeeded = IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;
  if ((params.features & kNeeded) != kNeeded || !HasOperations(engine->ring_)) {
    return absl::UnavailableError("io_uring is not available: this kernel's is too old");
  }
  unsigned workers[2] = {kMaxKernelWorkers, 0};
  io_uring_register_iowq_max_workers(&engine->ring_, workers);  // a kernel without it does with what it has
  RETURN_IF_ERROR(engine->thread_.Start("disk", [e = engine.get()] { e->WaitForCompletions(); }));
  return engine;
}

UringEngine::UringEngine() { ring_.ring_fd = -1; }

UringEngine::~UringEngine() {
  if (ring_.ring_fd < 0) return;
  if (thread_.is_running()) {
    stop_.store(true, std::memory_order_relaxed);
    // A request that completes at once gets the thread out of the kernel. Nothing else would, so a kernel that is short
    // of memory is asked until it has some.
    while (!SubmitNop()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    in_flight_.WakeOne();
    thread_.Join();
  }
  io_uring_queue_exit(&ring_);
}

bool UringEngine::SubmitNop() {
  std::lock_guard lock(submit_mutex_);
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  io_uring_prep_nop(sqe);
  io_uring_sqe_set_data(sqe, nullptr);
  in_flight_.fetch_add(1, std::memory_order_release);
  Deferred none;
  return SubmitPrepared(none);
}

absl::StatusOr<std::unique_ptr<FileEngine::File>> UringEngine::Serve(int fd, SyncFailure on_sync_failure) {
  std::unique_ptr<FileQueue> file;
  if (KnowsWhenToWait(fd)) {
    file = std::make_unique<RingFile>(*this, fd, std::move(on_sync_failure));
  } else {
    file = std::make_unique<FileQueue>(fd, std::move(on_sync_failure));
  }
  RETURN_IF_ERROR(file->Start());
  return file;
}

void UringEngine::Submit(RingFile& file, absl::Span<BlockRequest* const> batch) {
  file.Begin(batch.size());
  Deferred deferred;
  {
    std::lock_guard lock(submit_mutex_);
    for (BlockRequest* request : batch) {
      const bool is_transfer = request->op == BlockOp::kRead || request->op == BlockOp::kWrite;
      if (is_transfer && !request->buffers.empty()) {
        Prepare(file, *request, deferred);
      } else {
        file.Resume(*request, 0);
      }
    }
    SubmitPrepared(deferred);
  }
  for (const Done& done : deferred) Complete(*done.request, done.result);
  // What the page cache answered is here already. The thread is only needed for the rest.
  if (in_flight_.load(std::memory_order_relaxed) != 0) Reap();
  if (in_flight_.load(std::memory_order_acquire) != 0) in_flight_.WakeOne();
}

void UringEngine::Prepare(RingFile& file, BlockRequest& request, Deferred& deferred) {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) {
    SubmitPrepared(deferred);
    sqe = io_uring_get_sqe(&ring_);
  }
  const unsigned pieces = static_cast<unsigned>(std::min(request.buffers.size(), kMaxPieces));
  const uint64_t offset = request.offset_bytes;
  const bool is_read = request.op == BlockOp::kRead;
  if (pieces == 1) {
    const unsigned size = static_cast<unsigned>(std::min<size_t>(request.buffers[0].size_bytes, 1 << 30));
    io_uring_prep_rw(is_read ? IORING_OP_READ : IORING_OP_WRITE, sqe, file.fd(), request.buffers[0].data, size, offset);
  } else {
    io_uring_prep_rw(is_read ? IORING_OP_READV : IORING_OP_WRITEV, sqe, file.fd(), Pieces(request), pieces, offset);
  }
  request.device_word = reinterpret_cast<uintptr_t>(&file);
  io_uring_sqe_set_data(sqe, &request);
  // Release pairs with the subtraction in Take: whoever takes the completion sees the request as its owner wrote it.
  in_flight_.fetch_add(1, std::memory_order_release);
}

bool UringEngine::SubmitPrepared(Deferred& deferred) {
  for (int tries = 0; io_uring_sq_ready(&ring_) != 0;) {
    const int result = io_uring_submit(&ring_);
    if (result > 0 || result == -EINTR) continue;
    // The kernel is short of memory, or its completion queue overflowed: make room and try again.
    const bool may_pass = result == 0 || result == -EAGAIN || result == -EBUSY;
    if (!may_pass || ++tries > kMaxTries) {
      Withdraw(deferred);
      return false;
    }
    Done done[64];
    const unsigned count = Take(absl::MakeSpan(done));
    deferred.insert(deferred.end(), done, done + count);
    if (count == 0) {
      std::this_thread::yield();
    } else {
      tries = 0;
    }
  }
  return true;
}

void UringEngine::Withdraw(Deferred& deferred) {
  // The kernel looks at the queue only when it is told to submit, which is under submit_mutex_.
  io_uring_sq& queue = ring_.sq;
  const unsigned head = *queue.khead;
  const unsigned count = queue.sqe_tail - head;
  for (unsigned i = 0; i < count; ++i) {
    const io_uring_sqe& sqe = queue.sqes[(head + i) & *queue.kring_mask];
    auto* request = reinterpret_cast<BlockRequest*>(static_cast<uintptr_t>(sqe.user_data));
    if (request != nullptr) deferred.push_back({request, -EAGAIN});
  }
  queue.sqe_head = queue.sqe_tail = head;
  *queue.ktail = head;
  in_flight_.fetch_sub(count, std::memory_order_acq_rel);
}

unsigned UringEngine::Take(absl::Span<Done> done) {
  unsigned count = 0;
  {
    std::lock_guard lock(reap_mutex_);
    io_uring_cqe* cqes[64];
    const unsigned ready =
        io_uring_peek_batch_cqe(&ring_, cqes, static_cast<unsigned>(std::min<size_t>(64, done.size())));
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
  RingFile& file = *reinterpret_cast<RingFile*>(static_cast<uintptr_t>(request.device_word));
  if (result < 0 && !IsForAThread(result)) {
    file.Finish(request, BlockStatusFromErrno(-result));
    return;
  }
  const uint64_t done_bytes = result < 0 ? 0 : static_cast<uint64_t>(result);
  const bool wants_sync = request.op == BlockOp::kWrite && request.fua;
  if (done_bytes < request.size_bytes || wants_sync) {
    file.Resume(request, done_bytes);
  } else {
    file.Finish(request, BlockStatus::kOk);
  }
}

void UringEngine::WaitForCompletions() {
  while (!stop_.load(std::memory_order_relaxed)) {
    if (in_flight_.load(std::memory_order_acquire) == 0) {
      in_flight_.Wait(0);
      continue;
    }
    // Returns once anything is in the completion queue, including what somebody else then reaps.
    io_uring_enter(static_cast<unsigned>(ring_.ring_fd), 0, 1, IORING_ENTER_GETEVENTS, nullptr);
    Reap();
  }
}

}  // namespace hvsdk::internal
