// SPDX-License-Identifier: Apache-2.0
// What a hypercall costs from exit to answer, without the engine's own exit: on an engine that is variables in memory.
#include <cstdlib>
#include <cstring>

#include "benchmark/benchmark.h"
#include "hvsdk/hvdef/hypercall.h"
#include "hvsdk/machine/exit_counts.h"
#include "tests/partition/fake_machine.h"

namespace hvsdk {
namespace {

using fake::FakeMachine;
using hvdef::CallCode;
using hvdef::Control;

struct NullPort : PortHandler {
  hvdef::HvStatus OnMessage(uint32_t, absl::Span<const uint8_t>) override { return hvdef::HvStatus::kSuccess; }
  hvdef::HvStatus OnEvent(uint16_t) override { return hvdef::HvStatus::kSuccess; }
};

// Calls `control` over and over; it must succeed.
void Run(benchmark::State& state, FakeMachine& machine, Control control, uint64_t rdx, uint64_t r8) {
  fake::FakeVp& vp = *machine.fake_vps[0];
  machine.backend.StopRecording();
  for (auto _ : state) {
    vp.SetGpr(backend::Gpr::kRcx, control.value);
    vp.SetGpr(backend::Gpr::kRdx, rdx);
    vp.SetGpr(backend::Gpr::kR8, r8);
    while (machine.vps[0]->OnHypercall() == backend::HypercallOutcome::kRetry) {
    }
    benchmark::DoNotOptimize(vp.gprs);
  }
  if (hvdef::ResultStatus(vp.GetGpr(backend::Gpr::kRax)) != hvdef::HvStatus::kSuccess) std::abort();
}

Control Make(CallCode code, bool fast, uint16_t words = 0, uint16_t reps = 0) {
  return Control::Make(static_cast<uint16_t>(code), fast, words, reps);
}

// The least there is: decode, look up, answer.
void BM_NotifyLongSpinWaitCodeUnknown(benchmark::State& state) {
  FakeMachine machine;
  fake::FakeVp& vp = *machine.fake_vps[0];
  for (auto _ : state) {
    vp.SetGpr(backend::Gpr::kRcx, 1);
    benchmark::DoNotOptimize(machine.vps[0]->OnHypercall());
  }
}
BENCHMARK(BM_NotifyLongSpinWaitCodeUnknown)->Name("UnknownCode");

void BM_SignalEventFast(benchmark::State& state) {
  FakeMachine machine;
  NullPort port;
  if (!machine.partition->RegisterPort(ConnectionId{0x2001}, &port).ok()) std::abort();
  Run(state, machine, Make(CallCode::kSignalEvent, true), 0x2001, 0);
}
BENCHMARK(BM_SignalEventFast)->Name("Fast/SignalEvent");

// With what a machine counts of it (machine/board.h).
void BM_SignalEventCounted(benchmark::State& state) {
  FakeMachine machine;
  NullPort port;
  if (!machine.partition->RegisterPort(ConnectionId{0x2001}, &port).ok()) std::abort();
  fake::FakeVp& vp = *machine.fake_vps[0];
  machine.backend.StopRecording();
  machine::ExitCounts counts;
  counts.Resize(1);
  hypercall::CallRecord call;
  for (auto _ : state) {
    vp.SetGpr(backend::Gpr::kRcx, Make(CallCode::kSignalEvent, true).value);
    vp.SetGpr(backend::Gpr::kRdx, 0x2001);
    vp.SetGpr(backend::Gpr::kR8, 0);
    counts.Count(0, machine::ExitReason::kHypercall);
    if (machine.vps[0]->OnHypercall(&call) == backend::HypercallOutcome::kDone) {
      counts.CountHypercall(0, call.control.code());
    }
    benchmark::DoNotOptimize(vp.gprs);
  }
  if (counts.SumOfHypercalls(static_cast<uint16_t>(CallCode::kSignalEvent)) == 0) std::abort();
}
BENCHMARK(BM_SignalEventCounted)->Name("Fast/SignalEventCounted");

void BM_SendIpiFast(benchmark::State& state) {
  FakeMachine machine;
  Run(state, machine, Make(CallCode::kSendSyntheticClusterIpi, true), 0xF3, 1);
}
BENCHMARK(BM_SendIpiFast)->Name("Fast/SendSyntheticClusterIpi");

void BM_PostMessage(benchmark::State& state) {
  FakeMachine machine;
  NullPort port;
  if (!machine.partition->RegisterPort(ConnectionId{1}, &port).ok()) std::abort();
  const hvdef::PostMessageInput input{.connection_id = 1, .message_type = 1, .payload_size = 240};
  std::memcpy(&machine.host[FakeMachine::kInput], &input, sizeof(input));
  Run(state, machine, Make(CallCode::kPostMessage, false), FakeMachine::kInput, 0);
}
BENCHMARK(BM_PostMessage)->Name("Memory/PostMessage");

void BM_IpiExXmm(benchmark::State& state) {
  FakeMachine machine;
  // Vector, format and valid banks are 24 bytes, the bank is the variable header: RDX, R8 and XMM0.
  machine.fake_vps[0]->registers[hvdef::RegisterName::kXmm0] = {1, 1};
  Run(state, machine, Make(CallCode::kSendSyntheticClusterIpiEx, true, 1), 0xF3, 0);
}
BENCHMARK(BM_IpiExXmm)->Name("Xmm/SendSyntheticClusterIpiEx");

void BM_FlushList(benchmark::State& state) {
  FakeMachine machine;
  const uint16_t reps = static_cast<uint16_t>(state.range(0));
  const hvdef::FlushVirtualAddressInput input{};  // nobody: the cost of the list alone
  std::memcpy(&machine.host[FakeMachine::kInput], &input, sizeof(input));
  Run(state, machine, Make(CallCode::kFlushVirtualAddressList, false, 0, reps), FakeMachine::kInput, 0);
  state.SetItemsProcessed(state.iterations() * reps);
}
BENCHMARK(BM_FlushList)->Name("Rep/FlushVirtualAddressList")->Arg(1)->Arg(64)->Arg(500);

void BM_ApicIds(benchmark::State& state) {
  FakeMachine machine;
  const uint16_t reps = static_cast<uint16_t>(state.range(0));
  const hvdef::GetVpIndexFromApicIdInput input{.partition_id = hvdef::kPartitionIdSelf};
  std::memcpy(&machine.host[FakeMachine::kInput], &input, sizeof(input));
  Run(state, machine, Make(CallCode::kGetVpIndexFromApicId, false, 0, reps), FakeMachine::kInput, FakeMachine::kOutput);
  state.SetItemsProcessed(state.iterations() * reps);
}
BENCHMARK(BM_ApicIds)->Name("RepWithOutput/GetVpIndexFromApicId")->Arg(1)->Arg(64)->Arg(512);

}  // namespace
}  // namespace hvsdk
