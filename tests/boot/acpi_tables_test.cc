// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/boot/acpi_tables.h"

#include <stdlib.h>

#include <fstream>
#include <map>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "boot/aml.h"
#include "boot/little_endian.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/run_command.h"

namespace hvsdk::boot {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kGpa = 0xE0000;

AcpiOptions Options(uint32_t cpus) {
  AcpiOptions options{.low_mmio = kLowMmio, .high_mmio = {0xFE0000000, 0x20000000}};
  for (uint32_t i = 0; i < cpus; ++i) options.apic_ids.push_back(i);
  return options;
}

const uint8_t* At(const std::string& bytes, uint64_t gpa) {
  EXPECT_GE(gpa, kGpa);
  EXPECT_LT(gpa, kGpa + bytes.size());
  return reinterpret_cast<const uint8_t*>(bytes.data()) + (gpa - kGpa);
}

uint8_t Sum(const uint8_t* from, size_t size) {
  uint8_t sum = 0;
  for (size_t i = 0; i < size; ++i) sum += from[i];
  return sum;
}

// Follows the pointers as a guest does, checks every checksum, and returns the tables by signature.
std::map<std::string, std::string> Walk(const std::string& bytes) {
  std::map<std::string, std::string> tables;
  const auto take = [&](uint64_t gpa) {
    const uint8_t* table = At(bytes, gpa);
    const uint32_t length = Load<uint32_t>(table + 4);
    EXPECT_LE(gpa + length, kGpa + bytes.size());
    EXPECT_EQ(Sum(table, length), 0);
    const std::string text(reinterpret_cast<const char*>(table), length);
    tables[text.substr(0, 4)] = text;
    return text;
  };
  const uint8_t* rsdp = At(bytes, kGpa);
  EXPECT_EQ(absl::string_view(reinterpret_cast<const char*>(rsdp), 8), "RSD PTR ");
  EXPECT_EQ(Sum(rsdp, 20), 0);
  EXPECT_EQ(Sum(rsdp, 36), 0);
  const std::string xsdt = take(Load<uint64_t>(rsdp + 24));
  for (size_t at = 36; at < xsdt.size(); at += 8) {
    const std::string table = take(Load<uint64_t>(reinterpret_cast<const uint8_t*>(xsdt.data()) + at));
    if (table.substr(0, 4) != "FACP") continue;
    const auto* fadt = reinterpret_cast<const uint8_t*>(table.data());
    take(Load<uint64_t>(fadt + 140));
    // Of the tables that have a length the FACS alone has no checksum; it stands on a boundary of 64 bytes.
    EXPECT_EQ(Load<uint32_t>(fadt + 36) % 64, 0u);
    const uint8_t* facs = At(bytes, Load<uint32_t>(fadt + 36));
    tables["FACS"] = std::string(reinterpret_cast<const char*>(facs), Load<uint32_t>(facs + 4));
  }
  return tables;
}

TEST(AcpiTablesTest, PointersAndChecksumsHold) {
  for (uint32_t cpus : {1u, 2u, 64u, 1024u}) {
    const std::string bytes = BuildAcpiTables(Options(cpus), kGpa);
    EXPECT_LE(kGpa + bytes.size(), 0x100000u);  // the room there is for them
    const auto tables = Walk(bytes);
    EXPECT_EQ(tables.count("FACP") + tables.count("APIC") + tables.count("DSDT"), 3u);
    EXPECT_EQ(tables.at("FACP").size(), 276u);
    EXPECT_EQ(tables.at("FACS").size(), 64u);
    EXPECT_EQ(tables.at("FACS").substr(0, 4), "FACS");
  }
}

// ACPI 6.4, table 5.9: what a guest needs for power button, alarm and power-off.
TEST(AcpiTablesTest, FixedHardware) {
  const auto tables = Walk(BuildAcpiTables(Options(2), kGpa));
  const auto* fadt = reinterpret_cast<const uint8_t*>(tables.at("FACP").data());
  EXPECT_EQ(Load<uint16_t>(fadt + 46), 9);       // SCI_INT
  EXPECT_EQ(Load<uint32_t>(fadt + 48), 0u);      // SMI_CMD: always in ACPI mode
  EXPECT_EQ(Load<uint32_t>(fadt + 56), 0x604u);  // PM1a_EVT_BLK
  EXPECT_EQ(Load<uint32_t>(fadt + 64), 0x608u);  // PM1a_CNT_BLK
  EXPECT_EQ(Load<uint32_t>(fadt + 76), 0u);      // PM_TMR_BLK
  EXPECT_EQ(fadt[88], 4);
  EXPECT_EQ(fadt[89], 2);
  EXPECT_EQ(Load<uint32_t>(fadt + 80), 0x60Cu);  // GPE0_BLK
  EXPECT_EQ(fadt[92], 2);
  // Not hardware-reduced (bit 20); power button (4) and alarm (6) are fixed hardware, a sleep button (5) is not.
  EXPECT_EQ(Load<uint32_t>(fadt + 112) & (1 << 20 | 1 << 6 | 1 << 5 | 1 << 4), 1u << 5);
  EXPECT_EQ(tables.at("FACP").substr(148, 12), std::string("\x01\x20\x00\x02\x04\x06\x00\x00\x00\x00\x00\x00", 12));
  EXPECT_EQ(tables.at("FACP").substr(172, 12), std::string("\x01\x10\x00\x02\x08\x06\x00\x00\x00\x00\x00\x00", 12));
  EXPECT_EQ(tables.at("FACP").substr(220, 12), std::string("\x01\x10\x00\x02\x0C\x06\x00\x00\x00\x00\x00\x00", 12));
  EXPECT_EQ(Load<uint32_t>(reinterpret_cast<const uint8_t*>(tables.at("APIC").data()) + 40), 1u);  // 8259s
  // 5.2.12.5: the SCI's input is level-triggered.
  EXPECT_THAT(tables.at("APIC"), HasSubstr(std::string("\x02\x0A\x00\x09\x09\x00\x00\x00\x0D\x00", 10)));
}

TEST(AcpiTablesTest, MadtNamesEveryProcessorOnce) {
  const auto tables = Walk(BuildAcpiTables(Options(300), kGpa));
  const std::string& madt = tables.at("APIC");
  std::map<uint32_t, int> ids;
  for (size_t at = 44; at < madt.size();) {
    const auto* entry = reinterpret_cast<const uint8_t*>(madt.data()) + at;
    if (entry[0] == 0) {
      ++ids[entry[3]];
      EXPECT_LT(entry[3], 255);
    }
    if (entry[0] == 9) {
      ++ids[Load<uint32_t>(entry + 4)];
      EXPECT_GE(Load<uint32_t>(entry + 4), 255u);
    }
    ASSERT_GT(entry[1], 0);
    at += entry[1];
    EXPECT_LE(at, madt.size());
  }
  EXPECT_EQ(ids.size(), 300u);
  for (const auto& [id, count] : ids) EXPECT_EQ(count, 1) << id;
}

TEST(AcpiTablesTest, NoPciBusWithNothingOnIt) {
  EXPECT_THAT(BuildAcpiTables(Options(2), kGpa), testing::Not(HasSubstr("PCI0")));
}

// ACPI 6.4, 20.2.4: a length counts its own bytes.
TEST(AmlTest, PackageLengths) {
  const auto scope = [](size_t body) { return aml::Scope("ABCD", std::string(body, 'x')); };
  EXPECT_EQ(scope(58)[1], 63);
  EXPECT_EQ(scope(59).substr(1, 2), "\x41\x04");        // 2 + 4 + 59 = 65
  EXPECT_EQ(scope(5000).substr(1, 3), "\x8F\x38\x01");  // 3 + 4 + 5000 = 0x138F
}

TEST(AmlTest, GoldenTerms) {
  EXPECT_EQ(aml::EisaId("PNP0501"), "\x0C\x41\xD0\x05\x01");
  EXPECT_EQ(aml::Integer(0), std::string(1, 0));
  EXPECT_EQ(aml::Integer(0x1234), "\x0B\x34\x12");
  EXPECT_EQ(aml::Name("_UID", aml::Integer(1)), "\x08_UID\x01");
  EXPECT_EQ(aml::IoPorts(0x3F8, 8), "\x47\x01\xF8\x03\xF8\x03\x01\x08");
  EXPECT_EQ(aml::Irq(4), std::string("\x22\x10\x00", 3));
  EXPECT_EQ(aml::Method("_E00", aml::Notify("\\_SB_.GENC", 0x80)),
            std::string("\x14\x13_E00\x00\x86\\\x2E_SB_GENC\x0A\x80", 20));
}

// ACPICA's own disassembler and compiler take the tables without a complaint.
TEST(AcpiTablesTest, AcpicaUnderstandsThem) {
  int status;
  (void)RunCommand("iasl -v", status);
  if (status != 0) GTEST_SKIP() << "iasl (acpica-tools) is not installed";
  char folder[] = "/tmp/hvsdk_acpi_XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string base = folder;
  AcpiOptions with_pci = Options(2);
  with_pci.pci_mmio = {0xF8000000, 8 << 20};
  for (const auto& [signature, table] : Walk(BuildAcpiTables(with_pci, kGpa))) {
    const std::string file = absl::StrCat(base, "/", signature);
    std::ofstream(file + ".aml", std::ios::binary) << table;
    const std::string output = RunCommand(absl::StrCat("iasl -d ", file, ".aml"), status);
    EXPECT_EQ(status, 0) << output;
    EXPECT_THAT(output, testing::Not(HasSubstr("Invalid")));
    EXPECT_THAT(output, testing::Not(HasSubstr("Error")));
  }
  std::ifstream dsl(base + "/DSDT.dsl");
  std::stringstream text;
  text << dsl.rdbuf();
  for (const char* expected :
       {"\"VMBus\"", "\"VM_Gen_Counter\"", "0x000DF010", "Method (_E00", "Notify (\\_SB.GENC, 0x80)", "ACPI0004",
        "PNP0501", "PNP0B00", "_S5", "0x0000000FE0000000", "PNP0A03", "WordBusNumber", "0xF87FFFFF"}) {
    EXPECT_THAT(text.str(), HasSubstr(expected));
  }
  // Names that guests look for break the rule that they have seven or eight characters.
  (void)RunCommand(
      absl::StrCat("sed -i -E 's/(_HID|_CID), \"(VMBus|Hyper_V_Gen_Counter_V1|VM_Gen_Counter)\"/\\1, \"VMB0001\"/' ",
                   base, "/DSDT.dsl"),
      status);
  const std::string output = RunCommand(absl::StrCat("iasl -p ", base, "/again ", base, "/DSDT.dsl"), status);
  EXPECT_EQ(status, 0) << output;
  EXPECT_THAT(output, HasSubstr("0 Errors, 0 Warnings")) << output;
  (void)RunCommand(absl::StrCat("rm -r ", base), status);
}

}  // namespace
}  // namespace hvsdk::boot
