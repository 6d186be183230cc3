// SPDX-License-Identifier: Apache-2.0
// SocketConnection: one connection of SocketProvider's, from its offer until nobody has it any more.
//
//   offered ──OnOpen──► open ──both directions have ended, or one end is gone──► over ──the provider takes the offer back
//      └──────────────────────── not opened in time ──────────────────────────────►┘
//
// Thread class: the executor's; Wake is thread-safe.

#ifndef HVSDK_SRC_VSP_SOCKET_CONNECTION_H_
#define HVSDK_SRC_VSP_SOCKET_CONNECTION_H_

#include <array>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "hvsdk/base/executor.h"
#include "hvsdk/hvdef/guid.h"
#include "hvsdk/hvdef/socket.h"
#include "hvsdk/resource/socket_service.h"
#include "hvsdk/vmbus/packet_pump.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsp/socket.h"

namespace hvsdk::vsp {

class SocketConnection final : private vmbus::PacketPump, private SocketWaker {
 public:
  struct Name {
    hvdef::Guid service_id{};   // the offer's class
    hvdef::Guid endpoint_id{};  // the offer's instance
    bool is_from_host = false;
  };
  // What all of them share.
  struct Shared {
    virtual ~Shared() = default;
    // Over: its offer is to be taken back, but not from within.
    virtual void OnOver() = 0;

    SocketCounts counts;
    bool is_paused = false;
    // Of a packet on its way to a guest.
    std::array<uint8_t, sizeof(hvdef::socket::PipeHeader) + hvdef::socket::kMaxDataBytes> packet;
  };

  // Without a stream: one of a restored machine's, whose host's end is gone.
  SocketConnection(Shared& shared, const Name& name, std::unique_ptr<SocketStream> stream);
  ~SocketConnection() override { channel_.reset(); }

  // Offers it to the guest, and then `deadline_100ns` counts. Errors are vmbus::Server::OfferChannel's.
  absl::Status Offer(vmbus::Server& server, Executor& executor);

  const Name& name() const { return name_; }
  bool is_offered() const { return channel_ != nullptr; }
  bool is_open() const { return is_open_; }
  bool is_over() const { return is_over_; }
  bool has_stream() const { return stream_ != nullptr; }
  uint64_t deadline_100ns = 0;

  // The stream is told, and gone when this returns.
  void End(const absl::Status& status);
  // Looks at both ends, as after a pause.
  void LookAgain() {
    if (is_open_) channel_->Wake();
  }

 private:
  static constexpr uint32_t kHeaderBytes = sizeof(hvdef::socket::PipeHeader);

  // SocketWaker.
  void Wake() override { channel_->Wake(); }

  // PacketPump.
  bool OnOpen(vmbus::Channel& channel) override;
  void OnRestored(vmbus::Channel& channel) override;
  void OnSignal(vmbus::Channel& channel) override;
  void OnClosing(vmbus::Channel& channel) override;
  vmbus::Take OnTurn() override;
  vmbus::Take OnPacket(const vmbus::Packet& packet) override;

  void CarryToHost();
  void CarryToGuest();

  Shared& shared_;
  const Name name_;
  std::unique_ptr<SocketStream> stream_;
  bool is_open_ = false;
  uint32_t closing_turns_ = 0;
  bool is_over_ = false;
  bool guest_has_ended_ = false;       // its last packet was taken
  bool host_was_told_ = false;         // of that
  bool host_has_ended_ = false;        // the stream has
  bool guest_was_told_ = false;        // of that
  absl::Span<const uint8_t> to_host_;  // what of the packet at hand the stream has not taken yet, in the pump's buffer
  uint32_t least_room_ = 0;            // in the guest's ring, for a packet that is worth its while
  std::unique_ptr<vmbus::Channel> channel_;  // last: it is gone before the rest
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_SOCKET_CONNECTION_H_
