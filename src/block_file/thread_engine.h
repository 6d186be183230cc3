// SPDX-License-Identifier: Apache-2.0
// FileEngine by threads that each carry out one request at a time. They start when first needed.

#ifndef HVSDK_SRC_BLOCK_FILE_THREAD_ENGINE_H_
#define HVSDK_SRC_BLOCK_FILE_THREAD_ENGINE_H_

#include <condition_variable>
#include <mutex>
#include <vector>

#include "base/host_thread.h"
#include "hvsdk/block_file/file_engine.h"

namespace hvsdk::internal {

class ThreadEngine : public FileEngine {
 public:
  explicit ThreadEngine(size_t max_threads) : max_threads_(max_threads) {}
  ~ThreadEngine() override;

  absl::string_view name() const override { return "threads"; }
  void Submit(int fd, absl::Span<BlockRequest* const> batch) override;

  // Completes a request of whose transfer `done_bytes` have been made.
  void Resume(int fd, BlockRequest& request, uint64_t done_bytes);

 private:
  struct Job {
    int fd;
    uint64_t done_bytes;
  };

  void Push(int fd, BlockRequest& request, uint64_t done_bytes);  // mutex_ held
  void Run();

  const size_t max_threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_. The queue is linked through device_next; device_word holds the Job.
  BlockRequest* first_ = nullptr;
  BlockRequest* last_ = nullptr;
  size_t queued_ = 0;
  size_t idle_ = 0;
  bool stop_ = false;
  std::vector<HostThread> threads_;
};

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_BLOCK_FILE_THREAD_ENGINE_H_
