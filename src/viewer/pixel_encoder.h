// SPDX-License-Identifier: Apache-2.0
// Pixels for one viewer: rectangles of a frame, in the layout that it wants, raw or by ZRLE.
//
// Thread-compatible.

#ifndef HVSDK_SRC_VIEWER_PIXEL_ENCODER_H_
#define HVSDK_SRC_VIEWER_PIXEL_ENCODER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "hvsdk/resource/display.h"
#include "viewer/rfb_wire.h"

namespace hvsdk::viewer {

class PixelEncoder {
 public:
  // What is encoded at once, so that a frame need not wait for its viewer in memory.
  static constexpr uint32_t kMaxWidth = 256, kMaxHeight = 64;

  PixelEncoder();
  ~PixelEncoder();

  // Whether there can be such pixels.
  static bool IsLayout(const PixelLayout& layout);
  void SetLayout(const PixelLayout& layout);
  const PixelLayout& layout() const { return layout_; }

  // Whether ZRLE can be had: this system has zlib, and memory for it. Once it can, it can from then on.
  bool StartZrle();

  // Appends the pixels of a rectangle, at most kMaxWidth x kMaxHeight, as the encoding has them. Each of the frame's is read once; those beyond
  // it are black.
  void AppendRaw(const Frame& frame, const Rectangle& rectangle, std::string& to);
  void AppendZrle(const Frame& frame, const Rectangle& rectangle, std::string& to);
  // One pixel of 8 bits each.
  void AppendPixel(uint32_t xrgb, std::string& to) const { Append(Encoded(xrgb), layout_.bytes(), to); }

 private:
  class Deflater;

  // As 0x00RRGGBB, row by row.
  void Read(const Frame& frame, const Rectangle& rectangle);
  uint32_t Encoded(uint32_t xrgb) const {
    return table_[0][xrgb >> 16 & 0xFF] | table_[1][xrgb >> 8 & 0xFF] | table_[2][xrgb & 0xFF];
  }
  // The low `bytes` bytes in the viewer's order.
  void Append(uint32_t value, uint32_t bytes, std::string& to) const;
  void AppendTile(uint32_t at, uint32_t width, uint32_t height, uint32_t stride, std::string& to);

  PixelLayout layout_;
  bool is_native_ = true;  // what 0x00RRGGBB is in this host's memory
  // RFC 6143, 7.7.5: in ZRLE a pixel of 32 bits, of which a byte is nothing, is 3 bytes.
  uint32_t short_bytes_ = 3, short_shift_ = 0;
  std::array<std::array<uint32_t, 256>, 3> table_;
  std::vector<uint32_t> pixels_;
  std::string tiles_;
  std::unique_ptr<Deflater> deflater_;
};

}  // namespace hvsdk::viewer

#endif  // HVSDK_SRC_VIEWER_PIXEL_ENCODER_H_
