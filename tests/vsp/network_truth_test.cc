// SPDX-License-Identifier: Apache-2.0
// What a guest sends with whatever offloads is what the record of its port has, and what arrives at the other end of a wire, where
// every checksum is right; and the other way round.

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/ethernet/checksum.h"
#include "hvsdk/hvdef/rndis.h"
#include "hvsdk/network/capture.h"
#include "hvsdk/network/switch.h"
#include "tests/ethernet/frame_builder.h"
#include "tests/network/test_adapter.h"
#include "tests/random_seed.h"
#include "tests/vsp/network_fixture.h"

namespace hvsdk::vsp {
namespace {

namespace rndis = hvdef::rndis;
using ethernet::FrameSpec;
using ethernet::kTcp;
using ethernet::kUdp;
using ethernet::MakeFrame;

constexpr uint16_t kSegmentBytes = 1428;

Bytes Tagged(Bytes frame, uint16_t tci) {
  const uint8_t tag[] = {0x81, 0, static_cast<uint8_t>(tci >> 8), static_cast<uint8_t>(tci)};
  frame.insert(frame.begin() + 12, std::begin(tag), std::end(tag));
  return frame;
}

// Without what a sender may leave to others: lengths and checksums.
Bytes WithoutSums(Bytes frame, bool is_cut) {
  const ethernet::FrameHeaders headers = ethernet::ReadHeaders(frame);
  const size_t sum = headers.transport_offset +
                     (headers.protocol == kTcp ? ethernet::kTcpChecksumOffset : ethernet::kUdpChecksumOffset);
  frame[sum] = frame[sum + 1] = 0;
  const bool is_ip4 = headers.ip_version == 4;
  const size_t ip = headers.ip_offset;
  if (is_ip4) frame[ip + 10] = frame[ip + 11] = 0;
  if (is_cut) frame[ip + (is_ip4 ? 2 : 4)] = frame[ip + (is_ip4 ? 3 : 5)] = 0;
  return frame;
}

struct Sent {
  FrameSpec spec;
  bool is_cut = false, is_left = false;
  uint16_t tci = 0;
};

class NetworkTruthTest : public NetworkFixture {
 protected:
  Sent Random(const MacAddress& from, const MacAddress& to) {
    Sent sent;
    sent.spec.from = from;
    sent.spec.to = to;
    sent.spec.ip_version = random_() % 2 == 0 ? 4 : 6;
    sent.spec.protocol = random_() % 2 == 0 ? kTcp : kUdp;
    sent.spec.tcp_option_bytes = random_() % 2 * 12;
    sent.spec.from_port = static_cast<uint16_t>(random_());
    sent.spec.sequence = random_();
    sent.spec.id = static_cast<uint16_t>(random_());
    sent.is_cut = sent.spec.protocol == kTcp && random_() % 4 == 0;
    sent.spec.payload.resize(sent.is_cut ? kSegmentBytes + 1 + random_() % 40000 : random_() % 1400);
    for (uint8_t& byte : sent.spec.payload) byte = static_cast<uint8_t>(random_());
    sent.is_left = sent.is_cut || random_() % 2 == 0;
    if (random_() % 3 == 0) sent.tci = static_cast<uint16_t>(1 + random_() % 4000);
    return sent;
  }

  void SendFromGuest(vsc::NetworkClient& client, const Sent& sent) {
    const bool is_ip4 = sent.spec.ip_version == 4;
    Bytes frame = MakeFrame(sent.spec);
    vsc::FrameInfo info;
    if (sent.is_cut) {
      info.has_large_send = true;
      info.large_send = kSegmentBytes | rndis::kLargeSendVersion2 | (is_ip4 ? 0 : rndis::kLargeSendIpv6);
    } else if (sent.is_left) {
      info.has_checksum = true;
      info.checksum = (is_ip4 ? rndis::kChecksumIpv4 : rndis::kChecksumIpv6) |
                      (sent.spec.protocol == kTcp ? rndis::kChecksumTcp : rndis::kChecksumUdp);
      const size_t size = frame.size();
      frame = WithoutSums(frame, false);
      if (is_ip4) std::memcpy(&frame[24], &MakeFrame(sent.spec)[24], 2);
      ASSERT_EQ(frame.size(), size);
    }
    if (sent.tci != 0) {
      info.has_vlan = true;
      info.vlan = uint32_t{sent.tci} << 4;
    }
    sent.is_cut || random_() % 2 == 0 ? SendPages(client, frame, info) : Send(client, frame, info);
  }

  std::mt19937 random_{TestSeed()};
};

std::vector<Bytes> FramesOf(int fd) {
  Bytes file(static_cast<size_t>(lseek(fd, 0, SEEK_END)));
  EXPECT_EQ(pread(fd, file.data(), file.size(), 0), static_cast<ssize_t>(file.size()));
  std::vector<Bytes> frames;
  for (size_t at = 24; at + 16 <= file.size();) {
    uint32_t size;
    std::memcpy(&size, &file[at + 8], sizeof(size));
    frames.emplace_back(file.begin() + static_cast<ptrdiff_t>(at + 16),
                        file.begin() + static_cast<ptrdiff_t>(at + 16 + size));
    at += 16 + size;
  }
  return frames;
}

TEST_F(NetworkTruthTest, RecordAndWireHaveWhatWasSent) {
  FakeClock clock;
  network::Switch lan(clock);
  const auto recorded = std::make_shared<network::CapturedPort>(*lan.AddPort({}));
  const auto peer_port = *lan.AddPort({});
  const int record = memfd_create("record", 0);
  ASSERT_TRUE(recorded->Start(record).ok());
  other_port_ = recorded;
  Make();
  constexpr MacAddress kPeer = {2, 0, 0, 0, 0, 9};
  {
    // An end that takes no offload, as a wire.
    network::TestAdapter peer(*peer_port);
    peer.Attach({});
    auto opened = OpenReady();
    std::vector<Bytes> expected;
    for (int i = 0; i < 1000; ++i) {
      SCOPED_TRACE(testing::Message() << "frame " << i);
      if (random_() % 3 == 0) {
        Sent sent = Random(kPeer, kMac);
        sent.is_cut = false;
        if (sent.spec.payload.size() > 1400) sent.spec.payload.resize(1400);
        network::TestFrame frame{MakeFrame(sent.spec), {}};
        if (sent.is_left) frame.offload = ethernet::LeaveChecksum(frame.bytes);
        if (sent.tci != 0) frame.offload.has_vlan = true, frame.offload.vlan_tci = sent.tci;
        ASSERT_TRUE(peer.TrySend(frame, random_));
        Pump();
        ASSERT_EQ(received_.size(), 1u);
        EXPECT_EQ(received_[0].bytes, MakeFrame(sent.spec));
        EXPECT_EQ(received_[0].info.vlan, uint32_t{sent.tci} << 4);
        EXPECT_EQ(received_[0].info.has_checksum, sent.is_left) << "the guest is told of a sum that nobody has checked";
        received_.clear();
        expected.push_back(sent.tci != 0 ? Tagged(frame.bytes, sent.tci) : frame.bytes);
        continue;
      }
      const Sent sent = Random(kMac, kPeer);
      SendFromGuest(*opened->client, sent);
      const Bytes whole = MakeFrame(sent.spec);
      expected.push_back(sent.tci != 0 ? Tagged(whole, sent.tci) : whole);
      const size_t segments = sent.is_cut ? (sent.spec.payload.size() + kSegmentBytes - 1) / kSegmentBytes : 1;
      const std::vector<network::TestFrame> arrived = peer.Receive(segments);
      ASSERT_EQ(arrived.size(), segments);
      Bytes joined;
      for (const network::TestFrame& frame : arrived) {
        EXPECT_TRUE(ethernet::ChecksumsAreRight(frame.bytes));
        EXPECT_FALSE(frame.offload.needs_checksum);
        EXPECT_EQ(frame.offload.has_vlan ? frame.offload.vlan_tci : 0, sent.tci);
        const ethernet::FrameHeaders headers = ethernet::ReadHeaders(frame.bytes);
        if (sent.is_cut) {
          EXPECT_EQ(ethernet::ReadBe32(&frame.bytes[headers.transport_offset + 4u]),
                    static_cast<uint32_t>(sent.spec.sequence + joined.size()));
        } else {
          EXPECT_EQ(frame.bytes, whole);
        }
        joined.insert(joined.end(), frame.bytes.begin() + headers.payload_offset, frame.bytes.end());
      }
      EXPECT_EQ(joined, sent.spec.payload);
    }
    EXPECT_TRUE(recorded->Stop().ok());
    const std::vector<Bytes> frames = FramesOf(record);
    ASSERT_EQ(frames.size(), expected.size());
    for (size_t i = 0; i < frames.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "record " << i);
      ASSERT_EQ(frames[i].size(), expected[i].size());
      const bool is_cut = frames[i].size() > 1600;
      ASSERT_EQ(WithoutSums(frames[i], is_cut), WithoutSums(expected[i], is_cut));
    }
    child_->client().Close(opened->channel);
    Pump();
  }
  network_.reset();
  close(record);
}

}  // namespace
}  // namespace hvsdk::vsp
