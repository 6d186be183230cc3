// SPDX-License-Identifier: Apache-2.0
// MetadataCache: pages of an image's allocation table and bitmaps, in memory while they are used, so that a table of
// any size costs no more than kMaxPages pages. Changed pages stay until they were written.
//
// Any thread may look pages up under the lock. One thread, the image's own, loads and changes them; it needs the lock
// for what others could see.

#ifndef HVSDK_SRC_IMAGE_METADATA_CACHE_H_
#define HVSDK_SRC_IMAGE_METADATA_CACHE_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "absl/types/span.h"
#include "hvsdk/image/image_file.h"
#include "image/bitmap_run.h"

namespace hvsdk::internal {

class MetadataCache {
 public:
  static constexpr uint64_t kPageBytes = 4096;
  static constexpr size_t kMaxPages = 4096;

  struct Page {
    std::array<uint8_t, kPageBytes> bytes{};
    uint8_t changed_sectors = 0;  // of 512 bytes
    bool was_used = true;
  };

  MetadataCache(ImageFile& file, std::mutex& mutex) : file_(file), mutex_(mutex) {}

  // Under the lock. The bytes from `offset` to the end of its page; empty: it must be loaded.
  absl::Span<const uint8_t> Find(uint64_t offset);

  // The rest is for the image's own thread, without the lock.

  // Brings all of these pages in.
  BlockStatus Load(absl::Span<const uint64_t> offsets);
  // Sets or clears the bits from bit `first` (0 to 7) of the byte at `offset` on: `count` of them, or those up to the end of the page,
  // which is loaded if need be. `done` is how many.
  BlockStatus ChangeBits(uint64_t offset, uint64_t first, uint64_t count, bool value, BitOrder order, uint64_t& done);
  // Changes bytes of a page that was loaded.
  void Change(uint64_t offset, absl::Span<const uint8_t> bytes);
  // Writes through to the file, whether the pages are loaded or not; a change that was not written is overtaken.
  BlockStatus WriteThrough(uint64_t offset, absl::Span<const uint8_t> bytes);
  // Forgets what it has of a range whose contents have changed in the file.
  void Forget(uint64_t offset, uint64_t size_bytes);

  // Page number to page.
  const std::map<uint64_t, Page*>& changed() const { return changed_; }
  // Writes changed sectors in place, and takes them for unchanged if all were written.
  BlockStatus WriteChanged();

 private:
  void Evict();

  ImageFile& file_;
  std::mutex& mutex_;
  std::unordered_map<uint64_t, std::unique_ptr<Page>> pages_;
  std::vector<uint64_t> order_;  // numbers of all pages, for the hand of the clock
  size_t hand_ = 0;
  std::map<uint64_t, Page*> changed_;
};

}  // namespace hvsdk::internal

#endif  // HVSDK_SRC_IMAGE_METADATA_CACHE_H_
