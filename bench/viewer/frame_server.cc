// SPDX-License-Identifier: Apache-2.0
// Shows a file of pixels to viewers, for scripts/bench-viewer: whoever writes the file says so by a byte on standard input.
//
//   frame_server FILE WIDTH HEIGHT ADDRESS
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <utility>

#include "hvsdk/os/event_loop.h"
#include "hvsdk/viewer/rfb_server.h"

namespace {

using hvsdk::DirtyRegion;

// All of which changes at once.
class FileDisplay final : public hvsdk::Display {
 public:
  explicit FileDisplay(const hvsdk::Frame& frame) : frame_(frame) {}

  void Change() {
    for (auto& [viewer, view] : views_) {
      view.dirty.AddAll();
      if (!std::exchange(view.is_told, true)) viewer->OnChange();
    }
  }
  void AddViewer(hvsdk::DisplayViewer& viewer) override {
    views_[&viewer] = {.dirty = DirtyRegion(frame_.width, frame_.height), .is_told = true};
    views_[&viewer].dirty.AddAll();
    viewer.OnChange();
  }
  void RemoveViewer(hvsdk::DisplayViewer& viewer) override { views_.erase(&viewer); }
  hvsdk::Frame frame() const override { return frame_; }
  hvsdk::PointerPlace pointer_place() const override { return {}; }
  const hvsdk::PointerImage& pointer_image() const override { return image_; }
  hvsdk::DisplayChanges TakeChanges(hvsdk::DisplayViewer& viewer) override {
    View& view = views_.at(&viewer);
    view.is_told = false;
    hvsdk::DisplayChanges changes;
    changes.dirty = view.dirty.Rectangles();
    view.dirty.Clear();
    return changes;
  }

 private:
  struct View {
    DirtyRegion dirty;
    bool is_told = false;
  };
  const hvsdk::Frame frame_;
  const hvsdk::PointerImage image_;
  std::map<hvsdk::DisplayViewer*, View> views_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return std::fprintf(stderr, "usage: frame_server FILE WIDTH HEIGHT ADDRESS\n"), 2;
  const auto width = static_cast<uint32_t>(std::atoi(argv[2])), height = static_cast<uint32_t>(std::atoi(argv[3]));
  const int fd = open(argv[1], O_RDONLY | O_CLOEXEC);
  void* const pixels = mmap(nullptr, size_t{4} * width * height, PROT_READ, MAP_SHARED, fd, 0);
  if (fd < 0 || pixels == MAP_FAILED) return std::perror(argv[1]), 2;
  FileDisplay display(
      {.width = width, .height = height, .stride_bytes = 4 * width, .pixels = static_cast<const uint8_t*>(pixels)});
  const auto loop = hvsdk::os::EventLoop::Create();
  if (!loop.ok()) return 1;
  const auto server = hvsdk::viewer::RfbServer::Create(**loop, {.display = &display, .name = "frame_server"});
  if (!server.ok() || !(*server)->Listen(argv[4]).ok()) return std::fprintf(stderr, "cannot serve at %s\n", argv[4]), 2;
  bool has_ended = false;
  const absl::Status watched = (*loop)->Watch(STDIN_FILENO, EPOLLIN, [&](uint32_t) {
    char bytes[64];
    has_ended = read(STDIN_FILENO, bytes, sizeof(bytes)) <= 0;
    display.Change();
  });
  if (!watched.ok()) return 1;
  while (!has_ended) (*loop)->RunOnce(/*wait=*/true);
}
