// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/memory/guest_memory.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "hvsdk/base/ids.h"
#include "memory/guest_copy.h"

namespace hvsdk {
namespace {

constexpr uint64_t kMaxExtraPieces = 256;

}  // namespace

absl::Status GuestMemory::AddRange(uint64_t gpa, absl::Span<uint8_t> host) {
  const uint64_t size = host.size();
  if (size == 0 || size % kPageSize != 0 || gpa % kPageSize != 0 || gpa + size < gpa) {
    return absl::InvalidArgumentError(absl::StrFormat("memory range %#x+%#x is not whole pages", gpa, size));
  }
  const size_t count = count_.load(std::memory_order_relaxed);
  if (count == kMaxRanges) return absl::InvalidArgumentError("more than 64 memory ranges");
  const auto end = ranges_.begin() + count;
  const auto after = std::find_if(ranges_.begin(), end, [&](const Range& r) { return r.gpa >= gpa; });
  const bool overlaps_next = after != end && gpa + size > after->gpa;
  const bool overlaps_previous = after != ranges_.begin() && std::prev(after)->gpa + std::prev(after)->size_bytes > gpa;
  if (overlaps_next || overlaps_previous) {
    return absl::InvalidArgumentError(absl::StrFormat("memory range %#x+%#x overlaps another", gpa, size));
  }
  auto flags = MakeZeroedArray<std::atomic<uint8_t>>(size >> kPageShift);
  auto counts = MakeZeroedArray<std::atomic<uint32_t>>(size >> kPageShift);
  if (flags == nullptr || counts == nullptr) {
    return absl::ResourceExhaustedError(absl::StrFormat("no memory for the flags of %d pages", size >> kPageShift));
  }
  // Between a log that is switched on now and this range there is the lock: one of the two sees the other.
  std::lock_guard lock(shared_mutex_);
  for (uint64_t page = 0; tracking_ && page < size >> kPageShift; ++page) flags[page] = kTracked | kDirty;
  // Those above make room, which nobody looks at yet; there are none while VPs run.
  const auto index = static_cast<size_t>(after - ranges_.begin());
  for (size_t i = count; i > index; --i) {
    ranges_[i] = ranges_[i - 1];
    page_flags_[i] = std::move(page_flags_[i - 1]);
    pin_counts_[i] = std::move(pin_counts_[i - 1]);
  }
  ranges_[index] = Range{gpa, size, host.data()};
  page_flags_[index] = std::move(flags);
  pin_counts_[index] = std::move(counts);
  count_.store(count + 1, std::memory_order_release);
  return absl::OkStatus();
}

void GuestMemory::RemoveLastRange() {
  const size_t last = count_.load(std::memory_order_relaxed) - 1;
  count_.store(last, std::memory_order_relaxed);
  page_flags_[last].reset();
  pin_counts_[last].reset();
}

const GuestMemory::Range* GuestMemory::Find(uint64_t gpa, uint64_t& offset) const {
  for (const Range& range : ranges()) {
    offset = gpa - range.gpa;
    if (offset < range.size_bytes) return &range;
  }
  return nullptr;
}

// Visits [gpa, gpa + size) as pieces of ranges. A first pass proves that all of it is memory, so that an access that
// fails has no effect.
template <typename Visit>
bool GuestMemory::ForEachPiece(uint64_t gpa, uint64_t size_bytes, Visit visit) const {
  uint64_t offset;
  if (const Range* range = Find(gpa, offset); range != nullptr && size_bytes <= range->size_bytes - offset) {
    visit(range->host + offset, size_bytes);
    return true;
  }
  if (gpa + size_bytes < gpa) return false;
  for (uint64_t at = gpa; at < gpa + size_bytes;) {
    const Range* range = Find(at, offset);
    if (range == nullptr) return false;
    at += range->size_bytes - offset;
  }
  for (uint64_t at = gpa, left = size_bytes; left != 0;) {
    const Range* range = Find(at, offset);
    const uint64_t piece = std::min(left, range->size_bytes - offset);
    visit(range->host + offset, piece);
    at += piece;
    left -= piece;
  }
  return true;
}

bool GuestMemory::Read(uint64_t gpa, void* to, uint64_t size_bytes) const {
  auto* out = static_cast<uint8_t*>(to);
  return ForEachPiece(gpa, size_bytes, [&](uint8_t* host, uint64_t size) {
    internal::GuestCopy(out, host, size);
    out += size;
  });
}

bool GuestMemory::Write(uint64_t gpa, const void* from, uint64_t size_bytes) {
  const auto* in = static_cast<const uint8_t*>(from);
  const bool written = ForEachPiece(gpa, size_bytes, [&](uint8_t* host, uint64_t size) {
    internal::GuestCopy(host, in, size);
    in += size;
  });
  if (written) MarkWritten(gpa, size_bytes);
  return written;
}

bool GuestMemory::Fill(uint64_t gpa, uint8_t value, uint64_t size_bytes) {
  const bool written =
      ForEachPiece(gpa, size_bytes, [&](uint8_t* host, uint64_t size) { std::memset(host, value, size); });
  if (written) MarkWritten(gpa, size_bytes);
  return written;
}

void GuestMemory::MarkWritten(uint64_t gpa, uint64_t size_bytes) {
  if (size_bytes == 0) return;
  // Pairs with the fetch_or in SetWatched: an engine sets the watch before it reads the page, so either it reads our
  // bytes or we see its watch.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint64_t last = (gpa + size_bytes - 1) & ~(kPageSize - 1);
  for (uint64_t page = gpa & ~(kPageSize - 1); page <= last; page += kPageSize) {
    uint64_t offset;
    const Range* range = Find(page, offset);
    if (range == nullptr) return;
    std::atomic<uint8_t>& flags = page_flags_[range - ranges_.data()][offset >> kPageShift];
    const uint8_t seen = flags.load(std::memory_order_relaxed);
    if (seen == 0) continue;
    if (seen & kTracked) flags.fetch_or(kDirty, std::memory_order_release);
    if ((seen & kWatched) && observer_ != nullptr) observer_->OnHostWrite(page, kPageSize);
  }
}

void GuestMemory::EnableDirtyTracking(bool enable) {
  {
    std::lock_guard lock(shared_mutex_);
    tracking_ = enable;
  }
  for (size_t i = 0; i < ranges().size(); ++i) {
    for (uint64_t page = 0; page < ranges_[i].size_bytes >> kPageShift; ++page) {
      if (enable) {
        page_flags_[i][page].fetch_or(kTracked, std::memory_order_relaxed);
      } else {
        page_flags_[i][page].fetch_and(static_cast<uint8_t>(~(kTracked | kDirty)), std::memory_order_relaxed);
      }
    }
  }
  // Pairs with the fence in MarkWritten: either a copy that is made from now on has the bytes, or the writer marks them.
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

void GuestMemory::TakeDirty(uint64_t gpa, uint64_t pages, absl::Span<uint64_t> bitmap) {
  pages = std::min<uint64_t>(pages, bitmap.size() * 64);
  const auto take = [&](uint64_t page) { bitmap[page / 64] |= uint64_t{1} << page % 64; };
  for (uint64_t i = 0; i < pages;) {
    uint64_t offset;
    const Range* range = Find(gpa + (i << kPageShift), offset);
    if (range == nullptr) {
      ++i;
      continue;
    }
    std::atomic<uint8_t>* flags = &page_flags_[range - ranges_.data()][offset >> kPageShift];
    const uint64_t end = std::min(pages, i + ((range->size_bytes - offset) >> kPageShift));
    for (; i < end; ++i, ++flags) {
      if ((flags->load(std::memory_order_relaxed) & kDirty) == 0) continue;
      // Acquire pairs with the release in MarkWritten: whoever sees the bit sees the bytes.
      flags->fetch_and(static_cast<uint8_t>(~kDirty), std::memory_order_acquire);
      take(i);
    }
  }
  std::lock_guard lock(shared_mutex_);
  if (!tracking_) return;
  for (const std::vector<uint64_t>& shared : shared_) {
    for (const uint64_t each : shared) {
      if (each - gpa < pages << kPageShift) take((each - gpa) >> kPageShift);
    }
  }
}

SharedPages::SharedPages(GuestMemory& memory, std::vector<uint64_t> gpas) : memory_(&memory) {
  std::lock_guard lock(memory.shared_mutex_);
  pages_ = memory.shared_.insert(memory.shared_.end(), std::move(gpas));
}

SharedPages::~SharedPages() {
  if (memory_ == nullptr) return;
  for (const uint64_t gpa : *pages_) memory_->MarkWritten(gpa, kPageSize);
  std::lock_guard lock(memory_->shared_mutex_);
  memory_->shared_.erase(pages_);
}

PinnedPages::PinnedPages(GuestMemory& memory, std::vector<uint64_t> gpas) : memory_(&memory), gpas_(std::move(gpas)) {
  memory.Pin(gpas_, 1);
}

PinnedPages::~PinnedPages() {
  if (memory_ != nullptr) memory_->Pin(gpas_, ~uint32_t{0});
}

void GuestMemory::Pin(absl::Span<const uint64_t> gpas, uint32_t more) {
  for (const uint64_t gpa : gpas) {
    uint64_t offset;
    const Range* range = Find(gpa, offset);
    if (range == nullptr) continue;
    pin_counts_[range - ranges_.data()][offset >> kPageShift].fetch_add(more, std::memory_order_relaxed);
  }
}

uint64_t GuestMemory::Discard(absl::Span<const PageRange> wanted) {
  if (discarder_ == nullptr) return 0;
  // Each is a system call, and a guest may pin every second page.
  uint64_t pieces_left = wanted.size() + kMaxExtraPieces;
  uint64_t discarded_bytes = 0;
  for (const PageRange& range : wanted) {
    for (size_t i = 0; i < ranges().size(); ++i) {
      const Range& memory = ranges_[i];
      const uint64_t first = memory.gpa >> kPageShift, count = memory.size_bytes >> kPageShift;
      // From here on pages of the range of memory. No sum wraps around: the wanted one may end anywhere.
      uint64_t at = range.first > first ? range.first - first : 0;
      const uint64_t before = first > range.first ? first - range.first : 0;
      if (at >= count || range.count <= before) continue;
      const uint64_t end = at + std::min(range.count - before, count - at);
      const std::atomic<uint32_t>* const pins = pin_counts_[i].get();
      while (at < end) {
        if (pins[at].load(std::memory_order_relaxed) != 0) {
          ++at;
          continue;
        }
        const uint64_t from = at;
        while (at < end && pins[at].load(std::memory_order_relaxed) == 0) ++at;
        if (pieces_left-- == 0) return discarded_bytes >> kPageShift;
        discarded_bytes += discarder_(memory.host + (from << kPageShift), (at - from) << kPageShift);
        // Behind it: a copy that is made from a mark on has what is there now.
        MarkWritten(memory.gpa + (from << kPageShift), (at - from) << kPageShift);
      }
    }
  }
  return discarded_bytes >> kPageShift;
}

void GuestMemory::SetWatched(uint64_t gpa, bool watched) {
  uint64_t offset;
  const Range* range = Find(gpa, offset);
  if (range == nullptr) return;
  std::atomic<uint8_t>& flags = page_flags_[range - ranges_.data()][offset >> kPageShift];
  if (watched) {
    flags.fetch_or(kWatched, std::memory_order_seq_cst);  // pairs with the fence in MarkWritten
  } else {
    flags.fetch_and(static_cast<uint8_t>(~kWatched), std::memory_order_seq_cst);
  }
}

}  // namespace hvsdk
