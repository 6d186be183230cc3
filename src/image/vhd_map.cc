// SPDX-License-Identifier: Apache-2.0
#include "image/vhd_map.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "image/bitmap_run.h"
#include "image/block_status_macros.h"
#include "image/blocking.h"

namespace hvsdk::internal::vhd {
namespace {

using Place = Extent::Place;

}  // namespace

VhdMap::VhdMap(std::shared_ptr<ImageFile> file, Geometry geometry)
    : file_(std::move(file)), geometry_(std::move(geometry)), cache_(*file_, mutex_), end_(geometry_.end) {}

bool VhdMap::GetEntry(uint64_t block, uint32_t& entry) {
  const absl::Span<const uint8_t> bytes = cache_.Find(EntryAt(block));
  if (bytes.empty()) return false;
  Be32 wire;
  std::memcpy(&wire, bytes.data(), sizeof(wire));
  entry = wire;
  return true;
}

BlockStatus VhdMap::LoadEntry(uint64_t block, uint32_t& entry) {
  RETURN_IF_FAILED(cache_.Load({EntryAt(block)}));
  std::lock_guard lock(mutex_);
  return GetEntry(block, entry) ? BlockStatus::kOk : BlockStatus::kIoError;
}

void VhdMap::SetEntry(uint64_t block, uint32_t entry) {
  Be32 wire;
  wire = entry;
  cache_.Change(EntryAt(block), wire.bytes);
}

bool VhdMap::IsWithinFile(uint32_t entry, uint64_t bytes_of_block, uint64_t block) {
  const uint64_t end = entry * kSector + geometry_.bitmap_bytes() + bytes_of_block;
  if (entry != 0 && end <= file_->size_bytes()) return true;
  Complain(absl::StrCat("VHD: block ", block, " is said to lie at sector ", entry, ", which is outside the file"));
  return false;
}

Extent VhdMap::Find(uint64_t offset, uint64_t size_bytes, bool for_write) {
  Extent extent;
  const BlockPart part = PartAt(offset, size_bytes);
  extent.size_bytes = part.size;
  uint32_t entry;
  if (!GetEntry(part.block, entry)) return extent;
  if (entry == kNoBlock) {
    extent.place = geometry_.has_parent() ? Place::kParent : Place::kZeroes;
    return extent;
  }
  if (!IsWithinFile(entry, part.in_block + part.size, part.block)) {
    extent.place = Place::kBroken;
    return extent;
  }
  extent.file_offset = entry * kSector + geometry_.bitmap_bytes() + part.in_block;
  if (!geometry_.has_parent() && !for_write) {
    extent.place = Place::kFile;
    return extent;
  }
  const uint64_t sector = part.in_block / kSector;
  const absl::Span<const uint8_t> bits = cache_.Find(entry * kSector + sector / 8);
  if (bits.empty()) return extent;
  const BitRun run = FindRun(bits, sector % 8, part.size / kSector, BitOrder::kHighestFirst);
  if (for_write) {
    extent.place = Place::kFile;
    extent.unmarked = !run.is_set || run.length * kSector < part.size;
    return extent;
  }
  extent.place = run.is_set ? Place::kFile : Place::kParent;
  extent.size_bytes = run.length * kSector;
  return extent;
}

BlockStatus VhdMap::Load(uint64_t offset, bool for_write) {
  const BlockPart part = PartAt(offset, 1);
  uint32_t entry;
  RETURN_IF_FAILED(LoadEntry(part.block, entry));
  const uint64_t byte = entry * kSector + part.in_block / kSector / 8;
  if (entry == kNoBlock || (!geometry_.has_parent() && !for_write) || byte >= file_->size_bytes()) {
    return BlockStatus::kOk;  // what is outside the file Find complains of
  }
  return cache_.Load({EntryAt(part.block), byte});
}

BlockStatus VhdMap::Allocate(uint64_t offset) {
  const uint64_t block = PartAt(offset, 1).block;
  uint32_t entry;
  RETURN_IF_FAILED(LoadEntry(block, entry));
  if (entry != kNoBlock) return BlockStatus::kOk;
  is_written_ = true;
  uint64_t place = end_;
  const bool is_old = !room_.empty();
  if (is_old) {
    place = room_.back() * kSector;
  } else {
    // The footer first: a file that ends without one has none until it is there.
    const uint64_t end = place + geometry_.room_bytes();
    if (end / kSector >= kNoBlock) return BlockStatus::kNoSpace;
    RETURN_IF_FAILED(file_->Resize(end + kSector));
    const auto* const footer = reinterpret_cast<const uint8_t*>(&geometry_.footer);
    RETURN_IF_FAILED(Write(*file_, end, absl::MakeConstSpan(footer, sizeof(Footer))));
  }
  // All that is not there is the parent's, or zero.
  const std::vector<uint8_t> bitmap(geometry_.bitmap_bytes(), geometry_.has_parent() ? 0 : 0xFF);
  RETURN_IF_FAILED(cache_.WriteThrough(place, bitmap));
  if (is_old) {
    room_.pop_back();
  } else {
    end_ = place + geometry_.room_bytes();
  }
  RETURN_IF_FAILED(cache_.Load({EntryAt(block)}));
  SetEntry(block, static_cast<uint32_t>(place / kSector));
  return BlockStatus::kOk;
}

BlockStatus VhdMap::MarkWritten(uint64_t offset, uint64_t size_bytes) {
  for (uint64_t done = 0; done < size_bytes;) {
    if (wants_commit()) RETURN_IF_FAILED(Commit());
    const BlockPart part = PartAt(offset + done, size_bytes - done);
    uint32_t entry;
    RETURN_IF_FAILED(LoadEntry(part.block, entry));
    if (entry == kNoBlock) {  // discarded meanwhile
      done += part.size;
      continue;
    }
    {
      std::lock_guard lock(mutex_);
      if (!IsWithinFile(entry, part.in_block + part.size, part.block)) return BlockStatus::kIoError;
    }
    const uint64_t sector = part.in_block / kSector;
    uint64_t count;
    RETURN_IF_FAILED(cache_.ChangeBits(entry * kSector + sector / 8, sector % 8, part.size / kSector, true,
                                       BitOrder::kHighestFirst, count));
    done += count * kSector;
  }
  return BlockStatus::kOk;
}

BlockStatus VhdMap::WriteZeroes(uint64_t offset, uint64_t size_bytes, bool discard) {
  is_written_ = true;
  for (uint64_t done = 0; done < size_bytes;) {
    if (wants_commit()) RETURN_IF_FAILED(Commit());
    const BlockPart part = PartAt(offset + done, size_bytes - done);
    uint32_t entry;
    RETURN_IF_FAILED(LoadEntry(part.block, entry));
    if (entry == kNoBlock && !geometry_.has_parent()) {
      // Zeroes already.
    } else if (part.is_whole && !geometry_.has_parent()) {
      SetEntry(part.block, kNoBlock);
      freed_.push_back(entry);
    } else {
      if (entry == kNoBlock) {
        RETURN_IF_FAILED(Allocate(offset + done));
        RETURN_IF_FAILED(LoadEntry(part.block, entry));
      }
      {
        std::lock_guard lock(mutex_);
        if (!IsWithinFile(entry, part.in_block + part.size, part.block)) return BlockStatus::kIoError;
      }
      RETURN_IF_FAILED(Zero(*file_, entry * kSector + geometry_.bitmap_bytes() + part.in_block, part.size,
                            discard ? BlockOp::kDiscard : BlockOp::kWriteZeroes));
      RETURN_IF_FAILED(MarkWritten(offset + done, part.size));
    }
    done += part.size;
  }
  return BlockStatus::kOk;
}

BlockStatus VhdMap::Commit() {
  RETURN_IF_FAILED(Flush(*file_));
  if (cache_.changed().empty()) return BlockStatus::kOk;
  RETURN_IF_FAILED(cache_.WriteChanged());
  return Flush(*file_);
}

void VhdMap::ReleaseFreed() {
  for (const uint32_t sector : std::exchange(freed_, {})) {
    // Behind the header and the table alone: what a damaged image says could be anywhere.
    const uint64_t place = sector * kSector, size = geometry_.room_bytes();
    const uint64_t first = std::max(geometry_.table_offset + geometry_.block_count() * 4,
                                    geometry_.footer.data_offset + sizeof(DynamicHeader));
    if (place < first || place + size > end_) continue;
    // Bits of it that nobody has written yet would be written over what comes next.
    cache_.Forget(place, geometry_.bitmap_bytes());
    if (Zero(*file_, place, size, BlockOp::kDiscard) == BlockStatus::kOk) room_.push_back(sector);
  }
}

BlockStatus VhdMap::Close() {
  if (!is_written_ && !is_changed()) return BlockStatus::kOk;
  RETURN_IF_FAILED(Commit());
  if (has_freed()) ReleaseFreed();
  return BlockStatus::kOk;
}

Extent FixedMap::Find(uint64_t offset, uint64_t size_bytes, bool) {
  return {.place = Place::kFile, .file_offset = offset, .size_bytes = size_bytes};
}

BlockStatus FixedMap::WriteZeroes(uint64_t offset, uint64_t size_bytes, bool discard) {
  return Zero(*file_, offset, size_bytes, discard ? BlockOp::kDiscard : BlockOp::kWriteZeroes);
}

BlockStatus FixedMap::Commit() { return Flush(*file_); }

}  // namespace hvsdk::internal::vhd
