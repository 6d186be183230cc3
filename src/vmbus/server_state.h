// SPDX-License-Identifier: Apache-2.0
// What is saved of VMBus' root side: the connection, the channels with their rings, GPADLs, and messages that the guest
// has not got yet. Offers are the embedder's, so a channel is here by what names it.

#ifndef HVSDK_SRC_VMBUS_SERVER_STATE_H_
#define HVSDK_SRC_VMBUS_SERVER_STATE_H_

#include <array>
#include <cstdint>
#include <vector>

#include "hvsdk/hvdef/vmbus.h"
#include "hvsdk/vmbus/ring/packet.h"

namespace hvsdk::vmbus {

// Of a channel that is open; all zero for others.
struct OpenChannelState {
  uint32_t target_vp = 0;
  uint32_t ring_gpadl_id = 0;
  uint32_t downstream_page_offset = 0;
  std::array<uint8_t, hvdef::vmbus::kUserDefinedSize> user_data{};
  // The reader's and the writer's own copies of what stands in the ring, which the guest may overwrite.
  uint32_t incoming_read = 0, incoming_committed = 0;
  RingFault incoming_fault{};
  uint32_t outgoing_write = 0, outgoing_published = 0;
  RingFault outgoing_fault{};
  bool outgoing_waits = false;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "target_vp", target_vp);
    visit(2, "ring_gpadl_id", ring_gpadl_id);
    visit(3, "downstream_page_offset", downstream_page_offset);
    visit(4, "user_data", user_data);
    visit(5, "incoming_read", incoming_read);
    visit(6, "incoming_committed", incoming_committed);
    visit(7, "incoming_fault", incoming_fault);
    visit(8, "outgoing_write", outgoing_write);
    visit(9, "outgoing_published", outgoing_published);
    visit(10, "outgoing_fault", outgoing_fault);
    visit(11, "outgoing_waits", outgoing_waits);
  }
};

struct ChannelStateRecord {
  enum class Kind : uint8_t { kHidden, kClosed, kOpen, kRevoked };

  std::array<uint8_t, 16> class_id{};  // as on the wire
  std::array<uint8_t, 16> instance_id{};
  uint16_t subchannel_index = 0;
  Kind kind{};
  bool declined = false;
  uint32_t channel_id = 0;
  OpenChannelState open;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "class_id", class_id);
    visit(2, "instance_id", instance_id);
    visit(3, "subchannel_index", subchannel_index);
    visit(4, "kind", kind);
    visit(5, "declined", declined);
    visit(6, "channel_id", channel_id);
    visit(7, "open", open);
  }
};

struct GpadlState {
  uint32_t gpadl_id = 0;
  uint32_t channel_id = 0;
  uint32_t range_count = 0;
  uint32_t total_words = 0;
  bool tearing_down = false;
  std::vector<uint8_t> words;  // those that have come, 8 bytes each, as on the wire

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "gpadl_id", gpadl_id);
    visit(2, "channel_id", channel_id);
    visit(3, "range_count", range_count);
    visit(4, "total_words", total_words);
    visit(5, "tearing_down", tearing_down);
    visit(6, "words", words);
  }
};

struct MessageState {
  uint32_t vp = 0;
  uint8_t sint = 0;
  std::vector<uint8_t> bytes;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "vp", vp);
    visit(2, "sint", sint);
    visit(3, "bytes", bytes);
  }
};

struct ServerState {
  static constexpr uint32_t kSchema = 1;

  bool connected = false;
  bool offers_sent = false;
  uint32_t version = 0;  // while connected, and what follows
  uint32_t message_vp = 0;
  uint8_t message_sint = 0;
  uint64_t interrupt_page = 0;
  std::vector<ChannelStateRecord> channels;  // by class, instance, subchannel index; one that was rescinded comes first
  std::vector<GpadlState> gpadls;            // by the guest's number
  std::vector<MessageState> messages;        // the oldest first

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "connected", connected);
    visit(2, "offers_sent", offers_sent);
    visit(3, "version", version);
    visit(4, "message_vp", message_vp);
    visit(5, "message_sint", message_sint);
    visit(6, "interrupt_page", interrupt_page);
    visit(7, "channels", channels);
    visit(8, "gpadls", gpadls);
    visit(9, "messages", messages);
  }
};

}  // namespace hvsdk::vmbus

#endif  // HVSDK_SRC_VMBUS_SERVER_STATE_H_
