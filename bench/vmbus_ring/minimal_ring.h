// SPDX-License-Identifier: Apache-2.0
// The yardstick: the least that a byte ring between two threads can be. A 4-byte length and the bytes, one head, one
// tail, acquire and release, published for every packet; each end remembers the other's index until it needs a newer
// one. No header, no transaction, no alignment, no validation, no masking, no signals.
//
// Thread-compatible at each end: one writer, one reader.

#ifndef HVSDK_BENCH_VMBUS_RING_MINIMAL_RING_H_
#define HVSDK_BENCH_VMBUS_RING_MINIMAL_RING_H_

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>

namespace hvsdk::bench {

class MinimalRing {
 public:
  // `size_bytes` is a power of two.
  explicit MinimalRing(uint64_t size_bytes)
      : bytes_(new uint8_t[size_bytes]()), size_(size_bytes), mask_(size_bytes - 1) {}

  bool Write(const void* payload, uint32_t size) {
    const uint64_t head = head_.load(std::memory_order_relaxed);
    const uint64_t need = sizeof(size) + size;
    if (size_ - (head - seen_tail_) < need) {
      seen_tail_ = tail_.load(std::memory_order_acquire);
      if (size_ - (head - seen_tail_) < need) return false;
    }
    CopyIn(head, &size, sizeof(size));
    CopyIn(head + sizeof(size), payload, size);
    head_.store(head + need, std::memory_order_release);
    return true;
  }

  // The size of the packet, or -1 if there is none. `to` has room for the largest.
  int64_t Read(void* to) {
    const uint64_t tail = tail_.load(std::memory_order_relaxed);
    if (tail == seen_head_) {
      seen_head_ = head_.load(std::memory_order_acquire);
      if (tail == seen_head_) return -1;
    }
    uint32_t size;
    CopyOut(tail, &size, sizeof(size));
    CopyOut(tail + sizeof(size), to, size);
    tail_.store(tail + sizeof(size) + size, std::memory_order_release);
    return size;
  }

 private:
  void CopyIn(uint64_t at, const void* from, uint64_t size) {
    at &= mask_;
    if (size <= size_ - at) {
      std::memcpy(&bytes_[at], from, size);
    } else {
      std::memcpy(&bytes_[at], from, size_ - at);
      std::memcpy(&bytes_[0], static_cast<const uint8_t*>(from) + (size_ - at), size - (size_ - at));
    }
  }
  void CopyOut(uint64_t at, void* to, uint64_t size) const {
    at &= mask_;
    if (size <= size_ - at) {
      std::memcpy(to, &bytes_[at], size);
    } else {
      std::memcpy(to, &bytes_[at], size_ - at);
      std::memcpy(static_cast<uint8_t*>(to) + (size_ - at), &bytes_[0], size - (size_ - at));
    }
  }

  std::unique_ptr<uint8_t[]> bytes_;
  uint64_t size_, mask_;
  alignas(64) std::atomic<uint64_t> head_{0};
  uint64_t seen_tail_ = 0;  // the writer's
  alignas(64) std::atomic<uint64_t> tail_{0};
  uint64_t seen_head_ = 0;  // the reader's
};

}  // namespace hvsdk::bench

#endif  // HVSDK_BENCH_VMBUS_RING_MINIMAL_RING_H_
