// SPDX-License-Identifier: Apache-2.0
#include "image/vhd_file.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "base/utf16.h"
#include "image/blocking.h"

namespace hvsdk::internal::vhd {
namespace {

absl::Status Damaged(absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat("VHD: ", what)); }

template <typename T>
bool ReadStructure(ImageFile& file, uint64_t offset, T& structure, uint64_t size_bytes = sizeof(T)) {
  return Read(file, offset, absl::MakeSpan(reinterpret_cast<uint8_t*>(&structure), size_bytes)) == BlockStatus::kOk;
}

bool HasCookie(const Footer& footer) { return std::memcmp(footer.cookie, kFooterCookie, sizeof(kFooterCookie)) == 0; }

bool IsWhole(const Footer& footer) {
  return HasCookie(footer) && footer.checksum == Checksum(footer, offsetof(Footer, checksum));
}

// The footer's place: the last sector. Virtual PC before 2004 wrote one of 511 bytes. A fixed disk that was being made
// larger when power was lost has it in the middle: see GrowFixedVhd.
bool ReadLastFooter(ImageFile& file, Footer& footer, uint64_t& at) {
  const uint64_t end = file.size_bytes();
  for (const uint64_t size : {kSector, kSector - 1}) {
    if (end < size) continue;
    footer = {};
    at = end - size;
    if (ReadStructure(file, at, footer, size) && HasCookie(footer)) return true;
  }
  if (end % (2 * kSector) != 0 || end == 0) return false;
  Footer last;
  const Footer nothing{};
  if (!ReadStructure(file, end - kSector, last) || std::memcmp(&last, &nothing, sizeof(last)) != 0) return false;
  at = end / 2 - kSector;
  return ReadStructure(file, at, footer) && IsWhole(footer) && footer.current_bytes <= at &&
         footer.disk_type == static_cast<uint32_t>(DiskType::kFixed);
}

// Virtual PC and QEMU's older images count by cylinders, heads and sectors; all others by the size in the footer. A
// geometry at its limit says nothing of a larger disk.
uint64_t DiskBytes(const Footer& footer) {
  const absl::string_view creator(footer.creator, sizeof(footer.creator));
  const uint64_t by_geometry = uint64_t{footer.cylinders} * footer.heads * footer.sectors_per_track * kSector;
  constexpr uint64_t kMostByGeometry = uint64_t{65535} * 16 * 255 * kSector;
  const bool counts = creator == "vpc " || creator == "qemu";
  const uint64_t current = footer.current_bytes;
  return counts && by_geometry != 0 && by_geometry < std::min(current, kMostByGeometry) ? by_geometry : current;
}

void ReadParentPaths(ImageFile& file, const DynamicHeader& header, Geometry& geometry) {
  const auto add = [&](std::string path) {
    path = absl::StrReplaceAll(path, {{"\\", "/"}});
    if (!path.empty()) geometry.parent_paths.push_back(std::move(path));
  };
  // Relative paths first, then absolute ones ("Parent Locator Entries").
  for (const absl::string_view platform : {"W2ru", "W2ku"}) {
    for (const ParentLocator& locator : header.locators) {
      if (absl::string_view(locator.platform, 4) != platform) continue;
      constexpr uint32_t kMaxPathBytes = 64 << 10;
      const uint32_t length = std::min<uint32_t>(locator.data_length, kMaxPathBytes);
      const uint64_t offset = locator.data_offset;
      if (offset > file.size_bytes() || length > file.size_bytes() - offset) continue;
      std::vector<uint8_t> text(length);
      if (Read(file, offset, absl::MakeSpan(text)) == BlockStatus::kOk) add(FromUtf16(text));
    }
  }
  std::string name = FromUtf16(header.parent_name, /*big_endian=*/true);
  add(name.substr(name.find_last_of("\\/") + 1));
}

absl::Status ReadDynamicHeader(ImageFile& file, uint64_t footer_at, Geometry& geometry) {
  DynamicHeader header;
  if (!ReadStructure(file, geometry.footer.data_offset, header)) return Damaged("its header lies outside the file");
  if (std::memcmp(header.cookie, kHeaderCookie, sizeof(kHeaderCookie)) != 0 ||
      header.checksum != Checksum(header, offsetof(DynamicHeader, checksum))) {
    return Damaged("its header is not whole");
  }
  if (header.version != kVersion) return Damaged("the version of its header is not supported");
  const uint32_t block = header.block_bytes;
  if (block < 4096 || block > 1u << 30 || (block & (block - 1)) != 0) {
    return Damaged(absl::StrCat("its blocks have ", block, " bytes, which is no power of two from 4 KiB to 1 GiB"));
  }
  geometry.block_bytes = block;
  geometry.table_offset = header.table_offset;
  if (header.max_entries < geometry.block_count()) return Damaged("its allocation table is too small for its disk");
  if (geometry.table_offset > file.size_bytes() || geometry.table_offset % kSector != 0 ||
      geometry.block_count() * 4 > file.size_bytes() - geometry.table_offset) {
    return Damaged("its allocation table lies outside the file");
  }
  geometry.end = (footer_at + kSector - 1) / kSector * kSector;
  if (geometry.has_parent()) {
    for (const ParentLocator& locator : header.locators) {
      // The room is counted in sectors, by some in bytes.
      const uint64_t space = locator.data_space, length = locator.data_length;
      geometry.locators.emplace_back(locator.data_offset, std::max(length, space < kSector ? space * kSector : space));
    }
    geometry.parent_id = header.parent_id;
    ReadParentPaths(file, header, geometry);
  }
  return absl::OkStatus();
}

}  // namespace

bool IsVhd(ImageFile& file) {
  Footer footer;
  uint64_t at;
  if (file.size_bytes() < kSector) return false;
  return ReadLastFooter(file, footer, at) || (ReadStructure(file, 0, footer) && HasCookie(footer));
}

absl::StatusOr<Geometry> ReadGeometry(ImageFile& file) {
  if (!IsVhd(file)) return absl::InvalidArgumentError("it is no VHD file");
  Geometry geometry;
  uint64_t at = 0;
  if (!ReadLastFooter(file, geometry.footer, at) || !IsWhole(geometry.footer)) {
    // Lost, as by a loss of power while the file grew: the first sector has a copy.
    at = file.size_bytes();
    if (!ReadStructure(file, 0, geometry.footer) || !IsWhole(geometry.footer))
      return Damaged("its footer is not whole");
  }
  const Footer& footer = geometry.footer;
  if (footer.version >> 16 != kVersion >> 16) return Damaged("its version is not supported");
  geometry.type = static_cast<DiskType>(uint32_t{footer.disk_type});
  geometry.disk_bytes = DiskBytes(footer);
  if (geometry.disk_bytes == 0 || geometry.disk_bytes % kSector != 0 || geometry.disk_bytes > kMaxDiskBytes) {
    return Damaged(
        absl::StrCat("its disk has ", geometry.disk_bytes, " bytes, which is not whole sectors up to 2040 GiB"));
  }
  switch (geometry.type) {
    case DiskType::kFixed:
      geometry.end = at;
      if (at < geometry.disk_bytes)
        return Damaged(absl::StrCat("it has ", at, " bytes for a disk of ", geometry.disk_bytes));
      return geometry;
    case DiskType::kDynamic:
    case DiskType::kDifferencing:
      RETURN_IF_ERROR(ReadDynamicHeader(file, at, geometry));
      return geometry;
  }
  return Damaged(absl::StrCat("its disk type ", uint32_t{footer.disk_type}, " is not supported"));
}

absl::Status WriteFooter(ImageFile& file, const Geometry& geometry) {
  // A fixed disk's is whole where it is.
  if (geometry.type != DiskType::kFixed) {
    const auto* const footer = reinterpret_cast<const uint8_t*>(&geometry.footer);
    if (file.size_bytes() < geometry.end + kSector) {
      RETURN_IF_ERROR(ToStatus(file.Resize(geometry.end + kSector), "its footer"));
    }
    RETURN_IF_ERROR(ToStatus(Write(file, geometry.end, absl::MakeConstSpan(footer, sizeof(Footer))), "its footer"));
    RETURN_IF_ERROR(ToStatus(Flush(file), "its footer"));
  }
  RETURN_IF_ERROR(ToStatus(file.Resize(geometry.end + kSector), "its end"));
  return ToStatus(Flush(file), "its end");
}

void TakeStructures(const Geometry& geometry, RoomMap& room) {
  room.Take(0, kSector);
  room.Take(geometry.footer.data_offset, sizeof(DynamicHeader));
  room.Take(geometry.table_offset, geometry.block_count() * 4);
  for (const auto& [offset, bytes] : geometry.locators) room.Take(offset, bytes);
}

}  // namespace hvsdk::internal::vhd
