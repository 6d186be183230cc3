// SPDX-License-Identifier: Apache-2.0
// Segment and table registers as the values that a VP's registers are set by.

#ifndef HVSDK_TESTS_BACKEND_REGISTER_VALUES_H_
#define HVSDK_TESTS_BACKEND_REGISTER_VALUES_H_

#include <cstdint>
#include <cstring>

#include "hvsdk/hvdef/register.h"

namespace hvsdk::backend {

inline hvdef::RegisterValue SegmentValue(uint64_t base, uint32_t limit, uint16_t selector, uint16_t attributes) {
  const hvdef::SegmentRegister segment{base, limit, selector, attributes};
  hvdef::RegisterValue value;
  std::memcpy(&value, &segment, sizeof(value));
  return value;
}

inline hvdef::RegisterValue TableValue(uint64_t base, uint16_t limit) {
  const hvdef::TableRegister table{{}, limit, base};
  hvdef::RegisterValue value;
  std::memcpy(&value, &table, sizeof(value));
  return value;
}

}  // namespace hvsdk::backend

#endif  // HVSDK_TESTS_BACKEND_REGISTER_VALUES_H_
