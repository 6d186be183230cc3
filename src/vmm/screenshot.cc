// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/screenshot.h"

#include <unistd.h>

#include <atomic>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/host_thread.h"
#include "base/status_macros.h"
#include "hvsdk/os/output_writer.h"
#include "vmm/png.h"
#include "vmm/state_files.h"

namespace hvsdk::vmm {
namespace {

absl::Status WriteFrame(const StillFrame& frame, int fd) {
  ASSIGN_OR_RETURN(const std::string png, EncodePng(frame));
  (void)!ftruncate(fd, 0);  // a pipe has nothing to be emptied
  return os::WriteAll(fd, png, /*offset=*/-1, std::atomic<bool>(false));
}

absl::Status CheckFrame(const Display& display) {
  if (display.frame().empty()) return absl::FailedPreconditionError("the guest shows nothing yet");
  return CheckPng();
}

}  // namespace

class Screenshot::Core final : private Task {
 public:
  explicit Core(Executor& executor) : executor_(executor) {}
  ~Core() override {
    if (thread_.is_running()) thread_.Join();
    executor_.Drain(*this);
  }

  // Has `work` done with the frame on a thread.
  void Take(const Display& display, absl::AnyInvocable<absl::Status(const StillFrame&)> work, Done done) {
    HVSDK_CHECK(!thread_.is_running());
    work_ = std::move(work);
    done_ = std::move(done);
    const absl::Status started = thread_.Start("screenshot", [this, frame = StillFrame::Of(display.frame())] {
      status_ = std::exchange(work_, nullptr)(frame);
      executor_.Schedule(*this);
    });
    if (started.ok()) return;
    work_ = nullptr;
    std::exchange(done_, nullptr)(started);
  }
  bool is_busy() const { return thread_.is_running(); }

 private:
  // It is written.
  void Run() override {
    thread_.Join();
    std::exchange(done_, nullptr)(status_);
  }

  Executor& executor_;
  HostThread thread_;
  // The thread's, until it is joined.
  absl::AnyInvocable<absl::Status(const StillFrame&)> work_;
  absl::Status status_;
  Done done_;
};

Screenshot::Screenshot(Executor& executor) : core_(std::make_unique<Core>(executor)) {}
Screenshot::~Screenshot() = default;

absl::Status Screenshot::Check(const Display& display) const {
  if (core_->is_busy()) return absl::FailedPreconditionError("the last picture is not written yet");
  return CheckFrame(display);
}

void Screenshot::Encode(const Display& display, absl::AnyInvocable<void(absl::StatusOr<std::string>)> done) {
  auto png = std::make_shared<std::string>();
  core_->Take(
      display,
      [png](const StillFrame& frame) -> absl::Status {
        ASSIGN_OR_RETURN(*png, EncodePng(frame));
        return absl::OkStatus();
      },
      [png, done = std::move(done)](const absl::Status& status) mutable {
        if (!status.ok()) return done(status);
        done(std::move(*png));
      });
}

void Screenshot::Take(const Display& display, int fd, Done done) {
  core_->Take(
      display, [file = Descriptor(fd)](const StillFrame& frame) { return WriteFrame(frame, file.fd()); },
      std::move(done));
}

absl::Status Screenshot::Write(const Display& display, int fd) {
  RETURN_IF_ERROR(CheckFrame(display));
  return WriteFrame(StillFrame::Of(display.frame()), fd);
}

}  // namespace hvsdk::vmm
