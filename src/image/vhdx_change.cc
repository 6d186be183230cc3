// SPDX-License-Identifier: Apache-2.0
#include "image/vhdx_change.h"

#include <cstring>

#include "image/block_status_macros.h"
#include "image/blocking.h"

namespace hvsdk::internal::vhdx {

BlockStatus LoggedChange::GetEntry(uint64_t offset, uint64_t& entry) {
  RETURN_IF_FAILED(cache_.Load({offset}));
  std::lock_guard lock(mutex_);
  std::memcpy(&entry, cache_.Find(offset).data(), sizeof(entry));
  return BlockStatus::kOk;
}

BlockStatus LoggedChange::Set(uint64_t offset, absl::Span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const uint64_t room = MetadataCache::kPageBytes - offset % MetadataCache::kPageBytes;
    const absl::Span<const uint8_t> part = bytes.subspan(0, room);
    RETURN_IF_FAILED(cache_.Load({offset}));
    cache_.Change(offset, part);
    offset += part.size();
    bytes.remove_prefix(part.size());
  }
  return BlockStatus::kOk;
}

BlockStatus LoggedChange::SetEntry(uint64_t offset, uint64_t entry) {
  return Set(offset, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&entry), sizeof(entry)));
}

BlockStatus LoggedChange::Commit() {
  RETURN_IF_FAILED(Flush(file_));
  if (cache_.changed().empty()) return BlockStatus::kOk;
  if (cache_.changed().size() > LogWriter::MaxPages(header_.header.log_length)) return BlockStatus::kNoSpace;
  RETURN_IF_FAILED(log_.Append(header_, cache_.changed()));
  return cache_.WriteChanged();
}

BlockStatus LoggedChange::Close() {
  RETURN_IF_FAILED(Commit());
  RETURN_IF_FAILED(Flush(file_));
  return log_.Empty(header_);
}

}  // namespace hvsdk::internal::vhdx
