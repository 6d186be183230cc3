// SPDX-License-Identifier: Apache-2.0
#include "os/linux/file_queue.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "os/linux/blocking_io.h"

namespace hvsdk::internal {

namespace {

bool IsRegularFile(int fd) {
  struct stat status;
  return fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

}  // namespace

FileQueue::FileQueue(int fd, FileEngine::SyncFailure on_sync_failure)
    : fd_(fd), writes_in_turn_(IsRegularFile(fd)), on_sync_failure_(std::move(on_sync_failure)) {}

FileQueue::~FileQueue() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (HostThread& thread : threads_) thread.Join();
}

absl::Status FileQueue::Start() {
  std::lock_guard lock(mutex_);
  return StartThread();
}

// Both wake threads with the lock held: once it is released the requests may be done, and whoever they were for may
// destroy the file.
void FileQueue::Submit(absl::Span<BlockRequest* const> batch) {
  Begin(batch.size());
  std::lock_guard lock(mutex_);
  size_t more = 0;
  for (BlockRequest* request : batch) more += Push(*request, 0);
  for (size_t wake = std::min(idle_, more); wake > 0; --wake) wake_.notify_one();
}

void FileQueue::Resume(BlockRequest& request, uint64_t done_bytes) {
  std::lock_guard lock(mutex_);
  if (Push(request, done_bytes)) wake_.notify_one();
}

// Whoever is told may destroy the file.
void FileQueue::Finish(BlockRequest& request, BlockStatus status) {
  in_flight_.fetch_sub(1, std::memory_order_release);
  request.on_complete(request, status);
}

void FileQueue::List::Push(BlockRequest& request) {
  request.device_next = nullptr;
  (last == nullptr ? first : last->device_next) = &request;
  last = &request;
}

BlockRequest* FileQueue::List::Pop() {
  BlockRequest* request = first;
  if (request != nullptr) first = request->device_next;
  if (first == nullptr) last = nullptr;
  return request;
}

bool FileQueue::Push(BlockRequest& request, uint64_t done_bytes) {
  request.device_word = done_bytes;
  if (writes_in_turn_ && request.op == BlockOp::kWrite) {
    // Whoever writes now, or was woken for the one before, sees to the next.
    const bool is_first = !is_writing_ && writes_.first == nullptr;
    writes_.Push(request);
    if (!is_first) return false;
  } else {
    queue_.Push(request);
    ++queued_;
  }
  StartThreadIfShort();
  return true;
}

void FileQueue::StartThreadIfShort() {
  if (queued_ + may_write() <= idle_ || threads_.size() == kMaxThreads || !may_grow_) return;
  // A host that has no more threads to give is not asked with every request.
  may_grow_ = StartThread().ok();
}

BlockRequest* FileQueue::Pop() {
  if (may_write() && (writes_next_ || queue_.first == nullptr)) {
    writes_next_ = false;
    is_writing_ = true;
    return writes_.Pop();
  }
  writes_next_ = true;
  if (queue_.first != nullptr) --queued_;
  SeeToWrites();
  return queue_.Pop();
}

void FileQueue::SeeToWrites() {
  if (!may_write()) return;
  if (idle_ != 0) {
    wake_.notify_one();
  } else {
    StartThreadIfShort();
  }
}

absl::Status FileQueue::StartThread() {
  HostThread thread;
  RETURN_IF_ERROR(thread.Start("disk", [this] { Run(); }));
  threads_.push_back(std::move(thread));
  return absl::OkStatus();
}

void FileQueue::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    while (queue_.first == nullptr && !may_write() && !stop_) {
      ++idle_;
      wake_.wait(lock);
      --idle_;
    }
    BlockRequest* request = Pop();
    if (request == nullptr) return;
    const bool in_turn = writes_in_turn_ && request->op == BlockOp::kWrite;
    if (request->op != BlockOp::kFlush) {
      lock.unlock();
      const BlockStatus status = PerformBlocking(fd_, *request, request->device_word);
      const bool lasts = status != BlockStatus::kOk || !request->fua || request->op == BlockOp::kRead;
      if (lasts) Finish(*request, status);
      lock.lock();
      if (in_turn) is_writing_ = false;
      if (lasts) continue;
      SeeToWrites();
    }
    unsynced_.Push(*request);
    // Whoever syncs now began before this request was done, and sees to the next sync.
    if (!syncs_) Sync(lock);
  }
}

// One at a time: of two calls at once the kernel would tell only one that writes were lost.
void FileQueue::Sync(std::unique_lock<std::mutex>& lock) {
  syncs_ = true;
  while (unsynced_.first != nullptr) {
    List covered = std::exchange(unsynced_, List{});
    const bool believed = !writes_lost_;
    lock.unlock();
    const int error = believed ? SyncFile(fd_) : 0;
    if (error != 0 && on_sync_failure_ != nullptr) on_sync_failure_(error);
    const BlockStatus status = believed && error == 0 ? BlockStatus::kOk : BlockStatus::kWritesLost;
    while (BlockRequest* request = covered.Pop()) Finish(*request, status);
    lock.lock();
    writes_lost_ |= error != 0;
  }
  syncs_ = false;
}

}  // namespace hvsdk::internal
