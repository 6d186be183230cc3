// SPDX-License-Identifier: Apache-2.0
// All VPs in turn on one thread, and time that is a count of instructions.
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "base/check.h"
#include "hvsdk/backend/deterministic.h"
#include "hvsdk/machine/runner.h"

namespace hvsdk::machine {
namespace {

using backend::DeterministicMachine;
using hvdef::RegisterName;

// One slice for each VP: between rounds the machine's own work is done, so this bounds how long the guest waits for it.
constexpr uint64_t kRoundNs = 20'000;

struct Row {
  RegisterName first;
  uint32_t count;
};
constexpr Row kRegisters[] = {{RegisterName::kRax, 18}, {RegisterName::kXmm0, 16}, {RegisterName::kFpMmx0, 10},
                              {RegisterName::kCr0, 6},  {RegisterName::kDr0, 6},   {RegisterName::kEs, 8},
                              {RegisterName::kIdtr, 2}, {RegisterName::kTsc, 12},  {RegisterName::kTscAux, 1}};

class Fnv1a {
 public:
  void Add(uint64_t word) { hash_ = (hash_ ^ word) * 0x100000001B3; }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xCBF29CE484222325;
};

// Begins at the same moment in every run.
class InstructionWallClock final : public WallClock {
 public:
  explicit InstructionWallClock(const backend::InstructionTime& time) : time_(time) {}
  int64_t NowNs() const override { return kStart + static_cast<int64_t>(time_.now_ns()); }

 private:
  static constexpr int64_t kStart = int64_t{1'700'000'000} * 1'000'000'000;
  const backend::InstructionTime& time_;
};

class InTurnRunner final : public Runner, private state::Component {
 public:
  InTurnRunner(os::EventLoop& loop, backend::InstructionTime& time) : loop_(loop), time_(time), wall_clock_(time) {}
  ~InTurnRunner() override { loop_.Drain(look_up_); }

  TimerQueue& timers() override { return time_.timers(); }
  const WallClock& wall_clock() const override { return wall_clock_; }
  bool is_deterministic() const override { return true; }
  void AddProcessor(const Processor& processor) override { processors_.push_back(processor); }
  void Run(ExitRouter& router, Events& events) override;
  void Stop() override;
  void RequestPause() override;
  // On the one thread there is, so outside of the guest: a kick would end a later round before its time.
  void Pause() override { pausing_.store(true, std::memory_order_release); }
  void Resume() override { pausing_.store(false, std::memory_order_release); }
  void Quiesce() override;
  uint64_t instructions() const override { return machine_ != nullptr ? machine_->instructions() : 0; }
  uint64_t HashState(const GuestMemory& memory) const override;
  state::Component* component() override {
    MakeMachine();
    return this;
  }

  // What a VP executes takes time, and nothing else.
  uint64_t VpRuntime100ns(VpIndex vp) override { return machine_ != nullptr ? machine_->instructions(vp) / 100 : 0; }

 private:
  // state::Component.
  std::string StateName() const override { return "time"; }
  absl::Status Save(state::StateWriter& writer) const override {
    backend::DeterministicState state;
    machine_->SaveState(state);
    writer.Write(state);
    return absl::OkStatus();
  }
  absl::Status Restore(state::StateReader& reader) override {
    backend::DeterministicState state;
    if (absl::Status status = reader.Read(state); !status.ok()) return status;
    const absl::Status status = machine_->RestoreState(state);
    return status.ok() ? status : reader.Invalid("", status.message());
  }
  // Time never begins anew: a reset takes no instruction.
  void Reset() override {}

  // Once the processors are there.
  void MakeMachine();

  os::EventLoop& loop_;
  backend::InstructionTime& time_;
  const InstructionWallClock wall_clock_;
  std::vector<Processor> processors_;
  std::unique_ptr<DeterministicMachine> machine_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> pausing_{false};
  // A loop that waits for the receiver of the guest's output looks up.
  struct LookUp final : Task {
    void Run() override {}
  } look_up_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool in_round_ = false;
  uint64_t rounds_ = 0;
  pthread_t thread_{};  // while it runs
};

void InTurnRunner::MakeMachine() {
  if (machine_ != nullptr) return;
  std::vector<DeterministicMachine::Processor> processors;
  for (const Processor& processor : processors_) processors.push_back({processor.backend, /*handler=*/nullptr});
  machine_ = time_.CreateMachine(processors, kRoundNs);
}

// No session is opened: what one VP has to do for another, it does right away.
void InTurnRunner::Run(ExitRouter& router, Events& events) {
  MakeMachine();
  const auto enter = [&](bool in_round) {
    std::lock_guard lock(mutex_);
    in_round_ = in_round;
    thread_ = pthread_self();
    rounds_ += in_round ? 0 : 1;
    changed_.notify_all();
  };
  while (!stopping_.load(std::memory_order_acquire)) {
    if (pausing_.load(std::memory_order_acquire)) {
      loop_.RunOnce(/*wait=*/true);
      continue;
    }
    enter(/*in_round=*/true);
    machine_->SetHandler(router.top());
    const DeterministicMachine::Result result = machine_->Run(kRoundNs);
    enter(/*in_round=*/false);
    if (result == DeterministicMachine::Result::kTripleFault) events.OnTripleFault(processors_[0].backend->index());
    // Time stands still until what the guest has sent is out: it must not notice how fast the receiver is.
    do {
      loop_.RunOnce(/*wait=*/events.waiting());
    } while (events.waiting() && !stopping_.load(std::memory_order_acquire));
  }
}

void InTurnRunner::Stop() {
  stopping_.store(true, std::memory_order_release);
  for (const Processor& processor : processors_) processor.backend->Kick();
  loop_.Schedule(look_up_);
}

void InTurnRunner::RequestPause() {
  pausing_.store(true, std::memory_order_release);
  for (const Processor& processor : processors_) processor.backend->Kick();
  loop_.Schedule(look_up_);
}

void InTurnRunner::Quiesce() {
  std::unique_lock lock(mutex_);
  if (!in_round_) return;
  HVSDK_CHECK(!pthread_equal(thread_, pthread_self()));
  changed_.wait(lock, [this, before = rounds_] { return rounds_ != before || !in_round_; });
}

uint64_t InTurnRunner::HashState(const GuestMemory& memory) const {
  Fnv1a hash;
  for (const GuestMemory::Range& range : memory.ranges()) {
    for (uint64_t at = 0; at < range.size_bytes; at += sizeof(uint64_t)) {
      uint64_t word;
      std::memcpy(&word, range.host + at, sizeof(word));
      hash.Add(word);
    }
  }
  for (const Processor& processor : processors_) {
    for (const Row& row : kRegisters) {
      for (uint32_t i = 0; i < row.count; ++i) {
        const auto name = static_cast<RegisterName>(static_cast<uint32_t>(row.first) + i);
        hvdef::RegisterValue value;
        HVSDK_CHECK(processor.backend->GetRegisters({&name, 1}, {&value, 1}).ok());
        hash.Add(value.low);
        hash.Add(value.high);
      }
    }
  }
  return hash.value();
}

}  // namespace

std::unique_ptr<Runner> CreateInTurnRunner(os::EventLoop& loop, backend::InstructionTime& time) {
  return std::make_unique<InTurnRunner>(loop, time);
}

}  // namespace hvsdk::machine
