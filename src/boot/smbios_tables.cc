// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/boot/smbios_tables.h"

#include <algorithm>
#include <type_traits>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "boot/little_endian.h"

namespace hvsdk::boot {
namespace {

constexpr uint8_t kMajor = 3, kMinor = 0;
constexpr size_t kEntry64Size = 24, kEntry32Size = 31;
constexpr size_t kTableOffset = 64;  // behind both entry points, each on a boundary of 16 bytes
static_assert(kEntry64Size <= 32 && 32 + kEntry32Size <= kTableOffset);

// What a field says of which nothing is known.
constexpr uint8_t kUnknown = 2;
constexpr uint16_t kNoHandle = 0xFFFF;
// Handles are the structures' own names for each other.
enum Handle : uint16_t { kBios, kSystem, kBoard, kChassis, kProcessor, kArray, kDevice, kBoot, kMapped, kEnd = 0x7F00 };

// 6.1.2, 6.1.3: a header, fixed fields, then the strings that those name by their position.
class Structure {
 public:
  Structure(uint8_t type, Handle handle, uint16_t index = 0) {
    Append<uint8_t>(fields_, type);
    Append<uint8_t>(fields_, 0);  // its length, by Finish
    Append<uint16_t>(fields_, handle + index);
  }
  template <typename T>
  Structure& Add(std::type_identity_t<T> value) {
    Append<T>(fields_, value);
    return *this;
  }
  Structure& Bytes(absl::string_view bytes) {
    absl::StrAppend(&fields_, bytes);
    return *this;
  }
  Structure& Text(absl::string_view text) {
    if (text.empty()) return Add<uint8_t>(0);
    absl::StrAppend(&strings_, text, absl::string_view("\0", 1));
    return Add<uint8_t>(++count_);
  }
  // `length` is what the version that the entry points name prescribes.
  std::string Finish(size_t length) {
    HVSDK_CHECK(fields_.size() == length);
    fields_[1] = static_cast<char>(length);
    if (strings_.empty()) strings_.push_back('\0');
    return absl::StrCat(fields_, strings_, absl::string_view("\0", 1));
  }

 private:
  std::string fields_, strings_;
  uint8_t count_ = 0;
};

// 7.1
std::string BiosInformation(const SmbiosIdentity& identity) {
  constexpr uint64_t kCharacteristicsNotSupported = 1 << 3;
  constexpr uint8_t kAcpi = 1 << 0;            // extension byte 1
  constexpr uint8_t kVirtualMachine = 1 << 4;  // extension byte 2
  return Structure(0, kBios)
      .Text(identity.bios_vendor)
      .Text(identity.bios_version.empty() ? HVSDK_VERSION : identity.bios_version)
      .Add<uint16_t>(0xE000)  // where it begins, as a segment
      .Text("01/01/2026")     // Linux takes firmware from before 2008 for one with bad tables
      .Add<uint8_t>(1)        // 128 KiB of ROM
      .Add<uint64_t>(kCharacteristicsNotSupported)
      .Add<uint8_t>(kAcpi)
      .Add<uint8_t>(kVirtualMachine)
      .Add<uint16_t>(0xFFFF)  // its release: the version is no pair of numbers
      .Add<uint16_t>(0xFFFF)  // no embedded controller
      .Finish(0x18);
}

// 7.2
std::string SystemInformation(const SmbiosIdentity& identity) {
  constexpr uint8_t kPowerSwitch = 6;
  const hvdef::Guid uuid = identity.uuid.value_or(hvdef::Guid{});
  Structure structure(1, kSystem);
  structure.Text(identity.manufacturer).Text(identity.product).Text(identity.version).Text(identity.serial);
  // 7.2.1: the first three fields are little-endian, which is a Guid's own layout.
  structure.Add<uint32_t>(uuid.data1).Add<uint16_t>(uuid.data2).Add<uint16_t>(uuid.data3);
  for (const uint8_t byte : uuid.data4) structure.Add<uint8_t>(byte);
  structure.Add<uint8_t>(kPowerSwitch).Text(identity.sku).Text(identity.family);
  return structure.Finish(0x1B);
}

// 7.3
std::string BaseboardInformation(const SmbiosIdentity& identity) {
  constexpr uint8_t kHostingBoard = 1, kMotherboard = 10;
  Structure structure(2, kBoard);
  structure.Text(identity.manufacturer).Text(identity.product).Text(identity.version).Text(identity.serial);
  structure.Text("").Add<uint8_t>(kHostingBoard).Text("").Add<uint16_t>(kChassis).Add<uint8_t>(kMotherboard);
  structure.Add<uint8_t>(0);  // contained objects
  return structure.Finish(0x0F);
}

// 7.4
std::string ChassisInformation(const SmbiosIdentity& identity) {
  constexpr uint8_t kDesktop = 3, kSafe = 3;
  Structure structure(3, kChassis);
  structure.Text(identity.manufacturer).Add<uint8_t>(kDesktop).Text(identity.version).Text(identity.serial);
  structure.Text(identity.asset_tag);
  structure.Add<uint8_t>(kSafe).Add<uint8_t>(kSafe).Add<uint8_t>(kSafe);  // at start, power, temperature
  structure.Add<uint8_t>(kUnknown);                                       // security
  structure.Add<uint32_t>(0);                                             // the manufacturer's own
  structure.Add<uint8_t>(0).Add<uint8_t>(0);                              // height, power cords: not specified
  structure.Add<uint8_t>(0).Add<uint8_t>(0);                              // contained elements: none, of no size
  structure.Text(identity.sku);
  return structure.Finish(0x16);
}

const backend::CpuidEntry* FindLeaf(const std::vector<backend::CpuidEntry>& cpuid, uint32_t leaf) {
  const auto found = std::find_if(cpuid.begin(), cpuid.end(), [&](const auto& entry) { return entry.leaf == leaf; });
  return found == cpuid.end() ? nullptr : &*found;
}

// A name out of CPUID registers, without the spaces and zeroes around it. An engine's processor may have any.
std::string ProcessorText(std::string raw) {
  for (char& c : raw) c = absl::ascii_isprint(static_cast<unsigned char>(c)) ? c : ' ';
  return std::string(absl::StripAsciiWhitespace(raw));
}

// 7.5: one package with a core for each virtual processor, as CPUID has it.
std::string ProcessorInformation(const SmbiosOptions& options) {
  constexpr uint8_t kCentral = 3, kPopulatedAndEnabled = 0x41;
  constexpr uint16_t k64Bit = 1 << 2, kMultiCore = 1 << 3;
  std::string vendor, brand;
  if (const auto* leaf = FindLeaf(options.cpuid, 0)) {
    for (const uint32_t word : {leaf->ebx, leaf->edx, leaf->ecx}) Append<uint32_t>(vendor, word);
  }
  for (uint32_t number = 0x80000002; number <= 0x80000004; ++number) {
    const auto* leaf = FindLeaf(options.cpuid, number);
    if (leaf == nullptr) break;
    for (const uint32_t word : {leaf->eax, leaf->ebx, leaf->ecx, leaf->edx}) Append<uint32_t>(brand, word);
  }
  const auto* signature = FindLeaf(options.cpuid, 1);
  const uint8_t cores = static_cast<uint8_t>(std::min(options.cpus, 255u));  // 255: see the 16 bits
  Structure structure(4, kProcessor);
  structure.Text("CPU 0").Add<uint8_t>(kCentral).Add<uint8_t>(kUnknown).Text(ProcessorText(vendor));
  structure.Add<uint32_t>(signature == nullptr ? 0 : signature->eax);
  structure.Add<uint32_t>(signature == nullptr ? 0 : signature->edx);
  structure.Text(ProcessorText(brand));
  structure.Add<uint8_t>(0);                                                   // voltage
  structure.Add<uint16_t>(0).Add<uint16_t>(0).Add<uint16_t>(0);                // clock, its maximum and now: unknown
  structure.Add<uint8_t>(kPopulatedAndEnabled).Add<uint8_t>(kUnknown);         // status, upgrade
  for (int cache = 0; cache < 3; ++cache) structure.Add<uint16_t>(kNoHandle);  // CPUID tells them
  structure.Text("").Text("").Text("");                                        // serial number, asset tag, part
  for (int count = 0; count < 3; ++count) structure.Add<uint8_t>(cores);       // cores, enabled ones, threads
  structure.Add<uint16_t>(options.cpus > 1 ? k64Bit | kMultiCore : k64Bit).Add<uint16_t>(kUnknown);  // family, see next
  for (int count = 0; count < 3; ++count) structure.Add<uint16_t>(options.cpus);
  return structure.Finish(0x30);
}

// 7.17
std::string MemoryArray(uint64_t bytes) {
  constexpr uint8_t kOnBoard = 3, kSystemMemory = 3, kNoErrorCorrection = 3;
  constexpr uint16_t kNoErrorInformation = 0xFFFE;
  constexpr uint32_t kExtended = 0x80000000;  // KiB in 31 bits, or see the 64-bit field
  const uint64_t kib = bytes >> 10;
  return Structure(16, kArray)
      .Add<uint8_t>(kOnBoard)
      .Add<uint8_t>(kSystemMemory)
      .Add<uint8_t>(kNoErrorCorrection)
      .Add<uint32_t>(kib < kExtended ? kib : kExtended)
      .Add<uint16_t>(kNoErrorInformation)
      .Add<uint16_t>(1)  // devices
      .Add<uint64_t>(kib < kExtended ? 0 : bytes)
      .Finish(0x17);
}

// 7.18: all memory is one device.
std::string MemoryDevice(const SmbiosIdentity& identity, uint64_t bytes) {
  constexpr uint16_t kNoErrorInformation = 0xFFFE, kExtended = 0x7FFF, kTypeUnknown = 1 << 2;
  const uint64_t mib = bytes >> 20;
  Structure structure(17, kDevice);
  structure.Add<uint16_t>(kArray).Add<uint16_t>(kNoErrorInformation);
  structure.Add<uint16_t>(0xFFFF).Add<uint16_t>(0xFFFF);  // width: unknown
  structure.Add<uint16_t>(mib < kExtended ? mib : kExtended);
  structure.Add<uint8_t>(kUnknown).Add<uint8_t>(0).Text("M0").Text("");  // form, set, where it is, bank
  structure.Add<uint8_t>(kUnknown).Add<uint16_t>(kTypeUnknown).Add<uint16_t>(0);
  structure.Text(identity.manufacturer).Text("").Text("").Text("");  // serial number, asset tag, part
  structure.Add<uint8_t>(0);                                         // rank
  structure.Add<uint32_t>(mib < kExtended ? 0 : mib);
  structure.Add<uint16_t>(0).Add<uint16_t>(0).Add<uint16_t>(0).Add<uint16_t>(0);  // speed, voltages
  return structure.Finish(0x28);
}

// 7.20
std::string MappedRange(const GpaRange& range, uint16_t index) {
  constexpr uint32_t kExtended = 0xFFFFFFFF;
  const uint64_t first_kib = range.gpa >> 10, last_kib = (range.end() - 1) >> 10;
  const bool extended = last_kib >= kExtended;
  return Structure(19, kMapped, index)
      .Add<uint32_t>(extended ? kExtended : first_kib)
      .Add<uint32_t>(extended ? kExtended : last_kib)
      .Add<uint16_t>(kArray)
      .Add<uint8_t>(1)  // devices in a row
      .Add<uint64_t>(extended ? range.gpa : 0)
      .Add<uint64_t>(extended ? range.end() - 1 : 0)
      .Finish(0x1F);
}

uint8_t Checksum(absl::string_view bytes) {
  uint8_t sum = 0;
  for (const char byte : bytes) sum += static_cast<uint8_t>(byte);
  return static_cast<uint8_t>(-sum);
}

// 5.2.2
std::string Entry64(size_t table_size, uint64_t table_gpa) {
  std::string entry = "_SM3_";
  Append<uint8_t>(entry, 0);  // checksum
  Append<uint8_t>(entry, kEntry64Size);
  Append<uint8_t>(entry, kMajor);
  Append<uint8_t>(entry, kMinor);
  Append<uint8_t>(entry, 0);  // of the specification
  Append<uint8_t>(entry, 1);  // of the entry point
  Append<uint8_t>(entry, 0);
  Append<uint32_t>(entry, table_size);
  Append<uint64_t>(entry, table_gpa);
  entry[5] = static_cast<char>(Checksum(entry));
  return entry;
}

// 5.2.1
std::string Entry32(const std::vector<std::string>& structures, size_t table_size, uint64_t table_gpa) {
  constexpr size_t kIntermediate = 16;
  size_t largest = 0;
  for (const std::string& structure : structures) largest = std::max(largest, structure.size());
  std::string entry = "_SM_";
  Append<uint8_t>(entry, 0);  // checksum
  Append<uint8_t>(entry, kEntry32Size);
  Append<uint8_t>(entry, kMajor);
  Append<uint8_t>(entry, kMinor);
  Append<uint16_t>(entry, largest);
  Append<uint8_t>(entry, 0);  // of the entry point
  entry.append(5, '\0');
  absl::StrAppend(&entry, "_DMI_");
  Append<uint8_t>(entry, 0);  // checksum of this part
  Append<uint16_t>(entry, table_size);
  Append<uint32_t>(entry, table_gpa);
  Append<uint16_t>(entry, structures.size());
  Append<uint8_t>(entry, kMajor << 4 | kMinor);
  entry[kIntermediate + 5] = static_cast<char>(Checksum(absl::string_view(entry).substr(kIntermediate)));
  entry[4] = static_cast<char>(Checksum(entry));
  return entry;
}

}  // namespace

absl::Status ValidateSmbiosIdentity(const SmbiosIdentity& identity) {
  const struct {
    absl::string_view name;
    const std::string& text;
  } kStrings[] = {{"manufacturer", identity.manufacturer},
                  {"product", identity.product},
                  {"version", identity.version},
                  {"serial", identity.serial},
                  {"sku", identity.sku},
                  {"family", identity.family},
                  {"asset_tag", identity.asset_tag},
                  {"bios_vendor", identity.bios_vendor},
                  {"bios_version", identity.bios_version}};
  for (const auto& [name, text] : kStrings) {
    if (text.size() > kMaxSmbiosString) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: longer than %d characters", name, kMaxSmbiosString));
    }
    if (!std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; })) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: not printable ASCII", name));
    }
    if (absl::StripAsciiWhitespace(text) != text) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: begins or ends with a space", name));
    }
  }
  return absl::OkStatus();
}

std::string BuildSmbiosTables(const SmbiosOptions& options, uint64_t gpa) {
  HVSDK_CHECK(gpa % 16 == 0 && ValidateSmbiosIdentity(options.identity).ok());
  uint64_t memory_bytes = 0;
  for (const GpaRange& range : options.memory) memory_bytes += range.size_bytes;
  std::vector<std::string> structures = {BiosInformation(options.identity),
                                         SystemInformation(options.identity),
                                         BaseboardInformation(options.identity),
                                         ChassisInformation(options.identity),
                                         ProcessorInformation(options),
                                         MemoryArray(memory_bytes),
                                         MemoryDevice(options.identity, memory_bytes)};
  for (size_t i = 0; i < options.memory.size(); ++i) structures.push_back(MappedRange(options.memory[i], i));
  structures.push_back(Structure(32, kBoot).Bytes(std::string(6 + 1, '\0')).Finish(0x0B));  // 7.33: no errors
  structures.push_back(Structure(127, kEnd).Finish(4));                                     // 7.46

  std::string table;
  for (const std::string& structure : structures) table += structure;
  std::string bytes = Entry64(table.size(), gpa + kTableOffset);
  bytes.resize(32);
  bytes += Entry32(structures, table.size(), gpa + kTableOffset);
  bytes.resize(kTableOffset);
  bytes += table;
  HVSDK_CHECK(bytes.size() <= kMaxSmbiosSize);
  return bytes;
}

}  // namespace hvsdk::boot
