// SPDX-License-Identifier: Apache-2.0
// Video: the provider of synthetic video, a display (resource/display.h) of one frame whose pixels lie in memory that the guest draws to.
//
// That memory is a range of the machine's, made for it (VideoOptions::vram), or any other that the guest names: a driver may take its own.
// Sizes that are offered to the guest are usual ones, up to 3840 x 2160, as far as the range holds them; it may take others. What does not
// lie in memory as a whole shows nothing.
//
// Limits: frames of 8192 x 4096 pixels, pointers of 96 x 96; 255 rectangles in a message, each of which counts as work of its turn. What
// is no message of the protocol ends the reading until the guest closes the channel.
//
// The frame stays when the driver goes: it is what the guest has shown last, such as why it ended.
//
// Thread class: the executor. Source: hvdef/video.h.
//
//   const auto video = vsp::Video::Create(server, memory, loop, {.vram = {0xF8000000, 8 << 20}, .width = 1920, .height = 1080});
//   if (!video.ok()) return video.status();
//   Show((*video)->frame());

#ifndef HVSDK_VSP_VIDEO_H_
#define HVSDK_VSP_VIDEO_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/hvdef/video.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/resource/display.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsp/integration.h"

namespace hvsdk::vsp {

inline constexpr uint32_t kMinVideoWidth = 640, kMinVideoHeight = 480;
inline constexpr uint32_t kMaxVideoWidth = 3840, kMaxVideoHeight = 2160;

// What a range must have for frames of that size, with 32 bits a pixel: whole MiB, and a power of two of them, as a PCI function's memory is.
// Of a size that no display has, what the largest one wants.
constexpr uint64_t VideoMemoryBytes(uint32_t width, uint32_t height) {
  const uint64_t pixels = uint64_t{std::min(width, kMaxVideoWidth)} * std::min(height, kMaxVideoHeight);
  uint64_t bytes = uint64_t{1} << 20;
  while (bytes < 4 * pixels) bytes *= 2;
  return bytes;
}

struct VideoOptions {
  struct {
    uint64_t gpa = 0, size_bytes = 0;
  } vram;                               // of the guest's memory, whole MiB
  uint32_t width = 1024, height = 768;  // what the guest is to show at first
};

// What the guest's driver has agreed on.
struct VideoStatus {
  hvdef::video::Version version{};  // kNone: there is no driver
  bool wants_dirt = false;          // it was told that somebody looks
};

class Video : public IntegrationComponent, public Display {
 public:
  // As vmbus::Server::OfferChannel. Memory and executor outlive it. InvalidArgument: a size below kMinVideo... or above kMaxVideo..., or one that
  // the range does not hold, or a range that is not memory.
  static absl::StatusOr<std::unique_ptr<Video>> Create(vmbus::Server& server, GuestMemory& memory, Executor& executor,
                                                       const VideoOptions& options);
  // Takes it off the bus. On the executor, or on any thread once that has stopped for good.
  ~Video() override;

  VideoStatus status() const;

  // Display.
  void AddViewer(DisplayViewer& viewer) override;
  void RemoveViewer(DisplayViewer& viewer) override;
  Frame frame() const override;
  PointerPlace pointer_place() const override;
  const PointerImage& pointer_image() const override;
  DisplayChanges TakeChanges(DisplayViewer& viewer) override;

  // Of a guest that does not run: until Resume it is told nothing, and what it has said is not read.
  void Pause() override;
  void Resume() override;

  // state::Component, while paused; restored after the memory, and before vmbus::Server. Viewers find all of it new afterwards.
  std::string StateName() const override { return "video"; }
  absl::Status Save(state::StateWriter& writer) const override;
  absl::Status Restore(state::StateReader& reader) override;
  void Reset() override;

 private:
  class Core;
  explicit Video(std::unique_ptr<Core> core);
  const std::unique_ptr<Core> core_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_VSP_VIDEO_H_
