// SPDX-License-Identifier: Apache-2.0
// LoopbackChild: a whole child side in the same process as the root: a VmbusClient on a LoopbackHypervisor, guest pages
// to hand out, and the offers seen so far. For tests, benchmarks and examples; a guest has its own.
//
// Thread-compatible.
//
//   vmbus::LoopbackHypervisor hypervisor(1);
//   vsc::LoopbackChild child(hypervisor, memory);
//   child.Connect();
//   child.Poll();                            // takes messages and events until there are none

#ifndef HVSDK_VSC_LOOPBACK_CHILD_H_
#define HVSDK_VSC_LOOPBACK_CHILD_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"
#include "hvsdk/vsc/vmbus_client.h"

namespace hvsdk::vsc {

class LoopbackChild {
 public:
  // Hands out memory from GPA 4096 on; the first page is the interrupt page of old versions.
  LoopbackChild(vmbus::LoopbackHypervisor& hypervisor, GuestMemory& memory,
                hvdef::vmbus::Version newest_version = hvdef::vmbus::kNewestVersion, uint32_t vp = 0)
      : hypervisor_(hypervisor), memory_(memory), vp_(vp), client_(MakeConfig(newest_version)) {}
  LoopbackChild(const LoopbackChild&) = delete;
  LoopbackChild& operator=(const LoopbackChild&) = delete;

  VmbusClient& client() { return client_; }

  // Begins a connection: what earlier ones offered is forgotten.
  void Connect() {
    offers_.clear();
    all_offers_delivered_ = false;
    client_.Connect();
  }

  // Takes the messages and events of this VP, and sends what could not be sent. False: there was nothing to take.
  bool Poll() {
    bool any = false;
    vmbus::LoopbackHypervisor::Message message;
    // Before version 3.0 messages come to VP 0.
    for (const uint32_t vp : {vp_, uint32_t{0}}) {
      while (hypervisor_.TakeMessage(VpIndex{vp}, kSint, message)) {
        client_.OnMessage(message.payload.data(), message.payload.size());
        any = true;
      }
      std::array<uint64_t, vmbus::LoopbackHypervisor::kEventWords> flags;
      while (hypervisor_.TakeEvents(VpIndex{vp}, kSint, absl::MakeSpan(flags))) {
        client_.OnEvents(flags.data(), flags.size());
        any = true;
      }
    }
    (void)client_.Poll();
    return any;
  }

  // Guest pages in a row that nobody else uses; not given back.
  uint64_t AllocatePages(uint32_t count) {
    const uint64_t gpa = next_gpa_;
    next_gpa_ += count * kPageSize;
    return gpa;
  }
  uint8_t* host(uint64_t gpa) const { return memory_.Pointer(gpa, 1); }
  GuestMemory& memory() const { return memory_; }

  // Offers that were not rescinded, in the order they came. A rescinded one is released at once.
  const std::vector<hvdef::vmbus::OfferChannel>& offers() const { return offers_; }
  // The offer of a device, or nullptr.
  const hvdef::vmbus::OfferChannel* FindOffer(const hvdef::Guid& instance_id, uint16_t subchannel_index = 0) const {
    for (const auto& offer : offers_) {
      if (offer.instance_id == instance_id && offer.subchannel_index == subchannel_index) return &offer;
    }
    return nullptr;
  }
  bool all_offers_delivered() const { return all_offers_delivered_; }

 private:
  static constexpr Sint kSint{hvdef::vmbus::kMessageSint};

  VmbusClient::Config MakeConfig(hvdef::vmbus::Version newest_version) {
    VmbusClient::Config config;
    config.newest_version = newest_version;
    config.message_vp = vp_;
    config.interrupt_page_gpa = AllocatePages(1);
    config.interrupt_page = memory_.Pointer(config.interrupt_page_gpa, kPageSize);
    config.hypercalls.context = this;
    config.hypercalls.post_message = [](void* context, uint32_t connection, const void* payload, uint32_t size) {
      return Self(context).hypervisor_.ChildPostMessage(
          ConnectionId{connection}, hvdef::vmbus::kSynicMessageType,
          absl::MakeConstSpan(static_cast<const uint8_t*>(payload), size));
    };
    config.hypercalls.signal_event = [](void* context, uint32_t connection) {
      return Self(context).hypervisor_.ChildSignalEvent(ConnectionId{connection});
    };
    config.handlers.context = this;
    config.handlers.on_offer = [](void* context, const hvdef::vmbus::OfferChannel& offer) {
      Self(context).offers_.push_back(offer);
    };
    config.handlers.on_rescind = [](void* context, uint32_t channel_id) {
      auto& offers = Self(context).offers_;
      const auto is_it = [&](const auto& offer) { return offer.channel_id == channel_id; };
      offers.erase(std::remove_if(offers.begin(), offers.end(), is_it), offers.end());
      Self(context).client_.Release(channel_id);
    };
    config.handlers.on_all_offers = [](void* context) { Self(context).all_offers_delivered_ = true; };
    return config;
  }
  static LoopbackChild& Self(void* context) { return *static_cast<LoopbackChild*>(context); }

  vmbus::LoopbackHypervisor& hypervisor_;
  GuestMemory& memory_;
  const uint32_t vp_;
  uint64_t next_gpa_ = kPageSize;
  std::vector<hvdef::vmbus::OfferChannel> offers_;
  bool all_offers_delivered_ = false;
  VmbusClient client_;
};

}  // namespace hvsdk::vsc

#endif  // HVSDK_VSC_LOOPBACK_CHILD_H_
