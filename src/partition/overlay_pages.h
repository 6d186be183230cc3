// SPDX-License-Identifier: Apache-2.0
// Overlay pages: pages of the hypervisor's that cover whatever the guest has at an address, and give it back untouched.
//
// Engines map plain memory, so an overlay is made in place: the guest's bytes are put aside, the overlay's bytes take
// their place, and removal swaps them back. Overlays may cover one another; the latest is the one that is seen, and the
// order of their removal does not matter. An overlay keeps its bytes while it is covered, moved or disabled.
//
// An address outside guest memory is accepted and shows nothing (TLFS: "the page will not be accessible to the guest").
//
// Thread-safe. Writers to an overlay's bytes exclude moves of the same overlay by a lock of their own; that two VPs put
// theirs upon one page is undefined for the guest, and safe for the host: every pointer handed out stays valid.
//
// Source: TLFS, chapter "Partition Properties", "GPA Overlay Pages".

#ifndef HVSDK_SRC_PARTITION_OVERLAY_PAGES_H_
#define HVSDK_SRC_PARTITION_OVERLAY_PAGES_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/hvdef/msr.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/state/reader.h"
#include "partition/state.h"

namespace hvsdk::partition {

// One overlay; starts zeroed and placed nowhere.
class Overlay {
 public:
  Overlay() = default;
  Overlay(const Overlay&) = delete;
  Overlay& operator=(const Overlay&) = delete;

  // Where its 4096 bytes are now: the guest's page, or the host's copy. nullptr before it is first placed.
  uint8_t* bytes() const { return bytes_.load(std::memory_order_acquire); }
  bool placed() const { return placed_; }
  // Whether it is where an MSR with the layout of SIMP puts it.
  bool IsWhere(uint64_t msr) const { return IsWhere(msr, placed_, gpa_); }
  static bool IsWhere(uint64_t msr, bool placed, uint64_t gpa) {
    return placed == ((msr & hvdef::msr::kPageEnable) != 0) && (!placed || gpa == (msr & hvdef::msr::kPageAddressMask));
  }

 private:
  friend class OverlayPages;
  using Page = std::array<uint8_t, kPageSize>;

  bool visible() const { return own_ != nullptr && bytes() != own_->data(); }

  std::unique_ptr<Page> own_;
  std::atomic<uint8_t*> bytes_{nullptr};
  uint64_t gpa_ = 0;
  bool placed_ = false;
};

class OverlayPages {
 public:
  explicit OverlayPages(GuestMemory& memory) : memory_(memory) {}

  // Puts `overlay` at the page of `gpa`, and takes it from where it was.
  void Place(Overlay& overlay, uint64_t gpa);
  void Remove(Overlay& overlay);
  // Back to zeros and nowhere.
  void Clear(Overlay& overlay);

  // Says that [offset, offset + size) of the overlay's bytes were written through bytes().
  void Written(const Overlay& overlay, uint32_t offset, uint32_t size);

  // Whether an overlay is seen at the page of `gpa`.
  bool Covers(uint64_t gpa) const;

  // What lies beneath, and what is nowhere to be seen (state.h). `overlays` are all there are, in that order.
  OverlaysState Save(absl::Span<Overlay* const> overlays) const;
  // Whether Restore may be given this. InvalidArgument.
  absl::Status Check(const OverlaysState& state, absl::Span<Overlay* const> overlays,
                     const state::StateReader& reader) const;
  // Guest memory has been restored already, as the guest saw it: an overlay that is seen takes the bytes it finds there
  // for its own. Not a byte of memory is written.
  void Restore(const OverlaysState& state, absl::Span<Overlay* const> overlays);

 private:
  struct Covered {
    Overlay::Page guest;             // what the guest has there
    std::vector<Overlay*> overlays;  // the last one is seen
    PinnedPages pinned;              // the page, which holds the overlay's bytes
  };

  void RemoveLocked(Overlay& overlay);
  void Show(Overlay& overlay);
  void Hide(Overlay& overlay);

  GuestMemory& memory_;
  mutable std::mutex mutex_;
  std::map<uint64_t, std::unique_ptr<Covered>> covered_;
};

}  // namespace hvsdk::partition

#endif  // HVSDK_SRC_PARTITION_OVERLAY_PAGES_H_
