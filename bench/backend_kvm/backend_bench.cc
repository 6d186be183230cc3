// SPDX-License-Identifier: Apache-2.0
// What each exit costs on each engine, and what it gains that KVM serves a signalled connection itself.
//
//   scripts/with-kvm build/release/bin/backend_bench
//
// A time is that of one guest operation: the guest does a thousand of them and then stops its VP. `loop` is the
// price of the loop around the operation. Rates are by processor time of the VP's thread, in which guest code counts.

#include <sys/eventfd.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <string>

#include "benchmark/benchmark.h"
#include "tests/backend/engines.h"
#include "tests/backend/guest_code.h"
#include "tests/backend/test_machine.h"

namespace hvsdk::backend {
namespace {

constexpr int kOperations = 1000;

// OP runs a thousand times, then the guest reports and begins anew.
#define HVSDK_BENCH_GUEST(NAME, SETUP, OP) \
  HVSDK_GUEST(NAME, 64, "1: mov ebx, 1000\n" SETUP "\n2: " OP "\ndec ebx\njnz 2b\nout 0xF4, al\njmp 1b")

HVSDK_BENCH_GUEST(Loop, "", "nop")
HVSDK_BENCH_GUEST(PortWrite, "", "out 0x10, al")
HVSDK_BENCH_GUEST(PortRead, "", "in al, 0x10")
HVSDK_BENCH_GUEST(MmioWrite, "mov rdi, 0x10000000", "mov [rdi], eax")
HVSDK_BENCH_GUEST(MmioRead, "mov rdi, 0x10000000", "mov eax, [rdi]")
HVSDK_BENCH_GUEST(MsrRead, "mov ecx, 0x40000020", "rdmsr")
HVSDK_BENCH_GUEST(MsrWrite, "mov ecx, 0x40000084", "wrmsr")
HVSDK_BENCH_GUEST(Cpuid, "mov r15, rbx", "mov r15, rbx\nxor eax, eax\ncpuid\nmov rbx, r15")
HVSDK_BENCH_GUEST(Hypercall, "mov rbp, 0xF000\nmov ecx, 0x1005C\nmov rdx, 0x10001", "call rbp")
HVSDK_BENCH_GUEST(Signal, "mov rbp, 0xF000\nmov ecx, 0x1005D\nmov rdx, 0x10001", "call rbp")

struct Case {
  const char* name;
  absl::Span<const uint8_t> (*code)();
  // Called with the machine before the run; what it returns is called after.
  std::function<std::function<void()>(TestMachine&, Recorder&)> prepare;
};

std::function<void()> AnswerExits(TestMachine&, Recorder& recorder) {
  recorder.on_msr_read = [](Vp&, uint32_t, uint64_t& value) {
    value = 1;
    return MsrOutcome::kDone;
  };
  recorder.on_hypercall = [](Vp& vp) {
    vp.SetGpr(Gpr::kRax, 0);
    return HypercallOutcome::kDone;
  };
  return [] {};
}

// As a dispatcher must: in which mode and at which privilege is the caller?
std::function<void()> CheckCaller(TestMachine&, Recorder& recorder) {
  recorder.on_hypercall = [](Vp& vp) {
    const hvdef::RegisterName names[] = {hvdef::RegisterName::kCs, hvdef::RegisterName::kCr0,
                                         hvdef::RegisterName::kEfer};
    hvdef::RegisterValue values[3];
    if (!vp.GetRegisters(names, values).ok()) return HypercallOutcome::kUndefinedOpcode;
    vp.SetGpr(Gpr::kRax, 0);
    return HypercallOutcome::kDone;
  };
  return [] {};
}

// The exit, and then the eventfd that wakes the service provider's thread.
std::function<void()> SignalByExit(TestMachine&, Recorder& recorder) {
  const int fd = ::eventfd(0, EFD_CLOEXEC);
  recorder.on_hypercall = [fd](Vp& vp) {
    benchmark::DoNotOptimize(::eventfd_write(fd, 1));
    vp.SetGpr(Gpr::kRax, 0);
    return HypercallOutcome::kDone;
  };
  return [fd] { ::close(fd); };
}

std::function<void()> SignalByKernel(TestMachine& machine, Recorder&) {
  const int fd = ::eventfd(0, EFD_CLOEXEC);
  const absl::Status status = machine.partition().AssignSignalEvent(ConnectionId{0x10001}, fd);
  return [fd, status, &machine] {
    if (status.ok()) machine.partition().UnassignSignalEvent(ConnectionId{0x10001}, fd).IgnoreError();
    ::close(fd);
  };
}

std::function<void()> FlushSelf(TestMachine& machine, Recorder& recorder) {
  recorder.on_hypercall = [&machine](Vp& vp) {
    const VpIndex self[] = {vp.index()};
    machine.partition().FlushTlb(self);
    vp.SetGpr(Gpr::kRax, 0);
    return HypercallOutcome::kDone;
  };
  return [] {};
}

std::function<void()> RetryOnce(TestMachine&, Recorder& recorder) {
  recorder.on_hypercall = [again = false](Vp& vp) mutable {
    again = !again;
    if (again) return HypercallOutcome::kRetry;
    vp.SetGpr(Gpr::kRax, 0);
    return HypercallOutcome::kDone;
  };
  return [] {};
}

const Case kCases[] = {
    {"loop", Loop, AnswerExits},
    {"cpuid", Cpuid, AnswerExits},
    {"port_write", PortWrite, AnswerExits},
    {"port_read", PortRead, AnswerExits},
    {"mmio_write", MmioWrite, AnswerExits},
    {"mmio_read", MmioRead, AnswerExits},
    {"msr_read", MsrRead, AnswerExits},
    {"msr_write", MsrWrite, AnswerExits},
    {"hypercall", Hypercall, AnswerExits},
    {"hypercall_checking_the_caller", Hypercall, CheckCaller},
    {"hypercall_retried_once", Hypercall, RetryOnce},
    {"hypercall_flushing_its_own_tlb", Hypercall, FlushSelf},
    {"signal_by_exit_and_eventfd_write", Signal, SignalByExit},
    {"signal_by_kernel", Signal, SignalByKernel},
};

void Run(benchmark::State& state, Backend& backend, const Case& c) {
  absl::StatusOr<std::unique_ptr<TestMachine>> machine = TestMachine::Create(backend);
  if (!machine.ok()) return state.SkipWithError(std::string(machine.status().message()).c_str());
  Recorder recorder;
  recorder.record = false;
  const std::function<void()> clean_up = c.prepare(**machine, recorder);
  (*machine)->Start(Mode::kLong, c.code());
  for (auto _ : state) {
    const absl::StatusOr<StopReason> stop = (*machine)->vp().Run(recorder);
    if (!stop.ok() || recorder.fault >= 0) {
      state.SkipWithError(stop.ok() ? "the guest faulted" : std::string(stop.status().message()).c_str());
      break;
    }
  }
  state.counters["time_per_operation"] = benchmark::Counter(static_cast<double>(state.iterations()) * kOperations,
                                                            benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  clean_up();
}

}  // namespace
}  // namespace hvsdk::backend

int main(int argc, char** argv) {
  using namespace hvsdk::backend;
  std::map<std::string, std::unique_ptr<Backend>> backends;
  for (const Engine& engine : Engines()) {
    absl::StatusOr<std::unique_ptr<Backend>> backend = engine.create();
    if (!backend.ok()) {
      std::fprintf(stderr, "%s: %s\n", engine.name.c_str(), std::string(backend.status().message()).c_str());
      continue;
    }
    Backend& reference = *(backends[engine.name] = *std::move(backend));
    for (const Case& c : kCases) {
      const bool signals = std::string(c.name) == "signal_by_kernel";
      if (signals && !reference.caps().signal_event_fd) continue;
      benchmark::RegisterBenchmark((engine.name + "/" + c.name).c_str(), [&reference, &c](benchmark::State& state) {
        Run(state, reference, c);
      })->Unit(benchmark::kMicrosecond);
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
