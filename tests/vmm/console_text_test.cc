// SPDX-License-Identifier: Apache-2.0
// What is read of pictures of text, with fonts made here.

#include "hvsdk/vmm/console_text.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/random_seed.h"

namespace hvsdk::vmm {
namespace {

using testing::HasSubstr;

constexpr uint32_t kWidth = 8, kHeight = 16;

// Any letter's glyph: two that differ in many pixels.
std::vector<uint8_t> GlyphOf(uint32_t letter) {
  std::mt19937 random(letter);
  std::vector<uint8_t> rows(kHeight);
  for (uint8_t& row : rows) row = static_cast<uint8_t>(random());
  rows[0] = 0;  // as the upper edge of letters is
  return rows;
}

// The letters A to Z as the first 26 of 256 glyphs.
std::string Psf1() {
  std::string psf("\x36\x04\x02\x10", 4);
  for (uint32_t glyph = 0; glyph < 256; ++glyph) {
    for (const uint8_t row : glyph < 26 ? GlyphOf(glyph) : std::vector<uint8_t>(kHeight))
      psf.push_back(static_cast<char>(row));
  }
  for (uint32_t glyph = 0; glyph < 256; ++glyph) {
    if (glyph < 26) psf += {static_cast<char>('A' + glyph), 0, '\x91', '\x03'};  // and a Greek one that is not expected
    psf += "\xFF\xFF";
  }
  return psf;
}

// Likewise with 26 glyphs, 12 x 16, and their characters in UTF-8.
std::string Psf2() {
  std::string psf("\x72\xB5\x4A\x86", 4);
  for (const uint32_t field : {0u, 32u, 1u, 26u, 32u, 16u, 12u}) {
    for (int i = 0; i < 4; ++i) psf.push_back(static_cast<char>(field >> 8 * i));
  }
  for (uint32_t glyph = 0; glyph < 26; ++glyph) {
    for (const uint8_t row : GlyphOf(glyph)) psf += {static_cast<char>(row), '\x50'};
  }
  for (uint32_t glyph = 0; glyph < 26; ++glyph) {
    // A sequence is not a character; the last letter is a "Ü".
    psf +=
        glyph == 25 ? std::string("\xC3\x9C\xFE") + "xy\xFF" : std::string(1, static_cast<char>('A' + glyph)) + "\xFF";
  }
  return psf;
}

class Screen {
 public:
  explicit Screen(PixelFormat format = PixelFormat::kXrgb8888, uint32_t cell_width = kWidth)
      : format_(format), cell_width_(cell_width), bytes_(BytesOf(format)), pixels_(uint64_t{kStride} * 100 * bytes_) {}

  void Write(uint32_t row, uint32_t column, const std::string& text, uint32_t ink, uint32_t paper) {
    for (const char letter : text) {
      const std::vector<uint8_t> rows = GlyphOf(static_cast<uint32_t>(letter - 'A'));
      for (uint32_t y = 0; y < kHeight; ++y) {
        const uint32_t bits = uint32_t{rows[y]} << 4 | 5;  // of which a font of 8 columns sees the first
        for (uint32_t x = 0; x < cell_width_; ++x) {
          Put(column * cell_width_ + x, row * kHeight + y, (bits & 0x800u >> x) != 0 ? ink : paper);
        }
      }
      ++column;
    }
  }
  void Put(uint32_t x, uint32_t y, uint32_t color) {
    std::memcpy(&pixels_[(uint64_t{y} * kStride + x) * bytes_], &color, bytes_);
  }
  Frame frame() const {
    return {.width = 163, .height = 99, .stride_bytes = kStride * bytes_, .format = format_, .pixels = pixels_.data()};
  }

 private:
  static constexpr uint32_t kStride = 170;
  const PixelFormat format_;
  const uint32_t cell_width_, bytes_;
  std::vector<uint8_t> pixels_;
};

TEST(ConsoleTextTest, LinesAreReadInAnyColours) {
  const auto font = ConsoleFont::Parse(Psf1());
  ASSERT_TRUE(font.ok()) << font.status();
  for (const PixelFormat format : {PixelFormat::kXrgb8888, PixelFormat::kRgb565}) {
    Screen screen(format);
    EXPECT_EQ(font->Read(screen.frame()), "");
    screen.Write(1, 2, "HELLO", 0xAAAA, 0);
    screen.Write(1, 10, "WORLD", 0, 0xFFFF);
    screen.Write(4, 0, "ZX", 0x1234, 0x4321);
    EXPECT_EQ(font->Read(screen.frame()), "\n  HELLO   WORLD\n\n\nZX\n");
  }
}

TEST(ConsoleTextTest, AWiderFontWithCharactersOfAnyKind) {
  const auto font = ConsoleFont::Parse(Psf2());
  ASSERT_TRUE(font.ok()) << font.status();
  EXPECT_EQ(font->width(), 12u);
  Screen screen(PixelFormat::kXrgb8888, 12);
  screen.Write(0, 0, "ABZ", 0xFFFFFF, 0);
  EXPECT_EQ(font->Read(screen.frame()), "AB\u00DC\n");
}

TEST(ConsoleTextTest, AGlyphThatIsNearlyTheSameIsRead) {
  const auto font = ConsoleFont::Parse(Psf1());
  ASSERT_TRUE(font.ok());
  Screen screen;
  screen.Write(0, 0, "Q", 0xFFFFFF, 0);
  for (uint32_t x = 0; x < 6; ++x) screen.Put(x, 0, 0xFFFFFF);  // of 128 pixels
  EXPECT_EQ(font->Read(screen.frame()), "Q\n");
  screen.Put(6, 0, 0xFFFFFF);
  EXPECT_EQ(font->Read(screen.frame()), "\uFFFD\n");
}

TEST(ConsoleTextTest, NoiseIsNotLookedThroughForEver) {
  const auto font = ConsoleFont::Parse(Psf1());
  ASSERT_TRUE(font.ok()) << font.status();
  constexpr uint32_t kColumns = 64, kRows = 2 + ConsoleFont::kMaxShapes / kColumns;
  std::vector<uint32_t> pixels(kColumns * kWidth * kRows * kHeight);
  std::mt19937 random(1);
  const auto draw = [&](uint32_t row, uint32_t column, const std::vector<uint8_t>& glyph) {
    for (uint32_t i = 0; i < kWidth * kHeight; ++i) {
      const uint32_t x = column * kWidth + i % kWidth, y = row * kHeight + i / kWidth;
      pixels[y * kColumns * kWidth + x] = (glyph[i / kWidth] & 0x80u >> i % kWidth) != 0 ? 0xFFFFFF : 0;
    }
  };
  draw(0, 0, GlyphOf(0));
  for (uint32_t row = 1; row + 1 < kRows; ++row) {
    for (uint32_t column = 0; column < kColumns; ++column) {
      std::vector<uint8_t> noise(kHeight);
      for (uint8_t& byte : noise) byte = static_cast<uint8_t>(random());
      draw(row, column, noise);
    }
  }
  draw(kRows - 1, 0, GlyphOf(0));
  draw(kRows - 1, 1, GlyphOf(1));
  const std::string text = font->Read({.width = kColumns * kWidth,
                                       .height = kRows * kHeight,
                                       .stride_bytes = 4 * kColumns * kWidth,
                                       .pixels = reinterpret_cast<const uint8_t*>(pixels.data())});
  EXPECT_TRUE(text.starts_with("A\n"));
  EXPECT_TRUE(text.ends_with("\nA\uFFFD\n"));
}

TEST(ConsoleTextTest, OfAnEmptyFrameThereIsNothing) {
  const auto font = ConsoleFont::Parse(Psf1());
  ASSERT_TRUE(font.ok());
  EXPECT_EQ(font->Read({}), "");
  const uint32_t pixel = 1;
  EXPECT_EQ(
      font->Read({.width = 1, .height = 1, .stride_bytes = 4, .pixels = reinterpret_cast<const uint8_t*>(&pixel)}), "");
}

// Whatever stands in it, a font is read or refused, and what it reads is text.
TEST(ConsoleTextTest, DamagedFonts) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  const std::string whole[] = {Psf1(), Psf2()};
  Screen screen;
  screen.Write(0, 0, "HELLO", 0xFFFFFF, 0);
  for (int i = 0; i < 2000; ++i) {
    std::string psf = whole[random() % 2];
    for (uint32_t flips = random() % 4; flips > 0; --flips)
      psf[random() % (random() % 2 == 0 ? 40 : psf.size())] ^= static_cast<char>(1 << random() % 8);
    if (random() % 2 == 0) psf.resize(random() % psf.size());
    const auto font = ConsoleFont::Parse(psf);
    if (!font.ok()) {
      EXPECT_THAT(font.status().message(), HasSubstr("is no console font"));
      continue;
    }
    EXPECT_LE(font->Read(screen.frame()).size(), 10'000u) << "seed " << seed;
  }
  EXPECT_FALSE(ConsoleFont::Parse("").ok());
  EXPECT_FALSE(ConsoleFont::Parse(std::string(ConsoleFont::kMaxBytes + 1, '\x36')).ok());
}

TEST(ConsoleTextTest, Files) {
  const std::string path = testing::TempDir() + "/console.psf", packed = path + ".gz";
  std::ofstream(path) << Psf1();
  EXPECT_TRUE(ConsoleFont::Load(path).ok());
  ASSERT_EQ(std::system(("gzip -kf " + path).c_str()), 0);
  auto same = ConsoleFont::ReadFile(packed);
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_EQ(*same, Psf1());
  std::ofstream(packed) << std::string(
      "\x1F\x8B\x08"
      "damaged");
  EXPECT_TRUE(absl::IsInvalidArgument(ConsoleFont::Load(packed).status()));
  EXPECT_TRUE(absl::IsNotFound(ConsoleFont::Load(path + "x").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ConsoleFont::Load("/dev/zero").status()));
  // A bomb is as long as it may be, and no longer.
  ASSERT_EQ(std::system(("head -c 50M /dev/zero | gzip >" + packed).c_str()), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(ConsoleFont::Load(packed).status()));
  std::remove(path.c_str());
  std::remove(packed.c_str());
}

}  // namespace
}  // namespace hvsdk::vmm
