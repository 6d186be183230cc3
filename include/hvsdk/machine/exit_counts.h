// SPDX-License-Identifier: Apache-2.0
// How often each VP has left the guest, and why. Each VP counts for itself, in a cache line of its own, by a load and a store.
//
// Thread class: Count is *VP thread only*; the sums are thread-safe.

#ifndef HVSDK_MACHINE_EXIT_COUNTS_H_
#define HVSDK_MACHINE_EXIT_COUNTS_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>

namespace hvsdk::machine {

enum class ExitReason : uint8_t {
  kPortRead,
  kPortWrite,
  kMmioRead,
  kMmioWrite,
  kMsrRead,
  kMsrWrite,
  kHypercall,
  kCount
};

class ExitCounts {
 public:
  // Before the VPs run.
  void Resize(uint32_t vps) { vps_.resize(vps); }

  // Hypercalls that were answered, by code. Of codes from kCodes on all count as one.
  static constexpr size_t kCodes = 0x100;
  void CountHypercall(uint32_t vp, uint16_t code) { Increment(vps_[vp].hypercalls[std::min<size_t>(code, kCodes)]); }
  uint64_t SumOfHypercalls(size_t code) const {
    uint64_t sum = 0;
    for (const Vp& vp : vps_) sum += vp.hypercalls[code].load(std::memory_order_relaxed);
    return sum;
  }

  void Count(uint32_t vp, ExitReason reason) { Increment(vps_[vp].exits[static_cast<size_t>(reason)]); }

  uint64_t Sum(ExitReason reason) const {
    uint64_t sum = 0;
    for (const Vp& vp : vps_) sum += vp.exits[static_cast<size_t>(reason)].load(std::memory_order_relaxed);
    return sum;
  }

 private:
  struct alignas(64) Vp {
    std::array<std::atomic<uint64_t>, static_cast<size_t>(ExitReason::kCount)> exits{};
    std::array<std::atomic<uint64_t>, kCodes + 1> hypercalls{};
  };
  // The VP's thread alone writes: no locked instruction.
  static void Increment(std::atomic<uint64_t>& count) {
    count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }

  std::deque<Vp> vps_;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_EXIT_COUNTS_H_
