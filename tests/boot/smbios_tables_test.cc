// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/boot/smbios_tables.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "boot/little_endian.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/run_command.h"

namespace hvsdk::boot {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kGib = uint64_t{1} << 30;

SmbiosOptions Options() {
  return {.identity = {.uuid = hvdef::MakeGuid("00112233-4455-6677-8899-aabbccddeeff"),
                       .serial = "S-1",
                       .sku = "K",
                       .family = "F",
                       .asset_tag = "A-1",
                       .bios_version = "1.2"},
          .memory = {{0, 3 * kGib}, {4 * kGib, 5 * kGib}},
          .cpus = 4,
          .cpuid = {{.leaf = 0, .ebx = 0x756E6547, .ecx = 0x6C65746E, .edx = 0x49656E69},  // GenuineIntel
                    {.leaf = 1, .eax = 0x000806F8, .edx = 0x1F8BFBFF},
                    {.leaf = 0x80000002, .eax = 0x41202020, .ebx = 0x70636E20, .ecx = 0x00752075}}};
}

const uint8_t* Bytes(const std::string& text, size_t at) { return reinterpret_cast<const uint8_t*>(text.data()) + at; }

uint8_t Sum(absl::string_view text) {
  uint8_t sum = 0;
  for (const char byte : text) sum += static_cast<uint8_t>(byte);
  return sum;
}

struct Parsed {
  std::string fields;
  std::vector<std::string> strings;
  // The string whose number stands at `offset`.
  std::string Text(size_t offset) const {
    const size_t number = static_cast<uint8_t>(fields.at(offset));
    return number == 0 ? "" : strings.at(number - 1);
  }
  template <typename T>
  T At(size_t offset) const {
    return Load<T>(Bytes(fields, offset));
  }
};

// Finds and checks both entry points as a guest without EFI does, and takes the table apart.
std::vector<Parsed> Walk(const std::string& bytes, uint64_t gpa) {
  EXPECT_EQ(absl::string_view(bytes).substr(0, 5), "_SM3_");
  const std::string entry = bytes.substr(0, Load<uint8_t>(Bytes(bytes, 6)));
  EXPECT_EQ(entry.size(), 24u);
  EXPECT_EQ(Sum(entry), 0);
  EXPECT_EQ(Load<uint8_t>(Bytes(entry, 7)), 3);
  EXPECT_EQ(Load<uint8_t>(Bytes(entry, 10)), 1);
  const uint64_t table_gpa = Load<uint64_t>(Bytes(entry, 16));
  const uint32_t table_size = Load<uint32_t>(Bytes(entry, 12));
  EXPECT_EQ(table_gpa + table_size, gpa + bytes.size());
  const std::string table = bytes.substr(table_gpa - gpa, table_size);

  size_t at32 = 16;
  while (bytes.substr(at32, 4) != "_SM_") at32 += 16;
  const std::string entry32 = bytes.substr(at32, 31);
  EXPECT_EQ(Load<uint8_t>(Bytes(entry32, 5)), 31);
  EXPECT_EQ(Sum(entry32), 0);
  EXPECT_EQ(entry32.substr(16, 5), "_DMI_");
  EXPECT_EQ(Sum(absl::string_view(entry32).substr(16)), 0);
  EXPECT_EQ(Load<uint16_t>(Bytes(entry32, 22)), table_size);
  EXPECT_EQ(Load<uint32_t>(Bytes(entry32, 24)), table_gpa);

  std::vector<Parsed> structures;
  size_t largest = 0, at = 0;
  while (at < table.size()) {
    const size_t start = at, length = Load<uint8_t>(Bytes(table, at + 1));
    Parsed parsed{.fields = table.substr(at, length), .strings = {}};
    at += length;
    while (table.at(at) != '\0') {
      parsed.strings.emplace_back(table.data() + at);
      EXPECT_LE(parsed.strings.back().size(), kMaxSmbiosString);
      at += parsed.strings.back().size() + 1;
    }
    at += parsed.strings.empty() ? 2 : 1;
    largest = std::max(largest, at - start);
    structures.push_back(std::move(parsed));
  }
  EXPECT_EQ(at, table.size());
  EXPECT_EQ(Load<uint16_t>(Bytes(entry32, 8)), largest);
  EXPECT_EQ(Load<uint16_t>(Bytes(entry32, 28)), structures.size());
  return structures;
}

TEST(SmbiosTablesTest, EveryStructureHasItsLengthAndAHandleOfItsOwn) {
  std::map<uint16_t, int> handles;
  std::vector<std::pair<int, int>> types;
  for (const Parsed& structure : Walk(BuildSmbiosTables(Options(), kSmbiosGpa), kSmbiosGpa)) {
    types.emplace_back(structure.At<uint8_t>(0), structure.At<uint8_t>(1));
    ++handles[structure.At<uint16_t>(2)];
  }
  // DSP0134 3.0.0, each structure's "Length" field.
  EXPECT_THAT(types, ElementsAre(std::pair(0, 0x18), std::pair(1, 0x1B), std::pair(2, 0x0F), std::pair(3, 0x16),
                                 std::pair(4, 0x30), std::pair(16, 0x17), std::pair(17, 0x28), std::pair(19, 0x1F),
                                 std::pair(19, 0x1F), std::pair(32, 0x0B), std::pair(127, 4)));
  for (const auto& [handle, count] : handles) EXPECT_EQ(count, 1) << handle;
}

TEST(SmbiosTablesTest, GoldenSystemInformation) {
  const Parsed system = Walk(BuildSmbiosTables(Options(), kSmbiosGpa), kSmbiosGpa)[1];
  const std::string expected(
      "\x01\x1B\x01\x00\x01\x02\x03\x04"
      "\x33\x22\x11\x00\x55\x44\x77\x66\x88\x99\xAA\xBB\xCC\xDD\xEE\xFF"
      "\x06\x05\x06",
      0x1B);
  EXPECT_EQ(system.fields, expected);
  EXPECT_THAT(system.strings, ElementsAre("Microsoft Corporation", "Virtual Machine", "7.0", "S-1", "K", "F"));
}

TEST(SmbiosTablesTest, IdentityIsWhereGuestsLook) {
  const auto structures = Walk(BuildSmbiosTables(Options(), kSmbiosGpa), kSmbiosGpa);
  EXPECT_EQ(structures[0].Text(4), "hvsdk");
  EXPECT_EQ(structures[0].Text(5), "1.2");
  EXPECT_EQ(structures[0].At<uint8_t>(0x13), 0x10);  // a virtual machine, and no UEFI
  EXPECT_EQ(structures[2].Text(4), "Microsoft Corporation");
  EXPECT_EQ(structures[2].Text(7), "S-1");
  EXPECT_EQ(structures[2].At<uint16_t>(0x0B), structures[3].At<uint16_t>(2));
  EXPECT_EQ(structures[3].Text(7), "S-1");
  EXPECT_EQ(structures[3].Text(8), "A-1");
}

TEST(SmbiosTablesTest, NothingIsMadeUp) {
  const auto structures = Walk(BuildSmbiosTables({.memory = {{0, kGib}}}, kSmbiosGpa), kSmbiosGpa);
  EXPECT_EQ(structures[1].fields.substr(8, 16), std::string(16, '\0'));  // 7.2.1: there is none
  EXPECT_EQ(structures[1].Text(7), "");
  EXPECT_EQ(structures[3].Text(8), "");
  EXPECT_EQ(structures[4].Text(7), "");
  EXPECT_NE(structures[0].Text(5), "");
}

TEST(SmbiosTablesTest, ProcessorIsThatOfCpuid) {
  const Parsed processor = Walk(BuildSmbiosTables(Options(), kSmbiosGpa), kSmbiosGpa)[4];
  EXPECT_EQ(processor.Text(7), "GenuineIntel");
  EXPECT_EQ(processor.Text(0x10), "A ncpu u");
  EXPECT_EQ(processor.At<uint32_t>(8), 0x000806F8u);
  EXPECT_EQ(processor.At<uint32_t>(12), 0x1F8BFBFFu);
  EXPECT_EQ(processor.At<uint8_t>(0x23), 4);
  SmbiosOptions many = Options();
  many.cpus = 1024;
  const Parsed large = Walk(BuildSmbiosTables(many, kSmbiosGpa), kSmbiosGpa)[4];
  EXPECT_EQ(large.At<uint8_t>(0x23), 0xFF);
  EXPECT_EQ(large.At<uint16_t>(0x2A), 1024);
}

TEST(SmbiosTablesTest, MemoryOfAnySize) {
  const auto with_memory = [](std::vector<GpaRange> memory) {
    return Walk(BuildSmbiosTables({.memory = std::move(memory)}, kSmbiosGpa), kSmbiosGpa);
  };
  const auto small = with_memory({{0, 3 * kGib}, {4 * kGib, 5 * kGib}});
  EXPECT_EQ(small[5].At<uint32_t>(7), (8 * kGib) >> 10);
  EXPECT_EQ(small[6].At<uint16_t>(0x0C), 8192);
  EXPECT_EQ(small[7].At<uint32_t>(4), 0u);
  EXPECT_EQ(small[7].At<uint32_t>(8), (3 * kGib >> 10) - 1);
  EXPECT_EQ(small[8].At<uint32_t>(4), 4 * kGib >> 10);
  EXPECT_EQ(small[8].At<uint32_t>(8), (9 * kGib >> 10) - 1);
  // Beyond the fields that older versions had: 32767 MiB, 2^31 KiB, 2^32 KiB.
  const auto large = with_memory({{0, 3 * kGib}, {4 * kGib, 4093 * kGib}});
  EXPECT_EQ(large[5].At<uint32_t>(7), 0x80000000u);
  EXPECT_EQ(large[5].At<uint64_t>(0x0F), 4096 * kGib);
  EXPECT_EQ(large[6].At<uint16_t>(0x0C), 0x7FFF);
  EXPECT_EQ(large[6].At<uint32_t>(0x1C), 4096u * 1024);
  EXPECT_EQ(large[8].At<uint32_t>(8), 0xFFFFFFFFu);
  EXPECT_EQ(large[8].At<uint64_t>(0x0F), 4 * kGib);
  EXPECT_EQ(large[8].At<uint64_t>(0x17), 4097 * kGib - 1);
}

// dmidecode, which takes a file for physical memory from 0 on.
TEST(SmbiosTablesTest, DmidecodeUnderstandsThem) {
  int status;
  (void)RunCommand("PATH=$PATH:/usr/sbin dmidecode --version", status);
  if (status != 0) GTEST_SKIP() << "dmidecode is not installed";
  char file[] = "/tmp/hvsdk_smbios_XXXXXX";
  const int fd = mkstemp(file);
  ASSERT_GE(fd, 0);
  const std::string bytes = BuildSmbiosTables(Options(), 0);
  EXPECT_EQ(write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  close(fd);
  const std::string output = RunCommand(std::string("PATH=$PATH:/usr/sbin dmidecode --from-dump ") + file, status);
  unlink(file);
  EXPECT_EQ(status, 0) << output;
  for (const char* expected :
       {"SMBIOS 3.0.0 present", "System is a virtual machine", "Serial Number: S-1", "Asset Tag: A-1",
        "UUID: 00112233-4455-6677-8899-aabbccddeeff", "ROM Size: 128 kB", "Maximum Capacity: 8 GB", "Size: 8 GB",
        "Ending Address: 0x000BFFFFFFF", "Core Count: 4", "Status: No errors detected", "End Of Table"}) {
    EXPECT_THAT(output, HasSubstr(expected));
  }
  for (const char* wrong : {"<OUT OF SPEC>", "<BAD INDEX>", "<TRUNCATED>", "rong"}) {
    EXPECT_THAT(output, ::testing::Not(HasSubstr(wrong)));
  }
}

TEST(SmbiosTablesTest, LongestStringsFit) {
  SmbiosOptions options = Options();
  const std::string longest(kMaxSmbiosString, 'x');
  SmbiosIdentity& identity = options.identity;
  for (std::string* text :
       {&identity.manufacturer, &identity.product, &identity.version, &identity.serial, &identity.sku, &identity.family,
        &identity.asset_tag, &identity.bios_vendor, &identity.bios_version}) {
    *text = longest;
  }
  ASSERT_TRUE(ValidateSmbiosIdentity(identity).ok());
  const std::string bytes = BuildSmbiosTables(options, kSmbiosGpa);
  EXPECT_LE(bytes.size(), kMaxSmbiosSize);
  EXPECT_EQ(Walk(bytes, kSmbiosGpa)[3].Text(8), longest);
}

TEST(SmbiosTablesTest, RefusesWhatNoStringMayHold) {
  for (const std::string& text :
       {std::string(kMaxSmbiosString + 1, 'x'), std::string("a\0b", 3), std::string("a\nb"), std::string("\x7F"),
        std::string("caf\xC3\xA9"), std::string(" a"), std::string("a "), std::string(" ")}) {
    const absl::Status status = ValidateSmbiosIdentity({.asset_tag = text});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("asset_tag: "));
  }
}

}  // namespace
}  // namespace hvsdk::boot
