// SPDX-License-Identifier: Apache-2.0
// Who is told when the host loses a page of memory: bad RAM, or a file behind a mapping that cannot be read any more. Engines watch the
// guest memory that they are given; the operating system's side (os/lost_memory.h) tells them, if the program wants that.
//
// Limits: 4096 ranges in one process.
// Thread class: WatchLostMemory and UnwatchLostMemory are thread-safe; nobody touches the bytes any more when they are unwatched.
// FindLostMemoryObserver, OnLostPage and LostPages are async-signal-safe.

#ifndef HVSDK_BASE_LOST_MEMORY_H_
#define HVSDK_BASE_LOST_MEMORY_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace hvsdk {

class LostMemoryObserver {
 public:
  virtual ~LostMemoryObserver() = default;
  // The 4 KiB that begin at `page` are lost and read as zero from now on. Called in a signal handler, on the thread that is touching
  // them and has not gone on yet; whatever lock that thread holds meanwhile must not be wanted here.
  virtual void OnLostPage(const uint8_t* page) = 0;
};

namespace internal {

struct WatchedMemory {
  std::atomic<LostMemoryObserver*> observer;  // null: the entry is free, or being filled
  std::atomic<bool> taken;
  std::atomic<uintptr_t> begin, end;
};
inline std::array<WatchedMemory, 4096> watched_memory{};
inline std::atomic<uint64_t> lost_pages{0};

}  // namespace internal

// Has `observer` told of lost pages of `bytes`. False: there is no room for another range.
[[nodiscard]] inline bool WatchLostMemory(absl::Span<const uint8_t> bytes, LostMemoryObserver& observer) {
  for (internal::WatchedMemory& entry : internal::watched_memory) {
    if (entry.taken.exchange(true, std::memory_order_acquire)) continue;
    const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
    entry.begin.store(begin, std::memory_order_relaxed);
    entry.end.store(begin + bytes.size(), std::memory_order_relaxed);
    // Pairs with the acquire of whoever looks: with the observer it sees the range.
    entry.observer.store(&observer, std::memory_order_release);
    return true;
  }
  return false;
}

// Ends a watch of `observer`: that of the bytes from `begin` on or, without it, all.
inline void UnwatchLostMemory(LostMemoryObserver& observer, const uint8_t* begin = nullptr) {
  for (internal::WatchedMemory& entry : internal::watched_memory) {
    if (entry.observer.load(std::memory_order_relaxed) != &observer) continue;
    if (begin != nullptr && entry.begin.load(std::memory_order_relaxed) != reinterpret_cast<uintptr_t>(begin)) continue;
    entry.observer.store(nullptr, std::memory_order_relaxed);
    entry.taken.store(false, std::memory_order_release);
  }
}

// How many pages this process has lost: who copies memory knows by it whether all of that was still there.
inline uint64_t LostPages() { return internal::lost_pages.load(std::memory_order_acquire); }

// Who watches the byte at `address`, or null.
inline LostMemoryObserver* FindLostMemoryObserver(uintptr_t address) {
  for (internal::WatchedMemory& entry : internal::watched_memory) {
    LostMemoryObserver* const observer = entry.observer.load(std::memory_order_acquire);
    if (observer == nullptr) continue;
    if (address >= entry.begin.load(std::memory_order_relaxed) && address < entry.end.load(std::memory_order_relaxed)) {
      return observer;
    }
  }
  return nullptr;
}

}  // namespace hvsdk

#endif  // HVSDK_BASE_LOST_MEMORY_H_
