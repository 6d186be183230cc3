// SPDX-License-Identifier: Apache-2.0
#include "partition/overlay_pages.h"

#include <algorithm>
#include <utility>

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
    covered->pinned = PinnedPages(memory_, {gpa});
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

void OverlayPages::Clear(Overlay& overlay) {
  std::lock_guard lock(mutex_);
  RemoveLocked(overlay);
  if (overlay.own_ != nullptr) overlay.own_->fill(0);
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

OverlaysState OverlayPages::Save(absl::Span<Overlay* const> overlays) const {
  std::lock_guard lock(mutex_);
  OverlaysState state;
  for (const Overlay* overlay : overlays) {
    OverlayState& saved = state.overlays.emplace_back();
    saved.placed = overlay->placed_;
    if (overlay->placed_) saved.gpa = overlay->gpa_;
    if (overlay->own_ == nullptr || overlay->visible()) continue;
    // One that was never placed and one that is zero again are the same.
    const Overlay::Page& own = *overlay->own_;
    if (std::any_of(own.begin(), own.end(), [](uint8_t byte) { return byte != 0; })) {
      saved.bytes.assign(own.begin(), own.end());
    }
  }
  for (const auto& [gpa, covered] : covered_) {
    CoveredState& saved = state.covered.emplace_back();
    saved.gpa = gpa;
    saved.guest.assign(covered->guest.begin(), covered->guest.end());
    for (const Overlay* overlay : covered->overlays) {
      const auto found = std::find(overlays.begin(), overlays.end(), overlay);
      HVSDK_CHECK(found != overlays.end());
      saved.overlays.push_back(static_cast<uint32_t>(found - overlays.begin()));
    }
  }
  return state;
}

absl::Status OverlayPages::Check(const OverlaysState& state, absl::Span<Overlay* const> overlays,
                                 const state::StateReader& reader) const {
  if (state.overlays.size() != overlays.size()) {
    return reader.Invalid("overlays.overlays", "not as many as this number of VPs has");
  }
  for (const OverlayState& overlay : state.overlays) {
    if (overlay.gpa % kPageSize != 0 || (!overlay.placed && overlay.gpa != 0)) {
      return reader.Invalid("overlays.overlays.gpa", "no place of a page");
    }
    if (!overlay.bytes.empty() && overlay.bytes.size() != kPageSize) {
      return reader.Invalid("overlays.overlays.bytes", "not a page");
    }
  }
  std::vector<bool> covers(overlays.size());
  uint64_t lowest = 0;
  for (const CoveredState& covered : state.covered) {
    if (covered.gpa % kPageSize != 0 || covered.gpa < lowest) {
      return reader.Invalid("overlays.covered.gpa", "not the next page");
    }
    if (memory_.Pointer(covered.gpa, kPageSize) == nullptr) return reader.Invalid("overlays.covered.gpa", "not memory");
    lowest = covered.gpa + kPageSize;
    if (covered.guest.size() != kPageSize) return reader.Invalid("overlays.covered.guest", "not a page");
    if (covered.overlays.empty()) return reader.Invalid("overlays.covered.overlays", "nothing covers the page");
    for (const uint32_t index : covered.overlays) {
      if (index >= overlays.size()) return reader.Invalid("overlays.covered.overlays", "no such overlay");
      if (!state.overlays[index].placed || state.overlays[index].gpa != covered.gpa) {
        return reader.Invalid("overlays.covered.overlays", "an overlay that is elsewhere");
      }
      if (covers[index]) return reader.Invalid("overlays.covered.overlays", "an overlay twice");
      covers[index] = true;
    }
    if (!state.overlays[covered.overlays.back()].bytes.empty()) {
      return reader.Invalid("overlays.overlays.bytes", "those of an overlay that is seen are in memory");
    }
  }
  for (size_t index = 0; index < overlays.size(); ++index) {
    if (state.overlays[index].placed && !covers[index] &&
        memory_.Pointer(state.overlays[index].gpa, kPageSize) != nullptr) {
      return reader.Invalid("overlays.covered", "an overlay covers nothing where there is memory");
    }
  }
  return absl::OkStatus();
}

void OverlayPages::Restore(const OverlaysState& state, absl::Span<Overlay* const> overlays) {
  std::lock_guard lock(mutex_);
  covered_.clear();
  for (size_t index = 0; index < overlays.size(); ++index) {
    const OverlayState& saved = state.overlays[index];
    Overlay& overlay = *overlays[index];
    overlay.placed_ = saved.placed;
    overlay.gpa_ = saved.gpa;
    if (overlay.own_ == nullptr) {
      if (!saved.placed && saved.bytes.empty()) continue;
      overlay.own_ = std::make_unique<Overlay::Page>();
    }
    overlay.own_->fill(0);
    std::copy(saved.bytes.begin(), saved.bytes.end(), overlay.own_->begin());
    overlay.bytes_.store(overlay.own_->data(), std::memory_order_release);
  }
  for (const CoveredState& saved : state.covered) {
    auto covered = std::make_unique<Covered>();
    covered->pinned = PinnedPages(memory_, {saved.gpa});
    std::copy(saved.guest.begin(), saved.guest.end(), covered->guest.begin());
    for (const uint32_t index : saved.overlays) covered->overlays.push_back(overlays[index]);
    covered->overlays.back()->bytes_.store(memory_.Pointer(saved.gpa, kPageSize), std::memory_order_release);
    covered_[saved.gpa] = std::move(covered);
  }
}

}  // namespace hvsdk::partition
