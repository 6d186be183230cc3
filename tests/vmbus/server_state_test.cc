// SPDX-License-Identifier: Apache-2.0
// VMBus' root side as a component: a guest that sends whatever it likes, with a save and a restore in the midst.

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "hvsdk/base/queue_executor.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/channel.h"
#include "hvsdk/vmbus/server.h"
#include "tests/state/component_suite.h"

namespace hvsdk::vmbus {
namespace {

namespace wire = hvdef::vmbus;
using hvdef::HvStatus;

// A hypervisor whose whole state can be copied: one slot with two messages behind it, and event flags.
class SmallHypervisor : public Hypervisor {
 public:
  HvStatus PostMessage(VpIndex, Sint, uint32_t, absl::Span<const uint8_t> payload) override {
    if (messages.size() > 2) {
      was_full = true;
      return HvStatus::kInsufficientBuffers;
    }
    messages.emplace_back(payload.begin(), payload.end());
    return HvStatus::kSuccess;
  }
  void SetMessageSlotObserver(MessageSlotObserver* to) override { observer = to; }
  HvStatus SignalEvent(VpIndex vp, Sint, uint16_t flag) override {
    flags.insert({ToInt(vp), flag});
    return HvStatus::kSuccess;
  }
  absl::Status RegisterPort(ConnectionId connection, PortHandler* handler) override {
    return ports.emplace(connection, handler).second ? absl::OkStatus() : absl::AlreadyExistsError("taken");
  }
  void UnregisterPort(ConnectionId connection) override { ports.erase(connection); }

  void Signal(uint32_t connection) {
    const auto it = ports.find(ConnectionId{connection});
    if (it != ports.end()) it->second->OnEvent(0);
  }
  std::string TakeMessage() {
    if (messages.empty()) return "";
    std::string message = std::move(messages.front());
    messages.pop_front();
    if (std::exchange(was_full, false) && observer != nullptr) observer->OnMessageSlotFree(VpIndex{0}, Sint{2});
    return message;
  }

  std::deque<std::string> messages;
  std::set<std::pair<uint32_t, uint16_t>> flags;
  bool was_full = false;
  MessageSlotObserver* observer = nullptr;
  std::map<ConnectionId, PortHandler*> ports;
};

class Echo : public ChannelHandler {
 public:
  bool OnOpen(Channel&) override { return true; }
  void OnRestored(Channel&) override { ++restored; }
  void OnClose(Channel& channel) override { channel.FinishClose(); }
  void OnSignal(Channel& channel) override {
    alignas(8) uint8_t buffer[512];
    Packet packet;
    do {
      while (channel.incoming().Read(buffer, sizeof(buffer), packet) == RingStatus::kOk) {
        (void)channel.outgoing().StageInBand(PacketHeader::Completion(packet.transaction_id), packet.payload,
                                             packet.payload_size);
      }
      channel.Publish();
    } while (!channel.Arm());
  }
  int restored = 0;
};

constexpr hvdef::Guid kClass = hvdef::MakeGuid("7b9c1f52-3d6e-4b1a-9c41-5f0e6a2d8c11");
constexpr uint32_t kOffers = 3;
constexpr uint32_t kPages = 64;

// A server with three offers, and a guest that keeps everything that it knows in its memory.
struct World {
  explicit World(uint32_t offers = kOffers) {
    EXPECT_TRUE(memory.AddRange(0, absl::MakeSpan(bytes)).ok());
    EXPECT_TRUE(server.Start().ok());
    for (uint32_t i = 0; i < offers; ++i) Offer(i);
  }
  void Offer(uint32_t i) {
    vmbus::Offer offer;
    offer.class_id = kClass;
    offer.instance_id.data1 = i + 1;
    auto channel = server.OfferChannel(offer, echo, executor);
    ASSERT_TRUE(channel.ok()) << channel.status();
    channels.push_back(*std::move(channel));
  }

  state::Component& component() { return server; }
  void CopyWorld(World& from) {
    bytes = from.bytes;
    hypervisor.messages = from.hypervisor.messages;
    hypervisor.flags = from.hypervisor.flags;
    hypervisor.was_full = from.hypervisor.was_full;
  }

  template <typename T>
  void Send(wire::MessageType type, T message, const void* more = nullptr, size_t more_bytes = 0) {
    const wire::ChannelMessageHeader header = {static_cast<uint32_t>(type), 0};
    std::memcpy(&message, &header, sizeof(header));
    std::vector<uint8_t> sent(sizeof(T) + more_bytes);
    std::memcpy(sent.data(), &message, sizeof(T));
    if (more_bytes != 0) std::memcpy(sent.data() + sizeof(T), more, more_bytes);
    const auto it = hypervisor.ports.find(ConnectionId{wire::kMessageConnectionId4});
    (void)it->second->OnMessage(wire::kSynicMessageType, sent);
  }
  void Contact(wire::Version version) {
    wire::InitiateContact contact = {};
    contact.version = static_cast<uint32_t>(version);
    contact.interrupt_page_or_target = wire::HasMessageConnectionId(version) ? 2 : 0x1000;
    Send(wire::MessageType::kInitiateContact, contact);
  }
  // Eight pages, of which `sent` page numbers are in this message.
  void MakeGpadl(uint32_t channel, uint32_t id, uint32_t first_page, uint32_t sent = 8) {
    uint64_t words[9] = {8 * kPageSize};
    for (uint64_t i = 0; i < 8; ++i) words[1 + i] = first_page + i;
    wire::GpadlHeader header = {};
    header.channel_id = channel;
    header.gpadl_id = id;
    header.range_buffer_bytes = sizeof(words);
    header.range_count = 1;
    Send(wire::MessageType::kGpadlHeader, header, words, (1 + sent) * 8);
  }
  void Open(uint32_t channel, uint32_t gpadl, uint32_t target_vp = 0) {
    wire::OpenChannel open = {};
    open.channel_id = channel;
    open.ring_gpadl_id = gpadl;
    open.target_vp = target_vp;
    open.downstream_page_offset = 4;
    Send(wire::MessageType::kOpenChannel, open);
  }
  PagedMemory Ring(uint32_t first_page) {
    for (uint32_t i = 0; i < 4; ++i) pages[i] = {bytes.data() + (first_page + i) * kPageSize, kPageSize};
    return PagedMemory(pages, 3);
  }
  std::string SendAndReceive(uint32_t channel, uint32_t first_page, uint64_t id) {
    RingWriter<PagedMemory> writer(Ring(first_page));
    if (writer.Attach() != RingStatus::kOk) return "no ring";
    (void)writer.StageInBand(PacketHeader::InBand(id, true), &id, sizeof(id));
    if (writer.Publish() == Signal::kNeeded) hypervisor.Signal(uint32_t{wire::kMessageSint} << 12 | channel);
    executor.RunUntilIdle();
    RingReader<PagedMemory> reader(Ring(first_page + 4));
    if (reader.Attach() != RingStatus::kOk) return "no ring back";
    alignas(8) uint8_t buffer[512];
    Packet packet;
    std::string seen;
    if (id % 3 != 0) {  // else it stays
      while (reader.Read(buffer, sizeof(buffer), packet) == RingStatus::kOk) {
        seen += absl::StrCat(" ", packet.transaction_id);
      }
      (void)reader.Arm();
    }
    return seen;
  }

  // This guest writes into rings that are in use. How much room a ring's writer found there before is what it goes on with; one
  // that was restored looks anew.
  static constexpr bool kEndsMayDiffer = true;

  // A restore makes every provider look once more; so here all do before each step.
  void Look() {
    for (const auto& offered : channels) offered->Wake();
    executor.RunUntilIdle();
  }

  std::string Step(std::mt19937_64& random) {
    std::string seen;
    Look();
    const uint32_t channel = 1 + random() % (kOffers + 1);
    const uint32_t gpadl = 1 + random() % 6;
    switch (random() % 32) {
      case 0:
        if (random() % 4 == 0) Contact(wire::kVersions[random() % std::size(wire::kVersions)]);
        break;
      case 1:
        if (random() % 8 == 0) Send(wire::MessageType::kUnload, wire::EmptyMessage{});
        break;
      case 2:
      case 3:
        if (!server.version().has_value()) Contact(wire::kNewestVersion);
        Send(wire::MessageType::kRequestOffers, wire::EmptyMessage{});
        break;
      case 4:
      case 5:
      case 6:
      case 7:
        MakeGpadl(channel, gpadl, 2 + 8 * gpadl, random() % 4 == 0 ? 4 : 8);
        break;
      case 8: {
        wire::GpadlBody body = {};
        body.gpadl_id = gpadl;
        const uint64_t words[2] = {random() % kPages, random() % (kPages + 2)};
        Send(wire::MessageType::kGpadlBody, body, words, sizeof(words));
        break;
      }
      case 9:
      case 10:
      case 11:
      case 12:
        // Not a ring in use: how much room a writer finds in one that was wiped is a matter of when it looked last.
        if (std::none_of(channels.begin(), channels.end(), [](const auto& offered) { return offered->is_open(); })) {
          std::memset(bytes.data() + (2 + 8 * gpadl) * kPageSize, 0, 8 * kPageSize);
        }
        Open(channel, gpadl, random() % 4 == 0 ? wire::kNoTargetVp : random() % 3);
        break;
      case 13: {
        wire::ChannelMessage close = {};
        close.channel_id = channel;
        Send(random() % 3 == 0 ? wire::MessageType::kRelidReleased : wire::MessageType::kCloseChannel, close);
        break;
      }
      case 14: {
        wire::GpadlTeardown teardown = {};
        teardown.channel_id = channel;
        teardown.gpadl_id = gpadl;
        Send(wire::MessageType::kGpadlTeardown, teardown);
        break;
      }
      case 15: {
        wire::ModifyChannel modify = {};
        modify.channel_id = channel;
        modify.target_vp = random() % 3;
        Send(wire::MessageType::kModifyChannel, modify);
        break;
      }
      case 16:  // a ring that is broken
        bytes[(2 + 8 * gpadl + random() % 8) * kPageSize + random() % 8] = static_cast<uint8_t>(random());
        break;
      case 17:
      case 18:
      case 19:
      case 20:
        seen = SendAndReceive(channel, 2 + 8 * gpadl, random());
        break;
      default:
        seen = hypervisor.TakeMessage();
    }
    executor.RunUntilIdle();
    server.CheckInvariants();
    for (const auto& [vp, flag] : hypervisor.flags) absl::StrAppend(&seen, " flag ", vp, ".", flag);
    if (random() % 4 == 0) hypervisor.flags.clear();
    return seen;
  }

  std::vector<uint8_t> bytes = std::vector<uint8_t>(kPages * kPageSize);
  GuestMemory memory;
  SmallHypervisor hypervisor;
  QueueExecutor executor;
  Echo echo;
  Server server{memory, hypervisor, {.vp_count = 2}, {.executor = &executor, .timers = nullptr, .clock = nullptr}};
  std::vector<std::unique_ptr<Channel>> channels;
  RingPage pages[4] = {};
};

TEST(ServerStateTest, KeepsWhatAGuestDid) {
  state::CheckComponent([] { return std::make_unique<World>(); }, 200, 200);
}

// A guest that is connected and has opened channel 1 of three.
struct OpenWorld : World {
  OpenWorld() {
    Contact(wire::kNewestVersion);
    Send(wire::MessageType::kRequestOffers, wire::EmptyMessage{});
    MakeGpadl(1, 1, 10);
    Open(1, 1);
    executor.RunUntilIdle();
    while (!hypervisor.TakeMessage().empty()) executor.RunUntilIdle();
    EXPECT_TRUE(channels[0]->is_open());
  }
};

TEST(ServerStateTest, AnOpenChannelIsOpenAndItsProviderToldOnce) {
  OpenWorld from;
  World to;
  to.CopyWorld(from);
  const absl::Status status = state::RestoreOf(to.server, state::SaveOf(from.server));
  ASSERT_TRUE(status.ok()) << status;
  to.server.CheckInvariants();
  EXPECT_TRUE(to.channels[0]->is_open());
  EXPECT_FALSE(to.channels[1]->is_open());
  EXPECT_EQ(to.echo.restored, 1);
  EXPECT_EQ(to.SendAndReceive(1, 10, 7), " 7");
}

TEST(ServerStateTest, MessagesThatWaitForASlotComeOnceAndInOrder) {
  World from;
  from.Contact(wire::kNewestVersion);
  from.Send(wire::MessageType::kRequestOffers, wire::EmptyMessage{});
  ASSERT_TRUE(from.hypervisor.was_full);
  World to;
  to.CopyWorld(from);
  ASSERT_TRUE(state::RestoreOf(to.server, state::SaveOf(from.server)).ok());
  for (int i = 0; i < 2 + static_cast<int>(kOffers); ++i) {
    const std::string message = from.hypervisor.TakeMessage();
    EXPECT_FALSE(message.empty());
    EXPECT_EQ(to.hypervisor.TakeMessage(), message);
    to.executor.RunUntilIdle();
  }
  EXPECT_TRUE(from.hypervisor.TakeMessage().empty());
  EXPECT_TRUE(to.hypervisor.TakeMessage().empty());
}

// A mistake of the embedding program's, which it can find by that.
TEST(ServerStateDeathTest, AChannelThatIsKeptIsNamed) {
  EXPECT_DEATH(
      {
        World world;
        for (int i = 0; i < 2; ++i) world.channels.pop_back();
        (void)world.channels.back().release();
      },
      "instance 00000001-0000-0000-0000-000000000000, is gone before its server");
}

TEST(ServerStateTest, AnOfferThatIsMissingIsNamed) {
  World three;
  World two(2);
  EXPECT_EQ(state::RestoreOf(two.server, state::SaveOf(three.server)).message(),
            "state of vmbus, channels.instance_id: VMBus instance 00000003-0000-0000-0000-000000000000, subchannel 0, "
            "is not offered here");
  EXPECT_EQ(state::RestoreOf(three.server, state::SaveOf(two.server)).message(),
            "state of vmbus, channels: VMBus instance 00000003-0000-0000-0000-000000000000, subchannel 0, is offered "
            "here and not in the state");
}

TEST(ServerStateTest, AnOfferThatWasRescindedStaysUntilTheGuestLetsGo) {
  OpenWorld from;
  from.channels.erase(from.channels.begin());
  World to(0);
  to.CopyWorld(from);
  to.Offer(1);
  to.Offer(2);
  const absl::Status status = state::RestoreOf(to.server, state::SaveOf(from.server));
  ASSERT_TRUE(status.ok()) << status;
  to.server.CheckInvariants();
  // Its GPADL is still the guest's to tear down, and the id free only then.
  wire::GpadlTeardown teardown = {};
  teardown.channel_id = 1;
  teardown.gpadl_id = 1;
  wire::ChannelMessage release = {};
  release.channel_id = 1;
  for (World* world : {static_cast<World*>(&from), &to}) {
    world->Send(wire::MessageType::kGpadlTeardown, teardown);
    world->Send(wire::MessageType::kRelidReleased, release);
    world->Offer(7);
    world->server.CheckInvariants();
  }
  EXPECT_EQ(to.hypervisor.messages, from.hypervisor.messages);
  EXPECT_EQ(to.hypervisor.messages.size(), 3u) << "rescinded, torn down, offered";
  EXPECT_EQ(state::SaveOf(to.server), state::SaveOf(from.server));
}

TEST(ServerStateTest, AChannelBetweenTwoStatesIsNotSaved) {
  OpenWorld world;
  wire::ChannelMessage close = {};
  close.channel_id = 1;
  world.Send(wire::MessageType::kCloseChannel, close);
  state::StateWriter writer;
  EXPECT_EQ(world.server.Save(writer).code(), absl::StatusCode::kFailedPrecondition);
  world.executor.RunUntilIdle();
  EXPECT_TRUE(world.server.Save(writer).ok());
}

}  // namespace
}  // namespace hvsdk::vmbus
