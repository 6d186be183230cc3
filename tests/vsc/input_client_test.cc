// SPDX-License-Identifier: Apache-2.0
// The clients of keyboard and mouse with a host that lies.

#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"
#include "hvsdk/vmbus/packet_pump.h"
#include "hvsdk/vsc/keyboard_client.h"
#include "hvsdk/vsc/mouse_client.h"
#include "tests/random_seed.h"
#include "tests/vsp/input_fixture.h"

namespace hvsdk::vsp {
namespace {

// Says what it is told to, in hexadecimal, and hears nothing.
class LyingHost final : public vmbus::PacketPump {
 public:
  LyingHost() : PacketPump({.max_packet_bytes = 512}) {}
  void Rescind() { channel_.reset(); }

  void Offer(vmbus::Server& server, const hvdef::Guid& class_id, Executor& executor) {
    vmbus::Offer offer;
    offer.class_id = class_id;
    channel_ = *server.OfferChannel(offer, *this, executor);
  }
  void Say(absl::string_view hex) {
    said_.push_back(absl::HexStringToBytes(hex));
    channel_->Wake();
  }

 private:
  vmbus::Take OnTurn() override {
    for (; !said_.empty(); said_.pop_front()) {
      (void)Send(vmbus::PacketHeader::InBand(0, false), said_.front().data(),
                 static_cast<uint32_t>(said_.front().size()));
    }
    return vmbus::Take::kMore;
  }
  vmbus::Take OnPacket(const vmbus::Packet&) override { return vmbus::Take::kMore; }

  std::deque<std::string> said_;
  std::unique_ptr<vmbus::Channel> channel_;
};

template <typename Client, const hvdef::Guid& kClass>
class ClientTest : public InputFixture<Client> {
 protected:
  using Base = InputFixture<Client>;
  using State = typename Client::State;

  hvdef::Guid class_id() const override { return kClass; }
  void TearDown() override {
    host_.Rescind();
    Base::TearDown();
  }
  void MakeDevice() override { host_.Offer(*this->server_, kClass, this->executor_); }
  // A client that has asked for the version.
  void Start() {
    this->rings_ = vsc::ClientRings::Create(this->child_->host(this->ring_.pages.first_pfn * kPageSize), this->ring_);
    this->client_ = std::make_unique<Client>(this->child_->client(), this->channel_, this->rings_);
    for (const auto& offer : this->child_->offers()) {
      if (offer.class_id == kClass) {
        EXPECT_TRUE(this->child_->client().Open(this->channel_, offer, this->ring_));
      }
    }
    this->Pump();
    this->client_->Start();
    this->Pump();
    EXPECT_EQ(this->client_->state(), State::kStarting);
  }
  State Say(absl::string_view hex) {
    host_.Say(hex);
    this->Pump();
    return this->client_->state();
  }
  // What it makes of messages, after a few that are right and with a byte of one of them changed.
  void SayRandomly(std::initializer_list<const char*> right) {
    std::mt19937_64 random(TestSeed());
    int failed = 0;
    for (int round = 0; round < 300; ++round) {
      Start();
      for (const char* const message : right) {
        std::string bytes = absl::HexStringToBytes(message);
        if (random() % 4 == 0) bytes[random() % bytes.size()] = static_cast<char>(random());
        if (random() % 16 == 0) bytes.resize(random() % bytes.size());
        Say(absl::BytesToHexString(bytes));
      }
      failed += this->client_->state() == State::kFailed;
      this->CloseChannel();
    }
    EXPECT_GT(failed, 20);
    EXPECT_LT(failed, 280);
  }

  LyingHost host_;
};

constexpr hvdef::Guid kKeyboard = hvdef::class_id::kKeyboard, kMouse = hvdef::class_id::kMouse;
using KeyboardClientTest = ClientTest<vsc::KeyboardClient, kKeyboard>;
using MouseClientTest = ClientTest<vsc::MouseClient, kMouse>;

constexpr char kAccepted[] = "0200000001000000", kRefused[] = "0200000000000000", kKey[] = "030000001e00000000000000";

TEST_F(KeyboardClientTest, Lies) {
  const std::pair<const char*, State> cases[] = {
      {kRefused, State::kRefused}, {kKey, State::kFailed}, {"", State::kFailed}, {"2a000000", State::kStarting}};
  for (const auto& [message, state] : cases) {
    Start();
    EXPECT_EQ(Say(message), state) << message;
    CloseChannel();
  }
  Start();
  EXPECT_EQ(Say(kAccepted), State::kReady);
  EXPECT_EQ(Say(kKey), State::kReady);
  EXPECT_EQ(Say(kAccepted), State::kFailed);
  EXPECT_FALSE(client_->SetLeds(1));
  CloseChannel();
  SayRandomly({kAccepted, kKey, kKey});
}

const std::string Zeros(size_t bytes) { return std::string(2 * bytes, '0'); }

constexpr char kMouseAccepted[] = "010000000d00000001000000050000000000020001";
constexpr char kReport[] = "010000000f00000004000000070000000011112222ffff";
// With a report descriptor of `bytes` bytes, said to be `said`.
std::string Info(int bytes, const char* said, const char* descriptor_size = "09") {
  return "01000000"
         "39000000"
         "02000000"
         "31000000"
         "20000000" +
         Zeros(28) + descriptor_size +
         "2111010001"
         "22" +
         said + Zeros(bytes);
}

TEST_F(MouseClientTest, Lies) {
  const std::pair<std::string, State> before[] = {{"010000000d00000001000000050000000000020000", State::kRefused},
                                                  {Info(8, "0800"), State::kFailed},
                                                  {kReport, State::kFailed},
                                                  {"", State::kFailed},
                                                  {"0200000000000000", State::kFailed},
                                                  {"0100000040000000"
                                                   "0100000005000000"
                                                   "0000020001",
                                                   State::kFailed},
                                                  {"01000000080000002a00000000000000", State::kStarting}};
  for (const auto& [message, state] : before) {
    Start();
    EXPECT_EQ(Say(message), state) << message;
    CloseChannel();
  }
  const std::pair<std::string, State> after[] = {{Info(8, "0800"), State::kReady},
                                                 {Info(8, "0900"), State::kFailed},
                                                 {Info(8, "ffff"), State::kFailed},
                                                 {Info(8, "0000"), State::kFailed},
                                                 {Info(8, "0800", "00"), State::kFailed},
                                                 {Info(8, "0100", "ff"), State::kFailed},
                                                 {kReport, State::kFailed}};
  for (const auto& [message, state] : after) {
    Start();
    EXPECT_EQ(Say(kMouseAccepted), State::kStarting);
    EXPECT_EQ(Say(message), state) << message;
    CloseChannel();
  }
  SayRandomly({kMouseAccepted, Info(8, "0800").c_str(), kReport, kReport});
}

}  // namespace
}  // namespace hvsdk::vsp
