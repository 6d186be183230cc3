// SPDX-License-Identifier: Apache-2.0
#include "partition/overlay_pages.h"

#include <algorithm>

#include "base/check.h"

namespace hvsdk::partition {

void OverlayPages::Place(Overlay& overlay, uint64_t gpa) {
  gpa &= ~(kPageSize - 1);
  std::lock_guard lock(mutex_);
  if (overlay.placed_ && overlay.gpa_ == gpa) return;
  RemoveLocked(overlay);
  if (overlay.own_ == nullptr) {
    overlay.own_ = std::make_unique<Overlay::Page>();
    overlay.bytes_.store(overlay.own_->data(), std::memory_order_release);
  }
  overlay.gpa_ = gpa;
  overlay.placed_ = true;
  if (memory_.Pointer(gpa, kPageSize) == nullptr) return;
  std::unique_ptr<Covered>& covered = covered_[gpa];
  if (covered == nullptr) {
    covered = std::make_unique<Covered>();
    HVSDK_CHECK(memory_.Read(gpa, covered->guest.data(), kPageSize));
  } else {
    Hide(*covered->overlays.back());
  }
  covered->overlays.push_back(&overlay);
  Show(overlay);
}

void OverlayPages::Remove(Overlay& overlay) {
  std::lock_guard lock(mutex_);
  RemoveLocked(overlay);
}

void OverlayPages::RemoveLocked(Overlay& overlay) {
  if (!overlay.placed_) return;
  overlay.placed_ = false;
  const auto found = covered_.find(overlay.gpa_);
  if (found == covered_.end()) return;
  Covered& covered = *found->second;
  const auto position = std::find(covered.overlays.begin(), covered.overlays.end(), &overlay);
  if (position == covered.overlays.end()) return;  // it covers nothing: the address is not memory
  if (position + 1 != covered.overlays.end()) {
    covered.overlays.erase(position);
    return;
  }
  Hide(overlay);
  covered.overlays.pop_back();
  if (!covered.overlays.empty()) {
    Show(*covered.overlays.back());
    return;
  }
  HVSDK_CHECK(memory_.Write(overlay.gpa_, covered.guest.data(), kPageSize));
  covered_.erase(found);
}

void OverlayPages::Show(Overlay& overlay) {
  HVSDK_CHECK(memory_.Write(overlay.gpa_, overlay.own_->data(), kPageSize));
  overlay.bytes_.store(memory_.Pointer(overlay.gpa_, kPageSize), std::memory_order_release);
}

void OverlayPages::Hide(Overlay& overlay) {
  HVSDK_CHECK(memory_.Read(overlay.gpa_, overlay.own_->data(), kPageSize));
  overlay.bytes_.store(overlay.own_->data(), std::memory_order_release);
}

void OverlayPages::Written(const Overlay& overlay, uint32_t offset, uint32_t size) {
  if (overlay.visible()) memory_.MarkWritten(overlay.gpa_ + offset, size);
}

bool OverlayPages::Covers(uint64_t gpa) const {
  std::lock_guard lock(mutex_);
  return covered_.contains(gpa & ~(kPageSize - 1));
}

}  // namespace hvsdk::partition
