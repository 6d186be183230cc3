// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/memory/guest_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/backend/backend.h"
#include "tests/random_seed.h"

namespace hvsdk {
namespace {

constexpr uint64_t kHigh = 0x100000000;

class GuestMemoryTest : public testing::Test {
 protected:
  GuestMemoryTest() : low_(4 * kPageSize), next_(2 * kPageSize), high_(2 * kPageSize) {
    EXPECT_TRUE(memory_.AddRange(kHigh, absl::MakeSpan(high_)).ok());
    EXPECT_TRUE(memory_.AddRange(0, absl::MakeSpan(low_)).ok());
    EXPECT_TRUE(memory_.AddRange(4 * kPageSize, absl::MakeSpan(next_)).ok());
  }
  std::vector<uint8_t> low_, next_, high_;
  GuestMemory memory_;
};

TEST_F(GuestMemoryTest, RejectsOverlapAndPartialPages) {
  std::vector<uint8_t> page(kPageSize);
  EXPECT_FALSE(memory_.AddRange(3 * kPageSize, absl::MakeSpan(page)).ok());
  EXPECT_FALSE(memory_.AddRange(kHigh - 1, absl::MakeSpan(page)).ok());
  EXPECT_FALSE(memory_.AddRange(kHigh * 2, absl::MakeSpan(page).first(100)).ok());
  EXPECT_FALSE(memory_.AddRange(~kPageSize + 1, absl::MakeSpan(page)).ok());
  EXPECT_TRUE(memory_.AddRange(kHigh - kPageSize, absl::MakeSpan(page)).ok());
}

// What a range costs beside its bytes is paid for where it is used.
TEST_F(GuestMemoryTest, TakesLittleForPagesNobodyTouches) {
  constexpr uint64_t kSize = uint64_t{1} << 38;
  void* const reserved =
      mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(reserved, MAP_FAILED);
  const auto resident_bytes = [] {
    uint64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages >> pages;  // the second
    return pages * kPageSize;
  };
  const uint64_t before = resident_bytes();
  ASSERT_TRUE(memory_.AddRange(2 * kHigh, absl::MakeSpan(static_cast<uint8_t*>(reserved), kSize)).ok());
  ASSERT_TRUE(memory_.Fill(2 * kHigh + kSize - 1, 7, 1));
  EXPECT_LT(resident_bytes() - before, 16u << 20);
  munmap(reserved, kSize);
}

TEST_F(GuestMemoryTest, AccessesCrossRangesThatTouchAndNotGaps) {
  const uint64_t value = 0x1122334455667788;
  ASSERT_TRUE(memory_.WriteObject(4 * kPageSize - 4, value));
  uint64_t back = 0;
  ASSERT_TRUE(memory_.ReadObject(4 * kPageSize - 4, back));
  EXPECT_EQ(back, value);
  EXPECT_EQ(low_.back(), 0x55);
  EXPECT_EQ(next_.front(), 0x44);
  EXPECT_EQ(memory_.Pointer(4 * kPageSize - 4, 8), nullptr);
  EXPECT_FALSE(memory_.WriteObject(6 * kPageSize - 4, value)) << "half of it lies in the gap";
  EXPECT_EQ(next_.back(), 0) << "a write that fails has no effect";
  EXPECT_FALSE(memory_.ReadObject(~uint64_t{0} - 3, back)) << "wraps around";
}

TEST_F(GuestMemoryTest, AgreesWithAFlatModelOnRandomAccesses) {
  const uint32_t seed = TestSeed();
  std::mt19937_64 random(seed);
  std::vector<uint8_t> model(8 * kPageSize);  // two pages behind the memory that must never be touched
  for (int step = 0; step < 20000; ++step) {
    const uint64_t gpa = random() % model.size();
    std::vector<uint8_t> bytes(random() % 9000);
    const bool fits = gpa + bytes.size() <= 6 * kPageSize;
    if (random() % 2 == 0) {
      for (auto& byte : bytes) byte = random();
      ASSERT_EQ(memory_.Write(gpa, bytes.data(), bytes.size()), fits || bytes.empty());
      if (fits) std::copy(bytes.begin(), bytes.end(), model.begin() + gpa);
    } else if (memory_.Read(gpa, bytes.data(), bytes.size())) {
      ASSERT_TRUE(fits || bytes.empty());
      ASSERT_TRUE(std::equal(bytes.begin(), bytes.end(), model.begin() + gpa));
    }
  }
}

TEST_F(GuestMemoryTest, TracksDirtyPages) {
  memory_.EnableDirtyTracking(true);
  ASSERT_TRUE(memory_.Fill(kPageSize - 1, 7, 2));
  ASSERT_TRUE(memory_.Fill(kHigh, 7, 1));
  uint64_t bits = 0;
  memory_.TakeDirty(0, 6, absl::MakeSpan(&bits, 1));
  EXPECT_EQ(bits, 0b11u);
  bits = 0;
  memory_.TakeDirty(0, 6, absl::MakeSpan(&bits, 1));
  EXPECT_EQ(bits, 0u);
  memory_.TakeDirty(kHigh, 2, absl::MakeSpan(&bits, 1));
  EXPECT_EQ(bits, 1u);
}

TEST_F(GuestMemoryTest, SharedPagesAreDirtyAtEachTake) {
  const auto take = [&] {
    uint64_t bits = 0;
    memory_.TakeDirty(0, 4, absl::MakeSpan(&bits, 1));
    return bits;
  };
  {
    SharedPages shared(memory_, {kPageSize, 3 * kPageSize, uint64_t{1} << 62});
    EXPECT_EQ(take(), 0u) << "nobody asked for it yet";
    memory_.EnableDirtyTracking(true);
    EXPECT_EQ(take(), 0b1010u);
    SharedPages moved(std::move(shared));
    const SharedPages other(memory_, {kPageSize});
    EXPECT_EQ(take(), 0b1010u);
    moved = SharedPages();
    EXPECT_EQ(take(), 0b1010u) << "written until it ended";
    EXPECT_EQ(take(), 0b0010u);
  }
  EXPECT_EQ(take(), 0b0010u);
  EXPECT_EQ(take(), 0u);
  {
    const SharedPages shared(memory_, {0});
    memory_.EnableDirtyTracking(false);
    EXPECT_EQ(take(), 0u);
  }
  EXPECT_EQ(take(), 0u);
}

// Memory that comes while others use what there is, and goes when nobody does.
TEST_F(GuestMemoryTest, ARangeAboveAllOthersComesAndGoes) {
  constexpr uint64_t kTop = kHigh + (64 << 20);
  const uint64_t size_before = memory_.size_bytes();
  std::vector<uint8_t> bytes(16 * kPageSize);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> seen{0};
  std::thread reader([&] {
    uint64_t word;
    while (!stop) {
      EXPECT_TRUE(memory_.ReadObject(kHigh, word));
      for (uint64_t page = 0; page < 16; ++page) {
        if (memory_.ReadObject(kTop + page * kPageSize, word)) seen = std::max<uint64_t>(seen, page + 1);
      }
    }
  });
  for (uint64_t page = 0; page < 16; ++page) {
    ASSERT_TRUE(memory_.AddRange(kTop + page * kPageSize, absl::MakeSpan(&bytes[page * kPageSize], kPageSize)).ok());
    while (seen != page + 1) std::this_thread::yield();
  }
  stop = true;
  reader.join();
  EXPECT_TRUE(memory_.Fill(kTop, 7, 16 * kPageSize));
  EXPECT_EQ(memory_.size_bytes(), size_before + 16 * kPageSize);
  memory_.RemoveLastRange();
  EXPECT_FALSE(memory_.Fill(kTop, 7, 16 * kPageSize));
  EXPECT_TRUE(memory_.Fill(kTop, 7, 15 * kPageSize));
  // A log that is kept has all of it: a copy of what was there before may be another.
  memory_.EnableDirtyTracking(true);
  ASSERT_TRUE(memory_.AddRange(kTop + 15 * kPageSize, absl::MakeSpan(&bytes[15 * kPageSize], kPageSize)).ok());
  uint64_t dirty = 0;
  memory_.TakeDirty(kTop, 16, absl::MakeSpan(&dirty, 1));
  EXPECT_EQ(dirty, uint64_t{1} << 15);
  ASSERT_TRUE(memory_.Fill(kTop + 15 * kPageSize, 1, 1));
  dirty = 0;
  memory_.TakeDirty(kTop, 16, absl::MakeSpan(&dirty, 1));
  EXPECT_EQ(dirty, uint64_t{1} << 15);
  memory_.EnableDirtyTracking(false);
}

TEST_F(GuestMemoryTest, DiscardsWhatNobodyReliesOn) {
  using PageRange = GuestMemory::PageRange;
  constexpr uint64_t kAll = ~uint64_t{0};
  const auto fill = [&] { ASSERT_TRUE(memory_.Fill(0, 7, 6 * kPageSize) && memory_.Fill(kHigh, 7, 2 * kPageSize)); };
  const auto zeros = [&] {
    std::vector<uint64_t> pages;
    for (const GuestMemory::Range& range : memory_.ranges()) {
      for (uint64_t at = 0; at < range.size_bytes; at += kPageSize) {
        if (range.host[at] == 0 && range.host[at + kPageSize - 1] == 0) pages.push_back((range.gpa + at) >> kPageShift);
      }
    }
    return pages;
  };
  fill();
  EXPECT_FALSE(memory_.can_discard());
  EXPECT_EQ(memory_.Discard({{0, kAll}}), 0u);
  EXPECT_EQ(zeros(), std::vector<uint64_t>{});
  uint64_t refused_from = kAll;
  memory_.SetDiscarder([&](uint8_t* host, uint64_t size_bytes) -> uint64_t {
    if (size_bytes > refused_from) return 0;
    std::memset(host, 0, size_bytes);
    return size_bytes;
  });
  constexpr uint64_t kHighPage = kHigh >> kPageShift;
  // Across ranges that touch, and beyond what there is.
  EXPECT_EQ(memory_.Discard({{3, 2}, {5, 1000}, {kHighPage - 1, 2}, {kAll, kAll}, {kAll >> 12, 5}, {0, 0}}), 4u);
  EXPECT_EQ(zeros(), (std::vector<uint64_t>{3, 4, 5, kHighPage}));
  fill();
  {
    PinnedPages pinned(memory_, {0, 2 * kPageSize, 5 * kPageSize, uint64_t{1} << 62});
    const PinnedPages again(memory_, {2 * kPageSize, kHigh + kPageSize});
    PinnedPages moved(std::move(pinned));
    EXPECT_EQ(memory_.Discard({{0, kAll}}), 4u);
    EXPECT_EQ(zeros(), (std::vector<uint64_t>{1, 3, 4, kHighPage}));
    moved = PinnedPages();
    EXPECT_EQ(memory_.Discard({{0, 4}}), 3u);
    EXPECT_EQ(zeros(), (std::vector<uint64_t>{0, 1, 3, 4, kHighPage}));
  }
  EXPECT_EQ(memory_.Discard({{2, 1}}), 1u);
  {
    // Each piece between two pinned pages is a call of the system: not as many of them as a guest likes.
    std::vector<uint8_t> bytes(2000 * kPageSize, 7);
    GuestMemory memory;
    ASSERT_TRUE(memory.AddRange(0, absl::MakeSpan(bytes)).ok());
    uint64_t calls = 0;
    memory.SetDiscarder([&](uint8_t*, uint64_t size_bytes) { return ++calls, size_bytes; });
    std::vector<uint64_t> every_second;
    for (uint64_t page = 0; page < 2000; page += 2) every_second.push_back(page * kPageSize);
    const PinnedPages pinned(memory, every_second);
    memory.Discard({{0, kAll}});
    EXPECT_LT(calls, 300u);
    // What is asked for one by one is given back one by one.
    std::vector<PageRange> ones;
    for (uint64_t page = 1; page < 2000; page += 2) ones.push_back({page, 1});
    EXPECT_EQ(memory.Discard(ones), 1000u);
  }
  // They count as written, and who keeps something of them is told.
  struct : HostWriteObserver {
    void OnHostWrite(uint64_t gpa, uint64_t) override { pages.push_back(gpa >> kPageShift); }
    std::vector<uint64_t> pages;
  } observer;
  memory_.SetHostWriteObserver(&observer);
  memory_.SetWatched(kPageSize, true);
  memory_.EnableDirtyTracking(true);
  EXPECT_EQ(memory_.Discard({{1, 2}}), 2u);
  uint64_t bits = 0;
  memory_.TakeDirty(0, 6, absl::MakeSpan(&bits, 1));
  EXPECT_EQ(bits, 0b110u);
  EXPECT_EQ(observer.pages, std::vector<uint64_t>{1});
  refused_from = kPageSize;
  EXPECT_EQ(memory_.Discard(std::vector<PageRange>{{0, 2}, {3, 1}}), 1u);
}

TEST_F(GuestMemoryTest, TellsTheObserverOfWatchedPagesOnly) {
  struct : HostWriteObserver {
    void OnHostWrite(uint64_t gpa, uint64_t) override { pages.push_back(gpa); }
    std::vector<uint64_t> pages;
  } observer;
  memory_.SetHostWriteObserver(&observer);
  memory_.SetWatched(kPageSize, true);
  ASSERT_TRUE(memory_.Fill(0, 1, 3 * kPageSize));
  EXPECT_EQ(observer.pages, std::vector<uint64_t>{kPageSize});
  memory_.SetWatched(kPageSize, false);
  ASSERT_TRUE(memory_.Fill(0, 1, 3 * kPageSize));
  EXPECT_EQ(observer.pages.size(), 1u);
}

}  // namespace
}  // namespace hvsdk
