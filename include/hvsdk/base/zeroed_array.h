// SPDX-License-Identifier: Apache-2.0
// ZeroedArray: an array that begins as zero bytes and takes host memory only where it is touched: a table with an entry
// for each page of a guest, which may have a billion of them and seldom uses many.
//
// T is an aggregate of integers and atomics, for which zero bytes are a value; nothing is constructed or destroyed.
//
//   ZeroedArray<PageState> pages = MakeZeroedArray<PageState>(count);
//   if (pages == nullptr) return absl::ResourceExhaustedError("no memory for the pages' states");

#ifndef HVSDK_BASE_ZEROED_ARRAY_H_
#define HVSDK_BASE_ZEROED_ARRAY_H_

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <type_traits>

namespace hvsdk {

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};
template <typename T>
using ZeroedArray = std::unique_ptr<T[], FreeMemory>;

// Null if the host refuses. A C library takes what is large straight from the system, whose pages are zero and not yet
// there; what is small shares pages, which a mapping for each array would not.
template <typename T>
ZeroedArray<T> MakeZeroedArray(size_t count) {
  static_assert(std::is_trivially_destructible_v<T> && alignof(T) <= alignof(std::max_align_t));
  return ZeroedArray<T>(static_cast<T*>(std::calloc(count, sizeof(T))));
}

}  // namespace hvsdk

#endif  // HVSDK_BASE_ZEROED_ARRAY_H_
