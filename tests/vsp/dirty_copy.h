// SPDX-License-Identifier: Apache-2.0
// DirtyCopy: a copy of a guest's memory that is kept by the dirty log alone, to find what the root writes and the log has not.

#ifndef HVSDK_TESTS_VSP_DIRTY_COPY_H_
#define HVSDK_TESTS_VSP_DIRTY_COPY_H_

#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk::vsp {

class DirtyCopy {
 public:
  // Of the first `pages` pages, whose bytes are at `bytes`; a multiple of 64.
  DirtyCopy(GuestMemory& memory, const uint8_t* bytes, size_t pages)
      : memory_(memory), bytes_(bytes), copy_(pages * kPageSize) {
    memory_.EnableDirtyTracking(true);
  }

  // The guest has written, which is an engine's to log.
  void CopyAll() { std::memcpy(copy_.data(), bytes_, copy_.size()); }
  // The root has written since the last copy, and nobody else.
  void CopyDirty() {
    const size_t pages = copy_.size() / kPageSize;
    std::vector<uint64_t> dirty_pages(pages / 64);
    memory_.TakeDirty(0, pages, absl::MakeSpan(dirty_pages));
    for (size_t page = 0; page < pages; ++page) {
      uint8_t* const copied = &copy_[page * kPageSize];
      const uint8_t* const now = bytes_ + page * kPageSize;
      const bool changed = std::memcmp(copied, now, kPageSize) != 0;
      changes += changed;
      const bool is_dirty = (dirty_pages[page / 64] >> page % 64 & 1) != 0;
      dirty += is_dirty;
      ASSERT_TRUE(is_dirty || !changed) << "page " << page << " was written and is not in the log";
      std::memcpy(copied, now, kPageSize);
    }
  }

  uint64_t changes = 0, dirty = 0;  // pages that had changed, and those that the log had

 private:
  GuestMemory& memory_;
  const uint8_t* const bytes_;
  std::vector<uint8_t> copy_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_TESTS_VSP_DIRTY_COPY_H_
