// SPDX-License-Identifier: Apache-2.0
#include "viewer/pixel_encoder.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "resource/frame_row.h"

#if defined(HVSDK_HAVE_ZLIB)
#include "base/zlib_library.h"
#endif

namespace hvsdk::viewer {
namespace {

constexpr uint32_t kTile = 64;           // RFC 6143, 7.7.6
constexpr size_t kMostPaletteSize = 16;  // of a packed one

}  // namespace

#if defined(HVSDK_HAVE_ZLIB)

// One stream of zlib's for as long as there is the viewer, as ZRLE has it.
class PixelEncoder::Deflater {
 public:
  static std::unique_ptr<Deflater> Create() {
    const absl::StatusOr<internal::ZlibLibrary>& zlib = internal::ZlibLibrary::Load();
    if (!zlib.ok()) return nullptr;
    auto deflater = std::make_unique<Deflater>();
    // The fastest: what is seldom the same is left to viewers who ask for raw pixels.
    if (zlib->deflate_init(&deflater->stream_, /*level=*/1, ZLIB_VERSION, sizeof(z_stream)) != Z_OK) return nullptr;
    deflater->zlib_ = &*zlib;
    return deflater;
  }
  ~Deflater() {
    if (zlib_ != nullptr) zlib_->deflate_end(&stream_);
  }

  // Appends all that its receiver needs of `from`.
  void Append(const std::string& from, std::string& to) {
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(from.data()));
    stream_.avail_in = static_cast<uInt>(from.size());
    do {
      char block[16384];
      stream_.next_out = reinterpret_cast<Bytef*>(block);
      stream_.avail_out = sizeof(block);
      const int status = zlib_->deflate(&stream_, Z_SYNC_FLUSH);
      HVSDK_CHECK(status == Z_OK || status == Z_BUF_ERROR);
      to.append(block, sizeof(block) - stream_.avail_out);
    } while (stream_.avail_out == 0);
  }

 private:
  const internal::ZlibLibrary* zlib_ = nullptr;
  z_stream stream_{};
};

#else

class PixelEncoder::Deflater {
 public:
  static std::unique_ptr<Deflater> Create() { return nullptr; }
  void Append(const std::string&, std::string&) {}
};

#endif

PixelEncoder::PixelEncoder() { SetLayout({}); }
PixelEncoder::~PixelEncoder() = default;

bool PixelEncoder::IsLayout(const PixelLayout& layout) {
  if (layout.bits != 8 && layout.bits != 16 && layout.bits != 32) return false;
  for (int i = 0; i < 3; ++i) {
    if (layout.shift[i] >= layout.bits || (uint64_t{layout.max[i]} << layout.shift[i]) >> layout.bits != 0)
      return false;
  }
  return true;
}

void PixelEncoder::SetLayout(const PixelLayout& layout) {
  HVSDK_CHECK(IsLayout(layout));
  layout_ = layout;
  uint32_t used = 0;
  for (size_t i = 0; i < 3; ++i) {
    used |= uint32_t{layout.max[i]} << layout.shift[i];
    for (uint32_t value = 0; value < 256; ++value) {
      table_[i][value] = (value * layout.max[i] + 127) / 255 << layout.shift[i];
    }
  }
  constexpr bool kHostIsBigEndian = std::endian::native == std::endian::big;
  is_native_ = layout.bits == 32 && layout.is_big_endian == kHostIsBigEndian &&
               std::equal(layout.max, layout.max + 3, PixelLayout().max) &&
               std::equal(layout.shift, layout.shift + 3, PixelLayout().shift);
  short_bytes_ = layout.bytes(), short_shift_ = 0;
  if (layout.bits == 32 && layout.depth <= 24 && used <= 0xFFFFFF) {
    short_bytes_ = 3;
  } else if (layout.bits == 32 && layout.depth <= 24 && (used & 0xFF) == 0) {
    short_bytes_ = 3, short_shift_ = 8;
  }
}

bool PixelEncoder::StartZrle() {
  if (deflater_ == nullptr) deflater_ = Deflater::Create();
  return deflater_ != nullptr;
}

void PixelEncoder::Read(const Frame& frame, const Rectangle& rectangle) {
  HVSDK_CHECK(rectangle.width <= kMaxWidth && rectangle.height <= kMaxHeight);
  pixels_.assign(size_t{rectangle.width} * rectangle.height, 0);
  if (rectangle.x >= frame.width) return;
  const uint32_t width = std::min(rectangle.width, frame.width - rectangle.x);
  for (uint32_t y = 0; y < rectangle.height && rectangle.y + y < frame.height; ++y) {
    internal::ReadRow(frame, rectangle.x, rectangle.y + y, width, &pixels_[size_t{y} * rectangle.width]);
  }
}

void PixelEncoder::Append(uint32_t value, uint32_t bytes, std::string& to) const {
  for (uint32_t i = 0; i < bytes; ++i) PutBe8(to, value >> 8 * (layout_.is_big_endian ? bytes - 1 - i : i));
}

void PixelEncoder::AppendRaw(const Frame& frame, const Rectangle& rectangle, std::string& to) {
  Read(frame, rectangle);
  if (is_native_) {
    to.append(reinterpret_cast<const char*>(pixels_.data()), pixels_.size() * sizeof(uint32_t));
    return;
  }
  for (const uint32_t pixel : pixels_) Append(Encoded(pixel), layout_.bytes(), to);
}

void PixelEncoder::AppendZrle(const Frame& frame, const Rectangle& rectangle, std::string& to) {
  Read(frame, rectangle);
  tiles_.clear();
  for (uint32_t top = 0; top < rectangle.height; top += kTile) {
    for (uint32_t left = 0; left < rectangle.width; left += kTile) {
      AppendTile(top * rectangle.width + left, std::min(kTile, rectangle.width - left),
                 std::min(kTile, rectangle.height - top), rectangle.width, tiles_);
    }
  }
  const size_t length_at = to.size();
  PutBe32(to, 0);
  deflater_->Append(tiles_, to);
  std::string length;
  PutBe32(length, static_cast<uint32_t>(to.size() - length_at - 4));
  to.replace(length_at, 4, length);
}

// RFC 6143, 7.7.6: one colour, a palette of up to 16, or each pixel. What runs repeat is left to zlib.
void PixelEncoder::AppendTile(uint32_t at, uint32_t width, uint32_t height, uint32_t stride, std::string& to) {
  uint32_t palette[kMostPaletteSize];
  size_t colours = 0;
  uint8_t indices[kTile * kTile];
  for (uint32_t y = 0; y < height && colours <= kMostPaletteSize; ++y) {
    for (uint32_t x = 0; x < width; ++x) {
      const uint32_t pixel = pixels_[at + y * stride + x];
      const size_t index = static_cast<size_t>(std::find(palette, palette + colours, pixel) - palette);
      if (index == colours) {
        if (colours++ == kMostPaletteSize) break;
        palette[index] = pixel;
      }
      indices[y * width + x] = static_cast<uint8_t>(index);
    }
  }
  const auto put = [&](uint32_t pixel) { Append(Encoded(pixel) >> short_shift_, short_bytes_, to); };
  if (colours > kMostPaletteSize) {
    PutBe8(to, 0);
    for (uint32_t y = 0; y < height; ++y) {
      for (uint32_t x = 0; x < width; ++x) put(pixels_[at + y * stride + x]);
    }
    return;
  }
  PutBe8(to, static_cast<uint32_t>(colours));
  for (size_t i = 0; i < colours; ++i) put(palette[i]);
  if (colours == 1) return;
  const uint32_t bits = colours == 2 ? 1 : colours <= 4 ? 2 : 4;
  for (uint32_t y = 0; y < height; ++y) {
    uint32_t byte = 0, filled = 0;
    for (uint32_t x = 0; x < width; ++x) {
      byte = byte << bits | indices[y * width + x];
      filled += bits;
      if (filled != 8) continue;
      PutBe8(to, byte);
      byte = filled = 0;
    }
    if (filled != 0) PutBe8(to, byte << (8 - filled));  // rows begin with a byte of their own
  }
}

}  // namespace hvsdk::viewer
