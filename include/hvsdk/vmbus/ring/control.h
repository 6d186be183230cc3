// SPDX-License-Identifier: Apache-2.0
// The control page as both ends use it, and the one place where the order of memory accesses matters.
//
// Each end publishes an index and then looks at what the other end asked for:
//
//   writer: write_index = w;  FENCE;  reads interrupt_mask, read_index             -> must it signal the reader?
//   reader: interrupt_mask = 0;  FENCE;  reads write_index                         -> may it sleep?
//   reader: read_index = r;  FENCE;  reads pending_send_size, write_index          -> must it signal the writer?
//   writer: pending_send_size = n;  FENCE;  reads read_index                       -> may it sleep?
//
// Without the fence the processor may read before its own store is visible; then both ends sleep, or neither signals.
// The model in tests/vmbus_ring shows both.

#ifndef HVSDK_VMBUS_RING_CONTROL_H_
#define HVSDK_VMBUS_RING_CONTROL_H_

#include <atomic>
#include <cstdint>

#include "hvsdk/hvdef/vmbus_ring.h"

namespace hvsdk::vmbus {

// Publishes with a full fence behind the store. A sequentially consistent exchange is store and fence in one locked
// instruction on x86, several times cheaper than a store and MFENCE.
struct FencedOrder {
  static void Publish(uint32_t& word, uint32_t value) {
    std::atomic_ref<uint32_t>(word).exchange(value, std::memory_order_seq_cst);
  }
};

namespace internal {

// Pairs with the peer's Publish: a load that follows one of our own Publish calls cannot be satisfied before it.
inline uint32_t LoadAfterPublish(uint32_t& word) {
  return std::atomic_ref<uint32_t>(word).load(std::memory_order_seq_cst);
}
// Acquires what the peer wrote before it published the index.
inline uint32_t LoadIndex(uint32_t& word) { return std::atomic_ref<uint32_t>(word).load(std::memory_order_acquire); }
// For words that say nothing about other memory.
inline uint32_t LoadHint(uint32_t& word) { return std::atomic_ref<uint32_t>(word).load(std::memory_order_relaxed); }
inline void StoreHint(uint32_t& word, uint32_t value) {
  std::atomic_ref<uint32_t>(word).store(value, std::memory_order_relaxed);
}

inline constexpr uint32_t kMaxRingSize = 1u << 30;

inline bool IsValidRingSize(uint32_t size) {
  return size != 0 && size <= kMaxRingSize && size % hvdef::kRingPageSize == 0;
}
inline bool IsValidIndex(uint32_t index, uint32_t size) { return index < size && index % 8 == 0; }
// A branch that is predicted, where a conditional move would lengthen the chain from one packet to the next.
[[gnu::always_inline]] inline uint32_t Advance(uint32_t index, uint32_t by, uint32_t size) {
  index += by;
  if (__builtin_expect_with_probability(index >= size, 0, 1.0)) {
#if defined(__GNUC__) && !defined(__clang__)
    asm("" : "+r"(index));  // or the compiler makes it a conditional move after all
#endif
    index -= size;
  }
  return index;
}
// Bytes written and not yet read.
inline uint32_t Used(uint32_t write_index, uint32_t read_index, uint32_t size) {
  const uint32_t used = write_index - read_index;
  return write_index < read_index ? used + size : used;
}
// Bytes that can be written: never the last 8, so that a full ring differs from an empty one.
inline uint32_t Free(uint32_t write_index, uint32_t read_index, uint32_t size) {
  return size - 8 - Used(write_index, read_index, size);
}

}  // namespace internal
}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_RING_CONTROL_H_
