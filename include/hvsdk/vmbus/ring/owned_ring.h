// SPDX-License-Identifier: Apache-2.0
// OwnedRing: new pages for a ring with both ends in one process, as tests and benchmarks have. The data are mapped twice
// in a row, so that no packet ever wraps.
//
// Limits: at most 262144 data pages (1 GiB). Linux only.
//
// Thread-compatible. Whoever holds a reader or writer over the memory must be gone before the ring is.
//
//   OwnedRing ring(64);
//   if (!ring.is_valid()) return;
//   RingWriter<MirroredMemory> writer(ring.memory());
//   RingReader<MirroredMemory> reader(ring.memory());

#ifndef HVSDK_VMBUS_RING_OWNED_RING_H_
#define HVSDK_VMBUS_RING_OWNED_RING_H_

#if defined(__linux__)

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "hvsdk/vmbus/ring/control.h"
#include "hvsdk/vmbus/ring/memory.h"

namespace hvsdk::vmbus {

class OwnedRing {
 public:
  // Zeroed: a new, empty ring. is_valid() is false if the system refuses the memory.
  explicit OwnedRing(uint32_t data_pages) : size_(data_pages * hvdef::kRingPageSize) {
    if (!internal::IsValidRingSize(size_)) return;
    void* const base = mmap(nullptr, mapped_bytes(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return;
    base_ = static_cast<uint8_t*>(base);
    const int fd = memfd_create("hvsdk-ring", MFD_CLOEXEC);
    if (fd < 0) return;
    const uint64_t page = hvdef::kRingPageSize;
    is_valid_ = ftruncate(fd, static_cast<off_t>(page + size_)) == 0 && Map(0, fd, 0, page + size_) &&
                Map(page + size_, fd, page, size_);
    close(fd);
  }
  OwnedRing(const OwnedRing&) = delete;
  OwnedRing& operator=(const OwnedRing&) = delete;
  ~OwnedRing() {
    if (base_ != nullptr) munmap(base_, mapped_bytes());
  }

  bool is_valid() const { return is_valid_; }
  uint8_t* base() const { return base_; }  // the control page; the data follow, twice
  uint32_t size() const { return size_; }  // of the data, once
  MirroredMemory memory() const { return {base(), base() + hvdef::kRingPageSize, size_}; }

 private:
  uint64_t mapped_bytes() const { return hvdef::kRingPageSize + 2 * uint64_t{size_}; }
  bool Map(uint64_t offset, int fd, uint64_t file_offset, uint64_t size_bytes) {
    return mmap(base_ + offset, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
                static_cast<off_t>(file_offset)) != MAP_FAILED;
  }

  uint8_t* base_ = nullptr;
  uint32_t size_ = 0;
  bool is_valid_ = false;
};

}  // namespace hvsdk::vmbus

#endif  // defined(__linux__)

#endif  // HVSDK_VMBUS_RING_OWNED_RING_H_
