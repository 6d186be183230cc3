// SPDX-License-Identifier: Apache-2.0
// The client against a root that answers as each test wants.

#include "hvsdk/vsc/vmbus_client.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
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

}  // namespace
}  // namespace hvsdk::vsc
