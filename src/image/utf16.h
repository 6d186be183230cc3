// SPDX-License-Identifier: Apache-2.0
// UTF-16 to UTF-8 and back, for the names that images carry. What is no character becomes U+FFFD.

#ifndef HVSDK_SRC_IMAGE_UTF16_H_
#define HVSDK_SRC_IMAGE_UTF16_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace hvsdk::internal {

// Ends at the first zero.
std::string FromUtf16(absl::Span<const uint8_t> bytes, bool big_endian = false);
std::vector<uint8_t> ToUtf16(absl::string_view text, bool big_endian = false);

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_IMAGE_UTF16_H_
