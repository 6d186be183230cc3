// SPDX-License-Identifier: Apache-2.0
#include "vsp/socket_connection.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/status_macros.h"

namespace hvsdk::vsp {

using hvdef::socket::kMaxDataBytes;
using hvdef::socket::kPipeData;
using hvdef::socket::PipeHeader;
using vmbus::Take;

namespace {

// The least that is read of a stream for a packet, where the ring has that much at all: a reader that is slow gets few long packets.
constexpr uint32_t kLeastDataBytes = 4096;
// More than a ring of any size needs, and an end with a guest that fills it meanwhile.
constexpr uint32_t kMostClosingTurns = 4096;

}  // namespace

SocketConnection::SocketConnection(Shared& shared, const Name& name, std::unique_ptr<SocketStream> stream)
    // The padding of a payload is up to 7 bytes.
    : PacketPump({.max_packet_bytes = kHeaderBytes + kMaxDataBytes + 8, .takes_while_waiting = true}),
      shared_(shared),
      name_(name),
      stream_(std::move(stream)) {}

absl::Status SocketConnection::Offer(vmbus::Server& server, Executor& executor) {
  vmbus::Offer offer;
  offer.class_id = name_.service_id;
  offer.instance_id = name_.endpoint_id;
  offer.flags = hvdef::socket::kOfferFlags;
  const hvdef::socket::OfferParameters parameters{.pipe_mode = hvdef::vmbus::kPipeModeByte,
                                                  .is_from_host = name_.is_from_host,
                                                  .is_to_container = 0,
                                                  .version = {hvdef::socket::kOfferParametersVersion},
                                                  .silo = {},
                                                  .reserved = {}};
  std::memcpy(offer.user_defined.data(), &parameters, sizeof(parameters));
  ASSIGN_OR_RETURN(channel_, server.OfferChannel(offer, *this, executor));
  return absl::OkStatus();
}

void SocketConnection::End(const absl::Status& status) {
  if (std::exchange(is_over_, true)) return;
  to_host_ = {};
  if (stream_ != nullptr) {
    if (is_open_ && !status.ok()) ++shared_.counts.broken;
    stream_->OnClosed(status);
    stream_.reset();
  }
  shared_.OnOver();
}

bool SocketConnection::OnOpen(vmbus::Channel& channel) {
  // One that was opened twice would have bytes of the first opening missing in the second.
  if (is_over_ || is_open_ || stream_ == nullptr || !PacketPump::OnOpen(channel)) return false;
  const uint32_t ring_bytes = channel.outgoing().memory().size();
  least_room_ = std::min(kHeaderBytes + kLeastDataBytes, ring_bytes / 2);
  is_open_ = true;
  ++(name_.is_from_host ? shared_.counts.from_host : shared_.counts.from_guest);
  stream_->OnOpen(*this);
  return true;
}

void SocketConnection::OnRestored(vmbus::Channel& channel) {
  PacketPump::OnRestored(channel);
  is_open_ = true;
}

void SocketConnection::OnSignal(vmbus::Channel& channel) {
  if (shared_.is_paused || is_over_ || stream_ == nullptr) return;
  TakeTurn();
  if (is_over_) return;
  const bool is_broken =
      channel.incoming().fault() != vmbus::RingFault::kNone || channel.outgoing().fault() != vmbus::RingFault::kNone;
  if (is_held_back() || is_broken) End(absl::InvalidArgumentError("the guest has broken the protocol of sockets"));
}

void SocketConnection::OnClosing(vmbus::Channel& channel) {
  // What it has sent before is the stream's still, as much as that takes now: a turn that ended with its time has asked for another.
  OnSignal(channel);
  if (!shared_.is_paused && !is_over_ && !has_time() && closing_turns_++ < kMostClosingTurns) return;
  End(guest_has_ended_ ? absl::OkStatus() : absl::UnavailableError("the guest's end is gone"));
  FinishClose();
}

Take SocketConnection::OnTurn() {
  if (is_over_) return Take::kNoMore;
  CarryToHost();
  if (!is_over_) CarryToGuest();
  if (!is_over_ && guest_was_told_ && host_was_told_) End(absl::OkStatus());
  return is_over_ || guest_has_ended_ || !to_host_.empty() ? Take::kNoMore : Take::kMore;
}

void SocketConnection::CarryToHost() {
  if (!to_host_.empty()) {
    const SocketTransfer taken = stream_->Write(to_host_);
    const size_t bytes = std::min(taken.bytes, to_host_.size());
    shared_.counts.bytes_to_host += bytes;
    to_host_.remove_prefix(bytes);
    if (taken.state == SocketTransfer::State::kBroken) return End(absl::UnavailableError("the host's end is gone"));
  }
  if (to_host_.empty() && guest_has_ended_ && !std::exchange(host_was_told_, true)) stream_->OnGuestEnded();
}

void SocketConnection::CarryToGuest() {
  constexpr auto kHeader = vmbus::PacketHeader::InBand(/*transaction_id=*/0, /*completion_requested=*/false);
  uint8_t* const packet = shared_.packet.data();
  PipeHeader pipe{.type = kPipeData, .size_bytes = 0};
  while (!host_has_ended_ && has_time() && HasRoom(least_room_)) {
    const uint32_t room = (channel_->outgoing().free_bytes() - vmbus::PacketSize(kHeaderBytes)) & ~7u;
    if (channel_->outgoing().fault() != vmbus::RingFault::kNone) return;  // OnSignal finds it
    const SocketTransfer read =
        stream_->Read(absl::MakeSpan(packet + kHeaderBytes, std::min<size_t>(room, kMaxDataBytes)));
    if (read.state == SocketTransfer::State::kBroken) return End(absl::UnavailableError("the host's end is gone"));
    host_has_ended_ = read.state == SocketTransfer::State::kEnded;
    if (read.bytes == 0) break;
    pipe.size_bytes = static_cast<uint32_t>(std::min<size_t>({read.bytes, room, kMaxDataBytes}));
    std::memcpy(packet, &pipe, sizeof(pipe));
    (void)Send(kHeader, packet, kHeaderBytes + pipe.size_bytes);  // there is room
    shared_.counts.bytes_to_guest += pipe.size_bytes;
    AddWork(1);
  }
  if (host_has_ended_ && !guest_was_told_) {
    pipe.size_bytes = 0;
    guest_was_told_ = Send(kHeader, &pipe, sizeof(pipe));
  }
}

Take SocketConnection::OnPacket(const vmbus::Packet& packet) {
  PipeHeader pipe;
  if (packet.type != hvdef::PacketType::kDataInBand || packet.payload_size < sizeof(pipe)) return Take::kMalformed;
  std::memcpy(&pipe, packet.payload, sizeof(pipe));
  if (pipe.type != kPipeData || pipe.size_bytes > packet.payload_size - kHeaderBytes ||
      pipe.size_bytes > kMaxDataBytes) {
    return Take::kMalformed;
  }
  guest_has_ended_ = pipe.size_bytes == 0;
  to_host_ = absl::MakeConstSpan(packet.payload + kHeaderBytes, pipe.size_bytes);
  CarryToHost();
  return is_over_ || guest_has_ended_ || !to_host_.empty() ? Take::kNoMore : Take::kMore;
}

}  // namespace hvsdk::vsp
