// SPDX-License-Identifier: Apache-2.0
// The client against a root that answers as each test wants.

#include "hvsdk/vsc/vmbus_client.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/storage_client.h"
#include "tests/vsc/scripted_root.h"

namespace hvsdk::vsc {
namespace {

namespace wire = hvdef::vmbus;
using testing::ElementsAre;
using testing::IsEmpty;
using wire::MessageType;

// --- Closing takes back all that was lent. ---

TEST(VmbusClientCloseTest, WaitsForEveryGpadl) {
  ScriptedRoot root;
  root.Connect();
  Channel channel;
  ASSERT_TRUE(root.Open(channel, 5));
  const uint32_t ring = root.last_gpadl();
  Gpadl made, being_made, refused;
  for (Gpadl* gpadl : {&made, &being_made, &refused}) {
    ASSERT_TRUE(root.client.CreateGpadl(*gpadl, channel, {nullptr, 64, 2}));
  }
  root.SayGpadlCreated(made, 5);
  root.TakePosted();

  root.client.Close(channel);
  EXPECT_THAT(root.TakePosted(),
              ElementsAre(MessageType::kCloseChannel, MessageType::kGpadlTeardown, MessageType::kGpadlTeardown));
  EXPECT_EQ(made.state(), Gpadl::State::kTearingDown);
  root.SayTorndown(ring);
  EXPECT_EQ(channel.state(), Channel::State::kClosing);
  EXPECT_EQ(made.state(), Gpadl::State::kTearingDown);  // the root still has it
  root.SayTorndown(made.id());
  EXPECT_EQ(made.state(), Gpadl::State::kNone);
  EXPECT_EQ(channel.state(), Channel::State::kClosing);

  root.SayGpadlCreated(being_made, 5);
  EXPECT_THAT(root.TakePosted(), ElementsAre(MessageType::kGpadlTeardown));
  root.SayTorndown(being_made.id());
  EXPECT_EQ(channel.state(), Channel::State::kClosing);
  root.SayGpadlCreated(refused, 5, wire::kStatusUnsuccessful);
  EXPECT_EQ(refused.state(), Gpadl::State::kFailed);
  EXPECT_EQ(channel.state(), Channel::State::kNone);
  ASSERT_TRUE(root.Open(channel, 5));
}

TEST(VmbusClientCloseTest, SendsWhatTheRootWasTooBusyToTake) {
  ScriptedRoot root;
  root.Connect();
  Channel channel;
  ASSERT_TRUE(root.Open(channel, 5));
  const uint32_t ring = root.last_gpadl();
  Gpadl gpadl;
  ASSERT_TRUE(root.client.CreateGpadl(gpadl, channel, {nullptr, 64, 2}));
  root.SayGpadlCreated(gpadl, 5);
  root.TakePosted();
  root.post_status = hvdef::HvStatus::kInsufficientBuffers;
  root.client.Close(channel);
  EXPECT_FALSE(root.client.Poll());
  EXPECT_THAT(root.TakePosted(), IsEmpty());
  root.post_status = hvdef::HvStatus::kSuccess;
  EXPECT_TRUE(root.client.Poll());
  EXPECT_THAT(root.TakePosted(),
              ElementsAre(MessageType::kCloseChannel, MessageType::kGpadlTeardown, MessageType::kGpadlTeardown));
  EXPECT_TRUE(root.client.Poll());
  EXPECT_THAT(root.TakePosted(), IsEmpty());
  root.SayTorndown(gpadl.id());
  root.SayTorndown(ring);
  EXPECT_EQ(channel.state(), Channel::State::kNone);
}

// --- Rescinds. ---

TEST(VmbusClientRescindTest, OnlyOfIdsThatExist) {
  ScriptedRoot root;
  root.Connect();
  Channel channel;
  for (const uint32_t id : {0u, 2048u, 0xFFFFFFFFu}) {
    root.Say(MessageType::kRescindOffer, wire::ChannelMessage{{}, id});
    EXPECT_FALSE(root.client.Open(channel, ScriptedRoot::Offer(id), {{nullptr, 16, 4}, 2}));
  }
  EXPECT_THAT(root.rescinded, IsEmpty());
  for (const uint32_t id : {1u, 2047u}) root.Say(MessageType::kRescindOffer, wire::ChannelMessage{{}, id});
  EXPECT_THAT(root.rescinded, ElementsAre(1u, 2047u));
}

TEST(VmbusClientRescindTest, EndsTheChannelBeforeTheHandlerHears) {
  ScriptedRoot root;
  root.Connect();
  Channel channel;
  channel.context = &root;
  channel.on_end = [](void* context, Channel& ended) {
    EXPECT_EQ(ended.state(), Channel::State::kRescinded);
    EXPECT_THAT(static_cast<ScriptedRoot*>(context)->rescinded, IsEmpty());
  };
  ASSERT_TRUE(root.Open(channel, 5));
  root.TakePosted();
  root.client.Release(5);  // in use
  EXPECT_THAT(root.TakePosted(), IsEmpty());
  root.Say(MessageType::kRescindOffer, wire::ChannelMessage{{}, 5});
  EXPECT_EQ(channel.state(), Channel::State::kRescinded);
  EXPECT_THAT(root.rescinded, ElementsAre(5u));
  EXPECT_THAT(root.TakePosted(), IsEmpty());  // nothing to close
  root.client.Release(5);
  EXPECT_THAT(root.TakePosted(), ElementsAre(MessageType::kRelidReleased));
}

// --- A hypervisor that does not take messages. ---

using hvdef::HvStatus;

TEST(VmbusClientRefusalTest, BusyPasses) {
  for (const HvStatus status : {HvStatus::kInsufficientBuffers, HvStatus::kInsufficientMemory}) {
    ScriptedRoot root;
    root.post_status = status;
    root.client.Connect();
    EXPECT_FALSE(root.client.Poll());
    EXPECT_EQ(root.client.state(), VmbusClient::State::kConnecting);
    root.post_status = HvStatus::kSuccess;
    root.Connect();
    root.post_status = status;
    root.client.RequestOffers();
    EXPECT_FALSE(root.client.Poll());
    EXPECT_EQ(root.client.state(), VmbusClient::State::kConnected);
    root.post_status = HvStatus::kSuccess;
    root.TakePosted();
    EXPECT_TRUE(root.client.Poll());
    EXPECT_THAT(root.TakePosted(), ElementsAre(MessageType::kRequestOffers));
  }
}

TEST(VmbusClientRefusalTest, AnInvalidConnectionPassesOnceConnected) {
  ScriptedRoot root;
  root.Connect();
  root.post_status = HvStatus::kInvalidConnectionId;
  root.client.RequestOffers();
  EXPECT_EQ(root.client.state(), VmbusClient::State::kConnected);
  root.client.Connect();  // but no version's connection is there
  EXPECT_EQ(root.client.state(), VmbusClient::State::kFailed);
}

TEST(VmbusClientRefusalTest, AnyOtherIsFinal) {
  for (const HvStatus status :
       {HvStatus::kAccessDenied, HvStatus::kInvalidParameter, HvStatus::kInvalidHypercallCode}) {
    ScriptedRoot root;
    root.post_status = status;
    root.client.Connect();
    EXPECT_EQ(root.client.state(), VmbusClient::State::kFailed);

    root.post_status = HvStatus::kSuccess;
    root.Connect();
    int ends = 0;
    Channel open, opening;
    open.context = opening.context = &ends;
    open.on_end = opening.on_end = [](void* context, Channel& channel) {
      EXPECT_EQ(channel.state(), Channel::State::kFailed);
      ++*static_cast<int*>(context);
    };
    ASSERT_TRUE(root.Open(open, 5));
    ASSERT_TRUE(root.client.Open(opening, ScriptedRoot::Offer(6), {{nullptr, 32, 4}, 2}));
    root.post_status = status;
    root.SayGpadlCreated(root.last_gpadl(), 6);  // open-channel follows
    EXPECT_EQ(root.client.state(), VmbusClient::State::kFailed);
    EXPECT_EQ(ends, 2);
    EXPECT_TRUE(root.client.Poll());
    root.post_status = HvStatus::kSuccess;
    root.Connect();
    EXPECT_EQ(root.client.state(), VmbusClient::State::kConnected);
    EXPECT_TRUE(root.Open(open, 5));
  }
}

// --- Old versions. ---

TEST(VmbusClientVersionTest, UnloadIsSentFromVersion3On) {
  for (const wire::Version version : wire::kVersions) {
    ScriptedRoot root(version);
    root.Connect();
    ASSERT_EQ(root.client.version(), version);
    Channel channel;
    ASSERT_TRUE(root.Open(channel, 5));
    root.TakePosted();
    root.client.Unload();
    EXPECT_EQ(root.client.state(), VmbusClient::State::kUnloading);
    if (version >= wire::Version::kV3_0) {
      EXPECT_THAT(root.TakePosted(), ElementsAre(MessageType::kUnload));
      root.Say(MessageType::kUnloadResponse, wire::EmptyMessage{});
    } else {
      EXPECT_THAT(root.TakePosted(), ElementsAre(MessageType::kCloseChannel, MessageType::kGpadlTeardown));
      EXPECT_FALSE(root.client.Open(channel, ScriptedRoot::Offer(6), {{nullptr, 16, 4}, 2}));
      root.SayTorndown(root.last_gpadl());
    }
    EXPECT_EQ(root.client.state(), VmbusClient::State::kDisconnected);
    EXPECT_EQ(channel.state(), Channel::State::kNone);
    root.TakePosted();

    root.Connect();
    root.client.Unload();  // with nothing open
    if (version < wire::Version::kV3_0) {
      EXPECT_EQ(root.client.state(), VmbusClient::State::kDisconnected);
      EXPECT_THAT(root.TakePosted(), ElementsAre(MessageType::kInitiateContact));
    }
  }
}

TEST(VmbusClientVersionTest, OldUnloadEndsAChannelThatIsOpening) {
  ScriptedRoot root(wire::Version::kV2_4);
  root.Connect();
  Channel channel;
  ASSERT_TRUE(root.client.Open(channel, ScriptedRoot::Offer(5), {{nullptr, 16, 4}, 2}));
  root.client.Unload();
  root.SayGpadlCreated(root.last_gpadl(), 5);
  root.SayTorndown(root.last_gpadl());
  EXPECT_EQ(root.client.state(), VmbusClient::State::kDisconnected);
  EXPECT_EQ(channel.state(), Channel::State::kNone);
}

TEST(VmbusClientVersionTest, SignalsSetABitUnlessTheInterruptIsDedicated) {
  for (const wire::Version version : wire::kVersions) {
    for (const uint16_t dedicated : {0, 1}) {
      ScriptedRoot root(version);
      root.Connect();
      wire::OfferChannel offer = ScriptedRoot::Offer(11);
      offer.is_dedicated_interrupt = dedicated;
      Channel channel;
      ASSERT_TRUE(root.Open(channel, offer));
      root.client.Signal(channel);
      const bool own_connection = version >= wire::Version::kV1_1;
      EXPECT_THAT(root.signalled, ElementsAre(own_connection ? 0x200Bu : wire::kEventConnectionId));
      EXPECT_EQ(root.interrupt_page[wire::kInterruptPageToRoot + 1], own_connection && dedicated != 0 ? 0 : 1 << 3);
    }
  }
}

TEST(VmbusClientVersionTest, TheRootLearnsOfTheInterruptPage) {
  for (const wire::Version version : wire::kVersions) {
    ScriptedRoot root(version);
    root.client.Connect();
    wire::InitiateContact contact;
    ASSERT_EQ(root.posted.back().size(), sizeof(contact));
    std::memcpy(&contact, root.posted.back().data(), sizeof(contact));
    EXPECT_EQ(contact.interrupt_page_or_target, version < wire::Version::kV5_0 ? 0x1000 : wire::kMessageSint);
  }
}

// --- Rings. ---

TEST(ClientRingsTest, PagesThatAreNotTwoRingsAreLeftAlone) {
  constexpr uint32_t kPages = 4;
  struct Case {
    uint32_t page_count, outgoing_pages;
  };
  for (const Case& bad :
       {Case{kPages, kPages}, Case{kPages, kPages + 1}, Case{kPages, kPages - 1}, Case{kPages, 1}, Case{kPages, 0},
        Case{3, 2}, Case{0, 0}, Case{kPages, 0xFFFFFFFF}, Case{0xFFFFFFFF, 2}, Case{kMaxGpadlPages + 1, 2}}) {
    SCOPED_TRACE(testing::Message() << bad.page_count << " pages, " << bad.outgoing_pages << " outgoing");
    const std::unique_ptr<uint8_t, void (*)(void*)> memory(
        static_cast<uint8_t*>(std::aligned_alloc(4096, (kPages + 2) * 4096)), std::free);
    std::memset(memory.get(), 0xEE, (kPages + 2) * 4096);
    const RingPages pages = {{nullptr, 16, bad.page_count}, bad.outgoing_pages};
    ClientRings rings = ClientRings::Create(memory.get(), pages);
    EXPECT_FALSE(rings.is_valid());
    EXPECT_EQ(std::count(memory.get(), memory.get() + (kPages + 2) * 4096, 0xEE), (kPages + 2) * 4096);
    EXPECT_EQ(rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(1, false), "12345678", 8),
              vmbus::RingStatus::kCorrupt);
    alignas(8) uint8_t buffer[64];
    vmbus::Packet packet;
    EXPECT_EQ(rings.incoming.Read(buffer, sizeof(buffer), packet), vmbus::RingStatus::kCorrupt);
    ScriptedRoot root;
    root.Connect();
    Channel channel;
    EXPECT_FALSE(root.client.Open(channel, ScriptedRoot::Offer(5), pages));
    StorageClient disk(root.client, channel, rings);
    EXPECT_EQ(disk.state(), StorageClient::State::kFailed);
    disk.Start();
    disk.OnSignal();
    EXPECT_EQ(disk.state(), StorageClient::State::kFailed);
  }
  EXPECT_FALSE(ClientRings::Create(nullptr, {{nullptr, 16, 4}, 2}).is_valid());
  EXPECT_FALSE(ClientRings().is_valid());
  alignas(4096) static uint8_t memory[kPages * 4096];
  EXPECT_TRUE(ClientRings::Create(memory, {{nullptr, 16, kPages}, 2}).is_valid());
}

}  // namespace
}  // namespace hvsdk::vsc
