// SPDX-License-Identifier: Apache-2.0
// The signal that takes a thread out of KVM_RUN, and the thread that may get it.

#ifndef HVSDK_SRC_BACKEND_KVM_KICK_SIGNAL_H_
#define HVSDK_SRC_BACKEND_KVM_KICK_SIGNAL_H_

#include <pthread.h>
#include <signal.h>

#include <mutex>

#include "absl/status/status.h"

namespace hvsdk::backend::kvm {

// Makes sure that `signal` interrupts a system call and does nothing else. A handler that is there stays.
absl::Status PrepareKickSignal(int signal);

// The thread that is inside Vp::Run. Attached once a Run, so that a signal never goes to a thread that has ended.
class KickTarget {
 public:
  // Lets `signal` through to the calling thread until Detach, which restores the thread's mask.
  void Attach(int signal);
  void Detach();
  // Sends the signal to the attached thread, if there is one. Thread-safe.
  void Send();

 private:
  sigset_t old_mask_ = {};
  std::mutex mutex_;  // guards what follows
  int signal_ = 0;
  bool attached_ = false;
  pthread_t thread_ = {};
};

}  // namespace hvsdk::backend::kvm

#endif  // HVSDK_SRC_BACKEND_KVM_KICK_SIGNAL_H_
