// SPDX-License-Identifier: Apache-2.0
// The network provider as its guests meet it: what they agree on, frames both ways, offloads, filters, flows on their channels.

#include <cstring>
#include <random>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/ethernet/checksum.h"
#include "hvsdk/ethernet/flow_hash.h"
#include "hvsdk/ethernet/segmentation.h"
#include "hvsdk/hvdef/rndis.h"
#include "tests/ethernet/frame_builder.h"
#include "tests/random_seed.h"
#include "tests/vsp/dirty_copy.h"
#include "tests/vsp/network_fixture.h"

namespace hvsdk::vsp {
namespace {

namespace rndis = hvdef::rndis;
using ethernet::FrameSpec;
using ethernet::MakeFrame;
using hvdef::netvsp::Version;
using rndis::Oid;
using testing::ElementsAreArray;
using testing::SizeIs;

constexpr Version kVersions[] = {Version::k1, Version::k2, Version::k4, Version::k5, Version::k6, Version::k61};

// With so many executors for subchannels beside the adapter's own.
class NetworkTest : public NetworkFixture, public testing::WithParamInterface<size_t> {
 protected:
  NetworkTest() {
    for (size_t i = 0; i < GetParam(); ++i) more_executors_.emplace_back();
  }
  static FrameSpec ToGuest(size_t payload = 100) {
    FrameSpec spec;
    spec.to = kMac;
    spec.payload.assign(payload, 0x5A);
    for (size_t i = 0; i < payload; ++i) spec.payload[i] = static_cast<uint8_t>(i * 7);
    return spec;
  }
  static FrameSpec FromGuest(size_t payload = 100) {
    FrameSpec spec = ToGuest(payload);
    std::swap(spec.to, spec.from);
    return spec;
  }
  uint64_t Ask(vsc::NetworkClient& client, Oid oid) {
    EXPECT_TRUE(client.Query(oid));
    Pump();
    EXPECT_FALSE(client.is_asking());
    EXPECT_EQ(client.answer_status(), rndis::Status::kSuccess);
    uint64_t value = 0;
    std::memcpy(&value, client.answer(), std::min<size_t>(client.answer_bytes(), sizeof(value)));
    return value;
  }
  rndis::Status Set(vsc::NetworkClient& client, Oid oid, const void* info, uint32_t size) {
    EXPECT_TRUE(client.Set(oid, info, size));
    Pump();
    EXPECT_FALSE(client.is_asking());
    return client.answer_status();
  }
  void SetFilter(vsc::NetworkClient& client, uint32_t filter) {
    EXPECT_EQ(Set(client, Oid::kGenCurrentPacketFilter, &filter, sizeof(filter)), rndis::Status::kSuccess);
  }
  // All flows by a table of so many channels.
  rndis::Status SetRss(vsc::NetworkClient& client, uint32_t channels) {
    const RssRequest rss(channels);
    return Set(client, Oid::kGenReceiveScaleParameters, &rss, sizeof(rss));
  }

  // What comes in parts, put together; each transfer's parts are in order, and whole.
  void ExpectSegmentsInParts(size_t part_bytes) {
    Make();
    buffers_.coalesces = true;
    auto opened = Open();
    for (const Version version : {Version::k6, Version::k61}) {
      Start(*opened->client, version);
      const bool coalesces = version == Version::k61;
      EXPECT_EQ(port_->accepted.takes_segmentation, coalesces);
      EXPECT_EQ(port_->accepted.max_frame_bytes, coalesces ? ethernet::kMaxFrameBytes : 1514);
      if (coalesces) break;
      child_->client().Close(opened->channel);
      Pump();
      EXPECT_FALSE(port_->accepted.takes_segmentation);
      Reopen(*opened);
    }
    EXPECT_TRUE(network_->is_quiet());
    for (const size_t payload : {1400u, 1448u, 1461u, 3000u, 20'000u, 64'000u}) {
      for (const bool has_vlan : {false, true}) {
        SCOPED_TRACE(testing::Message() << payload << (has_vlan ? ", in a VLAN" : ""));
        received_.clear();
        FrameSpec spec = ToGuest(payload);
        spec.protocol = ethernet::kTcp;
        Bytes bytes = MakeFrame(spec);
        FrameOffload offload = ethernet::LeaveChecksum(bytes);
        offload.segmentation = FrameOffload::Segmentation::kTcp4;
        offload.segment_bytes = 1448;
        offload.has_vlan = has_vlan;
        offload.vlan_tci = 0x6123;
        const Bytes small = MakeFrame(ToGuest());
        port_->Give({small, {}});
        port_->Give({bytes, offload});
        port_->Give({small, {}});
        Pump();
        EXPECT_EQ(port_->too_long, 0u);
        ASSERT_GE(received_.size(), 3u);
        EXPECT_EQ(received_.front().bytes, small);
        EXPECT_EQ(received_.back().bytes, small);
        EXPECT_FALSE(received_.front().info.has_packet_id || received_.back().info.has_packet_id);
        Bytes whole;
        const size_t parts = received_.size() - 2;
        const bool is_long = bytes.size() > 1514;
        EXPECT_EQ(parts, is_long ? (bytes.size() + part_bytes - 1) / part_bytes : 1);
        for (size_t i = 1; i <= parts; ++i) {
          const vsc::FrameInfo& info = received_[i].info;
          whole.insert(whole.end(), received_[i].bytes.begin(), received_[i].bytes.end());
          EXPECT_EQ(info.has_packet_id, is_long);
          if (!is_long) continue;
          EXPECT_EQ(info.packet_id.version, rndis::kPacketIdVersion);
          EXPECT_EQ(info.packet_id.id, received_[1].info.packet_id.id);
          EXPECT_EQ(info.packet_id.flags, rndis::kPacketIsPart | (i == 1 ? rndis::kPacketIsFirstPart : 0) |
                                              (i == parts ? rndis::kPacketIsLastPart : 0));
          EXPECT_EQ(info.has_checksum, i == 1);
        }
        EXPECT_EQ(received_[1].info.checksum, rndis::kChecksumTcpSucceeded);
        EXPECT_EQ(received_[1].info.has_vlan, has_vlan);
        if (!is_long) bytes = MakeFrame(spec);  // which is given with its checksum, as any other
        EXPECT_EQ(whole, bytes);
      }
    }
    // A long frame that is no segment is not carried, and costs nothing.
    received_.clear();
    port_->Give({MakeFrame(ToGuest(4000)), {}});
    port_->Give({MakeFrame(ToGuest()), {}});
    Pump();
    EXPECT_EQ(received_.size(), 1u);
    EXPECT_EQ(network_->counts().receive_errors, 1u);
    EXPECT_TRUE(network_->is_quiet());
    // The guest wants no more of it.
    rndis::OffloadParameters parameters = {};
    parameters.header = {rndis::kObjectDefault, 3, sizeof(parameters)};
    parameters.rsc_ipv4 = parameters.rsc_ipv6 = rndis::kOffloadChecksumOff;
    EXPECT_EQ(Set(*opened->client, Oid::kTcpOffloadParameters, &parameters, sizeof(parameters)),
              rndis::Status::kSuccess);
    EXPECT_FALSE(port_->accepted.takes_segmentation);
    parameters.rsc_ipv4 = 3;
    EXPECT_EQ(Set(*opened->client, Oid::kTcpOffloadParameters, &parameters, sizeof(parameters)),
              rndis::Status::kInvalidData);
  }
};

INSTANTIATE_TEST_SUITE_P(Executors, NetworkTest, testing::Values(0, 2));

TEST_P(NetworkTest, AgreesOnEachVersionAndCarriesFrames) {
  Make();
  auto opened = Open();
  for (const Version version : kVersions) {
    SCOPED_TRACE(static_cast<uint32_t>(version));
    port_->sent.clear();
    received_.clear();
    Start(*opened->client, version);
    EXPECT_EQ(opened->client->version(), version);
    EXPECT_THAT(std::vector<uint8_t>(opened->client->mac_address(), opened->client->mac_address() + 6),
                ElementsAreArray(kMac));
    const Bytes out = MakeFrame(FromGuest());
    Send(*opened->client, out);
    ASSERT_THAT(port_->sent, SizeIs(1));
    EXPECT_EQ(port_->sent[0].bytes, out);
    EXPECT_EQ(port_->sent[0].offload, FrameOffload{});
    EXPECT_EQ(opened->client->in_flight(), 0u);
    const Bytes in = MakeFrame(ToGuest());
    port_->Give({in, {}});
    Pump();
    ASSERT_THAT(received_, SizeIs(1));
    EXPECT_EQ(received_[0].bytes, in);
    child_->client().Close(opened->channel);
    Pump();
    Reopen(*opened);
  }
}

TEST_P(NetworkTest, KnowsNoNewerVersionThanItMay) {
  Make({.newest_version = Version::k4});
  auto opened = OpenReady();
  EXPECT_EQ(opened->client->version(), Version::k4);
}

TEST_P(NetworkTest, TakesFramesFromPagesAndSections) {
  Make();
  auto opened = OpenReady();
  for (const size_t payload : {0u, 1u, 100u, 1400u}) {
    port_->sent.clear();
    const Bytes out = MakeFrame(FromGuest(payload));
    SendPages(*opened->client, out, {}, 4090);
    ASSERT_THAT(port_->sent, SizeIs(1));
    EXPECT_EQ(port_->sent[0].bytes, out);
  }
}

TEST_P(NetworkTest, DropsFramesLongerThanTheMtu) {
  Make();
  auto opened = OpenReady();
  Send(*opened->client, MakeFrame(FromGuest(1500 - 40)));
  Send(*opened->client, MakeFrame(FromGuest(1501 - 40)));
  EXPECT_THAT(port_->sent, SizeIs(1));
  EXPECT_EQ(network_->counts().transmit_errors, 1u);
  EXPECT_EQ(Ask(*opened->client, Oid::kGenTransmitError), 1u);
  EXPECT_EQ(Ask(*opened->client, Oid::kGenTransmitOk), 1u);
}

TEST_P(NetworkTest, CarriesLongFramesWherePortAndGuestTakeThem) {
  port_->port_info.mtu_bytes = 9000;
  port_->port_info.max_frame_bytes = 9014;
  Make();
  buffers_.mtu_bytes = 9000;
  auto opened = OpenReady();
  EXPECT_EQ(Ask(*opened->client, Oid::kGenMaximumFrameSize), 9000u);
  const Bytes out = MakeFrame(FromGuest(9000 - 40)), in = MakeFrame(ToGuest(9000 - 40));
  SendPages(*opened->client, out);
  ASSERT_THAT(port_->sent, SizeIs(1));
  EXPECT_EQ(port_->sent[0].bytes, out);
  port_->Give({in, {}});
  Pump();
  ASSERT_THAT(received_, SizeIs(1));
  EXPECT_EQ(received_[0].bytes, in);
}

// For each of IPv4 and IPv6, TCP and UDP: what the guest leaves to the adapter arrives right, whoever does it.
TEST_P(NetworkTest, FinishesChecksumsThatThePortDoesNot) {
  for (const bool takes : {false, true}) {
    port_ = std::make_shared<ScriptedPort>();
    port_->port_info.takes_checksum = takes;
    memory_.~GuestMemory();
    new (&memory_) GuestMemory();
    Make();
    {
      auto opened = OpenReady();
      for (const int ip_version : {4, 6}) {
        for (const uint8_t protocol : {ethernet::kTcp, ethernet::kUdp}) {
          for (const size_t payload : {0u, 1u, 333u, 1400u}) {
            SCOPED_TRACE(testing::Message() << takes << " " << ip_version << " " << int{protocol} << " " << payload);
            port_->sent.clear();
            FrameSpec spec = FromGuest(payload);
            spec.ip_version = ip_version;
            spec.protocol = protocol;
            const Bytes right = MakeFrame(spec);
            Bytes out = right;
            const ethernet::FrameHeaders headers = ethernet::ReadHeaders(out);
            const size_t at = headers.transport_offset + (protocol == ethernet::kTcp ? 16u : 6u);
            out[at] = out[at + 1] = 0xEE;
            vsc::FrameInfo info;
            info.has_checksum = true;
            info.checksum = (ip_version == 4 ? rndis::kChecksumIpv4 : rndis::kChecksumIpv6) |
                            (protocol == ethernet::kTcp ? rndis::kChecksumTcp : rndis::kChecksumUdp);
            if (ip_version == 4) {
              out[24] = out[25] = 0x11;
              info.checksum |= rndis::kChecksumIpHeader;
            }
            SendPages(*opened->client, out, info);
            ASSERT_THAT(port_->sent, SizeIs(1));
            PortFrame& sent = port_->sent[0];
            EXPECT_EQ(sent.offload.needs_checksum, takes);
            EXPECT_TRUE(ethernet::FinishChecksum(absl::MakeSpan(sent.bytes), sent.offload));
            EXPECT_EQ(sent.bytes, right);
          }
        }
      }
      child_->client().Close(opened->channel);
      Pump();
    }
    TearDown();
  }
}

TEST_P(NetworkTest, CutsLargeSendsThatThePortDoesNot) {
  for (const bool takes : {false, true}) {
    port_ = std::make_shared<ScriptedPort>();
    port_->port_info.takes_checksum = port_->port_info.takes_segmentation = takes;
    if (takes) port_->port_info.max_frame_bytes = ethernet::kMaxFrameBytes;
    memory_.~GuestMemory();
    new (&memory_) GuestMemory();
    Make();
    {
      auto opened = OpenReady();
      for (const int ip_version : {4, 6}) {
        for (const size_t payload : {1000u, 1448u, 1449u, 20001u, 62000u}) {
          SCOPED_TRACE(testing::Message() << takes << " " << ip_version << " " << payload);
          port_->sent.clear();
          FrameSpec spec = FromGuest(payload);
          spec.ip_version = ip_version;
          spec.flags = 0x99;  // CWR, ACK, PSH, FIN
          spec.tcp_option_bytes = 12;
          Bytes out = MakeFrame(spec);
          // As Linux leaves it: no lengths.
          out[ip_version == 4 ? 16 : 18] = out[ip_version == 4 ? 17 : 19] = 0;
          vsc::FrameInfo info;
          info.has_large_send = true;
          info.large_send = 1428 | rndis::kLargeSendVersion2 | (ip_version == 6 ? rndis::kLargeSendIpv6 : 0);
          SendPages(*opened->client, out, info);
          // What the frame is cut into by whoever does it.
          std::vector<Bytes> segments;
          for (PortFrame& sent : port_->sent) {
            if (sent.offload.segmentation == FrameOffload::Segmentation::kNone) {
              EXPECT_TRUE(ethernet::FinishChecksum(absl::MakeSpan(sent.bytes), sent.offload));
              segments.push_back(sent.bytes);
              continue;
            }
            EXPECT_TRUE(takes);
            const auto segmenter = ethernet::Segmenter::For(sent.bytes, sent.offload);
            ASSERT_TRUE(segmenter.has_value());
            for (size_t i = 0; i < segmenter->count(); ++i) {
              Bytes segment(segmenter->SizeOf(i));
              FrameOffload rest;
              segmenter->Cut(i, ethernet::ChecksumBy::kUs, absl::MakeSpan(segment), rest);
              segments.push_back(segment);
            }
          }
          ASSERT_THAT(segments, SizeIs((payload + 1427) / 1428));
          Bytes joined;
          for (size_t i = 0; i < segments.size(); ++i) {
            const Bytes& segment = segments[i];
            EXPECT_TRUE(ethernet::ChecksumsAreRight(segment));
            const ethernet::FrameHeaders headers = ethernet::ReadHeaders(segment);
            const uint8_t* const tcp = &segment[headers.transport_offset];
            EXPECT_EQ(ethernet::ReadBe32(tcp + 4), 1 + joined.size());
            const bool is_last = i + 1 == segments.size();
            EXPECT_EQ(tcp[13], 0x10 | (is_last ? 0x09 : 0) | (i == 0 ? 0x80 : 0));
            joined.insert(joined.end(), segment.begin() + headers.payload_offset, segment.end());
          }
          EXPECT_EQ(joined, spec.payload);
        }
      }
      child_->client().Close(opened->channel);
      Pump();
    }
    TearDown();
  }
}

TEST_P(NetworkTest, RefusesOffloadsOfWhatIsNot) {
  Make();
  auto opened = OpenReady();
  Bytes arp(60, 0);
  arp[12] = 8, arp[13] = 6;
  vsc::FrameInfo checksum, large;
  checksum.has_checksum = true, checksum.checksum = rndis::kChecksumTcp;
  large.has_large_send = true, large.large_send = 1400;
  Send(*opened->client, arp, checksum);
  Send(*opened->client, arp, large);
  FrameSpec udp = FromGuest();
  udp.protocol = ethernet::kUdp;
  Send(*opened->client, MakeFrame(udp), checksum);
  Send(*opened->client, MakeFrame(udp), large);
  large.large_send = 0;  // segments of nothing
  Send(*opened->client, MakeFrame(FromGuest()), large);
  large.large_send = 1;  // more segments than there may be
  SendPages(*opened->client, MakeFrame(FromGuest(1400)), large);
  EXPECT_THAT(port_->sent, SizeIs(0));
  EXPECT_EQ(network_->counts().transmit_errors, 6u);
  Send(*opened->client, arp);  // goes on
  EXPECT_THAT(port_->sent, SizeIs(1));
}

TEST_P(NetworkTest, TellsTheGuestWhichChecksumsAreRight) {
  Make();
  auto opened = OpenReady();
  EXPECT_TRUE(port_->accepted.takes_checksum);
  for (const int ip_version : {4, 6}) {
    for (const uint8_t protocol : {ethernet::kTcp, ethernet::kUdp}) {
      received_.clear();
      FrameSpec spec = ToGuest(333);
      spec.ip_version = ip_version;
      spec.protocol = protocol;
      const Bytes right = MakeFrame(spec);
      Bytes left = right;
      const FrameOffload offload = ethernet::LeaveChecksum(left);
      port_->Give({right, {}});
      port_->Give({right, {.checksum_is_valid = true}});
      port_->Give({left, offload});
      Pump();
      ASSERT_THAT(received_, SizeIs(3));
      for (const Received& frame : received_) EXPECT_EQ(frame.bytes, right);
      EXPECT_FALSE(received_[0].info.has_checksum);
      const uint32_t succeeded =
          protocol == ethernet::kTcp ? rndis::kChecksumTcpSucceeded : rndis::kChecksumUdpSucceeded;
      EXPECT_EQ(received_[1].info.checksum, succeeded);
      EXPECT_EQ(received_[2].info.checksum, succeeded);
    }
  }
}

TEST_P(NetworkTest, GivesCoalescedSegmentsInParts) { ExpectSegmentsInParts(1514); }

// Of a port that gives long frames, into a buffer that has room for many of them.
TEST_P(NetworkTest, GivesCoalescedSegmentsInLargerPartsWhereThereIsRoom) {
  receive_buffer_pages_ = 2048;
  port_->port_info.max_frame_bytes = ethernet::kMaxFrameBytes;
  ExpectSegmentsInParts(2 * kPageSize - 128);
}

// Of more coalesced segments than there is room for in the ring, each comes whole, one transfer after another.
TEST_P(NetworkTest, CoalescedSegmentsWaitForTheGuest) {
  Make();
  buffers_.coalesces = true;
  auto opened = OpenReady();
  ASSERT_TRUE(port_->accepted.takes_segmentation);
  std::vector<Bytes> sent;
  for (size_t i = 0; i < 300; ++i) {
    FrameSpec spec = ToGuest(1 + i * 200);
    spec.protocol = ethernet::kTcp;
    Bytes bytes = MakeFrame(spec);
    FrameOffload offload = ethernet::LeaveChecksum(bytes);
    offload.segmentation = FrameOffload::Segmentation::kTcp4;
    offload.segment_bytes = 1448;
    sent.push_back(bytes.size() <= 1514 ? MakeFrame(spec) : bytes);
    port_->waiting[0].push_back({std::move(bytes), offload});
  }
  port_->client->OnFrames(0);
  Pump();
  size_t at = 0;
  Bytes whole;
  for (const Received& part : received_) {
    whole.insert(whole.end(), part.bytes.begin(), part.bytes.end());
    if (part.info.has_packet_id && (part.info.packet_id.flags & rndis::kPacketIsLastPart) == 0) continue;
    ASSERT_LT(at, sent.size());
    ASSERT_EQ(whole, sent[at++]);
    whole.clear();
  }
  EXPECT_EQ(at, sent.size());
  EXPECT_TRUE(network_->is_quiet());
}

TEST_P(NetworkTest, CarriesVlanTagsBesideFramesAndInThem) {
  Make();
  auto opened = OpenReady();
  const uint16_t tci = 0xB123;  // priority 5, DEI, VLAN 0x123
  const Bytes plain = MakeFrame(FromGuest());
  Bytes tagged = plain;
  tagged.insert(tagged.begin() + 12, {0x81, 0x00, 0xB1, 0x23});
  vsc::FrameInfo info;
  info.has_vlan = true;
  info.vlan = 5 | 8 | 0x123 << 4;
  Send(*opened->client, plain, info);
  Send(*opened->client, tagged);
  ASSERT_THAT(port_->sent, SizeIs(2));
  for (const PortFrame& sent : port_->sent) {
    EXPECT_EQ(sent.bytes, plain);
    EXPECT_TRUE(sent.offload.has_vlan);
    EXPECT_EQ(sent.offload.vlan_tci, tci);
  }
  const Bytes in = MakeFrame(ToGuest());
  port_->Give({in, {.has_vlan = true, .vlan_tci = tci}});
  Pump();
  ASSERT_THAT(received_, SizeIs(1));
  EXPECT_EQ(received_[0].bytes, in);
  EXPECT_EQ(received_[0].info.vlan, info.vlan);
  // Version 1 has no word for it.
  child_->client().Close(opened->channel);
  Pump();
  Reopen(*opened);
  Start(*opened->client, Version::k1);
  port_->Give({in, {.has_vlan = true, .vlan_tci = tci}});
  Pump();
  ASSERT_THAT(received_, SizeIs(2));
  Bytes in_tagged = in;
  in_tagged.insert(in_tagged.begin() + 12, {0x81, 0x00, 0xB1, 0x23});
  EXPECT_EQ(received_[1].bytes, in_tagged);
}

TEST_P(NetworkTest, LetsThroughWhatTheGuestWants) {
  Make();
  auto opened = OpenReady();
  const auto frame_to = [](MacAddress to) {
    FrameSpec spec = ToGuest();
    spec.to = to;
    return MakeFrame(spec);
  };
  const MacAddress other = {0, 0x15, 0x5D, 9, 9, 9}, group = {1, 0, 0x5E, 0, 0, 1}, group2 = {0x33, 0x33, 0, 0, 0, 1};
  const MacAddress everyone = {255, 255, 255, 255, 255, 255};
  const auto count = [&](MacAddress to) {
    received_.clear();
    port_->Give({frame_to(to), {}});
    Pump();
    return received_.size();
  };
  const auto counts = [&] {
    return std::vector<size_t>{count(kMac), count(other), count(group), count(group2), count(everyone)};
  };
  using testing::ElementsAre;
  EXPECT_THAT(counts(), ElementsAre(1, 0, 0, 0, 1));
  SetFilter(*opened->client, rndis::kFilterDirected);
  EXPECT_THAT(counts(), ElementsAre(1, 0, 0, 0, 0));
  SetFilter(*opened->client, rndis::kFilterDirected | rndis::kFilterMulticast);
  EXPECT_EQ(Set(*opened->client, Oid::k8023MulticastList, group.data(), 6), rndis::Status::kSuccess);
  EXPECT_THAT(counts(), ElementsAre(1, 0, 1, 0, 0));
  SetFilter(*opened->client, rndis::kFilterAllMulticast);
  EXPECT_THAT(counts(), ElementsAre(0, 0, 1, 1, 0));
  SetFilter(*opened->client, rndis::kFilterPromiscuous);
  EXPECT_THAT(counts(), ElementsAre(1, 1, 1, 1, 1));
  // Without any it gets nothing, and the port keeps what there is until it drops it.
  SetFilter(*opened->client, 0);
  EXPECT_THAT(counts(), ElementsAre(0, 0, 0, 0, 0));
  SetFilter(*opened->client, rndis::kFilterDirected);
  Pump();
  EXPECT_THAT(received_, SizeIs(1));
}

TEST_P(NetworkTest, TellsOfTheLink) {
  port_->is_up = false;
  Make();
  auto opened = OpenReady();
  EXPECT_FALSE(opened->client->link_is_up());
  port_->SetLink(true);
  Pump();
  EXPECT_TRUE(opened->client->link_is_up());
  EXPECT_EQ(opened->client->link_changes(), 1u);
  port_->SetLink(true);
  Pump();
  EXPECT_EQ(opened->client->link_changes(), 1u);
  port_->SetLink(false);
  Pump();
  EXPECT_FALSE(opened->client->link_is_up());
  EXPECT_EQ(Ask(*opened->client, Oid::kGenMediaConnectStatus), 1u);
}

TEST_P(NetworkTest, IsUnplugged) {
  Make();
  EXPECT_EQ(network_->agreement().channels, 0);
  EXPECT_EQ(network_->agreement().version, hvdef::netvsp::Version{});
  auto opened = OpenReady();
  NetworkAgreement agreement = network_->agreement();
  EXPECT_EQ(agreement.version, hvdef::netvsp::Version::k61);
  EXPECT_EQ(agreement.channels, 1);
  EXPECT_EQ(agreement.mtu_bytes, 1500u);
  EXPECT_TRUE(agreement.takes_frames && agreement.is_link_up && !agreement.is_unplugged);
  EXPECT_TRUE(network_->is_quiet());

  port_->room = 1;
  Send(*opened->client, MakeFrame(FromGuest()));
  Send(*opened->client, MakeFrame(FromGuest()));
  EXPECT_FALSE(network_->is_quiet()) << "a frame waits for the port";
  port_->Give({MakeFrame(ToGuest())});
  RunExecutors();
  EXPECT_FALSE(network_->is_quiet());
  network_->Unplug();
  RunExecutors();
  port_->MakeRoom(SIZE_MAX);
  RunExecutors();
  EXPECT_FALSE(network_->is_quiet()) << "the guest has not given back what it was lent";
  Pump();
  EXPECT_TRUE(network_->is_quiet());
  EXPECT_FALSE(opened->client->link_is_up());
  EXPECT_THAT(received_, SizeIs(1));

  // The cable is out, whatever the port says.
  port_->SetLink(true);
  port_->Give({MakeFrame(ToGuest())});
  Pump();
  EXPECT_FALSE(opened->client->link_is_up());
  EXPECT_EQ(Ask(*opened->client, Oid::kGenMediaConnectStatus), 1u);
  EXPECT_THAT(received_, SizeIs(1));
  agreement = network_->agreement();
  EXPECT_TRUE(agreement.is_unplugged && !agreement.is_link_up);
  // What the guest sends nevertheless is completed.
  Send(*opened->client, MakeFrame(FromGuest()));
  EXPECT_EQ(opened->client->in_flight(), 0u);
}

TEST_P(NetworkTest, WaitsForThePort) {
  Make();
  auto opened = OpenReady();
  port_->room = 3;
  std::vector<Bytes> frames;
  for (uint16_t i = 0; i < 30; ++i) {
    FrameSpec spec = FromGuest();
    spec.id = i;
    frames.push_back(MakeFrame(spec));
    Send(*opened->client, frames.back());
  }
  EXPECT_THAT(port_->sent, SizeIs(3));
  EXPECT_GT(opened->client->in_flight(), 0u);
  port_->MakeRoom(4);
  Pump();
  EXPECT_THAT(port_->sent, SizeIs(7));
  port_->MakeRoom(SIZE_MAX);
  Pump();
  ASSERT_THAT(port_->sent, SizeIs(30));
  for (size_t i = 0; i < frames.size(); ++i) EXPECT_EQ(port_->sent[i].bytes, frames[i]);
  EXPECT_EQ(opened->client->in_flight(), 0u);
}

// A guest that does not read gets what fits, and the rest when it reads again; nothing is lost and nobody runs on meanwhile.
TEST_P(NetworkTest, WaitsForTheGuest) {
  Make();
  auto opened = OpenReady();
  opened->channel.on_signal = nullptr;
  constexpr size_t kFrames = 3000;  // more than sections
  std::vector<Bytes> frames;
  for (size_t i = 0; i < kFrames; ++i) {
    FrameSpec spec = ToGuest();
    spec.id = static_cast<uint16_t>(i);
    frames.push_back(MakeFrame(spec));
    port_->Give({frames.back(), {}});
    if (i % 100 == 0) Pump();
  }
  Pump();
  EXPECT_GT(port_->waiting[0].size(), 1000u);
  EXPECT_THAT(received_, SizeIs(0));
  opened->channel.on_signal = [](void* context, vsc::Channel&) {
    static_cast<vsc::NetworkClient*>(context)->OnSignal();
  };
  opened->client->OnSignal();
  Pump();
  ASSERT_THAT(received_, SizeIs(kFrames));
  for (size_t i = 0; i < kFrames; ++i) ASSERT_EQ(received_[i].bytes, frames[i]) << i;
}

TEST_P(NetworkTest, SpreadsFlowsAsTheGuestsTableSays) {
  port_->port_info.queues = 2;
  Make({.max_subchannels = 3});
  auto primary = OpenReady();
  EXPECT_EQ(SetRss(*primary->client, 4), rndis::Status::kInvalidData);  // there are none yet
  ASSERT_TRUE(primary->client->RequestSubchannels(3));
  Pump();
  EXPECT_EQ(primary->client->subchannels(), 3u);
  std::vector<std::unique_ptr<Opened>> subs;
  for (uint16_t i = 1; i <= 3; ++i) {
    EXPECT_EQ(primary->client->send_tables(), 0u);
    subs.push_back(Open(i));
    subs.back()->client->StartSubchannel(*primary->client);
    ASSERT_EQ(subs.back()->client->state(), vsc::NetworkClient::State::kReady);
  }
  Pump();
  EXPECT_EQ(primary->client->send_tables(), 1u);
  for (uint32_t i = 0; i < hvdef::netvsp::kSendTableEntries; ++i) EXPECT_EQ(primary->client->send_table()[i], i % 4);
  ASSERT_EQ(SetRss(*primary->client, 4), rndis::Status::kSuccess);
  const ethernet::FlowHasher hasher(ethernet::kDefaultFlowKey);
  std::set<uint32_t> used;
  for (uint16_t flow = 0; flow < 64; ++flow) {
    FrameSpec spec = ToGuest();
    spec.from_port = static_cast<uint16_t>(1000 + flow);
    spec.ip_version = flow % 2 == 0 ? 4 : 6;
    const Bytes in = MakeFrame(spec);
    const uint32_t hash = hasher.Hash(in, ethernet::ReadHeaders(in));
    // Only the channel that the table says is looked at by the guest.
    const uint32_t channel = hash % 128 % 4;
    used.insert(channel);
    received_.clear();
    std::vector<Opened*> ends = {primary.get(), subs[0].get(), subs[1].get(), subs[2].get()};
    for (Opened* end : ends) end->channel.on_signal = nullptr;
    port_->Give({in, {}}, flow % 2);
    Pump();
    ends[channel]->client->OnSignal();
    ASSERT_THAT(received_, SizeIs(1)) << "flow " << flow;
    EXPECT_EQ(received_[0].bytes, in);
    EXPECT_TRUE(received_[0].info.has_hash);
    EXPECT_EQ(received_[0].info.hash, hash);
    for (Opened* end : ends) {
      end->channel.on_signal = [](void* context, vsc::Channel&) {
        static_cast<vsc::NetworkClient*>(context)->OnSignal();
      };
    }
    Pump();
  }
  EXPECT_THAT(used, SizeIs(4));
  // Sends go on each channel, to the port's queues in turn.
  for (size_t i = 0; i < subs.size(); ++i) Send(*subs[i]->client, MakeFrame(FromGuest()));
  EXPECT_THAT(port_->queues, testing::ElementsAre(1, 0, 1));
  // A channel that the guest closes is served by the primary.
  child_->client().Close(subs[2]->channel);
  Pump();
  received_.clear();
  for (uint16_t flow = 0; flow < 64; ++flow) {
    FrameSpec spec = ToGuest();
    spec.from_port = static_cast<uint16_t>(1000 + flow);
    port_->Give({MakeFrame(spec), {}});
  }
  Pump();
  EXPECT_THAT(received_, SizeIs(64));
}

TEST_P(NetworkTest, AnswersWhatItSaysItSupports) {
  Make({.name = "first"});
  auto opened = OpenReady();
  vsc::NetworkClient& client = *opened->client;
  ASSERT_TRUE(client.Query(Oid::kGenSupportedList));
  Pump();
  ASSERT_EQ(client.answer_status(), rndis::Status::kSuccess);
  std::vector<Oid> oids(client.answer_bytes() / sizeof(Oid));
  std::memcpy(oids.data(), client.answer(), client.answer_bytes());
  ASSERT_GT(oids.size(), 40u);
  const std::set<Oid> only_set = {Oid::kGenNetworkLayerAddresses, Oid::kGenRndisConfigParameter,
                                  Oid::kTcpOffloadParameters, Oid::kOffloadEncapsulation,
                                  Oid::kGenReceiveScaleParameters};
  for (const Oid oid : oids) {
    ASSERT_TRUE(client.Query(oid));
    Pump();
    ASSERT_FALSE(client.is_asking());
    EXPECT_EQ(client.answer_status() == rndis::Status::kSuccess, only_set.count(oid) == 0)
        << std::hex << static_cast<uint32_t>(oid);
  }
  ASSERT_TRUE(client.Query(static_cast<Oid>(0x12345678)));
  Pump();
  EXPECT_EQ(client.answer_status(), rndis::Status::kNotSupported);
  EXPECT_EQ(Ask(client, Oid::kGenLinkSpeed), 100'000'000u);  // 10 Gbit/s in 100 bit/s
}

TEST_P(NetworkTest, TakesAnotherAddress) {
  Make();
  auto opened = OpenReady();
  struct {
    uint32_t name_offset = 20, name_length = 28, type = 2, value_offset = 48, value_length = 24;
    char16_t name[14];
    char16_t value[12];
  } parameter;
  std::memcpy(parameter.name, u"NetworkAddress", sizeof(parameter.name));
  std::memcpy(parameter.value, u"0215AbCdEf01", sizeof(parameter.value));
  EXPECT_EQ(Set(*opened->client, Oid::kGenRndisConfigParameter, &parameter, sizeof(parameter)),
            rndis::Status::kSuccess);
  EXPECT_EQ(Ask(*opened->client, Oid::k8023CurrentAddress), 0x01EFCDAB1502u);
  FrameSpec spec = ToGuest();
  spec.to = {0x02, 0x15, 0xAB, 0xCD, 0xEF, 0x01};
  port_->Give({MakeFrame(spec), {}});
  port_->Give({MakeFrame(ToGuest()), {}});
  Pump();
  ASSERT_THAT(received_, SizeIs(1));
  EXPECT_EQ(received_[0].bytes, MakeFrame(spec));
  parameter.value[0] = u'x';
  EXPECT_EQ(Set(*opened->client, Oid::kGenRndisConfigParameter, &parameter, sizeof(parameter)),
            rndis::Status::kInvalidData);
}

TEST_P(NetworkTest, CountsByKindOfAddress) {
  Make();
  auto opened = OpenReady();
  SetFilter(*opened->client, rndis::kFilterPromiscuous);
  const auto frame = [](MacAddress to, size_t payload) {
    FrameSpec spec = ToGuest(payload);
    spec.to = to;
    return MakeFrame(spec);
  };
  const MacAddress group = {1, 0, 0x5E, 0, 0, 1}, everyone = {255, 255, 255, 255, 255, 255};
  for (const auto& [to, payload] :
       {std::pair{kMac, size_t{10}}, std::pair{group, size_t{20}}, std::pair{everyone, size_t{30}}}) {
    Send(*opened->client, frame(to, payload));
    port_->Give({frame(to, payload), {}});
    port_->Give({frame(to, payload), {}});
  }
  Pump();
  const NetworkCounts counts = network_->counts();
  EXPECT_EQ(counts.transmitted.unicast_frames, 1u);
  EXPECT_EQ(counts.transmitted.multicast_bytes, 54u + 20);
  EXPECT_EQ(counts.received.broadcast_frames, 2u);
  EXPECT_EQ(counts.received.broadcast_bytes, 2 * (54u + 30));
  EXPECT_EQ(Ask(*opened->client, Oid::kGenReceiveOk), 6u);
  EXPECT_EQ(Ask(*opened->client, Oid::kGenBytesTransmit), 3 * 54u + 60);
}

TEST_P(NetworkTest, PausesAndGoesOn) {
  Make();
  auto opened = OpenReady();
  port_->room = 1;
  for (int i = 0; i < 5; ++i) Send(*opened->client, MakeFrame(FromGuest()));
  bool is_paused = false;
  network_->Pause([&] { is_paused = true; });
  Pump();
  EXPECT_TRUE(is_paused);
  port_->room = SIZE_MAX;
  ASSERT_TRUE(opened->client->Send({.data = MakeFrame(FromGuest()).data(), .size_bytes = 100}));
  opened->client->Publish();
  port_->Give({MakeFrame(ToGuest()), {}});
  Pump();
  EXPECT_THAT(port_->sent, SizeIs(1));
  EXPECT_THAT(received_, SizeIs(0));
  network_->Resume();
  Pump();
  EXPECT_THAT(received_, SizeIs(1));
  EXPECT_GE(port_->sent.size(), 2u);
  EXPECT_EQ(opened->client->in_flight(), 0u);
}

TEST_P(NetworkTest, IsGoneWithWhateverIsUnderWay) {
  Make({.max_subchannels = 1});
  auto opened = OpenReady();
  ASSERT_TRUE(opened->client->RequestSubchannels(1));
  Pump();
  auto sub = Open(1);
  sub->client->StartSubchannel(*opened->client);
  port_->room = 0;
  Send(*opened->client, MakeFrame(FromGuest()));
  port_->Give({MakeFrame(ToGuest()), {}});
  network_.reset();
  EXPECT_EQ(port_->client, nullptr);
  Pump();
  EXPECT_EQ(opened->client->state(), vsc::NetworkClient::State::kEnded);
  EXPECT_EQ(sub->client->state(), vsc::NetworkClient::State::kEnded);
}

// Also of frames that are written and then dropped: too long, not for this guest, or with a checksum that is nowhere.
TEST_P(NetworkTest, ACopyOfTheDirtyPagesIsMemory) {
  constexpr size_t kSeenPages = 512;
  Make();
  auto opened = OpenReady();
  ASSERT_LT(child_->AllocatePages(1), kSeenPages * kPageSize);
  const uint32_t seed = TestSeed();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  DirtyCopy copy(memory_, bytes_.get(), kSeenPages);
  for (int phase = 0; phase < 500; ++phase) {
    if (random() % 4 == 0) Send(*opened->client, MakeFrame(FromGuest(random() % 1400)));
    if (random() % 2 == 0) child_->Poll();
    copy.CopyAll();
    for (uint32_t i = random() % 6; i > 0; --i) {
      FrameSpec spec = ToGuest(random() % (random() % 8 == 0 ? 3000 : 1400));
      for (uint8_t& byte : spec.payload) byte = static_cast<uint8_t>(random());
      if (random() % 4 == 0) spec.to = {2, 3, 4, 5, 6, 7};
      FrameOffload offload;
      offload.has_vlan = random() % 4 == 0;
      offload.needs_checksum = random() % 4 == 0;
      offload.checksum_start = static_cast<uint16_t>(random() % 2000);
      port_->Give({MakeFrame(spec), offload});
    }
    RunExecutors();
    ASSERT_NO_FATAL_FAILURE(copy.CopyDirty()) << "phase " << phase;
  }
  EXPECT_GT(copy.changes, 500u);
  EXPECT_NE(port_->too_long, 0u);
}

TEST_P(NetworkTest, RefusesOptionsBeyondTheirLimits) {
  Make();
  NetworkOptions options{.instance_id = kInstance, .mac_address = {1, 2, 3, 4, 5, 6}};
  const auto make = [&] {
    return NetworkAdapter::Create(*server_, executor_, std::make_shared<ScriptedPort>(), options).status().code();
  };
  EXPECT_EQ(make(), absl::StatusCode::kInvalidArgument);
  options.mac_address = {};
  EXPECT_EQ(make(), absl::StatusCode::kInvalidArgument);
  options.mac_address = kMac;
  options.max_subchannels = 64;
  EXPECT_EQ(make(), absl::StatusCode::kInvalidArgument);
  options.max_subchannels = 0;
  EXPECT_EQ(NetworkAdapter::Create(*server_, executor_, port_, options).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace hvsdk::vsp
