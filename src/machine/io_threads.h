// SPDX-License-Identifier: Apache-2.0
// A machine's threads of I/O beside its loop's: each with a loop of its own, on which devices may have part of their work done.
// Thread-compatible.

#ifndef HVSDK_SRC_MACHINE_IO_THREADS_H_
#define HVSDK_SRC_MACHINE_IO_THREADS_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/host_thread.h"
#include "hvsdk/os/event_loop.h"

namespace hvsdk::machine {

class IoThreads {
 public:
  // ResourceExhausted, Internal: the host refuses them.
  static absl::StatusOr<std::unique_ptr<IoThreads>> Create(uint32_t count);
  ~IoThreads() { Stop(); }

  std::vector<Executor*> executors() const;
  // Ends the threads. What is scheduled from then on stays so.
  void Stop();

 private:
  struct IoThread {
    std::unique_ptr<os::EventLoop> loop;
    HostThread thread;
    bool runs = false;
  };
  std::deque<IoThread> threads_;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_SRC_MACHINE_IO_THREADS_H_
