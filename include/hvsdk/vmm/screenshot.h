// SPDX-License-Identifier: Apache-2.0
// Screenshot: what a display shows, written to a file as PNG. The frame is copied when Take is called; what takes longer, libpng and the file,
// happens on a thread, so that the guest's other devices are served meanwhile.
//
// Thread class: the loop's thread. One picture at a time.
//
//   Screenshot screenshot(loop);
//   if (const absl::Status status = screenshot.Check(display); !status.ok()) return status;
//   screenshot.Take(display, fd, [](const absl::Status& status) { std::cout << status << std::endl; });

#ifndef HVSDK_VMM_SCREENSHOT_H_
#define HVSDK_VMM_SCREENSHOT_H_

#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/resource/display.h"

namespace hvsdk::vmm {

class Screenshot {
 public:
  using Done = absl::AnyInvocable<void(const absl::Status&)>;

  // The executor outlives it, and runs on the thread that calls.
  explicit Screenshot(Executor& executor);
  // Waits for the file that is being written; whoever waits for that is not told.
  ~Screenshot();

  // Whether a picture can be taken now. FailedPrecondition: the guest shows nothing, or the last picture is not written yet. Unimplemented:
  // this system has no libpng, or the program was built without its header.
  absl::Status Check(const Display& display) const;

  // If it can: has the picture in memory. `done` as with Take.
  void Encode(const Display& display, absl::AnyInvocable<void(absl::StatusOr<std::string>)> done);

  // If it can: empties the file behind `fd`, writes the picture and closes it. `done` is called once, later on the executor, or here if the
  // host has no thread for it.
  void Take(const Display& display, int fd, Done done);

  // Likewise, at once, with the errors of Check; leaves the file open.
  static absl::Status Write(const Display& display, int fd);

 private:
  class Core;
  const std::unique_ptr<Core> core_;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_SCREENSHOT_H_
