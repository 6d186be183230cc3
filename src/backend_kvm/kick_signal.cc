// SPDX-License-Identifier: Apache-2.0
#include "backend_kvm/kick_signal.h"

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace hvsdk::backend::kvm {
namespace {

void DoNothing(int) {}

}  // namespace

absl::Status PrepareKickSignal(int signal) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  struct sigaction action;
  if (::sigaction(signal, nullptr, &action) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("kick_signal ", signal, ": ", std::strerror(errno)));
  }
  const bool has_handler =
      (action.sa_flags & SA_SIGINFO) != 0 || (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN);
  if (has_handler) return absl::OkStatus();
  if (action.sa_handler == SIG_IGN) {
    return absl::FailedPreconditionError(absl::StrCat("kick_signal ", signal, " is ignored by this program"));
  }
  struct sigaction ours {};
  ours.sa_handler = DoNothing;
  ours.sa_flags = SA_RESTART;
  sigemptyset(&ours.sa_mask);
  if (::sigaction(signal, &ours, nullptr) != 0) {
    return absl::InternalError(absl::StrCat("sigaction: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

void KickTarget::Attach(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(SIG_UNBLOCK, &set, &old_mask_);
  std::lock_guard lock(mutex_);
  signal_ = signal;
  thread_ = pthread_self();
  attached_ = true;
}

void KickTarget::Detach() {
  {
    std::lock_guard lock(mutex_);
    attached_ = false;
  }
  pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
}

void KickTarget::Send() {
  std::lock_guard lock(mutex_);
  if (attached_) pthread_kill(thread_, signal_);
}

}  // namespace hvsdk::backend::kvm
