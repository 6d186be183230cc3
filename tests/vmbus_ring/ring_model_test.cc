// SPDX-License-Identifier: Apache-2.0
// A million random steps of both ends against a model: two queues of packets and the numbers of the control page. Every
// status, every signal and every byte must be what the model says.

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/vmbus/ring/owned_ring.h"
#include "hvsdk/vmbus/ring/reader.h"
#include "hvsdk/vmbus/ring/writer.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::vmbus {
namespace {

using ::hvsdk::hvdef::PacketType;

constexpr uint32_t kDataPages = 3;
constexpr uint32_t kSize = kDataPages * hvdef::kRingPageSize;
constexpr int kSteps = 1'000'000;

struct ModelPacket {
  PacketType type;
  uint16_t flags;
  uint64_t transaction_id;
  std::vector<uint8_t> extension;
  std::vector<uint8_t> payload;  // padded

  uint32_t total() const { return static_cast<uint32_t>(24 + extension.size() + payload.size()); }
};

template <typename Memory>
class Model {
 public:
  Model(Memory memory, uint64_t seed)
      : random_(seed), memory_(memory), writer_(memory), reader_(memory), source_(kSize + 64) {
    for (uint8_t& byte : source_) byte = static_cast<uint8_t>(random_());
    EXPECT_EQ(writer_.Attach(), RingStatus::kOk);
    EXPECT_EQ(reader_.Attach(), RingStatus::kOk);
  }

  void Step() {
    switch (random_() % 16) {
      case 0:
      case 1:
      case 2:
        return StageInBand();
      case 3:
        return StageInPlace();
      case 4:
        return StageGpaDirect();
      case 5:
        return StageTransferPages();
      case 6:
      case 7:
        return Publish(/*lazily=*/false);
      case 8:
        return Publish(/*lazily=*/true);
      case 9:
        return random_() % 8 == 0 ? Discard() : WaitForRoom();
      case 10:
      case 11:
        return Read();
      case 12:
        return PeekAndRelease();
      case 13:
        return Commit(random_() % 2 == 0);
      case 14:
        return random_() % 4 == 0 ? Mask() : Arm();
      case 15:
        return random_() % 64 == 0 ? Reattach() : Read();
    }
  }

  int packets_read() const { return packets_read_; }

 private:
  // Mostly short, sometimes longer than the ring.
  uint32_t RandomSize() {
    switch (random_() % 8) {
      case 0:
        return random_() % (kSize + 64);
      case 1:
        return random_() % 4096;
      default:
        return random_() % 200;
    }
  }
  const uint8_t* RandomBytes(uint32_t size) { return &source_[random_() % (source_.size() - size + 1)]; }
  static std::vector<uint8_t> Padded(const uint8_t* bytes, uint32_t size) {
    std::vector<uint8_t> padded(bytes, bytes + size);
    padded.resize((size + 7) / 8 * 8);
    return padded;
  }

  static bool Same(const uint8_t* bytes, const std::vector<uint8_t>& expected) {
    return std::equal(expected.begin(), expected.end(), bytes);
  }

  uint32_t StagedBytes() const { return Bytes(staged_); }
  static uint32_t Bytes(const std::deque<ModelPacket>& packets) {
    uint32_t bytes = 0;
    for (const ModelPacket& packet : packets) bytes += packet.total();
    return bytes;
  }
  // Released packets take room until their release is committed.
  uint32_t Free() const { return kSize - 8 - Bytes(staged_) - Bytes(published_) - released_; }

  void Staged(RingStatus status, ModelPacket packet) {
    const uint32_t total = packet.total();
    if (total > kSize - 8) {
      ASSERT_EQ(status, RingStatus::kTooBig);
      return;
    }
    if (total > Free()) {
      ASSERT_EQ(status, RingStatus::kFull);
      return;
    }
    ASSERT_EQ(status, RingStatus::kOk);
    staged_.push_back(std::move(packet));
  }
  void StageInBand() {
    const uint32_t size = RandomSize();
    const uint8_t* bytes = RandomBytes(size);
    const uint64_t id = random_();
    const PacketHeader header =
        random_() % 4 == 0 ? PacketHeader::Completion(id) : PacketHeader::InBand(id, id % 2 == 0);
    Staged(writer_.StageInBand(header, bytes, size), {header.type, header.flags, id, {}, Padded(bytes, size)});
  }
  void StageInPlace() {
    const uint32_t size = RandomSize();
    const uint8_t* bytes = RandomBytes(size);
    const uint64_t id = random_();
    PacketSlot<Memory> slot;
    const RingStatus status = writer_.Reserve(PacketHeader::InBand(id, true), size, slot);
    if (status == RingStatus::kOk) {
      ASSERT_EQ(slot.payload_size(), size);
      if (random_() % 8 == 0) return;  // abandoned
      uint8_t* in_place = slot.payload();
      if (in_place != nullptr && random_() % 2 == 0) {
        std::copy(bytes, bytes + size, in_place);
      } else {
        const uint32_t middle = size == 0 ? 0 : random_() % size;
        slot.Write(middle, bytes + middle, size - middle);
        slot.Write(0, bytes, middle);
      }
      writer_.Commit(slot);
    }
    Staged(status, {PacketType::kDataInBand, 1, id, {}, Padded(bytes, size)});
  }
  void StageGpaDirect() {
    const uint64_t id = random_();
    std::vector<std::vector<uint64_t>> pfns(1 + random_() % 8);
    std::vector<GpaBuffer> buffers;
    std::vector<uint64_t> words = {uint64_t{pfns.size()} << 32};
    for (std::vector<uint64_t>& list : pfns) {
      GpaBuffer buffer{static_cast<uint32_t>(1 + random_() % 20000), static_cast<uint32_t>(random_() % 4096), nullptr};
      for (uint32_t i = 0; i < buffer.pfn_count(); ++i) list.push_back(random_());
      buffer.pfns = list.data();
      buffers.push_back(buffer);
      words.push_back(uint64_t{buffer.byte_offset} << 32 | buffer.byte_count);
      words.insert(words.end(), list.begin(), list.end());
    }
    const uint32_t size = RandomSize();
    const uint8_t* bytes = RandomBytes(size);
    std::vector<uint8_t> extension(words.size() * 8);
    std::memcpy(extension.data(), words.data(), extension.size());
    Staged(writer_.StageGpaDirect(id, true, buffers.data(), static_cast<uint32_t>(buffers.size()), bytes, size),
           {PacketType::kDataUsingGpaDirect, 1, id, std::move(extension), Padded(bytes, size)});
  }
  void StageTransferPages() {
    const uint64_t id = random_();
    const auto set = static_cast<uint16_t>(random_());
    std::vector<hvdef::TransferPageRange> ranges(random_() % 5);
    for (auto& range : ranges) range = {static_cast<uint32_t>(random_()), static_cast<uint32_t>(random_())};
    const uint32_t size = RandomSize();
    const uint8_t* bytes = RandomBytes(size);
    const hvdef::TransferPageHeader header = {set, 0, 0, static_cast<uint32_t>(ranges.size())};
    std::vector<uint8_t> extension(8 + ranges.size() * 8);
    std::memcpy(extension.data(), &header, 8);
    if (!ranges.empty()) std::memcpy(extension.data() + 8, ranges.data(), ranges.size() * 8);
    Staged(writer_.StageTransferPages(id, false, set, ranges.data(), static_cast<uint32_t>(ranges.size()), bytes, size),
           {PacketType::kDataUsingTransferPages, 0, id, std::move(extension), Padded(bytes, size)});
  }

  void Publish(bool lazily) {
    const bool all_read = published_.empty() && released_ == 0;
    const bool holds_back = lazily && !all_read && StagedBytes() < kSize / 4;
    const Signal expected = static_cast<Signal>(!staged_.empty() && !holds_back && !masked_ && all_read);
    ASSERT_EQ(lazily ? writer_.PublishLazily() : writer_.Publish(), expected);
    if (holds_back || staged_.empty()) return;
    for (ModelPacket& packet : staged_) published_.push_back(std::move(packet));
    staged_.clear();
    pending_ = 0;
  }
  void Discard() {
    writer_.Discard();
    staged_.clear();
  }
  void WaitForRoom() {
    Publish(false);
    const uint32_t wanted = PacketSize(RandomSize());
    const RingStatus status = writer_.WaitForRoom(wanted);
    if (wanted > kSize - 8) {
      ASSERT_EQ(status, RingStatus::kTooBig);
      return;
    }
    ASSERT_EQ(status, wanted <= Free() ? RingStatus::kOk : RingStatus::kFull);
    pending_ = wanted <= Free() ? 0 : wanted;
    ASSERT_EQ(memory_.control()->pending_send_size, pending_);
  }

  void Read() {
    const uint32_t capacity = random_() % 8 == 0 ? random_() % 256 : sizeof(buffer_);
    Packet packet;
    const RingStatus status = reader_.Read(buffer_, capacity, packet);
    if (published_.empty()) {
      ASSERT_EQ(status, RingStatus::kEmpty);
      return;
    }
    const ModelPacket& expected = published_.front();
    ASSERT_EQ(packet.type, expected.type);
    ASSERT_EQ(packet.flags, expected.flags);
    ASSERT_EQ(packet.transaction_id, expected.transaction_id);
    ASSERT_EQ(packet.extension_size, expected.extension.size());
    ASSERT_EQ(packet.payload_size, expected.payload.size());
    if (expected.extension.size() + expected.payload.size() > capacity) {
      ASSERT_EQ(status, RingStatus::kTooBig);
      return;
    }
    ASSERT_EQ(status, RingStatus::kOk);
    ASSERT_TRUE(Same(packet.extension, expected.extension));
    ASSERT_TRUE(Same(packet.payload, expected.payload));
    released_ += expected.total();
    published_.pop_front();
    ++packets_read_;
  }
  void PeekAndRelease() {
    PacketView<Memory> view;
    const RingStatus status = reader_.Peek(view);
    if (published_.empty()) {
      ASSERT_EQ(status, RingStatus::kEmpty);
      return;
    }
    ASSERT_EQ(status, RingStatus::kOk);
    const ModelPacket& expected = published_.front();
    ASSERT_EQ(view.type(), expected.type);
    ASSERT_EQ(view.flags(), expected.flags);
    ASSERT_EQ(view.transaction_id(), expected.transaction_id);
    ASSERT_EQ(view.extension_size(), expected.extension.size());
    ASSERT_EQ(view.payload_size(), expected.payload.size());
    view.CopyExtension(0, buffer_, view.extension_size());
    ASSERT_TRUE(Same(buffer_, expected.extension));
    const uint8_t* bytes = view.payload();
    if (bytes == nullptr) {
      view.CopyPayload(0, buffer_, view.payload_size());
      bytes = buffer_;
    }
    ASSERT_TRUE(Same(bytes, expected.payload));
    if (random_() % 4 == 0) return;  // only looked
    reader_.Release(view);
    released_ += expected.total();
    published_.pop_front();
    ++packets_read_;
  }
  Signal SignalForRoom() {
    // What the writer has published, for the peer sees no more.
    const uint32_t before = Free() + StagedBytes();
    const uint32_t after = before + released_;
    return static_cast<Signal>(pending_ != 0 && before < pending_ && after >= pending_);
  }
  void Commit(bool lazily) {
    if (lazily) {
      // What the reader knows to be there depends on when it last looked; only the outcome is checked.
      const uint32_t read_index = memory_.control()->read_index;
      const Signal signal = reader_.CommitLazily();
      if (memory_.control()->read_index == read_index) {
        ASSERT_EQ(signal, Signal::kNotNeeded);
        ASSERT_LT(released_, kSize / 4);
        return;
      }
      ASSERT_EQ(signal, SignalForRoom());
    } else {
      const Signal expected = SignalForRoom();
      ASSERT_EQ(reader_.Commit(), expected);
    }
    released_ = 0;
  }
  void Mask() {
    reader_.Mask();
    masked_ = true;
  }
  void Arm() {
    const Signal expected = SignalForRoom();
    const Armed armed = reader_.Arm();
    ASSERT_EQ(armed.signal, expected);
    ASSERT_EQ(armed.may_sleep, published_.empty());
    released_ = 0;
    masked_ = !armed.may_sleep;
    ASSERT_EQ(memory_.control()->interrupt_mask != 0, masked_);
  }
  // New ends over the same memory, as after restoring a saved machine.
  void Reattach() {
    (void)writer_.Publish();
    for (ModelPacket& packet : staged_) published_.push_back(std::move(packet));
    staged_.clear();
    (void)reader_.Commit();
    released_ = 0;
    writer_ = RingWriter<Memory>(memory_);
    reader_ = RingReader<Memory>(memory_);
    ASSERT_EQ(writer_.Attach(), RingStatus::kOk);
    ASSERT_EQ(reader_.Attach(), RingStatus::kOk);
    pending_ = 0;
  }

  std::mt19937_64 random_;
  Memory memory_;
  RingWriter<Memory> writer_;
  RingReader<Memory> reader_;
  std::vector<uint8_t> source_;
  alignas(8) uint8_t buffer_[kSize];

  std::deque<ModelPacket> staged_, published_;
  uint32_t released_ = 0;  // bytes read and not yet given back
  uint32_t pending_ = 0;
  bool masked_ = false;
  int packets_read_ = 0;
};

template <typename Memory>
void RunModel(Memory memory) {
  const auto model = std::make_unique<Model<Memory>>(memory, TestSeed());
  const int steps = ScaledCount(kSteps);
  for (int i = 0; i < steps; ++i) {
    model->Step();
    if (::testing::Test::HasFatalFailure()) {
      ADD_FAILURE() << "at step " << i;
      return;
    }
  }
  // The steps did not spend their time on a ring that is stuck.
  EXPECT_GT(model->packets_read(), steps / 10);
}

TEST(RingModelTest, Mirrored) {
  OwnedRing ring(kDataPages);
  ASSERT_TRUE(ring.is_valid());
  RunModel(ring.memory());
}

TEST(RingModelTest, Flat) {
  OwnedRing ring(kDataPages);
  ASSERT_TRUE(ring.is_valid());
  RunModel(FlatMemory(ring.base(), ring.base() + hvdef::kRingPageSize, kSize));
}

TEST(RingModelTest, Paged) {
  OwnedRing ring(kDataPages);
  ASSERT_TRUE(ring.is_valid());
  uint8_t* const pages[] = {ring.base(), ring.base() + 2 * hvdef::kRingPageSize, ring.base() + 3 * hvdef::kRingPageSize,
                            ring.base() + hvdef::kRingPageSize};
  RingPage described[std::size(pages)];
  DescribeRingPages(pages, std::size(pages), described);
  RunModel(PagedMemory(described, kDataPages));
}

}  // namespace
}  // namespace hvsdk::vmbus
