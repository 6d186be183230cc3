// SPDX-License-Identifier: Apache-2.0
// Where a ring's bytes are: three ways to reach them, one interface for the reader and the writer.
//
//   MirroredMemory   the data is mapped twice, back to back: any packet is one piece, and wrapping costs nothing
//   FlatMemory       one mapping: a packet across the end is copied in two pieces
//   PagedMemory      a list of pages anywhere, as a guest lends them: a packet is looked up once, and copied in as many
//                    pieces as it lies in. Pages that follow each other on the host are one piece
//
// All three borrow the bytes: trivially copyable, freestanding, no heap. At(offset), with an offset below the data's
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
  position.Prefetch(at);
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
    explicit Position(uint8_t* bytes) : bytes_(bytes) {}
    uint8_t* Run(uint32_t at, uint32_t) const {
      if (bytes_ == nullptr) __builtin_unreachable();  // the caller's path for memory in pieces is dead code
      return bytes_ + at;
    }
    void Prefetch(uint32_t at) const { __builtin_prefetch(bytes_ + at); }
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
    void Prefetch(uint32_t at) const { __builtin_prefetch(data_ + Wrap(at)); }
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

// A page of a ring, and how many bytes of the ring are one piece on the host from the page's first byte on: at least the
// page, and at most up to the last one.
struct RingPage {
  uint8_t* bytes;
  uint32_t run_bytes;
};

// Describes `count` pages in the ring's order, the control page first, for PagedMemory.
inline void DescribeRingPages(uint8_t* const* pages, uint32_t count, RingPage* described) {
  for (uint32_t i = count; i-- > 0;) {
    // The control page is no part of the data.
    const bool goes_on = i != 0 && i + 1 < count && pages[i + 1] == pages[i] + hvdef::kRingPageSize;
    described[i] = {pages[i], hvdef::kRingPageSize + (goes_on ? described[i + 1].run_bytes : 0)};
  }
}

class PagedMemory {
 public:
  // Knows the piece that it lies in. The rest is for packets that lie in several, whose functions are out of line and
  // get it member by member: an object whose address is taken does not stay in registers.
  class Position {
   public:
    Position() = default;
    uint8_t* Run(uint32_t at, uint32_t size) const {
      if (at + size <= run_bytes_) [[likely]]
        return bytes_ + at;
      return FarRun(pages_, size_, start_ + at, size);
    }
    void Prefetch(uint32_t at) const { __builtin_prefetch(bytes_ + at); }
    [[gnu::always_inline]] void CopyIn(uint32_t at, const void* from, uint32_t size) const {
      if (at + size > run_bytes_) [[unlikely]]
        return CopyInPieces(pages_, size_, start_ + at, from, size);
      internal::CopyBytes(bytes_ + at, from, size);
    }
    [[gnu::always_inline]] void CopyOut(uint32_t at, void* to, uint32_t size) const {
      if (at + size > run_bytes_) [[unlikely]]
        return CopyOutPieces(pages_, size_, start_ + at, to, size);
      internal::CopyBytes(to, bytes_ + at, size);
    }
    void Store64(uint32_t at, uint64_t value) const { internal::StoreWord(Word(at), value); }
    uint64_t Load64(uint32_t at) const { return internal::LoadWord(Word(at)); }

   private:
    friend class PagedMemory;
    uint8_t* Word(uint32_t at) const { return at == 0 ? bytes_ : Run(at, 8); }  // a piece has whole words

    Position(uint8_t* bytes, uint32_t run_bytes, const RingPage* pages, uint32_t size, uint32_t start)
        : bytes_(bytes), run_bytes_(run_bytes), size_(size), start_(start), pages_(pages) {}

    uint8_t* bytes_ = nullptr;  // here
    uint32_t run_bytes_ = 0;    // in one piece from here on
    uint32_t size_ = 0;
    uint32_t start_ = 0;
    const RingPage* pages_ = nullptr;
  };

  PagedMemory() = default;
  // `pages` is the ring in order: the control page, then `data_pages` pages (DescribeRingPages). The list is borrowed,
  // as the pages are.
  PagedMemory(const RingPage* pages, uint32_t data_pages) : pages_(pages), size_(data_pages * hvdef::kRingPageSize) {}

  hvdef::RingControl* control() const { return reinterpret_cast<hvdef::RingControl*>(pages_[0].bytes); }
  uint32_t size() const { return size_; }
  // Looks a page up only when the piece at hand is left.
  [[gnu::always_inline]] Position At(uint32_t offset) const {
    if (offset < run_begin_ || offset >= run_end_) [[unlikely]]
      FindRun(offset);
    return Position(reinterpret_cast<uint8_t*>(run_ + offset), run_end_ - offset, pages_, size_, offset);
  }

 private:
  // The piece at an offset, which may have gone around once.
  struct Piece {
    uint8_t* bytes;
    uint32_t run_bytes;
  };
  static Piece PieceAt(const RingPage* pages, uint32_t ring_bytes, uint32_t offset) {
    if (offset >= ring_bytes) offset -= ring_bytes;
    const RingPage& page = pages[1 + offset / hvdef::kRingPageSize];
    return {page.bytes + offset % hvdef::kRingPageSize, page.run_bytes - offset % hvdef::kRingPageSize};
  }
  [[gnu::noinline]] static uint8_t* FarRun(const RingPage* pages, uint32_t ring_bytes, uint32_t offset, uint32_t size) {
    const Piece piece = PieceAt(pages, ring_bytes, offset);
    return size <= piece.run_bytes ? piece.bytes : nullptr;
  }
  template <typename Visit>
  static void ForEachPiece(const RingPage* pages, uint32_t ring_bytes, uint32_t offset, uint32_t size, Visit visit) {
    while (size != 0) {
      const Piece run = PieceAt(pages, ring_bytes, offset);
      const uint32_t piece = size < run.run_bytes ? size : run.run_bytes;
      visit(run.bytes, piece);
      offset += piece;
      size -= piece;
    }
  }
  [[gnu::noinline]] static void CopyInPieces(const RingPage* pages, uint32_t ring_bytes, uint32_t offset,
                                             const void* from, uint32_t size) {
    auto* in = static_cast<const uint8_t*>(from);
    ForEachPiece(pages, ring_bytes, offset, size, [&](uint8_t* bytes, uint32_t piece) {
      internal::CopyBytes(bytes, in, piece);
      in += piece;
    });
  }
  [[gnu::noinline]] static void CopyOutPieces(const RingPage* pages, uint32_t ring_bytes, uint32_t offset, void* to,
                                              uint32_t size) {
    auto* out = static_cast<uint8_t*>(to);
    ForEachPiece(pages, ring_bytes, offset, size, [&](uint8_t* bytes, uint32_t piece) {
      internal::CopyBytes(out, bytes, piece);
      out += piece;
    });
  }
  [[gnu::noinline]] void FindRun(uint32_t offset) const {
    const RingPage& page = pages_[1 + offset / hvdef::kRingPageSize];
    run_begin_ = offset - offset % hvdef::kRingPageSize;
    run_end_ = run_begin_ + page.run_bytes;
    run_ = reinterpret_cast<uintptr_t>(page.bytes) - run_begin_;
  }

  const RingPage* pages_ = nullptr;
  uint32_t size_ = 0;
  // What At has found last: the ring's bytes from `run_begin_` to `run_end_`, in one piece.
  mutable uint32_t run_begin_ = 0;
  mutable uint32_t run_end_ = 0;
  mutable uintptr_t run_ = 0;  // where the ring would begin, were all of it in this piece
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_RING_MEMORY_H_
