// SPDX-License-Identifier: Apache-2.0
#include "image/metadata_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "image/blocking.h"

namespace hvsdk::internal {

absl::Span<const uint8_t> MetadataCache::Find(uint64_t offset) {
  const auto found = pages_.find(offset / kPageBytes);
  if (found == pages_.end()) return {};
  found->second->was_used = true;
  return absl::MakeConstSpan(found->second->bytes).subspan(offset % kPageBytes);
}

BlockStatus MetadataCache::Load(absl::Span<const uint64_t> offsets) {
  // Bringing in one may evict another.
  for (bool all = false; !all;) {
    all = true;
    for (const uint64_t offset : offsets) {
      const uint64_t number = offset / kPageBytes;
      if (pages_.contains(number)) continue;
      all = false;
      auto page = std::make_unique<Page>();
      const uint64_t start = number * kPageBytes;
      if (offset >= file_.size_bytes()) return BlockStatus::kIoError;
      const uint64_t size = std::min(kPageBytes, file_.size_bytes() - start);
      const BlockStatus status = Read(file_, start, absl::MakeSpan(page->bytes).first(size));
      if (status != BlockStatus::kOk) return status;
      std::lock_guard lock(mutex_);
      if (pages_.size() >= kMaxPages) Evict();
      pages_.emplace(number, std::move(page));
      order_.push_back(number);
    }
  }
  return BlockStatus::kOk;
}

void MetadataCache::Evict() {
  // Twice around at most: the first round takes marks away. Changed pages are far fewer than all.
  for (size_t step = 0; step < 2 * order_.size(); ++step) {
    if (hand_ >= order_.size()) hand_ = 0;
    const auto page = pages_.find(order_[hand_]);
    if (!std::exchange(page->second->was_used, false) && page->second->changed_sectors == 0) {
      pages_.erase(page);
      order_[hand_] = order_.back();
      order_.pop_back();
      return;
    }
    ++hand_;
  }
}

BlockStatus MetadataCache::ChangeBits(uint64_t offset, uint64_t first, uint64_t count, bool value, BitOrder order,
                                      uint64_t& done) {
  if (const BlockStatus status = Load({offset}); status != BlockStatus::kOk) return status;
  done = std::min(count, (kPageBytes - offset % kPageBytes) * 8 - first);
  std::vector<uint8_t> bits((first + done + 7) / 8);
  {
    std::lock_guard lock(mutex_);
    std::memcpy(bits.data(), Find(offset).data(), bits.size());
  }
  for (uint64_t bit = first; bit < first + done; ++bit) {
    const uint8_t mask = BitMask(bit, order);
    bits[bit / 8] = static_cast<uint8_t>(value ? bits[bit / 8] | mask : bits[bit / 8] & ~mask);
  }
  Change(offset, bits);
  return BlockStatus::kOk;
}

void MetadataCache::Change(uint64_t offset, absl::Span<const uint8_t> bytes) {
  std::lock_guard lock(mutex_);
  while (!bytes.empty()) {
    const uint64_t number = offset / kPageBytes, at = offset % kPageBytes;
    const size_t size = std::min<size_t>(bytes.size(), kPageBytes - at);
    Page& page = *pages_.at(number);
    std::memcpy(&page.bytes[at], bytes.data(), size);
    for (uint64_t sector = at / 512; sector <= (at + size - 1) / 512; ++sector) page.changed_sectors |= 1 << sector;
    changed_[number] = &page;
    offset += size;
    bytes.remove_prefix(size);
  }
}

BlockStatus MetadataCache::WriteThrough(uint64_t offset, absl::Span<const uint8_t> bytes) {
  const BlockStatus status = Write(file_, offset, bytes);
  if (status != BlockStatus::kOk) return status;
  std::lock_guard lock(mutex_);
  while (!bytes.empty()) {
    const uint64_t at = offset % kPageBytes;
    const size_t size = std::min<size_t>(bytes.size(), kPageBytes - at);
    const auto found = pages_.find(offset / kPageBytes);
    if (found != pages_.end()) std::memcpy(&found->second->bytes[at], bytes.data(), size);
    offset += size;
    bytes.remove_prefix(size);
  }
  return BlockStatus::kOk;
}

void MetadataCache::Forget(uint64_t offset, uint64_t size_bytes) {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < order_.size();) {
    if (order_[i] >= offset / kPageBytes && order_[i] < (offset + size_bytes + kPageBytes - 1) / kPageBytes) {
      changed_.erase(order_[i]);
      pages_.erase(order_[i]);
      order_[i] = order_.back();
      order_.pop_back();
    } else {
      ++i;
    }
  }
}

BlockStatus MetadataCache::WriteChanged() {
  for (const auto& [number, page] : changed_) {
    for (int sector = 0; sector < 8;) {
      if ((page->changed_sectors >> sector & 1) == 0) {
        ++sector;
        continue;
      }
      int end = sector + 1;
      while (end < 8 && (page->changed_sectors >> end & 1) != 0) ++end;
      const uint64_t start = number * kPageBytes + static_cast<uint64_t>(sector) * 512;
      const auto bytes = absl::MakeConstSpan(page->bytes)
                             .subspan(static_cast<size_t>(sector) * 512, static_cast<size_t>(end - sector) * 512);
      if (const BlockStatus status = Write(file_, start, bytes); status != BlockStatus::kOk) return status;
      sector = end;
    }
  }
  std::lock_guard lock(mutex_);
  for (const auto& [number, page] : changed_) page->changed_sectors = 0;
  changed_.clear();
  return BlockStatus::kOk;
}

}  // namespace hvsdk::internal
