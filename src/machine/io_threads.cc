// SPDX-License-Identifier: Apache-2.0
#include "machine/io_threads.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace hvsdk::machine {

absl::StatusOr<std::unique_ptr<IoThreads>> IoThreads::Create(uint32_t count) {
  auto all = std::make_unique<IoThreads>();
  for (uint32_t i = 0; i < count; ++i) {
    IoThread& io = all->threads_.emplace_back();
    ASSIGN_OR_RETURN(io.loop, os::EventLoop::Create());
    RETURN_IF_ERROR(io.thread.Start(absl::StrCat("io", i).c_str(), [loop = io.loop.get()] { loop->Run(); }));
    io.runs = true;
  }
  return all;
}

std::vector<Executor*> IoThreads::executors() const {
  std::vector<Executor*> all;
  for (const IoThread& io : threads_) all.push_back(io.loop.get());
  return all;
}

void IoThreads::Stop() {
  for (const IoThread& io : threads_) {
    if (io.runs) io.loop->Stop();
  }
  for (IoThread& io : threads_) {
    if (std::exchange(io.runs, false)) io.thread.Join();
  }
}

}  // namespace hvsdk::machine
