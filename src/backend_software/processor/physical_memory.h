// SPDX-License-Identifier: Apache-2.0
// What is mapped in guest physical space, and for each page who holds decoded code of it and who can write it fast.
//
// The invariant that makes self- and cross-modifying code right: no VP's TLB has a fast write entry for a page of
// which any VP holds code. A VP that fills a write entry announces itself in `write_vps` and then looks at `code_vps`;
// a VP that is about to decode announces itself in `code_vps` and then purges the write entries of all in
// `write_vps` before it reads the bytes. Both announcements are sequentially consistent, so one sees the other.
//
// Regions are kept in immutable tables; a change publishes a new table and keeps the old one until the partition ends,
// so that a VP reads without a lock. Changes are rare (a machine maps its memory once).
//
// Thread-safe.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_PHYSICAL_MEMORY_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_PHYSICAL_MEMORY_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/base/zeroed_array.h"

namespace hvsdk::software {

// Begins as zero bytes (ZeroedArray).
struct PageState {
  std::atomic<uint64_t> code_vps;   // a bit a VP that holds code of the page
  std::atomic<uint64_t> write_vps;  // a bit a VP that may hold a fast write entry
  std::atomic<uint64_t> granules;   // a bit for each 64 bytes that were decoded
  std::atomic<uint8_t> dirty;       // written since the dirty log was last taken
};

struct Region {
  uint64_t gpa;
  uint64_t size_bytes;
  uint8_t* host;
  bool writable;
  PageState* pages;
};

// A page found by PhysicalMemory::Find; host is nullptr where nothing is mapped.
struct PhysicalPage {
  uint8_t* host = nullptr;
  PageState* state = nullptr;
  bool writable = false;
};

class PhysicalMemory {
 public:
  PhysicalMemory() : table_(new Table) { tables_.emplace_back(table_.load(std::memory_order_relaxed)); }

  // InvalidArgument: not whole pages, or an overlap. ResourceExhausted: no room for another region, or for its
  // page states.
  absl::Status Map(uint64_t gpa, absl::Span<uint8_t> host, bool writable);
  absl::Status Unmap(uint64_t gpa, uint64_t size_bytes);

  PhysicalPage Find(uint64_t gpa) const {
    for (const Region& region : *table_.load(std::memory_order_acquire)) {
      const uint64_t offset = gpa - region.gpa;
      if (offset < region.size_bytes) {
        return {region.host + (offset & ~(kPageSize - 1)), &region.pages[offset >> kPageShift], region.writable};
      }
    }
    return {};
  }
  const Region* FindRegion(uint64_t gpa, uint64_t size_bytes) const;

  // Whether writes are noted in PageState::dirty.
  bool dirty_log() const { return dirty_log_.load(std::memory_order_relaxed); }
  void SetDirtyLog(bool enable) { dirty_log_.store(enable, std::memory_order_seq_cst); }

  // Orders the announcement of code against its withdrawal; taken when code is decoded or dropped, never on a
  // guest's access.
  std::mutex& code_mutex() { return code_mutex_; }

 private:
  using Table = std::vector<Region>;
  void Publish(std::unique_ptr<Table> table);

  std::atomic<Table*> table_;
  std::mutex mutex_;  // guards what follows
  std::vector<std::unique_ptr<Table>> tables_;
  // By address and size. What is mapped again in a place has the states of before: they may say too much of it, and never too little.
  std::map<std::pair<uint64_t, uint64_t>, ZeroedArray<PageState>> page_states_;
  std::atomic<bool> dirty_log_{false};
  std::mutex code_mutex_;
};

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_PHYSICAL_MEMORY_H_
