// SPDX-License-Identifier: Apache-2.0
// What every NetworkPort promises (resource/network_port.h), checked between two of them that reach each other.
//
// A world is two ports in the smallest surroundings that they need:
//
//   struct CableWorld {
//     NetworkPort& port(int side);                    // 0 or 1
//     static constexpr bool kKeepsAll = true;         // holds a sender back and loses nothing
//     static constexpr bool kCarriesVlans = true;     // frames arrive with the tag that they were sent with
//   };
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cable, PortTest, CableWorld);

#ifndef HVSDK_TESTS_NETWORK_PORT_SUITE_H_
#define HVSDK_TESTS_NETWORK_PORT_SUITE_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/ethernet/checksum.h"
#include "hvsdk/ethernet/headers.h"
#include "hvsdk/ethernet/segmentation.h"
#include "hvsdk/resource/network_port.h"
#include "tests/ethernet/frame_builder.h"
#include "tests/network/test_adapter.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::network {

template <typename World>
class PortTest : public testing::Test {
 protected:
  size_t RandomSize(std::mt19937& random) {
    return random() % (std::min(world_.port(0).info().mtu_bytes, world_.port(1).info().mtu_bytes) - 28);
  }

  std::mt19937 random_{TestSeed()};
  World world_;
};
TYPED_TEST_SUITE_P(PortTest);

TYPED_TEST_P(PortTest, FramesGoBothWaysInOrder) {
  TestAdapter adapters[] = {TestAdapter(this->world_.port(0)), TestAdapter(this->world_.port(1))};
  for (TestAdapter& adapter : adapters) adapter.Attach();
  for (int round = 0; round < 40; ++round) {
    const int from = static_cast<int>(this->random_() % 2);
    std::vector<Bytes> sent;
    for (size_t i = 1 + this->random_() % 8; i != 0; --i) {
      sent.push_back(ethernet::MakeFrame(SpecOf(from, round, this->random_, this->RandomSize(this->random_))));
      adapters[from].Send({sent.back(), {}}, this->random_);
    }
    const std::vector<TestFrame> got = adapters[1 - from].Receive(sent.size());
    ASSERT_EQ(got.size(), sent.size());
    for (size_t i = 0; i < sent.size(); ++i) ASSERT_EQ(got[i].bytes, sent[i]) << "round " << round << " frame " << i;
  }
}

TYPED_TEST_P(PortTest, OneClientAtATime) {
  TestAdapter first(this->world_.port(0)), second(this->world_.port(0));
  first.Attach();
  EXPECT_EQ(this->world_.port(0).Attach(second, this->world_.port(0).info()).code(),
            absl::StatusCode::kFailedPrecondition);
  first.Detach();
  second.Attach();
}

TYPED_TEST_P(PortTest, WhatCannotBeCarriedIsTakenAndDropped) {
  TestAdapter a(this->world_.port(0)), b(this->world_.port(1));
  a.Attach(), b.Attach();
  const NetworkPortInfo info = this->world_.port(0).info();
  ethernet::FrameSpec spec = SpecOf(0, 1, this->random_, 100);
  const Bytes good = ethernet::MakeFrame(spec);
  for (const size_t size : {size_t{0}, size_t{1}, size_t{13}}) {
    EXPECT_TRUE(a.TrySend({Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)), {}}, this->random_));
  }
  Bytes too_long = good;
  too_long.resize(info.max_frame_bytes + 1);
  EXPECT_TRUE(a.TrySend({too_long, {}}, this->random_));
  FrameOffload lies{.needs_checksum = true, .checksum_start = 65000, .checksum_offset = 65000};
  EXPECT_TRUE(a.TrySend({good, lies}, this->random_));
  lies = {.needs_checksum = true, .segmentation = FrameOffload::Segmentation::kTcp4, .segment_bytes = 100};
  EXPECT_TRUE(a.TrySend({good, lies}, this->random_)) << "which is UDP";
  {
    Bytes little = good;
    HostBuffer buffer{little.data(), little.size() - 1};
    const OutgoingFrame frame{.buffers = {&buffer, 1}, .size_bytes = good.size()};
    EXPECT_EQ(this->world_.port(0).Send(0, {&frame, 1}), 1u) << "whose buffers are too short";
  }
  a.Send({good, {}}, this->random_);
  const std::vector<TestFrame> got = b.Receive(1);
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].bytes, good);
  EXPECT_TRUE(b.TryReceive(4).empty());
}

TYPED_TEST_P(PortTest, WordComesWhenFramesDo) {
  TestAdapter a(this->world_.port(0)), b(this->world_.port(1));
  a.Attach(), b.Attach();
  for (int round = 0; round < 10; ++round) {
    EXPECT_TRUE(b.TryReceive(2).empty());
    const uint64_t seen = b.told_of_frames();
    a.Send({ethernet::MakeFrame(SpecOf(0, round, this->random_, 50)), {}}, this->random_);
    ASSERT_TRUE(b.WaitForFrames(seen)) << "of round " << round;
    const std::vector<TestFrame> got = b.TryReceive(2);
    ASSERT_EQ(got.size(), 1u);
    EXPECT_EQ(NumberOf(got[0]), static_cast<uint32_t>(round));
  }
}

TYPED_TEST_P(PortTest, AFrameLongerThanItsBuffersIsDropped) {
  TestAdapter a(this->world_.port(0)), b(this->world_.port(1));
  a.Attach(), b.Attach();
  a.Send({ethernet::MakeFrame(SpecOf(0, 1, this->random_, 1000)), {}}, this->random_);
  const uint64_t seen = b.told_of_frames();
  a.Send({ethernet::MakeFrame(SpecOf(0, 2, this->random_, 100)), {}}, this->random_);
  std::vector<TestFrame> got;
  for (uint64_t told = seen; got.empty();) {
    got = b.TryReceive(3, 500);
    if (got.empty() && !b.WaitForFrames(std::exchange(told, b.told_of_frames()) - 1)) break;
  }
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(NumberOf(got[0]), 2u);
}

TYPED_TEST_P(PortTest, DetachDropsAndAttachBeginsAnew) {
  TestAdapter a(this->world_.port(0)), b(this->world_.port(1));
  a.Attach(), b.Attach();
  for (int round = 0; round < 10; ++round) {
    uint64_t seen = b.told_of_frames();
    EXPECT_TRUE(b.TryReceive(1).empty());
    for (uint32_t i = 0; i < 3; ++i) a.Send({ethernet::MakeFrame(SpecOf(0, 99, this->random_, 50)), {}}, this->random_);
    ASSERT_TRUE(b.WaitForFrames(seen));
    b.Detach();
    // A frame may be on its way still, so what is sent from now on tells which is which.
    b.Attach();
    a.Send({ethernet::MakeFrame(SpecOf(0, round, this->random_, 50)), {}}, this->random_);
    for (;;) {
      const std::vector<TestFrame> got = b.Receive(1);
      ASSERT_EQ(got.size(), 1u) << "round " << round;
      if (NumberOf(got[0]) == static_cast<uint32_t>(round)) break;
      ASSERT_EQ(NumberOf(got[0]), 99u);
    }
  }
}

// A sender that nobody listens to is held back, or what it sends is dropped; then all goes on.
TYPED_TEST_P(PortTest, WhatNobodyFetchesIsBounded) {
  TestAdapter a(this->world_.port(0)), b(this->world_.port(1));
  a.Attach(), b.Attach();
  constexpr uint32_t kMany = 20000;
  uint32_t sent = 0;
  const uint64_t room = a.told_of_room();
  while (sent < kMany && a.TrySend({ethernet::MakeFrame(SpecOf(0, sent, this->random_, 1000)), {}}, this->random_)) {
    ++sent;
  }
  if (TypeParam::kKeepsAll) {
    EXPECT_LT(sent, kMany);
  }
  uint32_t got = 0;
  int64_t last = -1;
  for (;;) {
    const uint64_t seen = b.told_of_frames();
    const std::vector<TestFrame> frames = b.TryReceive(16);
    for (const TestFrame& frame : frames) {
      ASSERT_GT(int64_t{NumberOf(frame)}, last) << "in order, and once";
      last = NumberOf(frame);
      ++got;
    }
    if (TypeParam::kKeepsAll) {
      if (got == sent) break;
      if (frames.size() < 16) {
        ASSERT_TRUE(b.WaitForFrames(seen)) << got << " of " << sent;
      }
    } else if (frames.empty()) {
      break;
    }
  }
  EXPECT_GT(got, 0u);
  if (sent < kMany) {
    ASSERT_TRUE(a.WaitForRoom(room));
  } else {
    EXPECT_LT(got, kMany) << "nothing bounds it";
  }
  a.Send({ethernet::MakeFrame(SpecOf(0, kMany, this->random_, 10)), {}}, this->random_);
  for (;;) {
    const std::vector<TestFrame> frames = b.Receive(1);
    ASSERT_EQ(frames.size(), 1u);
    if (NumberOf(frames[0]) == kMany) break;
  }
}

// Whatever one side leaves to others and the other does not take is done on the way.
TYPED_TEST_P(PortTest, OffloadsAreCarriedOut) {
  const NetworkPortInfo info = this->world_.port(0).info();
  if (!info.takes_checksum) GTEST_SKIP() << "the port takes no offload";
  NetworkPortInfo plain = this->world_.port(1).info();
  plain.takes_checksum = plain.takes_segmentation = false;
  plain.max_frame_bytes = plain.mtu_bytes + 14;
  TestAdapter a(this->world_.port(0)), b(this->world_.port(1));
  a.Attach(), b.Attach(plain);
  for (int round = 0; round < 30; ++round) {
    ethernet::FrameSpec spec = SpecOf(0, round, this->random_, this->RandomSize(this->random_));
    spec.ip_version = this->random_() % 2 != 0 ? 4 : 6;
    if (spec.ip_version == 6) spec.payload.resize(std::max<size_t>(spec.payload.size(), 30) - 20);
    Bytes frame = ethernet::MakeFrame(spec);
    const Bytes expected = frame;
    FrameOffload offload = ethernet::LeaveChecksum(frame);
    a.Send({frame, offload}, this->random_);
    std::vector<TestFrame> got = b.Receive(1);
    ASSERT_EQ(got.size(), 1u);
    ASSERT_EQ(got[0].bytes, expected);
    ASSERT_FALSE(got[0].offload.needs_checksum);

    if (!info.takes_segmentation) continue;
    spec.protocol = ethernet::kTcp;
    spec.payload = RandomPayload(this->random_, 3000 + this->random_() % 50000);
    spec.flags = 0x18;
    frame = ethernet::MakeFrame(spec);
    const uint16_t mss = static_cast<uint16_t>(500 + this->random_() % 900);
    offload = ethernet::LeaveSegmentation(frame, mss);
    a.Send({frame, offload}, this->random_);
    Bytes together;
    while (together.size() < spec.payload.size()) {
      got = b.Receive(1);
      ASSERT_EQ(got.size(), 1u);
      ASSERT_FALSE(got[0].offload.needs_checksum);
      ASSERT_LE(got[0].bytes.size(), plain.max_frame_bytes);
      ASSERT_TRUE(ethernet::ChecksumsAreRight(got[0].bytes));
      const ethernet::FrameHeaders headers = ethernet::ReadHeaders(got[0].bytes);
      ASSERT_EQ(ethernet::ReadBe32(&got[0].bytes[headers.transport_offset + 4]), spec.sequence + together.size());
      together.insert(together.end(), got[0].bytes.begin() + headers.payload_offset, got[0].bytes.end());
    }
    ASSERT_EQ(together, spec.payload);
  }
}

// What both sides take passes, whole or cut, and in the end says the same.
TYPED_TEST_P(PortTest, OffloadsPass) {
  const NetworkPortInfo info = this->world_.port(0).info();
  if (!info.takes_segmentation) GTEST_SKIP() << "the port does not take frames to be cut";
  TestAdapter a(this->world_.port(0)), b(this->world_.port(1));
  NetworkPortInfo all = this->world_.port(1).info();
  all.takes_checksum = all.takes_segmentation = true;
  all.max_frame_bytes = ethernet::kMaxFrameBytes;
  a.Attach(), b.Attach(all);
  for (int round = 0; round < 30; ++round) {
    ethernet::FrameSpec spec = SpecOf(0, round, this->random_, 2000 + this->random_() % 60000);
    spec.protocol = ethernet::kTcp;
    spec.flags = 0x18;
    Bytes frame = ethernet::MakeFrame(spec);
    a.Send({frame, ethernet::LeaveSegmentation(frame, 1000)}, this->random_);
    Bytes together;
    while (together.size() < spec.payload.size()) {
      const std::vector<TestFrame> got = b.Receive(1);
      ASSERT_EQ(got.size(), 1u);
      const ethernet::FrameHeaders headers = ethernet::ReadHeaders(got[0].bytes);
      const FrameOffload& offload = got[0].offload;
      if (got[0].bytes.size() > all.mtu_bytes + 14) {
        ASSERT_EQ(offload.segmentation, FrameOffload::Segmentation::kTcp4);
        ASSERT_EQ(offload.segment_bytes, 1000);
      }
      if (offload.needs_checksum) {
        ASSERT_EQ(offload.checksum_start, headers.transport_offset);
        ASSERT_EQ(offload.checksum_offset, ethernet::kTcpChecksumOffset);
      } else {
        ASSERT_TRUE(ethernet::ChecksumsAreRight(got[0].bytes));
      }
      together.insert(together.end(), got[0].bytes.begin() + headers.payload_offset, got[0].bytes.end());
    }
    ASSERT_EQ(together, spec.payload);
  }
}

TYPED_TEST_P(PortTest, VlanTagsPass) {
  if (!TypeParam::kCarriesVlans) GTEST_SKIP() << "the port knows no VLANs";
  TestAdapter a(this->world_.port(0)), b(this->world_.port(1));
  a.Attach(), b.Attach();
  for (uint16_t vlan = 1; vlan < 40; ++vlan) {
    ethernet::FrameSpec spec = SpecOf(0, vlan, this->random_, 100);
    Bytes frame = ethernet::MakeFrame(spec);
    const Bytes expected = frame;
    FrameOffload offload;
    const bool inside = vlan % 3 == 0;  // in the frame itself
    if (vlan % 2 != 0 && this->world_.port(0).info().takes_checksum) offload = ethernet::LeaveChecksum(frame);
    const uint16_t tci = static_cast<uint16_t>(3 << 13 | vlan);
    if (inside) {
      const Bytes tag = {0x81, 0, static_cast<uint8_t>(tci >> 8), static_cast<uint8_t>(tci)};
      frame.insert(frame.begin() + 12, tag.begin(), tag.end());
      if (offload.needs_checksum) offload.checksum_start = static_cast<uint16_t>(offload.checksum_start + 4);
    } else {
      offload.has_vlan = true;
      offload.vlan_tci = tci;
    }
    a.Send({frame, offload}, this->random_);
    // There need be no room for the tag.
    std::vector<TestFrame> got = b.Receive(1, vlan % 4 < 2 ? expected.size() : ethernet::kMaxFrameBytes);
    ASSERT_EQ(got.size(), 1u);
    ASSERT_TRUE(got[0].offload.has_vlan);
    ASSERT_EQ(got[0].offload.vlan_tci, tci);
    ASSERT_TRUE(ethernet::FinishChecksum(absl::MakeSpan(got[0].bytes), got[0].offload));
    ASSERT_EQ(got[0].bytes, expected);
  }
}

// Both sides send and receive at once, while one of them comes and goes.
TYPED_TEST_P(PortTest, Threads) {
  const uint32_t count = ScaledCount(2000);
  TestAdapter a(this->world_.port(0)), b(this->world_.port(1));
  a.Attach(), b.Attach();
  std::atomic<bool> b_is_done = false;
  std::thread other([&] {
    std::mt19937 random(5);
    int64_t last = -1;
    for (uint32_t i = 0; i < count; ++i) {
      b.TrySend({ethernet::MakeFrame(SpecOf(1, i, random, random() % 1000)), {}}, random);
      for (const TestFrame& frame : b.TryReceive(4)) {
        const auto number = int64_t{NumberOf(frame)};
        EXPECT_GT(number, last);
        last = number;
      }
      if (i % 100 == 99) b.Detach(), b.Attach();
    }
    b_is_done = true;
  });
  int64_t last = -1;
  uint32_t number = 0;
  while (!b_is_done) {
    a.TrySend({ethernet::MakeFrame(SpecOf(0, number++, this->random_, this->random_() % 1000)), {}}, this->random_);
    for (const TestFrame& frame : a.TryReceive(4)) {
      const auto got = int64_t{NumberOf(frame)};
      EXPECT_GT(got, last);
      last = got;
    }
  }
  other.join();
  b.Detach();
}

// One thread sends all that it has, waiting for room; the other fetches when it is told to.
TYPED_TEST_P(PortTest, NoWakeUpIsLost) {
  if (!TypeParam::kKeepsAll) GTEST_SKIP() << "the port drops";
  const uint32_t count = ScaledCount(5000);
  TestAdapter a(this->world_.port(0)), b(this->world_.port(1));
  a.Attach(), b.Attach();
  std::thread sender([&] {
    std::mt19937 random(5);
    for (uint32_t i = 0; i < count; ++i)
      a.Send({ethernet::MakeFrame(SpecOf(0, i, random, random() % 200)), {}}, random);
  });
  uint32_t got = 0;
  while (got < count) {
    const std::vector<TestFrame> frames = b.Receive(1);
    if (frames.empty()) break;
    EXPECT_EQ(NumberOf(frames[0]), got);
    ++got;
  }
  EXPECT_EQ(got, count);
  sender.join();
}

REGISTER_TYPED_TEST_SUITE_P(PortTest, FramesGoBothWaysInOrder, OneClientAtATime, WhatCannotBeCarriedIsTakenAndDropped,
                            WordComesWhenFramesDo, AFrameLongerThanItsBuffersIsDropped, DetachDropsAndAttachBeginsAnew,
                            WhatNobodyFetchesIsBounded, OffloadsAreCarriedOut, OffloadsPass, VlanTagsPass, Threads,
                            NoWakeUpIsLost);

}  // namespace hvsdk::network

#endif  // HVSDK_TESTS_NETWORK_PORT_SUITE_H_
