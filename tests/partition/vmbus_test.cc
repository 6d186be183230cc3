// SPDX-License-Identifier: Apache-2.0
// A VMBus server upon a partition, with nothing between them.
#include "hvsdk/hvdef/vmbus.h"

#include <cstring>

#include "gtest/gtest.h"
#include "hvsdk/vmbus/server.h"
#include "tests/partition/fake_machine.h"

namespace hvsdk::partition {
namespace {

namespace wire = hvdef::vmbus;

TEST(PartitionAsHypervisor, AServerNeedsNothingElse) {
  fake::FakeMachine machine;
  machine.EnableSynic();
  vmbus::Server server(machine.memory, *machine.partition, {.vp_count = 2});
  ASSERT_TRUE(server.Start().ok());
  const wire::InitiateContact contact{
      .header = {.message_type = static_cast<uint32_t>(wire::MessageType::kInitiateContact)},
      .version = static_cast<uint32_t>(wire::kNewestVersion),
      .interrupt_page_or_target = wire::kMessageSint};
  hvdef::PostMessageInput post{.connection_id = wire::kMessageConnectionId4,
                               .message_type = wire::kSynicMessageType,
                               .payload_size = sizeof(contact)};
  std::memcpy(post.payload, &contact, sizeof(contact));
  ASSERT_EQ(machine.StatusOf(hvdef::CallCode::kPostMessage, post), hvdef::HvStatus::kSuccess);
  wire::VersionResponse response;
  std::memcpy(&response, machine.Slot(wire::kMessageSint).payload, sizeof(response));
  EXPECT_EQ(response.header.message_type, static_cast<uint32_t>(wire::MessageType::kVersionResponse));
  EXPECT_EQ(response.version_supported, 1);
  EXPECT_EQ(server.version(), wire::kNewestVersion);
}

}  // namespace
}  // namespace hvsdk::partition
