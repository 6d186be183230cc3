// SPDX-License-Identifier: Apache-2.0
// The storage client when things end: broken rings, answers that are none, a channel that goes away.

#include "hvsdk/vsc/storage_client.h"

#include <array>
#include <atomic>
#include <memory>
#include <random>

#include "fuzz/storvsc/storvsc_harness.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"
#include "tests/vsp/storage_fixture.h"

namespace hvsdk::vsp {
namespace {

using vsc::StorageClient;
using vsc::StorageRequest;
using State = StorageClient::State;

class StorageClientTest : public StorageFixture {
 protected:
  StorageClientTest() {
    Make();
    opened_ = Open(/*subchannel=*/0, /*ring_pages=*/3);  // fewer commands fit in than may be in flight
    client().Start();
    Pump();
    EXPECT_EQ(client().state(), State::kReady);
  }
  StorageClient& client() { return *opened_->client; }
  vsc::VmbusClient& bus() { return child_->client(); }

  // Commands that the provider has not looked at.
  void SendSome() {
    for (Command& command : commands_) {
      command.request.SetTestUnitReady();
      command.request.context = &command;
      command.request.on_done = [](void* context, StorageRequest& request) {
        EXPECT_TRUE(request.is_done);
        ++static_cast<Command*>(context)->done;
      };
      ASSERT_TRUE(client().Send(command.request));
    }
    client().Publish();
    ASSERT_EQ(client().in_flight(), commands_.size());
  }
  void ExpectAllLost(State state) {
    EXPECT_EQ(client().state(), state);
    EXPECT_EQ(client().in_flight(), 0u);
    for (const Command& command : commands_) {
      EXPECT_EQ(command.done, 1);
      EXPECT_TRUE(command.request.is_done);
      EXPECT_TRUE(command.request.lost);
      EXPECT_FALSE(command.request.ok());
    }
    StorageRequest late;
    late.SetTestUnitReady();
    EXPECT_FALSE(client().Send(late));
    EXPECT_FALSE(client().ResetBus());
  }
  // A word of the ring's control page: 0 is the write index, 1 the read index.
  std::atomic_ref<uint32_t> Control(bool incoming, uint32_t word) {
    const uint64_t page = opened_->ring.pages.first_pfn + (incoming ? opened_->ring.outgoing_pages : 0);
    return std::atomic_ref(reinterpret_cast<uint32_t*>(child_->host(page * kPageSize))[word]);
  }
  // The provider's next packet is this.
  void Answer(uint64_t id, const hvdef::storvsc::Packet& packet, uint32_t size) {
    uint8_t* const control = child_->host((opened_->ring.pages.first_pfn + opened_->ring.outgoing_pages) * kPageSize);
    vmbus::RingWriter<vmbus::FlatMemory> root(
        vmbus::FlatMemory(control, control + kPageSize, (opened_->ring.outgoing_pages - 1) * kPageSize));
    ASSERT_EQ(root.Attach(), vmbus::RingStatus::kOk);
    ASSERT_EQ(root.StageInBand(vmbus::PacketHeader::Completion(id), &packet, size), vmbus::RingStatus::kOk);
    (void)root.Publish();
    client().OnSignal();
  }

  struct Command {
    StorageRequest request;
    int done = 0;
  };
  std::unique_ptr<Opened> opened_;
  std::array<Command, 5> commands_;
};

TEST_F(StorageClientTest, FailsOnABadWriteIndex) {
  SendSome();
  Control(/*incoming=*/true, 0).store(0x12345);
  client().OnSignal();
  ExpectAllLost(State::kFailed);
  client().OnSignal();
  ExpectAllLost(State::kFailed);
}

TEST_F(StorageClientTest, FailsOnABadPacketLength) {
  SendSome();
  const uint32_t at = Control(true, 0).load();
  std::memset(child_->host((opened_->ring.pages.first_pfn + opened_->ring.outgoing_pages + 1) * kPageSize) + at, 0, 16);
  Control(true, 0).store(at + 64);
  client().OnSignal();
  ExpectAllLost(State::kFailed);
}

TEST_F(StorageClientTest, FailsOnABadReadIndexWhileItSends) {
  SendSome();
  Control(/*incoming=*/false, 1).store(0x12345);
  // Until it has to look for room.
  std::vector<StorageRequest> more(StorageClient::kMaxRequests);
  size_t sent = 0;
  for (; sent < more.size(); ++sent) {
    more[sent].SetTestUnitReady();
    if (!client().Send(more[sent])) break;
  }
  EXPECT_GT(sent, 0u);
  EXPECT_LT(commands_.size() + sent, StorageClient::kMaxRequests);
  for (size_t i = 0; i < sent; ++i) EXPECT_TRUE(more[i].lost);
  ExpectAllLost(State::kFailed);
}

TEST_F(StorageClientTest, FailsOnAnAnswerThatIsNone) {
  hvdef::storvsc::Packet answer = {};
  answer.header.operation = hvdef::storvsc::Operation::kCompleteIo;
  SendSome();
  Answer(/*id=*/77, answer, sizeof(answer));  // nobody waits for it
  EXPECT_EQ(client().state(), State::kReady);
  EXPECT_EQ(client().in_flight(), commands_.size());
  Answer(/*id=*/1, answer, 16);
  ExpectAllLost(State::kFailed);
}

TEST_F(StorageClientTest, FailsOnAnAnswerOfAnotherKind) {
  hvdef::storvsc::Packet answer = {};
  answer.header.operation = hvdef::storvsc::Operation::kEnumerateBus;
  SendSome();
  Answer(/*id=*/1, answer, sizeof(answer));
  ExpectAllLost(State::kFailed);
}

TEST_F(StorageClientTest, RescindEndsWhatIsInFlight) {
  SendSome();
  storage_.reset();
  Pump();
  EXPECT_EQ(opened_->channel.state(), vsc::Channel::State::kRescinded);
  ExpectAllLost(State::kEnded);
}

TEST_F(StorageClientTest, CloseEndsWhatIsInFlightWhenTheProviderHasLetGo) {
  SendSome();
  bus().Close(opened_->channel);
  ASSERT_EQ(opened_->channel.state(), vsc::Channel::State::kClosing);
  EXPECT_FALSE(commands_[0].request.is_done);  // the provider may be at it
  StorageRequest late;
  late.SetTestUnitReady();
  EXPECT_FALSE(client().Send(late));
  Pump();
  ExpectAllLost(State::kEnded);
}

TEST_F(StorageClientTest, UnloadEndsWhatIsInFlight) {
  SendSome();
  bus().Unload();
  Pump();
  ExpectAllLost(State::kEnded);
}

TEST_F(StorageClientTest, ANewConnectionEndsWhatIsInFlight) {
  SendSome();
  child_->Connect();
  ExpectAllLost(State::kEnded);
}

TEST_F(StorageClientTest, RescindEndsTheOpeningExchange) {
  bus().Close(opened_->channel);
  Pump();
  Reopen(*opened_);
  client().Start();
  storage_.reset();
  Pump();
  EXPECT_EQ(client().state(), State::kEnded);
}

TEST_F(StorageClientTest, WorksAgainOnANewOpening) {
  SendSome();
  Control(true, 0).store(0x12345);
  client().OnSignal();
  bus().Close(opened_->channel);
  Pump();
  EXPECT_EQ(client().state(), State::kEnded);
  Reopen(*opened_);
  client().Start();
  Pump();
  ASSERT_EQ(client().state(), State::kReady);
  StorageRequest request;
  request.SetReportLuns(8);
  GuestBuffer buffer = Allocate(8);
  request.data = buffer.gpa_buffer();
  Run(client(), request);
  EXPECT_FALSE(request.lost);
}

// Random hosts. The harness checks that each command, and the channel, ends once.
TEST(StorageClientRandomTest, AHostileHost) {
  std::mt19937_64 random(TestSeed());
  const uint32_t rounds = ScaledCount(20000);
  for (uint32_t round = 0; round < rounds; ++round) {
    std::vector<uint8_t> bytes(800);
    for (size_t at = 0; at < bytes.size(); at += 8) {
      const uint64_t word = random();
      std::memcpy(&bytes[at], &word, 8);
    }
    vsc::StorvscHarness(bytes).Run();
  }
}

}  // namespace
}  // namespace hvsdk::vsp
