// SPDX-License-Identifier: Apache-2.0
// The pump against guests that do not read, never stop, send what is too long or not meant, and break their rings.

#include "hvsdk/vmbus/packet_pump.h"

#include <functional>
#include <memory>
#include <vector>

#include "tests/vsc/pair_fixture.h"

namespace hvsdk::vsc {
namespace {

constexpr uint32_t kLongest = 2048;
constexpr uint64_t kPerTurn = vmbus::PacketPump::kWorkPerTurn;

class CarefulEcho : public vmbus::PacketPump {
 public:
  CarefulEcho() : PacketPump({.max_packet_bytes = kLongest, .max_completion_bytes = kLongest}) {}
  void OnSignal(vmbus::Channel&) override {
    ++turns;
    TakeTurn();
  }
  vmbus::Take OnPacket(const vmbus::Packet& packet) override {
    if (is_malformed && is_malformed(packet)) return vmbus::Take::kMalformed;
    Complete(packet, packet.payload, packet.payload_size);
    ++answers;
    if (on_answer) on_answer();
    return vmbus::Take::kMore;
  }

  int turns = 0, answers = 0;
  std::function<void()> on_answer;
  std::function<bool(const vmbus::Packet&)> is_malformed;
};

class CarefulProviderTest : public PairTest {
 protected:
  CarefulProviderTest() {
    auto channel = server_->OfferChannel(EchoOffer(1), echo_, executor_);
    EXPECT_TRUE(channel.ok());
    channel_ = *std::move(channel);
    Boot();
    client_ = Open(1);
  }
  // False: the ring is full.
  bool Send(uint64_t id, uint32_t size) {
    const std::vector<uint8_t> payload(size, static_cast<uint8_t>(id));
    return client_->rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(id, true), payload.data(), size) ==
           vmbus::RingStatus::kOk;
  }
  void Publish() {
    if (client_->rings.outgoing.Publish() == vmbus::Signal::kNeeded) child_->client().Signal(client_->channel);
  }
  // Takes what has come; each answer is the next one, and whole.
  void TakeAnswers() {
    alignas(8) uint8_t buffer[2 * kLongest];
    vmbus::Packet packet;
    while (client_->rings.incoming.Read(buffer, sizeof(buffer), packet) == vmbus::RingStatus::kOk) {
      EXPECT_EQ(packet.transaction_id, ++taken_);
      EXPECT_EQ(packet.payload[packet.payload_size / 2], static_cast<uint8_t>(taken_));
    }
    if (client_->rings.incoming.Arm().signal == vmbus::Signal::kNeeded) child_->client().Signal(client_->channel);
  }

  CarefulEcho echo_;
  std::unique_ptr<vmbus::Channel> channel_;
  std::unique_ptr<ChildChannel> client_;
  uint64_t taken_ = 0;
};

TEST_F(CarefulProviderTest, NoAnswerIsLostToAChildThatReadsLate) {
  uint64_t sent = 0;
  for (int round = 0; round < 20; ++round) {
    // Until both rings are full.
    for (bool more = true; more;) {
      more = false;
      while (Send(sent + 1, 1000)) ++sent, more = true;
      Publish();
      Settle();
    }
    EXPECT_LT(taken_, sent);
    EXPECT_LT(static_cast<uint64_t>(echo_.answers), sent) << "requests wait in their ring";
    for (uint64_t before = ~uint64_t{0}; before != taken_;) {
      before = taken_;
      TakeAnswers();
      Settle();
    }
    ASSERT_EQ(taken_, sent) << "the signal for room brings the provider back";
  }
}

TEST_F(CarefulProviderTest, AChildThatNeverStopsGetsOneTurnAtATime) {
  uint64_t sent = 0;
  Send(++sent, 8);
  bool others_ran = false;
  struct Other : Task {
    explicit Other(bool& ran) : ran(ran) {}
    void Run() override { ran = true; }
    bool& ran;
  } other(others_ran);
  // Refills the ring, and empties the other, from within the provider's loop.
  echo_.on_answer = [&] {
    if (sent == 1) executor_.Schedule(other);
    channel_->SignalGuest(channel_->incoming().Commit());
    if (!others_ran && Send(sent + 1, 8)) {
      ++sent;
      Publish();
    }
    channel_->Publish();
    TakeAnswers();
    if (sent > 10 * kPerTurn) others_ran = true;  // or this test would not end
  };
  Publish();
  Settle();
  EXPECT_TRUE(others_ran);
  EXPECT_LE(sent, 2 * kPerTurn) << "another task had to wait";
  EXPECT_EQ(taken_, sent);
}

TEST_F(CarefulProviderTest, ATurnEndsWhenItsTimeIsOver) {
  uint64_t sent = 0;
  while (sent < 200 && Send(sent + 1, 8)) ++sent;
  echo_.on_answer = [&] { clock_.Advance(vmbus::PacketPump::kTurn100ns / 40); };
  const int before = echo_.turns;
  Publish();
  Settle();
  // The clock is looked at after each 16 packets: at the first look the time begins, at 64 it is over.
  EXPECT_EQ(echo_.turns - before, 1 + 200 / 64);
  TakeAnswers();
  EXPECT_EQ(taken_, sent);
}

TEST_F(CarefulProviderTest, APacketThatIsTooLongEndsTheReading) {
  ASSERT_TRUE(Send(1, 8));
  ASSERT_TRUE(Send(2, kLongest + 8));
  ASSERT_TRUE(Send(3, 8));
  Publish();
  Settle();  // comes to an end
  EXPECT_EQ(echo_.answers, 1);
  EXPECT_TRUE(echo_.is_held_back());
  EXPECT_LE(echo_.turns, 3);
  EXPECT_EQ(client_->channel.state(), Channel::State::kOpen);
  TakeAnswers();
  EXPECT_EQ(taken_, 1u) << "what came before has its answer";

  child_->client().Close(client_->channel);
  Settle();
  Reopen(*client_, 1);
  EXPECT_FALSE(echo_.is_held_back());
  ExpectEcho(*client_, "as good as new");
}

TEST_F(CarefulProviderTest, AMalformedPacketStaysInItsRing) {
  int found = 0;
  echo_.is_malformed = [&](const vmbus::Packet& packet) { return packet.transaction_id == 2 && ++found; };
  for (uint64_t id = 1; id <= 3; ++id) ASSERT_TRUE(Send(id, 8));
  Publish();
  Settle();
  channel_->Wake();
  Settle();
  EXPECT_EQ(echo_.answers, 1);
  EXPECT_EQ(found, 1) << "looked at again and again";
  const auto& control = *client_->rings.outgoing.memory().control();
  EXPECT_EQ(control.read_index, vmbus::PacketSize(8)) << "the next root would not find it";
}

TEST_F(CarefulProviderTest, WhoWantsNoCompletionGetsNone) {
  ASSERT_EQ(client_->rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(7, false), "notified", 8),
            vmbus::RingStatus::kOk);
  Publish();
  Settle();
  EXPECT_EQ(echo_.answers, 1);
  EXPECT_FALSE(client_->rings.incoming.HasPacket());
}

// Sends as much as there is room for, and counts what comes.
class Talker : public vmbus::PacketPump {
 public:
  static constexpr uint32_t kBytes = 1000;
  Talker() : PacketPump({.max_packet_bytes = 64, .takes_while_waiting = true}) {}
  int sent = 0, taken = 0;

 private:
  vmbus::Take OnTurn() override {
    const uint8_t bytes[kBytes] = {};
    while (has_time() && HasRoom(kBytes)) {
      EXPECT_TRUE(Send(vmbus::PacketHeader::InBand(0, false), bytes, kBytes));
      ++sent;
      AddWork(1);
    }
    return vmbus::Take::kMore;
  }
  vmbus::Take OnPacket(const vmbus::Packet&) override {
    ++taken;
    return vmbus::Take::kMore;
  }
};

TEST_F(PairTest, AStreamTakesPacketsWhileItsOwnWaitForRoom) {
  Talker talker;
  auto channel = server_->OfferChannel(EchoOffer(1), talker, executor_);
  ASSERT_TRUE(channel.ok());
  Boot();
  const auto client = Open(1);
  Settle();
  const int first = talker.sent;
  EXPECT_GT(first, 0);
  for (int i = 1; i <= 5; ++i) {
    ASSERT_EQ(client->rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(0, false), "", 0), vmbus::RingStatus::kOk);
    if (client->rings.outgoing.Publish() == vmbus::Signal::kNeeded) child_->client().Signal(client->channel);
    Settle();
    EXPECT_EQ(talker.taken, i);
  }
  EXPECT_EQ(talker.sent, first);
  alignas(8) uint8_t buffer[2 * Talker::kBytes];
  for (int round = 1; round <= 3; ++round) {
    int received = 0;
    vmbus::Packet packet;
    while (client->rings.incoming.Read(buffer, sizeof(buffer), packet) == vmbus::RingStatus::kOk) ++received;
    EXPECT_EQ(received, first);
    if (client->rings.incoming.Arm().signal == vmbus::Signal::kNeeded) child_->client().Signal(client->channel);
    Settle();
    EXPECT_EQ(talker.sent, (round + 1) * first);
  }
}

// What it takes meanwhile must not want the room that there is not: then it rests, until the guest reads.
TEST_F(PairTest, AStreamThatAnswersRestsWithoutRoom) {
  class Answerer : public vmbus::PacketPump {
   public:
    Answerer() : PacketPump({.max_packet_bytes = 64, .max_completion_bytes = 8, .takes_while_waiting = true}) {}
    int turns = 0, taken = 0;

   private:
    void OnSignal(vmbus::Channel&) override {
      ++turns;
      TakeTurn();
    }
    vmbus::Take OnPacket(const vmbus::Packet& packet) override {
      ++taken;
      Complete(packet, nullptr, 0);
      return vmbus::Take::kMore;
    }
  };
  Answerer answerer;
  auto channel = server_->OfferChannel(EchoOffer(1), answerer, executor_);
  ASSERT_TRUE(channel.ok());
  Boot();
  const auto client = Open(1);
  const auto step = [&] {  // a signal more, and as many turns as it takes
    if (client->rings.outgoing.Publish() == vmbus::Signal::kNeeded) child_->client().Signal(client->channel);
    for (int i = 0; i < 10'000 && (executor_.RunOne() || child_->Poll()); ++i) {
    }
  };
  int sent = 0;
  for (int before = -1; before != answerer.taken || sent == 0;) {
    before = answerer.taken;
    while (client->rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(1, true), "", 0) == vmbus::RingStatus::kOk) {
      ++sent;
    }
    step();
  }
  ASSERT_LT(answerer.taken, sent) << "both rings are full";
  EXPECT_FALSE(executor_.RunOne()) << "it has turns and turns";
  EXPECT_LT(answerer.turns, 100);

  alignas(8) uint8_t buffer[64];
  vmbus::Packet packet;
  int received = 0;
  for (int before = -1; before != received;) {
    before = received;
    while (client->rings.incoming.Read(buffer, sizeof(buffer), packet) == vmbus::RingStatus::kOk) ++received;
    if (client->rings.incoming.Arm().signal == vmbus::Signal::kNeeded) child_->client().Signal(client->channel);
    step();
  }
  EXPECT_EQ(received, sent);
}

TEST_F(PairTest, ARingThatIsTooSmallForAnAnswerIsRefused) {
  class LongAnswers : public vmbus::PacketPump {
   public:
    explicit LongAnswers(uint32_t size) : PacketPump({.max_completion_bytes = size}) {}
    vmbus::Take OnPacket(const vmbus::Packet&) override { return vmbus::Take::kMore; }
  };
  // A ring of 3 data pages has 3 * 4096 - 8 bytes for packets, each with 24 of its own.
  LongAnswers fits(3 * 4096 - 32), too_long(3 * 4096 - 24);
  const auto first = server_->OfferChannel(EchoOffer(1), fits, executor_);
  const auto second = server_->OfferChannel(EchoOffer(2), too_long, executor_);
  ASSERT_TRUE(first.ok() && second.ok());
  Boot();
  const auto opened = Open(1), refused = Open(2);
  EXPECT_EQ(opened->channel.state(), Channel::State::kOpen);
  EXPECT_EQ(refused->channel.state(), Channel::State::kFailed);
}

// A guest of before the feature says nothing when it has made room. The provider looks by itself, more and more seldom.
class SilentChildTest : public CarefulProviderTest {
 protected:
  SilentChildTest() {
    client_->rings.outgoing.memory().control()->feature_bits = 0;
    while (Send(sent_ + 1, 1000)) ++sent_;
    for (bool more = true; more;) {
      more = false;
      Publish();
      Settle();
      while (Send(sent_ + 1, 1000)) ++sent_, more = true;
    }
    EXPECT_LT(static_cast<uint64_t>(echo_.answers), sent_) << "both rings are full";
  }
  // Makes room, and keeps it to itself.
  void TakeInSilence(int count) {
    alignas(8) uint8_t buffer[2 * kLongest];
    vmbus::Packet packet;
    while (count-- > 0 && client_->rings.incoming.Read(buffer, sizeof(buffer), packet) == vmbus::RingStatus::kOk) {
      EXPECT_EQ(packet.transaction_id, ++taken_);
    }
    (void)client_->rings.incoming.Commit();
  }

  uint64_t sent_ = 0;
};

TEST_F(SilentChildTest, GetsAllAnswersByAndBy) {
  for (int looks = 0; taken_ != sent_ && looks < 1000; ++looks) {
    TakeInSilence(3);
    timers_.AdvanceBy(1'000'000);
    Settle();
  }
  EXPECT_EQ(taken_, sent_);
}

TEST_F(SilentChildTest, IsNotPolledWhileItTakesNothing) {
  const int before = echo_.turns;
  for (int i = 0; i < 10'000; ++i) {  // ten seconds, a millisecond at a time
    timers_.AdvanceBy(10'000);
    Settle();
  }
  EXPECT_GE(echo_.turns - before, 90);
  EXPECT_LE(echo_.turns - before, 120);
  // Room is found within the longest interval, and then soon again.
  TakeInSilence(1000);
  const int answers = echo_.answers;
  timers_.AdvanceBy(1'000'000);
  Settle();
  EXPECT_GT(echo_.answers, answers);
  EXPECT_LE(timers_.next_deadline_100ns(), clock_.Now100ns() + 1'000'000);
}

TEST_F(SilentChildTest, ItsNextPacketIsAReasonToLook) {
  for (int looks = 0; taken_ != sent_ && looks < 1000; ++looks) {
    TakeInSilence(1000);
    timers_.AdvanceBy(1'000'000);
    Settle();
  }
  ASSERT_EQ(taken_, sent_);
  ASSERT_TRUE(Send(++sent_, 8));
  Publish();
  Settle();
  TakeInSilence(1);
  EXPECT_EQ(taken_, sent_);
}

TEST_F(SilentChildTest, AClosedChannelIsNotLookedAt) {
  child_->client().Close(client_->channel);
  Settle();
  EXPECT_EQ(timers_.armed(), 0u);
  const int before = echo_.turns;
  timers_.AdvanceBy(10'000'000);
  Settle();
  EXPECT_EQ(echo_.turns, before);
}

}  // namespace
}  // namespace hvsdk::vsc
