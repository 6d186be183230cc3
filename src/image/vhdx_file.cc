// SPDX-License-Identifier: Apache-2.0
#include "image/vhdx_file.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/utf16.h"
#include "image/blocking.h"
#include "image/crc32c.h"

namespace hvsdk::internal::vhdx {
namespace {

template <typename T>
T Get(absl::Span<const uint8_t> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

absl::Status Damaged(absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat("VHDX: ", what)); }

// A structure whose second word is the checksum of all, taken with that word zero.
bool IsWhole(std::vector<uint8_t> bytes) {
  const auto checksum = Get<uint32_t>(bytes, 4);
  std::memset(&bytes[4], 0, 4);
  return Crc32c(bytes) == checksum;
}
void Seal(std::vector<uint8_t>& bytes) {
  std::memset(&bytes[4], 0, 4);
  const uint32_t checksum = Crc32c(bytes);
  std::memcpy(&bytes[4], &checksum, 4);
}

struct Range {
  uint64_t offset, bytes;
  const char* what;
};

// Whole MiB behind the header section, within the file.
absl::Status CheckRegion(const ImageFile& file, const Range& region) {
  if (region.offset < kMiB || region.offset % kMiB != 0 || region.bytes == 0 || region.bytes % kMiB != 0) {
    return Damaged(absl::StrCat("the ", region.what, " lies at byte ", region.offset, " with ", region.bytes,
                                " bytes, which is not whole MiB behind the header"));
  }
  if (region.offset > file.size_bytes() || region.bytes > file.size_bytes() - region.offset) {
    return Damaged(absl::StrCat("the ", region.what, " ends behind the file, which is truncated"));
  }
  return absl::OkStatus();
}

absl::Status ReadRegions(ImageFile& file, const Header& header, Geometry& geometry) {
  std::vector<uint8_t> table(kRegionTableBytes);
  bool found = false;
  for (const uint64_t offset : kRegionTableOffsets) {
    if (Read(file, offset, absl::MakeSpan(table)) != BlockStatus::kOk) continue;
    if (Get<uint32_t>(table, 0) == kRegionSignature && IsWhole(table)) {
      found = true;
      break;
    }
  }
  if (!found) return Damaged("neither region table is whole");
  const auto head = Get<RegionTableHeader>(table, 0);
  if (head.entry_count > kMaxRegions) return Damaged("its region table has more entries than fit");
  for (uint32_t i = 0; i < head.entry_count; ++i) {
    const auto entry = Get<RegionEntry>(table, sizeof(RegionTableHeader) + i * sizeof(RegionEntry));
    if (entry.guid == kBatRegion) {
      if (geometry.bat_bytes != 0) return Damaged("it has two allocation tables");
      geometry.bat_offset = entry.file_offset;
      geometry.bat_bytes = entry.length;
      RETURN_IF_ERROR(CheckRegion(file, {entry.file_offset, entry.length, "allocation table"}));
    } else if (entry.guid == kMetadataRegion) {
      if (geometry.metadata_bytes != 0) return Damaged("it has two metadata regions");
      geometry.metadata_offset = entry.file_offset;
      geometry.metadata_bytes = entry.length;
      RETURN_IF_ERROR(CheckRegion(file, {entry.file_offset, entry.length, "metadata region"}));
    } else if ((entry.required & 1) != 0) {
      return Damaged(absl::StrCat("it needs the region ", FormatGuid(entry.guid), ", which nobody here knows"));
    } else if (entry.file_offset < file.size_bytes()) {
      geometry.other_regions.emplace_back(entry.file_offset, entry.length);
    }
  }
  if (geometry.bat_bytes == 0) return Damaged("it has no allocation table");
  if (geometry.metadata_bytes == 0) return Damaged("it has no metadata region");
  const Range ranges[] = {{geometry.bat_offset, geometry.bat_bytes, "allocation table"},
                          {geometry.metadata_offset, geometry.metadata_bytes, "metadata region"},
                          {header.log_offset, header.log_length, "log"}};
  for (const Range& a : ranges) {
    for (const Range& b : ranges) {
      if (&a < &b && a.bytes != 0 && b.bytes != 0 && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes) {
        return Damaged(absl::StrCat("its ", a.what, " and its ", b.what, " overlap"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status ReadParentLocator(absl::Span<const uint8_t> item, Geometry& geometry) {
  if (item.size() < sizeof(ParentLocatorHeader)) return Damaged("its parent locator is cut off");
  const auto head = Get<ParentLocatorHeader>(item, 0);
  if (head.type != kVhdxParentLocator)
    return Damaged(absl::StrCat("its parent locator is of the unknown type ", FormatGuid(head.type)));
  for (uint32_t i = 0; i < head.key_value_count; ++i) {
    const size_t at = sizeof(ParentLocatorHeader) + i * sizeof(ParentLocatorEntry);
    if (at + sizeof(ParentLocatorEntry) > item.size()) return Damaged("its parent locator is cut off");
    const auto entry = Get<ParentLocatorEntry>(item, at);
    const auto text = [&](uint32_t offset, uint16_t length) -> absl::Span<const uint8_t> {
      if (offset > item.size() || length > item.size() - offset) return {};
      return item.subspan(offset, length);
    };
    const std::string key = FromUtf16(text(entry.key_offset, entry.key_length));
    geometry.parent_locator[key] = FromUtf16(text(entry.value_offset, entry.value_length));
  }
  return absl::OkStatus();
}

absl::Status ReadMetadata(ImageFile& file, Geometry& geometry) {
  std::vector<uint8_t> table(kMetadataTableBytes);
  RETURN_IF_ERROR(ToStatus(Read(file, geometry.metadata_offset, absl::MakeSpan(table)), "VHDX: metadata"));
  const auto head = Get<MetadataTableHeader>(table, 0);
  if (std::memcmp(head.signature, kMetadataSignature, sizeof(kMetadataSignature)) != 0) {
    return Damaged("its metadata table has no signature");
  }
  if (head.entry_count > kMaxMetadataEntries) return Damaged("its metadata table has more entries than fit");
  uint32_t seen = 0;
  for (uint32_t i = 0; i < head.entry_count; ++i) {
    const auto entry = Get<MetadataEntry>(table, sizeof(MetadataTableHeader) + i * sizeof(MetadataEntry));
    const bool is_user = (entry.flags & kItemIsUser) != 0;
    const Guid* const known[] = {&kFileParametersItem, &kDiskSizeItem,       &kDiskIdItem,
                                 &kLogicalSectorItem,  &kPhysicalSectorItem, &kParentLocatorItem};
    const auto* const which =
        std::find_if(std::begin(known), std::end(known), [&](const Guid* id) { return *id == entry.item_id; });
    if (is_user || which == std::end(known)) {
      if ((entry.flags & kItemIsRequired) == 0) continue;
      return Damaged(
          absl::StrCat("it needs the metadata item ", FormatGuid(entry.item_id), ", which nobody here knows"));
    }
    const auto number = static_cast<uint32_t>(which - std::begin(known));
    if ((seen >> number & 1) != 0)
      return Damaged(absl::StrCat("it has the metadata item ", FormatGuid(entry.item_id), " twice"));
    seen |= 1 << number;
    if (entry.offset < kMetadataTableBytes || entry.length > kMaxMetadataItemBytes ||
        entry.offset > geometry.metadata_bytes || entry.length > geometry.metadata_bytes - entry.offset) {
      return Damaged(absl::StrCat("its metadata item ", FormatGuid(entry.item_id), " lies outside the metadata"));
    }
    constexpr uint32_t kSizes[] = {8, 8, 16, 4, 4, 0};
    if (entry.length < kSizes[number]) {
      return Damaged(absl::StrCat("its metadata item ", FormatGuid(entry.item_id), " is too short"));
    }
    const uint64_t offset = geometry.metadata_offset + entry.offset;
    std::vector<uint8_t> item(entry.length);
    RETURN_IF_ERROR(ToStatus(Read(file, offset, absl::MakeSpan(item)), "VHDX: metadata"));
    if (entry.item_id == kFileParametersItem) {
      const auto parameters = Get<FileParameters>(item, 0);
      geometry.block_bytes = parameters.block_bytes;
      geometry.leave_blocks_allocated = (parameters.flags & kLeaveBlocksAllocated) != 0;
      geometry.has_parent = (parameters.flags & kHasParent) != 0;
    } else if (entry.item_id == kDiskSizeItem) {
      geometry.disk_bytes = Get<uint64_t>(item, 0);
      geometry.disk_size_offset = offset;
    } else if (entry.item_id == kDiskIdItem) {
      geometry.disk_id = Get<Guid>(item, 0);
    } else if (entry.item_id == kLogicalSectorItem) {
      geometry.logical_sector_bytes = Get<uint32_t>(item, 0);
    } else if (entry.item_id == kPhysicalSectorItem) {
      geometry.physical_sector_bytes = Get<uint32_t>(item, 0);
    } else {
      geometry.parent_locator_offset = offset;
      geometry.parent_locator_bytes = entry.length;
      RETURN_IF_ERROR(ReadParentLocator(item, geometry));
    }
  }
  constexpr const char* kNames[] = {"file parameters", "disk size", "disk id", "logical sector size",
                                    "physical sector size"};
  for (uint32_t i = 0; i < std::size(kNames); ++i) {
    if ((seen >> i & 1) == 0) return Damaged(absl::StrCat("it does not say its ", kNames[i]));
  }
  const auto is_sector = [](uint32_t bytes) { return bytes == 512 || bytes == 4096; };
  if (!is_sector(geometry.logical_sector_bytes) || !is_sector(geometry.physical_sector_bytes)) {
    return Damaged(absl::StrCat("its sectors have ", geometry.logical_sector_bytes, " and ",
                                geometry.physical_sector_bytes, " bytes, and there are only 512 and 4096"));
  }
  const uint32_t block = geometry.block_bytes;
  if (block < kMinBlockBytes || block > kMaxBlockBytes || (block & (block - 1)) != 0) {
    return Damaged(absl::StrCat("its blocks have ", block, " bytes, which is no power of two from 1 to 256 MiB"));
  }
  if (geometry.disk_bytes == 0 || geometry.disk_bytes > kMaxDiskBytes ||
      geometry.disk_bytes % geometry.logical_sector_bytes != 0) {
    return Damaged(
        absl::StrCat("its disk has ", geometry.disk_bytes, " bytes, which is not whole sectors up to 64 TiB"));
  }
  if (geometry.entry_count() > geometry.bat_bytes / 8) return Damaged("its allocation table is too small for its disk");
  if (geometry.has_parent && (seen >> 5 & 1) == 0) return Damaged("it does not say where its parent is");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CurrentHeader> ReadHeader(ImageFile& file) {
  uint8_t signature[8] = {};
  if (file.size_bytes() < sizeof(signature) || Read(file, 0, absl::MakeSpan(signature)) != BlockStatus::kOk ||
      std::memcmp(signature, kFileSignature, sizeof(signature)) != 0) {
    return absl::FailedPreconditionError("it is no VHDX file");
  }
  if (file.size_bytes() < kMiB) return Damaged("it is shorter than its header");
  CurrentHeader current;
  bool found = false;
  uint16_t other_version = 1;
  for (int slot = 0; slot < 2; ++slot) {
    std::vector<uint8_t> bytes(kHeaderBytes);
    if (Read(file, kHeaderOffsets[slot], absl::MakeSpan(bytes)) != BlockStatus::kOk) continue;
    const auto header = Get<Header>(bytes, 0);
    if (header.signature != kHeaderSignature || !IsWhole(std::move(bytes))) continue;
    if (header.version != 1 || header.log_version != 0) {
      other_version = header.version != 1 ? header.version : header.log_version;
      continue;
    }
    if (found && header.sequence_number <= current.header.sequence_number) continue;
    current = {header, slot};
    found = true;
  }
  if (!found && other_version != 1) return Damaged(absl::StrCat("its version ", other_version, " is not supported"));
  if (!found) return Damaged("neither header is whole");
  if (current.header.log_length != 0) {
    RETURN_IF_ERROR(CheckRegion(file, {current.header.log_offset, current.header.log_length, "log"}));
  }
  return current;
}

absl::StatusOr<Geometry> ReadGeometry(ImageFile& file, const Header& header) {
  Geometry geometry;
  RETURN_IF_ERROR(ReadRegions(file, header, geometry));
  RETURN_IF_ERROR(ReadMetadata(file, geometry));
  return geometry;
}

std::vector<uint8_t> EncodeHeader(const Header& header) {
  std::vector<uint8_t> bytes(kHeaderBytes);
  std::memcpy(bytes.data(), &header, sizeof(header));
  Seal(bytes);
  return bytes;
}

std::vector<uint8_t> EncodeRegionTable(uint64_t bat_offset, uint32_t bat_bytes, uint64_t metadata_offset,
                                       uint32_t metadata_bytes) {
  std::vector<uint8_t> bytes(kRegionTableBytes);
  const RegionTableHeader head{kRegionSignature, 0, 2, 0};
  const RegionEntry entries[] = {{kBatRegion, bat_offset, bat_bytes, 1},
                                 {kMetadataRegion, metadata_offset, metadata_bytes, 1}};
  std::memcpy(bytes.data(), &head, sizeof(head));
  std::memcpy(&bytes[sizeof(head)], entries, sizeof(entries));
  Seal(bytes);
  return bytes;
}

BlockStatus UpdateHeader(ImageFile& file, CurrentHeader& current) {
  for (int i = 0; i < 2; ++i) {
    ++current.header.sequence_number;
    const int slot = 1 - current.slot;
    const BlockStatus status = Write(file, kHeaderOffsets[slot], EncodeHeader(current.header));
    if (status != BlockStatus::kOk) return status;
    if (const BlockStatus flushed = Flush(file); flushed != BlockStatus::kOk) return flushed;
    current.slot = slot;
  }
  return BlockStatus::kOk;
}

void TakeStructures(const Header& header, const Geometry& geometry, RoomMap& room) {
  room.Take(0, kMiB);
  room.Take(header.log_offset, header.log_length);
  room.Take(geometry.bat_offset, geometry.bat_bytes);
  room.Take(geometry.metadata_offset, geometry.metadata_bytes);
  for (const auto& [offset, bytes] : geometry.other_regions) room.Take(offset, bytes);
}

}  // namespace hvsdk::internal::vhdx
