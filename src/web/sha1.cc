// SPDX-License-Identifier: Apache-2.0
#include "web/sha1.h"

#include <array>
#include <cstddef>
#include <cstdint>

namespace hvsdk::web {
namespace {

constexpr size_t kBlock = 64;

uint32_t Rotate(uint32_t word, int bits) { return word << bits | word >> (32 - bits); }

void Add(const std::string& text, size_t at, std::array<uint32_t, 5>& hash) {
  std::array<uint32_t, 80> words{};
  for (size_t i = 0; i < kBlock; ++i) words[i / 4] = words[i / 4] << 8 | static_cast<uint8_t>(text[at + i]);
  for (size_t i = 16; i < words.size(); ++i) {
    words[i] = Rotate(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);
  }
  auto [a, b, c, d, e] = hash;
  for (size_t i = 0; i < words.size(); ++i) {
    const uint32_t mix = i < 20   ? ((b & c) | (~b & d)) + 0x5A827999
                         : i < 40 ? (b ^ c ^ d) + 0x6ED9EBA1
                         : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDC
                                  : (b ^ c ^ d) + 0xCA62C1D6;
    const uint32_t next = Rotate(a, 5) + mix + e + words[i];
    e = d;
    d = c;
    c = Rotate(b, 30);
    b = a;
    a = next;
  }
  const uint32_t mixed[] = {a, b, c, d, e};
  for (size_t i = 0; i < hash.size(); ++i) hash[i] += mixed[i];
}

}  // namespace

std::string Sha1(absl::string_view text) {
  std::string padded(text);
  padded += '\x80';
  while (padded.size() % kBlock != kBlock - 8) padded += '\0';
  for (int shift = 56; shift >= 0; shift -= 8) padded += static_cast<char>(uint64_t{text.size()} * 8 >> shift);
  std::array<uint32_t, 5> hash = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
  for (size_t at = 0; at < padded.size(); at += kBlock) Add(padded, at, hash);
  std::string bytes;
  for (const uint32_t word : hash) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(word >> shift);
  }
  return bytes;
}

}  // namespace hvsdk::web
