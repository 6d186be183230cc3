// SPDX-License-Identifier: Apache-2.0
// A VmbusClient whose root is the test: it sees what the client posts, decides what the hypercalls answer, and says
// what it likes.

#ifndef HVSDK_TESTS_VSC_SCRIPTED_ROOT_H_
#define HVSDK_TESTS_VSC_SCRIPTED_ROOT_H_

#include <cstdint>
#include <cstring>
#include <vector>

#include "hvsdk/hvdef/vmbus.h"
#include "hvsdk/vsc/vmbus_client.h"

namespace hvsdk::vsc {

class ScriptedRoot {
 public:
  using MessageType = hvdef::vmbus::MessageType;

  explicit ScriptedRoot(hvdef::vmbus::Version newest_version = hvdef::vmbus::kNewestVersion)
      : client(MakeConfig(newest_version)) {}

  // Connects at the version it was made for.
  void Connect() {
    client.Connect();
    hvdef::vmbus::VersionResponse response = {};
    response.version_supported = 1;
    response.message_connection_id = 4;
    Say(MessageType::kVersionResponse, response);
  }
  // A message from the root.
  template <typename T>
  void Say(MessageType type, T message) {
    const uint32_t number = static_cast<uint32_t>(type);
    std::memcpy(&message, &number, sizeof(number));
    client.OnMessage(&message, sizeof(message));
  }
  void SayGpadlCreated(const Gpadl& gpadl, uint32_t channel_id, int32_t status = 0) {
    SayGpadlCreated(gpadl.id(), channel_id, status);
  }
  void SayGpadlCreated(uint32_t gpadl_id, uint32_t channel_id, int32_t status = 0) {
    Say(MessageType::kGpadlCreated, hvdef::vmbus::GpadlCreated{{}, channel_id, gpadl_id, status});
  }
  void SayTorndown(uint32_t gpadl_id) { Say(MessageType::kGpadlTorndown, hvdef::vmbus::GpadlTorndown{{}, gpadl_id}); }
  // Opens a channel with rings of two pages each at page 16. The GPADL of the ring is last_gpadl().
  static hvdef::vmbus::OfferChannel Offer(uint32_t channel_id) {
    hvdef::vmbus::OfferChannel offer = {};
    offer.channel_id = channel_id;
    offer.connection_id = 0x2000 + channel_id;
    offer.is_dedicated_interrupt = 1;
    return offer;
  }
  bool Open(Channel& channel, const hvdef::vmbus::OfferChannel& offer) {
    if (!client.Open(channel, offer, {{nullptr, 16, 4}, 2})) return false;
    SayGpadlCreated(last_gpadl(), offer.channel_id);
    Say(MessageType::kOpenResult, hvdef::vmbus::OpenResult{{}, offer.channel_id, offer.channel_id, 0});
    return channel.state() == Channel::State::kOpen;
  }
  bool Open(Channel& channel, uint32_t channel_id) { return Open(channel, Offer(channel_id)); }

  // The types of the messages taken since the last call.
  std::vector<MessageType> TakePosted() {
    std::vector<MessageType> types;
    for (const auto& message : posted) types.push_back(Type(message));
    posted.clear();
    return types;
  }
  uint32_t last_gpadl() const { return last_gpadl_; }
  static MessageType Type(const std::vector<uint8_t>& message) {
    uint32_t type;
    std::memcpy(&type, message.data(), sizeof(type));
    return static_cast<MessageType>(type);
  }

  hvdef::HvStatus post_status = hvdef::HvStatus::kSuccess;
  std::vector<std::vector<uint8_t>> posted;
  std::vector<uint32_t> signalled;  // connections
  std::vector<uint32_t> rescinded;  // what on_rescind was told
  alignas(4096) uint8_t interrupt_page[4096] = {};
  VmbusClient client;

 private:
  VmbusClient::Config MakeConfig(hvdef::vmbus::Version newest_version) {
    VmbusClient::Config config;
    config.newest_version = newest_version;
    config.interrupt_page = interrupt_page;
    config.interrupt_page_gpa = 0x1000;
    config.hypercalls.context = this;
    config.hypercalls.post_message = [](void* self, uint32_t, const void* bytes, uint32_t size) {
      return static_cast<ScriptedRoot*>(self)->OnPost(static_cast<const uint8_t*>(bytes), size);
    };
    config.hypercalls.signal_event = [](void* self, uint32_t connection) {
      static_cast<ScriptedRoot*>(self)->signalled.push_back(connection);
      return hvdef::HvStatus::kSuccess;
    };
    config.handlers.context = this;
    config.handlers.on_rescind = [](void* self, uint32_t channel_id) {
      static_cast<ScriptedRoot*>(self)->rescinded.push_back(channel_id);
    };
    return config;
  }
  hvdef::HvStatus OnPost(const uint8_t* bytes, uint32_t size) {
    if (post_status != hvdef::HvStatus::kSuccess) return post_status;
    posted.emplace_back(bytes, bytes + size);
    if (Type(posted.back()) == MessageType::kGpadlHeader) std::memcpy(&last_gpadl_, bytes + 12, sizeof(last_gpadl_));
    return hvdef::HvStatus::kSuccess;
  }

  uint32_t last_gpadl_ = 0;
};

}  // namespace hvsdk::vsc

#endif  // HVSDK_TESTS_VSC_SCRIPTED_ROOT_H_
