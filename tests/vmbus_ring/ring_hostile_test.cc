// SPDX-License-Identifier: Apache-2.0
// A hostile peer: one thread uses its end of the ring, another one writes indices, sizes, lengths and data of all kinds
// into the shared pages meanwhile. Under the sanitizers this shows that nothing leaves the ring, aborts or hangs, and
// that a ring once found corrupt stays so.

#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/vmbus/ring/owned_ring.h"
#include "hvsdk/vmbus/ring/reader.h"
#include "hvsdk/vmbus/ring/writer.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::vmbus {
namespace {

constexpr uint32_t kDataPages = 3;
constexpr uint32_t kSize = kDataPages * hvdef::kRingPageSize;
constexpr int kSteps = 400'000;

// Pages of their own, each with a forbidden neighbour under AddressSanitizer.
class HeapPages {
 public:
  HeapPages() {
    for (uint32_t i = 0; i <= kDataPages; ++i) {
      owned_.emplace_back(new (std::align_val_t(4096)) uint8_t[hvdef::kRingPageSize]());
      pages_.push_back({owned_.back().get(), hvdef::kRingPageSize});
    }
  }
  PagedMemory memory() const { return {pages_.data(), kDataPages}; }

 private:
  struct Delete {
    void operator()(uint8_t* bytes) const { operator delete[](bytes, std::align_val_t(4096)); }
  };
  std::vector<std::unique_ptr<uint8_t[], Delete>> owned_;
  std::vector<RingPage> pages_;
};

// At least kSteps steps, and more until the run has seen what it is there for; a busy machine may let one thread run
// alone for long.
class Budget {
 public:
  template <typename Seen>
  bool Spent(Seen seen) {
    if (++steps_ < wanted_) return false;
    return seen() || std::chrono::steady_clock::now() > deadline_;
  }

 private:
  int64_t steps_ = 0;
  int64_t wanted_ = ScaledCount(kSteps);
  std::chrono::steady_clock::time_point deadline_ = std::chrono::steady_clock::now() + std::chrono::seconds(20);
};

// Half of what it writes is plausible, so that checks are passed and state goes far astray before it is caught.
class Vandal {
 public:
  template <typename Memory>
  Vandal(Memory memory, uint64_t seed) {
    thread_ = std::thread([this, memory, seed] {
      std::mt19937_64 random(seed);
      hvdef::RingControl& control = *memory.control();
      const auto index = [&] {
        const uint64_t value = random();
        return static_cast<uint32_t>(value % 4 == 0 ? value >> 32 : (value >> 32) % kSize & ~7u);
      };
      while (!stop_.load(std::memory_order_relaxed)) {
        switch (random() % 8) {
          case 0:
            Store(control.write_index, index());
            break;
          case 1:
            Store(control.read_index, index());
            break;
          case 2:
            Store(control.interrupt_mask, random() % 3);
            break;
          case 3:
            Store(control.pending_send_size, index());
            break;
          case 4:
            Store(control.feature_bits, static_cast<uint32_t>(random()));
            break;
          default: {
            const uint64_t length = random() % 2 == 0 ? random() % 64 : random() & 0xFFFF;
            const uint64_t offset = random() % 2 == 0 ? 2 : random() % 16;
            memory.At(static_cast<uint32_t>(random() % kSize) & ~7u)
                .Store64(0, random() % 14 | offset << 16 | length << 32);
          }
        }
      }
    });
  }
  ~Vandal() {
    stop_.store(true);
    thread_.join();
  }

 private:
  static void Store(uint32_t& word, uint32_t value) {
    std::atomic_ref<uint32_t>(word).store(value, std::memory_order_relaxed);
  }
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

template <typename Memory>
void ReadFromVandal(Memory memory) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 random(seed + 1);
  Vandal vandal(memory, seed);
  RingReader<Memory> reader(memory);
  (void)reader.Attach();
  const auto buffer = std::make_unique<uint64_t[]>(kSize / 8);
  uint64_t packets = 0, corrupt = 0;
  for (Budget budget; !budget.Spent([&] { return packets != 0 && corrupt != 0; });) {
    Packet packet;
    RingStatus status;
    if (random() % 2 == 0) {
      status = reader.Read(buffer.get(), kSize, packet);
      if (status == RingStatus::kOk) {
        ASSERT_LE(packet.extension_size + packet.payload_size, kSize);
        GpaBufferWalk walk(packet.extension, packet.extension_size);
        for (GpaBuffer gpa; walk.Next(gpa);) ASSERT_LE(gpa.pfn_count(), kSize / 8);
      }
    } else {
      PacketView<Memory> view;
      status = reader.Peek(view);
      if (status == RingStatus::kOk) {
        ASSERT_LE(view.extension_size() + view.payload_size(), kSize);
        view.CopyExtension(0, buffer.get(), view.extension_size());
        view.CopyPayload(0, buffer.get(), view.payload_size());
        // A view may be held while others are given back, and looked for again.
        if (random() % 4 == 0) (void)reader.Commit();
        if (random() % 16 == 0) (void)reader.Arm();
        if (random() % 16 == 0) {
          PacketView<Memory> again;
          (void)reader.Peek(again);
        }
        reader.Release(view);
      }
    }
    ASSERT_NE(status, RingStatus::kTooBig);
    packets += status == RingStatus::kOk;
    if (random() % 4 == 0) (void)reader.Commit();
    if (random() % 16 == 0) (void)reader.Arm();
    if (status == RingStatus::kCorrupt) {
      ++corrupt;
      ASSERT_NE(reader.fault(), RingFault::kNone);
      ASSERT_EQ(reader.Read(buffer.get(), kSize, packet), RingStatus::kCorrupt);
      ASSERT_TRUE(reader.Arm().may_sleep);
      (void)reader.Attach();
    }
  }
  EXPECT_GT(packets, 0u);
  EXPECT_GT(corrupt, 0u);
}

template <typename Memory>
void WriteToVandal(Memory memory) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 random(seed + 1);
  Vandal vandal(memory, seed);
  RingWriter<Memory> writer(memory);
  (void)writer.Attach();
  const std::vector<uint8_t> payload(kSize);
  const std::vector<uint64_t> pfns(16, 0x1234);
  uint64_t packets = 0, corrupt = 0;
  for (Budget budget; !budget.Spent([&] { return packets != 0 && corrupt != 0; });) {
    const auto size = static_cast<uint32_t>(random() % 4 == 0 ? random() % kSize : random() % 256);
    RingStatus status;
    const uint64_t kind = random() % 3;
    if (kind == 0) {
      status = writer.StageInBand(PacketHeader::InBand(random(), true), payload.data(), size);
    } else if (kind == 1) {
      PacketSlot<Memory> slot;
      status = writer.Reserve(PacketHeader::InBand(random(), true), size, slot);
      if (status == RingStatus::kOk) {
        if (random() % 4 == 0) (void)writer.WaitForRoom(8 + (random() % kSize & ~7u));
        slot.Write(0, payload.data(), size);
        writer.Commit(slot);
      }
    } else {
      const GpaBuffer buffer = {16 * 4096, 0, pfns.data()};
      status = writer.StageGpaDirect(random(), true, &buffer, 1, payload.data(), size);
    }
    packets += status == RingStatus::kOk;
    ASSERT_LE(writer.free_bytes(), kSize - 8);
    switch (random() % 5) {
      case 0:
        (void)writer.Publish();
        break;
      case 1:
        (void)writer.PublishLazily();
        break;
      case 2:
        (void)writer.WaitForRoom(PacketSize(size));
        break;
      case 3:
        writer.Discard();
        break;
    }
    ASSERT_LE(writer.free_bytes(), kSize - 8);
    if (writer.fault() != RingFault::kNone) {
      ++corrupt;
      ASSERT_EQ(writer.StageInBand({}, payload.data(), 8), RingStatus::kCorrupt);
      ASSERT_EQ(writer.WaitForRoom(64), RingStatus::kCorrupt);
      (void)writer.Attach();
    }
  }
  EXPECT_GT(packets, 0u);
  EXPECT_GT(corrupt, 0u);
}

TEST(RingHostileTest, ReaderOnPages) {
  HeapPages pages;
  ReadFromVandal(pages.memory());
}
TEST(RingHostileTest, WriterOnPages) {
  HeapPages pages;
  WriteToVandal(pages.memory());
}
TEST(RingHostileTest, ReaderOnMirror) {
  OwnedRing ring(kDataPages);
  ReadFromVandal(ring.memory());
}
TEST(RingHostileTest, WriterOnMirror) {
  OwnedRing ring(kDataPages);
  WriteToVandal(ring.memory());
}

}  // namespace
}  // namespace hvsdk::vmbus
