// SPDX-License-Identifier: Apache-2.0
// FileEngine by io_uring.

#ifndef HVSDK_SRC_BLOCK_FILE_URING_ENGINE_H_
#define HVSDK_SRC_BLOCK_FILE_URING_ENGINE_H_

#include <liburing.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/host_thread.h"
#include "block_file/thread_engine.h"
#include "hvsdk/block_file/file_engine.h"

namespace hvsdk::internal {

class UringEngine : public FileEngine {
 public:
  static absl::StatusOr<std::shared_ptr<FileEngine>> Create();
  ~UringEngine() override;

  absl::string_view name() const override { return "io_uring"; }
  void Submit(int fd, absl::Span<BlockRequest* const> batch) override;

 private:
  UringEngine();

  struct Done {
    BlockRequest* request;
    int result;
  };
  using Deferred = std::vector<Done>;

  // With submit_mutex_ held. What they must take out of a full completion queue, and what the kernel
  // does not accept, is `deferred` until it is released.
  void Prepare(int fd, BlockRequest& request, Deferred& deferred);
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
  // Submitted and not reaped. The thread waits in the kernel while it is not zero, and on this word
  // while it is.
  std::atomic<uint32_t> in_flight_{0};
  std::atomic<bool> stop_{false};
  std::shared_ptr<ThreadEngine> slow_;  // for what io_uring does in part, or not at all
  HostThread thread_;
};

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_BLOCK_FILE_URING_ENGINE_H_
