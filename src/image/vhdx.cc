// SPDX-License-Identifier: Apache-2.0
// VHDX files: opened, described, and put over another parent.
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "base/utf16.h"
#include "image/blocking.h"
#include "image/image_format.h"
#include "image/mapped_disk.h"
#include "image/room_map.h"
#include "image/vhdx_change.h"
#include "image/vhdx_file.h"
#include "image/vhdx_log.h"
#include "image/vhdx_map.h"

namespace hvsdk::internal {
namespace {

// 2.6.2.6.3: entries of a VHDX parent's locator.
ParentLink LinkOf(const vhdx::Geometry& geometry) {
  ParentLink link;
  for (const char* const key : {"relative_path", "absolute_win32_path", "volume_path"}) {
    const auto found = geometry.parent_locator.find(key);
    if (found == geometry.parent_locator.end() || found->second.empty()) continue;
    link.paths.push_back(absl::StrReplaceAll(found->second, {{"\\", "/"}}));
  }
  for (const char* const key : {"parent_linkage", "parent_linkage2"}) {
    const auto found = geometry.parent_locator.find(key);
    if (found == geometry.parent_locator.end()) continue;
    const Guid id = ParseGuid(found->second);
    if (id != Guid{}) link.ids.push_back(id);
  }
  return link;
}

// What stands there now may lie where the new one goes: all of that changes as one.
absl::Status SetLocator(ImageFile& file, const vhdx::Geometry& geometry, absl::Span<const uint8_t> locator,
                        vhdx::LoggedChange& change) {
  std::vector<uint8_t> table(vhdx::kMetadataTableBytes);
  RETURN_IF_ERROR(ToStatus(Read(file, geometry.metadata_offset, absl::MakeSpan(table)), "its metadata"));
  vhdx::MetadataTableHeader head;
  std::memcpy(&head, table.data(), sizeof(head));
  RoomMap room(geometry.metadata_bytes, 8);
  room.Take(0, vhdx::kMetadataTableBytes);
  size_t entry_at = 0;
  vhdx::MetadataEntry entry{};
  for (uint32_t i = 0; i < head.entry_count; ++i) {
    const size_t at = sizeof(head) + i * sizeof(entry);
    vhdx::MetadataEntry item;
    std::memcpy(&item, &table[at], sizeof(item));
    if (item.item_id == vhdx::kParentLocatorItem) {
      entry_at = at;
      entry = item;
    } else {
      room.Take(item.offset, item.length);
    }
  }
  const uint64_t place = room.FindFirst(locator.size(), 0);
  if (entry_at == 0 || place >= geometry.metadata_bytes || locator.size() > vhdx::kMaxMetadataItemBytes)
    return absl::ResourceExhaustedError("VHDX: its metadata have no room for where its parent is");
  entry.offset = static_cast<uint32_t>(place);
  entry.length = static_cast<uint32_t>(locator.size());
  const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(&entry), sizeof(entry));
  RETURN_IF_ERROR(ToStatus(change.Set(geometry.metadata_offset + place, locator), "its parent's path"));
  RETURN_IF_ERROR(ToStatus(change.Set(geometry.metadata_offset + entry_at, bytes), "its metadata"));
  return ToStatus(change.Close(), "its metadata");
}

}  // namespace

absl::StatusOr<OpenedImage> OpenVhdx(std::shared_ptr<ImageFile> file, BlockInfo info, const ParentOpener& open_parent,
                                     std::function<void(const absl::Status&)> on_failure, const Guid& new_id) {
  ASSIGN_OR_RETURN(vhdx::CurrentHeader header, vhdx::ReadHeader(*file));
  if (header.header.log_guid != Guid{}) {
    if (file->read_only()) {
      return absl::FailedPreconditionError(
          "VHDX: it was not closed, and its log must be replayed: open it for writing once");
    }
    RETURN_IF_ERROR(vhdx::ReplayLog(*file, header));
  }
  ASSIGN_OR_RETURN(vhdx::Geometry geometry, vhdx::ReadGeometry(*file, header.header));
  if (!file->read_only() && header.header.log_length == 0) {
    return absl::InvalidArgumentError("VHDX: it has no log, without which it cannot be written");
  }
  std::shared_ptr<BlockDevice> parent;
  if (geometry.has_parent) {
    ASSIGN_OR_RETURN(parent, open_parent(LinkOf(geometry)));
    if (parent->info().logical_block_bytes != geometry.logical_sector_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("VHDX: its sectors have ", geometry.logical_sector_bytes,
                                                     " bytes, and its parent's ", parent->info().logical_block_bytes));
    }
  }
  info.size_bytes = geometry.disk_bytes;
  info.logical_block_bytes = geometry.logical_sector_bytes;
  info.physical_block_bytes = std::max(geometry.physical_sector_bytes, geometry.logical_sector_bytes);
  info.discard_granularity_bytes = geometry.block_bytes;
  info.read_only = file->read_only();
  info.can_discard = info.discard_reads_zeroes = !info.read_only;
  if (info.id == std::array<uint8_t, 16>{}) info.id = geometry.disk_id;
  const Guid id = header.header.data_write_guid;
  auto map = std::make_unique<vhdx::VhdxMap>(file, header, std::move(geometry), new_id);
  ASSIGN_OR_RETURN(
      std::shared_ptr<MappedDisk> disk,
      MappedDisk::Create(std::move(file), std::move(map), std::move(parent), std::move(info), std::move(on_failure)));
  return OpenedImage{std::move(disk), id};
}

absl::StatusOr<OpenedMap> OpenVhdxMap(std::shared_ptr<ImageFile> file) {
  ASSIGN_OR_RETURN(vhdx::CurrentHeader header, vhdx::ReadHeader(*file));
  RETURN_IF_ERROR(vhdx::ReplayLog(*file, header));
  ASSIGN_OR_RETURN(vhdx::Geometry geometry, vhdx::ReadGeometry(*file, header.header));
  OpenedMap opened;
  opened.disk_bytes = geometry.disk_bytes;
  opened.logical_sector_bytes = geometry.logical_sector_bytes;
  opened.has_parent = geometry.has_parent;
  opened.link = LinkOf(geometry);
  opened.map = std::make_unique<vhdx::VhdxMap>(std::move(file), header, std::move(geometry));
  return opened;
}

absl::Status SetVhdxParent(ImageFile& file, const ParentOfNew& parent) {
  ASSIGN_OR_RETURN(vhdx::CurrentHeader header, vhdx::ReadHeader(file));
  RETURN_IF_ERROR(vhdx::ReplayLog(file, header));
  ASSIGN_OR_RETURN(const vhdx::Geometry geometry, vhdx::ReadGeometry(file, header.header));
  if (header.header.log_length == 0) return absl::InvalidArgumentError("VHDX: it has no log");
  header.header.file_write_guid = NewGuid();
  RETURN_IF_ERROR(ToStatus(vhdx::UpdateHeader(file, header), "its header"));
  vhdx::LoggedChange change(file, header);
  return SetLocator(file, geometry, EncodeVhdxParent(parent), change);
}

absl::StatusOr<ImageDescription> DescribeVhdx(ImageFile& file) {
  ASSIGN_OR_RETURN(const vhdx::CurrentHeader header, vhdx::ReadHeader(file));
  ASSIGN_OR_RETURN(const vhdx::Geometry geometry, vhdx::ReadGeometry(file, header.header));
  ImageDescription description;
  description.format = ImageFormat::kVhdx;
  description.kind = geometry.has_parent ? "differencing" : geometry.leave_blocks_allocated ? "fixed" : "dynamic";
  description.disk_bytes = geometry.disk_bytes;
  description.file_bytes = file.size_bytes();
  description.block_bytes = geometry.block_bytes;
  description.logical_sector_bytes = geometry.logical_sector_bytes;
  description.physical_sector_bytes = geometry.physical_sector_bytes;
  description.id = FormatGuid(geometry.disk_id);
  uint8_t creator[512];
  if (Read(file, 8, absl::MakeSpan(creator)) == BlockStatus::kOk) description.creator = FromUtf16(creator);
  if (geometry.has_parent) description.parents = LinkOf(geometry).paths;
  description.needs_replay = header.header.log_guid != Guid{};
  return description;
}

}  // namespace hvsdk::internal
