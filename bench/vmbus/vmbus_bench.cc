// SPDX-License-Identifier: Apache-2.0
// What VMBus costs without a CPU: a decision of the server, a channel message there and back, and a packet's whole way
// from the child's ring to the provider and back, with a signal in each direction.

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "benchmark/benchmark.h"
#include "hvsdk/base/queue_executor.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"
#include "hvsdk/vmbus/packet_pump.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vmbus/transcript.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/loopback_child.h"

namespace hvsdk {
namespace {

std::vector<uint8_t> Message(absl::string_view text) { return *vmbus::ParseMessage(text); }

struct PartitionMemory {
  PartitionMemory() : bytes(1 << 20) {
    if (!memory.AddRange(0, absl::MakeSpan(bytes)).ok()) std::abort();
  }
  std::vector<uint8_t> bytes;
  GuestMemory memory;
};

// Two messages decided, two posted: a buffer of 16 pages is lent and taken back.
void BM_ServerCoreGpadl(benchmark::State& state) {
  PartitionMemory partition;
  vmbus::ServerCore core(partition.memory, {});
  if (!core.AddOffer({}).ok()) std::abort();
  (void)core.OnMessage(Message("initiate-contact version=5.3 target=2"));
  (void)core.OnMessage(Message("request-offers"));
  while (core.FirstMessage() != nullptr) core.PopMessage();
  const auto lend =
      Message("gpadl-header channel=1 gpadl=1 bytes=136 ranges=1 words=0x10000,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16");
  const auto take_back = Message("gpadl-teardown channel=1 gpadl=1");
  for (auto _ : state) {
    (void)core.OnMessage(lend);
    core.PopMessage();
    (void)core.OnMessage(take_back);
    core.PopMessage();
  }
  state.SetItemsProcessed(state.iterations() * 2);
}
BENCHMARK(BM_ServerCoreGpadl);

// The provider that one would write.
class Echo : public vmbus::PacketPump {
 public:
  Echo() : PacketPump({.max_packet_bytes = 4096, .max_completion_bytes = 4096}) {}

 private:
  vmbus::Take OnPacket(const vmbus::Packet& packet) override {
    Complete(packet, packet.payload, packet.payload_size);
    return vmbus::Take::kMore;
  }
};

// The shortest loop there is: it trusts the guest to read what it answers, and to stop now and then.
class TrustingEcho : public vmbus::ChannelHandler {
  bool OnOpen(vmbus::Channel&) override { return true; }
  void OnClose(vmbus::Channel& channel) override { channel.FinishClose(); }
  void OnSignal(vmbus::Channel& channel) override {
    alignas(8) uint8_t buffer[4096];
    vmbus::Packet packet;
    do {
      while (channel.incoming().Read(buffer, sizeof(buffer), packet) == vmbus::RingStatus::kOk) {
        (void)channel.outgoing().StageInBand(vmbus::PacketHeader::Completion(packet.transaction_id), packet.payload,
                                             packet.payload_size);
      }
      channel.Publish();
    } while (!channel.Arm());
  }
};

// Root and child with an open echo channel.
template <typename Provider = Echo>
struct Pair : PartitionMemory {
  Pair() : hypervisor(1), child(hypervisor, memory), server(memory, hypervisor, {}) {
    if (!server.Start().ok()) std::abort();
    channel = *server.OfferChannel({}, echo, executor);
    child.Connect();
    Settle();
    child.client().RequestOffers();
    Settle();
    const uint64_t gpa = child.AllocatePages(32);
    const vsc::RingPages ring = {{.first_pfn = gpa / kPageSize, .page_count = 32}, 16};
    rings = vsc::ClientRings::Create(child.host(gpa), ring);
    if (!child.client().Open(client, child.offers().at(0), ring)) std::abort();
    Settle();
    if (client.state() != vsc::Channel::State::kOpen) std::abort();
  }
  void Settle() {
    while (child.Poll() | (executor.RunUntilIdle() != 0)) {
    }
  }

  vmbus::LoopbackHypervisor hypervisor;
  QueueExecutor executor;
  vsc::LoopbackChild child;
  vmbus::Server server;
  Provider echo;
  std::unique_ptr<vmbus::Channel> channel;
  vsc::Channel client;
  vsc::ClientRings rings;
};

// Packets there and back, on one thread: signal, task, read, answer, event flag, read.
template <typename Provider>
void BM_EchoRoundTrip(benchmark::State& state) {
  Pair<Provider> pair;
  const std::vector<uint8_t> payload(state.range(0));
  const int64_t batch = state.range(1);
  alignas(8) uint8_t buffer[4096];
  vmbus::Packet packet;
  std::array<uint64_t, vmbus::LoopbackHypervisor::kEventWords> flags;
  for (auto _ : state) {
    for (int64_t i = 0; i < batch; ++i) {
      (void)pair.rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(1, true), payload.data(), payload.size());
    }
    if (pair.rings.outgoing.Publish() == vmbus::Signal::kNeeded) pair.child.client().Signal(pair.client);
    (void)pair.executor.RunUntilIdle();
    (void)pair.hypervisor.TakeEvents(VpIndex{0}, Sint{2}, absl::MakeSpan(flags));
    for (int64_t i = 0; i < batch; ++i) {
      if (pair.rings.incoming.Read(buffer, sizeof(buffer), packet) != vmbus::RingStatus::kOk) {
        state.SkipWithError("no answer");
        break;
      }
    }
    (void)pair.rings.incoming.Arm();
  }
  state.SetItemsProcessed(state.iterations() * batch);
}
BENCHMARK(BM_EchoRoundTrip<Echo>)->Args({64, 1})->Args({64, 16})->Args({2048, 1})->Args({2048, 16});
BENCHMARK(BM_EchoRoundTrip<TrustingEcho>)->Args({64, 1})->Args({64, 16})->Args({2048, 1})->Args({2048, 16});

// A channel message and its answer through the server's lock, queue and hypervisor.
void BM_ServerModifyChannel(benchmark::State& state) {
  Pair<> pair;
  for (auto _ : state) {
    if (!pair.child.client().Modify(pair.client, 0)) std::abort();
    while (pair.child.client().modify_pending(pair.client)) pair.Settle();
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_ServerModifyChannel);

}  // namespace
}  // namespace hvsdk
