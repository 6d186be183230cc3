// SPDX-License-Identifier: Apache-2.0
// Core files, and the mappings they are made of.

#include "hvsdk/vmm/core_dump.h"

#include <elf.h>
#include <stdlib.h>
#include <sys/procfs.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/hvdef/register.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/vmm/backends.h"
#include "tests/boot/kernel_images.h"
#include "vmm/guest_mappings.h"

namespace hvsdk::vmm {
namespace {

constexpr uint64_t kLarge = 1 << 7 | 1;
constexpr size_t kMost = 1000;

class GuestMappingsTest : public testing::Test {
 protected:
  GuestMappingsTest() : bytes_(64 * kPageSize) {
    EXPECT_TRUE(memory_.AddRange(0, absl::MakeSpan(bytes_).subspan(0, 32 * kPageSize)).ok());
    EXPECT_TRUE(memory_.AddRange(uint64_t{4} << 30, absl::MakeSpan(bytes_).subspan(32 * kPageSize)).ok());
  }
  void Set(uint64_t table, size_t index, uint64_t entry) {
    ASSERT_TRUE(memory_.WriteObject(table * kPageSize + index * 8, entry));
  }

  std::vector<uint8_t> bytes_;
  GuestMemory memory_;
};

TEST_F(GuestMappingsTest, NeighboursAreOne) {
  Set(1, 0, 0x2003);
  Set(2, 0, 0x3003);
  Set(3, 1, 0x4003);
  for (size_t i = 0; i < 512; ++i) Set(4, i, i < 3 ? (10 + i) << kPageShift | 1 : 0);
  Set(4, 3, 20 << kPageShift | 1);
  Set(4, 5, 0x7777'7000 | 1);  // no memory
  Set(4, 6, uint64_t{4} << 30 | uint64_t{1} << 63 | 1);
  EXPECT_EQ(ReadGuestMappings(memory_, 0x1000, 4, kMost),
            (std::vector<GuestMapping>{
                {0x200000, 0xA000, 0x3000}, {0x203000, 0x14000, 0x1000}, {0x206000, uint64_t{4} << 30, 0x1000}}));
  EXPECT_EQ(ReadGuestMappings(memory_, 0x1000, 4, 2).size(), 2u);
  // One level more.
  Set(5, 511, 0x1003);
  const std::vector<GuestMapping> high = ReadGuestMappings(memory_, 0x5000 | 0x18, 5, kMost);
  ASSERT_EQ(high.size(), 3u);
  EXPECT_EQ(high[0].gva, 0xFFFF'0000'0020'0000u);
}

TEST_F(GuestMappingsTest, LargePagesReachBeyondMemory) {
  Set(1, 511, 0x2003);
  Set(2, 510, 0 | kLarge);  // 1 GiB, of which the first 128 KiB are memory
  Set(2, 511, 0x3003);
  Set(3, 0, (uint64_t{4} << 30) | kLarge);  // 2 MiB
  Set(1, 255, 0x2003);                      // the upper end of the lower half touches nothing
  EXPECT_EQ(ReadGuestMappings(memory_, 0x1000, 4, kMost),
            (std::vector<GuestMapping>{{0x7FFF'8000'0000, 0, 0x20000},
                                       {0x7FFF'C000'0000, uint64_t{4} << 30, 0x20000},
                                       {0xFFFF'FFFF'8000'0000, 0, 0x20000},
                                       {0xFFFF'FFFF'C000'0000, uint64_t{4} << 30, 0x20000}}));
}

TEST_F(GuestMappingsTest, ATableThatNamesItselfComesToAnEnd) {
  for (size_t i = 0; i < 512; ++i) Set(1, i, 0x1003);
  EXPECT_LE(ReadGuestMappings(memory_, 0x1000, 4, kMost).size(), kMost);
  for (size_t i = 0; i < 512; ++i) Set(1, i, 0x1083);  // large pages, and tables where there are none so large
  EXPECT_LE(ReadGuestMappings(memory_, 0x1000, 5, kMost).size(), kMost);
  EXPECT_TRUE(ReadGuestMappings(memory_, 0x7777'0000, 4, kMost).empty());
}

class CoreDumpTest : public testing::Test {
 protected:
  void SetUp() override {
    backend_ = *CreateBackend("software");
    char pattern[] = "/tmp/hvsdk_dump_XXXXXX";
    root_ = mkdtemp(pattern);
    image_ = boot::MakePvhElf(true);
    source_ = std::make_unique<boot::MemorySource>(image_);
    loop_ = *os::EventLoop::Create();
    machine::MachineOptions options;
    options.backend = backend_.get();
    options.kernel = source_.get();
    options.memory_bytes = 16 << 20;
    options.cpus = 3;
    boot::LoadInput blame;
    auto machine = machine::Machine::Create(options, *loop_, blame);
    ASSERT_TRUE(machine.ok()) << machine.status();
    machine_ = *std::move(machine);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  std::string Dump() {
    const std::string path = root_ + "/core";
    const absl::Status status = WriteCoreDump(machine_->board(), path);
    EXPECT_TRUE(status.ok()) << status;
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }
  template <typename T>
  static T At(const std::string& core, uint64_t offset) {
    T value;
    EXPECT_LE(offset + sizeof(value), core.size());
    std::memcpy(&value, core.data() + std::min<uint64_t>(offset, core.size() - sizeof(value)), sizeof(value));
    return value;
  }
  static std::vector<Elf64_Phdr> Segments(const std::string& core) {
    const auto head = At<Elf64_Ehdr>(core, 0);
    EXPECT_EQ(head.e_type, ET_CORE);
    EXPECT_EQ(head.e_machine, EM_X86_64);
    std::vector<Elf64_Phdr> segments;
    for (size_t i = 0; i < head.e_phnum; ++i)
      segments.push_back(At<Elf64_Phdr>(core, head.e_phoff + i * sizeof(Elf64_Phdr)));
    return segments;
  }

  std::unique_ptr<backend::Backend> backend_;
  std::string root_;
  std::vector<uint8_t> image_;
  std::unique_ptr<boot::MemorySource> source_;
  std::unique_ptr<os::EventLoop> loop_;
  std::unique_ptr<machine::Machine> machine_;
};

TEST_F(CoreDumpTest, ProcessorsAreThreadsAndMemoryIsThere) {
  machine::Board& board = machine_->board();
  const hvdef::RegisterName names[] = {hvdef::RegisterName::kRbx, hvdef::RegisterName::kRsp};
  const hvdef::RegisterValue values[] = {{0x1122334455667788, 0}, {0x99AA, 0}};
  ASSERT_TRUE(board.engine_vp(VpIndex{1}).SetRegisters(names, values).ok());
  ASSERT_TRUE(board.memory().Write(0x800123, "a mark", 6));
  const std::string core = Dump();
  const std::vector<Elf64_Phdr> segments = Segments(core);
  ASSERT_EQ(segments.size(), 2u);  // without paging, memory is what there is
  ASSERT_EQ(segments[0].p_type, Elf64_Word{PT_NOTE});
  constexpr uint64_t kNoteBytes = sizeof(Elf64_Nhdr) + 8 + sizeof(prstatus_t);
  ASSERT_EQ(segments[0].p_filesz, 3 * kNoteBytes);
  const uint64_t second = segments[0].p_offset + kNoteBytes;
  EXPECT_EQ(At<Elf64_Nhdr>(core, second).n_type, Elf64_Word{NT_PRSTATUS});
  EXPECT_STREQ(core.c_str() + second + sizeof(Elf64_Nhdr), "CORE");
  const auto status = At<prstatus_t>(core, second + sizeof(Elf64_Nhdr) + 8);
  EXPECT_EQ(status.pr_pid, 2);
  EXPECT_EQ(status.pr_reg[5], 0x1122334455667788u);
  EXPECT_EQ(status.pr_reg[19], 0x99AAu);
  EXPECT_EQ(segments[1].p_paddr, 0u);
  EXPECT_EQ(segments[1].p_filesz, 16u << 20);
  EXPECT_EQ(core.substr(segments[1].p_offset + 0x800123, 6), "a mark");
  EXPECT_EQ(core.size(), segments[1].p_offset + (16 << 20));
  struct stat file;
  ASSERT_EQ(stat((root_ + "/core").c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
  EXPECT_LT(file.st_blocks * 512, 4 << 20) << "not sparse";
}

TEST_F(CoreDumpTest, ALinuxTellsWhereItLies) {
  GuestMemory& memory = machine_->board().memory();
  const std::string text =
      "OSRELEASE=6.1.0\nSYMBOL(swapper_pg_dir)=ffffffffa2a10000\nNUMBER(phys_base)=-580911104\nCRASHTIME=1\n";
  const Elf64_Nhdr note = {11, static_cast<Elf64_Word>(text.size()), 0};
  // A page that begins likewise and is no such note.
  for (const auto& [gpa, contents] :
       {std::make_pair(0x600000, std::string(text.size(), 'x')), std::make_pair(0x700000, text)}) {
    ASSERT_TRUE(memory.WriteObject(gpa, note) && memory.Write(gpa + 12, "VMCOREINFO", 11) &&
                memory.Write(gpa + 24, contents.data(), contents.size()));
  }
  // 0xffffffffa2a10000 - __START_KERNEL_map - 580911104 = 0x10000
  const uint64_t root = 0xffffffffa2a10000 - 0xffffffff80000000 - 580911104;
  ASSERT_TRUE(memory.WriteObject(root + 511 * 8, root + 0x1003) &&
              memory.WriteObject(root + 0x1000 + 510 * 8, root + 0x2003) &&
              memory.WriteObject(root + 0x2000 + 1 * 8, uint64_t{0x800083}));
  ASSERT_TRUE(memory.Write(0x800123, "a mark", 6));
  const std::string core = Dump();
  const std::vector<Elf64_Phdr> segments = Segments(core);
  ASSERT_EQ(segments.size(), 3u);
  EXPECT_EQ(segments[2].p_vaddr, 0xffffffff80200000u);
  EXPECT_EQ(segments[2].p_paddr, 0x800000u);
  EXPECT_EQ(segments[2].p_filesz, 2u << 20);
  EXPECT_EQ(core.substr(segments[2].p_offset + 0x123, 6), "a mark");
  EXPECT_NE(core.substr(segments[0].p_offset, segments[0].p_filesz).find(text), std::string::npos);
}

TEST_F(CoreDumpTest, NothingIsOverwrittenOrLeft) {
  Dump();
  const absl::Status again = WriteCoreDump(machine_->board(), root_ + "/core");
  EXPECT_EQ(again.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(again.message().substr(0, root_.size()), root_);
  EXPECT_EQ(WriteCoreDump(machine_->board(), root_ + "/none/core").code(), absl::StatusCode::kNotFound);
  const absl::Status unwanted =
      WriteCoreDump(machine_->board(), root_ + "/unwanted", [](uint64_t, uint64_t) { return false; });
  EXPECT_EQ(unwanted.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(root_), std::filesystem::directory_iterator()), 1);
}

// A guest may have anything in its memory.
TEST_F(CoreDumpTest, ANameWithoutItsZeroIsNone) {
  GuestMemory& memory = machine_->board().memory();
  const Elf64_Nhdr note = {11, 64, 0};
  ASSERT_TRUE(memory.WriteObject(0x600000, note) && memory.Write(0x60000C, "VMCOREINFOxxOSRELEASE=", 22));
  const std::string core = Dump();
  const Elf64_Phdr notes = Segments(core)[0];
  EXPECT_EQ(core.substr(notes.p_offset, notes.p_filesz).find("VMCOREINFO"), std::string::npos);
}

}  // namespace
}  // namespace hvsdk::vmm
