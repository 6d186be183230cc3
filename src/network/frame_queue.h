// SPDX-License-Identifier: Apache-2.0
// FrameQueue: frames that wait in a port for one queue of its client, within limits; on the way out they are made what the
// client takes.
//
// Thread-safe, but for the receiving side (Receive, Open, ChangeAccepted), which is one thread's at a time.

#ifndef HVSDK_SRC_NETWORK_FRAME_QUEUE_H_
#define HVSDK_SRC_NETWORK_FRAME_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/types/span.h"
#include "hvsdk/resource/network_port.h"
#include "network/frame.h"

namespace hvsdk::network {

struct QueueLimits {
  size_t frames = 1024;
  size_t bytes = size_t{4} << 20;
};

class FrameQueue {
 public:
  enum class Result {
    kDropped,  // there is no room, or nobody takes frames
    kQueued,
    kTell,  // queued, and the receiver waits for word of it
  };

  explicit FrameQueue(QueueLimits limits) : limits_(limits) {}

  // Takes frames from now on, for a client that accepts so much.
  void Open(const NetworkPortInfo& accepts);
  // The client accepts something else.
  void ChangeAccepted(const NetworkPortInfo& accepts) { accepts_ = accepts; }
  // Drops what there is, and takes no more.
  void Close();

  // `offload` is the frame's, but for a VLAN tag, which differs between receivers.
  Result Push(std::shared_ptr<const Frame> frame, const FrameOffload& offload);
  Result Push(Frame frame) {
    const FrameOffload offload = frame.offload;
    return Push(std::make_shared<const Frame>(std::move(frame)), offload);
  }

  // As NetworkPort has it.
  size_t Receive(absl::Span<IncomingFrame> frames);

  // The part of its limits that is in use, in 1/256.
  size_t fill() const;

 private:
  struct Entry {
    std::shared_ptr<const Frame> frame;
    FrameOffload offload;
  };

  // Puts the next of `taken_`, or of its segments, into `to`. False: it was dropped.
  bool PutNext(IncomingFrame& to);
  bool PutSegment(const Entry& entry, IncomingFrame& to);
  bool PutWhole(const Entry& entry, IncomingFrame& to);
  void DropNext();

  const QueueLimits limits_;

  // The receiver's.
  NetworkPortInfo accepts_;
  std::deque<Entry> taken_;
  size_t next_segment_ = 0;  // of the first in taken_
  std::vector<uint8_t> scratch_;

  mutable std::mutex mutex_;  // guards what follows
  bool open_ = false;
  bool receiver_waits_ = false;
  std::deque<Entry> waiting_;
  size_t frames_ = 0, bytes_ = 0;  // of both lists
};

}  // namespace hvsdk::network

#endif  // HVSDK_SRC_NETWORK_FRAME_QUEUE_H_
