// SPDX-License-Identifier: Apache-2.0
// SocketClient: the child side of a Hyper-V socket's connection on one open channel: bytes either way, and the end of each.
//
// Freestanding: no heap, no exceptions, no RTTI, no library but memcpy and memset. Nothing here waits: on_event, which the channel's
// signal calls, says that there may be bytes or room. Whoever connects says so by VmbusClient::TlConnect and takes the offer that comes;
// whoever accepts takes an offer whose parameters say is_from_host.
//
// Thread-compatible: the caller keeps interrupts and everything else apart.
//
// The host is not trusted to be right: packets that are none, and a broken ring, make the client fail. A client serves one opening of its
// channel.
//
// Source: hvdef/socket.h.
//
//   vsc::SocketClient socket(bus, channel, rings);
//   if (socket.Send("hello", 5) == 5) socket.End();

#ifndef HVSDK_VSC_SOCKET_CLIENT_H_
#define HVSDK_VSC_SOCKET_CLIENT_H_

#include <cstddef>
#include <cstdint>

#include "hvsdk/hvdef/socket.h"
#include "hvsdk/vmbus/ring/packet.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/vmbus_client.h"

namespace hvsdk::vsc {

class SocketClient {
 public:
  enum class State : uint8_t {
    kOpen,
    kFailed,  // the host broke the protocol or a ring; close the channel
    kEnded,  // the channel is no more; what has come before can still be received, for as long as the ring is left alone
  };

  // Takes the channel's signals and its end.
  SocketClient(VmbusClient& bus, Channel& channel, const ClientRings& rings);
  SocketClient(const SocketClient&) = delete;
  SocketClient& operator=(const SocketClient&) = delete;

  State state() const { return state_; }
  // The host sends no more, and all that it has sent was received.
  bool host_has_ended() const { return host_has_ended_; }

  // Called when there may be bytes or room again, and when the channel has ended.
  void* context = nullptr;
  void (*on_event)(void* context) = nullptr;

  // Sends as many bytes as there is room for, and answers how many. Fewer than all: on_event is called when there is room. None after End.
  size_t Send(const void* bytes, size_t size);
  // Sends no more. False: there is no room for saying so; try again at on_event.
  bool End();
  // Receives up to `size` bytes that have come; 0: none have, or the host has ended.
  size_t Receive(void* to, size_t size);

 private:
  static constexpr uint32_t kHeaderBytes = sizeof(hvdef::socket::PipeHeader);
  static constexpr uint32_t kPieceBytes = 4096 - kHeaderBytes;  // as Linux has it

  bool TakePacket();
  bool SendPacket(uint32_t data_bytes);

  VmbusClient& bus_;
  Channel& channel_;
  ClientRings rings_;
  State state_ = State::kOpen;
  bool has_ended_ = false;
  bool host_has_ended_ = false;
  const uint8_t* received_ = nullptr;  // in in_
  uint32_t received_bytes_ = 0;
  alignas(8) uint8_t in_[kHeaderBytes + hvdef::socket::kMaxDataBytes + 8];
  alignas(8) uint8_t out_[kHeaderBytes + kPieceBytes];
};

}  // namespace hvsdk::vsc

#endif  // HVSDK_VSC_SOCKET_CLIENT_H_
