// SPDX-License-Identifier: Apache-2.0
// Copies to and from bytes that the peer may change meanwhile.
//
// Packets are mostly short, and a call costs more than moving 64 bytes: up to 128 bytes are moved here, as the first
// half and the last half, which may overlap, so that nothing branches per byte. Longer ones go 32 bytes at a time where
// the processor can, else to memcpy. Freestanding.

#ifndef HVSDK_VMBUS_RING_COPY_H_
#define HVSDK_VMBUS_RING_COPY_H_

#include <cstddef>
#include <cstdint>

namespace hvsdk::vmbus::internal {

#if defined(__SANITIZE_THREAD__)
#define HVSDK_RING_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HVSDK_RING_TSAN 1
#endif
#endif

#if defined(HVSDK_RING_TSAN)

// A peer that writes while we copy races by its own choice; the copy is what gets checked. ThreadSanitizer cannot know
// that, so its build copies here without instrumentation.
__attribute__((no_sanitize("thread"), noinline)) inline void CopyBytes(void* to, const void* from, size_t size) {
  auto* out = static_cast<volatile uint8_t*>(to);
  auto* in = static_cast<const volatile uint8_t*>(from);
  for (size_t i = 0; i < size; ++i) out[i] = in[i];
}

#else

// Beyond this a call is worth its price.
inline constexpr size_t kMaxInlineCopy = 128;

// 16 bytes in one register; without SSE the compiler takes two of 8.
using Block __attribute__((vector_size(16))) = uint8_t;

// Moves the first and the last sizeof(T) of `size` bytes, which is between that and twice that. All is loaded before
// any is stored, so that the processor overlaps them.
template <typename T>
[[gnu::always_inline]] inline void CopyEnds(uint8_t* to, const uint8_t* from, size_t size) {
  T head, tail;
  __builtin_memcpy(&head, from, sizeof(T));
  __builtin_memcpy(&tail, from + size - sizeof(T), sizeof(T));
  __builtin_memcpy(to, &head, sizeof(T));
  __builtin_memcpy(to + size - sizeof(T), &tail, sizeof(T));
}
// The same with two blocks at each end.
[[gnu::always_inline]] inline void CopyEnds32(uint8_t* to, const uint8_t* from, size_t size) {
  Block head0, head1, tail0, tail1;
  __builtin_memcpy(&head0, from, 16);
  __builtin_memcpy(&head1, from + 16, 16);
  __builtin_memcpy(&tail0, from + size - 32, 16);
  __builtin_memcpy(&tail1, from + size - 16, 16);
  __builtin_memcpy(to, &head0, 16);
  __builtin_memcpy(to + 16, &head1, 16);
  __builtin_memcpy(to + size - 32, &tail0, 16);
  __builtin_memcpy(to + size - 16, &tail1, 16);
}

#if defined(__x86_64__) && __STDC_HOSTED__

// 32 bytes in one register, whatever the rest of the program is compiled for.
using WideBlock __attribute__((vector_size(32))) = uint8_t;

// At least 32 bytes. A packet begins at any multiple of 8; there a C library's memcpy may take the string instruction
// for some KiB, which is a quarter slower, and waits for the size, so that nothing of it overlaps with the reading of
// the packet's header. Here all stores are aligned but the first and the last, which overlap others.
__attribute__((target("avx2"), noinline)) inline void CopyWide(uint8_t* to, const uint8_t* from, size_t size) {
  constexpr size_t kBlock = sizeof(WideBlock);
  WideBlock a, b, c, d;
  __builtin_memcpy(&a, from, kBlock);
  __builtin_memcpy(&d, from + size - kBlock, kBlock);
  __builtin_memcpy(to, &a, kBlock);
  __builtin_memcpy(to + size - kBlock, &d, kBlock);
  size_t at = kBlock - reinterpret_cast<uintptr_t>(to) % kBlock;
  for (; at + 4 * kBlock <= size; at += 4 * kBlock) {
    __builtin_memcpy(&a, from + at, kBlock);
    __builtin_memcpy(&b, from + at + kBlock, kBlock);
    __builtin_memcpy(&c, from + at + 2 * kBlock, kBlock);
    __builtin_memcpy(&d, from + at + 3 * kBlock, kBlock);
    __builtin_memcpy(to + at, &a, kBlock);
    __builtin_memcpy(to + at + kBlock, &b, kBlock);
    __builtin_memcpy(to + at + 2 * kBlock, &c, kBlock);
    __builtin_memcpy(to + at + 3 * kBlock, &d, kBlock);
  }
  for (; at + kBlock <= size; at += kBlock) {
    __builtin_memcpy(&a, from + at, kBlock);
    __builtin_memcpy(to + at, &a, kBlock);
  }
}

[[gnu::always_inline]] inline void CopyLong(uint8_t* to, const uint8_t* from, size_t size) {
  if (__builtin_cpu_supports("avx2")) [[likely]]
    return CopyWide(to, from, size);
  __builtin_memcpy(to, from, size);
}

#else

[[gnu::always_inline]] inline void CopyLong(uint8_t* to, const uint8_t* from, size_t size) {
  __builtin_memcpy(to, from, size);
}

#endif

[[gnu::always_inline]] inline void CopyBytes(void* to, const void* from, size_t size) {
  auto* out = static_cast<uint8_t*>(to);
  auto* in = static_cast<const uint8_t*>(from);
  if (size > 64) {
    // Hides what the compiler knows of the caller's object: of a small one it would say that this branch reads beyond
    // it, not seeing that its size never gets here.
    asm("" : "+r"(in));
    if (size > kMaxInlineCopy) [[unlikely]]
      return CopyLong(out, in, size);
    CopyEnds32(out, in, 64);
    CopyEnds32(out + size - 64, in + size - 64, 64);
  } else if (size >= 32) {
    CopyEnds32(out, in, size);
  } else if (size >= 16) {
    CopyEnds<Block>(out, in, size);
  } else if (size >= 8) {
    CopyEnds<uint64_t>(out, in, size);
  } else if (size >= 4) {
    CopyEnds<uint32_t>(out, in, size);
  } else if (size > 0) {
    out[0] = in[0];
    if (size > 1) __builtin_memcpy(out + size - 2, in + size - 2, 2);
  }
}

#endif

}  // namespace hvsdk::vmbus::internal

#endif  // HVSDK_VMBUS_RING_COPY_H_
