// SPDX-License-Identifier: Apache-2.0
// Turns bytes into a root that says anything at all to a VmbusClient, and into a guest that uses the client. What must
// hold: the client touches nothing but its own objects, ends every message, and comes back when it connects anew.

#ifndef HVSDK_FUZZ_VMBUS_CLIENT_CLIENT_DRIVER_H_
#define HVSDK_FUZZ_VMBUS_CLIENT_CLIENT_DRIVER_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <vector>

#include "absl/types/span.h"
#include "base/check.h"
#include "hvsdk/hvdef/vmbus.h"
#include "hvsdk/vsc/vmbus_client.h"

namespace hvsdk::vsc {

class ClientDriver {
 public:
  explicit ClientDriver(absl::Span<const uint8_t> input) : input_(input), page_(8192) {
    VmbusClient::Config config;
    config.hypercalls.context = this;
    config.hypercalls.post_message = [](void* self, uint32_t, const void* bytes, uint32_t size) {
      return static_cast<ClientDriver*>(self)->OnPost(bytes, size);
    };
    config.hypercalls.signal_event = [](void* self, uint32_t) {
      ++static_cast<ClientDriver*>(self)->signals_;
      return hvdef::HvStatus::kSuccess;
    };
    config.handlers.context = this;
    config.handlers.on_offer = [](void* self, const hvdef::vmbus::OfferChannel& offer) {
      HVSDK_CHECK(offer.channel_id >= 1 && offer.channel_id <= hvdef::vmbus::kMaxChannelId);
      static_cast<ClientDriver*>(self)->offer_ = offer;
    };
    config.handlers.on_rescind = [](void* self, uint32_t channel_id) {
      HVSDK_CHECK(channel_id >= 1 && channel_id <= hvdef::vmbus::kMaxChannelId);
      static_cast<ClientDriver*>(self)->client_->Release(channel_id);
    };
    config.interrupt_page = page_.data() + (-reinterpret_cast<uintptr_t>(page_.data()) & 4095);
    config.interrupt_page_gpa = 0x1000;
    client_ = std::make_unique<VmbusClient>(config);
    for (Channel& channel : channels_) {
      channel.context = this;
      channel.on_signal = [](void* self, Channel& signalled) {
        auto& driver = *static_cast<ClientDriver*>(self);
        HVSDK_CHECK(signalled.state() == Channel::State::kOpen);
        if (driver.Take() % 8 == 0) driver.client_->Close(signalled);
      };
      channel.on_end = [](void* self, Channel& ended) {
        auto& driver = *static_cast<ClientDriver*>(self);
        HVSDK_CHECK(!IsAlive(ended) && driver.opened_.erase(&ended) == 1);
        if (driver.Take() % 8 == 0) driver.Open(ended);
      };
    }
  }

  void Run() {
    offer_.channel_id = 1;
    client_->Connect();
    if (Take() % 8 != 0) Hear(hvdef::vmbus::MessageType::kVersionResponse, {1, 4}, 16);
    while (!input_.empty()) Step();
    // Whatever was heard: a connection made anew works, and every opening has ended once.
    post_status_ = hvdef::HvStatus::kSuccess;
    client_->Connect();
    HVSDK_CHECK(opened_.empty());
    for (const Channel& channel : channels_) HVSDK_CHECK(!IsAlive(channel));
    HVSDK_CHECK(client_->state() == VmbusClient::State::kConnecting);
    Hear(hvdef::vmbus::MessageType::kVersionResponse, {1, 4}, 16);
    HVSDK_CHECK(client_->state() == VmbusClient::State::kConnected);
    HVSDK_CHECK(client_->Open(channels_[0], offer_, {{nullptr, 1, 4}, 2}));
    HVSDK_CHECK(client_->Poll());
  }

 private:
  static bool IsAlive(const Channel& channel) {
    return channel.state() == Channel::State::kOpening || channel.state() == Channel::State::kOpen ||
           channel.state() == Channel::State::kClosing;
  }
  void Open(Channel& channel) {
    offer_.channel_id = 1 + Take() % 3;
    const uint8_t pages = Take() % 64;
    const uint8_t outgoing_pages = Take() % 8;
    const bool was_free = opened_.insert(&channel).second;
    const bool opened = client_->Open(channel, offer_, {{nullptr, 1, pages}, outgoing_pages}, Take() % 4);
    HVSDK_CHECK(was_free || !opened);
    if (was_free && !opened) opened_.erase(&channel);
  }

  uint8_t Take() {
    if (input_.empty()) return 0;
    const uint8_t byte = input_.front();
    input_.remove_prefix(1);
    return byte;
  }

  hvdef::HvStatus OnPost(const void* bytes, uint32_t size) {
    HVSDK_CHECK(size >= 8 && size <= hvdef::vmbus::kMaxMessageSize);
    uint8_t copy[hvdef::vmbus::kMaxMessageSize];
    std::memcpy(copy, bytes, size);  // the sanitizer sees that all of it is there
    if (post_status_ != hvdef::HvStatus::kSuccess) return post_status_;
    uint32_t type;
    std::memcpy(&type, copy, sizeof(type));
    if (type == static_cast<uint32_t>(hvdef::vmbus::MessageType::kGpadlHeader)) std::memcpy(&last_gpadl_, copy + 12, 4);
    return hvdef::HvStatus::kSuccess;
  }

  void Hear(hvdef::vmbus::MessageType type, std::vector<uint32_t> words, size_t size = 0) {
    alignas(4) uint8_t message[256] = {};
    std::memcpy(message, &type, 4);
    std::copy(words.begin(), words.end(), reinterpret_cast<uint32_t*>(message + 8));
    client_->OnMessage(message, std::max(size, 8 + words.size() * 4));
  }
  uint32_t GpadlId() { return last_gpadl_ - Take() % 4; }
  uint32_t Status() { return Take() % 4 == 0 ? 0xC0000001 : 0; }

  void Step() {
    using hvdef::vmbus::MessageType;
    Channel& channel = channels_[Take() % 3];
    Gpadl& gpadl = gpadls_[Take() % 2];
    switch (Take() % 22) {
      case 0: {
        std::vector<uint8_t> message(Take());
        for (uint8_t& byte : message) byte = Take();
        client_->OnMessage(message.data(), message.size());
        break;
      }
      case 1: {
        std::vector<uint8_t> message(std::max<size_t>(8, Take()));
        for (uint8_t& byte : message) byte = Take();
        const uint32_t type = Take() % 28;
        std::memcpy(message.data(), &type, sizeof(type));
        client_->OnMessage(message.data(), message.size());
        break;
      }
      case 2:
        Hear(MessageType::kVersionResponse, {Take() % 4 != 0 ? 1u : 0u, 4}, 16);
        break;
      case 3: {
        std::vector<uint32_t> words(47);
        words[44] = Take() % 4;  // the channel id
        Hear(MessageType::kOfferChannel, words);
        break;
      }
      case 4:
        Hear(MessageType::kRescindOffer, {Take() % 4u});
        break;
      case 5:
      case 6: {
        const uint32_t id = Take() % 4;
        Hear(MessageType::kOpenResult, {id, id, Status()});
        break;
      }
      case 7:
      case 8:
      case 9: {
        const uint32_t id = GpadlId();
        Hear(MessageType::kGpadlCreated, {Take() % 4u, id, Status()});
        break;
      }
      case 10:
        Hear(MessageType::kGpadlTorndown, {GpadlId()});
        break;
      case 11:
        Hear(MessageType::kModifyChannelResponse, {Take() % 4u, Status()});
        break;
      case 12:
        if (Take() % 4 == 0) Hear(MessageType::kUnloadResponse, {});
        break;
      case 13: {
        uint64_t words[32] = {};
        words[Take() % 32] = Take();
        words[0] = Take();
        client_->OnEvents(words);
        break;
      }
      case 14:
      case 15:
        Open(channel);
        break;
      case 16:
        client_->Close(channel);
        break;
      case 17:
        (void)client_->CreateGpadl(gpadl, channel, {nullptr, 1, Take() * 16u});
        break;
      case 18:
        client_->TeardownGpadl(gpadl);
        break;
      case 19:
        (void)client_->Modify(channel, Take() % 4);
        client_->Signal(channel);
        break;
      case 20:
        switch (Take() % 32) {
          case 0:
            post_status_ = hvdef::HvStatus::kAccessDenied;  // final
            break;
          case 1:
            post_status_ = hvdef::HvStatus::kInvalidConnectionId;
            break;
          default:
            post_status_ = Take() % 4 == 0 ? hvdef::HvStatus::kInsufficientBuffers : hvdef::HvStatus::kSuccess;
            break;
        }
        (void)client_->Poll();
        if (post_status_ == hvdef::HvStatus::kAccessDenied) post_status_ = hvdef::HvStatus::kSuccess;
        break;
      case 21: {
        const uint8_t what = Take() % 32;
        if (what == 0) client_->Connect();
        if (what == 1) client_->Unload();
        if (what == 2) client_->RequestOffers();
        if (what == 3) client_->Release(Take() % 8);
        break;
      }
    }
  }

  absl::Span<const uint8_t> input_;
  std::vector<uint8_t> page_;
  std::unique_ptr<VmbusClient> client_;
  hvdef::vmbus::OfferChannel offer_{};
  Channel channels_[3];
  std::set<const Channel*> opened_;
  Gpadl gpadls_[2];
  uint32_t last_gpadl_ = 0;
  uint64_t signals_ = 0;
  hvdef::HvStatus post_status_ = hvdef::HvStatus::kSuccess;
};

}  // namespace hvsdk::vsc

#endif  // HVSDK_FUZZ_VMBUS_CLIENT_CLIENT_DRIVER_H_
