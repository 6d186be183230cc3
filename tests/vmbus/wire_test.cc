// SPDX-License-Identifier: Apache-2.0
// The bytes of each channel message, spelled out, as a guest and a host of any make would write them.

#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/guid.h"
#include "hvsdk/hvdef/vmbus.h"
#include "hvsdk/hvdef/vmbus_ring.h"

namespace hvsdk::hvdef {
namespace {

using namespace vmbus;  // NOLINT: the wire's names, all of them

constexpr Guid kGuid = MakeGuid("00112233-4455-6677-8899-aabbccddeeff");

template <typename T>
std::vector<int> Bytes(const T& message) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&message);
  return std::vector<int>(bytes, bytes + sizeof(T));
}

constexpr ChannelMessageHeader Header(MessageType type) { return {static_cast<uint32_t>(type), 0}; }

std::vector<int> Join(std::initializer_list<std::vector<int>> parts) {
  std::vector<int> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

const std::vector<int> kGuidBytes = {0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66,
                                     0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF};
std::vector<int> Zeros(size_t count) { return std::vector<int>(count, 0); }

TEST(GuidTest, MixedEndianOnTheWire) { EXPECT_EQ(Bytes(kGuid), kGuidBytes); }

TEST(GuidTest, TextBothWays) {
  char text[kGuidTextSize];
  FormatGuid(kGuid, text);
  EXPECT_EQ(std::string(text, sizeof(text)), "00112233-4455-6677-8899-aabbccddeeff");
  Guid back = {};
  const std::string upper = "00112233-4455-6677-8899-AABBCCDDEEFF";
  EXPECT_TRUE(ParseGuid(upper.data(), upper.size(), back));
  EXPECT_EQ(back, kGuid);
  for (const std::string bad : {"", "00112233-4455-6677-8899-aabbccddeef", "00112233-4455-6677-8899-aabbccddeeffa",
                                "0011223g-4455-6677-8899-aabbccddeeff", "00112233a4455-6677-8899-aabbccddeeff"}) {
    Guid untouched = kGuid;
    EXPECT_FALSE(ParseGuid(bad.data(), bad.size(), untouched)) << bad;
    EXPECT_EQ(untouched, kGuid);
  }
}

TEST(GuidTest, OrderIsThatOfTheText) {
  EXPECT_LT(MakeGuid("00112233-4455-6677-8899-aabbccddeefe"), kGuid);
  EXPECT_LT(kGuid, MakeGuid("01112233-0000-0000-0000-000000000000"));
  EXPECT_FALSE(kGuid < kGuid);
}

TEST(GuidTest, ScsiClassAsGuestsCompareIt) {
  EXPECT_EQ(Bytes(class_id::kScsi), (std::vector<int>{0xD9, 0x63, 0x61, 0xBA, 0xA1, 0x04, 0x29, 0x4D, 0xB6, 0x05, 0x72,
                                                      0xE2, 0xFF, 0xB1, 0xDC, 0x7F}));
}

TEST(VmbusWireTest, OfferChannel) {
  OfferChannel m = {};
  m.header = Header(MessageType::kOfferChannel);
  m.class_id = kGuid;
  m.instance_id = kGuid;
  m.flags = kOfferNamedPipeMode;
  m.mmio_megabytes = 0x0102;
  m.user_defined[0] = 4;
  m.user_defined[119] = 0x77;
  m.subchannel_index = 0x0304;
  m.mmio_megabytes_optional = 0x0506;
  m.channel_id = 0x0708090A;
  m.monitor_id = 0xFF;
  m.monitor_allocated = 1;
  m.is_dedicated_interrupt = 1;
  m.connection_id = 0x2001;
  EXPECT_EQ(Bytes(m), Join({{1, 0, 0, 0, 0, 0, 0, 0},
                            kGuidBytes,
                            kGuidBytes,
                            Zeros(16),
                            {0x10, 0, 0x02, 0x01},
                            {4},
                            Zeros(118),
                            {0x77},
                            {0x04, 0x03, 0x06, 0x05, 0x0A, 0x09, 0x08, 0x07},
                            {0xFF, 1, 1, 0, 0x01, 0x20, 0, 0}}));
}

TEST(VmbusWireTest, MessagesThatNameAChannel) {
  const std::pair<MessageType, int> types[] = {{MessageType::kRescindOffer, 2},
                                               {MessageType::kCloseChannel, 7},
                                               {MessageType::kRelidReleased, 13},
                                               {MessageType::kCloseReservedResponse, 20}};
  for (const auto& [type, number] : types) {
    const std::vector<int> golden = {number, 0, 0, 0, 0, 0, 0, 0, 0x11, 0, 0, 0};
    EXPECT_EQ(Bytes(ChannelMessage{Header(type), 0x11}), golden);
  }
}

TEST(VmbusWireTest, MessagesWithoutContents) {
  const std::pair<MessageType, int> types[] = {{MessageType::kRequestOffers, 3},
                                               {MessageType::kAllOffersDelivered, 4},
                                               {MessageType::kUnload, 16},
                                               {MessageType::kUnloadResponse, 17}};
  for (const auto& [type, number] : types) {
    EXPECT_EQ(Bytes(EmptyMessage{Header(type)}), (std::vector<int>{number, 0, 0, 0, 0, 0, 0, 0}));
  }
}

TEST(VmbusWireTest, OpenChannel) {
  OpenChannel m = {};
  m.header = Header(MessageType::kOpenChannel);
  m.channel_id = 1;
  m.open_id = 2;
  m.ring_gpadl_id = 0xE1E10;
  m.target_vp = 3;
  m.downstream_page_offset = 4;
  m.user_data[0] = 5;
  EXPECT_EQ(Bytes(m), Join({{5, 0, 0, 0, 0, 0, 0, 0},
                            {1, 0, 0, 0},
                            {2, 0, 0, 0},
                            {0x10, 0x1E, 0x0E, 0},
                            {3, 0, 0, 0},
                            {4, 0, 0, 0},
                            {5},
                            Zeros(119)}));
}

TEST(VmbusWireTest, OpenResult) {
  EXPECT_EQ(Bytes(OpenResult{Header(MessageType::kOpenResult), 1, 2, kStatusUnsuccessful}),
            (std::vector<int>{6, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0xC0}));
}

TEST(VmbusWireTest, Gpadl) {
  EXPECT_EQ(Bytes(GpadlHeader{Header(MessageType::kGpadlHeader), 1, 0xE1E10, 0x0118, 1}),
            (std::vector<int>{8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x10, 0x1E, 0x0E, 0, 0x18, 0x01, 1, 0}));
  EXPECT_EQ(Bytes(GpaRange{0x3000, 0x10}), (std::vector<int>{0, 0x30, 0, 0, 0x10, 0, 0, 0}));
  EXPECT_EQ(Bytes(GpadlBody{Header(MessageType::kGpadlBody), 1, 0xE1E10}),
            (std::vector<int>{9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x10, 0x1E, 0x0E, 0}));
  EXPECT_EQ(Bytes(GpadlCreated{Header(MessageType::kGpadlCreated), 1, 2, 0}),
            (std::vector<int>{10, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(Bytes(GpadlTeardown{Header(MessageType::kGpadlTeardown), 1, 2}),
            (std::vector<int>{11, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0}));
  EXPECT_EQ(Bytes(GpadlTorndown{Header(MessageType::kGpadlTorndown), 2}),
            (std::vector<int>{12, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0}));
  // A header takes 26 page numbers behind its range, a body 28: what Linux sends for a ring of 32 KiB and more.
  EXPECT_EQ(kMaxGpadlHeaderWords, 27u);
  EXPECT_EQ(kMaxGpadlBodyWords, 28u);
}

TEST(VmbusWireTest, InitiateContactOldAndNew) {
  InitiateContact m = {};
  m.header = Header(MessageType::kInitiateContact);
  m.version = static_cast<uint32_t>(Version::kV2_4);
  m.target_message_vp = 1;
  m.interrupt_page_or_target = 0x123456000;
  m.parent_to_child_monitor_page = 0x1000;
  m.child_to_parent_monitor_page = 0x2000;
  EXPECT_EQ(Bytes(m), Join({{14, 0, 0, 0, 0, 0, 0, 0},
                            {4, 0, 2, 0},
                            {1, 0, 0, 0},
                            {0, 0x60, 0x45, 0x23, 1, 0, 0, 0},
                            {0, 0x10, 0, 0, 0, 0, 0, 0},
                            {0, 0x20, 0, 0, 0, 0, 0, 0}}));
  m.version = static_cast<uint32_t>(Version::kV5_1);
  m.interrupt_page_or_target = 0x0102;
  EXPECT_EQ(TargetSint(m.interrupt_page_or_target), 2);
  EXPECT_EQ(TargetVtl(m.interrupt_page_or_target), 1);
}

TEST(VmbusWireTest, VersionResponse) {
  EXPECT_EQ(Bytes(VersionResponse{Header(MessageType::kVersionResponse), 1, kConnectionSuccessful, 0, 4}),
            (std::vector<int>{15, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0}));
}

TEST(VmbusWireTest, ModifyChannel) {
  EXPECT_EQ(Bytes(ModifyChannel{Header(MessageType::kModifyChannel), 1, 2}),
            (std::vector<int>{22, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0}));
  EXPECT_EQ(Bytes(ModifyChannelResponse{Header(MessageType::kModifyChannelResponse), 1, 0}),
            (std::vector<int>{24, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}));
}

TEST(VmbusWireTest, TlConnect) {
  const TlConnectRequest request = {Header(MessageType::kTlConnectRequest), kGuid, kGuid};
  const std::vector<int> golden = Join({{21, 0, 0, 0, 0, 0, 0, 0}, kGuidBytes, kGuidBytes});
  EXPECT_EQ(Bytes(request), golden);
  EXPECT_EQ(Bytes(TlConnectRequest2{request, kGuid}), Join({golden, kGuidBytes}));
  EXPECT_EQ(Bytes(TlConnectResult{Header(MessageType::kTlConnectResult), kGuid, kGuid, kStatusConnectionRefused}),
            Join({{23, 0, 0, 0, 0, 0, 0, 0}, kGuidBytes, kGuidBytes, {0x36, 0x02, 0, 0xC0}}));
}

TEST(VmbusWireTest, ReservedChannel) {
  EXPECT_EQ(Bytes(OpenReservedChannel{Header(MessageType::kOpenReservedChannel), 1, 2, 3, 4, 5}),
            (std::vector<int>{18, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0}));
  EXPECT_EQ(Bytes(CloseReservedChannel{Header(MessageType::kCloseReservedChannel), 1, 2, 3}),
            (std::vector<int>{19, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0}));
}

// Versions and what they add, as guests expect it.
TEST(VmbusWireTest, Versions) {
  struct Row {
    Version version;
    uint32_t number;
    std::string features;
  };
  const Row rows[] = {
      {Version::kV0_13, 13, ""},
      {Version::kV1_1, 0x10001, "c"},
      {Version::kV2_4, 0x20004, "cis"},
      {Version::kV3_0, 0x30000, "cisv"},
      {Version::kV4_0, 0x40000, "cisvt"},
      {Version::kV4_1, 0x40001, "cisvtm"},
      {Version::kV5_0, 0x50000, "cisvtmC"},
      {Version::kV5_1, 0x50001, "cisvtmCV"},
      {Version::kV5_2, 0x50002, "cisvtmCVS"},
      {Version::kV5_3, 0x50003, "cisvtmCVSM"},
  };
  ASSERT_EQ(std::size(rows), std::size(kVersions));
  for (size_t i = 0; i < std::size(rows); ++i) {
    const Version v = kVersions[i];
    EXPECT_EQ(v, rows[i].version);
    EXPECT_EQ(static_cast<uint32_t>(v), rows[i].number);
    std::string features;
    if (HasChannelConnections(v)) features += 'c';
    if (HasChannelInterrupts(v)) features += 'i';
    if (HasSubchannels(v)) features += 's';
    if (HasTargetMessageVp(v)) features += 'v';
    if (HasTlConnect(v)) features += 't';
    if (HasModifyChannel(v)) features += 'm';
    if (HasMessageConnectionId(v)) features += 'C';
    if (HasTargetVtl(v)) features += 'V';
    if (HasTlConnectSilo(v)) features += 'S';
    if (HasModifyChannelResponse(v)) features += 'M';
    EXPECT_EQ(features, rows[i].features) << rows[i].number;
  }
}

}  // namespace
}  // namespace hvsdk::hvdef
