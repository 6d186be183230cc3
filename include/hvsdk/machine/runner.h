// SPDX-License-Identifier: Apache-2.0
// Runner: how a machine's processors come to run, and by what time: each on a thread of its own by the host's clocks,
// or all in turn on one thread, with time counted in instructions. What stands above cannot tell which.
//
// Life: made -> AddProcessor for each VP -> Run or Start, once, with any number of pauses -> destroyed, after whoever has
// timers of it.
//
//   const absl::StatusOr<std::unique_ptr<Runner>> runner = CreateThreadRunner(loop, clock);
//   if (!runner.ok()) return runner.status();
//   (*runner)->AddProcessor({.backend = backend_vp, .partition = partition_vp});
//   (*runner)->Run(router, events);  // until somebody calls Stop
//
// Thread class: Stop, RequestPause and Quiesce are thread-safe; the rest belongs to the loop's thread, Pause and Resume
// included: from its tasks, or before it runs.

#ifndef HVSDK_MACHINE_RUNNER_H_
#define HVSDK_MACHINE_RUNNER_H_

#include <cstdint>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/base/clock.h"
#include "hvsdk/chipset/rtc.h"
#include "hvsdk/machine/exit_router.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/os/event_loop.h"
#include "hvsdk/partition/partition.h"
#include "hvsdk/partition/vp.h"
#include "hvsdk/state/component.h"

namespace hvsdk::backend {
class InstructionTime;
}

namespace hvsdk::machine {

class Runner : public partition::VpRuntimeSource {
 public:
  // A VP as its engine and as the hypervisor interface see it. Both outlive the run.
  struct Processor {
    backend::Vp* backend = nullptr;
    partition::Vp* partition = nullptr;
  };
  // Called on a VP's thread, with no lock held; both would have the run stopped.
  class Events {
   public:
    virtual ~Events() = default;
    virtual void OnTripleFault(VpIndex vp) = 0;
    // The engine cannot go on with a VP, or a thread cannot be started.
    virtual void OnFailure(const absl::Status& status) = 0;
    // Work of the loop's that the guest's time must wait for, where that time is ours to stop: output under way.
    virtual bool waiting() const { return false; }
  };

  // The machine's timers, and its civil time.
  virtual TimerQueue& timers() = 0;
  virtual const WallClock& wall_clock() const = 0;
  // The same machine and input give the same execution: nothing of the host's may enter it.
  virtual bool is_deterministic() const { return false; }

  virtual void AddProcessor(const Processor& processor) = 0;
  // Runs the loop and the processors, which enter the guest with router.top(), until Stop; then no VP runs any more.
  virtual void Run(ExitRouter& router, Events& events) = 0;
  // Runs the processors beside a loop that somebody else runs, for other machines, too. `ended` is called once on the
  // loop's thread, when no VP runs any more after Stop; it may destroy the runner. FailedPrecondition: this runner wants
  // the loop for itself.
  virtual absl::Status Start(ExitRouter& router, Events& events, absl::AnyInvocable<void()> ended) {
    (void)router, (void)events, (void)ended;
    return absl::FailedPreconditionError("a deterministic machine has its loop for itself");
  }
  virtual void Stop() = 0;

  // No VP begins to run from now on, and those that run leave the guest soon; also from within an exit, after which its
  // VP does not go on. The loop runs on.
  virtual void RequestPause() = 0;
  // The same, and when it returns no VP runs: what they are may be looked at and changed.
  virtual void Pause() = 0;
  // They go on, if this is not the end.
  virtual void Resume() = 0;

  // Returns when each VP has been outside of the guest at some time since the call: what was changed before it is what
  // every VP sees, and nothing that it saw before is in use. Not from within an exit or an event above, where it would
  // wait for itself.
  virtual void Quiesce() = 0;

  // What of it is saved, before anything else is restored: where time stands that is ours. Or nullptr.
  virtual state::Component* component() { return nullptr; }

  // Of a deterministic machine, after Run: how many instructions all VPs executed, and a hash of memory and registers.
  virtual uint64_t instructions() const { return 0; }
  virtual uint64_t HashState(const GuestMemory&) const { return 0; }
};

// A thread for each VP, beside the loop's. `loop` and `clock`, the partition's reference clock, outlive the runner.
absl::StatusOr<std::unique_ptr<Runner>> CreateThreadRunner(os::EventLoop& loop, const Clock& clock);

// All VPs in turn on the thread that runs the loop. The engine was made with `time`, which has served no other machine.
std::unique_ptr<Runner> CreateInTurnRunner(os::EventLoop& loop, backend::InstructionTime& time);

}  // namespace hvsdk::machine

#endif  // HVSDK_MACHINE_RUNNER_H_
