// SPDX-License-Identifier: Apache-2.0
#include "network/frame_queue.h"

#include <algorithm>
#include <utility>

#include "hvsdk/ethernet/checksum.h"
#include "hvsdk/ethernet/headers.h"
#include "hvsdk/ethernet/segmentation.h"
#include "resource/host_buffers.h"

namespace hvsdk::network {
namespace {

// What a frame takes beside its bytes.
constexpr size_t kOverheadBytes = 128;

bool IsToBeCut(const FrameOffload& offload) { return offload.segmentation != FrameOffload::Segmentation::kNone; }

size_t RoomOf(absl::Span<const HostBuffer> buffers) {
  size_t size = 0;
  for (const HostBuffer& buffer : buffers) size += buffer.size_bytes;
  return size;
}

}  // namespace

void FrameQueue::Open(const NetworkPortInfo& accepts) {
  accepts_ = accepts;
  std::lock_guard lock(mutex_);
  open_ = true;
  receiver_waits_ = true;
}

void FrameQueue::Close() {
  std::deque<Entry> dropped;
  {
    std::lock_guard lock(mutex_);
    open_ = false;
    dropped.swap(waiting_);
    frames_ = bytes_ = 0;
  }
  taken_.clear();
  next_segment_ = 0;
}

FrameQueue::Result FrameQueue::Push(std::shared_ptr<const Frame> frame, const FrameOffload& offload) {
  const size_t size = frame->size_bytes + kOverheadBytes;
  std::lock_guard lock(mutex_);
  if (!open_ || frames_ >= limits_.frames || bytes_ + size > limits_.bytes) return Result::kDropped;
  ++frames_;
  bytes_ += size;
  waiting_.push_back({std::move(frame), offload});
  return std::exchange(receiver_waits_, false) ? Result::kTell : Result::kQueued;
}

size_t FrameQueue::fill() const {
  std::lock_guard lock(mutex_);
  return std::max(frames_ * 256 / limits_.frames, bytes_ * 256 / limits_.bytes);
}

size_t FrameQueue::Receive(absl::Span<IncomingFrame> frames) {
  size_t count = 0;
  while (count < frames.size()) {
    if (taken_.empty()) {
      std::lock_guard lock(mutex_);
      if (waiting_.empty()) {
        receiver_waits_ = true;
        break;
      }
      taken_.swap(waiting_);
    }
    if (PutNext(frames[count])) ++count;
  }
  return count;
}

void FrameQueue::DropNext() {
  const size_t size = taken_.front().frame->size_bytes + kOverheadBytes;
  taken_.pop_front();
  next_segment_ = 0;
  std::lock_guard lock(mutex_);
  --frames_;
  bytes_ -= size;
}

bool FrameQueue::PutNext(IncomingFrame& to) {
  const Entry& entry = taken_.front();
  const bool takes_whole = accepts_.takes_segmentation && accepts_.takes_checksum && next_segment_ == 0 &&
                           entry.frame->size_bytes <= accepts_.max_frame_bytes;
  const bool cut = IsToBeCut(entry.offload) && !takes_whole;
  if (cut) return PutSegment(entry, to);
  const bool put = PutWhole(entry, to);
  DropNext();
  return put;
}

bool FrameQueue::PutWhole(const Entry& entry, IncomingFrame& to) {
  const auto bytes = entry.frame->bytes();
  const size_t longest =
      IsToBeCut(entry.offload) ? size_t{accepts_.max_frame_bytes} : accepts_.mtu_bytes + ethernet::kHeaderBytes;
  if (bytes.size() > longest || bytes.size() > RoomOf(to.buffers)) return false;
  // Its segments have to be short enough for the client, too.
  if (IsToBeCut(entry.offload)) {
    const auto segmenter = ethernet::Segmenter::For(bytes, entry.offload);
    if (!segmenter || segmenter->max_bytes() > accepts_.mtu_bytes + ethernet::kHeaderBytes) return false;
  }
  to.size_bytes = bytes.size();
  to.offload = entry.offload;
  absl::Span<const uint8_t> from = bytes;
  if (entry.offload.needs_checksum && !accepts_.takes_checksum) {
    scratch_.assign(bytes.begin(), bytes.end());  // others may have the frame, too
    if (!ethernet::FinishChecksum(absl::MakeSpan(scratch_), to.offload)) return false;
    from = scratch_;
  }
  CopyToBuffers(to.buffers, 0, from.data(), from.size());
  return true;
}

bool FrameQueue::PutSegment(const Entry& entry, IncomingFrame& to) {
  const auto segmenter = ethernet::Segmenter::For(entry.frame->bytes(), entry.offload);
  if (!segmenter || segmenter->max_bytes() > accepts_.mtu_bytes + ethernet::kHeaderBytes ||
      segmenter->max_bytes() > RoomOf(to.buffers)) {
    DropNext();
    return false;
  }
  scratch_.resize(std::max(scratch_.size(), segmenter->max_bytes()));
  to.size_bytes = segmenter->Cut(next_segment_,
                                 accepts_.takes_checksum ? ethernet::ChecksumBy::kReceiver : ethernet::ChecksumBy::kUs,
                                 absl::MakeSpan(scratch_), to.offload);
  CopyToBuffers(to.buffers, 0, scratch_.data(), to.size_bytes);
  if (++next_segment_ == segmenter->count()) DropNext();
  return true;
}

}  // namespace hvsdk::network
