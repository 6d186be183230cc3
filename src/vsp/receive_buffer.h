// SPDX-License-Identifier: Apache-2.0
// The guest's receive buffer: memory that it lends for what comes to it, cut into sections of one RNDIS message each. A section is
// free, ours, or lent to a channel of the guest's in one transfer with others, until the guest completes that.
//
// A section begins with room for the message's headers, which is one piece of host memory; the frame follows.
//
// Thread-safe: each lane of the adapter takes sections, lends them to its channels, and takes back what their guest completes.

#ifndef HVSDK_SRC_VSP_RECEIVE_BUFFER_H_
#define HVSDK_SRC_VSP_RECEIVE_BUFFER_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/types/span.h"
#include "hvsdk/memory/host_buffer.h"
#include "hvsdk/vmbus/channel.h"

namespace hvsdk::vsp {

class ReceiveBuffer {
 public:
  static constexpr uint32_t kHeadroomBytes = 128;
  static constexpr uint32_t kMaxSections = 1 << 15;
  static constexpr uint32_t kNone = 0xFFFFFFFF;

  // For frames of so many bytes. nullptr: it has no room for one, or a section's headers lie on two pages.
  static std::unique_ptr<ReceiveBuffer> Create(vmbus::GpadlLease lease, uint16_t id, uint32_t max_frame_bytes);

  uint32_t gpadl_id() const { return lease_.id(); }
  uint16_t id() const { return id_; }
  uint32_t section_bytes() const { return section_bytes_; }
  uint32_t sections() const { return static_cast<uint32_t>(sections_.size()); }
  uint32_t free_sections() const {
    std::lock_guard lock(mutex_);
    return static_cast<uint32_t>(free_.size());
  }

  // Free ones, which are ours then: as many as there are beside `reserved` others, but no more than fit into `sections`. Answers how many.
  size_t Take(absl::Span<uint32_t> sections, uint32_t reserved);
  // One, or kNone.
  uint32_t Take();
  void Return(absl::Span<const uint32_t> sections);
  void Return(uint32_t section) { Return({&section, 1}); }

  uint8_t* header(uint32_t section) const { return sections_[section].header; }
  // Behind the headroom.
  absl::Span<const HostBuffer> data(uint32_t section) const {
    const Section& of = sections_[section];
    return absl::MakeConstSpan(pieces_).subspan(of.first_piece, of.pieces);
  }
  // The headroom was written, and at most so many bytes behind it; of what the section has no room for nothing was.
  void MarkWritten(uint32_t section, size_t size_bytes);

  // Sections of ours become a channel's. The first of them names the transfer.
  void Lend(absl::Span<const uint32_t> sections, uint16_t channel);
  // A transfer's are free again. False: the channel has no such transfer.
  bool TakeBack(uint64_t first, uint16_t channel);
  // All that were lent to a channel, which the guest has closed.
  void TakeBackAll(uint16_t channel);

  // What was lent, for a state: each transfer's sections.
  struct Transfer {
    uint16_t channel = 0;
    std::vector<uint32_t> sections;

    template <typename Visitor>
    void Fields(Visitor& visit) {
      visit(1, "channel", channel);
      visit(2, "sections", sections);
    }
  };
  std::vector<Transfer> lent() const;
  // Of a new one: lends these, and takes `ours`, all of which are sections of its own, and different ones.
  void Restore(absl::Span<const Transfer> lent, absl::Span<const uint32_t> ours);

 private:
  struct Section {
    uint8_t* header = nullptr;
    uint32_t first_piece = 0;
    uint32_t pieces = 0;
    uint32_t next = kNone;     // of its transfer
    uint32_t lent_to = kNone;  // the channel, of a transfer's first
  };

  ReceiveBuffer(vmbus::GpadlLease lease, uint16_t id, uint32_t section_bytes)
      : lease_(std::move(lease)), id_(id), section_bytes_(section_bytes) {}

  bool TakeBackLocked(uint64_t first, uint16_t channel);
  void LendLocked(absl::Span<const uint32_t> sections, uint16_t channel);

  const vmbus::GpadlLease lease_;
  const uint16_t id_;
  const uint32_t section_bytes_;
  std::vector<HostBuffer> pieces_;

  mutable std::mutex mutex_;       // guards what follows, but for where sections are
  std::vector<Section> sections_;  // never more or fewer
  std::vector<uint32_t> free_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_RECEIVE_BUFFER_H_
