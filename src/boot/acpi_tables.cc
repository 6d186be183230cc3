// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/boot/acpi_tables.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "boot/aml.h"
#include "boot/little_endian.h"
#include "hvsdk/chipset/power.h"
#include "hvsdk/chipset/rtc.h"
#include "hvsdk/chipset/uart16550.h"

namespace hvsdk::boot {
namespace {

constexpr absl::string_view kOemId = "HVSDK ";
constexpr absl::string_view kOemTableId = "MACHINE ";
constexpr size_t kHeaderSize = 36;
constexpr size_t kChecksumOffset = 9;

uint8_t Checksum(absl::string_view bytes) {
  uint8_t sum = 0;
  for (const char byte : bytes) sum += static_cast<uint8_t>(byte);
  return static_cast<uint8_t>(-sum);
}

// 5.2.3.2: I/O ports as a generic address structure.
void AppendPorts(std::string& to, uint64_t port, uint8_t size_bytes) {
  constexpr uint8_t kIoSpace = 1, kByteAccess = 1, kWordAccess = 2;
  Append<uint8_t>(to, kIoSpace);
  Append<uint8_t>(to, 8 * size_bytes);
  Append<uint8_t>(to, 0);
  Append<uint8_t>(to, size_bytes == 1 ? kByteAccess : kWordAccess);
  Append<uint64_t>(to, port);
}

// 5.2.9, table 5.9. What there is not of the fixed hardware has addresses of zero.
std::string Fadt(uint64_t dsdt_gpa, uint64_t facs_gpa, bool serial_port) {
  using Power = chipset::AcpiPower;
  constexpr uint16_t kLegacyDevices = 1 << 0;  // the serial port
  constexpr uint16_t kNoVga = 1 << 2;
  constexpr uint32_t kWbinvd = 1 << 0;
  constexpr uint32_t kC1 = 1 << 2;  // HLT
  constexpr uint32_t kNoSleepButton = 1 << 5;
  constexpr uint32_t kResetRegister = 1 << 10;
  constexpr uint16_t kNoC2 = 101, kNoC3 = 1001;  // microseconds
  std::string body;
  const auto pad_to = [&](size_t offset) {
    HVSDK_CHECK(body.size() + kHeaderSize <= offset);
    body.resize(offset - kHeaderSize);
  };
  Append<uint32_t>(body, facs_gpa);  // 36 FIRMWARE_CTRL
  Append<uint32_t>(body, dsdt_gpa);  // 40 DSDT
  pad_to(46);
  Append<uint16_t>(body, kSciIrq);  // 46 SCI_INT
  pad_to(56);
  Append<uint32_t>(body, kPowerPort + Power::kPm1Event);  // 56 PM1a_EVT_BLK
  pad_to(64);
  Append<uint32_t>(body, kPowerPort + Power::kPm1Control);  // 64 PM1a_CNT_BLK
  pad_to(80);
  Append<uint32_t>(body, kPowerPort + Power::kGpe0);  // 80 GPE0_BLK
  pad_to(88);
  Append<uint8_t>(body, Power::kPm1EventSize);    // 88 PM1_EVT_LEN
  Append<uint8_t>(body, Power::kPm1ControlSize);  // 89 PM1_CNT_LEN
  pad_to(92);
  Append<uint8_t>(body, Power::kGpe0Size);  // 92 GPE0_BLK_LEN
  pad_to(96);
  Append<uint16_t>(body, kNoC2);  // 96 P_LVL2_LAT
  Append<uint16_t>(body, kNoC3);  // 98 P_LVL3_LAT
  pad_to(108);
  Append<uint8_t>(body, chipset::Rtc::kCenturyIndex);                   // 108 CENTURY
  Append<uint16_t>(body, (serial_port ? kLegacyDevices : 0) | kNoVga);  // 109 IAPC_BOOT_ARCH
  pad_to(112);
  Append<uint32_t>(body, kWbinvd | kC1 | kNoSleepButton | kResetRegister);  // 112 Flags
  AppendPorts(body, kPowerPort + Power::kReset, 1);                         // 116 RESET_REG
  Append<uint8_t>(body, Power::kResetValue);                                // 128 RESET_VALUE
  pad_to(131);
  Append<uint8_t>(body, 4);  // 131 minor version
  pad_to(140);
  Append<uint64_t>(body, dsdt_gpa);                                        // 140 X_DSDT
  AppendPorts(body, kPowerPort + Power::kPm1Event, Power::kPm1EventSize);  // 148 X_PM1a_EVT_BLK
  pad_to(172);
  AppendPorts(body, kPowerPort + Power::kPm1Control, Power::kPm1ControlSize);  // 172 X_PM1a_CNT_BLK
  pad_to(220);
  AppendPorts(body, kPowerPort + Power::kGpe0, Power::kGpe0Size);  // 220 X_GPE0_BLK
  pad_to(244);
  AppendPorts(body, kPowerPort + Power::kSleepControl, 1);  // 244 SLEEP_CONTROL_REG
  AppendPorts(body, kPowerPort + Power::kSleepStatus, 1);   // 256 SLEEP_STATUS_REG
  absl::StrAppend(&body, "MsHyperV");                       // 268 Hypervisor Vendor Identity
  HVSDK_CHECK(body.size() + kHeaderSize == 276);
  return MakeAcpiTable("FACP", 6, body);
}

// 5.2.10. It has no checksum, for the guest writes to it.
std::string Facs() {
  constexpr uint8_t kSize = 64, kVersion = 2;
  std::string facs = "FACS";
  Append<uint32_t>(facs, kSize);
  facs.resize(32);
  Append<uint8_t>(facs, kVersion);
  facs.resize(kSize);
  return facs;
}

// 5.2.12. Processors that the 8 bits of a local APIC entry cannot name get an x2APIC entry.
std::string Madt(absl::Span<const uint32_t> apic_ids) {
  constexpr uint8_t kLocalApic = 0, kIoApic = 1, kSourceOverride = 2, kLocalApicNmi = 4, kLocalX2apic = 9,
                    kLocalX2apicNmi = 10;
  constexpr uint32_t kPcAtCompatible = 1;  // there are 8259s
  constexpr uint32_t kEnabled = 1;
  constexpr uint32_t kFirstX2apicId = 255;
  std::string body;
  Append<uint32_t>(body, kLocalApicGpa);
  Append<uint32_t>(body, kPcAtCompatible);
  bool x2apic = false;
  for (uint32_t uid = 0; uid < apic_ids.size(); ++uid) {
    const uint32_t id = apic_ids[uid];
    // An x2APIC entry holds any processor UID too; a local APIC entry's has 8 bits.
    if (id < kFirstX2apicId && uid < 256) {
      Append<uint8_t>(body, kLocalApic);
      Append<uint8_t>(body, 8);
      Append<uint8_t>(body, uid);
      Append<uint8_t>(body, id);
      Append<uint32_t>(body, kEnabled);
    } else {
      x2apic = true;
      Append<uint8_t>(body, kLocalX2apic);
      Append<uint8_t>(body, 16);
      Append<uint16_t>(body, 0);
      Append<uint32_t>(body, id);
      Append<uint32_t>(body, kEnabled);
      Append<uint32_t>(body, uid);
    }
  }
  Append<uint8_t>(body, kIoApic);
  Append<uint8_t>(body, 12);
  Append<uint8_t>(body, 0);  // its APIC id
  Append<uint8_t>(body, 0);
  Append<uint32_t>(body, kIoApicGpa);
  Append<uint32_t>(body, 0);  // its first global interrupt
  // The SCI is level-triggered, as the others of the ISA bus are not, and active high.
  Append<uint8_t>(body, kSourceOverride);
  Append<uint8_t>(body, 10);
  Append<uint8_t>(body, 0);  // ISA
  Append<uint8_t>(body, kSciIrq);
  Append<uint32_t>(body, kSciIrq);
  Append<uint16_t>(body, 0x0D);
  // LINT1 of every processor is its NMI, edge-triggered and active high as the bus has it.
  Append<uint8_t>(body, kLocalApicNmi);
  Append<uint8_t>(body, 6);
  Append<uint8_t>(body, 0xFF);
  Append<uint16_t>(body, 0);
  Append<uint8_t>(body, 1);
  if (x2apic) {
    Append<uint8_t>(body, kLocalX2apicNmi);
    Append<uint8_t>(body, 12);
    Append<uint16_t>(body, 0);
    Append<uint32_t>(body, 0xFFFFFFFF);
    Append<uint8_t>(body, 1);
    body.append(3, '\0');
  }
  return MakeAcpiTable("APIC", 5, body);
}

std::string Dsdt(const AcpiOptions& options) {
  using namespace aml;
  constexpr uint64_t kPresent = 0x0F;
  // Hyper-V's own firmware names the bus so; guests' drivers look for the _HID and take the MMIO windows from the
  // nearest ancestor that has any.
  // Linux' looks at the ancestors only once it has found resources of the bus itself, though there be none among them
  // (drivers/hv/vmbus_drv.c); before there was a device that wants MMIO, nobody missed that.
  const std::string vmbus_resources = options.pci_mmio.size_bytes == 0 ? "" : Name("_CRS", ResourceTemplate(""));
  const std::string vmbus = Device(
      "VMOD", absl::StrCat(Name("_HID", String("ACPI0004")), Name("_UID", Integer(0)),
                           Name("_CRS", ResourceTemplate(absl::StrCat(
                                            MemoryWindow32(options.low_mmio.gpa, options.low_mmio.size_bytes),
                                            MemoryWindow64(options.high_mmio.gpa, options.high_mmio.size_bytes)))),
                           Device("VMBS", absl::StrCat(Name("_HID", String("VMBus")), Name("_UID", Integer(0)),
                                                       Name("_DDN", String("VMBUS")), Name("_STA", Integer(kPresent)),
                                                       vmbus_resources))));
  const std::string pci =
      options.pci_mmio.size_bytes == 0
          ? ""
          : Device("PCI0",
                   absl::StrCat(Name("_HID", EisaId("PNP0A03")), Name("_UID", Integer(0)), Name("_BBN", Integer(0)),
                                Name("_CRS", ResourceTemplate(absl::StrCat(
                                                 BusNumbers(0, 1), IoPorts(0xCF8, 8),
                                                 MemoryWindow32(options.pci_mmio.gpa, options.pci_mmio.size_bytes))))));
  const std::string serial =
      !options.serial_port
          ? ""
          : Device(
                "COM1",
                absl::StrCat(Name("_HID", EisaId("PNP0501")), Name("_UID", Integer(1)), Name("_STA", Integer(kPresent)),
                             Name("_CRS", ResourceTemplate(absl::StrCat(
                                              IoPorts(kSerialPort, chipset::Uart16550::kPorts), Irq(kSerialIrq))))));
  const std::string rtc = Device(
      "RTC0", absl::StrCat(
                  Name("_HID", EisaId("PNP0B00")),
                  Name("_CRS", ResourceTemplate(absl::StrCat(IoPorts(kRtcPort, chipset::Rtc::kPorts), Irq(kRtcIrq))))));
  // What guests look for is the _CID; the _HID is Hyper-V's own. Its address is a package of the low and the high half.
  const std::string generation_id = Device(
      "GENC",
      absl::StrCat(Name("_HID", String("Hyper_V_Gen_Counter_V1")), Name("_CID", String("VM_Gen_Counter")),
                   Name("_UID", Integer(0)), Name("_DDN", String("VM_Gen_Counter")),
                   Name("ADDR", Package({Integer(kGenerationIdGpa & 0xFFFFFFFF), Integer(kGenerationIdGpa >> 32)}))));
  // 5.6.4.1: an edge's method is called once its status is clear, so that a change which comes meanwhile calls it again.
  constexpr uint8_t kIdHasChanged = 0x80;
  const std::string events = Scope("\\_GPE", Method(absl::StrFormat("_E%02X", chipset::AcpiPower::kGenerationIdGpe),
                                                    Notify("\\_SB_.GENC", kIdHasChanged)));
  // 7.4.2: the sleep type that the control registers take for S5, twice.
  const std::string s5 = Name("\\_S5_", Package({Integer(chipset::AcpiPower::kSleepTypeOff),
                                                 Integer(chipset::AcpiPower::kSleepTypeOff), Integer(0), Integer(0)}));
  return MakeAcpiTable(
      "DSDT", 2,
      absl::StrCat(
          s5, Scope("\\_SB_", absl::StrCat(vmbus, pci, serial, rtc, generation_id, absl::StrJoin(options.devices, ""))),
          events));
}

}  // namespace

std::string MakeAcpiTable(absl::string_view signature, uint8_t revision, absl::string_view body) {
  std::string table(signature);
  table.resize(4, ' ');
  Append<uint32_t>(table, kHeaderSize + body.size());
  Append<uint8_t>(table, revision);
  Append<uint8_t>(table, 0);
  absl::StrAppend(&table, kOemId, kOemTableId);
  Append<uint32_t>(table, 1);
  absl::StrAppend(&table, "HVSD");
  Append<uint32_t>(table, 1);
  HVSDK_CHECK(table.size() == kHeaderSize);
  absl::StrAppend(&table, body);
  table[kChecksumOffset] = static_cast<char>(Checksum(table));
  return table;
}

std::string BuildAcpiTables(const AcpiOptions& options, uint64_t gpa) {
  constexpr size_t kRsdpSize = 36;
  constexpr size_t kFacsAlignment = 64;
  HVSDK_CHECK(gpa % kFacsAlignment == 0);
  std::string bytes;
  bytes.resize(kRsdpSize);
  const auto place = [&](const std::string& table) {
    bytes.resize((bytes.size() + 15) / 16 * 16);
    const uint64_t at = gpa + bytes.size();
    bytes += table;
    return at;
  };
  bytes.resize(kFacsAlignment);
  const uint64_t facs = place(Facs());
  const uint64_t dsdt = place(Dsdt(options));
  std::string pointers;
  Append<uint64_t>(pointers, place(Fadt(dsdt, facs, options.serial_port)));
  Append<uint64_t>(pointers, place(Madt(options.apic_ids)));
  for (const std::string& table : options.tables) Append<uint64_t>(pointers, place(table));
  const uint64_t xsdt = place(MakeAcpiTable("XSDT", 1, pointers));
  HVSDK_CHECK(gpa + bytes.size() <= uint64_t{1} << 32);

  // 5.2.5.3: RSDP; its first checksum covers the 20 bytes of version 1.
  std::string rsdp = "RSD PTR ";
  Append<uint8_t>(rsdp, 0);
  absl::StrAppend(&rsdp, kOemId);
  Append<uint8_t>(rsdp, 2);
  Append<uint32_t>(rsdp, 0);  // no RSDT
  rsdp[8] = static_cast<char>(Checksum(rsdp));
  Append<uint32_t>(rsdp, kRsdpSize);
  Append<uint64_t>(rsdp, xsdt);
  Append<uint32_t>(rsdp, 0);
  rsdp[32] = static_cast<char>(Checksum(rsdp));
  bytes.replace(0, kRsdpSize, rsdp);
  return bytes;
}

}  // namespace hvsdk::boot
