// SPDX-License-Identifier: Apache-2.0
// Display: what a machine shows, as those see it who look on: frames of pixels, and a pointer. The video VSP (vsp/video.h) is one; a
// server of VNC, a page in a browser and a recorder are viewers.
//
// Shapes: one frame, up to 8192 x 4096 pixels, which lies in the guest's memory where the guest draws it: nothing is copied for a viewer, who
// encodes right from there, and whatever it reads is the guest's, which may change it meanwhile. So a viewer reads each pixel once.
//
// Any number of viewers may look, each at its own pace: what has changed is kept for each of them until it takes it, in 4 KiB at most
// (DirtyRegion). Viewers are told once that there is something, and again after they have taken it. While nobody looks, the guest need
// not say what it draws, and costs nobody anything.
//
// Thread class: all calls are on the display's executor. A frame's pixels may be read on any thread, and are memory as long as the display
// is, whatever they show by then.
//
//   class Recorder : public DisplayViewer {
//    public:
//     explicit Recorder(Display& display) : display_(display) { display.AddViewer(*this); }
//     ~Recorder() override { display_.RemoveViewer(*this); }
//     void OnChange() override { write_.Arm(40'000); }  // 25 times a second are enough
//     void Write() {
//       const DisplayChanges changes = display_.TakeChanges(*this);
//       for (const Rectangle& rectangle : changes.dirty) Encode(display_.frame(), rectangle);
//     }
//
//    private:
//     Display& display_;
//     MyTimer write_;
//   };

#ifndef HVSDK_RESOURCE_DISPLAY_H_
#define HVSDK_RESOURCE_DISPLAY_H_

#include <cstdint>
#include <vector>

#include "hvsdk/resource/dirty_region.h"

namespace hvsdk {

enum class PixelFormat : uint8_t {
  kXrgb8888,  // 32 bits: blue in the lowest byte, green, red, and a byte of nothing
  kRgb565,    // 16 bits: blue in the lowest five, six of green, five of red
};
inline constexpr uint32_t BytesOf(PixelFormat format) { return format == PixelFormat::kXrgb8888 ? 4 : 2; }

struct Frame {
  uint32_t width = 0, height = 0;  // 0: nothing is shown
  uint32_t stride_bytes = 0;       // from a row to the next; at least a row's pixels
  PixelFormat format = PixelFormat::kXrgb8888;
  const uint8_t* pixels = nullptr;  // the guest's

  bool empty() const { return width == 0; }
  bool operator==(const Frame&) const = default;
};

// Where the pointer's image is. The guest may draw the pointer itself, and then shows none here.
struct PointerPlace {
  bool is_visible = false;
  int32_t x = 0, y = 0;  // of its upper left pixel; also beyond the frame
  bool operator==(const PointerPlace&) const = default;
};

// At most 96 x 96; pixels are 8 bits each of blue, green, red and opacity, row by row without gaps. 0 x 0: the guest has given none.
struct PointerImage {
  uint32_t width = 0, height = 0;
  uint32_t hot_x = 0, hot_y = 0;  // the pixel that points
  std::vector<uint8_t> pixels;
  bool operator==(const PointerImage&) const = default;
};

// Since a viewer last took them; at first, all there is.
struct DisplayChanges {
  bool has_new_frame = false;    // of another size or format, or elsewhere; all of it is in `dirty`
  std::vector<Rectangle> dirty;  // within the frame, without overlaps. Of a guest that does not say what it draws: all
  bool has_new_place = false;
  bool has_new_image = false;
  bool operator==(const DisplayChanges&) const = default;
};

class DisplayViewer {
 public:
  virtual ~DisplayViewer() = default;
  // There is something to take, after there was nothing. It must not wait, nor call the display, but may have itself called later.
  virtual void OnChange() = 0;
};

class Display {
 public:
  virtual ~Display() = default;

  // From now on until it is removed, at the display's end at the latest. Everything is new to it, and it is told so before AddViewer returns.
  virtual void AddViewer(DisplayViewer& viewer) = 0;
  virtual void RemoveViewer(DisplayViewer& viewer) = 0;

  // How things are.
  virtual Frame frame() const = 0;
  virtual PointerPlace pointer_place() const = 0;
  virtual const PointerImage& pointer_image() const = 0;

  // What has changed since a viewer took it last. What the guest draws meanwhile comes again.
  virtual DisplayChanges TakeChanges(DisplayViewer& viewer) = 0;
};

}  // namespace hvsdk

#endif  // HVSDK_RESOURCE_DISPLAY_H_
