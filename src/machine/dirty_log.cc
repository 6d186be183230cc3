// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/machine/dirty_log.h"

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "base/status_macros.h"

namespace hvsdk::machine {

DirtyLog::~DirtyLog() {
  if (!is_enabled_) return;
  board_.memory().EnableDirtyTracking(false);
  board_.engine().EnableDirtyLog(false).IgnoreError();
}

absl::Status DirtyLog::Enable() {
  if (is_enabled_) return absl::OkStatus();
  if (!board_.caps().dirty_log) return absl::UnimplementedError("this engine keeps no log of what the guest writes");
  RETURN_IF_ERROR(board_.engine().EnableDirtyLog(true));
  board_.memory().EnableDirtyTracking(true);
  is_enabled_ = true;
  return absl::OkStatus();
}

absl::Status DirtyLog::Take(PageSet& dirty) {
  HVSDK_CHECK(is_enabled_ && dirty.size() == pages());
  const uint8_t* const base = board_.host_memory().bytes().data();
  std::vector<uint64_t> bits;
  for (const GuestMemory::Range& range : board_.memory().ranges()) {
    const uint64_t range_pages = range.size_bytes >> kPageShift;
    bits.assign((range_pages + 63) / 64, 0);
    RETURN_IF_ERROR(board_.engine().TakeDirtyLog(range.gpa, range.size_bytes, absl::MakeSpan(bits)));
    board_.memory().TakeDirty(range.gpa, range_pages, absl::MakeSpan(bits));
    dirty.AddBits(static_cast<uint64_t>(range.host - base) >> kPageShift, bits);
  }
  return absl::OkStatus();
}

}  // namespace hvsdk::machine
