// SPDX-License-Identifier: Apache-2.0
// A fuzzer's input, from which a driver takes its choices.

#ifndef HVSDK_FUZZ_BYTES_H_
#define HVSDK_FUZZ_BYTES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/types/span.h"

namespace hvsdk::fuzz {

// Takes values off the front of the input; zeroes once it is used up.
class Bytes {
 public:
  explicit Bytes(absl::Span<const uint8_t> bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }
  template <typename T>
  T Take() {
    T value{};
    const size_t size = std::min(bytes_.size(), sizeof(value));
    std::memcpy(&value, bytes_.data(), size);
    bytes_.remove_prefix(size);
    return value;
  }
  absl::Span<const uint8_t> TakeSpan(size_t size) {
    const auto span = bytes_.first(std::min(size, bytes_.size()));
    bytes_.remove_prefix(span.size());
    return span;
  }

 private:
  absl::Span<const uint8_t> bytes_;
};

}  // namespace hvsdk::fuzz

#endif  // HVSDK_FUZZ_BYTES_H_
