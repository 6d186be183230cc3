// SPDX-License-Identifier: Apache-2.0
#include "image/vhdx_map.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "image/bitmap_run.h"
#include "image/block_status_macros.h"
#include "image/blocking.h"
#include "image/room_map.h"

namespace hvsdk::internal::vhdx {
namespace {

using Place = Extent::Place;

bool HasRoom(BlockState state) { return state == BlockState::kFullyPresent || state == BlockState::kPartiallyPresent; }

}  // namespace

VhdxMap::VhdxMap(std::shared_ptr<ImageFile> file, const CurrentHeader& header, Geometry geometry, const Guid& new_id)
    : file_(std::move(file)),
      header_(header),
      geometry_(std::move(geometry)),
      new_id_(new_id),
      cache_(*file_, mutex_),
      log_(*file_) {}

uint64_t VhdxMap::BitmapByte(uint64_t bitmap, uint64_t offset) const {
  return bitmap + offset / geometry_.logical_sector_bytes % (uint64_t{1} << 23) / 8;
}

bool VhdxMap::GetEntry(uint64_t at, uint64_t& entry) {
  const absl::Span<const uint8_t> bytes = cache_.Find(at);
  if (bytes.empty()) return false;
  std::memcpy(&entry, bytes.data(), sizeof(entry));
  return true;
}

bool VhdxMap::IsWithinFile(uint64_t place, uint64_t size_bytes, uint64_t block) {
  if (place >= kMiB && place <= file_->size_bytes() && size_bytes <= file_->size_bytes() - place) return true;
  Complain(absl::StrCat("VHDX: block ", block, " is said to lie at byte ", place, ", which is outside the file"));
  return false;
}

Extent VhdxMap::Find(uint64_t offset, uint64_t size_bytes, bool for_write) {
  Extent extent;
  const BlockPart part = PartAt(offset, size_bytes);
  extent.size_bytes = part.size;
  uint64_t entry;
  if ((for_write && !is_writing_) || !GetEntry(geometry_.BlockEntry(part.block), entry)) return extent;
  const BlockState state = StateOf(entry);
  if (!HasRoom(state)) {
    extent.place = geometry_.has_parent && state == BlockState::kNotPresent ? Place::kParent : Place::kZeroes;
    return extent;
  }
  const uint64_t start = OffsetOf(entry);
  if (!IsWithinFile(start, part.in_block + part.size, part.block)) {
    extent.place = Place::kBroken;
    return extent;
  }
  extent.file_offset = start + part.in_block;
  if (state == BlockState::kFullyPresent || !geometry_.has_parent) {
    extent.place = Place::kFile;
    return extent;
  }
  uint64_t bitmap;
  if (!GetEntry(geometry_.BitmapEntry(part.block), bitmap)) return extent;
  if ((bitmap & 7) != kBitmapPresent) {
    Complain(absl::StrCat("VHDX: block ", part.block, " is present in part, and no bitmap says which"));
    extent.place = Place::kBroken;
    return extent;
  }
  const uint64_t byte = BitmapByte(OffsetOf(bitmap), offset);
  if (!IsWithinFile(OffsetOf(bitmap), kMiB, part.block)) {
    extent.place = Place::kBroken;
    return extent;
  }
  const absl::Span<const uint8_t> bits = cache_.Find(byte);
  if (bits.empty()) return extent;
  const BitRun run = FindRun(bits, BitOf(offset), part.size / geometry_.logical_sector_bytes, BitOrder::kLowestFirst);
  if (for_write) {
    // All of it has room; what was never written is marked afterwards.
    extent.place = Place::kFile;
    extent.unmarked = !run.is_set || run.length * geometry_.logical_sector_bytes < part.size;
    return extent;
  }
  extent.place = run.is_set ? Place::kFile : Place::kParent;
  extent.size_bytes = run.length * geometry_.logical_sector_bytes;
  return extent;
}

BlockStatus VhdxMap::Load(uint64_t offset, bool for_write) {
  if (for_write) RETURN_IF_FAILED(BeginWriting());
  const uint64_t block = offset / geometry_.block_bytes;
  const uint64_t at = geometry_.BlockEntry(block);
  uint64_t entry;
  RETURN_IF_FAILED(LoadEntry(at, entry));
  if (StateOf(entry) != BlockState::kPartiallyPresent || !geometry_.has_parent) return BlockStatus::kOk;
  const uint64_t bitmap_at = geometry_.BitmapEntry(block);
  uint64_t bitmap;
  RETURN_IF_FAILED(LoadEntry(bitmap_at, bitmap));
  const uint64_t byte = BitmapByte(OffsetOf(bitmap), offset);
  if ((bitmap & 7) != kBitmapPresent || byte >= file_->size_bytes()) return BlockStatus::kOk;  // Find complains
  return cache_.Load({at, bitmap_at, byte});
}

BlockStatus VhdxMap::BeginWriting() {
  if (is_writing_) return BlockStatus::kOk;
  // 2.2.2: whoever remembers the file, as an image whose parent it is, sees that it has changed.
  header_.header.file_write_guid = NewGuid();
  header_.header.data_write_guid = new_id_ == Guid{} ? NewGuid() : new_id_;
  RETURN_IF_FAILED(UpdateHeader(*file_, header_));
  std::lock_guard lock(mutex_);
  is_writing_ = true;
  return BlockStatus::kOk;
}

BlockStatus VhdxMap::LoadEntry(uint64_t at, uint64_t& entry) {
  RETURN_IF_FAILED(cache_.Load({at}));
  std::lock_guard lock(mutex_);
  return GetEntry(at, entry) ? BlockStatus::kOk : BlockStatus::kIoError;
}

void VhdxMap::SetEntry(uint64_t at, uint64_t entry) {
  cache_.Change(at, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&entry), sizeof(entry)));
}

BlockStatus VhdxMap::NewRoom(uint64_t size_bytes, uint64_t& place) {
  if (!has_looked_) RETURN_IF_FAILED(FindRoom());
  if (size_bytes == geometry_.block_bytes && !room_.empty()) {
    place = room_.back();
    room_.pop_back();
    return BlockStatus::kOk;
  }
  if (size_bytes == geometry_.block_bytes && !found_.empty()) {
    RETURN_IF_FAILED(Zero(*file_, found_.back(), size_bytes, BlockOp::kDiscard));
    place = found_.back();
    found_.pop_back();
    return BlockStatus::kOk;
  }
  place = (file_->size_bytes() + kMiB - 1) / kMiB * kMiB;
  if (place > kMaxFileBytes) return BlockStatus::kNoSpace;
  return file_->Resize(place + size_bytes);
}

BlockStatus VhdxMap::FindRoom() {
  has_looked_ = true;
  // 32 MiB of table: 8 TiB of disk with blocks of 2 MiB. Beyond, the file only grows.
  constexpr uint64_t kMaxEntries = 4 << 20;
  const uint64_t count = geometry_.entry_count(), group = geometry_.chunk_ratio() + 1;
  if (count > kMaxEntries || !RoomMap::Fits(file_->size_bytes(), kMiB)) return BlockStatus::kOk;
  // Behind the last whole MiB nothing fits.
  RoomMap taken(file_->size_bytes() / kMiB * kMiB, kMiB);
  TakeStructures(header_.header, geometry_, taken);
  for (const uint64_t place : room_) taken.Take(place, geometry_.block_bytes);
  // The file may have forgotten these already; ReleaseFreed gives them to room_.
  for (const uint64_t place : freed_) taken.Take(place, geometry_.block_bytes);
  // As the file has it: whatever was changed since the last Commit, a loss of power brings back.
  std::vector<uint64_t> entries;
  constexpr uint64_t kStep = 128 << 10;
  for (uint64_t start = 0; start < count; start += kStep) {
    entries.resize(std::min(kStep, count - start));
    const absl::Span<uint8_t> bytes(reinterpret_cast<uint8_t*>(entries.data()), entries.size() * 8);
    RETURN_IF_FAILED(Read(*file_, geometry_.bat_offset + start * 8, bytes));
    for (size_t i = 0; i < entries.size(); ++i) {
      const uint64_t place = OffsetOf(entries[i]);
      const bool is_bitmap = (start + i) % group == group - 1;
      // Whatever the state: an entry that names a place may have it.
      if (place != 0 && place < file_->size_bytes()) taken.Take(place, is_bitmap ? kMiB : geometry_.block_bytes);
    }
  }
  found_ = taken.FindFree(geometry_.block_bytes, /*max_count=*/64 << 10);
  std::reverse(found_.begin(), found_.end());  // the first is the first to be used
  return BlockStatus::kOk;
}

BlockStatus VhdxMap::LoadBitmap(uint64_t block, uint64_t& bitmap, bool allocate) {
  const uint64_t at = geometry_.BitmapEntry(block);
  uint64_t entry;
  RETURN_IF_FAILED(LoadEntry(at, entry));
  bitmap = OffsetOf(entry);
  if ((entry & 7) == kBitmapPresent) {
    std::lock_guard lock(mutex_);
    return IsWithinFile(bitmap, kMiB, block) ? BlockStatus::kOk : BlockStatus::kIoError;
  }
  if (!allocate) return BlockStatus::kIoError;
  RETURN_IF_FAILED(NewRoom(kMiB, bitmap));
  cache_.Forget(bitmap, kMiB);
  RETURN_IF_FAILED(cache_.Load({at}));
  SetEntry(at, bitmap | kBitmapPresent);
  return BlockStatus::kOk;
}

BlockStatus VhdxMap::SetBits(uint64_t bitmap, uint64_t offset, uint64_t size_bytes, bool value) {
  for (uint64_t end = offset + size_bytes; offset < end;) {
    const uint64_t sector = geometry_.logical_sector_bytes;
    uint64_t count;
    RETURN_IF_FAILED(cache_.ChangeBits(BitmapByte(bitmap, offset), BitOf(offset), (end - offset) / sector, value,
                                       BitOrder::kLowestFirst, count));
    offset += count * sector;
  }
  return BlockStatus::kOk;
}

BlockStatus VhdxMap::Allocate(uint64_t offset) {
  const BlockPart part = PartAt(offset, 1);
  const uint64_t at = geometry_.BlockEntry(part.block);
  uint64_t entry;
  RETURN_IF_FAILED(LoadEntry(at, entry));
  const BlockState state = StateOf(entry);
  if (HasRoom(state)) return BlockStatus::kOk;
  uint64_t place = OffsetOf(entry);
  const bool has_kept_room = state == BlockState::kUnmapped && place != 0;
  if (has_kept_room) {
    {
      std::lock_guard lock(mutex_);
      if (!IsWithinFile(place, geometry_.block_bytes, part.block)) return BlockStatus::kIoError;
    }
    RETURN_IF_FAILED(Zero(*file_, place, geometry_.block_bytes));
  } else {
    RETURN_IF_FAILED(NewRoom(geometry_.block_bytes, place));
  }
  if (!geometry_.has_parent || state != BlockState::kNotPresent) {
    RETURN_IF_FAILED(cache_.Load({at}));
    SetEntry(at, MakeEntry(BlockState::kFullyPresent, place));
    return BlockStatus::kOk;
  }
  // The parent's until it is written: no bit is set, whatever was left there.
  uint64_t bitmap;
  RETURN_IF_FAILED(LoadBitmap(part.block, bitmap, /*allocate=*/true));
  const uint64_t start = part.block * geometry_.block_bytes;
  RETURN_IF_FAILED(SetBits(bitmap, start, PartAt(start, geometry_.block_bytes).size, false));
  RETURN_IF_FAILED(cache_.Load({at}));
  SetEntry(at, MakeEntry(BlockState::kPartiallyPresent, place));
  return BlockStatus::kOk;
}

BlockStatus VhdxMap::MarkWritten(uint64_t offset, uint64_t size_bytes) {
  for (uint64_t done = 0; done < size_bytes;) {
    if (wants_commit()) RETURN_IF_FAILED(Commit());
    const BlockPart part = PartAt(offset + done, size_bytes - done);
    const uint64_t at = geometry_.BlockEntry(part.block);
    uint64_t entry;
    RETURN_IF_FAILED(LoadEntry(at, entry));
    if (StateOf(entry) == BlockState::kPartiallyPresent) {
      if (part.is_whole) {
        SetEntry(at, MakeEntry(BlockState::kFullyPresent, OffsetOf(entry)));
      } else {
        uint64_t bitmap;
        RETURN_IF_FAILED(LoadBitmap(part.block, bitmap, /*allocate=*/false));
        RETURN_IF_FAILED(SetBits(bitmap, offset + done, part.size, true));
      }
    }
    done += part.size;
  }
  return BlockStatus::kOk;
}

BlockStatus VhdxMap::WriteZeroes(uint64_t offset, uint64_t size_bytes, bool discard) {
  RETURN_IF_FAILED(BeginWriting());
  for (uint64_t done = 0; done < size_bytes;) {
    if (wants_commit()) RETURN_IF_FAILED(Commit());
    const BlockPart part = PartAt(offset + done, size_bytes - done);
    const uint64_t at = geometry_.BlockEntry(part.block);
    uint64_t entry;
    RETURN_IF_FAILED(LoadEntry(at, entry));
    const BlockState state = StateOf(entry);
    const bool is_parents = geometry_.has_parent && state == BlockState::kNotPresent;
    if (!HasRoom(state) && !is_parents) {
      // Zeroes already.
    } else if (part.is_whole && !geometry_.leave_blocks_allocated) {
      SetEntry(at, MakeEntry(BlockState::kZero, 0));
      if (HasRoom(state)) freed_.push_back(OffsetOf(entry));
    } else {
      if (is_parents) {
        RETURN_IF_FAILED(Allocate(offset + done));
        RETURN_IF_FAILED(LoadEntry(at, entry));
      }
      {
        std::lock_guard lock(mutex_);
        if (!IsWithinFile(OffsetOf(entry), part.in_block + part.size, part.block)) return BlockStatus::kIoError;
      }
      RETURN_IF_FAILED(Zero(*file_, OffsetOf(entry) + part.in_block, part.size,
                            discard ? BlockOp::kDiscard : BlockOp::kWriteZeroes));
      RETURN_IF_FAILED(MarkWritten(offset + done, part.size));
    }
    done += part.size;
  }
  return BlockStatus::kOk;
}

BlockStatus VhdxMap::Commit() {
  RETURN_IF_FAILED(Flush(*file_));
  if (cache_.changed().empty()) return BlockStatus::kOk;
  RETURN_IF_FAILED(log_.Append(header_, cache_.changed()));
  return cache_.WriteChanged();
}

void VhdxMap::ReleaseFreed() {
  for (const uint64_t place : std::exchange(freed_, {})) {
    // Zeroes when it is next used. What the file does not have, or cannot zero, is not used.
    const uint64_t size = geometry_.block_bytes;
    if (place < kMiB || place > file_->size_bytes() || size > file_->size_bytes() - place) continue;
    if (Zero(*file_, place, size, BlockOp::kDiscard) == BlockStatus::kOk) room_.push_back(place);
  }
}

BlockStatus VhdxMap::Close() {
  if (!is_writing_) return BlockStatus::kOk;
  RETURN_IF_FAILED(Commit());
  if (has_freed()) ReleaseFreed();
  if (!log_.is_used()) return BlockStatus::kOk;
  RETURN_IF_FAILED(Flush(*file_));
  return log_.Empty(header_);
}

}  // namespace hvsdk::internal::vhdx
