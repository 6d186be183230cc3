// SPDX-License-Identifier: Apache-2.0
// What a guest does with the client and its rings, compiled as a guest compiles it. Never run.

#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/vmbus_client.h"

namespace hvsdk::vsc {

bool SendAndReceive(VmbusClient& client, Channel& channel, ClientRings& rings) {
  const uint64_t payload = 1;
  if (rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(1, true), &payload, sizeof(payload)) !=
      vmbus::RingStatus::kOk) {
    return false;
  }
  if (rings.outgoing.Publish() == vmbus::Signal::kNeeded) client.Signal(channel);
  alignas(8) uint8_t buffer[64];
  vmbus::Packet packet;
  while (rings.incoming.Read(buffer, sizeof(buffer), packet) == vmbus::RingStatus::kOk) {
  }
  return rings.incoming.Arm().may_sleep;
}

ClientRings MakeRings(void* memory, const RingPages& pages) { return ClientRings::Create(memory, pages); }

}  // namespace hvsdk::vsc
