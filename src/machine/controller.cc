// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/machine/controller.h"

#include <utility>

namespace hvsdk::machine {
namespace {

absl::Status Ended() { return absl::CancelledError("the machine has ended"); }

}  // namespace

Controller::State Controller::state() const {
  std::lock_guard lock(mutex_);
  return state_;
}

void Controller::Ask(Request request, absl::AnyInvocable<absl::Status()> action, Done done) {
  {
    std::lock_guard lock(mutex_);
    if (state_ != State::kEnded) {
      asked_.push_back({request, std::move(action), std::move(done)});
      return executor_.Schedule(*this);
    }
  }
  if (done) done(Ended());
}

void Controller::Run() {
  if (busy_) return;
  {
    std::lock_guard lock(mutex_);
    if (asked_.empty()) return;
    current_ = std::move(asked_.front());
    asked_.pop_front();
    busy_ = true;
  }
  Carry(current_);
}

void Controller::Carry(Asked& asked) {
  if (asked.request == Request::kInTurn && state() != State::kEnded) return Finish(asked.action());
  switch (state()) {
    case State::kEnded:
      return Finish(Ended());
    case State::kPaused:
      if (asked.request == Request::kPause) return Finish(absl::OkStatus());
      if (asked.request == Request::kReset) return Finish(life_.ResetAll());
      if (asked.request == Request::kAction) return Finish(asked.action());
      life_.ResumeAll();
      {
        std::lock_guard lock(mutex_);
        state_ = State::kRunning;
      }
      life_.OnPaused(false);
      return Finish(absl::OkStatus());
    case State::kRunning:
      break;
  }
  switch (asked.request) {
    case Request::kResume:
      return Finish(absl::OkStatus());
    case Request::kPause:
      return life_.PauseAll([this](const absl::Status& status) {
        bool is_paused = false;
        if (status.ok()) {
          std::lock_guard lock(mutex_);
          is_paused = state_ == State::kRunning;
          if (is_paused) state_ = State::kPaused;
        }
        if (is_paused) life_.OnPaused(true);
        Finish(status);
      });
    case Request::kReset:
      return WithPaused([this] { return life_.ResetAll(); });
    case Request::kAction:
      return WithPaused(std::move(asked.action));
    case Request::kInTurn:
      break;
  }
}

void Controller::WithPaused(absl::AnyInvocable<absl::Status()> action) {
  life_.PauseAll([this, action = std::move(action)](const absl::Status& paused) mutable {
    if (!paused.ok()) return Finish(paused);
    if (state() == State::kEnded) return Finish(Ended());
    const absl::Status status = action();
    if (state() == State::kRunning) life_.ResumeAll();
    Finish(status);
  });
}

// The next request waits for a turn of its own: `done` may be called from deep within another part, and what this one has left to the
// loop, such as what a disk that has come means to its controller, is done before.
void Controller::Finish(const absl::Status& status) {
  Done done = std::exchange(current_, Asked{}).done;
  busy_ = false;
  executor_.Schedule(*this);
  if (done) done(status);
}

void Controller::End() {
  std::deque<Asked> asked;
  {
    std::lock_guard lock(mutex_);
    state_ = State::kEnded;
    asked.swap(asked_);
  }
  if (busy_) asked.push_front(std::exchange(current_, Asked{}));
  for (Asked& each : asked) {
    if (each.done) each.done(Ended());
  }
}

}  // namespace hvsdk::machine
