// SPDX-License-Identifier: Apache-2.0
// Controller: the life of a machine that runs: pause, resume, reset in place, save. One request at a time, in the order
// in which they came, from whoever asks: the guest, the embedding program, a control socket.
//
// A paused machine's VPs do not run, and nothing is under way with the host: disks are as the guest has them. Its loop
// runs on. The guest's clocks go on, too, as a processor's do that was busy elsewhere.
//
// Thread class: thread-safe, before, during and after Machine::Run. `done` is called once, on the loop's thread,
// and may ask for more. What waits when the machine ends is Cancelled, and what is asked afterwards, on the thread that asks.
//
//   machine.controller().Pause([](const absl::Status& status) { std::cout << status << std::endl; });

#ifndef HVSDK_MACHINE_CONTROLLER_H_
#define HVSDK_MACHINE_CONTROLLER_H_

#include <cstdint>
#include <deque>
#include <mutex>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "hvsdk/base/executor.h"

namespace hvsdk::machine {

class Controller final : private Task {
 public:
  using Done = absl::AnyInvocable<void(const absl::Status&)>;

  enum class State : uint8_t { kRunning, kPaused, kEnded };

  // What a machine does, each on the loop's thread. Outlives the controller.
  class Life {
   public:
    virtual ~Life() = default;
    // Stops VPs, and then what is under way with the host. DeadlineExceeded names who does not answer; then the machine
    // is as it was before.
    virtual void PauseAll(Done done) = 0;
    virtual void ResumeAll() = 0;
    // Of a paused machine. An error is its end.
    virtual absl::Status ResetAll() = 0;
    // It is paused, or runs, for good: not for what is done meanwhile alone.
    virtual void OnPaused(bool is_paused) { (void)is_paused; }
  };

  // `executor` is the loop's.
  Controller(Executor& executor, Life& life) : executor_(executor), life_(life) {}
  ~Controller() override { executor_.Drain(*this); }

  State state() const;

  // OK also if it is paused, or runs, already.
  void Pause(Done done = nullptr) { Ask(Request::kPause, nullptr, std::move(done)); }
  void Resume(Done done = nullptr) { Ask(Request::kResume, nullptr, std::move(done)); }

  // As a PC's reset button, in this process: memory is zero, the kernel is loaded anew, VPs and devices are as after power-on;
  // disks, ports and whoever uses the machine stay. A paused machine is reset and stays paused.
  void Reset(Done done = nullptr) { Ask(Request::kReset, nullptr, std::move(done)); }

  // Calls `action` while the machine is paused, and has it run on if it ran before; unless `action` has ended it. Its status
  // is that of the request.
  void WhilePaused(absl::AnyInvocable<absl::Status()> action, Done done = nullptr) {
    Ask(Request::kAction, std::move(action), std::move(done));
  }

  // Calls `action` when nothing else is asked for or under way, paused or not: what comes and goes with a machine that runs,
  // such as its disks. Its status is that of the request.
  void InTurn(absl::AnyInvocable<absl::Status()> action, Done done = nullptr) {
    Ask(Request::kInTurn, std::move(action), std::move(done));
  }

  // The machine has ended, or will not run: what waits is cancelled. On the loop's thread.
  void End();

 private:
  enum class Request : uint8_t { kPause, kResume, kReset, kAction, kInTurn };
  struct Asked {
    Request request;
    absl::AnyInvocable<absl::Status()> action;
    Done done;
  };

  void Ask(Request request, absl::AnyInvocable<absl::Status()> action, Done done);
  void Run() override;
  void Carry(Asked& asked);
  void WithPaused(absl::AnyInvocable<absl::Status()> action);
  void Finish(const absl::Status& status);

  Executor& executor_;
  Life& life_;

  // The loop's thread.
  bool busy_ = false;
  Asked current_{};

  mutable std::mutex mutex_;  // guards what follows
  State state_ = State::kRunning;
  std::deque<Asked> asked_;
};

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_CONTROLLER_H_
