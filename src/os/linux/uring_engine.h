// SPDX-License-Identifier: Apache-2.0
// FileEngine by io_uring. The ring does the reads and writes of files on which the kernel need not wait; all else,
// and what the ring does in part, is done by threads of the file (file_queue.h).

#ifndef HVSDK_SRC_OS_LINUX_URING_ENGINE_H_
#define HVSDK_SRC_OS_LINUX_URING_ENGINE_H_

#include <liburing.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/host_thread.h"
#include "base/wait_word.h"
#include "hvsdk/os/file_engine.h"
#include "os/linux/file_queue.h"

namespace hvsdk::internal {

class UringEngine : public FileEngine {
 public:
  static absl::StatusOr<std::shared_ptr<FileEngine>> Create();
  ~UringEngine() override;

  absl::string_view name() const override { return "io_uring"; }
  absl::StatusOr<std::unique_ptr<File>> Serve(int fd, SyncFailure on_sync_failure) override;

 private:
  class RingFile;

  UringEngine();

  struct Done {
    BlockRequest* request;
    int result;
  };
  using Deferred = std::vector<Done>;

  void Submit(RingFile& file, absl::Span<BlockRequest* const> batch);

  // With submit_mutex_ held. What they must take out of a full completion queue, and what the kernel
  // does not accept, is `deferred` until it is released.
  void Prepare(RingFile& file, BlockRequest& request, Deferred& deferred);
  // False: the kernel refused, and what it did not take was withdrawn.
  bool SubmitPrepared(Deferred& deferred);
  void Withdraw(Deferred& deferred);
  // For the destructor: something that completes and is nobody's.
  bool SubmitNop();
  // Takes completions out of the queue; returns how many.
  unsigned Take(absl::Span<Done> done);
  // Delivers all that have completed.
  void Reap();
  void Complete(BlockRequest& request, int result);
  void WaitForCompletions();

  io_uring ring_{};
  std::mutex submit_mutex_;  // the submission queue
  std::mutex reap_mutex_;    // the completion queue's head
  // Submitted and not reaped. The thread waits in the kernel while it is not zero, and on this word while it is.
  WaitWord in_flight_;
  std::atomic<bool> stop_{false};
  HostThread thread_;
};

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_OS_LINUX_URING_ENGINE_H_
