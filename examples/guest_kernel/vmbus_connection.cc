// SPDX-License-Identifier: Apache-2.0
#include "vmbus_connection.h"

#include "hvsdk/hvdef/guid.h"
#include "hvsdk/hvdef/hypercall.h"

using hvsdk::hvdef::Message;
using hvsdk::hvdef::PostMessageInput;

namespace {

Page interrupt_page;

HvStatus PostMessage(void*, uint32_t connection, const void* payload, uint32_t size) {
  PostMessageInput input = {connection, 0, vmbus::kSynicMessageType, size, {}};
  __builtin_memcpy(input.payload, payload, size);
  return Call(CallCode::kPostMessage, input);
}
HvStatus SignalEvent(void*, uint32_t connection) { return FastCall(CallCode::kSignalEvent, connection, 0); }

void OnOffer(void* context, const vmbus::OfferChannel& offer) {
  auto& found = *static_cast<Offers*>(context);
  if (offer.class_id == hvsdk::hvdef::class_id::kScsi && !found.has_disk) {
    found.disk = offer;
    found.has_disk = true;
  } else if (offer.class_id == hvsdk::hvdef::class_id::kNetwork && found.networks < Offers::kMostNetworks) {
    found.network[found.networks++] = offer;
  } else if (offer.class_id == hvsdk::hvdef::class_id::kVideo) {
    found.video = offer;
    found.has_video = true;
  } else if (offer.class_id == hvsdk::hvdef::class_id::kKeyboard) {
    found.keyboard = offer;
    found.has_keyboard = true;
  }
}

}  // namespace

VmbusClient::Config ConfigFor(vmbus::Version oldest, vmbus::Version newest, uint32_t sint, Offers* offers) {
  VmbusClient::Config config;
  config.hypercalls = {nullptr, PostMessage, SignalEvent};
  config.handlers.context = offers;
  config.handlers.on_offer = OnOffer;
  config.handlers.on_all_offers = [](void* context) { static_cast<Offers*>(context)->all = true; };
  config.oldest_version = oldest;
  config.newest_version = newest;
  config.message_sint = static_cast<uint8_t>(sint);
  config.interrupt_page = interrupt_page.bytes;
  config.interrupt_page_gpa = interrupt_page.gpa();
  return config;
}

void Serve(VmbusClient& client, uint32_t sint) {
  Message message;
  if (TakeMessage(sint, message)) client.OnMessage(message.payload, message.header.payload_size);
  client.OnEvents(EventFlags(vmbus::kMessageSint));
  client.Poll();
}

bool Connect(VmbusClient& client, uint32_t sint) {
  client.Connect();
  return ServeUntil(client, sint, [&] { return client.state() != VmbusClient::State::kConnecting; }) &&
         client.state() == VmbusClient::State::kConnected;
}

bool TakeOffers(VmbusClient& client, uint32_t sint, Offers& offers) {
  client.RequestOffers();
  return ServeUntil(client, sint, [&] { return offers.all; });
}

bool Unload(VmbusClient& client, uint32_t sint) {
  client.Unload();
  return ServeUntil(client, sint, [&] { return client.state() == VmbusClient::State::kDisconnected; });
}
