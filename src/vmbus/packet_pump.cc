// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmbus/packet_pump.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace hvsdk::vmbus {
namespace {

// The clock costs as much as a short packet.
constexpr uint64_t kWorkPerLook = 16;

}  // namespace

PacketPump::PacketPump(const Options& options)
    : options_(options),
      completion_room_(options.max_completion_bytes == 0 ? 0 : PacketSize(options.max_completion_bytes)),
      buffer_(std::make_unique<uint64_t[]>((options.max_packet_bytes + 7) / 8)) {
  HVSDK_CHECK(options.max_completion_bytes == 0 || completion_room_ != 0);  // no packet is so long
}

bool PacketPump::OnOpen(Channel& channel) {
  // One word of a ring is never used.
  if (completion_room_ > channel.outgoing().memory().size() - sizeof(uint64_t)) return false;
  channel_ = &channel;
  is_held_back_ = false;
  is_waiting_ = false;
  return true;
}

void PacketPump::FinishClose() { std::exchange(channel_, nullptr)->FinishClose(); }

void PacketPump::Complete(const Packet& packet, const void* payload, uint32_t size_bytes) {
  if (!packet.completion_requested()) return;
  HVSDK_CHECK(size_bytes <= options_.max_completion_bytes);
  ++sent_;
  (void)channel_->outgoing().StageInBand(PacketHeader::Completion(packet.transaction_id), payload,
                                         size_bytes);  // there is room, or the ring is broken
}

bool PacketPump::Send(const PacketHeader& header, const void* payload, uint32_t size_bytes) {
  return WasTaken(channel_->outgoing().StageInBand(header, payload, size_bytes), PacketSize(size_bytes));
}

bool PacketPump::SendTransferPages(uint64_t transaction_id, uint16_t page_set_id,
                                   absl::Span<const hvdef::TransferPageRange> ranges, const void* payload,
                                   uint32_t size_bytes) {
  const auto count = static_cast<uint32_t>(ranges.size());
  const RingStatus status = channel_->outgoing().StageTransferPages(
      transaction_id, /*completion_requested=*/true, page_set_id, ranges.data(), count, payload, size_bytes);
  return WasTaken(status,
                  PacketSize(size_bytes, static_cast<uint32_t>(sizeof(hvdef::TransferPageHeader) +
                                                               ranges.size() * sizeof(hvdef::TransferPageRange))));
}

bool PacketPump::WasTaken(RingStatus status, uint32_t packet_size) {
  if (status != RingStatus::kFull || channel_->outgoing().fault() != RingFault::kNone) {
    ++sent_;
    return true;
  }
  wanted_room_ = std::max(wanted_room_, packet_size);
  return false;
}

bool PacketPump::HasRoom(uint32_t size_bytes) {
  const uint32_t needed = PacketSize(size_bytes);
  Channel::OutgoingRing& ring = channel_->outgoing();
  if (ring.free_bytes() >= needed || ring.WaitForRoom(needed) != RingStatus::kFull) return true;
  wanted_room_ = std::max(wanted_room_, needed);
  return false;
}

void PacketPump::LookAtClock() {
  next_look_ = work_ + kWorkPerLook;
  const Clock* const clock = channel_->clock();
  if (clock == nullptr) return;
  const uint64_t now = clock->Now100ns();
  if (deadline_100ns_ == 0) {
    deadline_100ns_ = now + kTurn100ns;  // a short turn never looks
  } else if (now >= deadline_100ns_) {
    work_ = std::max(work_, kWorkPerTurn);
  }
}

void PacketPump::TakeTurn() {
  if (channel_ == nullptr) return;
  Channel::IncomingRing& ring = channel_->incoming();
  ring.Mask();
  work_ = 0;
  next_look_ = kWorkPerLook;
  deadline_100ns_ = 0;
  wanted_room_ = 0;
  requests_ = sent_ = 0;
  const bool has_waited = std::exchange(is_waiting_, false);
  Take take = OnTurn();
  for (;;) {
    RingStatus status = RingStatus::kOk;
    const uint64_t before = work_;
    bool lacks_room_for_answer = false;
    while (take == Take::kMore && !is_held_back_ && has_time()) {
      if (completion_room_ != 0 && !channel_->WaitForRoom(completion_room_)) {
        wanted_room_ = std::max(wanted_room_, completion_room_);
        lacks_room_for_answer = true;
        break;
      }
      Channel::IncomingRing::View view;
      status = ring.Peek(view);
      if (status != RingStatus::kOk) break;
      requests_ += view.completion_requested();
      if (view.size() <= options_.max_packet_bytes) [[likely]] {
        take = OnPacket(view.Copy(buffer_.get()));
      } else {
        const uint32_t size = std::min(view.payload_size(), options_.max_packet_bytes);
        view.CopyPayload(0, buffer_.get(), size);
        const auto* const payload = reinterpret_cast<const uint8_t*>(buffer_.get());
        take = OnLongPacket({view.type(), view.flags(), view.transaction_id(), payload, 0, payload, size});
      }
      is_held_back_ = take == Take::kMalformed;
      if (is_held_back_) break;
      ring.Release(view);
      if (++work_ >= next_look_) LookAtClock();
    }
    if (work_ != before) {
      take = OnTurn();
      // Room for the guest's answers before what it answers: Linux' utility drivers drop one that finds its ring full.
      channel_->SignalGuest(ring.Commit());
    }
    channel_->Publish();
    if (!has_time()) {
      channel_->Wake();
      return;
    }
    if (wanted_room_ != 0) {
      // Asked last of all: to publish takes a request for room back.
      if (channel_->WaitForRoom(std::exchange(wanted_room_, 0))) {
        ++work_;  // the guest has made room meanwhile, and may do so again and again
        take = OnTurn();
        continue;
      }
      // Packets are taken meanwhile, but for those that need that room themselves.
      const bool takes =
          options_.takes_while_waiting && take == Take::kMore && !is_held_back_ && !lacks_room_for_answer;
      if (!takes || channel_->Arm()) return;
      ++work_;
      continue;  // packets have come meanwhile
    }
    if (take != Take::kMore || is_held_back_) {
      channel_->SignalGuest(ring.Commit());  // packets need no signal until the provider takes them again
      return;
    }
    if (status == RingStatus::kOk) continue;  // the provider did not take all there are, and does now
    if (status == RingStatus::kEmpty && patience_.AfterTurn(std::max(requests_, sent_), has_waited) &&
        channel_->WakeWhenIdle()) {
      is_waiting_ = true;
      channel_->SignalGuest(ring.Commit());
      return;
    }
    if (channel_->Arm()) return;
  }
}

}  // namespace hvsdk::vmbus
