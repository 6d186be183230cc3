// SPDX-License-Identifier: Apache-2.0
// Freestanding.
#include "hvsdk/vsc/mouse_client.h"

#include "hvsdk/hvdef/integration.h"
#include "vsc/client_messages.h"

namespace hvsdk::vsc {

namespace wire = hvdef::mouse;
using hvdef::integration::PipeHeader;
using vmbus::RingStatus;
using wire::MessageType;

namespace {

// Of the guest's messages the longest.
constexpr uint32_t kMaxSentBytes = sizeof(PipeHeader) + sizeof(wire::ProtocolRequest);

}  // namespace

MouseClient::MouseClient(VmbusClient& bus, Channel& channel, const ClientRings& rings)
    : bus_(bus), channel_(channel), rings_(rings) {
  if (!rings_.is_valid()) Fail();
  channel.context = this;
  channel.on_signal = [](void* self, Channel&) { static_cast<MouseClient*>(self)->OnSignal(); };
  channel.on_end = [](void* self, Channel&) { static_cast<MouseClient*>(self)->state_ = State::kEnded; };
}

bool MouseClient::Send(MessageType type, void* message, uint32_t size_bytes) {
  const wire::Header header{.type = type, .size_bytes = size_bytes - static_cast<uint32_t>(sizeof(header))};
  __builtin_memcpy(message, &header, sizeof(header));
  uint8_t bytes[64];  // more than is used: GCC takes the copy of a long packet into the ring for one of these
  static_assert(kMaxSentBytes <= sizeof(bytes));
  const PipeHeader pipe{.type = hvdef::integration::kPipeData, .size_bytes = size_bytes};
  __builtin_memcpy(bytes, &pipe, sizeof(pipe));
  __builtin_memcpy(bytes + sizeof(pipe), message, size_bytes);
  if (rings_.outgoing.StageInBand(vmbus::PacketHeader::InBand(0, false), bytes,
                                  static_cast<uint32_t>(sizeof(pipe)) + size_bytes) != RingStatus::kOk) {
    Fail();
    return false;
  }
  if (rings_.outgoing.Publish() == vmbus::Signal::kNeeded) bus_.Signal(channel_);
  return true;
}

void MouseClient::Start() {
  if (is_over() || is_asking_) return;
  wire::ProtocolRequest request{.header = {}, .version = wire::kVersion2};
  is_asking_ = Send(MessageType::kProtocolRequest, &request, sizeof(request));
}

void MouseClient::OnSignal() {
  const bool is_good = ReadInBand(
      bus_, channel_, rings_, buffer_, sizeof(buffer_),
      [this] {
        // What is read is answered, perhaps.
        return !is_over() && rings_.outgoing.WaitForRoom(vmbus::PacketSize(kMaxSentBytes)) != RingStatus::kFull;
      },
      [this](const vmbus::Packet& packet) { OnMessage(packet.payload, packet.payload_size); });
  if (!is_good) Fail();
}

void MouseClient::OnMessage(const uint8_t* message, uint32_t size_bytes) {
  PipeHeader pipe;
  wire::Header header;
  if (!ReadMessage(message, size_bytes, pipe) || pipe.type != hvdef::integration::kPipeData ||
      pipe.size_bytes > size_bytes - sizeof(pipe)) {
    return Fail();
  }
  message += sizeof(pipe);
  size_bytes = pipe.size_bytes;
  if (!ReadMessage(message, size_bytes, header) || header.size_bytes > size_bytes - sizeof(header)) return Fail();
  switch (header.type) {
    case MessageType::kProtocolResponse: {
      wire::ProtocolResponse response;
      if (!is_asking_ || !ReadMessage(message, size_bytes, response)) return Fail();
      is_asking_ = false;
      is_accepted_ = response.is_accepted != 0;
      if (!is_accepted_) state_ = State::kRefused;
      return;
    }
    case MessageType::kDeviceInfo:
      return OnDeviceInfo(message, size_bytes);
    case MessageType::kInputReport:
      if (state_ != State::kReady) return Fail();
      if (on_report != nullptr) on_report(context, message + sizeof(header), header.size_bytes);
      return;
    default:
      return;  // what later versions may say
  }
}

void MouseClient::OnDeviceInfo(const uint8_t* message, uint32_t size_bytes) {
  wire::DeviceInfo info;
  if (!is_accepted_ || !ReadMessage(message, size_bytes, info)) return Fail();
  // The report descriptor stands behind the other, however long that says it is.
  const uint32_t at = offsetof(wire::DeviceInfo, descriptor) + info.descriptor.size_bytes;
  const uint32_t bytes = info.descriptor.report_bytes;
  if (at < sizeof(info) || at > size_bytes || bytes == 0 || bytes > size_bytes - at) return Fail();
  __builtin_memcpy(descriptor_, message + at, bytes);
  descriptor_bytes_ = bytes;
  attributes_ = info.attributes;
  wire::DeviceInfoAck ack{};
  if (Send(MessageType::kDeviceInfoAck, &ack, sizeof(ack))) state_ = State::kReady;
}

}  // namespace hvsdk::vsc
