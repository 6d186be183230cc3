// SPDX-License-Identifier: Apache-2.0
// Texts in the messages of integration components: UTF-16 with a zero behind it, in a field of a fixed size.

#ifndef HVSDK_SRC_VSP_WIRE_TEXT_H_
#define HVSDK_SRC_VSP_WIRE_TEXT_H_

#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/utf16.h"

namespace hvsdk::vsp {

// Writes `text` into `field`, which is zero, and to `size_bytes`, unless null, how long it is with its zero. InvalidArgument: it does not fit, or is
// no UTF-8 without zeros; `name` says what it is.
template <size_t kSize>
absl::Status PutText(absl::string_view name, absl::string_view text, uint8_t (&field)[kSize],
                     uint32_t* size_bytes = nullptr) {
  const std::vector<uint8_t> units = internal::ToUtf16(text);
  if (internal::FromUtf16(units) != text) {
    return absl::InvalidArgumentError(absl::StrCat("the ", name, " is no text in UTF-8"));
  }
  if (units.size() + 2 > kSize) {
    return absl::InvalidArgumentError(absl::StrCat("the ", name, " is longer than ", kSize / 2 - 1, " characters"));
  }
  if (!units.empty()) std::memcpy(field, units.data(), units.size());
  if (size_bytes != nullptr) *size_bytes = static_cast<uint32_t>(units.size() + 2);
  return absl::OkStatus();
}

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_WIRE_TEXT_H_
