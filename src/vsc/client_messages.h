// SPDX-License-Identifier: Apache-2.0
// How a channel's client reads messages. Freestanding.

#ifndef HVSDK_SRC_VSC_CLIENT_MESSAGES_H_
#define HVSDK_SRC_VSC_CLIENT_MESSAGES_H_

#include <cstdint>

#include "hvsdk/hvdef/vmbus_ring.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/vmbus_client.h"

namespace hvsdk::vsc {

// Hands out what is in the ring, one in-band packet after another, as long as `goes_on()` says so, and arms the ring when it is empty. The
// payload is in `buffer`, and good until `on_packet` returns. False: the root has broken the ring, or sent another kind of packet.
template <typename GoesOn, typename OnPacket>
bool ReadInBand(VmbusClient& bus, Channel& channel, ClientRings& rings, uint8_t* buffer, uint32_t buffer_bytes,
                GoesOn goes_on, OnPacket on_packet) {
  while (goes_on()) {
    vmbus::Packet packet;
    const vmbus::RingStatus status = rings.incoming.Read(buffer, buffer_bytes, packet);
    if (status == vmbus::RingStatus::kOk) {
      if (packet.type != hvdef::PacketType::kDataInBand) return false;
      on_packet(packet);
      continue;
    }
    if (status != vmbus::RingStatus::kEmpty) return false;
    const vmbus::Armed armed = rings.incoming.Arm();
    if (armed.signal == vmbus::Signal::kNeeded) bus.Signal(channel);
    if (armed.may_sleep) return true;
  }
  return true;
}

// What stands at the beginning of a message. False: the message is shorter.
template <typename Message>
bool ReadMessage(const uint8_t* from, uint32_t size_bytes, Message& message) {
  if (size_bytes < sizeof(message)) return false;
  __builtin_memcpy(&message, from, sizeof(message));
  return true;
}

}  // namespace hvsdk::vsc

#endif  // HVSDK_SRC_VSC_CLIENT_MESSAGES_H_
