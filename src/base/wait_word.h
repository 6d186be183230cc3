// SPDX-License-Identifier: Apache-2.0
// WaitWord: a 32-bit atomic that threads can sleep on until it changes. What std::atomic has for that yields several
// times before it sleeps (libstdc++ 12), and on a busy host each yield can cost a time slice: whoever waits there
// wakes after milliseconds. This one goes to sleep in the kernel at once (futex(2)) and wakes in microseconds. Private
// to the library's sources.
//
// Changing the word and waking are two steps, both the caller's:
//
//   word.fetch_or(kWork, std::memory_order_release);
//   word.WakeOne();                                     // costs a fence and a load while nobody sleeps
//
// and whoever waits goes back to sleep until the word is as he wants it:
//
//   for (uint32_t now; !((now = word.load(std::memory_order_acquire)) & kWork);) word.Wait(now);
//
// No wake-up is lost: a Wait that begins before the change is ended by the wake behind it, and one that begins after
// the change returns at once. A word that changes and changes back may go unseen, as with std::atomic.
//
// Thread-safe. The word outlives every call, those that wake included.

#ifndef HVSDK_SRC_BASE_WAIT_WORD_H_
#define HVSDK_SRC_BASE_WAIT_WORD_H_

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>

namespace hvsdk {

class WaitWord : public std::atomic<uint32_t> {
 public:
  constexpr WaitWord() noexcept : std::atomic<uint32_t>(0) {}
  constexpr explicit WaitWord(uint32_t value) noexcept : std::atomic<uint32_t>(value) {}
  using std::atomic<uint32_t>::operator=;

  // Returns once the word is not `expected`. Its load is an acquire, which pairs with the release of the change.
  void Wait(uint32_t expected) {
    while (load(std::memory_order_acquire) == expected) {
      // Pairs with the fence in Wake. The kernel looks at the word behind a barrier of its own: either it finds the
      // change there, or whoever changed the word finds us counted and wakes us.
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      (void)Futex(FUTEX_WAIT_PRIVATE, expected);  // woken, interrupted by a signal, changed already: look again
      sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }
  }

  // One that waits, or all, look at the word again. Any order will do for the change before it.
  void WakeOne() { Wake(1); }
  void WakeAll() { Wake(INT_MAX); }

  // Those of std::atomic, which know nothing of ours.
  void wait(uint32_t, std::memory_order = std::memory_order_seq_cst) const = delete;
  void notify_one() = delete;
  void notify_all() = delete;

 private:
  void Wake(uint32_t count) {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_relaxed) != 0) (void)Futex(FUTEX_WAKE_PRIVATE, count);
  }
  long Futex(int operation, uint32_t value) {
    static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t) && is_always_lock_free);
    return ::syscall(SYS_futex, static_cast<std::atomic<uint32_t>*>(this), operation, value, nullptr, nullptr, 0);
  }

  std::atomic<uint32_t> sleepers_{0};
};

}  // namespace hvsdk

#endif  // HVSDK_SRC_BASE_WAIT_WORD_H_
