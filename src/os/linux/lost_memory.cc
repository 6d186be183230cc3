// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/os/lost_memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "absl/strings/str_format.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/base/lost_memory.h"

namespace hvsdk::os {
namespace {

struct sigaction before_us;  // written before our handler can run

// In the signal handler.
void PassOn(int signal, siginfo_t* info, void* context) {
  if ((before_us.sa_flags & SA_SIGINFO) != 0) return before_us.sa_sigaction(signal, info, context);
  if (before_us.sa_handler != SIG_DFL && before_us.sa_handler != SIG_IGN) return before_us.sa_handler(signal);
  // The access is made again, and now ends the process; a signal that somebody sent is sent again.
  struct sigaction otherwise {};
  otherwise.sa_handler = SIG_DFL;
  ::sigaction(SIGBUS, &otherwise, nullptr);
  if (info->si_code <= 0) ::raise(SIGBUS);
}

// Puts zeros in the place of the page and tells whose it was. False: it is nobody's, or the host has no other page.
bool TakeLoss(const siginfo_t& info) {
  // An error that was found before somebody met it (BUS_MCEERR_AO) is left until then: the page stays lost.
  if (info.si_code == BUS_MCEERR_AO)
    return FindLostMemoryObserver(reinterpret_cast<uintptr_t>(info.si_addr)) != nullptr;
  if (info.si_code != BUS_MCEERR_AR && info.si_code != BUS_ADRERR) return false;
  const uintptr_t address = reinterpret_cast<uintptr_t>(info.si_addr) & ~(kPageSize - 1);
  LostMemoryObserver* const observer = FindLostMemoryObserver(address);
  if (observer == nullptr) return false;
  void* const page = reinterpret_cast<void*>(address);
  // By the bare call: mmap is not among the functions that a handler may call, and what watches it takes it for a write by this thread.
  if (::syscall(SYS_mmap, page, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
      -1) {
    return false;
  }
  internal::lost_pages.fetch_add(1, std::memory_order_release);
  observer->OnLostPage(static_cast<const uint8_t*>(page));
  return true;
}

void OnSigbus(int signal, siginfo_t* info, void* context) {
  const int error = errno;
  if (!TakeLoss(*info)) PassOn(signal, info, context);
  errno = error;
}

}  // namespace

absl::Status HandleLostMemory() {
  static std::mutex mutex;
  static bool handled = false;
  std::lock_guard lock(mutex);
  if (handled) return absl::OkStatus();
  struct sigaction ours {};
  ours.sa_sigaction = OnSigbus;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&ours.sa_mask);
  if (::sigaction(SIGBUS, nullptr, &before_us) != 0 || ::sigaction(SIGBUS, &ours, nullptr) != 0) {
    return absl::InternalError(absl::StrFormat("the host refuses a handler for SIGBUS: %s", std::strerror(errno)));
  }
  handled = true;
  return absl::OkStatus();
}

absl::Status LosePage(uint8_t* page, bool by_kernel_alone) {
  // Only a page that is there can be lost.
  std::atomic_ref<uint8_t>(*page).fetch_or(0, std::memory_order_relaxed);
  if (::madvise(page, kPageSize, MADV_HWPOISON) == 0) return absl::OkStatus();
  if (by_kernel_alone) {
    return absl::FailedPreconditionError(
        absl::StrFormat("this kernel, or this user's rights, lose no page: MADV_HWPOISON: %s", std::strerror(errno)));
  }
  const int empty = ::memfd_create("lost", MFD_CLOEXEC);
  void* const mapped =
      empty < 0 ? MAP_FAILED : ::mmap(page, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, empty, 0);
  const int error = errno;
  if (empty >= 0) ::close(empty);
  if (mapped != MAP_FAILED) return absl::OkStatus();
  return absl::InternalError(absl::StrFormat("the host does not lose the page: %s", std::strerror(error)));
}

}  // namespace hvsdk::os
