// SPDX-License-Identifier: Apache-2.0
// Freestanding.
#include "hvsdk/vsc/socket_client.h"

namespace hvsdk::vsc {

using hvdef::socket::kPipeData;
using hvdef::socket::PipeHeader;
using vmbus::RingStatus;

SocketClient::SocketClient(VmbusClient& bus, Channel& channel, const ClientRings& rings)
    : bus_(bus), channel_(channel), rings_(rings) {
  if (!rings_.is_valid()) state_ = State::kFailed;
  channel.context = this;
  channel.on_signal = [](void* self, Channel&) {
    auto& client = *static_cast<SocketClient*>(self);
    if (client.on_event != nullptr) client.on_event(client.context);
  };
  channel.on_end = [](void* self, Channel&) {
    auto& client = *static_cast<SocketClient*>(self);
    client.state_ = State::kEnded;
    if (client.on_event != nullptr) client.on_event(client.context);
  };
}

bool SocketClient::SendPacket(uint32_t data_bytes) {
  const PipeHeader pipe{.type = kPipeData, .size_bytes = data_bytes};
  __builtin_memcpy(out_, &pipe, sizeof(pipe));
  const uint32_t size = kHeaderBytes + data_bytes;
  const auto header = vmbus::PacketHeader::InBand(/*transaction_id=*/0, /*completion_requested=*/false);
  RingStatus status = rings_.outgoing.StageInBand(header, out_, size);
  // Its signal, when there is room, is what on_event waits for.
  if (status == RingStatus::kFull && rings_.outgoing.WaitForRoom(vmbus::PacketSize(size)) == RingStatus::kOk) {
    status = rings_.outgoing.StageInBand(header, out_, size);
  }
  if (status != RingStatus::kOk && status != RingStatus::kFull) state_ = State::kFailed;
  if (status != RingStatus::kOk) return false;
  if (rings_.outgoing.Publish() == vmbus::Signal::kNeeded) bus_.Signal(channel_);
  return true;
}

size_t SocketClient::Send(const void* bytes, size_t size) {
  size_t sent = 0;
  while (state_ == State::kOpen && !has_ended_ && sent < size) {
    const auto piece = static_cast<uint32_t>(size - sent < kPieceBytes ? size - sent : kPieceBytes);
    __builtin_memcpy(out_ + kHeaderBytes, static_cast<const uint8_t*>(bytes) + sent, piece);
    if (!SendPacket(piece)) break;
    sent += piece;
  }
  return sent;
}

bool SocketClient::End() {
  if (!has_ended_ && state_ == State::kOpen) has_ended_ = SendPacket(0);
  return has_ended_;
}

// False: there is none, or it was the last.
bool SocketClient::TakePacket() {
  while (state_ != State::kFailed && !host_has_ended_) {
    vmbus::Packet packet;
    const RingStatus status = rings_.incoming.Read(in_, sizeof(in_), packet);
    if (status == RingStatus::kEmpty) {
      if (state_ == State::kEnded) return false;
      const vmbus::Armed armed = rings_.incoming.Arm();
      if (armed.signal == vmbus::Signal::kNeeded) bus_.Signal(channel_);
      if (armed.may_sleep) return false;
      continue;
    }
    PipeHeader pipe{};
    if (status == RingStatus::kOk && packet.type == hvdef::PacketType::kDataInBand &&
        packet.payload_size >= kHeaderBytes) {
      __builtin_memcpy(&pipe, packet.payload, sizeof(pipe));
    }
    if (pipe.type != kPipeData || pipe.size_bytes > packet.payload_size - kHeaderBytes) {
      state_ = State::kFailed;
      return false;
    }
    host_has_ended_ = pipe.size_bytes == 0;
    received_ = packet.payload + kHeaderBytes;
    received_bytes_ = pipe.size_bytes;
    return !host_has_ended_;
  }
  return false;
}

size_t SocketClient::Receive(void* to, size_t size) {
  size_t copied = 0;
  while (copied < size && (received_bytes_ != 0 || TakePacket())) {
    const auto piece = static_cast<uint32_t>(size - copied < received_bytes_ ? size - copied : received_bytes_);
    __builtin_memcpy(static_cast<uint8_t*>(to) + copied, received_, piece);
    received_ += piece;
    received_bytes_ -= piece;
    copied += piece;
  }
  return copied;
}

}  // namespace hvsdk::vsc
