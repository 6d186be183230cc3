// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/console_text.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/utf16.h"
#include "resource/frame_row.h"
#include "vmm/gunzip.h"

namespace hvsdk::vmm {
namespace {

constexpr absl::string_view kMagic1("\x36\x04", 2), kMagic2("\x72\xB5\x4A\x86", 4);
constexpr size_t kHeader1Bytes = 4, kHeader2Bytes = 32;
constexpr uint32_t kMaxGlyphs = 512, kMaxSide = 64;

absl::Status NoFont(absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("is no console font (PSF): ", why));
}

uint32_t Read32(absl::string_view bytes, size_t at) {
  const auto byte = [&](size_t i) { return uint32_t{static_cast<uint8_t>(bytes[at + i])}; };
  return byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24;
}

// Of the characters that share a glyph, the one that a reader expects.
bool IsBetter(char32_t character, char32_t than) {
  const bool is_control = character < 0x20 || (character >= 0x7F && character < 0xA0);
  const bool is_half = character >= 0xD800 && character < 0xE000;  // of one in UTF-16
  if (is_control || is_half || character > 0xFFFF) return false;
  return than == 0 || character < than;
}

// Ink becomes paper, and paper ink.
void Invert(std::vector<uint64_t>& bits, uint32_t pixels) {
  for (uint64_t& word : bits) word = ~word;
  if (pixels % 64 != 0) bits.back() &= (uint64_t{1} << pixels % 64) - 1;
}

}  // namespace

absl::StatusOr<std::string> ConsoleFont::ReadFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return absl::ErrnoToStatus(errno, path);
  std::string bytes(kMaxBytes + 1, '\0');
  size_t size = 0;
  ssize_t got = 0;
  while (size < bytes.size() && (got = read(fd, &bytes[size], bytes.size() - size)) > 0)
    size += static_cast<size_t>(got);
  const int error = errno;
  close(fd);
  if (got < 0) return absl::ErrnoToStatus(error, path);
  bytes.resize(size);
  if (IsGzip(bytes)) {
    ASSIGN_OR_RETURN(bytes, Gunzip(bytes, kMaxBytes + 1));
  }
  if (bytes.size() > kMaxBytes) return NoFont("it is longer than 60 KiB");
  return bytes;
}

absl::StatusOr<ConsoleFont> ConsoleFont::Load(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string psf, ReadFile(path));
  return Parse(psf);
}

absl::StatusOr<ConsoleFont> ConsoleFont::Parse(absl::string_view psf) {
  if (psf.size() > kMaxBytes) return NoFont("it is longer than 60 KiB");
  ConsoleFont font;
  uint32_t count, glyph_bytes;
  bool has_table, is_second = false;
  size_t at;
  if (absl::StartsWith(psf, kMagic1) && psf.size() >= kHeader1Bytes) {
    // psf.h of kbd: the mode's bit 0 is 512 glyphs, bits 1 and 2 a table behind them.
    const auto mode = static_cast<uint8_t>(psf[2]);
    count = (mode & 1) != 0 ? 512 : 256;
    has_table = (mode & 6) != 0;
    glyph_bytes = font.height_ = static_cast<uint8_t>(psf[3]);
    font.width_ = 8;
    at = kHeader1Bytes;
  } else if (absl::StartsWith(psf, kMagic2) && psf.size() >= kHeader2Bytes) {
    at = Read32(psf, 8);
    has_table = (Read32(psf, 12) & 1) != 0;
    count = Read32(psf, 16);
    glyph_bytes = Read32(psf, 20);
    font.height_ = Read32(psf, 24);
    font.width_ = Read32(psf, 28);
    is_second = true;
  } else {
    return NoFont("it does not begin as one");
  }
  const uint32_t row_bytes = (font.width_ + 7) / 8;
  if (font.width_ == 0 || font.height_ == 0 || font.width_ > kMaxSide || font.height_ > kMaxSide || count == 0 ||
      count > kMaxGlyphs || glyph_bytes != row_bytes * font.height_) {
    return NoFont("its size is none that Linux' console takes");
  }
  if (at > psf.size() || psf.size() - at < uint64_t{count} * glyph_bytes) return NoFont("glyphs are missing");

  const size_t words = (size_t{font.width_} * font.height_ + 63) / 64;
  font.glyphs_.resize(count);
  for (uint32_t glyph = 0; glyph < count; ++glyph) {
    Bits& bits = font.glyphs_[glyph].bits;
    bits.resize(words);
    for (uint32_t y = 0; y < font.height_; ++y) {
      for (uint32_t x = 0; x < font.width_; ++x) {
        const auto byte = static_cast<uint8_t>(psf[at + size_t{glyph} * glyph_bytes + y * row_bytes + x / 8]);
        const uint32_t bit = y * font.width_ + x;
        if ((byte & 0x80u >> x % 8) != 0) bits[bit / 64] |= uint64_t{1} << bit % 64;
      }
    }
    if (!has_table) font.glyphs_[glyph].character = IsBetter(glyph, 0) ? glyph : 0;
  }
  if (!has_table) return font;
  psf.remove_prefix(at + size_t{count} * glyph_bytes);
  bool is_sequence = false;  // of several characters, which are not read here
  for (uint32_t glyph = 0; glyph < count && !psf.empty();) {
    char32_t character;
    bool ends, begins_sequence;
    if (is_second) {
      ends = psf[0] == '\xFF';
      begins_sequence = psf[0] == '\xFE';
      character = 0;
      if (ends || begins_sequence) {
        psf.remove_prefix(1);
      } else if (!internal::TakeUtf8(psf, character)) {
        psf.remove_prefix(1);
        character = 0;
      }
    } else {
      if (psf.size() < 2) break;
      character = static_cast<char32_t>(static_cast<uint8_t>(psf[0]) | static_cast<uint8_t>(psf[1]) << 8);
      psf.remove_prefix(2);
      ends = character == 0xFFFF;
      begins_sequence = character == 0xFFFE;
    }
    if (ends) {
      ++glyph;
      is_sequence = false;
    } else if (begins_sequence) {
      is_sequence = true;
    } else if (!is_sequence && IsBetter(character, font.glyphs_[glyph].character)) {
      font.glyphs_[glyph].character = character;
    }
  }
  return font;
}

char32_t ConsoleFont::Find(const Bits& bits) const {
  int least = static_cast<int>(width_ * height_ / 20) + 1;
  char32_t found = 0;
  for (const Glyph& glyph : glyphs_) {
    if (glyph.character == 0) continue;
    int differ = 0;
    for (size_t i = 0; i < bits.size() && differ < least; ++i) differ += std::popcount(bits[i] ^ glyph.bits[i]);
    if (differ >= least) continue;
    least = differ;
    found = glyph.character;
    if (differ == 0) break;
  }
  return found;
}

char32_t ConsoleFont::FindEitherWay(Bits bits) const {
  char32_t found = Find(bits);
  if (found != 0) return found;
  Invert(bits, width_ * height_);
  found = Find(bits);
  return found != 0 ? found : internal::kReplacementCharacter;
}

bool ConsoleFont::ReadCell(const Frame& frame, uint32_t left, uint32_t top, Bits& bits) const {
  const uint32_t pixels = width_ * height_;
  std::fill(bits.begin(), bits.end(), 0);
  // Text has two colours: the first pixel's, and the other.
  uint32_t first = 0, others = 0, bit = 0;
  for (uint32_t y = 0; y < height_; ++y) {
    uint32_t row[kMaxSide] = {};
    internal::ReadRow(frame, left, top + y, width_, row);
    if (y == 0) first = row[0];
    for (uint32_t x = 0; x < width_; ++x, ++bit) {
      if (row[x] == first) continue;
      ++others;
      bits[bit / 64] |= uint64_t{1} << bit % 64;
    }
  }
  if (2 * others > pixels) Invert(bits, pixels);
  return others != 0;
}

std::string ConsoleFont::Read(const Frame& frame) const {
  std::string text;
  Bits bits((size_t{width_} * height_ + 63) / 64);
  std::map<Bits, char32_t> known;
  size_t end = 0;  // of what says something
  for (uint32_t top = 0; top + height_ <= frame.height; top += height_) {
    for (uint32_t left = 0; left + width_ <= frame.width; left += width_) {
      char32_t character = ' ';
      if (ReadCell(frame, left, top, bits)) {
        // A guest that shows noise must not have its devices wait for all of it.
        const auto at = known.find(bits);
        if (at != known.end()) {
          character = at->second;
        } else {
          character = known.size() == kMaxShapes ? internal::kReplacementCharacter : FindEitherWay(bits);
          if (known.size() != kMaxShapes) known.emplace(bits, character);
        }
      }
      internal::AppendUtf8(character, text);
      if (character != ' ' && character != 0xA0) end = text.size();
    }
    // The blanks at the line's end go.
    text.resize(text.find_last_not_of(' ') + 1);
    text.push_back('\n');
  }
  text.resize(end);
  if (end != 0) text.push_back('\n');
  return text;
}

}  // namespace hvsdk::vmm
