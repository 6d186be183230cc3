// SPDX-License-Identifier: Apache-2.0
// A page that the host loses: who is told, and that nobody else's SIGBUS is taken.
#include "hvsdk/os/lost_memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/base/lost_memory.h"

namespace hvsdk::os {
namespace {

class Notes final : public LostMemoryObserver {
 public:
  void OnLostPage(const uint8_t* page) override {
    const size_t n = count.fetch_add(1, std::memory_order_relaxed);
    if (n < pages.size()) pages[n].store(page, std::memory_order_release);
  }
  std::atomic<size_t> count{0};
  std::array<std::atomic<const uint8_t*>, 8> pages{};
};

class Pages {
 public:
  explicit Pages(size_t count)
      : bytes_(static_cast<uint8_t*>(
                   mmap(nullptr, count * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
               count * kPageSize) {
    std::memset(bytes_.data(), 0xA5, bytes_.size());
  }
  ~Pages() { munmap(bytes_.data(), bytes_.size()); }
  absl::Span<uint8_t> bytes() const { return bytes_; }
  volatile uint8_t& operator[](size_t at) const { return bytes_[at]; }

 private:
  const absl::Span<uint8_t> bytes_;
};

TEST(LostMemoryTest, WhoeverTouchesALostPageFindsZerosAndItsObserverIsTold) {
  ASSERT_TRUE(HandleLostMemory().ok());
  ASSERT_TRUE(HandleLostMemory().ok());
  const Pages pages(4), others(1);
  Notes notes, of_others;
  ASSERT_TRUE(WatchLostMemory(pages.bytes(), notes) && WatchLostMemory(others.bytes(), of_others));
  ASSERT_TRUE(LosePage(&pages.bytes()[2 * kPageSize]).ok());
  EXPECT_EQ(notes.count, 0u) << "nobody has touched it";
  EXPECT_EQ(pages[2 * kPageSize - 1], 0xA5);
  EXPECT_EQ(pages[3 * kPageSize - 1], 0);
  EXPECT_EQ(pages[3 * kPageSize], 0xA5);
  EXPECT_EQ(notes.count, 1u);
  EXPECT_EQ(notes.pages[0].load(), &pages.bytes()[2 * kPageSize]);

  // A write goes into what has taken the page's place.
  ASSERT_TRUE(LosePage(pages.bytes().data()).ok());
  pages[7] = 0x11;
  EXPECT_EQ(pages[7], 0x11);
  EXPECT_EQ(pages[8], 0);
  EXPECT_EQ(notes.count, 2u);
  EXPECT_EQ(of_others.count, 0u);
  UnwatchLostMemory(notes);
  UnwatchLostMemory(of_others);
}

TEST(LostMemoryTest, ManyThreadsMeetTheSamePage) {
  ASSERT_TRUE(HandleLostMemory().ok());
  constexpr int kThreads = 4;
  for (int round = 0; round < 20; ++round) {
    const Pages pages(1);
    Notes notes;
    ASSERT_TRUE(WatchLostMemory(pages.bytes(), notes));
    ASSERT_TRUE(LosePage(pages.bytes().data()).ok());
    std::vector<std::thread> threads;
    std::atomic<int> zeros{0};
    for (int i = 0; i < kThreads; ++i) threads.emplace_back([&, i] { zeros += pages[static_cast<size_t>(i)] == 0; });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(zeros, kThreads);
    EXPECT_GE(notes.count, 1u);
    UnwatchLostMemory(notes);
  }
}

TEST(LostMemoryTest, MemoryThatNobodyWatchesEndsTheProcessAsBefore) {
  const Pages pages(1);
  const auto touch = [&] {
    (void)HandleLostMemory();
    (void)LosePage(pages.bytes().data());
    _exit(pages[0]);
  };
  EXPECT_DEATH(touch(), "");
  const auto sent = [] {
    (void)HandleLostMemory();
    raise(SIGBUS);
    _exit(0);
  };
  EXPECT_DEATH(sent(), "");
}

TEST(LostMemoryTest, TheHandlerThatWasThereGetsWhatIsNotOurs) {
  const Pages pages(1);
  const auto touch = [&] {
    struct sigaction theirs {};
    theirs.sa_handler = [](int) { _exit(7); };
    sigaction(SIGBUS, &theirs, nullptr);
    (void)HandleLostMemory();
    (void)LosePage(pages.bytes().data());
    _exit(pages[0]);
  };
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // in which the handler is not installed yet
  EXPECT_EXIT(touch(), ::testing::ExitedWithCode(7), "");
}

TEST(LostMemoryTest, ThereIsRoomForManyRangesAndNotForAll) {
  const Pages pages(1);
  Notes notes, one;
  size_t count = 0;
  while (count < 100'000 && WatchLostMemory(pages.bytes(), notes)) ++count;
  EXPECT_EQ(count, internal::watched_memory.size());
  EXPECT_FALSE(WatchLostMemory(pages.bytes(), one));
  UnwatchLostMemory(notes);
  EXPECT_TRUE(WatchLostMemory(pages.bytes(), one));
  EXPECT_EQ(FindLostMemoryObserver(reinterpret_cast<uintptr_t>(pages.bytes().data()) + kPageSize - 1), &one);
  EXPECT_EQ(FindLostMemoryObserver(reinterpret_cast<uintptr_t>(pages.bytes().data()) + kPageSize), nullptr);
  UnwatchLostMemory(one);
  EXPECT_EQ(FindLostMemoryObserver(reinterpret_cast<uintptr_t>(pages.bytes().data())), nullptr);
}

}  // namespace
}  // namespace hvsdk::os
