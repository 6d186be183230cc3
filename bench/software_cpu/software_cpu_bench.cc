// SPDX-License-Identifier: Apache-2.0
// The software processor: instructions a second, and what an exit costs up to the answer of what a real machine has
// behind it: the partition for hypercalls and MSRs, a device on a bus for ports.
//
//   scripts/bench-cpu, or build/release/bin/software_cpu_bench
//
// How many instructions a program has is counted by the processor's own deterministic mode, not assumed.

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "bench/software_cpu/guest_programs.h"
#include "benchmark/benchmark.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/chipset/bus.h"
#include "hvsdk/hvdef/msr.h"
#include "hvsdk/partition/partition.h"
#include "tests/backend/test_machine.h"

namespace hvsdk {
namespace {

using backend::DeterministicMachine;
using backend::TestMachine;
using hvdef::RegisterName;

struct NullPort final : PortHandler {
  hvdef::HvStatus OnEvent(uint16_t) override { return hvdef::HvStatus::kSuccess; }
};

struct NullDevice final : Device {
  absl::string_view Name() const override { return "null"; }
  void Read(uint64_t, absl::Span<uint8_t> data) override { std::memset(data.data(), 0, data.size()); }
  void Write(uint64_t, absl::Span<const uint8_t>) override {}
};

struct NoEvents final : partition::PartitionEvents {
  void OnResetRequested(VpIndex) override {}
  void OnCrash(const partition::CrashReport&) override {}
};

// No timer is armed here.
struct NoTimers final : TimerQueue {
  std::unique_ptr<Timer> CreateTimer(absl::AnyInvocable<void()>) override { return std::make_unique<Never>(); }
  struct Never final : Timer {
    void Arm(uint64_t) override {}
    void Cancel() override {}
  };
};

// Exits go where they go in a machine; port 0xF4 ends a run.
class Exits final : public backend::ExitHandler {
 public:
  Exits(partition::Vp& vp, chipset::Bus& ports) : vp_(vp), ports_(ports) {}
  void OnPortRead(backend::Vp&, uint16_t port, absl::Span<uint8_t> data) override { ports_.Read(port, data); }
  void OnPortWrite(backend::Vp& vp, uint16_t port, absl::Span<const uint8_t> data) override {
    if (port == backend::kDonePort || port == backend::kFaultPort) {
      faulted |= port == backend::kFaultPort;
      vp.Kick();
      return;
    }
    ports_.Write(port, data);
  }
  void OnMmioRead(backend::Vp&, uint64_t, absl::Span<uint8_t> data) override {
    std::memset(data.data(), 0xFF, data.size());
  }
  void OnMmioWrite(backend::Vp&, uint64_t, absl::Span<const uint8_t>) override {}
  backend::MsrOutcome OnMsrRead(backend::Vp&, uint32_t msr, uint64_t& value) override {
    return vp_.OnMsrRead(msr, value);
  }
  backend::MsrOutcome OnMsrWrite(backend::Vp&, uint32_t msr, uint64_t value) override {
    return vp_.OnMsrWrite(msr, value);
  }
  backend::HypercallOutcome OnHypercall(backend::Vp&) override { return vp_.OnHypercall(); }

  bool faulted = false;

 private:
  partition::Vp& vp_;
  chipset::Bus& ports_;
};

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "software_cpu_bench: %s\n", value.status().ToString().c_str());
  std::exit(3);
}
void Must(const absl::Status& status) {
  (void)Must(absl::StatusOr<int>(status.ok() ? absl::StatusOr<int>(0) : status));
}

// A machine with one VP about to run a program.
class Bench {
 public:
  Bench(const backend::SoftwareOptions& options, absl::Span<const uint8_t> program)
      : engine_(Must(backend::CreateSoftwareBackend(options))),
        machine_(Must(TestMachine::Create(*engine_))),
        clock_(Must(partition::ReferenceClock::Create(machine_->partition(), engine_->caps().tsc_frequency_hz))),
        partition_(Must(partition::Partition::Create({}, {.backend = machine_->partition(),
                                                          .caps = engine_->caps(),
                                                          .memory = machine_->memory(),
                                                          .clock = *clock_,
                                                          .timers = timers_,
                                                          .events = events_}))),
        vp_(Must(partition_->AddVp(machine_->vp()))),
        exits_(*vp_, ports_) {
    Must(ports_.Map(0x3F8, 8, &device_));
    Must(partition_->RegisterPort(ConnectionId{0x10001}, &port_));
    vp_->OnMsrWrite(hvdef::msr::kGuestOsId, 0x8100'0006'0001'0000);
    vp_->OnMsrWrite(hvdef::msr::kHypercall, backend::kHypercallGpa | hvdef::msr::kPageEnable);
    machine_->Start(backend::Mode::kLong, program);
    machine_->Set(RegisterName::kCr4, machine_->Get(RegisterName::kCr4) | 0x600);  // SSE
    const float one = 1;
    for (uint64_t at = 0; at < kDataBytes; at += 4) {
      machine_->Write(kSourceGpa + at, one);
      machine_->Write(kTargetGpa + at, one);
    }
  }

  backend::Vp& vp() { return machine_->vp(); }
  Exits& exits() { return exits_; }
  void Run() {
    if (Must(vp().Run(exits_)) != backend::StopReason::kKicked || exits_.faulted) Fault();
  }
  [[noreturn]] void Fault() {
    std::fprintf(stderr, "software_cpu_bench: the guest faulted at %#llx\n",
                 static_cast<unsigned long long>(machine_->Get(RegisterName::kRip)));
    std::exit(3);
  }

 private:
  std::unique_ptr<backend::Backend> engine_;
  std::unique_ptr<TestMachine> machine_;
  std::unique_ptr<partition::ReferenceClock> clock_;
  NoTimers timers_;
  NoEvents events_;
  NullPort port_;
  NullDevice device_;
  chipset::Bus ports_;
  std::unique_ptr<partition::Partition> partition_;
  partition::Vp* vp_;
  Exits exits_;
};

// Instructions of a program from one report to the next.
uint64_t CountInstructions(absl::Span<const uint8_t> program) {
  backend::SoftwareTime time;
  Bench bench({.instruction_time = &time}, program);
  const auto machine = time.CreateMachine({{&bench.vp(), &bench.exits()}});
  uint64_t counts[2];
  for (uint64_t& count : counts) {
    if (machine->Run(1'000'000'000) != DeterministicMachine::Result::kKicked || bench.exits().faulted) bench.Fault();
    count = machine->instructions();
  }
  return counts[1] - counts[0];
}

void RunProgram(benchmark::State& state, absl::Span<const uint8_t> (*program)(), uint64_t bytes) {
  const uint64_t instructions = CountInstructions(program());
  Bench bench({}, program());
  for (auto _ : state) bench.Run();
  const auto runs = static_cast<double>(state.iterations());
  state.counters["instructions_per_second"] = {runs * static_cast<double>(instructions), benchmark::Counter::kIsRate};
  if (bytes != 0) state.SetBytesProcessed(static_cast<int64_t>(bytes) * state.iterations());
}
BENCHMARK_CAPTURE(RunProgram, integer_loop, &IntegerLoop, 0);
BENCHMARK_CAPTURE(RunProgram, memory_copy, &MemoryCopy, kDataBytes);
BENCHMARK_CAPTURE(RunProgram, branchy_sort, &BranchySort, 0);
BENCHMARK_CAPTURE(RunProgram, sse_loop, &SseLoop, 0);
BENCHMARK_CAPTURE(RunProgram, x87_loop, &X87Loop, 0);
BENCHMARK_CAPTURE(RunProgram, string_copy, &StringCopy, kDataBytes);

// A time is that of one guest operation.
void RunOperation(benchmark::State& state, absl::Span<const uint8_t> (*program)(), int operations) {
  Bench bench({}, program());
  for (auto _ : state) bench.Run();
  state.counters["seconds_per_operation"] = {static_cast<double>(state.iterations()) * operations,
                                             benchmark::Counter::kIsRate | benchmark::Counter::kInvert};
}
BENCHMARK_CAPTURE(RunOperation, register_add, &RegisterAdd, 4 * kOperations);
BENCHMARK_CAPTURE(RunOperation, hypercall, &Hypercall, kOperations);
BENCHMARK_CAPTURE(RunOperation, msr_read, &MsrRead, kOperations);
BENCHMARK_CAPTURE(RunOperation, msr_write, &MsrWrite, kOperations);
BENCHMARK_CAPTURE(RunOperation, port_read, &PortRead, kOperations);
BENCHMARK_CAPTURE(RunOperation, port_write, &PortWrite, kOperations);

}  // namespace
}  // namespace hvsdk
