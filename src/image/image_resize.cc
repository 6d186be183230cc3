// SPDX-License-Identifier: Apache-2.0
// Images made larger, so that power may be lost at any moment: the image has the old size or the new one.
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "image/blocking.h"
#include "image/image_format.h"
#include "image/room_map.h"
#include "image/vhd_file.h"
#include "image/vhdx_change.h"
#include "image/vhdx_file.h"
#include "image/vhdx_log.h"

namespace hvsdk::internal {
namespace {

using vhdx::kMiB;

constexpr uint64_t kStep = 1 << 20;  // of a table at a time

absl::Status TooSmall(uint64_t wanted, uint64_t now) {
  return absl::InvalidArgumentError(
      absl::StrCat("a disk of ", wanted, " bytes: it has ", now, " already, and can only be made larger"));
}

// The entries of new blocks, in a table that has room for them, at `bat_offset`: what stood there of old is not theirs.
absl::Status PrepareEntries(ImageFile& file, const vhdx::Geometry& before, const vhdx::Geometry& after,
                            uint64_t first_block) {
  const uint64_t group = after.chunk_ratio() + 1;
  const uint64_t bitmaps_before = before.has_parent ? before.bitmap_count() : 0;
  const uint64_t start = after.BlockEntry(before.block_count()) - after.bat_offset, end = after.entry_count() * 8;
  for (uint64_t at = start; at < end; at += kStep) {
    std::vector<uint64_t> entries(std::min(kStep, end - at) / 8);
    const absl::Span<uint8_t> bytes(reinterpret_cast<uint8_t*>(entries.data()), entries.size() * 8);
    RETURN_IF_ERROR(ToStatus(Read(file, after.bat_offset + at, bytes), "its allocation table"));
    bool is_changed = false;
    for (size_t i = 0; i < entries.size(); ++i) {
      const uint64_t index = at / 8 + i;
      uint64_t entry = 0;
      if (index % group == group - 1) {
        if (index / group < bitmaps_before) entry = entries[i];
      } else if (after.leave_blocks_allocated) {
        const uint64_t block = index - index / group;
        entry = vhdx::MakeEntry(vhdx::BlockState::kFullyPresent,
                                first_block + (block - before.block_count()) * after.block_bytes);
      }
      is_changed |= std::exchange(entries[i], entry) != entry;
    }
    if (is_changed) RETURN_IF_ERROR(ToStatus(Write(file, after.bat_offset + at, bytes), "its allocation table"));
  }
  return absl::OkStatus();
}

// The part of the last block that the disk did not have.
absl::Status ClearTail(ImageFile& file, const vhdx::Header& header, const vhdx::Geometry& before) {
  const uint64_t used = before.disk_bytes % before.block_bytes;
  if (used == 0) return absl::OkStatus();
  uint64_t entry;
  RETURN_IF_ERROR(ToStatus(
      Read(file, before.BlockEntry(before.block_count() - 1), absl::MakeSpan(reinterpret_cast<uint8_t*>(&entry), 8)),
      "its allocation table"));
  const vhdx::BlockState state = vhdx::StateOf(entry);
  if (state != vhdx::BlockState::kFullyPresent && state != vhdx::BlockState::kPartiallyPresent) return absl::OkStatus();
  const uint64_t place = vhdx::OffsetOf(entry);
  // What a damaged image says could be anywhere.
  RoomMap taken(file.size_bytes(), kMiB);
  vhdx::TakeStructures(header, before, taken);
  if (place > file.size_bytes() || before.block_bytes > file.size_bytes() - place ||
      !taken.Take(place, before.block_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("VHDX: its last block lies at byte ", place, ", where no block can be"));
  }
  return ToStatus(Zero(file, place + used, before.block_bytes - used), "its last block");
}

// What the new blocks need, behind all that is there, where nothing names it yet.
absl::Status MakeRoom(ImageFile& file, const vhdx::Geometry& before, vhdx::Geometry& after, bool moves) {
  uint64_t end = (file.size_bytes() + kMiB - 1) / kMiB * kMiB;
  if (moves) {
    after.bat_offset = end;
    after.bat_bytes = (after.entry_count() * 8 + kMiB - 1) / kMiB * kMiB;
    end += after.bat_bytes;
    RETURN_IF_ERROR(ToStatus(file.Resize(end), "its allocation table"));
    const uint64_t old_bytes = before.entry_count() * 8;
    for (uint64_t at = 0; at < old_bytes; at += kStep) {
      std::vector<uint8_t> bytes(std::min(kStep, old_bytes - at));
      RETURN_IF_ERROR(ToStatus(Read(file, before.bat_offset + at, absl::MakeSpan(bytes)), "its allocation table"));
      RETURN_IF_ERROR(ToStatus(Write(file, after.bat_offset + at, bytes), "its allocation table"));
    }
  }
  if (after.leave_blocks_allocated) {
    RETURN_IF_ERROR(ToStatus(
        file.Resize(end + (after.block_count() - before.block_count()) * uint64_t{after.block_bytes}), "its room"));
  }
  RETURN_IF_ERROR(PrepareEntries(file, before, after, end));
  // All of that is there before any of what names it, which changes as a whole.
  return ToStatus(Flush(file), "its file");
}

// A table behind all blocks, at `place`, and the old footer behind that. Their room is taken before the footer's place
// is: a full disk leaves the footer where it is.
absl::Status MoveVhdTable(ImageFile& file, const vhd::Geometry& geometry, uint64_t place,
                          absl::Span<const uint8_t> table) {
  const absl::Span<const uint8_t> footer(reinterpret_cast<const uint8_t*>(&geometry.footer), sizeof(geometry.footer));
  RETURN_IF_ERROR(ToStatus(file.Resize(place + table.size() + vhd::kSector), "its table"));
  RETURN_IF_ERROR(ToStatus(Write(file, place + table.size(), footer), "its footer"));
  RETURN_IF_ERROR(ToStatus(Write(file, place + vhd::kSector, table.subspan(vhd::kSector)), "its table"));
  RETURN_IF_ERROR(ToStatus(Write(file, place, table.first(vhd::kSector)), "its table"));
  return ToStatus(Flush(file), "its file");
}

}  // namespace

absl::Status ResizeVhdx(ImageFile& file, uint64_t disk_bytes, const Guid& new_id) {
  ASSIGN_OR_RETURN(vhdx::CurrentHeader header, vhdx::ReadHeader(file));
  RETURN_IF_ERROR(vhdx::ReplayLog(file, header));
  ASSIGN_OR_RETURN(const vhdx::Geometry before, vhdx::ReadGeometry(file, header.header));
  if (header.header.log_length == 0) return absl::InvalidArgumentError("VHDX: it has no log");
  if (disk_bytes < before.disk_bytes) return TooSmall(disk_bytes, before.disk_bytes);
  if (disk_bytes > vhdx::kMaxDiskBytes || disk_bytes % before.logical_sector_bytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a disk of ", disk_bytes, " bytes: VHDX has whole sectors up to 64 TiB"));
  }
  if (disk_bytes == before.disk_bytes) return absl::OkStatus();
  header.header.file_write_guid = NewGuid();
  header.header.data_write_guid = new_id == Guid{} ? NewGuid() : new_id;
  RETURN_IF_ERROR(ToStatus(vhdx::UpdateHeader(file, header), "its header"));
  RETURN_IF_ERROR(ClearTail(file, header.header, before));
  vhdx::Geometry after = before;
  after.disk_bytes = disk_bytes;
  const bool moves = after.entry_count() * 8 > before.bat_bytes;
  const uint64_t end_before = file.size_bytes();
  if (absl::Status made = MakeRoom(file, before, after, moves); !made.ok()) {
    (void)file.Resize(end_before);  // nothing names what is behind it
    return made;
  }
  vhdx::LoggedChange change(file, header);
  RETURN_IF_ERROR(ToStatus(
      change.Set(after.disk_size_offset, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&disk_bytes), 8)),
      "its size"));
  if (moves) {
    // Regions that nobody here knows and nobody needs are not kept.
    const std::vector<uint8_t> table =
        vhdx::EncodeRegionTable(after.bat_offset, static_cast<uint32_t>(after.bat_bytes), after.metadata_offset,
                                static_cast<uint32_t>(after.metadata_bytes));
    for (const uint64_t offset : vhdx::kRegionTableOffsets) {
      RETURN_IF_ERROR(ToStatus(change.Set(offset, table), "its region table"));
    }
  }
  return ToStatus(change.Close(), "its metadata");
}

// A fixed VHD has one footer, in its last sector, and its file gets longer before there is one at its end. So it gets
// twice as long: a reader that finds no footer looks in the middle (vhd_file.cc). With one at the end that says the old
// size the new one is made ready at its place, where the file is cut off at last.
absl::Status GrowFixedVhd(ImageFile& file, const vhd::Geometry& geometry, const vhd::Footer& footer) {
  const uint64_t end = geometry.end + vhd::kSector, new_end = uint64_t{footer.current_bytes} + vhd::kSector;
  const auto write_footer = [&](const vhd::Footer& which, uint64_t file_bytes) {
    return Write(file, file_bytes - vhd::kSector,
                 absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&which), sizeof(which)));
  };
  uint64_t size = end;
  if (file.size_bytes() != size) {
    RETURN_IF_ERROR(ToStatus(file.Resize(size), "its end"));
    RETURN_IF_ERROR(ToStatus(Flush(file), "its file"));
  }
  do {
    RETURN_IF_ERROR(ToStatus(file.Resize(size *= 2), "its room"));
    RETURN_IF_ERROR(ToStatus(Flush(file), "its file"));
    RETURN_IF_ERROR(ToStatus(write_footer(geometry.footer, size), "its footer"));
    RETURN_IF_ERROR(ToStatus(Flush(file), "its file"));
  } while (size <= new_end);
  // Footers on the way, and what was behind the disk.
  for (uint64_t old = end; old < size; old *= 2) {
    RETURN_IF_ERROR(ToStatus(Zero(file, old - vhd::kSector, vhd::kSector), "its end"));
  }
  RETURN_IF_ERROR(ToStatus(Zero(file, geometry.disk_bytes, end - geometry.disk_bytes, BlockOp::kDiscard), "its end"));
  RETURN_IF_ERROR(ToStatus(write_footer(footer, new_end), "its footer"));
  RETURN_IF_ERROR(ToStatus(Flush(file), "its file"));
  RETURN_IF_ERROR(ToStatus(file.Resize(new_end), "its end"));
  return ToStatus(Flush(file), "its file");
}

absl::Status ResizeVhd(ImageFile& file, uint64_t disk_bytes) {
  ASSIGN_OR_RETURN(vhd::Geometry geometry, vhd::ReadGeometry(file));
  if (geometry.has_parent()) return absl::InvalidArgumentError("a differencing VHD has its parent's size");
  if (disk_bytes < geometry.disk_bytes) return TooSmall(disk_bytes, geometry.disk_bytes);
  if (disk_bytes > vhd::kMaxDiskBytes || disk_bytes % vhd::kSector != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a disk of ", disk_bytes, " bytes: VHD has whole sectors up to 2040 GiB"));
  }
  vhd::Footer footer = geometry.footer;
  SetVhdSize(disk_bytes, footer);
  const auto bytes_of = [](const auto& structure) {
    return absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&structure), sizeof(structure));
  };
  if (geometry.type == vhd::DiskType::kFixed) {
    if (disk_bytes == geometry.disk_bytes) return absl::OkStatus();
    return GrowFixedVhd(file, geometry, footer);
  }
  const uint64_t blocks_before = geometry.block_count();
  const uint64_t disk_before = std::exchange(geometry.disk_bytes, disk_bytes);
  const uint64_t blocks = geometry.block_count();
  if (disk_bytes == disk_before) return absl::OkStatus();
  if (blocks > blocks_before) {
    const uint64_t place = geometry.end;
    std::vector<uint8_t> table((blocks * 4 + vhd::kSector - 1) / vhd::kSector * vhd::kSector, 0xFF);
    RETURN_IF_ERROR(
        ToStatus(Read(file, geometry.table_offset, absl::MakeSpan(table).first(blocks_before * 4)), "its table"));
    geometry.end = place + table.size();
    if (absl::Status moved = MoveVhdTable(file, geometry, place, table); !moved.ok()) {
      // The footer first: there is one at the end whenever power is lost.
      (void)Write(file, place, bytes_of(geometry.footer));
      (void)file.Resize(place + vhd::kSector);
      return moved;
    }
    vhd::DynamicHeader header;
    const uint64_t header_at = geometry.footer.data_offset;
    RETURN_IF_ERROR(ToStatus(Read(file, header_at, absl::MakeSpan(reinterpret_cast<uint8_t*>(&header), sizeof(header))),
                             "its header"));
    header.table_offset = place;
    header.max_entries = static_cast<uint32_t>(blocks);
    header.checksum = vhd::Checksum(header, offsetof(vhd::DynamicHeader, checksum));
    // All that changes is in its first sector.
    RETURN_IF_ERROR(ToStatus(Write(file, header_at, bytes_of(header).first(vhd::kSector)), "its header"));
    RETURN_IF_ERROR(ToStatus(Flush(file), "its file"));
  }
  RETURN_IF_ERROR(ToStatus(Write(file, 0, bytes_of(footer)), "its footer"));
  RETURN_IF_ERROR(ToStatus(Flush(file), "its file"));
  if (file.size_bytes() < geometry.end + vhd::kSector)
    RETURN_IF_ERROR(ToStatus(file.Resize(geometry.end + vhd::kSector), "its footer"));
  RETURN_IF_ERROR(ToStatus(Write(file, geometry.end, bytes_of(footer)), "its footer"));
  return ToStatus(Flush(file), "its file");
}

}  // namespace hvsdk::internal
