// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmbus/gpadl.h"

#include "hvsdk/base/ids.h"

namespace hvsdk::vmbus {

std::shared_ptr<const Gpadl> Gpadl::Create(GuestMemory& memory, std::vector<uint64_t> words, uint32_t range_count) {
  // GpaBufferWalk takes the count from a header word, as in a GPA-direct packet.
  words.insert(words.begin(), uint64_t{range_count} << 32);
  std::shared_ptr<Gpadl> gpadl(new Gpadl(memory, std::move(words)));

  bool whole_pages = true;
  GpaBufferWalk walk(gpadl->words_.data(), static_cast<uint32_t>(gpadl->words_.size() * sizeof(uint64_t)));
  for (GpaBuffer range; walk.Next(range);) {
    if (!vmbus::ForEachPiece(memory, range, 0, range.byte_count, [](uint64_t, uint8_t*, uint64_t) {})) return nullptr;
    gpadl->ranges_.push_back(range);
    gpadl->size_bytes_ += range.byte_count;
    whole_pages &= range.byte_offset == 0 && range.byte_count % kPageSize == 0;
  }
  if (!walk.valid()) return nullptr;

  std::vector<uint64_t> gpas;
  for (const GpaBuffer& range : gpadl->ranges_) {
    for (uint32_t i = 0; i < range.pfn_count(); ++i) gpas.push_back(range.pfns[i] << kPageShift);
  }
  gpadl->pinned_ = PinnedPages(memory, std::move(gpas));

  if (whole_pages) {
    gpadl->pages_.reserve(gpadl->size_bytes_ / kPageSize);
    for (const GpaBuffer& range : gpadl->ranges_) {
      for (uint32_t i = 0; i < range.pfn_count(); ++i) {
        gpadl->pages_.push_back(memory.Pointer(range.pfns[i] << kPageShift, kPageSize));
      }
    }
  }
  return gpadl;
}

bool Gpadl::Read(uint64_t offset, void* to, uint64_t size_bytes) const {
  auto* out = static_cast<uint8_t*>(to);
  bool read = true;
  return ForEachPiece(offset, size_bytes,
                      [&](uint64_t gpa, uint8_t*, uint64_t size) {
                        read &= memory_.Read(gpa, out, size);
                        out += size;
                      }) &&
         read;
}

bool Gpadl::Write(uint64_t offset, const void* from, uint64_t size_bytes) const {
  const auto* in = static_cast<const uint8_t*>(from);
  bool written = true;
  return ForEachPiece(offset, size_bytes,
                      [&](uint64_t gpa, uint8_t*, uint64_t size) {
                        written &= memory_.Write(gpa, in, size);
                        in += size;
                      }) &&
         written;
}

}  // namespace hvsdk::vmbus
