// SPDX-License-Identifier: Apache-2.0
// The ring, case by case: bytes on the wire, each kind of packet on each kind of memory, the signal rules, and what a
// broken peer gets.

#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/vmbus/ring/owned_ring.h"
#include "hvsdk/vmbus/ring/reader.h"
#include "hvsdk/vmbus/ring/writer.h"

namespace hvsdk::vmbus {
namespace {

using ::hvsdk::hvdef::PacketType;

constexpr uint32_t kPage = hvdef::kRingPageSize;

// Pages in an order that no mapping would have by itself.
class ScatteredPages {
 public:
  explicit ScatteredPages(uint32_t data_pages)
      : bytes_(new (std::align_val_t(kPage)) uint8_t[(data_pages + 1) * kPage]()) {
    for (uint32_t i = 0; i <= data_pages; ++i) pages_.push_back(bytes_.get() + (data_pages - i) * kPage);
  }
  const std::vector<uint8_t*>& pages() const { return pages_; }

 private:
  struct Delete {
    void operator()(uint8_t* bytes) const { operator delete[](bytes, std::align_val_t(kPage)); }
  };
  std::unique_ptr<uint8_t[], Delete> bytes_;
  std::vector<uint8_t*> pages_;
};

std::vector<RingPage> Describe(const std::vector<uint8_t*>& pages) {
  std::vector<RingPage> described(pages.size());
  DescribeRingPages(pages.data(), static_cast<uint32_t>(pages.size()), described.data());
  return described;
}

// Each policy, with the memory behind it.
struct Mirrored {
  using Memory = MirroredMemory;
  explicit Mirrored(uint32_t data_pages) : ring(data_pages) {}
  Memory memory() const { return ring.memory(); }
  OwnedRing ring;
};
struct Flat {
  using Memory = FlatMemory;
  explicit Flat(uint32_t data_pages) : ring(data_pages) {}
  Memory memory() const { return {ring.base(), ring.base() + kPage, ring.size()}; }
  OwnedRing ring;
};
struct Paged {
  using Memory = PagedMemory;
  explicit Paged(uint32_t data_pages) : scattered(data_pages), pages(Describe(scattered.pages())) {}
  Memory memory() const { return {pages.data(), static_cast<uint32_t>(pages.size() - 1)}; }
  ScatteredPages scattered;
  std::vector<RingPage> pages;
};
// Pages that follow each other, but for one.
struct PagedInRuns {
  using Memory = PagedMemory;
  explicit PagedInRuns(uint32_t data_pages) : ring(data_pages), pages(Describe(List(ring, data_pages))) {}
  static std::vector<uint8_t*> List(const OwnedRing& ring, uint32_t data_pages) {
    std::vector<uint8_t*> list;
    for (uint32_t i = 0; i <= data_pages; ++i) list.push_back(ring.base() + i * kPage);
    if (data_pages > 2) std::swap(list[1], list[data_pages]);
    return list;
  }
  Memory memory() const { return {pages.data(), static_cast<uint32_t>(pages.size() - 1)}; }
  OwnedRing ring;
  std::vector<RingPage> pages;
};
std::vector<uint8_t> Pattern(uint32_t size, uint8_t first) {
  std::vector<uint8_t> bytes(size);
  std::iota(bytes.begin(), bytes.end(), first);
  return bytes;
}

template <typename Policy>
class RingTest : public ::testing::Test {
 protected:
  using Writer = RingWriter<typename Policy::Memory>;
  using Reader = RingReader<typename Policy::Memory>;

  RingTest() : policy_(4), writer_(policy_.memory()), reader_(policy_.memory()) {
    EXPECT_EQ(writer_.Attach(), RingStatus::kOk);
    EXPECT_EQ(reader_.Attach(), RingStatus::kOk);
  }

  hvdef::RingControl& control() { return *policy_.memory().control(); }
  RingStatus Read(Packet& packet) { return reader_.Read(buffer_, sizeof(buffer_), packet); }

  Policy policy_;
  Writer writer_;
  Reader reader_;
  alignas(8) uint8_t buffer_[4 * kPage];
};

using Policies = ::testing::Types<Mirrored, Flat, Paged, PagedInRuns>;
TYPED_TEST_SUITE(RingTest, Policies);

TYPED_TEST(RingTest, InBandPacketIsTheseBytes) {
  const uint8_t payload[] = {0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9};
  for (int i = 0; i < 2; ++i) {  // the second one has an offset in its trailer
    ASSERT_EQ(this->writer_.StageInBand(PacketHeader::InBand(0x1122334455667788, true), payload, sizeof(payload)),
              RingStatus::kOk);
  }
  EXPECT_EQ(this->control().write_index, 0u);  // staged is not published
  EXPECT_EQ(this->writer_.Publish(), Signal::kNeeded);
  EXPECT_EQ(this->control().write_index, 80u);
  EXPECT_EQ(this->control().feature_bits, 1u);
  const uint8_t expected[] = {
      0x06, 0x00, 0x02, 0x00, 0x04, 0x00, 0x01, 0x00,  // in-band, data at 16, 32 long, completion requested
      0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,  // transaction
      0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7,  //
      0xA8, 0xA9, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  // padded
      0x00, 0x00, 0x00, 0x00, 0x28, 0x00, 0x00, 0x00,  // this packet began at 0x28
  };
  uint8_t bytes[40];
  this->policy_.memory().At(40).CopyOut(0, bytes, sizeof(bytes));
  EXPECT_EQ(std::memcmp(bytes, expected, sizeof(expected)), 0);
}

TYPED_TEST(RingTest, ReadReturnsWhatWasStaged) {
  const auto payload = Pattern(100, 7);
  ASSERT_EQ(this->writer_.StageInBand(PacketHeader::Completion(42), payload.data(), 100), RingStatus::kOk);
  Packet packet;
  EXPECT_EQ(this->Read(packet), RingStatus::kEmpty);
  (void)this->writer_.Publish();
  ASSERT_EQ(this->Read(packet), RingStatus::kOk);
  EXPECT_EQ(packet.type, PacketType::kCompletion);
  EXPECT_EQ(packet.flags, 0);
  EXPECT_EQ(packet.transaction_id, 42u);
  EXPECT_EQ(packet.extension_size, 0u);
  ASSERT_EQ(packet.payload_size, 104u);
  EXPECT_EQ(std::memcmp(packet.payload, payload.data(), 100), 0);
  EXPECT_EQ(std::memcmp(packet.payload + 100, "\0\0\0\0", 4), 0);
  EXPECT_EQ(this->Read(packet), RingStatus::kEmpty);
  EXPECT_EQ(this->control().read_index, 0u);  // not yet committed
  EXPECT_EQ(this->reader_.Commit(), Signal::kNotNeeded);
  EXPECT_EQ(this->control().read_index, 128u);
}

TYPED_TEST(RingTest, EveryPayloadSizeSurvivesEveryWrap) {
  std::vector<uint8_t> payload = Pattern(3000, 1);
  Packet packet;
  for (uint32_t i = 0; i < 3000; ++i) {
    const uint32_t size = (i * 37) % 3000;
    ASSERT_EQ(this->writer_.StageInBand(PacketHeader::InBand(i, false), payload.data() + i % 7, size - size % 7),
              RingStatus::kOk);
    (void)this->writer_.Publish();
    ASSERT_EQ(this->Read(packet), RingStatus::kOk);
    ASSERT_EQ(packet.transaction_id, i);
    ASSERT_EQ(std::memcmp(packet.payload, payload.data() + i % 7, size - size % 7), 0) << i;
    (void)this->reader_.Commit();
  }
}

TYPED_TEST(RingTest, GpaDirectCarriesPageListAndMultiPage) {
  const uint64_t one[] = {0x100};
  const uint64_t many[] = {0x200, 0x201, 0x300};
  const GpaBuffer buffers[] = {{100, 8, one}, {2 * kPage, 512, many}};
  EXPECT_EQ(buffers[1].pfn_count(), 3u);
  Packet packet;
  for (int i = 0; i < 200; ++i) {
    ASSERT_EQ(this->writer_.StageGpaDirect(i, true, buffers, 2, "0123456789", 10), RingStatus::kOk);
    (void)this->writer_.Publish();
    ASSERT_EQ(this->Read(packet), RingStatus::kOk);
    (void)this->reader_.Commit();
    EXPECT_EQ(packet.type, PacketType::kDataUsingGpaDirect);
    EXPECT_TRUE(packet.completion_requested());
    EXPECT_EQ(packet.extension_size, 8u + 16 + 32);
    EXPECT_EQ(packet.payload_size, 16u);
    EXPECT_EQ(std::memcmp(packet.payload, "0123456789\0\0\0\0\0\0", 16), 0);
    GpaBufferWalk walk(packet.extension, packet.extension_size);
    GpaBuffer buffer;
    ASSERT_TRUE(walk.Next(buffer));
    EXPECT_EQ(buffer.byte_count, 100u);
    EXPECT_EQ(buffer.byte_offset, 8u);
    EXPECT_EQ(buffer.pfns[0], 0x100u);
    ASSERT_TRUE(walk.Next(buffer));
    EXPECT_EQ(buffer.byte_count, 2 * kPage);
    ASSERT_EQ(buffer.pfn_count(), 3u);
    EXPECT_EQ(std::memcmp(buffer.pfns, many, sizeof(many)), 0);
    EXPECT_FALSE(walk.Next(buffer));
    EXPECT_TRUE(walk.valid());
  }
}

TYPED_TEST(RingTest, TransferPagesCarryRanges) {
  const hvdef::TransferPageRange ranges[] = {{1500, 0}, {60, 2048}};
  ASSERT_EQ(this->writer_.StageTransferPages(9, true, 0xCAFE, ranges, 2, "abcdefgh", 8), RingStatus::kOk);
  (void)this->writer_.Publish();
  Packet packet;
  ASSERT_EQ(this->Read(packet), RingStatus::kOk);
  EXPECT_EQ(packet.type, PacketType::kDataUsingTransferPages);
  ASSERT_EQ(packet.extension_size, 24u);
  hvdef::TransferPageHeader header;
  std::memcpy(&header, packet.extension, sizeof(header));
  EXPECT_EQ(header.transfer_page_set_id, 0xCAFE);
  EXPECT_EQ(header.range_count, 2u);
  EXPECT_EQ(std::memcmp(packet.extension + 8, ranges, sizeof(ranges)), 0);
  EXPECT_EQ(std::memcmp(packet.payload, "abcdefgh", 8), 0);
}

TYPED_TEST(RingTest, SlotAndViewWorkInPlace) {
  const auto payload = Pattern(1000, 3);
  std::vector<uint8_t> out(1000);
  for (int i = 0; i < 100; ++i) {
    typename TestFixture::Writer::Slot slot;
    ASSERT_EQ(this->writer_.Reserve(PacketHeader::InBand(i, false), 1000, slot), RingStatus::kOk);
    // Abandoned: a second reservation takes its place.
    ASSERT_EQ(this->writer_.Reserve(PacketHeader::InBand(i, true), 1000, slot), RingStatus::kOk);
    if (uint8_t* bytes = slot.payload(); bytes != nullptr) {
      std::memcpy(bytes, payload.data(), 1000);
    } else {
      slot.Write(0, payload.data(), 400);
      slot.Write(400, payload.data() + 400, 600);
    }
    this->writer_.Commit(slot);
    (void)this->writer_.Publish();
    typename TestFixture::Reader::View view;
    ASSERT_EQ(this->reader_.Peek(view), RingStatus::kOk);
    ASSERT_EQ(view.payload_size(), 1000u);
    ASSERT_EQ(view.transaction_id(), i);
    ASSERT_TRUE(view.completion_requested());
    if (const uint8_t* bytes = view.payload(); bytes != nullptr) {
      ASSERT_EQ(std::memcmp(bytes, payload.data(), 1000), 0);
    } else {
      view.CopyPayload(0, out.data(), 333);
      view.CopyPayload(333, out.data() + 333, 667);
      ASSERT_EQ(out, payload);
    }
    this->reader_.Release(view);
    ASSERT_EQ(this->reader_.Peek(view), RingStatus::kEmpty);
    (void)this->reader_.Commit();
  }
}

TYPED_TEST(RingTest, FillsToTheLastEightBytes) {
  const uint32_t size = this->policy_.memory().size();
  // 24 bytes of frame; size - 8 is all there is.
  std::vector<uint8_t> payload(size);
  EXPECT_EQ(this->writer_.StageInBand({}, payload.data(), size - 8 - 24 + 1), RingStatus::kTooBig);
  ASSERT_EQ(this->writer_.StageInBand({}, payload.data(), size - 8 - 24), RingStatus::kOk);
  EXPECT_EQ(this->writer_.StageInBand({}, payload.data(), 0), RingStatus::kFull);
  EXPECT_EQ(this->writer_.free_bytes(), 0u);
  EXPECT_EQ(this->writer_.Publish(), Signal::kNeeded);
  Packet packet;
  EXPECT_EQ(this->reader_.Read(this->buffer_, 64, packet), RingStatus::kTooBig);
  EXPECT_EQ(packet.payload_size, size - 32);
  ASSERT_EQ(this->Read(packet), RingStatus::kOk);
  (void)this->reader_.Commit();
  EXPECT_EQ(this->writer_.StageInBand({}, payload.data(), 0), RingStatus::kOk);
}

TYPED_TEST(RingTest, OnlyTheFirstPacketOfAnEmptyRingSignals) {
  ASSERT_EQ(this->writer_.StageInBand({}, "", 0), RingStatus::kOk);
  EXPECT_EQ(this->writer_.Publish(), Signal::kNeeded);
  ASSERT_EQ(this->writer_.StageInBand({}, "", 0), RingStatus::kOk);
  EXPECT_EQ(this->writer_.Publish(), Signal::kNotNeeded);
  EXPECT_EQ(this->writer_.Publish(), Signal::kNotNeeded);  // nothing staged
  Packet packet;
  ASSERT_EQ(this->Read(packet), RingStatus::kOk);
  ASSERT_EQ(this->Read(packet), RingStatus::kOk);
  const Armed armed = this->reader_.Arm();
  EXPECT_TRUE(armed.may_sleep);
  EXPECT_EQ(armed.signal, Signal::kNotNeeded);
  ASSERT_EQ(this->writer_.StageInBand({}, "", 0), RingStatus::kOk);
  EXPECT_EQ(this->writer_.Publish(), Signal::kNeeded);
}

TYPED_TEST(RingTest, MaskedReaderIsNotSignalledAndArmLooksAgain) {
  this->reader_.Mask();
  ASSERT_EQ(this->writer_.StageInBand({}, "", 0), RingStatus::kOk);
  EXPECT_EQ(this->writer_.Publish(), Signal::kNotNeeded);
  EXPECT_FALSE(this->reader_.Arm().may_sleep);
  EXPECT_EQ(this->control().interrupt_mask, 1u);
  Packet packet;
  ASSERT_EQ(this->Read(packet), RingStatus::kOk);
  EXPECT_TRUE(this->reader_.Arm().may_sleep);
  EXPECT_EQ(this->control().interrupt_mask, 0u);
}

TYPED_TEST(RingTest, WriterThatWaitsForRoomIsSignalledOnce) {
  std::vector<uint8_t> payload(1000);
  while (this->writer_.StageInBand({}, payload.data(), 1000) == RingStatus::kOk) {
  }
  (void)this->writer_.Publish();
  const uint32_t wanted = PacketSize(2500);
  EXPECT_EQ(this->writer_.WaitForRoom(wanted), RingStatus::kFull);
  EXPECT_EQ(this->control().pending_send_size, wanted);
  Packet packet;
  ASSERT_EQ(this->Read(packet), RingStatus::kOk);
  EXPECT_EQ(this->reader_.Commit(), Signal::kNotNeeded);  // not enough yet
  ASSERT_EQ(this->Read(packet), RingStatus::kOk);
  EXPECT_EQ(this->reader_.Commit(), Signal::kNeeded);
  ASSERT_EQ(this->Read(packet), RingStatus::kOk);
  EXPECT_EQ(this->reader_.Commit(), Signal::kNotNeeded);  // told before
  EXPECT_EQ(this->writer_.StageInBand({}, payload.data(), 1000), RingStatus::kOk);
  EXPECT_EQ(this->writer_.WaitForRoom(wanted), RingStatus::kOk);
  EXPECT_EQ(this->control().pending_send_size, 0u);
  EXPECT_EQ(this->writer_.WaitForRoom(0), RingStatus::kTooBig);
  EXPECT_EQ(this->writer_.WaitForRoom(this->policy_.memory().size()), RingStatus::kTooBig);
}

TYPED_TEST(RingTest, ArmSignalsForRoomToo) {
  std::vector<uint8_t> payload(1000);
  while (this->writer_.StageInBand({}, payload.data(), 1000) == RingStatus::kOk) {
  }
  (void)this->writer_.Publish();
  // Windows asks for the size less one, meaning: when all is read.
  this->control().pending_send_size = this->policy_.memory().size() - 1;
  Packet packet;
  while (this->Read(packet) == RingStatus::kOk) {
  }
  const Armed armed = this->reader_.Arm();
  EXPECT_TRUE(armed.may_sleep);
  EXPECT_EQ(armed.signal, Signal::kNeeded);
}

TYPED_TEST(RingTest, LazyPublicationWaitsOnlyForABusyPeer) {
  uint8_t payload[64] = {};
  ASSERT_EQ(this->writer_.StageInBand({}, payload, 64), RingStatus::kOk);
  EXPECT_EQ(this->writer_.PublishLazily(), Signal::kNeeded);  // a lone packet goes at once
  uint32_t published = this->control().write_index;
  EXPECT_EQ(published, 88u);
  int held = 0;
  for (; this->control().write_index == published; ++held) {
    ASSERT_EQ(this->writer_.StageInBand({}, payload, 64), RingStatus::kOk);
    EXPECT_EQ(this->writer_.PublishLazily(), Signal::kNotNeeded);
  }
  EXPECT_GT(held, 20);  // a few KiB
  EXPECT_LE(held * 88, 4096 + 88);
  published = this->control().write_index;
  ASSERT_EQ(this->writer_.StageInBand({}, payload, 64), RingStatus::kOk);
  EXPECT_EQ(this->writer_.PublishLazily(), Signal::kNotNeeded);
  EXPECT_EQ(this->control().write_index, published);
  (void)this->writer_.Publish();  // the end of the stream
  Packet packet;
  for (int i = 0; i < held + 2; ++i) ASSERT_EQ(this->Read(packet), RingStatus::kOk);
  EXPECT_EQ(this->Read(packet), RingStatus::kEmpty);
  EXPECT_EQ(this->reader_.CommitLazily(), Signal::kNotNeeded);
  EXPECT_EQ(this->control().read_index, this->control().write_index);
}

TYPED_TEST(RingTest, DiscardForgetsWhatIsStaged) {
  const uint32_t free = this->writer_.free_bytes();
  ASSERT_EQ(this->writer_.StageInBand({}, "x", 1), RingStatus::kOk);
  EXPECT_TRUE(this->writer_.has_staged());
  this->writer_.Discard();
  EXPECT_EQ(this->writer_.free_bytes(), free);
  EXPECT_EQ(this->writer_.Publish(), Signal::kNotNeeded);
  EXPECT_EQ(this->control().write_index, 0u);
}

TYPED_TEST(RingTest, NewEndsTakeOverWhereTheOldOnesStood) {
  ASSERT_EQ(this->writer_.StageInBand(PacketHeader::InBand(1, false), "a", 1), RingStatus::kOk);
  ASSERT_EQ(this->writer_.StageInBand(PacketHeader::InBand(2, false), "b", 1), RingStatus::kOk);
  (void)this->writer_.Publish();
  Packet packet;
  ASSERT_EQ(this->Read(packet), RingStatus::kOk);
  (void)this->reader_.Commit();
  typename TestFixture::Writer writer(this->policy_.memory());
  typename TestFixture::Reader reader(this->policy_.memory());
  ASSERT_EQ(writer.Attach(), RingStatus::kOk);
  ASSERT_EQ(reader.Attach(), RingStatus::kOk);
  EXPECT_TRUE(reader.PeerSignalsRoom());
  ASSERT_EQ(writer.StageInBand(PacketHeader::InBand(3, false), "c", 1), RingStatus::kOk);
  (void)writer.Publish();
  for (uint64_t id = 2; id <= 3; ++id) {
    ASSERT_EQ(reader.Read(this->buffer_, sizeof(this->buffer_), packet), RingStatus::kOk);
    EXPECT_EQ(packet.transaction_id, id);
  }
}

TYPED_TEST(RingTest, BadIndicesAreFaultsForGood) {
  const uint32_t size = this->policy_.memory().size();
  for (const uint32_t bad : {4u, 7u, size, size + 8, 0xFFFFFFF8u}) {
    this->control().write_index = bad;
    this->control().read_index = 0;
    ASSERT_EQ(this->reader_.Attach(), RingStatus::kCorrupt);
    EXPECT_EQ(this->reader_.fault(), RingFault::kBadWriteIndex);
    EXPECT_EQ(this->writer_.Attach(), RingStatus::kCorrupt);
    this->control().write_index = 0;
    Packet packet;
    EXPECT_EQ(this->Read(packet), RingStatus::kCorrupt);  // still
    EXPECT_TRUE(this->reader_.Arm().may_sleep);
    EXPECT_EQ(this->reader_.Commit(), Signal::kNotNeeded);
    EXPECT_EQ(this->writer_.StageInBand({}, "", 0), RingStatus::kCorrupt);
    EXPECT_EQ(this->writer_.WaitForRoom(32), RingStatus::kCorrupt);
    EXPECT_EQ(this->writer_.Publish(), Signal::kNotNeeded);

    ASSERT_EQ(this->reader_.Attach(), RingStatus::kOk);
    ASSERT_EQ(this->writer_.Attach(), RingStatus::kOk);
    this->control().write_index = bad;
    EXPECT_EQ(this->Read(packet), RingStatus::kCorrupt);
    this->control().write_index = 0;
    this->control().read_index = bad;
    std::vector<uint8_t> payload(size - 32);
    ASSERT_EQ(this->writer_.StageInBand({}, payload.data(), size - 32), RingStatus::kOk);
    EXPECT_EQ(this->writer_.StageInBand({}, "", 0), RingStatus::kCorrupt);
    EXPECT_EQ(this->writer_.fault(), RingFault::kBadReadIndex);
  }
}

TYPED_TEST(RingTest, BadPacketLengthsAreFaults) {
  struct Case {
    uint16_t offset8, length8;
    RingFault fault;
  };
  // 40 bytes are written: descriptor, 16 of payload, trailer.
  for (const Case& c : {Case{2, 0, RingFault::kBadPacketLength}, Case{2, 1, RingFault::kBadPacketLength},
                        Case{2, 5, RingFault::kBadPacketLength}, Case{2, 0xFFFF, RingFault::kBadPacketLength},
                        Case{0, 4, RingFault::kBadPacketOffset}, Case{1, 4, RingFault::kBadPacketOffset},
                        Case{5, 4, RingFault::kBadPacketOffset}, Case{0xFFFF, 4, RingFault::kBadPacketOffset}}) {
    this->control().write_index = this->control().read_index = 0;
    ASSERT_EQ(this->writer_.Attach(), RingStatus::kOk);
    ASSERT_EQ(this->reader_.Attach(), RingStatus::kOk);
    ASSERT_EQ(this->writer_.StageInBand({}, "0123456789abcdef", 16), RingStatus::kOk);
    (void)this->writer_.Publish();
    this->policy_.memory().At(0).Store64(0, 6 | uint64_t{c.offset8} << 16 | uint64_t{c.length8} << 32);
    Packet packet;
    EXPECT_EQ(this->Read(packet), RingStatus::kCorrupt) << c.offset8 << ' ' << c.length8;
    EXPECT_EQ(this->reader_.fault(), c.fault);
  }
  // Eight bytes hold no descriptor.
  this->control().write_index = 8;
  this->control().read_index = 0;
  ASSERT_EQ(this->reader_.Attach(), RingStatus::kOk);
  Packet packet;
  EXPECT_EQ(this->Read(packet), RingStatus::kCorrupt);
}

TEST(RingMemoryTest, RefusesOddSizes) {
  alignas(4096) static uint8_t bytes[3 * kPage];
  for (const uint32_t size : {0u, 8u, 4095u, 4097u, 0x80000000u}) {
    RingReader<FlatMemory> reader(FlatMemory(bytes, bytes + kPage, size));
    EXPECT_EQ(reader.Attach(), RingStatus::kCorrupt);
    EXPECT_EQ(reader.fault(), RingFault::kBadSize);
    RingWriter<FlatMemory> writer(FlatMemory(bytes, bytes + kPage, size));
    EXPECT_EQ(writer.Attach(), RingStatus::kCorrupt);
  }
}

TEST(RingMemoryTest, PagesThatFollowEachOtherAreOneRun) {
  static uint8_t bytes[9 * kPage];
  const auto page = [](int index) { return bytes + index * kPage; };
  const auto runs = Describe({page(0), page(1), page(2), page(4), page(5), page(6), page(3)});
  const uint32_t expected[] = {1, 2, 1, 3, 2, 1, 1};  // the control page stands alone
  for (size_t i = 0; i < runs.size(); ++i) EXPECT_EQ(runs[i].run_bytes, expected[i] * kPage) << i;
  const PagedMemory memory(runs.data(), 6);
  EXPECT_EQ(memory.At(kPage - 8).Run(0, 16), page(2) - 8);
  EXPECT_EQ(memory.At(2 * kPage - 8).Run(0, 16), nullptr);
  EXPECT_EQ(memory.At(2 * kPage - 8).Run(8, 3 * kPage), page(4));
  EXPECT_EQ(memory.At(6 * kPage - 8).Run(8, 8), page(1));  // around the end
}

// A peer that goes back on its word between two steps of ours.
struct FickleRing {
  OwnedRing ring{1};
  RingWriter<MirroredMemory> writer{ring.memory()};
  RingReader<MirroredMemory> reader{ring.memory()};
  hvdef::RingControl& control = *ring.memory().control();
  FickleRing() {
    EXPECT_EQ(writer.Attach(), RingStatus::kOk);
    EXPECT_EQ(reader.Attach(), RingStatus::kOk);
  }
};

TEST(FickleRingTest, AViewThatOutlivesTheRingsHealthReleasesNothing) {
  FickleRing f;
  for (int i = 0; i < 2; ++i) ASSERT_EQ(f.writer.StageInBand({}, "12345678", 8), RingStatus::kOk);
  (void)f.writer.Publish();
  RingReader<MirroredMemory>::View view, again;
  ASSERT_EQ(f.reader.Peek(view), RingStatus::kOk);
  f.ring.memory().At(0).Store64(0, 0);  // the packet's length
  ASSERT_EQ(f.reader.Peek(again), RingStatus::kCorrupt);
  f.reader.Release(view);
  EXPECT_EQ(f.reader.Peek(again), RingStatus::kCorrupt);
}

TEST(FickleRingTest, AnAskForRoomWithABadIndexDoesNotBreakWhatIsHeld) {
  FickleRing f;
  for (int i = 0; i < 2; ++i) ASSERT_EQ(f.writer.StageInBand({}, "12345678", 8), RingStatus::kOk);
  (void)f.writer.Publish();
  RingReader<MirroredMemory>::View view;
  ASSERT_EQ(f.reader.Peek(view), RingStatus::kOk);
  f.reader.Release(view);
  ASSERT_EQ(f.reader.Peek(view), RingStatus::kOk);
  f.control.pending_send_size = 64;
  f.control.write_index = 3;
  EXPECT_EQ(f.reader.Commit(), Signal::kNotNeeded);
  f.reader.Release(view);
  EXPECT_EQ(f.reader.Peek(view), RingStatus::kCorrupt);
  EXPECT_EQ(f.reader.fault(), RingFault::kBadWriteIndex);
}

TEST(FickleRingTest, WhatIsNotPublishedCannotHaveBeenRead) {
  FickleRing f;
  ASSERT_EQ(f.writer.StageInBand({}, "12345678", 8), RingStatus::kOk);
  f.control.read_index = PacketSize(8);
  EXPECT_EQ(f.writer.WaitForRoom(64), RingStatus::kCorrupt);
  EXPECT_EQ(f.writer.fault(), RingFault::kBadReadIndex);
  f.writer.Discard();
  EXPECT_EQ(f.writer.free_bytes(), 0u);
  EXPECT_EQ(f.writer.StageInBand({}, "12345678", 8), RingStatus::kCorrupt);
}

TEST(FickleRingTest, ASlotWhoseRoomWasTakenBackIsNotCommitted) {
  FickleRing f;
  RingWriter<MirroredMemory>::Slot slot;
  ASSERT_EQ(f.writer.Reserve({}, 1000, slot), RingStatus::kOk);
  f.control.read_index = 64;  // 56 bytes are free, says the peer
  EXPECT_EQ(f.writer.WaitForRoom(2048), RingStatus::kFull);
  f.writer.Commit(slot);
  EXPECT_FALSE(f.writer.has_staged());
  EXPECT_EQ(f.writer.free_bytes(), 56u);
}

TEST(GpaBufferWalkTest, RejectsWhatDoesNotFit) {
  const auto walk_all = [](std::vector<uint64_t> words) {
    GpaBufferWalk walk(words.data(), static_cast<uint32_t>(words.size() * 8));
    int count = 0;
    for (GpaBuffer buffer; walk.Next(buffer);) ++count;
    return walk.valid() ? count : -1 - count;
  };
  const auto header = [](uint32_t ranges) { return uint64_t{ranges} << 32; };
  const auto range = [](uint32_t count, uint32_t offset) { return uint64_t{offset} << 32 | count; };
  EXPECT_EQ(walk_all({}), -1);
  EXPECT_EQ(walk_all({header(0)}), -1);
  EXPECT_EQ(walk_all({header(1)}), -1);
  EXPECT_EQ(walk_all({header(1), range(1, 0)}), -1);
  EXPECT_EQ(walk_all({header(1), range(1, 0), 5}), 1);
  EXPECT_EQ(walk_all({header(1), range(0, 0), 5}), -1);
  EXPECT_EQ(walk_all({header(1), range(1, 4096), 5, 6}), -1);
  EXPECT_EQ(walk_all({header(1), range(2, 4095), 5}), -1);
  EXPECT_EQ(walk_all({header(1), range(2, 4095), 5, 6}), 1);
  EXPECT_EQ(walk_all({header(2), range(1, 0), 5}), -2);
  EXPECT_EQ(walk_all({header(0xFFFFFFFF), range(1, 0), 5}), -2);
  EXPECT_EQ(walk_all({header(1), range(0xFFFFFFFF, 4095), 5, 6, 7}), -1);
}

TEST(CopyBytesTest, CopiesEverySizeToEveryAlignmentAndNothingElse) {
  constexpr size_t kLongest = 600;  // several turns of every loop, with every remainder
  std::vector<uint8_t> from(kLongest + 64);
  std::iota(from.begin(), from.end(), uint8_t{1});
  for (size_t size = 0; size <= kLongest; ++size) {
    for (size_t offset = 0; offset < 64; ++offset) {
      std::vector<uint8_t> to(kLongest + 128, 0xEE), expected = to;
      const uint8_t* source = from.data() + offset * 7 % 64;
      std::memcpy(expected.data() + offset, source, size);
      internal::CopyBytes(to.data() + offset, source, size);
      ASSERT_EQ(to, expected) << size << " bytes to offset " << offset;
    }
  }
}

TEST(PacketSizeTest, CountsFrameAndPadding) {
  EXPECT_EQ(PacketSize(0), 24u);
  EXPECT_EQ(PacketSize(1), 32u);
  EXPECT_EQ(PacketSize(64), 88u);
  EXPECT_EQ(PacketSize(64, 24), 112u);
  EXPECT_EQ(PacketSize(0xFFFF * 8 - 16), 0xFFFFu * 8 + 8);
  EXPECT_EQ(PacketSize(0xFFFF * 8 - 15), 0u);
  EXPECT_EQ(PacketSize(0xFFFFFFFF, 0xFFFFFFFF), 0u);
}

}  // namespace
}  // namespace hvsdk::vmbus
