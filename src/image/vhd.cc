// SPDX-License-Identifier: Apache-2.0
// VHD files: opened, described, and made.
#include <algorithm>
#include <cstring>
#include <ctime>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "base/utf16.h"
#include "image/blocking.h"
#include "image/image_format.h"
#include "image/mapped_disk.h"
#include "image/vhd_file.h"
#include "image/vhd_map.h"

namespace hvsdk::internal {
namespace {

template <typename T>
absl::Span<const uint8_t> BytesOf(const T& structure) {
  return absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&structure), sizeof(structure));
}

// Cylinders, heads and sectors for a disk of this size ("Appendix: CHS Calculation"): BIOSes count by them.
void SetChs(uint64_t disk_bytes, vhd::Footer& footer) {
  const uint64_t sectors = std::min<uint64_t>(disk_bytes / vhd::kSector, uint64_t{65535} * 16 * 255);
  uint64_t per_track, heads, tracks;
  if (sectors >= uint64_t{65535} * 16 * 63) {
    per_track = 255;
    heads = 16;
    tracks = sectors / per_track;
  } else {
    per_track = 17;
    tracks = sectors / per_track;
    heads = std::max<uint64_t>((tracks + 1023) / 1024, 4);
    if (tracks >= heads * 1024 || heads > 16) {
      per_track = 31;
      heads = 16;
      tracks = sectors / per_track;
    }
    if (tracks >= heads * 1024) {
      per_track = 63;
      heads = 16;
      tracks = sectors / per_track;
    }
  }
  footer.cylinders = static_cast<uint16_t>(tracks / heads);
  footer.heads = static_cast<uint8_t>(heads);
  footer.sectors_per_track = static_cast<uint8_t>(per_track);
}

vhd::Footer MakeFooter(uint64_t disk_bytes, vhd::DiskType type) {
  vhd::Footer footer{};
  std::memcpy(footer.cookie, vhd::kFooterCookie, sizeof(footer.cookie));
  footer.features = 2;
  footer.version = vhd::kVersion;
  footer.data_offset = type == vhd::DiskType::kFixed ? ~uint64_t{0} : vhd::kSector;
  footer.timestamp = static_cast<uint32_t>(std::time(nullptr) - vhd::kEpoch);
  footer.creator_version = 0x000A0000;
  std::memcpy(footer.creator_host, "Wi2k", 4);
  footer.original_bytes = disk_bytes;
  footer.disk_type = static_cast<uint32_t>(type);
  footer.unique_id = NewGuid();
  SetVhdSize(disk_bytes, footer);
  return footer;
}

// What the locators of a header point to: offsets in the file, and bytes, which lie one behind the other.
using LocatorTexts = std::vector<std::pair<uint64_t, std::vector<uint8_t>>>;

// `end` is where they begin.
LocatorTexts SetParentInHeader(const ParentOfNew& parent, uint32_t timestamp, uint64_t end,
                               vhd::DynamicHeader& header) {
  LocatorTexts texts;
  header.parent_id = parent.id_for_children;
  header.parent_timestamp = timestamp;
  const std::string& path = parent.absolute_path;
  const std::vector<uint8_t> name = ToUtf16(path.substr(path.find_last_of('/') + 1), /*big_endian=*/true);
  std::memset(header.parent_name, 0, sizeof(header.parent_name));
  std::memcpy(header.parent_name, name.data(), std::min(name.size(), sizeof(header.parent_name) - 2));
  std::memset(&header.locators, 0, sizeof(header.locators));
  const std::pair<const char*, std::string> paths[] = {
      {"W2ru", absl::StrReplaceAll(parent.relative_path, {{"/", "\\"}})}, {"W2ku", path}};
  for (size_t i = 0; i < std::size(paths); ++i) {
    vhd::ParentLocator& locator = header.locators[i];
    std::vector<uint8_t> text = ToUtf16(paths[i].second);
    std::memcpy(locator.platform, paths[i].first, 4);
    locator.data_length = static_cast<uint32_t>(text.size());
    text.resize((text.size() + vhd::kSector - 1) / vhd::kSector * vhd::kSector);
    locator.data_space = static_cast<uint32_t>(text.size());
    locator.data_offset = end;
    texts.emplace_back(end, std::move(text));
    end += texts.back().second.size();
  }
  return texts;
}

}  // namespace

void SetVhdSize(uint64_t disk_bytes, vhd::Footer& footer) {
  // Readers go by the creator when they choose between size and geometry. Windows' counts by size, as this does.
  std::memcpy(footer.creator, "win ", 4);
  footer.current_bytes = disk_bytes;
  SetChs(disk_bytes, footer);
  footer.checksum = vhd::Checksum(footer, offsetof(vhd::Footer, checksum));
}

absl::StatusOr<OpenedImage> OpenVhd(std::shared_ptr<ImageFile> file, BlockInfo info, const ParentOpener& open_parent,
                                    std::function<void(const absl::Status&)> on_failure) {
  ASSIGN_OR_RETURN(vhd::Geometry geometry, vhd::ReadGeometry(*file));
  std::shared_ptr<BlockDevice> parent;
  if (geometry.has_parent()) {
    ASSIGN_OR_RETURN(parent, open_parent({geometry.parent_paths, {geometry.parent_id}}));
    if (parent->info().logical_block_bytes != vhd::kSector) {
      return absl::InvalidArgumentError(
          absl::StrCat("VHD: its sectors have 512 bytes, and its parent's ", parent->info().logical_block_bytes));
    }
  }
  const bool is_fixed = geometry.type == vhd::DiskType::kFixed;
  info.size_bytes = geometry.disk_bytes;
  info.logical_block_bytes = vhd::kSector;
  // A fixed disk's sectors lie as they do in the file; a block of another lies behind its bitmap, at any sector.
  info.physical_block_bytes = is_fixed ? 4096 : 512;
  info.discard_granularity_bytes = is_fixed ? 4096 : geometry.block_bytes;
  info.read_only = file->read_only();
  // A block of a differencing disk is its own or its parent's: there is no way to say that it is zero.
  info.can_discard = info.discard_reads_zeroes = !info.read_only && !geometry.has_parent();
  if (info.id == std::array<uint8_t, 16>{}) info.id = geometry.footer.unique_id;
  const Guid id = geometry.footer.unique_id;
  std::unique_ptr<BlockMap> map;
  if (is_fixed) {
    map = std::make_unique<vhd::FixedMap>(file);
  } else {
    map = std::make_unique<vhd::VhdMap>(file, std::move(geometry));
  }
  ASSIGN_OR_RETURN(
      std::shared_ptr<MappedDisk> disk,
      MappedDisk::Create(std::move(file), std::move(map), std::move(parent), std::move(info), std::move(on_failure)));
  return OpenedImage{std::move(disk), id};
}

absl::StatusOr<OpenedMap> OpenVhdMap(std::shared_ptr<ImageFile> file) {
  ASSIGN_OR_RETURN(vhd::Geometry geometry, vhd::ReadGeometry(*file));
  OpenedMap opened;
  opened.disk_bytes = geometry.disk_bytes;
  opened.has_parent = geometry.has_parent();
  opened.link = {geometry.parent_paths, {geometry.parent_id}};
  if (geometry.type == vhd::DiskType::kFixed) {
    opened.map = std::make_unique<vhd::FixedMap>(std::move(file));
  } else {
    opened.map = std::make_unique<vhd::VhdMap>(std::move(file), std::move(geometry));
  }
  return opened;
}

// A header has two sectors, and its locators are elsewhere, so a new one is made ready behind all blocks. The footer,
// one sector, says where it is.
absl::Status SetVhdParent(ImageFile& file, const ParentOfNew& parent) {
  ASSIGN_OR_RETURN(vhd::Geometry geometry, vhd::ReadGeometry(file));
  vhd::DynamicHeader header;
  RETURN_IF_ERROR(ToStatus(
      Read(file, geometry.footer.data_offset, absl::MakeSpan(reinterpret_cast<uint8_t*>(&header), sizeof(header))),
      "its header"));
  const uint64_t place = geometry.end;
  const LocatorTexts texts =
      SetParentInHeader(parent, geometry.footer.timestamp, place + sizeof(vhd::DynamicHeader), header);
  header.checksum = vhd::Checksum(header, offsetof(vhd::DynamicHeader, checksum));
  geometry.end = texts.back().first + texts.back().second.size();
  RETURN_IF_ERROR(vhd::WriteFooter(file, geometry));
  RETURN_IF_ERROR(ToStatus(Write(file, place, BytesOf(header)), "its header"));
  for (const auto& [offset, text] : texts) RETURN_IF_ERROR(ToStatus(Write(file, offset, text), "its parent's path"));
  RETURN_IF_ERROR(ToStatus(Flush(file), "its header"));
  geometry.footer.data_offset = place;
  geometry.footer.checksum = vhd::Checksum(geometry.footer, offsetof(vhd::Footer, checksum));
  RETURN_IF_ERROR(ToStatus(Write(file, 0, BytesOf(geometry.footer)), "its footer"));
  RETURN_IF_ERROR(ToStatus(Flush(file), "its footer"));
  return vhd::WriteFooter(file, geometry);
}

absl::StatusOr<ImageDescription> DescribeVhd(ImageFile& file) {
  ASSIGN_OR_RETURN(const vhd::Geometry geometry, vhd::ReadGeometry(file));
  ImageDescription description;
  description.format = ImageFormat::kVhd;
  description.kind = geometry.has_parent()                    ? "differencing"
                     : geometry.type == vhd::DiskType::kFixed ? "fixed"
                                                              : "dynamic";
  description.disk_bytes = geometry.disk_bytes;
  description.file_bytes = file.size_bytes();
  description.block_bytes = geometry.block_bytes;
  description.id = FormatGuid(geometry.footer.unique_id);
  for (const char c : geometry.footer.creator) description.creator += c >= 0x20 && c < 0x7F ? c : '?';
  description.parents = geometry.parent_paths;
  return description;
}

absl::Status CreateVhd(ImageFile& file, const ImageCreateOptions& options, const ParentOfNew* parent) {
  const auto invalid = [](auto... what) { return absl::InvalidArgumentError(absl::StrCat(what...)); };
  const uint32_t block = options.block_bytes;
  if (block < 4096 || block > 1u << 30 || (block & (block - 1)) != 0) {
    return invalid("blocks of ", block, " bytes: VHD has powers of two from 4 KiB to 1 GiB");
  }
  if (options.logical_sector_bytes != 512 || options.physical_sector_bytes != 512) {
    return invalid("VHD has sectors of 512 bytes only");
  }
  if (options.disk_bytes == 0 || options.disk_bytes > vhd::kMaxDiskBytes || options.disk_bytes % vhd::kSector != 0) {
    return invalid("a disk of ", options.disk_bytes, " bytes: VHD has whole sectors up to 2040 GiB");
  }
  if (parent != nullptr && options.is_fixed) return invalid("a fixed image has no parent");
  const vhd::DiskType type = options.is_fixed    ? vhd::DiskType::kFixed
                             : parent != nullptr ? vhd::DiskType::kDifferencing
                                                 : vhd::DiskType::kDynamic;
  const vhd::Footer footer = MakeFooter(options.disk_bytes, type);
  if (options.is_fixed) {
    RETURN_IF_ERROR(ToStatus(file.Resize(options.disk_bytes + vhd::kSector), "its room"));
    RETURN_IF_ERROR(ToStatus(Write(file, options.disk_bytes, BytesOf(footer)), "its footer"));
    return ToStatus(Flush(file), "its file");
  }
  const uint64_t blocks = (options.disk_bytes + block - 1) / block;
  constexpr uint64_t kTableOffset = vhd::kSector + sizeof(vhd::DynamicHeader);
  uint64_t end = kTableOffset + (blocks * 4 + vhd::kSector - 1) / vhd::kSector * vhd::kSector;
  vhd::DynamicHeader header{};
  std::memcpy(header.cookie, vhd::kHeaderCookie, sizeof(header.cookie));
  header.data_offset = ~uint64_t{0};
  header.table_offset = kTableOffset;
  header.version = vhd::kVersion;
  header.max_entries = static_cast<uint32_t>(blocks);
  header.block_bytes = block;
  LocatorTexts texts;
  if (parent != nullptr) {
    texts = SetParentInHeader(*parent, footer.timestamp, end, header);
    for (const auto& [offset, text] : texts) end = offset + text.size();
  }
  header.checksum = vhd::Checksum(header, offsetof(vhd::DynamicHeader, checksum));
  RETURN_IF_ERROR(ToStatus(file.Resize(end + vhd::kSector), "its room"));
  RETURN_IF_ERROR(ToStatus(Write(file, vhd::kSector, BytesOf(header)), "its header"));
  const std::vector<uint8_t> table((blocks * 4 + vhd::kSector - 1) / vhd::kSector * vhd::kSector, 0xFF);
  RETURN_IF_ERROR(ToStatus(Write(file, kTableOffset, table), "its table"));
  for (const auto& [offset, text] : texts) RETURN_IF_ERROR(ToStatus(Write(file, offset, text), "its parent's path"));
  RETURN_IF_ERROR(ToStatus(Flush(file), "its file"));
  RETURN_IF_ERROR(ToStatus(Write(file, 0, BytesOf(footer)), "its footer"));
  RETURN_IF_ERROR(ToStatus(Write(file, end, BytesOf(footer)), "its footer"));
  return ToStatus(Flush(file), "its file");
}

}  // namespace hvsdk::internal
