// SPDX-License-Identifier: Apache-2.0
// The deterministic mode: rounds of equal slices, and time that is a count.
#include <algorithm>
#include <vector>

#include "absl/strings/str_format.h"
#include "backend_software/instruction_time.h"
#include "backend_software/run.h"
#include "backend_software/software_vp.h"

namespace hvsdk::backend {

using software::Cpu;
using software::RunResult;

SoftwareTime::SoftwareTime() : impl_(std::make_unique<Impl>(*this)) {}
SoftwareTime::~SoftwareTime() = default;
const Clock& SoftwareTime::clock() const { return *impl_; }
TimerQueue& SoftwareTime::timers() { return impl_->timers; }

class SoftwareTime::Machine final : public DeterministicMachine {
 public:
  Machine(SoftwareTime& time, absl::Span<const Processor> processors, uint64_t slice)
      : time_(time), slice_(std::max<uint64_t>(slice, 1)) {
    for (const Processor& processor : processors) {
      auto& vp = static_cast<software::SoftwareVp&>(*processor.vp);
      machine_ = &vp.machine();
      vp.cpu().exits = processor.handler;
      cpus_.push_back(&vp.cpu());
    }
  }

  void SetHandler(ExitHandler& handler) override {
    for (Cpu* cpu : cpus_) cpu->exits = &handler;
  }
  Result Run(uint64_t budget_ns) override;
  void SaveState(DeterministicState& state) const override;
  absl::Status RestoreState(const DeterministicState& state) override;
  uint64_t instructions() const override {
    uint64_t sum = 0;
    for (const Cpu* cpu : cpus_) sum += cpu->instructions;
    return sum;
  }
  uint64_t instructions(VpIndex vp) const override {
    for (const Cpu* cpu : cpus_) {
      if (cpu->index == ToInt(vp)) return cpu->instructions;
    }
    return 0;
  }

 private:
  SoftwareTime& time_;
  const uint64_t slice_;
  software::Machine* machine_ = nullptr;  // of all of them
  std::vector<Cpu*> cpus_;
};

std::unique_ptr<DeterministicMachine> SoftwareTime::CreateMachine(
    absl::Span<const DeterministicMachine::Processor> processors, uint64_t slice_instructions) {
  return std::make_unique<Machine>(*this, processors, slice_instructions);
}

DeterministicMachine::Result SoftwareTime::Machine::Run(uint64_t budget_ns) {
  SoftwareTime& time = time_;
  const uint64_t end = time.now_ns_ + budget_ns;
  while (time.now_ns_ < end) {
    time.impl_->timers.RunDue(time.now_ns_ / 100);
    // A round ends early where a timer is due, so that it fires at its instruction.
    const uint64_t next = time.impl_->timers.NextDeadline();
    const uint64_t next_ns = next > end / 100 + 1 ? end : next * 100;
    uint64_t slice = std::min(slice_, end - time.now_ns_);
    if (next_ns > time.now_ns_) slice = std::min(slice, next_ns - time.now_ns_);
    bool all_halted = true;
    uint64_t longest = 0;
    Result stop = Result::kBudget;
    for (Cpu* cpu : cpus_) {
      cpu->slice_start = cpu->instructions;
      machine_->SetInTurn(cpu);
      const RunResult result = software::RunGuest(*cpu, cpu->instructions + slice);
      machine_->SetInTurn(nullptr);
      longest = std::max(longest, cpu->instructions - cpu->slice_start);
      if (result != RunResult::kHalted) all_halted = false;
      if (result == RunResult::kTripleFault) stop = Result::kTripleFault;
      if (result == RunResult::kKicked && stop == Result::kBudget) stop = Result::kKicked;
      cpu->slice_start = cpu->instructions;
    }
    if (all_halted) {
      // Nobody has anything to do before the next timer. A VP that another woke in this round has its turn in the next.
      bool woken = false;
      for (Cpu* cpu : cpus_) {
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

void SoftwareTime::Machine::SaveState(DeterministicState& state) const {
  state = {};
  state.now_ns = time_.now_ns_;
  for (const Cpu* cpu : cpus_) {
    state.instructions.push_back(cpu->instructions);
  }
  if (machine_ != nullptr) state.random = machine_->random_state();
}

absl::Status SoftwareTime::Machine::RestoreState(const DeterministicState& state) {
  if (state.instructions.size() != cpus_.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("instructions: of %u VPs, not %u", state.instructions.size(), cpus_.size()));
  }
  constexpr uint64_t kMost = uint64_t{1} << 62;
  if (state.now_ns > kMost) return absl::InvalidArgumentError(absl::StrFormat("now_ns: %u is too far", state.now_ns));
  for (const uint64_t count : state.instructions) {
    if (count > kMost) return absl::InvalidArgumentError(absl::StrFormat("instructions: %u are too many", count));
  }
  time_.now_ns_ = state.now_ns;
  for (size_t i = 0; i < cpus_.size(); ++i) {
    Cpu& cpu = *cpus_[i];
    cpu.instructions = cpu.slice_start = state.instructions[i];
  }
  if (machine_ != nullptr) machine_->SetRandomState(state.random);
  return absl::OkStatus();
}

}  // namespace hvsdk::backend
