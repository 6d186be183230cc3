// SPDX-License-Identifier: Apache-2.0
// Turns bytes into a guest and a host that call a Server, as against its core (fuzz/vmbus_server): what it does while it is busy, what it
// leaves to whom, and what must not be lost on the way. Where the server calls out it is called again from inside, as other
// processors would.
//
// The fuzz target plays one string of bytes on one thread; the unit test has several threads play their own at once.

#ifndef HVSDK_FUZZ_VMBUS_CALLS_CALLS_DRIVER_H_
#define HVSDK_FUZZ_VMBUS_CALLS_CALLS_DRIVER_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "base/check.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/base/queue_executor.h"
#include "hvsdk/hvdef/vmbus.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"
#include "hvsdk/vmbus/server.h"

namespace hvsdk::vmbus {

class CallsDriver {
 public:
  // Bytes that run out.
  class Script {
   public:
    explicit Script(absl::Span<const uint8_t> bytes) : bytes_(bytes) {}
    bool is_over() const { return bytes_.empty(); }
    uint8_t Take() {
      if (bytes_.empty()) return 0;
      const uint8_t byte = bytes_.front();
      bytes_.remove_prefix(1);
      return byte;
    }

   private:
    absl::Span<const uint8_t> bytes_;
  };

  // `inner`: what is done from inside the server's calls; null where other threads do that.
  explicit CallsDriver(Script* inner) : bytes_(kPages * kPageSize), inner_(inner) {
    HVSDK_CHECK(memory_.AddRange(0, absl::MakeSpan(bytes_)).ok());
    server_ = std::make_unique<Server>(
        memory_, hypervisor_,
        ServerOptions{.vp_count = kVps, .max_gpadls = 6, .max_gpadl_bytes = 512, .max_pending_messages = 8},
        ServerResources{.executor = &executor_, .timers = &timers_, .clock = &clock_});
    HVSDK_CHECK(server_->Start().ok());
    server_->SetMessageObserver([this](Server::Direction, absl::Span<const uint8_t>) { PlayInside(); });
    server_->SetTlConnectHandler([this](const hvdef::Guid& endpoint, const hvdef::Guid& service, const hvdef::Guid&) {
      PlayInside();
      server_->RefuseTlConnect(endpoint, service);
    });
    hypervisor_.SetInterrupt([this](VpIndex, Sint) { PlayInside(); });
  }
  ~CallsDriver() {
    for (Device& device : devices_) device.channel.reset();
    server_.reset();
  }

  // One act of a guest's processor: any thread.
  void GuestStep(Script& script) {
    using hvdef::vmbus::MessageType;
    const uint8_t op = script.Take();
    switch (op % 16) {
      case 0: {
        std::vector<uint8_t> message(script.Take() % 250);
        for (uint8_t& byte : message) byte = script.Take();
        Post(message);
        break;
      }
      case 1:
        if (script.Take() % 4 == 0) {
          Contact(hvdef::vmbus::kVersions[script.Take() % std::size(hvdef::vmbus::kVersions)], script.Take() % kVps);
        } else {
          Say(MessageType::kRequestOffers, {});
        }
        break;
      case 2:
        if (script.Take() % 8 == 0) Say(MessageType::kUnload, {});
        break;
      case 3:
      case 4: {  // a ring, or what is shared later
        const uint32_t pages = script.Take() % 7;
        std::vector<uint32_t> words = {script.Take() % 6u, script.Take() % 6u, (8 + pages * 8) | 1u << 16,
                                       pages * uint32_t{kPageSize}, 0};
        for (uint32_t i = 0; i < pages; ++i) {
          words.push_back(script.Take() % (kPages + 1));
          words.push_back(0);
        }
        Say(MessageType::kGpadlHeader, words);
        break;
      }
      case 5:
        Say(MessageType::kGpadlTeardown, {script.Take() % 6u, script.Take() % 6u});
        break;
      case 6:
      case 7:
        Say(MessageType::kOpenChannel,
            {script.Take() % 6u, 1, script.Take() % 6u, script.Take() % (kVps + 1u), 2 + script.Take() % 3u},
            sizeof(hvdef::vmbus::OpenChannel));
        break;
      case 8:
        Say(MessageType::kCloseChannel, {script.Take() % 6u});
        break;
      case 9:
        Say(MessageType::kModifyChannel, {script.Take() % 6u, script.Take() % (kVps + 1u)});
        break;
      case 10:
        Say(MessageType::kRelidReleased, {script.Take() % 6u});
        break;
      case 11:
        Say(MessageType::kTlConnectRequest, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
        break;
      case 12: {  // the signal of a channel, or of all before version 1.1
        const uint8_t which = script.Take();
        const uint32_t connection = which % 8 == 0 ? hvdef::vmbus::kEventConnectionId : 0x2000 + which % 8;
        (void)hypervisor_.ChildSignalEvent(ConnectionId{connection});
        break;
      }
      case 13: {  // a bit of the interrupt page
        std::atomic_ref<uint8_t> byte(bytes_[kInterruptPage * kPageSize + kPageSize / 2]);
        byte.fetch_or(static_cast<uint8_t>(1 << script.Take() % 8), std::memory_order_release);
        break;
      }
      default:
        Take(script.Take() % kVps);
        break;
    }
  }

  // One act of the host's, on the thread that is the executor.
  void HostStep(Script& script) {
    const uint8_t op = script.Take();
    Device& device = devices_[script.Take() % kDevices];
    switch (op % 8) {
      case 0: {
        if (device.channel != nullptr) break;
        Offer offer;
        offer.instance_id.data1 = static_cast<uint32_t>(&device - devices_.data());
        auto channel = server_->OfferChannel(offer, device, executor_);
        if (channel.ok()) device.channel = *std::move(channel);
        break;
      }
      case 1:
        if (script.Take() % 4 != 0) break;
        device.lease.Release();
        device.channel.reset();
        device.is_closing = false;
        break;
      case 2:
        if (device.is_closing) device.FinishClose();
        break;
      case 3:
        if (device.channel != nullptr && device.channel->is_open() && !device.is_closing) {
          device.lease = device.channel->AcquireGpadl(script.Take() % 6);
        }
        break;
      case 4:
        device.finishes_close = script.Take() % 2 != 0;
        device.refuses = script.Take() % 8 == 0;
        break;
      case 5:
        timers_.AdvanceBy(10'000);
        break;
      default:
        (void)executor_.RunOne();
        break;
    }
  }

  // Nobody else is here any more. Whatever was done: what was asked for is done when the executor has nothing left, and a guest that starts
  // anew is served.
  void Finish() {
    inner_ = nullptr;
    Settle();
    Contact(hvdef::vmbus::kNewestVersion, 0);
    Settle();
    for (Device& device : devices_) {
      if (device.is_closing) device.FinishClose();
    }
    Settle();
    HVSDK_CHECK(server_->version() == hvdef::vmbus::kNewestVersion);
    Say(hvdef::vmbus::MessageType::kRequestOffers, {});
    messages_ = 0;
    Settle();
    uint32_t offers = 1;  // and their end
    for (Device& device : devices_) offers += device.channel != nullptr;
    HVSDK_CHECK(messages_ == offers);
  }

 private:
  static constexpr uint64_t kPages = 16;
  static constexpr uint64_t kInterruptPage = 15;
  static constexpr uint32_t kVps = 2;
  static constexpr size_t kDevices = 4;

  // Keeps the rules, and takes its time over some.
  struct Device : ChannelHandler {
    bool OnOpen(Channel&) override { return !refuses; }
    void OnClose(Channel&) override {
      lease.Release();
      is_closing = true;
      if (finishes_close) FinishClose();
    }
    void OnSignal(Channel& open) override {
      alignas(8) uint8_t buffer[512];
      Packet packet;
      for (int turn = 0; turn < 64; ++turn) {
        if (!open.WaitForRoom(PacketSize(sizeof(buffer)))) return;
        const RingStatus status = open.incoming().Read(buffer, sizeof(buffer), packet);
        if (status == RingStatus::kOk) {
          (void)open.outgoing().StageInBand(PacketHeader::Completion(packet.transaction_id), packet.payload,
                                            packet.payload_size);
          continue;
        }
        open.Publish();
        if (status != RingStatus::kEmpty || open.Arm()) return;
      }
      open.Publish();
      open.Wake();
    }
    void OnGpadlTeardown(Channel&, uint32_t) override { lease.Release(); }
    void FinishClose() {
      is_closing = false;
      channel->FinishClose();
    }

    std::unique_ptr<Channel> channel;
    GpadlLease lease;
    bool finishes_close = true;
    bool refuses = false;
    bool is_closing = false;
  };

  void Post(absl::Span<const uint8_t> message) {
    (void)hypervisor_.ChildPostMessage(ConnectionId{hvdef::vmbus::kMessageConnectionId},
                                       hvdef::vmbus::kSynicMessageType, message);
  }
  void Say(hvdef::vmbus::MessageType type, std::vector<uint32_t> words, size_t size = 0) {
    alignas(4) uint8_t message[256] = {};
    std::memcpy(message, &type, 4);
    std::copy(words.begin(), words.end(), reinterpret_cast<uint32_t*>(message + 8));
    Post(absl::MakeConstSpan(message, std::max(size, 8 + words.size() * 4)));
  }
  void Contact(hvdef::vmbus::Version version, uint32_t vp) {
    const uint32_t target = hvdef::vmbus::HasChannelInterrupts(version) ? uint32_t{hvdef::vmbus::kMessageSint}
                                                                        : uint32_t{kInterruptPage * kPageSize};
    Say(hvdef::vmbus::MessageType::kInitiateContact, {static_cast<uint32_t>(version), vp, target, 0, 0, 0, 0, 0});
  }
  bool Take(uint32_t vp) {
    LoopbackHypervisor::Message message;
    std::array<uint64_t, LoopbackHypervisor::kEventWords> flags;
    const Sint sint{hvdef::vmbus::kMessageSint};
    (void)hypervisor_.TakeEvents(VpIndex{vp}, sint, absl::MakeSpan(flags));
    return hypervisor_.TakeMessage(VpIndex{vp}, sint, message);
  }

  // Another processor's call while the server is outside of its lock.
  void PlayInside() {
    if (inner_ == nullptr || inner_->is_over() || depth_ == 3) return;
    ++depth_;
    if (inner_->Take() % 2 != 0) GuestStep(*inner_);
    --depth_;
  }

  // Bounded: a server that finds ever more to do by itself is a fault.
  void Settle() {
    for (int round = 0; round < 10'000; ++round) {
      bool any = executor_.RunOne();
      for (uint32_t vp = 0; vp < kVps; ++vp) {
        while (Take(vp)) any = true, ++messages_;
      }
      if (!any) return;
    }
    HVSDK_CHECK(!"at rest");
  }

  std::vector<uint8_t> bytes_;
  GuestMemory memory_;
  LoopbackHypervisor hypervisor_{kVps};
  QueueExecutor executor_;
  FakeClock clock_;
  FakeTimerQueue timers_{clock_};
  std::unique_ptr<Server> server_;
  std::array<Device, kDevices> devices_;
  Script* inner_;
  int depth_ = 0;
  uint32_t messages_ = 0;  // taken by Settle
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_FUZZ_VMBUS_CALLS_CALLS_DRIVER_H_
