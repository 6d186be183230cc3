// SPDX-License-Identifier: Apache-2.0
// Offer: what a service provider puts up on VMBus for a guest's driver to find; OpenParams: what the guest then asks
// for. Plain data, thread-compatible. Source: hvdef/vmbus.h (OfferChannel, OpenChannel).
//
//   Offer offer;
//   offer.class_id = hvdef::MakeGuid("2a6fc1d0-7f0d-4c6e-8a55-0f6b3c1f9d21");
//   const absl::StatusOr<std::unique_ptr<Channel>> channel = server.OfferChannel(offer, provider, executor);

#ifndef HVSDK_VMBUS_OFFER_H_
#define HVSDK_VMBUS_OFFER_H_

#include <array>
#include <cstdint>

#include "hvsdk/hvdef/guid.h"
#include "hvsdk/hvdef/vmbus.h"

namespace hvsdk::vmbus {

struct Offer {
  hvdef::Guid class_id{};     // what kind of device: the guest's drivers match on it
  hvdef::Guid instance_id{};  // which one; the same for a channel and its subchannels
  uint16_t flags = 0;         // hvdef::vmbus::kOffer...
  uint16_t mmio_megabytes = 0;
  uint16_t mmio_megabytes_optional = 0;
  uint16_t subchannel_index = 0;  // 0: the primary channel
  std::array<uint8_t, hvdef::vmbus::kUserDefinedSize> user_defined{};
};

// What a guest asked for when it opened a channel.
struct OpenParams {
  hvdef::vmbus::Version version{};  // of the connection
  uint32_t channel_id = 0;          // also the event flag that interrupts the guest
  uint32_t connection_id = 0;       // the guest signals here
  uint32_t target_vp = 0;           // interrupt this VP; hvdef::vmbus::kNoTargetVp: the guest polls
  uint32_t ring_gpadl_id = 0;
  uint32_t downstream_page_offset = 0;  // pages from the GPADL's start to the ring towards the guest
  uint64_t interrupt_page = 0;          // the GPA of the shared page, before version 2.4; else 0
  std::array<uint8_t, hvdef::vmbus::kUserDefinedSize> user_data{};
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_OFFER_H_
