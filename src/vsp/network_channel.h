// SPDX-License-Identifier: Apache-2.0
// One channel of a network adapter, primary or sub: takes the guest's frames out of its ring to the port, and puts those that came into
// the ring towards the guest.
//
// Threads: its turns run on its lane's executor (network_lane.h), all else on the adapter's while the adapter rests; QueueFrames, WakeUp
// and what says so are for any lane.

#ifndef HVSDK_SRC_VSP_NETWORK_CHANNEL_H_
#define HVSDK_SRC_VSP_NETWORK_CHANNEL_H_

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/types/span.h"
#include "hvsdk/hvdef/netvsp.h"
#include "hvsdk/memory/host_buffer.h"
#include "hvsdk/resource/network_port.h"
#include "hvsdk/vmbus/packet_pump.h"
#include "vsp/receive_buffer.h"
#include "vsp/transmit_batch.h"

namespace hvsdk::vsp {

class NetworkChannel;

// What a channel needs of its adapter. What turns use is the same for as long as the adapter does not rest.
class NetworkChannelHost {
 public:
  virtual ~NetworkChannelHost() = default;

  // When Rest returns no lane and no channel of another lane has a turn, and none begins until WorkOn was called as often. On the
  // adapter's executor.
  virtual void Rest() = 0;
  virtual void WorkOn() = 0;

  // --- A turn's. ---

  virtual NetworkPort& port() = 0;
  // To be held while a queue of the port's is used.
  virtual std::unique_lock<std::mutex> LockQueue(uint16_t queue) = 0;
  virtual NetworkPortInfo port_info() const = 0;
  // The longest that it may be.
  virtual uint32_t max_mtu_bytes() const = 0;
  // Neither packets nor frames are taken for now.
  virtual bool is_paused() const = 0;
  // The guest's frames are for the port; before that they are dropped.
  virtual bool is_initialized() const = 0;
  virtual ReceiveBuffer* receive_buffer() = 0;
  // A section of the send buffer as host memory is added to `pieces`. False: there is no such section, or not so long.
  virtual bool AddSendSection(uint32_t section, uint32_t size_bytes, std::vector<HostBuffer>& pieces) = 0;
  // How long a completion is in the version that was agreed on.
  virtual uint32_t message_bytes() const = 0;

  // A message other than a frame's, on the primary channel: what has to be answered is in `reply`, whose type is kNone if it is empty.
  virtual vmbus::Take HandleMessage(const hvdef::netvsp::Message& message, hvdef::netvsp::Message& reply) = 0;
  // A message on RNDIS' control channel. False: it is none.
  virtual bool HandleControl(absl::Span<const HostBuffer> pieces, size_t size_bytes) = 0;
  // Whether another such message may come: there is no answer that waits.
  virtual bool has_control_room() const = 0;
  // In a turn of the primary channel, before frames: what the adapter itself has to say. False: there is no room.
  virtual bool SendOwn(NetworkChannel& primary) = 0;

  // The guest has sent a frame, or frames of its have been dropped.
  virtual void CountTransmit(const NetworkChannel& channel, const uint8_t* destination, size_t size_bytes) = 0;
  virtual void CountTransmitErrors(const NetworkChannel& channel, size_t frames) = 0;
  // The channel has room for frames again, or sections have been given back, or a lane that waits for either has to look why.
  virtual void OnRoomForFrames() = 0;

  // --- On the adapter's executor, while it rests. ---

  // The channel opens. False refuses.
  virtual bool OnOpen(NetworkChannel& channel) = 0;
  // It was open when the machine was saved.
  virtual void OnRestored(NetworkChannel& channel) = 0;
  // The guest closed the channel; it is finished behind this.
  virtual void OnClosed(NetworkChannel& channel) = 0;
  virtual void OnGpadlTeardown(uint32_t gpadl_id) = 0;
};

// The adapter rests as long as this lives.
class NetworkRest {
 public:
  explicit NetworkRest(NetworkChannelHost& host) : host_(host) { host_.Rest(); }
  ~NetworkRest() { host_.WorkOn(); }
  NetworkRest(const NetworkRest&) = delete;
  NetworkRest& operator=(const NetworkRest&) = delete;

 private:
  NetworkChannelHost& host_;
};

// What is saved of a channel: completions that had no room, and frames that are in the receive buffer already.
struct NetworkChannelState {
  struct CompletionState {
    uint64_t transaction_id = 0;
    std::vector<uint8_t> message;

    template <typename Visitor>
    void Fields(Visitor& visit) {
      visit(1, "transaction_id", transaction_id);
      visit(2, "message", message);
    }
  };
  struct FrameState {
    uint32_t section = 0;
    uint32_t size_bytes = 0;
    bool goes_on = false;  // the next is another part of the same frame

    template <typename Visitor>
    void Fields(Visitor& visit) {
      visit(1, "section", section);
      visit(2, "size_bytes", size_bytes);
      visit(3, "goes_on", goes_on);
    }
  };
  std::vector<CompletionState> completions;  // the oldest first
  std::vector<FrameState> frames;            // likewise

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "completions", completions);
    visit(2, "frames", frames);
  }
};

class NetworkChannel : public vmbus::PacketPump {
 public:
  // Messages of one transfer, and so the parts of a coalesced frame.
  static constexpr size_t kMaxParts = 64;
  // Messages that wait for room in the ring, with which no lane asks its port for more frames.
  static constexpr size_t kMaxFrames = 1024;

  // There is room for so many messages.
  NetworkChannel(NetworkChannelHost& host, uint16_t index, size_t most_frames);

  uint16_t index() const { return index_; }
  // Any lane's, and the executor's.
  bool is_open() const { return is_open_; }
  size_t queued_frames() const { return queued_.load(); }
  // The port is full, and packets wait for it.
  bool is_blocked() const { return is_blocked_.load(); }
  // What the port has no room for is dropped at the next turn, if the port has none then, either.
  void AskToDropBatch() { drops_batch_.store(true, std::memory_order_relaxed); }
  // A turn comes soon.
  void WakeUp() {
    if (is_open_) channel().Wake();
  }
  // Nothing waits for the port or for room in the ring, and the guest has read all that is there: Linux counts a frame as sent when
  // it has read that its packet is completed.
  bool is_quiet() const {
    return batch_.is_empty() && completions_.empty() && queued_frames() == 0 &&
           (!is_open_ || channel().WaitForRoom(channel().outgoing().memory().size() - 8));
  }

  // Messages in sections of ours are for this channel, all parts of a frame together. Those that wait have room, or the lanes' have. Any
  // lane's.
  void QueueFrames(absl::Span<const NetworkChannelState::FrameState> frames) {
    std::lock_guard lock(arrived_mutex_);
    arrived_.insert(arrived_.end(), frames.begin(), frames.end());
    queued_.fetch_add(frames.size());
  }
  // Sends a control message that lies in a section of ours. False: there is no room.
  bool SendControl(uint32_t section, uint32_t size_bytes);
  // Sends a message of the adapter's that wants no answer. False: there is no room.
  bool SendMessage(const void* message, uint32_t size_bytes);

  // Takes a turn, if the channel is open. In a turn's place.
  void Look() {
    if (is_open_) TakeTurn();
  }
  // Gives the sections of frames that wait back to the receive buffer.
  void DropFrames();
  // The adapter pauses, or the send buffer goes: what the port had no room for is dropped, and its packets completed.
  void DropBatch();

  NetworkChannelState Save() const;
  static bool IsPossible(const NetworkChannelState& state);
  // Before the channel opens.
  void Restore(NetworkChannelState state);
  void Reset();

 private:
  // More than a batch has packets, and one for what else asks.
  static constexpr size_t kMaxCompletions = 2 * TransmitBatch::kFrames;

  struct Completion {
    uint64_t transaction_id;
    hvdef::netvsp::Message message;
    uint32_t size_bytes;
  };

  // vmbus::PacketPump
  bool OnOpen(vmbus::Channel& channel) override;
  void OnRestored(vmbus::Channel& channel) override;
  void OnClosing(vmbus::Channel& channel) override;
  void OnSignal(vmbus::Channel& channel) override;
  void OnGpadlTeardown(vmbus::Channel& channel, uint32_t gpadl_id) override;
  vmbus::Take OnTurn() override;
  vmbus::Take OnPacket(const vmbus::Packet& packet) override;

  void Begin();
  void ForgetFrames();
  vmbus::Take HandleRndis(const vmbus::Packet& packet, const hvdef::netvsp::SendRndisPacket& body);
  bool Gather(const vmbus::Packet& packet, const hvdef::netvsp::SendRndisPacket& body);
  bool AddFrames();
  bool AddFrame(size_t at, size_t size_bytes);
  void CompleteRndis(uint64_t transaction_id, hvdef::netvsp::Status status);
  // False: the port is full.
  bool SendBatch();
  bool SendCompletions();
  void TakeArrived();
  bool SendFrames();
  // May another packet be taken?
  vmbus::Take Next();

  NetworkChannelHost& host_;
  const uint16_t index_;
  const size_t most_frames_;
  bool is_open_ = false;
  std::atomic<bool> is_blocked_{false};
  std::atomic<bool> drops_batch_{false};
  NetworkChannelState restored_;

  // Of the packet at hand.
  std::vector<HostBuffer> pieces_;
  size_t pieces_bytes_ = 0;

  TransmitBatch batch_;
  std::vector<uint64_t> batch_ids_;  // packets that are completed when it has been sent; 0 is one, too
  std::vector<Completion> completions_;
  std::vector<NetworkChannelState::FrameState> frames_;

  std::atomic<size_t> queued_{0};  // of frames_ and arrived_
  std::mutex arrived_mutex_;
  std::vector<NetworkChannelState::FrameState> arrived_;  // behind frames_
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_NETWORK_CHANNEL_H_
