// SPDX-License-Identifier: Apache-2.0
// A lane of a network adapter: what one executor does for it. Of N lanes the one of number I has the channels and the port's queues whose
// numbers leave I when divided by N. It takes frames from its queues, puts them into the receive buffer, and gives them to the channels
// that the guest's table names, which may be another lane's.
//
// The adapter changes what its lanes look at while all of them are held (GuardedTask), so there they need no lock. What they share
// while they run has its own: the receive buffer, the frames that come to a channel, a port's queue that is several lanes'.

#ifndef HVSDK_SRC_VSP_NETWORK_LANE_H_
#define HVSDK_SRC_VSP_NETWORK_LANE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/types/span.h"
#include "hvsdk/base/guarded_task.h"
#include "hvsdk/memory/host_buffer.h"
#include "hvsdk/resource/network_port.h"
#include "vsp/network_channel.h"
#include "vsp/network_counters.h"
#include "vsp/receive_buffer.h"
#include "vsp/rndis_device.h"

namespace hvsdk::vsp {

// What a lane needs of its adapter; the same for as long as it is not held.
class NetworkLaneHost {
 public:
  virtual ~NetworkLaneHost() = default;

  virtual NetworkPort& port() = 0;
  // To be held while a queue of the port's is used.
  virtual std::unique_lock<std::mutex> LockQueue(uint16_t queue) = 0;
  virtual bool is_paused() const = 0;
  // Frames may go to the guest: it wants them, and there is a receive buffer.
  virtual bool takes_frames() const = 0;
  virtual ReceiveBuffer* receive_buffer() = 0;
  virtual uint32_t receive_frame_bytes() const = 0;  // of the longest frame that is not in parts
  virtual uint32_t receive_part_bytes() const = 0;   // that a section has room for; no fewer
  // Long TCP segments come to the guest whole, in parts: in so many sections.
  virtual bool takes_coalesced() const = 0;
  virtual uint32_t sections_per_frame() const = 0;
  // A VLAN's tag is told beside a frame.
  virtual bool takes_tags_beside() const = 0;
  virtual const RndisDevice& rndis() const = 0;
  virtual uint16_t channels() const = 0;
  virtual NetworkChannel& channel(uint16_t index) = 0;
};

class NetworkLane final : public GuardedTask {
 public:
  // Frames asked of a port at a time, and of one run, before others have their turn.
  static constexpr size_t kFramesAtOnce = 32;
  static constexpr size_t kLongFramesAtOnce = 8;  // where they may be coalesced
  static constexpr size_t kFramesPerRun = 256;
  // Messages that one run of the port's may become.
  static constexpr size_t kMostMessages = kFramesAtOnce + kLongFramesAtOnce * NetworkChannel::kMaxParts;

  NetworkLane(NetworkLaneHost& host, Executor& executor, uint16_t index, uint16_t lanes);
  ~NetworkLane() override { Hold(); }

  // --- Thread-safe. ---

  // A queue of the lane's has frames.
  void OnFrames(uint16_t queue) {
    frames_waiting_.fetch_or(uint64_t{1} << queue, std::memory_order_acq_rel);
    Schedule();
  }
  // The port has room for what a channel of the lane's could not send.
  void OnRoom() {
    has_room_.store(true, std::memory_order_release);
    Schedule();
  }
  // All channels of the lane's have a turn.
  void LookAtAll() {
    looks_at_all_.store(true, std::memory_order_release);
    Schedule();
  }
  // There is room in a ring again, or in the receive buffer.
  void OnRoomForFrames() {
    // What was made room of before is seen by the lane's second look, or the lane's word by us (ReceiveFrames).
    if (is_waiting_.load() && is_waiting_.exchange(false)) Schedule();
  }

  // Of the lane's, or while it is held.
  NetworkCounters& counters() { return counters_; }
  const NetworkCounters& counters() const { return counters_; }  // to be read by anybody
  // The host takes coalesced frames from now on, or no more. While it is held.
  void MakeRoomForLong(bool takes_coalesced);

 private:
  // What came for a channel.
  struct Arrived {
    uint16_t channel;
    NetworkChannelState::FrameState frame;
  };

  void Turn() override;
  void LookAt(NetworkChannel& channel);
  void ReceiveFrames();
  bool HasFrameRoom();
  bool HasSections();
  void AskForSections();
  size_t ReceiveFrom(uint16_t queue);
  bool Deliver(size_t i, uint32_t section, const IncomingFrame& frame);
  void DeliverParts(class FrameHead& first, uint32_t section, size_t first_bytes, absl::Span<const uint8_t> rest,
                    uint16_t channel);
  void GiveToChannels();
  // The rest of a long frame, behind what its section holds.
  uint8_t* rest(size_t i) const;

  NetworkLaneHost& host_;
  const uint16_t index_;
  const uint16_t lanes_;

  std::atomic<uint64_t> frames_waiting_{0};  // a bit for each queue
  std::atomic<bool> has_room_{false};
  std::atomic<bool> looks_at_all_{false};
  std::atomic<bool> is_waiting_{false};  // for sections, or for room in a ring

  NetworkCounters counters_;
  std::unique_ptr<uint8_t[]> rests_;  // of kLongFramesAtOnce of them
  std::vector<HostBuffer> pieces_;
  uint16_t next_packet_id_ = 0;

  // Of one run: sections that it has taken, of which those from next_part_ on are for the parts of long frames, and those that it gives
  // back; and what has come.
  std::array<uint32_t, kMostMessages> sections_;
  size_t sections_taken_ = 0, next_part_ = 0;
  std::vector<uint32_t> unused_;
  std::vector<Arrived> arrived_;
  std::vector<NetworkChannelState::FrameState> for_one_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_NETWORK_LANE_H_
