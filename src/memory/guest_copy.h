// SPDX-License-Identifier: Apache-2.0
// Copies to and from bytes that a guest may change meanwhile. The race is the guest's to lose: we copy once and check
// the copy. ThreadSanitizer cannot know that, so its build copies here without instrumentation.

#ifndef HVSDK_SRC_MEMORY_GUEST_COPY_H_
#define HVSDK_SRC_MEMORY_GUEST_COPY_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/base/config.h"

namespace hvsdk::internal {

#if defined(ABSL_HAVE_THREAD_SANITIZER)
__attribute__((no_sanitize("thread"))) inline void GuestCopy(void* to, const void* from, size_t size) {
  auto* out = static_cast<volatile uint8_t*>(to);
  auto* in = static_cast<const volatile uint8_t*>(from);
  for (size_t i = 0; i < size; ++i) out[i] = in[i];
}
#else
inline void GuestCopy(void* to, const void* from, size_t size) {
  if (size != 0) std::memcpy(to, from, size);  // an empty copy may come without a pointer
}
#endif

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_MEMORY_GUEST_COPY_H_
