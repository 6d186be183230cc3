// SPDX-License-Identifier: Apache-2.0
// Characters of UTF-8, and UTF-16 to UTF-8 and back, for what images and guests carry. What is no character in a text becomes U+FFFD.

#ifndef HVSDK_SRC_BASE_UTF16_H_
#define HVSDK_SRC_BASE_UTF16_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace hvsdk::internal {

inline constexpr uint32_t kReplacementCharacter = 0xFFFD;

inline void AppendUtf8(uint32_t character, std::string& text) {
  const auto tail = [&](int shift) { text += static_cast<char>(0x80 | (character >> shift & 0x3F)); };
  if (character < 0x80) {
    text += static_cast<char>(character);
  } else if (character < 0x800) {
    text += static_cast<char>(0xC0 | character >> 6);
    tail(0);
  } else if (character < 0x10000) {
    text += static_cast<char>(0xE0 | character >> 12);
    tail(6);
    tail(0);
  } else {
    text += static_cast<char>(0xF0 | character >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

// Takes the first character off UTF-8. False: it is none, and stays.
inline bool TakeUtf8(absl::string_view& text, char32_t& character) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : 0u; };
  const uint32_t first = byte(0);
  size_t size = 1;
  uint32_t least = 0;
  character = first;
  if (first >= 0xC0 && first < 0xE0) {
    character = first & 0x1F, size = 2, least = 0x80;
  } else if (first >= 0xE0 && first < 0xF0) {
    character = first & 0x0F, size = 3, least = 0x800;
  } else if (first >= 0xF0 && first < 0xF8) {
    character = first & 0x07, size = 4, least = 0x10000;
  } else if (first >= 0x80) {
    return false;
  }
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return false;
    character = character << 6 | (byte(i) & 0x3F);
  }
  if (character < least || character > 0x10FFFF || (character >= 0xD800 && character < 0xE000)) return false;
  text.remove_prefix(size);
  return true;
}

// Ends at the first zero.
inline std::string FromUtf16(absl::Span<const uint8_t> bytes, bool big_endian = false) {
  const size_t count = bytes.size() / 2;
  const auto unit = [&](size_t i) -> uint32_t {
    return big_endian ? bytes[2 * i] << 8 | bytes[2 * i + 1] : bytes[2 * i + 1] << 8 | bytes[2 * i];
  };
  std::string text;
  for (size_t i = 0; i < count && unit(i) != 0; ++i) {
    uint32_t character = unit(i);
    if (character >= 0xD800 && character < 0xE000) {
      const uint32_t low = character < 0xDC00 && i + 1 < count ? unit(i + 1) : 0;
      if (low >= 0xDC00 && low < 0xE000) {
        character = 0x10000 + ((character - 0xD800) << 10) + (low - 0xDC00);
        ++i;
      } else {
        character = kReplacementCharacter;
      }
    }
    AppendUtf8(character, text);
  }
  return text;
}

inline std::vector<uint8_t> ToUtf16(absl::string_view text, bool big_endian = false) {
  std::vector<uint8_t> bytes;
  const auto put = [&](uint32_t unit) {
    const uint8_t high = static_cast<uint8_t>(unit >> 8), low = static_cast<uint8_t>(unit);
    bytes.push_back(big_endian ? high : low);
    bytes.push_back(big_endian ? low : high);
  };
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t at) { return static_cast<uint8_t>(text[at]); };
    const uint8_t first = byte(i++);
    const int tails = first < 0x80 ? 0 : first >= 0xF0 && first < 0xF5 ? 3 : first >= 0xE0 ? 2 : 1;
    uint32_t character = first < 0x80 ? first : first & (0x3F >> tails);
    bool good = first < 0x80 || (first >= 0xC2 && first < 0xF5);
    for (int j = 0; good && j < tails; ++j) {
      good = i < text.size() && (byte(i) & 0xC0) == 0x80;
      if (good) character = character << 6 | (byte(i++) & 0x3F);
    }
    if (!good || character > 0x10FFFF || (character >= 0xD800 && character < 0xE000)) character = kReplacementCharacter;
    if (character >= 0x10000) {
      put(0xD800 + ((character - 0x10000) >> 10));
      put(0xDC00 + ((character - 0x10000) & 0x3FF));
    } else {
      put(character);
    }
  }
  return bytes;
}

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_BASE_UTF16_H_
