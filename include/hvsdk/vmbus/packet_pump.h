// SPDX-License-Identifier: Apache-2.0
// PacketPump: the part that every service provider has: it takes packets out of a channel's ring, in turns, and sees to
// it that answers have room and the guest is signalled. A provider derives from it and says what a packet means.
//
// A packet is copied once, into memory of the pump's, where the guest cannot change it, and handed to OnPacket. If a
// provider answers at once, the pump takes a packet only when its answer fits into the ring towards the guest; until
// then requests wait in theirs, so none is lost and nothing is queued for a guest that does not read. Answers are
// published together, with at most one interrupt.
//
// A turn ends after 1024 units of work (a packet is one; AddWork says of more) or about a millisecond, if the server has
// a clock (ServerResources); the executor's other work has its turn before the next. While a turn goes on the guest is
// asked not to signal.
//
// Before it sleeps it may wait until the host has a processor to spare, with signals still masked, if it has learnt that more
// packets come meanwhile (patience.h). An answer that is there is never held back by that.
//
// A ring that is broken, and a packet that is too long or that OnPacket calls malformed, end the reading until the guest
// closes the channel. Such a packet stays in its ring, so a restored provider finds it again: a pump has no state of its
// own to be saved.
//
// Thread class: the channel's executor. Limits: max_packet_bytes; the memory for it is all that a pump allocates.
//
//   class Echo : public PacketPump {
//    public:
//     Echo() : PacketPump({.max_packet_bytes = 2048, .max_completion_bytes = 2048}) {}
//
//    private:
//     Take OnPacket(const Packet& packet) override {
//       Complete(packet, packet.payload, packet.payload_size);
//       return Take::kMore;
//     }
//   };

#ifndef HVSDK_VMBUS_PACKET_PUMP_H_
#define HVSDK_VMBUS_PACKET_PUMP_H_

#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "hvsdk/hvdef/vmbus_ring.h"
#include "hvsdk/vmbus/channel.h"
#include "hvsdk/vmbus/patience.h"
#include "hvsdk/vmbus/ring/packet.h"

namespace hvsdk::vmbus {

// What a provider says of a packet, or at the beginning of a turn.
enum class [[nodiscard]] Take : uint8_t{
    kMore,       // it is done with, and the next one may come
    kNoMore,     // it is done with, and others wait until a later turn says kMore
    kMalformed,  // it is none: nothing was done, and nothing more is read
};

class PacketPump : public ChannelHandler {
 public:
  struct Options {
    uint32_t max_packet_bytes = 4096;  // of extension and payload together
    // The payload that OnPacket may answer with; 0 if it does not answer at once. A ring that could never hold such an
    // answer is refused when the guest opens the channel.
    uint32_t max_completion_bytes = 0;
    // Packets are taken also while one of the provider's own waits for room: for streams, of which neither direction waits for the
    // other. Others leave requests in their ring until there is room for answers.
    bool takes_while_waiting = false;
  };
  static constexpr uint64_t kWorkPerTurn = 1024;
  static constexpr uint64_t kTurn100ns = 10'000;

  explicit PacketPump(const Options& options);

  // ChannelHandler. A provider that has more to do at these moments overrides them and calls these. One whose transfers go
  // on after OnPacket overrides OnClosing, calls FinishClose there once the last one has ended, and wakes the channel then.
  bool OnOpen(Channel& channel) override;
  void OnRestored(Channel& channel) override { (void)PacketPump::OnOpen(channel); }
  void OnClose(Channel& channel) final { OnClosing(channel); }
  void OnClosing(Channel&) override { FinishClose(); }
  void OnSignal(Channel&) override { TakeTurn(); }

  // Nothing is read any more, because a packet was malformed or too long.
  bool is_held_back() const { return is_held_back_; }

 protected:
  // A packet. What it points to stays as it is until the next one is taken: a provider that answers kNoMore may go on with it later.
  virtual Take OnPacket(const Packet& packet) = 0;
  // One that is longer than max_packet_bytes: without its extension, and its payload cut there.
  virtual Take OnLongPacket(const Packet& packet) { return (void)packet, Take::kMalformed; }
  // Before packets are taken in a turn, and again after some were: what a provider has to do besides, such as what has
  // completed meanwhile, or packets of its own. kMore: packets may be taken.
  virtual Take OnTurn() { return Take::kMore; }

  // From OnOpen until FinishClose.
  Channel& channel() const { return *channel_; }
  // Sends the completion of a packet, if the guest asked for one: in OnPacket, at most once a packet, and at most
  // max_completion_bytes.
  void Complete(const Packet& packet, const void* payload, uint32_t size_bytes);
  // Sends any other packet, in a turn. False: there is no room now; when there is, the next turn comes. A ring that is
  // broken swallows what it is given, until the guest closes the channel.
  bool Send(const PacketHeader& header, const void* payload, uint32_t size_bytes);
  // Likewise one that points into a buffer which the guest has lent before, and that asks for a completion.
  bool SendTransferPages(uint64_t transaction_id, uint16_t page_set_id,
                         absl::Span<const hvdef::TransferPageRange> ranges, const void* payload, uint32_t size_bytes);
  // Whether there is room for a packet with so much payload, in a turn. False: when there is, the next turn comes. A ring that is broken
  // has room.
  bool HasRoom(uint32_t size_bytes);

  // Gives the rings back to the guest, as Channel::FinishClose.
  void FinishClose();

  // Begins a turn, if the channel is open: for a provider with tasks of its own. Others call channel().Wake().
  void TakeTurn();
  // For work that takes longer than a packet usually does.
  void AddWork(uint64_t units) { work_ += units; }
  // False: the rest of what OnTurn has to do is for the next turn, which comes.
  bool has_time() const { return work_ < kWorkPerTurn; }
  // After a turn: another one comes by itself in a moment, so nobody needs to ask for it.
  bool is_waiting() const { return is_waiting_; }

 private:
  bool WasTaken(RingStatus status, uint32_t packet_size);
  void LookAtClock();

  const Options options_;
  const uint32_t completion_room_;  // in the ring
  const std::unique_ptr<uint64_t[]> buffer_;
  Channel* channel_ = nullptr;
  bool is_held_back_ = false;

  Patience patience_;
  bool is_waiting_ = false;

  // Of this turn.
  uint64_t requests_ = 0;  // packets that want an answer
  uint64_t sent_ = 0;
  uint64_t work_ = 0;
  uint64_t next_look_ = 0;       // at the clock, when so much is done
  uint64_t deadline_100ns_ = 0;  // 0: not looked yet
  uint32_t wanted_room_ = 0;     // that there was not
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_VMBUS_PACKET_PUMP_H_
