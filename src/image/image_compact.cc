// SPDX-License-Identifier: Apache-2.0
// Images made smaller: blocks of zeroes are let go of, those at the end move into the room that is free, and the file is
// cut off behind the last. Whenever power is lost each block is where it was or where it went, and whole.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "image/bitmap_run.h"
#include "image/blocking.h"
#include "image/image_format.h"
#include "image/metadata_cache.h"
#include "image/room_map.h"
#include "image/vhd_file.h"
#include "image/vhdx_change.h"
#include "image/vhdx_file.h"
#include "image/vhdx_log.h"

namespace hvsdk::internal {
namespace {

using vhdx::kMiB;

constexpr uint64_t kStep = 1 << 20;      // of data at a time
constexpr size_t kMaxPlaced = 64 << 20;  // blocks, with 16 bytes each

bool IsZero(absl::Span<const uint8_t> bytes) {
  return bytes.empty() || (bytes[0] == 0 && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

// What lies somewhere in the file, and the entry of the table that says so.
struct Placed {
  uint64_t place;
  uint64_t entry : 63;
  uint64_t is_bitmap : 1;
};

class Compaction {
 public:
  Compaction(ImageFile& file, const ImageProgress& progress, uint64_t all_bytes)
      : file_(file), progress_(progress), all_(all_bytes), buffer_(kStep) {}

  // Looks at no more than it needs.
  absl::StatusOr<bool> IsZeroAt(uint64_t offset, uint64_t size_bytes) {
    for (uint64_t at = 0; at < size_bytes; at += kStep) {
      const auto part = absl::MakeSpan(buffer_).first(std::min(kStep, size_bytes - at));
      RETURN_IF_ERROR(ToStatus(Read(file_, offset + at, part), absl::StrCat("byte ", offset + at, " of its file")));
      if (!IsZero(part)) return false;
    }
    return true;
  }
  absl::Status Copy(uint64_t from, uint64_t to, uint64_t size_bytes) {
    for (uint64_t at = 0; at < size_bytes; at += kStep) {
      const auto part = absl::MakeSpan(buffer_).first(std::min(kStep, size_bytes - at));
      RETURN_IF_ERROR(ToStatus(Read(file_, from + at, part), absl::StrCat("byte ", from + at, " of its file")));
      const BlockStatus status =
          IsZero(part) ? Zero(file_, to + at, part.size(), BlockOp::kDiscard) : Write(file_, to + at, part);
      RETURN_IF_ERROR(ToStatus(status, absl::StrCat("byte ", to + at, " of its file")));
    }
    return absl::OkStatus();
  }
  void Advance(uint64_t size_bytes) {
    done_ += size_bytes;
    if (progress_ != nullptr) progress_(std::min(done_, all_), all_);
  }

 private:
  ImageFile& file_;
  const ImageProgress& progress_;
  const uint64_t all_;
  uint64_t done_ = 0;
  std::vector<uint8_t> buffer_;
};

// Moves what it can to the first places that are free, the last first, and returns where the last that remains ends.
// What is left behind is above all places that are still to be filled: nothing is written over before it is let go of.
template <typename SizeOf, typename Move>
absl::StatusOr<uint64_t> MoveDown(std::vector<Placed> all, RoomMap& room, SizeOf size_of, Move move) {
  std::sort(all.begin(), all.end(), [](const Placed& a, const Placed& b) { return a.place > b.place; });
  uint64_t from[2] = {}, end = 0;
  for (const Placed& one : all) {
    const uint64_t size = size_of(one);
    uint64_t& first = from[one.is_bitmap];
    uint64_t place = one.place;
    if (first < place) first = room.FindFirst(size, first);
    if (first < place) {
      place = first;
      room.Take(place, size);
      first += size;
    }
    RETURN_IF_ERROR(move(one, place));
    end = std::max(end, place + size);
  }
  return end;
}

absl::Status TooLarge() { return absl::ResourceExhaustedError("it is too large to be compacted"); }

absl::StatusOr<ImageCheck> CheckBefore(absl::StatusOr<ImageCheck> check) {
  if (check.ok() && !check->faults.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("it has faults, and is left as it is: ", check->faults[0]));
  }
  return check;
}

}  // namespace

absl::StatusOr<ImageCompaction> CompactVhdx(ImageFile& file, const ImageProgress& progress) {
  ASSIGN_OR_RETURN(vhdx::CurrentHeader header, vhdx::ReadHeader(file));
  RETURN_IF_ERROR(vhdx::ReplayLog(file, header));
  ASSIGN_OR_RETURN(const vhdx::Geometry geometry, vhdx::ReadGeometry(file, header.header));
  if (geometry.leave_blocks_allocated) return absl::InvalidArgumentError("a fixed VHDX has room for all of its disk");
  if (header.header.log_length == 0) return absl::InvalidArgumentError("VHDX: it has no log");
  ASSIGN_OR_RETURN(const ImageCheck check, CheckBefore(CheckVhdx(file, /*repair=*/false)));
  if (check.present_blocks > kMaxPlaced) return TooLarge();
  const uint64_t block_bytes = geometry.block_bytes;
  ImageCompaction result{.bytes_before = file.size_bytes()};
  Compaction compaction(file, progress, 2 * check.present_blocks * block_bytes);
  // Its disk has the same contents as before, so the id that children know stays.
  header.header.file_write_guid = NewGuid();
  RETURN_IF_ERROR(ToStatus(vhdx::UpdateHeader(file, header), "its header"));
  vhdx::LoggedChange change(file, header);
  RoomMap room((result.bytes_before + kMiB - 1) / kMiB * kMiB, kMiB);
  vhdx::TakeStructures(header.header, geometry, room);
  const uint64_t structures_end = room.end();
  std::vector<Placed> placed;

  const auto set_entry = [&](uint64_t at, uint64_t entry) -> absl::Status {
    RETURN_IF_ERROR(ToStatus(change.SetEntry(at, entry), "its allocation table"));
    return change.wants_commit() ? ToStatus(change.Commit(), "its allocation table") : absl::OkStatus();
  };
  // What a block's entry should be. The place is kept, or 0.
  const auto judge = [&](uint64_t block, uint64_t entry, uint64_t bitmap) -> absl::StatusOr<uint64_t> {
    const uint64_t place = vhdx::OffsetOf(entry);
    const uint64_t size = std::min(block_bytes, geometry.disk_bytes - block * block_bytes);
    bool is_whole = true;
    switch (vhdx::StateOf(entry)) {
      case vhdx::BlockState::kPartiallyPresent: {
        const uint64_t sectors = size / geometry.logical_sector_bytes;
        std::vector<uint8_t> bits(block_bytes / geometry.logical_sector_bytes / 8);
        const uint64_t byte = block % geometry.chunk_ratio() * bits.size();
        RETURN_IF_ERROR(ToStatus(Read(file, vhdx::OffsetOf(bitmap) + byte, absl::MakeSpan(bits)), "its sector bitmap"));
        const BitRun run = FindRun(bits, 0, sectors, BitOrder::kLowestFirst);
        if (run.length == sectors && !run.is_set) return vhdx::MakeEntry(vhdx::BlockState::kNotPresent, 0);
        is_whole = run.length == sectors;
        [[fallthrough]];
      }
      case vhdx::BlockState::kFullyPresent:
        if (is_whole) {
          ASSIGN_OR_RETURN(const bool is_zero, compaction.IsZeroAt(place, size));
          if (is_zero) return vhdx::MakeEntry(vhdx::BlockState::kZero, 0);
        }
        return entry;
      default:
        return vhdx::MakeEntry(vhdx::StateOf(entry), 0);
    }
  };
  for (uint64_t chunk = 0; chunk < geometry.bitmap_count(); ++chunk) {
    const uint64_t first = chunk * geometry.chunk_ratio();
    uint64_t bitmap = 0;
    if (geometry.has_parent) {
      RETURN_IF_ERROR(ToStatus(change.GetEntry(geometry.BitmapEntry(first), bitmap), "its allocation table"));
    }
    bool needs_bitmap = false;
    for (uint64_t block = first; block < std::min(first + geometry.chunk_ratio(), geometry.block_count()); ++block) {
      const uint64_t at = geometry.BlockEntry(block);
      uint64_t entry;
      RETURN_IF_ERROR(ToStatus(change.GetEntry(at, entry), "its allocation table"));
      if (entry == 0) continue;
      const bool is_partial = vhdx::StateOf(entry) == vhdx::BlockState::kPartiallyPresent;
      if (is_partial && (bitmap & 7) != vhdx::kBitmapPresent) {
        return absl::InvalidArgumentError(
            absl::StrCat("block ", block, " is present in part, and no bitmap says which"));
      }
      ASSIGN_OR_RETURN(const uint64_t wanted, judge(block, entry, bitmap));
      if (wanted != entry) RETURN_IF_ERROR(set_entry(at, wanted));
      if (vhdx::OffsetOf(entry) == 0) continue;
      const bool stays = vhdx::OffsetOf(wanted) != 0;
      if (stays) {
        room.Take(vhdx::OffsetOf(wanted), block_bytes);
        placed.push_back({vhdx::OffsetOf(wanted), at, false});
        needs_bitmap |= is_partial;
      }
      compaction.Advance(stays ? block_bytes : 2 * block_bytes);
    }
    if (bitmap == 0) continue;
    if (needs_bitmap) {
      room.Take(vhdx::OffsetOf(bitmap), kMiB);
      placed.push_back({vhdx::OffsetOf(bitmap), geometry.BitmapEntry(first), true});
    } else {
      RETURN_IF_ERROR(set_entry(geometry.BitmapEntry(first), 0));
    }
  }
  // What was let go of is filled anew only when no loss of power brings it back.
  RETURN_IF_ERROR(ToStatus(change.Commit(), "its allocation table"));
  const auto size_of = [&](const Placed& one) { return one.is_bitmap ? kMiB : block_bytes; };
  const auto move = [&](const Placed& one, uint64_t place) -> absl::Status {
    if (!one.is_bitmap) compaction.Advance(block_bytes);
    if (place == one.place) return absl::OkStatus();
    RETURN_IF_ERROR(compaction.Copy(one.place, place, size_of(one)));
    uint64_t entry;
    RETURN_IF_ERROR(ToStatus(change.GetEntry(one.entry, entry), "its allocation table"));
    return set_entry(one.entry, place | (entry & 7));
  };
  ASSIGN_OR_RETURN(const uint64_t blocks_end, MoveDown(std::move(placed), room, size_of, move));
  RETURN_IF_ERROR(ToStatus(change.Close(), "its allocation table"));
  // The log is empty: an entry of it says how long the file must be.
  result.bytes_after = std::max(structures_end, blocks_end);
  if (result.bytes_after >= result.bytes_before) {
    result.bytes_after = result.bytes_before;
    return result;
  }
  RETURN_IF_ERROR(ToStatus(file.Resize(result.bytes_after), "its end"));
  RETURN_IF_ERROR(ToStatus(Flush(file), "its end"));
  return result;
}

absl::StatusOr<ImageCompaction> CompactVhd(ImageFile& file, const ImageProgress& progress) {
  ASSIGN_OR_RETURN(vhd::Geometry geometry, vhd::ReadGeometry(file));
  if (geometry.type == vhd::DiskType::kFixed)
    return absl::InvalidArgumentError("a fixed VHD has room for all of its disk");
  ASSIGN_OR_RETURN(const ImageCheck check, CheckBefore(CheckVhd(file, /*repair=*/true)));
  if (check.present_blocks > kMaxPlaced) return TooLarge();
  ImageCompaction result{.bytes_before = file.size_bytes()};
  Compaction compaction(file, progress, 2 * check.present_blocks * geometry.block_bytes);
  std::mutex mutex;
  MetadataCache cache(file, mutex);
  RoomMap room(geometry.end, vhd::kSector);
  vhd::TakeStructures(geometry, room);
  const uint64_t structures_end = room.end();
  std::vector<Placed> placed;

  // Each entry lies within one sector, which is written as a whole. Its old block and its new one are there meanwhile.
  const auto commit = [&]() -> absl::Status {
    RETURN_IF_ERROR(ToStatus(Flush(file), "its file"));
    RETURN_IF_ERROR(ToStatus(cache.WriteChanged(), "its allocation table"));
    return ToStatus(Flush(file), "its file");
  };
  const auto set_entry = [&](uint64_t at, uint32_t entry) -> absl::Status {
    vhd::Be32 wire;
    wire = entry;
    RETURN_IF_ERROR(ToStatus(cache.Load({at}), "its allocation table"));
    cache.Change(at, wire.bytes);
    return cache.changed().size() >= 64 ? commit() : absl::OkStatus();
  };
  for (uint64_t block = 0; block < geometry.block_count(); ++block) {
    const uint64_t at = geometry.table_offset + block * 4;
    RETURN_IF_ERROR(ToStatus(cache.Load({at}), "its allocation table"));
    vhd::Be32 wire;
    {
      std::lock_guard lock(mutex);
      std::memcpy(&wire, cache.Find(at).data(), sizeof(wire));
    }
    if (wire == vhd::kNoBlock) continue;
    const uint64_t place = wire * vhd::kSector;
    const uint64_t size = std::min<uint64_t>(geometry.block_bytes, geometry.disk_bytes - block * geometry.block_bytes);
    bool is_nothing;
    if (geometry.has_parent()) {
      // Its own zeroes hide the parent's bytes.
      std::vector<uint8_t> bits(geometry.bitmap_bytes());
      RETURN_IF_ERROR(ToStatus(Read(file, place, absl::MakeSpan(bits)), "its sector bitmap"));
      const BitRun run = FindRun(bits, 0, size / vhd::kSector, BitOrder::kHighestFirst);
      is_nothing = !run.is_set && run.length == size / vhd::kSector;
    } else {
      ASSIGN_OR_RETURN(is_nothing, compaction.IsZeroAt(place + geometry.bitmap_bytes(), size));
    }
    compaction.Advance(is_nothing ? 2 * geometry.block_bytes : geometry.block_bytes);
    if (is_nothing) {
      RETURN_IF_ERROR(set_entry(at, vhd::kNoBlock));
    } else {
      room.Take(place, geometry.room_bytes());
      placed.push_back({place, at, false});
    }
  }
  RETURN_IF_ERROR(commit());
  const auto size_of = [&](const Placed&) { return geometry.room_bytes(); };
  const auto move = [&](const Placed& one, uint64_t place) -> absl::Status {
    compaction.Advance(geometry.block_bytes);
    if (place == one.place) return absl::OkStatus();
    RETURN_IF_ERROR(compaction.Copy(one.place, place, geometry.room_bytes()));
    return set_entry(one.entry, static_cast<uint32_t>(place / vhd::kSector));
  };
  ASSIGN_OR_RETURN(const uint64_t blocks_end, MoveDown(std::move(placed), room, size_of, move));
  RETURN_IF_ERROR(commit());
  geometry.end = std::min(geometry.end, std::max(structures_end, blocks_end));
  result.bytes_after = geometry.end + vhd::kSector;
  RETURN_IF_ERROR(vhd::WriteFooter(file, geometry));
  return result;
}

}  // namespace hvsdk::internal
