// SPDX-License-Identifier: Apache-2.0
#include "block_file/thread_engine.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "block_file/blocking_io.h"

namespace hvsdk::internal {
namespace {

// device_word: the file descriptor in the high half; below it what has been done, in 512-byte
// steps. A request is shorter than 2^41 bytes, as the initiator's memory is.
uint64_t Pack(int fd, uint64_t done_bytes) {
  return static_cast<uint64_t>(static_cast<uint32_t>(fd)) << 32 | static_cast<uint32_t>(done_bytes >> 9);
}

}  // namespace

absl::StatusOr<std::shared_ptr<ThreadEngine>> ThreadEngine::Create(size_t max_threads) {
  auto engine = std::shared_ptr<ThreadEngine>(new ThreadEngine(max_threads));
  RETURN_IF_ERROR(engine->StartThread());
  return engine;
}

ThreadEngine::~ThreadEngine() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (HostThread& thread : threads_) thread.Join();
}

void ThreadEngine::Submit(int fd, absl::Span<BlockRequest* const> batch) {
  size_t wake;
  {
    std::lock_guard lock(mutex_);
    for (BlockRequest* request : batch) Push(fd, *request, 0);
    wake = std::min(idle_, batch.size());
  }
  while (wake-- > 0) wake_.notify_one();
}

void ThreadEngine::Resume(int fd, BlockRequest& request, uint64_t done_bytes) {
  {
    std::lock_guard lock(mutex_);
    Push(fd, request, done_bytes);
  }
  wake_.notify_one();
}

void ThreadEngine::Push(int fd, BlockRequest& request, uint64_t done_bytes) {
  request.device_next = nullptr;
  // Bytes beyond the last whole block are moved again, which changes nothing.
  request.device_word = Pack(fd, done_bytes);
  (last_ == nullptr ? first_ : last_->device_next) = &request;
  last_ = &request;
  if (++queued_ <= idle_ || threads_.size() == max_threads_) return;
  // A host that has no more threads to give is not asked with every request.
  if (!StartThread().ok()) max_threads_ = threads_.size();
}

absl::Status ThreadEngine::StartThread() {
  HostThread thread;
  RETURN_IF_ERROR(thread.Start("disk", [this] { Run(); }));
  threads_.push_back(std::move(thread));
  return absl::OkStatus();
}

void ThreadEngine::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    while (first_ == nullptr && !stop_) {
      ++idle_;
      wake_.wait(lock);
      --idle_;
    }
    if (first_ == nullptr) return;
    BlockRequest& request = *first_;
    first_ = request.device_next;
    if (first_ == nullptr) last_ = nullptr;
    --queued_;
    lock.unlock();
    const int fd = static_cast<int>(request.device_word >> 32);
    const uint64_t done_bytes = (request.device_word & 0xFFFFFFFF) << 9;
    request.on_complete(request, PerformBlocking(fd, request, done_bytes));
    lock.lock();
  }
}

}  // namespace hvsdk::internal
