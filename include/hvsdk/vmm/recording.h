// SPDX-License-Identifier: Apache-2.0
// Recording: what a display shows from now on, written to a file as an animated PNG, which browsers and ffmpeg play.
//
// Shapes: 25 pictures a second at most, each of the piece that has changed, as exact as the guest drew it; where nothing changes none. The canvas is
// the frame that there is at the beginning: of a larger one its upper left part is seen, beside a smaller one there is black.
// The file is whole after each picture, whatever becomes of the process.
//
// A thread of its own reads the guest's frame, compresses and writes; while it is at work nothing new begins, so a slow disk costs pictures and
// nobody's time. Limits: it ends by itself when the file has reached its limit, or cannot be written.
//
// Thread class: the loop's thread, which has to be the display's executor.
//
//   auto recording = vmm::Recording::Begin(display, loop, fd, {.on_end = [](const absl::Status& why) { std::cerr << why << std::endl; }});
//   if (!recording.ok()) return recording.status();
//   recording->reset();  // when it has been enough

#ifndef HVSDK_VMM_RECORDING_H_
#define HVSDK_VMM_RECORDING_H_

#include <cstdint>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/os/event_loop.h"
#include "hvsdk/resource/display.h"

namespace hvsdk::vmm {

class Recording {
 public:
  struct Options {
    uint64_t max_bytes = uint64_t{1} << 30;
    // Why it ended by itself: ResourceExhausted if the file has reached its limit, or what it cannot be written for. Once, later on the loop; it
    // must not destroy the recording. May be null.
    absl::AnyInvocable<void(const absl::Status&)> on_end;
  };

  // Whether one can begin now. FailedPrecondition: the guest shows nothing yet. Unimplemented: this system has no zlib, or the program was built without its
  // header.
  static absl::Status Check(const Display& display);

  // Takes the descriptor of an empty regular file, also if it fails. The display outlives it. As Check; others: the host refuses.
  static absl::StatusOr<std::unique_ptr<Recording>> Begin(Display& display, os::EventLoop& loop, int fd,
                                                          Options options);
  // Waits for the picture that is being written.
  virtual ~Recording() = default;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_RECORDING_H_
