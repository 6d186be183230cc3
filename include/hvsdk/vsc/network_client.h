// SPDX-License-Identifier: Apache-2.0
// NetworkClient: the child side of the network provider on one open channel. It negotiates, lends its buffers, asks and sets what the
// adapter has, sends frames and hands out those that come.
//
// Freestanding: no heap, no exceptions, no RTTI, no library but memcpy and memset. Nothing here waits: OnSignal, which the channel's
// signal calls, takes what has come. A frame to be sent is copied into the send buffer, or lies in guest pages named by number until it
// has been sent; one that comes is shown where it lies in the receive buffer, and goes back when the callback returns.
//
// Thread-compatible: the caller keeps interrupts and everything else apart, for the channels of one adapter together. Callbacks may send.
// A client serves one opening of its channel; the next has new rings and gets a new client.
//
// The host is not trusted to be right: what lies in the receive buffer is copied before it is looked at, frames that are not within it
// are dropped, and a broken ring or an answer that is none makes the client fail.
//
// Source: hvdef/netvsp.h, hvdef/rndis.h; the order of the opening exchange is that of Linux' netvsc.c and rndis_filter.c.
//
//   vsc::NetworkClient network(bus, channel, rings);   // the channel is open
//   network.on_frame = [](void* context, const vsc::ReceivedFrame& frame) { ... };
//   network.Start({.receive = receive, .receive_pages = pages, .send = send, .send_pages = more_pages});
//   while (network.state() == vsc::NetworkClient::State::kStarting) WaitForInterrupt(), network.OnSignal();
//   if (network.Send({.data = data, .size_bytes = size})) network.Publish();

#ifndef HVSDK_VSC_NETWORK_CLIENT_H_
#define HVSDK_VSC_NETWORK_CLIENT_H_

#include <cstddef>
#include <cstdint>

#include "hvsdk/hvdef/netvsp.h"
#include "hvsdk/hvdef/rndis.h"
#include "hvsdk/vmbus/ring/packet.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/vmbus_client.h"

namespace hvsdk::vsc {

// Guest memory that is lent for as long as the channel is open: whole pages, at most kMaxGpadlPages, one piece for the guest.
struct NetworkBuffers {
  uint8_t* receive = nullptr;
  PageList receive_pages;
  uint8_t* send = nullptr;
  PageList send_pages;
  uint32_t mtu_bytes = 1500;
  // Takes TCP segments that the host has put together, from version 6.1 on: each comes as several frames, whose FrameInfo::packet_id says which
  // belong together. Only the first has headers.
  bool coalesces = false;
};

// What stands beside a frame, in the words of hvdef/rndis.h.
struct FrameInfo {
  bool has_checksum = false, has_large_send = false, has_vlan = false, has_hash = false, has_packet_id = false;
  uint32_t checksum = 0;
  uint32_t large_send = 0;  // towards the host
  uint32_t vlan = 0;
  uint32_t hash = 0;                   // towards the guest
  hvdef::rndis::PacketId packet_id{};  // likewise
};

// A frame to be sent: bytes of the guest's, which are copied, and guest pages behind them.
struct SentFrame {
  const uint8_t* data = nullptr;
  uint32_t size_bytes = 0;
  const vmbus::GpaBuffer* pages = nullptr;
  uint32_t page_buffers = 0;
  FrameInfo info;
};

struct ReceivedFrame {
  const uint8_t* data = nullptr;  // the host may change it until it is given back
  uint32_t size_bytes = 0;
  FrameInfo info;
};

class NetworkClient {
 public:
  static constexpr uint32_t kMaxSends = 64;  // frames in flight on all channels
  static constexpr uint32_t kMaxInfoBytes = 1024;

  enum class State : uint8_t {
    kIdle,  // until Start
    kStarting,
    kReady,
    kFailed,  // the provider speaks no version that we do, or broke the protocol or a ring. Close the channel
    kEnded,   // the channel is no more: closed, rescinded, or the bus was left
  };

  // Takes the channel's signals and its end. The rings are those the channel is opened with.
  NetworkClient(VmbusClient& bus, Channel& channel, const ClientRings& rings);
  NetworkClient(const NetworkClient&) = delete;
  NetworkClient& operator=(const NetworkClient&) = delete;

  // Called for each frame, from within OnSignal.
  void* context = nullptr;
  void (*on_frame)(void* context, const ReceivedFrame& frame) = nullptr;

  // Begins the exchange on the primary channel, with the newest version that is not above `newest`. It ends ready, with all frames to
  // this adapter and to all let through.
  void Start(const NetworkBuffers& buffers, hvdef::netvsp::Version newest = hvdef::netvsp::Version::k61);
  // On a subchannel, which uses the primary's buffers.
  void StartSubchannel(NetworkClient& primary);

  State state() const { return state_; }
  hvdef::netvsp::Version version() const { return version_; }
  const uint8_t* mac_address() const { return mac_address_; }
  bool link_is_up() const { return link_is_up_; }
  // How often the provider has said so.
  uint32_t link_changes() const { return link_changes_; }
  // What the host wants of sends: a channel for the low bits of a flow's hash.
  const uint32_t* send_table() const { return send_table_; }
  uint32_t send_tables() const { return send_tables_; }  // how often it came
  uint64_t dropped() const { return dropped_; }          // frames that were none

  // Asks for subchannels; they come as offers. False: not ready, or an earlier request is under way.
  [[nodiscard]] bool RequestSubchannels(uint32_t count);
  // How many were granted by the last request.
  uint32_t subchannels() const { return subchannels_; }

  // Asks for an object, or sets it; one at a time. Its answer is there when is_asking() is false. False: not ready, it does not fit, or
  // one is under way.
  [[nodiscard]] bool Query(hvdef::rndis::Oid oid, const void* info = nullptr, uint32_t size_bytes = 0);
  [[nodiscard]] bool Set(hvdef::rndis::Oid oid, const void* info, uint32_t size_bytes);
  bool is_asking() const { return is_asking_; }
  hvdef::rndis::Status answer_status() const { return answer_status_; }
  const uint8_t* answer() const { return answer_; }
  uint32_t answer_bytes() const { return answer_bytes_; }

  // Puts a frame into the ring; Publish shows it and all before it to the provider. False: not ready, too long, or no room at present;
  // then try again after OnSignal.
  [[nodiscard]] bool Send(const SentFrame& frame);
  void Publish();
  uint32_t in_flight() const { return sections_ - free_count_; }

  // Takes what has come. The channel's signal calls it; a caller that polls does, too. While the client starts it is called behind
  // VmbusClient::OnMessage as well: a GPADL that has been made signals nothing.
  void OnSignal();

 private:
  enum class Step : uint8_t {
    kVersion,
    kReceiveGpadl,
    kReceiveBuffer,
    kSendGpadl,
    kSendBuffer,
    kInitialize,
    kAddress,
    kOffload,
    kLink,
    kFilter,
    kReady,
  };
  static constexpr uint64_t kMessageId = uint64_t{1} << 32;
  static constexpr uint64_t kControlId = kMessageId + 1;

  bool is_over() const { return state_ == State::kFailed || state_ == State::kEnded; }
  void End(State state);
  bool Staged(vmbus::RingStatus status);
  uint32_t message_bytes() const;
  bool SendMessage(const hvdef::netvsp::Message& message, bool wants_completion);
  bool SendVersion();
  // Goes on with the opening exchange as far as it can.
  void Advance();
  void NextStep(bool is_good);
  bool SendRequest(hvdef::rndis::MessageType type, hvdef::rndis::Oid oid, const void* info, uint32_t size_bytes);
  bool SendRndis(hvdef::netvsp::RndisChannel channel, const void* header, uint32_t header_bytes, const uint8_t* data,
                 uint32_t size_bytes, const vmbus::GpaBuffer* pages, uint32_t page_buffers);
  void TakePackets();
  void OnPacket(const vmbus::Packet& packet);
  void OnCompletion(uint64_t id, const hvdef::netvsp::Message& message);
  void OnTransfer(const vmbus::Packet& packet, const hvdef::netvsp::Message& message);
  void OnControl(const uint8_t* bytes, uint32_t size_bytes);
  void OnData(const uint8_t* bytes, uint32_t size_bytes);

  VmbusClient& bus_;
  Channel& channel_;
  ClientRings rings_;
  NetworkClient* primary_ = this;
  State state_ = State::kIdle;
  Step step_ = Step::kVersion;
  hvdef::netvsp::Version version_{};
  NetworkBuffers buffers_;
  Gpadl receive_gpadl_, send_gpadl_;
  uint32_t section_bytes_ = 0;  // of the send buffer
  uint8_t mac_address_[6] = {};
  bool link_is_up_ = false;
  uint32_t link_changes_ = 0;
  uint32_t send_table_[hvdef::netvsp::kSendTableEntries] = {};
  uint32_t send_tables_ = 0;
  uint64_t dropped_ = 0;
  uint32_t subchannels_ = 0;
  bool is_messaging_ = false;

  bool is_asking_ = false;
  hvdef::rndis::MessageType asked_{};
  uint32_t request_id_ = 0;
  hvdef::rndis::Status answer_status_{};
  uint32_t answer_bytes_ = 0;
  alignas(8) uint8_t answer_[kMaxInfoBytes];

  // Sections of the send buffer, the primary's.
  uint32_t free_[kMaxSends];
  uint32_t free_count_ = 0;
  uint32_t sections_ = 0;
  uint64_t in_use_ = 0;  // a bit for each that is in flight
};

}  // namespace hvsdk::vsc

#endif  // HVSDK_VSC_NETWORK_CLIENT_H_
