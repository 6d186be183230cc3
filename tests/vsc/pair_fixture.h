// SPDX-License-Identifier: Apache-2.0
// A root with an echo provider and a child, in one process and on one thread.

#ifndef HVSDK_TESTS_VSC_PAIR_FIXTURE_H_
#define HVSDK_TESTS_VSC_PAIR_FIXTURE_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/base/queue_executor.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/channel.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/loopback_child.h"

namespace hvsdk::vsc {

// Answers each packet with its own payload. Counts what happens to it.
class Echo : public vmbus::ChannelHandler {
 public:
  bool OnOpen(vmbus::Channel& channel) override {
    ++opens;
    last_open = channel.open_params();
    return accept;
  }
  void OnClose(vmbus::Channel& channel) override {
    ++closes;
    lease.Release();
    if (finish_close) {
      channel.FinishClose();
    } else {
      closing = &channel;
    }
  }
  void OnSignal(vmbus::Channel& channel) override {
    ++signals;
    alignas(8) uint8_t buffer[8192];
    vmbus::Packet packet;
    do {
      while (channel.incoming().Read(buffer, sizeof(buffer), packet) == vmbus::RingStatus::kOk) {
        ++packets;
        (void)channel.outgoing().StageInBand(vmbus::PacketHeader::Completion(packet.transaction_id), packet.payload,
                                             packet.payload_size);
      }
      channel.Publish();
    } while (!channel.Arm());
  }
  void OnGpadlTeardown(vmbus::Channel&, uint32_t gpadl_id) override {
    torn_down = gpadl_id;
    if (give_up_leases) lease.Release();
  }

  bool accept = true;
  bool finish_close = true;
  bool give_up_leases = true;
  int opens = 0;
  int closes = 0;
  int signals = 0;
  int packets = 0;
  uint32_t torn_down = 0;
  vmbus::OpenParams last_open;
  vmbus::Channel* closing = nullptr;
  vmbus::GpadlLease lease;
};

inline constexpr hvdef::Guid kEchoClass = hvdef::MakeGuid("7b9c1f52-3d6e-4b1a-9c41-5f0e6a2d8c11");

inline vmbus::Offer EchoOffer(uint32_t instance, uint16_t subchannel = 0) {
  vmbus::Offer offer;
  offer.class_id = kEchoClass;
  offer.instance_id.data1 = instance;
  offer.subchannel_index = subchannel;
  return offer;
}

class PairTest : public testing::Test {
 protected:
  static constexpr uint64_t kMemoryBytes = 16 << 20;

  explicit PairTest(size_t queue_limit = 4, bool knows_idle = false)
      : bytes_(kMemoryBytes), hypervisor_(4, queue_limit), executor_(knows_idle) {
    EXPECT_TRUE(memory_.AddRange(0, absl::MakeSpan(bytes_)).ok());
    server_ = std::make_unique<vmbus::Server>(
        memory_, hypervisor_, vmbus::ServerOptions{.vp_count = 4},
        vmbus::ServerResources{.executor = &executor_, .timers = &timers_, .clock = &clock_});
    EXPECT_TRUE(server_->Start().ok());
  }

  // Lets both sides work until neither has anything to do.
  void Settle() {
    while ((child_ != nullptr && child_->Poll()) || executor_.RunUntilIdle() != 0) continue;
  }
  void Boot(hvdef::vmbus::Version newest = hvdef::vmbus::kNewestVersion) {
    child_ = std::make_unique<LoopbackChild>(hypervisor_, memory_, newest, 1);
    child_->Connect();
    Settle();
    ASSERT_EQ(child_->client().state(), VmbusClient::State::kConnected);
    child_->client().RequestOffers();
    Settle();
    ASSERT_TRUE(child_->all_offers_delivered());
  }

  // A child's channel with its rings.
  struct ChildChannel {
    Channel channel;
    ClientRings rings;
    RingPages pages;
    uint64_t gpa = 0;
    int signals = 0;
    int ends = 0;

    void Prepare(LoopbackChild& child, uint32_t pages_each) {
      gpa = child.AllocatePages(2 * pages_each);
      pages = {{nullptr, gpa / kPageSize, 2 * pages_each}, pages_each};
      rings = ClientRings::Create(child.host(gpa), pages);
      channel.context = this;
      channel.on_signal = [](void* context, Channel&) { ++static_cast<ChildChannel*>(context)->signals; };
      channel.on_end = [](void* context, Channel& ended) {
        EXPECT_TRUE(ended.state() == Channel::State::kNone || ended.state() == Channel::State::kFailed ||
                    ended.state() == Channel::State::kRescinded);
        ++static_cast<ChildChannel*>(context)->ends;
      };
    }
  };
  std::unique_ptr<ChildChannel> Open(uint32_t instance, uint32_t pages_each = 4, uint32_t target_vp = 1,
                                     uint16_t subchannel = 0) {
    auto channel = std::make_unique<ChildChannel>();
    channel->Prepare(*child_, pages_each);
    Reopen(*channel, instance, target_vp, subchannel);
    return channel;
  }
  void Reopen(ChildChannel& channel, uint32_t instance, uint32_t target_vp = 1, uint16_t subchannel = 0) {
    channel.rings = ClientRings::Create(child_->host(channel.gpa), channel.pages);
    const auto* const offer = child_->FindOffer(EchoOffer(instance).instance_id, subchannel);
    ASSERT_NE(offer, nullptr);
    ASSERT_TRUE(child_->client().Open(channel.channel, *offer, channel.pages, target_vp));
    Settle();
  }
  // Sends a packet and takes its answer.
  void ExpectEcho(ChildChannel& channel, const std::string& text) {
    ASSERT_EQ(channel.channel.state(), Channel::State::kOpen);
    const uint64_t id = ++transaction_;
    ASSERT_EQ(channel.rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(id, true), text.data(), text.size()),
              vmbus::RingStatus::kOk);
    if (channel.rings.outgoing.Publish() == vmbus::Signal::kNeeded) child_->client().Signal(channel.channel);
    Settle();
    alignas(8) uint8_t buffer[8192];
    vmbus::Packet packet;
    ASSERT_EQ(channel.rings.incoming.Read(buffer, sizeof(buffer), packet), vmbus::RingStatus::kOk);
    EXPECT_EQ(packet.transaction_id, id);
    ASSERT_GE(packet.payload_size, text.size());
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(packet.payload), text.size()), text);
    const vmbus::Armed armed = channel.rings.incoming.Arm();
    EXPECT_TRUE(armed.may_sleep);
  }

  GuestMemory memory_;
  std::vector<uint8_t> bytes_;
  vmbus::LoopbackHypervisor hypervisor_;
  QueueExecutor executor_;
  FakeClock clock_;
  FakeTimerQueue timers_{clock_};
  std::unique_ptr<vmbus::Server> server_;
  std::unique_ptr<LoopbackChild> child_;
  uint64_t transaction_ = 100;
};

}  // namespace hvsdk::vsc

#endif  // HVSDK_TESTS_VSC_PAIR_FIXTURE_H_
