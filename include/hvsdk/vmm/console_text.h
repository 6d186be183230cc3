// SPDX-License-Identifier: Apache-2.0
// ConsoleText: what a text console says that a guest draws into its frame buffer, read by its font: cell by cell from the upper left
// corner on, as Linux' fbcon has them.
//
// A cell is its most frequent colour and what is not. It is read as the glyph that looks so, or, as no two copies of a font are quite
// the same, as the one that differs in the fewest pixels, at most a twentieth of all; turned over, for inverse video; and otherwise as U+FFFD.
//
// Limits: fonts of at most 60 KiB, which fits into a request of the control socket's, and 512 glyphs of at most 64 x 64 pixels; cells without
// gaps, from the edge on, as Linux' console has them.
//
// Thread-safe. Source: kbd's psfgettable(1) and Linux' Documentation/admin-guide for the fonts; the PSF formats 1 and 2 as kbd reads them.
//
//   const auto font = vmm::ConsoleFont::Load("/usr/share/consolefonts/Lat15-VGA16.psf.gz");
//   if (!font.ok()) return font.status();
//   if (font->Read(machine.display()->frame()).find("login:") != std::string::npos) LogIn();

#ifndef HVSDK_VMM_CONSOLE_TEXT_H_
#define HVSDK_VMM_CONSOLE_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/resource/display.h"

namespace hvsdk::vmm {

class ConsoleFont {
 public:
  static constexpr size_t kMaxBytes = 60 << 10;
  // Of cells of a frame: each glyph there can be, both ways, and as many that are none.
  static constexpr size_t kMaxShapes = 2048;

  // What a font's file has, also one that gzip has compressed. NotFound and others: the host's. InvalidArgument: it is too long, or is damaged.
  // Unimplemented: it is compressed, and there is no zlib.
  static absl::StatusOr<std::string> ReadFile(const std::string& path);
  // InvalidArgument: it is no such font.
  static absl::StatusOr<ConsoleFont> Parse(absl::string_view psf);
  static absl::StatusOr<ConsoleFont> Load(const std::string& path);

  uint32_t width() const { return width_; }
  uint32_t height() const { return height_; }

  // What a frame says, in UTF-8: lines without the blanks at their ends, each with a line feed, down to the last that says something. Each
  // pixel is read once. Cells are looked for until there are kMaxShapes different ones, as of a picture or of noise; what looks otherwise is
  // U+FFFD from there on.
  std::string Read(const Frame& frame) const;

 private:
  // Of a cell: bit 0 is its upper left pixel, and so on row by row.
  using Bits = std::vector<uint64_t>;
  struct Glyph {
    Bits bits;
    char32_t character = 0;
  };

  // 0: nothing looks so.
  char32_t Find(const Bits& bits) const;
  // Also as inverse video; U+FFFD: not so either.
  char32_t FindEitherWay(Bits bits) const;
  // What stands out in a cell from what is most of it. False: it has one colour.
  bool ReadCell(const Frame& frame, uint32_t left, uint32_t top, Bits& bits) const;

  uint32_t width_ = 0, height_ = 0;
  std::vector<Glyph> glyphs_;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_CONSOLE_TEXT_H_
