// SPDX-License-Identifier: Apache-2.0
// Copies to and from bytes that the peer may change meanwhile.
//
// Packets are mostly short, and a call costs more than moving 64 bytes: up to 256 bytes are moved here in 16-byte pieces, the
// last of which overlaps its neighbour, so that nothing branches per byte. Freestanding.

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

// Loads both pieces before it stores either.
template <size_t kPiece>
[[gnu::always_inline]] inline void CopyEnds(uint8_t* to, const uint8_t* from, size_t size) {
  struct Piece {
    uint8_t bytes[kPiece];
  };
  Piece head, tail;
  __builtin_memcpy(&head, from, kPiece);
  __builtin_memcpy(&tail, from + size - kPiece, kPiece);
  __builtin_memcpy(to, &head, kPiece);
  __builtin_memcpy(to + size - kPiece, &tail, kPiece);
}

[[gnu::always_inline]] inline void CopyBytes(void* to, const void* from, size_t size) {
  auto* out = static_cast<uint8_t*>(to);
  auto* in = static_cast<const uint8_t*>(from);
  if (__builtin_expect(size > 256, 0)) {
    __builtin_memcpy(out, in, size);
  } else if (size >= 16) {
    for (size_t at = 0; at + 16 < size; at += 16) __builtin_memcpy(out + at, in + at, 16);
    __builtin_memcpy(out + size - 16, in + size - 16, 16);
  } else if (size >= 8) {
    CopyEnds<8>(out, in, size);
  } else if (size >= 4) {
    CopyEnds<4>(out, in, size);
  } else if (size > 0) {
    out[0] = in[0];
    if (size > 1) CopyEnds<2>(out, in, size);
  }
}

#endif

}  // namespace hvsdk::vmbus::internal

#endif  // HVSDK_VMBUS_RING_COPY_H_
