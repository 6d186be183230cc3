// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/ethernet/checksum.h"
#include "hvsdk/ethernet/flow_hash.h"
#include "hvsdk/ethernet/headers.h"
#include "hvsdk/ethernet/segmentation.h"
#include "tests/ethernet/frame_builder.h"
#include "tests/random_seed.h"

namespace hvsdk::ethernet {
namespace {

std::vector<uint8_t> RandomBytes(std::mt19937& random, size_t size) {
  std::vector<uint8_t> bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

// RFC 1071, section 3, has this example.
TEST(ChecksumTest, SumOfTheRfc) {
  const std::vector<uint8_t> bytes = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
  EXPECT_EQ(Sum(bytes), 0xddf2);
}

// A header whose checksum is known from elsewhere: RFC 791's fields, b861 is what Linux computes of it.
TEST(ChecksumTest, KnownIp4Header) {
  const std::vector<uint8_t> header = {0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11,
                                       0x00, 0x00, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7};
  EXPECT_EQ(static_cast<uint16_t>(~Sum(header)), 0xb861);
}

TEST(ChecksumTest, SumIsThatOfWordsOneByOne) {
  std::mt19937 random(TestSeed());
  for (int i = 0; i < 2000; ++i) {
    const std::vector<uint8_t> bytes = RandomBytes(random, random() % 100);
    uint64_t sum = random() % 65536;
    const auto begin = static_cast<uint16_t>(sum);
    for (size_t at = 0; at < bytes.size(); at += 2) sum += bytes[at] << 8 | (at + 1 < bytes.size() ? bytes[at + 1] : 0);
    while (sum >> 16 != 0) sum = (sum & 0xFFFF) + (sum >> 16);
    ASSERT_EQ(Sum(bytes, begin), sum);
    const size_t half = bytes.size() / 4 * 2;
    const auto all = absl::MakeConstSpan(bytes);
    ASSERT_EQ(Sum(all.subspan(half), Sum(all.first(half), begin)), sum);
  }
}

TEST(ChecksumTest, DamageIsSeen) {
  std::mt19937 random(TestSeed());
  for (const int version : {4, 6}) {
    for (const uint8_t protocol : {kTcp, kUdp}) {
      std::vector<uint8_t> frame =
          MakeFrame({.ip_version = version, .protocol = protocol, .payload = RandomBytes(random, 77)});
      EXPECT_TRUE(ChecksumsAreRight(frame));
      frame[kHeaderBytes + 50] ^= 0x40;
      EXPECT_FALSE(ChecksumsAreRight(frame));
    }
  }
}

TEST(ChecksumTest, OffsetsOutsideAreRefused) {
  std::vector<uint8_t> frame = MakeFrame({});
  for (const auto& [start, offset] : {std::pair{65535, 0}, {0, 65535}, {65535, 65535}, {53, 0}, {52, 1}}) {
    FrameOffload offload{.needs_checksum = true,
                         .checksum_start = static_cast<uint16_t>(start),
                         .checksum_offset = static_cast<uint16_t>(offset)};
    EXPECT_FALSE(FinishChecksum(absl::MakeSpan(frame), offload)) << start << " " << offset;
  }
}

TEST(HeadersTest, WhatIsWhere) {
  const FrameHeaders tcp = ReadHeaders(MakeFrame({.ip_option_bytes = 8, .tcp_option_bytes = 12, .payload = {1}}));
  EXPECT_EQ(tcp.type, kIp4);
  EXPECT_EQ(tcp.ip_version, 4);
  EXPECT_EQ(tcp.protocol, kTcp);
  EXPECT_EQ(tcp.ip_offset, 14);
  EXPECT_EQ(tcp.transport_offset, 14 + 28);
  EXPECT_EQ(tcp.payload_offset, 14 + 28 + 32);
  EXPECT_FALSE(tcp.is_fragment);

  std::vector<uint8_t> frame = MakeFrame({.ip_version = 6, .protocol = kUdp, .payload = {1}});
  frame[14 + 6] = 60;  // destination options, 16 bytes of them
  const std::vector<uint8_t> options = {kUdp, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  frame.insert(frame.begin() + 54, options.begin(), options.end());
  const std::vector<uint8_t> tag = {0x81, 0, 0, 5};
  frame.insert(frame.begin() + 12, tag.begin(), tag.end());
  const FrameHeaders udp = ReadHeaders(frame);
  EXPECT_EQ(udp.type, kIp6);
  EXPECT_EQ(udp.protocol, kUdp);
  EXPECT_EQ(udp.transport_offset, 18 + 40 + 16);
  EXPECT_EQ(udp.payload_offset, 18 + 40 + 16 + 8);
}

TEST(HeadersTest, FragmentsHaveNoPorts) {
  std::vector<uint8_t> frame = MakeFrame({.payload = std::vector<uint8_t>(64, 1)});
  WriteBe16(&frame[14 + 6], 0x2000);  // the first, more follow
  EXPECT_TRUE(ReadHeaders(frame).is_fragment);
  EXPECT_EQ(ReadHeaders(frame).protocol, kTcp);
  WriteBe16(&frame[14 + 6], 3);
  EXPECT_TRUE(ReadHeaders(frame).is_fragment);
  EXPECT_EQ(ReadHeaders(frame).protocol, 0);
}

// Whatever is read lies within what was given; the sanitizers watch.
TEST(HeadersTest, RandomAndCutFrames) {
  std::mt19937 random(TestSeed());
  const FlowHasher hasher(kDefaultFlowKey);
  for (int i = 0; i < 20000; ++i) {
    std::vector<uint8_t> frame = MakeFrame({.ip_version = random() % 2 != 0 ? 4 : 6,
                                            .protocol = random() % 2 != 0 ? kTcp : kUdp,
                                            .payload = RandomBytes(random, random() % 30)});
    for (size_t damage = random() % 4; damage != 0; --damage)
      frame[random() % frame.size()] = static_cast<uint8_t>(random());
    frame.resize(random() % (frame.size() + 1));
    frame.shrink_to_fit();
    const FrameHeaders headers = ReadHeaders(frame);
    ASSERT_LE(headers.payload_offset, frame.size());
    hasher.Hash(frame, headers, {.tcp = true, .udp = true});
    ChecksumsAreRight(frame);
    FrameOffload offload{
        .segmentation = random() % 2 != 0 ? FrameOffload::Segmentation::kTcp4 : FrameOffload::Segmentation::kTcp6,
        .segment_bytes = static_cast<uint16_t>(random() % 32)};
    FinishWhole(absl::MakeSpan(frame), offload);
  }
}

// What is cut is what was sent, whoever puts it together again.
TEST(SegmentationTest, SegmentsAreTheWhole) {
  std::mt19937 random(TestSeed());
  for (int i = 0; i < 300; ++i) {
    const FrameSpec spec{.ip_version = random() % 2 != 0 ? 4 : 6,
                         .sequence = static_cast<uint32_t>(random()),
                         .flags = 0x99,  // CWR, ACK, PSH, FIN
                         .id = static_cast<uint16_t>(random()),
                         .ip_option_bytes = random() % 3 * 4,
                         .tcp_option_bytes = random() % 11 * 4,
                         .payload = RandomBytes(random, 1 + random() % (random() % 4 == 0 ? 60000 : 3000))};
    std::vector<uint8_t> frame = MakeFrame(spec);
    const auto mss = static_cast<uint16_t>(kMinSegmentBytes + random() % 2000);
    FrameOffload offload = LeaveSegmentation(frame, mss);
    offload.has_vlan = true;
    offload.vlan_tci = 77;
    // What senders leave there is not looked at.
    if (spec.ip_version == 4) WriteBe16(&frame[14 + 2], static_cast<uint16_t>(random()));
    const std::optional<Segmenter> segmenter = Segmenter::For(frame, offload);
    ASSERT_TRUE(segmenter.has_value());
    ASSERT_EQ(segmenter->count(), (spec.payload.size() + mss - 1) / mss);
    std::vector<uint8_t> together;
    for (size_t index = 0; index < segmenter->count(); ++index) {
      std::vector<uint8_t> segment(segmenter->max_bytes());
      FrameOffload rest;
      const size_t size = segmenter->Cut(index, random() % 2 != 0 ? ChecksumBy::kUs : ChecksumBy::kReceiver,
                                         absl::MakeSpan(segment), rest);
      ASSERT_EQ(size, segmenter->SizeOf(index));
      ASSERT_EQ(segmenter->Cut(index, ChecksumBy::kUs, absl::MakeSpan(segment).first(size - 1), rest), 0u);
      segment.resize(size);
      ASSERT_TRUE(rest.has_vlan && rest.vlan_tci == 77 && rest.segmentation == FrameOffload::Segmentation::kNone);
      ASSERT_TRUE(FinishChecksum(absl::MakeSpan(segment), rest));

      const bool first = index == 0, last = index + 1 == segmenter->count();
      FrameSpec expected = spec;
      expected.sequence += static_cast<uint32_t>(together.size());
      expected.id = static_cast<uint16_t>(spec.id + index);
      expected.flags = static_cast<uint8_t>(0x10 | (first ? 0x80 : 0) | (last ? 0x09 : 0));
      expected.payload.assign(spec.payload.begin() + static_cast<std::ptrdiff_t>(together.size()),
                              spec.payload.begin() + static_cast<std::ptrdiff_t>(
                                                         std::min<size_t>(together.size() + mss, spec.payload.size())));
      ASSERT_EQ(segment, MakeFrame(expected));
      together.insert(together.end(), expected.payload.begin(), expected.payload.end());
    }
    ASSERT_EQ(together, spec.payload);

    ASSERT_TRUE(FinishWhole(absl::MakeSpan(frame), offload));
    ASSERT_EQ(frame, MakeFrame(spec));
  }
}

TEST(SegmentationTest, WhatIsNoSegmentIsRefused) {
  std::vector<uint8_t> frame = MakeFrame({.payload = std::vector<uint8_t>(3000)});
  const FrameOffload offload = LeaveSegmentation(frame, 1000);
  ASSERT_TRUE(Segmenter::For(frame, offload));
  FrameOffload other = offload;
  other.segmentation = FrameOffload::Segmentation::kTcp6;
  EXPECT_FALSE(Segmenter::For(frame, other));
  other.segmentation = FrameOffload::Segmentation::kNone;
  EXPECT_FALSE(Segmenter::For(frame, other));
  other = offload;
  other.segment_bytes = kMinSegmentBytes - 1;
  EXPECT_FALSE(Segmenter::For(frame, other));
  EXPECT_FALSE(Segmenter::For(absl::MakeConstSpan(frame).first(54), offload));  // no payload
  EXPECT_FALSE(Segmenter::For(absl::MakeConstSpan(frame).first(53), offload));
  std::vector<uint8_t> udp = MakeFrame({.protocol = kUdp, .payload = std::vector<uint8_t>(3000)});
  EXPECT_FALSE(Segmenter::For(udp, offload));
  WriteBe16(&frame[14 + 6], 0x2000);
  EXPECT_FALSE(Segmenter::For(frame, offload));
  EXPECT_FALSE(Segmenter::For(std::vector<uint8_t>(kMaxFrameBytes + 1), offload));
}

// Microsoft's "Verifying the RSS Hash Calculation".
TEST(FlowHashTest, KnownHashes) {
  const FlowHasher hasher(kDefaultFlowKey);
  struct {
    std::array<uint8_t, 4> from, to;
    uint16_t from_port, to_port;
    uint32_t with_ports, addresses;
  } const ip4[] = {
      {{66, 9, 149, 187}, {161, 142, 100, 80}, 2794, 1766, 0x51ccc178, 0x323e8fc2},
      {{199, 92, 111, 2}, {65, 69, 140, 83}, 14230, 4739, 0xc626b0ea, 0xd718262a},
      {{24, 19, 198, 95}, {12, 22, 207, 184}, 12898, 38024, 0x5c2b394a, 0xd2d0a5de},
      {{38, 27, 205, 30}, {209, 142, 163, 6}, 48228, 2217, 0xafc7327f, 0x82989176},
      {{153, 39, 163, 191}, {202, 188, 127, 2}, 44251, 1303, 0x10e828a2, 0x5d1809c5},
  };
  for (const auto& known : ip4) {
    std::vector<uint8_t> frame = MakeFrame({.from_port = known.from_port, .to_port = known.to_port});
    std::copy(known.from.begin(), known.from.end(), frame.begin() + 14 + 12);
    std::copy(known.to.begin(), known.to.end(), frame.begin() + 14 + 16);
    EXPECT_EQ(hasher.Hash(frame, ReadHeaders(frame)), known.with_ports);
    EXPECT_EQ(hasher.Hash(frame, ReadHeaders(frame), {.tcp = false}), known.addresses);
  }
  // 3ffe:2501:200:1fff::7 to 3ffe:2501:200:3::1.
  std::vector<uint8_t> frame = MakeFrame({.ip_version = 6, .from_port = 2794, .to_port = 1766});
  const std::array<uint8_t, 32> addresses = {0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 7,
                                             0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0x00, 0x03, 0, 0, 0, 0, 0, 0, 0, 1};
  std::copy(addresses.begin(), addresses.end(), frame.begin() + 14 + 8);
  EXPECT_EQ(hasher.Hash(frame, ReadHeaders(frame)), 0x40207d3d);
  EXPECT_EQ(hasher.Hash(frame, ReadHeaders(frame), {.tcp = false}), 0x2cc18cd5);
}

}  // namespace
}  // namespace hvsdk::ethernet
