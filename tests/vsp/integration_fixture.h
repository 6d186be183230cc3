// SPDX-License-Identifier: Apache-2.0
// A guest's side of an integration component for tests: raw, so that it can also lie, or with the client.

#ifndef HVSDK_TESTS_VSP_INTEGRATION_FIXTURE_H_
#define HVSDK_TESTS_VSP_INTEGRATION_FIXTURE_H_

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "hvsdk/vsc/integration_client.h"
#include "hvsdk/vsp/integration.h"
#include "tests/vsp/provider_fixture.h"

namespace hvsdk::vsp {

inline constexpr uint64_t kSecond = 10'000'000;

class IntegrationFixture : public ProviderFixture<vsc::IntegrationClient> {
 protected:
  static constexpr uint32_t kRingPages = 4;

  void SetUp() override { MakeServer(4 << 20); }
  IntegrationResources resources() { return {.executor = executor_, .timers = timers_, .clock = clock_}; }

  // Time goes on, and everybody does what is due.
  void Advance(uint64_t time_100ns) {
    for (uint64_t passed = 0; passed < time_100ns; passed += kSecond / 2) {
      timers_.AdvanceBy(std::min(kSecond / 2, time_100ns - passed));
      Pump();
    }
  }

  // A channel of the component, which the guest opens without a client.
  struct Raw {
    vsc::Channel channel;
    vsc::RingPages ring;
    vsc::ClientRings rings;
    int ends = 0;
  };
  std::unique_ptr<Raw> OpenRaw(const hvdef::Guid& class_id) {
    auto raw = std::make_unique<Raw>();
    const uint64_t gpa = child_->AllocatePages(2 * kRingPages);
    raw->ring = {.pages = {.pfns = nullptr, .first_pfn = gpa / kPageSize, .page_count = 2 * kRingPages},
                 .outgoing_pages = kRingPages};
    raw->rings = vsc::ClientRings::Create(child_->host(gpa), raw->ring);
    EXPECT_TRUE(child_->client().Open(raw->channel, *OfferOf(class_id), raw->ring));
    Pump();
    return raw;
  }
  const hvdef::vmbus::OfferChannel* OfferOf(const hvdef::Guid& class_id) {
    for (const auto& offer : child_->offers()) {
      if (offer.class_id == class_id) return &offer;
    }
    return nullptr;
  }
  // The next message of the host's as bytes; empty: there is none.
  std::vector<uint8_t> Take(Raw& raw) {
    alignas(8) uint8_t buffer[8192];
    vmbus::Packet packet;
    if (raw.rings.incoming.Read(buffer, sizeof(buffer), packet) != vmbus::RingStatus::kOk) return {};
    std::vector<uint8_t> message(packet.payload, packet.payload + packet.payload_size);
    if (raw.rings.incoming.Commit() == vmbus::Signal::kNeeded) child_->client().Signal(raw.channel);
    return message;
  }
  void Put(Raw& raw, const std::vector<uint8_t>& message) {
    ASSERT_EQ(raw.rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(7, false), message.data(),
                                             static_cast<uint32_t>(message.size())),
              vmbus::RingStatus::kOk);
    (void)raw.rings.outgoing.Publish();
    child_->client().Signal(raw.channel);
    Pump();
  }
  // Version `major`.`minor` of the component, for a guest that the host has just offered some.
  void Agree(Raw& raw, uint16_t major, uint16_t minor) {
    std::vector<uint8_t> message = Take(raw);
    ASSERT_GE(message.size(), 44u);
    message[25] = 5, message[28] = message[30] = 1, message[36] = 3, message[38] = 0;
    const hvdef::integration::Version version{major, minor};
    std::memcpy(&message[40], &version, sizeof(version));
    Put(raw, message);
  }

  // One with a client, which hands requests to a function.
  struct Served {
    Raw raw;
    std::unique_ptr<vsc::IntegrationClient> client;
    std::function<void(vsc::IntegrationRequest&)> serve;
  };
  template <size_t kCount>
  std::unique_ptr<Served> OpenServed(const hvdef::Guid& class_id, hvdef::integration::MessageType type,
                                     const hvdef::integration::Version (&versions)[kCount],
                                     std::function<void(vsc::IntegrationRequest&)> serve) {
    auto served = std::make_unique<Served>();
    Raw& raw = served->raw;
    const uint64_t gpa = child_->AllocatePages(2 * kRingPages);
    raw.ring = {.pages = {.pfns = nullptr, .first_pfn = gpa / kPageSize, .page_count = 2 * kRingPages},
                .outgoing_pages = kRingPages};
    raw.rings = vsc::ClientRings::Create(child_->host(gpa), raw.ring);
    served->serve = std::move(serve);
    served->client = std::make_unique<vsc::IntegrationClient>(child_->client(), raw.channel, raw.rings, type, versions);
    served->client->context = served.get();
    served->client->on_request = [](void* context, vsc::IntegrationRequest& request) {
      static_cast<Served*>(context)->serve(request);
    };
    EXPECT_TRUE(child_->client().Open(raw.channel, *OfferOf(class_id), raw.ring));
    Pump();
    EXPECT_EQ(served->client->state(), vsc::IntegrationClient::State::kReady);
    return served;
  }
  static std::string Hex(const std::vector<uint8_t>& bytes) {
    return absl::BytesToHexString({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_TESTS_VSP_INTEGRATION_FIXTURE_H_
