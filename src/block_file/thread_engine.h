// SPDX-License-Identifier: Apache-2.0
// FileEngine by threads that each carry out one request at a time. The first starts with the engine,
// so that a request always finds one; the others when there is work for them, if the host can.

#ifndef HVSDK_SRC_BLOCK_FILE_THREAD_ENGINE_H_
#define HVSDK_SRC_BLOCK_FILE_THREAD_ENGINE_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/host_thread.h"
#include "hvsdk/block_file/file_engine.h"

namespace hvsdk::internal {

class ThreadEngine : public FileEngine {
 public:
  // ResourceExhausted: the host has no thread to give.
  static absl::StatusOr<std::shared_ptr<ThreadEngine>> Create(size_t max_threads);
  ~ThreadEngine() override;

  absl::string_view name() const override { return "threads"; }
  void Submit(int fd, absl::Span<BlockRequest* const> batch) override;

  // Completes a request of whose transfer `done_bytes` have been made.
  void Resume(int fd, BlockRequest& request, uint64_t done_bytes);

 private:
  explicit ThreadEngine(size_t max_threads) : max_threads_(max_threads) {}

  void Push(int fd, BlockRequest& request, uint64_t done_bytes);  // mutex_ held
  absl::Status StartThread();                                     // mutex_ held, or nobody else is here
  void Run();

  std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_. The queue is linked through device_next; device_word holds the file and what
  // has been done.
  size_t max_threads_;
  BlockRequest* first_ = nullptr;
  BlockRequest* last_ = nullptr;
  size_t queued_ = 0;
  size_t idle_ = 0;
  bool stop_ = false;
  std::vector<HostThread> threads_;
};

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_BLOCK_FILE_THREAD_ENGINE_H_
