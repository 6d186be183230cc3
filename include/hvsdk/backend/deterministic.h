// SPDX-License-Identifier: Apache-2.0
// The deterministic mode of an engine that has one: time is a count of instructions, and all VPs run in turn on one
// thread: the same input gives the same execution to the last instruction.
//
// Thread class: all of it belongs to one thread.
//
//   backend::SoftwareTime time;  // the software engine's
//   const auto engine = backend::CreateSoftwareBackend({.instruction_time = &time});
//   if (!engine.ok()) return engine.status();
//   // A partition and its VPs, made by the engine; and then:
//   const std::unique_ptr<backend::DeterministicMachine> machine = time.CreateMachine({{vp.get(), &handler}});
//   machine->Run(/*budget_ns=*/1'000'000);

#ifndef HVSDK_BACKEND_DETERMINISTIC_H_
#define HVSDK_BACKEND_DETERMINISTIC_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/base/clock.h"

namespace hvsdk::backend {

// What a deterministic machine is between two runs, beside its partition's and VPs' state (state.h).
struct DeterministicState {
  static constexpr uint32_t kSchema = 1;

  uint64_t now_ns = 0;
  uint64_t random = 0;                 // where the sequence is that RDRAND and RDSEED give
  std::vector<uint64_t> instructions;  // executed by each VP, in the order of the processors given

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "now_ns", now_ns);
    visit(2, "random", random);
    visit(3, "instructions", instructions);
  }
};

// The VPs of one partition. A round gives each VP the same number of instructions; the time of a round passes for all of
// them at once.
class DeterministicMachine {
 public:
  struct Processor {
    Vp* vp;
    ExitHandler* handler;
  };
  enum class Result : uint8_t {
    kBudget,  // so many nanoseconds of the guest's time have passed
    kKicked,  // a VP was kicked
    kTripleFault,
    kIdle,  // every VP sleeps and no timer is armed
  };

  virtual ~DeterministicMachine() = default;

  // Between runs: what answers the exits of all VPs from now on.
  virtual void SetHandler(ExitHandler& handler) = 0;

  // Goes on where it stopped, for `budget_ns` of the guest's time: the instructions a VP that never sleeps would
  // execute. It may go beyond by one block of code.
  virtual Result Run(uint64_t budget_ns) = 0;

  // Between runs. With the states of the partition and of each VP it is all that decides how the machine goes on. Restore
  // comes first, for it sets the time that they take as now.
  // Restore: InvalidArgument: it is of another number of VPs, or a time beyond 2^62 ns; then nothing has changed.
  virtual void SaveState(DeterministicState& state) const = 0;
  virtual absl::Status RestoreState(const DeterministicState& state) = 0;

  // Instructions executed so far by all VPs, and by one of them.
  virtual uint64_t instructions() const = 0;
  virtual uint64_t instructions(VpIndex vp) const = 0;
};

// Time that passes as instructions are executed: one nanosecond each, and up to the next timer when every VP sleeps.
// It is a clock and a timer queue for everything in the machine. An engine was made with it.
class InstructionTime {
 public:
  virtual ~InstructionTime() = default;

  virtual uint64_t now_ns() const = 0;
  virtual const Clock& clock() const = 0;
  virtual TimerQueue& timers() = 0;

  // Of VPs that the engine made which was made with this time; they outlive the machine. Limits: slice from 1.
  virtual std::unique_ptr<DeterministicMachine> CreateMachine(
      absl::Span<const DeterministicMachine::Processor> processors, uint64_t slice_instructions = 20'000) = 0;
};

}  // namespace hvsdk::backend

#endif  // HVSDK_BACKEND_DETERMINISTIC_H_
