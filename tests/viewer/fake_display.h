// SPDX-License-Identifier: Apache-2.0
// A display whose pixels a test draws, and sinks that write down what they get.

#ifndef HVSDK_TESTS_VIEWER_FAKE_DISPLAY_H_
#define HVSDK_TESTS_VIEWER_FAKE_DISPLAY_H_

#include <cstdint>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "hvsdk/resource/display.h"
#include "hvsdk/resource/input_source.h"

namespace hvsdk::viewer {

class FakeDisplay final : public Display {
 public:
  // All of it is new to all viewers.
  void Show(uint32_t width, uint32_t height, PixelFormat format = PixelFormat::kXrgb8888) {
    frame_ = {.width = width, .height = height, .stride_bytes = width * BytesOf(format) + 12, .format = format};
    pixels_.assign(size_t{frame_.stride_bytes} * height, 0);
    frame_.pixels = pixels_.data();
    for (auto& [viewer, view] : views_) {
      view.region = DirtyRegion(width, height);
      view.region.AddAll();
      view.changes.has_new_frame = true;
      Tell(*viewer, view);
    }
  }
  void Draw(uint32_t x, uint32_t y, uint32_t pixel) {
    std::memcpy(&pixels_[size_t{y} * frame_.stride_bytes + size_t{x} * BytesOf(frame_.format)], &pixel,
                BytesOf(frame_.format));
  }
  void Change(const Rectangle& rectangle) {
    for (auto& [viewer, view] : views_) {
      view.region.Add(rectangle);
      Tell(*viewer, view);
    }
  }
  void Point(PointerPlace place, PointerImage image) {
    place_ = place;
    image_ = std::move(image);
    for (auto& [viewer, view] : views_) {
      view.changes.has_new_place = view.changes.has_new_image = true;
      Tell(*viewer, view);
    }
  }
  size_t viewers() const { return views_.size(); }

  void AddViewer(DisplayViewer& viewer) override {
    View& view = views_[&viewer];
    view.region = DirtyRegion(frame_.width, frame_.height);
    view.region.AddAll();
    view.changes = {.has_new_frame = true, .has_new_place = true, .has_new_image = true};
    Tell(viewer, view);
  }
  void RemoveViewer(DisplayViewer& viewer) override { views_.erase(&viewer); }
  Frame frame() const override { return frame_; }
  PointerPlace pointer_place() const override { return place_; }
  const PointerImage& pointer_image() const override { return image_; }
  DisplayChanges TakeChanges(DisplayViewer& viewer) override {
    View& view = views_.at(&viewer);
    view.is_told = false;
    DisplayChanges changes = std::exchange(view.changes, {});
    changes.dirty = view.region.Rectangles();
    view.region.Clear();
    return changes;
  }

 private:
  struct View {
    DirtyRegion region;
    DisplayChanges changes;
    bool is_told = false;
  };
  static void Tell(DisplayViewer& viewer, View& view) {
    if (!std::exchange(view.is_told, true)) viewer.OnChange();
  }

  Frame frame_;
  std::vector<uint8_t> pixels_;
  PointerPlace place_;
  PointerImage image_;
  std::map<DisplayViewer*, View> views_;
};

struct FakeSinks final : KeySink, PointerSink {
  void OnKey(const KeyEvent& event) override { keys.push_back(event); }
  void OnPointer(const PointerEvent& event) override { points.push_back(event); }
  std::vector<KeyEvent> keys;
  std::vector<PointerEvent> points;
};

}  // namespace hvsdk::viewer

#endif  // HVSDK_TESTS_VIEWER_FAKE_DISPLAY_H_
