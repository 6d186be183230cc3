// SPDX-License-Identifier: Apache-2.0
// HostThread: a thread with a small stack. std::thread's is the process's default, 8 MiB, of which Linux makes a huge
// page: two MiB of memory for each thread that has touched one byte. Private to the library's sources.
//
// It takes none of the program's signals, so a program may keep them for a thread of its own, and a write to a pipe
// without reader or beyond the limit on files (SIGPIPE, SIGXFSZ) fails without ending the program.
//
// Thread-compatible. It is joined or detached before it is destroyed.
//
//   HostThread thread;
//   RETURN_IF_ERROR(thread.Start("vp0", [this] { Work(); }));
//   thread.Join();

#ifndef HVSDK_SRC_BASE_HOST_THREAD_H_
#define HVSDK_SRC_BASE_HOST_THREAD_H_

#include <pthread.h>
#include <signal.h>
#include <string.h>

#include <initializer_list>
#include <memory>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace hvsdk {

class HostThread {
 public:
  HostThread() = default;
  HostThread(HostThread&& other) noexcept : thread_(other.thread_), running_(std::exchange(other.running_, false)) {}
  ~HostThread() { HVSDK_CHECK(!running_); }

  // `name` has up to 15 characters. ResourceExhausted: the host has no more threads, or no memory for a stack.
  absl::Status Start(const char* name, absl::AnyInvocable<void()> body) {
    HVSDK_CHECK(!running_);
    // Small enough never to hold a whole huge page, and large enough for a sanitizer's frames.
    constexpr size_t kStackBytes = 1 << 20;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStackBytes);
    auto owned = std::make_unique<absl::AnyInvocable<void()>>(std::move(body));
    // Faults and what profilers and debuggers send stay, and SIGTTOU: it stops a program in the background that writes to a
    // terminal which wants that.
    sigset_t signals, before;
    sigfillset(&signals);
    for (const int number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP, SIGPROF, SIGVTALRM, SIGTTOU}) {
      sigdelset(&signals, number);
    }
    pthread_sigmask(SIG_BLOCK, &signals, &before);
    const int error = pthread_create(&thread_, &attributes, &Main, owned.get());
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&attributes);
    if (error != 0) {
      return absl::ResourceExhaustedError(absl::StrCat("the host refuses the thread \"", name, "\": ", strerror(error),
                                                       " (limits: processes, memory)"));
    }
    (void)owned.release();  // Main's
    running_ = true;
    pthread_setname_np(thread_, name);
    return absl::OkStatus();
  }

  bool is_running() const { return running_; }
  void Join() {
    pthread_join(thread_, nullptr);
    running_ = false;
  }
  // Leaves it to itself, with what it owns.
  void Detach() {
    pthread_detach(thread_);
    running_ = false;
  }

 private:
  static void* Main(void* body) {
    (*std::unique_ptr<absl::AnyInvocable<void()>>(static_cast<absl::AnyInvocable<void()>*>(body)))();
    return nullptr;
  }

  pthread_t thread_{};
  bool running_ = false;  // started, and not joined
};

}  // namespace hvsdk

#endif  // HVSDK_SRC_BASE_HOST_THREAD_H_
