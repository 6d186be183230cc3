// SPDX-License-Identifier: Apache-2.0
// Root and child against each other, in every version.

#include <set>

#include "absl/strings/str_cat.h"
#include "tests/vsc/pair_fixture.h"

namespace hvsdk::vsc {
namespace {

namespace wire = hvdef::vmbus;

class VersionTest : public PairTest, public testing::WithParamInterface<wire::Version> {};

TEST_P(VersionTest, EchoCloseReopenUnload) {
  Echo echo;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Boot(GetParam());
  EXPECT_EQ(child_->client().version(), GetParam());
  auto client = Open(1);
  ASSERT_EQ(client->channel.state(), Channel::State::kOpen);
  EXPECT_EQ(echo.last_open.target_vp, wire::HasChannelInterrupts(GetParam()) ? 1u : 0u);
  for (int i = 0; i < 50; ++i) ExpectEcho(*client, absl::StrCat("packet ", i));
  EXPECT_GE(client->signals, 50);
  EXPECT_EQ(client->ends, 0);
  child_->client().Close(client->channel);
  Settle();
  EXPECT_EQ(client->channel.state(), Channel::State::kNone);
  EXPECT_EQ(client->ends, 1);
  EXPECT_EQ(echo.closes, 1);
  Reopen(*client, 1, 1);
  const int signals = client->signals;
  for (int i = 0; i < 50; ++i) ExpectEcho(*client, absl::StrCat("again ", i));
  EXPECT_GE(client->signals, signals + 50);
  child_->client().Unload();
  Settle();
  EXPECT_EQ(child_->client().state(), VmbusClient::State::kDisconnected);
  EXPECT_EQ(client->ends, 2);
  EXPECT_EQ(echo.closes, 2);
  EXPECT_EQ(server_->version().has_value(), !wire::HasUnload(GetParam()));  // nobody told it
}

INSTANTIATE_TEST_SUITE_P(All, VersionTest, testing::ValuesIn(wire::kVersions), [](const auto& info) {
  const auto number = static_cast<uint32_t>(info.param);
  return absl::StrCat("V", number >> 16, "_", number & 0xFFFF);
});

TEST_F(PairTest, ClientFindsTheServersNewestVersion) {
  for (const wire::Version newest : wire::kVersions) {
    server_.reset();
    server_ = std::make_unique<vmbus::Server>(memory_, hypervisor_, vmbus::ServerOptions{.newest_version = newest});
    ASSERT_TRUE(server_->Start().ok());
    Boot();
    EXPECT_EQ(child_->client().version(), newest);
    EXPECT_EQ(server_->version(), newest);
  }
}

TEST_F(PairTest, NoVersionInCommon) {
  server_.reset();
  server_ = std::make_unique<vmbus::Server>(memory_, hypervisor_,
                                            vmbus::ServerOptions{.newest_version = wire::Version::kV2_4});
  ASSERT_TRUE(server_->Start().ok());
  child_ = std::make_unique<LoopbackChild>(hypervisor_, memory_, wire::Version::kV1_1);
  child_->client().Connect();
  Settle();
  EXPECT_EQ(child_->client().state(), VmbusClient::State::kConnected);
  VmbusClient::Config config;
  config.oldest_version = wire::Version::kV3_0;
  config.hypercalls.context = this;
  config.hypercalls.post_message = [](void* self, uint32_t connection, const void* bytes, uint32_t size) {
    return static_cast<PairTest_NoVersionInCommon_Test*>(self)->hypervisor_.ChildPostMessage(
        ConnectionId{connection}, 1, absl::MakeConstSpan(static_cast<const uint8_t*>(bytes), size));
  };
  VmbusClient client(config);
  client.Connect();
  vmbus::LoopbackHypervisor::Message message;
  while (hypervisor_.TakeMessage(VpIndex{0}, Sint{2}, message)) {
    client.OnMessage(message.payload.data(), message.payload.size());
  }
  EXPECT_EQ(client.state(), VmbusClient::State::kFailed);
}

TEST_F(PairTest, StartFailsWhenTheConnectionsAreTaken) {
  for (const uint32_t connection : {1, 2, 4}) {
    vmbus::LoopbackHypervisor hypervisor(1);
    struct Port : PortHandler {
      hvdef::HvStatus OnMessage(uint32_t, absl::Span<const uint8_t>) override { return hvdef::HvStatus::kSuccess; }
    } port;
    ASSERT_TRUE(hypervisor.RegisterPort(ConnectionId{connection}, &port).ok());
    {
      vmbus::Server server(memory_, hypervisor, {});
      EXPECT_EQ(server.Start().code(), absl::StatusCode::kAlreadyExists);
    }
    hypervisor.UnregisterPort(ConnectionId{connection});
    vmbus::Server server(memory_, hypervisor, {});
    EXPECT_TRUE(server.Start().ok());
  }
}

TEST_F(PairTest, APortTakesWhatItIsFor) {
  Echo echo;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Boot();
  auto client = Open(1);
  ASSERT_EQ(client->channel.state(), Channel::State::kOpen);
  const ConnectionId messages{1}, events{2}, of_channel{0x2001};  // SINT 2, channel 1
  for (const ConnectionId connection : {events, of_channel}) {
    EXPECT_EQ(hypervisor_.ChildSignalEvent(connection), hvdef::HvStatus::kSuccess);
    EXPECT_EQ(hypervisor_.ChildSignalEvent(connection, 1), hvdef::HvStatus::kInvalidParameter) << "it has one flag";
    EXPECT_EQ(hypervisor_.ChildPostMessage(connection, 1, {}), hvdef::HvStatus::kInvalidPortId);
  }
  EXPECT_EQ(hypervisor_.ChildSignalEvent(messages), hvdef::HvStatus::kInvalidPortId);
}

TEST_F(PairTest, ProviderRefuses) {
  Echo echo;
  echo.accept = false;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Boot();
  auto client = Open(1);
  EXPECT_EQ(client->channel.state(), Channel::State::kFailed);
  EXPECT_EQ(client->ends, 1);
  EXPECT_EQ(echo.opens, 1);
  EXPECT_FALSE(channel->is_open());
  echo.accept = true;
  Reopen(*client, 1);
  ExpectEcho(*client, "now");
}

TEST_F(PairTest, RingsWithBadIndicesAreRefused) {
  Echo echo;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Boot();
  auto client = std::make_unique<ChildChannel>();
  client->Prepare(*child_, 4);
  reinterpret_cast<uint32_t*>(child_->host(client->gpa))[1] = 0x12345;  // read_index
  ASSERT_TRUE(child_->client().Open(client->channel, child_->offers()[0], client->pages));
  Settle();
  EXPECT_EQ(client->channel.state(), Channel::State::kFailed);
  EXPECT_EQ(echo.opens, 0);
}

TEST_F(PairTest, CloseWaitsForTheProvider) {
  Echo echo;
  echo.finish_close = false;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Boot();
  auto client = Open(1);
  child_->client().Close(client->channel);
  Settle();
  EXPECT_EQ(client->channel.state(), Channel::State::kClosing);
  ASSERT_EQ(echo.closing, channel.get());
  const int signals = echo.signals;
  channel->Wake();
  Settle();
  EXPECT_EQ(echo.signals, signals);  // none once closing
  channel->FinishClose();
  Settle();
  EXPECT_EQ(client->channel.state(), Channel::State::kNone);
}

TEST_F(PairTest, ClientMayChangeItsMindWhileOpening) {
  Echo echo;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Boot();
  ChildChannel client;
  client.Prepare(*child_, 4);
  ASSERT_TRUE(child_->client().Open(client.channel, child_->offers()[0], client.pages));
  child_->client().Close(client.channel);
  Settle();
  EXPECT_EQ(client.channel.state(), Channel::State::kNone);
  EXPECT_EQ(echo.opens, echo.closes);
  Reopen(client, 1);
  ExpectEcho(client, "after all");
}

TEST_F(PairTest, RescindWhileOpenAndReconnect) {
  Echo echo;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Boot();
  auto client = Open(1);
  ExpectEcho(*client, "before");
  for (int round = 0; round < 5; ++round) {
    channel.reset();
    Settle();
    EXPECT_EQ(client->channel.state(), Channel::State::kRescinded);
    EXPECT_EQ(client->ends, round + 1);
    EXPECT_TRUE(child_->offers().empty());
    channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
    Settle();
    Reopen(*client, 1);
    ExpectEcho(*client, "after");
  }
  EXPECT_EQ(echo.closes, 0);  // the provider left first
}

TEST_F(PairTest, HotAddAndRemoveWithoutOpening) {
  Boot();
  Echo echo;
  auto first = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  auto second = *server_->OfferChannel(EchoOffer(2), echo, executor_);
  Settle();
  EXPECT_EQ(child_->offers().size(), 2u);
  first.reset();
  Settle();
  EXPECT_EQ(child_->offers().size(), 1u);
  auto third = *server_->OfferChannel(EchoOffer(3), echo, executor_);
  Settle();
  EXPECT_EQ(child_->FindOffer(EchoOffer(3).instance_id)->channel_id, 1u);  // the id is free again
}

TEST_F(PairTest, InterruptsFollowModifyChannel) {
  Echo echo;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Boot();
  auto client = Open(1, 4, 1);
  uint64_t words[32];
  for (const uint32_t vp : {2, 3, 0, 1}) {
    ASSERT_TRUE(child_->client().Modify(client->channel, vp));
    EXPECT_TRUE(child_->client().modify_pending(client->channel));
    Settle();
    EXPECT_FALSE(child_->client().modify_pending(client->channel));
    EXPECT_FALSE(child_->client().modify_failed(client->channel));
    for (uint32_t i = 0; i < 4; ++i) (void)hypervisor_.TakeEvents(VpIndex{i}, Sint{2}, words);
    channel->SignalGuest();
    for (uint32_t i = 0; i < 4; ++i) {
      EXPECT_EQ(hypervisor_.TakeEvents(VpIndex{i}, Sint{2}, words), i == vp);
      if (i == vp) {
        EXPECT_EQ(words[0], 1u << client->channel.offer().channel_id);
      }
    }
  }
  ASSERT_TRUE(child_->client().Modify(client->channel, 4));  // no such VP
  Settle();
  EXPECT_TRUE(child_->client().modify_failed(client->channel));
}

TEST_F(PairTest, AChannelMayWantNoInterrupts) {
  Echo echo;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Boot();
  auto client = Open(1, 4, wire::kNoTargetVp);
  ExpectEcho(*client, "polled");
  EXPECT_EQ(client->signals, 1);  // the one on opening
}

TEST_F(PairTest, Subchannels) {
  Echo echo;
  Echo sub_echo;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  EXPECT_EQ(channel->OfferSubchannel(1, sub_echo, executor_).status().code(), absl::StatusCode::kFailedPrecondition);
  Boot();
  auto client = Open(1);
  std::vector<std::unique_ptr<vmbus::Channel>> subs;
  for (uint16_t i = 1; i <= 3; ++i) subs.push_back(*channel->OfferSubchannel(i, sub_echo, executor_));
  EXPECT_EQ(channel->OfferSubchannel(3, sub_echo, executor_).status().code(), absl::StatusCode::kAlreadyExists);
  Settle();
  EXPECT_EQ(child_->offers().size(), 4u);
  std::vector<std::unique_ptr<ChildChannel>> clients;
  for (uint16_t i = 1; i <= 3; ++i) {
    clients.push_back(Open(1, 4, i, i));
    ExpectEcho(*clients.back(), "sub");
  }
  subs.clear();
  Settle();
  for (const auto& sub : clients) EXPECT_EQ(sub->channel.state(), Channel::State::kRescinded);
  ExpectEcho(*client, "primary");
}

TEST_F(PairTest, SubchannelsNeedAVersionThatHasThem) {
  Echo echo;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Boot(wire::Version::kV1_1);
  auto client = Open(1);
  EXPECT_EQ(channel->OfferSubchannel(1, echo, executor_).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(PairTest, LentBuffersAndTheirTeardown) {
  Echo echo;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Boot();
  auto client = Open(1);
  constexpr uint32_t kPages = 300;  // eleven messages
  const uint64_t gpa = child_->AllocatePages(kPages);
  std::vector<uint64_t> pfns;
  for (uint32_t i = 0; i < kPages; ++i) pfns.push_back(gpa / kPageSize + (i * 7) % kPages);
  Gpadl gpadl;
  ASSERT_TRUE(child_->client().CreateGpadl(gpadl, client->channel, {pfns.data(), 0, kPages}));
  Settle();
  ASSERT_EQ(gpadl.state(), Gpadl::State::kCreated);
  echo.lease = channel->AcquireGpadl(gpadl.id());
  ASSERT_TRUE(static_cast<bool>(echo.lease));
  EXPECT_EQ(echo.lease->size_bytes(), kPages * kPageSize);
  const std::string text = "across a page's end";
  ASSERT_TRUE(echo.lease->Write(kPageSize - 5, text.data(), text.size()));
  EXPECT_EQ(std::memcmp(child_->host(pfns[0] * kPageSize + kPageSize - 5), text.data(), 5), 0);
  EXPECT_EQ(std::memcmp(child_->host(pfns[1] * kPageSize), text.data() + 5, text.size() - 5), 0);

  echo.give_up_leases = false;
  child_->client().TeardownGpadl(gpadl);
  Settle();
  EXPECT_EQ(echo.torn_down, gpadl.id());
  EXPECT_EQ(gpadl.state(), Gpadl::State::kTearingDown);
  EXPECT_FALSE(static_cast<bool>(channel->AcquireGpadl(gpadl.id())));
  vmbus::GpadlLease moved = std::move(echo.lease);
  moved.Release();
  Settle();
  EXPECT_EQ(gpadl.state(), Gpadl::State::kNone);
}

TEST_F(PairTest, CloseTakesLentBuffersBack) {
  Echo echo;
  echo.finish_close = false;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Boot();
  auto client = Open(1);
  Gpadl leased, unused;
  for (Gpadl* gpadl : {&leased, &unused}) {
    ASSERT_TRUE(
        child_->client().CreateGpadl(*gpadl, client->channel, {nullptr, child_->AllocatePages(2) / kPageSize, 2}));
  }
  Settle();
  echo.lease = channel->AcquireGpadl(leased.id());
  child_->client().Close(client->channel);
  Settle();
  EXPECT_EQ(unused.state(), Gpadl::State::kNone);
  channel->FinishClose();
  Settle();
  EXPECT_EQ(leased.state(), Gpadl::State::kNone);
  EXPECT_EQ(client->channel.state(), Channel::State::kNone);
  EXPECT_EQ(client->ends, 1);
  EXPECT_FALSE(static_cast<bool>(channel->AcquireGpadl(leased.id())));  // the root has forgotten them, too
  Reopen(*client, 1);
  EXPECT_FALSE(static_cast<bool>(channel->AcquireGpadl(unused.id())));
  ExpectEcho(*client, "again");
}

// Takes packets and never answers, so that whatever it signals is about room. As many as it is told, or all.
class Sink : public vmbus::ChannelHandler {
 public:
  bool OnOpen(vmbus::Channel&) override { return true; }
  void OnClose(vmbus::Channel& channel) override { channel.FinishClose(); }
  void OnSignal(vmbus::Channel& channel) override {
    alignas(8) uint8_t buffer[512];
    vmbus::Packet packet;
    while (quota != 0 && channel.incoming().Read(buffer, sizeof(buffer), packet) == vmbus::RingStatus::kOk) {
      --quota;
      ++packets;
    }
    if (arms) {
      (void)channel.Arm();
    } else {
      channel.SignalGuest(channel.incoming().Commit());
    }
  }

  bool arms = true;
  uint32_t quota = 0;
  uint32_t packets = 0;
};

// The child's ring is full and it waits for room: the root signals when there is as much as it asked for, not before,
// and once, however it gives room back.
TEST_F(PairTest, TheRootSignalsWhenThereIsRoom) {
  Sink sink;
  auto channel = *server_->OfferChannel(EchoOffer(1), sink, executor_);
  Boot();
  auto client = Open(1);
  ASSERT_EQ(client->channel.state(), Channel::State::kOpen);
  ASSERT_TRUE(client->rings.incoming.PeerSignalsRoom());
  constexpr uint32_t kPayload = 256;
  constexpr uint32_t kPacket = vmbus::PacketSize(kPayload);
  const uint8_t payload[kPayload] = {};
  uint64_t sent = 0;
  const auto fill = [&] {
    vmbus::RingStatus status;
    while ((status = client->rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(sent, false), payload, kPayload)) ==
           vmbus::RingStatus::kOk) {
      ++sent;
    }
    ASSERT_EQ(status, vmbus::RingStatus::kFull);
    if (client->rings.outgoing.Publish() == vmbus::Signal::kNeeded) child_->client().Signal(client->channel);
    Settle();
  };
  for (const bool arms : {true, false, true, false}) {
    SCOPED_TRACE(arms ? "Arm" : "Commit");
    sink.arms = arms;
    ASSERT_NO_FATAL_FAILURE(fill());
    // Room for three packets is wanted.
    ASSERT_EQ(client->rings.outgoing.WaitForRoom(3 * kPacket), vmbus::RingStatus::kFull);
    const int signals = client->signals;
    for (const uint32_t quota : {1u, 1u}) {
      sink.quota = quota;
      channel->Wake();
      Settle();
      EXPECT_EQ(client->signals, signals);
    }
    sink.quota = 2;
    channel->Wake();
    Settle();
    EXPECT_EQ(client->signals, signals + 1);
    sink.quota = 1;
    channel->Wake();
    Settle();
    EXPECT_EQ(client->signals, signals + 1);  // told once
    EXPECT_EQ(client->rings.outgoing.WaitForRoom(3 * kPacket), vmbus::RingStatus::kOk);
  }
  sink.quota = 0xFFFFFFFF;
  channel->Wake();
  Settle();
  EXPECT_EQ(sink.packets, sent);
}

TEST_F(PairTest, UnloadTakesLentBuffersBack) {
  Echo echo;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Boot();
  auto client = Open(1);
  Gpadl gpadl;
  ASSERT_TRUE(child_->client().CreateGpadl(gpadl, client->channel, {nullptr, child_->AllocatePages(2) / kPageSize, 2}));
  Settle();
  echo.lease = channel->AcquireGpadl(gpadl.id());
  child_->client().Unload();
  Settle();
  EXPECT_EQ(child_->client().state(), VmbusClient::State::kDisconnected);
  EXPECT_FALSE(static_cast<bool>(echo.lease));
  EXPECT_EQ(gpadl.state(), Gpadl::State::kNone);
  EXPECT_EQ(client->channel.state(), Channel::State::kNone);
}

TEST_F(PairTest, ANewKernelFindsTheBusAsNew) {
  Echo echo;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  for (int boot = 0; boot < 5; ++boot) {
    Boot(wire::kVersions[boot * 2 % std::size(wire::kVersions)]);
    auto client = Open(1);
    ExpectEcho(*client, "hello");
    // No unload: it crashed.
  }
  EXPECT_EQ(echo.opens, 5);
  EXPECT_EQ(echo.closes, 4);
}

TEST_F(PairTest, ResetOfTheMachine) {
  Echo echo;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Boot();
  auto client = Open(1);
  server_->Reset();
  Settle();
  EXPECT_EQ(echo.closes, 1);
  EXPECT_FALSE(server_->version().has_value());
  Boot();
  client = Open(1);
  ExpectEcho(*client, "hello");
}

TEST_F(PairTest, ChannelsMayGoInAnyStateAndTheServerAfterThem) {
  Echo echo;
  echo.finish_close = false;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Boot();
  auto client = Open(1);
  child_->client().Close(client->channel);
  Settle();
  channel.reset();  // while closing
  Settle();
  EXPECT_EQ(client->channel.state(), Channel::State::kNone);  // the ring came back before the device left
  EXPECT_TRUE(child_->offers().empty());
  channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Settle();
  ASSERT_TRUE(child_->client().Open(client->channel, child_->offers()[0], client->pages));
  channel.reset();  // while opening, before its executor has run
  Settle();
  EXPECT_EQ(client->channel.state(), Channel::State::kRescinded);
  server_.reset();
}

TEST_F(PairTest, EveryChannelThereCanBe) {
  std::vector<Echo> echos(wire::kMaxChannels);
  std::vector<std::unique_ptr<vmbus::Channel>> channels;
  for (uint32_t i = 0; i < wire::kMaxChannels; ++i) {
    channels.push_back(*server_->OfferChannel(EchoOffer(i + 1), echos[i], executor_));
  }
  Echo one_more;
  EXPECT_EQ(server_->OfferChannel(EchoOffer(9999), one_more, executor_).status().code(),
            absl::StatusCode::kResourceExhausted);
  Boot();
  ASSERT_EQ(child_->offers().size(), wire::kMaxChannels);
  std::set<uint32_t> ids;
  for (const auto& offer : child_->offers()) ids.insert(offer.channel_id);
  EXPECT_EQ(ids.size(), wire::kMaxChannels);
  EXPECT_EQ(*ids.begin(), 1u);
  EXPECT_EQ(*ids.rbegin(), 2047u);
  // Four pages are 32 MiB for all of them, so the smallest rings share their pages two by two; only one of a pair
  // talks.
  std::vector<std::unique_ptr<ChildChannel>> clients;
  const uint64_t gpa = child_->AllocatePages(4 * 512);
  for (uint32_t i = 0; i < wire::kMaxChannels; ++i) {
    auto client = std::make_unique<ChildChannel>();
    client->gpa = gpa + (i % 512) * 4 * kPageSize;
    client->pages = {{nullptr, client->gpa / kPageSize, 4}, 2};
    client->rings = ClientRings::Create(child_->host(client->gpa), client->pages);
    client->channel.context = client.get();
    client->channel.on_signal = [](void* context, Channel&) { ++static_cast<ChildChannel*>(context)->signals; };
    const auto* const offer = child_->FindOffer(EchoOffer(i + 1).instance_id);
    ASSERT_TRUE(child_->client().Open(client->channel, *offer, client->pages, i % 2));
    if (i % 64 == 0) Settle();
    clients.push_back(std::move(client));
  }
  Settle();
  for (uint32_t i = 0; i < wire::kMaxChannels; ++i) {
    ASSERT_EQ(clients[i]->channel.state(), Channel::State::kOpen) << i;
    ASSERT_EQ(echos[i].opens, 1);
  }
  for (uint32_t i = 0; i < 512; ++i) ExpectEcho(*clients[i], "hello");
  child_->client().Unload();
  Settle();
  EXPECT_EQ(child_->client().state(), VmbusClient::State::kDisconnected);
}

TEST_F(PairTest, MessagesAreShownInOrder) {
  std::vector<std::pair<vmbus::Server::Direction, uint32_t>> seen;
  server_->SetMessageObserver([&](vmbus::Server::Direction direction, absl::Span<const uint8_t> message) {
    seen.emplace_back(direction, message[0]);
  });
  Echo echo;
  auto channel = *server_->OfferChannel(EchoOffer(1), echo, executor_);
  Boot();
  auto client = Open(1);
  using D = vmbus::Server::Direction;
  const std::vector<std::pair<D, uint32_t>> expected = {{D::kToRoot, 14},  {D::kToChild, 15}, {D::kToRoot, 3},
                                                        {D::kToChild, 1},  {D::kToChild, 4},  {D::kToRoot, 8},
                                                        {D::kToChild, 10}, {D::kToRoot, 5},   {D::kToChild, 6}};
  EXPECT_EQ(seen, expected);
}

TEST_F(PairTest, SocketsAreRefusedWithoutAHandler) {
  Boot();
  const hvdef::Guid endpoint = EchoOffer(5).instance_id;
  ASSERT_TRUE(child_->client().TlConnect(endpoint, EchoOffer(6).instance_id));
  vmbus::LoopbackHypervisor::Message message;
  ASSERT_TRUE(hypervisor_.TakeMessage(VpIndex{1}, Sint{2}, message));
  ASSERT_EQ(message.payload.size(), sizeof(wire::TlConnectResult));
  EXPECT_EQ(message.payload[0], 23);
}

TEST_F(PairTest, SocketsComeAsOffers) {
  Echo echo;
  std::unique_ptr<vmbus::Channel> channel;
  server_->SetTlConnectHandler([&](const hvdef::Guid& endpoint, const hvdef::Guid&, const hvdef::Guid&) {
    vmbus::Offer offer = EchoOffer(7);
    offer.flags = wire::kOfferTlnpiProvider;
    offer.instance_id = endpoint;
    channel = *server_->OfferChannel(offer, echo, executor_);
  });
  Boot();
  ASSERT_TRUE(child_->client().TlConnect(EchoOffer(5).instance_id, EchoOffer(6).instance_id));
  Settle();
  ASSERT_EQ(child_->offers().size(), 1u);
  EXPECT_EQ(child_->offers()[0].flags, wire::kOfferTlnpiProvider);
}

// A hypervisor with hardly any room for messages loses none.
class NarrowPairTest : public PairTest {
 protected:
  NarrowPairTest() : PairTest(0) {}
};

TEST_F(NarrowPairTest, EveryMessageArrives) {
  std::vector<Echo> echos(300);
  std::vector<std::unique_ptr<vmbus::Channel>> channels;
  for (uint32_t i = 0; i < echos.size(); ++i) {
    channels.push_back(*server_->OfferChannel(EchoOffer(i + 1), echos[i], executor_));
  }
  Boot();
  EXPECT_EQ(child_->offers().size(), echos.size());
  auto client = Open(300);
  ExpectEcho(*client, "hello");
  channels.clear();
  Settle();
  EXPECT_TRUE(child_->offers().empty());
}

}  // namespace
}  // namespace hvsdk::vsc
