// SPDX-License-Identifier: Apache-2.0
// Host mappings of a ring's pages, so that the data appear twice in a row and no packet ever wraps.
//
//   RingMapping     over pages that exist already, anywhere (a guest's GPADL). It mirrors them if the system can, and
//                   hands out an EitherMemory that falls back to the page list: memory that is not shared, another
//                   system.
//   OwnedRing       new pages, mirrored: for both ends in one process, tests and benchmarks.
//
// Limits: at most 262144 data pages (1 GiB). Mirroring costs one mapping of the process for each run of adjacent
// pages, twice.
//
// Thread-compatible, movable. Whoever holds a reader or writer over the memory must be gone before the mapping is.
//
//   RingMapping mapping({pages.begin(), pages.end()});
//   RingReader<EitherMemory> reader(mapping.memory());

#ifndef HVSDK_VMBUS_RING_MAPPING_H_
#define HVSDK_VMBUS_RING_MAPPING_H_

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

#include "hvsdk/vmbus/ring/control.h"
#include "hvsdk/vmbus/ring/memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace hvsdk::vmbus {

namespace internal {

// A piece of address space of our own.
class AddressRange {
 public:
  AddressRange() = default;
  AddressRange(AddressRange&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AddressRange& operator=(AddressRange&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~AddressRange() { Release(); }

  uint8_t* base() const { return base_; }

#if defined(__linux__)
  bool Reserve(uint64_t size_bytes) {
    void* base = mmap(nullptr, size_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return false;
    base_ = static_cast<uint8_t*>(base);
    size_ = size_bytes;
    return true;
  }
  // Makes [offset, offset + size) show the memory at `source` as well. mremap with an old size of 0 duplicates a shared
  // mapping and refuses a private one (mremap(2)).
  bool Alias(uint64_t offset, uint8_t* source, uint64_t size_bytes) {
    return mremap(source, 0, size_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, base_ + offset) == base_ + offset;
  }
  bool MapFile(uint64_t offset, int fd, uint64_t file_offset, uint64_t size_bytes) {
    return mmap(base_ + offset, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
                static_cast<off_t>(file_offset)) == base_ + offset;
  }
  void Release() {
    if (base_ != nullptr) munmap(base_, size_);
    base_ = nullptr;
  }
#else
  bool Reserve(uint64_t) { return false; }
  bool Alias(uint64_t, uint8_t*, uint64_t) { return false; }
  void Release() {}
#endif

 private:
  uint8_t* base_ = nullptr;
  uint64_t size_ = 0;
};

}  // namespace internal

class RingMapping {
 public:
  RingMapping() = default;
  // `pages` are 4 KiB pages in the ring's order: control, then data. They are borrowed. `mirror` false keeps to the
  // page list.
  explicit RingMapping(std::vector<uint8_t*> pages, bool mirror = true) : pages_(std::move(pages)) {
    is_mirrored_ = mirror && is_valid() && Mirror();
    if (!is_mirrored_) data_.Release();
  }

  bool is_valid() const { return pages_.size() >= 2 && data_pages() <= internal::kMaxRingSize / hvdef::kRingPageSize; }
  bool is_mirrored() const { return is_mirrored_; }
  uint32_t data_pages() const { return static_cast<uint32_t>(pages_.size() - 1); }

  // Valid while this object lives; moving the object keeps it valid.
  EitherMemory memory() const {
    if (!is_valid()) return EitherMemory();
    if (is_mirrored_) return EitherMemory(MirroredMemory(pages_[0], data_.base(), data_pages() * hvdef::kRingPageSize));
    return EitherMemory(PagedMemory(pages_.data(), data_pages()));
  }

 private:
  bool Mirror() {
    const uint64_t size = uint64_t{data_pages()} * hvdef::kRingPageSize;
    if (!data_.Reserve(2 * size)) return false;
    for (size_t first = 1, next; first < pages_.size(); first = next) {
      next = first + 1;
      while (next < pages_.size() && pages_[next] == pages_[next - 1] + hvdef::kRingPageSize) ++next;
      const uint64_t offset = (first - 1) * hvdef::kRingPageSize;
      const uint64_t run = (next - first) * hvdef::kRingPageSize;
      if (!data_.Alias(offset, pages_[first], run) || !data_.Alias(offset + size, pages_[first], run)) return false;
      if (!IsAlias(data_.base() + offset, pages_[first]) || !IsAlias(data_.base() + offset + size, pages_[first])) {
        return false;
      }
    }
    return true;
  }

  // Old kernels answered mremap of private memory with fresh pages, so look. A guest that writes here meanwhile can
  // only talk us out of the mirror.
  static bool IsAlias(uint8_t* alias, uint8_t* page) {
    std::atomic_ref<uint64_t> here(*reinterpret_cast<uint64_t*>(alias));
    std::atomic_ref<uint64_t> there(*reinterpret_cast<uint64_t*>(page));
    const uint64_t before = here.load();
    here.store(~before);
    const bool same = there.load() == ~before;
    here.store(before);
    return same;
  }

  std::vector<uint8_t*> pages_;
  internal::AddressRange data_;
  bool is_mirrored_ = false;
};

#if defined(__linux__)

class OwnedRing {
 public:
  // Zeroed: a new, empty ring. is_valid() is false if the system refuses the memory.
  explicit OwnedRing(uint32_t data_pages) : size_(data_pages * hvdef::kRingPageSize) {
    const uint64_t page = hvdef::kRingPageSize;
    const int fd = memfd_create("hvsdk-ring", MFD_CLOEXEC);
    if (fd < 0) return;
    is_valid_ = internal::IsValidRingSize(size_) && ftruncate(fd, static_cast<off_t>(page + size_)) == 0 &&
                range_.Reserve(page + 2 * uint64_t{size_}) && range_.MapFile(0, fd, 0, page + size_) &&
                range_.MapFile(page + size_, fd, page, size_);
    close(fd);
  }

  bool is_valid() const { return is_valid_; }
  uint8_t* base() const { return range_.base(); }  // the control page; the data follow, twice
  uint32_t size() const { return size_; }          // of the data, once
  MirroredMemory memory() const { return {base(), base() + hvdef::kRingPageSize, size_}; }

 private:
  internal::AddressRange range_;
  uint32_t size_ = 0;
  bool is_valid_ = false;
};

#endif  // defined(__linux__)

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_RING_MAPPING_H_
