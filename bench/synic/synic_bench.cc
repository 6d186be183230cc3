// SPDX-License-Identifier: Apache-2.0
// What the SynIC costs: messages and event flags from the root to the guest, and the guest's MSR writes; without
// the engine.
#include <atomic>
#include <cstdlib>
#include <vector>

#include "benchmark/benchmark.h"
#include "hvsdk/hvdef/message.h"
#include "hvsdk/hvdef/msr.h"
#include "tests/partition/fake_machine.h"

namespace hvsdk {
namespace {

using fake::FakeMachine;
namespace msr = hvdef::msr;

void BM_Message(benchmark::State& state) {
  FakeMachine machine;
  machine.backend.StopRecording();
  machine.EnableSynic();
  const std::vector<uint8_t> payload(state.range(0));
  for (auto _ : state) {
    if (machine.partition->PostMessage(VpIndex{0}, Sint{2}, 1, payload) != hvdef::HvStatus::kSuccess) std::abort();
    machine.EmptySlot(2);
  }
}
BENCHMARK(BM_Message)->Name("Message/SlotEmpty")->Arg(16)->Arg(240);

void BM_QueuedMessage(benchmark::State& state) {
  FakeMachine machine;
  machine.backend.StopRecording();
  machine.EnableSynic();
  const std::vector<uint8_t> payload(240);
  machine.partition->PostMessage(VpIndex{0}, Sint{2}, 1, payload);
  for (auto _ : state) {
    if (machine.partition->PostMessage(VpIndex{0}, Sint{2}, 1, payload) != hvdef::HvStatus::kSuccess) std::abort();
    machine.EmptySlot(2);
    machine.Write(msr::kEom, 0);
  }
}
BENCHMARK(BM_QueuedMessage)->Name("Message/QueuedThenEom");

void BM_Event(benchmark::State& state) {
  FakeMachine machine;
  machine.backend.StopRecording();
  machine.EnableSynic();
  std::atomic_ref<uint64_t> flags(*machine.memory.Word<uint64_t>(FakeMachine::FlagsPage(0) + 512));
  for (auto _ : state) {
    if (machine.partition->SignalEvent(VpIndex{0}, Sint{2}, 5) != hvdef::HvStatus::kSuccess) std::abort();
    flags.store(0, std::memory_order_relaxed);
  }
}
BENCHMARK(BM_Event)->Name("EventFlag/Clear");

void BM_EventSet(benchmark::State& state) {
  FakeMachine machine;
  machine.EnableSynic();
  for (auto _ : state) benchmark::DoNotOptimize(machine.partition->SignalEvent(VpIndex{0}, Sint{2}, 5));
}
BENCHMARK(BM_EventSet)->Name("EventFlag/AlreadySet");

void BM_PortSignal(benchmark::State& state) {
  struct Port : PortHandler {
    hvdef::HvStatus OnEvent(uint16_t) override { return hvdef::HvStatus::kSuccess; }
  };
  static FakeMachine* machine = new FakeMachine;
  static std::vector<Port> ports(16);
  const ConnectionId id{0x2000u + static_cast<uint32_t>(state.thread_index())};
  if (!machine->partition->RegisterPort(id, &ports[state.thread_index()]).ok()) std::abort();
  for (auto _ : state) benchmark::DoNotOptimize(machine->partition->SignalPort(id, 0));
  machine->partition->UnregisterPort(id);
}
BENCHMARK(BM_PortSignal)->Name("Port/Signal")->Threads(1)->Threads(2);

void BM_Stimer(benchmark::State& state) {
  FakeMachine machine;
  machine.Write(msr::kStimer0Config, msr::kStimerAutoEnable | msr::kStimerDirect | 0xED0);
  uint64_t count = 1'000'000;
  for (auto _ : state) machine.Write(msr::kStimer0Count, ++count);
}
BENCHMARK(BM_Stimer)->Name("Msr/ArmOneShotTimer");

void BM_TimeRefCount(benchmark::State& state) {
  FakeMachine machine;
  for (auto _ : state) benchmark::DoNotOptimize(machine.Read(msr::kTimeRefCount));
}
BENCHMARK(BM_TimeRefCount)->Name("Msr/TimeRefCount");

}  // namespace
}  // namespace hvsdk
