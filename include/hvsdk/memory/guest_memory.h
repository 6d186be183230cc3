// SPDX-License-Identifier: Apache-2.0
// GuestMemory: a partition's guest physical addresses and the host bytes behind them.
//
// The guest writes these bytes while we read them. Therefore a caller copies what it wants to look at exactly once,
// with Read, and works on the copy; words that both sides use to synchronise go through Atomic; bulk data moves
// by host ranges handed to the operating system (Pointer), which nobody inspects.
//
// Shapes and limits: up to 64 ranges of whole 4 KiB pages, sorted, not overlapping, added before the first VP
// runs, or above all others at any time. Gaps between ranges (the hole below 4 GiB) are not memory: an access that
// touches one fails as a whole and has no effect.
//
// Thread-safe once the ranges are in place. Guest-chosen addresses are valid arguments everywhere: they are answered
// with `false` or nullptr, never with a crash.
//
// Pages that the guest does not want for now are given back to the host (Discard), unless somebody relies on them (PinnedPages).
//
//   GuestMemory memory;
//   if (const absl::Status status = memory.AddRange(0, absl::MakeSpan(host, 64 << 20)); !status.ok()) return status;
//   uint32_t word;
//   if (!memory.Read(gpa, &word, sizeof(word))) return absl::OutOfRangeError("not memory");

#ifndef HVSDK_MEMORY_GUEST_MEMORY_H_
#define HVSDK_MEMORY_GUEST_MEMORY_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "hvsdk/base/zeroed_array.h"

namespace hvsdk {

// Told of writes by the host (service providers, overlay pages, device emulation) to watched pages, after the bytes are
// in place. An engine that keeps decoded code implements it. Called on the writing thread; must not call back into
// GuestMemory's writing functions.
class HostWriteObserver {
 public:
  virtual ~HostWriteObserver() = default;
  virtual void OnHostWrite(uint64_t gpa, uint64_t size_bytes) = 0;
};

class GuestMemory;

// Pages that the host writes at any time without saying so, as the rings of a channel are: a word to the dirty log for each
// packet would cost more than the pages are worth. As long as this lives, they count as written each time they are taken,
// and once more when it ends.
//
// Movable; the memory outlives it. Made and destroyed on any thread, which does not write the pages then.
class SharedPages {
 public:
  SharedPages() = default;
  // Addresses of pages of the memory; others are of no effect.
  SharedPages(GuestMemory& memory, std::vector<uint64_t> gpas);
  SharedPages(SharedPages&& other) noexcept { *this = std::move(other); }
  SharedPages& operator=(SharedPages&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(pages_, other.pages_);
    return *this;
  }
  ~SharedPages();

 private:
  GuestMemory* memory_ = nullptr;
  std::list<std::vector<uint64_t>>::iterator pages_;
};

// Pages whose bytes the host relies on, as those of a buffer that the guest has lent or of an overlay: as long as this lives,
// GuestMemory::Discard leaves them alone.
//
// Movable; the memory outlives it. Made and destroyed on any thread.
class PinnedPages {
 public:
  PinnedPages() = default;
  // Addresses of pages; those that are not memory are of no effect.
  PinnedPages(GuestMemory& memory, std::vector<uint64_t> gpas);
  PinnedPages(PinnedPages&& other) noexcept { *this = std::move(other); }
  PinnedPages& operator=(PinnedPages&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(gpas_, other.gpas_);
    return *this;
  }
  ~PinnedPages();

 private:
  GuestMemory* memory_ = nullptr;
  std::vector<uint64_t> gpas_;
};

class GuestMemory {
 public:
  struct Range {
    uint64_t gpa;
    uint64_t size_bytes;
    uint8_t* host;
  };
  // Pages [first, first + count), counted from guest physical address 0.
  struct PageRange {
    uint64_t first;
    uint64_t count;

    bool operator==(const PageRange&) const = default;
  };

  GuestMemory() = default;
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  // Makes `host` the memory at `gpa`. The bytes are borrowed and must outlive this object. Before the first VP runs; a range above all
  // others also while everybody uses those. It counts as written where a dirty log is kept.
  // InvalidArgument: not whole pages, overlap, or too many ranges. ResourceExhausted: the host has no memory for
  // their flags.
  absl::Status AddRange(uint64_t gpa, absl::Span<uint8_t> host);
  // Takes the range above all others away, while nobody uses it: no VP runs, and nothing is under way for the guest.
  void RemoveLastRange();

  // Whatever the bytes belong to. Transfers that may be under way when this object is destroyed keep it, and so
  // the bytes.
  void SetOwner(std::shared_ptr<const void> owner) { owner_ = std::move(owner); }
  const std::shared_ptr<const void>& owner() const { return owner_; }

  absl::Span<const Range> ranges() const {
    // Pairs with the release in AddRange: who sees a range sees what it is.
    return absl::MakeConstSpan(ranges_.data(), count_.load(std::memory_order_acquire));
  }
  uint64_t size_bytes() const {
    uint64_t size_bytes = 0;
    for (const Range& range : ranges()) size_bytes += range.size_bytes;
    return size_bytes;
  }

  // Copies between the guest and private memory; an access may cross ranges that touch. False if any byte is
  // not memory.
  [[nodiscard]] bool Read(uint64_t gpa, void* to, uint64_t size_bytes) const;
  [[nodiscard]] bool Write(uint64_t gpa, const void* from, uint64_t size_bytes);
  [[nodiscard]] bool Fill(uint64_t gpa, uint8_t value, uint64_t size_bytes);

  template <typename T>
  [[nodiscard]] bool ReadObject(uint64_t gpa, T& to) const {
    static_assert(std::is_trivially_copyable_v<T>);
    return Read(gpa, &to, sizeof(T));
  }
  template <typename T>
  [[nodiscard]] bool WriteObject(uint64_t gpa, const T& from) {
    static_assert(std::is_trivially_copyable_v<T>);
    return Write(gpa, &from, sizeof(T));
  }

  // The host bytes of [gpa, gpa + size), or nullptr if they are not one piece of memory. For bulk transfers and words
  // shared with the guest; whoever writes through the pointer calls MarkWritten afterwards.
  uint8_t* Pointer(uint64_t gpa, uint64_t size_bytes) const {
    for (const Range& range : ranges()) {
      const uint64_t offset = gpa - range.gpa;  // wraps to a huge number below the range
      if (offset < range.size_bytes) return size_bytes <= range.size_bytes - offset ? range.host + offset : nullptr;
    }
    return nullptr;
  }

  // A naturally aligned word that guest and host both write, or nullptr: std::atomic_ref<T>(*memory.Word<T>(gpa)).
  template <typename T>
  T* Word(uint64_t gpa) const {
    static_assert(std::is_integral_v<T> && std::atomic_ref<T>::is_always_lock_free);
    if (gpa % sizeof(T) != 0) return nullptr;
    return reinterpret_cast<T*>(Pointer(gpa, sizeof(T)));
  }

  // Says that the host wrote [gpa, gpa + size) through a pointer: marks the pages dirty and tells the observer.
  void MarkWritten(uint64_t gpa, uint64_t size_bytes);

  // Dirty tracking of host writes; an engine's own log covers the guest's writes (machine/dirty_log.h has both). While
  // enabled, each page written since it was last taken is one bit, and so is each page of a SharedPages whenever it is
  // taken. `bitmap` holds one bit a page from `gpa`, least significant first, and is ORed into. What was written before
  // a bit was taken is seen by a copy that is made afterwards; what is written meanwhile sets it anew.
  void EnableDirtyTracking(bool enable);
  void TakeDirty(uint64_t gpa, uint64_t pages, absl::Span<uint64_t> bitmap);

  // Gives the bytes of pages back to the host: what is there from then on is zero, and costs the host nothing until somebody writes it.
  // Pages that are pinned keep their bytes, as do those that the host does not take, and those between so many pinned ones that a call would
  // take long; what is no memory does not count. They count as written. Answers how many pages were given back. Whoever uses such a page
  // meanwhile sees what it had, or zeros.
  uint64_t Discard(absl::Span<const PageRange> ranges);

  // What gives bytes back to the host (os::HostMemory::Discard), and answers how many it did; thread-safe. Without it Discard does
  // nothing. Set it before the first VP runs.
  using Discarder = std::function<uint64_t(uint8_t* host, uint64_t size_bytes)>;
  void SetDiscarder(Discarder discarder) { discarder_ = std::move(discarder); }
  bool can_discard() const { return discarder_ != nullptr; }

  // At most one observer; it is told of writes to pages whose watch is set. Set it before the first VP runs.
  void SetHostWriteObserver(HostWriteObserver* observer) { observer_ = observer; }
  void SetWatched(uint64_t gpa, bool watched);

 private:
  friend class SharedPages;
  friend class PinnedPages;

  // One byte a page, so that the common case of a host write (nobody cares) is one load a page.
  enum PageFlag : uint8_t { kWatched = 1, kTracked = 2, kDirty = 4 };

  const Range* Find(uint64_t gpa, uint64_t& offset) const;
  template <typename Visit>
  bool ForEachPiece(uint64_t gpa, uint64_t size_bytes, Visit visit) const;
  void Pin(absl::Span<const uint64_t> gpas, uint32_t more);

  static constexpr size_t kMaxRanges = 64;
  std::array<Range, kMaxRanges> ranges_{};
  std::array<ZeroedArray<std::atomic<uint8_t>>, kMaxRanges> page_flags_;   // beside ranges_
  std::array<ZeroedArray<std::atomic<uint32_t>>, kMaxRanges> pin_counts_;  // likewise: how many rely on each page
  std::atomic<size_t> count_{0};                                           // of ranges that are there
  std::shared_ptr<const void> owner_;
  HostWriteObserver* observer_ = nullptr;
  Discarder discarder_;

  std::mutex shared_mutex_;  // guards what follows
  bool tracking_ = false;
  std::list<std::vector<uint64_t>> shared_;  // of each SharedPages
};

}  // namespace hvsdk

#endif  // HVSDK_MEMORY_GUEST_MEMORY_H_
