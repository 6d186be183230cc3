// SPDX-License-Identifier: Apache-2.0
// Memory maps, read-only memory, the dirty log, and forgetting cached translations.

#include <sys/mman.h>

#include "tests/backend/conformance.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;
using testing::ElementsAre;

// Page-aligned host memory.
class HostPages {
 public:
  explicit HostPages(uint64_t pages) : size_(pages * kPageSize) {
    bytes_ = static_cast<uint8_t*>(::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  }
  ~HostPages() { ::munmap(bytes_, size_); }
  absl::Span<uint8_t> span() { return {bytes_, size_}; }
  uint32_t& word(uint64_t page) { return *reinterpret_cast<uint32_t*>(bytes_ + page * kPageSize); }

 private:
  uint8_t* bytes_;
  uint64_t size_;
};

constexpr uint64_t kOther = 0x20000000;  // free guest physical addresses

class MemoryTest : public ConformanceTest {};
HVSDK_CONFORMANCE_SUITE(MemoryTest);

HVSDK_GUEST(ReadAndWrite, 64, R"(
    mov rbx, 0x20000000
    mov eax, [rbx]
    mov [0x80000], eax
    mov dword ptr [rbx + 4], 0x5555
    mov eax, [rbx + 4]
    mov [0x80004], eax
    out 0xF4, al
)")

TEST_P(MemoryTest, MapsMayChangeWhileTheVpExists) {
  HostPages pages(4);
  pages.word(0) = 0xAAAA;
  recorder_.mmio_values = {{kOther, 0xDDDD}, {kOther + 4, 0xEEEE}};

  machine().Start(Mode::kLong, ReadAndWrite());
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.events.size(), 3u);
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 0xDDDDu);

  ASSERT_TRUE(machine().partition().MapMemory(kOther, pages.span(), MapAccess::kReadWriteExecute).ok());
  recorder_.events.clear();
  machine().Start(Mode::kLong, ReadAndWrite());
  machine().Run(recorder_);
  EXPECT_TRUE(recorder_.events.empty());
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 0xAAAAu);
  EXPECT_EQ(machine().Read<uint32_t>(0x80004), 0x5555u);
  EXPECT_EQ((&pages.word(0))[1], 0x5555u);

  ASSERT_TRUE(machine().partition().UnmapMemory(kOther, 4 * kPageSize).ok());
  machine().Start(Mode::kLong, ReadAndWrite());
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.events.size(), 3u);
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 0xDDDDu);
}

TEST_P(MemoryTest, AddedMemoryIsTheGuestsAndTheHosts) {
  HostPages pages(4);
  pages.word(0) = 0xAAAA;
  GuestMemory& memory = machine().memory();
  ASSERT_TRUE(machine().partition().AddMemory(kOther, pages.span()).ok());
  machine().Start(Mode::kLong, ReadAndWrite());
  machine().Run(recorder_);
  EXPECT_TRUE(recorder_.events.empty());
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 0xAAAAu);
  EXPECT_EQ(machine().Read<uint32_t>(kOther + 4), 0x5555u);
  EXPECT_EQ(memory.size_bytes(), kRamSize + 4 * kPageSize);

  HostPages more(4);
  EXPECT_FALSE(machine().partition().AddMemory(kOther + kPageSize, more.span()).ok()) << "there is memory";
  EXPECT_FALSE(machine().partition().AddMemory(2 * kOther, more.span().subspan(0, 100)).ok());
  EXPECT_EQ(memory.size_bytes(), kRamSize + 4 * kPageSize);

  // What was added last goes again, and comes again, though it has run.
  ASSERT_TRUE(machine().partition().RemoveLastMemory().ok());
  EXPECT_EQ(memory.size_bytes(), kRamSize);
  machine().Start(Mode::kLong, ReadAndWrite());
  machine().Run(recorder_);
  EXPECT_FALSE(recorder_.events.empty());
  ASSERT_TRUE(machine().partition().AddMemory(kOther, pages.span()).ok());
  recorder_.events.clear();
  machine().Start(Mode::kLong, ReadAndWrite());
  machine().Run(recorder_);
  EXPECT_TRUE(recorder_.events.empty());

  // What the partition maps and host memory refuses is not mapped either.
  HostPages shadowed(4);
  ASSERT_TRUE(memory.AddRange(3 * kOther, shadowed.span()).ok());
  EXPECT_FALSE(machine().partition().AddMemory(3 * kOther, more.span()).ok());
  EXPECT_TRUE(machine().partition().MapMemory(3 * kOther, more.span(), MapAccess::kReadWriteExecute).ok());
}

TEST_P(MemoryTest, ReadOnlyMemoryExitsOnWrites) {
  HostPages pages(1);
  pages.word(0) = 0xAAAA;
  (&pages.word(0))[1] = 0x1234;
  ASSERT_TRUE(machine().partition().MapMemory(kOther, pages.span(), MapAccess::kReadExecute).ok());
  machine().Start(Mode::kLong, ReadAndWrite());
  machine().Run(recorder_);
  EXPECT_THAT(recorder_.events, ElementsAre(Event{Event::kMmioWrite, kOther + 4, 4, 0x5555}));
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 0xAAAAu);
  EXPECT_EQ(machine().Read<uint32_t>(0x80004), 0x1234u);
  EXPECT_EQ((&pages.word(0))[1], 0x1234u);
}

TEST_P(MemoryTest, BadMapsAreRefused) {
  HostPages pages(4);
  Partition& partition = machine().partition();
  const auto map = [&](uint64_t gpa, absl::Span<uint8_t> bytes) {
    return partition.MapMemory(gpa, bytes, MapAccess::kReadWriteExecute).code();
  };
  EXPECT_NE(map(kOther + 1, pages.span()), absl::StatusCode::kOk);
  EXPECT_NE(map(kOther, pages.span().subspan(0, 100)), absl::StatusCode::kOk);
  EXPECT_NE(map(kOther, {}), absl::StatusCode::kOk);
  EXPECT_NE(map(0, pages.span()), absl::StatusCode::kOk) << "memory is there already";
  EXPECT_NE(map(kRamSize - kPageSize, pages.span()), absl::StatusCode::kOk);
  ASSERT_EQ(map(kOther, pages.span()), absl::StatusCode::kOk);
  EXPECT_FALSE(partition.UnmapMemory(kOther, kPageSize).ok()) << "only as it was mapped";
  EXPECT_FALSE(partition.UnmapMemory(kOther + kPageSize, kPageSize).ok());
  EXPECT_TRUE(partition.UnmapMemory(kOther, 4 * kPageSize).ok());
  EXPECT_FALSE(partition.UnmapMemory(kOther, 4 * kPageSize).ok());
  for (int i = 0; i < 300; ++i) {
    ASSERT_EQ(map(kOther, pages.span()), absl::StatusCode::kOk);
    ASSERT_TRUE(partition.UnmapMemory(kOther, 4 * kPageSize).ok());
  }
}

HVSDK_GUEST(ExecuteThere, 64, R"(
    mov rax, 0x20000000
    call rax
    out 0xF4, al
)")
TEST_P(MemoryTest, CodeRunsFromReadOnlyMemory) {
  HostPages pages(1);
  const uint8_t code[] = {0xBB, 0x78, 0x56, 0x34, 0x12, 0xC3};  // mov ebx, 0x12345678; ret
  std::copy(std::begin(code), std::end(code), pages.span().begin());
  ASSERT_TRUE(machine().partition().MapMemory(kOther, pages.span(), MapAccess::kReadExecute).ok());
  machine().Start(Mode::kLong, ExecuteThere());
  machine().Run(recorder_);
  EXPECT_EQ(machine().vp().GetGpr(Gpr::kRbx), 0x12345678u);
}

HVSDK_GUEST(DirtyPages, 64, R"(
    mov dword ptr [0x100000], 1
    mov eax, [0x101000]
    lock inc dword ptr [0x142000]
    mov rdi, 0x150FFE
    mov ecx, 4
    mov al, 7
    cld
    rep stosb
    out 0xF4, al
)")
TEST_P(MemoryTest, DirtyLog) {
  if (!backend().caps().dirty_log) GTEST_SKIP() << "no dirty log";
  const uint64_t pages = kRamSize / kPageSize;
  std::vector<uint64_t> bitmap(pages / 64);
  const auto dirty = [&](uint64_t gpa) { return (bitmap[gpa / kPageSize / 64] >> (gpa / kPageSize % 64) & 1) != 0; };
  Partition& partition = machine().partition();

  machine().Start(Mode::kLong, DirtyPages());
  ASSERT_TRUE(partition.EnableDirtyLog(true).ok());
  machine().Run(recorder_);
  bitmap[0] = 0;
  bitmap.back() = uint64_t{1} << 63;  // bits that are set stay
  ASSERT_TRUE(partition.TakeDirtyLog(0, kRamSize, absl::MakeSpan(bitmap)).ok());
  EXPECT_TRUE(dirty(0x100000));
  EXPECT_TRUE(dirty(0x142000));
  EXPECT_TRUE(dirty(0x150000));
  EXPECT_TRUE(dirty(0x151000));
  EXPECT_FALSE(dirty(0x152000));
  EXPECT_TRUE(dirty(kRamSize - kPageSize));

  // Taken once; then only what is written anew.
  std::fill(bitmap.begin(), bitmap.end(), 0);
  ASSERT_TRUE(partition.TakeDirtyLog(0, kRamSize, absl::MakeSpan(bitmap)).ok());
  EXPECT_FALSE(dirty(0x100000));
  machine().Start(Mode::kLong, kCodeGpa);
  machine().Run(recorder_);
  ASSERT_TRUE(partition.TakeDirtyLog(0, kRamSize, absl::MakeSpan(bitmap)).ok());
  EXPECT_TRUE(dirty(0x100000));
  EXPECT_TRUE(dirty(0x142000));
  EXPECT_FALSE(dirty(0x101000)) << "only read";
  EXPECT_FALSE(partition.TakeDirtyLog(kPageSize, kPageSize, absl::MakeSpan(bitmap)).ok()) << "not a mapped range";
  EXPECT_TRUE(partition.EnableDirtyLog(false).ok());
}

// The same stores twice, with a port read between them in which the log is taken: the translations are the same.
HVSDK_GUEST(StoresTwice, 64, R"(
    mov ebp, 2
1:  mov dword ptr [0x140000], 1
    lock inc dword ptr [0x141000]
    mov eax, 1
    xchg [0x142000], eax
    lock cmpxchg [0x143000], eax
    lock cmpxchg8b [0x144000]
    add dword ptr [0x145000], 1
    mov edi, 0x146000
    mov ecx, 16
    cld
    rep stosd
    mov esp, 0x147100
    push rax
    mov esp, 0x90000
    in al, 0x10
    dec ebp
    jnz 1b
    out 0xF4, al
)")
TEST_P(MemoryTest, TheDirtyLogSeesEveryStoreAnew) {
  if (!backend().caps().dirty_log) GTEST_SKIP() << "no dirty log";
  std::vector<uint64_t> bitmap(kRamSize / kPageSize / 64);
  Partition& partition = machine().partition();
  machine().Start(Mode::kLong, StoresTwice());
  ASSERT_TRUE(partition.EnableDirtyLog(true).ok());
  recorder_.on_port_read = [&](Vp&, uint16_t, absl::Span<uint8_t>) {
    std::fill(bitmap.begin(), bitmap.end(), 0);
    ASSERT_TRUE(partition.TakeDirtyLog(0, kRamSize, absl::MakeSpan(bitmap)).ok());
    EXPECT_EQ(bitmap[0x140 / 64] >> (0x140 % 64) & 0xFF, 0xFFu);
  };
  machine().Run(recorder_);
  EXPECT_EQ(recorder_.events.size(), 2u);
  EXPECT_TRUE(partition.EnableDirtyLog(false).ok());
}

// Reads through a mapping, lets the host change the page table entry and flush, reads again.
HVSDK_GUEST(StaleTranslation, 64, R"(
    mov eax, [0x60000]
    mov [0x80000], eax
    in al, 0x10
    mov eax, [0x60000]
    mov [0x80004], eax
    out 0xF4, al
)")
TEST_P(MemoryTest, FlushTlbFromAnExit) {
  machine().Start(Mode::kLong, StaleTranslation());
  machine().Write<uint32_t>(0x60000, 0x1111);
  machine().Write<uint32_t>(0x61000, 0x2222);
  recorder_.on_port_read = [&](Vp&, uint16_t, absl::Span<uint8_t>) {
    machine().Write<uint64_t>(kFirstPageTableGpa + 0x60 * 8, 0x61000 | 7);
    const VpIndex all[] = {VpIndex{0}};
    machine().partition().FlushTlb(all);
  };
  machine().Run(recorder_);
  EXPECT_EQ(machine().Read<uint32_t>(0x80000), 0x1111u);
  EXPECT_EQ(machine().Read<uint32_t>(0x80004), 0x2222u);
}

}  // namespace
}  // namespace hvsdk::backend
