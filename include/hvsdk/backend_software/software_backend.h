// SPDX-License-Identifier: Apache-2.0
// The engine that is a processor in software: x86-64 in C++, without privilege, device or kernel feature.
//
// It decodes guest code once into blocks and interprets them (docs/software-cpu.md says what is implemented). Needs an
// x86-64 host with SSE4.2.
//
// Two modes. Usually each VP runs on the thread that calls Vp::Run, the guest's TSC is the host's monotonic clock at
// 1 GHz, and locked instructions are host atomics. With an InstructionTime, time is a count of instructions and all
// VPs run on the thread that calls DeterministicMachine::Run, in turn: the same input gives the same execution to the
// last instruction.
//
// Thread class: as backend.h says; InstructionTime and DeterministicMachine belong to one thread.
//
//   const absl::StatusOr<std::unique_ptr<backend::Backend>> engine = backend::CreateSoftwareBackend({});
//   if (!engine.ok()) return engine.status();

#ifndef HVSDK_BACKEND_SOFTWARE_SOFTWARE_BACKEND_H_
#define HVSDK_BACKEND_SOFTWARE_SOFTWARE_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/base/clock.h"

namespace hvsdk::backend {

// Time that passes as instructions are executed: one nanosecond each, and up to the next timer when every VP sleeps.
// It is a clock and a timer queue for everything in the machine.
class InstructionTime {
 public:
  InstructionTime();
  ~InstructionTime();

  uint64_t now_ns() const { return now_ns_; }
  const Clock& clock() const;
  TimerQueue& timers();

 private:
  friend class DeterministicMachine;
  class Impl;
  uint64_t now_ns_ = 0;
  std::unique_ptr<Impl> impl_;
};

inline constexpr size_t kMinCodeCacheBytes = 4 << 10;
inline constexpr size_t kDefaultCodeCacheBytes = 8 << 20;  // 64 VPs: 512 MiB
inline constexpr size_t kMaxCodeCacheBytes = 1 << 30;

struct SoftwareOptions {
  // Not null: the deterministic mode, on this time, which outlives the backend's partitions. Vp::Run must not
  // be called.
  InstructionTime* instruction_time = nullptr;

  // Host memory for the decoded code of each VP, in bytes. It is reserved when the VP is made (CreateVp: ResourceExhausted),
  // taken as the guest runs new code, and never grows: a VP that comes to its end forgets all of it and decodes anew
  // what it still runs. Beside it a VP takes 1.2 MiB. Limits: kMinCodeCacheBytes to kMaxCodeCacheBytes.
  size_t code_cache_bytes = kDefaultCodeCacheBytes;
};

// Unavailable: the host's processor lacks SSE4.2. InvalidArgument: an option is beyond its limits.
absl::StatusOr<std::unique_ptr<Backend>> CreateSoftwareBackend(const SoftwareOptions& options);

// Runs the VPs of one partition in turn on the calling thread. A round gives each VP the same number of instructions;
// the time of a round passes for all of them at once.
class DeterministicMachine {
 public:
  struct Processor {
    Vp* vp;
    ExitHandler* handler;
  };

  // The VPs are of one partition, made by a backend with `time`. Limits: slice from 1.
  DeterministicMachine(InstructionTime& time, absl::Span<const Processor> processors,
                       uint64_t slice_instructions = 20'000);
  ~DeterministicMachine();

  // Between runs: what answers the exits of all VPs from now on.
  void SetHandler(ExitHandler& handler);

  enum class Result : uint8_t {
    kBudget,  // so many nanoseconds of the guest's time have passed
    kKicked,  // a VP was kicked
    kTripleFault,
    kIdle,  // every VP sleeps and no timer is armed
  };
  // Goes on where it stopped, for `budget_ns` of the guest's time: the instructions a VP that never sleeps would
  // execute. It may go beyond by one block of code.
  Result Run(uint64_t budget_ns);

  // Instructions executed so far by all VPs, and by one of them.
  uint64_t instructions() const;
  uint64_t instructions(VpIndex vp) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hvsdk::backend

#endif  // HVSDK_BACKEND_SOFTWARE_SOFTWARE_BACKEND_H_
