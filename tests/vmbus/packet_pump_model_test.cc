// SPDX-License-Identifier: Apache-2.0
// The pump against a model of what a guest is owed: guests that send and read at random, wait for room as they are told,
// and signal only when they must; and guests that write anything into rings and their control pages.

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <iterator>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "hvsdk/vmbus/packet_pump.h"
#include "tests/random_seed.h"
#include "tests/vsc/pair_fixture.h"

namespace hvsdk::vsc {
namespace {

constexpr uint32_t kLongest = 1024;
constexpr uint32_t kLongestAnswer = 512;

// Answers some packets at once and some later, does not take packets at times, and has something of its own to say.
class RandomProvider : public vmbus::PacketPump {
 public:
  RandomProvider(std::mt19937_64& random, FakeClock& clock)
      : PacketPump({.max_packet_bytes = kLongest, .max_completion_bytes = kLongestAnswer}),
        random_(random),
        clock_(clock) {}

  struct Said {
    bool is_completion = false;
    uint64_t id = 0;
    uint32_t size = 0;
    bool operator==(const Said&) const = default;
  };

  bool OnOpen(vmbus::Channel& channel) override {
    taken.clear();
    said.clear();
    later_.clear();
    is_taking_ = true;
    return PacketPump::OnOpen(channel);
  }
  void OnSignal(vmbus::Channel&) override {
    taken_in_turn_ = 0;
    TakeTurn();
  }
  vmbus::Take OnTurn() override {
    while (!later_.empty()) {
      const Said& next = later_.front();
      const std::vector<uint8_t> payload(next.size, static_cast<uint8_t>(next.id));
      const auto header =
          next.is_completion ? vmbus::PacketHeader::Completion(next.id) : vmbus::PacketHeader::InBand(next.id, false);
      if (!Send(header, payload.data(), next.size)) return vmbus::Take::kNoMore;
      said.push_back(next);
      later_.pop_front();
    }
    return is_taking_ ? vmbus::Take::kMore : vmbus::Take::kNoMore;
  }
  vmbus::Take OnPacket(const vmbus::Packet& packet) override {
    EXPECT_TRUE(is_taking_);
    EXPECT_LT(taken_in_turn_++, kWorkPerTurn);
    EXPECT_LE(packet.extension_size + packet.payload_size, kLongest);
    taken.push_back({packet.transaction_id, {packet.payload, packet.payload + packet.payload_size}});
    if (is_malformed_ && is_malformed_(packet)) {
      taken.pop_back();
      return vmbus::Take::kMalformed;
    }
    const auto size = static_cast<uint32_t>(random_() % (kLongestAnswer + 1)) & ~7u;
    if (random_() % 4 == 0) {
      later_.push_back({packet.completion_requested(), packet.transaction_id, size});
    } else {
      const std::vector<uint8_t> payload(size, static_cast<uint8_t>(packet.transaction_id));
      Complete(packet, payload.data(), size);
      if (packet.completion_requested()) said.push_back({true, packet.transaction_id, size});
    }
    if (random_() % 16 == 0) AddWork(random_() % 300);
    if (random_() % 4 == 0) clock_.Advance(random_() % 1000);
    is_taking_ = random_() % 40 != 0;
    return is_taking_ ? vmbus::Take::kMore : vmbus::Take::kNoMore;
  }
  void TakeAgain() {
    is_taking_ = true;
    channel().Wake();
  }
  bool is_taking() const { return is_taking_; }
  using PacketPump::is_waiting;

  std::vector<std::pair<uint64_t, std::vector<uint8_t>>> taken;
  std::deque<Said> said;  // and not yet seen by the guest
  std::function<bool(const vmbus::Packet&)> is_malformed_;

 private:
  std::mt19937_64& random_;
  FakeClock& clock_;
  std::deque<Said> later_;
  bool is_taking_ = true;
  uint64_t taken_in_turn_ = 0;
};

// With an executor that knows when it is idle the pump waits, and with another one never.
class PumpModelTest : public PairTest, public testing::WithParamInterface<bool> {
 protected:
  PumpModelTest() : PairTest(/*queue_limit=*/4, GetParam()), random_(TestSeed()), provider_(random_, clock_) {
    channel_ = *server_->OfferChannel(EchoOffer(1), provider_, executor_);
    Boot();
    client_ = Open(1, 2 + static_cast<uint32_t>(random_() % 3));
  }
  void SignalIf(vmbus::Signal signal) {
    if (signal == vmbus::Signal::kNeeded) child_->client().Signal(client_->channel);
  }
  // False: it does not fit, or the guest waits for room.
  bool SendOne() {
    if (waits_for_room_) return false;
    const uint64_t id = next_id_;
    std::vector<uint8_t> payload((random_() % (random_() % 4 == 0 ? kLongest / 2 : 64)) & ~size_t{7});
    for (uint8_t& byte : payload) byte = static_cast<uint8_t>(random_());
    const auto size = static_cast<uint32_t>(payload.size());
    const bool wants_completion = random_() % 8 != 0;
    vmbus::RingStatus status;
    uint32_t room = vmbus::PacketSize(size);
    if (random_() % 3 == 0) {
      const std::vector<uint64_t> pfns(1 + random_() % 40, 1);
      const vmbus::GpaBuffer buffer = {static_cast<uint32_t>(pfns.size() * kPageSize), 0, pfns.data()};
      room = vmbus::PacketSize(size, static_cast<uint32_t>(16 + 8 * pfns.size()));
      status = client_->rings.outgoing.StageGpaDirect(id, wants_completion, &buffer, 1, payload.data(), size);
    } else {
      status =
          client_->rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(id, wants_completion), payload.data(), size);
    }
    if (status == vmbus::RingStatus::kFull) {
      if (random_() % 2 == 0) return false;
      // From now on only a signal tells it to go on.
      SignalIf(client_->rings.outgoing.Publish());
      signals_seen_ = client_->signals;
      waits_for_room_ = client_->rings.outgoing.WaitForRoom(room) == vmbus::RingStatus::kFull;
      return false;
    }
    EXPECT_EQ(status, vmbus::RingStatus::kOk);
    ++next_id_;
    sent_.push_back({id, std::move(payload)});
    return true;
  }
  bool ReadOne() {
    alignas(8) uint8_t buffer[kLongestAnswer];
    vmbus::Packet packet;
    const vmbus::RingStatus status = client_->rings.incoming.Read(buffer, sizeof(buffer), packet);
    if (status == vmbus::RingStatus::kEmpty) return false;
    EXPECT_EQ(status, vmbus::RingStatus::kOk);
    EXPECT_FALSE(provider_.said.empty());
    if (provider_.said.empty()) return false;
    EXPECT_EQ((RandomProvider::Said{packet.type == hvdef::PacketType::kCompletion, packet.transaction_id,
                                    packet.payload_size}),
              provider_.said.front());
    provider_.said.pop_front();
    ++read_;
    return true;
  }
  void PollChild() {
    child_->Poll();
    if (client_->signals != signals_seen_) waits_for_room_ = false;
  }
  void Step() {
    switch (random_() % 10) {
      case 0:
      case 1:
      case 2:
        for (uint64_t count = random_() % 20; count-- != 0 && SendOne();) {
        }
        break;
      case 3:
        SignalIf(client_->rings.outgoing.Publish());
        break;
      case 4:
        for (uint64_t count = random_() % 20; count-- != 0 && ReadOne();) {
        }
        break;
      case 5:
        SignalIf(client_->rings.incoming.Commit());
        break;
      case 6:
        SignalIf(client_->rings.incoming.Arm().signal);
        break;
      case 7:
      case 8:
        executor_.RunOne();
        break;
      default:
        PollChild();
        if (random_() % 4 == 0 && !provider_.is_taking()) provider_.TakeAgain();
    }
  }
  // The guest reads all that comes and sends nothing more; the provider takes all that it is given.
  void Finish() {
    SignalIf(client_->rings.outgoing.Publish());
    for (bool more = true; more;) {
      more = false;
      while (ReadOne()) more = true;
      SignalIf(client_->rings.incoming.Arm().signal);
      if (!provider_.is_taking()) provider_.TakeAgain();
      more |= executor_.RunUntilIdle() != 0;
      PollChild();
    }
  }

  std::mt19937_64 random_;
  RandomProvider provider_;
  std::unique_ptr<vmbus::Channel> channel_;
  std::unique_ptr<ChildChannel> client_;
  std::vector<std::pair<uint64_t, std::vector<uint8_t>>> sent_;
  uint64_t next_id_ = 1;
  uint64_t read_ = 0;
  bool waits_for_room_ = false;
  int signals_seen_ = 0;
};

TEST_P(PumpModelTest, EachPacketOnceInOrderAndNoWakeUpIsLost) {
  uint64_t waited = 0, pump_waited = 0;
  for (int round = 0; round < 20; ++round) {
    for (int step = 0; step < 2000; ++step) {
      Step();
      waited += waits_for_room_;
      pump_waited += provider_.is_waiting();
      ASSERT_FALSE(HasFailure());
    }
    Finish();
    PollChild();
    ASSERT_TRUE(provider_.taken == sent_) << provider_.taken.size() << " of " << sent_.size() << " in round " << round;
    ASSERT_TRUE(provider_.said.empty()) << "round " << round;
    ASSERT_FALSE(waits_for_room_) << "the ring is empty, and the guest was not told";
    ASSERT_FALSE(provider_.is_waiting());
    sent_.clear();
    provider_.taken.clear();
  }
  EXPECT_GT(read_, 1000u);
  EXPECT_GT(waited, 100u);
  EXPECT_EQ(pump_waited > 20, GetParam()) << pump_waited;
}

// The second half of what Patience is for: a wait holds back no answer, and costs a guest that sends one at a time next to no signal.
TEST_P(PumpModelTest, ALoneRequestIsAnsweredAtOnceAndWaitsAreFew) {
  uint64_t waits = 0;
  for (int i = 0; i < 5000; ++i) {
    const uint64_t id = next_id_++;
    ASSERT_EQ(client_->rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(id, true), &id, sizeof(id)),
              vmbus::RingStatus::kOk);
    sent_.push_back({id, {}});
    SignalIf(client_->rings.outgoing.Publish());
    for (int turns = 0; provider_.said.empty() && turns < 10; ++turns) {
      executor_.RunOne();
      if (!provider_.is_taking()) provider_.TakeAgain();
    }
    ASSERT_TRUE(ReadOne());
    waits += provider_.is_waiting();
    (void)client_->rings.incoming.Arm();
    Settle();
  }
  EXPECT_LT(waits, 100u);
}

// Many at a time are found out, and then need hardly a signal.
TEST_P(PumpModelTest, ManyAtATimeNeedFewSignals) {
  uint64_t signals = 0;
  const auto answer_one = [&] {
    executor_.RunOne();
    if (!provider_.is_taking()) provider_.TakeAgain();
    while (ReadOne()) {
    }
  };
  for (int i = 0; i < 5000; ++i) {
    const uint64_t id = next_id_++;
    ASSERT_EQ(client_->rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(id, true), &id, sizeof(id)),
              vmbus::RingStatus::kOk);
    if (client_->rings.outgoing.Publish() == vmbus::Signal::kNeeded) {
      ++signals;
      child_->client().Signal(client_->channel);
      if (!provider_.is_waiting()) answer_one();  // the host's thread is woken at once
    }
    if (i % 16 == 15) Finish();  // the guest has nothing more in flight, and its processor is idle
  }
  EXPECT_EQ(signals < 1000, GetParam()) << signals;
}

TEST_P(PumpModelTest, WhatFollowsAMalformedPacketIsNotTaken) {
  for (int round = 0; round < 200; ++round) {
    const uint64_t bad = next_id_ + random_() % 60;
    provider_.is_malformed_ = [bad](const vmbus::Packet& packet) { return packet.transaction_id == bad; };
    const uint64_t first = next_id_;
    for (int step = 0; step < 300; ++step) Step();
    Finish();
    ASSERT_EQ(provider_.is_held_back(), next_id_ > bad);
    ASSERT_EQ(provider_.taken.size(), std::min(next_id_, bad) - first);
    child_->client().Close(client_->channel);
    Settle();
    sent_.clear();
    waits_for_room_ = false;
    Reopen(*client_, 1);
    ASSERT_FALSE(provider_.is_held_back());
  }
}

// Bytes anywhere: packets, indices, masks, pending sizes, features. It comes to an end, and the next opening is clean.
TEST_P(PumpModelTest, HostileRings) {
  uint64_t held_back = 0, taken = 0;
  for (int round = 0; round < 1000; ++round) {
    provider_.is_malformed_ = [](const vmbus::Packet& packet) { return packet.transaction_id % 64 == 63; };
    uint8_t* const rings = child_->host(client_->gpa);
    const uint64_t ring_bytes = client_->pages.outgoing_pages * kPageSize;
    for (uint64_t step = 1 + random_() % 60; step-- != 0;) {
      // In one of the two rings.
      uint8_t* const ring = rings + (random_() % 2) * ring_bytes;
      switch (random_() % 8) {
        case 0: {
          uint32_t word = static_cast<uint32_t>(random_());
          if (random_() % 2 == 0) word %= ring_bytes;
          if (random_() % 2 == 0) word &= ~7u;
          constexpr size_t kWords[] = {0, 4, 8, 12, 64};  // write, read, mask, pending size, features
          std::memcpy(ring + kWords[random_() % std::size(kWords)], &word, sizeof(word));
          break;
        }
        case 1:
          ring[kPageSize + random_() % (ring_bytes - kPageSize)] = static_cast<uint8_t>(random_());
          break;
        case 2:
          child_->client().Signal(client_->channel);
          break;
        case 3:
          executor_.RunUntilIdle();
          break;
        case 4:
          if (!provider_.is_taking()) provider_.TakeAgain();
          break;
        case 5:
          timers_.AdvanceBy(random_() % 1'000'000);
          break;
        default:
          for (uint64_t count = random_() % 10; count-- != 0;) {
            const std::vector<uint8_t> payload(random_() % 1200 & ~size_t{7});
            (void)client_->rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(random_(), random_() % 2 == 0),
                                                      payload.data(), static_cast<uint32_t>(payload.size()));
          }
          SignalIf(client_->rings.outgoing.Publish());
      }
    }
    executor_.RunUntilIdle();
    held_back += provider_.is_held_back();
    taken += provider_.taken.size();
    child_->client().Close(client_->channel);
    Settle();
    ASSERT_EQ(client_->channel.state(), Channel::State::kNone);
    provider_.is_malformed_ = nullptr;
    Reopen(*client_, 1);
    sent_.clear();
    if (round % 10 == 0) {
      SendOne();
      Finish();
      ASSERT_TRUE(provider_.taken == sent_);
    }
  }
  EXPECT_GT(held_back, 50u);
  EXPECT_GT(taken, 1000u);
}

INSTANTIATE_TEST_SUITE_P(Executors, PumpModelTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "KnowsIdle" : "DoesNotKnow"; });

}  // namespace
}  // namespace hvsdk::vsc
