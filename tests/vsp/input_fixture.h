// SPDX-License-Identifier: Apache-2.0
// A guest's side for tests of the keyboard and the mouse: a channel on which a client speaks, or the test itself.

#ifndef HVSDK_TESTS_VSP_INPUT_FIXTURE_H_
#define HVSDK_TESTS_VSP_INPUT_FIXTURE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"
#include "tests/vsp/provider_fixture.h"

namespace hvsdk::vsp {

template <typename Client>
class InputFixture : public ProviderFixture<Client> {
 protected:
  using Base = ProviderFixture<Client>;
  using Base::child_, Base::clock_, Base::executor_, Base::Pump, Base::server_, Base::timers_;

  static constexpr uint32_t kRingPages = 2;

  virtual hvdef::Guid class_id() const = 0;

  void SetUp() override {
    Base::MakeServer(1 << 20);
    MakeDevice();
    Base::MakeChild();
    const uint64_t gpa = child_->AllocatePages(2 * kRingPages);
    ring_ = {.pages = {.pfns = nullptr, .first_pfn = gpa / kPageSize, .page_count = 2 * kRingPages},
             .outgoing_pages = kRingPages};
  }
  virtual void MakeDevice() = 0;

  void OpenChannel() {
    rings_ = vsc::ClientRings::Create(child_->host(ring_.pages.first_pfn * kPageSize), ring_);
    for (const auto& offer : child_->offers()) {
      if (offer.class_id == class_id()) {
        EXPECT_TRUE(child_->client().Open(channel_, offer, ring_));
      }
    }
    Pump();
    ASSERT_EQ(channel_.state(), vsc::Channel::State::kOpen);
  }
  void CloseChannel() {
    child_->client().Close(channel_);
    Pump();
    channel_ = vsc::Channel();
  }
  // With a client on it.
  void StartClient() {
    rings_ = vsc::ClientRings::Create(child_->host(ring_.pages.first_pfn * kPageSize), ring_);
    client_ = std::make_unique<Client>(child_->client(), channel_, rings_);
    for (const auto& offer : child_->offers()) {
      if (offer.class_id == class_id()) {
        EXPECT_TRUE(child_->client().Open(channel_, offer, ring_));
      }
    }
    Pump();
    client_->Start();
    Pump();
    ASSERT_EQ(client_->state(), Client::State::kReady);
  }
  // What goes to the guest so fast, and no faster.
  void Beat() {
    timers_.AdvanceBy(200'000);
    Pump();
  }

  // --- A guest without a client, which says what it likes. ---

  // The host's next message, with the zeros up to a whole number of 8 bytes that a ring adds; empty: there is none.
  std::string Take() {
    alignas(8) uint8_t buffer[1024];
    vmbus::Packet packet;
    do {
      if (rings_.incoming.Read(buffer, sizeof(buffer), packet) != vmbus::RingStatus::kOk) return "";
      completions_ += packet.type == hvdef::PacketType::kCompletion;
      if (rings_.incoming.Commit() == vmbus::Signal::kNeeded) child_->client().Signal(channel_);
    } while (packet.type == hvdef::PacketType::kCompletion);
    return absl::BytesToHexString({reinterpret_cast<const char*>(packet.payload), packet.payload_size});
  }
  void Put(absl::string_view hex, bool wants_completion = false) {
    const std::string message = absl::HexStringToBytes(hex);
    ASSERT_EQ(rings_.outgoing.StageInBand(vmbus::PacketHeader::InBand(7, wants_completion), message.data(),
                                          static_cast<uint32_t>(message.size())),
              vmbus::RingStatus::kOk);
    (void)rings_.outgoing.Publish();
    child_->client().Signal(channel_);
    Pump();
  }

  vsc::Channel channel_;
  vsc::RingPages ring_;
  vsc::ClientRings rings_;
  std::unique_ptr<Client> client_;
  int completions_ = 0;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_TESTS_VSP_INPUT_FIXTURE_H_
