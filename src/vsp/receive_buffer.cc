// SPDX-License-Identifier: Apache-2.0
#include "vsp/receive_buffer.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace hvsdk::vsp {
namespace {

// So that headers never lie on two pages in a buffer that begins with one.
constexpr uint32_t kAlignment = ReceiveBuffer::kHeadroomBytes;

}  // namespace

std::unique_ptr<ReceiveBuffer> ReceiveBuffer::Create(vmbus::GpadlLease lease, uint16_t id, uint32_t max_frame_bytes) {
  const uint32_t bytes = (kHeadroomBytes + max_frame_bytes + kAlignment - 1) / kAlignment * kAlignment;
  const uint64_t count = std::min<uint64_t>(lease->size_bytes() / bytes, kMaxSections);
  if (count == 0) return nullptr;
  std::unique_ptr<ReceiveBuffer> buffer(new ReceiveBuffer(std::move(lease), id, bytes));
  const vmbus::Gpadl& gpadl = *buffer->lease_;
  buffer->sections_.resize(count);
  buffer->free_.reserve(count);
  for (uint32_t i = 0; i < count; ++i) {
    Section& section = buffer->sections_[i];
    uint32_t pieces = 0;
    const auto set_header = [&](uint64_t, uint8_t* host, uint64_t) {
      section.header = host;
      ++pieces;
    };
    const uint64_t at = uint64_t{i} * bytes;
    if (!gpadl.ForEachPiece(at, kHeadroomBytes, set_header) || pieces != 1) return nullptr;
    section.first_piece = static_cast<uint32_t>(buffer->pieces_.size());
    const auto add = [&](uint64_t, uint8_t* host, uint64_t size) { buffer->pieces_.push_back({host, size}); };
    if (!gpadl.ForEachPiece(at + kHeadroomBytes, bytes - kHeadroomBytes, add)) return nullptr;
    section.pieces = static_cast<uint32_t>(buffer->pieces_.size()) - section.first_piece;
  }
  for (uint32_t i = buffer->sections(); i-- != 0;) buffer->free_.push_back(i);
  return buffer;
}

size_t ReceiveBuffer::Take(absl::Span<uint32_t> sections, uint32_t reserved) {
  std::lock_guard lock(mutex_);
  if (free_.size() <= reserved) return 0;
  const size_t count = std::min(sections.size(), free_.size() - reserved);
  std::copy_n(free_.rbegin(), count, sections.begin());
  free_.resize(free_.size() - count);
  return count;
}

uint32_t ReceiveBuffer::Take() {
  uint32_t section = kNone;
  (void)Take({&section, 1}, 0);
  return section;
}

void ReceiveBuffer::Return(absl::Span<const uint32_t> sections) {
  std::lock_guard lock(mutex_);
  free_.insert(free_.end(), sections.begin(), sections.end());
}

void ReceiveBuffer::MarkWritten(uint32_t section, size_t size_bytes) {
  GuestMemory& memory = lease_->memory();
  const auto mark = [&](uint64_t gpa, uint8_t*, uint64_t size) { memory.MarkWritten(gpa, size); };
  const uint64_t written = std::min<uint64_t>(section_bytes_, kHeadroomBytes + size_bytes);
  HVSDK_CHECK(lease_->ForEachPiece(uint64_t{section} * section_bytes_, written, mark));
}

void ReceiveBuffer::Lend(absl::Span<const uint32_t> sections, uint16_t channel) {
  std::lock_guard lock(mutex_);
  LendLocked(sections, channel);
}

void ReceiveBuffer::LendLocked(absl::Span<const uint32_t> sections, uint16_t channel) {
  for (size_t i = 0; i + 1 < sections.size(); ++i) sections_[sections[i]].next = sections[i + 1];
  sections_[sections.back()].next = kNone;
  sections_[sections.front()].lent_to = channel;
}

bool ReceiveBuffer::TakeBack(uint64_t first, uint16_t channel) {
  std::lock_guard lock(mutex_);
  return TakeBackLocked(first, channel);
}

bool ReceiveBuffer::TakeBackLocked(uint64_t first, uint16_t channel) {
  if (first >= sections_.size() || sections_[first].lent_to != channel) return false;
  sections_[first].lent_to = kNone;
  for (auto section = static_cast<uint32_t>(first); section != kNone;) {
    free_.push_back(section);
    section = std::exchange(sections_[section].next, kNone);
  }
  return true;
}

void ReceiveBuffer::TakeBackAll(uint16_t channel) {
  std::lock_guard lock(mutex_);
  for (uint32_t i = 0; i < sections(); ++i) (void)TakeBackLocked(i, channel);
}

std::vector<ReceiveBuffer::Transfer> ReceiveBuffer::lent() const {
  std::lock_guard lock(mutex_);
  std::vector<Transfer> all;
  for (uint32_t i = 0; i < sections(); ++i) {
    if (sections_[i].lent_to == kNone) continue;
    Transfer& transfer = all.emplace_back();
    transfer.channel = static_cast<uint16_t>(sections_[i].lent_to);
    for (uint32_t section = i; section != kNone; section = sections_[section].next) {
      transfer.sections.push_back(section);
    }
  }
  return all;
}

void ReceiveBuffer::Restore(absl::Span<const Transfer> lent, absl::Span<const uint32_t> ours) {
  std::lock_guard lock(mutex_);
  std::vector<bool> taken(sections_.size());
  for (const uint32_t section : ours) taken[section] = true;
  for (const Transfer& transfer : lent) {
    LendLocked(transfer.sections, transfer.channel);
    for (const uint32_t section : transfer.sections) taken[section] = true;
  }
  std::erase_if(free_, [&](uint32_t section) { return taken[section]; });
}

}  // namespace hvsdk::vsp
