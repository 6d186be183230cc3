// SPDX-License-Identifier: Apache-2.0
// The machine's synthetic video.

#ifndef HVSDK_SRC_MACHINE_VIDEO_PART_H_
#define HVSDK_SRC_MACHINE_VIDEO_PART_H_

#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/machine/part.h"
#include "hvsdk/vsp/video.h"

namespace hvsdk::machine {

class VideoPart final : public Part {
 public:
  explicit VideoPart(const MachineVideo& options) : options_(options) {}

  // Null before Attach and after Detach.
  vsp::Video* video() const { return video_.get(); }

  // Part
  absl::Status Attach(Board& board) override;
  std::vector<state::Component*> components() override { return {video_.get()}; }
  void Pause(absl::AnyInvocable<void()> done) override {
    video_->Pause();
    done();
  }
  void Resume() override { video_->Resume(); }
  void Stop(absl::AnyInvocable<void()> done) override { Pause(std::move(done)); }
  void Detach() override { video_.reset(); }

 private:
  const MachineVideo options_;
  std::unique_ptr<vsp::Video> video_;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_SRC_MACHINE_VIDEO_PART_H_
