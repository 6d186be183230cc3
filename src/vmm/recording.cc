// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/recording.h"

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "base/host_thread.h"
#include "base/status_macros.h"
#include "hvsdk/os/host_clock.h"
#include "vmm/animated_png.h"

namespace hvsdk::vmm {
namespace {

constexpr uint64_t kPeriod100ns = 400'000;

class Core final : public Recording, private DisplayViewer, private Task {
 public:
  Core(Display& display, os::EventLoop& loop, int fd, Options options)
      : display_(display),
        loop_(loop),
        fd_(fd),
        options_(std::move(options)),
        canvas_{0, 0, display.frame().width, display.frame().height},
        file_(fd, canvas_.width, canvas_.height) {}

  ~Core() override {
    if (is_viewer_) display_.RemoveViewer(*this);
    if (thread_.is_running()) {
      {
        const std::lock_guard lock(mutex_);
        is_ending_ = true;
      }
      changed_.notify_one();
      thread_.Join();
    }
    timer_.reset();
    loop_.Drain(*this);
    close(fd_);
  }

  absl::Status Start() {
    RETURN_IF_ERROR(Check(display_));
    ASSIGN_OR_RETURN(timers_, os::LoopTimers::Create(loop_, clock_));
    timer_ = timers_->CreateTimer([this] { Next(); });
    RETURN_IF_ERROR(thread_.Start("recording", [this] { Work(); }));
    is_viewer_ = true;
    display_.AddViewer(*this);
    return absl::OkStatus();
  }

 private:
  struct Picture {
    Frame frame;
    Rectangle rectangle;
    uint64_t time_ms = 0;
  };

  // From within the display.
  void OnChange() override {
    has_changes_ = true;
    loop_.Schedule(*this);
  }

  // Something has changed, or the thread has written a picture.
  void Run() override {
    absl::Status why;
    {
      const std::lock_guard lock(mutex_);
      if (picture_.has_value()) return;
      why = status_;
    }
    if (!why.ok() && is_viewer_) {
      is_viewer_ = false;
      display_.RemoveViewer(*this);
      if (options_.on_end) options_.on_end(why);
    }
    if (is_viewer_ && has_changes_) timer_->Arm(std::max(next_100ns_, clock_.Now100ns()));
  }

  void Next() {
    {
      const std::lock_guard lock(mutex_);
      if (picture_.has_value() || !status_.ok()) return;  // Run comes again
    }
    if (!std::exchange(has_changes_, false)) return;
    const DisplayChanges changes = display_.TakeChanges(*this);
    const uint64_t now = clock_.Now100ns();
    Picture picture{.frame = display_.frame(), .time_ms = now / 10'000};
    if (changes.has_new_frame || is_first_) {
      picture.rectangle = canvas_;
    } else {
      for (const Rectangle& dirty : changes.dirty) picture.rectangle = Around(picture.rectangle, dirty);
      picture.rectangle = Within(picture.rectangle);
    }
    if (picture.rectangle.width == 0 || picture.rectangle.height == 0) return;  // the pointer, say
    is_first_ = false;
    next_100ns_ = now + kPeriod100ns;
    {
      const std::lock_guard lock(mutex_);
      picture_ = picture;
    }
    changed_.notify_one();
  }

  static Rectangle Around(const Rectangle& a, const Rectangle& b) {
    if (a.width == 0) return b;
    const uint32_t x = std::min(a.x, b.x), y = std::min(a.y, b.y);
    return {x, y, std::max(a.x + a.width, b.x + b.width) - x, std::max(a.y + a.height, b.y + b.height) - y};
  }
  Rectangle Within(const Rectangle& all) const {
    if (all.x >= canvas_.width || all.y >= canvas_.height) return {};
    return {all.x, all.y, std::min(all.width, canvas_.width - all.x), std::min(all.height, canvas_.height - all.y)};
  }

  // The thread.
  void Work() {
    for (;;) {
      Picture picture;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return is_ending_ || picture_.has_value(); });
        if (!picture_.has_value()) return;
        picture = *picture_;
      }
      absl::Status status = file_.Add(picture.frame, picture.rectangle, picture.time_ms);
      if (status.ok() && file_.size_bytes() >= options_.max_bytes) {
        status = absl::ResourceExhaustedError(
            absl::StrCat("the recording has reached its limit, ", options_.max_bytes >> 20, " MiB"));
      }
      {
        const std::lock_guard lock(mutex_);
        picture_.reset();
        status_ = std::move(status);
      }
      loop_.Schedule(*this);
    }
  }

  Display& display_;
  os::EventLoop& loop_;
  const int fd_;
  Options options_;
  const Rectangle canvas_;
  const os::HostClock clock_;
  std::unique_ptr<os::LoopTimers> timers_;
  std::unique_ptr<Timer> timer_;
  bool is_viewer_ = false, has_changes_ = false, is_first_ = true;
  uint64_t next_100ns_ = 0;  // when one may begin

  AnimatedPng file_;  // the thread's
  HostThread thread_;
  std::mutex mutex_;
  std::condition_variable changed_;
  absl::optional<Picture> picture_;  // that it has to write
  absl::Status status_;
  bool is_ending_ = false;
};

}  // namespace

absl::Status Recording::Check(const Display& display) {
  if (display.frame().empty()) return absl::FailedPreconditionError("the guest shows nothing yet");
  return AnimatedPng::CheckPossible();
}

absl::StatusOr<std::unique_ptr<Recording>> Recording::Begin(Display& display, os::EventLoop& loop, int fd,
                                                            Options options) {
  auto recording = std::make_unique<Core>(display, loop, fd, std::move(options));
  RETURN_IF_ERROR(recording->Start());
  return recording;
}

}  // namespace hvsdk::vmm
