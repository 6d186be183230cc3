// SPDX-License-Identifier: Apache-2.0
// What a machine has in place of the host's clocks and of a thread for each VP when it runs on a count of instructions
// (MachineOptions::instruction_time). One thread.

#ifndef HVSDK_SRC_VMM_DETERMINISTIC_RUN_H_
#define HVSDK_SRC_VMM_DETERMINISTIC_RUN_H_

#include <cstdint>
#include <vector>

#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/base/clock.h"
#include "hvsdk/chipset/rtc.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk::vmm {

class DeterministicRun {
 public:
  // `time` outlives this and has served no other machine.
  explicit DeterministicRun(backend::InstructionTime& time) : time_(time), wall_clock_(time) {}

  TimerQueue& timers() { return time_.timers(); }
  const chipset::WallClock& wall_clock() const { return wall_clock_; }

  // Before the first round: VPs 0, 1, ... of the machine. All outlive this.
  void SetProcessors(absl::Span<const backend::DeterministicMachine::Processor> processors);

  // Some microseconds of the guest's time.
  backend::DeterministicMachine::Result RunRound();

  uint64_t instructions() const { return machine_.has_value() ? machine_->instructions() : 0; }
  // What a VP executes takes time, and nothing else.
  uint64_t VpRuntime100ns(VpIndex vp) const { return machine_.has_value() ? machine_->instructions(vp) / 100 : 0; }

  // All of the guest's memory and of its VPs' registers as one number: FNV-1a over 64-bit words.
  uint64_t HashState(const GuestMemory& memory) const;

 private:
  // Begins at the same moment in every run.
  class InstructionWallClock final : public chipset::WallClock {
   public:
    explicit InstructionWallClock(const backend::InstructionTime& time) : time_(time) {}
    int64_t NowNs() const override { return kStart + static_cast<int64_t>(time_.now_ns()); }

   private:
    static constexpr int64_t kStart = int64_t{1'700'000'000} * 1'000'000'000;
    const backend::InstructionTime& time_;
  };

  backend::InstructionTime& time_;
  const InstructionWallClock wall_clock_;
  std::vector<backend::Vp*> vps_;
  absl::optional<backend::DeterministicMachine> machine_;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_SRC_VMM_DETERMINISTIC_RUN_H_
