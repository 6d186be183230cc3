// SPDX-License-Identifier: Apache-2.0
// The four functions that a freestanding compiler takes for granted.

#include <cstddef>
#include <cstdint>

extern "C" {

void* memcpy(void* to, const void* from, size_t size) {
  void* out = to;
  asm volatile("rep movsb" : "+D"(out), "+S"(from), "+c"(size)::"memory");
  return to;
}

void* memset(void* to, int value, size_t size) {
  void* out = to;
  asm volatile("rep stosb" : "+D"(out), "+c"(size) : "a"(value) : "memory");
  return to;
}

void* memmove(void* to, const void* from, size_t size) {
  if (reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from) >= size) return memcpy(to, from, size);
  auto* out = static_cast<uint8_t*>(to) + size;
  auto* in = static_cast<const uint8_t*>(from) + size;
  while (size-- != 0) *--out = *--in;
  return to;
}

int memcmp(const void* a, const void* b, size_t size) {
  auto* x = static_cast<const uint8_t*>(a);
  auto* y = static_cast<const uint8_t*>(b);
  for (size_t i = 0; i < size; ++i) {
    if (x[i] != y[i]) return x[i] < y[i] ? -1 : 1;
  }
  return 0;
}

}  // extern "C"
