// SPDX-License-Identifier: Apache-2.0
// Appends integers to a byte string, and reads them from bytes, in the guest's byte order.

#ifndef HVSDK_SRC_BOOT_LITTLE_ENDIAN_H_
#define HVSDK_SRC_BOOT_LITTLE_ENDIAN_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

namespace hvsdk::boot {

template <typename T>
void Append(std::string& to, std::type_identity_t<T> value) {
  for (size_t i = 0; i < sizeof(T); ++i) to.push_back(static_cast<char>(static_cast<uint64_t>(value) >> (8 * i)));
}

template <typename T>
T Load(const uint8_t* from) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value |= uint64_t{from[i]} << (8 * i);
  return static_cast<T>(value);
}

template <typename T>
void Store(uint8_t* to, std::type_identity_t<T> value) {
  for (size_t i = 0; i < sizeof(T); ++i) to[i] = static_cast<uint8_t>(static_cast<uint64_t>(value) >> (8 * i));
}

}  // namespace hvsdk::boot

#endif  // HVSDK_SRC_BOOT_LITTLE_ENDIAN_H_
