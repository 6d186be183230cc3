// SPDX-License-Identifier: Apache-2.0
// Which number a device gets that may have any.

#ifndef HVSDK_SRC_MACHINE_NEXT_NUMBER_H_
#define HVSDK_SRC_MACHINE_NEXT_NUMBER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace hvsdk::machine {

// Of the numbers below `count` the first free one from `next` on, all around. `next` follows the last that was taken, so that a guest
// which has not looked meanwhile does not take a new device for the one that was there. ResourceExhausted: none is free.
template <typename IsFree>
absl::StatusOr<uint8_t> NextNumber(absl::string_view devices, size_t next, size_t count, IsFree is_free) {
  for (size_t i = 0; i < count; ++i) {
    const auto number = static_cast<uint8_t>((next + i) % count);
    if (is_free(number)) return number;
  }
  return absl::ResourceExhaustedError(absl::StrCat("all ", count, " places for ", devices, " are taken"));
}

}  // namespace hvsdk::machine

#endif  // HVSDK_SRC_MACHINE_NEXT_NUMBER_H_
