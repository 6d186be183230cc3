// SPDX-License-Identifier: Apache-2.0
#include "image/guid.h"

#include <sys/random.h>

#include <random>

#include "absl/strings/ascii.h"

namespace hvsdk::internal {
namespace {

// Where the bytes stand in the text, without braces.
constexpr int kPlaces[16] = {6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32, 34};

}  // namespace

Guid NewGuid() {
  Guid guid;
  if (getrandom(guid.data(), guid.size(), 0) != static_cast<ssize_t>(guid.size())) {
    std::random_device random;
    for (uint8_t& byte : guid) byte = static_cast<uint8_t>(random());
  }
  guid[7] = static_cast<uint8_t>((guid[7] & 0x0F) | 0x40);
  guid[8] = static_cast<uint8_t>((guid[8] & 0x3F) | 0x80);
  return guid;
}

std::string FormatGuid(const Guid& guid) {
  std::string text = "{00000000-0000-0000-0000-000000000000}";
  for (int i = 0; i < 16; ++i) {
    text[1 + kPlaces[i]] = "0123456789abcdef"[guid[i] >> 4];
    text[2 + kPlaces[i]] = "0123456789abcdef"[guid[i] & 15];
  }
  return text;
}

Guid ParseGuid(absl::string_view text) {
  if (text.size() == 38 && text.front() == '{' && text.back() == '}') text = text.substr(1, 36);
  if (text.size() != 36) return {};
  Guid guid{};
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 2; ++j) {
      const char digit = absl::ascii_tolower(static_cast<unsigned char>(text[kPlaces[i] + j]));
      if (!absl::ascii_isxdigit(static_cast<unsigned char>(digit))) return {};
      guid[i] = static_cast<uint8_t>(guid[i] << 4 | (digit <= '9' ? digit - '0' : digit - 'a' + 10));
    }
  }
  return guid;
}

}  // namespace hvsdk::internal
