// SPDX-License-Identifier: Apache-2.0
// Gpadl: a list of guest pages (guest physical address descriptor list) that a guest has lent to the root under a
// number, for the rings of a channel or for a buffer that packets refer to.
//
// Immutable once made, hence thread-safe: the page numbers were copied out of the guest's messages, and every page was
// found to be memory. The bytes in the pages stay the guest's to change at any time. What a guest may make of them in
// all is bounded by ServerOptions.
//
//   GpadlLease buffer = channel.AcquireGpadl(id_from_a_packet);      // in a provider
//   if (!buffer || !buffer->Read(offset, &header, sizeof(header))) return Refuse();

#ifndef HVSDK_VMBUS_GPADL_H_
#define HVSDK_VMBUS_GPADL_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/gpa_buffer.h"
#include "hvsdk/vmbus/ring/packet.h"

namespace hvsdk::vmbus {

class Gpadl {
 public:
  // Takes the range buffer of a GPADL's messages: `range_count` times a range and its page numbers; words behind
  // them are of no meaning. nullptr: malformed, or a page that is not memory.
  static std::shared_ptr<const Gpadl> Create(GuestMemory& memory, std::vector<uint64_t> words, uint32_t range_count);

  Gpadl(const Gpadl&) = delete;
  Gpadl& operator=(const Gpadl&) = delete;

  GuestMemory& memory() const { return memory_; }
  absl::Span<const GpaBuffer> ranges() const { return ranges_; }
  // All ranges together.
  uint64_t size_bytes() const { return size_bytes_; }

  // The host addresses of its pages, if it is whole pages from end to end, as rings must be; else empty.
  absl::Span<uint8_t* const> pages() const { return pages_; }

  // What Create was given.
  absl::Span<const uint64_t> words() const { return absl::MakeConstSpan(words_).subspan(1); }
  uint32_t range_count() const { return static_cast<uint32_t>(words_[0] >> 32); }

  // Copies between private memory and [offset, offset + size) of the ranges laid end to end. False: out of bounds.
  [[nodiscard]] bool Read(uint64_t offset, void* to, uint64_t size_bytes) const;
  [[nodiscard]] bool Write(uint64_t offset, const void* from, uint64_t size_bytes) const;

  // Visits [offset, offset + size) as pieces of host memory: visit(gpa, host, size_bytes). False: out of bounds.
  template <typename Visit>
  [[nodiscard]] bool ForEachPiece(uint64_t offset, uint64_t size_bytes, Visit&& visit) const {
    if (offset > size_bytes_ || size_bytes > size_bytes_ - offset) return false;
    for (const GpaBuffer& range : ranges_) {
      if (size_bytes == 0) break;
      if (offset >= range.byte_count) {
        offset -= range.byte_count;
        continue;
      }
      const uint64_t size = std::min<uint64_t>(size_bytes, range.byte_count - offset);
      if (!vmbus::ForEachPiece(memory_, range, offset, size, visit)) return false;
      offset = 0;
      size_bytes -= size;
    }
    return true;
  }

 private:
  Gpadl(GuestMemory& memory, std::vector<uint64_t> words) : memory_(memory), words_(std::move(words)) {}

  GuestMemory& memory_;
  const std::vector<uint64_t> words_;
  std::vector<GpaBuffer> ranges_;  // into words_
  std::vector<uint8_t*> pages_;
  uint64_t size_bytes_ = 0;
  PinnedPages pinned_;
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_GPADL_H_
