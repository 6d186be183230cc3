// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmbus/guest_buffers.h"

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/base/ids.h"
#include "tests/random_seed.h"

namespace hvsdk::vmbus {
namespace {

constexpr uint64_t kHighGpa = 0x100000;  // of a second range, behind a hole
constexpr uint64_t kRangePages = 16;

bool IsMemory(uint64_t gpa) {
  return gpa < kRangePages * kPageSize || (gpa >= kHighGpa && gpa - kHighGpa < kRangePages * kPageSize);
}

class GuestBuffersTest : public testing::Test, private HostWriteObserver {
 protected:
  GuestBuffersTest() : low_(kRangePages * kPageSize), high_(kRangePages * kPageSize) {
    EXPECT_TRUE(memory_.AddRange(0, absl::MakeSpan(low_)).ok());
    EXPECT_TRUE(memory_.AddRange(kHighGpa, absl::MakeSpan(high_)).ok());
    memory_.SetHostWriteObserver(this);
    for (uint64_t page = 0; page < kRangePages; ++page) {
      memory_.SetWatched(page * kPageSize, true);
      memory_.SetWatched(kHighGpa + page * kPageSize, true);
    }
  }
  void OnHostWrite(uint64_t gpa, uint64_t size_bytes) override {
    EXPECT_EQ(size_bytes, kPageSize);
    written_.insert(gpa);
  }

  // A packet's extension; valid until the next one.
  struct Range {
    uint32_t byte_offset = 0, byte_count = 0;
    std::vector<uint64_t> pfns;
  };
  Packet GpaDirect(const std::vector<Range>& ranges) {
    words_ = {uint64_t{ranges.size()} << 32};
    for (const Range& range : ranges) {
      words_.push_back(uint64_t{range.byte_offset} << 32 | range.byte_count);
      words_.insert(words_.end(), range.pfns.begin(), range.pfns.end());
    }
    return {.type = hvdef::PacketType::kDataUsingGpaDirect,
            .extension = reinterpret_cast<const uint8_t*>(words_.data()),
            .extension_size = static_cast<uint32_t>(words_.size() * 8)};
  }
  static std::vector<uint8_t*> Bytes(GuestBuffers& buffers) {
    std::vector<uint8_t*> bytes;
    for (const HostBuffer& piece : buffers.pieces()) {
      for (size_t i = 0; i < piece.size_bytes; ++i) bytes.push_back(piece.data + i);
    }
    return bytes;
  }

  std::vector<uint8_t> low_, high_;
  GuestMemory memory_;
  std::vector<uint64_t> words_;
  std::set<uint64_t> written_;  // pages
};

TEST_F(GuestBuffersTest, JoinsNeighboursAndMarksWhatWasWritten) {
  GuestBuffers buffers;
  ASSERT_TRUE(buffers.Gather(memory_, GpaDirect({{100, 3 * 4096, {3, 4, 6, 7}}})));
  ASSERT_EQ(buffers.pieces().size(), 2u);
  EXPECT_EQ(buffers.pieces()[0].data, low_.data() + 3 * 4096 + 100);
  EXPECT_EQ(buffers.pieces()[0].size_bytes, 2 * 4096u - 100);
  EXPECT_EQ(buffers.pieces()[1].data, low_.data() + 6 * 4096);
  EXPECT_EQ(buffers.pieces()[1].size_bytes, 4096u + 100);
  buffers.Release(2 * 4096 - 100);
  EXPECT_EQ(written_, (std::set<uint64_t>{3 * 4096, 4 * 4096}));
  EXPECT_TRUE(buffers.pieces().empty());
  buffers.Release(4096);
  EXPECT_EQ(written_.size(), 2u) << "let go of already";
}

TEST_F(GuestBuffersTest, WhatATransferCutOffWasNotWritten) {
  GuestBuffers buffers;
  ASSERT_TRUE(buffers.Gather(memory_, GpaDirect({{0, 4096, {1}}, {0, 8192, {5, 6}}})));
  ASSERT_EQ(buffers.pieces().size(), 2u);
  buffers.pieces()[1].size_bytes = 4096;
  buffers.Release(3 * 4096);
  EXPECT_EQ(written_, (std::set<uint64_t>{4096, 5 * 4096}));
}

TEST_F(GuestBuffersTest, NeitherListNorMemory) {
  GuestBuffers buffers;
  const auto refuses = [&](const Packet& packet) {
    const bool gathered = buffers.Gather(memory_, packet);
    EXPECT_TRUE(gathered || buffers.pieces().empty());
    return !gathered;
  };
  EXPECT_TRUE(refuses({.type = hvdef::PacketType::kDataInBand}));
  EXPECT_TRUE(refuses({.type = hvdef::PacketType::kDataUsingGpaDirect}));
  EXPECT_TRUE(refuses(GpaDirect({})));
  EXPECT_TRUE(refuses(GpaDirect({{0, 0, {1}}}))) << "an empty range";
  EXPECT_TRUE(refuses(GpaDirect({{0, 8192, {1}}}))) << "a page number is missing";
  EXPECT_TRUE(refuses(GpaDirect({{4096, 1, {1, 2}}}))) << "does not begin in its first page";
  EXPECT_TRUE(refuses(GpaDirect({{0, 8192, {1, kRangePages}}}))) << "a hole";
  EXPECT_TRUE(refuses(GpaDirect({{0, 4096, {~uint64_t{0}}}})));
  EXPECT_TRUE(refuses(GpaDirect({{0, 4096, {uint64_t{1} << 52 | 1}}}))) << "an address of more than 64 bits";
  EXPECT_FALSE(refuses(GpaDirect({{0, 4096, {1}}})));
  // Of a length: what is behind it does not matter, and a packet without a list has none.
  EXPECT_TRUE(buffers.Gather(memory_, GpaDirect({{0, 4096, {1}}, {0, 4096, {kRangePages}}}), 4096));
  EXPECT_FALSE(buffers.Gather(memory_, GpaDirect({{0, 4096, {1}}}), 4097));
  EXPECT_TRUE(buffers.pieces().empty());
  EXPECT_TRUE(buffers.Gather(memory_, Packet{.type = hvdef::PacketType::kDataInBand}, 0));
  EXPECT_FALSE(buffers.Gather(memory_, Packet{.type = hvdef::PacketType::kDataInBand}, 1));
}

// Any list, of a packet and of a GPADL, against its bytes one by one.
TEST_F(GuestBuffersTest, IsWhatTheListSays) {
  const uint32_t seed = TestSeed();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  GuestBuffers buffers;
  int good = 0, bad = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<Range> ranges(1 + random() % 3);
    std::vector<uint64_t> gpas;  // of each byte
    for (Range& range : ranges) {
      range.byte_offset = static_cast<uint32_t>(random() % kPageSize);
      range.byte_count = static_cast<uint32_t>(1 + random() % (random() % 4 == 0 ? 3 * kPageSize : 200));
      const uint64_t pages = (range.byte_offset + range.byte_count + kPageSize - 1) / kPageSize;
      for (uint64_t i = 0; i < pages; ++i) {
        const bool follows = i != 0 && random() % 2 == 0;
        const uint64_t base = random() % 2 == 0 ? 0 : kHighGpa / kPageSize;
        // Now and then a page that is none.
        range.pfns.push_back(follows ? range.pfns.back() + 1 : base + random() % (kRangePages + (random() % 8 == 0)));
      }
      for (uint32_t i = 0; i < range.byte_count; ++i) {
        const uint64_t at = range.byte_offset + i;
        gpas.push_back(range.pfns[at / kPageSize] * kPageSize + at % kPageSize);
      }
    }
    const Packet packet = GpaDirect(ranges);
    uint64_t offset = 0, size = gpas.size();
    bool gathered = false, expected = true;
    const auto expect_bytes = [&] {
      expected =
          offset + size <= gpas.size() && std::all_of(gpas.begin() + offset, gpas.begin() + offset + size, IsMemory);
    };
    switch (random() % 3) {
      case 0:
        gathered = buffers.Gather(memory_, packet);
        expect_bytes();
        break;
      case 1:
        size = random() % (gpas.size() + 2);
        gathered = buffers.Gather(memory_, packet, size);
        expect_bytes();
        break;
      case 2: {
        const auto gpadl =
            Gpadl::Create(memory_, {words_.begin() + 1, words_.end()}, static_cast<uint32_t>(ranges.size()));
        ASSERT_EQ(gpadl != nullptr, std::all_of(gpas.begin(), gpas.end(), IsMemory));
        if (gpadl == nullptr) continue;
        offset = random() % (gpas.size() + 1);
        size = random() % (gpas.size() + 2);
        gathered = buffers.Gather(*gpadl, offset, size);
        expect_bytes();
      }
    }
    ASSERT_EQ(gathered, expected);
    ++(gathered ? good : bad);
    const std::vector<uint8_t*> bytes = Bytes(buffers);
    ASSERT_EQ(bytes.size(), gathered ? size : 0);
    for (size_t i = 0; i < bytes.size(); ++i) ASSERT_EQ(bytes[i], memory_.Pointer(gpas[offset + i], 1)) << "byte " << i;
    // What the host has written of it.
    const uint64_t written = random() % (size + 2);
    std::set<uint64_t> pages;
    for (size_t i = 0; i < std::min<size_t>(written, bytes.size()); ++i) {
      pages.insert(gpas[offset + i] & ~(kPageSize - 1));
    }
    written_.clear();
    buffers.Release(written);
    ASSERT_EQ(written_, pages);
  }
  EXPECT_GT(good, 1000);
  EXPECT_GT(bad, 100);
}

}  // namespace
}  // namespace hvsdk::vmbus
