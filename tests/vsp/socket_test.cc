// SPDX-License-Identifier: Apache-2.0
// Sockets against their client over real rings: connections from either end, streams by a model, ends and failures; and guests that do not
// keep to the protocol.

#include "hvsdk/vsp/socket.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/socket.h"
#include "hvsdk/vsc/socket_client.h"
#include "tests/random_seed.h"
#include "tests/vsp/provider_fixture.h"

namespace hvsdk::vsp {
namespace {

using hvdef::Guid;
using hvdef::socket::ServiceOfPort;
using testing::HasSubstr;
using State = SocketTransfer::State;

constexpr uint64_t kSecond = 10'000'000;

// The host's end, as the test has it; it stays when the stream is gone.
struct End {
  std::string to_guest, from_guest;
  size_t room = ~size_t{0};  // for what the guest sends
  size_t piece = ~size_t{0};
  bool has_ended = false, is_broken = false;
  SocketWaker* waker = nullptr;  // while it is open
  bool was_opened = false, guest_has_ended = false;
  std::vector<absl::Status> closed;
  bool is_destroyed = false;

  void Wake() {
    if (waker != nullptr) waker->Wake();
  }
};

class TestStream final : public SocketStream {
 public:
  explicit TestStream(std::shared_ptr<End> end) : end_(std::move(end)) {}
  ~TestStream() override { end_->is_destroyed = true, end_->waker = nullptr; }

  void OnOpen(SocketWaker& waker) override {
    EXPECT_FALSE(std::exchange(end_->was_opened, true));
    end_->waker = &waker;
  }
  SocketTransfer Read(absl::Span<uint8_t> to) override {
    Check();
    if (end_->is_broken) return {.state = State::kBroken};
    const size_t size = std::min({to.size(), end_->to_guest.size(), end_->piece});
    std::memcpy(to.data(), end_->to_guest.data(), size);
    end_->to_guest.erase(0, size);
    return {.bytes = size, .state = end_->has_ended && end_->to_guest.empty() ? State::kEnded : State::kOpen};
  }
  SocketTransfer Write(absl::Span<const uint8_t> from) override {
    Check();
    EXPECT_FALSE(from.empty());
    EXPECT_FALSE(end_->guest_has_ended);
    if (end_->is_broken) return {.state = State::kBroken};
    const size_t size = std::min(from.size(), end_->room);
    end_->from_guest.append(reinterpret_cast<const char*>(from.data()), size);
    end_->room -= size;
    return {.bytes = size};
  }
  void OnGuestEnded() override {
    Check();
    EXPECT_FALSE(std::exchange(end_->guest_has_ended, true));
  }
  void OnClosed(const absl::Status& status) override { end_->closed.push_back(status); }

 private:
  void Check() const { EXPECT_TRUE(end_->was_opened && end_->closed.empty()); }
  const std::shared_ptr<End> end_;
};

class TestService final : public SocketService {
 public:
  absl::StatusOr<std::unique_ptr<SocketStream>> Accept(const Guid& service_id) override {
    asked.push_back(service_id);
    if (refuses) return absl::NotFoundError("nobody");
    ends.push_back(std::make_shared<End>());
    return std::make_unique<TestStream>(ends.back());
  }
  std::vector<Guid> asked;
  std::vector<std::shared_ptr<End>> ends;
  bool refuses = false;
};

class SocketTest : public ProviderFixture<vsc::SocketClient> {
 protected:
  static constexpr uint32_t kRingPages = 7;  // as Linux has them, with the control page

  void Start(SocketOptions options = {}, hvdef::vmbus::Version version = hvdef::vmbus::kNewestVersion,
             size_t memory_bytes = 16 << 20) {
    MakeServer(memory_bytes);
    auto made = SocketProvider::Create(*server_, {.executor = executor_, .timers = timers_, .clock = clock_}, options);
    ASSERT_TRUE(made.ok()) << made.status();
    sockets_ = *std::move(made);
    sockets_->ListenToOthers(&service_);
    MakeChild(version);
  }
  void TearDown() override {
    guests_.clear();
    sockets_.reset();
    ProviderFixture::TearDown();
  }

  // A guest's end.
  struct Guest {
    vsc::Channel channel;
    vsc::RingPages ring;
    vsc::ClientRings rings;
    std::unique_ptr<vsc::SocketClient> client;
    std::string received;
  };
  const hvdef::vmbus::OfferChannel* OfferOf(const Guid& service, const Guid* endpoint = nullptr) {
    for (const auto& offer : child_->offers()) {
      if (offer.class_id == service && (endpoint == nullptr || offer.instance_id == *endpoint)) return &offer;
    }
    return nullptr;
  }
  Guest* Accept(const hvdef::vmbus::OfferChannel* offer, uint32_t ring_pages = kRingPages) {
    if (offer == nullptr) return nullptr;
    auto guest = std::make_unique<Guest>();
    if (free_pages_[ring_pages].empty()) free_pages_[ring_pages].push_back(child_->AllocatePages(2 * ring_pages));
    const uint64_t gpa = free_pages_[ring_pages].back();
    free_pages_[ring_pages].pop_back();
    guest->ring = {.pages = {.pfns = nullptr, .first_pfn = gpa / kPageSize, .page_count = 2 * ring_pages},
                   .outgoing_pages = ring_pages};
    guest->rings = vsc::ClientRings::Create(child_->host(gpa), guest->ring);
    guest->client = std::make_unique<vsc::SocketClient>(child_->client(), guest->channel, guest->rings);
    EXPECT_TRUE(child_->client().Open(guest->channel, *offer, guest->ring));
    Pump();
    guests_.push_back(std::move(guest));
    return guests_.back().get();
  }
  // The guest connects, as Linux does it. Null: it was refused, or is not answered.
  Guest* ConnectGuest(uint32_t from, uint32_t to, uint32_t ring_pages = kRingPages) {
    const Guid endpoint = ServiceOfPort(from);
    EXPECT_TRUE(child_->client().TlConnect(endpoint, ServiceOfPort(to)));
    Pump();
    return Accept(OfferOf(ServiceOfPort(to), &endpoint), ring_pages);
  }
  std::shared_ptr<End> ConnectHost(const Guid& service) {
    auto end = std::make_shared<End>();
    const auto port = sockets_->Connect(service, std::make_unique<TestStream>(end));
    EXPECT_TRUE(port.ok()) << port.status();
    Pump();
    return end;
  }
  static void Receive(Guest& guest) {
    char buffer[1000];
    while (const size_t size = guest.client->Receive(buffer, sizeof(buffer))) guest.received.append(buffer, size);
  }
  void Send(Guest& guest, const std::string& text) {
    ASSERT_EQ(guest.client->Send(text.data(), text.size()), text.size());
    Pump();
  }
  void Advance(uint64_t time_100ns) {
    for (uint64_t passed = 0; passed < time_100ns; passed += kSecond / 2) {
      timers_.AdvanceBy(std::min(kSecond / 2, time_100ns - passed));
      Pump();
    }
  }
  // Bytes as they are, in a packet of a guest's own.
  void Put(Guest& guest, const std::vector<uint8_t>& payload,
           vmbus::PacketHeader header = vmbus::PacketHeader::InBand(0, false)) {
    ASSERT_EQ(guest.rings.outgoing.StageInBand(header, payload.data(), static_cast<uint32_t>(payload.size())),
              vmbus::RingStatus::kOk);
    (void)guest.rings.outgoing.Publish();
    child_->client().Signal(guest.channel);
    Pump();
  }

  TestService service_;
  std::unique_ptr<SocketProvider> sockets_;
  std::vector<std::unique_ptr<Guest>> guests_;
  std::map<uint32_t, std::vector<uint64_t>> free_pages_;
};

TEST(SocketIds, OfPorts) {
  EXPECT_EQ(ServiceOfPort(1234), hvdef::MakeGuid("000004d2-facb-11e6-bd58-64006a7986d3"));
  uint32_t port = 7;
  EXPECT_TRUE(hvdef::socket::PortOfService(hvdef::MakeGuid("80000001-facb-11e6-bd58-64006a7986d3"), port));
  EXPECT_EQ(port, 0x80000001u);
  EXPECT_FALSE(hvdef::socket::PortOfService(hvdef::MakeGuid("00000001-facb-11e6-bd58-64006a7986d4"), port));
  EXPECT_EQ(port, 0x80000001u);
}

TEST_F(SocketTest, GuestConnects) {
  Start();
  Guest* guest = ConnectGuest(50000, 1234);
  ASSERT_NE(guest, nullptr);
  ASSERT_EQ(service_.asked, std::vector{ServiceOfPort(1234)});
  End& host = *service_.ends.at(0);
  EXPECT_TRUE(host.was_opened);
  // What Linux looks at (drivers/hv/channel_mgmt.c, is_hvsock_channel; hvs_open_connection).
  const hvdef::vmbus::OfferChannel& offer = guest->channel.offer();
  EXPECT_EQ(offer.instance_id, ServiceOfPort(50000));
  EXPECT_EQ(offer.flags, 0x2011);
  EXPECT_EQ(absl::BytesToHexString({reinterpret_cast<const char*>(offer.user_defined), 28}),
            "00000000000001000000" + std::string(36, '0'));

  Send(*guest, "from the guest");
  EXPECT_EQ(host.from_guest, "from the guest");
  host.to_guest = "from the host";
  host.Wake();
  Pump();
  Receive(*guest);
  EXPECT_EQ(guest->received, "from the host");

  ASSERT_TRUE(guest->client->End());
  Pump();
  EXPECT_TRUE(host.guest_has_ended);
  EXPECT_TRUE(host.closed.empty());
  host.to_guest = "the last";
  host.has_ended = true;
  host.Wake();
  Pump();
  // The offer is gone, and what was sent before can be read still.
  EXPECT_EQ(host.closed, std::vector{absl::OkStatus()});
  EXPECT_TRUE(host.is_destroyed);
  EXPECT_EQ(guest->channel.state(), vsc::Channel::State::kRescinded);
  Receive(*guest);
  EXPECT_EQ(guest->received, "from the hostthe last");
  EXPECT_TRUE(guest->client->host_has_ended());
  const SocketCounts counts = sockets_->counts();
  EXPECT_EQ(counts.connections, 0u);
  EXPECT_EQ(counts.from_guest, 1u);
  EXPECT_EQ(counts.bytes_to_host, 14u);
  EXPECT_EQ(counts.bytes_to_guest, 21u);
  EXPECT_EQ(counts.broken, 0u);
}

TEST_F(SocketTest, HostConnects) {
  Start();
  const Guid kService = hvdef::MakeGuid("a49b7f2c-8c5b-4f31-9f1e-2f9a35c9d2b1");
  auto end = ConnectHost(kService);
  const auto* offer = OfferOf(kService);
  ASSERT_NE(offer, nullptr);
  EXPECT_EQ(offer->user_defined[4], 1);
  EXPECT_EQ(offer->instance_id, ServiceOfPort(0x80000000));
  EXPECT_FALSE(end->was_opened);
  Guest* guest = Accept(offer);
  EXPECT_TRUE(end->was_opened);
  end->to_guest = "hello";
  end->has_ended = true;
  end->Wake();
  Pump();
  Receive(*guest);
  EXPECT_EQ(guest->received, "hello");
  EXPECT_TRUE(guest->client->host_has_ended());
  Send(*guest, "good-bye");
  EXPECT_EQ(end->from_guest, "good-bye");
  ASSERT_TRUE(guest->client->End());
  Pump();
  EXPECT_EQ(end->closed, std::vector{absl::OkStatus()});
  EXPECT_EQ(OfferOf(kService), nullptr);
  // The next one has another number.
  auto next = ConnectHost(kService);
  EXPECT_EQ(OfferOf(kService)->instance_id, ServiceOfPort(0x80000001));
}

TEST_F(SocketTest, NobodyAccepts) {
  Start({.open_within = std::chrono::milliseconds(2000)});
  auto end = ConnectHost(ServiceOfPort(5));
  Advance(kSecond);
  auto later = ConnectHost(ServiceOfPort(6));
  EXPECT_TRUE(end->closed.empty());
  Advance(kSecond + 20'000);
  ASSERT_EQ(end->closed.size(), 1u);
  EXPECT_TRUE(absl::IsDeadlineExceeded(end->closed[0])) << end->closed[0];
  EXPECT_EQ(OfferOf(ServiceOfPort(5)), nullptr);
  EXPECT_TRUE(later->closed.empty());
  Advance(kSecond);
  EXPECT_EQ(later->closed.size(), 1u);
  EXPECT_EQ(sockets_->counts().not_accepted, 2u);
  EXPECT_EQ(sockets_->counts().connections, 0u);
}

TEST_F(SocketTest, RefusesAndFindsServices) {
  Start({.max_connections = 2});
  TestService one;
  ASSERT_TRUE(sockets_->Listen(ServiceOfPort(1), one).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(sockets_->Listen(ServiceOfPort(1), service_)));
  service_.refuses = true;
  EXPECT_EQ(ConnectGuest(100, 2), nullptr);
  ASSERT_NE(ConnectGuest(100, 1), nullptr);
  // The endpoint has that connection already.
  ASSERT_TRUE(child_->client().TlConnect(ServiceOfPort(100), ServiceOfPort(1)));
  Pump();
  EXPECT_EQ(sockets_->counts().refused, 2u);
  ASSERT_NE(ConnectGuest(101, 1), nullptr);
  EXPECT_EQ(ConnectGuest(102, 1), nullptr) << "a third one";
  auto end = std::make_shared<End>();
  EXPECT_TRUE(
      absl::IsResourceExhausted(sockets_->Connect(ServiceOfPort(9), std::make_unique<TestStream>(end)).status()));
  EXPECT_TRUE(end->is_destroyed && end->closed.empty());
  sockets_->ListenToOthers(nullptr);
  sockets_->Unlisten(ServiceOfPort(1));
  EXPECT_EQ(ConnectGuest(103, 1), nullptr);
  EXPECT_EQ(sockets_->counts().refused, 4u);
}

TEST_F(SocketTest, OldGuests) {
  Start({}, hvdef::vmbus::Version::kV3_0);
  auto end = std::make_shared<End>();
  EXPECT_THAT(sockets_->Connect(ServiceOfPort(9), std::make_unique<TestStream>(end)).status().message(),
              HasSubstr("version has no sockets"));
}

// Neither direction waits for the other: both are filled up by ends that do not read, and then each is emptied.
TEST_F(SocketTest, DirectionsDoNotWaitForEachOther) {
  Start();
  Guest* guest = ConnectGuest(50000, 1);
  ASSERT_NE(guest, nullptr);
  End& host = *service_.ends.at(0);
  host.to_guest = std::string(100'000, 'h');
  host.Wake();
  Pump();
  ASSERT_FALSE(host.to_guest.empty()) << "no limit";
  // The ring to the guest is full, and what it sends arrives.
  std::string sent(200'000, 'g');
  for (size_t at = 0; at < sent.size();) {
    const size_t size = guest->client->Send(sent.data() + at, sent.size() - at);
    ASSERT_NE(size, 0u) << "stuck after " << at;
    at += size;
    Pump();
  }
  EXPECT_EQ(host.from_guest.size(), sent.size());
  // The other way round.
  host.room = 0;
  size_t stuck = 0;
  while (const size_t size = guest->client->Send(sent.data(), sent.size())) stuck += size, Pump();
  EXPECT_LT(stuck, 64u << 10);
  while (guest->received.size() < 100'000) {
    const size_t before = guest->received.size();
    Receive(*guest);
    Pump();
    ASSERT_GT(guest->received.size(), before) << "stuck";
  }
  host.room = ~size_t{0};
  host.Wake();
  Pump();
  EXPECT_EQ(host.from_guest.size(), sent.size() + stuck);
  EXPECT_EQ(guest->client->Send("x", 1), 1u);
}

TEST_F(SocketTest, EndsThatVanish) {
  Start();
  // The guest's channel goes, with bytes in its ring.
  Guest* guest = ConnectGuest(1, 1);
  ASSERT_NE(guest, nullptr);
  ASSERT_EQ(guest->client->Send("last words", 10), 10u);
  child_->client().Close(guest->channel);
  Pump();
  EXPECT_EQ(service_.ends[0]->from_guest, "last words");
  ASSERT_EQ(service_.ends[0]->closed.size(), 1u);
  EXPECT_TRUE(absl::IsUnavailable(service_.ends[0]->closed[0]));
  // The host's end breaks, with bytes that the guest has not read.
  guest = ConnectGuest(2, 1);
  ASSERT_NE(guest, nullptr);
  service_.ends[1]->to_guest = "unread";
  service_.ends[1]->Wake();
  Pump();
  service_.ends[1]->is_broken = true;
  service_.ends[1]->Wake();
  Pump();
  EXPECT_TRUE(service_.ends[1]->is_destroyed);
  EXPECT_EQ(guest->channel.state(), vsc::Channel::State::kRescinded);
  Receive(*guest);
  EXPECT_EQ(guest->received, "unread");
  EXPECT_FALSE(guest->client->host_has_ended());
  // The whole guest goes.
  guest = ConnectGuest(3, 1);
  auto half = ConnectHost(ServiceOfPort(7));
  child_->client().Unload();
  Pump();
  EXPECT_TRUE(service_.ends[2]->is_destroyed);
  EXPECT_EQ(sockets_->counts().broken, 3u);
  Advance(6 * kSecond);
  EXPECT_TRUE(half->is_destroyed);
  EXPECT_EQ(sockets_->counts().connections, 0u);
}

TEST_F(SocketTest, PauseAndReset) {
  Start();
  Guest* guest = ConnectGuest(1, 1);
  ASSERT_NE(guest, nullptr);
  sockets_->Pause();
  service_.ends[0]->to_guest = "later";
  service_.ends[0]->Wake();
  ASSERT_EQ(guest->client->Send("to", 2), 2u);
  auto waiting = ConnectHost(ServiceOfPort(8));
  ASSERT_TRUE(child_->client().TlConnect(ServiceOfPort(2), ServiceOfPort(1)));
  Pump();
  EXPECT_EQ(service_.ends[0]->to_guest, "later");
  EXPECT_EQ(service_.ends[0]->from_guest, "");
  EXPECT_EQ(service_.ends.size(), 1u);
  EXPECT_EQ(OfferOf(ServiceOfPort(8)), nullptr);
  Advance(10 * kSecond);
  EXPECT_TRUE(waiting->closed.empty());
  sockets_->Resume();
  Pump();
  Receive(*guest);
  EXPECT_EQ(guest->received, "later");
  EXPECT_EQ(service_.ends[0]->from_guest, "to");
  EXPECT_EQ(service_.ends.size(), 2u);
  EXPECT_NE(OfferOf(ServiceOfPort(8)), nullptr);
  server_->Reset();
  sockets_->Reset();
  EXPECT_TRUE(service_.ends[0]->is_destroyed && service_.ends[1]->is_destroyed && waiting->is_destroyed);
  EXPECT_EQ(sockets_->counts().connections, 0u);
}

TEST_F(SocketTest, AThousandAtOnce) {
  Start({}, hvdef::vmbus::kNewestVersion, 64 << 20);
  constexpr uint32_t kCount = 1000, kPages = 2;
  for (uint32_t i = 0; i < kCount; ++i) {
    if (i % 2 == 0) {
      ASSERT_NE(ConnectGuest(10000 + i, 1, kPages), nullptr) << i;
    } else {
      service_.ends.push_back(ConnectHost(ServiceOfPort(5000 + i)));
      ASSERT_NE(Accept(OfferOf(ServiceOfPort(5000 + i)), kPages), nullptr) << i;
    }
  }
  EXPECT_EQ(sockets_->counts().connections, kCount);
  for (uint32_t i = 0; i < kCount; ++i) {
    ASSERT_EQ(guests_[i]->client->Send(&i, sizeof(i)), sizeof(i));
    service_.ends[i]->to_guest = absl::StrCat("to ", i);
    service_.ends[i]->Wake();
  }
  Pump();
  for (uint32_t i = 0; i < kCount; ++i) {
    Receive(*guests_[i]);
    ASSERT_EQ(guests_[i]->received, absl::StrCat("to ", i));
    ASSERT_EQ(service_.ends[i]->from_guest, std::string(reinterpret_cast<const char*>(&i), sizeof(i)));
  }
  sockets_->Stop();
  Pump();
  EXPECT_EQ(sockets_->counts().connections, 0u);
  for (const auto& guest : guests_) ASSERT_EQ(guest->channel.state(), vsc::Channel::State::kRescinded);
}

// Random connections, bytes and ends, against what each end has sent.
TEST_F(SocketTest, StreamsAreWhole) {
  const uint32_t seed = TestSeed();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  Start({.max_connections = 8});
  struct Model {
    Guest* guest;
    std::shared_ptr<End> host;
    uint64_t sent_by_guest = 0, sent_by_host = 0;  // bytes, each of which follows from its place
    bool guest_ends = false, host_ends = false;
  };
  const auto byte_at = [](uint64_t at, bool is_guest) {
    return static_cast<char>(at * 7 + at / 256 + (is_guest ? 3 : 0));
  };
  std::vector<Model> models;
  uint64_t checked = 0, finished = 0;
  uint32_t next = 0;
  std::map<Guest*, uint64_t> got;  // by the guest
  for (int step = 0; step < 4000; ++step) {
    if (models.size() < 8 && random() % 16 == 0) {
      Model model{};
      const uint32_t pages = 2 + static_cast<uint32_t>(random() % 6);
      if (random() % 2 == 0) {
        model.guest = ConnectGuest(20000 + next++, 1, pages);
        model.host = service_.ends.back();
      } else {
        model.host = ConnectHost(ServiceOfPort(30000 + next));
        model.guest = Accept(OfferOf(ServiceOfPort(30000 + next++)), pages);
      }
      ASSERT_NE(model.guest, nullptr);
      models.push_back(model);
    }
    if (models.empty()) continue;
    Model& model = models[random() % models.size()];
    switch (random() % 8) {
      case 0:
      case 1: {
        if (model.guest_ends) break;
        std::string bytes(random() % 30'000 + 1, '\0');
        for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = byte_at(model.sent_by_guest + i, true);
        model.sent_by_guest += model.guest->client->Send(bytes.data(), bytes.size());
        break;
      }
      case 2:
      case 3: {
        if (model.host_ends) break;
        std::string bytes(random() % 30'000 + 1, '\0');
        for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = byte_at(model.sent_by_host + i, false);
        model.sent_by_host += bytes.size();
        model.host->to_guest += bytes;
        model.host->piece = random() % 2 == 0 ? ~size_t{0} : random() % 5000 + 1;
        model.host->Wake();
        break;
      }
      case 4: {
        char buffer[5000];
        const size_t size = model.guest->client->Receive(buffer, random() % sizeof(buffer) + 1);
        for (size_t i = 0; i < size; ++i) ASSERT_EQ(buffer[i], byte_at(got[model.guest] + i, false));
        got[model.guest] += size;
        checked += size;
        break;
      }
      case 5:
        model.host->room = random() % 3 == 0 ? 0 : random() % 20'000;
        model.host->Wake();
        break;
      case 6:
        if (random() % 16 == 0) model.guest_ends |= model.guest->client->End();
        if (random() % 16 == 0) model.host_ends = model.host->has_ended = true, model.host->Wake();
        break;
      default:
        Pump();
    }
    for (Model& each : models) {
      const std::string& bytes = each.host->from_guest;
      ASSERT_LE(bytes.size(), each.sent_by_guest);
    }
    if (model.guest_ends && model.host_ends && random() % 4 == 0) {
      // Everything gets through in the end.
      for (int i = 0; i < 100000 && model.host->closed.empty(); ++i) {
        model.host->room = ~size_t{0};
        model.host->Wake();
        Pump();
        char buffer[5000];
        const size_t size = model.guest->client->Receive(buffer, sizeof(buffer));
        for (size_t at = 0; at < size; ++at) ASSERT_EQ(buffer[at], byte_at(got[model.guest] + at, false));
        got[model.guest] += size;
        Pump();
      }
      ASSERT_EQ(model.host->closed, std::vector{absl::OkStatus()});
      char buffer[5000];
      while (const size_t size = model.guest->client->Receive(buffer, sizeof(buffer))) {
        for (size_t at = 0; at < size; ++at) ASSERT_EQ(buffer[at], byte_at(got[model.guest] + at, false));
        got[model.guest] += size;
      }
      EXPECT_TRUE(model.guest->client->host_has_ended());
      ASSERT_EQ(got[model.guest], model.sent_by_host);
      ASSERT_EQ(model.host->from_guest.size(), model.sent_by_guest);
      for (uint64_t at = 0; at < model.sent_by_guest; ++at) ASSERT_EQ(model.host->from_guest[at], byte_at(at, true));
      ++finished;
      free_pages_[model.guest->ring.outgoing_pages].push_back(model.guest->ring.pages.first_pfn * kPageSize);
      models.erase(models.begin() + (&model - models.data()));
    }
  }
  EXPECT_GT(checked, 100'000u);
  EXPECT_GT(finished, 3u);
}

// --- Guests that do not keep to the protocol. ---

TEST_F(SocketTest, PacketsThatAreNone) {
  Start();
  const std::vector<std::vector<uint8_t>> kBad = {
      {},                                          // no header
      {1, 0, 0, 0, 1, 0, 0, 0},                    // more data than there are
      {2, 0, 0, 0, 0, 0, 0, 0},                    // of another type
      {1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2},  // far more
  };
  uint32_t port = 1;
  for (const auto& bad : kBad) {
    Guest* guest = ConnectGuest(port++, 1);
    ASSERT_NE(guest, nullptr);
    Put(*guest, bad);
    End& host = *service_.ends.back();
    ASSERT_EQ(host.closed.size(), 1u);
    EXPECT_TRUE(absl::IsInvalidArgument(host.closed[0])) << host.closed[0];
    EXPECT_EQ(guest->channel.state(), vsc::Channel::State::kRescinded);
  }
  // One that is longer than any, of a ring that holds it.
  Guest* guest = ConnectGuest(port++, 1, 16);
  ASSERT_NE(guest, nullptr);
  std::vector<uint8_t> longer(8 + hvdef::socket::kMaxDataBytes + 16);
  const uint32_t header[] = {1, hvdef::socket::kMaxDataBytes + 16};
  std::memcpy(longer.data(), header, sizeof(header));
  Put(*guest, longer);
  EXPECT_EQ(service_.ends.back()->closed.size(), 1u);
  // A completion.
  guest = ConnectGuest(port++, 1);
  ASSERT_NE(guest, nullptr);
  Put(*guest, {1, 0, 0, 0, 0, 0, 0, 0}, vmbus::PacketHeader::Completion(1));
  EXPECT_EQ(service_.ends.back()->closed.size(), 1u);
  // Indices that are none, in either ring.
  for (const bool is_outgoing : {true, false}) {
    guest = ConnectGuest(port++, 1);
    ASSERT_NE(guest, nullptr);
    const uint64_t page = guest->ring.pages.first_pfn + (is_outgoing ? 0 : kRingPages);
    auto* const control = reinterpret_cast<hvdef::RingControl*>(child_->host(page * kPageSize));
    (is_outgoing ? control->write_index : control->read_index) = 0x12345;
    service_.ends.back()->to_guest = std::string(100'000, 'x');
    service_.ends.back()->Wake();
    child_->client().Signal(guest->channel);
    Pump();
    EXPECT_EQ(service_.ends.back()->closed.size(), 1u) << is_outgoing;
  }
  // After its last packet nothing is read.
  guest = ConnectGuest(port++, 1);
  ASSERT_NE(guest, nullptr);
  Put(*guest, {1, 0, 0, 0, 0, 0, 0, 0});
  Put(*guest, {2, 0, 0, 0, 0, 0, 0, 0});
  EXPECT_TRUE(service_.ends.back()->closed.empty());
  EXPECT_TRUE(service_.ends.back()->guest_has_ended);
}

TEST_F(SocketTest, OpensAgain) {
  Start();
  auto end = ConnectHost(ServiceOfPort(5));
  const hvdef::vmbus::OfferChannel offer = *OfferOf(ServiceOfPort(5));
  Guest* guest = Accept(&offer);
  ASSERT_EQ(guest->channel.state(), vsc::Channel::State::kOpen);
  child_->client().Close(guest->channel);
  Pump();
  EXPECT_EQ(end->closed.size(), 1u);
  EXPECT_EQ(sockets_->counts().connections, 0u);
}

TEST_F(SocketTest, RequestsWithoutEnd) {
  Start({.max_connections = 16});
  // Before anybody looks at them.
  uint32_t taken = 0;
  for (uint32_t i = 0; i < 2000; ++i) taken += child_->client().TlConnect(ServiceOfPort(1000 + i), ServiceOfPort(1));
  EXPECT_GT(taken, 1000u);
  Pump();
  EXPECT_EQ(sockets_->counts().connections, 16u);
  EXPECT_EQ(sockets_->counts().refused, taken - 16);
  Advance(6 * kSecond);
  EXPECT_EQ(sockets_->counts().connections, 0u);
  ASSERT_NE(ConnectGuest(7, 1), nullptr);
}

}  // namespace
}  // namespace hvsdk::vsp
