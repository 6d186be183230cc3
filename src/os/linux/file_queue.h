// SPDX-License-Identifier: Apache-2.0
// FileQueue: the requests of one open file, carried out by blocking calls on threads of that file alone,
// so that a medium that hangs holds up no other. The first thread starts with the queue, so that a
// request always finds one; the others when there is work for them, if the host can.
//
// Writes of a regular file take turns: the kernel locks the file for each, and threads that wait for that lock spin on
// processors that others need.
//
// It is all of a file for the engine of threads, and of a file on which io_uring would have to wait; for
// others it does what io_uring does in part or not at all, and every sync.

#ifndef HVSDK_SRC_OS_LINUX_FILE_QUEUE_H_
#define HVSDK_SRC_OS_LINUX_FILE_QUEUE_H_

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "base/host_thread.h"
#include "hvsdk/os/file_engine.h"

namespace hvsdk::internal {

class FileQueue : public FileEngine::File {
 public:
  FileQueue(int fd, FileEngine::SyncFailure on_sync_failure);
  ~FileQueue() override;

  // Before all else. ResourceExhausted: the host has no thread to give.
  absl::Status Start();

  void Submit(absl::Span<BlockRequest* const> batch) override;
  uint32_t in_flight() const override { return in_flight_.load(std::memory_order_acquire); }

  int fd() const { return fd_; }

  // For who carries out requests of this file elsewhere: what begins there, what ends there, and what of a
  // transfer only the first `done_bytes` were done.
  void Begin(size_t requests) { in_flight_.fetch_add(static_cast<uint32_t>(requests), std::memory_order_relaxed); }
  void Finish(BlockRequest& request, BlockStatus status);
  void Resume(BlockRequest& request, uint64_t done_bytes);

 private:
  static constexpr size_t kMaxThreads = 4;

  // Requests in order, linked through device_next.
  struct List {
    void Push(BlockRequest& request);
    BlockRequest* Pop();
    BlockRequest* first = nullptr;
    BlockRequest* last = nullptr;
  };

  // These hold mutex_, and Sync lets it go while it waits.
  // Whether a thread has more to do than before.
  bool Push(BlockRequest& request, uint64_t done_bytes);
  BlockRequest* Pop();
  bool may_write() const { return !is_writing_ && writes_.first != nullptr; }
  // For who does something else, when it would be the turn of a write.
  void SeeToWrites();
  void StartThreadIfShort();
  absl::Status StartThread();
  void Sync(std::unique_lock<std::mutex>& lock);

  void Run();

  const int fd_;
  const bool writes_in_turn_;
  FileEngine::SyncFailure on_sync_failure_;  // of the thread that syncs
  // Release pairs with in_flight(): who sees none in flight sees what they did.
  std::atomic<uint32_t> in_flight_{0};

  std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_.
  List queue_;                // device_word: how many bytes are done
  List writes_;               // the same, of those that take turns
  bool is_writing_ = false;   // it is the turn of one of them
  bool writes_next_ = false;  // of both lists the next one is this
  List unsynced_;             // done, but for the sync that makes it last
  bool syncs_ = false;        // a thread is at it
  bool writes_lost_ = false;  // a sync failed, and none will be believed any more
  bool stop_ = false;
  bool may_grow_ = true;
  size_t queued_ = 0;  // in queue_
  size_t idle_ = 0;
  std::vector<HostThread> threads_;
};

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_OS_LINUX_FILE_QUEUE_H_
