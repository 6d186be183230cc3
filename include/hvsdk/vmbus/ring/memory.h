// SPDX-License-Identifier: Apache-2.0
// Where a ring's bytes are: four ways to reach them, one interface for the reader and the writer.
//
//   MirroredMemory   the data is mapped twice, back to back: any packet is one piece, and wrapping costs nothing
//   FlatMemory       one mapping: a packet across the end is copied in two pieces
//   PagedMemory      a list of pages anywhere: a copy goes page by page
//   EitherMemory     mirrored when a mirror could be made, else paged; for a host that learns which at run time
//
// All four borrow the bytes: trivially copyable, freestanding, no heap. An `offset` handed in is below twice the size, so
// that whoever walks a packet need not wrap. Bounds are the caller's; reader and writer check every index first.
//
//   alignas(4096) uint8_t bytes[5 * 4096];                        // a control page and four data pages
//   FlatMemory memory(bytes, bytes + 4096, 4 * 4096);

#ifndef HVSDK_VMBUS_RING_MEMORY_H_
#define HVSDK_VMBUS_RING_MEMORY_H_

#include <atomic>
#include <concepts>
#include <cstdint>

#include "hvsdk/hvdef/vmbus_ring.h"
#include "hvsdk/vmbus/ring/copy.h"

namespace hvsdk::vmbus {

template <typename M>
concept RingMemory = requires(const M& memory, uint32_t offset, uint32_t size, void* to, const void* from) {
  { memory.control() } -> std::same_as<hvdef::RingControl*>;
  { memory.size() } -> std::same_as<uint32_t>;                   // of the data, in bytes
  { memory.Run(offset, size) } -> std::same_as<uint8_t*>;        // the bytes if they are one piece, else nullptr
  memory.CopyIn(offset, from, size);
  memory.CopyOut(offset, to, size);
  memory.Store64(offset, uint64_t{});                            // offset is a multiple of 8
  { memory.Load64(offset) } -> std::same_as<uint64_t>;
};

namespace internal {

// Ring words are shared with a peer that may write at any time; relaxed atomics cost the same as plain moves.
inline void StoreWord(uint8_t* at, uint64_t value) {
  std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(at)).store(value, std::memory_order_relaxed);
}
inline uint64_t LoadWord(uint8_t* at) {
  return std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(at)).load(std::memory_order_relaxed);
}

}  // namespace internal

class MirroredMemory {
 public:
  MirroredMemory() = default;
  // `data` holds `size_bytes` bytes and, behind them, the same bytes again.
  MirroredMemory(void* control, void* data, uint32_t size_bytes)
      : control_(static_cast<hvdef::RingControl*>(control)), data_(static_cast<uint8_t*>(data)), size_(size_bytes) {}

  hvdef::RingControl* control() const { return control_; }
  uint32_t size() const { return size_; }
  uint8_t* Run(uint32_t offset, uint32_t) const { return data_ + offset; }
  void CopyIn(uint32_t offset, const void* from, uint32_t size) const {
    internal::CopyBytes(data_ + offset, from, size);
  }
  void CopyOut(uint32_t offset, void* to, uint32_t size) const { internal::CopyBytes(to, data_ + offset, size); }
  void Store64(uint32_t offset, uint64_t value) const { internal::StoreWord(data_ + offset, value); }
  uint64_t Load64(uint32_t offset) const { return internal::LoadWord(data_ + offset); }

 private:
  hvdef::RingControl* control_ = nullptr;
  uint8_t* data_ = nullptr;
  uint32_t size_ = 0;
};

class FlatMemory {
 public:
  FlatMemory() = default;
  FlatMemory(void* control, void* data, uint32_t size_bytes)
      : control_(static_cast<hvdef::RingControl*>(control)), data_(static_cast<uint8_t*>(data)), size_(size_bytes) {}

  hvdef::RingControl* control() const { return control_; }
  uint32_t size() const { return size_; }
  uint8_t* Run(uint32_t offset, uint32_t size) const {
    offset = Wrap(offset);
    return size <= size_ - offset ? data_ + offset : nullptr;
  }
  void CopyIn(uint32_t offset, const void* from, uint32_t size) const {
    offset = Wrap(offset);
    if (size <= size_ - offset) [[likely]] return internal::CopyBytes(data_ + offset, from, size);
    CopyInSplit(offset, from, size);
  }
  void CopyOut(uint32_t offset, void* to, uint32_t size) const {
    offset = Wrap(offset);
    if (size <= size_ - offset) [[likely]] return internal::CopyBytes(to, data_ + offset, size);
    CopyOutSplit(offset, to, size);
  }
  void Store64(uint32_t offset, uint64_t value) const { internal::StoreWord(data_ + Wrap(offset), value); }
  uint64_t Load64(uint32_t offset) const { return internal::LoadWord(data_ + Wrap(offset)); }

 private:
  uint32_t Wrap(uint32_t offset) const { return offset >= size_ ? offset - size_ : offset; }
  [[gnu::noinline]] void CopyInSplit(uint32_t offset, const void* from, uint32_t size) const {
    const uint32_t first = size_ - offset;
    internal::CopyBytes(data_ + offset, from, first);
    internal::CopyBytes(data_, static_cast<const uint8_t*>(from) + first, size - first);
  }
  [[gnu::noinline]] void CopyOutSplit(uint32_t offset, void* to, uint32_t size) const {
    const uint32_t first = size_ - offset;
    internal::CopyBytes(to, data_ + offset, first);
    internal::CopyBytes(static_cast<uint8_t*>(to) + first, data_, size - first);
  }

  hvdef::RingControl* control_ = nullptr;
  uint8_t* data_ = nullptr;
  uint32_t size_ = 0;
};

class PagedMemory {
 public:
  PagedMemory() = default;
  // `pages` is the ring in order: the control page, then `data_pages` pages. The list is borrowed, as the pages are.
  PagedMemory(uint8_t* const* pages, uint32_t data_pages)
      : pages_(pages), size_(data_pages * hvdef::kRingPageSize) {}

  hvdef::RingControl* control() const { return reinterpret_cast<hvdef::RingControl*>(pages_[0]); }
  uint32_t size() const { return size_; }
  uint8_t* Run(uint32_t offset, uint32_t size) const {
    return size <= hvdef::kRingPageSize - offset % hvdef::kRingPageSize ? At(offset) : nullptr;
  }
  [[gnu::noinline]] void CopyIn(uint32_t offset, const void* from, uint32_t size) const {
    auto* in = static_cast<const uint8_t*>(from);
    ForEachPiece(offset, size, [&](uint8_t* bytes, uint32_t piece) {
      internal::CopyBytes(bytes, in, piece);
      in += piece;
    });
  }
  [[gnu::noinline]] void CopyOut(uint32_t offset, void* to, uint32_t size) const {
    auto* out = static_cast<uint8_t*>(to);
    ForEachPiece(offset, size, [&](uint8_t* bytes, uint32_t piece) {
      internal::CopyBytes(out, bytes, piece);
      out += piece;
    });
  }
  void Store64(uint32_t offset, uint64_t value) const { internal::StoreWord(At(offset), value); }
  uint64_t Load64(uint32_t offset) const { return internal::LoadWord(At(offset)); }

 private:
  uint8_t* At(uint32_t offset) const {
    offset = offset >= size_ ? offset - size_ : offset;
    return pages_[1 + offset / hvdef::kRingPageSize] + offset % hvdef::kRingPageSize;
  }
  template <typename Visit>
  void ForEachPiece(uint32_t offset, uint32_t size, Visit visit) const {
    while (size != 0) {
      const uint32_t room = hvdef::kRingPageSize - offset % hvdef::kRingPageSize;
      const uint32_t piece = size < room ? size : room;
      visit(At(offset), piece);
      offset += piece;
      size -= piece;
    }
  }

  uint8_t* const* pages_ = nullptr;
  uint32_t size_ = 0;
};

class EitherMemory {
 public:
  EitherMemory() = default;
  explicit EitherMemory(const MirroredMemory& mirrored) : mirrored_(mirrored), is_mirrored_(true) {}
  explicit EitherMemory(const PagedMemory& paged) : paged_(paged), is_mirrored_(false) {}

  hvdef::RingControl* control() const { return is_mirrored_ ? mirrored_.control() : paged_.control(); }
  uint32_t size() const { return is_mirrored_ ? mirrored_.size() : paged_.size(); }
  uint8_t* Run(uint32_t offset, uint32_t size) const {
    return is_mirrored_ ? mirrored_.Run(offset, size) : paged_.Run(offset, size);
  }
  void CopyIn(uint32_t offset, const void* from, uint32_t size) const {
    is_mirrored_ ? mirrored_.CopyIn(offset, from, size) : paged_.CopyIn(offset, from, size);
  }
  void CopyOut(uint32_t offset, void* to, uint32_t size) const {
    is_mirrored_ ? mirrored_.CopyOut(offset, to, size) : paged_.CopyOut(offset, to, size);
  }
  void Store64(uint32_t offset, uint64_t value) const {
    is_mirrored_ ? mirrored_.Store64(offset, value) : paged_.Store64(offset, value);
  }
  uint64_t Load64(uint32_t offset) const {
    return is_mirrored_ ? mirrored_.Load64(offset) : paged_.Load64(offset);
  }
  bool is_mirrored() const { return is_mirrored_; }

 private:
  MirroredMemory mirrored_;
  PagedMemory paged_;
  bool is_mirrored_ = false;
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_RING_MEMORY_H_
