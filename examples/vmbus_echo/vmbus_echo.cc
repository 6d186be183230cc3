// SPDX-License-Identifier: Apache-2.0
// Both ends of VMBus in one process, without a CPU: a service provider that echoes, and a client that uses it.

#include <cstdint>
#include <cstdio>
#include <vector>

#include "hvsdk/base/queue_executor.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"
#include "hvsdk/vmbus/packet_pump.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/loopback_child.h"

using namespace hvsdk;

// The root's side: every packet goes back to whoever sent it.
class EchoProvider : public vmbus::PacketPump {
 public:
  EchoProvider() : PacketPump({.max_packet_bytes = 2048, .max_completion_bytes = 2048}) {}

 private:
  vmbus::Take OnPacket(const vmbus::Packet& packet) override {
    Complete(packet, packet.payload, packet.payload_size);
    return vmbus::Take::kMore;
  }
};

int main() {
  std::vector<uint8_t> bytes(1 << 20);  // the partition's memory
  GuestMemory memory;
  if (!memory.AddRange(0, absl::MakeSpan(bytes)).ok()) return 1;
  vmbus::LoopbackHypervisor hypervisor(/*vp_count=*/1);
  QueueExecutor executor;

  vmbus::Server server(memory, hypervisor, {});
  if (!server.Start().ok()) return 1;
  EchoProvider provider;
  vmbus::Offer offer;
  offer.class_id = hvdef::MakeGuid("7b9c1f52-3d6e-4b1a-9c41-5f0e6a2d8c11");
  auto channel = server.OfferChannel(offer, provider, executor);
  if (!channel.ok()) return 1;

  // The child's side.
  vsc::LoopbackChild child(hypervisor, memory);
  const auto settle = [&] {  // lets both sides work until neither has anything to do
    while (child.Poll() || executor.RunUntilIdle() != 0) continue;
  };
  child.Connect();
  settle();
  child.client().RequestOffers();
  settle();
  const uint64_t gpa = child.AllocatePages(8);
  const vsc::RingPages pages = {{.first_pfn = gpa / kPageSize, .page_count = 8}, /*outgoing_pages=*/4};
  vsc::ClientRings rings = vsc::ClientRings::Create(child.host(gpa), pages);
  vsc::Channel client;
  if (child.offers().empty() || !child.client().Open(client, child.offers()[0], pages)) return 1;
  settle();

  const char kText[] = "hello, root";
  (void)rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(/*transaction_id=*/1, true), kText, sizeof(kText));
  if (rings.outgoing.Publish() == vmbus::Signal::kNeeded) child.client().Signal(client);
  settle();
  alignas(8) uint8_t buffer[4096];
  vmbus::Packet answer;
  if (rings.incoming.Read(buffer, sizeof(buffer), answer) != vmbus::RingStatus::kOk) return 1;
  const auto version = static_cast<uint32_t>(child.client().version());
  std::printf("VMBus %u.%u: the root answers \"%.*s\"\n", version >> 16, version & 0xFFFF,
              static_cast<int>(answer.payload_size), answer.payload);
}
