// SPDX-License-Identifier: Apache-2.0
// Where a ring's bytes are: four ways to reach them, one interface for the reader and the writer.
//
//   MirroredMemory   the data is mapped twice, back to back: any packet is one piece, and wrapping costs nothing
//   FlatMemory       one mapping: a packet across the end is copied in two pieces
//   PagedMemory      a list of pages anywhere: a copy goes page by page
//   EitherMemory     mirrored when a mirror could be made, else paged; for a host that learns which at run time
//
// All four borrow the bytes: trivially copyable, freestanding, no heap. At(offset), with an offset below the data's
// size, gives a Position: whoever walks a packet counts from there and need not wrap. Bounds are the caller's; reader
// and writer check every index first.
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

// `at` counts bytes from the position, `size` reaches at most once around.
template <typename P>
concept RingPosition = requires(const P& position, uint32_t at, uint32_t size, void* to, const void* from) {
  { position.Run(at, size) } -> std::same_as<uint8_t*>;  // the bytes if they are one piece, else nullptr
  position.CopyIn(at, from, size);
  position.CopyOut(at, to, size);
  position.Store64(at, uint64_t{});  // position and `at` are multiples of 8
  { position.Load64(at) } -> std::same_as<uint64_t>;
};

template <typename M>
concept RingMemory = requires(const M& memory, uint32_t offset) {
  { memory.control() } -> std::same_as<hvdef::RingControl*>;
  { memory.size() } -> std::same_as<uint32_t>;  // of the data, in bytes
  { memory.At(offset) } -> RingPosition;
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
  class Position {
   public:
    Position() = default;
    uint8_t* Run(uint32_t at, uint32_t) const {
      if (bytes_ == nullptr) __builtin_unreachable();  // the caller's path for memory in pieces is dead code
      return bytes_ + at;
    }
    [[gnu::always_inline]] void CopyIn(uint32_t at, const void* from, uint32_t size) const {
      internal::CopyBytes(bytes_ + at, from, size);
    }
    [[gnu::always_inline]] void CopyOut(uint32_t at, void* to, uint32_t size) const {
      internal::CopyBytes(to, bytes_ + at, size);
    }
    void Store64(uint32_t at, uint64_t value) const { internal::StoreWord(bytes_ + at, value); }
    uint64_t Load64(uint32_t at) const { return internal::LoadWord(bytes_ + at); }

   private:
    friend class MirroredMemory;
    explicit Position(uint8_t* bytes) : bytes_(bytes) {}
    uint8_t* bytes_ = nullptr;
  };

  MirroredMemory() = default;
  // `data` holds `size_bytes` bytes and, behind them, the same bytes again.
  MirroredMemory(void* control, void* data, uint32_t size_bytes)
      : control_(static_cast<hvdef::RingControl*>(control)), data_(static_cast<uint8_t*>(data)), size_(size_bytes) {}

  hvdef::RingControl* control() const { return control_; }
  uint32_t size() const { return size_; }
  Position At(uint32_t offset) const { return Position(data_ + offset); }

 private:
  hvdef::RingControl* control_ = nullptr;
  uint8_t* data_ = nullptr;
  uint32_t size_ = 0;
};

class FlatMemory {
 public:
  class Position {
   public:
    Position() = default;
    uint8_t* Run(uint32_t at, uint32_t size) const {
      const uint32_t offset = Wrap(at);
      return size <= size_ - offset ? data_ + offset : nullptr;
    }
    [[gnu::always_inline]] void CopyIn(uint32_t at, const void* from, uint32_t size) const {
      const uint32_t offset = Wrap(at);
      if (size > size_ - offset) [[unlikely]]
        return CopyInSplit(offset, from, size);
      internal::CopyBytes(data_ + offset, from, size);
    }
    [[gnu::always_inline]] void CopyOut(uint32_t at, void* to, uint32_t size) const {
      const uint32_t offset = Wrap(at);
      if (size > size_ - offset) [[unlikely]]
        return CopyOutSplit(offset, to, size);
      internal::CopyBytes(to, data_ + offset, size);
    }
    void Store64(uint32_t at, uint64_t value) const { internal::StoreWord(data_ + Wrap(at), value); }
    uint64_t Load64(uint32_t at) const { return internal::LoadWord(data_ + Wrap(at)); }

   private:
    friend class FlatMemory;
    Position(uint8_t* data, uint32_t size, uint32_t start) : data_(data), size_(size), start_(start) {}
    uint32_t Wrap(uint32_t at) const {
      const uint32_t offset = start_ + at;
      return offset >= size_ ? offset - size_ : offset;
    }
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

    uint8_t* data_ = nullptr;
    uint32_t size_ = 0;
    uint32_t start_ = 0;
  };

  FlatMemory() = default;
  FlatMemory(void* control, void* data, uint32_t size_bytes)
      : control_(static_cast<hvdef::RingControl*>(control)), data_(static_cast<uint8_t*>(data)), size_(size_bytes) {}

  hvdef::RingControl* control() const { return control_; }
  uint32_t size() const { return size_; }
  Position At(uint32_t offset) const { return Position(data_, size_, offset); }

 private:
  hvdef::RingControl* control_ = nullptr;
  uint8_t* data_ = nullptr;
  uint32_t size_ = 0;
};

class PagedMemory {
 public:
  class Position {
   public:
    Position() = default;
    uint8_t* Run(uint32_t at, uint32_t size) const {
      const uint32_t offset = start_ + at;
      return size <= hvdef::kRingPageSize - offset % hvdef::kRingPageSize ? Byte(offset) : nullptr;
    }
    [[gnu::always_inline]] void CopyIn(uint32_t at, const void* from, uint32_t size) const {
      uint8_t* const run = Run(at, size);
      if (run == nullptr) [[unlikely]]
        return CopyInPieces(at, from, size);
      internal::CopyBytes(run, from, size);
    }
    [[gnu::always_inline]] void CopyOut(uint32_t at, void* to, uint32_t size) const {
      const uint8_t* const run = Run(at, size);
      if (run == nullptr) [[unlikely]]
        return CopyOutPieces(at, to, size);
      internal::CopyBytes(to, run, size);
    }
    void Store64(uint32_t at, uint64_t value) const { internal::StoreWord(Byte(start_ + at), value); }
    uint64_t Load64(uint32_t at) const { return internal::LoadWord(Byte(start_ + at)); }

   private:
    friend class PagedMemory;
    Position(uint8_t* const* pages, uint32_t size, uint32_t start) : pages_(pages), size_(size), start_(start) {}
    [[gnu::noinline]] void CopyInPieces(uint32_t at, const void* from, uint32_t size) const {
      auto* in = static_cast<const uint8_t*>(from);
      ForEachPiece(at, size, [&](uint8_t* bytes, uint32_t piece) {
        internal::CopyBytes(bytes, in, piece);
        in += piece;
      });
    }
    [[gnu::noinline]] void CopyOutPieces(uint32_t at, void* to, uint32_t size) const {
      auto* out = static_cast<uint8_t*>(to);
      ForEachPiece(at, size, [&](uint8_t* bytes, uint32_t piece) {
        internal::CopyBytes(out, bytes, piece);
        out += piece;
      });
    }
    uint8_t* Byte(uint32_t offset) const {
      offset = offset >= size_ ? offset - size_ : offset;
      return pages_[1 + offset / hvdef::kRingPageSize] + offset % hvdef::kRingPageSize;
    }
    template <typename Visit>
    void ForEachPiece(uint32_t at, uint32_t size, Visit visit) const {
      for (uint32_t offset = start_ + at; size != 0;) {
        const uint32_t room = hvdef::kRingPageSize - offset % hvdef::kRingPageSize;
        const uint32_t piece = size < room ? size : room;
        visit(Byte(offset), piece);
        offset += piece;
        size -= piece;
      }
    }

    uint8_t* const* pages_ = nullptr;
    uint32_t size_ = 0;
    uint32_t start_ = 0;
  };

  PagedMemory() = default;
  // `pages` is the ring in order: the control page, then `data_pages` pages. The list is borrowed, as the pages are.
  PagedMemory(uint8_t* const* pages, uint32_t data_pages) : pages_(pages), size_(data_pages * hvdef::kRingPageSize) {}

  hvdef::RingControl* control() const { return reinterpret_cast<hvdef::RingControl*>(pages_[0]); }
  uint32_t size() const { return size_; }
  Position At(uint32_t offset) const { return Position(pages_, size_, offset); }

 private:
  uint8_t* const* pages_ = nullptr;
  uint32_t size_ = 0;
};

class EitherMemory {
 public:
  class Position {
   public:
    Position() = default;
    uint8_t* Run(uint32_t at, uint32_t size) const {
      return is_mirrored_ ? mirrored_.Run(at, size) : paged_.Run(at, size);
    }
    [[gnu::always_inline]] void CopyIn(uint32_t at, const void* from, uint32_t size) const {
      is_mirrored_ ? mirrored_.CopyIn(at, from, size) : paged_.CopyIn(at, from, size);
    }
    [[gnu::always_inline]] void CopyOut(uint32_t at, void* to, uint32_t size) const {
      is_mirrored_ ? mirrored_.CopyOut(at, to, size) : paged_.CopyOut(at, to, size);
    }
    void Store64(uint32_t at, uint64_t value) const {
      is_mirrored_ ? mirrored_.Store64(at, value) : paged_.Store64(at, value);
    }
    uint64_t Load64(uint32_t at) const { return is_mirrored_ ? mirrored_.Load64(at) : paged_.Load64(at); }

   private:
    friend class EitherMemory;
    Position(MirroredMemory::Position mirrored, PagedMemory::Position paged, bool is_mirrored)
        : mirrored_(mirrored), paged_(paged), is_mirrored_(is_mirrored) {}
    MirroredMemory::Position mirrored_;
    PagedMemory::Position paged_;
    bool is_mirrored_ = false;
  };

  EitherMemory() = default;
  explicit EitherMemory(const MirroredMemory& mirrored) : mirrored_(mirrored), is_mirrored_(true) {}
  explicit EitherMemory(const PagedMemory& paged) : paged_(paged), is_mirrored_(false) {}

  hvdef::RingControl* control() const { return is_mirrored_ ? mirrored_.control() : paged_.control(); }
  uint32_t size() const { return is_mirrored_ ? mirrored_.size() : paged_.size(); }
  Position At(uint32_t offset) const {
    // The other one has no bytes to point into.
    if (is_mirrored_) return {mirrored_.At(offset), {}, true};
    return {{}, paged_.At(offset), false};
  }
  bool is_mirrored() const { return is_mirrored_; }

 private:
  MirroredMemory mirrored_;
  PagedMemory paged_;
  bool is_mirrored_ = false;
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_RING_MEMORY_H_
