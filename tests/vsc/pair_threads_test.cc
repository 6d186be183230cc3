// SPDX-License-Identifier: Apache-2.0
// Root, providers and child on threads of their own: opened, closed, rescinded and echoed to at random.

#include <atomic>
#include <chrono>
#include <random>
#include <thread>

#include "tests/random_seed.h"
#include "tests/vsc/pair_fixture.h"

namespace hvsdk::vsc {
namespace {

class ThreadsTest : public PairTest {
 protected:
  ThreadsTest() {
    for (auto& executor : executors_) {
      workers_.emplace_back([this, &executor] {
        while (!stop_.load()) {
          if (executor.RunUntilIdle() == 0) std::this_thread::yield();
        }
      });
    }
  }
  void StopWorkers() {
    stop_ = true;
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
  }
  ~ThreadsTest() override { StopWorkers(); }

  template <typename Done>
  bool PollUntil(Done done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!done()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      if (!child_->Poll()) std::this_thread::yield();
    }
    return true;
  }

  QueueExecutor executors_[2];
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

TEST_F(ThreadsTest, EchoWithoutALostWakeUp) {
  constexpr int kRounds = 3000;
  Echo echos[2];
  std::unique_ptr<vmbus::Channel> channels[2];
  // The second has its turns on the first's thread.
  for (uint32_t i = 0; i < 2; ++i) {
    channels[i] = *server_->OfferChannel(EchoOffer(i + 1), echos[i], executors_[i], &executors_[0]);
  }
  child_ = std::make_unique<LoopbackChild>(hypervisor_, memory_, hvdef::vmbus::kNewestVersion, 1);
  child_->Connect();
  ASSERT_TRUE(PollUntil([&] { return child_->client().state() == VmbusClient::State::kConnected; }));
  child_->client().RequestOffers();
  ASSERT_TRUE(PollUntil([&] { return child_->all_offers_delivered(); }));
  ChildChannel clients[2];
  for (uint32_t i = 0; i < 2; ++i) {
    clients[i].Prepare(*child_, 4);
    ASSERT_TRUE(child_->client().Open(clients[i].channel, *child_->FindOffer(EchoOffer(i + 1).instance_id),
                                      clients[i].pages, 1));
    ASSERT_TRUE(PollUntil([&] { return clients[i].channel.state() == Channel::State::kOpen; }));
  }
  for (int round = 0; round < kRounds; ++round) {
    ChildChannel& client = clients[round % 2];
    const uint64_t payload = round;
    ASSERT_EQ(client.rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(round, true), &payload, sizeof(payload)),
              vmbus::RingStatus::kOk);
    if (client.rings.outgoing.Publish() == vmbus::Signal::kNeeded) child_->client().Signal(client.channel);
    alignas(8) uint8_t buffer[64];
    vmbus::Packet packet;
    ASSERT_TRUE(PollUntil([&] { return client.rings.incoming.HasPacket(); })) << "lost wake-up in round " << round;
    ASSERT_EQ(client.rings.incoming.Read(buffer, sizeof(buffer), packet), vmbus::RingStatus::kOk);
    ASSERT_EQ(packet.transaction_id, static_cast<uint64_t>(round));
    (void)client.rings.incoming.Commit();
  }
  child_->client().Unload();
  ASSERT_TRUE(PollUntil([&] { return child_->client().state() == VmbusClient::State::kDisconnected; }));
  StopWorkers();
}

// The child sends without pause into a small ring and, whenever that is full, waits for the root's signal and for
// nothing else.
TEST_F(ThreadsTest, AFullRingWithoutALostWakeUp) {
  struct Sink : vmbus::ChannelHandler {
    bool OnOpen(vmbus::Channel&) override { return true; }
    void OnClose(vmbus::Channel& channel) override { channel.FinishClose(); }
    void OnSignal(vmbus::Channel& channel) override {
      alignas(8) uint8_t buffer[512];
      vmbus::Packet packet;
      do {
        while (channel.incoming().Read(buffer, sizeof(buffer), packet) == vmbus::RingStatus::kOk) {
          in_order = in_order && packet.transaction_id == packets++;
          if (packets % 7 == 0) channel.SignalGuest(channel.incoming().Commit());
        }
      } while (!channel.Arm());
    }
    std::atomic<bool> in_order{true};
    std::atomic<uint64_t> packets{0};
  } sink;
  auto channel = *server_->OfferChannel(EchoOffer(1), sink, executors_[0]);
  child_ = std::make_unique<LoopbackChild>(hypervisor_, memory_, hvdef::vmbus::kNewestVersion, 1);
  child_->Connect();
  ASSERT_TRUE(PollUntil([&] { return child_->client().state() == VmbusClient::State::kConnected; }));
  child_->client().RequestOffers();
  ASSERT_TRUE(PollUntil([&] { return child_->all_offers_delivered(); }));
  ChildChannel client;
  client.Prepare(*child_, 2);
  ASSERT_TRUE(child_->client().Open(client.channel, *child_->FindOffer(EchoOffer(1).instance_id), client.pages, 1));
  ASSERT_TRUE(PollUntil([&] { return client.channel.state() == Channel::State::kOpen; }));
  constexpr uint64_t kPackets = 20000;
  const uint8_t payload[200] = {};
  int waits = 0;
  for (uint64_t id = 0; id < kPackets;) {
    auto& ring = client.rings.outgoing;
    const auto status = ring.StageInBand(vmbus::PacketHeader::InBand(id, false), payload, sizeof(payload));
    if (status == vmbus::RingStatus::kOk) {
      ++id;
      continue;
    }
    ASSERT_EQ(status, vmbus::RingStatus::kFull);
    if (ring.Publish() == vmbus::Signal::kNeeded) child_->client().Signal(client.channel);
    const int signals = client.signals;
    if (ring.WaitForRoom(vmbus::PacketSize(sizeof(payload))) == vmbus::RingStatus::kOk) continue;
    ++waits;
    ASSERT_TRUE(PollUntil([&] { return client.signals != signals; })) << "lost wake-up at packet " << id;
  }
  if (client.rings.outgoing.Publish() == vmbus::Signal::kNeeded) child_->client().Signal(client.channel);
  ASSERT_TRUE(PollUntil([&] { return sink.packets == kPackets; }));
  EXPECT_TRUE(sink.in_order);
  EXPECT_GT(waits, 0);
  StopWorkers();
}

// The host offers and rescinds on the executors' threads while the child opens and closes; half of the channels have their turns on the
// other thread.
TEST_F(ThreadsTest, ComingsAndGoings) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  // A device that comes and goes on its executor.
  struct Device : Task {
    Device(vmbus::Server& server, uint32_t instance, Executor& executor, Executor& turns)
        : server(server), instance(instance), executor(executor), turns(turns) {}
    void Run() override {
      if (channel != nullptr) {
        channel.reset();
      } else {
        auto offered = server.OfferChannel(EchoOffer(instance), echo, executor, &turns);
        if (offered.ok()) channel = *std::move(offered);
      }
    }
    vmbus::Server& server;
    const uint32_t instance;
    Executor& executor;
    Executor& turns;
    Echo echo;
    std::unique_ptr<vmbus::Channel> channel;
  };
  std::vector<std::unique_ptr<Device>> devices;
  for (uint32_t i = 0; i < 6; ++i) {
    devices.push_back(std::make_unique<Device>(*server_, i + 1, executors_[i % 2], executors_[i / 3]));
    executors_[i % 2].Schedule(*devices.back());
  }
  child_ = std::make_unique<LoopbackChild>(hypervisor_, memory_, hvdef::vmbus::kNewestVersion, 1);
  std::vector<ChildChannel> clients(6);
  for (ChildChannel& client : clients) client.Prepare(*child_, 4);
  int opened = 0;
  for (int boot = 0; boot < 4; ++boot) {
    child_->Connect();
    ASSERT_TRUE(PollUntil([&] { return child_->client().state() == VmbusClient::State::kConnected; }));
    child_->client().RequestOffers();
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    for (int step = 0; step < 2000 || (opened < 10 * (boot + 1) && std::chrono::steady_clock::now() < deadline);
         ++step) {
      const uint32_t i = random() % 6;
      ChildChannel& client = clients[i];
      switch (random() % 8) {
        case 0:
          if (random() % 4 == 0) executors_[i % 2].Schedule(*devices[i]);
          break;
        case 1:
        case 2:
          if (const auto* offer = child_->FindOffer(EchoOffer(i + 1).instance_id); offer != nullptr) {
            const Channel::State state = client.channel.state();
            if (state != Channel::State::kOpening && state != Channel::State::kOpen &&
                state != Channel::State::kClosing) {
              client.rings = ClientRings::Create(child_->host(client.gpa), client.pages);
              opened += child_->client().Open(client.channel, *offer, client.pages, random() % 4);
            }
          }
          break;
        case 3:
          child_->client().Close(client.channel);
          break;
        case 4:
          (void)child_->client().Modify(client.channel, random() % 4);
          break;
        default:
          if (client.channel.state() == Channel::State::kOpen) {
            const uint64_t payload = step;
            (void)client.rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(step, true), &payload, sizeof(payload));
            if (client.rings.outgoing.Publish() == vmbus::Signal::kNeeded) child_->client().Signal(client.channel);
            alignas(8) uint8_t buffer[64];
            vmbus::Packet packet;
            while (client.rings.incoming.Read(buffer, sizeof(buffer), packet) == vmbus::RingStatus::kOk) {
            }
            (void)client.rings.incoming.Commit();
          }
          break;
      }
      child_->Poll();
    }
    if (boot % 2 == 0) {
      child_->client().Unload();
      ASSERT_TRUE(PollUntil([&] { return child_->client().state() == VmbusClient::State::kDisconnected; }));
    }
  }
  EXPECT_GE(opened, 40);
  StopWorkers();
  devices.clear();
}

}  // namespace
}  // namespace hvsdk::vsc
