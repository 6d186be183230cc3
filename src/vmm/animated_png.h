// SPDX-License-Identifier: Apache-2.0
// A file of pictures that follow each other: APNG (PNG Specification, Third Edition, W3C 2025, 4.9 and 11.3.6), which browsers and ffmpeg play and
// everything else that knows PNG shows the first picture of.
//
// The first picture is the whole canvas, each later one a piece of it. The file is whole after each of them: what stands in it before its
// pictures, how many there are and how long the last one is shown, is written anew. So it has to be one in which one can go back.
//
// Thread class: thread-compatible. A frame's pixels are read once.

#ifndef HVSDK_SRC_VMM_ANIMATED_PNG_H_
#define HVSDK_SRC_VMM_ANIMATED_PNG_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "hvsdk/resource/display.h"

namespace hvsdk::vmm {

class AnimatedPng {
 public:
  // Whether there can be any. Unimplemented: this system has no zlib, or the program was built without its header.
  static absl::Status CheckPossible();

  // Of an empty file, which stays open. The canvas is 1 to 8192 pixels wide and 1 to 4096 high.
  AnimatedPng(int fd, uint32_t width, uint32_t height) : fd_(fd), width_(width), height_(height) {}

  // Shows what `frame` has in a rectangle of the canvas from now on; beyond the frame is black. `time_ms` is that of a clock which does not go
  // back. The first rectangle is all of the canvas. ResourceExhausted and others: the file cannot be written; it is as it was before, if that
  // could be done.
  absl::Status Add(const Frame& frame, const Rectangle& rectangle, uint64_t time_ms);

  uint64_t size_bytes() const { return end_; }
  uint32_t pictures() const { return pictures_; }

 private:
  // What precedes a picture (fcTL).
  std::string ControlOf(const Rectangle& rectangle, uint32_t sequence, uint64_t shown_ms) const;

  const int fd_;
  const uint32_t width_, height_;
  uint64_t end_ = 0;  // of what there is, but for the chunk that ends the file
  uint32_t pictures_ = 0, sequence_ = 0;
  // The last picture's.
  uint64_t control_offset_ = 0, begin_ms_ = 0;
  uint32_t control_sequence_ = 0;
  Rectangle rectangle_;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_SRC_VMM_ANIMATED_PNG_H_
