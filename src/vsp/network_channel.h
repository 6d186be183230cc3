// SPDX-License-Identifier: Apache-2.0
// One channel of a network adapter, primary or sub: takes the guest's frames out of its ring to the port, and puts those that came into
// the ring towards the guest. The executor's own.

#ifndef HVSDK_SRC_VSP_NETWORK_CHANNEL_H_
#define HVSDK_SRC_VSP_NETWORK_CHANNEL_H_

#include <cstdint>
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

// What a channel needs of its adapter. Called on the executor.
class NetworkChannelHost {
 public:
  virtual ~NetworkChannelHost() = default;

  virtual NetworkPort& port() = 0;
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
  virtual void CountTransmit(const uint8_t* destination, size_t size_bytes) = 0;
  virtual void CountTransmitErrors(size_t frames) = 0;
  // The channel has room for frames again, or sections have been given back.
  virtual void OnRoomForFrames() = 0;
  // The channel opens. False refuses.
  virtual bool OnOpen(NetworkChannel& channel) = 0;
  // It was open when the machine was saved.
  virtual void OnRestored(NetworkChannel& channel) = 0;
  // The guest closed the channel; it is finished behind this.
  virtual void OnClosed(NetworkChannel& channel) = 0;
  virtual void OnGpadlTeardown(uint32_t gpadl_id) = 0;
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
  // Messages that wait for room in the ring; more frames stay in the port.
  static constexpr size_t kMaxFrames = 1024;

  NetworkChannel(NetworkChannelHost& host, uint16_t index);

  uint16_t index() const { return index_; }
  bool is_open() const { return is_open_; }
  size_t queued_frames() const { return frames_.size(); }
  // The port is full, and packets wait for it.
  bool is_blocked() const { return !batch_.is_empty(); }
  // Nothing waits for the port or for room in the ring, and the guest has read all that is there: Linux counts a frame as sent when
  // it has read that its packet is completed.
  bool is_quiet() const {
    return batch_.is_empty() && completions_.empty() && frames_.empty() &&
           (!is_open_ || channel().WaitForRoom(channel().outgoing().memory().size() - 8));
  }

  // A message of so many bytes, in a section of ours, is for this channel; `goes_on`: and is part of one frame with the next. At most kMaxFrames
  // of them wait.
  void QueueFrame(uint32_t section, uint32_t size_bytes, bool goes_on = false) {
    frames_.push_back({section, size_bytes, goes_on});
  }
  // Sends a control message that lies in a section of ours. False: there is no room.
  bool SendControl(uint32_t section, uint32_t size_bytes);
  // Sends a message of the adapter's that wants no answer. False: there is no room.
  bool SendMessage(const void* message, uint32_t size_bytes);

  // Begins a turn, if the channel is open.
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
  vmbus::Take HandleRndis(const vmbus::Packet& packet, const hvdef::netvsp::SendRndisPacket& body);
  bool Gather(const vmbus::Packet& packet, const hvdef::netvsp::SendRndisPacket& body);
  bool AddFrames();
  bool AddFrame(size_t at, size_t size_bytes);
  void CompleteRndis(uint64_t transaction_id, hvdef::netvsp::Status status);
  // False: the port is full.
  bool SendBatch();
  bool SendCompletions();
  bool SendFrames();
  // May another packet be taken?
  vmbus::Take Next();

  NetworkChannelHost& host_;
  const uint16_t index_;
  bool is_open_ = false;
  NetworkChannelState restored_;

  // Of the packet at hand.
  std::vector<HostBuffer> pieces_;
  size_t pieces_bytes_ = 0;

  TransmitBatch batch_;
  std::vector<uint64_t> batch_ids_;  // packets that are completed when it has been sent; 0 is one, too
  std::vector<Completion> completions_;
  std::vector<NetworkChannelState::FrameState> frames_;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_NETWORK_CHANNEL_H_
