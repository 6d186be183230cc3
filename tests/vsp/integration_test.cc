// SPDX-License-Identifier: Apache-2.0
// Integration components against their client over real rings, and against guests that do not keep to the protocol.

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/resource/wall_clock.h"
#include "hvsdk/vsc/integration_client.h"
#include "hvsdk/vsp/heartbeat.h"
#include "hvsdk/vsp/shutdown.h"
#include "hvsdk/vsp/time_sync.h"
#include "tests/vsp/integration_fixture.h"

namespace hvsdk::vsp {
namespace {

namespace integration = hvdef::integration;
using integration::MessageType;
using integration::Version;
using testing::ElementsAre;
using testing::HasSubstr;

class FakeWallClock final : public WallClock {
 public:
  int64_t NowNs() const override { return now_ns; }
  int64_t now_ns = 1'700'000'000'000'000'000;
};

class IntegrationTest : public IntegrationFixture {
 protected:
  FakeWallClock wall_clock_;
};

// What Hyper-V says first, and how Linux answers (drivers/hv/channel_mgmt.c, vmbus_prep_negotiate_resp).
TEST_F(IntegrationTest, GoldenBytesOfAHeartbeat) {
  auto heartbeat = Heartbeat::Create(*server_, resources(), {});
  ASSERT_TRUE(heartbeat.ok()) << heartbeat.status();
  MakeChild();
  auto guest = OpenRaw(hvdef::class_id::kHeartbeat);
  std::vector<uint8_t> offer = Take(*guest);
  EXPECT_EQ(Hex({offer.begin(), offer.begin() + 52}),
            "010000002c000000"  // pipe: data, 44 bytes
            "00000000"
            "0000"
            "00000000"
            "1800"  // framework, negotiate, version, 24 bytes
            "00000000"
            "00"
            "03"
            "0000"  // status, transaction 0, request that wants an answer
            "0200"
            "0200"
            "00000000"  // two frameworks, two versions
            "01000000"
            "03000000"
            "01000000"
            "03000000");
  offer[25] = 5;  // an answer
  offer[28] = offer[30] = 1;
  offer[36] = 3, offer[40] = 3;  // framework 3.0, heartbeat 3.0
  Put(*guest, offer);
  EXPECT_EQ((*heartbeat)->contact(), GuestContact::kNone);
  std::vector<uint8_t> beat = Take(*guest);
  EXPECT_EQ(Hex({beat.begin(), beat.begin() + 44}),
            "0100000024000000"
            "03000000"
            "0100"
            "03000000"
            "1000"
            "00000000"
            "01"
            "03"
            "0000"
            "0100000000000000"
            "00000000"
            "00000000");
  beat[25] = 5;
  ++beat[28];
  Put(*guest, beat);
  EXPECT_EQ((*heartbeat)->contact(), GuestContact::kOk);
  heartbeat->reset();
}

TEST_F(IntegrationTest, TheHeartbeatIsLostAndComesBack) {
  std::vector<GuestContact> changes;
  auto heartbeat = *Heartbeat::Create(*server_, resources(),
                                      {.on_change = [&](GuestContact contact) { changes.push_back(contact); }});
  MakeChild();
  auto guest = OpenRaw(hvdef::class_id::kHeartbeat);
  std::vector<uint8_t> message = Take(*guest);
  message[25] = 5, message[28] = message[30] = 1, message[36] = message[40] = 3;
  Put(*guest, message);
  const auto answer = [&] {
    std::vector<uint8_t> beat = Take(*guest);
    ASSERT_FALSE(beat.empty());
    beat[25] = 5, ++beat[28];
    beat[36] = static_cast<uint8_t>(integration::GuestHealth::kHealthy);
    Put(*guest, beat);
  };
  answer();
  EXPECT_EQ(heartbeat->health(), integration::GuestHealth::kHealthy);
  for (int i = 0; i < 10; ++i) {
    Advance(2 * kSecond);
    answer();
  }
  EXPECT_THAT(changes, ElementsAre(GuestContact::kOk));
  Advance(9 * kSecond);
  EXPECT_EQ(heartbeat->contact(), GuestContact::kOk);
  Advance(2 * kSecond);
  EXPECT_EQ(heartbeat->contact(), GuestContact::kLost);
  // However long that is, there is one message in its ring.
  Advance(1000 * kSecond);
  answer();
  EXPECT_TRUE(Take(*guest).empty() || changes.size() == 3);
  EXPECT_THAT(changes, ElementsAre(GuestContact::kOk, GuestContact::kLost, GuestContact::kOk));
  // A guest that stands still is not missed.
  heartbeat->Pause();
  Advance(100 * kSecond);
  heartbeat->Resume();
  EXPECT_EQ(heartbeat->contact(), GuestContact::kOk);
  child_->client().Close(guest->channel);
  Pump();
  EXPECT_EQ(heartbeat->contact(), GuestContact::kNone);
}

TEST_F(IntegrationTest, AShutdownIsAnswered) {
  auto shutdown = *Shutdown::Create(*server_, resources());
  MakeChild();
  std::vector<std::string> answers;
  const auto ask = [&](const ShutdownRequest& request) {
    shutdown->Request(request, [&](const absl::Status& status) { answers.push_back(status.ToString()); });
    Pump();
  };
  ask({});
  ASSERT_THAT(answers, ElementsAre(HasSubstr("no driver")));
  answers.clear();

  auto guest = std::make_unique<Raw>();
  const uint64_t gpa = child_->AllocatePages(2 * kRingPages);
  guest->ring = {.pages = {.pfns = nullptr, .first_pfn = gpa / kPageSize, .page_count = 2 * kRingPages},
                 .outgoing_pages = kRingPages};
  guest->rings = vsc::ClientRings::Create(child_->host(gpa), guest->ring);
  vsc::IntegrationClient client(child_->client(), guest->channel, guest->rings, MessageType::kShutdown,
                                integration::kShutdownVersions);
  struct Seen {
    std::vector<integration::Shutdown> requests;
    integration::Status status = integration::Status::kOk;
  } seen;
  client.context = &seen;
  client.on_request = [](void* context, vsc::IntegrationRequest& request) {
    auto& seen = *static_cast<Seen*>(context);
    ASSERT_EQ(request.size_bytes, sizeof(integration::Shutdown));
    std::memcpy(&seen.requests.emplace_back(), request.body, sizeof(integration::Shutdown));
    request.status = seen.status;
  };
  ASSERT_TRUE(child_->client().Open(guest->channel, *OfferOf(hvdef::class_id::kShutdown), guest->ring));
  Pump();
  ASSERT_EQ(client.state(), vsc::IntegrationClient::State::kReady);
  EXPECT_EQ(client.version(), (Version{3, 2}));

  ask({.reason = "tea"});
  ask({.action = ShutdownAction::kRestart, .force = true, .guest_timeout = std::chrono::seconds(9)});
  ask({.action = ShutdownAction::kHibernate});
  EXPECT_THAT(answers, ElementsAre("OK", "OK", "OK"));
  ASSERT_EQ(seen.requests.size(), 3u);
  EXPECT_STREQ(reinterpret_cast<const char*>(seen.requests[0].text), "tea");
  EXPECT_EQ(seen.requests[0].flags, 0u);
  EXPECT_EQ(seen.requests[0].reason, integration::kShutdownReasonPlanned);
  EXPECT_EQ(seen.requests[1].flags, integration::kShutdownForce | integration::kShutdownRestart);
  EXPECT_EQ(seen.requests[1].timeout_seconds, 9u);
  EXPECT_EQ(seen.requests[2].flags, integration::kShutdownHibernate);
  answers.clear();

  seen.status = integration::Status::kFail;
  ask({});
  EXPECT_THAT(answers, ElementsAre(HasSubstr("refuses (0x80004005)")));
  answers.clear();
  ask({.reason = std::string(integration::kShutdownTextBytes, 'x')});
  EXPECT_THAT(answers, ElementsAre(HasSubstr("longer than 2047 bytes")));
  child_->client().Close(guest->channel);
  Pump();
}

TEST_F(IntegrationTest, AGuestThatDoesNotAnswerCostsItsOwnRequest) {
  auto shutdown = *Shutdown::Create(*server_, resources());
  MakeChild();
  auto guest = OpenRaw(hvdef::class_id::kShutdown);
  std::vector<uint8_t> message = Take(*guest);
  // Version 3.0 alone.
  message[25] = 5, message[28] = message[30] = 1, message[36] = 3;
  const Version version{3, 0};
  std::memcpy(&message[40], &version, sizeof(version));
  Put(*guest, message);
  std::vector<std::string> answers;
  const auto ask = [&](const ShutdownRequest& request) {
    shutdown->Request(request, [&](const absl::Status& status) { answers.push_back(status.ToString()); });
    Pump();
  };
  ask({.action = ShutdownAction::kRestart});
  EXPECT_THAT(answers, ElementsAre(HasSubstr("speaks version 3.0")));
  answers.clear();
  ask({});
  ask({});
  EXPECT_THAT(answers, ElementsAre(HasSubstr("an earlier request")));
  Advance(11 * kSecond);
  EXPECT_EQ(answers.size(), 2u);
  EXPECT_THAT(answers.back(), HasSubstr("does not answer"));
  ask({});
  EXPECT_THAT(answers.back(), HasSubstr("an earlier request"));
  // An answer to another request is none, and the late one is for nobody.
  std::vector<uint8_t> late = Take(*guest);
  ASSERT_FALSE(late.empty());
  late[25] = 5;
  ++late[24];
  Put(*guest, late);
  ask({});
  EXPECT_THAT(answers.back(), HasSubstr("an earlier request"));
  --late[24];
  Put(*guest, late);
  EXPECT_EQ(answers.size(), 4u);
  ask({});
  EXPECT_EQ(answers.size(), 4u) << answers.back();
  shutdown.reset();
  EXPECT_THAT(answers.back(), HasSubstr("the machine has ended"));
}

// However long the guest stands still, that is not its own time.
TEST_F(IntegrationTest, TimeToAnswerStandsStillWithTheGuest) {
  auto shutdown = *Shutdown::Create(*server_, resources());
  MakeChild();
  auto guest = OpenRaw(hvdef::class_id::kShutdown);
  Agree(*guest, 3, 2);
  std::vector<std::string> answers;
  const auto ask = [&] {
    shutdown->Request({}, [&](const absl::Status& status) { answers.push_back(status.ToString()); });
    Pump();
  };
  // Asked while it does.
  shutdown->Pause();
  ask();
  Advance(60 * kSecond);
  EXPECT_TRUE(Take(*guest).empty());
  shutdown->Resume();
  Pump();
  std::vector<uint8_t> asked = Take(*guest);
  ASSERT_FALSE(asked.empty());
  Advance(9 * kSecond);
  EXPECT_TRUE(answers.empty());
  asked[25] = 5;
  Put(*guest, asked);
  EXPECT_THAT(answers, ElementsAre("OK"));
  // Asked before, and answered afterwards in what was left, or not.
  ask();
  asked = Take(*guest);
  ASSERT_FALSE(asked.empty());
  Advance(9 * kSecond);
  shutdown->Pause();
  shutdown->Pause();
  Advance(60 * kSecond);
  shutdown->Resume();
  Advance(kSecond / 2);
  EXPECT_EQ(answers.size(), 1u);
  asked[25] = 5;
  Put(*guest, asked);
  EXPECT_THAT(answers, ElementsAre("OK", "OK"));
  ask();
  Advance(6 * kSecond);
  for (int i = 0; i < 3; ++i) {
    shutdown->Pause();
    Advance(20 * kSecond);
    shutdown->Resume();
    Advance(kSecond);
  }
  EXPECT_EQ(answers.size(), 2u);
  Advance(3 * kSecond / 2);
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_THAT(answers[2], HasSubstr("does not answer"));
}

TEST_F(IntegrationTest, TheTimeIsTold) {
  auto time = *TimeSync::Create(*server_, resources(), wall_clock_, {});
  MakeChild();
  auto guest = OpenRaw(hvdef::class_id::kTimeSync);
  std::vector<uint8_t> message = Take(*guest);
  message[25] = 5, message[28] = message[30] = 1, message[36] = 3;
  const Version version{4, 0};
  std::memcpy(&message[40], &version, sizeof(version));
  Put(*guest, message);
  const auto take = [&]() -> std::optional<integration::TimeSyncV4> {
    std::vector<uint8_t> told = Take(*guest);
    if (told.size() < 28 + sizeof(integration::TimeSyncV4)) return std::nullopt;
    integration::TimeSyncV4 sync;
    std::memcpy(&sync, told.data() + 28, sizeof(sync));
    told[25] = 5;
    Put(*guest, told);
    return sync;
  };
  auto sync = take();
  ASSERT_TRUE(sync.has_value());
  // 2023-11-14 22:13:20 UTC in 100 ns since 1601.
  EXPECT_EQ(sync->host_time, 133'444'736'000'000'000u);
  EXPECT_EQ(sync->reference_time, clock_.Now100ns());
  EXPECT_EQ(sync->flags, integration::kTimeSyncSet);
  EXPECT_FALSE(take().has_value());
  wall_clock_.now_ns += 5'000'000'000;
  Advance(5 * kSecond);
  sync = take();
  ASSERT_TRUE(sync.has_value());
  EXPECT_EQ(sync->host_time, 133'444'736'050'000'000u);
  // After a pause at once.
  time->Pause();
  Advance(60 * kSecond);
  EXPECT_FALSE(take().has_value());
  time->Resume();
  Pump();
  sync = take();
  ASSERT_TRUE(sync.has_value());
  EXPECT_EQ(sync->flags, integration::kTimeSyncSet);
}

// A clock that is to be set is set also if there is no room for the message at first, and samples are due meanwhile.
TEST_F(IntegrationTest, AFullRingKeepsNoClockFromBeingSet) {
  auto time = *TimeSync::Create(*server_, resources(), wall_clock_, {.samples_only = true});
  MakeChild();
  Raw guest;
  const uint64_t gpa = child_->AllocatePages(2 * kRingPages);
  guest.ring = {.pages = {.pfns = nullptr, .first_pfn = gpa / kPageSize, .page_count = 2 * kRingPages},
                .outgoing_pages = kRingPages};
  guest.rings = vsc::ClientRings::Create(child_->host(gpa), guest.ring);
  // Where the host writes next, and up to where it may: as far as the guest says that it has read.
  uint8_t* const control = child_->host(gpa + kRingPages * kPageSize);
  const auto written = [&] {
    uint32_t index;
    std::memcpy(&index, control, sizeof(index));
    return index;
  };
  const auto set_read = [&](uint32_t index) { std::memcpy(control + 4, &index, sizeof(index)); };
  // Room for the first message alone.
  set_read(104);
  ASSERT_TRUE(child_->client().Open(guest.channel, *OfferOf(hvdef::class_id::kTimeSync), guest.ring));
  Pump();
  std::vector<uint8_t> message = Take(guest);
  ASSERT_FALSE(message.empty());
  const uint32_t end = written();
  set_read(end + 8);
  message[25] = 5, message[28] = message[30] = 1, message[36] = 3;
  const Version version{4, 0};
  std::memcpy(&message[40], &version, sizeof(version));
  Put(guest, message);
  Advance(12 * kSecond);
  EXPECT_EQ(written(), end) << "something was written to a full ring";
  set_read(end);
  child_->client().Signal(guest.channel);
  Pump();
  const std::vector<uint8_t> told = Take(guest);
  ASSERT_GE(told.size(), 28 + sizeof(integration::TimeSyncV4));
  integration::TimeSyncV4 sync;
  std::memcpy(&sync, told.data() + 28, sizeof(sync));
  EXPECT_EQ(sync.flags, integration::kTimeSyncSet);
  EXPECT_EQ(sync.reference_time, clock_.Now100ns()) << "an old time";
}

TEST_F(IntegrationTest, SamplesSetNothing) {
  auto time = *TimeSync::Create(*server_, resources(), wall_clock_, {.samples_only = true});
  MakeChild();
  auto guest = OpenRaw(hvdef::class_id::kTimeSync);
  std::vector<uint8_t> message = Take(*guest);
  message[25] = 5, message[28] = message[30] = 1, message[36] = 3, message[40] = 3;
  const Version version{3, 0};
  std::memcpy(&message[40], &version, sizeof(version));
  Put(*guest, message);
  for (const uint8_t flags : {integration::kTimeSyncSet, integration::kTimeSyncSample, integration::kTimeSyncSample}) {
    std::vector<uint8_t> told = Take(*guest);
    ASSERT_GE(told.size(), 28 + sizeof(integration::TimeSync));
    EXPECT_EQ(told[28 + 24], flags);
    told[25] = 5;
    Put(*guest, told);
    Advance(5 * kSecond);
  }
}

// Whatever a guest makes of the negotiation, it is asked nothing before it is over.
TEST_F(IntegrationTest, LiesInNegotiations) {
  auto heartbeat = *Heartbeat::Create(*server_, resources(), {});
  MakeChild();
  struct Lie {
    size_t at;
    uint8_t value;
    bool is_malformed;
  };
  for (const Lie& lie : {Lie{28, 0, false}, Lie{30, 0, false}, Lie{28, 2, false}, Lie{36, 9, false}, Lie{40, 2, false},
                         Lie{18, 200, true}, Lie{25, 2, false}, Lie{12, 3, false}}) {
    SCOPED_TRACE(lie.at);
    auto guest = OpenRaw(hvdef::class_id::kHeartbeat);
    std::vector<uint8_t> message = Take(*guest);
    ASSERT_FALSE(message.empty());
    message[25] = 5, message[28] = message[30] = 1, message[36] = message[40] = 3;
    message[lie.at] = lie.value;
    Put(*guest, message);
    Advance(5 * kSecond);
    EXPECT_TRUE(Take(*guest).empty());
    EXPECT_EQ(heartbeat->contact(), GuestContact::kNone);
    child_->client().Close(guest->channel);
    Pump();
  }
}

}  // namespace
}  // namespace hvsdk::vsp
