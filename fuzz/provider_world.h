// SPDX-License-Identifier: Apache-2.0
// What a fuzzer of a service provider stands on: the input, memory, a server, a child on its bus, and the primary channel with two
// subchannels as the guest has them. A harness derives from it, makes its provider, and connects.

#ifndef HVSDK_FUZZ_PROVIDER_WORLD_H_
#define HVSDK_FUZZ_PROVIDER_WORLD_H_

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>

#include "absl/types/span.h"
#include "base/check.h"
#include "fuzz/bytes.h"
#include "hvsdk/base/queue_executor.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/loopback_child.h"

namespace hvsdk::vsp {

class ProviderWorld {
 protected:
  static constexpr size_t kMemoryBytes = 1 << 20;
  static constexpr uint32_t kRingPages = 3;
  static constexpr uint32_t kEnds = 3;  // the primary channel and two subchannels
  static constexpr hvdef::Guid kInstance = hvdef::MakeGuid("01234567-89ab-cdef-0123-456789abcdef");

  // A channel as the guest has it.
  struct ChannelEnd {
    vsc::Channel channel;
    vsc::RingPages ring;
    vsc::ClientRings rings;
    std::set<uint64_t> asked;
    bool is_open() const { return channel.state() == vsc::Channel::State::kOpen; }
  };

  ProviderWorld() : bytes_(static_cast<uint8_t*>(std::aligned_alloc(4096, kMemoryBytes)), std::free) {
    std::memset(bytes_.get(), 0, kMemoryBytes);
    HVSDK_CHECK(memory_.AddRange(0, absl::MakeSpan(bytes_.get(), kMemoryBytes)).ok());
    server_ = std::make_unique<vmbus::Server>(memory_, hypervisor_, vmbus::ServerOptions{},
                                              vmbus::ServerResources{.executor = &executor_});
    HVSDK_CHECK(server_->Start().ok());
  }
  ~ProviderWorld() = default;

  // Once the provider is on the bus.
  template <typename End>
  void Connect(absl::Span<End> ends) {
    child_ = std::make_unique<vsc::LoopbackChild>(hypervisor_, memory_);
    child_->client().Connect();
    Pump();
    child_->client().RequestOffers();
    Pump();
    for (End& end : ends) {
      const uint64_t gpa = child_->AllocatePages(2 * kRingPages);
      end.ring = {.pages = {.pfns = nullptr, .first_pfn = gpa / kPageSize, .page_count = 2 * kRingPages},
                  .outgoing_pages = kRingPages};
    }
  }

  uint8_t Byte() { return in_.Take<uint8_t>(); }
  void Bytes(void* to, size_t size) {
    auto* out = static_cast<uint8_t*>(to);
    for (size_t i = 0; i < size; ++i) out[i] = Byte();
  }

  // Bounded: a provider that never comes to rest is a fault.
  void Pump() {
    for (int round = 0; round < 1000; ++round) {
      int tasks = 0;
      while (tasks < 10000 && (executor_.RunOne() || other_executor_.RunOne())) ++tasks;
      HVSDK_CHECK(tasks < 10000);
      if (!child_->Poll()) return;
    }
    HVSDK_CHECK(!"at rest");
  }

  // Opens a channel that is offered and not in use; `forget` drops what the end knew of the opening before.
  template <typename Forget>
  void OpenChannel(ChannelEnd& end, uint16_t index, Forget forget) {
    const auto* const offer = child_->FindOffer(kInstance, index);
    HVSDK_CHECK(index != 0 || offer != nullptr);
    if (offer != nullptr) OpenOffer(end, *offer, forget);
  }
  // The one of a class that has one channel.
  template <typename Forget>
  void OpenChannelOf(ChannelEnd& end, const hvdef::Guid& class_id, Forget forget) {
    for (const auto& offer : child_->offers()) {
      if (offer.class_id == class_id) return OpenOffer(end, offer, forget);
    }
    HVSDK_CHECK(!"offered");
  }
  template <typename Forget>
  void OpenOffer(ChannelEnd& end, const hvdef::vmbus::OfferChannel& offer, Forget forget) {
    if (end.channel.state() != vsc::Channel::State::kNone) return;
    end.rings = vsc::ClientRings::Create(child_->host(end.ring.pages.first_pfn * kPageSize), end.ring);
    end.asked.clear();
    forget();
    HVSDK_CHECK(child_->client().Open(end.channel, offer, end.ring));
    Pump();
    HVSDK_CHECK(end.is_open());
  }

  fuzz::Bytes in_{{}};
  std::shared_ptr<uint8_t> bytes_;
  GuestMemory memory_;
  QueueExecutor executor_;
  QueueExecutor other_executor_;  // for a provider that takes several
  vmbus::LoopbackHypervisor hypervisor_{1};
  std::unique_ptr<vmbus::Server> server_;
  std::unique_ptr<vsc::LoopbackChild> child_;
  uint64_t next_id_ = 0;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_FUZZ_PROVIDER_WORLD_H_
