// SPDX-License-Identifier: Apache-2.0
// The deterministic mode: rounds of equal slices, and time that is a count.
#include <algorithm>
#include <vector>

#include "backend_software/instruction_time.h"
#include "backend_software/run.h"
#include "backend_software/software_vp.h"

namespace hvsdk::backend {

using software::Cpu;
using software::RunResult;

InstructionTime::InstructionTime() : impl_(std::make_unique<Impl>(*this)) {}
InstructionTime::~InstructionTime() = default;
const Clock& InstructionTime::clock() const { return *impl_; }
TimerQueue& InstructionTime::timers() { return impl_->timers; }

class DeterministicMachine::Impl {
 public:
  Impl(InstructionTime& time, absl::Span<const Processor> processors, uint64_t slice)
      : time(time), slice(std::max<uint64_t>(slice, 1)) {
    for (const Processor& processor : processors) {
      Cpu& cpu = static_cast<software::SoftwareVp*>(processor.vp)->cpu();
      cpu.exits = processor.handler;
      cpus.push_back(&cpu);
    }
  }

  InstructionTime& time;
  const uint64_t slice;
  std::vector<Cpu*> cpus;
};

DeterministicMachine::DeterministicMachine(InstructionTime& time, absl::Span<const Processor> processors,
                                           uint64_t slice_instructions)
    : impl_(std::make_unique<Impl>(time, processors, slice_instructions)) {}
DeterministicMachine::~DeterministicMachine() = default;

void DeterministicMachine::SetHandler(ExitHandler& handler) {
  for (Cpu* cpu : impl_->cpus) cpu->exits = &handler;
}

DeterministicMachine::Result DeterministicMachine::Run(uint64_t budget_ns) {
  InstructionTime& time = impl_->time;
  const uint64_t end = time.now_ns_ + budget_ns;
  while (time.now_ns_ < end) {
    time.impl_->timers.RunDue(time.now_ns_ / 100);
    // A round ends early where a timer is due, so that it fires at its instruction.
    const uint64_t next = time.impl_->timers.NextDeadline();
    const uint64_t next_ns = next > end / 100 + 1 ? end : next * 100;
    uint64_t slice = std::min(impl_->slice, end - time.now_ns_);
    if (next_ns > time.now_ns_) slice = std::min(slice, next_ns - time.now_ns_);
    bool all_halted = true;
    uint64_t longest = 0;
    Result stop = Result::kBudget;
    for (Cpu* cpu : impl_->cpus) {
      cpu->slice_start = cpu->instructions;
      cpu->machine.SetInTurn(cpu);
      const RunResult result = software::RunGuest(*cpu, cpu->instructions + slice);
      cpu->machine.SetInTurn(nullptr);
      longest = std::max(longest, cpu->instructions - cpu->slice_start);
      if (result != RunResult::kHalted) all_halted = false;
      if (result == RunResult::kTripleFault) stop = Result::kTripleFault;
      if (result == RunResult::kKicked && stop == Result::kBudget) stop = Result::kKicked;
      cpu->slice_start = cpu->instructions;
    }
    if (all_halted) {
      // Nobody has anything to do before the next timer. A VP that another woke in this round has its turn in the next.
      bool woken = false;
      for (Cpu* cpu : impl_->cpus) {
        woken |= (cpu->attention.load(std::memory_order_relaxed) & software::kAttentionInterrupt) != 0;
      }
      const uint64_t armed = time.impl_->timers.NextDeadline();
      if (!woken) {
        if (armed == ~uint64_t{0}) {
          time.now_ns_ += longest;
          return Result::kIdle;
        }
        time.now_ns_ = std::max(time.now_ns_ + longest, std::min(armed * 100, end));
        continue;
      }
    }
    time.now_ns_ += std::max(longest, uint64_t{1});
    if (stop != Result::kBudget) return stop;
  }
  return Result::kBudget;
}

uint64_t DeterministicMachine::instructions() const {
  uint64_t sum = 0;
  for (const Cpu* cpu : impl_->cpus) sum += cpu->instructions;
  return sum;
}

uint64_t DeterministicMachine::instructions(VpIndex vp) const {
  for (const Cpu* cpu : impl_->cpus) {
    if (cpu->index == ToInt(vp)) return cpu->instructions;
  }
  return 0;
}

}  // namespace hvsdk::backend
