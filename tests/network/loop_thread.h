// SPDX-License-Identifier: Apache-2.0
// LoopThread: an event loop that runs on a thread of its own while it is asked to.

#ifndef HVSDK_TESTS_NETWORK_LOOP_THREAD_H_
#define HVSDK_TESTS_NETWORK_LOOP_THREAD_H_

#include <memory>
#include <thread>

#include "hvsdk/os/event_loop.h"

namespace hvsdk::network {

class LoopThread {
 public:
  ~LoopThread() { Stop(); }
  os::EventLoop& loop() { return *loop_; }
  void Start() {
    thread_ = std::thread([this] { loop_->Run(); });
  }
  // Ports are made and destroyed while it does not run.
  void Stop() {
    if (!thread_.joinable()) return;
    loop_->Stop();
    thread_.join();
  }

 private:
  std::unique_ptr<os::EventLoop> loop_ = *os::EventLoop::Create();
  std::thread thread_;
};

}  // namespace hvsdk::network

#endif  // HVSDK_TESTS_NETWORK_LOOP_THREAD_H_
