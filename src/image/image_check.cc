// SPDX-License-Identifier: Apache-2.0
// What is wrong with an image.
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
#include "image/vhdx_file.h"
#include "image/vhdx_log.h"

namespace hvsdk::internal {
namespace {

constexpr size_t kMaxFaults = 100;

class Faults {
 public:
  explicit Faults(std::vector<std::string>& list) : list_(list) {}
  template <typename... What>
  void Add(What... what) {
    if (list_.size() < kMaxFaults) list_.push_back(absl::StrCat(what...));
  }

 private:
  std::vector<std::string>& list_;
};

// Visits the 4 or 8 bytes of each entry of a table.
template <typename Entry, typename Visit>
absl::Status ForEachEntry(ImageFile& file, uint64_t offset, uint64_t count, Visit visit) {
  constexpr uint64_t kStep = 128 << 10;
  std::vector<uint8_t> bytes;
  for (uint64_t start = 0; start < count; start += kStep) {
    bytes.resize(std::min(kStep, count - start) * sizeof(Entry));
    RETURN_IF_ERROR(
        ToStatus(Read(file, offset + start * sizeof(Entry), absl::MakeSpan(bytes)), "its allocation table"));
    for (uint64_t i = 0; i < bytes.size() / sizeof(Entry); ++i) {
      Entry entry;
      std::memcpy(&entry, &bytes[i * sizeof(Entry)], sizeof(entry));
      visit(start + i, entry);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ImageCheck> CheckVhdx(ImageFile& file, bool repair) {
  ImageCheck check;
  Faults faults(check.faults);
  ASSIGN_OR_RETURN(vhdx::CurrentHeader header, vhdx::ReadHeader(file));
  if (header.header.log_guid != Guid{}) {
    if (!repair) return absl::FailedPreconditionError("VHDX: it was not closed, and its log must be replayed first");
    RETURN_IF_ERROR(vhdx::ReplayLog(file, header));
    check.was_replayed = true;
  }
  ASSIGN_OR_RETURN(const vhdx::Geometry geometry, vhdx::ReadGeometry(file, header.header));
  if (!RoomMap::Fits(file.size_bytes(), vhdx::kMiB))
    return absl::ResourceExhaustedError("it is too large to be checked");
  RoomMap room(file.size_bytes(), vhdx::kMiB);
  vhdx::TakeStructures(header.header, geometry, room);
  check.blocks = geometry.block_count();
  const uint64_t group = geometry.chunk_ratio() + 1;
  RETURN_IF_ERROR(
      ForEachEntry<uint64_t>(file, geometry.bat_offset, geometry.entry_count(), [&](uint64_t i, uint64_t entry) {
        const uint64_t place = vhdx::OffsetOf(entry);
        const bool is_bitmap = i % group == group - 1;
        const uint64_t block = is_bitmap ? i / group : i - i / group;
        const char* const what = is_bitmap ? "sector bitmap " : "block ";
        const vhdx::BlockState state = vhdx::StateOf(entry);
        if (!is_bitmap && block >= check.blocks) return;
        bool has_room;
        if (is_bitmap) {
          has_room = (entry & 7) == vhdx::kBitmapPresent;
          if (!has_room && (entry & 7) != 0)
            faults.Add(what, block, ": its state ", entry & 7, " is none that there is");
        } else {
          has_room = state == vhdx::BlockState::kFullyPresent || state == vhdx::BlockState::kPartiallyPresent ||
                     (state == vhdx::BlockState::kUnmapped && place != 0);
          if ((entry & 7) == 4 || (entry & 7) == 5)
            faults.Add(what, block, ": its state ", entry & 7, " is none that there is");
          if (state == vhdx::BlockState::kPartiallyPresent && !geometry.has_parent) {
            faults.Add(what, block, ": is present in part, and there is no parent");
          }
        }
        if (!has_room) return;
        const uint64_t size = is_bitmap ? vhdx::kMiB : geometry.block_bytes;
        check.present_blocks += !is_bitmap;
        if (place < vhdx::kMiB || place > file.size_bytes() || size > file.size_bytes() - place) {
          faults.Add(what, block, ": lies at byte ", place, ", which is outside the file");
        } else if (!room.Take(place, size)) {
          faults.Add(what, block, ": lies at byte ", place, ", which something else has, too");
        }
      }));
  check.unused_bytes = room.unused_bytes();
  return check;
}

absl::StatusOr<ImageCheck> CheckVhd(ImageFile& file, bool repair) {
  ImageCheck check;
  Faults faults(check.faults);
  ASSIGN_OR_RETURN(const vhd::Geometry geometry, vhd::ReadGeometry(file));
  if (geometry.end == file.size_bytes() || geometry.end + 2 * vhd::kSector <= file.size_bytes()) {
    if (repair) {
      RETURN_IF_ERROR(vhd::WriteFooter(file, geometry));
      check.footer_was_written = true;
    } else {
      faults.Add("its footer is not at its end; a copy stands for it");
    }
  }
  if (geometry.type == vhd::DiskType::kFixed) return check;
  if (!RoomMap::Fits(file.size_bytes(), vhd::kSector))
    return absl::ResourceExhaustedError("it is too large to be checked");
  RoomMap room(file.size_bytes(), vhd::kSector);
  vhd::TakeStructures(geometry, room);
  if (geometry.end < file.size_bytes()) room.Take(geometry.end, vhd::kSector);
  check.blocks = geometry.block_count();
  RETURN_IF_ERROR(
      ForEachEntry<vhd::Be32>(file, geometry.table_offset, check.blocks, [&](uint64_t block, vhd::Be32 wire) {
        const uint32_t entry = wire;
        if (entry == vhd::kNoBlock) return;
        ++check.present_blocks;
        const uint64_t place = entry * vhd::kSector;
        if (place + geometry.room_bytes() > file.size_bytes()) {
          faults.Add("block ", block, ": lies at sector ", entry, ", which is outside the file");
        } else if (!room.Take(place, geometry.room_bytes())) {
          faults.Add("block ", block, ": lies at sector ", entry, ", which something else has, too");
        }
      }));
  check.unused_bytes = room.unused_bytes();
  return check;
}

}  // namespace hvsdk::internal
