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

}  // namespace
}  // namespace hvsdk::vsc
