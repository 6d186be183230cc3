// SPDX-License-Identifier: Apache-2.0
// Pages that go back to the host: what is there afterwards, and what the process has of them.
#include "hvsdk/os/host_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/base/ids.h"
#include "tests/random_seed.h"

namespace hvsdk::os {
namespace {

constexpr uint64_t kBytes = 8 << 20, kPages = kBytes >> kPageShift;

// How many of the memory's pages the process has, of its own or of a file's.
uint64_t ResidentPages(const HostMemory& memory) {
  const auto page_of = [&](size_t i) { return reinterpret_cast<uintptr_t>(memory.bytes().data()) / kPageSize + i; };
  std::ifstream map("/proc/self/pagemap", std::ios::binary);
  map.seekg(static_cast<std::streamoff>(page_of(0) * sizeof(uint64_t)));
  std::vector<uint64_t> entries(memory.bytes().size() >> kPageShift);
  map.read(reinterpret_cast<char*>(entries.data()), static_cast<std::streamsize>(entries.size() * sizeof(uint64_t)));
  EXPECT_TRUE(map.good());
  uint64_t count = 0;
  for (const uint64_t entry : entries) count += entry >> 63 & 1;
  return count;
}

class File {
 public:
  File() : fd_(memfd_create("memory", MFD_CLOEXEC)) {
    std::vector<uint8_t> bytes(kBytes, 0xF1);
    EXPECT_EQ(write(fd_, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
  ~File() { close(fd_); }
  int fd() const { return fd_; }

 private:
  const int fd_;
};

TEST(HostMemoryTest, WhatIsDiscardedIsZeroAndGone) {
  absl::StatusOr<HostMemory> memory = HostMemory::Reserve(kBytes);
  ASSERT_TRUE(memory.ok()) << memory.status();
  std::memset(memory->bytes().data(), 0xA5, kBytes);
  ASSERT_EQ(ResidentPages(*memory), kPages);
  EXPECT_EQ(memory->Discard(0, 0), 0u);
  EXPECT_EQ(memory->Discard(kPageSize, kBytes / 2), kBytes / 2);
  EXPECT_EQ(ResidentPages(*memory), kPages / 2);
  EXPECT_EQ(memory->bytes()[0], 0xA5);
  EXPECT_EQ(memory->bytes()[kPageSize], 0);
  EXPECT_EQ(memory->bytes()[kBytes / 2 + kPageSize], 0xA5);
  EXPECT_EQ(memory->Discard(0, kBytes), kBytes);
  EXPECT_EQ(ResidentPages(*memory), 0u);
}

// As of a machine that was restored: MADV_DONTNEED alone would bring the file's bytes back.
TEST(HostMemoryTest, SoIsWhatWasMappedFromAFile) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  const File file;
  for (int round = 0; round < 6; ++round) {
    absl::StatusOr<HostMemory> memory = HostMemory::Reserve(kBytes);
    ASSERT_TRUE(memory.ok()) << memory.status();
    std::vector<uint8_t> model(kPages);
    for (int step = 0; step < 40; ++step) {
      const uint64_t first = random() % kPages, count = 1 + random() % std::min<uint64_t>(kPages - first, 300);
      uint8_t value = 0;
      switch (random() % 8) {
        case 0:
          ASSERT_TRUE(memory->MapFile(first << kPageShift, count << kPageShift, file.fd(), 0).ok());
          value = 0xF1;
          break;
        case 1:
        case 2:
          value = static_cast<uint8_t>(1 + random() % 200);
          std::memset(memory->bytes().data() + (first << kPageShift), value, count << kPageShift);
          break;
        case 3:
          if (random() % 8 != 0) continue;
          ASSERT_TRUE(memory->Clear().ok());
          model.assign(kPages, 0);
          continue;
        default:
          ASSERT_EQ(memory->Discard(first << kPageShift, count << kPageShift), count << kPageShift) << "seed " << seed;
      }
      std::fill_n(model.begin() + static_cast<ptrdiff_t>(first), count, value);
    }
    for (uint64_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(memory->bytes()[page << kPageShift], model[page]) << "page " << page << ", seed " << seed;
      ASSERT_EQ(memory->bytes()[((page + 1) << kPageShift) - 1], model[page]);
    }
  }
}

// Whoever discards every other page of a file would have the process run out of mappings.
TEST(HostMemoryTest, AFileIsTornIntoSoManyPiecesAndNoMore) {
  constexpr uint64_t kManyPages = 40'000;
  const int fd = memfd_create("memory", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(fd, kManyPages << kPageShift), 0);
  absl::StatusOr<HostMemory> memory = HostMemory::Reserve(kManyPages << kPageShift);
  ASSERT_TRUE(memory.ok()) << memory.status();
  ASSERT_TRUE(memory->MapFile(0, kManyPages << kPageShift, fd, 0).ok());
  close(fd);
  uint64_t discarded = 0;
  for (uint64_t page = 1; page < kManyPages; page += 2) discarded += memory->Discard(page << kPageShift, kPageSize);
  EXPECT_GT(discarded >> kPageShift, 1000u);
  EXPECT_LT(discarded >> kPageShift, 10'000u);
  // Others still get what they map, and the whole can be given back all the same.
  void* const other = mmap(nullptr, kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT_NE(other, MAP_FAILED);
  munmap(other, kPageSize);
  EXPECT_EQ(memory->Discard(0, kManyPages << kPageShift), kManyPages << kPageShift);
}

}  // namespace
}  // namespace hvsdk::os
